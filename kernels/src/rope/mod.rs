//! Rotary positions: the tables (`RopeTable`) and `qk_norm_rope`, which normalises queries or keys
//! and rotates them in one pass.

mod cpu;
pub mod cuda;
mod table;

use crate::norm::Weight;
use crate::{Cuda, Device, KernelError, Tensor};

pub use table::{Axis, RopeTable, plain_table, rope_table};

const OP: &str = "qk_norm_rope";

/// Which two elements of a row turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Elements i and i + d/2 of a head of d.
    Split,
    /// Elements 2i and 2i + 1 of the whole row.
    Interleaved,
}

/// How the row is normalised before the rotation.
#[derive(Clone, Copy)]
pub struct QkNorm<'a> {
    /// Added to the mean square.
    pub eps: f32,
    /// [D], or [D / H] when per head.
    pub weight: Weight<'a>,
    /// One root mean square for each head instead of one for the row.
    pub per_head: bool,
}

/// RMS-normalises every row of x [N, D] and rotates it by `rope`, in place.
///
/// Rotation of a pair (a, b) by (c, s): (a c - b s, b c + a s). A table of D/2 columns rotates each
/// head by its own columns, one of D/(2H) columns every head alike (split layout only).
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::DType`]; [`KernelError::Unsupported`] for an odd head or
/// for an interleaved table that is shared by heads.
pub fn qk_norm_rope(
    device: &Device,
    x: &mut Tensor,
    heads: usize,
    norm: QkNorm<'_>,
    rope: Option<(&RopeTable, Layout)>,
) -> Result<(), KernelError> {
    let [rows, width] = x.expect_rank(OP, "x")?;
    if heads == 0 || width == 0 || width % (2 * heads) != 0 {
        return Err(KernelError::unsupported(
            OP,
            format!("{heads} heads over a width of {width}"),
        ));
    }
    if let Some(weight) = norm.weight.tensor() {
        weight.expect_f32(
            OP,
            "weight",
            &[if norm.per_head { width / heads } else { width }],
        )?;
    }
    if let Some((rope, layout)) = rope {
        let columns = rope.columns();
        let per_head = layout == Layout::Split && columns == width / heads / 2;
        if rope.rows() != rows || (columns != width / 2 && !per_head) {
            let found = [rope.rows(), columns];
            return Err(KernelError::shape(OP, "rope", [rows, width / 2], found));
        }
    }
    match device {
        Device::Cpu(cpu) => cpu::qk_norm_rope(cpu, x, heads, norm, rope),
        Device::Cuda(card) => return on_card(card, x, heads, norm, rope),
    }
    Ok(())
}

fn on_card(
    card: &Cuda,
    x: &mut Tensor,
    heads: usize,
    norm: QkNorm<'_>,
    rope: Option<(&RopeTable, Layout)>,
) -> Result<(), KernelError> {
    let x = card.own(x)?;
    let stored = norm.weight.tensor().map(|weight| card.floats(weight));
    let stored = stored.transpose()?;
    let on_device = cuda::DeviceQkNorm {
        eps: norm.eps,
        weight: stored.as_ref().map(|stored| (stored, norm.weight.offset())),
        per_head: norm.per_head,
    };
    let table = rope
        .map(|(table, _)| table.on_card(card.gpu()))
        .transpose()?;
    let rope = table.as_ref().zip(rope.map(|(_, layout)| layout));
    cuda::qk_norm_rope(card.gpu(), cuda::Columns::all(&x), heads, on_device, rope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise};

    /// Plain double-precision form: norm, then each pair by its angle.
    fn reference(
        x: &Tensor,
        heads: usize,
        weight: &Tensor,
        per_head: bool,
        rope: &RopeTable,
        layout: Layout,
    ) -> Vec<f64> {
        let width = x.last_dim();
        let d = width / heads;
        let group = if per_head { d } else { width };
        let mut out: Vec<f64> = Vec::new();
        for row in x.f32s().chunks(width) {
            for part in row.chunks(group) {
                let mean = part.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / group as f64;
                let root = (mean + 1e-6).sqrt();
                let weighted = part.iter().zip(weight.f32s());
                out.extend(weighted.map(|(v, w)| f64::from(*v) / root * f64::from(*w)));
            }
        }
        for (n, row) in out.chunks_mut(width).enumerate() {
            for pair in 0..width / 2 {
                let (a, b) = match layout {
                    Layout::Interleaved => (2 * pair, 2 * pair + 1),
                    Layout::Split => (
                        pair / (d / 2) * d + pair % (d / 2),
                        pair / (d / 2) * d + pair % (d / 2) + d / 2,
                    ),
                };
                let column = n * rope.columns() + pair % rope.columns();
                let (c, s) = (f64::from(rope.cos()[column]), f64::from(rope.sin()[column]));
                (row[a], row[b]) = (row[a] * c - row[b] * s, row[b] * c + row[a] * s);
            }
        }
        out
    }

    #[test]
    fn both_layouts_and_both_norms_agree_with_double_precision() {
        let device = Device::cpu(2).unwrap();
        for (rows, heads, d) in [(1, 1, 2), (5, 3, 8), (70, 2, 64), (9, 4, 18)] {
            let width = heads * d;
            let positions: Vec<f32> = (0..rows).map(|n| n as f32 / 7.0).collect();
            let own = rope_table(
                &[Axis {
                    positions: &positions,
                    max: 20.0,
                }],
                1e4,
                width,
            )
            .unwrap();
            let shared = plain_table(rows, d, 1e4, 1.0).unwrap();
            let cases = [
                (&own, Layout::Split, false),
                (&own, Layout::Interleaved, false),
                (&shared, Layout::Split, true),
            ];
            for (table, layout, per_head) in cases {
                let mut x = noise(1, &[rows, width]);
                let weight = noise(2, &[if per_head { d } else { width }]);
                let expected = reference(&x, heads, &weight, per_head, table, layout);
                let norm = QkNorm {
                    eps: 1e-6,
                    weight: Weight::Stored(&weight),
                    per_head,
                };
                qk_norm_rope(&device, &mut x, heads, norm, Some((table, layout))).unwrap();
                assert_close(x.f32s(), &expected, 1e-5);
            }
        }
    }

    #[test]
    fn a_table_for_other_rows_or_an_odd_head_is_refused() {
        let device = Device::cpu(1).unwrap();
        let mut x = noise(1, &[3, 8]);
        let norm = QkNorm {
            eps: 1e-6,
            weight: Weight::One,
            per_head: false,
        };
        let table = plain_table(4, 4, 1e4, 1.0).unwrap();
        assert!(qk_norm_rope(&device, &mut x, 2, norm, Some((&table, Layout::Split))).is_err());
        let table = plain_table(3, 4, 1e4, 1.0).unwrap();
        assert!(
            qk_norm_rope(
                &device,
                &mut x,
                2,
                norm,
                Some((&table, Layout::Interleaved))
            )
            .is_err()
        );
        assert!(qk_norm_rope(&device, &mut x, 3, norm, None).is_err());
    }
}
