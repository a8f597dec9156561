//! The connectors: features of a prompt to a context for each stream. Valid tokens move to the front,
//! learnt registers fill the rest, then a few transformer blocks run over all positions.

use kernels::attention::Mask;
use kernels::linear::Epilogue;
use kernels::norm::{Norm, Weight, norm_modulate};
use kernels::rope::{Axis, Layout, RopeTable, rope_table};
use kernels::{Device, KernelError, Tensor};

use super::{HiddenStates, features};
use crate::layers::{Attention, AttentionInput, AttentionShape, FeedForward, Linear, Loader};
use crate::transformer::read_layout;
use crate::weights::{Component, Config, WeightsError};

const EPS: f32 = 1e-6;

/// Sizes of one stream's connector.
#[derive(Debug, Clone, Copy, PartialEq)]
struct StreamConfig {
    heads: usize,
    head_dim: usize,
    layers: usize,
    registers: usize,
    gated: bool,
}

/// The connectors' config.
#[derive(Debug, Clone, PartialEq)]
struct ConnectorConfig {
    captions: usize,
    states: usize,
    video: StreamConfig,
    audio: StreamConfig,
    layout: Layout,
    theta: f64,
    positions: f32,
    /// Widths of the projections of 2.3; absent in 2.0, where both streams share one.
    hidden: Option<(usize, usize)>,
    proj_bias: bool,
}

/// One block of a connector.
#[derive(Debug)]
struct Block {
    attention: Attention,
    ff: FeedForward,
}

/// One stream's connector.
#[derive(Debug)]
struct Connector {
    width: usize,
    registers: Tensor,
    blocks: Vec<Block>,
}

/// Projections of features.
#[derive(Debug)]
enum Projection {
    /// 2.0: one for both streams.
    Shared(Linear),
    /// 2.3: one for each.
    Each {
        video: Box<Linear>,
        audio: Box<Linear>,
    },
}

/// The connectors' weights.
#[derive(Debug)]
pub struct Connectors {
    path: std::path::PathBuf,
    config: ConnectorConfig,
    projection: Projection,
    video: Connector,
    audio: Connector,
}

impl ConnectorConfig {
    fn read(config: &Config) -> Result<Self, WeightsError> {
        config.require("rope_double_precision", true)?;
        config.require("causal_temporal_positioning", false)?;
        let widths = (
            config.get("video_hidden_dim", 4096)?,
            config.get("audio_hidden_dim", 2048)?,
        );
        Ok(Self {
            captions: config.get("caption_channels", 3840)?,
            states: config.get("text_proj_in_factor", 49)?,
            video: read_stream(config, "video")?,
            audio: read_stream(config, "audio")?,
            layout: read_layout(config)?,
            theta: config.get("rope_theta", 10_000.0)?,
            positions: config.get("connector_rope_base_seq_len", 4096.0)?,
            hidden: config
                .get("per_modality_projections", false)?
                .then_some(widths),
            proj_bias: config.get("proj_bias", false)?,
        })
    }
}

fn read_stream(config: &Config, stream: &str) -> Result<StreamConfig, WeightsError> {
    let field = |name: &str| format!("{stream}_connector_{name}");
    let read = StreamConfig {
        heads: config.get(&field("num_attention_heads"), 30)?,
        head_dim: config.get(&field("attention_head_dim"), 128)?,
        layers: config.get(&field("num_layers"), 2)?,
        registers: config.get(&field("num_learnable_registers"), 128)?,
        gated: config.get(&format!("{stream}_gated_attn"), false)?,
    };
    if read.registers == 0 {
        return Err(config.refuse(&field("num_learnable_registers"), "0 is not supported"));
    }
    Ok(read)
}

impl Connector {
    fn load(
        loader: &Loader<'_>,
        stream: &StreamConfig,
        layout: Layout,
    ) -> Result<Self, WeightsError> {
        let StreamConfig {
            heads,
            head_dim,
            gated,
            ..
        } = *stream;
        let width = heads * head_dim;
        let shape = AttentionShape {
            query: width,
            context: width,
            heads,
            head_dim,
            bias: true,
            out_bias: true,
            gated,
            layout,
        };
        let block = |number| {
            let loader = loader.at(format!("transformer_blocks.{number}"));
            Ok(Block {
                attention: Attention::load(&loader.at("attn1"), shape)?,
                ff: FeedForward::load(&loader.at("ff"), width, true)?,
            })
        };
        Ok(Self {
            width,
            registers: loader.tensor("learnable_registers", &[stream.registers, width])?,
            blocks: (0..stream.layers)
                .map(block)
                .collect::<Result<_, WeightsError>>()?,
        })
    }

