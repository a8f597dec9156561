//! The model under test at work: films of many scenes on all threads, and the measures beyond single clips.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use agent::mux::Ffmpeg;
use anyhow::{Context, Result};
use diffusion::ModelInfo;
use indicatif::{ProgressBar, ProgressStyle};

use super::codec::{Codec, Fidelity, psnr};
use super::columns::{Reading, Row};
use super::engine::{Asked, Engine};
use super::film::Film;
use super::judge::joint_right;
use super::mark::Mark;
use super::metrics::Case;
use super::report::{self, SHEET_CLIPS, Scored, Strip, write_contact_sheet};
use super::scene::Scene;
use super::stats::mean;
use super::{oracle, read};

/// Clips that are rendered from a given first frame.
const FIRST_FRAME_CLIPS: usize = 16;
/// Seeds of films of one evaluation do not reach those of the next.
const SEED_STRIDE: u64 = 1_000_003;
/// Films of new pairs have seeds of their own.
const NEW_PAIRS_FROM: usize = 10_000;
const EQUAL_MARK: Mark = Mark::least(1.0);

/// What the codecs of a variant must keep.
pub struct CodecMarks {
    pub psnr: Mark,
    pub ssim: Mark,
    /// Of the log-mel spectrogram behind autoencoder and vocoder.
    pub mel: Mark,
}

/// The model under test with the options of the run.
pub struct Bench {
    engine: Engine,
    threads: usize,
    seed: u64,
}

/// What the codecs leave of the oracle's films.
pub struct ThroughCodec<R = Reading> {
    pub readings: Vec<R>,
    fidelity: Vec<Fidelity>,
}

impl Bench {
    pub fn open(dir: &Path, threads: usize, seed: u64) -> Result<Bench> {
        Ok(Bench {
            engine: Engine::open(dir, threads)?,
            threads,
            seed,
        })
    }

    pub fn info(&self) -> &ModelInfo {
        self.engine.info()
    }

    /// The model's film of the scene at `index` of the list.
    pub fn film(&self, index: usize, scene: &impl Asked) -> Result<Film> {
        self.engine.film(scene, self.film_seed(index))
    }

    fn film_seed(&self, index: usize) -> u64 {
        self.seed
            .wrapping_mul(SEED_STRIDE)
            .wrapping_add(index as u64)
    }

