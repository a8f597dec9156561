//! `activation` on a GPU; three functions more than the CPU's op, which the engine has as epilogues.

use super::Activation;
use crate::KernelError;
use crate::cuda::{Arguments, Array, Gpu, Launch};
use crate::modulation::cuda::{flat_blocks, module_of};

/// A function of each value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DeviceActivation {
    /// One that the CPU's op has.
    Plain(Activation),
    /// x * sigmoid(x)
    Silu,
    /// The tanh form of GELU.
    GeluTanh,
    /// 1 / (1 + e^-x)
    Sigmoid,
}

/// Applies the function to every value of x, in place.
///
/// # Errors
/// [`KernelError::Unsupported`] for an empty range or another type; what a launch gives.
pub fn activation(gpu: &Gpu, function: DeviceActivation, x: &Array) -> Result<(), KernelError> {
    const OP: &str = "activation";
    let (kind, a, b) = match function {
        DeviceActivation::Plain(Activation::Leaky { slope }) => (0, slope, 0.0),
        DeviceActivation::Plain(Activation::Tanh) => (1, 0.0, 0.0),
        DeviceActivation::Plain(Activation::Clamp { low, high }) if low <= high => (2, low, high),
        DeviceActivation::Plain(Activation::Clamp { low, high }) => {
            return Err(KernelError::unsupported(
                OP,
                format!("clamping to {low}..={high}"),
            ));
        }
        DeviceActivation::Silu => (3, 0.0, 0.0),
        DeviceActivation::GeluTanh => (4, 0.0, 0.0),
        DeviceActivation::Sigmoid => (5, 0.0, 0.0),
    };
    gpu.launch(&Launch {
        module: module_of(OP, ["activation_bf16", "activation_f32"], x.element())?,
        entry: OP,
        blocks: [flat_blocks(x.count(), 8), 1, 1],
        threads: 256,
        shared_bytes: 0,
        arguments: Arguments::new()
            .array(x)
            .long(x.count() as u64)
            .word(kind)
            .float(a)
            .float(b),
    })
}
