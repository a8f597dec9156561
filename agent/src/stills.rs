//! Thumbnail and spritesheet of a finished film.

use std::path::{Path, PathBuf};

use image::{
    DynamicImage, ExtendedColorType, ImageError, ImageFormat, RgbImage, imageops::FilterType,
};

use schemas::mp4::Facts;

use crate::mux::{Ffmpeg, MuxError, Run, Stop, words};

/// Longer side of the thumbnail, in pixels.
const THUMBNAIL_SIDE: u32 = 640;
/// Longer side of one tile of the sheet, in pixels.
const TILE_SIDE: u32 = 320;
/// Frames on the sheet, evenly spaced from t = 0.
const TILES_MAX: u64 = 25;
const COLUMNS: u32 = 5;
/// Side of the copies on which frames are compared, in pixels.
const COMPARED_SIDE: u32 = 64;

#[derive(Debug, thiserror::Error)]
pub enum StillsError {
    #[error(transparent)]
    Mux(#[from] MuxError),
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: ImageError,
    },
    #[error("FFmpeg gave {found} bytes for {frames} stills of {bytes}")]
    Short {
        found: usize,
        frames: usize,
        bytes: usize,
    },
}

pub struct Stills {
    pub thumbnail: PathBuf,
    pub spritesheet: PathBuf,
}

/// Makes both stills of `film` in `dir`.
pub fn make(
    ffmpeg: &Ffmpeg,
    film: &Path,
    facts: &Facts,
    dir: &Path,
    stop: Stop<'_>,
) -> Result<Stills, StillsError> {
    let frames = sample_frames(ffmpeg, film, facts, stop)?;
    let stills = Stills {
        thumbnail: dir.join("thumbnail.webp"),
        spritesheet: dir.join("spritesheet.jpg"),
    };
    write(
        &stills.thumbnail,
        &frames[salient(&frames)],
        ImageFormat::WebP,
    )?;
    write(&stills.spritesheet, &sheet(&frames), ImageFormat::Jpeg)?;
    Ok(stills)
}

