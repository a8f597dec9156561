//! `activation`: a function of each value, in place. Reads and writes each value once.

pub mod cuda;

use crate::device::Device;
use crate::error::KernelError;
use crate::{DType, Tensor};

/// Values of one piece of work.
const PIECE_VALUES: usize = 4 * 1024;

/// The functions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x` where positive, else `x * slope`.
    Leaky {
        /// Factor of negative values.
        slope: f32,
    },
    /// Hyperbolic tangent.
    Tanh,
    /// The nearest value of `low..=high`.
    Clamp {
        /// Smallest result.
        low: f32,
        /// Largest result, at least `low`.
        high: f32,
    },
}

/// Applies `activation` to every value of `x`.
///
/// # Errors
/// [`KernelError::DType`]; [`KernelError::Unsupported`] for a clamp whose limits are no range.
pub fn activation(
    device: &Device,
    activation: Activation,
    x: &mut Tensor,
) -> Result<(), KernelError> {
    x.expect_dtype("activation", "x", DType::F32)?;
    if let Activation::Clamp { low, high } = activation
        && (low > high || low.is_nan() || high.is_nan())
    {
        return Err(KernelError::unsupported(
            "activation",
            format!("clamping to {low}..={high}"),
        ));
    }
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Cuda(card) => {
            let function = cuda::DeviceActivation::Plain(activation);
            return cuda::activation(card.gpu(), function, &card.own(x)?);
        }
    };
    cpu.for_each_chunk(x.f32s_mut(), PIECE_VALUES, |_, values| match activation {
        Activation::Leaky { slope } => each(values, |x| if x > 0.0 { x } else { x * slope }),
        Activation::Tanh => each(values, f32::tanh),
        Activation::Clamp { low, high } => each(values, |x| x.clamp(low, high)),
    });
    Ok(())
}

fn each(values: &mut [f32], function: impl Fn(f32) -> f32) {
    values.iter_mut().for_each(|x| *x = function(*x));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tensor;

    fn applied(activation: Activation) -> Vec<f32> {
        let mut x = tensor(&[4], vec![-2.0, -0.5, 0.0, 3.0]);
        super::activation(&Device::cpu(1).unwrap(), activation, &mut x).unwrap();
        x.f32s().to_vec()
    }

    #[test]
    fn each_function_is_what_it_says() {
        assert_eq!(
            applied(Activation::Leaky { slope: 0.1 }),
            [-0.2, -0.05, 0.0, 3.0]
        );
        assert_eq!(
            applied(Activation::Clamp {
                low: -1.0,
                high: 1.0
            }),
            [-1.0, -0.5, 0.0, 1.0]
        );
        assert_eq!(applied(Activation::Tanh)[0], (-2.0f32).tanh());
    }

    #[test]
    fn an_empty_range_is_refused() {
        let mut x = tensor(&[1], vec![0.0]);
        let empty = Activation::Clamp {
            low: 1.0,
            high: -1.0,
        };
        assert!(activation(&Device::cpu(1).unwrap(), empty, &mut x).is_err());
    }
}
