//! Scripts: one line a command, one line what came of it. Each arrow and each refusal of the tables.

mod agents;
mod backlog;
mod budgets;
mod capacity;
mod failures;
mod films;
mod forward;
mod health;
mod leases;
mod memory;
mod order;
mod pause;
mod preemption;
mod prices;
mod queue;
mod quota;
mod submits;
mod wide;
mod windows;

use std::{collections::BTreeMap, fmt::Write as _};

use expect_test::Expect;
use schemas::{
    BootId, Digest, JobId, TaskId,
    agent::{
        CheckpointRef, CheckpointReport, Device, DeviceSample, FailureClass, Heartbeat,
        HeartbeatAnswer, Hello, LeaseProgress, LeaseRef, LeaseRequest, MemoryTold,
        Outcome as Ending, ProbeOutcome, ProbeReport, Report, WriteAnswer,
    },
    task::{Artefact, Variant},
};
use uuid::Uuid;

use super::{
    Farm,
    agent::agent_id,
    command::{Command, LeaseReply, Reply, Submitted},
    event::EventRow,
    limits::Limits,
    model::{FOREIGN, Model, PROJECT, SECOND, accounts, job, stretch, weights, widen},
    nodes::{NodeChange, NodeOrder},
    rows::{Dedupe, Idempotency},
    users::User,
};

/// A farm, the store that follows it, and what the script has seen.
struct World {
    farm: Farm,
    model: Model,
    limits: Limits,
    now: i64,
    jobs: u128,
    polls: BTreeMap<String, u64>,
    boots: BTreeMap<String, u128>,
    leases: BTreeMap<(TaskId, u32), LeaseRef>,
}

fn check(script: &str, expected: Expect) {
    let mut world = World::new();
    let mut told = String::new();
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let said = world.run(line);
        world.model.check(&world.farm, &world.limits, world.now);
        writeln!(told, "{line:<26}{said}").unwrap();
    }
    expected.assert_eq(&told);
}

/// The log of a script, and the limits that it was written under.
pub(crate) fn log(script: &str) -> (Vec<EventRow>, Limits) {
    let mut world = World::new();
    for line in script.lines().map(str::trim) {
        world.run(line);
    }
    (world.model.events, world.limits)
}

impl World {
    fn new() -> Self {
        let mut limits = Limits::default();
        for (name, window) in windows::all() {
            limits.windows.insert(name.into(), window);
        }
        let mut world = Self {
            farm: Farm::empty(limits.clone(), 1),
            model: Model {
                term: 1,
                ..Model::default()
            },
            limits,
            now: 1_000_000,
            jobs: 0,
            polls: BTreeMap::new(),
            boots: BTreeMap::new(),
            leases: BTreeMap::new(),
        };
        for row in accounts() {
            world.apply(Command::AddAccount(row));
        }
        world
    }

    fn apply(&mut self, command: Command) -> Reply {
        let outcome = self.farm.apply(command, self.now);
        self.model.commit(self.farm.seq(), &outcome.writes);
        outcome.reply
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let word = |n: usize| words.get(n).copied().unwrap_or("");
        match word(0) {
            "job" => self.submit(&words),
            "hello" => self.hello(word(1), &words[2..]),
            "reboot" => {
                *self.boots.entry(word(1).into()).or_insert(1) += 1;
                self.hello(word(1), &words[2..])
            }
            "old-hello" => {
                let boot = self.boots[word(1)] - 1;
                self.hello_as(word(1), boot, &[])
            }
            "grant" => {
                *self.polls.entry(word(1).into()).or_default() += 1;
                self.poll(word(1))
            }
            "poll-again" => self.poll(word(1)),
            "beat" => self.beat(word(1), &words[2..]),
            "checkpoint" => self.checkpoint(word(1), word(2)),
            "succeed" => self.succeed(word(1), &words[2.min(words.len())..]),
            "release" => self.release(word(1), word(2)),
            "fail" => self.fail(word(1), word(2), &words[3.min(words.len())..].join(" ")),
            "node" => self.order_node(word(1), word(2), word(3)),
            "probe" => self.probe(word(1), word(2)),
            "notices" => self.notices(),
            "condition" => self.model.agents[&agent_id(word(1))].condition().into(),
            "needs" => format!(
                "{:?}",
                self.model.tasks[&self.task_id(word(1))]
                    .memory_bytes
                    .map(|b| b >> 30)
            ),
            "preempted" => self.model.tasks[&self.task_id(word(1))]
                .preemptions
                .to_string(),
            "minutes" => self.minutes(),
            "cancel" => format!(
                "{:?}",
                self.apply(Command::Cancel {
                    project: PROJECT,
                    job: self.job_id(word(1))
                })
            ),
            "pause" => self.pause(word(1)),
            "resume" => self.resume(word(1)),
            "delete" => format!(
                "{:?}",
                self.apply(Command::Delete {
                    project: PROJECT,
                    job: self.job_id(word(1))
                })
            ),
            "drain" => {
                self.apply(Command::Drain {
                    agent: agent_id(word(1)),
                    boot: None,
                });
                self.agent_state(word(1))
            }
            "wait" => {
                self.now += word(1).parse::<i64>().unwrap();
                self.apply(Command::Tick);
                self.states()
            }
            "away" => {
                self.now += word(1).parse::<i64>().unwrap();
                String::new()
            }
            "claims" => {
                let after_ms = word(1).parse().unwrap();
                self.farm.limits.claim_after_ms = after_ms;
                self.limits.claim_after_ms = after_ms;
                String::new()
            }
            "saved" => format!("{:?}", self.model.jobs[&self.job_id(word(1))].saved),
            "crash" => {
                self.farm = self.model.fold(&self.limits, self.now);
                self.states()
            }
            "show" => self.states(),
            "job-state" => self.job_state(word(1)),
            "agent" => self.agent_state(word(1)),
            "why" => self.why(word(1)),
            "give" | "limit" | "money" | "budget" | "pool" | "told" => self.run_quota(&words),
            other => panic!("no command {other}"),
        }
    }

