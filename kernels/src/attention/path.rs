//! Which kernels attention has on a GPU, and what each takes at a time.

use super::{Grid, Mask, OP};
use crate::KernelError;
use crate::cuda::Gpu;

/// Which kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// mma.sync: any card, any mask, heads of up to 256 that are a multiple of 8.
    Mma,
    /// wgmma and TMA: compute capability 9.0, no mask but lists of blocks, heads of 64 or 128.
    Hopper,
    /// As `Hopper`, heads of 128 alone: blocks of 176 keys.
    HopperWide,
    /// As `Hopper`, heads of 64 alone: four blocks of keys under way in place of two. Not measured yet.
    HopperDeep,
}

/// The fastest path that a card and a call allow; blocks of 176 keys were 3 to 9 % faster on an H100 at
/// 6k to 100k tokens.
pub fn best_path(gpu: &Gpu, d: usize, mask: Mask<'_>) -> Path {
    let plain = matches!(mask, Mask::None | Mask::Keys(_) | Mask::Blocks(_));
    match (gpu.card().is_hopper() && plain, d) {
        (true, 64) => Path::Hopper,
        (true, 128) => Path::HopperWide,
        _ => Path::Mma,
    }
}

/// Widest head that a kernel has.
const HEAD_MAX: usize = 256;

/// Whether there is a kernel for heads of `d`.
pub(super) fn has_kernel(d: usize) -> bool {
    d.is_multiple_of(8) && (1..=HEAD_MAX).contains(&d)
}

/// What the fastest path takes at a time; heads that have no kernel are the processor's.
pub(super) fn grid_of(gpu: &Gpu, d: usize) -> Grid {
    grid(best_path(gpu, d, Mask::None), d).unwrap_or(Grid::CPU)
}

/// What a path takes at a time for heads of `d`.
///
/// # Errors
/// [`KernelError::Unsupported`] for heads that it does not have.
pub fn grid(path: Path, d: usize) -> Result<Grid, KernelError> {
    Ok(Variant::of(path, d)?.grid)
}

/// A kernel for heads of some widths.
pub(super) struct Variant {
    pub module: &'static str,
    /// The module that reads lists of blocks.
    pub listed: &'static str,
    pub grid: Grid,
    /// Width that heads are filled up to.
    pub head: usize,
    pub threads: u32,
    /// Blocks of keys, and of values, that shared memory holds.
    pub stages: usize,
}

impl Variant {
    pub fn of(path: Path, d: usize) -> Result<Self, KernelError> {
        let found = match (path, d) {
            (Path::Mma, 1..=64) => {
                let listed = "attention_mma_64_lists";
                Self::new("attention_mma_64", [128, 64], 64, 128).listed(listed)
            }
            (Path::Mma, 65..=128) => {
                let listed = "attention_mma_128_lists";
                Self::new("attention_mma_128", [128, 64], 128, 256).listed(listed)
            }
            (Path::Mma, 129..=HEAD_MAX) => {
                let listed = "attention_mma_256_lists";
                Self::new("attention_mma_256", [128, 32], 256, 256).listed(listed)
            }
            (Path::Hopper, 64) => Self::new("attention_hopper_64", [192, 128], 64, 512),
            (Path::HopperDeep, 64) => Self {
                stages: 4,
                ..Self::new("attention_hopper_64_deep", [192, 128], 64, 512)
            },
            (Path::Hopper, 128) => Self::new("attention_hopper_128", [128, 128], 128, 384),
            (Path::HopperWide, 128) => Self::new("attention_hopper_128_wide", [128, 176], 128, 384),
            _ => return Err(missing(path, d)),
        };
        match has_kernel(d) {
            true => Ok(found),
            false => Err(missing(path, d)),
        }
    }

    fn new(module: &'static str, [queries, keys]: [usize; 2], head: usize, threads: u32) -> Self {
        Self {
            module,
            listed: module,
            grid: Grid { queries, keys },
            head,
            threads,
            stages: 2,
        }
    }

    fn listed(self, listed: &'static str) -> Self {
        Self { listed, ..self }
    }

    /// Queries, and all stages of keys and values.
    pub fn tile_bytes(&self) -> usize {
        (self.grid.queries + 2 * self.stages * self.grid.keys) * self.head * 2
    }
}

fn missing(path: Path, d: usize) -> KernelError {
    KernelError::unsupported(OP, format!("heads of {d} through {path:?}"))
}
