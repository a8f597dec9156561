//! Self-attention of the model's shape over random values, for whoever measures it.

use kernels::KernelError;
use kernels::attention::Heads;
use kernels::attention::cuda::{DeviceMask, Inputs, Path, attention};
use kernels::cuda::{Array, Element, Gpu};
use kernels::rope::cuda::Columns;

use crate::bench::random;

/// Heads of the model's self-attention.
pub const HEADS: usize = 32;

/// Queries, keys and values side by side, and what comes out.
pub struct Attended<'a> {
    gpu: &'a Gpu,
    packed: Array,
    out: Array,
    width: usize,
    heads: Heads,
}

impl<'a> Attended<'a> {
    /// Over so many tokens, with heads of this width.
    ///
    /// # Errors
    /// When the card has no memory for it.
    pub fn new(gpu: &'a Gpu, tokens: usize, head: usize) -> Result<Self, KernelError> {
        let width = HEADS * head;
        Ok(Self {
            gpu,
            packed: random(gpu, Element::BF16, &[tokens, 3 * width], 5)?,
            out: gpu.empty(Element::BF16, &[tokens, width])?,
            width,
            heads: Heads {
                query: HEADS,
                key: HEADS,
                scale: 1.0 / (head as f32).sqrt(),
            },
        })
    }

    /// Runs it once.
    ///
    /// # Errors
    /// When the card refuses.
    pub fn run(&self, path: Path, mask: DeviceMask<'_>) -> Result<(), KernelError> {
        let columns = |number| Columns {
            rows: &self.packed,
            first: number * self.width,
            width: self.width,
        };
        let inputs = Inputs {
            q: columns(0),
            k: columns(1),
            v: columns(2),
        };
        attention(self.gpu, path, inputs, self.heads, mask, &self.out, None)
    }
}
