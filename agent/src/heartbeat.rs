//! Renews all leases, beside the work: an OS thread of its own with a runtime of its own.
//!
//! A step may hold the processor for minutes and block every worker thread of the other runtime;
//! renewals go out all the same, because this thread waits for nothing that a step holds.

use std::{io, sync::Arc, thread, time::Duration};

use schemas::agent::{
    AgentOrder, DeviceSample, Directive, Heartbeat, HeartbeatAnswer, LeaseDirective,
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Client, ClientError, chain},
    clock::BootMs,
    held::{Held, Leases},
    host,
    membership::Membership,
    metrics::Metrics,
    nvml::Gpus,
    xids::XidLog,
};

/// While it holds a lease an agent asks this often whether it should give it up: an urgent job waits at most this
/// and a step for its device.
const BUSY_EVERY: Duration = Duration::from_secs(1);
/// After a renewal failed the next try comes sooner than the period.
const RETRY_EVERY: Duration = Duration::from_millis(500);

pub struct Beater {
    /// Used by this thread only: its connections live on this thread's runtime.
    pub client: Client,
    pub membership: Arc<Membership>,
    pub leases: Arc<Leases>,
    pub gpus: Gpus,
    /// The agent's index of the first GPU: 1 behind the CPU, 0 where the engine runs on it.
    pub first_gpu: u32,
    pub xids: XidLog,
    pub metrics: Metrics,
    pub margin_ms: u64,
    /// Ends the thread, after the last lease.
    pub stop: CancellationToken,
}

