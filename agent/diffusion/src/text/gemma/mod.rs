//! The Gemma 3 text model: all hidden states of a padded prompt.

mod config;

use kernels::attention::{Heads, Mask, attention};
use kernels::copy::gather_rows;
use kernels::linear::Epilogue;
use kernels::norm::{Norm, Weight, norm_modulate};
use kernels::rope::{Layout, QkNorm, RopeTable, plain_table, qk_norm_rope};
use kernels::sampling::axpby;
use kernels::{Device, KernelError, Tensor};

use super::{HiddenStates, Tokens};
use crate::layers::{Linear, Loader};
use crate::weights::{Component, WeightsError};

use config::{GemmaConfig, Rope};

/// Where checkpoints keep the language model.
const PREFIXES: [&str; 2] = ["model.language_model", "language_model.model"];
const CLASSES: [&str; 3] = [
    "Gemma3ForConditionalGeneration",
    "Gemma3ForCausalLM",
    "Gemma3TextModel",
];

/// One decoder layer.
#[derive(Debug)]
struct Layer {
    full: bool,
    norms: [Tensor; 4],
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: Tensor,
    k_norm: Tensor,
    gate_up: Linear,
    down: Linear,
}

/// The text model's weights.
#[derive(Debug)]
pub struct Gemma {
    config: GemmaConfig,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
}

impl Layer {
    fn load(loader: &Loader<'_>, config: &GemmaConfig, full: bool) -> Result<Self, WeightsError> {
        let hidden = config.hidden;
        let (wide, narrow) = (
            config.heads * config.head_dim,
            config.key_heads * config.head_dim,
        );
        let norm = |name: &str| loader.tensor(&format!("{name}_layernorm.weight"), &[hidden]);
        let attention = loader.at("self_attn");
        let linear = |name: &str, dims| Linear::load(&attention.at(name), dims, false);
        let mlp = loader.at("mlp");
        let (gate, up) = (mlp.at("gate_proj"), mlp.at("up_proj"));
        Ok(Self {
            full,
            norms: [
                norm("input")?,
                norm("post_attention")?,
                norm("pre_feedforward")?,
                norm("post_feedforward")?,
            ],
            q: linear("q_proj", (wide, hidden))?,
            k: linear("k_proj", (narrow, hidden))?,
            v: linear("v_proj", (narrow, hidden))?,
            o: linear("o_proj", (hidden, wide))?,
            q_norm: attention.tensor("q_norm.weight", &[config.head_dim])?,
            k_norm: attention.tensor("k_norm.weight", &[config.head_dim])?,
            gate_up: Linear::load_pair(&gate, &up, (config.inner, hidden))?,
            down: Linear::load(&mlp.at("down_proj"), (hidden, config.inner), false)?,
        })
    }

    fn forward(
        &self,
        device: &Device,
        config: &GemmaConfig,
        x: &mut Tensor,
        rope: &RopeTable,
        pads: usize,
    ) -> Result<(), KernelError> {
        let [before_attention, after_attention, before_mlp, after_mlp] = &self.norms;
        let normed = rms(device, config, x, before_attention)?;
        let attended = self.attend(device, config, &normed, rope, pads)?;
        axpby(
            device,
            1.0,
            x,
            1.0,
            &rms(device, config, &attended, after_attention)?,
        )?;
        let normed = rms(device, config, x, before_mlp)?;
        let inner = self.gate_up.forward(device, &normed, Epilogue::GegluTanh)?;
        let output = self.down.forward(device, &inner, Epilogue::None)?;
        axpby(
            device,
            1.0,
            x,
            1.0,
            &rms(device, config, &output, after_mlp)?,
        )
    }

    fn attend(
        &self,
        device: &Device,
        config: &GemmaConfig,
        x: &Tensor,
        rope: &RopeTable,
        pads: usize,
    ) -> Result<Tensor, KernelError> {
        let mut q = self.q.forward(device, x, Epilogue::None)?;
        let mut k = self.k.forward(device, x, Epilogue::None)?;
        let v = self.v.forward(device, x, Epilogue::None)?;
        let norm = |weight| QkNorm {
            eps: config.eps,
            weight: Weight::OnePlus(weight),
            per_head: true,
        };
        let rope = Some((rope, Layout::Split));
        qk_norm_rope(device, &mut q, config.heads, norm(&self.q_norm), rope)?;
        qk_norm_rope(device, &mut k, config.key_heads, norm(&self.k_norm), rope)?;
        let window = (!self.full).then_some(config.window);
        let mut o = Tensor::activations(device, q.dims())?;
        let scale = 1.0 / config.score_width.sqrt();
        let heads = Heads {
            query: config.heads,
            key: config.key_heads,
            scale,
        };
        attention(
            device,
            &q,
            &k,
            &v,
            heads,
            Mask::Causal {
                first: pads,
                window,
            },
            &mut o,
        )?;
        self.o.forward(device, &o, Epilogue::None)
    }
}

