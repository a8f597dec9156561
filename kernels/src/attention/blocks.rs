//! Which blocks of keys each tile of queries sees, so that attention takes time in proportion to what is
//! kept of it.

use std::ops::Range;

use super::{OP, cuda, path};
use crate::{Device, KernelError};

/// What a kernel takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Queries of a tile, a multiple of 64.
    pub queries: usize,
    /// Keys of a block.
    pub keys: usize,
}

impl Grid {
    /// That of the processor, and of most cards: those who share it see the same.
    pub const CPU: Self = Self {
        queries: 128,
        keys: 64,
    };

    /// That of the kernel which serves heads of `d` on a device.
    pub fn of(device: &Device, d: usize) -> Self {
        match device {
            Device::Cpu(_) => Self::CPU,
            Device::Cuda(card) => path::grid_of(card.gpu(), d),
        }
    }
}

/// For each head (or all of them) and tile of queries the blocks of keys that it sees, in order. A tile that
/// sees none gives zeros.
#[derive(Debug, Clone)]
pub struct BlockList {
    pub(super) grid: Grid,
    /// Queries and keys.
    pub(super) sizes: [usize; 2],
    /// Heads that have lists; 1: all share them.
    pub(super) heads: usize,
    /// [head, tile]
    lists: Vec<Vec<u32>>,
    pub(super) card: Option<cuda::DeviceBlocks>,
}

impl BlockList {
    /// The lists of a device for heads of `d` that see alike. Tokens come in units of `unit`, such as
    /// the frames of a film; `sees(a, b)` says whether queries of unit a shall see keys of unit b. Blocks are
    /// kept whole, so a query sees at least what was said, and up to a block more on either side.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] for units of nothing; what an upload gives.
    pub fn of_units(
        device: &Device,
        d: usize,
        sizes: [usize; 2],
        unit: usize,
        sees: impl Fn(usize, usize) -> bool,
    ) -> Result<Self, KernelError> {
        if unit == 0 {
            return Err(KernelError::unsupported(OP, "units of no tokens"));
        }
        let grid = Grid::of(device, d);
        let units = |piece: usize, size: usize, all: usize| {
            let tokens = piece * size..((piece + 1) * size).min(all);
            tokens.start / unit..tokens.end.div_ceil(unit)
        };
        let keeps = |tile: usize, block: usize| {
            let keys = units(block, grid.keys, sizes[1]);
            units(tile, grid.queries, sizes[0]).any(|a| keys.clone().any(|b| sees(a, b)))
        };
        let blocks = sizes[1].div_ceil(grid.keys);
        let list = |tile| {
            let kept = (0..blocks).filter(|block| keeps(tile, *block));
            kept.map(|block| block as u32).collect()
        };
        let lists = (0..sizes[0].div_ceil(grid.queries)).map(list).collect();
        let found = Self::new(grid, sizes, 1, lists)?;
        match device {
            Device::Cpu(_) => Ok(found),
            Device::Cuda(card) => {
                let card = Some(found.upload(card.gpu())?);
                Ok(Self { card, ..found })
            }
        }
    }

    /// Lists [head, tile] over so many queries and keys; one head's lists serve all heads.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] for a wrong number of lists, and for one that is not in order or names
    /// a block that there is not.
    pub fn new(
        grid: Grid,
        sizes: [usize; 2],
        heads: usize,
        lists: Vec<Vec<u32>>,
    ) -> Result<Self, KernelError> {
        let refuse = |why: String| Err(KernelError::unsupported(OP, why));
        if grid.keys == 0 || grid.queries == 0 || !grid.queries.is_multiple_of(64) {
            return refuse(format!("{grid:?}"));
        }
        let (tiles, blocks) = (
            sizes[0].div_ceil(grid.queries),
            sizes[1].div_ceil(grid.keys),
        );
        if heads == 0 || lists.len() != heads * tiles {
            return refuse(format!(
                "{} lists for {heads} heads of {tiles} tiles",
                lists.len()
            ));
        }
        for list in &lists {
            let in_order = list.is_sorted_by(|a, b| a < b);
            if !in_order || list.last().is_some_and(|last| *last as usize >= blocks) {
                return refuse(format!(
                    "{list:?}: a list in order of {blocks} blocks is needed"
                ));
            }
        }
        Ok(Self {
            grid,
            sizes,
            heads,
            lists,
            card: None,
        })
    }

    /// The lists in the memory of a machine.
    ///
    /// # Errors
    /// What an upload gives.
    pub fn upload(&self, gpu: &crate::cuda::Gpu) -> Result<cuda::DeviceBlocks, KernelError> {
        let most = self.lists.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let padded = self.lists.iter().flat_map(|list| {
            let rest = std::iter::repeat_n(0, most - list.len());
            list.iter().copied().chain(rest)
        });
        let counts: Vec<u32> = self.lists.iter().map(|list| list.len() as u32).collect();
        Ok(cuda::DeviceBlocks {
            grid: self.grid,
            sizes: self.sizes,
            heads: self.heads,
            most,
            ids: gpu.upload_ids(&padded.collect::<Vec<u32>>())?,
            counts: gpu.upload_ids(&counts)?,
        })
    }

