//! The only door to FFmpeg: finds it and runs it without deadlock.
//!
//! A run has three pipes and each has its own thread, because a full pipe that nobody reads
//! stops FFmpeg for good. The caller's `stop` is asked all the time; when it says yes, the
//! child is killed by its own id.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitStatus,
    thread,
    time::Duration,
};

use ffmpeg_sidecar::{child::FfmpegChild, command::FfmpegCommand};

/// How often a running child is looked at; a kill takes effect within this time.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What a run may print to stdout: two minutes of 48 kHz stereo sound are 46 MB.
const STDOUT_BYTES_MAX: u64 = 1 << 30;
/// What is kept of stderr: the last lines say what went wrong.
const STDERR_TAIL_BYTES: usize = 2_000;
/// What this project asks of FFmpeg.
pub const ENCODERS: [&str; 3] = ["libx264", "aac", "ffv1"];

#[derive(Debug, thiserror::Error)]
pub enum MuxError {
    #[error(
        "FFmpeg is not installed (looked for {looked}). Install it, on Debian and Ubuntu with \
         'apt-get install -y --no-install-recommends ffmpeg', or set FFMPEG to its path"
    )]
    Missing { looked: String },
    #[error("cannot start FFmpeg at {path}. Check that FFMPEG names a program that runs here")]
    Start {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "FFmpeg at {path} has no encoder '{encoder}'. Install a build that has it, \
         or set FFMPEG to the path of another"
    )]
    LacksEncoder {
        path: PathBuf,
        encoder: &'static str,
    },
    #[error("FFmpeg stopped with {status} while it was to {what}: {tail}")]
    Died {
        what: &'static str,
        status: ExitStatus,
        tail: String,
    },
    #[error("the disk is full: FFmpeg could not {what}. Free some space and try again")]
    DiskFull { what: &'static str },
    #[error("lost the pipe to FFmpeg while it was to {what}")]
    Pipe {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("stopped before FFmpeg could {what}")]
    Stopped { what: &'static str },
    #[error("cannot write {path}. Check the space on that disk and the rights of its folder")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the clip cannot be written: {0}")]
    BadClip(String),
}

/// Asked while FFmpeg runs; `true` kills it.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// Never stops.
pub fn go_on() -> bool {
    false
}

/// An FFmpeg that was found and has the encoders of [`ENCODERS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ffmpeg {
    pub path: PathBuf,
    pub version: String,
}

/// One run: `what` completes "while it was to …" in errors.
pub struct Run<'a> {
    pub what: &'static str,
    pub args: Vec<OsString>,
    pub stdin: &'a [u8],
}

