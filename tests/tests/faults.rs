//! Bad weather: kills of scheduler, agent and database spread over the renders, and full disks. In
//! the end a checker compares what clients were told with what is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tests::{
    Api, Process, dailies,
    farm::{Farm, TIMES, check_ledger, video, wait_for_film, wait_for_step},
    postgres::Postgres,
    wait,
};

const FILMS: u64 = 4;
const STEPS: u64 = 30;

fn wish() -> Value {
    json!({
        "model": "builtin", "prompt": "a big red ball bounces at night", "size": "64x64",
        "seconds": "2", "seed": 11, "steps": STEPS,
    })
}

/// What a client was promised: the film of each of its own keys.
#[derive(Default)]
struct Promises(BTreeMap<String, String>);

impl Promises {
    /// Asks until it is promised; whatever is answered meanwhile must be worth another try.
    fn ask(&mut self, api: &Api, key: &str) {
        let id = wait(&format!("a promise for {key}"), || try_once(api, key));
        self.0.insert(key.into(), id);
    }

    /// The history is right: each promise kept, once, with the same bytes, and paid once.
    fn check(&self, api: &Api, mut doctor: Command) {
        let done: Vec<(Value, Vec<u8>)> =
            self.0.values().map(|id| wait_for_film(api, id)).collect();
        for (video, film) in &done {
            assert!(*film == done[0].1, "the films of one seed differ: {video}");
            assert_eq!(video["usage"]["state"], "posted", "{video}");
        }
        let (_, list) = api.get("/videos?limit=100").expect("it answers");
        let list = list["data"].as_array().expect("a list");
        let ids: BTreeSet<&str> = list
            .iter()
            .filter_map(|video| video["id"].as_str())
            .collect();
        let promised: BTreeSet<&str> = self.0.values().map(String::as_str).collect();
        assert_eq!(
            ids, promised,
            "a film that nobody asked for, or one too few"
        );

        check_ledger(api, self.0.len());
        let told = doctor.arg("doctor").output().expect("it runs");
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains("ledger       whole"), "{told}");
    }
}

fn try_once(api: &Api, key: &str) -> Option<String> {
    let (status, answer) = api.post_once("/videos", &wish(), key)?;
    match status {
        200 => answer["id"].as_str().map(str::to_string),
        409 | 503 => {
            let message = answer["error"]["message"].as_str().expect("a message");
            assert!(
                message.contains("again") || message.contains("progress"),
                "{message}"
            );
            None
        }
        _ => panic!("{status} is no answer to a good wish: {answer}"),
    }
}

/// Steps done of all films together.
fn steps(api: &Api, promises: &Promises) -> u64 {
    let done = |id: &String| video(api, id)?["steps_done"].as_u64();
    promises.0.values().filter_map(done).sum()
}

#[test]
fn kills_all_over_the_renders_lose_nothing_and_charge_nothing_twice() {
    let on_server = std::env::var("DAILIES_TEST_POSTGRES").is_ok();
    let mut server = if on_server { Postgres::start() } else { None };
    if server.is_none() {
        println!("skipped: no PostgreSQL to kill; scheduler and agent are killed all the same");
    }
    let mut farm = Farm::start_on(server.as_ref().map(Postgres::url));
    let mut agent = farm.agent();
    let mut promises = Promises::default();
    for number in 0..FILMS {
        promises.ask(&farm.api, &format!("night-{number}"));
    }
    // Moments that fall into different steps of different films.
    for (round, at) in [4, 17, 33, 48, 62, 77, 95, 109].into_iter().enumerate() {
        wait(&format!("step {at} of all"), || {
            (steps(&farm.api, &promises) >= at).then_some(())
        });
        match round % 4 {
            0 => farm.kill_scheduler(),
            1 => agent = killed(agent, &farm),
            2 => match &mut server {
                Some(server) => {
                    server.kill_9();
                    let (status, refused) = wait("a refusal", || {
                        let answer = farm.api.post_once("/videos", &wish(), "storm");
                        answer.filter(|(status, _)| *status != 200)
                    });
                    assert_eq!(status, 503, "{refused}");
                    server.start_again();
                }
                None => farm.kill_scheduler(),
            },
            _ => {
                farm.kill_scheduler();
                agent = killed(agent, &farm);
            }
        }
        if !farm.runs() {
            farm.restart_scheduler();
        }
    }
    // A repeated wish is the same film, whatever happened since.
    let before = promises.0.clone();
    for key in before.keys() {
        promises.ask(&farm.api, key);
    }
    assert_eq!(promises.0, before);
    if server.is_some() {
        promises.ask(&farm.api, "storm");
    }
    let mut doctor = dailies();
    doctor.envs(farm.settings.iter().copied());
    doctor.env("DAILIES_DATA", farm.folder.path().join("data"));
    promises.check(&farm.api, doctor);
    drop(agent);
}

