//! `qk_norm_rope` on a GPU: one block a row, the row in registers where pairs allow it, else in shared memory.

use super::{Layout, OP, RopeTable};
use crate::KernelError;
use crate::cuda::{Arguments, Array, Element, Gpu, Launch};
use crate::modulation::cuda::{module_of, row_threads};

/// Widest row that a block of `qk_norm_rope_pairs_wide` holds; half of it without `_wide`.
const PAIRS_WIDTH_MAX: usize = 8192;

/// A [`RopeTable`] on a GPU.
#[derive(Debug, Clone)]
pub struct DeviceTable {
    cos: Array,
    sin: Array,
}

impl DeviceTable {
    /// Uploads a table.
    ///
    /// # Errors
    /// What an upload gives.
    pub fn upload(gpu: &Gpu, table: &RopeTable) -> Result<Self, KernelError> {
        let dims = [table.rows(), table.columns()];
        let upload = |values: &[f32]| gpu.upload(Element::F32, &dims, values);
        Ok(Self {
            cos: upload(table.cos())?,
            sin: upload(table.sin())?,
        })
    }
}

/// How the row is normalised before the rotation.
#[derive(Clone, Copy)]
pub struct DeviceQkNorm<'a> {
    /// Added to the mean square.
    pub eps: f32,
    /// F32 [D], or [D / H] when per head, and what is added to it; none is 1.
    pub weight: Option<(&'a Array, f32)>,
    /// One root mean square for each head instead of one for the row.
    pub per_head: bool,
}

/// Queries or keys inside packed rows.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    /// F32 or BF16 [N, ld].
    pub rows: &'a Array,
    /// First column.
    pub first: usize,
    /// How many columns.
    pub width: usize,
}

impl<'a> Columns<'a> {
    /// All columns of an array.
    pub fn all(rows: &'a Array) -> Self {
        Self {
            rows,
            first: 0,
            width: rows.last_dim(),
        }
    }

    /// Address of the first value.
    pub(crate) fn address(&self) -> u64 {
        self.rows.address() + (self.first * self.rows.element().size_bytes()) as u64
    }
}

/// Normalises and rotates in place; see [`super::qk_norm_rope`].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn qk_norm_rope(
    gpu: &Gpu,
    x: Columns<'_>,
    heads: usize,
    norm: DeviceQkNorm<'_>,
    rope: Option<(&DeviceTable, Layout)>,
) -> Result<(), KernelError> {
    let (rows, ld, width) = (x.rows.row_count(), x.rows.last_dim(), x.width);
    if heads == 0 || width == 0 || !width.is_multiple_of(2 * heads) || x.first + width > ld {
        return Err(KernelError::unsupported(
            OP,
            format!("{heads} heads over a width of {width} of {ld}"),
        ));
    }
    if !(x.first * x.rows.element().size_bytes()).is_multiple_of(16) {
        return Err(KernelError::unsupported(
            OP,
            format!("a first column of {}", x.first),
        ));
    }
    if let Some((weight, _)) = norm.weight {
        weight.expect(
            OP,
            "weight",
            Element::F32,
            &[if norm.per_head { width / heads } else { width }],
        )?;
    }
    let columns = match rope {
        None => 0,
        Some((table, layout)) => {
            let columns = table.cos.last_dim();
            let shared = layout == Layout::Split && columns == width / heads / 2;
            if table.cos.row_count() != rows || (columns != width / 2 && !shared) {
                return Err(KernelError::shape(
                    OP,
                    "rope",
                    [rows, width / 2],
                    table.cos.dims(),
                ));
            }
            columns
        }
    };
    let interleaved = rope.is_some_and(|(_, layout)| layout == Layout::Interleaved);
    // Vectors of eight that a thread keeps with their partners half a head away.
    let pairs = !norm.per_head
        && !interleaved
        && (width / heads / 2).is_multiple_of(8)
        && ld.is_multiple_of(8)
        && width <= PAIRS_WIDTH_MAX;
    let arguments = Arguments::new()
        .long(x.address())
        .word(ld as u32)
        .word(width as u32)
        .word(heads as u32)
        .maybe(norm.weight.map(|weight| weight.0))
        .float(norm.weight.map_or(0.0, |weight| weight.1))
        .float(norm.eps)
        .maybe(rope.map(|(table, _)| &table.cos))
        .maybe(rope.map(|(table, _)| &table.sin))
        .word(columns as u32);
    let (entry, threads, shared_bytes, arguments) = if pairs {
        let entry = match width <= PAIRS_WIDTH_MAX / 2 {
            true => "qk_norm_rope_pairs",
            false => "qk_norm_rope_pairs_wide",
        };
        // Sixteen values a thread, in whole warps, which the sum over the block needs.
        (entry, row_threads(width / 2), 0, arguments)
    } else {
        let arguments = arguments
            .word(norm.per_head.into())
            .word(interleaved.into());
        let shared_bytes = ((width + heads) * 4) as u32;
        (OP, row_threads(width), shared_bytes, arguments)
    };
    gpu.launch(&Launch {
        module: module_of(OP, ["rope_bf16", "rope_f32"], x.rows.element())?,
        entry,
        blocks: [rows as u32, 1, 1],
        threads,
        shared_bytes,
        arguments,
    })
}
