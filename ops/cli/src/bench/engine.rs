//! `dailies bench engine`: one film of a given shape, timed by part, with rates and peak memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use agent::catalogue;
use anyhow::{Context, Result, bail};
use diffusion::{Clip, Control, Generated, Phase, Plan, Recipe, Start, Weights};
use kernels::Device;
use serde::Serialize;
use serde_json::Value;

use super::rates;
use crate::eval::peak_rss_mib;

/// Options of `dailies bench engine`.
#[derive(Debug, clap::Args)]
pub struct EngineArgs {
    /// Folder of weights in the diffusers layout [default: the built-in model]
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,
    /// Pixels of both sides; the nearest that the model takes is rendered.
    #[arg(long, default_value_t = 256)]
    side: u32,
    /// Pictures; the nearest number that the model takes is rendered.
    #[arg(long, default_value_t = 73)]
    frames: u32,
    /// Denoising steps.
    #[arg(long, default_value_t = 8)]
    steps: u32,
    /// Seed of the noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Films, of which the fastest counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Threads of the engine [default: one for each core].
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// What to render.
    #[arg(long, default_value = "a big red ball bounces on the floor")]
    prompt: String,
    /// Also write the measures as JSON, with the order for a rival to render the same film.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the last film's pictures as raw RGB24.
    #[arg(long, value_name = "FILE")]
    pictures: Option<PathBuf>,
}

/// One measure.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    value: f64,
    unit: &'static str,
}

/// All measures of a run.
#[derive(Debug, Serialize)]
struct Report {
    rows: Vec<Row>,
    order: Order,
}

/// The film, in the words of the reference pipeline.
#[derive(Debug, Serialize)]
struct Order {
    weights: PathBuf,
    prompt: String,
    negative_prompt: String,
    width: u32,
    height: u32,
    frames: u32,
    fps: u32,
    seed: u64,
    sigmas: Vec<f32>,
    guidance_video: f32,
    guidance_audio: f32,
    text_tokens: usize,
    audio_tokens: usize,
    threads: usize,
    runs: u32,
}

/// Seconds of a film's parts.
#[derive(Debug, Default, Clone, Copy)]
struct Parts {
    denoise: f64,
    decode: f64,
    whole: f64,
    /// Of all threads.
    processor: f64,
    flop: u64,
}

