//! What the config of the video autoencoder says, checked and in order of execution.

use kernels::conv::SpacePad;
use kernels::space_depth::Strides;
use serde::Deserialize;

use crate::weights::{Config, WeightsError};

/// Colours of a pixel.
pub(super) const COLOURS: usize = 3;

/// Frames, rows and columns that one latent covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// Frames; the first latent of a clip covers one.
    pub time: usize,
    /// Rows, and columns.
    pub space: usize,
}

/// Fields of the encoder alone; every file has them, and the decoder may be all that is loaded.
const ENCODER_FIELDS: [&str; 7] = [
    "block_out_channels",
    "layers_per_block",
    "spatio_temporal_scaling",
    "downsample_type",
    "down_block_types",
    "encoder_causal",
    "encoder_spatial_padding_mode",
];

/// One value for all blocks, or one for each.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrEach {
    One(bool),
    Each(Vec<bool>),
}

/// One block of the encoder or decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub in_channels: usize,
    pub out_channels: usize,
    pub resnets: usize,
    /// None leaves size and channels as they are.
    pub strides: Option<Strides>,
    /// The upsampler adds what it got, expanded.
    pub residual: bool,
}

/// An encoder or a decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub latent_channels: usize,
    pub mid_resnets: usize,
    pub blocks: Vec<Block>,
    pub patch: usize,
    pub space: SpacePad,
    pub causal: bool,
    pub compression: Compression,
}

/// Reads the encoder's fields.
pub(super) fn encoder(config: &Config) -> Result<Layout, WeightsError> {
    let latent_channels = config.get("latent_channels", 128)?;
    let widths = list(config, "block_out_channels", &[256, 512, 1024, 2048])?;
    let blocks = widths.len();
    let layers = list(config, "layers_per_block", &[4, 6, 6, 2, 2])?;
    same_length(config, "layers_per_block", layers.len(), blocks + 1)?;
    let scaling = flags(config, "spatio_temporal_scaling", blocks, true)?;
    let default = ["spatial", "temporal", "spatiotemporal", "spatiotemporal"];
    let kinds = kinds(config, "downsample_type", &default, blocks)?;
    let types = vec!["LTX2VideoDownBlock3D".to_owned(); blocks];
    config.require("down_block_types", types)?;
    let mut out = Vec::new();
    let mut width: usize = latent_channels;
    for i in 0..blocks {
        let strides = scaling[i].then_some(kinds[i]);
        let product: usize = strides.unwrap_or([1; 3]).iter().product();
        let fits = match strides {
            Some(_) => {
                widths[i].is_multiple_of(product) && (width * product).is_multiple_of(widths[i])
            }
            None => widths[i] == width,
        };
        if !fits {
            let reason = format!("{} channels cannot follow {width} in block {i}", widths[i]);
            return Err(config.refuse("block_out_channels", reason));
        }
        let resnets = layers[i];
        out.push(Block {
            in_channels: width,
            out_channels: widths[i],
            resnets,
            strides,
            residual: true,
        });
        width = widths[i];
    }
    config.require("encoder_causal", true)?;
    let space = space_pad(config, "encoder_spatial_padding_mode", "zeros")?;
    layout(config, latent_channels, layers[blocks], out, space, true)
}

/// Reads the decoder's fields. All of its lists but `upsample_type` are stored in reverse.
pub(super) fn decoder(config: &Config) -> Result<Layout, WeightsError> {
    config.ignore(&ENCODER_FIELDS);
    refuse_conditioning(config)?;
    let mut widths = list(config, "decoder_block_out_channels", &[256, 512, 1024])?;
    let blocks = widths.len();
    let mut layers = list(config, "decoder_layers_per_block", &[5, 5, 5, 5])?;
    same_length(config, "decoder_layers_per_block", layers.len(), blocks + 1)?;
    let mut scaling = flags(config, "decoder_spatio_temporal_scaling", blocks, true)?;
    let mut residual = flags(config, "upsample_residual", blocks, true)?;
    let mut factors = list(config, "upsample_factor", &[2, 2, 2])?;
    same_length(config, "upsample_factor", factors.len(), blocks)?;
    let kinds = kinds(config, "upsample_type", &["spatiotemporal"; 3], blocks)?;
    widths.reverse();
    layers.reverse();
    scaling.reverse();
    residual.reverse();
    factors.reverse();
    let mut out = Vec::new();
    let mut width = widths[0];
    for i in 0..blocks {
        let strides = scaling[i].then_some(kinds[i]);
        let block = up_block(
            config,
            i,
            [width, widths[i], factors[i]],
            strides,
            residual[i],
        )?;
        width = block.out_channels;
        out.push(Block {
            resnets: layers[i + 1],
            ..block
        });
    }
    let causal = config.get("decoder_causal", true)?;
    let space = space_pad(config, "decoder_spatial_padding_mode", "reflect")?;
    let latent_channels = config.get("latent_channels", 128)?;
    layout(config, latent_channels, layers[0], out, space, causal)
}

