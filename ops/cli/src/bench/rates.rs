//! Rates of single ops: the plain matrix product and the convolutions of the picture decoder.

use std::time::Instant;

use anyhow::Result;
use kernels::conv::{ConvWeights, Prologue, SpacePad};
use kernels::conv3d::{Conv3dOptions, TimePad, conv3d};
use kernels::product::product;
use kernels::{Device, Tensor};

/// Side of the matrices that are multiplied.
const SIDE: usize = 1024;
/// Runs of which the fastest counts, so that the machine's other work disturbs less.
const RUNS: usize = 9;

/// The fastest of some runs.
pub fn fastest(device: &Device, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut gflops: f64 = 0.0;
    for _ in 0..RUNS {
        let (start, before) = (Instant::now(), device.flop());
        work()?;
        let seconds = start.elapsed().as_secs_f64();
        gflops = gflops.max((device.flop() - before) as f64 / seconds / 1e9);
    }
    Ok(gflops)
}

/// GFLOP/s of a plain 1024^3 product.
pub fn matmul(device: &Device) -> Result<f64> {
    let filled = |value| Tensor::from_f32(device, &[SIDE, SIDE], vec![value; SIDE * SIDE]);
    let (a, b, mut c) = (filled(0.5)?, filled(0.25)?, filled(0.0)?);
    fastest(device, || Ok(product(device, &a, &b, &mut c)?))
}

/// GFLOP/s of a 3x3x3 convolution with norm and activation in front, as in a resnet.
pub fn conv3d_rate(device: &Device, dims: [usize; 5], out_channels: usize) -> Result<f64> {
    let [b, t, h, w, channels] = dims;
    let count = dims.iter().product();
    let x = Tensor::from_f32(device, &dims, vec![0.5; count])?;
    let kernel = [out_channels, channels, 3, 3, 3];
    let weight = Tensor::from_f32(device, &kernel, vec![0.01; kernel.iter().product()])?;
    let weights = ConvWeights::new(device, &weight, None)?;
    let mut y = Tensor::zeros_f32(device, &[b, t, h, w, out_channels])?;
    let options = Conv3dOptions {
        time: TimePad::Copies,
        space: SpacePad::Zero,
        prologue: Prologue::PixelNormSilu { eps: 1e-8 },
    };
    fastest(device, || {
        Ok(conv3d(device, &x, &weights, options, None, &mut y)?)
    })
}
