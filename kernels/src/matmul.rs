//! Safe strided matrix products over `gemm`, which itself takes raw pointers.

use gemm::Parallelism;

/// A matrix inside a slice: element (i, j) lies at `i * row + j * column`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub values: &'a [f32],
    pub row: usize,
    pub column: usize,
}

impl<'a> Strided<'a> {
    /// Rows of `pitch` elements each.
    pub fn rows(values: &'a [f32], pitch: usize) -> Self {
        Self {
            values,
            row: pitch,
            column: 1,
        }
    }

    /// The transpose of rows of `pitch` elements each.
    pub fn transposed(values: &'a [f32], pitch: usize) -> Self {
        Self {
            values,
            row: 1,
            column: pitch,
        }
    }

    fn contains(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// `out[i * pitch + j] = (keep ? out : 0) + sum over k of left[i, k] * right[k, j]`.
///
/// # Panics
/// When a matrix does not lie inside its slice; callers have checked shapes by then.
#[expect(
    unsafe_code,
    reason = "gemm takes raw pointers; all three ranges are checked first"
)]
pub(crate) fn matmul(
    (m, n, k): (usize, usize, usize),
    out: &mut [f32],
    pitch: usize,
    keep: bool,
    left: Strided<'_>,
    right: Strided<'_>,
    parallelism: Parallelism,
) {
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        assert!(
            keep,
            "a product over nothing only makes sense when it is added"
        );
        return;
    }
    assert!(
        n <= pitch && (m - 1) * pitch + n <= out.len(),
        "the output lies inside its slice"
    );
    assert!(
        left.contains(m, k) && right.contains(k, n),
        "the operands lie inside their slices"
    );
    // Here `gemm` means out := alpha * out + beta * left * right.
    // SAFETY: the assertions above bound every element that the strides reach.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            pitch as isize,
            keep,
            left.values.as_ptr(),
            left.column as isize,
            left.row as isize,
            right.values.as_ptr(),
            right.column as isize,
            right.row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
