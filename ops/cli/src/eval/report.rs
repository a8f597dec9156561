//! Writes what was measured: report.json, report.md, a contact sheet and clips.

use std::fmt::Write as _;
use std::path::Path;

use agent::mux::{self, Ffmpeg, Run};
use agent::wav::{self, Sound};
use anyhow::{Context, Result};
use image::{Rgb, RgbImage};
use serde::Serialize;

use super::columns::Row;
use super::engine::Asked;
use super::film::Film;

/// Clips of the contact sheet: rows and columns.
const SHEET: u32 = 8;
pub const SHEET_CLIPS: usize = (SHEET * SHEET) as usize;
/// The best and the worst clips that are listed and kept.
pub const EXTREMES: usize = 8;
/// Clips are shown this many times as large.
const CLIP_SCALE: usize = 4;

/// The whole result.
#[derive(Serialize)]
pub struct Report {
    pub model: String,
    pub model_sha: String,
    pub commit: String,
    pub cpu: String,
    pub threads: usize,
    pub suite: String,
    pub n: usize,
    pub seed: u64,
    pub metrics: Vec<Row>,
    /// Marked metrics that the model misses.
    pub failed: Vec<String>,
    /// Marked metrics that the oracle misses: then the tool is wrong, not the model.
    pub oracle_failed: Vec<String>,
    /// What this run could not measure, and why.
    pub not_measured: Vec<String>,
    pub wall_s: f64,
    /// MiB, of the evaluation as a whole.
    pub peak_rss_mib: Option<f64>,
    /// Worst first.
    pub worst: Vec<Scored>,
    /// Best first.
    pub best: Vec<Scored>,
}

/// One clip with its score.
#[derive(Clone, Serialize)]
pub struct Scored {
    pub clip: usize,
    pub score: f64,
    pub caption: String,
}

impl Scored {
    /// The worst and the best clips by score, at most `EXTREMES` each and none twice.
    pub fn extremes(scenes: &[impl Asked], scores: &[f64]) -> (Vec<Scored>, Vec<Scored>) {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
        let pick = |&clip: &usize| Scored {
            clip,
            score: scores[clip],
            caption: scenes[clip].caption().to_owned(),
        };
        let each = EXTREMES.min(order.len() / 2);
        let worst = order[..each].iter().map(pick).collect();
        (worst, order.iter().rev().take(each).map(pick).collect())
    }
}

impl Report {
    /// 0 if every mark is met, 1 if the model misses one, 2 if the oracle does.
    pub fn exit_code(&self) -> u8 {
        match (self.oracle_failed.is_empty(), self.failed.is_empty()) {
            (false, _) => 2,
            (true, false) => 1,
            (true, true) => 0,
        }
    }

    /// The table and the extremes, as text for people.
    pub fn markdown(&self) -> String {
        let mut text = format!("# Evaluation of {}\n\n", self.model);
        let verdict = match self.exit_code() {
            0 => "Every marked metric passes.".to_owned(),
            1 => format!("Missed: {}.", self.failed.join("; ")),
            _ => format!(
                "The tool is wrong: the oracle misses {}.",
                self.oracle_failed.join("; ")
            ),
        };
        let (n, seed, suite, threads) = (self.n, self.seed, &self.suite, self.threads);
        let _ = writeln!(text, "{verdict}\n");
        let _ = writeln!(
            text,
            "{n} prompts, suite {suite}, seed {seed}, {threads} threads, {:.0} s.",
            self.wall_s
        );
        let _ = writeln!(
            text,
            "Weights {}, source {}, {}.\n",
            self.model_sha, self.commit, self.cpu
        );
        text.push_str("| metric | oracle | codec | model (95 %) | baseline | mark | result |\n");
        text.push_str("|---|---|---|---|---|---|---|\n");
        for row in &self.metrics {
            let result = match row.pass {
                Some(true) => "pass",
                Some(false) => "**miss**",
                None => "-",
            };
            let interval = row
                .ci95
                .map(|[low, high]| format!(" ({} .. {})", number(low), number(high)));
            let _ = writeln!(
                text,
                "| {}, {} | {} | {} | {}{} | {} | {} | {result} |",
                row.name,
                row.unit,
                cell(row.oracle),
                cell(row.codec),
                cell(row.model),
                interval.unwrap_or_default(),
                cell(row.baseline),
                row.pass_mark
            );
        }
        for missing in &self.not_measured {
            let _ = write!(text, "\nNot measured: {missing}.\n");
        }
        for (title, clips) in [("Worst", &self.worst), ("Best", &self.best)] {
            let _ = write!(text, "\n## {title} clips\n\n");
            for Scored {
                clip,
                score,
                caption,
            } in clips
            {
                let _ = writeln!(text, "- {score:.2} · clip {clip} · {caption}");
            }
        }
        text
    }

