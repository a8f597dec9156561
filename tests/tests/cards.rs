//! Cards that run out of memory or are lost in mid-film, from the card through its agent to the scheduler and back:
//! one film, paid once, and nothing sent again where it does not fit. The cards compute nothing; what their numbers
//! are worth is tried in `diffusion/tests/card.rs`.

use std::sync::Arc;

use agent::{AgentError, Settings};
use kernels::{
    Device,
    cuda::{Fault, Faulty, Gpu, Nowhere},
};
use scheduler::Scheduler;
use serde_json::{Value, json};
use tests::{
    Api,
    farm::{check_ledger, video, wait_for_film},
    wait,
};
use tokio::runtime::Runtime;

const STEPS: u64 = 8;
/// Records that are started before the fault. The first step is launched kernel by kernel, each later one is a
/// record: so many and one steps are done and saved by then.
const REPLAYS: u64 = 3;

/// A scheduler in this process, and the runtime that it and its agents live on.
struct Farm {
    runtime: Runtime,
    folder: tempfile::TempDir,
    scheduler: scheduler::Running,
    api: Api,
}

impl Farm {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = scheduler::Settings {
            listen: ([127, 0, 0, 1], 0).into(),
            data: folder.path().join("data"),
            database: tests::database(folder.path()).map(|url| url.parse().expect("a URL")),
            ..scheduler::Settings::default()
        };
        let scheduler = runtime.block_on(Scheduler::start(settings));
        let scheduler = scheduler.expect("the scheduler starts");
        let key = scheduler.first_key().expect("the first key");
        let api = Api::new(&format!("{}/v1", scheduler.url()), key);
        Self {
            runtime,
            folder,
            scheduler,
            api,
        }
    }

    fn node(&self, name: &str, memory_gib: u64) -> Node {
        self.node_with(name, memory_gib << 30, Vec::new())
    }

    /// One that has these weights besides the built-in ones.
    fn node_with(&self, name: &str, memory_bytes: u64, weights: Vec<String>) -> Node {
        let card = Nowhere::with_memory("Card", (8, 0), memory_bytes);
        let machine = Arc::new(Faulty::new(Arc::new(card)));
        let device = Device::cuda(Gpu::new(machine.clone()), 1).expect("a thread");
        let settings = Settings {
            scheduler_url: self.scheduler.url(),
            name: name.into(),
            scratch: self.folder.path().join(name),
            checkpoint_steps: 1,
            weights,
            ..Settings::default()
        };
        let token = self.scheduler.agent_token();
        let agent = self
            .runtime
            .block_on(agent::start_on(settings, token, device));
        let node = Node {
            machine,
            agent: agent.expect("the agent starts"),
        };
        wait("the node", || {
            let (status, _) = self.api.get(&format!("/organization/nodes/{name}"))?;
            (status == 200).then_some(())
        });
        node
    }

    fn order(&self, node: &str, order: &str) {
        let path = format!("/organization/nodes/{node}/{order}");
        let (status, told) = self.api.post(&path, &json!({})).expect("it answers");
        assert_eq!(status, 200, "{told}");
    }

    fn submit(&self, seconds: &str) -> String {
        self.submit_to("builtin", seconds)
    }

    fn submit_to(&self, model: &str, seconds: &str) -> String {
        let request = json!({
            "model": model, "prompt": "a red ball falls", "size": "64x64", "seconds": seconds,
            "steps": STEPS, "seed": 11,
        });
        let (status, video) = self.api.post("/videos", &request).expect("it answers");
        assert_eq!(status, 200, "{video}");
        video["id"].as_str().expect("an id").to_string()
    }

    /// Words of the first notice of a kind.
    fn notice(&self, kind: &str) -> Option<Value> {
        let (_, notices) = self.api.get("/organization/notices")?;
        let all = notices["data"].as_array()?.iter();
        all.into_iter()
            .find(|notice| notice["kind"] == kind)
            .cloned()
    }

    /// Each film is there, was paid once, and the ledger is whole.
    fn end(self, films: usize) {
        check_ledger(&self.api, films);
        let settings = scheduler::Settings {
            data: self.folder.path().join("data"),
            database: tests::database(self.folder.path()).map(|url| url.parse().expect("a URL")),
            ..scheduler::Settings::default()
        };
        let told = self.runtime.block_on(scheduler::doctor::examine(&settings));
        let ledger = told.iter().find(|found| found.what == "ledger");
        let detail = ledger.map(|found| found.detail.as_str());
        assert_eq!(detail, Some("whole: chain, balances and holds"));
        self.runtime.block_on(self.scheduler.shutdown());
    }
}

struct Node {
    machine: Arc<Faulty>,
    agent: agent::Running,
}

impl Node {
    fn steps(&self) -> u64 {
        self.agent.metrics().steps.get()
    }

    fn attempts(&self, ended: &str) -> u64 {
        self.agent
            .metrics()
            .attempts
            .with_label_values(&[ended])
            .get()
    }

    fn leave(self, farm: &Farm) -> Result<(), AgentError> {
        self.agent.drain_handle().drain();
        farm.runtime.block_on(self.agent.join())
    }
}

