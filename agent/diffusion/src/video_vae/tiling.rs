//! Encoding and decoding in overlapping tiles, so that memory is bounded by the tile and not by the
//! clip. A tile sees nothing beyond its border, so the result differs from the untiled one; it
//! equals the reference's tiled one.
//!
//! Tiles begin every `stride` and are `size` long. Where two overlap, weights go from the earlier
//! one to the later one in a straight line: above first, then left, then before in time.

use kernels::{DType, Device, KernelError, Tensor};

use super::config::COLOURS;
use super::{VideoDecoder, VideoEncoder, five};

/// Length of a tile and the distance to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// Pixels or frames of a tile.
    pub size: usize,
    /// From one tile's begin to the next one's, at most `size`.
    pub stride: usize,
}

/// How a clip is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Pixels, rows and columns alike; none leaves pictures whole.
    pub space: Option<Tiles>,
    /// Frames; none leaves the clip whole.
    pub time: Option<Tiles>,
}

impl Tiling {
    /// Sizes of the reference: 512 pixels every 448, 16 frames every 8.
    pub const PUBLISHED: Self = Self {
        space: Some(Tiles {
            size: 512,
            stride: 448,
        }),
        time: Some(Tiles {
            size: 16,
            stride: 8,
        }),
    };

    /// As [`Tiling::PUBLISHED`], the clip whole in time.
    pub const SPACE: Self = Self {
        time: None,
        ..Self::PUBLISHED
    };

    /// Refuses sizes that latents do not divide, or a stride of 0 or beyond the size.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`].
    fn check(&self, space: usize, time: usize) -> Result<(), KernelError> {
        for (tiles, unit) in [(self.space, space), (self.time, time)] {
            let Some(Tiles { size, stride }) = tiles else {
                continue;
            };
            let fits = size.is_multiple_of(unit) && stride.is_multiple_of(unit);
            if !fits || stride == 0 || stride > size {
                let why = format!("tiles of {size} every {stride} where a latent covers {unit}");
                return Err(KernelError::unsupported("video_vae", why));
            }
        }
        Ok(())
    }
}

/// Tiles along an axis as they are read and as they come out.
#[derive(Clone, Copy)]
struct Cut {
    size: usize,
    stride: usize,
    out_stride: usize,
    /// Overlap of neighbours in the output.
    blend: usize,
}

impl Cut {
    /// From latents to pixels.
    fn decoding(tiles: Tiles, unit: usize) -> Self {
        Self {
            size: tiles.size / unit,
            stride: tiles.stride / unit,
            out_stride: tiles.stride,
            blend: tiles.size - tiles.stride,
        }
    }

    /// From pixels to latents.
    fn encoding(tiles: Tiles, unit: usize) -> Self {
        Self {
            size: tiles.size,
            stride: tiles.stride,
            out_stride: tiles.stride / unit,
            blend: (tiles.size - tiles.stride) / unit,
        }
    }
}

impl VideoDecoder {
    /// [`VideoDecoder::decode`] in tiles; a clip within one tile is decoded whole.
    ///
    /// # Errors
    /// As [`VideoDecoder::decode`], and for tiles that latents do not divide.
    pub fn decode_tiled(&self, latents: &Tensor, tiling: Tiling) -> Result<Tensor, KernelError> {
        let ([_, f, h, w, _], unit) = (five(latents)?, self.compression());
        let dims = [
            1,
            (f - 1) * unit.time + 1,
            h * unit.space,
            w * unit.space,
            COLOURS,
        ];
        let mut out = Tensor::host_zeros(DType::F32, &dims)?;
        let mut at = 0;
        self.decode_windows(latents, tiling, &mut |frames| {
            place(&frames, &mut out, [at, 0, 0], dims[1]);
            at += frames.dims()[1];
            Ok(())
        })?;
        Ok(out)
    }

