//! Attention on every path, read from packed rows as the model has them.

use super::{Bench, Case, Outcome, Scale, uniform};
use crate::attention::cuda::{DeviceMask, Inputs, Path, grid};
use crate::attention::{BlockList, Heads, Mask, attention};
use crate::cuda::Element;
use crate::rope::cuda::Columns;
use crate::{KernelError, Tensor};

/// Output rounding and that of the weights before the second product.
const TOLERANCE: f64 = 8e-3;
/// Queries of a large case that are compared.
const SAMPLED_QUERIES: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Sizes {
    queries: usize,
    keys: usize,
    heads: usize,
    key_heads: usize,
    d: usize,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    None,
    Keys,
    Additive,
    Causal,
    Window,
    /// Lists of blocks, for each head its own.
    Lists,
    /// Lists that all heads share.
    SharedLists,
}

pub(super) fn cases(scale: Scale, hopper: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |path: Path, kind: Kind, [queries, keys, heads, key_heads, d]: [usize; 5]| {
        let sizes = Sizes {
            queries,
            keys,
            heads,
            key_heads,
            d,
        };
        let shape = format!("{path:?} {queries}x{keys} {heads}/{key_heads} heads of {d} {kind:?}");
        cases.push(Case::new("attention", shape, move |bench| {
            run(bench, path, kind, sizes)
        }));
    };
    for shape in [
        [1, 1, 1, 1, 64],
        [3, 65, 2, 1, 128],
        [130, 129, 2, 2, 64],
        [64, 200, 2, 1, 48],
        [20, 70, 1, 1, 256],
        [129, 64, 1, 1, 32],
    ] {
        push(Path::Mma, Kind::None, shape);
        push(Path::Mma, Kind::Additive, shape);
    }
    push(Path::Mma, Kind::Keys, [65, 150, 2, 2, 64]);
    for kind in [Kind::Causal, Kind::Window] {
        push(Path::Mma, kind, [150, 150, 2, 1, 64]);
        push(Path::Mma, kind, [70, 70, 1, 1, 256]);
    }
    // Odd tails, a tile that sees nothing (the second and the last), several tiles and heads.
    push(Path::Mma, Kind::Lists, [300, 200, 2, 1, 64]);
    push(Path::Mma, Kind::SharedLists, [129, 333, 2, 2, 128]);
    push(Path::Mma, Kind::Lists, [140, 70, 1, 1, 256]);
    if hopper {
        for (path, d) in [
            (Path::Hopper, 64),
            (Path::HopperDeep, 64),
            (Path::Hopper, 128),
            (Path::HopperWide, 128),
        ] {
            for (queries, keys) in [(1, 1), (64, 128), (200, 129), (129, 400), (257, 530)] {
                push(path, Kind::None, [queries, keys, 2, 1, d]);
            }
            // More tiles than blocks: barriers must carry over from tile to tile.
            push(path, Kind::None, [300, 300, 4, 4, d]);
            push(path, Kind::Keys, [65, 150, 2, 2, d]);
            push(path, Kind::Lists, [700, 999, 2, 1, d]);
            push(path, Kind::SharedLists, [400, 530, 3, 3, d]);
            push(path, Kind::Lists, [64, 100, 1, 1, d]);
        }
    }
    if scale == Scale::Model {
        let paths = [Path::Mma, Path::Hopper, Path::HopperWide, Path::HopperDeep];
        for path in paths
            .into_iter()
            .filter(|path| hopper || *path == Path::Mma)
        {
            for (kind, shape) in [
                (Kind::None, [6144, 6144, 32, 32, 128]),
                (Kind::None, [14_080, 1024, 32, 32, 128]),
                (Kind::Lists, [6144, 6100, 32, 32, 128]),
                (Kind::None, [6144, 6144, 32, 32, 64]),
                (Kind::None, [6144, 126, 32, 32, 64]),
            ] {
                if grid(path, shape[4]).is_ok() {
                    push(path, kind, shape);
                }
            }
        }
    }
    cases
}

/// What both sides attend over.
struct Given {
    sizes: Sizes,
    heads: Heads,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// Added to each key's score.
    additive: Tensor,
    /// [head, tile of queries] of what the path takes.
    lists: Vec<Vec<u32>>,
}

