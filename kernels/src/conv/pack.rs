//! Weights of a convolution, repacked once at load into panels of output channels.

use crate::device::Device;
use crate::error::KernelError;
use crate::tensor::Tensor;

use super::cuda::DeviceConv;
use super::stored::Stored;
use super::tile::{Isa, WIDTH_MAX};

/// A group of neighbouring output channels that one register tile computes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel {
    /// First output channel.
    pub first: usize,
    /// Output channels that exist; the rest of the width is zero.
    pub valid: usize,
    /// Columns in memory: 8, 16 or 32.
    pub width: usize,
    /// Where the panel's values begin.
    pub start: usize,
}

/// Kernel and bias of a convolution with `kernel` = (time, height, width) taps; 2-D and 1-D
/// kernels have leading ones.
#[derive(Debug, Clone)]
pub struct ConvWeights {
    pub(super) isa: Isa,
    pub(super) panels: Vec<Panel>,
    /// Panels one after the other, each [tap, input channel, column].
    pub(super) values: Stored,
    pub(super) bias: Vec<f32>,
    kernel: [usize; 3],
    in_channels: usize,
    out_channels: usize,
    card: Option<Box<DeviceConv>>,
}

impl ConvWeights {
    /// Repacks `weight` [out, in, (time, (height,)) width] and `bias` [out] (none = zeros).
    ///
    /// # Errors
    /// [`KernelError::Shape`] for another rank, an empty dimension or a bias of another length.
    pub fn new(
        device: &Device,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Self, KernelError> {
        let dims = weight.dims();
        if !(3..=5).contains(&dims.len()) || dims.contains(&0) {
            let expected = "[out, in, 1 to 3 kernel sizes], none of them 0";
            return Err(KernelError::shape("conv_weights", "weight", expected, dims));
        }
        let mut kernel = [1; 3];
        kernel[5 - dims.len()..].copy_from_slice(&dims[2..]);
        let (out_channels, in_channels) = (dims[0], dims[1]);
        let bias = match bias {
            None => vec![0.0; out_channels],
            Some(bias) => {
                bias.expect_f32("conv_weights", "bias", &[out_channels])?;
                bias.values()?.into_owned()
            }
        };
        let taps: usize = kernel.iter().product();
        let source = weight.values()?;
        let value = |out, tap, channel| source[(out * in_channels + channel) * taps + tap];
        Self::placed(device, kernel, in_channels, bias, value)
    }

    /// `value(output channel, tap, input channel)` where the device multiplies with it.
    pub(crate) fn placed(
        device: &Device,
        kernel: [usize; 3],
        in_channels: usize,
        bias: Vec<f32>,
        value: impl Fn(usize, usize, usize) -> f32,
    ) -> Result<Self, KernelError> {
        let Device::Cuda(card) = device else {
            return Ok(Self::from_values(kernel, in_channels, bias, value));
        };
        let found = DeviceConv::of_values(card.gpu(), kernel, in_channels, &bias, value)?;
        Ok(Self {
            isa: Isa::detect(),
            panels: Vec::new(),
            values: Stored::new(Vec::new()),
            kernel,
            in_channels,
            out_channels: bias.len(),
            bias,
            card: Some(Box::new(found)),
        })
    }

    /// Packs `value(output channel, tap, input channel)`; taps run over the kernel row by row.
    pub(crate) fn from_values(
        kernel: [usize; 3],
        in_channels: usize,
        bias: Vec<f32>,
        value: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let (isa, out_channels) = (Isa::detect(), bias.len());
        let taps: usize = kernel.iter().product();
        let panels = panels(isa, out_channels, taps * in_channels);
        let end = panels
            .last()
            .map_or(0, |panel| panel.start + taps * in_channels * panel.width);
        let mut values = vec![0.0; end];
        for panel in &panels {
            let rows = values[panel.start..].chunks_exact_mut(panel.width);
            for (row, columns) in rows.take(taps * in_channels).enumerate() {
                let (tap, channel) = (row / in_channels, row % in_channels);
                for (column, out) in columns[..panel.valid].iter_mut().enumerate() {
                    *out = value(panel.first + column, tap, channel);
                }
            }
        }
        Self {
            isa,
            panels,
            values: Stored::new(values),
            bias,
            kernel,
            in_channels,
            out_channels,
            card: None,
        }
    }

    /// The copy on a card, for weights that were made for a device that has one.
    pub(crate) fn on_card(&self) -> Option<&DeviceConv> {
        self.card.as_deref()
    }

    /// The bias [out], zeros where there is none.
    pub(crate) fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// Kernel size in (time, height, width).
    pub fn kernel(&self) -> [usize; 3] {
        self.kernel
    }

    /// Number of input channels.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    /// Number of output channels.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }
}

/// Splits `out_channels` into the widest panels that waste at most half of a register.
fn panels(isa: Isa, out_channels: usize, rows: usize) -> Vec<Panel> {
    let mut panels = Vec::new();
    let (mut first, mut start) = (0, 0);
    while first < out_channels {
        let left = out_channels - first;
        let widths = [WIDTH_MAX, WIDTH_MAX / 2, WIDTH_MAX / 4];
        let fits = |width: &usize| isa.has_width(*width) && left > width / 2;
        let width = widths.into_iter().find(fits).unwrap_or(WIDTH_MAX / 4);
        panels.push(Panel {
            first,
            valid: left.min(width),
            width,
            start,
        });
        first += width;
        start += width * rows;
    }
    panels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_cover_every_output_channel_once() {
        for isa in Isa::all() {
            for out in 1..=100 {
                let panels = panels(isa, out, 27);
                let mut next = 0;
                for panel in &panels {
                    assert_eq!(panel.first, next, "{out}");
                    assert!(panel.valid >= 1 && panel.valid <= panel.width);
                    assert!(isa.has_width(panel.width));
                    next += panel.valid;
                }
                assert_eq!(next, out);
            }
        }
    }

    #[test]
    fn a_bias_of_another_length_is_refused() {
        let device = Device::cpu(1).unwrap();
        let weight = Tensor::zeros_f32(&device, &[4, 2, 3]).unwrap();
        let bias = Tensor::zeros_f32(&device, &[5]).unwrap();
        assert!(ConvWeights::new(&device, &weight, Some(&bias)).is_err());
        let weight = Tensor::zeros_f32(&device, &[4, 2]).unwrap();
        assert!(ConvWeights::new(&device, &weight, None).is_err());
    }
}
