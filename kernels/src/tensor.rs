//! Tensors: an element type, a shape of 1 to 5 dimensions and row-major contiguous memory.

use half::{bf16, f16};

use crate::device::Device;
use crate::error::KernelError;
use crate::shape::{DType, FloatFormat, Shape};

/// Memory of a CPU tensor.
#[derive(Clone)]
enum Buffer {
    F32(Vec<f32>),
    U8(Vec<u8>),
    U32(Vec<u32>),
}

/// A dense row-major array that belongs to a device.
#[derive(Clone)]
pub struct Tensor {
    shape: Shape,
    buffer: Buffer,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype(), self.shape)
    }
}

fn zeroed<T: Clone + Default>(count: usize) -> Result<Vec<T>, KernelError> {
    let mut memory = Vec::new();
    let need_bytes = (count * size_of::<T>()) as u64;
    memory
        .try_reserve_exact(count)
        .map_err(|_| KernelError::OutOfMemory { need_bytes })?;
    memory.resize(count, T::default());
    Ok(memory)
}

impl Tensor {
    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for an impossible shape, [`KernelError::OutOfMemory`].
    pub fn zeros(_device: &Device, dtype: DType, dims: &[usize]) -> Result<Self, KernelError> {
        let shape = Shape::new(dims)?;
        let buffer = match dtype {
            DType::F32 => Buffer::F32(zeroed(shape.count())?),
            DType::U8 => Buffer::U8(zeroed(shape.count())?),
            DType::U32 => Buffer::U32(zeroed(shape.count())?),
        };
        Ok(Self { shape, buffer })
    }

    /// A tensor of F32 zeros.
    ///
    /// # Errors
    /// As [`Tensor::zeros`].
    pub fn zeros_f32(device: &Device, dims: &[usize]) -> Result<Self, KernelError> {
        Self::zeros(device, DType::F32, dims)
    }

    /// Takes over `values` as an F32 tensor.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the count does not fit the shape.
    pub fn from_f32(
        _device: &Device,
        dims: &[usize],
        values: Vec<f32>,
    ) -> Result<Self, KernelError> {
        let shape = checked_count(dims, values.len())?;
        Ok(Self {
            shape,
            buffer: Buffer::F32(values),
        })
    }

    /// Takes over `values` as a U32 tensor.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the count does not fit the shape.
    pub fn from_u32(
        _device: &Device,
        dims: &[usize],
        values: Vec<u32>,
    ) -> Result<Self, KernelError> {
        let shape = checked_count(dims, values.len())?;
        Ok(Self {
            shape,
            buffer: Buffer::U32(values),
        })
    }

    /// Takes over `values` as a U8 tensor.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the count does not fit the shape.
    pub fn from_u8(_device: &Device, dims: &[usize], values: Vec<u8>) -> Result<Self, KernelError> {
        let shape = checked_count(dims, values.len())?;
        Ok(Self {
            shape,
            buffer: Buffer::U8(values),
        })
    }

    /// Uploads little-endian floats as they lie in a weight file; they become F32.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the byte count does not fit the shape, [`KernelError::OutOfMemory`].
    pub fn upload(
        device: &Device,
        dims: &[usize],
        format: FloatFormat,
        bytes: &[u8],
    ) -> Result<Self, KernelError> {
        let mut tensor = Self::zeros_f32(device, dims)?;
        if bytes.len() != tensor.count() * format.size_bytes() {
            let expected = format!("{} bytes", tensor.count() * format.size_bytes());
            let found = format!("{} bytes", bytes.len());
            return Err(KernelError::shape("upload", "bytes", expected, found));
        }
        let out = tensor.f32s_mut();
        match format {
            FloatFormat::F32 => decode(out, bytes, f32::from_le_bytes),
            FloatFormat::F16 => decode(out, bytes, |raw| f16::from_le_bytes(raw).to_f32()),
            FloatFormat::BF16 => decode(out, bytes, |raw| bf16::from_le_bytes(raw).to_f32()),
        }
        Ok(tensor)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.buffer {
            Buffer::F32(_) => DType::F32,
            Buffer::U8(_) => DType::U8,
            Buffer::U32(_) => DType::U32,
        }
    }