#[test]
fn a_film_that_finds_no_memory_goes_on_from_its_last_step_where_there_is_more_and_others_go_there_at_once()
 {
    let farm = Farm::start();
    let (small, large) = (farm.node("small", 8), farm.node("large", 16));
    farm.order("large", "cordon");
    small.machine.arm_replay(REPLAYS, Fault::OutOfMemory);
    let first = farm.submit("2");
    wait("the failure", || {
        (small.attempts("failed") == 1).then_some(())
    });
    assert_eq!(small.steps(), REPLAYS + 1);

    farm.order("large", "uncordon");
    let (film, bytes) = wait_for_film(&farm.api, &first);
    assert_eq!(
        (&film["attempt"], &film["usage"]["state"]),
        (&json!(2), &json!("posted")),
        "{film}"
    );
    assert_eq!(
        large.steps(),
        STEPS - REPLAYS - 1,
        "the rest alone is done elsewhere"
    );
    assert!(
        bytes.starts_with(b"\0\0\0") && film["error"].is_null(),
        "{film}"
    );

    // Another one of its size waits for the larger card, though the small one is free and has the memory that
    // is foretold.
    farm.order("large", "cordon");
    let second = farm.submit("2");
    let waiting = wait("a reason", || {
        video(&farm.api, &second).filter(|film| !film["reason"].is_null())
    });
    assert_eq!(waiting["status"], "queued", "{waiting}");
    // The agent lives, and takes what is smaller.
    let shorter = farm.submit("1");
    let (film, _) = wait_for_film(&farm.api, &shorter);
    assert_eq!(film["attempt"], 1, "{film}");
    assert_eq!(
        small.attempts("failed"),
        1,
        "nothing was tried again where it does not fit"
    );
    assert_eq!(small.steps(), REPLAYS + 1 + STEPS);
    let waiting = video(&farm.api, &second).expect("it answers");
    assert_eq!(waiting["status"], "queued", "{waiting}");

    farm.order("large", "uncordon");
    let (film, _) = wait_for_film(&farm.api, &second);
    assert_eq!(film["attempt"], 1, "{film}");
    small
        .leave(&farm)
        .expect("an agent that ran out of memory leaves as any other");
    large.leave(&farm).expect("it leaves");
    farm.end(3);
}

#[test]
fn an_agent_whose_card_is_lost_ends_with_its_reason_and_its_film_is_made_elsewhere_once() {
    let farm = Farm::start();
    let (broken, whole) = (farm.node("broken", 8), farm.node("whole", 8));
    farm.order("whole", "cordon");
    broken.machine.arm_replay(REPLAYS, Fault::Lost);
    let id = farm.submit("2");
    let Node { agent, .. } = broken;
    let lost = farm
        .runtime
        .block_on(agent.join())
        .expect_err("it cannot go on");
    assert!(matches!(lost, AgentError::DeviceLost(_)), "{lost}");
    let told = agent::client::chain(&lost);
    assert!(
        told.contains("start the agent again") && told.contains("CUDA_ERROR_LAUNCH_FAILED"),
        "{told}"
    );

    let left = wait("its leave", || {
        let (_, node) = farm.api.get("/organization/nodes/broken")?;
        Some(node).filter(|node| node["state"] != "online")
    });
    assert_ne!(left["devices"][0]["state"], "busy", "{left}");
    let film = video(&farm.api, &id).expect("it answers");
    assert_ne!(film["status"], "failed", "{film}");
    farm.order("whole", "uncordon");
    let (film, _) = wait_for_film(&farm.api, &id);
    assert_eq!(
        (&film["attempt"], &film["usage"]["state"]),
        (&json!(2), &json!("posted")),
        "{film}"
    );
    // What a card saved shortly before it failed is not trusted.
    assert_eq!(whole.steps(), STEPS);
    assert_eq!(farm.notice("poison"), None);
    whole.leave(&farm).expect("it leaves");
    farm.end(1);
}

#[test]
fn a_card_with_memory_for_one_set_of_weights_renders_with_two_and_refuses_nothing() {
    let folder = agent::catalogue::find_builtin().expect("the built-in model");
    let roomy = Nowhere::with_memory("Card", (8, 0), 8 << 30);
    let roomy = Device::cuda(Gpu::new(Arc::new(roomy)), 1).expect("a thread");
    let kept = (8 << 30) - roomy.free_bytes().expect("it tells");
    let weights = diffusion::Weights::open(&folder, &roomy).expect("they open");
    let recipe = diffusion::Recipe {
        width: 64,
        height: 64,
        frames: 1 + weights.info().fps,
        ..diffusion::Recipe::with_defaults("", 1, weights.info())
    };
    let plan = weights.plan(&recipe).expect("it can be made");
    // A set and a run have room, another half of a set too.
    let bytes = kept + plan.memory_least_bytes + weights.bytes() / 2;

    let farm = Farm::start();
    let other = format!("other={}", folder.display());
    let node = farm.node_with("node", bytes, vec![other]);
    let films: Vec<String> = ["other", "builtin", "builtin", "other"]
        .map(|model| farm.submit_to(model, "1"))
        .into();
    for film in &films {
        let (film, _) = wait_for_film(&farm.api, film);
        assert_eq!(film["attempt"], 1, "{film}");
    }
    assert_eq!((node.attempts("failed"), node.steps()), (0, 4 * STEPS));
    node.leave(&farm).expect("it leaves");
    farm.end(films.len());
}
