//! `linear` of host tensors on a card: x goes there, z comes back, and what needs y is done on the host,
//! so that y need not travel both ways.

use super::{Epilogue, cuda};
use crate::copy::cuda::cast;
use crate::cuda::{Array, Element, Gpu};
use crate::simd::{gelu_tanh, vectorised};
use crate::{Cpu, KernelError, Tensor};

/// Rows of x and z that are on the card at once: bounds its memory.
const ROWS_MAX: usize = 16 * 1024;

pub(super) fn upload(gpu: &Gpu, weight: &Tensor) -> Result<Array, KernelError> {
    gpu.upload(Element::BF16, weight.dims(), weight.f32s())
}

pub(super) fn linear(
    cpu: &Cpu,
    gpu: &Gpu,
    x: &Tensor,
    weight: &Array,
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
    y: &mut Tensor,
) -> Result<(), KernelError> {
    let (inner, columns, width) = (x.last_dim(), weight.row_count(), y.last_dim());
    cpu.count_product([x.row_count(), columns, inner]);
    let bias = bias
        .map(|bias| gpu.upload(Element::F32, bias.dims(), bias.f32s()))
        .transpose()?;
    let on_card = match epilogue {
        Epilogue::GeluTanh => cuda::DeviceEpilogue::GeluTanh,
        Epilogue::Silu => cuda::DeviceEpilogue::Silu,
        _ => cuda::DeviceEpilogue::None,
    };
    let pieces = x
        .f32s()
        .chunks(ROWS_MAX * inner)
        .zip(y.f32s_mut().chunks_mut(ROWS_MAX * width));
    for (piece, (x, y)) in pieces.enumerate() {
        let rows = x.len() / inner;
        let x = half(gpu, &[rows, inner], x)?;
        let z = gpu.empty(Element::F32, &[rows, columns])?;
        cuda::linear(gpu, &x, weight, bias.as_ref(), on_card, &z)?;
        finish(
            cpu,
            &gpu.download(&z)?,
            epilogue,
            piece * ROWS_MAX,
            width,
            y,
        );
    }
    Ok(())
}

/// Floats as BF16 on the card; rounded there.
pub(crate) fn half(gpu: &Gpu, dims: &[usize], values: &[f32]) -> Result<Array, KernelError> {
    let wide = gpu.upload(Element::F32, dims, values)?;
    let half = gpu.empty(Element::BF16, dims)?;
    cast(gpu, &wide, &half)?;
    Ok(half)
}

/// What is left of the epilogue for rows from `first` on.
fn finish(cpu: &Cpu, z: &[f32], epilogue: Epilogue<'_>, first: usize, width: usize, y: &mut [f32]) {
    let columns = z.len() / (y.len() / width);
    cpu.for_each_chunk(y, width, |row, y| {
        let z = &z[row * columns..][..columns];
        let zipped = y.iter_mut().zip(z);
        match epilogue {
            Epilogue::None | Epilogue::GeluTanh | Epilogue::Silu => y.copy_from_slice(z),
            Epilogue::Residual => zipped.for_each(|(y, z)| *y += z),
            Epilogue::GatedResidual(gate) => {
                zipped
                    .zip(gate.row(first + row))
                    .for_each(|((y, z), gate)| *y += gate * z);
            }
            Epilogue::GegluTanh => vectorised(
                #[inline(always)]
                || {
                    let up = &z[width..];
                    y.iter_mut()
                        .zip(z)
                        .zip(up)
                        .for_each(|((y, g), u)| *y = gelu_tanh(*g) * u);
                },
            ),
        }
    });
}
