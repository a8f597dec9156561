//! What this node has and lacks for rendering, and how to get what it lacks.

use std::{fs, path::Path};

use kernels::{
    Device,
    cuda::{Libraries, Library},
};

use crate::{
    catalogue::Catalogue, client::chain, host, mux::Ffmpeg, nvml::Gpus, settings::Settings,
};

/// Below this a film of a few minutes at 1280x720 may not fit.
const DISK_FREE_BYTES_MIN: u64 = 2 << 30;
const MEMORY_BYTES_MIN: u64 = 2 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Found,
    /// Works without it.
    Absent,
    /// Nothing is rendered until this is mended.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    pub what: &'static str,
    pub state: State,
    /// What was found, or why it was not, with the way out.
    pub detail: String,
}

impl Finding {
    fn found(what: &'static str, detail: impl Into<String>) -> Self {
        Self {
            what,
            state: State::Found,
            detail: detail.into(),
        }
    }

    fn missing(what: &'static str, detail: impl Into<String>) -> Self {
        Self {
            what,
            state: State::Missing,
            detail: detail.into(),
        }
    }
}

/// Looks at everything that rendering needs; `data` is the folder that the farm writes to.
pub fn examine(settings: &Settings, data: &Path) -> Vec<Finding> {
    let mut findings = vec![processor(settings), memory(), ffmpeg(settings)];
    findings.extend(weights(settings));
    findings.push(gpu(&Gpus::probe()));
    findings.push(cuda(&Libraries::find(&settings.cuda_lib_dirs)));
    findings.extend(data_folder(data));
    findings
}

/// Whether this node can render.
pub fn is_well(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.state != State::Missing)
}

fn processor(settings: &Settings) -> Finding {
    let threads = settings.engine_threads();
    match Device::cpu(threads) {
        Ok(device) => Finding::found(
            "processor",
            format!("{threads} threads, {}", device.class()),
        ),
        Err(error) => Finding::missing("processor", chain(&error)),
    }
}

fn memory() -> Finding {
    match host::memory_total_bytes() {
        Some(bytes) if bytes < MEMORY_BYTES_MIN => Finding {
            what: "memory",
            state: State::Absent,
            detail: format!("{}: the built-in model needs about 1 GiB free", gib(bytes)),
        },
        Some(bytes) => Finding::found("memory", gib(bytes)),
        None => Finding::found("memory", "unknown: /proc/meminfo cannot be read"),
    }
}

fn ffmpeg(settings: &Settings) -> Finding {
    match Ffmpeg::find(settings.ffmpeg.as_deref()) {
        Ok(found) => {
            let encoders = crate::mux::ENCODERS.join(", ");
            let detail = format!(
                "{} at {} with {encoders}",
                found.version,
                found.path.display()
            );
            Finding::found("FFmpeg", detail)
        }
        Err(error) => Finding::missing("FFmpeg", chain(&error)),
    }
}

fn weights(settings: &Settings) -> Vec<Finding> {
    let opened = Device::cpu(settings.engine_threads())
        .map_err(|error| chain(&error))
        .and_then(|cpu| Catalogue::open(&settings.weights, &cpu).map_err(|error| chain(&error)));
    let catalogue = match opened {
        Ok(catalogue) => catalogue,
        Err(why) => return vec![Finding::missing("weights", why)],
    };
    let findings = catalogue.sets().iter().map(|set| {
        let told = &set.told;
        let words = match told.vocabulary.len() {
            0 => "any words".to_string(),
            count => format!("{count} known words"),
        };
        let sizes = told.sizes.iter();
        let sizes: Vec<String> = sizes
            .map(|(width, height)| format!("{width}x{height}"))
            .collect();
        let detail = format!(
            "'{}' ({}), {}, {words}, at {}",
            told.name,
            told.title,
            sizes.join(" "),
            set.dir.display()
        );
        Finding::found("weights", detail)
    });
    findings.collect()
}

