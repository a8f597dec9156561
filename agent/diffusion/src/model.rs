//! Opened weights: every part of a folder in the diffusers layout that making a clip needs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kernels::Device;
use serde_json::Value;

use crate::audio_vae::{AudioDecoder, AudioEncoder, COMPRESSION as AUDIO_COMPRESSION};
use crate::error::DiffusionError;
use crate::guidance::GuidancePlan;
use crate::info::{ModelInfo, Product, SoundFormat};
use crate::latent::Compression;
use crate::memory;
use crate::sigmas::Schedule;
use crate::text::TextEncoder;
use crate::transformer::{Context, Transformer, TransformerConfig};
use crate::upsampler::{self, Upsampler};
use crate::video_vae::{VideoDecoder, VideoEncoder};
use crate::vocoder::Vocoder;
use crate::weights::{Component, Config, WeightsError};

/// Prompts whose text context is kept.
const CONTEXTS_MAX: usize = 16;
/// Text tokens of models whose tokeniser names no length.
const TEXT_TOKENS: usize = 1024;
/// A longer `model_max_length` means that there is none.
const TEXT_TOKENS_MAX: u64 = 8192;
/// Denoising steps of models that are not distilled.
const STEPS_23: u32 = 30;
const STEPS_20: u32 = 40;
/// Parts that a folder must have, in the order of work.
const PARTS: [&str; 6] = [
    "text_encoder",
    "connectors",
    "transformer",
    "vae",
    "audio_vae",
    "vocoder",
];

/// Part that only two stages need.
const UPSAMPLER: &str = "latent_upsampler";
/// Parts of newer pipelines that have a replacement here.
const DIFFUSION_DECODER: &str = "diffusion_decoder";

/// All parts of a model on one device.
#[derive(Debug)]
pub struct Weights {
    pub(crate) device: Device,
    pub(crate) info: ModelInfo,
    pub(crate) digest: [u8; 32],
    pub(crate) negative_prompt: String,
    pub(crate) schedule: Schedule,
    pub(crate) guidance: GuidancePlan,
    pub(crate) compression: Compression,
    pub(crate) transformer: Transformer,
    pub(crate) video_decoder: VideoDecoder,
    pub(crate) video_encoder: Option<VideoEncoder>,
    pub(crate) audio_decoder: AudioDecoder,
    pub(crate) audio_encoder: Option<AudioEncoder>,
    /// Folder with a latent upsampler, which is loaded between two stages.
    upsampler: Option<PathBuf>,
    /// Transformer of the second stage, where it is another one.
    pub(crate) refiner: Option<Transformer>,
    pub(crate) vocoder: Vocoder,
    /// Bytes of all loaded tensors.
    pub(crate) bytes: u64,
    text: TextEncoder,
    contexts: Mutex<Vec<(String, Arc<Context>)>>,
}

/// The parts, opened and checked against their headers.
struct Parts {
    text_encoder: Component,
    connectors: Component,
    transformer: Component,
    vae: Component,
    audio_vae: Component,
    vocoder: Component,
}

impl Parts {
    fn open(root: &Path) -> Result<Self, WeightsError> {
        check_index(root)?;
        let open = |name| Component::open(root, name);
        Ok(Self {
            text_encoder: open(PARTS[0])?,
            connectors: open(PARTS[1])?,
            transformer: open(PARTS[2])?,
            vae: open(PARTS[3])?,
            audio_vae: open(PARTS[4])?,
            vocoder: open(PARTS[5])?,
        })
    }

    fn all(&self) -> [&Component; 6] {
        let Self {
            text_encoder,
            connectors,
            transformer,
            vae,
            audio_vae,
            vocoder,
        } = self;
        [
            text_encoder,
            connectors,
            transformer,
            vae,
            audio_vae,
            vocoder,
        ]
    }

    /// Bytes of all tensors once they are loaded.
    fn loaded_bytes(&self, device: &Device) -> u64 {
        let parts = self.all();
        parts.iter().map(|part| part.loaded_bytes(device)).sum()
    }

    /// Digest over every file that the run depends on.
    fn digest(&self, root: &Path) -> Result<[u8; 32], WeightsError> {
        let mut hasher = blake3::Hasher::new();
        for part in self.all() {
            hasher
                .update(part.name().as_bytes())
                .update(part.digest()?.as_bytes());
        }
        let files = [
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
            "scheduler/scheduler_config.json",
        ];
        for name in files {
            let path = root.join(name);
            let bytes =
                std::fs::read(&path).map_err(|source| WeightsError::Read { path, source })?;
            hasher
                .update(name.as_bytes())
                .update(blake3::hash(&bytes).as_bytes());
        }
        if let Ok(bytes) = std::fs::read(root.join("dailies.json")) {
            hasher.update(blake3::hash(&bytes).as_bytes());
        }
        Ok(*hasher.finalize().as_bytes())
    }
}

