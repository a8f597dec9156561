//! What is kept of an accepted request, to answer with for as long as the job exists.

use std::collections::BTreeMap;

use schemas::video::Warning;
use serde::{Deserialize, Serialize};

use super::{
    request::{Lineage, Priority},
    rules::Wish,
};
use crate::{core::rows::Band, review, storyboard::Shot};

/// Unknown words that a warning names.
const NAMED_WORDS_MAX: usize = 20;

/// The request of a job, as the job table keeps it. New fields need a serde default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The name that the caller used.
    pub model: String,
    /// The weights behind it, as [`super::Model::resolved_name`] names them.
    pub resolved_model: String,
    pub prompt: String,
    pub negative_prompt: String,
    pub seconds: u32,
    /// `WxH`.
    pub size: String,
    pub native_size: String,
    pub fps: u32,
    pub steps: Option<u32>,
    pub guidance_scale: Option<f32>,
    /// Steps of one shot, with the weights' own number filled in.
    pub shot_steps: u32,
    pub metadata: BTreeMap<String, String>,
    pub shots: Vec<ShotRecord>,
    pub warnings: Vec<Warning>,
    #[serde(default)]
    pub priority: Priority,
    /// Window in which it may start; absent: at any time.
    #[serde(default)]
    pub window: Option<String>,
    /// Unix seconds.
    #[serde(default)]
    pub not_before: Option<i64>,
    #[serde(default)]
    pub deadline: Option<i64>,
    #[serde(default)]
    pub lineage: Lineage,
    /// How often the film was extended.
    #[serde(default)]
    pub extensions: u32,
    /// Devices that work on each shot at once; absent: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShotRecord {
    /// Frames in the film.
    pub frames: u32,
    pub seed: u64,
}

impl JobRecord {
    /// Work that waits for its window costs half, unless it asks to come before others there.
    pub fn band(&self) -> Band {
        match (self.priority, &self.window) {
            (Priority::Normal, Some(_)) => Band::Overnight,
            (priority, _) => priority.band(),
        }
    }
}

pub(super) fn record(wish: &Wish, shots: &[Shot]) -> JobRecord {
    JobRecord {
        model: wish.model.name.clone(),
        resolved_model: wish.model.resolved_name(),
        prompt: wish.prompt.clone(),
        negative_prompt: wish.negative_prompt.clone(),
        seconds: wish.seconds + wish.given.before.map_or(0, |before| before.seconds),
        size: wish.size.to_string(),
        native_size: wish.native.to_string(),
        fps: wish.model.clip.fps,
        steps: wish.steps,
        guidance_scale: wish.guidance_scale,
        shot_steps: wish.steps.unwrap_or(wish.model.cost.steps),
        metadata: wish.metadata.clone(),
        shots: shots
            .iter()
            .map(|shot| ShotRecord {
                frames: shot.film_frames,
                seed: shot.seed,
            })
            .collect(),
        warnings: warnings(wish, shots),
        priority: wish.priority,
        window: wish.window.clone(),
        not_before: wish.not_before,
        deadline: wish.deadline,
        lineage: wish.lineage.clone(),
        extensions: wish.given.before.map_or(0, |before| before.extensions + 1),
        devices: Some(wish.devices).filter(|devices| *devices > 1),
    }
}

fn warnings(wish: &Wish, shots: &[Shot]) -> Vec<Warning> {
    unknown_words(wish)
        .into_iter()
        .chain(split(wish, shots))
        .collect()
}

/// The weights know a fixed list of words; others still render, but as noise.
fn unknown_words(wish: &Wish) -> Option<Warning> {
    let vocabulary = &wish.model.vocabulary;
    if vocabulary.is_empty() {
        return None;
    }
    let known: std::collections::BTreeSet<String> = vocabulary
        .iter()
        .flat_map(|entry| review::words(entry))
        .collect();
    let mut unknown: Vec<String> = Vec::new();
    for word in wish
        .takes
        .iter()
        .flat_map(|take| review::words(&take.prompt))
    {
        if !known.contains(&word) && !unknown.contains(&word) {
            unknown.push(word);
        }
    }
    if unknown.is_empty() {
        return None;
    }
    let named: Vec<String> = unknown
        .iter()
        .take(NAMED_WORDS_MAX)
        .map(|w| format!("'{w}'"))
        .collect();
    let more = match unknown.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(Warning {
        code: "unknown_words".into(),
        message: format!(
            "The {} does not know these words and ignores their meaning: {}{more}.",
            wish.model.title,
            named.join(", ")
        ),
        param: Some("prompt".into()),
    })
}

fn split(wish: &Wish, shots: &[Shot]) -> Option<Warning> {
    if shots.len() == wish.takes.len() {
        return None;
    }
    let clip = wish.model.clip;
    Some(Warning {
        code: "split_into_shots".into(),
        message: format!(
            "One clip of this model has at most {} frames ({} a second), so the film is made of {} \
             shots that are rendered apart and joined in order.",
            clip.frames_max,
            clip.fps,
            shots.len()
        ),
        param: Some("seconds".into()),
    })
}
