//! One generator: upsamplers, after each of them the mean of resnets with different kernels.

use kernels::activation::{Activation, activation};
use kernels::average::average;
use kernels::conv::{ConvWeights, Prologue};
use kernels::conv_transpose1d::{ConvTranspose1dWeights, conv_transpose1d};
use kernels::conv1d::{Conv1dOptions, conv1d};
use kernels::{Device, KernelError, Tensor};

use crate::convolution::{Source, refused};
use crate::weights::WeightsError;

use super::config::{Inner, Last, Layout};
use super::snake::Snake;

/// Taps of the first and the last convolution.
const OUTER_KERNEL: usize = 7;

/// Slope of the activation before the last convolution, whatever the config says: the reference
/// has its library's default there.
const LAST_SLOPE: f32 = 0.01;

/// A stack of upsamplers from spectrogram rows to samples.
#[derive(Debug)]
pub(super) struct Generator {
    conv_in: ConvWeights,
    stages: Vec<Stage>,
    inner: Inner,
    act_out: Act,
    conv_out: ConvWeights,
    last: Last,
}

#[derive(Debug)]
struct Stage {
    upsampler: ConvTranspose1dWeights,
    resnets: Vec<Resnet>,
}

/// An activation with its parameters.
#[derive(Debug)]
enum Act {
    Leaky(f32),
    Snake(Box<Snake>),
}

impl Generator {
    /// Reads the generator whose keys begin with `prefix`.
    pub fn load(source: Source<'_>, prefix: &str, layout: Layout) -> Result<Self, WeightsError> {
        let hidden = layout.hidden_channels;
        let (kernel, key) = ([OUTER_KERNEL], format!("{prefix}conv_in"));
        let conv_in = source.conv(&key, hidden, layout.in_channels, &kernel)?;
        let mut stages = Vec::new();
        for i in 0..layout.upsamplers.len() {
            stages.push(Stage::load(source, prefix, &layout, i)?);
        }
        let width = hidden >> layout.upsamplers.len();
        let act_out = match layout.inner {
            Inner::Leaky(_) => Act::Leaky(LAST_SLOPE),
            Inner::Snake { .. } => {
                let key = format!("{prefix}act_out");
                let snake = Snake::load(source, &key, width, true, Some(layout.filter))?;
                Act::Snake(Box::new(snake))
            }
        };
        let key = format!("{prefix}conv_out");
        let conv_out = match layout.final_bias {
            true => source.conv(&key, layout.out_channels, width, &kernel)?,
            false => source.conv_without_bias(&key, layout.out_channels, width, &kernel)?,
        };
        Ok(Self {
            conv_in,
            stages,
            inner: layout.inner,
            act_out,
            conv_out,
            last: layout.last,
        })
    }

    /// Values of a spectrogram row, all channels together.
    pub fn in_features(&self) -> usize {
        self.conv_in.in_channels()
    }

    /// Upsamplers.
    pub fn stage_count(&self) -> usize {
        self.stages.len()
    }

    /// Factor of an upsampler.
    pub fn stride(&self, stage: usize) -> usize {
        self.stages[stage].upsampler.stride()
    }

    /// Channels behind an upsampler.
    pub fn stage_channels(&self, stage: usize) -> usize {
        self.stages[stage].upsampler.out_channels()
    }

    /// True when activations run at twice the rate.
    pub fn filters_activations(&self) -> bool {
        matches!(
            self.inner,
            Inner::Snake {
                antialias: true,
                ..
            }
        )
    }

    /// Channels of the sound.
    pub fn out_channels(&self) -> usize {
        self.conv_out.out_channels()
    }

    /// `mel` [batch, row, channel*bins] to sound [batch, sample, channel].
    pub fn forward(&self, device: &Device, mel: &Tensor) -> Result<Tensor, KernelError> {
        let mut x = conv(device, mel, &self.conv_in, 1, Prologue::None, None)?;
        for stage in &self.stages {
            x = stage.forward(device, &x, self.inner)?;
        }
        let mut wave = self
            .act_out
            .then_conv(device, &x, &self.conv_out, 1, None)?;
        match self.last {
            Last::None => {}
            Last::Tanh => activation(device, Activation::Tanh, &mut wave)?,
            Last::Clamp => {
                activation(
                    device,
                    Activation::Clamp {
                        low: -1.0,
                        high: 1.0,
                    },
                    &mut wave,
                )?;
            }
        }
        Ok(wave)
    }
}

