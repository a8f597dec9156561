//! `linear` of tensors that lie on a card.

use super::cuda::{self, DeviceEpilogue, interleave};
use super::{CardWeight, Epilogue};
use crate::cuda::Array;
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
    cuda::linear(card.gpu(), &x, weight, bias.as_ref(), epilogue, &y)
}
