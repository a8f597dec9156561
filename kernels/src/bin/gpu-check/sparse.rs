//! Attention over lists of blocks: does it take time in proportion to the blocks that are kept?

use std::error::Error;

use serde_json::json;

use kernels::attention::cuda::{DeviceMask, Path, best_path, grid};
use kernels::attention::{BlockList, Mask};

use crate::attended::{Attended, HEADS};
use crate::bench::{Launches, measure};
use crate::child::{Card, say};

/// Self-attention of 1280x704 at 289 frames: tokens, and the width of a head.
const TOKENS: usize = 32_640;
const HEAD: usize = 128;
/// One block of so many is kept.
const ONE_OF: [usize; 4] = [1, 2, 4, 8];

/// Measures the fastest path of the card, and mma.sync where that is another.
///
/// # Errors
/// When the card refuses.
pub fn run(card: &Card) -> Result<(), Box<dyn Error>> {
    let best = best_path(&card.gpu, HEAD, Mask::None);
    path(card, best)?;
    match best {
        Path::Mma => Ok(()),
        _ => path(card, Path::Mma),
    }
}

/// Every n-th block of keys for every tile of queries, beside no list at all.
fn path(card: &Card, path: Path) -> Result<(), Box<dyn Error>> {
    let attended = Attended::new(&card.gpu, TOKENS, HEAD)?;
    let time = |mask: DeviceMask<'_>| -> Result<(f32, f32), Box<dyn Error>> {
        let launches: Launches<'_> = vec![Box::new(|| attended.run(path, mask))];
        measure(card, &launches)
    };
    let tell = |shape: String, pairs: f64, of_dense: f64, (ms, spread): (f32, f32)| {
        let tflops = 4.0 * pairs * HEAD as f64 / f64::from(ms) / 1e9;
        say(json!({
            "kind": "op", "name": format!("attention lists {path:?}"), "shape": shape, "ms": ms,
            "ms_spread": spread, "tflops": tflops, "of_dense": of_dense,
        }));
    };
    let all = (HEADS * TOKENS * TOKENS) as f64;
    let dense = time(DeviceMask::None)?;
    tell(format!("{TOKENS}x{HEAD} no list"), all, 1.0, dense);
    for one_of in ONE_OF {
        let list = list(path, one_of)?;
        let found = time(DeviceMask::Blocks(&list.upload(&card.gpu)?))?;
        let pairs = list.pairs(HEADS) as f64;
        let shape = format!("{TOKENS}x{HEAD} {:.1} % of blocks", 100.0 * pairs / all);
        tell(shape, pairs, f64::from(found.0 / dense.0), found);
    }
    Ok(())
}

/// Each tile begins with another block, so that all keys are read by somebody.
fn list(path: Path, one_of: usize) -> Result<BlockList, Box<dyn Error>> {
    let grid = grid(path, HEAD)?;
    let blocks = TOKENS.div_ceil(grid.keys) as u32;
    let of_tile = |tile: usize| ((tile % one_of) as u32..blocks).step_by(one_of).collect();
    let lists = (0..TOKENS.div_ceil(grid.queries)).map(of_tile).collect();
    Ok(BlockList::new(grid, [TOKENS, TOKENS], 1, lists)?)
}
