//! Settings of an agent: defaults, then a file, then `DAILIES__AGENT__…` variables.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use config::{Config, ConfigError, Environment, File};
use kernels::KernelError;
use schemas::task::GROUP_SIZES;
use serde::Deserialize;

use crate::device::{Engine, Opened};

/// Devices that a processor may be divided into.
const DEVICES_MAX: u32 = 64;

/// All settings; an unknown key is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the scheduler listens, without a path; several addresses with commas between them.
    pub scheduler_url: String,
    /// File that holds the agent token.
    pub token_file: Option<PathBuf>,
    /// Name of the node, unique in the farm.
    pub name: String,
    /// Folder for work in progress. It is emptied at every start.
    pub scratch: PathBuf,
    /// Folders of weights, each as `DIR` or `NAME=DIR`; the built-in model comes on top.
    pub weights: Vec<String>,
    pub ffmpeg: Option<PathBuf>,
    /// Threads of the engine; 0 takes one for each core.
    pub threads: usize,
    /// Devices that the processor counts as: threads and memory are divided among them, each takes work of
    /// its own, and a film that asks for several gets them together. A GPU is one device.
    pub devices: u32,
    /// `cpu`; `cuda` for the first GPU; `auto` for that where it can be opened, else the processor.
    pub device: Engine,
    /// Folders that hold CUDA's libraries, besides the system's.
    pub cuda_lib_dirs: Vec<PathBuf>,
    /// A checkpoint is taken after this many steps, or this much time, whichever is first.
    pub checkpoint_steps: u32,
    pub checkpoint_ms: u64,
    /// On a drain, work with less than this left is finished and not given back.
    pub drain_finish_ms: u64,
    /// Address of the agent's own page for Prometheus; none when absent.
    pub metrics_listen: Option<SocketAddr>,
    /// The agent stops this long before its lease ends, or a sixth of the lease if that is less.
    pub fence_margin_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scheduler_url: "http://127.0.0.1:8080".into(),
            token_file: None,
            name: host_name(),
            scratch: PathBuf::from("data/scratch"),
            weights: Vec::new(),
            ffmpeg: None,
            threads: 0,
            devices: 1,
            device: Engine::Cpu,
            cuda_lib_dirs: Vec::new(),
            checkpoint_steps: 4,
            checkpoint_ms: 10_000,
            drain_finish_ms: 10_000,
            metrics_listen: None,
            fence_margin_ms: 5_000,
        }
    }
}

impl Settings {
    /// Reads `file`, if there is one, and the environment.
    ///
    /// # Errors
    /// Names the file, key or variable that cannot be read or is not known.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::from_sources(file, Environment::with_prefix("DAILIES__AGENT"))
    }

    fn from_sources(file: Option<&Path>, variables: Environment) -> Result<Self, ConfigError> {
        let variables = variables
            .prefix_separator("__")
            .separator("__")
            .try_parsing(true)
            .list_separator(",")
            .with_list_parse_key("weights")
            .with_list_parse_key("cuda_lib_dirs");
        let mut sources = Config::builder();
        if let Some(file) = file {
            sources = sources.add_source(File::from(file));
        }
        sources.add_source(variables).build()?.try_deserialize()
    }

    /// What the engine computes on.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_device(&self) -> Result<Opened, KernelError> {
        self.device.open(self.engine_threads(), &self.cuda_lib_dirs)
    }

    /// Devices that this node has, at least one: a card is one, whatever `devices` says.
    pub fn device_count(&self) -> u32 {
        match self.device {
            Engine::Cpu => self.devices.clamp(1, DEVICES_MAX),
            Engine::Cuda | Engine::Auto => 1,
        }
    }

    /// Most devices that one shot can run on at once. The engine has no way to share a run between cards.
    pub fn group_max(&self) -> u32 {
        let sizes = GROUP_SIZES.into_iter();
        let fitting = sizes.filter(|size| *size <= self.device_count());
        fitting.max().unwrap_or(1)
    }

    /// Threads of so many devices together.
    pub fn threads_of(&self, devices: usize) -> usize {
        let each = self.engine_threads() / self.device_count() as usize;
        each.max(1) * devices
    }

    /// Threads that the engine runs on.
    pub fn engine_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

/// What the kernel calls this machine.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_string())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "node".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, text).unwrap();
        let source = variables
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        let variables = Environment::with_prefix("DAILIES__AGENT").source(Some(source));
        Settings::from_sources(Some(&file), variables)
    }

    #[test]
    fn variables_win_over_the_file_and_the_file_over_defaults() {
        let file = "name = 'node-1'\ncheckpoint_steps = 7\n";
        let variables = [
            ("DAILIES__AGENT__NAME", "node-2"),
            ("DAILIES__AGENT__WEIGHTS", "builtin=/a,/b/other"),
            ("DAILIES__OTHER__KEY", "ignored"),
        ];
        let settings = read(file, &variables).unwrap();
        assert_eq!(
            (settings.name.as_str(), settings.checkpoint_steps),
            ("node-2", 7)
        );
        assert_eq!(settings.weights, ["builtin=/a", "/b/other"]);
        assert_eq!(
            settings.fence_margin_ms,
            Settings::default().fence_margin_ms
        );
    }

    #[test]
    fn a_processor_is_divided_into_devices_and_a_card_is_not() {
        let told = |text: &str| {
            let settings = read(text, &[]).unwrap();
            (
                settings.device_count(),
                settings.group_max(),
                settings.threads_of(2),
            )
        };
        assert_eq!(told("threads = 6\ndevices = 3"), (3, 2, 4));
        assert_eq!(
            told("threads = 2\ndevices = 8"),
            (8, 8, 2),
            "a thread each at least"
        );
        assert_eq!(told("threads = 2\ndevices = 0").0, 1);
        assert_eq!(told("threads = 2\ndevices = 4\ndevice = 'cuda'").0, 1);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = read("nmae = 'x'", &[]).unwrap_err().to_string();
        assert!(error.contains("nmae"), "{error}");
        let error = read("", &[("DAILIES__AGENT__COLOUR", "x")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("colour"), "{error}");
    }

    #[test]
    fn the_file_of_settings_names_each_with_its_default() {
        let file = include_str!("../../ops/agent.toml");
        let with = |signs: &[&str]| {
            let line = |line: &str| {
                let set = signs.iter().find_map(|sign| line.strip_prefix(sign));
                set.filter(|set| !set.starts_with([' ', ':']))
                    .unwrap_or(line)
                    .to_owned()
            };
            let lines: Vec<String> = file.lines().map(line).collect();
            read(&lines.join("\n"), &[]).unwrap()
        };
        let defaults = format!("{:?}", Settings::default());
        assert_eq!(format!("{:?}", with(&[])), defaults, "nothing is set");
        assert_eq!(
            format!("{:?}", with(&["#"])),
            defaults,
            "only defaults are set"
        );
        with(&["#: ", "#"]);
        let error = read("xyz = 1", &[]).unwrap_err().to_string();
        let (_, names) = error.split_once("expected").unwrap();
        for name in names.split('`').skip(1).step_by(2) {
            assert!(
                file.contains(&format!("#{name} =")) || file.contains(&format!("#: {name} =")),
                "{name}"
            );
        }
    }
}
