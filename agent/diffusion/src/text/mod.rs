//! From a prompt to the text context of the transformer: tokens, hidden states of the text encoder,
//! features, connectors.

mod connector;
mod features;
mod gemma;
mod memory;
mod tokenizer;

use std::path::Path;

use kernels::{Device, Tensor};

use crate::error::DiffusionError;
use crate::transformer::Context;
use crate::weights::{Component, WeightsError};

pub use connector::Connectors;
pub use gemma::Gemma;
pub use tokenizer::{PromptTokenizer, Tokens};

/// Everything between a prompt and the transformer.
#[derive(Debug)]
pub struct TextEncoder {
    tokenizer: PromptTokenizer,
    gemma: Gemma,
    connectors: Connectors,
}

impl TextEncoder {
    /// Loads `tokenizer`, `text_encoder` and `connectors` of a folder; prompts are padded to `tokens`.
    ///
    /// # Errors
    /// A [`WeightsError`] that names the file.
    pub fn load(
        root: &Path,
        text_encoder: &Component,
        connectors: &Component,
        tokens: usize,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let gemma = Gemma::load(text_encoder, device)?;
        let connectors = Connectors::load(connectors, device)?;
        connectors.check(gemma.hidden(), gemma.states(), tokens)?;
        let tokenizer = PromptTokenizer::open(root, tokens)?;
        tokenizer.check(gemma.vocabulary())?;
        Ok(Self {
            tokenizer,
            gemma,
            connectors,
        })
    }

    /// Tokens that a prompt is padded to.
    pub fn tokens(&self) -> usize {
        self.tokenizer.length()
    }

    /// Widths of the context for video and audio.
    pub fn widths(&self) -> (usize, usize) {
        self.connectors.widths()
    }

    /// The context of a prompt; every position is visible to the transformer.
    ///
    /// # Errors
    /// [`DiffusionError::Tokenizer`], [`DiffusionError::Kernel`].
    pub fn encode(&self, device: &Device, prompt: &str) -> Result<Context, DiffusionError> {
        let tokens = self.tokenizer.encode(prompt)?;
        let states = self.gemma.hidden_states(device, &tokens)?;
        let (video, audio) = self.connectors.forward(device, &states, tokens.pads)?;
        Ok(Context {
            video,
            audio,
            mask: None,
        })
    }
}

/// Hidden states of all layers: [token, width] each, the embedding first.
pub type HiddenStates = Vec<Tensor>;
