//! `attention` of host tensors on a card.

use super::cuda::{DeviceMask, Inputs, attention as on_card, best_path};
use super::{Heads, Mask};
use crate::copy::cuda::cast;
use crate::cuda::{Element, Gpu};
use crate::linear::card::half;
use crate::rope::cuda::Columns;
use crate::{Cpu, KernelError, Tensor};

/// Widest head that a card's kernel has.
const HEAD_MAX: usize = 256;

/// Whether a card has a kernel for heads of `d` over this many keys.
pub(super) fn fits(d: usize, queries: usize, keys: usize, mask: Mask<'_>) -> bool {
    d.is_multiple_of(8)
        && d <= HEAD_MAX
        && queries > 0
        && keys > 0
        && !matches!(mask, Mask::Keys(0))
}

#[expect(
    clippy::too_many_arguments,
    reason = "the op's arguments, checked, and both places"
)]
pub(super) fn attention(
    cpu: &Cpu,
    gpu: &Gpu,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    mask: Mask<'_>,
    o: &mut Tensor,
) -> Result<(), KernelError> {
    cpu.count_product([q.row_count(), 2 * q.last_dim(), k.row_count()]);
    let put = |tensor: &Tensor| half(gpu, tensor.dims(), tensor.f32s());
    let (q, k, v) = (put(q)?, put(k)?, put(v)?);
    let additive = match mask {
        Mask::Additive(mask) => Some(gpu.upload(Element::F32, mask.dims(), mask.f32s())?),
        _ => None,
    };
    let on_device = match (mask, &additive) {
        (Mask::Additive(_), Some(mask)) => DeviceMask::Additive(mask),
        (Mask::Keys(count), _) => DeviceMask::Keys(count),
        (Mask::Causal { first, window }, _) => DeviceMask::Causal { first, window },
        _ => DeviceMask::None,
    };
    let path = best_path(gpu, q.last_dim() / heads.query, mask);
    let inputs = Inputs {
        q: Columns::all(&q),
        k: Columns::all(&k),
        v: Columns::all(&v),
    };
    let half_out = gpu.empty(Element::BF16, o.dims())?;
    on_card(gpu, path, inputs, heads, on_device, &half_out, None)?;
    let out = gpu.empty(Element::F32, o.dims())?;
    cast(gpu, &half_out, &out)?;
    o.f32s_mut().copy_from_slice(&gpu.download(&out)?);
    Ok(())
}
