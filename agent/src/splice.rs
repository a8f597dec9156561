//! What a shot file takes from given files in place of the clip, and what it leaves off it.

use diffusion::{Control, Sink, Slate, Wave};

use crate::{given::Shape, shot::Feed};

/// The differences between a clip and its shot file.
#[derive(Default)]
pub struct Cut {
    /// Frames at the front that the shot before already shows.
    pub context: u32,
    /// Pictures to take in place of the clip's, RGB24.
    pub picture: Option<(Shape, Vec<u8>)>,
    /// Sound to take in place of the clip's.
    pub sound: Option<Wave>,
}

/// Feeds a shot file with a clip, cut.
pub struct Splice<'a> {
    cut: Cut,
    feed: &'a mut Feed,
    /// Bytes of pictures that are still to be left off.
    left: usize,
    /// BLAKE3 of the clip's latents, once it has any.
    pub latents: String,
}

impl<'a> Splice<'a> {
    pub fn new(cut: Cut, feed: &'a mut Feed) -> Self {
        Self {
            cut,
            feed,
            left: 0,
            latents: String::new(),
        }
    }
}

impl Sink for Splice<'_> {
    fn open(&mut self, slate: &Slate, mut samples: Vec<f32>) -> Control {
        let (cut, mut slate) = (&mut self.cut, slate.clone());
        self.latents.clone_from(&slate.latents_digest);
        let picture = slate.width as usize * slate.height as usize * 3;
        self.left = cut.context as usize * picture;
        let seconds = f64::from(cut.context) / f64::from(slate.fps);
        let front = (seconds * f64::from(slate.sample_rate)).round() as usize;
        samples.drain(..(front * usize::from(slate.channels)).min(samples.len()));
        slate.frames -= cut.context;
        if let Some(wave) = cut.sound.take() {
            (slate.sample_rate, slate.channels) = (wave.format.rate, wave.format.channels);
            samples = wave.samples;
        }
        let Some((shape, rgb)) = &cut.picture else {
            return self.feed.open(&slate, samples);
        };
        let picture = shape.width as usize * shape.height as usize * 3;
        (slate.width, slate.height) = (shape.width, shape.height);
        slate.frames = (rgb.len() / picture) as u32;
        match self.feed.open(&slate, samples) {
            Control::Continue => self.feed.pictures(rgb),
            Control::Pause => Control::Pause,
        }
    }

    fn pictures(&mut self, rgb: &[u8]) -> Control {
        let skip = self.left.min(rgb.len());
        self.left -= skip;
        match self.cut.picture.is_none() && skip < rgb.len() {
            true => self.feed.pictures(&rgb[skip..]),
            false => Control::Continue,
        }
    }
}
