//! A reference image to a picture of a shot: judged by its bytes, sized for the model. Pure.

use std::io::Cursor;

use bytes::Bytes;
use image::{
    DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage, imageops::FilterType,
};

use super::{Code, Reference, ReferenceFit, Refusal, catalogue::Size};

/// Longest side of a reference image in pixels.
const SIDE_MAX: u32 = 8192;
/// Memory that a decoder may take: 8192 x 8192 RGBA and as much again.
const DECODE_BYTES_MAX: u64 = 512 << 20;

/// The message is part of the contract.
const WRONG_SIZE: &str = "Inpaint image must match the requested width and height";

/// What a picture must become, and the field that errors name.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub fit: ReferenceFit,
    /// Of the film.
    pub size: Size,
    /// Of the model.
    pub native: Size,
    pub param: &'a str,
}

/// Decodes `reference`, checks or fits it to the film's size, and answers a PNG of the native one.
///
/// Refuses what is no PNG, JPEG or WebP by its bytes, is broken, has a side over 8192 pixels, or
/// (with [`ReferenceFit::Exact`]) has another size than the film.
pub fn picture(reference: &Reference, target: Target<'_>) -> Result<Bytes, Refusal> {
    let Target {
        fit,
        size,
        native,
        param,
    } = target;
    let image = decode(&reference.0, param)?.to_rgb8();
    let found = Size {
        width: image.width(),
        height: image.height(),
    };
    let fitted = match fit {
        _ if found == size => resize(image, native),
        ReferenceFit::Exact => {
            return Err(Refusal::new(Code::InvalidValue, WRONG_SIZE).about(param));
        }
        ReferenceFit::Cover => DynamicImage::from(image)
            .resize_to_fill(native.width, native.height, FilterType::Lanczos3)
            .to_rgb8(),
        ReferenceFit::Contain => contain(image, native),
    };
    let mut png = Cursor::new(Vec::new());
    fitted
        .write_to(&mut png, ImageFormat::Png)
        .expect("a PNG of a small RGB image is written to memory");
    Ok(png.into_inner().into())
}

fn decode(bytes: &[u8], param: &str) -> Result<DynamicImage, Refusal> {
    let invalid = |why: String| {
        Refusal::new(Code::InvalidImage, format!("The image in '{param}' {why}.")).about(param)
    };
    let format = image::guess_format(bytes)
        .ok()
        .filter(|f| matches!(f, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP))
        .ok_or_else(|| invalid("is no PNG, JPEG or WebP file".into()))?;
    let broken = |_| invalid("is damaged and cannot be decoded".into());
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if width > SIDE_MAX || height > SIDE_MAX {
        return Err(invalid(format!(
            "is {width}x{height}; at most {SIDE_MAX} pixels a side are allowed"
        )));
    }
    // A photo of a phone lies on its side and says so.
    let orientation = decoder.orientation().map_err(broken)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn resize(image: RgbImage, to: Size) -> RgbImage {
    if (image.width(), image.height()) == (to.width, to.height) {
        return image;
    }
    image::imageops::resize(&image, to.width, to.height, FilterType::Lanczos3)
}

fn contain(image: RgbImage, to: Size) -> RgbImage {
    let inner = DynamicImage::from(image)
        .resize(to.width, to.height, FilterType::Lanczos3)
        .to_rgb8();
    let mut canvas = RgbImage::new(to.width, to.height);
    let offset = |whole: u32, part: u32| i64::from((whole - part) / 2);
    let (x, y) = (
        offset(to.width, inner.width()),
        offset(to.height, inner.height()),
    );
    image::imageops::replace(&mut canvas, &inner, x, y);
    canvas
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        width: 72,
        height: 128,
    };
    const NATIVE: Size = Size {
        width: 64,
        height: 112,
    };

    fn encoded(width: u32, height: u32, format: ImageFormat) -> Reference {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_pixel(width, height, image::Rgb([200, 40, 40]))
            .write_to(&mut bytes, format)
            .unwrap();
        Reference(bytes.into_inner().into())
    }

    fn fit(reference: &Reference, fit: ReferenceFit) -> Result<RgbImage, Refusal> {
        let target = Target {
            fit,
            size: SIZE,
            native: NATIVE,
            param: "input_reference",
        };
        picture(reference, target).map(|png| image::load_from_memory(&png).unwrap().to_rgb8())
    }

    #[test]
    fn png_jpeg_and_webp_of_the_films_size_become_the_native_size() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let frame = fit(&encoded(72, 128, format), ReferenceFit::Exact).unwrap();
            assert_eq!(frame.dimensions(), (64, 112), "{format:?}");
            assert!(frame.get_pixel(32, 56)[0] > 190, "{format:?}");
        }
    }

    #[test]
    fn another_size_is_refused_with_the_exact_message_unless_it_is_fitted() {
        let wide = encoded(160, 90, ImageFormat::Png);
        let refusal = fit(&wide, ReferenceFit::Exact).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidValue);
        assert_eq!(refusal.param.as_deref(), Some("input_reference"));
        assert_eq!(
            refusal.message,
            "Inpaint image must match the requested width and height"
        );
        let cover = fit(&wide, ReferenceFit::Cover).unwrap();
        assert!(cover.get_pixel(0, 0)[0] > 190);
        let contain = fit(&wide, ReferenceFit::Contain).unwrap();
        assert_eq!(contain.dimensions(), (64, 112));
        assert_eq!(contain.get_pixel(0, 0).0, [0, 0, 0]);
        assert!(contain.get_pixel(32, 56)[0] > 190);
    }

    #[test]
    fn what_is_no_image_is_damaged_or_too_big_is_refused() {
        let png = encoded(72, 128, ImageFormat::Png).0;
        let truncated = Reference(png.slice(..png.len() / 2));
        for (bytes, why) in [
            (
                Reference(Bytes::from_static(b"hello")),
                "no PNG, JPEG or WebP",
            ),
            (Reference(Bytes::new()), "no PNG, JPEG or WebP"),
            (
                Reference(Bytes::from_static(b"GIF89a\x01\x00\x01\x00")),
                "no PNG, JPEG or WebP",
            ),
            (truncated, "damaged"),
            (encoded(8193, 1, ImageFormat::Png), "at most 8192 pixels"),
        ] {
            let refusal = fit(&bytes, ReferenceFit::Cover).unwrap_err();
            assert_eq!(refusal.code, Code::InvalidImage);
            assert!(refusal.message.contains(why), "{}", refusal.message);
        }
    }
}
