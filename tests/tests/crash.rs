//! `kill -9` of an agent and of the scheduler in mid-render: still one film, the same film,
//! resumed from the last checkpoint.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{Api, Process, wait};

/// Leases short enough that a test does not wait long for a dead agent.
const TIMES: &[(&str, &str)] = &[
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
const STEPS: u64 = 60;

struct Farm {
    folder: TempDir,
    scheduler: Option<Process>,
    api: Api,
}

impl Farm {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (scheduler, url) = serve(&folder, "127.0.0.1:0");
        let key = fs::read_to_string(folder.path().join("data/api-key")).expect("the first key");
        Self {
            folder,
            scheduler: Some(scheduler),
            api: Api::new(&url, &key),
        }
    }

    fn agent(&self) -> Process {
        let token = self.folder.path().join("data/agent-token");
        let scratch = self.folder.path().join("scratch");
        let scheduler = self.api.base_url.trim_end_matches("/v1");
        let arguments = [
            "agent",
            "--scheduler",
            scheduler,
            "--token-file",
            token.to_str().expect("UTF-8"),
            "--scratch",
            scratch.to_str().expect("UTF-8"),
            "--name",
            "node-1",
        ];
        Process::start(&arguments, TIMES)
    }

    fn kill_scheduler(&mut self) {
        self.scheduler.take().expect("it runs").kill_9();
    }

    /// On the address that the agent and the client know.
    fn restart_scheduler(&mut self) {
        let address = self
            .api
            .base_url
            .trim_start_matches("http://")
            .trim_end_matches("/v1");
        let (scheduler, _) = serve(&self.folder, address);
        self.scheduler = Some(scheduler);
    }

    fn submit(&self) -> String {
        self.submit_as("normal", 11, STEPS)
    }

    fn submit_as(&self, priority: &str, seed: u64, steps: u64) -> String {
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

    fn video(&self, id: &str) -> Option<Value> {
        let (status, video) = self.api.get(&format!("/videos/{id}"))?;
        assert_eq!(status, 200, "{video}");
        assert_ne!(video["status"], "failed", "{video}");
        Some(video)
    }

    fn wait_for_step(&self, id: &str, step: u64) -> u64 {
        wait(&format!("step {step}"), || {
            let video = self.video(id)?;
            assert_ne!(
                video["status"], "completed",
                "done before it could be killed: {video}"
            );
            video["steps_done"].as_u64().filter(|done| *done >= step)
        })
    }

    fn wait_for_film(&self, id: &str) -> (Value, Vec<u8>) {
        let video = wait("the film", || {
            self.video(id).filter(|v| v["status"] == "completed")
        });
        let (status, film) = self
            .api
            .bytes(&format!("/videos/{id}/content"))
            .expect("the scheduler answers");
        assert_eq!(status, 200);
        (video, film)
    }
}

fn serve(folder: &TempDir, listen: &str) -> (Process, String) {
    let data = folder.path().join("data");
    let arguments = [
        "serve",
        "--listen",
        listen,
        "--data",
        data.to_str().expect("UTF-8"),
    ];
    let mut process = Process::start(&arguments, &settings(folder));
    let url = process.wait_for("base_url");
    (process, url)
}

/// Those of every test, and the database of this one.
fn settings(folder: &TempDir) -> Vec<(&'static str, &'static str)> {
    let url = tests::database(folder.path());
    let database = url.map(|url| ("DAILIES__SCHEDULER__DATABASE", &*url.leak()));
    TIMES.iter().copied().chain(database).collect()
}

/// The step from which an agent says in its log that it goes on.
fn resumed_at(log: &str) -> Option<u32> {
    let (_, rest) = log.rsplit_once("resuming step=")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[test]
fn a_film_survives_the_kill_of_its_agent_and_of_its_scheduler_unchanged() {
    let mut farm = Farm::start();
    let agent = farm.agent();
    let quiet = farm.submit();
    let (undisturbed, expected) = farm.wait_for_film(&quiet);
    assert_eq!(undisturbed["attempt"], 1, "{undisturbed}");

    let victim = farm.submit();
    farm.wait_for_step(&victim, 6);
    agent.kill_9();
    let agent = farm.agent();
    let (video, film) = farm.wait_for_film(&victim);
    let resumed = resumed_at(&agent.log()).expect("the second agent resumes from a checkpoint");
    assert!(
        (2..STEPS as u32).contains(&resumed),
        "resumed at step {resumed}"
    );
    assert!(video["attempt"].as_u64() >= Some(2), "{video}");
    assert!(
        film == expected,
        "the film differs after the kill of its agent"
    );

    let victim = farm.submit();
    farm.wait_for_step(&victim, 6);
    farm.kill_scheduler();
    farm.restart_scheduler();
    let (video, film) = farm.wait_for_film(&victim);
    assert!(
        film == expected,
        "the film differs after the kill of the scheduler"
    );
    assert_eq!(video["usage"]["state"], "posted", "{video}");

    let (_, list) = farm.api.get("/videos").expect("the scheduler answers");
    assert_eq!(list["data"].as_array().map(Vec::len), Some(3), "{list}");
    let (status, log) = agent.terminate();
    assert!(
        status.success(),
        "an agent that drains ends with {status}:\n{log}"
    );
}

#[test]
fn a_draining_agent_gives_its_work_back_and_the_next_one_goes_on() {
    let farm = Farm::start();
    let agent = farm.agent();
    let id = farm.submit();
    farm.wait_for_step(&id, 4);
    let (status, log) = agent.terminate();
    assert!(
        status.success(),
        "an agent that drains ends with {status}:\n{log}"
    );
    let agent = farm.agent();
    let (video, _) = farm.wait_for_film(&id);
    assert!(resumed_at(&agent.log()) >= Some(4), "{}", agent.log());
    assert_eq!(video["progress"], 100);
}

#[test]
fn an_urgent_film_takes_the_only_device_and_the_other_one_goes_on_unchanged() {
    let farm = Farm::start();
    let agent = farm.agent();
    let quiet = farm.submit();
    let (_, expected) = farm.wait_for_film(&quiet);

    let victim = farm.submit();
    farm.wait_for_step(&victim, 3);
    let urgent = farm.submit_as("urgent", 12, 4);
    let (video, _) = farm.wait_for_film(&urgent);
    assert_eq!(video["priority"], "urgent", "{video}");
    let other = farm.video(&victim).expect("the scheduler answers");
    assert_ne!(other["status"], "completed", "it did not give way: {other}");

    let (video, film) = farm.wait_for_film(&victim);
    assert!(video["attempt"].as_u64() >= Some(2), "{video}");
    assert!(
        resumed_at(&agent.log()) >= Some(3),
        "it went on from its step:\n{}",
        agent.log()
    );
    assert!(film == expected, "the film differs after it was preempted");
}

#[test]
fn a_standby_leads_ten_seconds_after_the_kill_of_its_leader_and_the_film_ends_once() {
    const TAKEOVER_MAX: Duration = Duration::from_secs(10);
    let mut farm = Farm::start();
    if tests::database(farm.folder.path()).is_none() {
        println!("skipped: no PostgreSQL (DAILIES_TEST_POSTGRES names none)");
        return;
    }
    let agent = farm.agent();
    let quiet = farm.submit();
    let (_, expected) = farm.wait_for_film(&quiet);

    let data = farm.folder.path().join("data");
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        data.to_str().expect("UTF-8"),
    ];
    let mut standby = Process::start(&arguments, &settings(&farm.folder));
    let said = standby.wait_for("standing by: another scheduler leads address=");
    let address = said.split_whitespace().next().expect("an address");
    let next = Api::new(&format!("http://{address}/v1"), &farm.api.key);
    let (status, refused) = next.get("/videos").expect("a standby answers");
    assert_eq!(status, 503, "{refused}");

    let victim = farm.submit();
    farm.wait_for_step(&victim, 6);
    let killed = Instant::now();
    farm.kill_scheduler();
    standby.wait_for("base_url");
    assert!(
        killed.elapsed() < TAKEOVER_MAX,
        "it took {:?}",
        killed.elapsed()
    );
    agent.kill_9(); // it knows only the address of the scheduler that is gone
    farm.scheduler = Some(standby);
    farm.api = next;
    let agent = farm.agent();
    let (video, film) = farm.wait_for_film(&victim);
    assert!(resumed_at(&agent.log()) >= Some(2), "{}", agent.log());
    assert!(
        film == expected,
        "the film differs after the change of leaders"
    );
    assert_eq!(video["usage"]["state"], "posted", "{video}");
    let (_, list) = farm.api.get("/videos").expect("the scheduler answers");
    assert_eq!(list["data"].as_array().map(Vec::len), Some(2), "{list}");
}
