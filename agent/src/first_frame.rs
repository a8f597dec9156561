//! Reads an image that a shot is given: its first frame, or another.

use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageError, ImageReader, Limits, RgbImage, imageops::FilterType};

use crate::given::Fit;

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

/// Decodes the image and makes it exactly `width` x `height` by `fit`, so that nothing is stretched.
pub fn read(
    path: &Path,
    width: u32,
    height: u32,
    fit: Fit,
) -> Result<diffusion::Picture, FirstFrameError> {
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
    let image = match fit {
        _ if (image.width(), image.height()) == (width, height) => image.to_rgb8(),
        Fit::Cover => image
            .resize_to_fill(width, height, FilterType::Lanczos3)
            .to_rgb8(),
        Fit::Contain => contain(&image, width, height),
    };
    Ok(diffusion::Picture {
        width,
        height,
        rgb: image.into_raw(),
    })
}

/// The whole image in the middle of a black frame.
fn contain(image: &DynamicImage, width: u32, height: u32) -> RgbImage {
    let inner = image.resize(width, height, FilterType::Lanczos3).to_rgb8();
    let mut frame = RgbImage::new(width, height);
    let (x, y) = ((width - inner.width()) / 2, (height - inner.height()) / 2);
    image::imageops::replace(&mut frame, &inner, x.into(), y.into());
    frame
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
        let picture = read(&path, 30, 30, Fit::Cover).unwrap();
        assert_eq!(picture.rgb, [10, 20, 30].repeat(900));
        let whole = read(&path, 120, 60, Fit::Cover).unwrap();
        assert_eq!(whole.rgb[..3], [255, 0, 0]);
        let inside = read(&path, 30, 30, Fit::Contain).unwrap();
        assert_eq!(inside.rgb[..3], [0, 0, 0]);
        assert_eq!(inside.rgb[15 * 30 * 3..][..3], [10, 20, 30]);
    }

    #[test]
    fn a_damaged_image_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("first.png");
        image::RgbImage::new(64, 64).save(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() / 2], b"no image", b""] {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path, 64, 64, Fit::Cover).unwrap_err().to_string();
            assert!(error.contains("Save it again"), "{error}");
        }
        assert!(read(&dir.path().join("none"), 64, 64, Fit::Cover).is_err());
    }
}
