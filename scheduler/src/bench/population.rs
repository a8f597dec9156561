//! Who uses the measured farm: orgs with projects, nodes with devices, films of one shot.

use schemas::{
    AccountId, AgentId, BootId, Digest, GpuMicros, JobId, TaskId,
    agent::{
        Device, Heartbeat, Hello, LeaseOffer, LeaseProgress, LeaseRequest, Outcome, Phase, Report,
        WeightsInfo,
    },
    task::{Artefact, AssembleSpec, RenderSpec, TaskKind, TaskSpec, Variant},
};
use uuid::Uuid;

use super::Plan;
use crate::core::{
    agent::agent_id,
    rows::{AccountRow, Band, Level, NewJob, NewTask},
};

const WEIGHTS: &str = "ltx-2";
const STEPS: u32 = 40;
const PROJECTS: u128 = 1 << 64;
const JOBS: u128 = 1 << 80;
const TASKS: u128 = 1 << 96;

/// Orgs first, then their projects.
pub fn accounts(plan: &Plan) -> Vec<AccountRow> {
    let row = |id, parent, level, name| AccountRow {
        id,
        parent,
        level,
        name,
        created_at_ms: 0,
        weight: 1,
    };
    let org = |n: u64| AccountId(Uuid::from_u128(u128::from(n) + 1));
    let orgs = (0..plan.orgs).map(|n| row(org(n), None, Level::Org, format!("org-{n}")));
    let projects = (0..plan.accounts).map(|n| {
        let parent = Some(org(n % plan.orgs));
        row(project(plan, n), parent, Level::Project, format!("p-{n}"))
    });
    orgs.chain(projects).collect()
}

/// The project of the `n`-th job.
pub fn project(plan: &Plan, n: u64) -> AccountId {
    AccountId(Uuid::from_u128(PROJECTS + u128::from(n % plan.accounts)))
}

/// A film of one shot, with words of its own.
pub fn job(plan: &Plan, n: u64, band: Band) -> NewJob {
    let task = |index: u128, spec, inputs, estimate| NewTask {
        id: TaskId(Uuid::from_u128(TASKS + u128::from(n) * 2 + index)),
        spec,
        inputs,
        estimate: GpuMicros(estimate),
        reads: Vec::new(),
    };
    let prompt = format!("take {n}: a red ball falls from a table, rolls to the left and stops");
    let request = serde_json::json!({
        "prompt": prompt, "model": "sora-2", "seconds": "10", "size": "1280x720",
    });
    NewJob {
        id: JobId(Uuid::from_u128(JOBS + u128::from(n))),
        project: project(plan, n),
        request,
        seed: n,
        band,
        tasks: vec![
            task(0, TaskSpec::Render(render(prompt, n)), vec![], 90_000_000),
            task(1, TaskSpec::Assemble(assemble()), vec![0], 3_000_000),
        ],
        hold: GpuMicros(150_000_000),
        rank: 0,
        window: None,
        user: None,
        not_before_ms: None,
        deadline_ms: None,
        dedupe: None,
        idempotency: None,
    }
}

fn render(prompt: String, seed: u64) -> RenderSpec {
    RenderSpec {
        shot: 0,
        weights: WEIGHTS.into(),
        prompt,
        negative_prompt: String::new(),
        width: 1280,
        height: 704,
        frames: 241,
        fps: 24,
        seed,
        steps: None,
        guidance_scale: None,
        first_frame: None,
        given: None,
        devices: 1,
    }
}

fn assemble() -> AssembleSpec {
    AssembleSpec {
        shots: 1,
        width: 1280,
        height: 720,
        fps: 24,
        shot_frames: vec![240],
        before: None,
    }
}

fn name(node: u64) -> String {
    format!("node-{node}")
}

pub fn agent(node: u64) -> AgentId {
    agent_id(&name(node))
}

const BOOT: BootId = BootId(Uuid::from_u128(1));

pub fn hello(plan: &Plan, node: u64) -> Hello {
    let device = |index| Device {
        index,
        class: "NVIDIA H100".into(),
        memory_bytes: 80 << 30,
    };
    Hello {
        name: name(node),
        boot: BOOT,
        version: "bench".into(),
        devices: (0..plan.devices_a_node).map(device).collect(),
        weights: vec![weights()],
        ffmpeg: Some("5.1".into()),
        group_max: 1,
    }
}

fn weights() -> WeightsInfo {
    WeightsInfo {
        name: WEIGHTS.into(),
        digest: Digest::of(WEIGHTS.as_bytes()),
        title: "LTX-2".into(),
        sizes: vec![(1280, 704)],
        fps: 24,
        frames_default: 241,
        frames_max: 481,
        frames_step: 8,
        steps: STEPS,
        vocabulary: Vec::new(),
    }
}

/// Every device of the farm, in turn.
pub fn poll(plan: &Plan, n: u64) -> LeaseRequest {
    let devices = u64::from(plan.devices_a_node);
    LeaseRequest {
        agent: agent(n / devices % plan.nodes),
        boot: BOOT,
        device: (n % devices) as u32,
        poll_id: n,
    }
}

/// A node in the middle of what it works at.
pub fn beat(node: u64, offers: &[LeaseOffer], step: u32) -> Heartbeat {
    let progress = |offer: &LeaseOffer| LeaseProgress {
        lease: offer.lease,
        phase: Phase::Denoise,
        step,
        steps: STEPS,
        step_ms: Some(2_000),
    };
    Heartbeat {
        agent: agent(node),
        boot: BOOT,
        term: 1,
        leases: offers.iter().map(progress).collect(),
        devices: Vec::new(),
    }
}

pub fn success(offer: &LeaseOffer) -> Report {
    let variants: &[Variant] = match offer.spec.kind() {
        TaskKind::Render => &[Variant::Shot],
        TaskKind::Assemble => &[Variant::Film, Variant::Thumbnail, Variant::Spritesheet],
    };
    let artefact = |variant: &Variant| Artefact {
        variant: *variant,
        digest: Digest::of(offer.lease.task.0.as_bytes()),
        bytes: 1,
    };
    Report {
        lease: offer.lease,
        outcome: Outcome::Succeeded {
            artefacts: variants.iter().map(artefact).collect(),
            device_us: 80_000_000,
            steps_run: STEPS,
            times: Default::default(),
            memory: Default::default(),
        },
    }
}
