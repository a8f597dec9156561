//! `dailies doctor`: what is here, what is missing, and how to get it; with `--render`, whether it renders right.

mod render;

use std::path::PathBuf;

use agent::{
    Settings,
    doctor::{State, examine, is_well},
};
use anyhow::{Result, bail};
use clap::Args;
use scheduler::doctor::{self, Verdict};

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Folder that the farm would write to.
    #[arg(long, env = "DAILIES_DATA", default_value = "data")]
    data: PathBuf,
    /// Settings file of the agent (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Settings file of the scheduler (TOML), which may name another database or artefact store.
    #[arg(long, value_name = "FILE")]
    scheduler_config: Option<PathBuf>,
    /// Render a very small clip with the built-in model, on the processor and on each GPU, and compare them.
    /// Needs neither FFmpeg nor a data folder, and takes some seconds; a GPU that compiles its kernels first,
    /// for want of kernels.pack, takes minutes once.
    #[arg(long)]
    render: bool,
    /// Folder that holds CUDA's libraries, besides the system's and the settings'; may be given again.
    #[arg(long, value_name = "DIR")]
    cuda_lib_dir: Vec<PathBuf>,
}

pub async fn run(args: DoctorArgs) -> Result<()> {
    let mut settings = Settings::read(args.config.as_deref())?;
    settings.cuda_lib_dirs.extend(args.cuda_lib_dir);
    if args.render {
        return tokio::task::spawn_blocking(move || render::run(&settings)).await?;
    }
    let scheduler = scheduler::Settings {
        data: args.data.clone(),
        ..scheduler::Settings::read(args.scheduler_config.as_deref())?
    };
    let look = move || examine(&settings, &args.data);
    let findings = tokio::task::spawn_blocking(look).await?;
    for finding in &findings {
        let mark = match finding.state {
            State::Found => "found",
            State::Absent => "absent",
            State::Missing => "MISSING",
        };
        tell(mark, finding.what, &finding.detail);
    }
    let stores = doctor::examine(&scheduler).await;
    for finding in &stores {
        let mark = match finding.verdict {
            Verdict::Found => "found",
            Verdict::Absent => "absent",
            Verdict::Missing => "MISSING",
            Verdict::Broken => "BROKEN",
        };
        tell(mark, finding.what, &finding.detail);
    }
    let any = |verdict| stores.iter().any(|finding| finding.verdict == verdict);
    if any(Verdict::Broken) {
        bail!("the ledger of quota is not whole");
    }
    if any(Verdict::Missing) {
        bail!("no scheduler can run with this database and artefact store");
    }
    match is_well(&findings) {
        true => {
            println!("\nready to render: dailies render \"a red ball bounces\" -o film.mp4");
            Ok(())
        }
        false => bail!("something is missing; nothing can be rendered until it is there"),
    }
}

fn tell(mark: &str, what: &str, detail: &str) {
    println!("{mark:7}  {what:12} {detail}");
}
