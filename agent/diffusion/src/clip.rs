//! The result of a run: pictures and sound in memory.

/// A finished take.
#[derive(Clone)]
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
