//! Tensors: an element type, a shape of 1 to 5 dimensions and row-major contiguous memory, on the
//! processor or on a card. What a card holds is read with [`Tensor::values`], which waits for the card.

use std::borrow::Cow;

use half::{bf16, f16};

use crate::cuda::{Array, Element};
use crate::device::{Cuda, Device};
use crate::error::KernelError;
use crate::shape::{DType, FloatFormat, Shape};

/// Memory of a tensor. Clones of what lies on a card share it until one of them is written.
#[derive(Clone)]
enum Buffer {
    F32(Vec<f32>),
    U8(Vec<u8>),
    U32(Vec<u32>),
    Card(Array),
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
    pub fn zeros(device: &Device, dtype: DType, dims: &[usize]) -> Result<Self, KernelError> {
        match device {
            Device::Cpu(_) => Self::host_zeros(dtype, dims),
            Device::Cuda(card) => {
                let array = card.gpu().filled(element_of(dtype), dims, 0)?;
                Self::from_array(array)
            }
        }
    }

    /// A tensor of F32 zeros.
    ///
    /// # Errors
    /// As [`Tensor::zeros`].
    pub fn zeros_f32(device: &Device, dims: &[usize]) -> Result<Self, KernelError> {
        Self::zeros(device, DType::F32, dims)
    }

    /// A tensor for an op to write activations to: F32 on the processor, BF16 on a card. On a card its
    /// content is not defined.
    ///
    /// # Errors
    /// As [`Tensor::zeros`].
    pub fn activations(device: &Device, dims: &[usize]) -> Result<Self, KernelError> {
        match device {
            Device::Cpu(_) => Self::host_zeros(DType::F32, dims),
            Device::Cuda(card) => Self::from_array(card.gpu().empty(Element::BF16, dims)?),
        }
    }

    /// A tensor of zeros in the processor's memory, whatever the device.
    ///
    /// # Errors
    /// [`KernelError::Shape`], [`KernelError::OutOfMemory`], [`KernelError::Unsupported`] for BF16.
    pub fn host_zeros(dtype: DType, dims: &[usize]) -> Result<Self, KernelError> {
        let shape = Shape::new(dims)?;
        let buffer = match dtype {
            DType::F32 => Buffer::F32(zeroed(shape.count())?),
            DType::U8 => Buffer::U8(zeroed(shape.count())?),
            DType::U32 => Buffer::U32(zeroed(shape.count())?),
            DType::BF16 => return Err(KernelError::unsupported("tensor", "BF16 on the CPU")),
        };
        Ok(Self { shape, buffer })
    }

    /// Takes over `values` as an F32 tensor.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the count does not fit the shape; what an upload to a card gives.
    pub fn from_f32(
        device: &Device,
        dims: &[usize],
        values: Vec<f32>,
    ) -> Result<Self, KernelError> {
        Self::host_f32(dims, values)?.to_device(device)
    }

    /// Takes over `values` as an F32 tensor in the processor's memory, whatever the device.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the count does not fit the shape.
    pub fn host_f32(dims: &[usize], values: Vec<f32>) -> Result<Self, KernelError> {
        let shape = checked_count(dims, values.len())?;
        let buffer = Buffer::F32(values);
        Ok(Self { shape, buffer })
    }

    /// Takes over `values` as a U32 tensor.
    ///
    /// # Errors
    /// As [`Tensor::from_f32`].
    pub fn from_u32(
        device: &Device,
        dims: &[usize],
        values: Vec<u32>,
    ) -> Result<Self, KernelError> {
        let shape = checked_count(dims, values.len())?;
        let buffer = Buffer::U32(values);
        Self { shape, buffer }.to_device(device)
    }

    /// Takes over `values` as a U8 tensor.
    ///
    /// # Errors
    /// As [`Tensor::from_f32`].
    pub fn from_u8(device: &Device, dims: &[usize], values: Vec<u8>) -> Result<Self, KernelError> {
        let shape = checked_count(dims, values.len())?;
        let buffer = Buffer::U8(values);
        Self { shape, buffer }.to_device(device)
    }

