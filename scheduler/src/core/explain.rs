//! Why a task waits, or a device gets nothing: one code, what it is because of, and how that is said.
//!
//! The one table of reasons: a new one is a variant, its code, its words, and whether its end can be foretold.

use serde::Serialize;

/// Exactly one reason, the first that holds in this order. The fields are the blocker, as the owner may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Waiting {
    InputsPending {
        tasks_left: u32,
    },
    /// It may not start before this instant: its owner said so, or a cheaper hour of its window comes.
    /// Its owner holds it back.
    JobPaused {
        /// Name of the key.
        by: String,
        since_ms: i64,
    },
    StartLater {
        at_ms: i64,
    },
    /// It may start only in its window.
    WindowClosed {
        window: String,
        opens_ms: i64,
    },
    RetryBackoff {
        cause: String,
        until_ms: i64,
    },
    ModelMissing {
        weights: String,
    },
    NoCapableDevice {
        needs: String,
    },
    NodesAvoided {
        nodes: Vec<String>,
    },
    DevicesDraining {
        devices: u32,
    },
    /// Devices that could do it are out of work for their faults.
    DevicesQuarantined {
        devices: u32,
        /// When the first of them is probed; absent when an operator must release it.
        first_return_ms: Option<i64>,
    },
    /// The budget of an account for this period is used up.
    BudgetStopped {
        account: String,
        until_ms: i64,
    },
    /// An account uses all devices of a pool that it may, its own and borrowed ones.
    BorrowLimit {
        account: String,
        used: u32,
        of: u32,
    },
    /// An account has as many jobs or devices at once as it may.
    ConcurrencyCap {
        account: String,
        used: u32,
        of: u32,
    },
    /// It has claimed devices of a node, and they are expected to be free then.
    ClaimPending {
        node: String,
        starts_ms: i64,
    },
    /// Free devices that could do it are claimed for a task that was overtaken too long.
    ClaimedByOther {
        devices: u32,
    },
    /// Enough devices are free, but not on one node.
    GroupFragmented {
        /// Most that are free together.
        largest: u32,
    },
    /// A running task gives this device of a node up for it.
    Handover {
        node: String,
        device: u32,
    },
    /// More urgent work that the same devices could do waits too; eligible tasks of each band.
    BandBehind {
        urgent: u64,
        standard: u64,
    },
    /// Another account has had less of the farm by its weight; seconds of a device over the weight.
    FairShare {
        own_s: u64,
        leading_s: u64,
    },
    OwnQueue {
        tasks_ahead: u64,
    },
    DevicesBusy {
        devices: u32,
        /// When the first of them is expected to be free; absent where nobody can say.
        earliest_ms: Option<i64>,
    },
    /// Only told to a polling device: nothing waits that it could do.
    NothingWaits,
    /// Only told to a polling device: its agent drains.
    AgentDrains,
}