    /// Refuses lists that were made for other sizes or heads.
    pub(super) fn expect(&self, sizes: [usize; 2], heads: usize) -> Result<(), KernelError> {
        if self.sizes != sizes || ![1, heads].contains(&self.heads) {
            let (found, expected) = ((self.sizes, self.heads), (sizes, heads));
            return Err(KernelError::shape(OP, "blocks", expected, found));
        }
        Ok(())
    }

    fn list(&self, head: usize, tile: usize) -> &[u32] {
        let tiles = self.lists.len() / self.heads;
        &self.lists[head % self.heads * tiles + tile]
    }

    /// Keys that a query of a head sees: neighbouring blocks as one range.
    pub fn seen(&self, head: usize, query: usize) -> Vec<Range<usize>> {
        let [_, keys] = self.sizes;
        let mut found: Vec<Range<usize>> = Vec::new();
        for block in self.list(head, query / self.grid.queries) {
            let start = *block as usize * self.grid.keys;
            let end = (start + self.grid.keys).min(keys);
            match found.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => found.push(start..end),
            }
        }
        found
    }

    /// Pairs of a query and a key that are computed, over `heads` heads.
    pub fn pairs(&self, heads: usize) -> usize {
        let tile_rows = |tile: usize| {
            let first = tile * self.grid.queries;
            (first, self.grid.queries.min(self.sizes[0] - first))
        };
        let tiles = self.sizes[0].div_ceil(self.grid.queries);
        let of_head = |head: usize| -> usize {
            let tile = |tile| {
                let (first, rows) = tile_rows(tile);
                let keys: usize = self
                    .seen(head, first)
                    .iter()
                    .map(ExactSizeIterator::len)
                    .sum();
                rows * keys
            };
            (0..tiles).map(tile).sum()
        };
        (0..self.heads).map(of_head).sum::<usize>() * (heads / self.heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    fn list(tiles: &[&[u32]]) -> Result<BlockList, KernelError> {
        let lists = tiles.iter().map(|list| list.to_vec()).collect();
        BlockList::new(Grid::CPU, [200, 300], 1, lists)
    }

    #[test]
    fn lists_out_of_order_or_beyond_the_keys_are_refused() {
        assert!(list(&[&[0, 4], &[]]).is_ok());
        for wrong in [
            &[&[1, 0][..], &[]][..],
            &[&[1, 1], &[]],
            &[&[5], &[]],
            &[&[0]],
        ] {
            assert!(list(wrong).is_err(), "{wrong:?}");
        }
        let grid = Grid {
            queries: 100,
            keys: 64,
        };
        assert!(BlockList::new(grid, [1, 1], 1, vec![vec![]]).is_err());
        assert!(list(&[&[], &[]]).unwrap().expect([200, 301], 2).is_err());
        let device = Device::cpu(1).unwrap();
        assert!(BlockList::of_units(&device, 64, [1, 1], 0, |_, _| true).is_err());
    }

    #[test]
    fn neighbouring_blocks_are_one_range_and_pairs_are_counted() {
        let list = list(&[&[0, 1, 4], &[]]).unwrap();
        assert_eq!(list.seen(0, 127), [0..128, 256..300]);
        assert_eq!(list.seen(3, 128), []);
        assert_eq!(list.pairs(2), 2 * 128 * (128 + 44));
    }

    /// Whatever is asked for is seen, and nothing that is a block away from all of it.
    #[test]
    fn lists_of_units_hold_what_was_asked_for_and_little_more() {
        let device = Device::cpu(1).unwrap();
        let numbers = noise(5, &[200, 4]);
        for case in numbers.f32s().chunks(4) {
            let pick = |value: f32, most: usize| ((value + 1.0) / 2.0 * most as f32) as usize;
            let sizes = [1 + pick(case[0], 900), 1 + pick(case[1], 900)];
            let (unit, reach) = (1 + pick(case[2], 300), pick(case[3], 4));
            let sees = |a: usize, b: usize| a.abs_diff(b) <= reach;
            let list = BlockList::of_units(&device, 64, sizes, unit, sees).unwrap();
            for query in (0..sizes[0]).step_by(7) {
                let seen = list.seen(0, query);
                let is_seen = |key| seen.iter().any(|range| range.contains(&key));
                for key in 0..sizes[1] {
                    let asked = sees(query / unit, key / unit);
                    assert!(
                        !asked || is_seen(key),
                        "{sizes:?} {unit} {reach}: {query} {key}"
                    );
                    // As near as a tile and a block together may be off.
                    let slack = Grid::CPU.queries + Grid::CPU.keys;
                    let (low, high) = (query.saturating_sub(slack), query + slack);
                    let near = (low / unit).saturating_sub(reach)..=high / unit + reach;
                    let key_units = key.saturating_sub(slack) / unit..=(key + slack) / unit;
                    let meets = key_units.start() <= near.end() && near.start() <= key_units.end();
                    assert!(
                        meets || !is_seen(key),
                        "{sizes:?} {unit} {reach}: {query} {key}"
                    );
                }
            }
        }
    }
}