/// Refuses a folder that is another pipeline or lacks a part; extra parts are named and left alone.
fn check_index(root: &Path) -> Result<(), WeightsError> {
    let path = root.join("model_index.json");
    let index = Config::open(&path)?;
    let found = index.get("_class_name", String::new())?;
    if !["LTX2Pipeline", "LTX2ImageToVideoPipeline"].contains(&found.as_str()) {
        let (component, expected) = ("pipeline".to_owned(), "LTX2Pipeline".to_owned());
        return Err(WeightsError::Class {
            path,
            component,
            expected,
            found,
        });
    }
    for part in PARTS.iter().chain(&["tokenizer", "scheduler"]) {
        if index.optional::<Value>(part)?.is_none() {
            return Err(index.refuse(part, "the pipeline has no such part"));
        }
    }
    index.ignore(&[UPSAMPLER]);
    if index.contains(DIFFUSION_DECODER) {
        index.ignore(&[DIFFUSION_DECODER]);
        let path = path.display();
        tracing::warn!(%path, "the diffusion decoder is not supported; frames come from `vae`");
    }
    for part in index.unread() {
        tracing::warn!(path = %path.display(), part, "this part is not used");
    }
    Ok(())
}

/// Tokens of a prompt: what the tokeniser says, unless it says nothing sensible.
fn text_tokens(root: &Path) -> Result<usize, WeightsError> {
    let config = Config::open(&root.join("tokenizer").join("tokenizer_config.json"))?;
    // Libraries write numbers beyond any model here to say that there is no limit.
    let length = config.raw("model_max_length").and_then(Value::as_u64);
    Ok(length
        .filter(|length| (1..=TEXT_TOKENS_MAX).contains(length))
        .map_or(TEXT_TOKENS, |n| n as usize))
}

