//! `upsample_nearest`: every pixel becomes a square of two by two. F32 [batch, height, width,
//! channel]; reads each value once, writes it four times.

use crate::device::Device;
use crate::error::KernelError;
use crate::space_depth::cuda;
use crate::tensor::Tensor;

/// Doubles height and width of `x` into `out` [b, 2h, 2w, c].
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other.
pub fn upsample_nearest(device: &Device, x: &Tensor, out: &mut Tensor) -> Result<(), KernelError> {
    const OP: &str = "upsample_nearest";
    let [batch, height, width, channels]: [usize; 4] = x.expect_rank(OP, "x")?;
    out.expect_f32(OP, "out", &[batch, 2 * height, 2 * width, channels])?;
    if out.count() == 0 {
        return Ok(());
    }
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Cuda(card) => {
            let out = card.own(out)?;
            return cuda::upsample_nearest(card.gpu(), &card.cast(x, out.element())?, &out);
        }
    };
    let x = x.f32s();
    cpu.for_each_chunk(out.f32s_mut(), 2 * width * channels, |index, row| {
        let source = &x[index / 2 * width * channels..][..width * channels];
        let pixels = row
            .chunks_exact_mut(2 * channels)
            .zip(source.chunks_exact(channels));
        for (pair, pixel) in pixels {
            let (left, right) = pair.split_at_mut(channels);
            left.copy_from_slice(pixel);
            right.copy_from_slice(pixel);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn each_pixel_is_found_four_times() {
        let device = Device::cpu(2).unwrap();
        let (b, h, w, c) = (2, 3, 5, 2);
        let x = noise(1, &[b, h, w, c]);
        let mut out = Tensor::zeros_f32(&device, &[b, 2 * h, 2 * w, c]).unwrap();
        upsample_nearest(&device, &x, &mut out).unwrap();
        for (index, found) in out.f32s().iter().enumerate() {
            let (pixel, channel) = (index / c, index % c);
            let (row, column) = (pixel / (2 * w), pixel % (2 * w));
            assert_eq!(*found, x.f32s()[(row / 2 * w + column / 2) * c + channel]);
        }
        let mut wrong = Tensor::zeros_f32(&device, &[b, h, 2 * w, c]).unwrap();
        assert!(upsample_nearest(&device, &x, &mut wrong).is_err());
    }
}
