//! Where a clip goes: its sound first, then its pictures a few at a time, as they are decoded.

use crate::progress::Control;

/// What a clip is like, known before its first picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slate {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Pictures per second.
    pub fps: u32,
    /// Pictures in all.
    pub frames: u32,
    /// Samples per second.
    pub sample_rate: u32,
    /// 1 or 2.
    pub channels: u16,
    /// BLAKE3 of the final latents in hexadecimal: equal for equal runs.
    pub latents_digest: String,
}

/// Takes a clip while it is made. Either call may answer [`Control::Pause`], which ends the run with
/// a checkpoint; a run that is resumed gives the whole clip again, from `open` on.
pub trait Sink: Send {
    /// Once, before any picture: interleaved samples in -1..=1, exactly as long as the pictures
    /// (rounded to one sample).
    fn open(&mut self, slate: &Slate, samples: Vec<f32>) -> Control;

    /// The next pictures: whole RGB24 frames, rows from the top.
    fn pictures(&mut self, rgb: &[u8]) -> Control;
}

/// A clip in memory; as a [`Sink`] it keeps everything that comes.
#[derive(Clone, Default)]
pub struct Clip {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Pictures per second.
    pub fps: u32,
    /// RGB24, one picture after the other, rows from the top.
    pub frames: Vec<u8>,
    /// Samples per second.
    pub sample_rate: u32,
    /// 1 or 2.
    pub channels: u16,
    /// Interleaved samples in -1..=1, exactly as long as the pictures (rounded to one sample).
    pub samples: Vec<f32>,
    /// BLAKE3 of the final latents in hexadecimal: equal for equal runs.
    pub latents_digest: String,
}

impl Sink for Clip {
    fn open(&mut self, slate: &Slate, samples: Vec<f32>) -> Control {
        let bytes = slate.width as usize * slate.height as usize * 3 * slate.frames as usize;
        *self = Self {
            width: slate.width,
            height: slate.height,
            fps: slate.fps,
            frames: Vec::with_capacity(bytes),
            sample_rate: slate.sample_rate,
            channels: slate.channels,
            samples,
            latents_digest: slate.latents_digest.clone(),
        };
        Control::Continue
    }

    fn pictures(&mut self, rgb: &[u8]) -> Control {
        self.frames.extend_from_slice(rgb);
        Control::Continue
    }
}

impl Clip {
    /// Number of pictures.
    pub fn frame_count(&self) -> u32 {
        let bytes = self.width as usize * self.height as usize * 3;
        (self.frames.len() / bytes.max(1)) as u32
    }

    /// Bytes of picture `index`, if there is one.
    pub fn frame(&self, index: u32) -> Option<&[u8]> {
        let bytes = self.width as usize * self.height as usize * 3;
        self.frames
            .get(index as usize * bytes..(index as usize + 1) * bytes)
    }
}

impl std::fmt::Debug for Clip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (w, h, n, fps) = (self.width, self.height, self.frame_count(), self.fps);
        write!(
            f,
            "Clip({w}x{h}, {n} frames at {fps}, {} samples)",
            self.samples.len()
        )
    }
}