impl Stage {
    fn load(
        source: Source<'_>,
        prefix: &str,
        layout: &Layout,
        index: usize,
    ) -> Result<Self, WeightsError> {
        let width = layout.hidden_channels >> index;
        let ([kernel, stride], half) = (layout.upsamplers[index], width / 2);
        let key = format!("{prefix}upsamplers.{index}");
        let name = format!("{key}.weight");
        let weight = source.tensor(&name, &[width, half, kernel])?;
        let bias = source.tensor(&format!("{key}.bias"), &[half])?;
        let upsampler = ConvTranspose1dWeights::new(source.device, &weight, &bias, stride)
            .map_err(|error| refused(&name, error))?;
        let first = index * layout.resnets.len();
        let resnet = |j: usize| {
            let key = format!("{prefix}resnets.{}", first + j);
            Resnet::load(source, &key, half, layout, j)
        };
        let resnets = (0..layout.resnets.len())
            .map(resnet)
            .collect::<Result<_, _>>()?;
        Ok(Self { upsampler, resnets })
    }

    fn forward(&self, device: &Device, x: &Tensor, inner: Inner) -> Result<Tensor, KernelError> {
        let [batch, length, _] = three(x)?;
        let upsampler = &self.upsampler;
        let dims = [batch, length * upsampler.stride(), upsampler.out_channels()];
        let mut large = Tensor::zeros_f32(device, &dims)?;
        let prologue = match inner {
            Inner::Leaky(slope) => Prologue::Leaky { slope },
            Inner::Snake { .. } => Prologue::None,
        };
        conv_transpose1d(device, x, upsampler, prologue, &mut large)?;
        let forward = |resnet: &Resnet| resnet.forward(device, &large);
        let branches = self
            .resnets
            .iter()
            .map(forward)
            .collect::<Result<Vec<_>, _>>()?;
        let mut mean = Tensor::zeros_f32(device, &dims)?;
        average(device, &branches, &mut mean)?;
        Ok(mean)
    }
}

/// `x += conv(act(dilated conv(act(x))))` for each dilation.
#[derive(Debug)]
struct Resnet {
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    act1: Act,
    conv1: ConvWeights,
    dilation: usize,
    act2: Act,
    conv2: ConvWeights,
}

impl Resnet {
    fn load(
        source: Source<'_>,
        key: &str,
        channels: usize,
        layout: &Layout,
        which: usize,
    ) -> Result<Self, WeightsError> {
        let (kernel, dilations) = &layout.resnets[which];
        let act = |name: String| match layout.inner {
            Inner::Leaky(slope) => Ok::<_, WeightsError>(Act::Leaky(slope)),
            Inner::Snake { beta, antialias } => {
                let filter = antialias.then_some(layout.filter);
                let snake = Snake::load(source, &name, channels, beta, filter)?;
                Ok(Act::Snake(Box::new(snake)))
            }
        };
        let conv = |name: String| source.conv(&name, channels, channels, &[*kernel]);
        let layer = |(j, dilation): (usize, &usize)| -> Result<Layer, WeightsError> {
            Ok(Layer {
                act1: act(format!("{key}.acts1.{j}"))?,
                conv1: conv(format!("{key}.convs1.{j}"))?,
                dilation: *dilation,
                act2: act(format!("{key}.acts2.{j}"))?,
                conv2: conv(format!("{key}.convs2.{j}"))?,
            })
        };
        Ok(Self {
            layers: dilations
                .iter()
                .enumerate()
                .map(layer)
                .collect::<Result<_, _>>()?,
        })
    }

    fn forward(&self, device: &Device, x: &Tensor) -> Result<Tensor, KernelError> {
        let mut x = x.clone();
        for layer in &self.layers {
            let inner = layer
                .act1
                .then_conv(device, &x, &layer.conv1, layer.dilation, None)?;
            x = layer
                .act2
                .then_conv(device, &inner, &layer.conv2, 1, Some(&x))?;
        }
        Ok(x)
    }
}

impl Act {
    /// `conv(act(x)) + residual`
    fn then_conv(
        &self,
        device: &Device,
        x: &Tensor,
        weights: &ConvWeights,
        dilation: usize,
        residual: Option<&Tensor>,
    ) -> Result<Tensor, KernelError> {
        match self {
            Self::Leaky(slope) => conv(
                device,
                x,
                weights,
                dilation,
                Prologue::Leaky { slope: *slope },
                residual,
            ),
            Self::Snake(snake) => {
                let x = snake.forward(device, x)?;
                conv(device, &x, weights, dilation, Prologue::None, residual)
            }
        }
    }
}

fn conv(
    device: &Device,
    x: &Tensor,
    weights: &ConvWeights,
    dilation: usize,
    prologue: Prologue,
    residual: Option<&Tensor>,
) -> Result<Tensor, KernelError> {
    let [batch, length, _] = three(x)?;
    let mut out = Tensor::zeros_f32(device, &[batch, length, weights.out_channels()])?;
    conv1d(
        device,
        x,
        weights,
        Conv1dOptions { dilation, prologue },
        residual,
        &mut out,
    )?;
    Ok(out)
}

fn three(x: &Tensor) -> Result<[usize; 3], KernelError> {
    x.expect_rank("vocoder", "x")
}