impl Waiting {
    /// The code as the wire and the metrics name it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InputsPending { .. } => "inputs_pending",
            Self::JobPaused { .. } => "job_paused",
            Self::StartLater { .. } => "start_later",
            Self::WindowClosed { .. } => "window_closed",
            Self::RetryBackoff { .. } => "retry_backoff",
            Self::ModelMissing { .. } => "model_missing",
            Self::NoCapableDevice { .. } => "no_capable_device",
            Self::NodesAvoided { .. } => "nodes_avoided",
            Self::DevicesDraining { .. } => "devices_draining",
            Self::DevicesQuarantined { .. } => "devices_quarantined",
            Self::BudgetStopped { .. } => "budget_stopped",
            Self::BorrowLimit { .. } => "borrow_limit",
            Self::ConcurrencyCap { .. } => "concurrency_cap",
            Self::ClaimPending { .. } => "claim_pending",
            Self::ClaimedByOther { .. } => "claimed_by_other",
            Self::GroupFragmented { .. } => "group_fragmented",
            Self::Handover { .. } => "handover",
            Self::BandBehind { .. } => "band_behind",
            Self::FairShare { .. } => "fair_share",
            Self::OwnQueue { .. } => "own_queue",
            Self::DevicesBusy { .. } => "devices_busy",
            Self::NothingWaits => "nothing_waits",
            Self::AgentDrains => "agent_drains",
        }
    }

    /// The reason in words, at `now` (Unix ms): it ends a sentence that begins with "waits: ".
    pub fn words(&self, now: i64) -> String {
        match self {
            Self::InputsPending { tasks_left: 1 } => "a shot of this film is not done yet".into(),
            Self::InputsPending { tasks_left } => {
                format!("{tasks_left} shots of this film are not done yet")
            }
            Self::WindowClosed { window, opens_ms } => {
                format!("window '{window}' opens in {}", span(opens_ms - now))
            }
            Self::JobPaused { by, since_ms } => format!(
                "it was paused with the key '{by}' {} ago; to go on, resume it",
                span(now - since_ms)
            ),
            Self::StartLater { at_ms } => format!("it starts in {}", span(at_ms - now)),
            Self::RetryBackoff { cause, until_ms } => format!(
                "it failed ({cause}) and is tried again in {}",
                span(until_ms - now)
            ),
            Self::ModelMissing { weights } => {
                format!("no machine of the farm has the weights '{weights}'")
            }
            Self::NoCapableDevice { needs } => format!("the farm lacks {needs}"),
            Self::NodesAvoided { nodes } => format!(
                "only machines where it has failed are free: {}",
                nodes.join(", ")
            ),
            Self::DevicesDraining { devices } => format!(
                "no device is left for it: {} cordoned, leaving or silent",
                many(u64::from(*devices), "device")
            ),
            Self::DevicesQuarantined {
                devices,
                first_return_ms,
            } => {
                let (some, are) = (many(u64::from(*devices), "device"), is(*devices));
                let back = match first_return_ms {
                    Some(at) => format!("one is tried again in {}", span(at - now)),
                    None => "only an operator brings them back".into(),
                };
                format!("{some} that could do it {are} in quarantine; {back}")
            }
            Self::BudgetStopped { account, until_ms } => format!(
                "the budget of '{account}' is used up; it is looked at again in {}",
                span(until_ms - now)
            ),
            Self::BorrowLimit { account, used, of } => format!(
                "'{account}' uses {used} of the {of} devices that it may, its own and borrowed ones"
            ),
            Self::ConcurrencyCap { account, used, of } => {
                format!("'{account}' has as much at once as it may: {used} of {of}")
            }
            Self::ClaimPending { node, starts_ms } => format!(
                "devices of {node} are kept for it; all of them are free in {}",
                span(starts_ms - now)
            ),
            Self::ClaimedByOther { devices } => format!(
                "{} {} kept for a film that needs several at once",
                many(u64::from(*devices), "free device"),
                is(*devices)
            ),
            Self::GroupFragmented { largest } => format!(
                "enough devices are free, but on different machines; at most {largest} together"
            ),
            Self::Handover { node, device } => {
                format!("device {device} of {node} is being freed for it")
            }
            Self::BandBehind { urgent, standard } => {
                let urgent = (*urgent > 0).then(|| many(*urgent, "urgent task"));
                let standard = (*standard > 0).then(|| many(*standard, "standard task"));
                let ahead: Vec<String> = urgent.into_iter().chain(standard).collect();
                format!("more urgent work goes first: {}", ahead.join(", "))
            }
            Self::FairShare { own_s, leading_s } => format!(
                "an account that has had less of the farm lately goes first ({} of a device, yours {})",
                span(*leading_s as i64 * 1_000),
                span(*own_s as i64 * 1_000)
            ),
            Self::OwnQueue { tasks_ahead } => {
                format!(
                    "{} of your own {} first",
                    many(*tasks_ahead, "task"),
                    goes(*tasks_ahead)
                )
            }
            Self::DevicesBusy {
                devices,
                earliest_ms: Some(at),
            } => match at - now {
                ..1_000 => format!("{}; one is free any moment", busy(*devices)),
                left => format!("{}; one is free in {}", busy(*devices), span(left)),
            },
            Self::DevicesBusy { devices, .. } => busy(*devices),
            Self::NothingWaits => "nothing waits that this device could do".into(),
            Self::AgentDrains => "the agent takes no new work".into(),
        }
    }

    /// Nothing that the farm has now will end it, so no time can be told.
    pub fn has_no_end(&self) -> bool {
        matches!(
            self,
            Self::JobPaused { .. }
                | Self::ModelMissing { .. }
                | Self::NoCapableDevice { .. }
                | Self::DevicesDraining { .. }
                | Self::DevicesQuarantined {
                    first_return_ms: None,
                    ..
                }
                | Self::ConcurrencyCap { of: 0, .. }
        )
    }
}

