//! A PostgreSQL server of a test's own, which the test may kill: in a temporary folder, reached by a
//! socket there.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{certificate::Certificate, wait};

/// Where Debian and its children put the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Whom a server runs as when this is root, which the server refuses.
const USER: &str = "postgres";

pub struct Postgres {
    folder: tempfile::TempDir,
    programs: PathBuf,
    child: Option<Child>,
    /// Of a server that is reached over TCP, by TLS alone.
    port: Option<u16>,
}

impl Postgres {
    /// `None` without its programs.
    pub fn start() -> Option<Self> {
        let mut this = Self::cluster()?;
        this.start_again();
        Some(this)
    }

    /// One that is reached over TCP and takes nobody without TLS.
    pub fn start_secure(certificate: &Certificate) -> Option<Self> {
        let mut this = Self::cluster()?;
        this.port = Some(free_port());
        for (from, to) in [
            (certificate.file(), "server.crt"),
            (certificate.key_file(), "server.key"),
        ] {
            let to = this.data().join(to);
            fs::copy(from, &to).expect("a file is copied");
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("own file");
            if let Some((user, group)) = server_ids() {
                chown(&to, Some(user), Some(group)).expect("root may");
            }
        }
        let rules = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n";
        fs::write(this.data().join("pg_hba.conf"), rules).expect("a file is written");
        this.start_again();
        Some(this)
    }

    fn cluster() -> Option<Self> {
        let mut found: Vec<PathBuf> = fs::read_dir(VERSIONS)
            .ok()?
            .flatten()
            .map(|version| version.path().join("bin"))
            .filter(|programs| programs.join("initdb").is_file())
            .collect();
        found.sort();
        let this = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            programs: found.pop()?,
            child: None,
            port: None,
        };
        if let Some((user, group)) = server_ids() {
            chown(this.folder.path(), Some(user), Some(group)).expect("root may");
        }
        let made = this
            .program("initdb")
            .args(["-U", "dailies", "-A", "trust", "-E", "UTF8"])
            .args(["--no-locale", "--no-sync", "-D"])
            .arg(this.data())
            .status();
        assert!(made.expect("it starts").success(), "no cluster was made");
        Some(this)
    }

    /// The address of a database on it.
    pub fn url(&self) -> String {
        if let Some(port) = self.port {
            return format!("postgres://dailies@localhost:{port}/farm");
        }
        let folder = self.folder.path().display();
        format!("postgres://dailies@localhost/farm?host={folder}")
    }

    /// SIGKILL to the server: its children notice and end.
    pub fn kill_9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it was alive");
        child.wait().expect("a killed process ends");
    }

    /// A child of the one before may still hold its memory: until it is gone, a start fails.
    pub fn start_again(&mut self) {
        wait("PostgreSQL to serve", || {
            let folder = self.folder.path();
            if let Some(child) = &mut self.child
                && child.try_wait().expect("own child").is_some()
            {
                self.child = None;
            }
            if self.child.is_none() {
                let mut server = self.program("postgres");
                let listen = self.port.map_or("", |_| "127.0.0.1");
                server.args(["-c", &format!("listen_addresses={listen}")]);
                if let Some(port) = self.port {
                    server.args(["-c", "ssl=on", "-p", &port.to_string()]);
                }
                server.args(["-c", "fsync=off", "-k"]);
                let server = server.arg(folder).arg("-D").arg(self.data()).spawn();
                self.child = Some(server.expect("it starts"));
            }
            let mut ready = self.program("pg_isready");
            let port = self.port.unwrap_or(5432).to_string();
            let ready = ready.args(["-q", "-p", &port, "-h"]).arg(folder).status();
            ready.expect("it starts").success().then_some(())
        });
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(Path::new("/"));
        command.stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((user, group)) = server_ids() {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// PostgreSQL cannot be asked to choose one itself.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// Absent when this is not root.
fn server_ids() -> Option<(u32, u32)> {
    let ask = |arguments: &[&str]| -> Option<u32> {
        let answer = Command::new("id").args(arguments).output().ok()?;
        String::from_utf8(answer.stdout).ok()?.trim().parse().ok()
    };
    (ask(&["-u"])? == 0).then_some(())?;
    Some((ask(&["-u", USER])?, ask(&["-g", USER])?))
}
