//! The leases that this agent holds: progress, fence and what it was told to do.
//!
//! Everything is an atomic, so that the heartbeat thread, the compute thread and the uploads
//! look at it without waiting for each other.
//!
//! The fence is the moment at which this agent stops by itself: `sent + ttl - margin` on the clock
//! that runs through suspend, counted from when the accepted renewal was **sent**. Behind it the
//! agent does nothing with the lease until a later renewal is accepted, which proves that the
//! attempt is still the current one.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use schemas::{
    agent::{LeaseProgress, LeaseRef, Phase},
    task::TaskKind,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::BootMs;

/// With clock rates wrong by ρ, the agent stops first if the margin is above 2·ρ·TTL; a sixth of
/// the lease covers ρ = 8 %.
const MARGIN_SHARE: u64 = 6;

/// What may be done with a lease right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Go,
    /// Go on if less than the drain's limit is left, else yield.
    Drain,
    /// Checkpoint at the next step boundary and give the task back.
    Yield,
    /// The lease may have ended: do nothing until it is renewed.
    Fenced,
    /// The task is no longer ours: stop and report nothing.
    Abandon,
}

/// Orders in rising strength; a weaker one never replaces a stronger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    None = 0,
    Drain = 1,
    Yield = 2,
    Abandon = 3,
}

#[derive(Debug)]
pub struct Held {
    pub lease: LeaseRef,
    pub kind: TaskKind,
    order: AtomicU8,
    reason: Mutex<String>,
    fence_at_ms: AtomicU64,
    phase: AtomicU8,
    step: AtomicU32,
    steps: AtomicU32,
    /// 0 while no step has been timed.
    step_ms: AtomicU32,
    /// The report of its end is on its way.
    reports: AtomicBool,
}

impl Held {
    /// A lease whose offer answers a poll that was sent at `sent_at`; its `ttl_ms` counts from
    /// there, as that of every renewal.
    pub fn new(
        lease: LeaseRef,
        kind: TaskKind,
        sent_at: BootMs,
        ttl_ms: u64,
        margin_ms: u64,
    ) -> Self {
        Self {
            lease,
            kind,
            order: AtomicU8::new(Order::None as u8),
            reason: Mutex::default(),
            fence_at_ms: AtomicU64::new(fence(sent_at, ttl_ms, margin_ms).0),
            phase: AtomicU8::new(0),
            step: AtomicU32::new(0),
            steps: AtomicU32::new(0),
            step_ms: AtomicU32::new(0),
            reports: AtomicBool::new(false),
        }
    }

    /// What may be done at `now`.
    pub fn verdict(&self, now: BootMs) -> Verdict {
        let order = self.order.load(Relaxed);
        if order == Order::Abandon as u8 {
            return Verdict::Abandon;
        }
        if now.0 >= self.fence_at_ms.load(Relaxed) {
            return Verdict::Fenced;
        }
        match order {
            order if order == Order::Yield as u8 => Verdict::Yield,
            order if order == Order::Drain as u8 => Verdict::Drain,
            _ => Verdict::Go,
        }
    }

    /// An accepted renewal that was sent at `sent_at`. Answers out of order never shorten it.
    pub fn renewed(&self, sent_at: BootMs, ttl_ms: u64, margin_ms: u64) {
        self.fence_at_ms
            .fetch_max(fence(sent_at, ttl_ms, margin_ms).0, Relaxed);
    }

    /// The moment at which this agent stops by itself.
    pub fn fence_at(&self) -> BootMs {
        BootMs(self.fence_at_ms.load(Relaxed))
    }

    pub fn drain(&self, reason: &str) {
        self.give(Order::Drain, reason);
    }

    pub fn yield_soon(&self, reason: &str) {
        self.give(Order::Yield, reason);
    }

    pub fn abandon(&self, reason: &str) {
        self.give(Order::Abandon, reason);
    }

    fn give(&self, order: Order, reason: &str) {
        if self.order.fetch_max(order as u8, Relaxed) < order as u8 {
            let mut told = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
            *told = reason.to_string();
        }
    }