    fn pause(&mut self, job: &str) -> String {
        let job = self.job_id(job);
        self.apply(Command::Pause {
            project: PROJECT,
            job,
            by: "ann".into(),
        });
        self.states()
    }

    fn resume(&mut self, job: &str) -> String {
        let job = self.job_id(job);
        self.apply(Command::Resume {
            project: PROJECT,
            job,
        });
        self.states()
    }

    fn submit(&mut self, words: &[&str]) -> String {
        self.jobs += 1;
        let mut new = job(self.jobs, 1);
        for word in &words[1..] {
            match word.split_once('=').unwrap() {
                ("shots", n) => new = job(self.jobs, n.parse().unwrap()),
                ("retry", n) => {
                    new.dedupe = Some(Dedupe {
                        fingerprint: "f".into(),
                        retry_count: n.parse().unwrap(),
                    });
                }
                ("key", print) => {
                    new.idempotency = Some(Idempotency {
                        scope: "k".into(),
                        fingerprint: print.into(),
                    });
                }
                ("band", band) => new.band = serde_json::from_value(band.into()).unwrap(),
                ("start", window) => new.window = Some(window.into()),
                ("user", name) => new.user = Some(User::new(PROJECT, "project", name)),
                ("after", ms) => new.not_before_ms = Some(ms.parse().unwrap()),
                ("deadline", ms) => new.deadline_ms = Some(ms.parse().unwrap()),
                ("devices", n) => widen(&mut new, n.parse().unwrap()),
                ("frames", n) => stretch(&mut new, n.parse().unwrap()),
                ("rank", rank) => new.rank = rank.parse().unwrap(),
                ("of", "second") => new.project = SECOND,
                ("of", "foreign") => new.project = FOREIGN,
                other => panic!("{other:?}"),
            }
        }
        match self.apply(Command::Submit(Box::new(new))) {
            Reply::Submitted(Submitted::Created(id)) => format!("created {}", id.0.as_u128()),
            Reply::Submitted(Submitted::Deduplicated(id)) => format!("was {}", id.0.as_u128()),
            Reply::Submitted(Submitted::Replayed(id)) => format!("replays {}", id.0.as_u128()),
            Reply::Submitted(Submitted::Refused(why)) => format!("refused: {why}"),
            other => format!("{other:?}"),
        }
    }

    fn hello(&mut self, name: &str, traits: &[&str]) -> String {
        let boot = *self.boots.entry(name.into()).or_insert(1);
        self.hello_as(name, boot, traits)
    }

    fn hello_as(&mut self, name: &str, boot: u128, traits: &[&str]) -> String {
        let has = |word| traits.contains(&word);
        let number = |key: &str| {
            let values = traits.iter().find_map(|t| t.strip_prefix(key));
            values.map_or(1, |n| n.parse::<u64>().unwrap())
        };
        let named = traits.iter().find_map(|t| t.strip_prefix("class="));
        let class = named.unwrap_or(if has("gpu") { "H200" } else { "cpu" });
        let device = |index: u64| Device {
            index: index as u32,
            class: class.into(),
            memory_bytes: number("gib=") << 30,
        };
        let hello = Hello {
            name: name.into(),
            boot: BootId(Uuid::from_u128(boot)),
            version: "test".into(),
            devices: (0..number("devices=")).map(device).collect(),
            weights: if has("no-weights") {
                vec![]
            } else {
                vec![weights()]
            },
            ffmpeg: (!has("no-ffmpeg")).then(|| "5.1".into()),
            group_max: number("groups=") as u32,
        };
        match self.apply(Command::Hello(Box::new(hello))) {
            Reply::Welcomed(Ok(_)) => self.agent_state(name),
            Reply::Welcomed(Err(why)) => format!("refused: {why}"),
            other => format!("{other:?}"),
        }
    }

