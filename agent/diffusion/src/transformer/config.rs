//! Config of the transformer: fields with the class defaults, and the combinations that run.

use kernels::rope::Layout;

use crate::weights::{Config, WeightsError};

/// Sizes and switches of one stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamConfig {
    /// Channels of a latent token.
    pub in_channels: usize,
    /// Channels of a velocity token.
    pub out_channels: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the text context that the blocks read.
    pub context: usize,
    /// Gate for each head.
    pub gated: bool,
    /// Nine rows of modulation instead of six: queries and context of the text attention too.
    pub text_modulated: bool,
    /// Biases of the feed-forward layers.
    pub ff_bias: bool,
}

impl StreamConfig {
    /// Width of a token inside the transformer.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Rows of modulation from `time_embed`.
    pub fn rows(&self) -> usize {
        if self.text_modulated { 9 } else { 6 }
    }
}

/// How positions become angles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// Pairs that turn together.
    pub layout: Layout,
    /// Base of the frequencies.
    pub theta: f64,
    /// Pixels of one latent: frames, rows, columns.
    pub video_scale: [usize; 3],
    /// Seconds, rows and columns of the end of the range.
    pub video_max: [f32; 3],
    /// Mel frames of one audio latent.
    pub audio_scale: usize,
    /// Seconds of the end of the range.
    pub audio_max: f32,
    /// Samples per mel frame.
    pub audio_hop: usize,
    /// Samples per second.
    pub audio_rate: usize,
    /// Frames that the first latent covers.
    pub causal_offset: usize,
}

/// The transformer's `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerConfig {
    /// Picture stream.
    pub video: StreamConfig,
    /// Sound stream.
    pub audio: StreamConfig,
    /// Blocks.
    pub layers: usize,
    /// Added to the mean square of the blocks' norms.
    pub eps: f32,
    /// Biases of attention projections: in, out.
    pub attention_bias: (bool, bool),
    /// Width of the captions when the transformer projects them itself (2.0).
    pub captions: Option<usize>,
    /// The blocks may skip self-attention.
    pub perturbed: bool,
    /// The modulation of the text context depends on the timestep.
    pub prompt_adaln: bool,
    /// Timestep of the cross-stream gates relative to the others.
    pub gate_ratio: f32,
    /// There is an embedding that marks keyframes (2.5).
    pub keyframe_embedding: bool,
    /// Positions.
    pub rope: RopeConfig,
}

impl TransformerConfig {
    /// Reads and checks a config.
    ///
    /// # Errors
    /// [`WeightsError::Field`] that names the field and what is supported.
    pub fn read(config: &Config) -> Result<Self, WeightsError> {
        require_supported(config)?;
        let bias = (
            config.get("attention_bias", true)?,
            config.get("attention_out_bias", true)?,
        );
        let timestep_scale: f32 = config.get("timestep_scale_multiplier", 1000.0)?;
        let gate_scale: f32 = config.get("cross_attn_timestep_scale_multiplier", 1000.0)?;
        let captions = match config.get("use_prompt_embeddings", true)? {
            true => Some(config.get("caption_channels", 3840)?),
            false => None,
        };
        config.ignore(&["caption_channels"]);
        let read = Self {
            video: read_video(config)?,
            audio: read_audio(config)?,
            layers: config.get("num_layers", 48)?,
            eps: config.get("norm_eps", 1e-6)?,
            attention_bias: bias,
            captions,
            perturbed: config.get("perturbed_attn", false)?,
            prompt_adaln: config.get("use_prompt_adaln_single", true)?,
            gate_ratio: gate_scale / timestep_scale,
            keyframe_embedding: config.get("use_keyframes_abs_pos_embedding", false)?,
            rope: read_rope(config)?,
        };
        read.check(config)?;
        Ok(read)
    }

    /// True for models of 2.3 and later: the cross-stream modulation of a stream is taken at the
    /// noise level of the other one.
    pub fn cross_timestep(&self) -> bool {
        self.video.text_modulated || self.audio.text_modulated
    }

