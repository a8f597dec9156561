//! What a card computed, kept in small files: the CPU's ops must still agree with it when there is no card.
//!
//! A file holds the cases of one family: the seed that makes the inputs again, how many values came out, their
//! size, and some of them. It is JSON, so that a difference can be read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Case, Outcome, Scale, family, uniform};
use crate::cuda::{Gpu, Nowhere};
use crate::{Device, KernelError};

/// Raised when older files cannot be compared any more.
const VERSION: u32 = 1;
/// Values of a case that are kept.
const SAMPLES: u64 = 12;
/// No file is larger.
pub const BYTES_MAX: usize = 1 << 20;

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// It cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The file system's words.
        #[source]
        source: io::Error,
    },
    /// It is none of ours, or cut off.
    #[error(
        "{path} is no file of results: {why}. Take it away, or copy it again from where it was made"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There are no results in it.
    #[error("{path} holds no results")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Results of one family of ops on one card.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    version: u32,
    /// One of [`super::FAMILIES`].
    family: String,
    /// The card's name.
    device: String,
    /// Its driver, as nvidia-smi calls it; absent where there is none.
    driver: Option<String>,
    /// Compute capability, which decides the cases.
    capability: (u32, u32),
    /// Where random inputs began.
    seed: u64,
    cases: Vec<Kept>,
}

/// What is kept of one case.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Op and shape.
    case: String,
    /// How many values came out.
    count: usize,
    /// Square root of their mean square.
    size: f64,
    /// Some of them; which ones follows from their number.
    samples: Vec<f32>,
}

/// Places of a case's samples.
fn places(count: usize) -> impl Iterator<Item = usize> {
    let place = move |index| {
        let share = f64::from(uniform(count as u64, index) + 1.0) / 2.0;
        ((share * count as f64) as usize).min(count - 1)
    };
    (0..SAMPLES.min(count as u64)).map(place)
}

fn size(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
    (sum / values.len().max(1) as f64).sqrt()
}

impl Golden {
    /// Nothing yet, of a card.
    pub fn new(family: &str, gpu: &Gpu, driver: Option<String>, seed: u64) -> Self {
        Self {
            version: VERSION,
            family: family.into(),
            device: gpu.card().name.clone(),
            driver,
            capability: gpu.card().capability,
            seed,
            cases: Vec::new(),
        }
    }

    /// Keeps what a case gave on the card.
    ///
    /// # Errors
    /// Words, when it is not right or not finite: nothing that is wrong becomes the measure.
    pub fn keep(&mut self, case: &Case, outcome: &Outcome) -> Result<(), String> {
        let found = &outcome.found;
        if !outcome.is_right() || found.iter().any(|value| !value.is_finite()) {
            return Err(format!("{case}: {}", outcome.differences()));
        }
        self.cases.push(Kept {
            case: case.to_string(),
            count: found.len(),
            size: size(found),
            samples: places(found.len()).map(|at| found[at]).collect(),
        });
        Ok(())
    }

    /// How many cases are kept.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Writes `golden-FAMILY-DEVICE.json` into a folder and gives its path.
    ///
    /// # Errors
    /// [`GoldenError::File`].
    pub fn write(&self, folder: &Path) -> Result<PathBuf, GoldenError> {
        let letter = |c: char| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        let device: String = self.device.chars().map(letter).collect();
        let path = folder.join(format!("golden-{}-{device}.json", self.family));
        let failed = |source| GoldenError::File {
            path: path.clone(),
            source,
        };
        let text = serde_json::to_string(self).map_err(|error| failed(error.into()))?;
        // A case a line: a difference is a line of a diff.
        let text = text.replace("{\"case\"", "\n{\"case\"") + "\n";
        if text.len() > BYTES_MAX {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        fs::write(&path, text).map_err(failed)?;
        Ok(path)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`GoldenError`].
    pub fn read(path: &Path) -> Result<Self, GoldenError> {
        let bytes = fs::read(path).map_err(|source| GoldenError::File {
            path: path.into(),
            source,
        })?;
        let damaged = |why: String| GoldenError::Damaged {
            path: path.into(),
            why,
        };
        let read: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if read.version != VERSION {
            return Err(damaged(format!("version {}, not {VERSION}", read.version)));
        }
        match read.cases.is_empty() {
            true => Err(GoldenError::Empty { path: path.into() }),
            false => Ok(read),
        }
    }

    /// Computes every case on the CPU and tells which do not agree with what the card gave.
    ///
    /// # Errors
    /// What an op gives.
    pub fn replay(&self, cpu: &Device) -> Result<Vec<String>, KernelError> {
        let gpu = Gpu::new(Arc::new(Nowhere::new(self.capability)));
        let cases = family(&self.family, Scale::Small, gpu.card().is_hopper());
        let mut wrong = Vec::new();
        for kept in &self.cases {
            match cases.iter().find(|case| case.to_string() == kept.case) {
                Some(case) => {
                    let outcome = case.run(&gpu, cpu, self.seed)?;
                    wrong.extend(kept.differs(&outcome));
                }
                None => wrong.push(format!("{}: there is no such case any more", kept.case)),
            }
        }
        Ok(wrong)
    }
}

impl Kept {
    /// How the CPU's values differ from those of the card, within the case's tolerance. Distances are relative to
    /// the size of all values: a sample alone may be next to nothing.
    fn differs(&self, outcome: &Outcome) -> Option<String> {
        let Outcome {
            expected,
            tolerance,
            ..
        } = outcome;
        if expected.len() != self.count {
            let (count, case) = (self.count, &self.case);
            return Some(format!("{case}: {} values, not {count}", expected.len()));
        }
        let pairs = self.samples.iter().zip(places(self.count));
        let off: f64 = pairs
            .map(|(kept, at)| f64::from(kept - expected[at]).powi(2))
            .sum();
        let scale = size(expected).max(self.size).max(1e-30);
        let samples = (off / self.samples.len().max(1) as f64).sqrt() / scale;
        let sizes = (size(expected) - self.size).abs() / scale;
        let is_whole = self.samples.len() == places(self.count).count();
        // Written so that NaN is not right.
        let is_right = samples <= *tolerance && sizes <= *tolerance && is_whole;
        (!is_right).then(|| {
            let case = &self.case;
            format!(
                "{case}: samples off by {samples:.1e}, size by {sizes:.1e}, allowed {tolerance:.0e}"
            )
        })
    }
}

/// Files of results in a folder, in order; none when there is no such folder.
///
/// # Errors
/// [`GoldenError::File`] for a folder that cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, GoldenError> {
    let failed = |source| GoldenError::File {
        path: folder.into(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("golden-") && name.ends_with(".json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
