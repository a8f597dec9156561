//! A simulated agent: it knows the protocol and how long things take, nothing else.

use schemas::{
    AgentId, BootId, Digest, JobId,
    agent::{
        CheckpointRef, Device, Heartbeat, Hello, LeaseOffer, LeaseProgress, LeaseRef, LeaseRequest,
        Outcome, Phase, Report,
    },
    task::{Artefact, TaskKind, TaskSpec, Variant},
};
use uuid::Uuid;

use super::{dice::Dice, scenario::NodeGroup};
use crate::core::group::GROUP_MAX;

/// Load, encode the prompt: part of a shot's time before its first step.
const ENCODE_SHARE: f64 = 0.05;
/// Decode, mux and upload: part of a shot's time after its last step.
const DECODE_SHARE: f64 = 0.10;
/// FFmpeg joins a film in this many seconds of the reference device, and this many more a shot.
const ASSEMBLE_S: f64 = 1.0;
const JOIN_S: f64 = 0.5;

pub struct Node {
    pub name: String,
    pub class: String,
    pub speed: f64,
    pub group: usize,
    pub id: AgentId,
    pub boot: BootId,
    pub up: bool,
    /// Starts so far.
    pub life: u64,
    pub devices: Vec<Slot>,
}

/// One device of a node.
#[derive(Default)]
pub struct Slot {
    pub work: Option<Work>,
    poll_id: u64,
    /// Tells an end that was planned for earlier work from one that counts.
    pub epoch: u64,
}

/// What a device does now.
pub struct Work {
    pub lease: LeaseRef,
    pub job: JobId,
    kind: TaskKind,
    shots: u32,
    began_ms: i64,
    encode_ms: i64,
    step_ms: f64,
    decode_ms: i64,
    first_step: u32,
    steps: u32,
    pub devices: u32,
    pub yields: bool,
}

impl Node {
    pub fn new(index: usize, group_index: usize, group: &NodeGroup) -> Self {
        let name = format!("{}-{index}", group.class);
        Self {
            id: crate::core::agent::agent_id(&name),
            name,
            class: group.class.clone(),
            speed: group.speed,
            group: group_index,
            boot: BootId(Uuid::nil()),
            up: false,
            life: 0,
            devices: (0..group.devices).map(|_| Slot::default()).collect(),
        }
    }

    /// A new life.
    pub fn start(&mut self) -> Hello {
        self.life += 1;
        self.boot = BootId(Uuid::from_u64_pair(self.life, self.id.0.as_u128() as u64));
        self.up = true;
        let device = |index| Device {
            index,
            class: self.class.clone(),
            memory_bytes: 80 << 30,
        };
        Hello {
            name: self.name.clone(),
            boot: self.boot,
            version: env!("CARGO_PKG_VERSION").into(),
            devices: (0..self.devices.len() as u32).map(device).collect(),
            weights: vec![super::world::weights()],
            ffmpeg: Some("simulated".into()),
            group_max: GROUP_MAX as u32,
        }
    }

    pub fn poll(&mut self, device: usize) -> LeaseRequest {
        let slot = &mut self.devices[device];
        slot.poll_id += 1;
        LeaseRequest {
            agent: self.id,
            boot: self.boot,
            device: device as u32,
            poll_id: slot.poll_id,
        }
    }

    pub fn beat(&self, term: u64, now: i64) -> Heartbeat {
        let works = self.devices.iter().filter_map(|slot| slot.work.as_ref());
        Heartbeat {
            agent: self.id,
            boot: self.boot,
            term,
            leases: works.map(|work| work.progress(now)).collect(),
            devices: Vec::new(),
        }
    }
}

impl Slot {
    pub fn stop(&mut self) -> Option<Work> {
        self.epoch += 1;
        self.work.take()
    }
}

