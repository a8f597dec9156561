//! What a caller asked for, parsed and not yet judged: one struct for every encoding.
//!
//! Validation and fingerprints see only this, so the same wish sent as a form and as JSON is the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use schemas::Digest;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::artifacts::Upload;
pub use crate::core::rows::Priority;

/// The body of `POST /v1/videos`. Absent fields take the model's defaults in admission.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VideoRequest {
    pub prompt: String,
    pub model: Option<String>,
    /// As it was sent, so that `8.0` can be refused.
    pub seconds: Option<String>,
    /// `WxH`.
    pub size: Option<String>,
    pub input_reference: Option<Reference>,
    pub reference_fit: ReferenceFit,
    pub seed: Option<i64>,
    pub negative_prompt: String,
    pub steps: Option<i64>,
    pub guidance_scale: Option<f64>,
    pub metadata: BTreeMap<String, String>,
    pub shots: Vec<ShotRequest>,
    /// Answer the estimate instead of making a job.
    pub dry_run: bool,
    pub priority: Priority,
    /// `now`, or the name of a window in which it may start.
    pub start: Option<String>,
    /// Who of the project asks: an account of their own, made when it is first named.
    pub user: Option<String>,
    /// Unix seconds before which nothing of it starts.
    pub not_before: Option<i64>,
    /// Unix seconds by which it must have begun.
    pub deadline: Option<i64>,
    /// Devices of one node that work on each shot at once; absent: one.
    pub devices: Option<i64>,
    /// The estimate whose price it shall have.
    pub quote: Option<String>,
    /// Last frame of the film.
    pub last_reference: Option<Reference>,
    /// Pictures at times of the film.
    pub keyframes: Vec<Keyframe>,
    /// How firmly `last_reference` and `keyframes` are kept, above 0 and at most 1.
    pub reference_strength: Option<f64>,
    /// Sound of the film; the picture follows it.
    pub audio_reference: Option<Source>,
    /// Picture of the film; the sound follows it.
    pub video_reference: Option<Source>,
    /// What of `video_reference` is made anew; its sound is then given too.
    pub retake: Option<Retake>,
    /// Share of the noise that what is made anew begins with; absent: all of it.
    pub strength: Option<f64>,
    /// Seconds that a shot looks back at where it goes on from something.
    pub context_seconds: Option<f64>,
    /// The film that this one goes on from.
    pub continues: Option<Continuation>,
    /// The video that this one was made of.
    pub lineage: Lineage,
}

/// A picture at a time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Keyframe {
    pub seconds: f64,
    pub input_reference: Reference,
}

/// A file that is given whole: its place in the artefact store, with the file where it is not there yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    pub digest: Digest,
    pub upload: Option<Upload>,
}

/// A stretch of a film to make anew.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Retake {
    pub from_s: f64,
    pub to_s: f64,
    pub picture: bool,
    pub sound: bool,
}

/// A film that another goes on from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Continuation {
    pub source: Source,
    pub seconds: u32,
    pub frames: u32,
    /// How often it was extended before.
    pub extensions: u32,
}

/// How a video came to be, beyond its prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    pub operation: Operation,
    /// The video that it was made of.
    pub source: Option<String>,
}

/// Names of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    #[default]
    Create,
    Remix,
    Edit,
    Extend,
}

/// One take of a storyboard.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ShotRequest {
    pub prompt: String,
    pub seconds: String,
    pub seed: Option<i64>,
    pub negative_prompt: Option<String>,
    pub input_reference: Option<Reference>,
    /// It goes on from the end of the shot before.
    pub continues: bool,
}

/// How a reference image of another size than the film becomes its first frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceFit {
    /// Refuse it.
    #[default]
    Exact,
    /// Scale until the frame is full and cut what stands over.
    Cover,
    /// Scale until the whole image is inside and fill the rest with black.
    Contain,
}

/// The bytes of a reference image as they came.
#[derive(Clone, PartialEq, Eq)]
pub struct Reference(pub Bytes);

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reference({} bytes)", self.0.len())
    }
}

impl Source {
    /// A file that came with the request.
    pub fn sent(upload: Upload) -> Self {
        Self {
            digest: upload.digest(),
            upload: Some(upload),
        }
    }

    /// A film that is stored.
    pub fn stored(digest: Digest) -> Self {
        Self {
            digest,
            upload: None,
        }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({})", self.digest)
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.digest.serialize(serializer)
    }
}

impl Serialize for Reference {
    /// Its SHA-256: a fingerprint need not hold the image, and its file name does not count.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(Sha256::digest(&self.0)))
    }
}

impl VideoRequest {
    /// SHA-256 over who asked what where; equal for equal wishes, whatever their encoding.
    ///
    /// `scope` is the API key's id (for retries) or the project's (for idempotency keys).
    pub fn fingerprint(&self, scope: &str, method: &str, path: &str) -> [u8; 32] {
        // serde_json::Value keeps object keys sorted, so field order does not count either.
        let canonical = serde_json::to_value(self)
            .expect("a request holds only strings, numbers and maps with string keys");
        let mut hasher = Sha256::new();
        for part in [scope, method, path, &canonical.to_string()] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> VideoRequest {
        VideoRequest {
            prompt: "a red ball".into(),
            input_reference: Some(Reference(Bytes::from_static(b"image"))),
            ..VideoRequest::default()
        }
    }

    #[test]
    fn a_fingerprint_changes_with_everything_that_matters() {
        let first = request().fingerprint("key", "POST", "/v1/videos");
        assert_eq!(first, request().fingerprint("key", "POST", "/v1/videos"));
        assert_ne!(first, request().fingerprint("other", "POST", "/v1/videos"));
        assert_ne!(
            first,
            request().fingerprint("key", "POST", "/v1/videos/estimate")
        );
        let other_image = VideoRequest {
            input_reference: Some(Reference(Bytes::from_static(b"imagf"))),
            ..request()
        };
        assert_ne!(first, other_image.fingerprint("key", "POST", "/v1/videos"));
        let other_seed = VideoRequest {
            seed: Some(1),
            ..request()
        };
        assert_ne!(first, other_seed.fingerprint("key", "POST", "/v1/videos"));
    }
}
