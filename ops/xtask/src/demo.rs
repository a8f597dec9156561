//! `cargo xtask demo`: from a fresh clone to a film.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{cargo, farm::Farm, ffmpeg, root, run, target};

#[derive(clap::Args)]
pub struct Demo {
    /// What the film shows.
    #[arg(default_value = "a big red ball falls and bounces on the floor at night")]
    prompt: String,
    /// Where the film is saved.
    #[arg(short, long, default_value = "dailies-demo.mp4")]
    output: PathBuf,
    /// Same seed and prompt, same film; a random one when absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the farm keeps its database and artefacts.
    #[arg(long, default_value = "data")]
    data: PathBuf,
}

impl Demo {
    pub fn run(&self) -> Result<()> {
        let ffmpeg = ffmpeg::find_or_install()?;
        eprintln!("Building (the first time takes several minutes)");
        run(cargo().args(["build", "--release", "--locked", "--package", "dailies"]))?;
        let program = target().join("release/dailies");
        let mut farm = Farm::start(&program, &root().join(&self.data), &ffmpeg)?;
        let film = self.submit(&program, &farm);
        farm.stop();
        film
    }

    fn submit(&self, program: &Path, farm: &Farm) -> Result<()> {
        let mut submit = Command::new(program);
        submit.args(["submit", "--url", &farm.base_url]);
        submit.arg("--data").arg(&farm.data);
        submit.arg("--output").arg(&self.output);
        if let Some(seed) = self.seed {
            submit.args(["--seed", &seed.to_string()]);
        }
        run(submit.arg("--").arg(&self.prompt))
    }
}