    fn boot(&self, name: &str) -> BootId {
        BootId(Uuid::from_u128(self.boots.get(name).copied().unwrap_or(1)))
    }

    /// `a` is device 0 of node a, `a/1` device 1.
    fn poll(&mut self, at: &str) -> String {
        let (name, device) = at.split_once('/').unwrap_or((at, "0"));
        let request = LeaseRequest {
            agent: agent_id(name),
            boot: self.boot(name),
            device: device.parse().unwrap(),
            poll_id: self.polls[at],
        };
        match self.apply(Command::Lease(request)) {
            Reply::Leased(LeaseReply::Offer { offer, .. }) => {
                let lease = offer.lease;
                self.leases.insert((lease.task, lease.attempt), lease);
                let from = offer.checkpoint.map_or(0, |c| c.step);
                let inputs = offer.inputs.len();
                let group = match &*offer.devices {
                    [_] => String::new(),
                    devices => format!(", on {devices:?}"),
                };
                format!(
                    "{}#{} Leased, from step {from}, {inputs} inputs{group}",
                    self.task_name(lease.task),
                    lease.attempt
                )
            }
            Reply::Leased(LeaseReply::Idle(why)) => format!("idle: {}", why.code()),
            Reply::Leased(LeaseReply::Probe) => "probe".into(),
            Reply::Leased(LeaseReply::UnknownAgent) => "unknown agent".into(),
            other => format!("{other:?}"),
        }
    }

    /// `s0#1` is attempt 1 of the first shot, `film#1` of the film; a leading `2/` names job 2.
    fn lease(&self, name: &str) -> LeaseRef {
        let (task, attempt) = name.split_once('#').unwrap();
        let (task, attempt) = (self.task_id(task), attempt.parse().unwrap());
        let unknown = LeaseRef {
            task,
            attempt,
            term: 1,
            agent: agent_id("a"),
            boot: self.boot("a"),
        };
        self.leases
            .get(&(task, attempt))
            .copied()
            .unwrap_or(unknown)
    }

    fn task_id(&self, name: &str) -> TaskId {
        let (job, name) = name.split_once('/').unwrap_or(("1", name));
        let job: u128 = job.parse().unwrap();
        let shots = self
            .model
            .tasks
            .values()
            .filter(|t| t.job.0.as_u128() == job);
        let index = match name {
            "film" => shots.count() as u128 - 1,
            shot => shot.strip_prefix('s').unwrap_or("0").parse().unwrap(),
        };
        TaskId(Uuid::from_u128(job * 100 + index))
    }

    fn task_name(&self, id: TaskId) -> String {
        let row = &self.model.tasks[&id];
        let job = row.job.0.as_u128();
        let prefix = if job == 1 {
            String::new()
        } else {
            format!("{job}/")
        };
        match row.kind() {
            schemas::task::TaskKind::Render => format!("{prefix}s{}", row.index),
            schemas::task::TaskKind::Assemble => format!("{prefix}film"),
        }
    }

    fn job_id(&self, word: &str) -> JobId {
        JobId(Uuid::from_u128(word.parse().unwrap_or(1)))
    }

    fn written(&mut self, lease: LeaseRef, reply: Reply) -> String {
        match reply {
            Reply::Written(WriteAnswer::Accepted) => self.task_state(lease.task),
            Reply::Written(WriteAnswer::Duplicate) => "dup".into(),
            Reply::Written(WriteAnswer::Refused { why }) => format!("refused: {why}"),
            other => format!("{other:?}"),
        }
    }

    fn checkpoint(&mut self, name: &str, step: &str) -> String {
        let (lease, checkpoint) = (self.lease(name), checkpoint(step));
        let report = CheckpointReport { lease, checkpoint };
        let reply = self.apply(Command::Checkpoint(report));
        self.written(lease, reply)
    }

    fn report(&mut self, lease: LeaseRef, outcome: Ending) -> String {
        let report = Box::new(Report { lease, outcome });
        let reply = self.apply(Command::Report(report));
        self.written(lease, reply)
    }

