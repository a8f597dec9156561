//! Arguments of `gpu-check`.

use std::path::PathBuf;

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder for the results.
    pub out: PathBuf,
    /// Folders that hold CUDA's libraries.
    pub lib_dirs: Vec<PathBuf>,
    /// Python that may have torch.
    pub python: String,
    /// The only phases to run, with commas between them.
    pub only: Option<String>,
    /// The only ops to check or measure: names that contain one of these, with commas between them.
    pub op: Option<String>,
    /// Seconds for everything.
    pub budget_s: u64,
    /// Run the checks on the emulator.
    pub cpu: bool,
    /// Run each kernel under `compute-sanitizer` too.
    pub sanitize: bool,
    /// Where random inputs begin.
    pub seed: u64,
    /// Write a pack of all kernels to this file instead of running anything.
    pub pack: Option<PathBuf>,
    /// Set for a child: the part that it runs.
    pub child: Option<String>,
}

/// What `--help` says.
const HELP: &str =
    "gpu-check: is every CUDA kernel of Dailies right on this card, and how fast is it?

usage: gpu-check [--out DIR] [--lib-dir DIR]... [--python PROGRAM] [--only PHASE] [--op NAME]
                 [--budget-s SECONDS] [--seed NUMBER] [--cpu] [--sanitize]

  --out DIR        folder for gpu-check.json and the kernel cache (gpu-check-results)
  --lib-dir DIR    folder of libcublasLt and libnvrtc, or a Python site-packages with nvidia/*/lib
  --python PROGRAM Python that may have torch, to be compared with (python3)
  --only PHASE,…   only these of probe, smoke, ceilings, correct, bench, sparse, torch, pass,
                   nvrtc and golden
  --op NAME,…      only ops whose name contains one of these
  --budget-s N     seconds for everything (480)
  --seed N         where random inputs begin (the clock)
  --pack FILE      compile all kernels into FILE and end; needs libnvrtc and no GPU
  --cpu            check on the emulator, without a GPU; needs g++
  --sanitize       also run one small shape of each kernel under compute-sanitizer's memcheck,
                   racecheck and synccheck, if that is on PATH; --only sanitize runs nothing else

kernels.pack is looked for beside the program; without it kernels are compiled by libnvrtc.
The result is 1 when anything was wrong, 0 when all was right or there is no GPU.
No clock, power limit or mode of the card is changed.";

impl Options {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to print instead of running.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let mut options = Self {
            out: "gpu-check-results".into(),
            lib_dirs: Vec::new(),
            python: "python3".into(),
            only: None,
            op: None,
            budget_s: 480,
            cpu: false,
            sanitize: false,
            seed: clock.map_or(1, |clock| clock.as_secs() % 1_000_000),
            pack: None,
            child: None,
        };
        while let Some(name) = arguments.next() {
            if name == "--cpu" {
                options.cpu = true;
                continue;
            }
            if name == "--sanitize" {
                options.sanitize = true;
                continue;
            }
            if name == "--help" || name == "-h" {
                return Err(HELP.into());
            }
            let value = arguments
                .next()
                .ok_or(format!("{name} needs a value\n\n{HELP}"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{name} needs a number, not '{value}'"))
            };
            match name.as_str() {
                "--out" => options.out = value.into(),
                "--lib-dir" => options.lib_dirs.push(value.into()),
                "--python" => options.python = value,
                "--only" => options.only = Some(value),
                "--op" => options.op = Some(value),
                "--budget-s" => options.budget_s = number()?,
                "--seed" => options.seed = number()?,
                "--pack" => options.pack = Some(value.into()),
                "--child" => options.child = Some(value),
                _ => return Err(format!("there is no {name}\n\n{HELP}")),
            }
        }
        Ok(options)
    }

    /// Whether an op is asked for.
    pub fn wants(&self, op: &str) -> bool {
        let named = |parts: &str| parts.split(',').any(|part| op.contains(part));
        self.op.as_deref().is_none_or(named)
    }

    /// Whether a phase is asked for.
    pub fn wants_phase(&self, phase: &str) -> bool {
        let named = |phases: &str| phases.split(',').any(|one| one == phase);
        self.only.as_deref().is_none_or(named) && (phase != "sanitize" || self.sanitize)
    }

    /// The arguments of a child that runs `part`.
    pub fn for_child(&self, part: &str) -> Vec<String> {
        let mut arguments = vec!["--child".to_string(), part.to_string()];
        let mut push = |name: &str, value: String| arguments.extend([name.to_string(), value]);
        push("--out", self.out.display().to_string());
        push("--seed", self.seed.to_string());
        self.lib_dirs
            .iter()
            .for_each(|dir| push("--lib-dir", dir.display().to_string()));
        self.op.iter().for_each(|op| push("--op", op.clone()));
        if self.cpu {
            arguments.push("--cpu".into());
        }
        arguments
    }
}
