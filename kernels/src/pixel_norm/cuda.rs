//! `pixel_norm` on a GPU: one warp a pixel, up to 2048 channels.

use crate::KernelError;
use crate::cuda::{Arguments, Array, Gpu, Launch};
use crate::modulation::cuda::module_of;

/// Most channels that fit in a warp's registers.
const CHANNELS_MAX: usize = 2048;
/// Most channels of the kernel that takes fewer registers.
const NARROW_MAX: usize = 512;
/// Pixels of a block.
const PIXELS: usize = 8;

/// Normalises `x` over its last axis into `out`; see [`super::pixel_norm`].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`] for more than 2048 channels, and what a launch gives.
pub fn pixel_norm(
    gpu: &Gpu,
    x: &Array,
    eps: f32,
    silu: bool,
    out: &Array,
) -> Result<(), KernelError> {
    const OP: &str = "pixel_norm";
    let (pixels, channels) = (x.row_count(), x.last_dim());
    out.expect(OP, "out", x.element(), x.dims())?;
    if channels > CHANNELS_MAX {
        return Err(KernelError::unsupported(
            OP,
            format!("{channels} channels on a GPU"),
        ));
    }
    gpu.launch(&Launch {
        module: module_of(OP, ["pixel_norm_bf16", "pixel_norm_f32"], x.element())?,
        entry: match channels <= NARROW_MAX {
            true => OP,
            false => "pixel_norm_wide",
        },
        blocks: [pixels.div_ceil(PIXELS) as u32, 1, 1],
        threads: 256,
        shared_bytes: 0,
        arguments: Arguments::new()
            .array(x)
            .array(out)
            .long(pixels as u64)
            .word(channels as u32)
            .float(eps)
            .word(silu.into()),
    })
}
