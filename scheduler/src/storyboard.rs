//! From seconds and prompts to shots that the model can render in one go. Pure.
//!
//! A take longer than one native clip is split into equal parts with the same prompt, which are
//! rendered apart and joined in order.
//!
//! Seeds: part 0 of the film has the job's seed itself; part `i` has
//! `BLAKE3-derive("dailies shot seed", seed as u64 LE, i as u32 LE)`, its first eight bytes as a
//! little-endian number, modulo 2^53. A take with a seed of its own counts its parts from there.

use crate::admission::SEED_MAX;

/// One take as the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    pub prompt: String,
    pub negative_prompt: String,
    pub seconds: u32,
    pub seed: Option<u64>,
    /// Place in the list of reference images.
    pub reference: Option<usize>,
    /// Frames of what comes before that its shots look back at; nothing: each begins with a cut.
    pub context: Option<u32>,
}

/// What one clip of the model may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clip {
    pub fps: u32,
    pub frames_max: u32,
    /// A clip has `frames_step * k + 1` frames.
    pub frames_step: u32,
}

/// One shot: a Render task's share of the film.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shot {
    pub prompt: String,
    pub negative_prompt: String,
    pub seed: u64,
    /// Frames to render, `frames_step * k + 1`.
    pub render_frames: u32,
    /// Frames of it that the film shows; never more than are rendered.
    pub film_frames: u32,
    pub reference: Option<usize>,
    /// The end of what comes before, rendered in front of it.
    pub context: Option<Context>,
}

/// Frames up to one of the shot, or the film, before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub end_frame: u32,
    /// `frames_step * k + 1`.
    pub frames: u32,
}

/// Splits takes into shots, in film order. `before` are the frames of a film that they go on from.
pub fn shots(takes: &[Take], clip: Clip, seed: u64, before: Option<u32>) -> Vec<Shot> {
    let mut shots: Vec<Shot> = Vec::new();
    for take in takes {
        let frames = take.seconds * clip.fps;
        let room = clip.frames_max - take.context.unwrap_or(0);
        let parts = frames.div_ceil(room).max(1);
        for part in 0..parts {
            let film_frames = frames / parts + u32::from(part < frames % parts);
            let place = u32::try_from(shots.len()).unwrap_or(u32::MAX);
            let end_frame = shots.last().map(|shot| shot.film_frames).or(before);
            let context = take.context.zip(end_frame);
            let context = context.map(|(wanted, end_frame)| clip.context(wanted, end_frame));
            let looked_at = context.map_or(0, |context| context.frames);
            shots.push(Shot {
                prompt: take.prompt.clone(),
                negative_prompt: take.negative_prompt.clone(),
                seed: take
                    .seed
                    .map_or_else(|| part_seed(seed, place), |own| part_seed(own, part)),
                render_frames: clip.covering(looked_at + film_frames),
                film_frames,
                reference: take.reference.filter(|_| part == 0),
                context,
            });
        }
    }
    shots
}

impl Clip {
    /// The last `wanted` of so many frames, or as many as there are.
    fn context(self, wanted: u32, end_frame: u32) -> Context {
        let frames = wanted.min(end_frame.max(1)) - 1;
        Context {
            end_frame,
            frames: frames / self.frames_step * self.frames_step + 1,
        }
    }

    /// The smallest length that the model can render and that has at least `frames` frames.
    pub fn covering(self, frames: u32) -> u32 {
        frames.saturating_sub(1).div_ceil(self.frames_step) * self.frames_step + 1
    }
}

