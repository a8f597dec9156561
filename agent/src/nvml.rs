//! NVIDIA GPUs through their management library; says plainly why there is none.
//!
//! A [`Reading`] holds what the library gave, each value on its own, since a driver, a container or MIG may refuse
//! any of them; [`sample`] puts it into the words of the farm.

use std::{thread, time::Duration};

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::{device::ThrottleReasons, event::EventTypes},
    enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor},
    enums::event::XidError,
    error::NvmlError,
    event::EventSet,
};
use schemas::agent::DeviceSample;
use tokio_util::sync::CancellationToken;

use crate::xids::{OFF_THE_BUS, XidLog};

/// How long the watcher waits for events of all GPUs together before it looks whether it should end.
const WATCH_ROUND_MS: u32 = 1_000;

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
    /// Names of the instances that it is cut into; empty without MIG.
    pub instances: Vec<String>,
}

/// What the library gave of one GPU at one moment.
#[derive(Clone, Debug, Default)]
struct Reading {
    utilisation_percent: Option<u32>,
    memory_used_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    power_mw: Option<u32>,
    power_limit_mw: Option<u32>,
    temperature_c: Option<u32>,
    sm_clock_mhz: Option<u32>,
    memory_clock_mhz: Option<u32>,
    throttle: Option<ThrottleReasons>,
    ecc_corrected: Option<u64>,
    ecc_uncorrected: Option<u64>,
    processes: Option<u32>,
    mig: Option<bool>,
    /// The library says that it has lost the GPU.
    is_lost: bool,
}

impl Reading {
    fn of(device: &Device<'_>) -> Self {
        let memory = device.memory_info();
        let is_lost = matches!(memory, Err(NvmlError::GpuLost));
        let memory = memory.ok();
        let errors = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).ok();
        Self {
            utilisation_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
            memory_used_bytes: memory.as_ref().map(|memory| memory.used),
            memory_total_bytes: memory.as_ref().map(|memory| memory.total),
            power_mw: device.power_usage().ok(),
            power_limit_mw: device.enforced_power_limit().ok(),
            temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
            sm_clock_mhz: device.clock_info(Clock::SM).ok(),
            memory_clock_mhz: device.clock_info(Clock::Memory).ok(),
            throttle: device.current_throttle_reasons().ok(),
            ecc_corrected: errors(MemoryError::Corrected),
            ecc_uncorrected: errors(MemoryError::Uncorrected),
            processes: device.running_compute_processes_count().ok(),
            mig: device.mig_mode().ok().map(|mode| mode.current == 1),
            is_lost,
        }
    }

    /// As the device with this index of the agent.
    fn sample(&self, index: u32) -> DeviceSample {
        DeviceSample {
            index,
            utilisation_percent: self.utilisation_percent,
            memory_used_bytes: self.memory_used_bytes,
            memory_total_bytes: self.memory_total_bytes,
            power_mw: self.power_mw,
            power_limit_mw: self.power_limit_mw,
            temperature_c: self.temperature_c,
            sm_clock_mhz: self.sm_clock_mhz,
            memory_clock_mhz: self.memory_clock_mhz,
            throttled_by: self.throttle.map(throttled_by).unwrap_or_default(),
            ecc_corrected: self.ecc_corrected,
            ecc_uncorrected: self.ecc_uncorrected,
            xids: self.is_lost.then_some(OFF_THE_BUS).into_iter().collect(),
            processes: self.processes,
            mig: self.mig,
        }
    }
}

/// What slows the GPU down although it has work. Idling and clocks that someone set are no faults.
fn throttled_by(reasons: ThrottleReasons) -> Vec<String> {
    const THERMAL: ThrottleReasons =
        ThrottleReasons::SW_THERMAL_SLOWDOWN.union(ThrottleReasons::HW_THERMAL_SLOWDOWN);
    [
        ("thermal", THERMAL),
        ("power", ThrottleReasons::SW_POWER_CAP),
        ("power_brake", ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN),
        ("hardware", ThrottleReasons::HW_SLOWDOWN),
    ]
    .into_iter()
    .filter(|(_, of)| reasons.intersects(*of))
    .map(|(name, _)| name.to_string())
    .collect()
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
                instances: instances(&device),
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
            let reading = match nvml.device_by_index(index) {
                Ok(device) => Reading::of(&device),
                Err(NvmlError::GpuLost) => Reading {
                    is_lost: true,
                    ..Reading::default()
                },
                Err(_) => return None,
            };
            Some(reading.sample(first_index + index))
        });
        samples.collect()
    }

    /// Notes Xid events in `log` until `stop`, on a thread of its own. GPUs that tell of none are left out.
    pub fn watch_xids(&self, first_index: u32, log: XidLog, stop: CancellationToken) {
        if let Self::None { .. } = self {
            return;
        }
        let watch = move || {
            let watched = Nvml::init().and_then(|nvml| watch(&nvml, first_index, &log, &stop));
            if let Err(error) = watched {
                tracing::warn!(%error, "Xid events are not watched");
            }
        };
        if let Err(error) = thread::Builder::new().name("xids".into()).spawn(watch) {
            tracing::warn!(%error, "Xid events are not watched");
        }
    }
}

