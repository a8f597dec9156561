//! A film in memory: pictures and sound, as the renderer, the codec and the model all give it.

/// Pictures and sound of one clip.
#[derive(Clone)]
pub struct Film {
    pub width: usize,
    pub height: usize,
    pub fps: f64,
    /// RGB24, frames back to back: `[frame][row][column][3]`.
    pub rgb: Vec<u8>,
    /// Mono, -1..1.
    pub samples: Vec<f32>,
    pub rate: u32,
}

impl Film {
    pub fn frame_bytes(&self) -> usize {
        self.width * self.height * 3
    }

    pub fn frames(&self) -> usize {
        self.rgb.len() / self.frame_bytes()
    }

    /// RGB24 of frame `i`, which must exist.
    pub fn frame(&self, i: usize) -> &[u8] {
        &self.rgb[i * self.frame_bytes()..(i + 1) * self.frame_bytes()]
    }

    /// Pixels in a metre: the short side of every picture is 3 m.
    pub fn pixels_per_metre(&self) -> f64 {
        self.width.min(self.height) as f64 / super::scene::SHORT_SIDE_M
    }
}
