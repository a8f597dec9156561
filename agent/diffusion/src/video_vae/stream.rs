//! Convolutions over a clip whose frames come a few at a time.
//!
//! A kernel of three frames reads one frame beyond the newest that it answers for, so each
//! convolution keeps the last two frames of its input and answers one frame late; what runs beside
//! it waits as long. Every frame is computed once, in the order of sums of the whole clip: cutting
//! a clip into windows changes no bit.

use kernels::conv::{ConvWeights, Prologue};
use kernels::conv3d::{Conv3dOptions, TimePad, conv3d};
use kernels::copy::copy_range;
use kernels::{Device, KernelError, Tensor};

use super::five;
use super::resnet::{Borders, KERNEL};

/// Frames that a convolution keeps.
pub(super) const KEPT: usize = KERNEL[0] - 1;

/// Some frames [1, n, row, column, channel] of a clip, n from 0 on.
pub(super) struct Frames<'a> {
    pub x: &'a Tensor,
    /// None come after these.
    pub are_last: bool,
}

/// What a convolution keeps of its input; nothing before the first frame has come.
#[derive(Debug, Default)]
pub(super) struct Seam {
    kept: Option<Tensor>,
}

impl Seam {
    /// `conv(prologue(x)) + residual` for every frame that can be answered for by now.
    pub fn conv(
        &mut self,
        borders: &Borders,
        frames: &Frames<'_>,
        weights: &ConvWeights,
        prologue: Prologue,
        residual: Option<&mut Delay>,
    ) -> Result<Tensor, KernelError> {
        let x = self.extend(borders, frames)?;
        let [b, t, h, w, _] = five(&x)?;
        let ready = t.saturating_sub(KEPT);
        let residual = residual.map(|delay| delay.take(&borders.device, ready));
        let residual = residual.transpose()?;
        let mut out =
            Tensor::activations(&borders.device, &[b, ready, h, w, weights.out_channels()])?;
        if ready > 0 {
            let options = Conv3dOptions {
                time: TimePad::Given,
                space: borders.space,
                prologue,
            };
            conv3d(
                &borders.device,
                &x,
                weights,
                options,
                residual.as_ref(),
                &mut out,
            )?;
        }
        self.kept = match frames.are_last {
            true => None,
            false if t == 0 => None,
            false => Some(cut(
                &borders.device,
                &x,
                t.saturating_sub(KEPT),
                t.min(KEPT),
            )?),
        };
        Ok(out)
    }

    /// Frames kept before, copies of the clip's first frame, these, copies of its last.
    fn extend(&self, borders: &Borders, frames: &Frames<'_>) -> Result<Tensor, KernelError> {
        let count = five(frames.x)?[1];
        let (mut before, mut after) = match borders.time {
            TimePad::Causal => (KEPT, 0),
            _ => (KEPT / 2, KEPT - KEPT / 2),
        };
        if self.kept.is_some() || count == 0 {
            before = 0;
        }
        if !frames.are_last || (self.kept.is_none() && count == 0) {
            after = 0;
        }
        let mut parts: Vec<Part<'_>> = vec![(frames.x, 0, 1); before];
        parts.extend(self.kept.as_ref().map(|kept| (kept, 0, frame_count(kept))));
        parts.push((frames.x, 0, count));
        let newest = match &self.kept {
            Some(kept) if count == 0 => kept,
            _ => frames.x,
        };
        let last = frame_count(newest).saturating_sub(1);
        parts.extend(vec![(newest, last, 1); after]);
        join(&borders.device, &parts)
    }
}

/// Frames that wait for a convolution beside them.
#[derive(Debug, Default)]
pub(super) struct Delay {
    waiting: Option<Tensor>,
}

impl Delay {
    /// Lets frames wait.
    pub fn put(&mut self, device: &Device, x: Tensor) -> Result<(), KernelError> {
        self.waiting = Some(match self.waiting.take() {
            Some(old) if frame_count(&old) > 0 => join(
                device,
                &[(&old, 0, frame_count(&old)), (&x, 0, frame_count(&x))],
            )?,
            _ => x,
        });
        Ok(())
    }

    /// The `count` frames that have waited longest; as many must be waiting.
    pub fn take(&mut self, device: &Device, count: usize) -> Result<Tensor, KernelError> {
        let Some(waiting) = self.waiting.take() else {
            return Err(KernelError::unsupported(
                "video_vae",
                "a residual before its frames",
            ));
        };
        let all = frame_count(&waiting);
        if count == all {
            return Ok(waiting);
        }
        let taken = cut(device, &waiting, 0, count)?;
        self.waiting = Some(cut(device, &waiting, count, all.saturating_sub(count))?);
        Ok(taken)
    }
}

/// A tensor, its first frame to copy, and how many.
type Part<'a> = (&'a Tensor, usize, usize);

/// Frames of a tensor [1, n, row, column, channel].
pub(super) fn frame_count(x: &Tensor) -> usize {
    x.dims()[1]
}

/// Frames of several tensors of one size, one after the other.
fn join(device: &Device, parts: &[Part<'_>]) -> Result<Tensor, KernelError> {
    let [b, _, h, w, c] = five(parts[0].0)?;
    let frame = h * w * c;
    let count = parts.iter().map(|(_, _, count)| count).sum();
    let mut out = Tensor::activations(device, &[b, count, h, w, c])?;
    let mut at = 0;
    for (from, first, count) in parts {
        copy_range(device, (from, first * frame), (&mut out, at), count * frame)?;
        at += count * frame;
    }
    Ok(out)
}

/// `count` frames of `x` from `first` on.
pub(super) fn cut(
    device: &Device,
    x: &Tensor,
    first: usize,
    count: usize,
) -> Result<Tensor, KernelError> {
    join(device, &[(x, first, count)])
}