    /// Decodes window after window and gives away the frames that are final, [1, frame, row,
    /// column, 3], in order: no more than two windows are in memory.
    ///
    /// # Errors
    /// As [`VideoDecoder::decode_tiled`], and whatever `sink` says.
    pub fn decode_windows<E: From<KernelError>>(
        &self,
        latents: &Tensor,
        tiling: Tiling,
        sink: &mut dyn FnMut(Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let ([_, f, h, w, _], unit) = (five(latents)?, self.compression());
        let device = self.device();
        tiling.check(unit.space, unit.time)?;
        let space = tiling
            .space
            .map(|tiles| Cut::decoding(tiles, unit.space))
            .filter(|cut| h > cut.size || w > cut.size);
        let whole = |x: Tensor| match space {
            Some(cut) => in_space(device, &x, cut, unit.space, 1, |x| self.decode(x)),
            None => self.decode(x.to_device(device)?)?.into_host(),
        };
        let time = tiling
            .time
            .map(|tiles| Cut::decoding(tiles, unit.time))
            .filter(|cut| f > cut.size);
        let Some(cut) = time else {
            return sink(whole(latents.clone())?);
        };
        let mut before: Option<Tensor> = None;
        for start in (0..f).step_by(cut.stride) {
            let window = crop(latents, start..(start + cut.size + 1).min(f), 0..h, 0..w)?;
            let mut frames = whole(window)?;
            let mut keep = cut.out_stride + 1;
            if let Some(before) = &before {
                let [_, t, rows, columns, _] = five(&frames)?;
                if t == 1 {
                    break;
                }
                frames = crop(&frames, 0..t - 1, 0..rows, 0..columns)?;
                blend(before, &mut frames, 0, cut.blend);
                keep = cut.out_stride;
            }
            let [_, t, rows, columns, _] = five(&frames)?;
            sink(crop(&frames, 0..keep.min(t), 0..rows, 0..columns)?)?;
            before = Some(frames);
        }
        Ok(())
    }
}

impl VideoEncoder {
    /// [`VideoEncoder::encode`] in tiles; a clip within one tile is encoded whole.
    ///
    /// # Errors
    /// As [`VideoEncoder::encode`], and for tiles that latents do not divide.
    pub fn encode_tiled(&self, pixels: &Tensor, tiling: Tiling) -> Result<Tensor, KernelError> {
        let ([_, frames, h, w, _], unit) = (five(pixels)?, self.compression());
        let device = self.device();
        tiling.check(unit.space, unit.time)?;
        let space = tiling
            .space
            .map(|tiles| Cut::encoding(tiles, unit.space))
            .filter(|cut| h > cut.size || w > cut.size);
        let whole = |x: &Tensor| match space {
            Some(cut) => in_space(device, x, cut, 1, unit.space, |x| self.encode(&x)),
            None => self.encode(&x.clone().to_device(device)?)?.into_host(),
        };
        let time = tiling
            .time
            .map(|tiles| Cut::encoding(tiles, unit.time))
            .filter(|cut| frames > cut.size);
        let Some(cut) = time else {
            return whole(pixels);
        };
        let (f, c) = ((frames - 1) / unit.time + 1, self.latent_channels());
        let dims = [1, f, h / unit.space, w / unit.space, c];
        let mut out = Tensor::host_zeros(DType::F32, &dims)?;
        let (mut at, mut before) = (0, None::<Tensor>);
        for start in (0..frames).step_by(cut.stride) {
            let window = start..(start + cut.size + 1).min(frames);
            let mut latents = whole(&crop(pixels, window, 0..h, 0..w)?)?;
            let mut keep = cut.out_stride + 1;
            if let Some(before) = &before {
                let [_, t, rows, columns, _] = five(&latents)?;
                if t == 1 {
                    break;
                }
                latents = crop(&latents, 1..t, 0..rows, 0..columns)?;
                blend(before, &mut latents, 0, cut.blend);
                keep = cut.out_stride;
            }
            place(&latents, &mut out, [at, 0, 0], keep);
            at += keep;
            before = Some(latents);
        }
        Ok(out)
    }
}

/// Runs tiles of rows and columns and joins their results, `up` times larger and `down` times
/// smaller than what they read.
fn in_space(
    device: &Device,
    x: &Tensor,
    cut: Cut,
    up: usize,
    down: usize,
    run: impl Fn(Tensor) -> Result<Tensor, KernelError>,
) -> Result<Tensor, KernelError> {
    let [_, t, h, w, _] = five(x)?;
    let mut joined: Option<Tensor> = None;
    let mut above: Vec<Tensor> = Vec::new();
    for (row, top) in (0..h).step_by(cut.stride).enumerate() {
        let mut tiles: Vec<Tensor> = Vec::new();
        for (column, left) in (0..w).step_by(cut.stride).enumerate() {
            let rows = top..(top + cut.size).min(h);
            let tile = crop(x, 0..t, rows, left..(left + cut.size).min(w))?;
            let mut tile = run(tile.to_device(device)?)?.into_host()?;
            if row > 0 {
                blend(&above[column], &mut tile, 1, cut.blend);
            }
            if column > 0 {
                blend(&tiles[column - 1], &mut tile, 2, cut.blend);
            }
            let [_, frames, _, _, channels] = five(&tile)?;
            let out = match &mut joined {
                Some(out) => out,
                None => {
                    let dims = [1, frames, h * up / down, w * up / down, channels];
                    joined.insert(Tensor::host_zeros(DType::F32, &dims)?)
                }
            };
            let corner = [0, row * cut.out_stride, column * cut.out_stride];
            let [_, _, rows, columns, _] = five(&tile)?;
            let (rows, columns) = (rows.min(cut.out_stride), columns.min(cut.out_stride));
            place(
                &crop(&tile, 0..frames, 0..rows, 0..columns)?,
                out,
                corner,
                frames,
            );
            tiles.push(tile);
        }
        above = tiles;
    }
    joined.ok_or_else(|| KernelError::unsupported("video_vae", "a clip without pixels".to_owned()))
}

/// A part of x [1, t, h, w, c], in the processor's memory as all that is cut and blended.
fn crop(
    x: &Tensor,
    frames: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
) -> Result<Tensor, KernelError> {
    let ([_, _, h, w, c], all) = (five(x)?, x.values()?);
    let mut values = Vec::with_capacity(frames.len() * rows.len() * columns.len() * c);
    for frame in frames.clone() {
        for row in rows.clone() {
            let start = ((frame * h + row) * w + columns.start) * c;
            values.extend_from_slice(&all[start..start + columns.len() * c]);
        }
    }
    let dims = [1, frames.len(), rows.len(), columns.len(), c];
    Tensor::host_f32(&dims, values)
}

/// Copies the first `frames` of `part` to `corner` of `out`, as far as they lie inside.
fn place(part: &Tensor, out: &mut Tensor, corner: [usize; 3], frames: usize) {
    let dims = |x: &Tensor| -> [usize; 3] { [x.dims()[1], x.dims()[2], x.dims()[3]] };
    let (from, to, c) = (dims(part), dims(out), part.last_dim());
    let length = |axis: usize| from[axis].min(to[axis].saturating_sub(corner[axis]));
    let columns = length(2) * c;
    for frame in 0..length(0).min(frames) {
        for row in 0..length(1) {
            let source = (frame * from[1] + row) * from[2] * c;
            let target = ((corner[0] + frame) * to[1] + corner[1] + row) * to[2] + corner[2];
            out.f32s_mut()[target * c..][..columns]
                .copy_from_slice(&part.f32s()[source..][..columns]);
        }
    }
}

/// Crosses over from the end of `a` to the begin of `b` along an axis (0 time, 1 rows, 2 columns).
fn blend(a: &Tensor, b: &mut Tensor, axis: usize, extent: usize) {
    let length = |x: &Tensor| x.dims()[axis + 1];
    let extent = extent.min(length(a)).min(length(b));
    let inner: usize = b.dims()[axis + 2..].iter().product();
    let outer: usize = b.dims()[..axis + 1].iter().product();
    let (a_pitch, b_pitch, first) = (length(a) * inner, length(b) * inner, length(a) - extent);
    for step in 0..extent {
        let share = step as f64 / extent as f64;
        let (old, new) = ((1.0 - share) as f32, share as f32);
        for line in 0..outer {
            let a = &a.f32s()[line * a_pitch + (first + step) * inner..][..inner];
            let b = &mut b.f32s_mut()[line * b_pitch + step * inner..][..inner];
            b.iter_mut()
                .zip(a)
                .for_each(|(b, a)| *b = a * old + *b * new);
        }
    }
}