/// A set of its own for each GPU, because one that cannot be registered takes its set with it.
fn watch(
    nvml: &Nvml,
    first_index: u32,
    log: &XidLog,
    stop: &CancellationToken,
) -> Result<(), NvmlError> {
    let mut sets: Vec<(u32, EventSet<'_>)> = Vec::new();
    for index in 0..nvml.device_count()? {
        let Ok(device) = nvml.device_by_index(index) else {
            continue;
        };
        let set = nvml.create_event_set()?;
        match device.register_events(EventTypes::CRITICAL_XID_ERROR, set) {
            Ok(set) => sets.push((first_index + index, set)),
            Err(error) => {
                tracing::info!(index, error = %error.error, "a GPU tells of no Xid events")
            }
        }
    }
    let share = u32::try_from(sets.len()).unwrap_or(u32::MAX).max(1);
    while !sets.is_empty() && !stop.is_cancelled() {
        for (index, set) in &sets {
            match set.wait((WATCH_ROUND_MS / share).max(1)) {
                Ok(event) => {
                    if let Some(XidError::Value(xid)) = event.event_data {
                        tracing::error!(device = index, xid, "the driver reports an Xid");
                        log.note(*index, xid);
                    }
                }
                Err(NvmlError::Timeout) => {}
                Err(NvmlError::GpuLost) => {
                    log.note(*index, OFF_THE_BUS);
                    thread::sleep(Duration::from_millis(WATCH_ROUND_MS.into()));
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn instances(device: &Device<'_>) -> Vec<String> {
    let count = match device.mig_mode() {
        Ok(mode) if mode.current == 1 => device.mig_device_count().unwrap_or(0),
        _ => 0,
    };
    let name = |index| device.mig_device_by_index(index).ok()?.name().ok();
    (0..count).filter_map(name).collect()
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
            Gpus::None { why } => {
                assert!(why.contains(' '), "a sentence, not a code: {why}");
                println!("skipped the readings of a real GPU: {why}");
            }
            found => {
                let listed = found.list().len();
                assert!(listed > 0);
                assert_eq!(found.sample(1).first().map(|s| s.index), Some(1));
            }
        }
    }

    #[test]
    fn a_reading_keeps_its_values_and_what_is_missing_stays_missing() {
        let nothing = Reading::default().sample(3);
        let expected = DeviceSample {
            index: 3,
            ..DeviceSample::default()
        };
        assert_eq!(nothing, expected);
        let full = Reading {
            utilisation_percent: Some(97),
            power_mw: Some(412_000),
            throttle: Some(ThrottleReasons::SW_POWER_CAP | ThrottleReasons::GPU_IDLE),
            ecc_uncorrected: Some(2),
            mig: Some(false),
            ..Reading::default()
        };
        let sample = full.sample(1);
        assert_eq!(sample.utilisation_percent, Some(97));
        assert_eq!(sample.power_mw, Some(412_000));
        assert_eq!(sample.throttled_by, ["power"]);
        assert_eq!(sample.ecc_uncorrected, Some(2));
        assert_eq!((sample.mig, sample.temperature_c), (Some(false), None));
    }

    #[test]
    fn only_what_slows_work_down_counts_as_throttling() {
        let names = |reasons: ThrottleReasons| throttled_by(reasons).join(" ");
        assert_eq!(names(ThrottleReasons::NONE), "");
        assert_eq!(names(ThrottleReasons::GPU_IDLE), "");
        assert_eq!(names(ThrottleReasons::APPLICATIONS_CLOCKS_SETTING), "");
        assert_eq!(names(ThrottleReasons::HW_THERMAL_SLOWDOWN), "thermal");
        assert_eq!(names(ThrottleReasons::SW_THERMAL_SLOWDOWN), "thermal");
        assert_eq!(
            names(ThrottleReasons::HW_SLOWDOWN | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN),
            "power_brake hardware"
        );
    }

    #[test]
    fn a_gpu_that_the_library_has_lost_counts_as_fallen_off_the_bus() {
        let lost = Reading {
            is_lost: true,
            ..Reading::default()
        };
        assert_eq!(lost.sample(1).xids, [79]);
    }

    #[test]
    fn known_failures_say_what_to_do() {
        assert!(why_none(&NvmlError::LibraryNotFound).contains("no NVIDIA driver"));
        assert!(why_none(&NvmlError::NoPermission).contains("may not open"));
        assert!(why_none(&NvmlError::DriverNotLoaded).contains("not loaded"));
    }
}
