//! Reads the image that a shot begins with.

use std::path::{Path, PathBuf};

use image::{ImageError, ImageReader, Limits, imageops::FilterType};

/// Largest side that is read, in pixels.
const SIDE_MAX: u32 = 8_192;

#[derive(Debug, thiserror::Error)]
pub enum FirstFrameError {
    #[error("cannot read the image {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the image is damaged or not PNG, JPEG or WebP: {source}. Save it again as one of these"
    )]
    Decode { source: ImageError },
    #[error("the image is larger than {SIDE_MAX} pixels on a side: make it smaller")]
    TooLarge,
}

/// Decodes the image and makes it exactly `width` x `height`: scaled until it covers the frame,
/// then cut at the middle, so that nothing is stretched.
pub fn read(path: &Path, width: u32, height: u32) -> Result<diffusion::Picture, FirstFrameError> {
    let io = |source| FirstFrameError::Read {
        path: path.to_path_buf(),
        source,
    };
    let mut reader = ImageReader::open(path)
        .map_err(io)?
        .with_guessed_format()
        .map_err(io)?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    reader.limits(limits);
    let image = reader.decode().map_err(|source| match source {
        ImageError::Limits(_) => FirstFrameError::TooLarge,
        source => FirstFrameError::Decode { source },
    })?;
    let image = match (image.width(), image.height()) == (width, height) {
        true => image,
        false => image.resize_to_fill(width, height, FilterType::Lanczos3),
    };
    Ok(diffusion::Picture {
        width,
        height,
        rgb: image.to_rgb8().into_raw(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_another_aspect_is_cut_and_not_stretched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("first");
        let mut image = image::RgbImage::from_pixel(120, 60, image::Rgb([10, 20, 30]));
        image.put_pixel(0, 0, image::Rgb([255, 0, 0]));
        image
            .save_with_format(&path, image::ImageFormat::Png)
            .unwrap();
        let picture = read(&path, 30, 30).unwrap();
        assert_eq!(picture.rgb, [10, 20, 30].repeat(900));
        assert_eq!(read(&path, 120, 60).unwrap().rgb[..3], [255, 0, 0]);
    }

    #[test]
    fn a_damaged_image_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("first.png");
        image::RgbImage::new(64, 64).save(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() / 2], b"no image", b""] {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path, 64, 64).unwrap_err().to_string();
            assert!(error.contains("Save it again"), "{error}");
        }
        assert!(read(&dir.path().join("none"), 64, 64).is_err());
    }
}
