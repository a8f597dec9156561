//! `o = softmax(scale q k^T + mask) v`, head by head.
//!
//! q [Nq, H d], k and v [Nk, Hkv d] -> o [Nq, H d]; F32. Query head h reads key head h * Hkv / H.
//! Softmax runs online over blocks of keys, so memory stays at one block a thread.

mod blocks;
mod card;
mod cpu;
pub mod cuda;
mod path;

use crate::{Device, KernelError, Tensor, conv::Isa};

pub use blocks::{BlockList, Grid};

const OP: &str = "attention";

/// Which keys a query may see.
#[derive(Clone, Copy)]
pub enum Mask<'a> {
    /// All.
    None,
    /// The first `n`.
    Keys(usize),
    /// All, with a value [Nk] added to each score of a key.
    Additive(&'a Tensor),
    /// The blocks of keys that a list names, made for the same device, head width, queries and keys.
    Blocks(&'a BlockList),
    /// Keys `first..=q`, and of these only the last `window` when there is one. Query and key
    /// counts are equal. A query that sees nothing gives zeros.
    Causal {
        /// First key that is not padding.
        first: usize,
        /// Keys a query sees at most, its own included.
        window: Option<usize>,
    },
}

/// How heads lie in a row and how scores are scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key and value heads; divides `query`.
    pub key: usize,
    /// Factor of every score, usually 1/sqrt(d).
    pub scale: f32,
}

/// Values, kept as activations are, that attending to `keys` rows of `width` takes beside its operands.
pub fn scratch_values(device: &Device, keys: usize, width: usize) -> usize {
    match device {
        // The values, turned round.
        Device::Cpu(_) => keys * width,
        Device::Cuda(_) => 0,
    }
}

/// Attends; see the module.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::DType`]; [`KernelError::Unsupported`] for heads that do
/// not divide.
pub fn attention(
    device: &Device,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    mask: Mask<'_>,
    o: &mut Tensor,
) -> Result<(), KernelError> {
    let [queries, width] = q.expect_rank(OP, "q")?;
    let [keys, _] = k.expect_rank(OP, "k")?;
    let divides = heads.query > 0 && heads.key > 0 && heads.query.is_multiple_of(heads.key);
    if !divides || width == 0 || !width.is_multiple_of(heads.query) {
        let why = format!(
            "{} query and {} key heads over a width of {width}",
            heads.query, heads.key
        );
        return Err(KernelError::unsupported(OP, why));
    }
    let key_width = width / heads.query * heads.key;
    k.expect_f32(OP, "k", &[keys, key_width])?;
    v.expect_f32(OP, "v", &[keys, key_width])?;
    o.expect_f32(OP, "o", &[queries, width])?;
    match mask {
        Mask::Additive(mask) => mask.expect_f32(OP, "mask", &[keys])?,
        Mask::Causal { .. } if queries != keys => {
            return Err(KernelError::shape(OP, "k", [queries, key_width], k.dims()));
        }
        Mask::Keys(count) if count > keys => {
            return Err(KernelError::unsupported(
                OP,
                format!("{count} of {keys} keys"),
            ));
        }
        Mask::Blocks(list) => list.expect([queries, keys], heads.query)?,
        Mask::None | Mask::Keys(_) | Mask::Causal { .. } => {}
    }
    match device {
        Device::Cpu(cpu) => cpu::attention((cpu, Isa::detect()), q, k, v, heads, mask, o),
        Device::Cuda(card) => return card::attention(card, q, k, v, heads, mask, o),
    }
    Ok(())
}

