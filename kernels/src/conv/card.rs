//! Convolutions of host tensors on a card: what comes before the convolution is done there too.

use super::cuda::{DeviceConv, Geometry, conv};
use super::{ConvWeights, Prologue};
use crate::activation::{Activation, cuda::DeviceActivation, cuda::activation};
use crate::copy::cuda::cast;
use crate::cuda::{Array, Element, Gpu};
use crate::pixel_norm::cuda::pixel_norm;
use crate::{Cpu, KernelError};

/// The card and its copy of the weights, when both are there.
pub(crate) fn of<'a>(
    gpu: Option<&'a Gpu>,
    weights: &'a ConvWeights,
) -> Option<(&'a Gpu, &'a DeviceConv)> {
    gpu.zip(weights.on_card())
}

/// x [batch, time, height, width, in] of dims `x_dims` -> out, adding `residual`.
pub(crate) fn convolve_on_card(
    cpu: &Cpu,
    (gpu, weights): (&Gpu, &DeviceConv),
    (x, x_dims): (&[f32], [usize; 5]),
    prologue: Prologue,
    geometry: Geometry,
    residual: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let [t, h, w] = geometry.out;
    let channels = weights.out_channels();
    let out_dims = [x_dims[0], t, h, w, channels];
    cpu.count_product([out.len() / channels, channels, weights.inner()]);
    let x = prepared(gpu, gpu.upload(Element::F32, &x_dims, x)?, prologue)?;
    let residual = residual
        .map(|residual| gpu.upload(Element::F32, &out_dims, residual))
        .transpose()?;
    let y = gpu.empty(Element::F32, &out_dims)?;
    conv(gpu, &x, weights, geometry, residual.as_ref(), &y)?;
    out.copy_from_slice(&gpu.download(&y)?);
    Ok(())
}

/// The input after its prologue, in BF16.
fn prepared(gpu: &Gpu, x: Array, prologue: Prologue) -> Result<Array, KernelError> {
    match prologue {
        Prologue::None => {}
        Prologue::PixelNormSilu { eps } => {
            let normal = gpu.empty(Element::F32, x.dims())?;
            pixel_norm(gpu, &x, eps, true, &normal)?;
            return halved(gpu, &normal);
        }
        Prologue::Leaky { slope } => {
            activation(
                gpu,
                DeviceActivation::Plain(Activation::Leaky { slope }),
                &x,
            )?;
        }
    }
    halved(gpu, &x)
}

fn halved(gpu: &Gpu, x: &Array) -> Result<Array, KernelError> {
    let half = gpu.empty(Element::BF16, x.dims())?;
    cast(gpu, x, &half)?;
    Ok(half)
}
