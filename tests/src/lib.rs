//! Harness for tests with real processes: start `dailies`, talk to it, kill it.

pub mod certificate;
pub mod farm;
pub mod postgres;

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Patience of every wait; far above what the slowest machine needs.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A running `dailies` with its log; killed when dropped.
pub struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts the binary built beside this test, with settings as environment variables.
    pub fn start(arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut command = dailies();
        command.args(arguments);
        Self::start_command(command, settings)
    }

    /// Like [`Process::start`], of a command that ends up as `dailies`.
    pub fn start_command(mut command: Command, settings: &[(&str, &str)]) -> Self {
        let mut child = command
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::default();
        collect(child.stdout.take().expect("stdout is piped"), &log);
        collect(child.stderr.take().expect("stderr is piped"), &log);
        Self { child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The rest of the first line that contains `mark`, after it.
    pub fn wait_for(&mut self, mark: &str) -> String {
        wait(&format!("'{mark}' in the log"), || {
            let log = self.log();
            if let Some((_, rest)) = log.split_once(mark) {
                // A line may still be on its way; take it only when it is whole.
                return rest
                    .split_once('\n')
                    .map(|(rest, _)| rest.trim().to_string());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("ended with {status} before '{mark}':\n{log}");
            }
            None
        })
    }

    /// SIGKILL: the process gets no chance to say anything.
    pub fn kill_9(mut self) {
        self.child.kill().expect("the process was alive");
        self.child.wait().expect("a killed process ends");
    }

    /// SIGTERM, then waits for the end.
    pub fn terminate(mut self) -> (ExitStatus, String) {
        self.signal_term();
        let status = wait("the process to end", || {
            self.child.try_wait().expect("own child")
        });
        (status, self.log())
    }

    pub fn signal_term(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Holds it where it is: it keeps its connections and answers nothing.
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id fits");
        let id = rustix::process::Pid::from_raw(id).expect("a process id is not zero");
        rustix::process::kill_process(id, signal).expect("alive");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.child.id(), self.log());
        }
    }
}

fn collect(stream: impl Read + Send + 'static, log: &Arc<Mutex<String>>) {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&line);
            log.push('\n');
        }
    });
}

/// Asks `probe` again and again until it has an answer.
pub fn wait<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < limit, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Address of the database of the test that owns this folder, on the PostgreSQL server that
/// `cargo xtask test` names; `None` for the file in its data folder.
pub fn database(folder: &Path) -> Option<String> {
    let server = std::env::var("DAILIES_TEST_POSTGRES").ok()?;
    let letters = folder.display().to_string();
    let name: String = letters
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    Some(server.replacen("/?", &format!("/{name}?"), 1))
}

/// The binary `dailies` of the same build as this test.
pub fn dailies() -> Command {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test
        .ancestors()
        .nth(2)
        .expect("tests lie in target/PROFILE/deps");
    let binary = folder.join("dailies");
    assert!(
        binary.is_file(),
        "{} is missing: run 'cargo xtask test'",
        binary.display()
    );
    Command::new(binary)
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests lies below the root")
        .into()
}

/// Bytes of an answer with its status, over one blocking connection.
pub struct Api {
    pub base_url: String,
    pub key: String,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Api {
    pub fn new(base_url: &str, key: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Self {
            base_url: base_url.trim_end_matches('/').into(),
            key: key.trim().into(),
            http: agent::connect::connections(false).expect("a client is made"),
            runtime: runtime.expect("a runtime starts"),
        }
    }

    pub fn get(&self, path: &str) -> Option<(u16, Value)> {
        let request = self
            .http
            .get(format!("{}{path}", self.base_url))
            .bearer_auth(&self.key);
        self.send(request)
            .map(|(status, body)| (status, parse(&body)))
    }

    pub fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = self
            .http
            .post(format!("{}{path}", self.base_url))
            .bearer_auth(&self.key);
        self.send(request.json(body))
            .map(|(status, body)| (status, parse(&body)))
    }

    /// Like [`Api::post`]: however often it is sent with this key, it is done once.
    pub fn post_once(&self, path: &str, body: &Value, key: &str) -> Option<(u16, Value)> {
        let url = format!("{}{path}", self.base_url);
        let request = self.http.post(url).bearer_auth(&self.key);
        let request = request.header("idempotency-key", key).json(body);
        self.send(request)
            .map(|(status, body)| (status, parse(&body)))
    }

    pub fn bytes(&self, path: &str) -> Option<(u16, Vec<u8>)> {
        self.send(
            self.http
                .get(format!("{}{path}", self.base_url))
                .bearer_auth(&self.key),
        )
    }

    /// Like [`Api::bytes`], of a range such as `bytes=0-9`.
    pub fn part(&self, path: &str, range: &str) -> Option<(u16, Vec<u8>)> {
        let url = format!("{}{path}", self.base_url);
        let request = self.http.get(url).bearer_auth(&self.key);
        self.send(request.header("range", range))
    }

    /// `None` when the server cannot be reached, which a test that kills servers expects.
    fn send(&self, request: reqwest::RequestBuilder) -> Option<(u16, Vec<u8>)> {
        self.runtime.block_on(async {
            let answer = request.send().await.ok()?;
            let status = answer.status().as_u16();
            Some((status, answer.bytes().await.ok()?.to_vec()))
        })
    }
}

fn parse(body: &[u8]) -> Value {
    let text = || String::from_utf8_lossy(body).into_owned();
    serde_json::from_slice(body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", text()))
}