impl Given {
    fn new(bench: &Bench<'_>, path: Path, kind: Kind, sizes: Sizes) -> Result<Self, KernelError> {
        let Sizes {
            queries,
            keys,
            heads,
            key_heads,
            d,
        } = sizes;
        let noise = |salt, dims: &[usize]| bench.noise(Element::BF16, salt, dims);
        let values = (0..keys)
            .map(|key| if key % 3 == 1 { -10_000.0 } else { 0.5 })
            .collect();
        let own = if matches!(kind, Kind::SharedLists) {
            1
        } else {
            heads
        };
        Ok(Self {
            sizes,
            heads: Heads {
                query: heads,
                key: key_heads,
                scale: 3.0 / (d as f32).sqrt(),
            },
            q: noise(1, &[queries, heads * d])?,
            k: noise(2, &[keys, key_heads * d])?,
            v: noise(3, &[keys, key_heads * d])?,
            additive: Tensor::from_f32(bench.cpu, &[keys], values)?,
            lists: random_lists(bench.seed, path, sizes, own)?,
        })
    }

    /// The lists of some tiles; `queries` are theirs.
    fn list(
        &self,
        path: Path,
        tiles: std::ops::Range<usize>,
        queries: usize,
    ) -> Result<BlockList, KernelError> {
        let grid = grid(path, self.sizes.d)?;
        let all = self.sizes.queries.div_ceil(grid.queries);
        let of_head = self.lists.chunks(all);
        let lists = of_head.flat_map(|lists| lists[tiles.clone()].to_vec());
        let own = self.lists.len() / all;
        BlockList::new(grid, [queries, self.sizes.keys], own, lists.collect())
    }

    /// ln of the sum of e^score of the first query and head over the keys that it sees, in double precision.
    fn first_lse(&self, sees: impl Fn(usize) -> bool) -> f32 {
        let (d, k) = (self.sizes.d, &self.k);
        let query = &self.q.f32s()[..d];
        let score = |key: &[f32]| {
            let products = query.iter().zip(key);
            let dot: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            dot * f64::from(self.heads.scale)
        };
        let rows = k.f32s().chunks(k.last_dim()).enumerate();
        let seen = rows.filter(|(key, _)| sees(*key));
        let scores: Vec<f64> = seen.map(|(_, row)| score(&row[..d])).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - top).exp()).sum();
        (top + sum.ln()) as f32
    }
}

/// About half of the blocks, of the first tile at least one; the second tile sees nothing, nor does the last
/// of several.
fn random_lists(
    seed: u64,
    path: Path,
    sizes: Sizes,
    heads: usize,
) -> Result<Vec<Vec<u32>>, KernelError> {
    let grid = grid(path, sizes.d)?;
    let tiles = sizes.queries.div_ceil(grid.queries);
    let blocks = sizes.keys.div_ceil(grid.keys) as u64;
    let list = |at: usize| -> Vec<u32> {
        let tile = at % tiles;
        if tile == 1 || (tile > 1 && tile + 1 == tiles) {
            return Vec::new();
        }
        let keeps = |id: &u64| uniform(seed + 99, at as u64 * blocks + id) > 0.0;
        let kept: Vec<u32> = (0..blocks).filter(keeps).map(|id| id as u32).collect();
        match kept.is_empty() {
            true => vec![blocks as u32 - 1],
            false => kept,
        }
    };
    Ok((0..heads * tiles).map(list).collect())
}

fn run(bench: &Bench<'_>, path: Path, kind: Kind, sizes: Sizes) -> Result<Outcome, KernelError> {
    let given = Given::new(bench, path, kind, sizes)?;
    let (found, lse) = on_card(bench, path, kind, &given)?;
    let Sizes { queries, d, .. } = sizes;
    let width = sizes.heads * d;
    let is_listed = matches!(kind, Kind::Lists | Kind::SharedLists);
    let tile = grid(path, d)?.queries;
    let (sampled, tiles): (Vec<usize>, _) = match queries {
        0..=1024 => ((0..queries).collect(), 0..queries.div_ceil(tile)),
        // A list is of a tile.
        _ if is_listed => ((2 * tile..3 * tile).collect(), 2..3),
        _ => (
            (0..queries).step_by(queries / SAMPLED_QUERIES).collect(),
            0..0,
        ),
    };
    let take = |values: &[f32]| -> Vec<f32> {
        let row = |row: &usize| values[row * width..][..width].to_vec();
        sampled.iter().flat_map(row).collect()
    };
    let list = match is_listed {
        true => Some(given.list(path, tiles, sampled.len())?),
        false => None,
    };
    let mask = match (&list, kind) {
        (Some(list), _) => Mask::Blocks(list),
        (None, Kind::Keys) => Mask::Keys(sizes.keys.div_ceil(2)),
        (None, Kind::Additive) => Mask::Additive(&given.additive),
        (None, Kind::Causal) => Mask::Causal {
            first: 5,
            window: None,
        },
        (None, Kind::Window) => Mask::Causal {
            first: 0,
            window: Some(9),
        },
        (None, _) => Mask::None,
    };
    let some = Tensor::from_f32(bench.cpu, &[sampled.len(), width], take(given.q.f32s()))?;
    let mut expected = bench.zeros(&[sampled.len(), width])?;
    let Given { k, v, heads, .. } = &given;
    attention(bench.cpu, &some, k, v, *heads, mask, &mut expected)?;
    let mut found_some = take(&found);
    let unwritten = found.iter().chain(&lse).any(|value| value.is_nan());
    if unwritten || is_lse_far(path, kind, &given, &lse)? {
        found_some[0] = f32::NAN;
    }
    Ok(Outcome {
        found: found_some,
        expected: expected.f32s().to_vec(),
        tolerance: TOLERANCE,
    })
}

