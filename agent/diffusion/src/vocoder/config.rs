//! What the configs of the vocoders say, checked.

use crate::weights::{Config, WeightsError};

/// Activation inside a generator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Inner {
    /// Leaky rectifier of this slope.
    Leaky(f32),
    /// Snake, with an amplitude of its own or not, anti-aliased or not.
    Snake { beta: bool, antialias: bool },
}

/// Activation of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    None,
    Tanh,
    Clamp,
}

/// One generator.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub in_channels: usize,
    pub hidden_channels: usize,
    pub out_channels: usize,
    /// (kernel, stride) of each upsampler.
    pub upsamplers: Vec<[usize; 2]>,
    /// (kernel, dilations) of the resnets after each upsampler.
    pub resnets: Vec<(usize, Vec<usize>)>,
    pub inner: Inner,
    /// Taps and ratio of the anti-aliasing filters.
    pub filter: [usize; 2],
    pub last: Last,
    pub final_bias: bool,
}

/// Spectrogram and rates of the bandwidth extension.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BandwidthLayout {
    pub generator: Layout,
    pub window: usize,
    pub hop: usize,
    pub bins: usize,
    pub in_rate: u32,
    pub out_rate: u32,
}

/// Class defaults that differ between the three uses.
struct Defaults {
    hidden: usize,
    kernels: &'static [usize],
    factors: &'static [usize],
    snake: bool,
}

/// `LTX2Vocoder`.
pub(super) fn plain(config: &Config) -> Result<Layout, WeightsError> {
    let (kernels, factors) = (&[16, 15, 8, 4, 4], &[6, 5, 2, 2, 2]);
    read(
        config,
        "",
        Defaults {
            hidden: 1024,
            kernels,
            factors,
            snake: false,
        },
    )
}

/// First generator of `LTX2VocoderWithBWE`.
pub(super) fn first(config: &Config) -> Result<Layout, WeightsError> {
    let (kernels, factors) = (&[11, 4, 4, 4, 4, 4], &[5, 2, 2, 2, 2, 2]);
    read(
        config,
        "",
        Defaults {
            hidden: 1536,
            kernels,
            factors,
            snake: true,
        },
    )
}

/// Second generator of `LTX2VocoderWithBWE` and what lies between the two.
pub(super) fn bandwidth(config: &Config) -> Result<BandwidthLayout, WeightsError> {
    let (kernels, factors) = (&[12, 11, 4, 4, 4], &[6, 5, 2, 2, 2]);
    let generator = read(
        config,
        "bwe_",
        Defaults {
            hidden: 512,
            kernels,
            factors,
            snake: true,
        },
    )?;
    let window = config.get("filter_length", 512)?;
    config.require("window_length", window)?;
    let hop: usize = config.get("hop_length", 80)?;
    let in_rate: u32 = config.get("input_sampling_rate", 16_000)?;
    let out_rate: u32 = config.get("output_sampling_rate", 48_000)?;
    if in_rate == 0 || out_rate == 0 || !out_rate.is_multiple_of(in_rate) {
        let reason = format!("{out_rate} is no multiple of {in_rate}");
        return Err(config.refuse("output_sampling_rate", reason));
    }
    let (factor, ratio) = (factor(&generator), (out_rate / in_rate) as usize);
    if hop == 0 || factor != hop * ratio {
        let reason = format!("they multiply to {factor}, not to {ratio} samples of each of {hop}");
        return Err(config.refuse("bwe_upsample_factors", reason));
    }
    let bins = config.get("num_mel_channels", 64)?;
    Ok(BandwidthLayout {
        generator,
        window,
        hop,
        bins,
        in_rate,
        out_rate,
    })
}

/// Samples per row of the spectrogram.
pub(super) fn factor(layout: &Layout) -> usize {
    layout.upsamplers.iter().map(|[_, stride]| stride).product()
}

