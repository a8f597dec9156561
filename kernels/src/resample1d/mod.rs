//! `upsample1d` and `downsample1d`: one FIR filter over every channel of a sequence, with the ends
//! repeated.
//!
//! up:   `y[b,n] = ratio * sum over j of x[b, (n + left - j)/ratio] * taps[j]`, j where it divides
//! down: `y[b,m] = sum over j of x[b, m*ratio + j - left] * taps[j]`
//!
//! x: F32 [batch, length, channel]. An index outside the sequence means its nearest sample.

use crate::copy::cuda::cast;
use crate::cuda::{Array, Element, Gpu};
use crate::device::{Cpu, Cuda, Device};
use crate::error::KernelError;
use crate::snake::cuda;
use crate::tensor::Tensor;

/// Output samples of one piece of work.
const PIECE_SAMPLES: usize = 256;

/// A low-pass filter and where it stands over the signal.
#[derive(Debug, Clone)]
pub struct Fir {
    /// Coefficients.
    pub taps: Vec<f32>,
    /// Factor between the two sampling rates.
    pub ratio: usize,
    /// Coefficients before the output sample's own position.
    pub left: usize,
}

impl Fir {
    pub(crate) fn check(&self, op: &'static str) -> Result<(), KernelError> {
        if self.ratio == 0 || self.taps.is_empty() {
            let why = format!("{} taps at ratio {}", self.taps.len(), self.ratio);
            return Err(KernelError::unsupported(op, why));
        }
        Ok(())
    }
}

/// Fills `out` [b, l*ratio, c] from `x` [b, l, c].
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other;
/// [`KernelError::Unsupported`] for a filter without taps or ratio 0.
pub fn upsample1d(
    device: &Device,
    x: &Tensor,
    fir: &Fir,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    const OP: &str = "upsample1d";
    fir.check(OP)?;
    let [batch, length, channels]: [usize; 3] = x.expect_rank(OP, "x")?;
    out.expect_f32(OP, "out", &[batch, length * fir.ratio, channels])?;
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Cuda(card) => return on_card(card, cuda::upsample1d, x, fir, out),
    };
    let ratio = fir.ratio;
    filter(cpu, x, out, |n, add| {
        let at = n + fir.left;
        for (j, tap) in fir.taps.iter().enumerate().skip(at % ratio).step_by(ratio) {
            add(
                (at as isize - j as isize) / ratio as isize,
                tap * ratio as f32,
            );
        }
    });
    Ok(())
}

/// Fills `out` [b, l/ratio, c] from `x` [b, l, c], l a multiple of the ratio.
///
/// # Errors
/// As [`upsample1d`].
pub fn downsample1d(
    device: &Device,
    x: &Tensor,
    fir: &Fir,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    const OP: &str = "downsample1d";
    fir.check(OP)?;
    let dims: [usize; 3] = x.expect_rank(OP, "x")?;
    if !dims[1].is_multiple_of(fir.ratio) {
        let expected = format!("a length divisible by {}", fir.ratio);
        return Err(KernelError::shape(OP, "x", expected, dims));
    }
    out.expect_f32(OP, "out", &[dims[0], dims[1] / fir.ratio, dims[2]])?;
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Cuda(card) => return on_card(card, cuda::downsample1d, x, fir, out),
    };
    filter(cpu, x, out, |m, add| {
        for (j, tap) in fir.taps.iter().enumerate() {
            add((m * fir.ratio + j) as isize - fir.left as isize, *tap);
        }
    });
    Ok(())
}

/// One of the two kernels.
type Kernel = fn(&Gpu, &Array, &Fir, &Array, &Array) -> Result<(), KernelError>;

fn on_card(
    card: &Cuda,
    kernel: Kernel,
    x: &Tensor,
    fir: &Fir,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    let taps = card
        .gpu()
        .upload(Element::F32, &[fir.taps.len()], &fir.taps)?;
    let (x, target) = (card.floats(x)?, card.own(out)?);
    if target.element() == Element::F32 {
        return kernel(card.gpu(), &x, fir, &taps, &target);
    }
    let wide = card.gpu().empty(Element::F32, target.dims())?;
    kernel(card.gpu(), &x, fir, &taps, &wide)?;
    cast(card.gpu(), &wide, &target)
}

