//! The snake activation, at twice the rate and filtered when it must not alias.

use kernels::resample1d::{Fir, downsample1d, upsample1d};
use kernels::snake::{SnakeWeights, snake};
use kernels::{Device, KernelError, Tensor};

use crate::convolution::{Source, refused};
use crate::weights::WeightsError;

/// Snake with its parameters and filters.
#[derive(Debug)]
pub(super) struct Snake {
    weights: SnakeWeights,
    /// Up and down.
    filters: Option<[Fir; 2]>,
}

impl Snake {
    /// Reads `KEY.{alpha,beta}`; with a filter of [taps, ratio] the parameters are below `KEY.act`
    /// and the filters are `KEY.{upsample,downsample}.filter`.
    pub fn load(
        source: Source<'_>,
        key: &str,
        channels: usize,
        beta: bool,
        filter: Option<[usize; 2]>,
    ) -> Result<Self, WeightsError> {
        let parameters = if filter.is_some() {
            format!("{key}.act")
        } else {
            key.to_owned()
        };
        let name = format!("{parameters}.alpha");
        let alpha = source.tensor(&name, &[channels])?;
        let beta = match beta {
            true => Some(source.tensor(&format!("{parameters}.beta"), &[channels])?),
            false => None,
        };
        let weights = SnakeWeights::new(source.device, &alpha, beta.as_ref())
            .map_err(|error| refused(&name, error))?;
        let Some([taps, ratio]) = filter else {
            return Ok(Self {
                weights,
                filters: None,
            });
        };
        let fir = |way: &str, left| -> Result<Fir, WeightsError> {
            let filter = source.tensor(&format!("{key}.{way}.filter"), &[1, 1, taps])?;
            Ok(Fir {
                taps: filter
                    .values()
                    .map_err(|error| refused(&name, error))?
                    .into_owned(),
                ratio,
                left,
            })
        };
        let up = fir("upsample", (taps - ratio) / 2)?;
        let down = fir("downsample", taps / 2 + taps % 2 - 1)?;
        Ok(Self {
            weights,
            filters: Some([up, down]),
        })
    }

    /// The activation of `x` [batch, length, channel].
    pub fn forward(&self, device: &Device, x: &Tensor) -> Result<Tensor, KernelError> {
        let Some([up, down]) = &self.filters else {
            let mut out = x.clone();
            snake(device, &self.weights, &mut out)?;
            return Ok(out);
        };
        let [batch, length, channels]: [usize; 3] = x.expect_rank("snake", "x")?;
        let mut fast = Tensor::zeros_f32(device, &[batch, length * up.ratio, channels])?;
        upsample1d(device, x, up, &mut fast)?;
        snake(device, &self.weights, &mut fast)?;
        let mut out = Tensor::zeros_f32(device, x.dims())?;
        downsample1d(device, &fast, down, &mut out)?;
        Ok(out)
    }
}