/// The seed of part `index` of something with seed `seed`.
pub fn part_seed(seed: u64, index: u32) -> u64 {
    if index == 0 {
        return seed;
    }
    let mut hasher = blake3::Hasher::new_derive_key("dailies shot seed");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&index.to_le_bytes());
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first) & SEED_MAX
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const BUILTIN: Clip = Clip {
        fps: 16,
        frames_max: 65,
        frames_step: 4,
    };

    fn take(seconds: u32) -> Take {
        Take {
            prompt: "p".into(),
            negative_prompt: String::new(),
            seconds,
            seed: None,
            reference: Some(0),
            context: None,
        }
    }

    fn check(takes: &[Take], expected: Expect) {
        let shown: Vec<String> = shots(takes, BUILTIN, 7, None)
            .iter()
            .map(|s| {
                let reference = if s.reference.is_some() {
                    " reference"
                } else {
                    ""
                };
                format!(
                    "{}/{} seed {}{reference}",
                    s.film_frames, s.render_frames, s.seed
                )
            })
            .collect();
        expected.assert_eq(&shown.join("\n"));
    }

    #[test]
    fn a_take_within_one_clip_is_one_shot() {
        check(&[take(4)], expect!["64/65 seed 7 reference"]);
        check(&[take(1)], expect!["16/17 seed 7 reference"]);
    }

    #[test]
    fn a_longer_take_is_split_evenly_and_keeps_its_length() {
        for seconds in 1..=20 {
            let parts = shots(&[take(seconds)], BUILTIN, 7, None);
            assert_eq!(
                parts.iter().map(|s| s.film_frames).sum::<u32>(),
                seconds * 16
            );
            for part in &parts {
                assert!(part.film_frames <= part.render_frames && part.render_frames <= 65);
                assert_eq!(part.render_frames % 4, 1);
            }
        }
        assert_eq!(shots(&[take(8)], BUILTIN, 7, None).len(), 2);
        assert_eq!(shots(&[take(20)], BUILTIN, 7, None).len(), 5);
    }

    #[test]
    fn seeds_differ_by_part_and_follow_the_job_seed() {
        let [first, second] = &shots(&[take(8)], BUILTIN, 7, None)[..] else {
            panic!("two shots")
        };
        assert_eq!(first.seed, 7);
        assert_ne!(second.seed, first.seed);
        assert!(second.seed <= SEED_MAX);
        assert_eq!(shots(&[take(8)], BUILTIN, 7, None)[1].seed, second.seed);
        assert_ne!(shots(&[take(8)], BUILTIN, 8, None)[1].seed, second.seed);
        let own = Take {
            seed: Some(9),
            ..take(8)
        };
        let takes = shots(&[take(4), own], BUILTIN, 7, None);
        assert_eq!(takes[1].seed, 9);
        assert_eq!(takes[2].seed, part_seed(9, 1));
    }

    #[test]
    fn only_the_first_part_starts_from_the_reference() {
        let parts = shots(&[take(12)], BUILTIN, 7, None);
        assert_eq!(
            parts.iter().map(|s| s.reference).collect::<Vec<_>>(),
            [Some(0), None, None]
        );
    }

    #[test]
    fn a_take_that_goes_on_renders_the_end_of_what_comes_before_again() {
        let on = |seconds| Take {
            context: Some(17),
            ..take(seconds)
        };
        let frames = |shots: &[Shot]| -> Vec<(u32, u32, Option<Context>)> {
            let of = |s: &Shot| (s.film_frames, s.render_frames, s.context);
            shots.iter().map(of).collect()
        };
        let context = |end_frame, frames| Some(Context { end_frame, frames });
        let extension = shots(&[on(4)], BUILTIN, 7, Some(80));
        let expected = [(32, 49, context(80, 17)), (32, 49, context(32, 17))];
        assert_eq!(frames(&extension), expected);
        let joined = shots(&[take(1), on(1)], BUILTIN, 7, None);
        let expected = [(16, 17, None), (16, 29, context(16, 13))];
        assert_eq!(frames(&joined), expected);
        for seconds in 1..=20 {
            for shot in shots(&[take(2), on(seconds)], BUILTIN, 7, None) {
                let context = shot.context.map_or(0, |context| context.frames);
                assert!(context + shot.film_frames <= shot.render_frames);
                assert!(shot.render_frames <= 65 && shot.render_frames % 4 == 1);
            }
        }
    }
}
