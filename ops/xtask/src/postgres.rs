//! PostgreSQL for the tests: the server that `DAILIES_TEST_POSTGRES` names, or one of its own in a
//! temporary folder, reached by a socket there, ended with this process.

use std::{
    fs,
    io::Read,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::ffmpeg::{install_package, is_root};

/// Tells the tests the server: an address without the name of a database.
pub const VARIABLE: &str = "DAILIES_TEST_POSTGRES";
/// Where Debian and its children put the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Whom a server runs as when this is root, which the server refuses.
const USER: &str = "postgres";
const START_MAX: Duration = Duration::from_secs(30);
const PASSWORD_BYTES: usize = 16;

/// What makes the server of the tests fast: only the process may crash there.
const FLEETING: &[&str] = &["fsync=off"];
/// What a server is measured with; everything else is its default.
pub const DURABLE: &[&str] = &[
    "fsync=on",
    "synchronous_commit=on",
    "shared_buffers=512MB",
    "max_wal_size=4GB",
];

/// A server of this process, or one that was named. See [`start`] for how durable its commits are.
pub struct Server {
    pub url: String,
    own: Option<Own>,
}

struct Own {
    folder: PathBuf,
    programs: PathBuf,
    ids: Option<(u32, u32)>,
    child: Child,
}

/// For tests: the server named, or a new one whose commits are not durable; installs PostgreSQL when there is none.
pub fn start() -> Result<Server> {
    if let Ok(url) = std::env::var(VARIABLE) {
        ensure!(
            url.contains("/?"),
            "{VARIABLE} must be postgres://USER:PASSWORD@HOST/?OPTIONS, without a database"
        );
        return Ok(Server { url, own: None });
    }
    start_own(FLEETING)
}

/// For benchmarks: a new one with the settings [`DURABLE`].
pub fn start_durable() -> Result<Server> {
    start_own(DURABLE)
}

fn start_own(settings: &[&str]) -> Result<Server> {
    let programs = match newest() {
        Some(programs) => programs,
        None => {
            eprintln!("PostgreSQL is not installed: installing it");
            ensure!(
                install_package("postgresql"),
                "its package cannot be installed"
            );
            newest().context("its package brought no server")?
        }
    };
    let ids = if is_root() { Some(ids()?) } else { None };
    let folder = std::env::temp_dir().join(format!("dailies-pg-{}", std::process::id()));
    let password = make(&folder, &programs, ids)?;
    let child = serve(&folder, &programs, ids, settings)
        .inspect_err(|_| drop(fs::remove_dir_all(&folder)))?;
    let url = format!(
        "postgres://dailies:{password}@localhost/?host={}",
        folder.display()
    );
    let own = Own {
        folder,
        programs,
        ids,
        child,
    };
    own.wait_until_ready()?;
    Ok(Server {
        url,
        own: Some(own),
    })
}

/// Programs of the newest version installed.
fn newest() -> Option<PathBuf> {
    let versions = fs::read_dir(VERSIONS).ok()?.flatten();
    let number = |name: &Path| name.file_name()?.to_str()?.parse::<u32>().ok();
    let mut found: Vec<_> = versions
        .filter_map(|entry| Some((number(&entry.path())?, entry.path().join("bin"))))
        .filter(|(_, programs)| programs.join("initdb").is_file())
        .collect();
    found.sort();
    found.pop().map(|(_, programs)| programs)
}

fn ids() -> Result<(u32, u32)> {
    let ask = |what| -> Result<u32> {
        let answer = Command::new("id").args([what, USER]).output()?;
        let text = String::from_utf8_lossy(&answer.stdout).trim().to_string();
        text.parse()
            .with_context(|| format!("there is no user {USER}"))
    };
    Ok((ask("-u")?, ask("-g")?))
}

fn program(programs: &Path, name: &str, ids: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(programs.join(name));
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Some((user, group)) = ids {
        command.uid(user).gid(group);
    }
    command
}

/// Makes an empty cluster and answers its password.
fn make(folder: &Path, programs: &Path, ids: Option<(u32, u32)>) -> Result<String> {
    let mut secret = [0; PASSWORD_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let password: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join("password");
    fs::write(&file, &password)?;
    if let Some((user, group)) = ids {
        chown(folder, Some(user), Some(group))?;
        chown(&file, Some(user), Some(group))?;
    }
    let data = folder.join("data");
    let made = program(programs, "initdb", ids)
        .args([
            "-U",
            "dailies",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ])
        .arg("--pwfile")
        .arg(&file)
        .arg("-D")
        .arg(&data)
        .status()?;
    fs::remove_file(&file)?;
    ensure!(made.success(), "initdb ended with {made}");
    Ok(password)
}

/// In the foreground, so that an interrupt from the terminal reaches it too.
fn serve(
    folder: &Path,
    programs: &Path,
    ids: Option<(u32, u32)>,
    settings: &[&str],
) -> Result<Child> {
    let log = fs::File::create(folder.join("log"))?;
    let mut server = program(programs, "postgres", ids);
    for setting in settings {
        server.args(["-c", setting]);
    }
    let child = server
        .arg("-D")
        .arg(folder.join("data"))
        .arg("-k")
        .arg(folder)
        .args(["-c", "listen_addresses=", "-c", "max_connections=200"])
        .stderr(log)
        .spawn();
    child.context("cannot start the server")
}

impl Own {
    fn wait_until_ready(&self) -> Result<()> {
        let until = Instant::now() + START_MAX;
        while Instant::now() < until {
            let mut ready = program(&self.programs, "pg_isready", None);
            if ready
                .arg("-q")
                .arg("-h")
                .arg(&self.folder)
                .status()?
                .success()
            {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        bail!("the server does not answer; its log:\n{log}")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut stop = program(&self.programs, "pg_ctl", self.ids);
        stop.args(["stop", "-s", "-m", "immediate", "-D"])
            .arg(self.folder.join("data"));
        if !stop.status().is_ok_and(|status| status.success()) {
            let _ = self.child.kill(); // it may have ended by the same interrupt
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Server {
    /// One of the server's own programs, to be given an address.
    pub fn client(&self, name: &str) -> Command {
        match &self.own {
            Some(own) => program(&own.programs, name, None),
            None => Command::new(name),
        }
    }

    /// Makes a database for a program that does not make its own.
    pub fn create(&self, name: &str) -> Result<()> {
        let sql = format!("CREATE DATABASE \"{name}\"");
        let url = self.database("postgres");
        let made = self.client("psql").args([&url, "-qc", &sql]).status()?;
        ensure!(made.success(), "the database {name} cannot be made");
        Ok(())
    }

    /// Address of one database on it, which is made by who opens it.
    pub fn database(&self, name: &str) -> String {
        self.url.replacen("/?", &format!("/{name}?"), 1)
    }

    /// How it is shown: without the password.
    pub fn name(&self) -> String {
        match &self.own {
            Some(own) => own.programs.display().to_string(),
            None => format!("the server of {VARIABLE}"),
        }
    }
}
