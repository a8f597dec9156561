//! Copies that are too large are sampled by account; a new job is placed by those that were copied.

use schemas::AccountId;
use uuid::Uuid;

use super::*;
use crate::core::{
    outlook::LiveCopy,
    rows::{Band, JobRow, JobState},
};

fn copy(job: u128, account: u128) -> LiveCopy {
    let job = JobRow {
        id: JobId(Uuid::from_u128(job)),
        seq: 1,
        project: AccountId(Uuid::from_u128(account)),
        seed: 0,
        band: Band::Standard,
        state: JobState::Waiting,
        progress: 0,
        created_at_ms: 0,
        ended_at_ms: None,
        error: None,
        rank: 0,
        window: None,
    };
    LiveCopy {
        job,
        tasks: Vec::new(),
        checkpoints: Vec::new(),
        running: Vec::new(),
    }
}

#[test]
fn a_queue_that_fits_is_copied_whole() {
    let mut sampled = Sampled::new(None);
    sampled.add((0..100).map(|n| copy(n, n % 7)).collect());
    assert_eq!((sampled.jobs.len(), sampled.share_ppm()), (100, 1_000_000));
    assert_eq!(Sampled::new(None).share_ppm(), 1_000_000);
}

#[test]
fn of_a_queue_that_is_too_long_some_accounts_are_copied_whole_and_the_asker_always() {
    let asker = AccountId(Uuid::from_u128(77));
    let mut sampled = Sampled::new(Some(asker));
    for page in 0..100u128 {
        sampled.add((0..256).map(|n| copy(page * 256 + n, n)).collect());
    }
    assert!(sampled.jobs.len() <= JOBS_MAX && sampled.jobs.len() > JOBS_MAX / 8);
    let mut jobs: BTreeMap<AccountId, u32> = BTreeMap::new();
    for copy in &sampled.jobs {
        *jobs.entry(copy.job.project).or_default() += 1;
    }
    assert!(jobs.values().all(|count| *count == 100), "{jobs:?}");
    assert_eq!(jobs.get(&asker), Some(&100));
    let share = sampled.jobs.len() as u64 * 1_000_000 / 25_600;
    assert_eq!(sampled.share_ppm(), share);
}