fn read(config: &Config, prefix: &str, defaults: Defaults) -> Result<Layout, WeightsError> {
    let name = |field: &str| format!("{prefix}{field}");
    let kernels = config.get(&name("upsample_kernel_sizes"), defaults.kernels.to_vec())?;
    let factors = config.get(&name("upsample_factors"), defaults.factors.to_vec())?;
    let sizes = config.get(&name("resnet_kernel_sizes"), vec![3, 7, 11])?;
    let dilations = config.get(&name("resnet_dilations"), vec![vec![1, 3, 5]; 3])?;
    let hidden = config.get(&name("hidden_channels"), defaults.hidden)?;
    if kernels.is_empty() || kernels.len() != factors.len() {
        let reason = format!("{} entries for {} kernels", factors.len(), kernels.len());
        return Err(config.refuse(&name("upsample_factors"), reason));
    }
    let ragged = |(kernel, stride): (&usize, &usize)| {
        *stride == 0 || kernel < stride || (kernel - stride) % 2 == 1
    };
    if kernels.iter().zip(&factors).any(ragged) {
        let reason = format!("{kernels:?} must exceed the factors {factors:?} by even numbers");
        return Err(config.refuse(&name("upsample_kernel_sizes"), reason));
    }
    if sizes.is_empty() || sizes.len() != dilations.len() {
        let reason = format!("{} entries for {} kernels", dilations.len(), sizes.len());
        return Err(config.refuse(&name("resnet_dilations"), reason));
    }
    if hidden >> kernels.len() == 0 {
        let reason = format!("{hidden} cannot be halved {} times", kernels.len());
        return Err(config.refuse(&name("hidden_channels"), reason));
    }
    Ok(Layout {
        in_channels: config.get(&name("in_channels"), 128)?,
        hidden_channels: hidden,
        out_channels: config.get(&name("out_channels"), 2)?,
        upsamplers: kernels
            .into_iter()
            .zip(factors)
            .map(|(k, s)| [k, s])
            .collect(),
        resnets: sizes.into_iter().zip(dilations).collect(),
        inner: inner(config, &name, defaults.snake)?,
        filter: filter(config, &name)?,
        last: last(config, &name("final_act_fn"), defaults.snake)?,
        final_bias: config.get(&name("final_bias"), !defaults.snake)?,
    })
}

fn inner(
    config: &Config,
    name: &impl Fn(&str) -> String,
    snake: bool,
) -> Result<Inner, WeightsError> {
    let default = if snake { "snakebeta" } else { "leaky_relu" };
    let antialias = config.get(&name("antialias"), snake)?;
    let slope = config.get(&name("leaky_relu_negative_slope"), 0.1)?;
    match config.get(&name("act_fn"), default.to_owned())?.as_str() {
        "snakebeta" => Ok(Inner::Snake {
            beta: true,
            antialias,
        }),
        "snake" => Ok(Inner::Snake {
            beta: false,
            antialias,
        }),
        "leaky_relu" if antialias => Err(config.refuse(
            &name("antialias"),
            "true is not supported with `leaky_relu`",
        )),
        "leaky_relu" => Ok(Inner::Leaky(slope)),
        other => Err(config.refuse(&name("act_fn"), format!("`{other}` is not supported"))),
    }
}

fn filter(config: &Config, name: &impl Fn(&str) -> String) -> Result<[usize; 2], WeightsError> {
    let taps = config.get(&name("antialias_kernel_size"), 12)?;
    let ratio = config.get(&name("antialias_ratio"), 2)?;
    if ratio == 0 || taps < ratio {
        let reason = format!("{taps} taps at ratio {ratio}");
        return Err(config.refuse(&name("antialias_kernel_size"), reason));
    }
    Ok([taps, ratio])
}

/// Unlike in other fields, null is a value here and not the default.
fn last(config: &Config, field: &str, snake: bool) -> Result<Last, WeightsError> {
    let default = if snake || config.contains(field) {
        Last::None
    } else {
        Last::Tanh
    };
    match config.optional::<String>(field)?.as_deref() {
        None => Ok(default),
        Some("tanh") => Ok(Last::Tanh),
        Some("clamp") => Ok(Last::Clamp),
        Some(other) => Err(config.refuse(field, format!("`{other}` is not supported"))),
    }
}