/// Measures and prints a table.
pub fn run(args: &EngineArgs) -> Result<()> {
    let folder = args
        .weights
        .clone()
        .map_or_else(catalogue::find_builtin, Ok)?;
    let device = Device::cpu(args.threads)?;
    let widened = Widened::make(&folder, (args.side, args.frames))?;
    let start = Instant::now();
    let weights = Weights::open(&widened.folder, &device)
        .with_context(|| format!("cannot load the weights in {}", folder.display()))?;
    let load = start.elapsed().as_secs_f64();
    let recipe = recipe(args, &weights);
    let plan = weights.plan(&recipe)?;
    let mut best = Parts {
        whole: f64::INFINITY,
        ..Parts::default()
    };
    for _ in 0..args.runs {
        let (parts, clip) = film(&weights, &recipe)?;
        if parts.whole < best.whole {
            best = parts;
        }
        if let Some(path) = &args.pictures {
            fs::write(path, &clip.frames)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    let peak_mib = peak_rss_mib();
    let rows = rows(&device, load, best, peak_mib, &recipe, &plan)?;
    println!(
        "{}x{}, {} frames, {} steps",
        recipe.width, recipe.height, recipe.frames, args.steps
    );
    for row in &rows {
        println!("{:44} {:>10.3} {}", row.name, row.value, row.unit);
    }
    if let Some(path) = &args.json {
        let order = order(args, folder, &device, recipe, plan)?;
        let text = serde_json::to_string_pretty(&Report { rows, order })?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The same weights with the measured shape among those that they offer: how long a shape takes is worth knowing also
/// where no film of it would be worth seeing.
struct Widened {
    folder: PathBuf,
}

impl Widened {
    fn make(weights: &Path, (side, frames): (u32, u32)) -> Result<Self> {
        const PRODUCT: &str = "dailies.json";
        let name = format!("dailies-bench-{}", std::process::id());
        let made = Self {
            folder: std::env::temp_dir().join(name),
        };
        let failed = || format!("cannot make {}", made.folder.display());
        fs::create_dir_all(&made.folder).with_context(failed)?;
        let weights = weights.canonicalize().with_context(failed)?;
        for entry in fs::read_dir(&weights).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            if entry.file_name() != PRODUCT {
                let to = made.folder.join(entry.file_name());
                std::os::unix::fs::symlink(entry.path(), to).with_context(failed)?;
            }
        }
        // Weights that do not say what they offer take every shape.
        if let Ok(text) = fs::read(weights.join(PRODUCT)) {
            let mut product: Value =
                serde_json::from_slice(&text).context("dailies.json is damaged")?;
            let most = product["frames_max"].as_u64().unwrap_or(0);
            product["frames_max"] = most.max(u64::from(frames)).into();
            if let Some(sizes) = product["sizes"].as_array_mut() {
                sizes.push(serde_json::json!([side, side]));
            }
            let text = serde_json::to_vec(&product)?;
            fs::write(made.folder.join(PRODUCT), text).with_context(failed)?;
        }
        Ok(made)
    }
}

impl Drop for Widened {
    fn drop(&mut self) {
        // Links and one small file; what stays is the system's to clear.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The recipe of the nearest shape that the model takes.
fn recipe(args: &EngineArgs, weights: &Weights) -> Recipe {
    let info = weights.info();
    let side = (args.side.min(info.size_max) / info.size_step).max(1) * info.size_step;
    let frames = (args.frames.min(info.frames_max).max(1) - 1) / info.frames_step;
    Recipe {
        width: side,
        height: side,
        frames: frames * info.frames_step + 1,
        steps: Some(args.steps),
        ..Recipe::with_defaults(args.prompt.clone(), args.seed, info)
    }
}

fn film(weights: &Weights, recipe: &Recipe) -> Result<(Parts, Clip)> {
    let (start, before) = (Instant::now(), weights.device().flop());
    let processor = processor_s();
    let (mut first_step, mut decode) = (None, None);
    let mut on_step = |progress: &diffusion::Progress<'_>| {
        let now = start.elapsed().as_secs_f64();
        match progress.phase {
            Phase::Decode => decode.get_or_insert(now),
            _ => first_step.get_or_insert(now),
        };
        Control::Continue
    };
    let mut clip = Clip::default();
    let made = diffusion::generate(weights, recipe, Start::Fresh, &mut on_step, &mut clip)?;
    if let Generated::Paused(_) = made {
        bail!("the engine paused although nobody asked")
    }
    let whole = start.elapsed().as_secs_f64();
    let decode = decode.unwrap_or(whole);
    let parts = Parts {
        denoise: decode - first_step.unwrap_or(0.0),
        decode: whole - decode,
        whole,
        processor: processor_s() - processor,
        flop: weights.device().flop() - before,
    };
    Ok((parts, clip))
}

/// Seconds that this process has used of all processors; 0 where the system does not tell.
fn processor_s() -> f64 {
    /// Of a clock tick, which Linux shows to all programs as the same.
    const TICK_S: f64 = 0.01;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in brackets, may hold spaces; user and system time are fields 14 and 15.
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind_name.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        * TICK_S
}

fn rows(
    device: &Device,
    load: f64,
    best: Parts,
    peak_mib: Option<f64>,
    recipe: &Recipe,
    plan: &Plan,
) -> Result<Vec<Row>> {
    let row = |name: &str, value, unit| Row {
        name: name.to_owned(),
        value,
        unit,
    };
    let mut rows = vec![
        row("load the weights", load, "s"),
        row("film, prompt to pictures and sound", best.whole, "s"),
        row("film, processor time", best.processor, "s"),
        row("film, denoising", best.denoise, "s"),
        row("film, decoding", best.decode, "s"),
        row("film, work", best.flop as f64 / 1e9, "GFLOP"),
        row("film, rate", best.flop as f64 / best.whole / 1e9, "GFLOP/s"),
    ];
    rows.extend(peak_mib.map(|mib| row("peak memory of the process", mib, "MiB")));
    let predicted = plan.memory.peak_bytes() as f64 / f64::from(1 << 20);
    rows.push(row("peak of weights and run, predicted", predicted, "MiB"));
    let matmul = rates::matmul(device)?;
    rows.push(row("matrix product 1024^3 (gemm)", matmul, "GFLOP/s"));
    let side = recipe.width as usize;
    for (cells, channels, out) in [(side / 4, 32, 32), (side / 8, 64, 64)] {
        let frames = plan.video_grid[0].min(8);
        let rate = rates::conv3d_rate(device, [1, frames, cells, cells, channels], out)?;
        let name = format!("conv3d 3x3x3, {frames}x{cells}x{cells}, {channels} -> {out}");
        rows.push(row(&name, rate, "GFLOP/s"));
    }
    Ok(rows)
}

fn order(
    args: &EngineArgs,
    weights: PathBuf,
    device: &Device,
    recipe: Recipe,
    plan: Plan,
) -> Result<Order> {
    let Device::Cpu(cpu) = device else {
        bail!("a rival renders on the CPU only")
    };
    Ok(Order {
        weights: weights
            .canonicalize()
            .context("the folder of weights has gone")?,
        prompt: recipe.prompt,
        negative_prompt: recipe.negative_prompt,
        width: recipe.width,
        height: recipe.height,
        frames: recipe.frames,
        fps: recipe.fps,
        seed: recipe.seed,
        sigmas: plan.sigmas,
        guidance_video: plan.guidance.0,
        guidance_audio: plan.guidance.1,
        text_tokens: plan.text_tokens,
        audio_tokens: plan.audio_tokens,
        threads: cpu.threads(),
        runs: args.runs,
    })
}
