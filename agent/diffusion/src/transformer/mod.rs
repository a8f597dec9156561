//! The joint transformer of picture and sound: velocities of both streams from their noisy latents,
//! the text and the noise level. One forward for 2.0, 2.3 and the built-in model.

mod block;
mod config;
mod memory;
mod modulation;
mod positions;
mod window;

use kernels::copy::copy_range;
use kernels::linear::Epilogue;
use kernels::modulation::ada_table;
use kernels::norm::{Modulation, Norm, Weight, norm_modulate};
use kernels::{Device, KernelError, Tensor};

use crate::latent::Grid;
use crate::layers::{Linear, Loader};
use crate::weights::{Component, WeightsError};

pub use block::Tokens;
pub(crate) use config::read_layout;
pub use config::{StreamConfig, TransformerConfig};
pub use modulation::{Times, TokenRows};
pub use positions::Positions;

use block::{Block, BlockRows};
use modulation::AdaLn;

/// Added to the variance in the head's LayerNorm.
const HEAD_EPS: f32 = 1e-6;

/// Text for both streams.
#[derive(Debug, Clone)]
pub struct Context {
    /// [T, video context width]
    pub video: Tensor,
    /// [T, audio context width]
    pub audio: Tensor,
    /// Added to the scores of each text token [T]; absent when all are visible.
    pub mask: Option<Tensor>,
}

/// Noise levels of one step, as timesteps (1000 sigma).
#[derive(Debug, Clone)]
pub struct Noise {
    /// Video tokens.
    pub video: Times,
    /// Audio tokens.
    pub audio: Times,
    /// The video stream as a whole.
    pub video_sigma: Tensor,
    /// The audio stream as a whole.
    pub audio_sigma: Tensor,
}

/// Which connections of a block are cut, for guidance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass<'a> {
    /// Blocks whose self-attention is skipped.
    pub perturbed_blocks: &'a [usize],
    /// The streams do not see each other.
    pub isolated: bool,
    /// Video tokens [S] that are keyframes: those above 0 get the model's embedding of one, where it
    /// has it.
    pub keyframes: Option<&'a Tensor>,
}

impl Pass<'_> {
    /// Whether the block's self-attention is skipped.
    pub fn is_perturbed(&self, block: usize) -> bool {
        self.perturbed_blocks.contains(&block)
    }
}

/// Module outputs of one stream at one step, before the blocks add their tables.
#[derive(Debug)]
pub struct StepModules {
    own: TokenRows,
    prompt: Option<TokenRows>,
    cross: TokenRows,
    /// Embedded timesteps for the head [group, 1, width].
    head: TokenRows,
}

/// Everything that a step's passes share.
#[derive(Debug)]
pub struct Step {
    blocks: Vec<BlockRows>,
    video_head: TokenRows,
    audio_head: TokenRows,
}

/// Velocities of both streams.
#[derive(Debug)]
pub struct Velocity {
    /// [S, out channels]
    pub video: Tensor,
    /// [L, out channels]
    pub audio: Tensor,
}

/// Caption projection of 2.0: linear, GELU, linear.
#[derive(Debug)]
struct CaptionProjection {
    first: Linear,
    second: Linear,
}

/// Layers of one stream outside the blocks.
#[derive(Debug)]
struct StreamEnds {
    width: usize,
    proj_in: Linear,
    proj_out: Linear,
    head_table: Tensor,
    time_embed: AdaLn,
    prompt_adaln: Option<AdaLn>,
    cross_scale_shift: AdaLn,
    cross_gate: AdaLn,
    captions: Option<CaptionProjection>,
}

/// The transformer's weights.
#[derive(Debug)]
pub struct Transformer {
    config: TransformerConfig,
    video: StreamEnds,
    audio: StreamEnds,
    blocks: Vec<Block>,
    /// Added to tokens that are keyframes (2.5) [1, D].
    keyframe_embedding: Option<Tensor>,
}

impl CaptionProjection {
    fn load(loader: &Loader<'_>, captions: usize, width: usize) -> Result<Self, WeightsError> {
        Ok(Self {
            first: Linear::load(&loader.at("linear_1"), (width, captions), true)?,
            second: Linear::load(&loader.at("linear_2"), (width, width), true)?,
        })
    }

    fn forward(&self, device: &Device, x: &Tensor) -> Result<Tensor, KernelError> {
        let hidden = self.first.forward(device, x, Epilogue::GeluTanh)?;
        self.second.forward(device, &hidden, Epilogue::None)
    }
}

