//! The engine beside diffusers: the same weights, noise, steps and shape, in one run on one machine.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::row::Row;
use crate::{cargo, python, root, run, target};

const RIVAL: &str = "diffusers 0.42.1, PyTorch CPU";
const PRODUCT: &str = "gemm, 1024^3";

#[derive(clap::Args)]
pub struct Engine {
    /// Python with torch, diffusers and transformers [default: an environment made under target/tools]
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// The program to measure [default: built here, in release mode]
    #[arg(long, value_name = "FILE")]
    dailies: Option<PathBuf>,
    /// Measure only the engine, no rival.
    #[arg(long)]
    alone: bool,
    /// Films on each side, of which the fastest counts.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Pixels of both sides and pictures; the nearest that the model takes is rendered.
    #[arg(long, num_args = 2, value_names = ["SIDE", "FRAMES"], default_values_t = [256, 73])]
    shape: Vec<u32>,
    /// Denoising steps.
    #[arg(long, default_value_t = 8)]
    steps: u32,
}

/// What `dailies bench engine` writes.
#[derive(Deserialize)]
struct Ours {
    rows: Vec<OurRow>,
    order: Value,
}

#[derive(Deserialize)]
struct OurRow {
    name: String,
    value: f64,
    unit: String,
}

/// What the reference film writes.
#[derive(Deserialize)]
struct Theirs {
    load_s: f64,
    film_s: Vec<f64>,
    film_cpu_s: Vec<f64>,
    peak_bytes: f64,
}

impl Engine {
    pub fn run(&self) -> Result<Vec<Row>> {
        let folder = target().join("bench").join("engine");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let (ours, pictures) = self.ours(&folder)?;
        let rows = rows(&ours)?;
        if self.alone {
            return Ok(rows);
        }
        let (theirs, their_pictures) = self.theirs(&folder, ours.order)?;
        let mut rows: Vec<Row> = rows.iter().map(|row| beside(row, &theirs)).collect();
        rows.push(difference(&pictures, &their_pictures, &rows[0].conditions)?);
        Ok(rows)
    }

    fn ours(&self, folder: &Path) -> Result<(Ours, PathBuf)> {
        let program = match &self.dailies {
            Some(program) => program.clone(),
            None => {
                let build = ["build", "--release", "--locked", "--quiet", "-p", "dailies"];
                run(cargo().args(build))?;
                target().join("release/dailies")
            }
        };
        let (json, pictures) = (folder.join("ours.json"), folder.join("ours.rgb"));
        let mut measure = Command::new(program);
        measure.args(["bench", "engine", "--steps", &self.steps.to_string()]);
        measure.args(["--side", &self.shape[0].to_string()]);
        measure.args(["--frames", &self.shape[1].to_string()]);
        measure.args(["--runs", &self.runs.to_string(), "--json"]);
        run(measure.arg(&json).arg("--pictures").arg(&pictures))?;
        let text = fs::read(&json).with_context(|| format!("cannot read {}", json.display()))?;
        let ours = serde_json::from_slice(&text).context("the engine's measures are no JSON")?;
        Ok((ours, pictures))
    }

    fn theirs(&self, folder: &Path, mut order: Value) -> Result<(Theirs, PathBuf)> {
        let python = match &self.python {
            Some(python) => python.clone(),
            None => python::environment("reference", &root().join("ops/train/requirements.txt"))?,
        };
        let pictures = folder.join("theirs.rgb");
        order["frames_file"] = pictures.display().to_string().into();
        let mut measure = Command::new(&python);
        measure.args(["-W", "ignore", "-m", "ops.train.reference_film"]);
        let mut child = measure
            .current_dir(root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let mut stdin = child.stdin.take().context("the rival has no stdin")?;
        stdin.write_all(order.to_string().as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "the rival ended with {}",
            output.status
        );
        let theirs =
            serde_json::from_slice(&output.stdout).context("the rival's words are no JSON")?;
        Ok((theirs, pictures))
    }
}

/// The engine's measures as rows; rates stand beside the plain product of the same process.
fn rows(ours: &Ours) -> Result<Vec<Row>> {
    let order = |field: &str| ours.order[field].to_string();
    let conditions = format!(
        "{}x{}, {} pictures, {} steps, guidance, {} threads, f32",
        order("width"),
        order("height"),
        order("frames"),
        ours.order["sigmas"]
            .as_array()
            .map_or(0, Vec::len)
            .saturating_sub(1),
        order("threads"),
    );
    let product = ours
        .rows
        .iter()
        .find(|row| row.name.starts_with("matrix product"));
    let product = product
        .context("the engine did not measure the plain product")?
        .value;
    let row = |ours: &OurRow| {
        let row = Row {
            name: ours.name.clone(),
            value: ours.value,
            unit: ours.unit.clone(),
            rival: None,
            rival_value: None,
            ratio: None,
            conditions: conditions.clone(),
            runs: Vec::new(),
        };
        let is_rate = ours.unit == "GFLOP/s" && ours.value != product;
        if is_rate {
            row.beside(PRODUCT, product)
        } else {
            row
        }
    };
    Ok(ours.rows.iter().map(row).collect())
}

/// The row beside the rival's, where it measured the same.
fn beside(row: &Row, theirs: &Theirs) -> Row {
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let value = match row.name.as_str() {
        "load the weights" => theirs.load_s,
        "film, prompt to pictures and sound" => least(&theirs.film_s),
        "film, processor time" => least(&theirs.film_cpu_s),
        "peak memory of the process" => theirs.peak_bytes / f64::from(1 << 20),
        _ => return row.clone(),
    };
    row.beside(RIVAL, value)
}

/// Both films are one film: the largest difference of a level.
fn difference(ours: &Path, theirs: &Path, conditions: &str) -> Result<Row> {
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let (ours, theirs) = (read(ours)?, read(theirs)?);
    ensure!(ours.len() == theirs.len(), "the films have other shapes");
    let levels = ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b));
    let largest = levels.max().unwrap_or(0);
    Ok(Row {
        name: "largest difference of both films".into(),
        value: f64::from(largest),
        unit: "of 255".into(),
        rival: None,
        rival_value: None,
        ratio: None,
        conditions: conditions.into(),
        runs: Vec::new(),
    })
}
