//! One block: self-attention, text, the other stream, feed-forward; for both streams.

use kernels::attention::Mask;
use kernels::linear::Epilogue;
use kernels::modulation::{Rows, ada_table};
use kernels::norm::{Modulation, Norm, Weight, norm_modulate};
use kernels::rope::RopeTable;
use kernels::{Device, KernelError, Tensor};

use super::config::{StreamConfig, TransformerConfig};
use super::modulation::TokenRows;
use super::positions::Positions;
use super::{Context, StepModules};
use crate::layers::{Attention, AttentionInput, AttentionShape, FeedForward, Loader};
use crate::weights::WeightsError;

/// Rows of a stream's `scale_shift_table`.
mod slot {
    pub const SHIFT: usize = 0;
    pub const SCALE: usize = 1;
    pub const GATE: usize = 2;
    pub const SHIFT_FF: usize = 3;
    pub const SCALE_FF: usize = 4;
    pub const GATE_FF: usize = 5;
    pub const SHIFT_TEXT: usize = 6;
    pub const SCALE_TEXT: usize = 7;
    pub const GATE_TEXT: usize = 8;
}

/// Rows of a stream's `a2v_cross_attn_scale_shift_table`: the scale comes before the shift.
mod cross_slot {
    pub const SCALE_A2V: usize = 0;
    pub const SHIFT_A2V: usize = 1;
    pub const SCALE_V2A: usize = 2;
    pub const SHIFT_V2A: usize = 3;
    pub const GATE: usize = 4;
    pub const COUNT: usize = 5;
}

/// Tables and layers of one stream in a block.
#[derive(Debug)]
struct Stream {
    attention: Attention,
    text: Attention,
    ff: FeedForward,
    table: Tensor,
    prompt_table: Option<Tensor>,
    cross_table: Tensor,
}

/// A transformer block.
#[derive(Debug)]
pub struct Block {
    eps: f32,
    video: Stream,
    audio: Stream,
    audio_to_video: Attention,
    video_to_audio: Attention,
}

/// Rows of one stream in one block at one step.
#[derive(Debug)]
pub struct StreamRows {
    own: TokenRows,
    prompt: Option<TokenRows>,
    cross: TokenRows,
}

/// Rows of one block at one step.
#[derive(Debug)]
pub struct BlockRows {
    video: StreamRows,
    audio: StreamRows,
}

/// The tokens of both streams.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// [S, D]
    pub video: Tensor,
    /// [L, A]
    pub audio: Tensor,
}

/// Names of a stream's parts.
struct StreamNames {
    attention: &'static str,
    text: &'static str,
    ff: &'static str,
    table: &'static str,
    prompt_table: &'static str,
    cross_table: &'static str,
}

const VIDEO_NAMES: StreamNames = StreamNames {
    attention: "attn1",
    text: "attn2",
    ff: "ff",
    table: "scale_shift_table",
    prompt_table: "prompt_scale_shift_table",
    cross_table: "video_a2v_cross_attn_scale_shift_table",
};

const AUDIO_NAMES: StreamNames = StreamNames {
    attention: "audio_attn1",
    text: "audio_attn2",
    ff: "audio_ff",
    table: "audio_scale_shift_table",
    prompt_table: "audio_prompt_scale_shift_table",
    cross_table: "audio_a2v_cross_attn_scale_shift_table",
};

impl Stream {
    fn load(
        loader: &Loader<'_>,
        config: &TransformerConfig,
        stream: &StreamConfig,
        names: &StreamNames,
    ) -> Result<Self, WeightsError> {
        let width = stream.width();
        let own = attention_shape(config, stream, width, width, stream.head_dim);
        let text = AttentionShape {
            context: stream.context,
            ..own
        };
        let prompt_table = match stream.text_modulated {
            true => Some(loader.tensor(names.prompt_table, &[2, width])?),
            false => None,
        };
        Ok(Self {
            attention: Attention::load(&loader.at(names.attention), own)?,
            text: Attention::load(&loader.at(names.text), text)?,
            ff: FeedForward::load(&loader.at(names.ff), width, stream.ff_bias)?,
            table: loader.tensor(names.table, &[stream.rows(), width])?,
            prompt_table,
            cross_table: loader.tensor(names.cross_table, &[cross_slot::COUNT, width])?,
        })
    }