/// What is multiplied, as the sizes of one product: scores and weighted sums of all heads.
fn work(queries: usize, keys: usize, heads: usize, d: usize, mask: Mask<'_>) -> [usize; 3] {
    let pairs = match mask {
        Mask::Blocks(list) => list.pairs(heads),
        Mask::Keys(count) => queries * count * heads,
        Mask::None | Mask::Additive(_) | Mask::Causal { .. } => queries * keys * heads,
    };
    [pairs, 2, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise, tensor};

    fn visible(mask: Mask<'_>, h: usize, q: usize, k: usize) -> Option<f64> {
        match mask {
            Mask::Blocks(list) => list
                .seen(h, q)
                .iter()
                .any(|r| r.contains(&k))
                .then_some(0.0),
            Mask::None => Some(0.0),
            Mask::Keys(count) => (k < count).then_some(0.0),
            Mask::Additive(mask) => Some(f64::from(mask.f32s()[k])),
            Mask::Causal { first, window } => {
                (k >= first && k <= q && window.is_none_or(|w| q - k < w)).then_some(0.0)
            }
        }
    }

    fn reference(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads, mask: Mask<'_>) -> Vec<f64> {
        let (width, d) = (q.last_dim(), q.last_dim() / heads.query);
        let mut out = vec![0.0; q.count()];
        let dot = |a: &[f32], b: &[f32]| {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum::<f64>()
        };
        for n in 0..q.row_count() {
            for h in 0..heads.query {
                let g = h * heads.key / heads.query;
                let head = |t: &Tensor, row: usize| {
                    let start = row * t.last_dim() + g * d;
                    t.f32s()[start..start + d].to_vec()
                };
                let query = &q.f32s()[n * width + h * d..][..d];
                let scores: Vec<(usize, f64)> = (0..k.row_count())
                    .filter_map(|m| {
                        Some((
                            m,
                            visible(mask, h, n, m)?
                                + f64::from(heads.scale) * dot(query, &head(k, m)),
                        ))
                    })
                    .collect();
                let top = scores
                    .iter()
                    .map(|(_, s)| *s)
                    .fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|(_, s)| (s - top).exp()).sum();
                for (m, score) in scores {
                    for (i, value) in head(v, m).iter().enumerate() {
                        out[n * width + h * d + i] +=
                            (score - top).exp() / total * f64::from(*value);
                    }
                }
            }
        }
        out
    }

    /// Every third block, from another one on for each tile; the second tile sees nothing.
    fn random_list(sizes: [usize; 2], [queries, keys]: [usize; 2], heads: usize) -> BlockList {
        let (tiles, blocks) = (sizes[0].div_ceil(queries), sizes[1].div_ceil(keys) as u32);
        let list = |at: usize| match at % tiles {
            1 => Vec::new(),
            _ => (at as u32 % 2..blocks).filter(|id| id % 3 < 2).collect(),
        };
        let lists = (0..heads * tiles).map(list).collect();
        BlockList::new(Grid { queries, keys }, sizes, heads, lists).unwrap()
    }

    #[test]
    fn a_list_of_all_blocks_changes_no_bit_and_one_of_half_of_them_halves_the_work() {
        let device = Device::cpu(2).unwrap();
        let (q, k, v) = (
            noise(1, &[300, 64]),
            noise(2, &[333, 64]),
            noise(3, &[333, 64]),
        );
        let heads = Heads {
            query: 2,
            key: 2,
            scale: 0.2,
        };
        let run = |mask| {
            let (before, mut o) = (device.flop(), tensor(&[300, 64], vec![f32::NAN; 300 * 64]));
            attention(&device, &q, &k, &v, heads, mask, &mut o).unwrap();
            (o, device.flop() - before)
        };
        let list = |sees: fn(usize, usize) -> bool| {
            BlockList::of_units(&device, 32, [300, 333], 37, sees).unwrap()
        };
        let (every, some, none) = (
            list(|_, _| true),
            list(|_, key| key < 4),
            list(|_, _| false),
        );
        let ((dense, all), (listed, same)) = (run(Mask::None), run(Mask::Blocks(&every)));
        assert!(dense.f32s() == listed.f32s() && all == same);
        let (_, half) = run(Mask::Blocks(&some));
        assert!(half < all * 6 / 10, "{half} of {all}");
        let (nothing, none) = run(Mask::Blocks(&none));
        assert!(nothing.f32s().iter().all(|value| *value == 0.0) && none == 0);
    }

    #[test]
    fn every_mask_and_odd_shape_agrees_with_double_precision_on_every_instruction_set() {
        let device = Device::cpu(2).unwrap();
        let Device::Cpu(cpu) = &device else {
            panic!("a processor")
        };
        for (queries, keys, query, key, d) in [
            (1, 1, 1, 1, 2),
            (3, 300, 2, 2, 64),
            (130, 129, 4, 1, 32),
            (65, 65, 3, 1, 16),
            (200, 200, 2, 2, 24),
        ] {
            let heads = Heads {
                query,
                key,
                scale: 3.0 / (d as f32).sqrt(),
            };
            let q = noise(1, &[queries, query * d]);
            let (k, v) = (noise(2, &[keys, key * d]), noise(3, &[keys, key * d]));
            let values = (0..keys)
                .map(|i| if i % 3 == 1 { -10_000.0 } else { 0.0 })
                .collect();
            let additive = tensor(&[keys], values);
            let mut masks = vec![
                Mask::None,
                Mask::Keys(keys.div_ceil(2)),
                Mask::Additive(&additive),
            ];
            if queries == keys {
                masks.push(Mask::Causal {
                    first: 0,
                    window: None,
                });
                masks.push(Mask::Causal {
                    first: keys / 4,
                    window: Some(7),
                });
            }
            let lists = [(64, 176, query), (128, 64, query), (192, 32, 1)];
            let lists = lists.map(|(a, b, heads)| random_list([queries, keys], [a, b], heads));
            masks.extend(lists.iter().map(Mask::Blocks));
            for mask in masks {
                let expected = reference(&q, &k, &v, heads, mask);
                let by = |isa| {
                    let mut o = tensor(&[queries, query * d], vec![f32::NAN; queries * query * d]);
                    cpu::attention((cpu, isa), &q, &k, &v, heads, mask, &mut o);
                    assert_close(o.f32s(), &expected, 1e-5);
                    o
                };
                let fused: Vec<Tensor> = Isa::all().into_iter().map(by).skip(1).collect();
                let bits = fused.windows(2).all(|two| two[0].f32s() == two[1].f32s());
                assert!(bits, "a wider tile changes bits");
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (q, k, v) = (
            noise(1, &[301, 128]),
            noise(2, &[203, 128]),
            noise(3, &[203, 128]),
        );
        let heads = Heads {
            query: 2,
            key: 2,
            scale: 0.125,
        };
        let run = |threads| {
            let mut o = tensor(&[301, 128], vec![0.0; 301 * 128]);
            attention(
                &Device::cpu(threads).unwrap(),
                &q,
                &k,
                &v,
                heads,
                Mask::None,
                &mut o,
            )
            .unwrap();
            o
        };
        assert!(run(1).f32s() == run(2).f32s() && run(1).f32s() == run(5).f32s());
    }

    #[test]
    fn wrong_heads_and_shapes_are_refused() {
        let device = Device::cpu(1).unwrap();
        let (q, k, mut o) = (noise(1, &[2, 12]), noise(2, &[3, 4]), noise(3, &[2, 12]));
        let heads = |query, key| Heads {
            query,
            key,
            scale: 1.0,
        };
        assert!(attention(&device, &q, &k, &k, heads(3, 2), Mask::None, &mut o).is_err());
        assert!(attention(&device, &q, &k, &k, heads(5, 5), Mask::None, &mut o).is_err());
        assert!(attention(&device, &q, &k, &k, heads(3, 3), Mask::None, &mut o).is_err());
        assert!(attention(&device, &q, &k, &k, heads(3, 1), Mask::Keys(4), &mut o).is_err());
        let causal = Mask::Causal {
            first: 0,
            window: None,
        };
        assert!(attention(&device, &q, &k, &k, heads(3, 1), causal, &mut o).is_err());
        assert!(attention(&device, &q, &k, &k, heads(3, 1), Mask::None, &mut o).is_ok());
    }
}
