//! `kill -9` of an agent and of the scheduler in mid-render: still one film, the same film,
//! resumed from the last checkpoint.

use std::time::{Duration, Instant};

use tests::{
    Api, Process,
    farm::{Farm, STEPS},
};

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

/// From the end of a leader to the first answer of the next one. It is to be under ten seconds, and is
/// printed; the bound leaves a busy machine its pauses.
const TAKEOVER_MAX: Duration = Duration::from_secs(20);

/// A farm with a scheduler that stands by, and an agent that knows both. `None` without PostgreSQL.
struct Pair {
    farm: Farm,
    standby: Process,
    /// Asks the standby.
    next: Api,
    agent: Process,
}

impl Pair {
    fn start() -> Option<Self> {
        let farm = Farm::start();
        if tests::database(farm.folder.path()).is_none() {
            println!("skipped: no PostgreSQL (DAILIES_TEST_POSTGRES names none)");
            return None;
        }
        let data = farm.folder.path().join("data");
        let data = data.to_str().expect("UTF-8");
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--data", data];
        let mut standby = Process::start(&arguments, &farm.settings);
        let said = standby.wait_for("standing by: another scheduler leads address=");
        let address = said.split_whitespace().next().expect("an address");
        let next = Api::new(&format!("http://{address}/v1"), &farm.api.key);
        let agent = farm.agent_of(&[&farm.api, &next]);
        Some(Self {
            farm,
            standby,
            next,
            agent,
        })
    }

    /// Ends the wait for the standby to lead, and asks it from now on.
    fn take_over(&mut self, since: Instant) {
        self.standby.wait_for("base_url");
        let took = since.elapsed();
        println!("took over in {took:?}");
        assert!(took < TAKEOVER_MAX, "it took {took:?}");
        std::mem::swap(&mut self.farm.api, &mut self.next);
    }
}

#[test]
fn a_standby_reads_hands_on_and_takes_over_in_mid_render() {
    let Some(mut pair) = Pair::start() else {
        return;
    };
    let quiet = pair.farm.submit();
    let (_, expected) = pair.farm.wait_for_film(&quiet);
    // The standby reads by itself; what only the leader can do, it hands on.
    let (status, list) = pair.next.get("/videos").expect("a standby answers");
    assert_eq!(
        (status, list["data"].as_array().map(Vec::len)),
        (200, Some(1))
    );
    let content = format!("/videos/{quiet}/content");
    assert!(pair.next.bytes(&content) == Some((200, expected.clone())));
    let (status, _) = pair.next.get("/models").expect("the leader answers");
    assert_eq!(status, 200);
    std::mem::swap(&mut pair.farm.api, &mut pair.next);
    let victim = pair.farm.submit();
    std::mem::swap(&mut pair.farm.api, &mut pair.next);

    pair.farm.wait_for_step(&victim, 6);
    let killed = Instant::now();
    pair.farm.kill_scheduler();
    pair.take_over(killed);
    let (video, film) = pair.farm.wait_for_film(&victim);
    assert!(film == expected, "the film differs after the change");
    assert_eq!(video["usage"]["state"], "posted", "{video}");
    let (_, list) = pair.farm.api.get("/videos").expect("it answers");
    assert_eq!(list["data"].as_array().map(Vec::len), Some(2), "{list}");
    // The first of these addresses is nobody's any more.
    let mut client = tests::dailies();
    let both = format!("{},{}", pair.next.base_url, pair.farm.api.base_url);
    client.args(["list", "--url", &both, "--key", &pair.farm.api.key]);
    let told = client.output().expect("it runs");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains(&victim), "{told}");
    drop(pair.agent);
}

#[test]
fn a_leader_that_freezes_is_replaced_and_writes_nothing_when_it_wakes() {
    let Some(mut pair) = Pair::start() else {
        return;
    };
    let victim = pair.farm.submit();
    pair.farm.wait_for_step(&victim, 3);
    let old = pair.farm.scheduler.take().expect("it runs");
    let frozen = Instant::now();
    old.freeze();
    pair.take_over(frozen);
    let (video, _) = pair.farm.wait_for_film(&victim);
    assert_eq!(video["usage"]["state"], "posted", "{video}");
    let mut old = old;
    old.thaw();
    old.wait_for("no longer leads; standing by");
    old.wait_for("standing by: another scheduler leads address=");
    let (_, list) = pair.farm.api.get("/videos").expect("it answers");
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
    drop(pair.agent);
}
