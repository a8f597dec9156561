//! `attention` on a GPU: mma.sync on every card, wgmma and TMA on compute capability 9.0.

use super::path::Variant;
use super::{Grid, Heads, OP};
use crate::KernelError;
use crate::cuda::{Arguments, Array, Element, Gpu, Launch, MapShape};
use crate::rope::cuda::Columns;

pub use super::path::{Path, best_path, grid};

/// A [`super::BlockList`] in a machine's memory.
#[derive(Debug, Clone)]
pub struct DeviceBlocks {
    pub(super) grid: Grid,
    /// Queries and keys.
    pub(super) sizes: [usize; 2],
    /// Heads that have lists; 1: all share them.
    pub(super) heads: usize,
    /// Places of a list.
    pub(super) most: usize,
    /// U32 [head, tile, most]
    pub(super) ids: Array,
    /// U32 [head, tile]
    pub(super) counts: Array,
}

impl DeviceBlocks {
    /// Refuses lists of another kernel, other sizes or heads.
    fn expect(&self, grid: Grid, sizes: [usize; 2], heads: usize) -> Result<(), KernelError> {
        if (self.grid, self.sizes) != (grid, sizes) || ![1, heads].contains(&self.heads) {
            let found = (self.grid, self.sizes, self.heads);
            return Err(KernelError::shape(
                OP,
                "blocks",
                (grid, sizes, heads),
                found,
            ));
        }
        Ok(())
    }

    /// Lists between one head and the next, and places of a list.
    fn strides(&self) -> [u32; 2] {
        let tiles = self.counts.count() / self.heads;
        [
            if self.heads == 1 { 0 } else { tiles as u32 },
            self.most as u32,
        ]
    }
}

/// Queries, keys and values, read where a product wrote them: columns of packed rows, BF16.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// [Nq, H d]
    pub q: Columns<'a>,
    /// [Nk, Hkv d]
    pub k: Columns<'a>,
    /// [Nk, Hkv d]
    pub v: Columns<'a>,
}

impl Inputs<'_> {
    fn check(&self, heads: Heads) -> Result<usize, KernelError> {
        let divides = heads.query > 0 && heads.key > 0 && heads.query.is_multiple_of(heads.key);
        if !divides || !self.q.width.is_multiple_of(heads.query) || self.q.width == 0 {
            let why = format!(
                "{} query and {} key heads over a width of {}",
                heads.query, heads.key, self.q.width
            );
            return Err(KernelError::unsupported(OP, why));
        }
        let d = self.q.width / heads.query;
        for (name, part) in [("q", self.q), ("k", self.k), ("v", self.v)] {
            let aligned = part.first.is_multiple_of(8) && part.rows.last_dim().is_multiple_of(8);
            if part.rows.element() != Element::BF16
                || part.first + part.width > part.rows.last_dim()
                || !aligned
            {
                return Err(KernelError::shape(
                    OP,
                    name,
                    "BF16 rows in steps of 8",
                    part.rows,
                ));
            }
        }
        let (k, v) = (self.k, self.v);
        let same =
            k.rows.row_count() == v.rows.row_count() && k.rows.last_dim() == v.rows.last_dim();
        if !same || k.width != d * heads.key || v.width != d * heads.key {
            return Err(KernelError::shape(
                OP,
                "k and v",
                [d * heads.key],
                [k.width, v.width],
            ));
        }
        Ok(d)
    }
}

/// Attends into o BF16 [Nq, H d]; `lse`, when given, F32 [H, Nq] gets the logarithm of each sum.
///
/// # Errors
/// [`KernelError::Shape`]; [`KernelError::Unsupported`] for what the path does not have; what a launch gives.
pub fn attention(
    gpu: &Gpu,
    path: Path,
    inputs: Inputs<'_>,
    heads: Heads,
    mask: DeviceMask<'_>,
    o: &Array,
    lse: Option<&Array>,
) -> Result<(), KernelError> {
    let d = inputs.check(heads)?;
    let queries = inputs.q.rows.row_count();
    o.expect(OP, "o", Element::BF16, &[queries, inputs.q.width])?;
    if let Some(lse) = lse {
        lse.expect(OP, "lse", Element::F32, &[heads.query, queries])?;
    }
    if queries == 0 || inputs.k.rows.row_count() == 0 {
        return Err(KernelError::unsupported(
            OP,
            "no queries or no keys on a GPU",
        ));
    }
    match path {
        Path::Mma => mma(gpu, inputs, d, heads, mask, o, lse),
        Path::Hopper | Path::HopperWide | Path::HopperDeep => {
            hopper(gpu, path, inputs, d, heads, mask, o, lse)
        }
    }
}

