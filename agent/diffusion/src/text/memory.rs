//! Values that are alive at the fullest moment of encoding a prompt.

use super::TextEncoder;

impl TextEncoder {
    /// Peak of [`TextEncoder::encode`] in values of activations.
    pub(crate) fn values(&self) -> usize {
        let tokens = self.tokens();
        let states = tokens * self.gemma.hidden() * self.gemma.states();
        // Hidden states while a layer works, or all of them beside the features made of them and a
        // connector at work.
        let layer = states + tokens * self.gemma.layer_width();
        let (video, audio) = self.widths();
        let connector = 2 * states + tokens * (video.max(audio) * 8 + video);
        layer.max(connector)
    }
}