    /// Writes report.json and report.md into `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).context("cannot write the report as JSON")?;
        for (name, text) in [("report.json", json), ("report.md", self.markdown())] {
            let path = dir.join(name);
            std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), number)
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// First, middle and last frame of a film, side by side.
pub struct Strip {
    width: u32,
    height: u32,
    rgb: [Vec<u8>; 3],
}

impl Strip {
    pub fn of(film: &Film) -> Strip {
        let last = film.frames() - 1;
        let rgb = [0, last / 2, last].map(|i| film.frame(i).to_vec());
        Strip {
            width: film.width as u32,
            height: film.height as u32,
            rgb,
        }
    }
}

/// Writes the strips of the first clips as one picture of `SHEET` x `SHEET` cells.
pub fn write_contact_sheet(strips: &[Strip], path: &Path) -> Result<()> {
    const GAP: u32 = 4;
    let widest = strips.iter().map(|s| s.width).max().unwrap_or(1);
    let tallest = strips.iter().map(|s| s.height).max().unwrap_or(1);
    let (cell_w, cell_h) = (widest * 3 + 2 * GAP, tallest + GAP);
    let mut sheet = RgbImage::from_pixel(cell_w * SHEET, cell_h * SHEET, Rgb([24, 24, 24]));
    for (i, strip) in strips.iter().take(SHEET_CLIPS).enumerate() {
        let (left, top) = (i as u32 % SHEET * cell_w, i as u32 / SHEET * cell_h);
        for (k, rgb) in strip.rgb.iter().enumerate() {
            for (p, pixel) in rgb.chunks_exact(3).enumerate() {
                let (x, y) = (p as u32 % strip.width, p as u32 / strip.width);
                let column = left + k as u32 * (strip.width + 1) + x;
                sheet.put_pixel(column, top + y, Rgb([pixel[0], pixel[1], pixel[2]]));
            }
        }
    }
    sheet
        .save(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a film as an enlarged MP4.
pub fn write_clip(ffmpeg: &Ffmpeg, film: &Film, path: &Path) -> Result<()> {
    let sound = Sound {
        rate: film.rate,
        channels: 1,
        samples: &film.samples,
    };
    let wav = wav::bytes(sound).map_err(anyhow::Error::msg)?;
    let wav_path = path.with_extension("wav");
    mux::write_file(&wav_path, &wav)?;
    let size = format!("{}x{}", film.width, film.height);
    let (width, height) = (film.width * CLIP_SCALE, film.height * CLIP_SCALE);
    let scale = format!("scale={width}:{height}:flags=neighbor,format=yuv420p");
    let rate = film.fps.to_string();
    let input = [
        "-f",
        "rawvideo",
        "-pixel_format",
        "rgb24",
        "-video_size",
        &size,
        "-framerate",
        &rate,
        "-i",
        "pipe:0",
    ];
    let mut args = mux::words(&input);
    args.extend([mux::words(&["-i"]), vec![wav_path.clone().into()]].concat());
    let output = [
        "-vf", &scale, "-c:v", "libx264", "-crf", "14", "-c:a", "aac", "-b:a", "96k",
    ];
    args.extend(mux::words(&output));
    args.extend(mux::words(&["-movflags", "+faststart", "-shortest"]));
    args.push(path.into());
    let ran = ffmpeg.run(
        Run {
            what: "write a clip of the evaluation",
            args,
            stdin: &film.rgb,
        },
        &mux::go_on,
    );
    std::fs::remove_file(&wav_path)
        .with_context(|| format!("cannot remove {}", wav_path.display()))?;
    ran.map(drop)
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::eval::mark::Mark;
    use crate::eval::oracle;
    use crate::eval::scene::SceneList;

    fn report(model: f64, oracle: f64) -> Report {
        let mark = Mark::least(0.8);
        let row = Row {
            oracle: Some(oracle),
            baseline: Some(0.125),
            ci95: Some([0.75, 0.9375]),
            oracle_pass: Some(mark.passes(Some(oracle), None)),
            ..Row::of_model("colour", "share", Some(model), mark)
        };
        let missed = |pass: Option<bool>| {
            if pass == Some(false) {
                vec!["colour".to_owned()]
            } else {
                vec![]
            }
        };
        Report {
            model: "Toy (t0)".into(),
            model_sha: "ab12".into(),
            commit: "c0ffee".into(),
            cpu: "a processor".into(),
            threads: 2,
            suite: "core".into(),
            n: 2,
            seed: 1,
            failed: missed(row.pass),
            oracle_failed: missed(row.oracle_pass),
            metrics: vec![row, Row::of_model("memory", "MiB", Some(123.4), Mark::NONE)],
            not_measured: vec!["memorisation".into()],
            wall_s: 12.3,
            peak_rss_mib: None,
            worst: vec![Scored {
                clip: 1,
                score: 0.25,
                caption: "a ball".into(),
            }],
            best: vec![Scored {
                clip: 0,
                score: 1.0,
                caption: "a box".into(),
            }],
        }
    }

    #[test]
    fn the_exit_code_tells_a_missed_mark_from_a_wrong_tool() {
        assert_eq!(report(0.9, 1.0).exit_code(), 0);
        assert_eq!(report(0.5, 1.0).exit_code(), 1);
        assert_eq!(report(0.9, 0.5).exit_code(), 2);
        assert!(
            report(0.9, 0.5)
                .markdown()
                .contains("The tool is wrong: the oracle misses colour.")
        );
    }

    #[test]
    fn the_table_reads_well() {
        expect![[r#"
            # Evaluation of Toy (t0)

            Missed: colour.

            2 prompts, suite core, seed 1, 2 threads, 12 s.
            Weights ab12, source c0ffee, a processor.

            | metric | oracle | codec | model (95 %) | baseline | mark | result |
            |---|---|---|---|---|---|---|
            | colour, share | 1.00 | - | 0.500 (0.750 .. 0.938) | 0.125 | ≥ 0.8 | **miss** |
            | memory, MiB | - | - | 123 | - | - | - |

            Not measured: memorisation.

            ## Worst clips

            - 0.25 · clip 1 · a ball

            ## Best clips

            - 1.00 · clip 0 · a box
        "#]]
        .assert_eq(&report(0.5, 1.0).markdown());
    }

    #[test]
    fn no_clip_is_both_best_and_worst() {
        let scenes = SceneList::builtin().scenes;
        let (worst, best) = Scored::extremes(&scenes[..5], &[0.5, 0.1, 0.9, 0.7, 0.3]);
        let clips = |list: Vec<Scored>| list.iter().map(|s| s.clip).collect::<Vec<_>>();
        assert_eq!((clips(worst), clips(best)), (vec![1, 4], vec![2, 3]));
    }

    #[test]
    fn sheet_and_clips_are_files_that_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut scene = SceneList::builtin().scenes[0].clone();
        scene.frames = 9;
        let film = oracle::film(&scene);
        let sheet = dir.path().join("contact.png");
        write_contact_sheet(&[Strip::of(&film)], &sheet).unwrap();
        assert_eq!(
            image::image_dimensions(&sheet).unwrap(),
            (8 * (3 * 64 + 8), 8 * (64 + 4))
        );
        let Ok(ffmpeg) = Ffmpeg::find(None) else {
            println!("skipped: no FFmpeg");
            return;
        };
        let clip = dir.path().join("clip.mp4");
        write_clip(&ffmpeg, &film, &clip).unwrap();
        assert_eq!(&std::fs::read(&clip).unwrap()[4..8], b"ftyp");
        assert!(!clip.with_extension("wav").exists());
    }
}