impl StreamEnds {
    fn load(
        loader: &Loader<'_>,
        config: &TransformerConfig,
        stream: &StreamConfig,
        prefix: &str,
        (cross_scale_shift, cross_gate): (&str, &str),
    ) -> Result<Self, WeightsError> {
        let width = stream.width();
        let named = |name: &str| loader.at(format!("{prefix}{name}"));
        let prompt_adaln = match stream.text_modulated && config.prompt_adaln {
            true => Some(AdaLn::load(&named("prompt_adaln"), 2, width)?),
            false => None,
        };
        let captions = config
            .captions
            .map(|captions| CaptionProjection::load(&named("caption_projection"), captions, width));
        Ok(Self {
            width,
            proj_in: Linear::load(&named("proj_in"), (width, stream.in_channels), true)?,
            proj_out: Linear::load(&named("proj_out"), (stream.out_channels, width), true)?,
            head_table: loader.tensor(&format!("{prefix}scale_shift_table"), &[2, width])?,
            time_embed: AdaLn::load(&named("time_embed"), stream.rows(), width)?,
            prompt_adaln,
            cross_scale_shift: AdaLn::load(&loader.at(cross_scale_shift), 4, width)?,
            cross_gate: AdaLn::load(&loader.at(cross_gate), 1, width)?,
            captions: captions.transpose()?,
        })
    }

    /// `times` are the stream's own, `cross` those of its cross-stream modulation.
    fn modules(
        &self,
        device: &Device,
        times: &Times,
        sigma: &Tensor,
        cross: &Times,
        gate_ratio: f32,
    ) -> Result<StepModules, KernelError> {
        let (own, embedded) = self.time_embed.forward(device, &times.values, 1.0)?;
        let (scale_shift, _) = self.cross_scale_shift.forward(device, &cross.values, 1.0)?;
        let (gate, _) = self.cross_gate.forward(device, &cross.values, gate_ratio)?;
        let prompt = match &self.prompt_adaln {
            Some(module) => Some(TokenRows {
                table: module.forward(device, sigma, 1.0)?.0,
                groups: None,
            }),
            None => None,
        };
        Ok(StepModules {
            own: TokenRows {
                table: own,
                groups: times.groups.clone(),
            },
            prompt,
            cross: TokenRows {
                table: joined(device, &scale_shift, &gate)?,
                groups: cross.groups.clone(),
            },
            head: TokenRows {
                table: embedded,
                groups: times.groups.clone(),
            },
        })
    }

    /// The head's rows: shift, scale = table + embedded timestep.
    fn head_rows(&self, device: &Device, modules: &StepModules) -> Result<TokenRows, KernelError> {
        let embedded = &modules.head.table;
        let groups = embedded.row_count();
        let twice = joined(device, embedded, embedded)?;
        let mut table = Tensor::zeros_f32(device, &[groups, 2, self.width])?;
        ada_table(device, &self.head_table, &twice, &mut table)?;
        Ok(TokenRows {
            table,
            groups: modules.head.groups.clone(),
        })
    }

    fn project_out(
        &self,
        device: &Device,
        x: &Tensor,
        rows: &TokenRows,
    ) -> Result<Tensor, KernelError> {
        let modulation = Modulation {
            shift: rows.slot(0),
            scale: rows.slot(1),
        };
        let mut y = Tensor::activations(device, x.dims())?;
        let norm = Norm::Layer { eps: HEAD_EPS };
        norm_modulate(device, x, norm, Weight::One, Some(modulation), &mut y)?;
        self.proj_out.forward(device, &y, Epilogue::None)
    }

    fn captions(&self, device: &Device, text: &Tensor) -> Result<Tensor, KernelError> {
        match &self.captions {
            Some(projection) => projection.forward(device, text),
            None => Ok(text.clone()),
        }
    }
}

/// Rows of two modules side by side: [group, a + b].
fn joined(device: &Device, a: &Tensor, b: &Tensor) -> Result<Tensor, KernelError> {
    let (rows, left, right) = (a.row_count(), a.last_dim(), b.last_dim());
    let mut out = Tensor::zeros_f32(device, &[rows, left + right])?;
    for row in 0..rows {
        let at = row * (left + right);
        copy_range(device, (a, row * left), (&mut out, at), left)?;
        copy_range(device, (b, row * right), (&mut out, at + left), right)?;
    }
    Ok(out)
}

impl Transformer {
    /// Loads the part `transformer`.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file and the field or tensor.
    pub fn load(component: &Component, device: &Device) -> Result<Self, WeightsError> {
        component.expect_class(&["LTX2VideoTransformer3DModel"])?;
        let config = TransformerConfig::read(component.config())?;
        component.config().warn_unread();
        let loader = Loader::new(component, device);
        let cross = (
            "av_cross_attn_video_scale_shift",
            "av_cross_attn_video_a2v_gate",
        );
        let video = StreamEnds::load(&loader, &config, &config.video, "", cross)?;
        let cross = (
            "av_cross_attn_audio_scale_shift",
            "av_cross_attn_audio_v2a_gate",
        );
        let audio = StreamEnds::load(&loader, &config, &config.audio, "audio_", cross)?;
        let keyframe_embedding = match config.keyframe_embedding {
            true => {
                let dims = [1, config.video.width()];
                Some(loader.tensor("keyframes_abs_pos_embedding", &dims)?)
            }
            false => None,
        };
        let block =
            |number| Block::load(&loader.at(format!("transformer_blocks.{number}")), &config);
        let blocks = (0..config.layers).map(block).collect::<Result<_, _>>()?;
        Ok(Self {
            video,
            audio,
            blocks,
            keyframe_embedding,
            config,
        })
    }

