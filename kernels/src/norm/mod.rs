//! `y = norm(x) * w * (1 + scale) + shift`, row by row: the norm, its weight and the adaptive
//! modulation in one pass. Reads x once from memory and writes y once.

mod cpu;
pub mod cuda;

use crate::modulation::Rows;
use crate::{Cuda, Device, KernelError, Tensor};

const OP: &str = "norm_modulate";

/// What a row is divided by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// Nothing: modulation alone.
    None,
    /// x / sqrt(mean(x^2) + eps)
    Rms {
        /// Added to the mean square.
        eps: f32,
    },
    /// (x - mean) / sqrt(variance + eps)
    Layer {
        /// Added to the variance.
        eps: f32,
    },
}

/// A weight for every column of a normalised row.
#[derive(Clone, Copy)]
pub enum Weight<'a> {
    /// No weight.
    One,
    /// w [D]
    Stored(&'a Tensor),
    /// 1 + w [D]
    OnePlus(&'a Tensor),
}

impl<'a> Weight<'a> {
    pub(crate) fn tensor(&self) -> Option<&'a Tensor> {
        match self {
            Self::One => None,
            Self::Stored(weight) | Self::OnePlus(weight) => Some(weight),
        }
    }

    pub(crate) fn offset(&self) -> f32 {
        if matches!(self, Self::OnePlus(_)) {
            1.0
        } else {
            0.0
        }
    }
}

/// Shift and scale of every token.
#[derive(Clone, Copy)]
pub struct Modulation<'a> {
    /// Added last.
    pub shift: Rows<'a>,
    /// One is added to it, then it multiplies.
    pub scale: Rows<'a>,
}

/// Normalises and modulates the rows of x [N, D] into y [N, D]; see the module.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::DType`].
pub fn norm_modulate(
    device: &Device,
    x: &Tensor,
    norm: Norm,
    weight: Weight<'_>,
    modulation: Option<Modulation<'_>>,
    y: &mut Tensor,
) -> Result<(), KernelError> {
    let [rows, width] = x.expect_rank(OP, "x")?;
    y.expect_f32(OP, "y", &[rows, width])?;
    if let Some(weight) = weight.tensor() {
        weight.expect_f32(OP, "weight", &[width])?;
    }
    if let Some(modulation) = &modulation {
        modulation.shift.check(OP, "shift", rows, width)?;
        modulation.scale.check(OP, "scale", rows, width)?;
    }
    match device {
        Device::Cpu(cpu) => cpu::norm_modulate(cpu, x, norm, weight, modulation, y),
        Device::Cuda(card) => return on_card(card, x, norm, weight, modulation, y),
    }
    Ok(())
}

fn on_card(
    card: &Cuda,
    x: &Tensor,
    norm: Norm,
    weight: Weight<'_>,
    modulation: Option<Modulation<'_>>,
    y: &mut Tensor,
) -> Result<(), KernelError> {
    let y = card.own(y)?;
    let x = card.cast(x, y.element())?;
    let stored = weight.tensor().map(|weight| card.floats(weight));
    let stored = stored.transpose()?;
    let rows = match &modulation {
        Some(Modulation { shift, scale }) => Some((shift.on_card(card)?, scale.on_card(card)?)),
        None => None,
    };
    let modulation = rows.as_ref().map(|(shift, scale)| cuda::DeviceModulation {
        shift: shift.view(),
        scale: scale.view(),
    });
    let weight = stored.as_ref().map(|stored| (stored, weight.offset()));
    cuda::norm_modulate(card.gpu(), &x, norm, weight, modulation, &y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise, tensor};

    fn reference(row: &[f32], norm: Norm) -> Vec<f64> {
        let row: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let squares = |values: &[f64]| mean(&values.iter().map(|v| v * v).collect::<Vec<_>>());
        match norm {
            Norm::None => row,
            Norm::Rms { eps } => {
                let root = (squares(&row) + f64::from(eps)).sqrt();
                row.iter().map(|v| v / root).collect()
            }
            Norm::Layer { eps } => {
                let centre = mean(&row);
                let centred: Vec<f64> = row.iter().map(|v| v - centre).collect();
                let root = (squares(&centred) + f64::from(eps)).sqrt();
                centred.iter().map(|v| v / root).collect()
            }
        }
    }

    #[test]
    fn every_norm_agrees_with_double_precision() {
        let device = Device::cpu(2).unwrap();
        for (rows, width) in [(1, 1), (3, 5), (40, 128), (300, 67)] {
            let (x, w, table) = (
                noise(1, &[rows, width]),
                noise(2, &[width]),
                noise(3, &[1, 4, width]),
            );
            let row = |slot| Rows {
                table: &table,
                slot,
                groups: None,
            };
            for norm in [
                Norm::None,
                Norm::Rms { eps: 1e-6 },
                Norm::Layer { eps: 1e-6 },
            ] {
                for (weight, plus) in [(Weight::Stored(&w), 0.0), (Weight::OnePlus(&w), 1.0)] {
                    let modulation = Modulation {
                        shift: row(2),
                        scale: row(3),
                    };
                    let mut y = tensor(&[rows, width], vec![f32::NAN; rows * width]);
                    norm_modulate(&device, &x, norm, weight, Some(modulation), &mut y).unwrap();
                    let expected: Vec<f64> = x
                        .f32s()
                        .chunks(width)
                        .flat_map(|row| reference(row, norm).into_iter().enumerate())
                        .map(|(c, v)| {
                            let [w, shift, scale] = [
                                w.f32s()[c],
                                table.f32s()[2 * width + c],
                                table.f32s()[3 * width + c],
                            ];
                            v * (plus + f64::from(w)) * (1.0 + f64::from(scale)) + f64::from(shift)
                        })
                        .collect();
                    // A row of one element minus its mean is nothing but rounding.
                    if width > 1 {
                        assert_close(y.f32s(), &expected, 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn plain_norms_need_neither_weight_nor_modulation() {
        let device = Device::cpu(1).unwrap();
        let x = noise(1, &[4, 33]);
        let mut y = x.clone();
        norm_modulate(
            &device,
            &x,
            Norm::Rms { eps: 1e-6 },
            Weight::One,
            None,
            &mut y,
        )
        .unwrap();
        let expected: Vec<f64> = x
            .f32s()
            .chunks(33)
            .flat_map(|row| reference(row, Norm::Rms { eps: 1e-6 }))
            .collect();
        assert_close(y.f32s(), &expected, 1e-5);
        let wrong = norm_modulate(
            &device,
            &x,
            Norm::None,
            Weight::Stored(&noise(1, &[32])),
            None,
            &mut y,
        );
        assert!(wrong.is_err());
    }
}
