//! The evaluation of world T1: bodies, cameras, styles, materials and speaking characters.
//!
//! Its renderer exists in Python alone (`ops/train/scenes`), so the oracle's films come from a folder that
//! `python -m ops.train.eval_list --variant t1 --oracle DIR` writes, with the sounds that words and
//! materials are compared with. The detectors read pixels and samples only, and know no caption.
//!
//! Shape, size and background are not measured in this world.

mod bodies;
mod camera;
mod folder;
mod hits;
mod judge;
mod metrics;
mod mouth;
mod rows;
mod style;
mod words;

use std::time::Instant;

use anyhow::{Result, ensure};

use super::bench::{Bench, CodecMarks};
use super::engine::peak_rss_mib;
use super::film::Film;
use super::mark::Mark;
use super::report::{Report, Scored};
use super::{BuiltinArgs, Suite, suite};
use folder::{Folder, Scene};
use rows::{Reading, Readings};

const CODEC_MARKS: CodecMarks = CodecMarks {
    psnr: Mark::least(30.0),
    ssim: Mark::least(0.92),
    mel: Mark::most(0.25),
};
const SPEED_MARK: Mark = Mark::most(10.0);

/// Looks at films and listens to them.
struct Detectors {
    hits: hits::Templates,
    words: words::Templates,
    truth: folder::Truth,
}

impl Detectors {
    fn read(&self, film: &Film) -> Reading {
        let place = self.truth.place(film);
        Reading {
            bodies: bodies::look(film, &self.truth.palette(), &place),
            camera: camera::moves(film),
            style: style::features(film),
            mouth: mouth::opening(film, &place),
            heard: self.hits.listen(&film.samples, film.rate),
            loudness: mouth::loudness(film),
            words: self.words.recognise(&film.samples, film.rate),
        }
    }
}

/// Measures the model of `args` against the oracle's films in the folder `args.oracle`.
///
/// # Errors
/// A folder without the list, a film or a sound; weights that cannot be used; a film that the engine refuses.
pub fn run(args: &BuiltinArgs, oracle: &std::path::Path) -> Result<Report> {
    let start = Instant::now();
    let folder = Folder::open(oracle)?;
    let n = args.n.map_or(folder.scenes.len(), |n| n as usize);
    ensure!(
        (2..=folder.scenes.len()).contains(&n),
        "--n {n} is not within the 2..{} scenes of {}",
        folder.scenes.len(),
        oracle.display()
    );
    let scenes = &folder.scenes[..n];
    suite::make_folder(&args.out)?;
    let detectors = folder.detectors()?;
    let dir = suite::weights(args)?;
    let bench = Bench::open(&dir, args.threads as usize, args.seed)?;
    let determinism = bench.determinism(&scenes[0])?;
    let truth = |i: usize, _: &Scene| folder.film(i);
    let read = |film: &Film| detectors.read(film);

    let oracle = bench.each("oracle", scenes, |i, scene| Ok(read(&truth(i, scene)?)))?;
    let codec = if args.suite == Suite::Full {
        Some(bench.codec(&dir, scenes, truth, read)?)
    } else {
        None
    };
    let model = bench.films(scenes, read, &args.out.join("contact.png"))?;

    let readings = Readings {
        scenes,
        truth: &detectors.truth,
        oracle: &oracle,
        codec: codec.as_ref().map(|c| &c.readings[..]),
        model: &model,
    };
    let mut table = rows::rows(&readings, args.seed);
    table.extend(codec.iter().flat_map(|codec| codec.rows(&CODEC_MARKS)));
    table.push(determinism);
    table.extend(bench.cost(SPEED_MARK));
    let (worst, best) = Scored::extremes(scenes, &rows::scores(&readings));
    let mut report = suite::report(args, &bench, table, n);
    report
        .not_measured
        .push("shape, size, background, pairs that training never shows (world T1)".to_owned());
    let kept = bench.keep_clips(&args.out.join("clips"), scenes, &worst, &best);
    report
        .not_measured
        .extend(kept.err().map(|error| format!("clips ({error:#})")));
    (report.worst, report.best) = (worst, best);
    (report.wall_s, report.peak_rss_mib) = (start.elapsed().as_secs_f64(), peak_rss_mib());
    report.write(&args.out)?;
    Ok(report)
}
