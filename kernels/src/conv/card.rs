//! Convolutions of tensors that lie on a card: what comes before the convolution is done there too.

use super::cuda::{DeviceConv, Geometry, conv};
use super::{ConvWeights, Prologue};
use crate::activation::{Activation, cuda::DeviceActivation, cuda::activation};
use crate::cuda::{Array, Element};
use crate::pixel_norm::cuda::pixel_norm;
use crate::tensor::mismatch;
use crate::{Cuda, KernelError, Tensor};

/// Convolves x, seen as `x_dims` [batch, time, height, width, in], into out, adding `residual`.
pub(crate) fn convolve_on_card(
    card: &Cuda,
    (x, x_dims): (&Tensor, [usize; 5]),
    weights: &ConvWeights,
    prologue: Prologue,
    geometry: Geometry,
    residual: Option<&Tensor>,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    let weights: &DeviceConv = weights
        .on_card()
        .ok_or(mismatch("a card", "the processor"))?;
    let [t, h, w] = geometry.out;
    let channels = weights.out_channels();
    let out_dims = [x_dims[0], t, h, w, channels];
    let positions = out.count() / channels;
    card.cpu()
        .count_product([positions, channels, weights.inner()]);
    let x = prepared(card, x, prologue)?.reshaped(&x_dims)?;
    let out = card.own(out)?.reshaped(&out_dims)?;
    let residual = match residual {
        Some(residual) => Some(card.cast(residual, out.element())?.reshaped(&out_dims)?),
        None => None,
    };
    conv(card.gpu(), &x, weights, geometry, residual.as_ref(), &out)
}

/// The input after its prologue, in BF16.
fn prepared(card: &Cuda, x: &Tensor, prologue: Prologue) -> Result<Array, KernelError> {
    let gpu = card.gpu();
    match prologue {
        Prologue::None => card.halves(x),
        Prologue::PixelNormSilu { eps } => {
            let x = card.array(x)?;
            let normal = gpu.empty(x.element(), x.dims())?;
            pixel_norm(gpu, &x, eps, true, &normal)?;
            card.cast_array(normal, Element::BF16)
        }
        Prologue::Leaky { slope } => {
            let x = card.array(x)?;
            let copy = gpu.empty(x.element(), x.dims())?;
            gpu.copy(&x, &copy)?;
            let leaky = DeviceActivation::Plain(Activation::Leaky { slope });
            activation(gpu, leaky, &copy)?;
            card.cast_array(copy, Element::BF16)
        }
    }
}
