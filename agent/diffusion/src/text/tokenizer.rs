//! Prompts to token ids of fixed length: BOS, the prompt cut on the right, padding on the left.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use crate::error::DiffusionError;
use crate::weights::{Config, WeightsError};

/// A prompt as the text encoder reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Ids of all positions.
    pub ids: Vec<u32>,
    /// How many of the first ids are padding.
    pub pads: usize,
}

/// `tokenizer/tokenizer.json` with its special tokens.
pub struct PromptTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
    length: usize,
    pad: u32,
    bos: u32,
}

impl std::fmt::Debug for PromptTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "PromptTokenizer({}, {} tokens)",
            self.path.display(),
            self.length
        )
    }
}

impl PromptTokenizer {
    /// Opens `root/tokenizer`; prompts become `length` tokens.
    ///
    /// # Errors
    /// [`WeightsError::Read`] or [`WeightsError::Damaged`] naming the file, [`WeightsError::Field`] for
    /// special tokens that the vocabulary lacks.
    pub fn open(root: &Path, length: usize) -> Result<Self, WeightsError> {
        let folder = root.join("tokenizer");
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| WeightsError::Read {
            path: path.clone(),
            source,
        })?;
        let mut tokenizer =
            Tokenizer::from_bytes(bytes).map_err(|error| WeightsError::Damaged {
                path: path.clone(),
                reason: error.to_string(),
            })?;
        tokenizer.with_padding(None);
        let removed = tokenizer.with_truncation(None).map(|_| ());
        removed.map_err(|error| WeightsError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let config = Config::open(&folder.join("tokenizer_config.json"))?;
        let pad = special(&config, &tokenizer, "pad_token", "<pad>")?;
        let bos = special(&config, &tokenizer, "bos_token", "<bos>")?;
        Ok(Self {
            path,
            tokenizer,
            length,
            pad,
            bos,
        })
    }

    /// Tokens of every prompt.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Refuses a vocabulary that the text encoder has no rows for.
    ///
    /// # Errors
    /// [`WeightsError::Damaged`].
    pub fn check(&self, rows: usize) -> Result<(), WeightsError> {
        let largest = self
            .tokenizer
            .get_vocab(true)
            .into_values()
            .max()
            .unwrap_or(0);
        if (largest as usize) < rows {
            return Ok(());
        }
        let reason = format!("it has token {largest}, but the text encoder has {rows} rows");
        Err(WeightsError::Damaged {
            path: self.path.clone(),
            reason,
        })
    }

    /// Tokens of a prompt.
    ///
    /// # Errors
    /// [`DiffusionError::Tokenizer`].
    pub fn encode(&self, prompt: &str) -> Result<Tokens, DiffusionError> {
        let encoding = self
            .tokenizer
            .encode(prompt.trim(), true)
            .map_err(|error| DiffusionError::Tokenizer(error.to_string()))?;
        let mut found = encoding.get_ids().to_vec();
        if found.first() != Some(&self.bos) {
            found.insert(0, self.bos);
        }
        found.truncate(self.length);
        let pads = self.length - found.len();
        let mut ids = vec![self.pad; pads];
        ids.extend(found);
        Ok(Tokens { ids, pads })
    }
}

/// Id of a special token that the config names by its text, or by an object with `content`.
fn special(
    config: &Config,
    tokenizer: &Tokenizer,
    field: &str,
    default: &str,
) -> Result<u32, WeightsError> {
    let value = config
        .optional::<serde_json::Value>(field)?
        .unwrap_or_default();
    let text = value
        .as_str()
        .or_else(|| value.get("content")?.as_str())
        .unwrap_or(default);
    let missing = || config.refuse(field, format!("`{text}` is not in the vocabulary"));
    tokenizer.token_to_id(text).ok_or_else(missing)
}
