//! The core that all convolutions share: repacked weights, padded inputs, register tiles.
//!
//! `out[p] = bias + residual[p] + sum over taps t, i < run of x[start(t) + p*step + i] * w[t][i]`
//!
//! Channels are innermost, so the taps of one kernel row lie side by side in a padded input row:
//! a tap of the core is a whole kernel row (`run` = width * channels) and neighbouring output
//! pixels read overlapping stretches. Nothing is unrolled into memory. Each output element is
//! summed in one fixed order, tap after tap, so neither threads nor tile sizes change a bit.

pub(crate) mod card;
pub mod cuda;
mod pack;
mod pad;
mod run;
mod scratch;
mod stored;
mod tile;

pub use pack::ConvWeights;
pub use pad::{Prologue, SpacePad};
pub use scratch::scratch_values;
pub use stored::HALF_VALUES_MIN;

pub(crate) use pad::{Border, padded};
pub(crate) use run::{Core, convolve, product};
pub(crate) use tile::{Begin, Isa, WIDTHS};