    fn check(&self, config: &Config) -> Result<(), WeightsError> {
        let (video, audio) = (&self.video, &self.audio);
        let refuse = |field: &str, reason: String| Err(config.refuse(field, reason));
        if video.heads != audio.heads {
            let reason = format!(
                "{} heads, but the video stream has {}",
                audio.heads, video.heads
            );
            return refuse("audio_num_attention_heads", reason);
        }
        if audio.context != audio.width() {
            let reason = format!(
                "{}, but the audio stream is {} wide",
                audio.context,
                audio.width()
            );
            return refuse("audio_cross_attention_dim", reason);
        }
        let projected = self.captions.is_some() || video.text_modulated;
        if projected && video.context != video.width() {
            let reason = format!(
                "{}, but the video stream is {} wide",
                video.context,
                video.width()
            );
            return refuse("cross_attention_dim", reason);
        }
        let odd =
            |stream: &StreamConfig| stream.head_dim == 0 || !stream.head_dim.is_multiple_of(2);
        if video.heads == 0 || odd(video) || odd(audio) {
            return refuse(
                "attention_head_dim",
                "heads must have an even width".to_owned(),
            );
        }
        if self.layers == 0 {
            return refuse("num_layers", "there are no blocks".to_owned());
        }
        Ok(())
    }
}

/// Fields of which one value is supported.
fn require_supported(config: &Config) -> Result<(), WeightsError> {
    for field in [
        "patch_size",
        "patch_size_t",
        "audio_patch_size",
        "audio_patch_size_t",
    ] {
        config.require(field, 1)?;
    }
    config.require("activation_fn", "gelu-approximate".to_owned())?;
    config.require("qk_norm", "rms_norm_across_heads".to_owned())?;
    config.require("norm_elementwise_affine", false)?;
    config.require("rope_double_precision", true)?;
    Ok(())
}

fn read_video(config: &Config) -> Result<StreamConfig, WeightsError> {
    let in_channels = config.get("in_channels", 128)?;
    Ok(StreamConfig {
        in_channels,
        out_channels: config.get("out_channels", in_channels)?,
        heads: config.get("num_attention_heads", 32)?,
        head_dim: config.get("attention_head_dim", 128)?,
        context: config.get("cross_attention_dim", 4096)?,
        gated: config.get("gated_attn", false)?,
        text_modulated: config.get("cross_attn_mod", false)?,
        ff_bias: config.get("ff_bias", true)?,
    })
}

fn read_audio(config: &Config) -> Result<StreamConfig, WeightsError> {
    let in_channels = config.get("audio_in_channels", 128)?;
    Ok(StreamConfig {
        in_channels,
        out_channels: config.get("audio_out_channels", in_channels)?,
        heads: config.get("audio_num_attention_heads", 32)?,
        head_dim: config.get("audio_attention_head_dim", 64)?,
        context: config.get("audio_cross_attention_dim", 2048)?,
        gated: config.get("audio_gated_attn", false)?,
        text_modulated: config.get("audio_cross_attn_mod", false)?,
        ff_bias: config.get("audio_ff_bias", true)?,
    })
}

fn read_rope(config: &Config) -> Result<RopeConfig, WeightsError> {
    Ok(RopeConfig {
        layout: read_layout(config)?,
        theta: config.get("rope_theta", 10_000.0)?,
        video_scale: config.get("vae_scale_factors", [8, 32, 32])?,
        video_max: [
            config.get("pos_embed_max_pos", 20.0)?,
            config.get("base_height", 2048.0)?,
            config.get("base_width", 2048.0)?,
        ],
        audio_scale: config.get("audio_scale_factor", 4)?,
        audio_max: config.get("audio_pos_embed_max_pos", 20.0)?,
        audio_hop: config.get("audio_hop_length", 160)?,
        audio_rate: config.get("audio_sampling_rate", 16_000)?,
        causal_offset: config.get("causal_offset", 1)?,
    })
}

/// The field `rope_type`, which the class sets to `interleaved` when it is missing.
pub(crate) fn read_layout(config: &Config) -> Result<Layout, WeightsError> {
    match config.get("rope_type", "interleaved".to_owned())?.as_str() {
        "split" => Ok(Layout::Split),
        "interleaved" => Ok(Layout::Interleaved),
        other => Err(config.refuse(
            "rope_type",
            format!("`{other}` is neither split nor interleaved"),
        )),
    }
}
