//! Adaptive norm rows of one step: what the timesteps say to every block.

use kernels::linear::Epilogue;
use kernels::modulation::{Rows, TIMESTEP_WIDTH, timestep_embed};
use kernels::{Device, KernelError, Tensor};

use crate::layers::{Linear, Loader};
use crate::weights::WeightsError;

/// Timesteps (1000 sigma) of the tokens of one stream: distinct values, and which one a token has.
#[derive(Debug, Clone)]
pub struct Times {
    /// Distinct timesteps [group].
    pub values: Tensor,
    /// Group of each token; absent when all share the first.
    pub groups: Option<Tensor>,
}

impl Times {
    /// One timestep for all tokens.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn shared(device: &Device, timestep: f32) -> Result<Self, KernelError> {
        Ok(Self {
            values: Tensor::from_f32(device, &[1], vec![timestep])?,
            groups: None,
        })
    }

    /// A timestep for each token; equal ones share a group.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn per_token(device: &Device, timesteps: &[f32]) -> Result<Self, KernelError> {
        let mut values: Vec<f32> = Vec::new();
        let mut groups = Vec::with_capacity(timesteps.len());
        for timestep in timesteps {
            let known = values
                .iter()
                .position(|value| value.to_bits() == timestep.to_bits());
            groups.push(known.unwrap_or(values.len()) as u32);
            if known.is_none() {
                values.push(*timestep);
            }
        }
        let groups = Tensor::from_u32(device, &[groups.len()], groups)?;
        Ok(Self {
            values: Tensor::from_f32(device, &[values.len()], values)?,
            groups: Some(groups),
        })
    }
}

/// An AdaLN module: timesteps to `rows` rows of `width` values.
#[derive(Debug)]
pub struct AdaLn {
    first: Linear,
    second: Linear,
    rows: Linear,
}

impl AdaLn {
    /// Loads `emb.timestep_embedder.linear_1`, `.linear_2` and `linear`.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the tensor.
    pub fn load(loader: &Loader<'_>, rows: usize, width: usize) -> Result<Self, WeightsError> {
        let embedder = loader.at("emb.timestep_embedder");
        Ok(Self {
            first: Linear::load(&embedder.at("linear_1"), (width, TIMESTEP_WIDTH), true)?,
            second: Linear::load(&embedder.at("linear_2"), (width, width), true)?,
            rows: Linear::load(&loader.at("linear"), (rows * width, width), true)?,
        })
    }

    /// Rows [group, rows * width] and the embedding before them [group, width].
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn forward(
        &self,
        device: &Device,
        times: &Tensor,
        multiplier: f32,
    ) -> Result<(Tensor, Tensor), KernelError> {
        let mut waves = Tensor::zeros_f32(device, &[times.count(), TIMESTEP_WIDTH])?;
        timestep_embed(device, times, multiplier, &mut waves)?;
        let hidden = self.first.forward(device, &waves, Epilogue::Silu)?;
        let embedded = self.second.forward_f32(device, &hidden)?;
        let active = self.second.forward(device, &hidden, Epilogue::Silu)?;
        Ok((self.rows.forward_f32(device, &active)?, embedded))
    }
}

/// Rows of one table with the group of each token.
#[derive(Debug)]
pub struct TokenRows {
    /// [group, slot, width]
    pub table: Tensor,
    /// Group of each token.
    pub groups: Option<Tensor>,
}

impl TokenRows {
    /// Row `slot` of every token.
    pub fn slot(&self, slot: usize) -> Rows<'_> {
        Rows {
            table: &self.table,
            slot,
            groups: self.groups.as_ref(),
        }
    }
}
