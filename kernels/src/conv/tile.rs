//! The register tile: some pixels times one panel of output channels, for one stretch of a tap.
//!
//! AVX2 keeps 6 pixels x 16 channels in registers, AVX-512 8 pixels x 32. Both fuse multiply and
//! add and go through the stretch in order, so both give the same bits.

#![expect(unsafe_code, reason = "register tiles are written with intrinsics")]

/// Columns that panels may have, widest first.
pub(crate) const WIDTHS: [usize; 3] = [32, 16, 8];

/// Widest panel.
pub(super) const WIDTH_MAX: usize = WIDTHS[0];

/// Most pixels of any tile.
const PIXELS_MAX: usize = 8;

/// Instruction sets that have a tile of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best of this machine.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// All of this machine, the best one last.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        let best = Self::detect();
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        if best == Self::Avx512 {
            all.push(Self::Avx2);
        }
        all.extend((best != Self::Portable).then_some(best));
        all
    }

    /// True when the set has a tile for panels of this width.
    pub fn has_width(self, width: usize) -> bool {
        match self {
            Self::Portable => width <= 16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => width <= 16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => width <= 32,
        }
    }

    /// `dst[row] = begin + x[row] w` for `rows` rows that are `step` and `dst_step` values apart; `w`
    /// is a panel of rows of `width` columns.
    pub fn multiply(
        self,
        (x, step): (&[f32], usize),
        (w, width): (&[f32], usize),
        rows: usize,
        (dst, dst_step): (&mut [f32], usize),
        begin: Begin<'_>,
    ) {
        let stretch = Stretch {
            x,
            step,
            w,
            width,
            begin,
        };
        accumulate(self, stretch, rows, dst, dst_step);
    }

    /// Most pixels of a tile over a panel of this width.
    pub fn pixels(self, width: usize) -> usize {
        if width == 16 { 6 } else { PIXELS_MAX }
    }
}

/// What the sums of every pixel begin with.
#[derive(Clone, Copy)]
pub(crate) enum Begin<'a> {
    /// What the output holds.
    Sums,
    /// A row at least as long as the panel is wide.
    Row(&'a [f32]),
}

/// One stretch for a run of pixels: `dst[p] = begin + sum over i < k of x[p*step + i] * w[i]`.
#[derive(Clone, Copy)]
pub(super) struct Stretch<'a> {
    /// Input from the first pixel's first value on.
    pub x: &'a [f32],
    /// Values between the inputs of neighbouring pixels.
    pub step: usize,
    /// Rows of the panel, `width` values each.
    pub w: &'a [f32],
    /// Columns of the panel: 8, 16 or 32.
    pub width: usize,
    pub begin: Begin<'a>,
}

/// Computes the stretch into `pixels` rows of `dst`, which are `dst_step` values apart.
pub(super) fn accumulate(
    isa: Isa,
    stretch: Stretch<'_>,
    pixels: usize,
    dst: &mut [f32],
    dst_step: usize,
) {
    let k = stretch.w.len() / stretch.width;
    assert!(
        pixels == 0 || stretch.x.len() >= (pixels - 1) * stretch.step + k,
        "input too short"
    );
    assert!(
        pixels == 0 || dst.len() >= (pixels - 1) * dst_step + stretch.width,
        "output too short"
    );
    assert!(isa.has_width(stretch.width), "no tile of this width");
    if let Begin::Row(row) = stretch.begin {
        assert!(row.len() >= stretch.width, "nothing to begin with");
    }
    let most = isa.pixels(stretch.width);
    let tiles = pixels.div_ceil(most);
    let mut done = 0;
    for tile in 0..tiles {
        // Equal tiles rather than full ones and a small rest, which would wait on its additions.
        let count = (pixels - done).div_ceil(tiles - tile);
        let part = Stretch {
            x: &stretch.x[done * stretch.step..],
            ..stretch
        };
        tile_of(isa, part, count, &mut dst[done * dst_step..], dst_step);
        done += count;
    }
}

fn tile_of(isa: Isa, stretch: Stretch<'_>, pixels: usize, dst: &mut [f32], dst_step: usize) {
    #[cfg(target_arch = "x86_64")]
    macro_rules! by_pixels {
        ($tile:ident) => {
            match pixels {
                1 => x86::$tile::<1>(stretch, dst, dst_step),
                2 => x86::$tile::<2>(stretch, dst, dst_step),
                3 => x86::$tile::<3>(stretch, dst, dst_step),
                4 => x86::$tile::<4>(stretch, dst, dst_step),
                5 => x86::$tile::<5>(stretch, dst, dst_step),
                6 => x86::$tile::<6>(stretch, dst, dst_step),
                7 => x86::$tile::<7>(stretch, dst, dst_step),
                _ => x86::$tile::<8>(stretch, dst, dst_step),
            }
        };
    }
    match (isa, stretch.width) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa::detect` saw AVX-512F; `accumulate` checked the lengths.
        (Isa::Avx512, 32) => unsafe { by_pixels!(avx512_32) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa::detect` saw AVX2 and FMA; `accumulate` checked the lengths.
        (Isa::Avx2 | Isa::Avx512, 16) => unsafe { by_pixels!(avx2_16) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx2 | Isa::Avx512, _) => unsafe { by_pixels!(avx2_8) },
        (_, 16) => portable::<16>(stretch, pixels, dst, dst_step),
        (_, _) => portable::<8>(stretch, pixels, dst, dst_step),
    }
}

