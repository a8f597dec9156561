//! The padded input of a convolution. The border is written in the same pass as what comes before
//! the convolution (norm and activation), so that pass costs no extra trip through memory.

use crate::device::Cpu;
use crate::pixel_norm::cpu::pixel_norm_row;

/// What is done to the input of a convolution before its border is added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prologue {
    /// Nothing.
    None,
    /// `silu(x / sqrt(mean over channels of x^2 + eps))`.
    PixelNormSilu {
        /// Added to the mean square.
        eps: f32,
    },
    /// `x` where positive, else `x * slope`.
    Leaky {
        /// Factor of negative values.
        slope: f32,
    },
}

/// Values outside the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpacePad {
    /// Zeros.
    Zero,
    /// The picture mirrored at its border pixels, which are not repeated.
    Reflect,
}

/// Pixels to add around every image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Border {
    pub top: usize,
    pub bottom: usize,
    pub left: usize,
    pub right: usize,
    pub mode: SpacePad,
}

/// `images` of `height` x `width` pixels of `channels`, with the prologue done and the border
/// around each: [image, height + top + bottom, width + left + right, channel].
pub(crate) fn padded(
    cpu: &Cpu,
    x: &[f32],
    [height, width, channels]: [usize; 3],
    border: Border,
    prologue: Prologue,
) -> Vec<f32> {
    let rows = height + border.top + border.bottom;
    let row_len = (width + border.left + border.right) * channels;
    let images = x.len().checked_div(height * width * channels).unwrap_or(0);
    let mut out = vec![0.0; images * rows * row_len];
    cpu.for_each_chunk(&mut out, row_len, |index, row| {
        let Some(y) = inside(index % rows, border.top, height, border.mode) else {
            return;
        };
        let source = &x[(index / rows * height + y) * width * channels..][..width * channels];
        let middle = border.left * channels..(border.left + width) * channels;
        transform(source, &mut row[middle], channels, prologue);
        if border.mode == SpacePad::Reflect {
            reflect_sides(row, width, channels, border);
        }
    });
    out
}

/// Index in the picture of padded index `at`, or none where the padding is zero.
fn inside(at: usize, before: usize, length: usize, mode: SpacePad) -> Option<usize> {
    match mode {
        _ if at >= before && at < before + length => Some(at - before),
        SpacePad::Zero => None,
        SpacePad::Reflect if at < before => Some(before - at),
        SpacePad::Reflect => Some(2 * (length - 1) + before - at),
    }
}

fn reflect_sides(row: &mut [f32], width: usize, channels: usize, border: Border) {
    for at in (0..border.left).chain(border.left + width..border.left + width + border.right) {
        if let Some(from) = inside(at, border.left, width, SpacePad::Reflect) {
            let from = (border.left + from) * channels;
            row.copy_within(from..from + channels, at * channels);
        }
    }
}

fn transform(source: &[f32], out: &mut [f32], channels: usize, prologue: Prologue) {
    match prologue {
        Prologue::None => out.copy_from_slice(source),
        Prologue::PixelNormSilu { eps } => pixel_norm_row(source, out, channels, eps, true),
        Prologue::Leaky { slope } => {
            let leaky = |x: f32| if x > 0.0 { x } else { x * slope };
            out.iter_mut()
                .zip(source)
                .for_each(|(out, x)| *out = leaky(*x));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mode: SpacePad, left: usize, right: usize) -> Vec<f32> {
        let border = Border {
            top: 0,
            bottom: 0,
            left,
            right,
            mode,
        };
        padded(
            &Cpu::new(1).unwrap(),
            &[1.0, 2.0, 3.0],
            [1, 3, 1],
            border,
            Prologue::None,
        )
    }

    #[test]
    fn reflection_does_not_repeat_the_border() {
        assert_eq!(
            row(SpacePad::Reflect, 2, 2),
            [3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0]
        );
        assert_eq!(row(SpacePad::Zero, 1, 2), [0.0, 1.0, 2.0, 3.0, 0.0, 0.0]);
    }

    #[test]
    fn rows_are_padded_like_columns() {
        let border = Border {
            top: 1,
            bottom: 1,
            left: 0,
            right: 0,
            mode: SpacePad::Reflect,
        };
        let x = [1.0, 2.0, 3.0];
        let out = padded(&Cpu::new(1).unwrap(), &x, [3, 1, 1], border, Prologue::None);
        assert_eq!(out, [2.0, 1.0, 2.0, 3.0, 2.0]);
    }
}
