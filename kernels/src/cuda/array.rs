//! Arrays in a machine's memory.

use std::sync::Arc;

use half::bf16;

use super::launch::Memory;
use crate::{KernelError, Shape};

/// Type of an element in a machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// float
    F32,
    /// Upper half of a float.
    BF16,
    /// Ids.
    U32,
    /// Pixels.
    U8,
    /// Partial sums.
    F64,
}

impl Element {
    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::BF16 => 2,
            Self::U8 => 1,
        }
    }

    /// Little-endian bytes of values, rounded to nearest even.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::BF16 => values
                .iter()
                .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                .collect(),
            Self::U32 => values
                .iter()
                .flat_map(|v| (*v as u32).to_le_bytes())
                .collect(),
            Self::U8 => values.iter().map(|v| *v as u8).collect(),
            Self::F64 => values
                .iter()
                .flat_map(|v| f64::from(*v).to_le_bytes())
                .collect(),
        }
    }

    /// Values of little-endian bytes.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|raw| f32::from_le_bytes(*raw))
                .collect(),
            Self::BF16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|raw| bf16::from_le_bytes(*raw).to_f32())
                .collect(),
            Self::U32 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|raw| u32::from_le_bytes(*raw) as f32)
                .collect(),
            Self::U8 => bytes.iter().map(|raw| f32::from(*raw)).collect(),
            Self::F64 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|raw| f64::from_le_bytes(*raw) as f32)
                .collect(),
        }
    }
}

/// A dense row-major array, or a range of one, in a machine's memory. Clones share the memory.
#[derive(Clone)]
pub struct Array {
    memory: Arc<Memory>,
    offset: u64,
    element: Element,
    shape: Shape,
}

impl std::fmt::Debug for Array {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Array({:?} {:?})", self.element, self.shape)
    }
}

impl Array {
    pub(super) fn new(memory: Memory, element: Element, shape: Shape) -> Self {
        Self {
            memory: Arc::new(memory),
            offset: 0,
            element,
            shape,
        }
    }

    /// Whose memory it lies in.
    pub(super) fn machine(&self) -> &Arc<dyn super::Machine> {
        self.memory.machine()
    }

    /// Whether another array shares the memory.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.memory) > 1
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for another number of elements.
    pub fn reshaped(&self, dims: &[usize]) -> Result<Self, KernelError> {
        let shape = Shape::new(dims)?;
        if shape.count() != self.count() {
            return Err(KernelError::shape("reshaped", "dims", self.dims(), dims));
        }
        Ok(Self {
            shape,
            ..self.clone()
        })
    }

    /// The bytes, after all work so far.
    ///
    /// # Errors
    /// [`KernelError::Driver`].
    pub(crate) fn read(&self) -> Result<Vec<u8>, KernelError> {
        let mut bytes = vec![0; self.bytes() as usize];
        self.machine().read(self.address(), &mut bytes)?;
        Ok(bytes)
    }

    /// Type of the elements.
    pub fn element(&self) -> Element {
        self.element
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
        self.dims()[self.dims().len() - 1]
    }

    /// Product of all dimensions but the last.
    pub fn row_count(&self) -> usize {
        self.dims()[..self.dims().len() - 1].iter().product()
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> u64 {
        (self.count() * self.element.size_bytes()) as u64
    }

    /// Where it begins in the machine's memory.
    pub fn address(&self) -> u64 {
        self.memory.address() + self.offset
    }

    /// `count` elements from `first` on, as an array of `dims`. Kernels want starts at multiples of 16 bytes.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when it does not lie inside, [`KernelError::Unsupported`] for another start.
    pub fn part(&self, first: usize, dims: &[usize]) -> Result<Self, KernelError> {
        let shape = Shape::new(dims)?;
        if first + shape.count() > self.count() {
            return Err(KernelError::shape("part", "dims", self.dims(), dims));
        }
        let offset = (first * self.element.size_bytes()) as u64;
        if !offset.is_multiple_of(16) {
            return Err(KernelError::unsupported(
                "part",
                format!("a start at byte {offset}"),
            ));
        }
        Ok(Self {
            memory: self.memory.clone(),
            offset: self.offset + offset,
            element: self.element,
            shape,
        })
    }

    /// Refuses another type or shape than an op asks for.
    pub(crate) fn expect(
        &self,
        op: &'static str,
        what: &'static str,
        element: Element,
        dims: &[usize],
    ) -> Result<(), KernelError> {
        if self.element != element || self.dims() != dims {
            let expected = format!("{element:?} {dims:?}");
            return Err(KernelError::shape(op, what, expected, self));
        }
        Ok(())
    }
}
