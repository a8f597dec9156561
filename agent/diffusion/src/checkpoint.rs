//! The state of a run between two steps, as bytes that can move to another machine.
//!
//! Format, little-endian: `DLYC`, version u32, digests of weights, recipe and sigmas (32 bytes
//! each), device class (u32 length, UTF-8), seed u64, step u32, steps u32, video latents (u64
//! count, f32 each), audio latents (alike), BLAKE3 of all that comes before.

use crate::latent::Latents;

/// Version of the byte format.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: &[u8; 4] = b"DLYC";
const DIGEST_BYTES: usize = 32;

/// Why a checkpoint is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes are no checkpoint, cut short or changed.
    #[error("the checkpoint is damaged: {0}")]
    Damaged(&'static str),
    /// The bytes are of another version of the format.
    #[error("the checkpoint has format {found}, this build reads {FORMAT_VERSION}")]
    Version {
        /// Version in the bytes.
        found: u32,
    },
    /// The checkpoint belongs to another run.
    #[error("the checkpoint was made with another {what}")]
    Foreign {
        /// `set of weights`, `recipe`, `list of sigmas` or `class of device`.
        what: &'static str,
    },
}

/// Digests of everything that a run's bits depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub(crate) weights: [u8; DIGEST_BYTES],
    pub(crate) recipe: [u8; DIGEST_BYTES],
    pub(crate) sigmas: [u8; DIGEST_BYTES],
    pub(crate) device_class: String,
}

/// Saved progress of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub(crate) identity: Identity,
    pub(crate) seed: u64,
    pub(crate) step: u32,
    pub(crate) steps: u32,
    pub(crate) latents: Latents,
}

impl Checkpoint {
    /// The latents of both streams after the steps that are done.
    pub fn latents(&self) -> &Latents {
        &self.latents
    }

    /// Denoising steps done: the index of the sigma to go on from.
    pub fn step(&self) -> u32 {
        self.step
    }

    /// Denoising steps in all.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Seed of the run's noise.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Refuses to go on with other weights, another recipe, other sigmas or another class of device.
    ///
    /// # Errors
    /// [`CheckpointError::Foreign`] naming the first difference.
    pub(crate) fn belongs_to(&self, identity: &Identity) -> Result<(), CheckpointError> {
        let (mine, theirs) = (&self.identity, identity);
        let what = if mine.weights != theirs.weights {
            "set of weights"
        } else if mine.recipe != theirs.recipe {
            "recipe"
        } else if mine.sigmas != theirs.sigmas {
            "list of sigmas"
        } else if mine.device_class != theirs.device_class {
            "class of device"
        } else {
            return Ok(());
        };
        Err(CheckpointError::Foreign { what })
    }

    /// The bytes to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        let floats = self.latents.video.len() + self.latents.audio.len();
        let mut bytes = Vec::with_capacity(256 + floats * 4);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend(self.identity.weights);
        bytes.extend(self.identity.recipe);
        bytes.extend(self.identity.sigmas);
        bytes.extend((self.identity.device_class.len() as u32).to_le_bytes());
        bytes.extend(self.identity.device_class.as_bytes());
        bytes.extend(self.seed.to_le_bytes());
        bytes.extend(self.step.to_le_bytes());
        bytes.extend(self.steps.to_le_bytes());
        for stream in [&self.latents.video, &self.latents.audio] {
            bytes.extend((stream.len() as u64).to_le_bytes());
            bytes.extend(stream.iter().flat_map(|value| value.to_le_bytes()));
        }
        let digest = blake3::hash(&bytes);
        bytes.extend(digest.as_bytes());
        bytes
    }

    /// Reads stored bytes.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] for bytes that are cut short, changed or not a checkpoint,
    /// [`CheckpointError::Version`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let mut reader = Reader { rest: bytes };
        if reader.array()? != *MAGIC {
            return Err(CheckpointError::Damaged("it does not begin as one"));
        }
        let found = u32::from_le_bytes(reader.array()?);
        if found != FORMAT_VERSION {
            return Err(CheckpointError::Version { found });
        }
        let Some((body, digest)) = bytes.split_last_chunk::<DIGEST_BYTES>() else {
            return Err(CUT_SHORT);
        };
        if blake3::hash(body) != blake3::Hash::from_bytes(*digest) {
            return Err(CheckpointError::Damaged("its digest does not match"));
        }
        let (weights, recipe, sigmas) = (reader.array()?, reader.array()?, reader.array()?);
        let device_class = reader.text()?;
        let checkpoint = Self {
            identity: Identity {
                weights,
                recipe,
                sigmas,
                device_class,
            },
            seed: u64::from_le_bytes(reader.array()?),
            step: u32::from_le_bytes(reader.array()?),
            steps: u32::from_le_bytes(reader.array()?),
            latents: Latents {
                video: reader.floats()?,
                audio: reader.floats()?,
            },
        };
        match reader.rest.len() {
            DIGEST_BYTES => Ok(checkpoint),
            _ => Err(CheckpointError::Damaged("its length does not match")),
        }
    }
}

