//! Convolutions as weight files store them: `KEY.weight` [out, in, kernel...] and `KEY.bias` [out].

use kernels::conv::ConvWeights;
use kernels::{Device, KernelError, Tensor};

use crate::weights::{Component, WeightsError};

/// Where convolutions are read from and where they go.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub component: &'a Component,
    pub device: &'a Device,
}

impl Source<'_> {
    /// Reads a convolution with a bias.
    pub fn conv(
        self,
        key: &str,
        out_channels: usize,
        in_channels: usize,
        kernel: &[usize],
    ) -> Result<ConvWeights, WeightsError> {
        let bias = self.tensor(&format!("{key}.bias"), &[out_channels])?;
        self.packed(key, out_channels, in_channels, kernel, Some(&bias))
    }

    /// Reads a convolution without a bias.
    pub fn conv_without_bias(
        self,
        key: &str,
        out_channels: usize,
        in_channels: usize,
        kernel: &[usize],
    ) -> Result<ConvWeights, WeightsError> {
        self.packed(key, out_channels, in_channels, kernel, None)
    }

    /// Reads a tensor of exactly this shape.
    pub fn tensor(self, name: &str, dims: &[usize]) -> Result<Tensor, WeightsError> {
        self.component.tensor(self.device, name, dims)
    }

    fn packed(
        self,
        key: &str,
        out_channels: usize,
        in_channels: usize,
        kernel: &[usize],
        bias: Option<&Tensor>,
    ) -> Result<ConvWeights, WeightsError> {
        let name = format!("{key}.weight");
        let dims = [&[out_channels, in_channels], kernel].concat();
        let weight = self.tensor(&name, &dims)?;
        ConvWeights::new(self.device, &weight, bias).map_err(|error| refused(&name, error))
    }
}

/// The error for a tensor that an op does not take.
pub(crate) fn refused(tensor: &str, source: KernelError) -> WeightsError {
    WeightsError::Upload {
        tensor: tensor.to_owned(),
        source,
    }
}