/// RMS norm with 1 + w.
fn rms(
    device: &Device,
    config: &GemmaConfig,
    x: &Tensor,
    weight: &Tensor,
) -> Result<Tensor, KernelError> {
    let mut y = Tensor::activations(device, x.dims())?;
    norm_modulate(
        device,
        x,
        Norm::Rms { eps: config.eps },
        Weight::OnePlus(weight),
        None,
        &mut y,
    )?;
    Ok(y)
}

impl Gemma {
    /// Loads the language model of the part `text_encoder`; a vision tower beside it is not read.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file and the field or tensor.
    pub fn load(component: &Component, device: &Device) -> Result<Self, WeightsError> {
        config::require_gemma_3(component.config())?;
        component.expect_class(&CLASSES)?;
        let config = GemmaConfig::read(component.config())?;
        let root = Loader::new(component, device);
        let found = PREFIXES
            .iter()
            .find(|prefix| root.contains(&format!("{prefix}.norm.weight")));
        let loader = root.at(found.unwrap_or(&PREFIXES[0]));
        let layer = |(number, full): (usize, &bool)| {
            Layer::load(&loader.at(format!("layers.{number}")), &config, *full)
        };
        Ok(Self {
            embedding: loader.tensor("embed_tokens.weight", &[config.vocabulary, config.hidden])?,
            layers: config
                .full
                .iter()
                .enumerate()
                .map(layer)
                .collect::<Result<_, _>>()?,
            norm: loader.tensor("norm.weight", &[config.hidden])?,
            config,
        })
    }

    /// Width of a hidden state.
    pub fn hidden(&self) -> usize {
        self.config.hidden
    }

    /// Number of hidden states of a token: one more than there are layers.
    pub fn states(&self) -> usize {
        self.layers.len() + 1
    }

    /// Values of a token that a layer has alive at once beside the hidden states: its own and the
    /// normed input, and both halves of the feed-forward or queries, keys and values.
    pub(crate) fn layer_width(&self) -> usize {
        let config = &self.config;
        let attention = config.head_dim * (2 * config.heads + 4 * config.key_heads);
        3 * config.hidden + attention.max(config.inner)
    }

    /// Rows of the embedding.
    pub fn vocabulary(&self) -> usize {
        self.config.vocabulary
    }

    /// The embedding, each layer's output but the last, and the final norm of the last. Rows of
    /// padding hold numbers without meaning.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn hidden_states(
        &self,
        device: &Device,
        tokens: &Tokens,
    ) -> Result<HiddenStates, KernelError> {
        let config = &self.config;
        let count = tokens.ids.len();
        let ids = Tensor::from_u32(device, &[count], tokens.ids.clone())?;
        let mut x = Tensor::activations(device, &[count, config.hidden])?;
        gather_rows(
            device,
            &self.embedding,
            &ids,
            (config.hidden as f32).sqrt(),
            &mut x,
        )?;
        let table = |rope: Rope| plain_table(count, config.head_dim, rope.theta, rope.factor);
        let (full, sliding) = (table(config.full_rope)?, table(config.sliding_rope)?);
        let mut states = Vec::with_capacity(self.states());
        for layer in &self.layers {
            states.push(x.clone());
            let rope = if layer.full { &full } else { &sliding };
            layer.forward(device, config, &mut x, rope, tokens.pads)?;
        }
        states.push(rms(device, config, &x, &self.norm)?);
        Ok(states)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::golden::Golden;
    use crate::weights::Config;

    #[test]
    fn hidden_states_equal_the_reference_for_both_config_forms() {
        let golden = Golden::open("gemma");
        for form in ["config.old", "config.new"] {
            let mut fields: serde_json::Map<String, Value> =
                serde_json::from_str(golden.note(form)).unwrap();
            fields.insert(
                "architectures".into(),
                serde_json::json!(["Gemma3ForConditionalGeneration"]),
            );
            let text = serde_json::to_string(&fields).unwrap();
            let config = Config::parse("config.json".as_ref(), &text).unwrap();
            let component = Component::from_file("text_encoder", config, golden.reopened(), "w.");
            let gemma = Gemma::load(&component, golden.device()).unwrap();
            for case in ["padded", "full"] {
                check(&golden, &gemma, case);
            }
        }
    }

    fn check(golden: &Golden, gemma: &Gemma, case: &str) {
        let arguments: Value = serde_json::from_str(golden.note(&format!("args.{case}"))).unwrap();
        let ids = arguments["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap() as u32)
            .collect();
        let pads = arguments["pads"].as_u64().unwrap() as usize;
        let states = gemma
            .hidden_states(golden.device(), &Tokens { ids, pads })
            .unwrap();
        let expected = golden.tensor(&format!("out.{case}.states"));
        let layers = states.len();
        for (layer, state) in states.iter().enumerate() {
            for token in pads..state.row_count() {
                for d in 0..gemma.hidden() {
                    let found = state.f32s()[token * gemma.hidden() + d];
                    let wanted = expected.f32s()[(token * gemma.hidden() + d) * layers + layer];
                    assert!(
                        (found - wanted).abs() < 1e-4,
                        "{case} layer {layer} token {token}: {found} {wanted}"
                    );
                }
            }
        }
    }
}