/// Sums what `terms(output sample, add(input sample, factor))` names.
fn filter(
    cpu: &Cpu,
    x: &Tensor,
    out: &mut Tensor,
    terms: impl Fn(usize, &mut dyn FnMut(isize, f32)) + Send + Sync,
) {
    if out.count() == 0 {
        return;
    }
    let (x_length, channels, out_length) = (x.dims()[1], x.dims()[2], out.dims()[1]);
    let x = x.f32s();
    cpu.for_each_chunk(out.f32s_mut(), PIECE_SAMPLES * channels, |index, piece| {
        for (offset, sample) in piece.chunks_exact_mut(channels).enumerate() {
            let at = index * PIECE_SAMPLES + offset;
            let (batch, n) = (at / out_length, at % out_length);
            sample.fill(0.0);
            terms(n, &mut |source, factor| {
                let source = source.clamp(0, x_length as isize - 1) as usize;
                let values = &x[(batch * x_length + source) * channels..][..channels];
                sample
                    .iter_mut()
                    .zip(values)
                    .for_each(|(sum, x)| *sum += x * factor);
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{noise, tensor};

    #[test]
    fn a_constant_stays_a_constant() {
        let device = Device::cpu(2).unwrap();
        let x = tensor(&[2, 9, 3], vec![0.7; 54]);
        let fir = Fir {
            taps: vec![0.125, 0.375, 0.375, 0.125],
            ratio: 2,
            left: 1,
        };
        let mut up = noise(1, &[2, 18, 3]);
        upsample1d(&device, &x, &fir, &mut up).unwrap();
        assert!(up.f32s().iter().all(|y| (y - 0.7).abs() < 1e-6));
        let mut down = noise(2, &[2, 9, 3]);
        downsample1d(&device, &up, &fir, &mut down).unwrap();
        assert!(down.f32s().iter().all(|y| (y - 0.7).abs() < 1e-6));
    }

    #[test]
    fn upsampling_is_a_transposed_convolution_of_the_padded_signal() {
        // Pad by p, scatter every sample with stride r, scale by r, crop: the reference's way.
        let (length, ratio, k, pad) = (11usize, 3usize, 43usize, 7usize);
        let (crop, taps) = (42, noise(3, &[k]).f32s().to_vec());
        let x = noise(4, &[1, length, 1]);
        let mut scattered = vec![0.0; (length + 2 * pad - 1) * ratio + k];
        for i in 0..length + 2 * pad {
            let source = i.saturating_sub(pad).min(length - 1);
            for (j, tap) in taps.iter().enumerate() {
                scattered[i * ratio + j] += x.f32s()[source] * tap * ratio as f32;
            }
        }
        let device = Device::cpu(1).unwrap();
        let mut out = Tensor::zeros_f32(&device, &[1, length * ratio, 1]).unwrap();
        let fir = Fir {
            taps,
            ratio,
            left: crop - pad * ratio,
        };
        upsample1d(&device, &x, &fir, &mut out).unwrap();
        for (n, found) in out.f32s().iter().enumerate() {
            assert!((found - scattered[n + crop]).abs() < 1e-4, "{n}");
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let device = Device::cpu(1).unwrap();
        let fir = Fir {
            taps: vec![1.0],
            ratio: 2,
            left: 0,
        };
        let mut out = Tensor::zeros_f32(&device, &[1, 4, 1]).unwrap();
        assert!(downsample1d(&device, &noise(1, &[1, 9, 1]), &fir, &mut out).is_err());
        assert!(upsample1d(&device, &noise(1, &[1, 4, 1]), &fir, &mut out).is_err());
        let none = Fir {
            taps: vec![],
            ratio: 2,
            left: 0,
        };
        assert!(upsample1d(&device, &noise(1, &[1, 2, 1]), &none, &mut out).is_err());
    }
}