    fn rows(&self, device: &Device, modules: &StepModules) -> Result<StreamRows, KernelError> {
        let prompt = match (&self.prompt_table, &modules.prompt) {
            (Some(table), Some(module)) => Some(add(device, table, module)?),
            (Some(table), None) => {
                let dims = [1, table.dims()[0], table.dims()[1]];
                Some(TokenRows {
                    table: table.clone().reshaped(&dims)?,
                    groups: None,
                })
            }
            (None, _) => None,
        };
        Ok(StreamRows {
            own: add(device, &self.table, &modules.own)?,
            prompt,
            cross: add(device, &self.cross_table, &modules.cross)?,
        })
    }
}

/// A block's table plus a module's rows.
fn add(device: &Device, table: &Tensor, module: &TokenRows) -> Result<TokenRows, KernelError> {
    let groups = module.table.dims()[0];
    let mut sum = Tensor::zeros_f32(device, &[groups, table.dims()[0], table.dims()[1]])?;
    ada_table(device, table, &module.table, &mut sum)?;
    Ok(TokenRows {
        table: sum,
        groups: module.groups.clone(),
    })
}

fn attention_shape(
    config: &TransformerConfig,
    stream: &StreamConfig,
    query: usize,
    context: usize,
    head_dim: usize,
) -> AttentionShape {
    AttentionShape {
        query,
        context,
        heads: stream.heads,
        head_dim,
        bias: config.attention_bias.0,
        out_bias: config.attention_bias.1,
        gated: stream.gated,
        layout: config.rope.layout,
    }
}

impl Block {
    /// Loads `transformer_blocks.N`.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the tensor.
    pub fn load(loader: &Loader<'_>, config: &TransformerConfig) -> Result<Self, WeightsError> {
        let (video, audio) = (&config.video, &config.audio);
        let (wide, narrow) = (video.width(), audio.width());
        // Both directions attend at the audio stream's inner width.
        let a2v = attention_shape(config, video, wide, narrow, audio.head_dim);
        let v2a = attention_shape(config, audio, narrow, wide, audio.head_dim);
        Ok(Self {
            eps: config.eps,
            video: Stream::load(loader, config, video, &VIDEO_NAMES)?,
            audio: Stream::load(loader, config, audio, &AUDIO_NAMES)?,
            audio_to_video: Attention::load(&loader.at("audio_to_video_attn"), a2v)?,
            video_to_audio: Attention::load(&loader.at("video_to_audio_attn"), v2a)?,
        })
    }

    /// This block's rows for a step, shared by all passes of the step.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn rows(
        &self,
        device: &Device,
        video: &StepModules,
        audio: &StepModules,
    ) -> Result<BlockRows, KernelError> {
        Ok(BlockRows {
            video: self.video.rows(device, video)?,
            audio: self.audio.rows(device, audio)?,
        })
    }

    /// The block's self-attention over the tokens, in place; the text has no part in it.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn begin(
        &self,
        device: &Device,
        tokens: &mut Tokens,
        positions: &Positions,
        rows: &BlockRows,
        perturbed: bool,
    ) -> Result<(), KernelError> {
        let work = self.work(device);
        let Tokens { video, audio } = tokens;
        let place = (&positions.video, positions.video_mask());
        work.attend_to_self(video, &self.video, &rows.video, place, perturbed)?;
        let place = (&positions.audio, Mask::None);
        work.attend_to_self(audio, &self.audio, &rows.audio, place, perturbed)
    }

    /// The rest of the block behind [`Block::begin`]; without the streams' view of each other when `isolated`.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn finish(
        &self,
        device: &Device,
        tokens: &mut Tokens,
        context: &Context,
        positions: &Positions,
        rows: &BlockRows,
        isolated: bool,
    ) -> Result<(), KernelError> {
        let work = self.work(device);
        let Tokens { video, audio } = tokens;
        let mask = context.mask.as_ref();
        work.attend_to_text(video, &self.video, &rows.video, &context.video, mask)?;
        work.attend_to_text(audio, &self.audio, &rows.audio, &context.audio, mask)?;
        if !isolated {
            self.attend_across(&work, tokens, rows, positions)?;
        }
        work.feed_forward(&mut tokens.video, &self.video, &rows.video)?;
        work.feed_forward(&mut tokens.audio, &self.audio, &rows.audio)
    }

    fn work<'a>(&self, device: &'a Device) -> Work<'a> {
        let eps = self.eps;
        Work { device, eps }
    }

    /// Both directions read the tokens as they were before either.
    fn attend_across(
        &self,
        work: &Work<'_>,
        tokens: &mut Tokens,
        rows: &BlockRows,
        positions: &Positions,
    ) -> Result<(), KernelError> {
        use cross_slot::{GATE, SCALE_A2V, SCALE_V2A, SHIFT_A2V, SHIFT_V2A};
        let (video, audio) = (&rows.video.cross, &rows.audio.cross);
        let a2v =
            |rows: &TokenRows, x| work.modulated(x, rows.slot(SHIFT_A2V), rows.slot(SCALE_A2V));
        let v2a =
            |rows: &TokenRows, x| work.modulated(x, rows.slot(SHIFT_V2A), rows.slot(SCALE_V2A));
        let (video_query, audio_context) = (a2v(video, &tokens.video)?, a2v(audio, &tokens.audio)?);
        let (audio_query, video_context) = (v2a(audio, &tokens.audio)?, v2a(video, &tokens.video)?);
        let ropes = (&positions.video_cross, &positions.audio_cross);
        let input = AttentionInput {
            x: &video_query,
            context: Some(&audio_context),
            rope: Some(ropes),
            mask: Mask::None,
            perturbed: false,
        };
        let gate = Epilogue::GatedResidual(video.slot(GATE));
        self.audio_to_video
            .forward(work.device, input, gate, &mut tokens.video)?;
        let input = AttentionInput {
            x: &audio_query,
            context: Some(&video_context),
            rope: Some((ropes.1, ropes.0)),
            ..input
        };
        let gate = Epilogue::GatedResidual(audio.slot(GATE));
        self.video_to_audio
            .forward(work.device, input, gate, &mut tokens.audio)
    }
}