impl Beater {
    /// Starts the thread.
    pub fn start(self) -> io::Result<thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || runtime.block_on(self.run()))
    }

    async fn run(self) {
        loop {
            let every = self.membership.heartbeat_every();
            let pause = match self.beat().await {
                Ok(()) if self.leases.snapshot().is_empty() => every,
                Ok(()) => every.min(BUSY_EVERY),
                Err(error) => {
                    self.metrics.heartbeats_failed.inc();
                    tracing::warn!(error = %chain(&error), "heartbeat failed");
                    every.min(RETRY_EVERY)
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.leases.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn beat(&self) -> Result<(), ClientError> {
        let held = self.leases.snapshot();
        let (devices, xids) = self.samples();
        let beat = Heartbeat {
            agent: self.membership.agent(),
            boot: self.membership.boot(),
            term: self.membership.term(),
            leases: held.iter().map(|held| held.progress()).collect(),
            devices,
        };
        self.metrics.leases.set(held.len() as i64);
        let timeout = self.membership.heartbeat_every().max(RETRY_EVERY);
        let sent_at = BootMs::now();
        match self.client.heartbeat(&beat, timeout).await? {
            HeartbeatAnswer::UnknownAgent => self.membership.rejoin(&self.client).await,
            HeartbeatAnswer::Beat { term, .. } if !self.membership.is_current(term) => {
                tracing::warn!(term, "an old leader answered; ignored");
                Ok(())
            }
            HeartbeatAnswer::Beat {
                directives, order, ..
            } => {
                self.xids.heard(xids);
                for directive in &directives {
                    obey(&held, directive, sent_at, self.margin_ms);
                }
                if order == AgentOrder::Drain && !self.leases.draining.is_cancelled() {
                    tracing::info!("the scheduler drains this agent");
                    self.leases.drain();
                }
                Ok(())
            }
        }
    }

    /// Readings of all devices, and how many Xid events are told with them.
    fn samples(&self) -> (Vec<DeviceSample>, usize) {
        let mut samples: Vec<DeviceSample> = (0..self.first_gpu).map(host::sample).collect();
        samples.extend(self.gpus.sample(self.first_gpu));
        let xids = self.xids.add_to(&mut samples);
        samples
            .iter()
            .for_each(|sample| self.metrics.observe(sample));
        (samples, xids)
    }
}

/// Hands a directive to the lease it is for; one for an attempt that is over is for nobody.
fn obey(held: &[Arc<Held>], directive: &LeaseDirective, sent_at: BootMs, margin_ms: u64) {
    let for_this = |held: &&Arc<Held>| {
        (held.lease.task, held.lease.attempt) == (directive.task, directive.attempt)
    };
    let Some(held) = held.iter().find(for_this) else {
        return;
    };
    match &directive.directive {
        Directive::Continue { ttl_ms } => held.renewed(sent_at, *ttl_ms, margin_ms),
        Directive::Yield { reason } => {
            tracing::info!(task = %directive.task, attempt = directive.attempt, reason, "yield");
            held.yield_soon(reason);
        }
        Directive::Abandon { reason } => {
            let (task, attempt) = (directive.task, directive.attempt);
            match is_alarming(held) {
                true => tracing::warn!(%task, attempt, reason, "abandon"),
                false => tracing::debug!(%task, attempt, reason, "abandon, behind its report"),
            }
            held.abandon(reason);
        }
    }
}

/// An answer to a heartbeat from before the report, that comes behind it, only says what is known.
fn is_alarming(held: &Held) -> bool {
    !held.has_reported()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering::Relaxed},
        time::Instant,
    };

    use schemas::{AgentId, BootId, TaskId, agent::LeaseRef, task::TaskKind};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        client::Try,
        held::Verdict,
        scripted::{self, Scripted, serve},
    };

    const ID: &str = "01890000-0000-7000-8000-000000000001";
    const TTL_MS: u64 = 1_000;
    /// A wait that ends long before, unless the test fails.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn welcome(term: u64, heartbeat_ms: u64) -> Value {
        json!({"agent": ID, "term": term, "heartbeat_ms": heartbeat_ms, "lease_ttl_ms": TTL_MS})
    }

    fn beat(term: u64, directive: Value) -> Value {
        let directive = json!({"task": ID, "attempt": 1, "directive": directive});
        json!({"answer": "beat", "term": term, "directives": [directive], "order": "run"})
    }

    fn go_on() -> Value {
        json!({"do": "continue", "ttl_ms": TTL_MS})
    }

    fn lease() -> Arc<Held> {
        let lease = LeaseRef {
            task: ID.parse::<TaskId>().unwrap(),
            attempt: 1,
            term: 1,
            agent: ID.parse::<AgentId>().unwrap(),
            boot: ID.parse::<BootId>().unwrap(),
        };
        Arc::new(Held::new(
            lease,
            TaskKind::Render,
            BootMs::now(),
            TTL_MS,
            5_000,
        ))
    }

    /// A heartbeat thread against `server`; it is not joined when the test fails.
    struct Beating {
        leases: Arc<Leases>,
        xids: XidLog,
        stop: CancellationToken,
        thread: thread::JoinHandle<()>,
    }

    fn start(server: &Scripted) -> Beating {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = Client::new(&server.url, "token").unwrap();
        let joined = runtime
            .block_on(Membership::join(&client, scripted::hello(), || Try::Now))
            .unwrap();
        let (leases, stop) = (Arc::new(Leases::default()), CancellationToken::new());
        let xids = XidLog::default();
        let beater = Beater {
            client: Client::new(&server.url, "token").unwrap(),
            membership: Arc::new(joined),
            leases: Arc::clone(&leases),
            gpus: Gpus::None { why: "test".into() },
            first_gpu: 1,
            xids: xids.clone(),
            metrics: Metrics::new(),
            margin_ms: 5_000,
            stop: stop.clone(),
        };
        let thread = beater.start().unwrap();
        Beating {
            leases,
            xids,
            stop,
            thread,
        }
    }

    impl Beating {
        fn end(self) {
            self.stop.cancel();
            self.thread.join().unwrap();
        }
    }

    fn eventually(what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < PATIENCE, "never: {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_step_that_blocks_for_three_leases_loses_nothing() {
        let server = serve(|path, _| match path {
            "hello" => Some(welcome(1, 50)),
            _ => Some(beat(1, go_on())),
        });
        let beating = start(&server);
        let held = lease();
        beating.leases.add(Arc::clone(&held));
        // This thread is the compute thread: it neither awaits nor looks until its step is over.
        let blocked_until = BootMs::now().plus_ms(3 * TTL_MS);
        while BootMs::now() < blocked_until {
            std::hint::spin_loop();
        }
        assert_eq!(held.verdict(BootMs::now()), Verdict::Go);
        beating.end();
    }

    #[test]
    fn a_scheduler_that_falls_silent_fences_and_one_that_comes_back_lifts_the_fence() {
        let answers = Arc::new(AtomicU64::new(1));
        let left = Arc::clone(&answers);
        let server = serve(move |path, _| match path {
            "hello" => Some(welcome(1, 50)),
            _ if left.load(Relaxed) == 0 => None,
            _ => Some(beat(1, go_on())),
        });
        let beating = start(&server);
        let held = lease();
        beating.leases.add(Arc::clone(&held));
        answers.store(0, Relaxed);
        eventually("fenced", || held.verdict(BootMs::now()) == Verdict::Fenced);
        answers.store(1, Relaxed);
        eventually("renewed", || held.verdict(BootMs::now()) == Verdict::Go);
        beating.end();
    }

    #[test]
    fn a_new_lease_is_named_at_once_and_not_after_a_period() {
        let server = serve(|path, _| match path {
            "hello" => Some(welcome(1, 3_600_000)),
            _ => Some(beat(1, go_on())),
        });
        let beating = start(&server);
        eventually("the first beat", || server.bodies("heartbeat").len() == 1);
        let held = lease();
        held.stepped(3, 8, Some(20));
        beating.leases.add(Arc::clone(&held));
        eventually("the second beat", || server.bodies("heartbeat").len() == 2);
        let named = &server.bodies("heartbeat")[1]["leases"][0];
        assert_eq!(
            (named["lease"]["task"].as_str(), &named["step"]),
            (Some(ID), &json!(3))
        );
        beating.end();
    }

    #[test]
    fn directives_reach_the_lease_they_are_for() {
        let server = serve(|path, _| match path {
            "hello" => Some(welcome(1, 20)),
            _ => Some(beat(
                1,
                json!({"do": "yield", "reason": "an urgent film waits"}),
            )),
        });
        let beating = start(&server);
        let held = lease();
        beating.leases.add(Arc::clone(&held));
        eventually("yield", || held.verdict(BootMs::now()) == Verdict::Yield);
        assert_eq!(held.reason(), "an urgent film waits");
        beating.end();

        let (held, other) = (
            lease(),
            json!({"do": "abandon", "reason": "another attempt"}),
        );
        let for_attempt = |attempt: u32| LeaseDirective {
            task: ID.parse::<TaskId>().unwrap(),
            attempt,
            directive: serde_json::from_value(other.clone()).unwrap(),
        };
        obey(&[Arc::clone(&held)], &for_attempt(2), BootMs::now(), 5_000);
        assert_ne!(held.verdict(BootMs::now()), Verdict::Abandon);
        assert!(is_alarming(&held));
        held.reports();
        assert!(!is_alarming(&held), "its report is on the way");
        obey(&[Arc::clone(&held)], &for_attempt(1), BootMs::now(), 5_000);
        assert_eq!(held.verdict(BootMs::now()), Verdict::Abandon);
    }

    #[test]
    fn a_fault_of_a_gpu_is_told_until_the_scheduler_has_heard_it() {
        let beats = AtomicU64::new(0);
        let server = serve(move |path, _| match path {
            "hello" => Some(welcome(1, 20)),
            _ if beats.fetch_add(1, Relaxed) < 2 => None,
            _ => Some(beat(1, go_on())),
        });
        let beating = start(&server);
        beating.xids.note(1, 79);
        let told = || -> Vec<bool> {
            let beats = server.bodies("heartbeat");
            let xids = beats.iter().map(|beat| beat["devices"][1]["xids"].clone());
            xids.map(|xids| xids == json!([79])).collect()
        };
        eventually("heard, and told no more", || {
            let told = told();
            told.len() > 3 && told.ends_with(&[false]) && told[..told.len() - 1].contains(&true)
        });
        assert!(
            told()[2],
            "told anew with the first that is answered: {:?}",
            told()
        );
        beating.end();
    }

    #[test]
    fn an_old_leader_has_no_say() {
        let server = serve(|path, _| match path {
            "hello" => Some(welcome(7, 20)),
            _ => Some(beat(
                6,
                json!({"do": "abandon", "reason": "from an old leader"}),
            )),
        });
        let beating = start(&server);
        let held = lease();
        beating.leases.add(Arc::clone(&held));
        eventually("some answers", || server.bodies("heartbeat").len() > 3);
        assert_ne!(held.verdict(BootMs::now()), Verdict::Abandon);
        beating.end();
    }

    #[test]
    fn an_agent_that_was_forgotten_says_hello_again_with_the_same_boot() {
        let beats = AtomicU64::new(0);
        let server = serve(move |path, _| match path {
            "hello" => Some(welcome(1, 20)),
            _ if beats.fetch_add(1, Relaxed) == 0 => Some(json!({"answer": "unknown_agent"})),
            _ => Some(beat(1, go_on())),
        });
        let beating = start(&server);
        eventually("a beat after hello", || {
            server.bodies("heartbeat").len() > 1
        });
        let hellos = server.bodies("hello");
        assert_eq!(hellos.len(), 2);
        assert_eq!(hellos[0]["boot"], hellos[1]["boot"]);
        beating.end();
    }

    #[test]
    fn an_order_to_drain_reaches_all_leases() {
        let server = serve(|path, _| match path {
            "hello" => Some(welcome(1, 20)),
            _ => Some(json!({"answer": "beat", "term": 1, "directives": [], "order": "drain"})),
        });
        let beating = start(&server);
        let held = lease();
        beating.leases.add(Arc::clone(&held));
        eventually("drained", || held.verdict(BootMs::now()) == Verdict::Drain);
        assert!(beating.leases.draining.is_cancelled());
        beating.end();
    }
}
