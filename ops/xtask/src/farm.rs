//! A farm of one node, as `dailies up` starts it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// What `dailies up` prints before the address, once it accepts requests.
const READY: &str = "base_url";

/// How long the farm may take to end its work after SIGTERM.
const DRAIN_S: u64 = 60;

/// `dailies up` as a child process; killed when dropped.
pub struct Farm {
    process: Child,
    pub base_url: String,
    pub data: PathBuf,
}

impl Farm {
    pub fn start(program: &Path, data: &Path, ffmpeg: &Path) -> Result<Self> {
        let mut process = Command::new(program)
            .args(["up", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .env("FFMPEG", ffmpeg)
            .env("DAILIES_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start 'dailies up'")?;
        let output = process.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(output).lines();
        let base_url = loop {
            let Some(line) = lines.next() else {
                let status = process.wait().context("cannot wait for 'dailies up'")?;
                bail!("'dailies up' ended with {status} before it was ready");
            };
            let line = line.context("cannot read from 'dailies up'")?;
            println!("{line}");
            if let Some((_, url)) = line.split_once(READY) {
                break url.trim().to_string();
            }
        };
        // Reads on, so that the farm never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self {
            process,
            base_url,
            data: data.to_path_buf(),
        })
    }

    /// Asks the farm to drain; it ends by itself.
    pub fn stop(&mut self) {
        let asked = terminate(&self.process);
        let limit = Instant::now() + Duration::from_secs(DRAIN_S);
        while asked.is_ok() && Instant::now() < limit {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn terminate(process: &Child) -> Result<()> {
    let id = process.id().to_string();
    let status = Command::new("kill")
        .args(["-TERM", &id])
        .status()
        .context("cannot run 'kill'")?;
    ensure!(status.success(), "'kill' ended with {status}");
    Ok(())
}