fn gpu(gpus: &Gpus) -> Finding {
    if let Gpus::None { why } = gpus {
        let detail = format!("none: {why}. Rendering runs on the CPU");
        return Finding {
            what: "GPU",
            state: State::Absent,
            detail,
        };
    }
    let names: Vec<String> = gpus
        .list()
        .iter()
        .map(|gpu| {
            let memory = gpu.memory_bytes.map(gib).unwrap_or_default();
            match gpu.instances.len() {
                0 => format!("{} {memory}", gpu.name),
                count => format!("{} {memory} in {count} MIG instances", gpu.name),
            }
        })
        .collect();
    let driver = gpus.driver().unwrap_or_else(|| "unknown".into());
    let detail = format!(
        "{} (driver {driver}): watched; it renders when the setting `device` is `cuda` or `auto`",
        names.join(", ")
    );
    Finding::found("GPU", detail)
}

/// CUDA's libraries: what each one that is missing would bring, and where to get it.
fn cuda(libraries: &Libraries) -> Finding {
    let describe = |library| libraries.tell(library);
    // Without a driver the others are of no use, so nobody is sent to fetch them.
    let detail = match libraries.has(Library::Driver) {
        true => Library::ALL.map(describe).join(". "),
        false => describe(Library::Driver),
    };
    let all = Library::ALL
        .into_iter()
        .all(|library| libraries.has(library));
    Finding {
        what: "CUDA",
        state: if all { State::Found } else { State::Absent },
        detail,
    }
}

/// Probes without leaving anything: of a folder that is not there yet, its nearest parent.
fn data_folder(data: &Path) -> Vec<Finding> {
    let shown = data.display();
    let current = Path::new(".");
    let mut places = data.ancestors().map(|p| match p.as_os_str().is_empty() {
        true => current,
        false => p,
    });
    let place = places.find(|place| place.exists()).unwrap_or(current);
    let probe = place.join(format!(".doctor-{}", std::process::id()));
    let tried = fs::write(&probe, b"dailies");
    let _ = fs::remove_file(&probe);
    if let Err(error) = tried {
        let detail = format!("cannot write {shown} ({error}): name another folder with --data");
        return vec![Finding::missing("data folder", detail)];
    }
    let disk = match host::disk_free_bytes(place) {
        Ok(bytes) if bytes < DISK_FREE_BYTES_MIN => {
            Finding::missing("disk", format!("{} free at {shown}: make room", gib(bytes)))
        }
        Ok(bytes) => Finding::found("disk", format!("{} free at {shown}", gib(bytes))),
        Err(error) => Finding::missing("disk", format!("cannot look at {shown}: {error}")),
    };
    let state = if data.is_dir() {
        "can be written"
    } else {
        "can be made"
    };
    vec![
        Finding::found("data folder", format!("{shown} {state}")),
        disk,
    ]
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding<'a>(findings: &'a [Finding], what: &str) -> &'a Finding {
        findings
            .iter()
            .find(|finding| finding.what == what)
            .unwrap()
    }

    #[test]
    fn what_is_missing_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            ffmpeg: Some("/nowhere/ffmpeg".into()),
            weights: vec!["builtin=/nowhere/weights".into()],
            ..Settings::default()
        };
        let findings = examine(&settings, dir.path());
        assert!(!is_well(&findings));
        let ffmpeg = finding(&findings, "FFmpeg");
        assert_eq!(ffmpeg.state, State::Missing);
        assert!(ffmpeg.detail.contains("FFMPEG"), "{}", ffmpeg.detail);
        let weights = finding(&findings, "weights");
        assert!(
            weights.detail.contains("/nowhere/weights"),
            "{}",
            weights.detail
        );
        assert_eq!(finding(&findings, "data folder").state, State::Found);
        assert_ne!(finding(&findings, "GPU").state, State::Missing);
        let cuda = finding(&findings, "CUDA");
        assert_ne!(cuda.state, State::Missing);
        if cuda.state == State::Absent {
            assert!(cuda.detail.contains("install"), "{}", cuda.detail);
        }
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "the probe is gone"
        );
    }

    #[test]
    fn a_data_folder_that_cannot_be_written_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let findings = data_folder(&file.join("data"));
        assert!(!is_well(&findings) && !is_well(&data_folder(&file)));
        assert!(is_well(&data_folder(&dir.path().join("new/data"))));
        assert!(!dir.path().join("new").exists());
        assert!(
            findings[0].detail.contains("--data"),
            "{}",
            findings[0].detail
        );
    }
}
