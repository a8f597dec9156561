//! How a run and its caller talk: where it starts, what it tells after each step, what it may be
//! told, and what it ends with.

use crate::checkpoint::Checkpoint;
use crate::latent::Latents;

/// Where a run begins.
#[derive(Debug, Clone)]
pub enum Start {
    /// From noise drawn with the recipe's seed.
    Fresh,
    /// From given noise, for comparison with another engine.
    Noise(Latents),
    /// Where an earlier run paused.
    Resume(Box<Checkpoint>),
}

/// Part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Prompt to text context.
    Encode,
    /// The steps of the sampler.
    Denoise,
    /// Latents to frames and samples.
    Decode,
}

impl Phase {
    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
        }
    }
}

/// Where a run stands, given to the caller at the end of every step.
pub struct Progress<'a> {
    /// Part of the run that the next work belongs to.
    pub phase: Phase,
    /// Denoising steps done.
    pub step: u32,
    /// Denoising steps in all.
    pub steps: u32,
    /// Pictures decoded.
    pub pictures: u32,
    /// Pictures in all.
    pub pictures_total: u32,
    pub(crate) save: &'a dyn Fn() -> Checkpoint,
}

impl Progress<'_> {
    /// The state between this step and the next; resuming from it gives the same clip, bit for bit.
    pub fn checkpoint(&self) -> Checkpoint {
        (self.save)()
    }
}

/// What the caller wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Stop here and give back a checkpoint.
    Pause,
}

/// The caller's end of a run: called after the prompt is encoded, after every denoising step, after
/// the sound is decoded and after every window of pictures but the last.
pub type OnStep<'a> = dyn FnMut(&Progress<'_>) -> Control + Send + 'a;

/// How a run ended.
#[derive(Debug)]
pub enum Generated {
    /// The sink has the whole clip.
    Finished,
    /// The caller or the sink paused it.
    Paused(Box<Checkpoint>),
}
