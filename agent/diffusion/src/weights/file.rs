//! One safetensors file, mapped read-only. Its header is checked against the file's length before
//! any tensor is touched, so a truncated file is an error and never a bus fault.

use std::fs::File;
use std::path::{Path, PathBuf};

use kernels::sampling::count_nonfinite;
use kernels::{Device, FloatFormat, Tensor};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};

use super::WeightsError;

/// Bytes of the header's length field.
const LENGTH_BYTES: usize = 8;

/// A mapped safetensors file.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    data_start: usize,
}

impl TensorFile {
    /// Maps a file and checks that all tensors of its header lie inside it.
    ///
    /// # Errors
    /// [`WeightsError::Read`], [`WeightsError::Damaged`].
    #[expect(
        unsafe_code,
        reason = "a memory map is the only way not to hold a checkpoint twice"
    )]
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let read = |source| WeightsError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read)?;
        // SAFETY: weight files are not written to while an agent uses them; a file that another
        // process shortens is outside what this program can defend against.
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        let damaged = |reason| WeightsError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|error| damaged(error.to_string()))?;
        let data_start = LENGTH_BYTES + header;
        let expected = data_start + metadata.data_len();
        if map.len() != expected {
            return Err(damaged(format!(
                "{} bytes long, expected {expected}",
                map.len()
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            map,
            metadata,
            data_start,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, in file order.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// A text of the header's metadata block.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.metadata
            .metadata()
            .as_ref()?
            .get(key)
            .map(String::as_str)
    }

    /// Shape of a tensor.
    pub fn dims(&self, tensor: &str) -> Option<&[usize]> {
        self.metadata.info(tensor).map(|info| info.shape.as_slice())
    }

    /// True when a tensor is of F16 or BF16.
    pub fn is_half(&self, tensor: &str) -> bool {
        let info = self.metadata.info(tensor);
        info.is_some_and(|info| matches!(info.dtype, Dtype::F16 | Dtype::BF16))
    }

    /// Values of a tensor of integers; absent when it is of another type.
    pub fn integers(&self, tensor: &str) -> Option<Vec<i64>> {
        let info = self.metadata.info(tensor)?;
        let bytes = self.bytes(info);
        match info.dtype {
            Dtype::I32 => Some(each(bytes, |b| i32::from_le_bytes(b).into())),
            Dtype::U32 => Some(each(bytes, |b| u32::from_le_bytes(b).into())),
            Dtype::I64 => Some(each(bytes, i64::from_le_bytes)),
            _ => None,
        }
    }

    /// Digest of the file's bytes.
    pub fn digest(&self) -> blake3::Hash {
        blake3::Hasher::new().update(&self.map).finalize()
    }

    /// Uploads a tensor of the given shape; F16 and BF16 become F32.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file, the tensor, what was expected and what was found.
    pub fn tensor(
        &self,
        device: &Device,
        name: &str,
        dims: &[usize],
    ) -> Result<Tensor, WeightsError> {
        let info = self
            .metadata
            .info(name)
            .ok_or_else(|| WeightsError::MissingTensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: dims.to_vec(),
            })?;
        if info.shape != dims {
            return Err(WeightsError::TensorShape {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: dims.to_vec(),
                found: info.shape.clone(),
            });
        }
        let format = self.format(name, info)?;
        let upload = || {
            let tensor = Tensor::upload(device, dims, format, self.bytes(info))?;
            let count = count_nonfinite(device, &tensor)?;
            Ok((tensor, count))
        };
        let (tensor, count) = upload().map_err(|source| WeightsError::Upload {
            tensor: name.to_owned(),
            source,
        })?;
        if count > 0 {
            let (path, tensor) = (self.path.clone(), name.to_owned());
            return Err(WeightsError::NotFinite {
                path,
                tensor,
                count,
            });
        }
        Ok(tensor)
    }

    fn format(&self, name: &str, info: &TensorInfo) -> Result<FloatFormat, WeightsError> {
        match info.dtype {
            Dtype::F32 => Ok(FloatFormat::F32),
            Dtype::F16 => Ok(FloatFormat::F16),
            Dtype::BF16 => Ok(FloatFormat::BF16),
            other => Err(WeightsError::TensorType {
                path: self.path.clone(),
                tensor: name.to_owned(),
                found: format!("{other:?}"),
            }),
        }
    }

    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        let (start, end) = info.data_offsets;
        &self.map[self.data_start + start..self.data_start + end]
    }
}

/// Whole numbers of `BYTES` bytes each.
fn each<const BYTES: usize>(bytes: &[u8], number: impl Fn([u8; BYTES]) -> i64) -> Vec<i64> {
    let (numbers, _) = bytes.as_chunks::<BYTES>();
    numbers.iter().map(|bytes| number(*bytes)).collect()
}
