//! Cards that run out of memory or are lost in the middle of a film: what the farm is told, what is kept, and that
//! the process lives or ends as it should. The card computes nothing here; `diffusion/tests/card.rs` has one that does.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kernels::KernelError;
use kernels::cuda::{Fault, Faulty, Gpu, Nowhere};
use schemas::{JobId, agent::LeaseAnswer, task::TaskSpec};

use super::*;
use crate::{held::Leases, scripted::Scripted};

const JOB: &str = "video_01a204f270e977dbaafb9f87995ca914ba495b0b877f76f5";
const STEPS: u32 = 4;

/// A node whose card is `machine`; it saves every step.
fn node() -> (Arc<Faulty>, Arc<Studio>) {
    let machine = Arc::new(Faulty::new(Arc::new(Nowhere::new((8, 0)))));
    let device = Device::cuda(Gpu::new(machine.clone()), 1).unwrap();
    let studio = Studio {
        catalogue: Catalogue::open(&[], &device).unwrap(),
        ffmpeg: Ffmpeg::find(None).unwrap(),
        settings: Settings {
            checkpoint_steps: 1,
            ..Settings::default()
        },
        metrics: Metrics::new(),
        tails: Default::default(),
    };
    (machine, Arc::new(studio))
}

fn spec(weights: &Weights) -> RenderSpec {
    let Recipe {
        prompt,
        negative_prompt,
        width,
        height,
        frames,
        fps,
        seed,
        ..
    } = short(weights, 1);
    RenderSpec {
        shot: 0,
        weights: "builtin".into(),
        prompt,
        negative_prompt,
        width,
        height,
        frames,
        fps,
        seed,
        steps: Some(STEPS),
        guidance_scale: None,
        first_frame: None,
        given: None,
        devices: 1,
    }
}

/// The first step is launched kernel by kernel, each later one is a record: the third breaks.
const REPLAYS: u64 = 1;

/// The checkpoint after the second step of an unharmed run.
fn unharmed(weights: &Weights) -> Checkpoint {
    let recipe = recipe(&spec(weights), Given::default());
    let mut found = None;
    let mut on_step = |progress: &Progress<'_>| {
        if progress.step == 2 {
            found.get_or_insert(progress.checkpoint());
        }
        Control::Continue
    };
    let mut clip = Clip::default();
    diffusion::generate(weights, &recipe, Start::Fresh, &mut on_step, &mut clip).unwrap();
    found.unwrap()
}

/// A scheduler that offers the shot as attempts 1 and 2, and then lets the node go.
fn scheduler(spec: RenderSpec, leases: &Arc<Leases>) -> Scripted {
    let (leases, polls) = (Arc::clone(leases), AtomicU64::new(0));
    serve(move |path, _| match path {
        "hello" => {
            Some(json!({"agent": ID, "term": 1, "heartbeat_ms": 1_000, "lease_ttl_ms": 3_600_000}))
        }
        "lease" => match polls.fetch_add(1, Relaxed) + 1 {
            attempt @ 1..=2 => {
                let offer = LeaseOffer {
                    lease: LeaseRef {
                        attempt: attempt as u32,
                        ..held().lease
                    },
                    job: JOB.parse::<JobId>().unwrap(),
                    ttl_ms: 3_600_000,
                    expires_at_ms: 0,
                    spec: TaskSpec::Render(spec.clone()),
                    inputs: Vec::new(),
                    checkpoint: None,
                    devices: vec![0],
                };
                Some(serde_json::to_value(LeaseAnswer::Offer(Box::new(offer))).unwrap())
            }
            _ => {
                leases.drain();
                Some(json!({"answer": "idle", "why": "test"}))
            }
        },
        _ => Some(json!({"answer": "accepted"})),
    })
}

/// Works until the scheduler lets go, or the device is lost.
async fn work(
    studio: &Arc<Studio>,
    server: &Scripted,
    leases: Arc<Leases>,
) -> Result<(), KernelError> {
    let scratch = tempfile::tempdir().unwrap();
    let worker = server.worker(0, studio, leases, scratch.path()).await;
    let ended = worker.run().await;
    let left = std::fs::read_dir(scratch.path()).unwrap().count();
    assert_eq!(left, 0, "scratch of an attempt is left");
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_without_memory_ends_its_attempt_with_the_last_step_kept_and_works_on() {
    let (machine, studio) = node();
    let weights = Arc::clone(&studio.catalogue.get("builtin").unwrap().weights);
    let kept = unharmed(&weights);
    let before = machine.allocated_bytes();
    machine.arm_replay(REPLAYS, Fault::OutOfMemory);
    let leases = Arc::new(Leases::default());
    let server = scheduler(spec(&weights), &leases);
    work(&studio, &server, leases).await.unwrap();

    let reports = server.bodies("report");
    let outcomes: Vec<_> = reports.iter().map(|report| &report["outcome"]).collect();
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    let broken = outcomes[0];
    assert_eq!(
        (&broken["outcome"], &broken["cause"]),
        (&json!("failed"), &json!("out_of_memory"))
    );
    let message = broken["message"].as_str().unwrap();
    assert!(message.starts_with("out of memory"), "{message}");
    assert!(
        broken["peak_bytes"].as_u64().unwrap() > 1 << 20,
        "what it had by then: {broken}"
    );
    assert_eq!(outcomes[1]["outcome"], "succeeded", "{outcomes:?}");
    assert_eq!(machine.allocated_bytes(), before, "bytes of a run are kept");

    let saved = server.bodies("checkpoint").into_iter();
    let of_first: Vec<_> = saved
        .filter(|report| report["lease"]["attempt"] == 1)
        .collect();
    let last = &of_first.last().expect("a step was saved")["checkpoint"];
    let digest = Digest::of(&kept.to_bytes()).to_string();
    assert_eq!(
        (&last["step"], &last["digest"]),
        (&json!(2), &json!(digest))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_is_lost_is_told_as_its_fault_and_ends_the_agent() {
    let (machine, studio) = node();
    let weights = Arc::clone(&studio.catalogue.get("builtin").unwrap().weights);
    machine.arm_replay(REPLAYS, Fault::Lost);
    let leases = Arc::new(Leases::default());
    let server = scheduler(spec(&weights), &leases);
    let lost = work(&studio, &server, Arc::clone(&leases))
        .await
        .unwrap_err();
    assert!(matches!(lost, KernelError::Driver { .. }), "{lost}");
    assert!(
        leases.draining.is_cancelled(),
        "nothing else is begun on the node"
    );

    let reports = server.bodies("report");
    assert_eq!(reports.len(), 1, "{reports:?}");
    let outcome = &reports[0]["outcome"];
    assert_eq!(
        (&outcome["outcome"], &outcome["cause"]),
        (&json!("failed"), &json!("device_fault"))
    );
    assert_eq!(
        server.bodies("lease").len(),
        1,
        "no work is asked for on a lost card"
    );
}