    /// `succeed s0#1 [SALT] [told=GIB] [peak=GIB]`, of memory.
    fn succeed(&mut self, name: &str, words: &[&str]) -> String {
        let salt = words.iter().find(|word| !word.contains('='));
        let salt = salt.copied().unwrap_or("");
        let gib = |key: &str| {
            let value = words.iter().find_map(|word| word.strip_prefix(key));
            value.map(|gib| gib.parse::<u64>().unwrap() << 30)
        };
        let variants: &[Variant] = match name.contains("film") {
            true => &[Variant::Film, Variant::Thumbnail, Variant::Spritesheet],
            false => &[Variant::Shot],
        };
        let artefacts = variants.iter().map(|variant| Artefact {
            variant: *variant,
            digest: Digest::of(format!("{name}{salt}").as_bytes()),
            bytes: 9,
        });
        let outcome = Ending::Succeeded {
            artefacts: artefacts.skip(usize::from(salt == "nothing")).collect(),
            device_us: 4_000_000,
            steps_run: 8,
            times: Default::default(),
            memory: MemoryTold {
                foretold_bytes: gib("told="),
                peak_bytes: gib("peak="),
            },
        };
        self.report(self.lease(name), outcome)
    }

    /// Memory in whole GiB that a device must have for work like that of the first job.
    fn needed_gib(&self, class: &str) -> u64 {
        let spec = &self.model.tasks[&self.task_id("s0")].spec;
        self.farm.prices().room(spec).device_bytes(class) >> 30
    }

    fn release(&mut self, name: &str, step: &str) -> String {
        let outcome = Ending::Released {
            checkpoint: (!step.is_empty()).then(|| checkpoint(step)),
            reason: "told to".into(),
            device_us: 1_000_000,
        };
        self.report(self.lease(name), outcome)
    }

    /// `fail s0#1 CLASS [peak=GIB | MESSAGE]`
    fn fail(&mut self, name: &str, class: &str, rest: &str) -> String {
        let cause: FailureClass = serde_json::from_value(class.into()).unwrap();
        let peak_gib = rest
            .strip_prefix("peak=")
            .map(|n| n.parse::<u64>().unwrap());
        let outcome = Ending::Failed {
            cause,
            message: if rest.is_empty() { "it broke" } else { rest }.into(),
            peak_bytes: peak_gib.map(|gib| gib << 30),
        };
        self.report(self.lease(name), outcome)
    }

    /// `beat NODE [LEASE:STEP[:PHASE[:STEP_MS]]]… [READING=VALUE]…`
    fn beat(&mut self, name: &str, leases: &[&str]) -> String {
        let (said, leases): (Vec<&str>, Vec<&str>) = leases.iter().partition(|w| w.contains('='));
        let leases = leases.iter().map(|word| {
            let (lease, step) = word.split_once(':').unwrap();
            let (step, phase) = step.split_once(':').unwrap_or((step, "denoise"));
            let (phase, step_ms) = phase.split_once(':').unwrap_or((phase, "3000"));
            LeaseProgress {
                lease: self.lease(lease),
                phase: serde_json::from_value(phase.into()).unwrap(),
                step: step.parse().unwrap(),
                steps: 10,
                step_ms: Some(step_ms.parse().unwrap()),
            }
        });
        let beat = Heartbeat {
            agent: agent_id(name),
            boot: self.boot(name),
            term: 1,
            leases: leases.collect(),
            devices: samples(&said),
        };
        match self.apply(Command::Heartbeat(Box::new(beat))) {
            Reply::Beat(HeartbeatAnswer::Beat {
                directives, order, ..
            }) => {
                let mut said = format!("{order:?}");
                for directive in directives {
                    write!(said, " {:?}", directive.directive).unwrap();
                }
                said
            }
            Reply::Beat(HeartbeatAnswer::UnknownAgent) => "unknown agent".into(),
            other => format!("{other:?}"),
        }
    }

    /// `node a quarantine 1` means device 1.
    fn order_node(&mut self, node: &str, word: &str, device: &str) -> String {
        let (device, why) = (device.parse().ok(), "told to".to_string());
        let change = match word {
            "drain" => NodeChange::Drain,
            "cordon" => NodeChange::Cordon { why },
            "uncordon" => NodeChange::Uncordon,
            "quarantine" => NodeChange::Quarantine { device, why },
            "release" => NodeChange::Release { device },
            other => panic!("no order {other}"),
        };
        let order = NodeOrder {
            actor: "operator".into(),
            node: node.into(),
            change,
        };
        match self.apply(Command::OrderNode(Box::new(order))) {
            Reply::Ordered(Ok(done)) => {
                let condition = self.model.agents[&agent_id(node)].condition();
                format!("{done:?}: {condition}")
            }
            Reply::Ordered(Err(why)) => format!("refused: {why}"),
            other => format!("{other:?}"),
        }
    }

