//! NVIDIA GPUs through their management library; says plainly why there is none.

use nvml_wrapper::{
    Nvml,
    enum_wrappers::device::{Clock, TemperatureSensor},
    error::NvmlError,
};
use schemas::agent::DeviceSample;

/// What was found. One for the process: opening the library is slow.
pub enum Gpus {
    Found(Box<Nvml>),
    None {
        /// A sentence for the operator.
        why: String,
    },
}

/// One GPU as its driver names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub index: u32,
    pub name: String,
    pub memory_bytes: Option<u64>,
}

impl Gpus {
    pub fn probe() -> Self {
        let nvml = match Nvml::init() {
            Ok(nvml) => nvml,
            Err(error) => {
                return Self::None {
                    why: why_none(&error),
                };
            }
        };
        match nvml.device_count() {
            Ok(0) => Self::None {
                why: "the NVIDIA driver runs and sees no GPU".into(),
            },
            Ok(_) => Self::Found(Box::new(nvml)),
            Err(error) => Self::None {
                why: why_none(&error),
            },
        }
    }

    /// The GPUs that can be opened. Under MIG or in containers some cannot.
    pub fn list(&self) -> Vec<Gpu> {
        let Self::Found(nvml) = self else {
            return Vec::new();
        };
        let count = nvml.device_count().unwrap_or(0);
        let gpus = (0..count).filter_map(|index| {
            let device = nvml.device_by_index(index).ok()?;
            let memory_bytes = device.memory_info().ok().map(|memory| memory.total);
            let name = device.name().unwrap_or_else(|_| "NVIDIA GPU".into());
            Some(Gpu {
                index,
                name,
                memory_bytes,
            })
        });
        gpus.collect()
    }

    pub fn driver(&self) -> Option<String> {
        match self {
            Self::Found(nvml) => nvml.sys_driver_version().ok(),
            Self::None { .. } => None,
        }
    }

    /// Reads each GPU; what its driver does not give is absent. `first_index` is the agent's
    /// number of the first GPU.
    pub fn sample(&self, first_index: u32) -> Vec<DeviceSample> {
        let Self::Found(nvml) = self else {
            return Vec::new();
        };
        let count = nvml.device_count().unwrap_or(0);
        let samples = (0..count).filter_map(|index| {
            let device = nvml.device_by_index(index).ok()?;
            let memory = device.memory_info().ok();
            Some(DeviceSample {
                index: first_index + index,
                utilisation_percent: device.utilization_rates().ok().map(|u| u.gpu),
                memory_used_bytes: memory.as_ref().map(|m| m.used),
                memory_total_bytes: memory.as_ref().map(|m| m.total),
                power_mw: device.power_usage().ok(),
                temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
                sm_clock_mhz: device.clock_info(Clock::SM).ok(),
            })
        });
        samples.collect()
    }
}

fn why_none(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            "libnvidia-ml.so is not here: no NVIDIA driver is installed, or this container was \
             started without it"
                .into()
        }
        NvmlError::DriverNotLoaded => {
            "the NVIDIA driver is installed but not loaded: try 'nvidia-smi' or restart".into()
        }
        NvmlError::NoPermission => "this user may not open the NVIDIA devices".into(),
        other => format!("the NVIDIA management library failed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_with_and_one_without_gpu_both_get_a_plain_answer() {
        match Gpus::probe() {
            Gpus::None { why } => assert!(why.contains(' '), "a sentence, not a code: {why}"),
            found => {
                let listed = found.list().len();
                assert!(listed > 0);
                assert_eq!(found.sample(1).first().map(|s| s.index), Some(1));
            }
        }
    }

    #[test]
    fn known_failures_say_what_to_do() {
        assert!(why_none(&NvmlError::LibraryNotFound).contains("no NVIDIA driver"));
        assert!(why_none(&NvmlError::NoPermission).contains("may not open"));
        assert!(why_none(&NvmlError::DriverNotLoaded).contains("not loaded"));
    }
}