/// Checks block `i` (in order of execution) against the channels that reach it.
fn up_block(
    config: &Config,
    i: usize,
    [reaching, width, factor]: [usize; 3],
    strides: Option<Strides>,
    residual: bool,
) -> Result<Block, WeightsError> {
    let product: usize = strides.unwrap_or([1; 3]).iter().product();
    if width != reaching || factor == 0 || width % factor != 0 {
        let reason = format!(
            "{width} channels with factor {factor} cannot follow {reaching} in block {i}: a width \
             that changes outside an upsampler needs a `conv_in`, which is not supported"
        );
        return Err(config.refuse("decoder_block_out_channels", reason));
    }
    if !product.is_multiple_of(factor) || (residual && !width.is_multiple_of(product)) {
        let reason = format!("{factor} does not fit {width} channels and strides {strides:?}");
        return Err(config.refuse("upsample_factor", reason));
    }
    let out_channels = width / factor;
    Ok(Block {
        in_channels: width,
        out_channels,
        resnets: 0,
        strides,
        residual,
    })
}

fn layout(
    config: &Config,
    latent_channels: usize,
    mid_resnets: usize,
    blocks: Vec<Block>,
    space: SpacePad,
    causal: bool,
) -> Result<Layout, WeightsError> {
    config.require("in_channels", COLOURS)?;
    config.require("out_channels", COLOURS)?;
    config.require("patch_size_t", 1usize)?;
    // The norm with this constant exists only where a resnet changes its width.
    config.ignore(&["resnet_norm_eps"]);
    let patch = config.get("patch_size", 4)?;
    if patch == 0 || latent_channels == 0 || blocks.iter().any(|block| block.out_channels == 0) {
        return Err(config.refuse("patch_size", "sizes and channels must not be 0"));
    }
    let factor = |axis: usize| -> usize {
        blocks
            .iter()
            .map(|block| block.strides.map_or(1, |strides| strides[axis]))
            .product()
    };
    let compression = Compression {
        time: factor(0),
        space: patch * factor(1),
    };
    stated(config, "temporal_compression_ratio", compression.time)?;
    stated(config, "spatial_compression_ratio", compression.space)?;
    Ok(Layout {
        latent_channels,
        mid_resnets,
        blocks,
        patch,
        space,
        causal,
        compression,
    })
}

/// Refuses a stated ratio that is not what the blocks do.
fn stated(config: &Config, field: &str, found: usize) -> Result<(), WeightsError> {
    match config.optional::<usize>(field)? {
        Some(stated) if stated != found => Err(config.refuse(
            field,
            format!("{stated} is stated but the blocks compress by {found}"),
        )),
        _ => Ok(()),
    }
}

fn refuse_conditioning(config: &Config) -> Result<(), WeightsError> {
    config.require("timestep_conditioning", false)?;
    let noise = match config.optional("decoder_inject_noise")? {
        None => false,
        Some(OneOrEach::One(noise)) => noise,
        Some(OneOrEach::Each(noise)) => noise.contains(&true),
    };
    if noise {
        return Err(config.refuse("decoder_inject_noise", "true is not supported, only false"));
    }
    Ok(())
}

fn list(config: &Config, field: &str, default: &[usize]) -> Result<Vec<usize>, WeightsError> {
    let values: Vec<usize> = config.get(field, default.to_vec())?;
    if values.is_empty() {
        return Err(config.refuse(field, "the list is empty"));
    }
    Ok(values)
}

fn flags(
    config: &Config,
    field: &str,
    count: usize,
    default: bool,
) -> Result<Vec<bool>, WeightsError> {
    let values = match config.optional(field)? {
        None => vec![default; count],
        Some(OneOrEach::One(value)) => vec![value; count],
        Some(OneOrEach::Each(values)) => values,
    };
    same_length(config, field, values.len(), count)?;
    Ok(values)
}

fn same_length(
    config: &Config,
    field: &str,
    found: usize,
    expected: usize,
) -> Result<(), WeightsError> {
    if found == expected {
        return Ok(());
    }
    Err(config.refuse(field, format!("{found} entries, expected {expected}")))
}

fn kinds(
    config: &Config,
    field: &str,
    default: &[&str],
    count: usize,
) -> Result<Vec<Strides>, WeightsError> {
    let default = default.iter().map(|kind| (*kind).to_owned()).collect();
    let kinds: Vec<String> = config.get(field, default)?;
    same_length(config, field, kinds.len(), count)?;
    let strides = |kind: &String| match kind.as_str() {
        "spatial" => Ok([1, 2, 2]),
        "temporal" => Ok([2, 1, 1]),
        "spatiotemporal" => Ok([2, 2, 2]),
        other => Err(config.refuse(field, format!("`{other}` is not supported"))),
    };
    kinds.iter().map(strides).collect()
}

fn space_pad(config: &Config, field: &str, default: &str) -> Result<SpacePad, WeightsError> {
    match config.get(field, default.to_owned())?.as_str() {
        "zeros" => Ok(SpacePad::Zero),
        "reflect" => Ok(SpacePad::Reflect),
        other => Err(config.refuse(field, format!("`{other}` is not supported"))),
    }
}
