//! A farm of real processes: a scheduler that tests kill and start again, agents, films.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Api, Process, database, wait};

/// Leases short enough that a test does not wait long for a dead agent.
pub const TIMES: &[(&str, &str)] = &[
    ("DAILIES__SCHEDULER__FARM__LEASE_TTL_MS", "4000"),
    ("DAILIES__SCHEDULER__FARM__START_TTL_MS", "4000"),
    ("DAILIES__SCHEDULER__FARM__HEARTBEAT_MS", "300"),
    ("DAILIES__AGENT__CHECKPOINT_STEPS", "2"),
    ("DAILIES__AGENT__FENCE_MARGIN_MS", "1000"),
    // A drain gives running work back, however little of it is left.
    ("DAILIES__SCHEDULER__FARM__DRAIN_FINISH_MS", "0"),
    ("DAILIES__AGENT__DRAIN_FINISH_MS", "0"),
    // Films of a second: an urgent job may take a device at any moment.
    ("DAILIES__SCHEDULER__FARM__PREEMPT_MIN_RUN_MS", "0"),
    ("DAILIES__SCHEDULER__FARM__PREEMPT_MIN_STEPS", "1"),
    ("DAILIES__SCHEDULER__FARM__PREEMPT_GAIN_MS", "0"),
];

/// Steps of a render: enough that a kill always falls between two of them.
pub const STEPS: u64 = 60;

pub struct Farm {
    pub folder: TempDir,
    pub scheduler: Option<Process>,
    pub api: Api,
    /// Those of every test, and the database of this one.
    pub settings: Vec<(&'static str, &'static str)>,
}

impl Farm {
    /// On the database of this run of the tests.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = database(folder.path());
        Self::start_in(folder, url)
    }

    /// On this database, or the file in its data folder.
    pub fn start_on(url: Option<String>) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), url)
    }

    fn start_in(folder: TempDir, url: Option<String>) -> Self {
        let database = url.map(|url| ("DAILIES__SCHEDULER__DATABASE", &*url.leak()));
        let settings: Vec<_> = TIMES.iter().copied().chain(database).collect();
        let (scheduler, url) = serve(&folder, "127.0.0.1:0", &settings);
        let key = fs::read_to_string(folder.path().join("data/api-key")).expect("the first key");
        Self {
            folder,
            scheduler: Some(scheduler),
            api: Api::new(&url, &key),
            settings,
        }
    }

    pub fn agent(&self) -> Process {
        self.agent_of(&[&self.api])
    }

    /// An agent that knows these schedulers.
    pub fn agent_of(&self, schedulers: &[&Api]) -> Process {
        let token = self.folder.path().join("data/agent-token");
        let scratch = self.folder.path().join("scratch");
        let address = |api: &&Api| api.base_url.trim_end_matches("/v1").to_string();
        let schedulers: Vec<String> = schedulers.iter().map(address).collect();
        let arguments = [
            "agent",
            "--scheduler",
            &schedulers.join(","),
            "--token-file",
            token.to_str().expect("UTF-8"),
            "--scratch",
            scratch.to_str().expect("UTF-8"),
            "--name",
            "node-1",
        ];
        Process::start(&arguments, TIMES)
    }

    pub fn runs(&self) -> bool {
        self.scheduler.is_some()
    }

    pub fn kill_scheduler(&mut self) {
        self.scheduler.take().expect("it runs").kill_9();
    }

    /// On the address that the agent and the client know.
    pub fn restart_scheduler(&mut self) {
        let address = self
            .api
            .base_url
            .trim_start_matches("http://")
            .trim_end_matches("/v1");
        let (scheduler, _) = serve(&self.folder, address, &self.settings);
        self.scheduler = Some(scheduler);
    }

    pub fn submit(&self) -> String {
        self.submit_as("normal", 11, STEPS)
    }

    pub fn submit_as(&self, priority: &str, seed: u64, steps: u64) -> String {
        let request = json!({
            "model": "builtin", "prompt": "a big red ball bounces at night", "size": "64x64",
            "seconds": "2", "seed": seed, "steps": steps, "priority": priority,
        });
        let (status, video) = self
            .api
            .post("/videos", &request)
            .expect("the scheduler answers");
        assert_eq!(status, 200, "{video}");
        video["id"].as_str().expect("an id").to_string()
    }

    pub fn video(&self, id: &str) -> Option<Value> {
        video(&self.api, id)
    }

    pub fn wait_for_step(&self, id: &str, step: u64) -> u64 {
        wait_for_step(&self.api, id, step)
    }

    pub fn wait_for_film(&self, id: &str) -> (Value, Vec<u8>) {
        wait_for_film(&self.api, id)
    }
}

/// `None` while nobody can tell.
pub fn video(api: &Api, id: &str) -> Option<Value> {
    let (status, video) = api.get(&format!("/videos/{id}"))?;
    if status == 503 {
        return None; // the database or the leader is away
    }
    assert_eq!(status, 200, "{video}");
    assert_ne!(video["status"], "failed", "{video}");
    Some(video)
}

pub fn wait_for_step(api: &Api, id: &str, step: u64) -> u64 {
    wait(&format!("step {step}"), || {
        let video = video(api, id)?;
        assert_ne!(
            video["status"], "completed",
            "done before it could be killed: {video}"
        );
        video["steps_done"].as_u64().filter(|done| *done >= step)
    })
}

pub fn wait_for_film(api: &Api, id: &str) -> (Value, Vec<u8>) {
    let video = wait("the film", || {
        video(api, id).filter(|video| video["status"] == "completed")
    });
    let film = wait("its bytes", || {
        let answer = api.bytes(&format!("/videos/{id}/content"));
        answer.filter(|(status, _)| *status != 503)
    });
    assert_eq!(film.0, 200);
    (video, film.1)
}

/// So many films were paid, each task of them once, nothing is held any more, and the account adds up.
pub fn check_ledger(api: &Api, films: usize) {
    let (_, quota) = api.get("/organization/quota/default").expect("it answers");
    let account = &quota["account"];
    let part = |name: &str| account[name].as_f64().expect("a number");
    assert!(part("held_seconds").abs() < 1e-9, "{account}");
    let sum = part("available_seconds") + part("held_seconds") + part("spent_seconds");
    assert!((sum - part("granted_seconds")).abs() < 1e-6, "{account}");
    let keys = quota["entries"].as_array().expect("entries").iter();
    let keys = keys.filter_map(|entry| entry["key"].as_str());
    let paid: Vec<&str> = keys.filter_map(|key| key.strip_prefix("post:")).collect();
    let tasks: BTreeSet<_> = paid.iter().map(|key| key.split(':').next()).collect();
    assert_eq!(
        paid.len(),
        tasks.len(),
        "a task was charged twice: {paid:?}"
    );
    // A film has one shot, and itself, for which nothing may be left of what was quoted.
    assert!((films..=2 * films).contains(&paid.len()), "{paid:?}");
}

fn serve(folder: &TempDir, listen: &str, settings: &[(&str, &str)]) -> (Process, String) {
    let data = folder.path().join("data");
    let arguments = [
        "serve",
        "--listen",
        listen,
        "--data",
        data.to_str().expect("UTF-8"),
    ];
    let mut process = Process::start(&arguments, settings);
    let url = process.wait_for("base_url");
    (process, url)
}