fn many(count: u64, word: &str) -> String {
    match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    }
}

fn busy(devices: u32) -> String {
    match devices {
        1 => "the only device for it is busy".into(),
        _ => format!("all {devices} devices for it are busy"),
    }
}

fn is(count: u32) -> &'static str {
    match count {
        1 => "is",
        _ => "are",
    }
}

fn goes(count: u64) -> &'static str {
    match count {
        1 => "goes",
        _ => "go",
    }
}

/// A time as people say it: `40 s`, `3 min`, `2 h 5 min`, `3 days`.
fn span(ms: i64) -> String {
    let seconds = ms.max(0).div_euclid(1_000) + i64::from(ms.max(0) % 1_000 > 0);
    let minutes = seconds / 60;
    match seconds {
        ..100 => format!("{seconds} s"),
        100..6_000 => format!("{minutes} min"),
        6_000..172_800 => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => format!("{} days", minutes / 1_440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_said_in_words() {
        let now = 1_000_000;
        let said = |why: Waiting| why.words(now);
        assert_eq!(
            said(Waiting::WindowClosed {
                window: "overnight".into(),
                opens_ms: now + 12_000_001
            }),
            "window 'overnight' opens in 3 h 20 min"
        );
        assert_eq!(
            said(Waiting::BudgetStopped {
                account: "studio".into(),
                until_ms: now + 3_600_000
            }),
            "the budget of 'studio' is used up; it is looked at again in 60 min"
        );
        assert_eq!(
            said(Waiting::RetryBackoff {
                cause: "io".into(),
                until_ms: now + 1_500
            }),
            "it failed (io) and is tried again in 2 s"
        );
        assert_eq!(
            said(Waiting::BandBehind {
                urgent: 1,
                standard: 3
            }),
            "more urgent work goes first: 1 urgent task, 3 standard tasks"
        );
        assert_eq!(
            said(Waiting::ClaimPending {
                node: "a".into(),
                starts_ms: now + 90_000
            }),
            "devices of a are kept for it; all of them are free in 90 s"
        );
        assert_eq!(
            said(Waiting::ClaimedByOther { devices: 1 }),
            "1 free device is kept for a film that needs several at once"
        );
        assert_eq!(
            said(Waiting::GroupFragmented { largest: 2 }),
            "enough devices are free, but on different machines; at most 2 together"
        );
        assert_eq!(
            said(Waiting::OwnQueue { tasks_ahead: 1 }),
            "1 task of your own goes first"
        );
        assert_eq!(
            said(Waiting::DevicesBusy {
                devices: 1,
                earliest_ms: Some(now - 5)
            }),
            "the only device for it is busy; one is free any moment"
        );
        assert_eq!(
            said(Waiting::DevicesQuarantined {
                devices: 1,
                first_return_ms: None
            }),
            "1 device that could do it is in quarantine; only an operator brings them back"
        );
        assert_eq!(
            said(Waiting::DevicesDraining { devices: 2 }),
            "no device is left for it: 2 devices cordoned, leaving or silent"
        );
    }
}
