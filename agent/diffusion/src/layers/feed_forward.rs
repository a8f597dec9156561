//! Linear, GELU (tanh form), linear.

use kernels::linear::Epilogue;
use kernels::{Device, KernelError, Tensor};

use super::{Linear, Loader};
use crate::weights::WeightsError;

/// Width of the inner layer, in widths of the outer.
const EXPANSION: usize = 4;

/// The `ff` of a block.
#[derive(Debug)]
pub struct FeedForward {
    up: Linear,
    down: Linear,
}

impl FeedForward {
    /// Loads `net.0.proj` [4 width, width] and `net.2` [width, 4 width].
    ///
    /// # Errors
    /// A [`WeightsError`] that names the tensor.
    pub fn load(loader: &Loader<'_>, width: usize, bias: bool) -> Result<Self, WeightsError> {
        let inner = EXPANSION * width;
        Ok(Self {
            up: Linear::load(&loader.at("net.0.proj"), (inner, width), bias)?,
            down: Linear::load(&loader.at("net.2"), (width, inner), bias)?,
        })
    }

    /// Adds the layer's output to `y` as `epilogue` says.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn forward(
        &self,
        device: &Device,
        x: &Tensor,
        epilogue: Epilogue<'_>,
        y: &mut Tensor,
    ) -> Result<(), KernelError> {
        let inner = self.up.forward(device, x, Epilogue::GeluTanh)?;
        self.down.forward_into(device, &inner, epilogue, y)
    }
}
