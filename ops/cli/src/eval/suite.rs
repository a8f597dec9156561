//! One evaluation from end to end: renders, reads, folds, writes.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::bench::{Bench, CodecMarks};
use super::columns::{self, Readings, Row};
use super::engine::peak_rss_mib;
use super::mark::Mark;
use super::report::{Report, Scored};
use super::scene::SceneList;
use super::{BuiltinArgs, Suite, oracle, read};

/// Prompts of the suites.
const CORE_CLIPS: usize = 64;
const FULL_CLIPS: usize = 256;
/// Marks of variant T0.
const SPEED_MARK: Mark = Mark::most(4.0);
const CODEC_MARKS: CodecMarks = CodecMarks {
    psnr: Mark::least(27.0),
    ssim: Mark::least(0.88),
    mel: Mark::most(0.35),
};

/// Runs the evaluation that `args` ask for and writes its files.
///
/// # Errors
/// A list, weights or folder that cannot be used; a film that the engine refuses to render.
pub fn run(args: &BuiltinArgs) -> Result<Report> {
    let start = Instant::now();
    let list = scenes(args)?;
    let scenes = &list.scenes[..];
    make_folder(&args.out)?;
    let dir = weights(args)?;
    let is_full = args.suite == Suite::Full;
    let bench = Bench::open(&dir, args.threads as usize, args.seed)?;
    let determinism = bench.determinism(&scenes[0])?;

    let oracle = bench.each("oracle", scenes, |_, scene| Ok(read(&oracle::film(scene))))?;
    let codec = if is_full {
        Some(bench.codec(&dir, scenes, |_, s| Ok(oracle::film(s)), read)?)
    } else {
        None
    };
    let model = bench.films(scenes, read, &args.out.join("contact.png"))?;

    let through_codec = codec.as_ref().map(|c| &c.readings[..]);
    let readings = Readings {
        scenes,
        oracle: &oracle,
        codec: through_codec,
        model: &model,
    };
    let mut rows = columns::rows(&readings, !is_full, args.seed);
    if let Some(codec) = &codec {
        rows.push(bench.held_out(&list.held_out, scenes, &model)?);
        rows.extend(codec.rows(&CODEC_MARKS));
        rows.extend(bench.first_frames(scenes, codec)?);
    }
    rows.push(determinism);
    rows.extend(bench.cost(SPEED_MARK));

    let (worst, best) = Scored::extremes(scenes, &columns::scores(scenes, &model));
    let mut report = report(args, &bench, rows, scenes.len());
    let kept = bench.keep_clips(&args.out.join("clips"), scenes, &worst, &best);
    report
        .not_measured
        .extend(kept.err().map(|error| format!("clips ({error:#})")));
    (report.worst, report.best) = (worst, best);
    (report.wall_s, report.peak_rss_mib) = (start.elapsed().as_secs_f64(), peak_rss_mib());
    report.write(&args.out)?;
    Ok(report)
}

/// The list, cut to the number of prompts.
fn scenes(args: &BuiltinArgs) -> Result<SceneList> {
    let mut list = match &args.scenes {
        None => SceneList::builtin(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            SceneList::parse(&text)
                .with_context(|| format!("{} is no list of scenes", path.display()))?
        }
    };
    let most = list.scenes.len();
    let default = if args.suite == Suite::Core {
        CORE_CLIPS
    } else {
        FULL_CLIPS
    };
    let n = args.n.map_or(default.min(most), |n| n as usize);
    ensure!(
        n <= most,
        "--n {n} is more than the {most} scenes of the list"
    );
    ensure!(
        n >= 2,
        "an evaluation needs two scenes or more, because each is compared with another"
    );
    list.scenes.truncate(n);
    Ok(list)
}

/// The folder of the weights under test.
pub fn weights(args: &BuiltinArgs) -> Result<PathBuf> {
    match &args.model {
        Some(dir) => Ok(dir.clone()),
        None => Ok(agent::catalogue::find_builtin()?),
    }
}

