//! How much memory a run will take, told before it begins.

use kernels::Device;

use crate::error::DiffusionError;
use crate::latent::Grid;
use crate::model::Weights;
use crate::recipe::Recipe;

/// Rows of transformer width that a token has alive at once: the tokens, a norm, q, k, v, the
/// attention's output, the inner feed-forward (4) and the passes' velocities.
const ROWS_A_TOKEN: u64 = 14;
/// Buffers of the video decoder's widest layer that are alive at once.
const DECODER_BUFFERS: u64 = 4;
/// Pixels of one position of that layer, on each side.
const PATCH_PIXELS: u64 = 16;
/// Decoded floats and bytes of a pixel.
const PIXEL_BYTES: u64 = 3 * 4 + 3;
const FLOAT_BYTES: u64 = 4;

/// Predicted peak of a run beyond the weights, in bytes.
pub fn predict(weights: &Weights, recipe: &Recipe, grid: &Grid) -> u64 {
    let config = weights.transformer.config();
    let tokens =
        (grid.video_tokens() * config.video.width() + grid.audio * config.audio.width()) as u64;
    let denoise = tokens * ROWS_A_TOKEN * FLOAT_BYTES;
    let pixels = u64::from(recipe.width) * u64::from(recipe.height) * u64::from(recipe.frames);
    let layer = weights.decoder_channels as u64 * FLOAT_BYTES * DECODER_BUFFERS / PATCH_PIXELS;
    denoise.max(pixels * (PIXEL_BYTES + layer))
}

/// Refuses a run that would need more than the device has free.
///
/// # Errors
/// [`DiffusionError::OutOfMemory`].
pub fn check(weights: &Weights, recipe: &Recipe, grid: &Grid) -> Result<(), DiffusionError> {
    compare(
        "this clip",
        predict(weights, recipe, grid),
        weights.device.free_bytes(),
    )
}

/// Refuses weights of `values` numbers that the device has no room for.
///
/// # Errors
/// [`DiffusionError::OutOfMemory`].
pub fn check_weights(values: u64, device: &Device) -> Result<(), DiffusionError> {
    compare(
        "loading these weights",
        values * FLOAT_BYTES,
        device.free_bytes(),
    )
}

/// A device that does not tell what it has free is given the benefit of the doubt.
fn compare(what: &'static str, need_bytes: u64, free: Option<u64>) -> Result<(), DiffusionError> {
    match free {
        Some(free_bytes) if free_bytes < need_bytes => Err(DiffusionError::OutOfMemory {
            what,
            need_bytes,
            free_bytes,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_free_is_refused_with_both_numbers() {
        assert!(compare("this clip", 10, Some(10)).is_ok());
        assert!(compare("this clip", 10, None).is_ok());
        let error = compare("this clip", 11, Some(10)).unwrap_err().to_string();
        assert_eq!(
            error,
            "this clip needs about 11 bytes of memory and 10 are free"
        );
        let device = Device::cpu(1).unwrap();
        if device.free_bytes().is_some() {
            assert!(check_weights(1 << 60, &device).is_err());
        }
        assert!(check_weights(1, &device).is_ok());
    }
}
