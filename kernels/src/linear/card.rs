//! `linear` of tensors that lie on a card.

use super::cuda::{self, DeviceEpilogue, interleave};
use super::{CardWeight, Epilogue};
use crate::activation::cuda::{DeviceActivation, activation};
use crate::cuda::{After, Array, Blas, PlanKey};
use crate::modulation::cuda::gated_residual;
use crate::{Cuda, KernelError, Tensor};

/// BF16 [N, K]; the halves of a pair alternate row by row.
pub(super) fn upload(card: &Cuda, weight: &Tensor, is_pair: bool) -> Result<Array, KernelError> {
    if is_pair {
        let values = interleave(&weight.values()?, weight.last_dim());
        return card
            .gpu()
            .upload(crate::cuda::Element::BF16, weight.dims(), &values);
    }
    // A tensor of the processor is one that the caller made by hand.
    let device = crate::Device::Cuda(card.clone());
    card.halves(&weight.clone().to_device(&device)?)
}

pub(super) fn linear(
    card: &Cuda,
    x: &Tensor,
    weight: &CardWeight,
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
    y: &mut Tensor,
) -> Result<(), KernelError> {
    let (rows, weight) = (x.row_count(), &weight.0);
    card.cpu()
        .count_product([rows, weight.row_count(), weight.last_dim()]);
    let bias = bias.map(|bias| card.floats(bias)).transpose()?;
    let (x, y) = (card.halves(x)?, card.own(y)?);
    let gate = match epilogue {
        Epilogue::GatedResidual(gate) => Some(gate.on_card(card)?),
        _ => None,
    };
    let epilogue = match (epilogue, &gate) {
        (Epilogue::GatedResidual(_), Some(gate)) => DeviceEpilogue::GatedResidual(gate.view()),
        (Epilogue::GeluTanh, _) => DeviceEpilogue::GeluTanh,
        (Epilogue::Silu, _) => DeviceEpilogue::Silu,
        (Epilogue::Residual, _) => DeviceEpilogue::Residual,
        (Epilogue::GegluTanh, _) => DeviceEpilogue::GegluTanh,
        _ => DeviceEpilogue::None,
    };
    if let Some(blas) = card.gpu().blas()
        && through_library(card, blas, [&x, weight], bias.as_ref(), epilogue, &y)?
    {
        return Ok(());
    }
    cuda::linear(card.gpu(), &x, weight, bias.as_ref(), epilogue, &y)
}

/// The product through NVIDIA's library and what it lacks of the epilogue in a launch of its own; false where
/// our own kernel must do it.
fn through_library(
    card: &Cuda,
    blas: &Blas,
    [x, weight]: [&Array; 2],
    bias: Option<&Array>,
    epilogue: DeviceEpilogue<'_>,
    y: &Array,
) -> Result<bool, KernelError> {
    let after = match epilogue {
        DeviceEpilogue::GegluTanh => return Ok(false),
        DeviceEpilogue::GeluTanh => After::Gelu,
        DeviceEpilogue::Residual => After::Add,
        _ => After::Nothing,
    };
    let key = PlanKey {
        m: x.row_count(),
        n: weight.row_count(),
        k: weight.last_dim(),
        out: y.element(),
        bias: bias.is_some(),
        after,
    };
    if !blas.has_plan(key) {
        return Ok(false);
    }
    let bias = bias.cloned().map(|bias| card.cast_array(bias, y.element()));
    let bias = bias.transpose()?;
    let DeviceEpilogue::GatedResidual(gate) = epilogue else {
        blas.linear(x, weight, bias.as_ref(), after, y)?;
        if matches!(epilogue, DeviceEpilogue::Silu) {
            activation(card.gpu(), DeviceActivation::Silu, y)?;
        }
        return Ok(true);
    };
    let z = card.gpu().empty(y.element(), y.dims())?;
    blas.linear(x, weight, bias.as_ref(), after, &z)?;
    gated_residual(card.gpu(), y, &z, gate)?;
    Ok(true)
}