impl Weights {
    /// Opens a folder in the diffusers layout and loads every part that making a clip needs.
    ///
    /// # Errors
    /// [`DiffusionError::Weights`] that names the file, the tensor or field, what was expected and
    /// what was found; [`DiffusionError::OutOfMemory`] when they would not fit.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, DiffusionError> {
        let parts = Parts::open(dir)?;
        memory::check_weights(parts.loaded_bytes(device), device)?;
        Ok(Self::load(dir, &parts, device)?)
    }

    /// Takes the transformer of a second folder for the second of two stages: that of a distilled
    /// model, or of one that a distilling LoRA was merged into.
    ///
    /// # Errors
    /// [`DiffusionError::Weights`] for a folder without a transformer, or one of other latents.
    pub fn with_refiner(mut self, dir: &Path) -> Result<Self, DiffusionError> {
        let part = Component::open(dir, PARTS[2])?;
        let bytes = part.loaded_bytes(&self.device);
        memory::check_weights(bytes, &self.device)?;
        let refiner = Transformer::load(&part, &self.device)?;
        let (own, other) = (self.transformer.config(), refiner.config());
        let shape = |config: &TransformerConfig| {
            let (video, audio) = (&config.video, &config.audio);
            let text = (config.captions, video.context, audio.context);
            (video.in_channels, audio.in_channels, text)
        };
        if shape(own) != shape(other) {
            let (found, expected) = (shape(other), shape(own));
            let reason = format!(
                "(video latent, audio latent, text) is {found:?}, but that of the first stage is \
                 {expected:?}"
            );
            return Err(part.config().refuse("in_channels", reason).into());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest);
        hasher.update(part.digest()?.as_bytes());
        self.bytes += bytes;
        self.digest = *hasher.finalize().as_bytes();
        self.refiner = Some(refiner);
        Ok(self)
    }

    fn load(dir: &Path, parts: &Parts, device: &Device) -> Result<Self, WeightsError> {
        let product = Product::open(dir)?;
        let digest = parts.digest(dir)?;
        let tokens = text_tokens(dir)?;
        let text = TextEncoder::load(dir, &parts.text_encoder, &parts.connectors, tokens, device)?;
        let transformer = Transformer::load(&parts.transformer, device)?;
        let video_decoder = VideoDecoder::load(&parts.vae, device)?;
        let video_encoder = match parts.vae.names().any(|name| name.starts_with("encoder.")) {
            true => Some(VideoEncoder::load(&parts.vae, device)?),
            false => None,
        };
        let audio_decoder = AudioDecoder::load(&parts.audio_vae, device)?;
        let mut audio_names = parts.audio_vae.names();
        let audio_encoder = match audio_names.any(|name| name.starts_with("encoder.")) {
            true => Some(AudioEncoder::load(&parts.audio_vae, device)?),
            false => None,
        };
        let tables = audio_encoder.as_ref().map_or(0, AudioEncoder::table_bytes);
        let upsampler = open_upsampler(dir, &video_decoder)?;
        let vocoder = Vocoder::load(&parts.vocoder, device)?;
        let compression = compression(&video_decoder, &audio_decoder);
        check_fit(parts, &transformer, &text, &video_decoder, &audio_decoder)?;
        let (schedule, guidance) = sampling(dir, &product, transformer.config())?;
        let config = transformer.config();
        let info = ModelInfo {
            first_frame: video_encoder.is_some(),
            hears: audio_encoder.as_ref().map(hears),
            two_stages: upsampler.is_some(),
            perturbable_blocks: if config.perturbed {
                config.layers as u32
            } else {
                0
            },
            ..facts(&product, &digest, &compression, &vocoder)
        };
        let mut found = Self {
            info,
            device: device.clone(),
            digest,
            negative_prompt: product.negative_prompt,
            schedule,
            guidance,
            compression,
            transformer,
            video_decoder,
            video_encoder,
            audio_decoder,
            audio_encoder,
            upsampler,
            refiner: None,
            vocoder,
            bytes: parts.loaded_bytes(device) + tables,
            text,
            contexts: Mutex::default(),
        };
        found.info.steps = found.default_steps();
        (found.info.guidance_video, found.info.guidance_audio) =
            (found.guidance.video.scale, found.guidance.audio.scale);
        Ok(found)
    }

    /// What the weights are and can do.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The device that the weights are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of all their tensors on the device.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Tokens that a prompt is padded to.
    pub(crate) fn text_tokens(&self) -> usize {
        self.text.tokens()
    }

    /// Values alive while a prompt is encoded.
    pub(crate) fn text_values(&self) -> usize {
        self.text.values()
    }

    /// Values alive while `tokens` sound latents become samples, from the spectrogram on.
    pub(crate) fn sound_values(&self, tokens: usize) -> usize {
        self.vocoder.values(self.audio_decoder.rows(tokens))
    }

    /// Words of the prompt that the model has not learnt.
    pub fn unknown_words(&self, prompt: &str) -> Vec<String> {
        self.info.unknown_words(prompt)
    }

    fn default_steps(&self) -> u32 {
        match &self.schedule {
            Schedule::List(sigmas) => sigmas.len() as u32 - 1,
            Schedule::Dynamic(_) if self.transformer.config().cross_timestep() => STEPS_23,
            Schedule::Dynamic(_) => STEPS_20,
        }
    }

    /// Loads the latent upsampler.
    pub(crate) fn upsampler(&self) -> Result<Upsampler, WeightsError> {
        let root = self.upsampler.as_ref();
        let root = root.expect("recipes of two stages are refused without an upsampler");
        Upsampler::load(&Component::open(root, UPSAMPLER)?, &self.device)
    }

    /// Values that loading the upsampler and running it over latents of this grid takes; none without one.
    pub(crate) fn upsampling_values(&self, grid: [usize; 3]) -> usize {
        let component = self
            .upsampler
            .as_ref()
            .map(|root| Component::open(root, UPSAMPLER));
        let values = component.map(|found| found.and_then(|found| upsampler::values(&found, grid)));
        // One that cannot be read says so when it is loaded.
        values.and_then(Result::ok).unwrap_or(0)
    }

    /// Text context of a prompt, made once as long as it is among the last few.
    pub(crate) fn context(&self, prompt: &str) -> Result<Arc<Context>, DiffusionError> {
        let kept = |contexts: &Vec<(String, Arc<Context>)>| {
            let found = contexts.iter().find(|(text, _)| text == prompt);
            found.map(|(_, context)| Arc::clone(context))
        };
        if let Some(context) = kept(&self.contexts.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(context);
        }
        let context = Arc::new(self.text.encode(&self.device, prompt)?);
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if contexts.len() >= CONTEXTS_MAX {
            contexts.remove(0);
        }
        contexts.push((prompt.to_owned(), Arc::clone(&context)));
        Ok(context)
    }
}

