//! How much memory a run will take, told before it begins: the tensors that are alive at the fullest
//! moment of each part, counted from the shapes as the code of that part makes them and in the types that the
//! device keeps them in. Beside a card, what the processor keeps is not counted.
//!
//! A clip's parts are made one after the other, so the peak is that of the greediest. Only the picture
//! decoder can trade memory for speed: its pieces shrink before a run is refused.

use kernels::Device;
use serde::Serialize;

use crate::error::DiffusionError;
use crate::latent::Grid;
use crate::model::Weights;
use crate::recipe::Recipe;

/// Values of the picture decoder's largest tensor at a time, where memory allows: 8 MiB.
const PIECE_VALUES: usize = 2 << 20;
/// What a thread keeps for blocks of rows on their way through a product.
const THREAD_BYTES: u64 = 192 << 10;

/// Bytes of values that are F32 on every device.
pub(crate) fn floats(values: usize) -> u64 {
    values as u64 * size_of::<f32>() as u64
}

/// Of what the processor keeps, what counts: nothing beside a card.
pub(crate) fn of_host(device: &Device, bytes: u64) -> u64 {
    match device.card_bytes() {
        Some(_) => 0,
        None => bytes,
    }
}

/// Predicted bytes of a run beyond the weights, which are `weights`; what a sink keeps is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The weights, which stay.
    pub weights: u64,
    /// Prompt to text context.
    pub encode: u64,
    /// Given pictures and sound to latents.
    pub given: u64,
    /// Latents of a first stage to the size of the second.
    pub upsample: u64,
    /// A step of the sampler.
    pub denoise: u64,
    /// Latents to samples.
    pub sound: u64,
    /// Latents to pictures.
    pub pictures: u64,
    /// Values that a layer of the picture decoder is given at once.
    #[serde(skip)]
    pub(crate) piece: usize,
}

impl Memory {
    /// Peak of the run beyond the weights.
    pub fn run_bytes(&self) -> u64 {
        let before = [self.encode, self.given, self.upsample];
        let parts = [self.denoise, self.sound, self.pictures];
        before.into_iter().chain(parts).max().unwrap_or(0)
    }

    /// Peak with the weights.
    pub fn peak_bytes(&self) -> u64 {
        self.weights + self.run_bytes()
    }
}

/// What of a recipe decides how much its run takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    /// Pictures that get tokens of their own.
    stills: usize,
    /// Pictures that are encoded at once.
    pictures: usize,
    /// Pixels of one: rows, columns.
    size: [usize; 2],
    /// Samples that are encoded, over all channels.
    samples: usize,
    is_refined: bool,
}

impl Load {
    /// That of a checked recipe.
    pub fn of(recipe: &Recipe) -> Self {
        let given = &recipe.given;
        let film = given.film.as_ref().map_or(0, |film| film.frames(recipe));
        let pictures = film.max(u32::from(!given.stills.is_empty()));
        let sound = given.sound.as_ref();
        Self {
            stills: given.stills.iter().filter(|still| still.frame > 0).count(),
            pictures: pictures as usize,
            size: [recipe.height as usize, recipe.width as usize],
            samples: sound.map_or(0, |sound| sound.heard.samples.len()),
            is_refined: recipe.refine.is_some(),
        }
    }

    /// Bytes that encoding what is given takes.
    fn encoding(&self, weights: &Weights) -> u64 {
        let [height, width] = self.size;
        let video = weights.video_encoder.as_ref().filter(|_| self.pictures > 0);
        let audio = weights.audio_encoder.as_ref().filter(|_| self.samples > 0);
        let video = video.map_or(0, |encoder| encoder.bytes([self.pictures, height, width]));
        let audio = audio.map_or(0, |encoder| encoder.values(self.samples));
        video.max(audio as u64 * weights.device.activation_bytes())
    }
}

