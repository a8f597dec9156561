//! Tensors of an input file, checked by name and shape.

use std::path::Path;

use kernels::{Device, Tensor};

use super::TensorsError;
use crate::weights::TensorFile;

/// One dimension that a module reads: a size, or a letter for any size but none.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dim {
    Is(usize),
    Any(&'static str),
}

use Dim::{Any, Is};

/// The tensors of one file.
pub(super) struct Input {
    file: TensorFile,
    device: Device,
}

impl Input {
    pub(super) fn open(path: &Path, device: &Device) -> Result<Self, TensorsError> {
        Ok(Self {
            file: TensorFile::open(path)?,
            device: device.clone(),
        })
    }

    /// True when the file has a tensor of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.file.dims(name).is_some()
    }

    /// A tensor of floating point numbers.
    pub(super) fn floats(&self, name: &str, expected: &[Dim]) -> Result<Tensor, TensorsError> {
        let dims = self.checked(name, expected)?.to_vec();
        Ok(self.file.tensor(&self.device, name, &dims)?)
    }

    /// A tensor of whole numbers, none below 0 or above `max`.
    pub(super) fn integers(
        &self,
        name: &str,
        expected: Dim,
        max: u32,
    ) -> Result<Vec<u32>, TensorsError> {
        self.checked(name, &[expected])?;
        let Some(values) = self.file.integers(name) else {
            return Err(self.refuse(name, "expected integers (I32, I64 or U32)".to_owned()));
        };
        let outside = values
            .iter()
            .find(|value| !(0..=i64::from(max)).contains(*value));
        match outside {
            Some(value) => Err(self.refuse(name, format!("holds {value}, expected 0 to {max}"))),
            None => Ok(values.into_iter().map(|value| value as u32).collect()),
        }
    }

    /// Padding tokens of `mask` [T]: zeros, then at least one 1.
    pub(super) fn pads(&self, tokens: usize) -> Result<usize, TensorsError> {
        let mask = self.integers("mask", Is(tokens), 1)?;
        let pads = mask.iter().take_while(|bit| **bit == 0).count();
        if pads == tokens || mask[pads..].contains(&0) {
            let reason = "expected zeros for padding on the left, then ones".to_owned();
            return Err(self.refuse("mask", reason));
        }
        Ok(pads)
    }

    /// A refusal of what a tensor holds.
    pub(super) fn refuse(&self, tensor: &str, reason: String) -> TensorsError {
        TensorsError::Value {
            path: self.file.path().to_owned(),
            tensor: tensor.to_owned(),
            reason,
        }
    }

    fn checked(&self, name: &str, expected: &[Dim]) -> Result<&[usize], TensorsError> {
        let (path, tensor) = (self.file.path().to_owned(), name.to_owned());
        let Some(found) = self.file.dims(name) else {
            let expected = shown(expected);
            return Err(TensorsError::Missing {
                path,
                tensor,
                expected,
            });
        };
        let fits = |(found, expected): (&usize, &Dim)| match expected {
            Is(size) => found == size,
            Any(_) => *found > 0,
        };
        if found.len() == expected.len() && found.iter().zip(expected).all(fits) {
            return Ok(found);
        }
        Err(TensorsError::Shape {
            path,
            tensor,
            expected: shown(expected),
            found: found.to_vec(),
        })
    }
}

/// `[1, 3, frames]`.
fn shown(expected: &[Dim]) -> String {
    let dims: Vec<String> = expected
        .iter()
        .map(|dim| match dim {
            Is(size) => size.to_string(),
            Any(letter) => (*letter).to_owned(),
        })
        .collect();
    format!("[{}]", dims.join(", "))
}