    /// Why it was told to stop.
    pub fn reason(&self) -> String {
        self.reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From now on the scheduler may know that the attempt is over before its agent hears so.
    pub fn reports(&self) {
        self.reports.store(true, Relaxed);
    }

    /// Whether the report of its end was sent: a heartbeat from before it may then be answered with Abandon.
    pub fn has_reported(&self) -> bool {
        self.reports.load(Relaxed)
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// One more step is done; `step_ms` is how long it took.
    pub fn stepped(&self, step: u32, steps: u32, step_ms: Option<u32>) {
        self.step.store(step, Relaxed);
        self.steps.store(steps, Relaxed);
        if let Some(ms) = step_ms {
            // A step below a millisecond still counts as timed.
            self.step_ms.store(ms.max(1), Relaxed);
        }
    }

    /// What is left of denoising, if a step has been timed.
    pub fn denoise_left_ms(&self) -> Option<u64> {
        let left = self
            .steps
            .load(Relaxed)
            .saturating_sub(self.step.load(Relaxed));
        match self.step_ms.load(Relaxed) {
            0 => None,
            step_ms => Some(u64::from(left) * u64::from(step_ms)),
        }
    }

    /// For the next heartbeat.
    pub fn progress(&self) -> LeaseProgress {
        LeaseProgress {
            lease: self.lease,
            phase: PHASES[usize::from(self.phase.load(Relaxed))],
            step: self.step.load(Relaxed),
            steps: self.steps.load(Relaxed),
            step_ms: Some(self.step_ms.load(Relaxed)).filter(|ms| *ms > 0),
        }
    }
}

/// All leases of this agent. The list is locked to add, remove and copy, never during work.
#[derive(Default)]
pub struct Leases {
    held: Mutex<Vec<Arc<Held>>>,
    /// A lease came: the heartbeat goes out at once.
    pub changed: Notify,
    /// Cancelled when this agent takes no new work and ends what runs.
    pub draining: CancellationToken,
}

impl Leases {
    pub fn add(&self, held: Arc<Held>) {
        self.list().push(Arc::clone(&held));
        // Asked after it is in the list, so that a drain that comes meanwhile finds it there.
        if self.draining.is_cancelled() {
            held.drain(DRAINED);
        }
        self.changed.notify_one();
    }

    pub fn remove(&self, held: &Held) {
        self.list().retain(|other| other.lease != held.lease);
    }

    pub fn snapshot(&self) -> Vec<Arc<Held>> {
        self.list().clone()
    }

    /// Takes no new work; what runs is finished when little is left, else given back.
    pub fn drain(&self) {
        self.draining.cancel();
        for held in self.snapshot() {
            held.drain(DRAINED);
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const DRAINED: &str = "the agent leaves";

/// In the order of their numbers as `Phase as u8`.
const PHASES: [Phase; 5] = [
    Phase::Encode,
    Phase::Denoise,
    Phase::Decode,
    Phase::Mux,
    Phase::Upload,
];

fn fence(from: BootMs, ttl_ms: u64, margin_ms: u64) -> BootMs {
    let margin_ms = margin_ms.min(ttl_ms / MARGIN_SHARE);
    from.plus_ms(ttl_ms - margin_ms)
}

#[cfg(test)]
mod tests {
    use schemas::{AgentId, BootId, TaskId};

    use super::*;

    const SENT: BootMs = BootMs(100_000);

    fn held(ttl_ms: u64) -> Held {
        let id = "01890000-0000-7000-8000-000000000001";
        let lease = LeaseRef {
            task: id.parse::<TaskId>().unwrap(),
            attempt: 1,
            term: 1,
            agent: id.parse::<AgentId>().unwrap(),
            boot: id.parse::<BootId>().unwrap(),
        };
        Held::new(lease, TaskKind::Render, SENT, ttl_ms, 5_000)
    }

    #[test]
    fn the_agent_stops_before_its_lease_ends() {
        let held = held(30_000);
        assert_eq!(held.verdict(SENT.plus_ms(24_999)), Verdict::Go);
        assert_eq!(held.verdict(SENT.plus_ms(25_000)), Verdict::Fenced);
    }

    #[test]
    fn a_short_lease_keeps_a_margin_in_proportion() {
        let held = held(600);
        assert_eq!(held.verdict(SENT.plus_ms(499)), Verdict::Go);
        assert_eq!(held.verdict(SENT.plus_ms(500)), Verdict::Fenced);
    }

    #[test]
    fn a_renewal_counts_from_when_it_was_sent_and_never_shortens() {
        let held = held(30_000);
        held.renewed(SENT.plus_ms(10_000), 30_000, 5_000);
        assert_eq!(held.verdict(SENT.plus_ms(34_999)), Verdict::Go);
        assert_eq!(held.verdict(SENT.plus_ms(35_000)), Verdict::Fenced);
        held.renewed(SENT.plus_ms(5_000), 30_000, 5_000);
        assert_eq!(held.fence_at(), SENT.plus_ms(35_000));
    }

    #[test]
    fn an_accepted_renewal_lifts_the_fence_and_an_abandon_never_ends() {
        let held = held(30_000);
        let late = SENT.plus_ms(60_000);
        assert_eq!(held.verdict(late), Verdict::Fenced);
        held.renewed(late, 30_000, 5_000);
        assert_eq!(held.verdict(late), Verdict::Go);
        held.abandon("another attempt runs");
        held.renewed(late, 90_000, 5_000);
        assert_eq!(held.verdict(late), Verdict::Abandon);
        assert_eq!(held.reason(), "another attempt runs");
    }

    #[test]
    fn a_weaker_order_does_not_replace_a_stronger_one() {
        let held = held(30_000);
        held.drain("SIGTERM");
        assert_eq!(held.verdict(SENT), Verdict::Drain);
        held.yield_soon("an urgent film waits");
        held.drain("SIGTERM");
        assert_eq!(held.verdict(SENT), Verdict::Yield);
        assert_eq!(held.reason(), "an urgent film waits");
    }

    #[test]
    fn a_lease_that_comes_during_a_drain_is_drained_too() {
        let leases = Leases::default();
        let first = Arc::new(held(30_000));
        leases.add(Arc::clone(&first));
        leases.drain();
        let second = Arc::new(held(30_000));
        leases.add(Arc::clone(&second));
        assert_eq!(first.verdict(SENT), Verdict::Drain);
        assert_eq!(second.verdict(SENT), Verdict::Drain);
        leases.remove(&first);
        assert!(leases.snapshot().is_empty(), "both are the same attempt");
    }

    #[test]
    fn progress_says_phase_and_step() {
        let held = held(30_000);
        assert_eq!(held.denoise_left_ms(), None);
        for phase in PHASES {
            held.enter(phase);
            assert_eq!(held.progress().phase, phase);
        }
        held.stepped(3, 8, Some(250));
        let progress = held.progress();
        assert_eq!(
            (progress.step, progress.steps, progress.step_ms),
            (3, 8, Some(250))
        );
        assert_eq!(held.denoise_left_ms(), Some(1_250));
    }
}