fn killed(agent: Process, farm: &Farm) -> Process {
    agent.kill_9();
    farm.agent()
}

/// A process in a mount namespace of its own, with small disks that the test fills from outside.
struct Small {
    process: Process,
    root: PathBuf,
}

impl Small {
    /// `disks` are folders and their sizes.
    fn start(disks: &[(&Path, &str)], arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let mounts = disks.iter().map(|(folder, size)| {
            format!(
                "mount -t tmpfs -o size={size} tmpfs '{}' && ",
                folder.display()
            )
        });
        let script = mounts.collect::<String>() + "exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--user", "--map-root-user", "sh", "-c", &script]);
        command.arg(dailies().get_program()).args(arguments);
        let process = Process::start_command(command, settings);
        let root = format!("/proc/{}/root", process.id()).into();
        Self { process, root }
    }

    /// Where a path of the process is for everyone else.
    fn inside(&self, path: &Path) -> PathBuf {
        self.root
            .join(path.strip_prefix("/").expect("an absolute path"))
    }

    /// A program that sees the same disks.
    fn beside(&self, program: &OsStr) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.process.id().to_string()]);
        command.args(["--user", "--mount", "--preserve-credentials"]);
        command.arg(program);
        command
    }

    fn ballast(&self, disk: &Path) -> PathBuf {
        self.inside(disk).join("ballast")
    }

    fn fill(&self, disk: &Path) {
        let mut ballast = File::create(self.ballast(disk)).expect("the disk can be reached");
        for block in [1 << 16, 1 << 12, 1] {
            while ballast.write_all(&vec![0; block]).is_ok() {}
        }
    }

    fn free(&self, disk: &Path) {
        fs::remove_file(self.ballast(disk)).expect("the ballast is there");
    }
}

fn may_mount() -> bool {
    let tried = Command::new("unshare")
        .args(["--mount", "--user", "--map-root-user"])
        .args(["mount", "-t", "tmpfs", "tmpfs", "/tmp"])
        .output();
    tried.is_ok_and(|tried| tried.status.success())
}

#[test]
fn full_disks_hold_the_work_up_and_lose_nothing() {
    if !may_mount() {
        println!("skipped: this machine allows no namespace with small disks");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir(&path).expect("a new folder");
        path
    };
    let (data, cas, scratch) = (at("data"), at("cas"), at("scratch"));
    let text = |path: &Path| path.to_str().expect("UTF-8").to_string();
    let artifacts = format!("file:{}", text(&cas));
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data", &text(&data)];
    let arguments = [&arguments[..], &["--artifacts", &artifacts]].concat();
    let database = tests::database(folder.path());
    let mut settings = TIMES.to_vec();
    let url = database.as_deref();
    settings.extend(url.map(|url| ("DAILIES__SCHEDULER__DATABASE", url)));
    let mut serving = Small::start(&[(&data, "24m"), (&cas, "24m")], &arguments, &settings);
    let base_url = serving.process.wait_for("base_url");
    let written = serving.inside(&data);
    let written = |name| fs::read_to_string(written.join(name)).expect("the first start wrote it");
    let token = folder.path().join("token");
    fs::write(&token, written("agent-token")).expect("a file");
    let api = Api::new(&base_url, &written("api-key"));
    let scheduler = base_url.trim_end_matches("/v1");
    let (token, work) = (text(&token), text(&scratch));
    let arguments = [
        "agent",
        "--scheduler",
        scheduler,
        "--token-file",
        &token,
        "--scratch",
        &work,
    ];
    let mut agent = Small::start(&[(&scratch, "64m")], &arguments, &settings);

    if database.is_none() {
        serving.fill(&data);
        let (status, refused) = api
            .post_once("/videos", &wish(), "one")
            .expect("it answers");
        let message = refused["error"]["message"].as_str().expect("a message");
        assert_eq!(status, 503, "{refused}");
        assert!(
            message.contains("database did not take the change"),
            "{message}"
        );
        serving.free(&data);
    } else {
        println!("skipped: the disk of the PostgreSQL server is not this test's to fill");
    }
    let mut promises = Promises::default();
    promises.ask(&api, "one");
    wait_for_step(&api, &promises.0["one"], 3);
    serving.fill(&cas);
    serving.process.wait_for("the artefact store is full");
    serving.free(&cas);
    wait_for_film(&api, &promises.0["one"]);

    promises.ask(&api, "two");
    wait_for_step(&api, &promises.0["two"], 3);
    agent.fill(&scratch);
    agent.process.wait_for("No space left");
    agent.free(&scratch);
    let mut doctor = serving.beside(dailies().get_program());
    doctor.envs(settings.iter().copied());
    doctor.env("DAILIES_DATA", &data);
    promises.check(&api, doctor);
}
