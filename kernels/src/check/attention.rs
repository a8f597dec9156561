//! Attention on every path, read from packed rows as the model has them.

use super::{Bench, Case, Outcome, Scale};
use crate::attention::cuda::{DeviceMask, Inputs, Path};
use crate::attention::{Heads, Mask, attention};
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
    if hopper {
        for (path, d) in [
            (Path::Hopper, 64),
            (Path::Hopper, 128),
            (Path::HopperWide, 128),
        ] {
            for (queries, keys) in [(1, 1), (64, 128), (200, 129), (129, 400), (257, 530)] {
                push(path, Kind::None, [queries, keys, 2, 1, d]);
            }
            // More tiles than blocks: barriers must carry over from tile to tile.
            push(path, Kind::None, [300, 300, 4, 4, d]);
            push(path, Kind::Keys, [65, 150, 2, 2, d]);
        }
    }
    if scale == Scale::Model {
        let paths = [
            (Path::Mma, true),
            (Path::Hopper, hopper),
            (Path::HopperWide, hopper),
        ];
        for (path, _) in paths.iter().filter(|(_, here)| *here) {
            push(*path, Kind::None, [6144, 6144, 32, 32, 128]);
            push(*path, Kind::None, [14_080, 1024, 32, 32, 128]);
            if *path != Path::HopperWide {
                push(*path, Kind::None, [6144, 126, 32, 32, 64]);
            }
        }
    }
    cases
}

fn run(bench: &Bench<'_>, path: Path, kind: Kind, sizes: Sizes) -> Result<Outcome, KernelError> {
    let Sizes {
        queries,
        keys,
        heads,
        key_heads,
        d,
    } = sizes;
    let (width, key_width) = (heads * d, key_heads * d);
    let shape = Heads {
        query: heads,
        key: key_heads,
        scale: 3.0 / (d as f32).sqrt(),
    };
    let q = bench.noise(Element::BF16, 1, &[queries, width])?;
    let (k, v) = (
        bench.noise(Element::BF16, 2, &[keys, key_width])?,
        bench.noise(Element::BF16, 3, &[keys, key_width])?,
    );
    // k and v as one product writes them, with eight columns of something else before.
    let rows = k.f32s().chunks(key_width).zip(v.f32s().chunks(key_width));
    let packed: Vec<f32> = rows
        .flat_map(|(k, v)| [&[f32::NAN; 8], k, v].concat())
        .collect();
    let packed = bench
        .gpu
        .upload(Element::BF16, &[keys, 8 + 2 * key_width], &packed)?;
    let columns = |first| Columns {
        rows: &packed,
        first,
        width: key_width,
    };
    let q_array = bench.put(Element::BF16, &q)?;
    let inputs = Inputs {
        q: Columns::all(&q_array),
        k: columns(8),
        v: columns(8 + key_width),
    };
    let values = (0..keys)
        .map(|key| if key % 3 == 1 { -10_000.0 } else { 0.5 })
        .collect();
    let additive = Tensor::from_f32(bench.cpu, &[keys], values)?;
    let additive_array = bench.put(Element::F32, &additive)?;
    let count = keys.div_ceil(2);
    let (mask, device) = match kind {
        Kind::None => (Mask::None, DeviceMask::None),
        Kind::Keys => (Mask::Keys(count), DeviceMask::Keys(count)),
        Kind::Additive => (
            Mask::Additive(&additive),
            DeviceMask::Additive(&additive_array),
        ),
        Kind::Causal => (
            Mask::Causal {
                first: 5,
                window: None,
            },
            DeviceMask::Causal {
                first: 5,
                window: None,
            },
        ),
        Kind::Window => (
            Mask::Causal {
                first: 0,
                window: Some(9),
            },
            DeviceMask::Causal {
                first: 0,
                window: Some(9),
            },
        ),
    };
    let (o, lse) = (
        bench.poisoned(Element::BF16, &[queries, width])?,
        bench.poisoned(Element::F32, &[heads, queries])?,
    );
    crate::attention::cuda::attention(bench.gpu, path, inputs, shape, device, &o, Some(&lse))?;
    let (found, lse) = (bench.gpu.download(&o)?, bench.gpu.download(&lse)?);

    let all = queries <= 512;
    let sampled: Vec<usize> = if all {
        (0..queries).collect()
    } else {
        (0..queries).step_by(queries / SAMPLED_QUERIES).collect()
    };
    let take = |values: &[f32]| -> Vec<f32> {
        sampled
            .iter()
            .flat_map(|row| values[row * width..][..width].iter().copied())
            .collect()
    };
    let some = Tensor::from_f32(bench.cpu, &[sampled.len(), width], take(q.f32s()))?;
    let mut expected = bench.zeros(&[sampled.len(), width])?;
    attention(bench.cpu, &some, &k, &v, shape, mask, &mut expected)?;
    let mut found_some = take(&found);
    // The logarithm of a sum: finite wherever the query sees a key, and right for the first query.
    let unwritten =
        found.iter().any(|value| value.is_nan()) || lse.iter().any(|value| value.is_nan());
    let far = matches!(kind, Kind::None) && (lse[0] - first_lse(&q, &k, shape)).abs() > 2e-3;
    if unwritten || far {
        found_some[0] = f32::NAN;
    }
    Ok(Outcome {
        found: found_some,
        expected: expected.f32s().to_vec(),
        tolerance: TOLERANCE,
    })
}

/// ln of the sum of e^score of the first query and head, in double precision.
fn first_lse(q: &Tensor, k: &Tensor, heads: Heads) -> f32 {
    let d = q.last_dim() / heads.query;
    let query = &q.f32s()[..d];
    let dot = |key: &[f32]| {
        query
            .iter()
            .zip(key)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum::<f64>()
    };
    let scores: Vec<f64> = k
        .f32s()
        .chunks(k.last_dim())
        .map(|row| dot(&row[..d]) * f64::from(heads.scale))
        .collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (top + scores
        .iter()
        .map(|score| (score - top).exp())
        .sum::<f64>()
        .ln()) as f32
}
