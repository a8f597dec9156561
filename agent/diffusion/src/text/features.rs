//! Hidden states of all layers to one feature row a token: normalised, padding zeroed, flattened with
//! the layer index fastest.

use kernels::{DType, Device, KernelError, Tensor};

use super::HiddenStates;

const EPS: f32 = 1e-6;
/// Factor after the normalisation over a whole prompt (2.0).
const SPREAD: f32 = 8.0;

/// 2.3: each token of each layer by its own root mean square, times `scale`.
///
/// States [T, hidden] each -> [T, hidden * states].
///
/// # Errors
/// [`KernelError`].
pub fn by_token(
    device: &Device,
    states: &HiddenStates,
    pads: usize,
    scale: f32,
) -> Result<Tensor, KernelError> {
    let width = states[0].last_dim();
    let normal = |row: &[f32]| {
        let mean = row.iter().map(|v| v * v).sum::<f32>() / width as f32;
        (0.0, scale / (mean + EPS).sqrt())
    };
    flattened(device, states, pads, |values| {
        values.chunks_exact(width).map(normal).collect()
    })
}

/// 2.0: each layer by the mean and the range of all valid tokens, times 8.
///
/// States [T, hidden] each -> [T, hidden * states].
///
/// # Errors
/// [`KernelError`].
pub fn by_layer(
    device: &Device,
    states: &HiddenStates,
    pads: usize,
) -> Result<Tensor, KernelError> {
    let (tokens, width) = (states[0].row_count(), states[0].last_dim());
    flattened(device, states, pads, |values| {
        vec![layer_statistics(&values[pads * width..]); tokens]
    })
}

/// Mean over valid values, and 8 / (max - min).
fn layer_statistics(valid: &[f32]) -> (f32, f32) {
    let sum: f64 = valid.iter().map(|v| f64::from(*v)).sum();
    let mean = sum / (valid.len() as f64 + f64::from(EPS));
    let (low, high) = valid
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| {
            (low.min(*v), high.max(*v))
        });
    (mean as f32, SPREAD / (high - low + EPS))
}

/// Features [T, hidden * states]: `(value - centre) * factor` with both of each token from `normals(layer)`.
fn flattened(
    device: &Device,
    states: &HiddenStates,
    pads: usize,
    normals: impl Fn(&[f32]) -> Vec<(f32, f32)>,
) -> Result<Tensor, KernelError> {
    let (tokens, width) = (states[0].row_count(), states[0].last_dim());
    let mut features = Tensor::host_zeros(DType::F32, &[tokens, width * states.len()])?;
    let out = features.f32s_mut();
    for (layer, state) in states.iter().enumerate() {
        let values = state.values()?;
        let rows = values.chunks_exact(width).zip(normals(&values));
        for (token, (row, (centre, factor))) in rows.enumerate().skip(pads) {
            for (d, value) in row.iter().enumerate() {
                out[(token * width + d) * states.len() + layer] = (value - centre) * factor;
            }
        }
    }
    features.to_device(device)
}
