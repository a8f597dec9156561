//! `product` on the CPU: one call of the `gemm` crate, which takes raw pointers.

use gemm::Parallelism;

use crate::Cpu;

/// c = a b for a [m, k], b [k, n], k > 0.
///
/// # Panics
/// When a slice is not as long as its matrix; `product` has checked shapes by then.
#[expect(
    unsafe_code,
    reason = "gemm takes raw pointers; all three lengths are checked first"
)]
pub(super) fn product(cpu: &Cpu, [m, n, k]: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
    assert_eq!((a.len(), b.len(), c.len()), (m * k, k * n, m * n));
    let parallelism = match cpu.threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    cpu.install(|| {
        // Here `gemm` means c := alpha * c + beta * a * b.
        // SAFETY: three row-major matrices that lie inside their slices, by the assertion above; c
        // is borrowed mutably, so it overlaps neither of the others.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c.as_mut_ptr(),
                1,
                n as isize,
                false,
                a.as_ptr(),
                1,
                k as isize,
                b.as_ptr(),
                1,
                n as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    });
}
