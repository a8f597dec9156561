//! The attention of LTX-2: full-width norms of queries and keys, rotary positions for each side, an
//! optional gate for each head.

use kernels::attention::{Heads, Mask, attention};
use kernels::linear::Epilogue;
use kernels::modulation::head_gate;
use kernels::norm::Weight;
use kernels::rope::{Layout, QkNorm, RopeTable, qk_norm_rope};
use kernels::{Device, KernelError, Tensor};

use super::{Linear, Loader};
use crate::weights::WeightsError;

/// Added to the mean square of queries and keys.
const QK_EPS: f32 = 1e-6;

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Width of the query side, and of the output.
    pub query: usize,
    /// Width of the key side.
    pub context: usize,
    /// Heads of all three.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Biases of the three input projections.
    pub bias: bool,
    /// Bias of the output projection.
    pub out_bias: bool,
    /// Gate for each head.
    pub gated: bool,
    /// Pairs that rotate together.
    pub layout: Layout,
}

/// What one call attends over.
#[derive(Clone, Copy)]
pub struct AttentionInput<'a> {
    /// [queries, query width]
    pub x: &'a Tensor,
    /// [keys, context width]; the queries themselves when absent.
    pub context: Option<&'a Tensor>,
    /// Positions of queries and of keys.
    pub rope: Option<(&'a RopeTable, &'a RopeTable)>,
    /// Keys that may be seen.
    pub mask: Mask<'a>,
    /// Skip the attention itself: each token keeps its own value (self-attention only).
    pub perturbed: bool,
}

/// Projections and norms of one attention layer.
#[derive(Debug)]
pub struct Attention {
    shape: AttentionShape,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm_q: Tensor,
    norm_k: Tensor,
    gate: Option<Linear>,
}

impl Attention {
    /// Loads `to_q`, `to_k`, `to_v`, `to_out.0`, `norm_q`, `norm_k` and, when gated, `to_gate_logits`.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the tensor.
    pub fn load(loader: &Loader<'_>, shape: AttentionShape) -> Result<Self, WeightsError> {
        let AttentionShape {
            query,
            context,
            heads,
            head_dim,
            bias,
            out_bias,
            gated,
            ..
        } = shape;
        let inner = heads * head_dim;
        let gate = || Linear::load(&loader.at("to_gate_logits"), (heads, query), true);
        Ok(Self {
            shape,
            q: Linear::load(&loader.at("to_q"), (inner, query), bias)?,
            k: Linear::load(&loader.at("to_k"), (inner, context), bias)?,
            v: Linear::load(&loader.at("to_v"), (inner, context), bias)?,
            out: Linear::load(&loader.at("to_out.0"), (query, inner), out_bias)?,
            norm_q: loader.tensor("norm_q.weight", &[inner])?,
            norm_k: loader.tensor("norm_k.weight", &[inner])?,
            gate: if gated { Some(gate()?) } else { None },
        })
    }

    /// Adds the layer's output to `y` [queries, query width] as `epilogue` says.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn forward(
        &self,
        device: &Device,
        input: AttentionInput<'_>,
        epilogue: Epilogue<'_>,
        y: &mut Tensor,
    ) -> Result<(), KernelError> {
        let context = input.context.unwrap_or(input.x);
        let v = self.v.forward(device, context, Epilogue::None)?;
        let mut o = if input.perturbed {
            v
        } else {
            self.attend(device, input, context, &v)?
        };
        if let Some(gate) = &self.gate {
            let logits = gate.forward(device, input.x, Epilogue::None)?;
            head_gate(device, &mut o, &logits)?;
        }
        self.out.forward_into(device, &o, epilogue, y)
    }

    fn attend(
        &self,
        device: &Device,
        input: AttentionInput<'_>,
        context: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor, KernelError> {
        let AttentionShape {
            heads,
            head_dim,
            layout,
            ..
        } = self.shape;
        let mut q = self.q.forward(device, input.x, Epilogue::None)?;
        let mut k = self.k.forward(device, context, Epilogue::None)?;
        let norm = |weight| QkNorm {
            eps: QK_EPS,
            weight: Weight::Stored(weight),
            per_head: false,
        };
        let rope = input.rope.map(|(q, k)| ((q, layout), (k, layout)));
        qk_norm_rope(
            device,
            &mut q,
            heads,
            norm(&self.norm_q),
            rope.map(|(q, _)| q),
        )?;
        qk_norm_rope(
            device,
            &mut k,
            heads,
            norm(&self.norm_k),
            rope.map(|(_, k)| k),
        )?;
        let mut o = Tensor::activations(device, &[q.row_count(), heads * head_dim])?;
        let heads = Heads {
            query: heads,
            key: heads,
            scale: 1.0 / (head_dim as f32).sqrt(),
        };
        attention(device, &q, &k, v, heads, input.mask, &mut o)?;
        Ok(o)
    }
}
