//! A weight matrix with an optional bias.

use kernels::linear::{Epilogue, LinearWeights, linear};
use kernels::{Device, KernelError, Tensor};

use super::Loader;
use crate::weights::WeightsError;

/// `x W^T + b`.
#[derive(Debug)]
pub struct Linear {
    weight: LinearWeights,
    bias: Option<Tensor>,
}

impl Linear {
    /// Loads `weight` [out, in] and, if asked for, `bias` [out].
    ///
    /// # Errors
    /// A [`WeightsError`] that names the tensor.
    pub fn load(
        loader: &Loader<'_>,
        (outputs, inputs): (usize, usize),
        bias: bool,
    ) -> Result<Self, WeightsError> {
        let weight = loader.tensor("weight", &[outputs, inputs])?;
        let bias = if bias {
            Some(loader.tensor("bias", &[outputs])?)
        } else {
            None
        };
        let upload = |source| WeightsError::Upload {
            tensor: "weight".to_owned(),
            source,
        };
        let weight = LinearWeights::new(loader.device(), &weight).map_err(upload)?;
        Ok(Self { weight, bias })
    }

    /// Two layers without bias over the same input, as the halves of a GEGLU.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the tensor.
    pub fn load_pair(
        gate: &Loader<'_>,
        up: &Loader<'_>,
        (outputs, inputs): (usize, usize),
    ) -> Result<Self, WeightsError> {
        let halves = [
            gate.tensor("weight", &[outputs, inputs])?,
            up.tensor("weight", &[outputs, inputs])?,
        ];
        let pair = || -> Result<LinearWeights, KernelError> {
            let values = [halves[0].values()?, halves[1].values()?].concat();
            let weight = Tensor::from_f32(gate.device(), &[2 * outputs, inputs], values)?;
            LinearWeights::pair(gate.device(), &weight)
        };
        let upload = |source| WeightsError::Upload {
            tensor: "mlp".to_owned(),
            source,
        };
        Ok(Self {
            weight: pair().map_err(upload)?,
            bias: None,
        })
    }

    /// Length of an output row.
    pub fn outputs(&self) -> usize {
        self.weight.outputs()
    }

    /// A new tensor [rows, out]; the epilogue is one that does not read the output.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn forward(
        &self,
        device: &Device,
        x: &Tensor,
        epilogue: Epilogue<'_>,
    ) -> Result<Tensor, KernelError> {
        let halves = if matches!(epilogue, Epilogue::GegluTanh) {
            2
        } else {
            1
        };
        let mut y = Tensor::activations(device, &[x.row_count(), self.outputs() / halves])?;
        self.forward_into(device, x, epilogue, &mut y)?;
        Ok(y)
    }

    /// A new tensor [rows, out] that is F32 on every device: tables of modulation.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn forward_f32(&self, device: &Device, x: &Tensor) -> Result<Tensor, KernelError> {
        let mut y = Tensor::zeros_f32(device, &[x.row_count(), self.outputs()])?;
        self.forward_into(device, x, Epilogue::None, &mut y)?;
        Ok(y)
    }

    /// Writes or adds to `y`, as the epilogue says.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn forward_into(
        &self,
        device: &Device,
        x: &Tensor,
        epilogue: Epilogue<'_>,
        y: &mut Tensor,
    ) -> Result<(), KernelError> {
        linear(device, x, &self.weight, self.bias.as_ref(), epilogue, y)
    }
}
