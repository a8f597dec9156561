//! Tables of cosines and sines, made on the host in the reference's own order of rounding.

use std::sync::OnceLock;

use super::cuda::DeviceTable;
use crate::KernelError;
use crate::cuda::Gpu;

/// Coordinates of all tokens along one axis.
#[derive(Debug, Clone, Copy)]
pub struct Axis<'a> {
    /// One coordinate a token.
    pub positions: &'a [f32],
    /// The coordinate that maps to the end of the range.
    pub max: f32,
}

/// One (cosine, sine) pair for each token and each pair of elements.
#[derive(Debug, Clone)]
pub struct RopeTable {
    rows: usize,
    columns: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The copy on the card that used it first.
    card: OnceLock<(Gpu, DeviceTable)>,
}

impl PartialEq for RopeTable {
    fn eq(&self, other: &Self) -> bool {
        let shape = |table: &Self| (table.rows, table.columns);
        shape(self) == shape(other) && self.cos == other.cos && self.sin == other.sin
    }
}

impl RopeTable {
    /// Tokens.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Pairs of elements that have an angle of their own.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Cosines, [rows, columns].
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// Sines, [rows, columns].
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }

    /// The table on a card, uploaded once.
    pub(super) fn on_card(&self, gpu: &Gpu) -> Result<DeviceTable, KernelError> {
        if let Some((owner, table)) = self.card.get()
            && owner.is_same_machine(gpu)
        {
            return Ok(table.clone());
        }
        let table = DeviceTable::upload(gpu, self)?;
        // Another thread or card may have been first; its copy stays.
        let _ = self.card.set((gpu.clone(), table.clone()));
        Ok(table)
    }

    fn with_capacity(rows: usize, columns: usize) -> Self {
        let count = rows * columns;
        Self {
            rows,
            columns,
            cos: Vec::with_capacity(count),
            sin: Vec::with_capacity(count),
            card: OnceLock::new(),
        }
    }

    fn push(&mut self, angle: f32) {
        let (sin, cos) = f64::from(angle).sin_cos();
        self.cos.push(cos as f32);
        self.sin.push(sin as f32);
    }
}

/// The table of LTX-2: fractional positions, frequencies spaced evenly in the exponent.
///
/// With n axes, F = floor(width / 2n), `w_k = theta^(k/(F-1)) * pi/2` in f64 cast to f32 and
/// `u = 2 position/max - 1`, the angle of (k, axis) is the f32 product `u * w_k`; columns run over k,
/// then axes, after as many (1, 0) pairs as width/2 exceeds n F.
///
/// # Errors
/// [`KernelError::Unsupported`] for no axes, axes of unequal length or a width too small for them.
pub fn rope_table(axes: &[Axis<'_>], theta: f64, width: usize) -> Result<RopeTable, KernelError> {
    let rows = axes.first().map_or(0, |axis| axis.positions.len());
    let frequency_count = width / (2 * axes.len().max(1));
    let unequal = axes.iter().any(|axis| axis.positions.len() != rows);
    if axes.is_empty() || unequal || frequency_count == 0 || !width.is_multiple_of(2) {
        let why = format!("{} axes over a width of {width}", axes.len());
        return Err(KernelError::unsupported("rope_table", why));
    }
    let last = (frequency_count - 1).max(1) as f64;
    let frequencies: Vec<f32> = (0..frequency_count)
        .map(|k| (theta.powf(k as f64 / last) * std::f64::consts::FRAC_PI_2) as f32)
        .collect();
    let mut table = RopeTable::with_capacity(rows, width / 2);
    for row in 0..rows {
        for _ in 0..width / 2 - frequency_count * axes.len() {
            table.push(0.0);
        }
        for frequency in &frequencies {
            for axis in axes {
                let u = axis.positions[row] / axis.max * 2.0 - 1.0;
                table.push(u * frequency);
            }
        }
    }
    Ok(table)
}

/// The table of a language model: position r, frequency `theta^(-2i/d) / factor` for the pair i of a
/// head of `head_dim`; all heads share it.
///
/// # Errors
/// [`KernelError::Unsupported`] for an odd head.
pub fn plain_table(
    rows: usize,
    head_dim: usize,
    theta: f64,
    factor: f64,
) -> Result<RopeTable, KernelError> {
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(KernelError::unsupported(
            "rope_table",
            format!("a head of {head_dim}"),
        ));
    }
    let frequency = |i: usize| (theta.powf(-2.0 * i as f64 / head_dim as f64) / factor) as f32;
    let frequencies: Vec<f32> = (0..head_dim / 2).map(frequency).collect();
    let mut table = RopeTable::with_capacity(rows, head_dim / 2);
    for row in 0..rows {
        frequencies
            .iter()
            .for_each(|frequency| table.push(row as f32 * frequency));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_come_first_and_do_not_turn() {
        let positions = [3.0f32];
        let axis = Axis {
            positions: &positions,
            max: 20.0,
        };
        let table = rope_table(&[axis; 3], 1e4, 256).unwrap();
        assert_eq!(table.columns(), 128);
        assert_eq!(
            (&table.cos()[..2], &table.sin()[..2]),
            (&[1.0, 1.0][..], &[0.0, 0.0][..])
        );
        assert!(table.sin()[2] != 0.0);
    }

    #[test]
    fn impossible_tables_are_refused() {
        assert!(rope_table(&[], 1e4, 64).is_err());
        let (one, two) = ([0.0f32], [0.0f32, 1.0]);
        let axes = [
            Axis {
                positions: &one,
                max: 1.0,
            },
            Axis {
                positions: &two,
                max: 1.0,
            },
        ];
        assert!(rope_table(&axes, 1e4, 64).is_err());
        assert!(rope_table(&axes[..1], 1e4, 7).is_err());
        assert!(plain_table(1, 3, 1e4, 1.0).is_err());
    }
}