    /// The tensor on a device; one of the processor is uploaded as it is when the device has a card.
    ///
    /// # Errors
    /// [`KernelError::DeviceMismatch`] for a card's tensor on the processor; what an upload gives.
    pub fn to_device(self, device: &Device) -> Result<Self, KernelError> {
        match device {
            Device::Cpu(_) if self.card_array().is_none() => Ok(self),
            Device::Cpu(_) => Err(mismatch("the processor", "a card")),
            Device::Cuda(_) if self.card_array().is_some() => Ok(self),
            Device::Cuda(card) => {
                let (element, bytes) = match &self.buffer {
                    Buffer::F32(values) => (Element::F32, bytes_of(values, f32::to_le_bytes)),
                    Buffer::U32(values) => (Element::U32, bytes_of(values, u32::to_le_bytes)),
                    Buffer::U8(values) => (Element::U8, values.clone()),
                    Buffer::Card(_) => return Ok(self),
                };
                Self::from_array(card.gpu().upload_bytes(element, self.dims(), &bytes)?)
            }
        }
    }

    /// The tensor in the processor's memory, floats as F32. Waits for a card.
    ///
    /// # Errors
    /// [`KernelError::Driver`], which may be a fault of an earlier kernel.
    pub fn to_host(&self) -> Result<Self, KernelError> {
        let Buffer::Card(array) = &self.buffer else {
            return Ok(self.clone());
        };
        let bytes = array.read()?;
        let buffer = match array.element() {
            Element::U8 => Buffer::U8(bytes),
            Element::U32 => {
                let words = bytes.as_chunks().0;
                Buffer::U32(words.iter().map(|raw| u32::from_le_bytes(*raw)).collect())
            }
            floats => Buffer::F32(floats.decode(&bytes)),
        };
        let shape = self.shape;
        Ok(Self { shape, buffer })
    }

    /// As [`Tensor::to_host`]; what lies there already is not copied.
    ///
    /// # Errors
    /// As [`Tensor::to_host`].
    pub fn into_host(self) -> Result<Self, KernelError> {
        match &self.buffer {
            Buffer::Card(_) => self.to_host(),
            _ => Ok(self),
        }
    }

