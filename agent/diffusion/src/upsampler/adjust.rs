//! What may be done to upsampled latents: AdaIN to the first stage's statistics, and a tone map.

use kernels::{Device, KernelError, Tensor};

/// Moves mean and deviation of every channel of `latents` [1, f, h, w, channel] to those of
/// `reference`; `factor` 0 leaves them, 1 moves them whole.
pub fn adain(
    device: &Device,
    latents: &Tensor,
    reference: &Tensor,
    factor: f32,
) -> Result<Tensor, KernelError> {
    let channels = latents.last_dim();
    let (own, wanted) = (moments(latents)?, moments(reference)?);
    let mut values = latents.values()?.into_owned();
    for (at, value) in values.iter_mut().enumerate() {
        let ((mean, deviation), (to_mean, to_deviation)) =
            (own[at % channels], wanted[at % channels]);
        let moved = (*value - mean) / deviation * to_deviation + to_mean;
        *value += factor * (moved - *value);
    }
    Tensor::from_f32(device, latents.dims(), values)
}

/// Brings large values down: `x (1 - 0.8 s sigmoid(4 s (|x| - 1)))`, s = 0.75 `compression`.
pub fn tone_map(
    device: &Device,
    latents: &Tensor,
    compression: f32,
) -> Result<Tensor, KernelError> {
    let s = 0.75 * compression;
    let map = |x: &f32| {
        let sigmoid = 1.0 / (1.0 + (-4.0 * s * (x.abs() - 1.0)).exp());
        x * (1.0 - 0.8 * s * sigmoid)
    };
    let values = latents.values()?.iter().map(map).collect();
    Tensor::from_f32(device, latents.dims(), values)
}

/// Mean and deviation (of a sample: divided by n - 1) of each channel.
fn moments(x: &Tensor) -> Result<Vec<(f32, f32)>, KernelError> {
    let all = x.values()?;
    let channels = x.last_dim();
    let count = (x.count() / channels) as f64;
    let of = |channel: usize| {
        let values = || {
            all[channel..]
                .iter()
                .step_by(channels)
                .map(|v| f64::from(*v))
        };
        let mean = values().sum::<f64>() / count;
        let squares: f64 = values().map(|v| (v - mean).powi(2)).sum();
        let deviation = (squares / (count - 1.0).max(1.0)).sqrt();
        (
            mean as f32,
            deviation.max(f64::from(f32::MIN_POSITIVE)) as f32,
        )
    };
    Ok((0..channels).map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    #[test]
    fn both_equal_the_reference() {
        let golden = Golden::open("adain");
        let device = golden.device();
        let large = golden.channels_last("in.adain.large");
        let base = golden.channels_last("in.adain.base");
        let found = adain(device, &large, &base, 0.75).unwrap();
        golden.check_channels_last("out.adain.latents", &found, 1e-5);
        let found = tone_map(device, &golden.channels_last("in.tone.large"), 0.6).unwrap();
        golden.check_channels_last("out.tone.latents", &found, 1e-5);
        assert!(adain(device, &large, &base, 0.0).unwrap().f32s() == large.f32s());
        assert!(tone_map(device, &large, 0.0).unwrap().f32s() == large.f32s());
    }
}