/// Which keys a query may see; see [`Mask`].
#[derive(Clone, Copy)]
pub enum DeviceMask<'a> {
    /// All.
    None,
    /// The first `n`.
    Keys(usize),
    /// F32 [Nk] added to each score of a key.
    Additive(&'a Array),
    /// The blocks of a list.
    Blocks(&'a DeviceBlocks),
    /// Keys `first..=q`, of these the last `window`.
    Causal {
        /// First key that is not padding.
        first: usize,
        /// Keys a query sees at most.
        window: Option<usize>,
    },
}

fn mma(
    gpu: &Gpu,
    inputs: Inputs<'_>,
    d: usize,
    heads: Heads,
    mask: DeviceMask<'_>,
    o: &Array,
    lse: Option<&Array>,
) -> Result<(), KernelError> {
    let variant = Variant::of(Path::Mma, d)?;
    let (queries, keys) = (inputs.q.rows.row_count(), inputs.k.rows.row_count());
    let (mut visible, mut causal, mut additive, mut list) = (keys, [0, 0, 0], None, None);
    match mask {
        DeviceMask::None => {}
        DeviceMask::Keys(count) if (1..=keys).contains(&count) => visible = count,
        DeviceMask::Keys(count) => {
            return Err(KernelError::unsupported(
                OP,
                format!("{count} of {keys} keys"),
            ));
        }
        DeviceMask::Additive(mask) => {
            mask.expect(OP, "mask", Element::F32, &[keys])?;
            additive = Some(mask);
        }
        DeviceMask::Blocks(blocks) => {
            blocks.expect(variant.grid, [queries, keys], heads.query)?;
            list = Some(blocks);
        }
        DeviceMask::Causal { .. } if queries != keys => {
            return Err(KernelError::shape(OP, "k", [queries], [keys]));
        }
        DeviceMask::Causal { first, window } => causal = [1, first, window.unwrap_or(0)],
    }
    let words = [
        queries,
        keys,
        heads.query,
        heads.key,
        d,
        inputs.q.rows.last_dim(),
        inputs.k.rows.last_dim(),
    ];
    let mut words: Vec<u32> = words
        .iter()
        .chain(&[o.last_dim(), visible])
        .map(|word| *word as u32)
        .collect();
    words.extend(causal.map(|word| word as u32));
    words.push(heads.scale.to_bits());
    words.extend(list.map_or([0, 0], DeviceBlocks::strides));
    gpu.launch(&Launch {
        module: list.map_or(variant.module, |_| variant.listed),
        entry: "attention_mma",
        blocks: [
            queries.div_ceil(variant.grid.queries) as u32,
            heads.query as u32,
            1,
        ],
        threads: variant.threads,
        shared_bytes: (variant.tile_bytes() + 128) as u32,
        arguments: Arguments::new()
            .long(inputs.q.address())
            .long(inputs.k.address())
            .long(inputs.v.address())
            .maybe(additive)
            .maybe(list.map(|list| &list.ids))
            .maybe(list.map(|list| &list.counts))
            .array(o)
            .maybe(lse)
            .words(&words),
    })
}

#[expect(
    clippy::too_many_arguments,
    reason = "the op's arguments, checked, and the path"
)]
fn hopper(
    gpu: &Gpu,
    path: Path,
    inputs: Inputs<'_>,
    d: usize,
    heads: Heads,
    mask: DeviceMask<'_>,
    o: &Array,
    lse: Option<&Array>,
) -> Result<(), KernelError> {
    let variant = Variant::of(path, d)?;
    let (queries, all) = (inputs.q.rows.row_count(), inputs.k.rows.row_count());
    let (keys, list) = match mask {
        DeviceMask::None => (all, None),
        DeviceMask::Keys(count) if (1..=all).contains(&count) => (count, None),
        DeviceMask::Blocks(list) => {
            list.expect(variant.grid, [queries, all], heads.query)?;
            (all, Some(list))
        }
        _ => return Err(KernelError::unsupported(OP, "a mask through wgmma")),
    };
    let Grid {
        queries: rows,
        keys: block_k,
    } = variant.grid;
    let tiles = queries.div_ceil(rows) * heads.query;
    let map = |part: Columns<'_>, heads: usize, count: usize, box_rows: usize| {
        gpu.map(&map_shape(part, d, heads, count, box_rows))
    };
    let words =
        [queries, keys, heads.query, heads.key, o.last_dim(), tiles].map(|word| word as u32);
    let strides = list.map_or([0, 0], DeviceBlocks::strides);
    let scale_log2 = heads.scale * std::f32::consts::LOG2_E;
    gpu.launch(&Launch {
        module: list.map_or(variant.module, |_| variant.listed),
        entry: "attention_hopper",
        blocks: [(tiles as u32).min(gpu.card().multiprocessors), 1, 1],
        threads: variant.threads,
        shared_bytes: (variant.tile_bytes() + 1024 + 256) as u32,
        arguments: Arguments::new()
            .bytes(map(inputs.q, heads.query, queries, rows)?)
            .bytes(map(inputs.k, heads.key, keys, block_k)?)
            .bytes(map(inputs.v, heads.key, keys, block_k)?)
            .maybe(list.map(|list| &list.ids))
            .maybe(list.map(|list| &list.counts))
            .array(o)
            .maybe(lse)
            .words(&[&words[..], &[scale_log2.to_bits()], &strides].concat()),
    })
}

/// (d, row, head, 1) over packed rows; rows from `count` on are zeros.
fn map_shape(part: Columns<'_>, d: usize, heads: usize, count: usize, box_rows: usize) -> MapShape {
    let ld_bytes = part.rows.last_dim() as u64 * 2;
    MapShape {
        address: part.address(),
        sizes: vec![d as u64, count as u64, heads as u64, 1],
        strides: vec![
            ld_bytes,
            d as u64 * 2,
            ld_bytes * part.rows.row_count() as u64,
        ],
        tile: vec![64, box_rows as u32, 1, 1],
    }
}