    /// Shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.shape.count()
    }

    /// Length of the last dimension.
    pub fn last_dim(&self) -> usize {
        self.shape.dims()[self.shape.rank() - 1]
    }

    /// Number of rows: the product of all dimensions but the last (0 when the last is 0).
    pub fn row_count(&self) -> usize {
        self.shape.dims()[..self.shape.rank() - 1].iter().product()
    }

    /// The same memory under another shape.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the element counts differ.
    pub fn reshaped(mut self, dims: &[usize]) -> Result<Self, KernelError> {
        self.shape = checked_count(dims, self.count())?;
        Ok(self)
    }

    /// The elements of an F32 tensor. Other types give an empty slice; ops check first with
    /// [`Tensor::expect`].
    pub fn f32s(&self) -> &[f32] {
        match &self.buffer {
            Buffer::F32(values) => values,
            Buffer::U8(_) | Buffer::U32(_) => &[],
        }
    }

    /// As [`Tensor::f32s`], for writing.
    pub fn f32s_mut(&mut self) -> &mut [f32] {
        match &mut self.buffer {
            Buffer::F32(values) => values,
            Buffer::U8(_) | Buffer::U32(_) => &mut [],
        }
    }

    /// The elements of a U32 tensor; other types give an empty slice.
    pub fn u32s(&self) -> &[u32] {
        match &self.buffer {
            Buffer::U32(values) => values,
            Buffer::F32(_) | Buffer::U8(_) => &[],
        }
    }

    /// The elements of a U8 tensor; other types give an empty slice.
    pub fn u8s(&self) -> &[u8] {
        match &self.buffer {
            Buffer::U8(values) => values,
            Buffer::F32(_) | Buffer::U32(_) => &[],
        }
    }

    /// As [`Tensor::u8s`], for writing.
    pub fn u8s_mut(&mut self) -> &mut [u8] {
        match &mut self.buffer {
            Buffer::U8(values) => values,
            Buffer::F32(_) | Buffer::U32(_) => &mut [],
        }
    }

    /// Refuses a tensor that has another element type or shape than the contract of `op` asks for.
    ///
    /// # Errors
    /// [`KernelError::DType`], [`KernelError::Shape`].
    pub fn expect(
        &self,
        op: &'static str,
        what: &'static str,
        dtype: DType,
        dims: &[usize],
    ) -> Result<(), KernelError> {
        self.expect_dtype(op, what, dtype)?;
        if self.dims() != dims {
            return Err(KernelError::shape(op, what, dims, self.dims()));
        }
        Ok(())
    }

    /// As [`Tensor::expect`] for F32.
    ///
    /// # Errors
    /// [`KernelError::DType`], [`KernelError::Shape`].
    pub fn expect_f32(
        &self,
        op: &'static str,
        what: &'static str,
        dims: &[usize],
    ) -> Result<(), KernelError> {
        self.expect(op, what, DType::F32, dims)
    }

    /// Refuses another element type.
    ///
    /// # Errors
    /// [`KernelError::DType`].
    pub fn expect_dtype(
        &self,
        op: &'static str,
        what: &'static str,
        dtype: DType,
    ) -> Result<(), KernelError> {
        let found = self.dtype();
        if found != dtype {
            return Err(KernelError::DType {
                op,
                what,
                expected: dtype,
                found,
            });
        }
        Ok(())
    }

    /// Refuses another number of dimensions; gives them as an array.
    ///
    /// # Errors
    /// [`KernelError::DType`] when not F32, [`KernelError::Shape`].
    pub fn expect_rank<const RANK: usize>(
        &self,
        op: &'static str,
        what: &'static str,
    ) -> Result<[usize; RANK], KernelError> {
        self.expect_dtype(op, what, DType::F32)?;
        self.dims()
            .try_into()
            .map_err(|_| KernelError::shape(op, what, format!("{RANK} dimensions"), self.dims()))
    }
}

fn checked_count(dims: &[usize], count: usize) -> Result<Shape, KernelError> {
    let shape = Shape::new(dims)?;
    if shape.count() != count {
        let expected = format!("{} elements for {dims:?}", shape.count());
        return Err(KernelError::shape(
            "tensor",
            "values",
            expected,
            format!("{count} elements"),
        ));
    }
    Ok(shape)
}

fn decode<const BYTES: usize>(out: &mut [f32], bytes: &[u8], read: impl Fn([u8; BYTES]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<BYTES>();
    out.iter_mut()
        .zip(chunks)
        .for_each(|(value, raw)| *value = read(*raw));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_uploaded_exactly() {
        let device = Device::cpu(1).unwrap();
        let bytes: Vec<u8> = [1.5f32, -0.25, 65504.0]
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect();
        let tensor = Tensor::upload(&device, &[3], FloatFormat::F16, &bytes).unwrap();
        assert_eq!(tensor.f32s(), [1.5, -0.25, 65504.0]);
        let bytes = bf16::from_f32(-3.0).to_le_bytes();
        let tensor = Tensor::upload(&device, &[1, 1], FloatFormat::BF16, &bytes).unwrap();
        assert_eq!(tensor.f32s(), [-3.0]);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let device = Device::cpu(1).unwrap();
        assert!(Tensor::upload(&device, &[2], FloatFormat::F32, &[0; 7]).is_err());
        assert!(Tensor::from_f32(&device, &[2, 2], vec![0.0; 3]).is_err());
        assert!(Tensor::zeros_f32(&device, &[]).is_err());
        assert!(Tensor::zeros_f32(&device, &[1; 6]).is_err());
        assert!(Tensor::zeros_f32(&device, &[usize::MAX, 2]).is_err());
        let error = Tensor::zeros(&device, DType::U8, &[4])
            .unwrap()
            .expect_f32("op", "x", &[4]);
        assert!(matches!(error, Err(KernelError::DType { .. })));
    }

    #[test]
    fn an_absurd_size_is_out_of_memory_and_not_an_abort() {
        let device = Device::cpu(1).unwrap();
        let result = Tensor::zeros_f32(&device, &[1 << 40, 1 << 10]);
        assert!(matches!(result, Err(KernelError::OutOfMemory { .. })));
    }
}
