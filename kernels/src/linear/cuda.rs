//! `linear` on a GPU: our own product with mma.sync, on every card, with every epilogue.

use super::OP;
use crate::KernelError;
use crate::cuda::{Arguments, Array, Element, Gpu, Launch};
use crate::modulation::cuda::{DeviceRows, module_of};

/// Rows and columns of a block's tile, and its shared memory: three stages of both operands and the
/// slack that aligns them.
pub(crate) const TILE: usize = 128;
pub(crate) const TILE_SHARED_BYTES: u32 = 3 * 2 * 128 * 64 * 2 + 128;

/// What happens to `z = x W^T + bias`; see [`super::Epilogue`].
#[derive(Clone, Copy)]
pub enum DeviceEpilogue<'a> {
    /// y = z
    None,
    /// y = gelu(z), tanh form
    GeluTanh,
    /// y = z * sigmoid(z)
    Silu,
    /// y = y + z
    Residual,
    /// y = y + gate * z
    GatedResidual(DeviceRows<'a>),
    /// The rows of W alternate between gate and up: y = gelu(gate) * up, tanh form. [`interleave`]
    /// makes such a W.
    GegluTanh,
}

/// Rows of a gate half and an up half [2N, K], alternating.
pub fn interleave(weight: &[f32], k: usize) -> Vec<f32> {
    let (gate, up) = weight.split_at(weight.len() / 2);
    gate.chunks(k)
        .zip(up.chunks(k))
        .flat_map(|(gate, up)| gate.iter().chain(up))
        .copied()
        .collect()
}

/// x BF16 [m, k] (of rows `x.last_dim()` apart), W BF16 [n, k], bias F32 [n] -> y F32 or BF16 [m, n].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn linear(
    gpu: &Gpu,
    x: &Array,
    w: &Array,
    bias: Option<&Array>,
    epilogue: DeviceEpilogue<'_>,
    y: &Array,
) -> Result<(), KernelError> {
    let (m, n, k) = (x.row_count(), w.row_count(), w.last_dim());
    x.expect(OP, "x", Element::BF16, &[m, k])?;
    w.expect(OP, "weight", Element::BF16, &[n, k])?;
    if let Some(bias) = bias {
        bias.expect(OP, "bias", Element::F32, &[n])?;
    }
    let geglu = matches!(epilogue, DeviceEpilogue::GegluTanh);
    if geglu && !n.is_multiple_of(2) {
        return Err(KernelError::unsupported(OP, "a GEGLU of odd height"));
    }
    let columns = if geglu { n / 2 } else { n };
    y.expect(OP, "y", y.element(), &[m, columns])?;
    let (kind, gate) = match epilogue {
        DeviceEpilogue::None => (0, None),
        DeviceEpilogue::GeluTanh => (1, None),
        DeviceEpilogue::Silu => (2, None),
        DeviceEpilogue::Residual => (3, None),
        DeviceEpilogue::GatedResidual(gate) => (4, Some(gate)),
        DeviceEpilogue::GegluTanh => (5, None),
    };
    if let Some(gate) = &gate {
        gate.check(OP, "gate", m, n)?;
    }
    let stride = gate.map_or(0, |gate| gate.stride());
    gpu.launch(&Launch {
        module: module_of(OP, ["linear_bf16", "linear_f32"], y.element())?,
        entry: OP,
        blocks: [(m.div_ceil(TILE) * n.div_ceil(TILE)) as u32, 1, 1],
        threads: 256,
        shared_bytes: TILE_SHARED_BYTES,
        arguments: Arguments::new()
            .array(x)
            .array(w)
            .maybe(bias)
            .long(gate.map_or(0, |gate| gate.address()))
            .maybe(gate.and_then(|gate| gate.groups))
            .array(y)
            .words(&[m as u32, n as u32, k as u32, k as u32, kind, stride]),
    })
}