/// The folder, if it has a latent upsampler; that is checked against the autoencoder.
fn open_upsampler(root: &Path, video: &VideoDecoder) -> Result<Option<PathBuf>, WeightsError> {
    if !root.join(UPSAMPLER).is_dir() {
        return Ok(None);
    }
    let component = Component::open(root, UPSAMPLER)?;
    upsampler::check(&component, video.latent_channels())?;
    Ok(Some(root.to_owned()))
}

/// The sound that an encoder takes.
fn hears(encoder: &AudioEncoder) -> SoundFormat {
    let (rate, channels) = encoder.hears();
    SoundFormat {
        rate,
        channels: channels as u16,
    }
}

fn compression(video: &VideoDecoder, audio: &AudioDecoder) -> Compression {
    let video = video.compression();
    let mel_per_second = f64::from(audio.sample_rate()) / audio.hop() as f64;
    Compression {
        video: [video.time, video.space, video.space],
        audio_per_second: mel_per_second / AUDIO_COMPRESSION as f64,
    }
}

/// Refuses parts that do not belong together.
fn check_fit(
    parts: &Parts,
    transformer: &Transformer,
    text: &TextEncoder,
    video: &VideoDecoder,
    audio: &AudioDecoder,
) -> Result<(), WeightsError> {
    let config = transformer.config();
    let refuse =
        |field: &str, reason: String| Err(parts.transformer.config().refuse(field, reason));
    let channels = [
        ("in_channels", &config.video, video.latent_channels(), "vae"),
        (
            "audio_in_channels",
            &config.audio,
            audio.packed_channels(),
            "audio_vae",
        ),
    ];
    for (field, stream, latent, part) in channels {
        if stream.in_channels != latent || stream.out_channels != latent {
            let found = (stream.in_channels, stream.out_channels);
            return refuse(
                field,
                format!("{found:?} channels in and out, but {part} has {latent}"),
            );
        }
    }
    let scale = compression(video, audio).video;
    if config.rope.video_scale != scale {
        let found = config.rope.video_scale;
        return refuse(
            "vae_scale_factors",
            format!("{found:?}, but vae compresses by {scale:?}"),
        );
    }
    let (video_text, audio_text) = text.widths();
    let expected = match config.captions {
        Some(captions) => (captions, captions),
        None => (config.video.context, config.audio.context),
    };
    if (video_text, audio_text) != expected {
        let found = format!(
            "reads text of {expected:?}, but connectors give {:?}",
            (video_text, audio_text)
        );
        return refuse("cross_attention_dim", found);
    }
    Ok(())
}

/// Noise levels and guidance: the side file's, or what the published models use.
fn sampling(
    root: &Path,
    product: &Product,
    config: &TransformerConfig,
) -> Result<(Schedule, GuidancePlan), WeightsError> {
    let path: PathBuf = root.join("scheduler").join("scheduler_config.json");
    let published = Schedule::read(&Config::open(&path)?)?;
    let is_distilled = matches!(published, Schedule::List(_));
    let guidance = match product.guidance {
        Some((video, audio)) => GuidancePlan::scales(video, audio),
        None if is_distilled => GuidancePlan::scales(1.0, 1.0),
        None => GuidancePlan::published(config.cross_timestep(), config.perturbed, config.layers),
    };
    Ok((
        product.sigmas.clone().map_or(published, Schedule::List),
        guidance,
    ))
}

fn facts(
    product: &Product,
    digest: &[u8; 32],
    compression: &Compression,
    vocoder: &Vocoder,
) -> ModelInfo {
    let [time, rows, columns] = compression.video;
    ModelInfo {
        name: product.name.clone(),
        variant: product.variant.clone(),
        digest: blake3::Hash::from_bytes(*digest).to_hex().to_string(),
        licence: product.licence.clone(),
        sizes: product.sizes.clone(),
        size_step: rows.max(columns) as u32,
        size_max: product.size_max(),
        fps: product.fps,
        frames_default: product.frames_default,
        frames_max: product.frames_max,
        frames_step: time as u32,
        steps: 0,
        guidance_video: 1.0,
        guidance_audio: 1.0,
        vocabulary: product.vocabulary.clone(),
        sample_rate: vocoder.sample_rate(),
        channels: vocoder.channels() as u16,
        first_frame: false,
        still_crf: product.still_crf,
        hears: None,
        two_stages: false,
        perturbable_blocks: 0,
    }
}

#[cfg(test)]
mod tests;
