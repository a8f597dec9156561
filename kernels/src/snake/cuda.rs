//! The vocoder's activation and filters on a GPU; F32 [batch, length, channel].

use super::SnakeWeights;
use crate::KernelError;
use crate::cuda::{Arguments, Array, Element, Gpu, Launch};
use crate::modulation::cuda::flat_blocks;
use crate::resample1d::Fir;

fn each_value(
    gpu: &Gpu,
    entry: &'static str,
    count: usize,
    arguments: Arguments,
) -> Result<(), KernelError> {
    gpu.launch(&Launch {
        module: "snake",
        entry,
        blocks: [flat_blocks(count, 1), 1, 1],
        threads: 256,
        shared_bytes: 0,
        arguments: arguments.long(count as u64),
    })
}

/// [`SnakeWeights`] on a GPU.
#[derive(Debug, Clone)]
pub struct DeviceSnake {
    frequency: Array,
    gain: Array,
}

impl DeviceSnake {
    /// Uploads the weights.
    ///
    /// # Errors
    /// What an upload gives.
    pub fn upload(gpu: &Gpu, weights: &SnakeWeights) -> Result<Self, KernelError> {
        let upload = |values: &[f32]| gpu.upload(Element::F32, &[values.len()], values);
        Ok(Self {
            frequency: upload(&weights.frequency)?,
            gain: upload(&weights.gain)?,
        })
    }
}

/// `x += gain sin^2(x frequency)`, in place.
///
/// # Errors
/// [`KernelError::Shape`], and what a launch gives.
pub fn snake(gpu: &Gpu, weights: &DeviceSnake, x: &Array) -> Result<(), KernelError> {
    let channels = weights.frequency.count();
    x.expect("snake", "x", Element::F32, x.dims())?;
    if x.last_dim() != channels {
        return Err(KernelError::shape(
            "snake",
            "x",
            format!("{channels} channels"),
            x.dims(),
        ));
    }
    let arguments = Arguments::new()
        .array(x)
        .array(&weights.frequency)
        .array(&weights.gain)
        .word(channels as u32);
    each_value(gpu, "snake", x.count(), arguments)
}

fn resample(
    gpu: &Gpu,
    entry: &'static str,
    x: &Array,
    fir: &Fir,
    taps: &Array,
    out: &Array,
    length: usize,
) -> Result<(), KernelError> {
    let [batch, from, channels] = *x.dims() else {
        return Err(KernelError::shape(entry, "x", "3 dimensions", x.dims()));
    };
    x.expect(entry, "x", Element::F32, x.dims())?;
    out.expect(entry, "out", Element::F32, &[batch, length, channels])?;
    taps.expect(entry, "taps", Element::F32, &[fir.taps.len()])?;
    let words = [fir.taps.len(), fir.ratio, fir.left, from, channels].map(|value| value as u32);
    let arguments = Arguments::new().array(x).array(out).array(taps);
    let arguments = words
        .iter()
        .fold(arguments, |arguments, word| arguments.word(*word));
    each_value(gpu, entry, out.count(), arguments)
}

/// See [`crate::resample1d::upsample1d`]; `taps` are the filter's, on the GPU.
///
/// # Errors
/// [`KernelError::Shape`], and what a launch gives.
pub fn upsample1d(
    gpu: &Gpu,
    x: &Array,
    fir: &Fir,
    taps: &Array,
    out: &Array,
) -> Result<(), KernelError> {
    fir.check("upsample1d")?;
    let length = x.dims().get(1).map_or(0, |length| length * fir.ratio);
    resample(gpu, "upsample1d", x, fir, taps, out, length)
}

/// See [`crate::resample1d::downsample1d`]; `taps` are the filter's, on the GPU.
///
/// # Errors
/// [`KernelError::Shape`], and what a launch gives.
pub fn downsample1d(
    gpu: &Gpu,
    x: &Array,
    fir: &Fir,
    taps: &Array,
    out: &Array,
) -> Result<(), KernelError> {
    fir.check("downsample1d")?;
    let length = x.dims().get(1).copied().unwrap_or(0);
    if !length.is_multiple_of(fir.ratio) {
        return Err(KernelError::shape(
            "downsample1d",
            "x",
            format!("a length divisible by {}", fir.ratio),
            x.dims(),
        ));
    }
    resample(gpu, "downsample1d", x, fir, taps, out, length / fir.ratio)
}