/// Up to [`TILES_MAX`] evenly spaced frames, their longer side [`THUMBNAIL_SIDE`].
fn sample_frames(
    ffmpeg: &Ffmpeg,
    film: &Path,
    facts: &Facts,
    stop: Stop<'_>,
) -> Result<Vec<DynamicImage>, StillsError> {
    let picture = facts.picture().expect("a verified film has a picture");
    let (width, height) = fit(picture.width, picture.height, THUMBNAIL_SIDE);
    let places = places(picture.samples);
    let chosen: Vec<String> = places.iter().map(|n| format!("eq(n\\,{n})")).collect();
    let filter = format!(
        "select='{}',scale={width}:{height}:flags=lanczos",
        chosen.join("+")
    );
    let mut args = words(&["-i"]);
    args.push(film.into());
    args.extend(words(&[
        "-map",
        "0:v:0",
        "-vf",
        &filter,
        "-fps_mode",
        "passthrough",
    ]));
    args.extend(words(&["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]));
    let rgb = ffmpeg.run(
        Run {
            what: "pick stills",
            args,
            stdin: &[],
        },
        stop,
    )?;
    let bytes = (width * height * 3) as usize;
    if rgb.len() != bytes * places.len() {
        return Err(StillsError::Short {
            found: rgb.len(),
            frames: places.len(),
            bytes,
        });
    }
    let images = rgb.chunks_exact(bytes).map(|frame| {
        RgbImage::from_raw(width, height, frame.to_vec())
            .expect("a chunk has the bytes of a frame")
            .into()
    });
    Ok(images.collect())
}

fn places(frames: u64) -> Vec<u64> {
    let count = frames.min(TILES_MAX);
    (0..count).map(|tile| tile * frames / count).collect()
}

/// The size with this longer side and the same aspect, even in both directions.
fn fit(width: u32, height: u32, side: u32) -> (u32, u32) {
    let longer = f64::from(width.max(height));
    let even = |value: u32| (f64::from(value) * f64::from(side) / longer / 2.0).round() as u32 * 2;
    (even(width).max(2), even(height).max(2))
}

/// The place of the frame with the largest spread of brightness: a plain one says little.
fn salient(frames: &[DynamicImage]) -> usize {
    let spread = |frame: &DynamicImage| -> u64 {
        let small = frame
            .thumbnail_exact(COMPARED_SIDE, COMPARED_SIDE)
            .into_luma8();
        let count = u64::from(COMPARED_SIDE * COMPARED_SIDE);
        let sum: u64 = small.iter().map(|luma| u64::from(*luma)).sum();
        let squares: u64 = small.iter().map(|luma| u64::from(*luma).pow(2)).sum();
        // count² times the variance, in integers, so that every machine picks the same frame.
        count * squares - sum * sum
    };
    let spreads = frames.iter().map(spread);
    let best = spreads
        .enumerate()
        .max_by_key(|(at, spread)| (*spread, std::cmp::Reverse(*at)));
    best.map_or(0, |(at, _)| at)
}

fn sheet(frames: &[DynamicImage]) -> DynamicImage {
    let (width, height) = fit(frames[0].width(), frames[0].height(), TILE_SIDE);
    let rows = (frames.len() as u32).div_ceil(COLUMNS);
    let pitch = (width * COLUMNS * 3) as usize;
    let mut rgb = vec![0; pitch * (height * rows) as usize];
    for (at, frame) in (0u32..).zip(frames) {
        let tile = frame
            .resize_exact(width, height, FilterType::Triangle)
            .into_rgb8();
        let (x, y) = (at % COLUMNS * width, at / COLUMNS * height);
        let lines = tile.as_raw().chunks_exact((width * 3) as usize);
        for (line, pixels) in lines.enumerate() {
            let start = (y as usize + line) * pitch + (x * 3) as usize;
            rgb[start..start + pixels.len()].copy_from_slice(pixels);
        }
    }
    RgbImage::from_raw(width * COLUMNS, height * rows, rgb)
        .expect("the tiles fill the sheet")
        .into()
}

fn write(path: &Path, image: &DynamicImage, format: ImageFormat) -> Result<(), StillsError> {
    let (width, height, color) = (image.width(), image.height(), ExtendedColorType::Rgb8);
    image::save_buffer_with_format(path, image.as_bytes(), width, height, color, format).map_err(
        |source| StillsError::Write {
            path: path.to_path_buf(),
            source,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_evenly_spaced_from_the_start() {
        assert_eq!(places(3), [0, 1, 2]);
        let places = places(100);
        assert_eq!(
            (places.len(), places[0], places[1], places[24]),
            (25, 0, 4, 96)
        );
    }

    #[test]
    fn the_longer_side_is_met_and_sizes_are_even() {
        assert_eq!(fit(1280, 720, 640), (640, 360));
        assert_eq!(fit(720, 1280, 320), (180, 320));
        assert_eq!(fit(128, 128, 640), (640, 640));
        assert_eq!(fit(4_000, 2, 320), (320, 2));
    }

    #[test]
    fn the_frame_that_shows_most_becomes_the_thumbnail() {
        let plain = RgbImage::from_pixel(128, 128, image::Rgb([200, 200, 200]));
        let mut marked = plain.clone();
        (0..64).for_each(|x| (0..64).for_each(|y| marked.put_pixel(x, y, image::Rgb([0, 0, 0]))));
        assert_eq!(
            salient(&[plain.clone().into(), marked.into(), plain.clone().into()]),
            1
        );
        assert_eq!(
            salient(&[plain.clone().into(), plain.into()]),
            0,
            "the first of equals"
        );
    }

    #[test]
    fn tiles_fill_the_sheet_by_rows() {
        let frame = |value: u8| RgbImage::from_pixel(640, 320, image::Rgb([value; 3])).into();
        let frames: Vec<DynamicImage> = (0..7).map(|at| frame(at * 20)).collect();
        let sheet = sheet(&frames).into_rgb8();
        assert_eq!(sheet.dimensions(), (1_600, 320));
        let middle = |column: u32, row: u32| sheet.get_pixel(column * 320 + 160, row * 160 + 80)[0];
        assert_eq!(
            [middle(0, 0), middle(4, 0), middle(0, 1), middle(1, 1)],
            [0, 80, 100, 120]
        );
        assert_eq!(middle(2, 1), 0, "where no tile is");
    }
}