/// Whether the logarithm of the first query's sum is wrong, or that of one which sees nothing.
fn is_lse_far(path: Path, kind: Kind, given: &Given, lse: &[f32]) -> Result<bool, KernelError> {
    let is_far = |sees: &dyn Fn(usize) -> bool| (lse[0] - given.first_lse(sees)).abs() > 2e-3;
    let grid = grid(path, given.sizes.d)?;
    Ok(match kind {
        Kind::None => is_far(&|_| true),
        Kind::Lists | Kind::SharedLists => {
            let first = &given.lists[0];
            let nothing = lse[..given.sizes.queries]
                .chunks(grid.queries)
                .zip(&given.lists);
            let mut wrong = nothing.map(|(lse, list)| {
                let blind = |value: &f32| *value == f32::NEG_INFINITY;
                !lse.iter().all(|value| blind(value) == list.is_empty())
            });
            is_far(&|key| first.contains(&((key / grid.keys) as u32))) || wrong.any(|wrong| wrong)
        }
        _ => false,
    })
}

/// Output and lse. Keys and values lie as one product writes them, with eight columns of something else before.
fn on_card(
    bench: &Bench<'_>,
    path: Path,
    kind: Kind,
    given: &Given,
) -> Result<(Vec<f32>, Vec<f32>), KernelError> {
    let Sizes {
        queries,
        keys,
        heads,
        key_heads,
        d,
    } = given.sizes;
    let (gpu, width, key_width) = (bench.gpu, heads * d, key_heads * d);
    let (k, v) = (given.k.f32s(), given.v.f32s());
    let rows = k.chunks(key_width).zip(v.chunks(key_width));
    let packed = rows.flat_map(|(k, v)| [&[f32::NAN; 8], k, v].concat());
    let packed: Vec<f32> = packed.collect();
    let packed = gpu.upload(Element::BF16, &[keys, 8 + 2 * key_width], &packed)?;
    let columns = |first| Columns {
        rows: &packed,
        first,
        width: key_width,
    };
    let q = bench.put(Element::BF16, &given.q)?;
    let inputs = Inputs {
        q: Columns::all(&q),
        k: columns(8),
        v: columns(8 + key_width),
    };
    let additive = bench.put(Element::F32, &given.additive)?;
    let tiles = queries.div_ceil(grid(path, d)?.queries);
    let list = given.list(path, 0..tiles, queries)?.upload(gpu)?;
    let mask = match kind {
        Kind::None => DeviceMask::None,
        Kind::Keys => DeviceMask::Keys(keys.div_ceil(2)),
        Kind::Additive => DeviceMask::Additive(&additive),
        Kind::Lists | Kind::SharedLists => DeviceMask::Blocks(&list),
        Kind::Causal => DeviceMask::Causal {
            first: 5,
            window: None,
        },
        Kind::Window => DeviceMask::Causal {
            first: 0,
            window: Some(9),
        },
    };
    let (o, lse) = (
        bench.poisoned(Element::BF16, &[queries, width])?,
        bench.poisoned(Element::F32, &[heads, queries])?,
    );
    crate::attention::cuda::attention(gpu, path, inputs, given.heads, mask, &o, Some(&lse))?;
    Ok((gpu.download(&o)?, gpu.download(&lse)?))
}