pub fn make_folder(path: &PathBuf) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// The report without its clips and times.
pub fn report(args: &BuiltinArgs, bench: &Bench, metrics: Vec<Row>, n: usize) -> Report {
    let missed = |pass: fn(&Row) -> Option<bool>| {
        metrics
            .iter()
            .filter(|row| pass(row) == Some(false))
            .map(|row| row.name.clone())
            .collect()
    };
    let info = bench.info();
    let mut not_measured = vec!["memorisation (it needs the training clips)".to_owned()];
    if cfg!(debug_assertions) {
        not_measured.push("true speed (this build is not optimised)".to_owned());
    }
    Report {
        model: format!("{} ({})", info.name, info.variant),
        model_sha: info.digest.clone(),
        commit: commit(),
        cpu: cpu(),
        threads: args.threads as usize,
        suite: format!("{:?}", args.suite).to_lowercase(),
        n,
        seed: args.seed,
        failed: missed(|row| row.pass),
        oracle_failed: missed(|row| row.oracle_pass),
        not_measured,
        wall_s: 0.0,
        peak_rss_mib: None,
        worst: Vec::new(),
        best: Vec::new(),
        metrics,
    }
}

/// The source revision, where git and a checkout are at hand.
fn commit() -> String {
    let asked = std::process::Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output();
    let told = asked.ok().filter(|output| output.status.success());
    told.map_or_else(
        || "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |n| n.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(suite: Suite, n: Option<u32>) -> BuiltinArgs {
        BuiltinArgs {
            model: None,
            suite,
            n,
            seed: 1,
            threads: 1,
            out: PathBuf::new(),
            scenes: None,
            oracle: None,
        }
    }

    #[test]
    fn each_suite_has_its_number_of_prompts() {
        let count = |suite, n| scenes(&args(suite, n)).map(|list| list.scenes.len());
        assert_eq!(count(Suite::Core, None).unwrap(), 64);
        assert_eq!(count(Suite::Full, None).unwrap(), 256);
        assert_eq!(count(Suite::Full, Some(8)).unwrap(), 8);
        assert!(
            count(Suite::Core, Some(100_000))
                .unwrap_err()
                .to_string()
                .contains("more than the")
        );
    }

    #[test]
    fn a_list_that_is_not_there_or_no_list_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.json");
        let told = |args: &BuiltinArgs| format!("{:#}", scenes(args).unwrap_err());
        let args = BuiltinArgs {
            scenes: Some(path.clone()),
            ..args(Suite::Core, None)
        };
        assert!(told(&args).contains("cannot read"));
        std::fs::write(&path, "{}").unwrap();
        assert!(told(&args).contains("is no list of scenes"));
    }

    #[test]
    fn weights_that_are_not_there_end_the_evaluation_with_their_path() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = args(Suite::Core, Some(2));
        (args.out, args.model) = (dir.path().join("out"), Some(dir.path().join("none")));
        let error = run(&args).err().map(|error| format!("{error:#}")).unwrap();
        assert!(error.contains("cannot load the weights in"), "{error}");
    }

    #[test]
    fn the_built_in_model_is_measured_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let text = include_str!("../../../train/eval_scenes.json");
        let mut list: serde_json::Value = serde_json::from_str(text).unwrap();
        for (key, count) in [("scenes", 2), ("held_out", 1)] {
            let scenes = list[key].as_array_mut().unwrap();
            scenes.truncate(count);
            scenes
                .iter_mut()
                .for_each(|scene| scene["frames"] = 17.into());
        }
        let path = dir.path().join("list.json");
        std::fs::write(&path, list.to_string()).unwrap();
        let mut args = BuiltinArgs {
            scenes: Some(path),
            ..args(Suite::Full, Some(2))
        };
        args.out = dir.path().join("out");
        let report = run(&args).unwrap();
        let row = |name: &str| {
            report
                .metrics
                .iter()
                .find(|r| r.name.starts_with(name))
                .unwrap()
        };
        assert_eq!(row("determinism").pass, Some(true));
        assert_eq!(
            (row("colour").oracle, row("colour").codec.is_some()),
            (Some(1.0), true)
        );
        assert!(row("video codec, PSNR").codec.unwrap() > 20.0);
        assert!(row("speed").model.unwrap() > 0.0);
        for file in ["report.json", "report.md", "contact.png"] {
            assert!(
                args.out.join(file).metadata().unwrap().len() > 100,
                "{file}"
            );
        }
    }
}
