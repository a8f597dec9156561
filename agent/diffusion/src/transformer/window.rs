//! Video self-attention within a stretch of time: an approximation for long films, whose attention takes most of
//! the work. Tokens lie frame by frame, so what a frame sees is a few ranges of tokens and nothing is reordered.

use kernels::attention::BlockList;
use kernels::{Device, KernelError};

use super::Transformer;
use crate::latent::Grid;

/// Whether tokens of latent frame `a` see those of `b`, of `frames` and behind them the given pictures: what is
/// at most `reach` frames away, the first frame and everything given; a given picture sees all.
fn sees(frames: usize, reach: usize, a: usize, b: usize) -> bool {
    let is_given = |frame| frame >= frames;
    b == 0 || is_given(a) || is_given(b) || a.abs_diff(b) <= reach
}

impl Transformer {
    /// What tokens of a clip with `stills` given pictures see when frames reach `reach` latent frames far.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn window(
        &self,
        device: &Device,
        grid: &Grid,
        stills: usize,
        reach: usize,
    ) -> Result<BlockList, KernelError> {
        let (frames, unit) = (grid.video[0], grid.frame_tokens());
        let tokens = (frames + stills) * unit;
        let head = self.config.video.head_dim;
        let sees = |a, b| sees(frames, reach, a, b);
        BlockList::of_units(device, head, [tokens, tokens], unit, sees)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_see_their_neighbours_the_first_frame_and_what_is_given() {
        let seen = |a| -> Vec<usize> { (0..7).filter(|b| sees(6, 1, a, *b)).collect() };
        assert_eq!(seen(0), [0, 1, 6]);
        assert_eq!(seen(4), [0, 3, 4, 5, 6]);
        assert_eq!(seen(6), [0, 1, 2, 3, 4, 5, 6]);
        assert!((0..6).all(|a| (0..6).all(|b| sees(6, 5, a, b))));
    }
}