impl Ffmpeg {
    /// Finds FFmpeg: `setting`, the variable `FFMPEG`, `PATH`, `target/tools` of the sources.
    ///
    /// # Errors
    /// A path that was named and does not run is an error; the search does not go on behind it.
    pub fn find(setting: Option<&Path>) -> Result<Self, MuxError> {
        let named = setting.map(Path::to_path_buf).or_else(|| {
            std::env::var_os("FFMPEG")
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        });
        if let Some(path) = named {
            return Self::at(&path);
        }
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/ffmpeg");
        for path in [Path::new("ffmpeg"), &tools] {
            match Self::at(path) {
                Err(MuxError::Start { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                }
                found => return found,
            }
        }
        let looked = format!("'ffmpeg' on PATH and {}", tools.display());
        Err(MuxError::Missing { looked })
    }

    /// The FFmpeg at `path`, after asking it for its version and its encoders.
    pub fn at(path: &Path) -> Result<Self, MuxError> {
        let mut found = Self {
            path: path.to_path_buf(),
            version: String::new(),
        };
        let ask = |args: [&str; 2]| Run {
            what: "say what it can do",
            args: args.into_iter().map(OsString::from).collect(),
            stdin: &[],
        };
        let version = found.run(ask(["-hide_banner", "-version"]), &go_on)?;
        let encoders = found.run(ask(["-hide_banner", "-encoders"]), &go_on)?;
        let encoders = String::from_utf8_lossy(&encoders);
        for encoder in ENCODERS {
            // Lines read ` V....D libx264   description`.
            if !encoders
                .lines()
                .any(|line| line.split_whitespace().nth(1) == Some(encoder))
            {
                return Err(MuxError::LacksEncoder {
                    path: found.path,
                    encoder,
                });
            }
        }
        let words = String::from_utf8_lossy(&version);
        found.version = words
            .split_whitespace()
            .nth(2)
            .unwrap_or("unknown")
            .to_string();
        Ok(found)
    }

    /// Runs FFmpeg to its end and returns what it wrote to stdout.
    pub fn run(&self, run: Run<'_>, stop: Stop<'_>) -> Result<Vec<u8>, MuxError> {
        let mut input = run.stdin;
        self.run_fed(run, &mut input, stop)
    }

    /// Runs FFmpeg with `input` on its stdin, read as fast as FFmpeg takes it.
    pub fn run_fed(
        &self,
        run: Run<'_>,
        input: &mut (dyn Read + Send),
        stop: Stop<'_>,
    ) -> Result<Vec<u8>, MuxError> {
        let mut command = FfmpegCommand::new_with_path(&self.path);
        command
            .overwrite()
            .args(["-loglevel", "warning", "-nostats"])
            .args(&run.args);
        let mut child = command.spawn().map_err(|source| match source.kind() {
            _ if stop() => MuxError::Stopped { what: run.what },
            _ => MuxError::Start {
                path: self.path.clone(),
                source,
            },
        })?;
        let ended = serve_pipes(&mut child, input, stop);
        judge(run.what, ended)
    }
}

struct Ended {
    /// `None` when it was killed because `stop` said so.
    status: io::Result<Option<ExitStatus>>,
    fed: io::Result<()>,
    stdout: io::Result<Vec<u8>>,
    tail: String,
}

fn serve_pipes(child: &mut FfmpegChild, input: &mut (dyn Read + Send), stop: Stop<'_>) -> Ended {
    let mut stdin = child.take_stdin().expect("the sidecar pipes stdin");
    let stdout = child.take_stdout().expect("the sidecar pipes stdout");
    let mut stderr = child.take_stderr().expect("the sidecar pipes stderr");
    thread::scope(|scope| {
        // The pipe closes when the writer ends, which is how FFmpeg learns of the end.
        let feeder = scope.spawn(move || io::copy(input, &mut stdin).map(drop));
        let reader = scope.spawn(move || {
            let mut bytes = Vec::new();
            stdout
                .take(STDOUT_BYTES_MAX)
                .read_to_end(&mut bytes)
                .map(|_| bytes)
        });
        let listener = scope.spawn(move || read_tail(&mut stderr));
        let status = wait(child, stop);
        Ended {
            status,
            fed: feeder.join().expect("writing to a pipe does not panic"),
            stdout: reader.join().expect("reading a pipe does not panic"),
            tail: listener.join().expect("reading a pipe does not panic"),
        }
    })
}

/// Waits for the end of the child, or kills it when `stop` says so. Never leaves it running.
fn wait(child: &mut FfmpegChild, stop: Stop<'_>) -> io::Result<Option<ExitStatus>> {
    loop {
        if stop() {
            child.kill()?;
            child.as_inner_mut().wait()?;
            return Ok(None);
        }
        if let Some(status) = child.as_inner_mut().try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn read_tail(stderr: &mut impl Read) -> String {
    let (mut tail, mut chunk) = (Vec::new(), [0; 4_096]);
    while let Ok(count @ 1..) = stderr.read(&mut chunk) {
        tail.extend_from_slice(&chunk[..count]);
        let excess = tail.len().saturating_sub(STDERR_TAIL_BYTES);
        tail.drain(..excess);
    }
    let text = String::from_utf8_lossy(&tail);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join(" | ")
}

fn judge(what: &'static str, ended: Ended) -> Result<Vec<u8>, MuxError> {
    let pipe = |source| MuxError::Pipe { what, source };
    let status = ended
        .status
        .map_err(pipe)?
        .ok_or(MuxError::Stopped { what })?;
    if !status.success() {
        return Err(match ended.tail.contains("No space left on device") {
            true => MuxError::DiskFull { what },
            false => MuxError::Died {
                what,
                status,
                tail: ended.tail,
            },
        });
    }
    ended.fed.map_err(pipe)?;
    ended.stdout.map_err(pipe)
}

/// Writes a scratch file; a full disk is told apart.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), MuxError> {
    fs::write(path, bytes).map_err(|source| match source.kind() {
        io::ErrorKind::StorageFull => MuxError::DiskFull {
            what: "write its input",
        },
        _ => MuxError::Write {
            path: path.to_path_buf(),
            source,
        },
    })
}

/// Arguments from plain words.
pub fn words<S: AsRef<OsStr>>(words: &[S]) -> Vec<OsString> {
    words
        .iter()
        .map(|word| word.as_ref().to_os_string())
        .collect()
}

#[cfg(test)]
pub(crate) mod tests;