const CUT_SHORT: CheckpointError = CheckpointError::Damaged("it is cut short");

/// Takes values off the front of a slice.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], CheckpointError> {
        let (front, rest) = self.rest.split_at_checked(count).ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let (front, rest) = self.rest.split_first_chunk().ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(*front)
    }

    fn text(&mut self) -> Result<String, CheckpointError> {
        let count = u32::from_le_bytes(self.array()?) as usize;
        let text = std::str::from_utf8(self.take(count)?);
        Ok(text
            .map_err(|_| CheckpointError::Damaged("its text is not UTF-8"))?
            .to_owned())
    }

    fn floats(&mut self) -> Result<Vec<f32>, CheckpointError> {
        let count = u64::from_le_bytes(self.array()?);
        let bytes = usize::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(4))
            .ok_or(CUT_SHORT)?;
        let (chunks, _) = self.take(bytes)?.as_chunks::<4>();
        Ok(chunks.iter().map(|raw| f32::from_le_bytes(*raw)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        Checkpoint {
            identity: Identity {
                weights: [1; 32],
                recipe: [2; 32],
                sigmas: [3; 32],
                device_class: "cpu-test".into(),
            },
            seed: 7,
            step: 3,
            steps: 8,
            latents: Latents {
                video: vec![0.5, -1.25, 3.0],
                audio: vec![f32::MIN_POSITIVE],
            },
        }
    }

    #[test]
    fn bytes_come_back_as_the_same_checkpoint() {
        let checkpoint = sample();
        assert_eq!(
            Checkpoint::from_bytes(&checkpoint.to_bytes()),
            Ok(checkpoint)
        );
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_refused() {
        let bytes = sample().to_bytes();
        for end in 0..bytes.len() {
            assert!(
                Checkpoint::from_bytes(&bytes[..end]).is_err(),
                "cut at {end}"
            );
        }
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 0x10;
            assert!(
                Checkpoint::from_bytes(&changed).is_err(),
                "changed at {index}"
            );
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = sample().to_bytes();
        bytes[4] = 9;
        assert_eq!(
            Checkpoint::from_bytes(&bytes),
            Err(CheckpointError::Version { found: 9 })
        );
    }

    #[test]
    fn a_foreign_checkpoint_is_refused_with_what_differs() {
        let checkpoint = sample();
        assert_eq!(checkpoint.belongs_to(&checkpoint.identity), Ok(()));
        let change = |change: fn(&mut Identity)| {
            let mut identity = checkpoint.identity.clone();
            change(&mut identity);
            checkpoint.belongs_to(&identity).unwrap_err().to_string()
        };
        assert!(change(|i| i.weights = [9; 32]).contains("set of weights"));
        assert!(change(|i| i.recipe = [9; 32]).contains("recipe"));
        assert!(change(|i| i.sigmas = [9; 32]).contains("list of sigmas"));
        assert!(change(|i| i.device_class = "cuda".into()).contains("class of device"));
    }
}
