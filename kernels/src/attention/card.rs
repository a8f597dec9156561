//! `attention` of tensors that lie on a card.

use super::cuda::{DeviceMask, Inputs, attention as on_card, best_path};
use super::path::has_kernel;
use super::{Heads, Mask};
use crate::cuda::Element;
use crate::rope::cuda::Columns;
use crate::{Cuda, KernelError, Tensor};

/// Whether a card has a kernel for heads of `d` over this many keys.
fn fits(d: usize, queries: usize, keys: usize, mask: Mask<'_>) -> bool {
    has_kernel(d) && queries > 0 && keys > 0 && !matches!(mask, Mask::Keys(0))
}

pub(super) fn attention(
    card: &Cuda,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    mask: Mask<'_>,
    o: &mut Tensor,
) -> Result<(), KernelError> {
    let d = q.last_dim() / heads.query;
    if !fits(d, q.row_count(), k.row_count(), mask) {
        return on_host(card, [q, k, v], heads, mask, o);
    }
    let work = super::work(q.row_count(), k.row_count(), heads.query, d, mask);
    card.cpu().count_product(work);
    let (q, k, v) = (card.halves(q)?, card.halves(k)?, card.halves(v)?);
    let additive = match mask {
        Mask::Additive(mask) => Some(card.floats(mask)?),
        _ => None,
    };
    let on_device = match (mask, &additive) {
        (Mask::Additive(_), Some(mask)) => DeviceMask::Additive(mask),
        (Mask::Keys(count), _) => DeviceMask::Keys(count),
        (Mask::Blocks(list), _) => match &list.card {
            Some(list) => DeviceMask::Blocks(list),
            None => return Err(crate::tensor::mismatch("a card", "the processor")),
        },
        (Mask::Causal { first, window }, _) => DeviceMask::Causal { first, window },
        _ => DeviceMask::None,
    };
    let path = best_path(card.gpu(), d, mask);
    let inputs = Inputs {
        q: Columns::all(&q),
        k: Columns::all(&k),
        v: Columns::all(&v),
    };
    let target = card.own(o)?;
    if target.element() == Element::BF16 {
        return on_card(card.gpu(), path, inputs, heads, on_device, &target, None);
    }
    let half = card.gpu().empty(Element::BF16, target.dims())?;
    on_card(card.gpu(), path, inputs, heads, on_device, &half, None)?;
    crate::copy::cuda::cast(card.gpu(), &half, &target)
}

/// Heads that no kernel has: those of small models, and calls without keys.
fn on_host(
    card: &Cuda,
    inputs: [&Tensor; 3],
    heads: Heads,
    mask: Mask<'_>,
    o: &mut Tensor,
) -> Result<(), KernelError> {
    let [q, k, v] = inputs.map(Tensor::to_host);
    let (q, k, v) = (q?, k?, v?);
    let additive = match mask {
        Mask::Additive(mask) => Some(mask.to_host()?),
        _ => None,
    };
    let mask = match &additive {
        Some(mask) => Mask::Additive(mask),
        None => mask,
    };
    card.on_host(o, |cpu, o| {
        super::attention(cpu, &q, &k, &v, heads, mask, o)
    })
}
