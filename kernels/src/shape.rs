//! What a tensor is made of: element types in memory and in files, and shapes.

use crate::error::KernelError;

/// Most dimensions a tensor can have.
pub const RANK_MAX: usize = 5;

/// Type of an element in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 32-bit float: activations and weights on the CPU, the sampler's state everywhere.
    F32,
    /// Upper half of a float: activations and weights on a card.
    BF16,
    /// Unsigned byte: pixels.
    U8,
    /// 32-bit unsigned: token and row ids.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::BF16 => 2,
            Self::U8 => 1,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::BF16 => "BF16",
            Self::U8 => "U8",
            Self::U32 => "U32",
        })
    }
}

/// Type of an element in a file; all three become F32 when uploaded to the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatFormat {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Upper half of an IEEE single.
    BF16,
}

impl FloatFormat {
    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// One to five dimensions, outermost first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; RANK_MAX],
    rank: usize,
}

impl Shape {
    /// A shape from its dimensions. A dimension may be 0; the product must fit in memory.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for no or more than five dimensions or a product that overflows.
    pub fn new(dims: &[usize]) -> Result<Self, KernelError> {
        let bytes = dims
            .iter()
            .try_fold(8usize, |product, &dim| product.checked_mul(dim));
        if dims.is_empty() || dims.len() > RANK_MAX || bytes.is_none() {
            let expected = "1 to 5 dimensions whose product fits in memory";
            return Err(KernelError::shape("shape", "dims", expected, dims));
        }
        let mut padded = [1; RANK_MAX];
        padded[..dims.len()].copy_from_slice(dims);
        Ok(Self {
            dims: padded,
            rank: dims.len(),
        })
    }

    /// The dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.dims().iter().product()
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}