    /// The values of a tensor of floats, wherever it lies. Waits for a card.
    ///
    /// # Errors
    /// [`KernelError::DType`] for a tensor of something else, [`KernelError::Driver`].
    pub fn values(&self) -> Result<Cow<'_, [f32]>, KernelError> {
        self.expect_dtype("values", "tensor", DType::F32)?;
        match &self.buffer {
            Buffer::Card(array) => Ok(Cow::Owned(array.element().decode(&array.read()?))),
            _ => Ok(Cow::Borrowed(self.f32s())),
        }
    }

    /// The values of a U8 tensor, wherever it lies. Waits for a card.
    ///
    /// # Errors
    /// [`KernelError::DType`] for a tensor of something else, [`KernelError::Driver`].
    pub fn levels(&self) -> Result<Cow<'_, [u8]>, KernelError> {
        self.expect_dtype("levels", "tensor", DType::U8)?;
        match &self.buffer {
            Buffer::Card(array) => Ok(Cow::Owned(array.read()?)),
            _ => Ok(Cow::Borrowed(self.u8s())),
        }
    }

    /// A tensor of what lies on a card.
    pub(crate) fn from_array(array: Array) -> Result<Self, KernelError> {
        let shape = Shape::new(array.dims())?;
        let buffer = Buffer::Card(array);
        Ok(Self { shape, buffer })
    }

    /// The card's array under the tensor's shape; absent for a tensor of the processor.
    pub(crate) fn card_array(&self) -> Option<Result<Array, KernelError>> {
        match &self.buffer {
            Buffer::Card(array) => Some(array.reshaped(self.dims())),
            _ => None,
        }
    }

    /// The card's array for writing: its own from now on, whoever shared it before.
    pub(crate) fn own_array(&mut self, card: &Cuda) -> Result<Array, KernelError> {
        let Buffer::Card(array) = &mut self.buffer else {
            return Err(mismatch("a card", "the processor"));
        };
        if array.is_shared() {
            let copy = card.gpu().empty(array.element(), array.dims())?;
            card.gpu().copy(array, &copy)?;
            *array = copy;
        }
        array.reshaped(self.shape.dims())
    }

    /// Uploads little-endian floats as they lie in a weight file. They become F32, but for BF16 of two
    /// and more dimensions on a card, which stay as they are.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the byte count does not fit the shape, [`KernelError::OutOfMemory`].
    pub fn upload(
        device: &Device,
        dims: &[usize],
        format: FloatFormat,
        bytes: &[u8],
    ) -> Result<Self, KernelError> {
        if let (Device::Cuda(card), FloatFormat::BF16, 2..) = (device, format, dims.len()) {
            return Self::from_array(card.gpu().upload_bytes(Element::BF16, dims, bytes)?);
        }
        let mut tensor = Self::host_zeros(DType::F32, dims)?;
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
        tensor.to_device(device)
    }

    /// Replaces the values of a tensor of floats where it lies: a record that reads it sees the new ones.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for another number of values; [`KernelError::Unsupported`] for a tensor that
    /// shares its memory; [`KernelError::Driver`].
    pub fn overwrite(&mut self, device: &Device, values: &[f32]) -> Result<(), KernelError> {
        checked_count(self.dims(), values.len())?;
        match (&mut self.buffer, device) {
            (Buffer::F32(own), _) => own.copy_from_slice(values),
            (Buffer::Card(array), Device::Cuda(card)) if !array.is_shared() => {
                card.gpu().overwrite(array, values)?;
            }
            _ => {
                return Err(KernelError::unsupported(
                    "overwrite",
                    "a tensor that is shared",
                ));
            }
        }
        Ok(())
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match &self.buffer {
            Buffer::F32(_) => DType::F32,
            Buffer::U8(_) => DType::U8,
            Buffer::U32(_) => DType::U32,
            Buffer::Card(array) => match array.element() {
                Element::BF16 => DType::BF16,
                Element::U32 => DType::U32,
                Element::U8 => DType::U8,
                Element::F32 | Element::F64 => DType::F32,
            },
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

    /// The elements of an F32 tensor of the processor. Others give an empty slice; ops check first with
    /// [`Tensor::expect`], and everyone else reads with [`Tensor::values`].
    pub fn f32s(&self) -> &[f32] {
        match &self.buffer {
            Buffer::F32(values) => values,
            _ => &[],
        }
    }

    /// As [`Tensor::f32s`], for writing.
    pub fn f32s_mut(&mut self) -> &mut [f32] {
        match &mut self.buffer {
            Buffer::F32(values) => values,
            _ => &mut [],
        }
    }

    /// The elements of a U32 tensor; other types give an empty slice.
    pub fn u32s(&self) -> &[u32] {
        match &self.buffer {
            Buffer::U32(values) => values,
            _ => &[],
        }
    }

    /// The elements of a U8 tensor; other types give an empty slice.
    pub fn u8s(&self) -> &[u8] {
        match &self.buffer {
            Buffer::U8(values) => values,
            _ => &[],
        }
    }

    /// As [`Tensor::u8s`], for writing.
    pub fn u8s_mut(&mut self) -> &mut [u8] {
        match &mut self.buffer {
            Buffer::U8(values) => values,
            _ => &mut [],
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

    /// Refuses another element type. F32 asks for floats: BF16 of a card is as good.
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
        let is_float = dtype == DType::F32 && found == DType::BF16;
        if found != dtype && !is_float {
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

fn element_of(dtype: DType) -> Element {
    match dtype {
        DType::F32 => Element::F32,
        DType::BF16 => Element::BF16,
        DType::U8 => Element::U8,
        DType::U32 => Element::U32,
    }
}

pub(crate) fn mismatch(expected: &'static str, found: &'static str) -> KernelError {
    KernelError::DeviceMismatch { expected, found }
}

fn bytes_of<T: Copy>(values: &[T], bytes: impl Fn(T) -> [u8; 4]) -> Vec<u8> {
    values.iter().flat_map(|value| bytes(*value)).collect()
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