/// What the steps of a block share.
struct Work<'a> {
    device: &'a Device,
    eps: f32,
}

impl Work<'_> {
    /// rms(x) * (1 + scale) + shift
    fn modulated(
        &self,
        x: &Tensor,
        shift: Rows<'_>,
        scale: Rows<'_>,
    ) -> Result<Tensor, KernelError> {
        self.normed(
            x,
            Norm::Rms { eps: self.eps },
            Some(Modulation { shift, scale }),
        )
    }

    fn normed(
        &self,
        x: &Tensor,
        norm: Norm,
        modulation: Option<Modulation<'_>>,
    ) -> Result<Tensor, KernelError> {
        let mut y = Tensor::activations(self.device, x.dims())?;
        norm_modulate(self.device, x, norm, Weight::One, modulation, &mut y)?;
        Ok(y)
    }

    fn attend_to_self(
        &self,
        x: &mut Tensor,
        stream: &Stream,
        rows: &StreamRows,
        (rope, mask): (&RopeTable, Mask<'_>),
        perturbed: bool,
    ) -> Result<(), KernelError> {
        let query = self.modulated(x, rows.own.slot(slot::SHIFT), rows.own.slot(slot::SCALE))?;
        let rope = Some((rope, rope));
        let input = AttentionInput {
            x: &query,
            context: None,
            rope,
            mask,
            perturbed,
        };
        let gate = Epilogue::GatedResidual(rows.own.slot(slot::GATE));
        stream.attention.forward(self.device, input, gate, x)
    }

    /// Queries and context are modulated, and the result gated, only where the stream has rows for it.
    fn attend_to_text(
        &self,
        x: &mut Tensor,
        stream: &Stream,
        rows: &StreamRows,
        context: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<(), KernelError> {
        let mask = mask.map_or(Mask::None, Mask::Additive);
        let Some(prompt) = &rows.prompt else {
            let query = self.normed(x, Norm::Rms { eps: self.eps }, None)?;
            let context = Some(context);
            let input = AttentionInput {
                x: &query,
                context,
                rope: None,
                mask,
                perturbed: false,
            };
            return stream
                .text
                .forward(self.device, input, Epilogue::Residual, x);
        };
        let query = self.modulated(
            x,
            rows.own.slot(slot::SHIFT_TEXT),
            rows.own.slot(slot::SCALE_TEXT),
        )?;
        let modulation = Modulation {
            shift: prompt.slot(0),
            scale: prompt.slot(1),
        };
        let context = self.normed(context, Norm::None, Some(modulation))?;
        let context = Some(&context);
        let input = AttentionInput {
            x: &query,
            context,
            rope: None,
            mask,
            perturbed: false,
        };
        let gate = Epilogue::GatedResidual(rows.own.slot(slot::GATE_TEXT));
        stream.text.forward(self.device, input, gate, x)
    }

    fn feed_forward(
        &self,
        x: &mut Tensor,
        stream: &Stream,
        rows: &StreamRows,
    ) -> Result<(), KernelError> {
        let y = self.modulated(
            x,
            rows.own.slot(slot::SHIFT_FF),
            rows.own.slot(slot::SCALE_FF),
        )?;
        let gate = Epilogue::GatedResidual(rows.own.slot(slot::GATE_FF));
        stream.ff.forward(self.device, &y, gate, x)
    }
}
