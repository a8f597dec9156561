//! Ops as the engine calls them, on tensors that stay on the card: the same lines run on both devices.

use super::{Case, Outcome, Scale};
use crate::activation::{Activation, activation};
use crate::attention::{Heads, Mask, attention};
use crate::average::average;
use crate::conv::{ConvWeights, Prologue};
use crate::conv_transpose1d::{ConvTranspose1dWeights, conv_transpose1d};
use crate::conv1d::{Conv1dOptions, conv1d};
use crate::copy::copy_range;
use crate::cuda::Element;
use crate::group_norm::{GroupNorm, group_norm};
use crate::linear::{Epilogue, LinearWeights, linear};
use crate::norm::{Norm, Weight, norm_modulate};
use crate::sampling::axpby;
use crate::space_depth::{Write, depth_to_space};
use crate::stft_mel::{MelScale, MelWeights, stft_mel};
use crate::{Device, KernelError, Tensor};

/// Values of a salt and a shape.
type Noise<'a> = &'a dyn Fn(u64, &[usize]) -> Result<Tensor, KernelError>;

/// Where a case runs, and its random numbers there.
struct Place<'a> {
    device: &'a Device,
    noise: Noise<'a>,
}

impl Place<'_> {
    fn noise(&self, salt: u64, dims: &[usize]) -> Result<Tensor, KernelError> {
        (self.noise)(salt, dims)?.to_device(self.device)
    }

    /// An output of the type that the engine gives activations.
    fn output(&self, dims: &[usize]) -> Result<Tensor, KernelError> {
        Tensor::activations(self.device, dims)
    }
}

