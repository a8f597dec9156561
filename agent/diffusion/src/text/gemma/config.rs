//! Config of the Gemma 3 text model, in the form of old and of new files.

use serde_json::Value;

use crate::weights::{Config, WeightsError};

/// In files without `layer_types`, every sixth layer sees the whole prompt.
const PATTERN: usize = 6;

/// Rotary frequencies of one kind of layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub factor: f64,
}

/// The text model's config, whichever form it was written in.
#[derive(Debug, Clone, PartialEq)]
pub struct GemmaConfig {
    pub vocabulary: usize,
    pub hidden: usize,
    pub inner: usize,
    pub heads: usize,
    pub key_heads: usize,
    pub head_dim: usize,
    pub score_width: f32,
    pub eps: f32,
    pub window: usize,
    /// True for layers that see the whole prompt.
    pub full: Vec<bool>,
    pub full_rope: Rope,
    pub sliding_rope: Rope,
}

impl GemmaConfig {
    /// Reads and checks a config: the whole file, or its section `text_config`.
    ///
    /// # Errors
    /// [`WeightsError::Field`] that names the field and what is supported.
    pub fn read(config: &Config) -> Result<Self, WeightsError> {
        let text = if config.contains("text_config") {
            config.section("text_config")?
        } else {
            config.clone()
        };
        let layers: usize = text.get("num_hidden_layers", 26)?;
        let (full_rope, sliding_rope) = read_ropes(&text)?;
        for field in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if text.optional::<f32>(field)?.is_some() {
                return Err(text.refuse(field, "capping of logits is not supported"));
            }
        }
        text.require("attention_bias", false)?;
        text.require("hidden_activation", "gelu_pytorch_tanh".to_owned())?;
        let read = Self {
            vocabulary: text.get("vocab_size", 262_208)?,
            hidden: text.get("hidden_size", 2304)?,
            inner: text.get("intermediate_size", 9216)?,
            heads: text.get("num_attention_heads", 8)?,
            key_heads: text.get("num_key_value_heads", 4)?,
            head_dim: text.get("head_dim", 256)?,
            score_width: text.get("query_pre_attn_scalar", 256.0)?,
            eps: text.get("rms_norm_eps", 1e-6)?,
            window: text.get("sliding_window", 4096)?,
            full: read_pattern(&text, layers)?,
            full_rope,
            sliding_rope,
        };
        if read.key_heads == 0 || !read.heads.is_multiple_of(read.key_heads) {
            let reason = format!(
                "{} do not divide {} query heads",
                read.key_heads, read.heads
            );
            return Err(text.refuse("num_key_value_heads", reason));
        }
        if read.head_dim == 0 || !read.head_dim.is_multiple_of(2) {
            return Err(text.refuse("head_dim", "heads must have an even width"));
        }
        Ok(read)
    }
}

/// Refuses the Gemma 4 of LTX-2.5 by its name.
///
/// # Errors
/// [`WeightsError::Field`].
pub fn require_gemma_3(config: &Config) -> Result<(), WeightsError> {
    let kind = config.get("model_type", String::new())?;
    if !kind.starts_with("gemma4") {
        return Ok(());
    }
    let reason = format!(
        "`{kind}` (Gemma 4, as in LTX-2.5) is not supported, only Gemma 3: name a folder of \
         LTX-2 or LTX-2.3"
    );
    Err(config.refuse("model_type", reason))
}

/// Which layers see everything: `layer_types`, or every sixth by `sliding_window_pattern`.
fn read_pattern(text: &Config, layers: usize) -> Result<Vec<bool>, WeightsError> {
    if let Some(kinds) = text.optional::<Vec<String>>("layer_types")? {
        if kinds.len() != layers {
            return Err(text.refuse(
                "layer_types",
                format!("{} entries for {layers} layers", kinds.len()),
            ));
        }
        let kind = |kind: &String| match kind.as_str() {
            "full_attention" => Ok(true),
            "sliding_attention" => Ok(false),
            other => Err(text.refuse("layer_types", format!("`{other}` is not supported"))),
        };
        return kinds.iter().map(kind).collect();
    }
    let pattern = text.get("sliding_window_pattern", PATTERN)?.max(1);
    Ok((0..layers)
        .map(|layer| (layer + 1) % pattern == 0)
        .collect())
}

/// Frequencies of full and of sliding layers, from the new or the old fields.
fn read_ropes(text: &Config) -> Result<(Rope, Rope), WeightsError> {
    let parameters = text.section("rope_parameters")?;
    let scaling = text.optional::<Value>("rope_scaling")?;
    let full = parameters.optional::<Value>("full_attention")?.or(scaling);
    let sliding = parameters.optional::<Value>("sliding_attention")?;
    let theta = text.get("rope_theta", 1_000_000.0)?;
    let local = text.get("rope_local_base_freq", 10_000.0)?;
    Ok((
        read_rope(text, full.as_ref(), theta)?,
        read_rope(text, sliding.as_ref(), local)?,
    ))
}

fn read_rope(text: &Config, value: Option<&Value>, theta: f64) -> Result<Rope, WeightsError> {
    let Some(value) = value else {
        return Ok(Rope { theta, factor: 1.0 });
    };
    let theta = value
        .get("rope_theta")
        .and_then(Value::as_f64)
        .unwrap_or(theta);
    match value
        .get("rope_type")
        .or_else(|| value.get("type"))
        .and_then(Value::as_str)
    {
        None | Some("default") => Ok(Rope { theta, factor: 1.0 }),
        Some("linear") => {
            let factor = value.get("factor").and_then(Value::as_f64).unwrap_or(1.0);
            Ok(Rope { theta, factor })
        }
        Some(other) => Err(text.refuse("rope_type", format!("`{other}` is not supported"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gemma_4_is_refused_by_name() {
        let read = |text: &str| require_gemma_3(&Config::parse("c.json".as_ref(), text).unwrap());
        let error = read(r#"{"model_type": "gemma4_unified"}"#).unwrap_err();
        assert!(error.to_string().contains("Gemma 4"), "{error}");
        assert!(read(r#"{"model_type": "gemma3"}"#).is_ok() && read("{}").is_ok());
    }

    #[test]
    fn impossible_configs_are_refused_by_field() {
        for (field, value) in [
            ("num_key_value_heads", "3"),
            ("layer_types", r#"["full_attention"]"#),
            ("attn_logit_softcapping", "30.0"),
            ("rope_scaling", r#"{"rope_type": "yarn"}"#),
            ("head_dim", "7"),
        ] {
            let text =
                format!(r#"{{"text_config": {{"num_attention_heads": 4, "{field}": {value}}}}}"#);
            let error =
                GemmaConfig::read(&Config::parse("c.json".as_ref(), &text).unwrap()).unwrap_err();
            let named = if field == "rope_scaling" {
                "rope_type"
            } else {
                field
            };
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
