//! Copies that are too large are sampled by account; a new job is placed by those that were copied.

use schemas::{
    AccountId, BootId,
    agent::{Device, Hello},
};
use uuid::Uuid;

use super::*;
use crate::core::{
    Farm,
    command::Command,
    limits::Limits,
    model::{PROJECT, SECOND, accounts, job, weights},
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
        user: None,
        not_before_ms: None,
        deadline_ms: None,
        could_start_ms: None,
        paused: None,
        saved: None,
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

/// One device, and jobs of one shot of the first project.
fn queue(jobs: u128) -> Outlook {
    let mut farm = Farm::empty(Limits::default(), 1);
    for row in accounts() {
        farm.apply(Command::AddAccount(row), 0);
    }
    let hello = Hello {
        name: "a".into(),
        boot: BootId(Uuid::from_u128(1)),
        version: "test".into(),
        devices: vec![Device {
            index: 0,
            class: "cpu".into(),
            memory_bytes: 1,
        }],
        weights: vec![weights()],
        ffmpeg: Some("5.1".into()),
        group_max: 1,
    };
    farm.apply(Command::Hello(Box::new(hello)), 0);
    for number in 1..=jobs {
        farm.apply(Command::Submit(Box::new(job(number, 1))), 1_000);
    }
    let mut frame = farm.outlook_frame();
    frame.add(farm.outlook_accounts(None, usize::MAX));
    Outlook {
        frame,
        jobs: farm.outlook_page(None, usize::MAX).0,
        share_ppm: 1_000_000,
    }
}

fn id(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

#[test]
fn the_interval_of_a_far_job_is_surer_than_that_of_the_first() {
    let forecast = predict::predict(&queue(30), &[], &|| false);
    let width = |number| {
        let [early, middle, late] = forecast.jobs[&id(number)].ends.unwrap();
        assert!(
            early < middle && middle < late,
            "job {number}: {early} {middle} {late}"
        );
        (late - early) as f64 / (middle - forecast.made_at_ms) as f64
    };
    assert!(width(30) < width(1) / 2.0, "{} and {}", width(30), width(1));
    assert_eq!(forecast.waiting, 30);
}

#[test]
fn a_new_job_is_placed_behind_those_of_its_account_or_at_the_next_free_device() {
    let forecast = predict::predict(&queue(10), &[], &|| false);
    let starts = |number| forecast.jobs[&id(number)].starts.unwrap()[1];
    let gap = (starts(10) - starts(1)) / 9;
    let Some(Foreseen::Start(own)) = forecast.foresee(id(99), PROJECT, Band::Standard, 10) else {
        panic!("its account has a line");
    };
    assert!(
        (own - starts(10)).abs_diff(gap) <= 1,
        "{own} after {}",
        starts(10)
    );
    // The first device is free at once; somebody else's job would have been there first.
    let other = forecast.foresee(id(99), SECOND, Band::Standard, 0);
    assert_eq!(other, Some(Foreseen::Next(starts(1))));
    // Work that is less urgent than all that waits comes when nothing waits any more.
    let later = forecast.foresee(id(99), SECOND, Band::Overnight, 0);
    assert!(
        matches!(later, Some(Foreseen::Next(at)) if at > starts(10)),
        "{later:?}"
    );
}

#[test]
fn a_run_that_is_stopped_goes_on_in_the_same_stride() {
    let outlook = queue(20);
    let whole = predict::predict(&outlook, &[], &|| false);
    let looks = std::cell::Cell::new(0);
    let stop = || {
        looks.set(looks.get() + 1);
        looks.get() > 12
    };
    let part = predict::predict(&outlook, &[], &stop);
    let end = |forecast: &Forecast| forecast.jobs[&id(20)].ends.unwrap()[1] - forecast.made_at_ms;
    let ratio = end(&part) as f64 / end(&whole) as f64;
    assert!((0.85..1.15).contains(&ratio), "{ratio}");
}

#[test]
fn a_farm_whose_attempts_fail_is_believed_to_end_later() {
    let mut outlook = queue(20);
    assert_eq!(outlook.frame.fail_permille, 0, "nothing has failed yet");
    let late = |outlook: &Outlook| {
        let forecast = predict::predict(outlook, &[], &|| false);
        let [_, middle, late] = forecast.jobs[&id(20)].ends.unwrap();
        (middle, late)
    };
    let sound = late(&outlook);
    outlook.frame.fail_permille = 400;
    let broken = late(&outlook);
    // Four of ten attempts are lost half done: a fifth more work.
    let ratio = broken.1 as f64 / sound.1 as f64;
    assert!((1.05..1.6).contains(&ratio), "{sound:?} {broken:?}");
}

#[test]
fn the_same_copy_gives_the_same_forecast() {
    let outlook = queue(5);
    let told = || format!("{:?}", predict::predict(&outlook, &[], &|| false));
    assert_eq!(told(), told());
}