    /// `probe a/1 WORD`: the latents are a hash of the word, `fails` is a failure.
    fn probe(&mut self, at: &str, word: &str) -> String {
        let (name, device) = at.split_once('/').unwrap_or((at, "0"));
        let report = ProbeReport {
            agent: agent_id(name),
            boot: self.boot(name),
            device: device.parse().unwrap(),
            outcome: match word {
                "fails" => ProbeOutcome::Failed {
                    message: "two runs differ".into(),
                },
                word => ProbeOutcome::Rendered {
                    digest: Digest::of(word.as_bytes()),
                },
            },
        };
        match self.apply(Command::Probed(report)) {
            Reply::Written(WriteAnswer::Accepted) => {
                self.model.agents[&agent_id(name)].condition().into()
            }
            Reply::Written(WriteAnswer::Refused { why }) => format!("refused: {why}"),
            other => format!("{other:?}"),
        }
    }

    /// What operators were told, oldest first.
    fn notices(&self) -> String {
        let told = self.model.notices.iter().map(|row| {
            let by = row
                .actor
                .as_deref()
                .map_or(String::new(), |a| format!(" by {a}"));
            let why = row.detail["why"]
                .as_str()
                .map_or(String::new(), |w| format!(" ({w})"));
            let subject = match row.kind.as_str() {
                "poison" => "a task",
                _ => &row.subject,
            };
            format!("{} {subject}{by}{why}", row.kind)
        });
        told.collect::<Vec<_>>().join(", ")
    }

    fn minutes(&self) -> String {
        let rows = self.model.samples.values().map(|row| {
            let minute = row.minute_ms / 60_000;
            format!(
                "minute {minute}: {} readings, {:?} C",
                row.readings, row.temperature_max_c
            )
        });
        rows.collect::<Vec<_>>().join(", ")
    }

    fn task_state(&self, id: TaskId) -> String {
        match self.model.tasks.get(&id) {
            Some(row) => format!("{:?}", row.state)
                .split([' ', '('])
                .next()
                .unwrap()
                .to_string(),
            None => "none".into(),
        }
    }

    fn states(&self) -> String {
        let tasks = self.model.tasks.keys();
        let states: Vec<String> = tasks
            .map(|id| format!("{} {}", self.task_name(*id), self.task_state(*id)))
            .collect();
        states.join(", ")
    }

    fn job_state(&self, word: &str) -> String {
        let id = self.job_id(word);
        let row = &self.model.jobs[&id];
        let money = &self.model.reservations[&id];
        let error = row.error.as_ref().map_or("", |error| &error.code);
        let spent = (money.posted.0 - money.refunded.0) / 1_000_000;
        format!(
            "{:?} {}% {:?} spent {spent} {error}",
            row.state, row.progress, money.state
        )
    }

    fn agent_state(&self, name: &str) -> String {
        format!("{:?}", self.model.agents[&agent_id(name)].state)
    }

    fn why(&self, task: &str) -> String {
        let id = self.task_id(task);
        let job = JobId(Uuid::from_u128(id.0.as_u128() / 100));
        let packed = || self.farm.live(job)?.waiting;
        let waiting = self
            .farm
            .waiting(id)
            .or_else(|| match self.farm.is_packed(job) {
                true => packed(),
                false => None,
            });
        waiting.map_or("it does not wait".into(), |why| format!("{why:?}"))
    }
}

/// `xid=79`, `ecc=2`, `celsius=80`, each of device 0; `xid/1=79` of device 1.
fn samples(said: &[&str]) -> Vec<DeviceSample> {
    let sample = |word: &&str| {
        let (key, value) = word.split_once('=').unwrap();
        let (key, index) = key.split_once('/').unwrap_or((key, "0"));
        let value: u64 = value.parse().unwrap();
        DeviceSample {
            index: index.parse().unwrap(),
            xids: (key == "xid").then_some(value).into_iter().collect(),
            ecc_uncorrected: (key == "ecc").then_some(value),
            temperature_c: (key == "celsius").then_some(value as u32),
            ..DeviceSample::default()
        }
    };
    said.iter().map(sample).collect()
}

fn checkpoint(step: &str) -> CheckpointRef {
    let (step, salt) = step.split_once('=').unwrap_or((step, ""));
    CheckpointRef {
        step: step.parse().unwrap(),
        digest: Digest::of(format!("{step}{salt}").as_bytes()),
    }
}