    /// The config.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// Prepares text for all steps: projects captions where the transformer does that itself.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the text has another width than the transformer reads.
    pub fn context(&self, device: &Device, text: &Context) -> Result<Context, KernelError> {
        Ok(Context {
            video: self.video.captions(device, &text.video)?,
            audio: self.audio.captions(device, &text.audio)?,
            mask: text.mask.clone(),
        })
    }

    /// Modulation rows of a step. `cross_timestep`: the cross-stream rows of each stream are taken
    /// at the other stream's noise level.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn step(
        &self,
        device: &Device,
        noise: &Noise,
        cross_timestep: bool,
    ) -> Result<Step, KernelError> {
        let whole = |sigma: &Tensor| Times {
            values: sigma.clone(),
            groups: None,
        };
        let (video_cross, audio_cross) = match cross_timestep {
            true => (whole(&noise.audio_sigma), whole(&noise.video_sigma)),
            false => (noise.video.clone(), noise.audio.clone()),
        };
        let ratio = self.config.gate_ratio;
        let video = self.video.modules(
            device,
            &noise.video,
            &noise.video_sigma,
            &video_cross,
            ratio,
        )?;
        let audio = self.audio.modules(
            device,
            &noise.audio,
            &noise.audio_sigma,
            &audio_cross,
            ratio,
        )?;
        let rows = |block: &Block| block.rows(device, &video, &audio);
        Ok(Step {
            blocks: self.blocks.iter().map(rows).collect::<Result<_, _>>()?,
            video_head: self.video.head_rows(device, &video)?,
            audio_head: self.audio.head_rows(device, &audio)?,
        })
    }

    /// Velocities of the latents video [S, C] and audio [L, C].
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn velocity(
        &self,
        device: &Device,
        latents: (&Tensor, &Tensor),
        context: &Context,
        positions: &Positions,
        step: &Step,
        pass: Pass<'_>,
    ) -> Result<Velocity, KernelError> {
        let tokens = self.begin(device, latents, positions, step, pass)?;
        self.finish(device, tokens, context, positions, step, pass)
    }

    /// The part of [`Transformer::velocity`] that comes before the text, and that passes of a step share unless
    /// [`Pass::is_perturbed`] in the first block differs: the tokens behind that block's self-attention.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn begin(
        &self,
        device: &Device,
        (video, audio): (&Tensor, &Tensor),
        positions: &Positions,
        step: &Step,
        pass: Pass<'_>,
    ) -> Result<Tokens, KernelError> {
        let mut tokens = Tokens {
            video: self.video.proj_in.forward(device, video, Epilogue::None)?,
            audio: self.audio.proj_in.forward(device, audio, Epilogue::None)?,
        };
        if let (Some(embedding), Some(marks)) = (&self.keyframe_embedding, pass.keyframes) {
            mark_keyframes(device, &mut tokens.video, embedding, marks)?;
        }
        if let (Some(block), Some(rows)) = (self.blocks.first(), step.blocks.first()) {
            block.begin(device, &mut tokens, positions, rows, pass.is_perturbed(0))?;
        }
        Ok(tokens)
    }

    /// The rest of [`Transformer::velocity`] behind [`Transformer::begin`].
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn finish(
        &self,
        device: &Device,
        mut tokens: Tokens,
        context: &Context,
        positions: &Positions,
        step: &Step,
        pass: Pass<'_>,
    ) -> Result<Velocity, KernelError> {
        let tokens = &mut tokens;
        for (number, (block, rows)) in self.blocks.iter().zip(&step.blocks).enumerate() {
            if number > 0 {
                block.begin(device, tokens, positions, rows, pass.is_perturbed(number))?;
            }
            block.finish(device, tokens, context, positions, rows, pass.isolated)?;
        }
        Ok(Velocity {
            video: self
                .video
                .project_out(device, &tokens.video, &step.video_head)?,
            audio: self
                .audio
                .project_out(device, &tokens.audio, &step.audio_head)?,
        })
    }

    /// Rotary tables of a clip, and of one picture appended to it for each of `stills` (frames).
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] for widths that have no table.
    pub fn positions(&self, grid: &Grid, stills: &[u32]) -> Result<Positions, KernelError> {
        Positions::new(&self.config, grid, stills)
    }
}

/// Adds the embedding to the tokens whose mark is above 0.
fn mark_keyframes(
    device: &Device,
    x: &mut Tensor,
    embedding: &Tensor,
    marks: &Tensor,
) -> Result<(), KernelError> {
    marks.expect_f32("transformer", "keyframes", &[x.row_count()])?;
    let width = x.last_dim();
    let (marks, embedding) = (marks.values()?, embedding.values()?);
    let mut values = x.values()?.into_owned();
    for (row, mark) in values.chunks_exact_mut(width).zip(&*marks) {
        if *mark > 0.0 {
            row.iter_mut().zip(&*embedding).for_each(|(x, e)| *x += e);
        }
    }
    *x = Tensor::from_f32(device, x.dims(), values)?;
    Ok(())
}

#[cfg(test)]
mod tests;
