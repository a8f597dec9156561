//! `product`: c = a b, plain. No model uses it; it is the measure that benchmarks hold the fused ops to.
//!
//! a [M, K], b [K, N] -> c [M, N]; F32. On the CPU the `gemm` crate computes it on all threads.

mod cpu;

use crate::{Device, KernelError, Tensor};

const OP: &str = "product";

/// Multiplies two matrices; see the module.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::DType`].
pub fn product(device: &Device, a: &Tensor, b: &Tensor, c: &mut Tensor) -> Result<(), KernelError> {
    let [m, k] = a.expect_rank(OP, "a")?;
    let [_, n] = b.expect_rank(OP, "b")?;
    b.expect_f32(OP, "b", &[k, n])?;
    c.expect_f32(OP, "c", &[m, n])?;
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Cuda(card) => {
            let (a, b) = (a.to_host()?, b.to_host()?);
            return card.on_host(c, |cpu, c| product(cpu, &a, &b, c));
        }
    };
    cpu.count_product([m, n, k]);
    if m * n * k == 0 {
        c.f32s_mut().fill(0.0);
        return Ok(());
    }
    cpu::product(cpu, [m, n, k], a.f32s(), b.f32s(), c.f32s_mut());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise};

    #[test]
    fn it_is_the_sum_over_the_inner_dimension_and_is_counted() {
        let device = Device::cpu(2).unwrap();
        let (m, n, k) = (13, 21, 7);
        let (a, b, mut c) = (noise(1, &[m, k]), noise(2, &[k, n]), noise(3, &[m, n]));
        product(&device, &a, &b, &mut c).unwrap();
        let at = |i: usize, j: usize, l: usize| {
            f64::from(a.f32s()[i * k + l]) * f64::from(b.f32s()[l * n + j])
        };
        let expected: Vec<f64> = (0..m * n)
            .map(|e| (0..k).map(|l| at(e / n, e % n, l)).sum())
            .collect();
        assert_close(c.f32s(), &expected, 1e-5);
        assert_eq!(device.flop(), 2 * (m * n * k) as u64);
        assert!(product(&device, &a, &a, &mut c).is_err());
    }
}