    /// Valid rows first, in order; position p after them holds register p modulo their number.
    fn fill(
        &self,
        device: &Device,
        projected: &Tensor,
        pads: usize,
    ) -> Result<Tensor, KernelError> {
        let width = self.width;
        let valid = projected.row_count() - pads;
        let (projected_values, registers) = (projected.values()?, self.registers.values()?);
        let mut values = projected_values[pads * width..].to_vec();
        for position in valid..projected.row_count() {
            let register = position % self.registers.row_count();
            values.extend_from_slice(&registers[register * width..][..width]);
        }
        Tensor::from_f32(device, projected.dims(), values)
    }

    fn forward(
        &self,
        device: &Device,
        projected: &Tensor,
        pads: usize,
        rope: &RopeTable,
    ) -> Result<Tensor, KernelError> {
        let mut x = self.fill(device, projected, pads)?;
        for block in &self.blocks {
            let query = normed(device, &x)?;
            let rope = Some((rope, rope));
            let input = AttentionInput {
                x: &query,
                context: None,
                rope,
                mask: Mask::None,
                perturbed: false,
            };
            block
                .attention
                .forward(device, input, Epilogue::Residual, &mut x)?;
            let y = normed(device, &x)?;
            block.ff.forward(device, &y, Epilogue::Residual, &mut x)?;
        }
        normed(device, &x)
    }
}

/// RMS norm without weight.
fn normed(device: &Device, x: &Tensor) -> Result<Tensor, KernelError> {
    let mut y = Tensor::activations(device, x.dims())?;
    norm_modulate(device, x, Norm::Rms { eps: EPS }, Weight::One, None, &mut y)?;
    Ok(y)
}

impl Connectors {
    /// Loads the part `connectors`.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file and the field or tensor.
    pub fn load(component: &Component, device: &Device) -> Result<Self, WeightsError> {
        component.expect_class(&["LTX2TextConnectors"])?;
        let config = ConnectorConfig::read(component.config())?;
        component.config().warn_unread();
        let loader = Loader::new(component, device);
        let features = config.captions * config.states;
        let linear =
            |name: &str, width| Linear::load(&loader.at(name), (width, features), config.proj_bias);
        let projection = match config.hidden {
            Some((video, audio)) => Projection::Each {
                video: Box::new(linear("video_text_proj_in", video)?),
                audio: Box::new(linear("audio_text_proj_in", audio)?),
            },
            None => Projection::Shared(linear("text_proj_in", config.captions)?),
        };
        let found = Self {
            path: component.config().path().to_owned(),
            projection,
            video: Connector::load(&loader.at("video_connector"), &config.video, config.layout)?,
            audio: Connector::load(&loader.at("audio_connector"), &config.audio, config.layout)?,
            config,
        };
        found.check_widths()?;
        Ok(found)
    }

    fn check_widths(&self) -> Result<(), WeightsError> {
        let projected = self
            .config
            .hidden
            .unwrap_or((self.config.captions, self.config.captions));
        let streams = [
            ("video", self.video.width, projected.0),
            ("audio", self.audio.width, projected.1),
        ];
        for (stream, width, projected) in streams {
            if width != projected {
                let field = format!("{stream}_connector_num_attention_heads");
                let reason =
                    format!("heads are {width} wide, but the projection gives {projected}");
                return Err(self.refuse(field, reason));
            }
        }
        Ok(())
    }

