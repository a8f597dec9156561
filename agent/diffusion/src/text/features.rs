//! Hidden states of all layers to one feature row a token: normalised, padding zeroed, flattened with
//! the layer index fastest.

use kernels::{Device, KernelError, Tensor};

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
    flattened(device, states, pads, |layer, token| {
        let width = states[layer].last_dim();
        let row = &states[layer].f32s()[token * width..][..width];
        let mean = row.iter().map(|v| v * v).sum::<f32>() / width as f32;
        (0.0, scale / (mean + EPS).sqrt())
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
    let statistics: Vec<(f32, f32)> = states
        .iter()
        .map(|state| layer_statistics(state, pads))
        .collect();
    flattened(device, states, pads, |layer, _| statistics[layer])
}

/// Mean over valid values, and 8 / (max - min).
fn layer_statistics(state: &Tensor, pads: usize) -> (f32, f32) {
    let valid = &state.f32s()[pads * state.last_dim()..];
    let sum: f64 = valid.iter().map(|v| f64::from(*v)).sum();
    let mean = sum / (valid.len() as f64 + f64::from(EPS));
    let (low, high) = valid
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| {
            (low.min(*v), high.max(*v))
        });
    (mean as f32, SPREAD / (high - low + EPS))
}

/// Features [T, hidden * states]: `(value - centre) * factor` with both from `normal(layer, token)`.
fn flattened(
    device: &Device,
    states: &HiddenStates,
    pads: usize,
    normal: impl Fn(usize, usize) -> (f32, f32),
) -> Result<Tensor, KernelError> {
    let (tokens, width) = (states[0].row_count(), states[0].last_dim());
    let mut features = Tensor::zeros_f32(device, &[tokens, width * states.len()])?;
    let out = features.f32s_mut();
    for (layer, state) in states.iter().enumerate() {
        for token in pads..tokens {
            let (centre, factor) = normal(layer, token);
            let row = &state.f32s()[token * width..][..width];
            for (d, value) in row.iter().enumerate() {
                out[(token * width + d) * states.len() + layer] = (value - centre) * factor;
            }
        }
    }
    Ok(features)
}