/// Predicts a run whose picture decoder is given `piece` values at once.
pub fn predict(weights: &Weights, grid: &Grid, load: Load, piece: usize) -> Memory {
    let config = weights.transformer.config();
    let (s, l) = (
        grid.video_tokens() + load.stills * grid.frame_tokens(),
        grid.audio,
    );
    let (device, text) = (&weights.device, weights.text_tokens());
    let active = |values: usize| values as u64 * device.activation_bytes();
    let of_host = |bytes| of_host(device, bytes);
    let values = s * config.video.in_channels + l * config.audio.in_channels;
    let latents = floats(values);
    let context = 2 * active(text * (config.video.context + config.audio.context));
    let kept = context + of_host(device.threads() as u64 * THREAD_BYTES);
    // What is given stays, as it is and as the steps use it.
    let held = match load.pictures + load.samples {
        0 => [0; 2],
        _ => [of_host(latents), latents],
    };
    let passes = weights.guidance.passes();
    let step = weights.transformer.bytes(device, (s, l, text), passes);
    // The sampler's own latents and what its passes find; those of the last step are out already.
    let denoise = step + latents + active(passes * values) + of_host(latents);
    let spectrogram = active(weights.audio_decoder.values(l));
    let pictures = active(weights.video_decoder.values(grid.video, piece));
    let upsample = match load.is_refined {
        true => active(weights.upsampling_values(grid.shrunk(2).video)),
        false => 0,
    };
    Memory {
        weights: weights.bytes,
        encode: kept + active(weights.text_values()),
        given: kept + held[0] + load.encoding(weights),
        upsample: kept + held[0] + held[1] + of_host(2 * latents) + upsample,
        denoise: kept + held[0] + held[1] + denoise,
        sound: kept + of_host(latents) + spectrogram.max(floats(weights.sound_values(l))),
        pictures: kept + of_host(latents) + pictures,
        piece,
    }
}

/// Predicts a run with the largest pieces that fit into `free_bytes` beyond the weights, or the
/// smallest when none do; a device that does not tell what it has free has enough.
pub fn fit(weights: &Weights, grid: &Grid, load: Load, free_bytes: Option<u64>) -> Memory {
    let mut piece = PIECE_VALUES;
    loop {
        let found = predict(weights, grid, load, piece);
        let fits = free_bytes.is_none_or(|free| found.pictures <= free);
        if fits || piece == 0 {
            return found;
        }
        piece /= 2;
    }
}

/// Plans the memory of a run on the weights' device and refuses one that has no room for it.
///
/// # Errors
/// [`DiffusionError::OutOfMemory`].
pub fn admit(weights: &Weights, recipe: &Recipe, grid: &Grid) -> Result<Memory, DiffusionError> {
    let free = weights.device.free_bytes();
    let found = fit(weights, grid, Load::of(recipe), free);
    let what = || {
        format!(
            "{}x{} at {} frames",
            recipe.width, recipe.height, recipe.frames
        )
    };
    let advice = "ask for a smaller size or fewer frames, or free some memory";
    compare(what, found.run_bytes(), free, advice)?;
    Ok(found)
}

/// Refuses weights of so many bytes that the device has no room for.
///
/// # Errors
/// [`DiffusionError::OutOfMemory`].
pub fn check_weights(bytes: u64, device: &Device) -> Result<(), DiffusionError> {
    let what = || "loading these weights".to_owned();
    let advice = "free some memory, or use a machine that has more";
    compare(what, bytes, device.free_bytes(), advice)
}

/// A device that does not tell what it has free is given the benefit of the doubt.
fn compare(
    what: impl Fn() -> String,
    need_bytes: u64,
    free: Option<u64>,
    advice: &'static str,
) -> Result<(), DiffusionError> {
    match free {
        Some(free_bytes) if free_bytes < need_bytes => Err(DiffusionError::OutOfMemory {
            what: what(),
            need_bytes,
            free_bytes,
            advice,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_free_is_refused_with_both_numbers_and_what_to_do() {
        let what = || "64x64 at 65 frames".to_owned();
        let check = |need, free| compare(what, need, free, "wait");
        assert!(check(10 << 20, Some(10 << 20)).is_ok());
        assert!(check(10 << 20, None).is_ok());
        let error = check(11 << 20, Some(10 << 20)).unwrap_err();
        let expected = "64x64 at 65 frames needs 11 MiB of memory and 10 MiB are free: wait";
        assert_eq!(error.to_string(), expected);
        let device = Device::cpu(1).unwrap();
        if device.free_bytes().is_some() {
            assert!(check_weights(1 << 60, &device).is_err());
        }
        assert!(check_weights(1, &device).is_ok());
    }
}
