//! `patchify` and `unpatchify`: squares of pixels become channels, and back.
//!
//! Pixel (row*p + i, column*p + j), channel c <-> position (row, column), channel
//! `c*p*p + j*p + i`: columns of the square before its rows, as the LTX-2 autoencoder has it.
//! F32 [batch, time, height, width, channel]; every value is read and written once.

use crate::device::Device;
use crate::error::KernelError;
use crate::space_depth::cuda;
use crate::tensor::Tensor;

/// Gathers `x` [b, t, h, w, c] into `out` [b, t, h/p, w/p, c*p*p].
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other.
pub fn patchify(
    device: &Device,
    x: &Tensor,
    patch: usize,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    let dims: [usize; 5] = x.expect_rank("patchify", "x")?;
    let [b, t, h, w, c] = dims;
    if patch == 0 || h % patch != 0 || w % patch != 0 {
        let expected = format!("height and width divisible by {patch}");
        return Err(KernelError::shape("patchify", "x", expected, dims));
    }
    let width = w / patch;
    out.expect_f32(
        "patchify",
        "out",
        &[b, t, h / patch, width, c * patch * patch],
    )?;
    if out.count() == 0 {
        return Ok(());
    }
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Cuda(card) => {
            let out = card.own(out)?;
            return cuda::patchify(card.gpu(), &card.cast(x, out.element())?, patch, &out);
        }
    };
    let x = x.f32s();
    let area = patch * patch;
    cpu.for_each_chunk(out.f32s_mut(), width * c * area, |row, values| {
        for (column, position) in values.chunks_exact_mut(c * area).enumerate() {
            for (channel, value) in position.iter_mut().enumerate() {
                let (c0, j, i) = (channel / area, channel % area / patch, channel % patch);
                *value = x[((row * patch + i) * w + column * patch + j) * c + c0];
            }
        }
    });
    Ok(())
}

/// Spreads `x` [b, t, h, w, c*p*p] into `out` [b, t, h*p, w*p, c].
///
/// # Errors
/// [`KernelError::Shape`] and [`KernelError::DType`] for tensors that do not fit each other.
pub fn unpatchify(
    device: &Device,
    x: &Tensor,
    patch: usize,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    let dims: [usize; 5] = x.expect_rank("unpatchify", "x")?;
    let [b, t, h, w, channels] = dims;
    let area = patch * patch;
    if area == 0 || channels % area != 0 {
        let expected = format!("channels divisible by {area}");
        return Err(KernelError::shape("unpatchify", "x", expected, dims));
    }
    let c = channels / area;
    out.expect_f32("unpatchify", "out", &[b, t, h * patch, w * patch, c])?;
    if out.count() == 0 {
        return Ok(());
    }
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Cuda(card) => {
            let out = card.own(out)?;
            return cuda::unpatchify(card.gpu(), &card.cast(x, out.element())?, patch, &out);
        }
    };
    let x = x.f32s();
    cpu.for_each_chunk(out.f32s_mut(), w * patch * c, |row, values| {
        let source = &x[row / patch * w * channels..][..w * channels];
        for (column, pixel) in values.chunks_exact_mut(c).enumerate() {
            let at = column / patch * channels + column % patch * patch + row % patch;
            let values = source[at..].iter().step_by(area);
            pixel.iter_mut().zip(values).for_each(|(out, x)| *out = *x);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn columns_come_before_rows_and_spreading_undoes_gathering() {
        let device = Device::cpu(2).unwrap();
        let x = noise(1, &[2, 3, 8, 12, 3]);
        let mut patches = Tensor::zeros_f32(&device, &[2, 3, 2, 3, 48]).unwrap();
        patchify(&device, &x, 4, &mut patches).unwrap();
        // Channel 16 + 4*2 + 1 of position (0, 0): colour 1, row 1, column 2.
        assert_eq!(patches.f32s()[16 + 4 * 2 + 1], x.f32s()[(12 + 2) * 3 + 1]);
        let mut again = Tensor::zeros_f32(&device, x.dims()).unwrap();
        unpatchify(&device, &patches, 4, &mut again).unwrap();
        assert_eq!(again.f32s(), x.f32s());
    }

    #[test]
    fn sizes_that_do_not_divide_are_refused() {
        let device = Device::cpu(1).unwrap();
        let mut out = Tensor::zeros_f32(&device, &[1, 1, 1, 1, 48]).unwrap();
        assert!(patchify(&device, &noise(1, &[1, 1, 6, 4, 3]), 4, &mut out).is_err());
        assert!(patchify(&device, &noise(1, &[1, 1, 4, 4, 3]), 0, &mut out).is_err());
        assert!(unpatchify(&device, &noise(1, &[1, 1, 1, 1, 47]), 4, &mut out).is_err());
    }
}