fn case(
    op: &'static str,
    shape: &str,
    tolerance: f64,
    run: impl Fn(&Place<'_>) -> Result<Tensor, KernelError> + Send + Sync + 'static,
) -> Case {
    Case::new(op, format!("resident {shape}"), move |bench| {
        let noise = |salt, dims: &[usize]| bench.noise(Element::BF16, salt, dims);
        let card = Device::cuda(bench.gpu.clone(), 1)?;
        let [found, expected] = [&card, bench.cpu].map(|device| {
            let place = Place {
                device,
                noise: &noise,
            };
            run(&place)?.values().map(|values| values.into_owned())
        });
        Ok(Outcome {
            found: found?,
            expected: expected?,
            tolerance,
        })
    })
}

pub(super) fn cases(_: Scale) -> Vec<Case> {
    let mut cases = vec![
        case("linear", "a layer, then its norm", 5e-3, layer),
        case("linear", "GEGLU of a pair", 5e-3, pair),
        case(
            "attention",
            "heads of 12, on the processor",
            8e-3,
            odd_heads,
        ),
        case("copy_range", "a clone that is written", 4e-3, written_clone),
        case("average", "3 of 2x50", 4e-3, mean),
        case(
            "depth_to_space",
            "later frames of a clip",
            0.0,
            later_frames,
        ),
        case("conv_transpose1d", "stride 2, kernel 6", 5e-3, upsampled),
        case("conv1d", "leaky, F32 out", 5e-3, leaky),
    ];
    for residual in [false, true] {
        let shape = format!("2x3x5x8 in 4 groups, residual {residual}");
        cases.push(case("group_norm", &shape, 4e-3, move |place| {
            grouped(place, residual)
        }));
    }
    for mirrored in [false, true] {
        let shape = format!("2 channels, mirrored {mirrored}");
        cases.push(case("stft_mel", &shape, 1e-4, move |place| {
            spectrogram(place, mirrored)
        }));
    }
    cases
}

fn layer(place: &Place<'_>) -> Result<Tensor, KernelError> {
    let device = place.device;
    let weight = LinearWeights::new(device, &place.noise(1, &[24, 40])?)?;
    let (x, bias) = (place.noise(2, &[9, 40])?, place.noise(3, &[24])?);
    let (mut y, mut normed) = (place.output(&[9, 24])?, place.output(&[9, 24])?);
    linear(device, &x, &weight, Some(&bias), Epilogue::Silu, &mut y)?;
    linear(device, &x, &weight, None, Epilogue::Residual, &mut y)?;
    let stored = place.noise(4, &[24])?;
    let norm = Norm::Rms { eps: 1e-6 };
    norm_modulate(
        device,
        &y,
        norm,
        Weight::OnePlus(&stored),
        None,
        &mut normed,
    )?;
    Ok(normed)
}

fn pair(place: &Place<'_>) -> Result<Tensor, KernelError> {
    let weight = LinearWeights::pair(place.device, &place.noise(1, &[32, 24])?)?;
    let (x, mut y) = (place.noise(2, &[5, 24])?, place.output(&[5, 16])?);
    linear(place.device, &x, &weight, None, Epilogue::GegluTanh, &mut y)?;
    Ok(y)
}

fn odd_heads(place: &Place<'_>) -> Result<Tensor, KernelError> {
    let (q, k, v) = (
        place.noise(1, &[7, 24])?,
        place.noise(2, &[11, 24])?,
        place.noise(3, &[11, 24])?,
    );
    let heads = Heads {
        query: 2,
        key: 2,
        scale: 0.3,
    };
    let mut o = place.output(&[7, 24])?;
    attention(place.device, &q, &k, &v, heads, Mask::None, &mut o)?;
    Ok(o)
}

/// A clone keeps its values when the other is written.
fn written_clone(place: &Place<'_>) -> Result<Tensor, KernelError> {
    let device = place.device;
    let mut x = place.noise(1, &[40])?;
    let kept = x.clone();
    activation(device, Activation::Leaky { slope: 0.1 }, &mut x)?;
    let mut both = place.output(&[2, 40])?;
    copy_range(device, (&x, 0), (&mut both, 40), 40)?;
    copy_range(device, (&kept, 0), (&mut both, 0), 40)?;
    let start = both.clone();
    axpby(device, 0.5, &mut both, 2.0, &start)?;
    Ok(both)
}

fn mean(place: &Place<'_>) -> Result<Tensor, KernelError> {
    let parts = [1, 2, 3].map(|salt| place.noise(salt, &[2, 50]));
    let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut out = place.output(&[2, 50])?;
    average(place.device, &parts, &mut out)?;
    Ok(out)
}

fn later_frames(place: &Place<'_>) -> Result<Tensor, KernelError> {
    let x = place.noise(1, &[1, 3, 2, 3, 40])?;
    let mut out = place.output(&[1, 6, 4, 6, 5])?;
    depth_to_space(place.device, &x, [2, 2, 2], Write::Set, &mut out)?;
    Ok(out)
}

fn upsampled(place: &Place<'_>) -> Result<Tensor, KernelError> {
    let (weight, bias) = (place.noise(1, &[8, 6, 6])?, place.noise(2, &[6])?);
    let weights = ConvTranspose1dWeights::new(place.device, &weight, &bias, 2)?;
    let x = place.noise(3, &[2, 9, 8])?;
    let mut out = Tensor::zeros_f32(place.device, &[2, 18, 6])?;
    let leaky = Prologue::Leaky { slope: 0.1 };
    conv_transpose1d(place.device, &x, &weights, leaky, &mut out)?;
    Ok(out)
}

fn leaky(place: &Place<'_>) -> Result<Tensor, KernelError> {
    let weights = ConvWeights::new(place.device, &place.noise(1, &[6, 8, 3])?, None)?;
    let options = Conv1dOptions {
        dilation: 2,
        prologue: Prologue::Leaky { slope: 0.1 },
    };
    let (x, residual) = (place.noise(2, &[1, 20, 8])?, place.noise(3, &[1, 20, 6])?);
    let mut out = Tensor::zeros_f32(place.device, &[1, 20, 6])?;
    conv1d(
        place.device,
        &x,
        &weights,
        options,
        Some(&residual),
        &mut out,
    )?;
    Ok(out)
}

fn grouped(place: &Place<'_>, with_residual: bool) -> Result<Tensor, KernelError> {
    let dims = [2, 3, 5, 8];
    let (weight, bias) = (place.noise(1, &[8])?, place.noise(2, &[8])?);
    let residual = place.noise(3, &dims)?;
    let norm = GroupNorm {
        groups: 4,
        eps: 1e-5,
        weight: &weight,
        bias: &bias,
        residual: with_residual.then_some(&residual),
        silu: with_residual,
    };
    let mut out = place.output(&dims)?;
    group_norm(place.device, &place.noise(4, &dims)?, norm, &mut out)?;
    Ok(out)
}

fn spectrogram(place: &Place<'_>, mirrored: bool) -> Result<Tensor, KernelError> {
    let weights = match mirrored {
        true => {
            let scale = MelScale {
                rate: 16_000,
                n_fft: 64,
                hop: 16,
                bins: 9,
            };
            MelWeights::slaney(place.device, scale)?
        }
        false => {
            let (basis, filters) = (place.noise(1, &[34, 1, 32])?, place.noise(2, &[5, 17])?);
            MelWeights::stored(place.device, &basis, &filters, 8)?
        }
    };
    let samples = 100;
    let mut out = Tensor::zeros_f32(place.device, &[2, weights.frames(samples), weights.bins()])?;
    stft_mel(
        place.device,
        &place.noise(3, &[2, samples])?,
        &weights,
        &mut out,
    )?;
    Ok(out)
}