    /// Refuses a text encoder of other sizes or a prompt length that registers do not divide.
    ///
    /// # Errors
    /// [`WeightsError::Field`].
    pub fn check(&self, hidden: usize, states: usize, tokens: usize) -> Result<(), WeightsError> {
        let config = &self.config;
        if config.captions != hidden {
            let reason = format!("{}, but the text encoder is {hidden} wide", config.captions);
            return Err(self.refuse("caption_channels", reason));
        }
        if config.states != states {
            let reason = format!(
                "{}, but the text encoder has {states} hidden states",
                config.states
            );
            return Err(self.refuse("text_proj_in_factor", reason));
        }
        for (stream, connector) in [("video", &config.video), ("audio", &config.audio)] {
            if !tokens.is_multiple_of(connector.registers) {
                let field = format!("{stream}_connector_num_learnable_registers");
                return Err(self.refuse(
                    field,
                    format!("{} do not divide {tokens}", connector.registers),
                ));
            }
        }
        Ok(())
    }

    /// Width and number of the hidden states that are read.
    pub fn reads(&self) -> (usize, usize) {
        (self.config.captions, self.config.states)
    }

    /// Widths of the context for video and audio.
    pub fn widths(&self) -> (usize, usize) {
        (self.video.width, self.audio.width)
    }

    fn refuse(&self, field: impl Into<String>, reason: String) -> WeightsError {
        WeightsError::Field {
            path: self.path.clone(),
            field: field.into(),
            reason,
        }
    }

    /// Context of both streams, [T, width] each, from the hidden states of a left-padded prompt.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn forward(
        &self,
        device: &Device,
        states: &HiddenStates,
        pads: usize,
    ) -> Result<(Tensor, Tensor), KernelError> {
        let scale = |width: usize| (width as f64 / self.config.captions as f64).sqrt() as f32;
        let each = |linear: &Linear| {
            let features = features::by_token(device, states, pads, scale(linear.outputs()))?;
            linear.forward(device, &features, Epilogue::None)
        };
        let (video, audio) = match &self.projection {
            Projection::Each { video, audio } => (each(video)?, each(audio)?),
            Projection::Shared(linear) => {
                let features = features::by_layer(device, states, pads)?;
                let projected = linear.forward(device, &features, Epilogue::None)?;
                (projected.clone(), projected)
            }
        };
        let positions: Vec<f32> = (0..video.row_count())
            .map(|position| position as f32)
            .collect();
        let axis = Axis {
            positions: &positions,
            max: self.config.positions,
        };
        let table = |width| rope_table(&[axis], self.config.theta, width);
        let video = self
            .video
            .forward(device, &video, pads, &table(self.video.width)?)?;
        let audio = self
            .audio
            .forward(device, &audio, pads, &table(self.audio.width)?)?;
        Ok((video, audio))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    /// The golden file holds states as [token, hidden, state].
    fn states(golden: &Golden, name: &str) -> HiddenStates {
        let packed = golden.tensor(name);
        let [tokens, hidden, count] = packed.dims() else {
            panic!("three dimensions")
        };
        let state = |layer: usize| {
            let values = (0..tokens * hidden)
                .map(|i| packed.f32s()[i * count + layer])
                .collect();
            Tensor::from_f32(golden.device(), &[*tokens, *hidden], values).unwrap()
        };
        (0..*count).map(state).collect()
    }

    #[test]
    fn both_versions_equal_the_reference_for_any_padding() {
        for file in ["conn_23", "conn_20"] {
            let golden = Golden::open(file);
            let connectors = Connectors::load(&golden.component(), golden.device()).unwrap();
            for (case, pads) in [("partial", 3), ("full", 0), ("one", 7)] {
                let states = states(&golden, &format!("in.{case}.states"));
                let (video, audio) = connectors.forward(golden.device(), &states, pads).unwrap();
                golden.check(&format!("out.{case}.video"), video.f32s(), 1e-4);
                golden.check(&format!("out.{case}.audio"), audio.f32s(), 1e-4);
            }
        }
    }

    #[test]
    fn a_text_encoder_of_other_sizes_is_refused_by_field() {
        let golden = Golden::open("conn_23");
        let connectors = Connectors::load(&golden.component(), golden.device()).unwrap();
        assert!(connectors.check(10, 3, 8).is_ok());
        let error = |hidden, states, tokens| {
            connectors
                .check(hidden, states, tokens)
                .unwrap_err()
                .to_string()
        };
        assert!(error(11, 3, 8).contains("`caption_channels`"));
        assert!(error(10, 4, 8).contains("`text_proj_in_factor`"));
        assert!(error(10, 3, 9).contains("`video_connector_num_learnable_registers`"));
    }
}
