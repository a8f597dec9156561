//! `group_norm` on a GPU: sums in a fixed number of slots, statistics, then the values.

use crate::KernelError;
use crate::cuda::{Arguments, Array, Element, Gpu, Launch};
use crate::modulation::cuda::{flat_blocks, module_of};

const OP: &str = "group_norm";
const MODULES: [&str; 2] = ["group_norm_bf16", "group_norm_f32"];
/// Blocks that share the sums of a group.
const SLOTS: usize = 32;

/// What follows the norm; see [`super::GroupNorm`]. `weight` and `bias` are F32 [channel], `residual` of the
/// type and shape of x.
#[derive(Clone, Copy)]
pub struct DeviceGroupNorm<'a> {
    /// Groups that the channels are split into, in order.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Factor of each channel.
    pub weight: &'a Array,
    /// Added to each channel.
    pub bias: &'a Array,
    /// Added to the normed values.
    pub residual: Option<&'a Array>,
    /// SiLU at the end.
    pub silu: bool,
}

/// Normalises `x` [batch, ..., channel] into `out`.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn group_norm(
    gpu: &Gpu,
    x: &Array,
    norm: DeviceGroupNorm<'_>,
    out: &Array,
) -> Result<(), KernelError> {
    let (channels, batch) = (x.last_dim(), x.dims()[0]);
    out.expect(OP, "out", x.element(), x.dims())?;
    norm.weight
        .expect(OP, "weight", Element::F32, &[channels])?;
    norm.bias.expect(OP, "bias", Element::F32, &[channels])?;
    if let Some(residual) = norm.residual {
        residual.expect(OP, "residual", x.element(), x.dims())?;
    }
    if norm.groups == 0 || !channels.is_multiple_of(norm.groups) {
        let why = format!("{channels} channels in {} groups", norm.groups);
        return Err(KernelError::unsupported(OP, why));
    }
    if x.count() == 0 {
        return Ok(());
    }
    let module = module_of(OP, MODULES, x.element())?;
    let (entry, groups) = (x.count() / batch, batch * norm.groups);
    let slots = gpu.empty(Element::F64, &[groups, SLOTS, 2])?;
    let statistics = gpu.empty(Element::F32, &[groups, 2])?;
    let launch = |entry, blocks, threads, arguments| {
        gpu.launch(&Launch {
            module,
            entry,
            blocks,
            threads,
            shared_bytes: 0,
            arguments,
        })
    };
    let sums = Arguments::new()
        .array(x)
        .long((entry / channels) as u64)
        .word(channels as u32)
        .array(&slots);
    let grid = [SLOTS, norm.groups, batch].map(|size| size as u32);
    launch("group_sums", grid, 256, sums)?;
    let values = (entry / norm.groups) as f64;
    let of_groups = Arguments::new()
        .array(&slots)
        .array(&statistics)
        .word(SLOTS as u32)
        .word(groups as u32)
        .long(values.to_bits())
        .float(norm.eps);
    let grid = [groups.div_ceil(32) as u32, 1, 1];
    launch("group_statistics", grid, 32, of_groups)?;
    let apply = Arguments::new()
        .array(x)
        .array(out)
        .array(&statistics)
        .array(norm.weight)
        .array(norm.bias)
        .maybe(norm.residual)
        .long(entry as u64)
        .word(channels as u32)
        .word(norm.groups as u32)
        .word(norm.silu.into())
        .long(x.count() as u64);
    launch("group_apply", [flat_blocks(x.count(), 1), 1, 1], 256, apply)
}