impl Work {
    /// `shot_s` is what the shot takes on the reference device.
    pub fn new(
        offer: &LeaseOffer,
        shot_s: f64,
        speed: f64,
        spread: f64,
        dice: &mut Dice,
        now: i64,
    ) -> Self {
        let chance = dice.spread(spread) / speed;
        let (shots, steps, total_s) = match &offer.spec {
            TaskSpec::Render(spec) => {
                let share_s = shot_s / f64::from(spec.devices);
                (1, spec.steps.unwrap_or(1), share_s)
            }
            TaskSpec::Assemble(spec) => {
                (spec.shots, 0, ASSEMBLE_S + JOIN_S * f64::from(spec.shots))
            }
        };
        let total_ms = total_s * 1000.0 * chance;
        let denoise_ms = total_ms * (1.0 - ENCODE_SHARE - DECODE_SHARE);
        Self {
            lease: offer.lease,
            job: offer.job,
            kind: offer.spec.kind(),
            shots,
            began_ms: now,
            encode_ms: (total_ms * ENCODE_SHARE) as i64,
            step_ms: denoise_ms / f64::from(steps.max(1)),
            decode_ms: (total_ms * DECODE_SHARE) as i64,
            first_step: offer.checkpoint.map_or(0, |at| at.step),
            steps,
            devices: offer.spec.devices(),
            yields: false,
        }
    }

    pub fn ends_ms(&self) -> i64 {
        let steps = match self.kind {
            TaskKind::Render => self.steps - self.first_step,
            TaskKind::Assemble => 1,
        };
        self.began_ms + self.encode_ms + (self.step_ms * f64::from(steps)) as i64 + self.decode_ms
    }

    /// Steps done at `now`, counted from the first of the shot.
    fn step(&self, now: i64) -> u32 {
        let run = (now - self.began_ms - self.encode_ms).max(0) as f64 / self.step_ms.max(1e-3);
        (self.first_step + run as u32).min(self.steps)
    }

    /// When the step that runs at `now` ends, at least one millisecond later.
    pub fn boundary_ms(&self, now: i64) -> i64 {
        let done = f64::from(self.step(now) - self.first_step + 1);
        let at = self.began_ms + self.encode_ms + (done * self.step_ms).ceil() as i64;
        at.clamp(now + 1, self.ends_ms().max(now + 1))
    }

    fn phase(&self, now: i64) -> Phase {
        match self.kind {
            TaskKind::Assemble => Phase::Mux,
            TaskKind::Render if now < self.began_ms + self.encode_ms => Phase::Encode,
            TaskKind::Render if self.step(now) < self.steps => Phase::Denoise,
            TaskKind::Render => Phase::Decode,
        }
    }

    fn progress(&self, now: i64) -> LeaseProgress {
        LeaseProgress {
            lease: self.lease,
            phase: self.phase(now),
            step: self.step(now),
            steps: self.steps,
            step_ms: Some(self.step_ms as u32),
        }
    }

    fn device_us(&self, now: i64) -> u64 {
        u64::try_from((now - self.began_ms).max(0) * 1000).expect("not negative")
    }

    pub fn succeeded(&self, now: i64) -> Report {
        let file = |variant: Variant| Artefact {
            variant,
            digest: Digest::of(format!("{} {}", self.lease.task, variant.name()).as_bytes()),
            bytes: u64::from(self.shots) << 20,
        };
        let artefacts = match self.kind {
            TaskKind::Render => vec![file(Variant::Shot)],
            TaskKind::Assemble => vec![
                file(Variant::Film),
                file(Variant::Thumbnail),
                file(Variant::Spritesheet),
            ],
        };
        self.report(Outcome::Succeeded {
            artefacts,
            device_us: self.device_us(now),
            steps_run: self.steps - self.first_step,
            times: Default::default(),
            memory: Default::default(),
        })
    }

    /// What it reports when it was told to yield and the step has ended.
    pub fn released(&self, now: i64) -> Report {
        let step = self.step(now);
        let checkpoint = (step > self.first_step).then(|| CheckpointRef {
            step,
            digest: Digest::of(format!("{} step {step}", self.lease.task).as_bytes()),
        });
        self.report(Outcome::Released {
            checkpoint,
            reason: "told to yield".into(),
            device_us: self.device_us(now),
        })
    }

    fn report(&self, outcome: Outcome) -> Report {
        Report {
            lease: self.lease,
            outcome,
        }
    }
}