/// The plain tile: the compiler's own vectors.
fn portable<const WIDTH: usize>(
    stretch: Stretch<'_>,
    pixels: usize,
    dst: &mut [f32],
    dst_step: usize,
) {
    let (rows, _) = stretch.w.as_chunks::<WIDTH>();
    for pixel in 0..pixels {
        let sums = &mut dst[pixel * dst_step..][..WIDTH];
        if let Begin::Row(row) = stretch.begin {
            sums.copy_from_slice(&row[..WIDTH]);
        }
        for (x, row) in stretch.x[pixel * stretch.step..].iter().zip(rows) {
            sums.iter_mut().zip(row).for_each(|(sum, w)| *sum += x * w);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Begin, Stretch};

    macro_rules! tile {
        ($name:ident, $features:literal, $vector:ty, $lanes:literal, $vectors:literal,
         $load:ident, $broadcast:ident, $fma:ident, $store:ident) => {
            /// Computes a stretch for `P` pixels.
            ///
            /// # Safety
            /// The machine must have the instruction set; `x` must hold `(P-1)*step + k` values,
            /// `dst` `(P-1)*dst_step + width` and a row to begin with `width`, as `accumulate` checks.
            #[target_feature(enable = $features)]
            pub unsafe fn $name<const P: usize>(
                stretch: Stretch<'_>,
                dst: &mut [f32],
                dst_step: usize,
            ) {
                const WIDTH: usize = $lanes * $vectors;
                let (x, step) = (stretch.x.as_ptr(), stretch.step);
                let (w, dst) = (stretch.w.as_ptr(), dst.as_mut_ptr());
                let (begin, begin_step) = match stretch.begin {
                    Begin::Sums => (dst.cast_const(), dst_step),
                    Begin::Row(row) => (row.as_ptr(), 0),
                };
                // SAFETY: all offsets stay inside the lengths of this function's contract.
                unsafe {
                    let mut sums: [[$vector; $vectors]; P] = std::array::from_fn(|p| {
                        std::array::from_fn(|v| $load(begin.add(p * begin_step + v * $lanes)))
                    });
                    for i in 0..stretch.w.len() / WIDTH {
                        let row: [$vector; $vectors] =
                            std::array::from_fn(|v| $load(w.add(i * WIDTH + v * $lanes)));
                        for p in 0..P {
                            let value = $broadcast(*x.add(p * step + i));
                            for v in 0..$vectors {
                                sums[p][v] = $fma(value, row[v], sums[p][v]);
                            }
                        }
                    }
                    for p in 0..P {
                        for v in 0..$vectors {
                            $store(dst.add(p * dst_step + v * $lanes), sums[p][v]);
                        }
                    }
                }
            }
        };
    }

    tile!(
        avx2_8,
        "avx2,fma",
        __m256,
        8,
        1,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_storeu_ps
    );
    tile!(
        avx2_16,
        "avx2,fma",
        __m256,
        8,
        2,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_storeu_ps
    );
    tile!(
        avx512_32,
        "avx512f",
        __m512,
        16,
        2,
        _mm512_loadu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_storeu_ps
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_agrees_with_a_plain_loop() {
        let value = |i: usize| ((i * 7919 % 101) as f32 - 50.0) / 64.0;
        for width in [8, 16, 32] {
            for (pixels, k, step) in [(1, 1, 1), (5, 7, 2), (6, 24, 8), (13, 33, 11), (17, 9, 3)] {
                let x: Vec<f32> = (0..(pixels - 1) * step + k).map(value).collect();
                let w: Vec<f32> = (0..k * width).map(|i| value(i + 13)).collect();
                let expected: Vec<f32> = (0..pixels * width)
                    .map(|at| {
                        let (p, column) = (at / width, at % width);
                        let sum = |i: usize| x[p * step + i] * w[i * width + column];
                        1.0 + (0..k).map(sum).sum::<f32>()
                    })
                    .collect();
                for isa in Isa::all() {
                    if !isa.has_width(width) {
                        continue;
                    }
                    let ones = [1.0; WIDTH_MAX];
                    for (begin, before) in [(Begin::Sums, 1.0), (Begin::Row(&ones), f32::NAN)] {
                        let mut found = vec![before; pixels * width];
                        let stretch = Stretch {
                            x: &x,
                            step,
                            w: &w,
                            width,
                            begin,
                        };
                        accumulate(isa, stretch, pixels, &mut found, width);
                        for (a, b) in found.iter().zip(&expected) {
                            assert!(
                                (a - b).abs() < 1e-4,
                                "{isa:?} {width} {pixels} {k}: {a} {b}"
                            );
                        }
                    }
                }
            }
        }
    }
}