    /// Calls `work` for every scene on all threads, with a progress bar; results in the order of the scenes.
    pub fn each<S: Asked, T: Send>(
        &self,
        name: &'static str,
        scenes: &[S],
        work: impl Fn(usize, &S) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let style = ProgressStyle::with_template(
            "{prefix:12} {bar:40} {pos}/{len}  {elapsed}, {eta} to go",
        );
        let bar = ProgressBar::new(scenes.len() as u64).with_prefix(name);
        bar.set_style(style.context("the progress bar's template is wrong")?);
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::with_capacity(scenes.len()));
        let worker = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(scene) = scenes.get(i) else { return };
                let result = work(i, scene);
                if result.is_err() {
                    next.store(scenes.len(), Ordering::Relaxed);
                }
                results
                    .lock()
                    .expect("no worker panics with the lock")
                    .push((i, result));
                bar.inc(1);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(worker);
            }
        });
        bar.finish();
        let mut results = results
            .into_inner()
            .expect("no worker panics with the lock");
        results.sort_by_key(|r| r.0);
        results.into_iter().map(|r| r.1).collect()
    }

    /// Equal latents for one recipe: twice on all threads and once on one.
    pub fn determinism(&self, scene: &impl Asked) -> Result<Row> {
        let is_equal = self.engine.is_deterministic(scene, self.film_seed(0))?;
        Ok(Row::of_model(
            "determinism, equal latents",
            "share",
            Some(f64::from(is_equal)),
            EQUAL_MARK,
        ))
    }

    /// What is read of the model's films; the first of them are drawn on the sheet.
    pub fn films<S: Asked, R: Send>(
        &self,
        scenes: &[S],
        read: impl Fn(&Film) -> R + Sync,
        sheet: &Path,
    ) -> Result<Vec<R>> {
        let films = self.each("films", scenes, |i, scene| {
            let film = self.film(i, scene)?;
            Ok((read(&film), (i < SHEET_CLIPS).then(|| Strip::of(&film))))
        })?;
        let (read, strips): (Vec<R>, Vec<_>) = films.into_iter().unzip();
        let strips: Vec<Strip> = strips.into_iter().flatten().collect();
        write_contact_sheet(&strips, sheet)?;
        Ok(read)
    }

    /// The oracle's films through the codecs.
    pub fn codec<S: Asked, R: Send>(
        &self,
        dir: &Path,
        scenes: &[S],
        oracle: impl Fn(usize, &S) -> Result<Film> + Sync,
        read: impl Fn(&Film) -> R + Sync,
    ) -> Result<ThroughCodec<R>> {
        let codec = Codec::open(dir)?;
        let films = self.each("codec", scenes, |i, scene| {
            let (film, fidelity) = codec.round_trip(&oracle(i, scene)?)?;
            Ok((read(&film), fidelity))
        })?;
        let (readings, fidelity) = films.into_iter().unzip();
        Ok(ThroughCodec { readings, fidelity })
    }

    /// Joint score of scenes with a pair that training never shows, as a share of the ordinary one.
    pub fn held_out(&self, held_out: &[Scene], scenes: &[Scene], model: &[Reading]) -> Result<Row> {
        let films = self.each("new pairs", held_out, |i, scene| {
            Ok(read(&self.film(NEW_PAIRS_FROM + i, scene)?))
        })?;
        let ordinary = joint(scenes, model).filter(|&share| share > 0.0);
        let ratio = joint(held_out, &films)
            .zip(ordinary)
            .map(|(new, ordinary)| new / ordinary);
        Ok(Row::of_model(
            "held-out pairs, joint / ordinary joint",
            "ratio",
            ratio,
            Mark::NONE,
        ))
    }

    /// How near frame 0 is to the picture that the film was to begin with; nothing for a model that cannot.
    pub fn first_frames(&self, scenes: &[Scene], codec: &ThroughCodec) -> Result<Option<Row>> {
        if !self.engine.info().first_frame {
            return Ok(None);
        }
        let scenes = &scenes[..scenes.len().min(FIRST_FRAME_CLIPS)];
        let found = self.each("first frame", scenes, |i, scene| {
            let asked = oracle::film(scene);
            let film = self
                .engine
                .film_from(scene, self.film_seed(i), asked.frame(0))?;
            Ok(psnr(asked.frame(0), film.frame(0)))
        })?;
        let through: Vec<f64> = codec.fidelity[..scenes.len()]
            .iter()
            .map(|f| f.first_frame_psnr)
            .collect();
        let row = Row::of_model("image to video, frame 0", "dB", mean(&found), Mark::NONE);
        Ok(Some(Row {
            codec: mean(&through),
            ..row
        }))
    }

    pub fn cost(&self, speed: Mark) -> [Row; 2] {
        let cost = &self.engine.default_film;
        let name = format!("speed, default film ({})", cost.what);
        [
            Row::of_model(&name, "s", Some(cost.seconds), speed),
            Row::of_model("memory, default film", "MiB", cost.peak_rss_mib, Mark::NONE),
        ]
    }

    /// Renders the worst and the best clips again, which gives the same films, and writes them as MP4.
    pub fn keep_clips(
        &self,
        dir: &Path,
        scenes: &[impl Asked],
        worst: &[Scored],
        best: &[Scored],
    ) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let ffmpeg = Ffmpeg::find(None)?;
        for (kind, clips) in [("worst", worst), ("best", best)] {
            for (rank, Scored { clip, .. }) in clips.iter().enumerate() {
                let film = self.film(*clip, &scenes[*clip])?;
                report::write_clip(
                    &ffmpeg,
                    &film,
                    &dir.join(format!("{kind}-{}.mp4", rank + 1)),
                )?;
            }
        }
        Ok(())
    }
}

impl<R> ThroughCodec<R> {
    /// Fidelity over all clips; their values stand in the column of the codec.
    pub fn rows(&self, marks: &CodecMarks) -> [Row; 4] {
        let row = |name, unit, mark: Mark, value: fn(&Fidelity) -> f64| {
            let value = mean(&self.fidelity.iter().map(value).collect::<Vec<_>>());
            let row = Row::of_model(name, unit, value, mark);
            Row {
                model: None,
                codec: value,
                ..row
            }
        };
        [
            row("video codec, PSNR", "dB", marks.psnr, |f| f.psnr),
            row("video codec, SSIM", "0..1", marks.ssim, |f| f.ssim),
            row("audio codec, mel L1", "ln", Mark::NONE, |f| f.mel_l1),
            row("audio codec and vocoder, mel L1", "ln", marks.mel, |f| {
                f.wave_mel_l1
            }),
        ]
    }
}

/// Share of the films in which colour, shape and count are all right.
fn joint(scenes: &[Scene], films: &[Reading]) -> Option<f64> {
    let right = |(truth, film): (&Scene, &Reading)| {
        joint_right(&Case {
            truth,
            seen: &film.seen,
            heard: &film.heard,
        })
    };
    mean(&scenes.iter().zip(films).flat_map(right).collect::<Vec<_>>())
}
