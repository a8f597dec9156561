//! The store on real databases.

use schemas::{GpuMicros, JobId, TaskId, task::Variant};
use uuid::Uuid;

use super::{
    DatabaseUrl, Store, StoreError,
    quota::Fault,
    read::{After, Order},
    testing::{database, postgres},
};
use crate::core::{
    Farm,
    command::Command,
    limits::Limits,
    model::{PROJECT, accounts, job},
    quota::{QuotaChange, QuotaOrder},
    rows::{JobRow, JobState, TaskState},
    simulation::history,
    write::{TaskGuard, Write},
};

async fn store() -> (tempfile::TempDir, Store, Farm) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(database(folder.path())).await.unwrap();
    let term = store.take_term().await.unwrap();
    let mut farm = Farm::empty(Limits::default(), term);
    for row in accounts() {
        apply(&store, &mut farm, Command::AddAccount(row), 1).await;
    }
    (folder, store, farm)
}

async fn apply(store: &Store, farm: &mut Farm, command: Command, now: i64) {
    let outcome = farm.apply(command, now);
    store
        .commit(farm.term(), farm.seq(), &outcome.writes)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_rebuilt_core_equals_the_live_one_field_by_field() {
    for seed in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(database(folder.path())).await.unwrap();
        let run = history(seed);
        let term = store.take_term().await.unwrap();
        for (seq, writes) in &run.commits {
            store.commit(term, *seq, writes).await.unwrap();
        }
        let mut snapshot = store.load(run.now).await.unwrap();
        snapshot.term = run.farm.term(); // the simulation changed leaders in between
        let rebuilt = Farm::fold(run.limits, snapshot, run.now).unwrap();
        assert_eq!(rebuilt.durable(), run.farm.durable(), "seed {seed}");
    }
}

#[tokio::test]
async fn a_write_that_meets_another_state_undoes_its_whole_group() {
    let (_folder, store, mut farm) = store().await;
    let submit = Command::Submit(Box::new(job(1, 1)));
    apply(&store, &mut farm, submit, 5).await;
    let mut row: JobRow = farm.durable().jobs[0].clone();
    row.state = JobState::Succeeded;
    let good = Write::UpdateJob {
        was: JobState::Waiting,
        row: row.clone(),
    };
    let bad = Write::UpdateTask {
        was: TaskGuard {
            state: "leased",
            attempt: 1,
        },
        row: farm.durable().tasks[0].clone(),
    };
    let error = store
        .commit(farm.term(), 9, &[good, bad])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Unexpected { .. }), "{error}");
    let view = store.job(PROJECT, row.id).await.unwrap().unwrap();
    assert_eq!(view.state, JobState::Waiting);
    assert_eq!(store.load(6).await.unwrap().seq, farm.seq());
}

#[tokio::test]
async fn a_deposed_leader_cannot_commit() {
    let (_folder, store, farm) = store().await;
    assert_eq!(store.take_term().await.unwrap(), farm.term() + 1);
    let error = store.commit(farm.term(), 2, &[]).await.unwrap_err();
    assert!(matches!(error, StoreError::Deposed { .. }), "{error}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_not_touched() {
    let (folder, store, _) = store().await;
    store
        .execute("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_later', 0)")
        .await;
    store.close().await;
    let error = Store::open(database(folder.path())).await.unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join(super::FILE),
        "this is not SQLite, it is text",
    )
    .unwrap();
    let error = Store::open(folder.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::Failed { .. }), "{error}");
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_while_jobs_come_and_go() {
    let (_folder, store, mut farm) = store().await;
    for number in 1..=5 {
        let submit = Command::Submit(Box::new(job(number, 1)));
        // Two of them in the same millisecond: the id decides.
        apply(&store, &mut farm, submit, 10 + (number / 2) as i64).await;
    }
    let ids = |page: &super::read::JobsPage| -> Vec<u128> {
        page.jobs.iter().map(|view| view.id.0.as_u128()).collect()
    };
    let page =
        async |after, limit, order| store.jobs_page(PROJECT, after, limit, order).await.unwrap();
    let first = page(None, 2, Order::Desc).await;
    assert_eq!((ids(&first), first.has_more), (vec![5, 4], true));

    let id = JobId(Uuid::from_u128(4));
    let delete = Command::Delete {
        project: PROJECT,
        job: id,
    };
    apply(&store, &mut farm, delete, 20).await;
    apply(&store, &mut farm, Command::Submit(Box::new(job(6, 1))), 21).await;
    let cursor = store.cursor(PROJECT, id).await.unwrap();
    assert_eq!(cursor.map(|c: After| c.created_at_ms), Some(12));
    let second = page(cursor, 2, Order::Desc).await;
    assert_eq!((ids(&second), second.has_more), (vec![3, 2], true));
    let cursor = store.cursor(PROJECT, second.jobs[1].id).await.unwrap();
    let last = page(cursor, 2, Order::Desc).await;
    assert_eq!((ids(&last), last.has_more), (vec![1], false));

    assert_eq!(ids(&page(None, 9, Order::Asc).await), [1, 2, 3, 5, 6]);
    assert_eq!(ids(&page(cursor, 9, Order::Asc).await), [3, 5, 6]);
    let none = page(None, 0, Order::Asc).await;
    assert_eq!((ids(&none), none.has_more), (vec![], false));
    let other = schemas::AccountId(Uuid::nil());
    assert!(store.job(other, second.jobs[0].id).await.unwrap().is_none());
    assert!(store.cursor(other, id).await.unwrap().is_none());
    let dead = store.tombstone(PROJECT, id).await.unwrap().unwrap();
    assert_eq!((dead.created_at_ms, dead.deleted_at_ms), (12, 20));
}

#[tokio::test]
async fn a_view_shows_what_was_committed() {
    let (_folder, store, mut farm) = store().await;
    let submit = Command::Submit(Box::new(job(1, 2)));
    apply(&store, &mut farm, submit, 5).await;
    let view = store
        .job(PROJECT, JobId(Uuid::from_u128(1)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((view.created_at_ms, view.seed, view.progress), (5, 7, 0));
    let states: Vec<&str> = view.tasks.iter().map(|task| task.state.as_str()).collect();
    assert_eq!(states, ["ready", "ready", "blocked"]);
    assert_eq!(view.reservation.reserved.0, 10_000_000);
    assert!(view.artefact(Variant::Film).is_none());
}

#[tokio::test]
async fn expired_rows_are_removed_and_others_stay() {
    let (_folder, store, mut farm) = store().await;
    for number in 1..=2 {
        let id = JobId(Uuid::from_u128(number));
        let submit = Command::Submit(Box::new(job(number, 1)));
        apply(&store, &mut farm, submit, 5).await;
        let delete = Command::Delete {
            project: PROJECT,
            job: id,
        };
        apply(&store, &mut farm, delete, 10 * number as i64).await;
    }
    let note = Command::NoteError {
        fingerprint: "f".into(),
    };
    apply(&store, &mut farm, note, 30).await;
    assert_eq!(store.remove_expired(40, 15).await.unwrap(), 1);
    assert_eq!(store.remove_expired(30 + 900_000, 15).await.unwrap(), 1);
    let tombstone = async |n| {
        store
            .tombstone(PROJECT, JobId(Uuid::from_u128(n)))
            .await
            .unwrap()
    };
    assert!(tombstone(1).await.is_none());
    assert!(tombstone(2).await.is_some());
}

#[tokio::test]
async fn artefacts_are_referenced_as_long_as_their_job() {
    let (_folder, store, mut farm) = store().await;
    let mut new = job(1, 1);
    let digest = schemas::Digest::of(b"first frame");
    new.tasks[0].reads = vec![digest];
    let project = new.project;
    apply(&store, &mut farm, Command::Submit(Box::new(new)), 5).await;
    assert!(
        store
            .referenced_artefacts()
            .await
            .unwrap()
            .contains(&digest)
    );
    let job = JobId(Uuid::from_u128(1));
    apply(&store, &mut farm, Command::Delete { project, job }, 6).await;
    assert!(store.referenced_artefacts().await.unwrap().is_empty());
    let tasks = farm.durable().tasks;
    let leased = |task: &crate::core::rows::TaskRow| matches!(task.state, TaskState::Leased(_));
    assert!(!tasks.iter().any(leased));
    assert!(
        tasks
            .iter()
            .all(|task| task.id != TaskId(Uuid::from_u128(100)))
    );
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_never_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let Some(DatabaseUrl::Postgres(options)) = postgres(folder.path()) else {
        return;
    };
    let wrong = DatabaseUrl::Postgres(Box::new(options.password("s3cret")));
    let error = Store::open(wrong).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Failed { step: "open", .. }),
        "{error}"
    );
    assert!(
        !format!("{error} {error:?}").contains("s3cret"),
        "{error:?}"
    );
}

/// A farm of which an account is metered and a job is in flight, all of it in the database.
async fn metered() -> (tempfile::TempDir, Store, Farm) {
    let (folder, store, mut farm) = store().await;
    let change = QuotaChange::Grant {
        name: "a".into(),
        amount: GpuMicros(15_000_000),
        expires_at_ms: None,
    };
    let order = QuotaOrder {
        actor: "ops".into(),
        account: PROJECT,
        change,
    };
    apply(&store, &mut farm, Command::OrderQuota(Box::new(order)), 3).await;
    apply(&store, &mut farm, Command::Submit(Box::new(job(1, 1))), 4).await;
    (folder, store, farm)
}

#[tokio::test]
async fn the_ledger_checks_out_and_a_rebuilt_farm_goes_on_with_its_chain() {
    let (_folder, store, farm) = metered().await;
    assert_eq!(store.check_ledger().await.unwrap(), []);
    let snapshot = store.load(5).await.unwrap();
    let mut rebuilt = Farm::fold(Limits::default(), snapshot, 5).unwrap();
    assert_eq!(rebuilt.durable(), farm.durable());
    let id = job(1, 1).id;
    let cancel = Command::Cancel {
        project: PROJECT,
        job: id,
    };
    apply(&store, &mut rebuilt, cancel, 6).await;
    assert_eq!(store.check_ledger().await.unwrap(), []);
    let entries = store.entries(PROJECT, 2).await.unwrap();
    let keys: Vec<&str> = entries.iter().map(|row| row.key.as_str()).collect();
    assert_eq!(keys, [format!("void:{id}"), format!("hold:{id}")]);
}

#[tokio::test]
async fn a_ledger_that_was_tampered_with_is_found_out() {
    type Named = fn(&Fault) -> bool;
    let cases: [(&str, Named); 5] = [
        ("UPDATE ledger_entry SET at_ms = at_ms + 1", |fault| {
            matches!(fault, Fault::Chain { .. })
        }),
        (
            "DELETE FROM ledger_entry WHERE entry_key = 'grant:a'",
            |fault| matches!(fault, Fault::Chain { .. }),
        ),
        (
            "UPDATE ledger_entry SET amount_us = 1 WHERE entry_key = 'grant:a'",
            |fault| matches!(fault, Fault::Balance { .. }),
        ),
        ("UPDATE balance SET available_us = 7", |fault| {
            matches!(fault, Fault::Sum { .. })
        }),
        ("UPDATE reservation SET held_us = 1", |fault| {
            matches!(fault, Fault::Held { .. })
        }),
    ];
    for (sql, named) in cases {
        let (_folder, store, _farm) = metered().await;
        store.execute(sql).await;
        let faults = store.check_ledger().await.unwrap();
        assert!(faults.iter().any(named), "{sql}: {faults:?}");
    }
}

#[tokio::test]
async fn entries_from_before_the_chain_are_taken_as_they_are() {
    let (_folder, store, _farm) = metered().await;
    store.execute("UPDATE ledger_entry SET hash = NULL").await;
    let snapshot = store.load(5).await.unwrap();
    let mut farm = Farm::fold(Limits::default(), snapshot, 5).unwrap();
    let cancel = Command::Cancel {
        project: PROJECT,
        job: job(1, 1).id,
    };
    apply(&store, &mut farm, cancel, 6).await;
    assert_eq!(store.check_ledger().await.unwrap(), []);
    store
        .execute(
            "UPDATE ledger_entry SET hash = NULL WHERE seq = (SELECT MAX(seq) FROM ledger_entry)",
        )
        .await;
    let faults = store.check_ledger().await.unwrap();
    assert!(matches!(faults[..], [Fault::Chain { .. }]), "{faults:?}");
}

#[tokio::test]
async fn a_reader_opens_only_a_database_of_its_own_version_and_makes_none() {
    let empty = tempfile::tempdir().unwrap();
    let nothing = database(empty.path());
    for _ in 0..2 {
        assert!(Store::open_to_read(&nothing).await.unwrap().is_none());
    }
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
    let (folder, store, _farm) = metered().await;
    let url = database(folder.path());
    let reader = Store::open_to_read(&url).await.unwrap().unwrap();
    assert!(!reader.accounts().await.unwrap().is_empty());
    let older = "DELETE FROM seaql_migrations WHERE version = 'm0004_quota'";
    store.execute(older).await;
    assert!(Store::open_to_read(&url).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_committed_after_a_full_disk_is_there_for_everyone() {
    let folder = tempfile::tempdir().unwrap();
    let url = DatabaseUrl::from(folder.path()); // a server ends a transaction where it says so
    let store = Store::open(url.clone()).await.unwrap();
    let term = store.take_term().await.unwrap();
    let mut farm = Farm::empty(Limits::default(), term);
    for account in accounts() {
        let writes = farm.apply(Command::AddAccount(account), 1).writes;
        store.commit(term, farm.seq(), &writes).await.unwrap();
    }
    let mut large = job(1, 1);
    large.request = serde_json::json!({"prompt": "a ball ".repeat(100_000)});
    let id = large.id;
    let writes = farm.apply(Command::Submit(Box::new(large)), 2).writes;
    store.execute("PRAGMA max_page_count = 1").await;
    let full = store.commit(term, farm.seq(), &writes).await.unwrap_err();
    assert!(format!("{full:?}").contains("full"), "{full:?}");
    store.load(2).await.unwrap(); // memory is folded anew
    store.commit(term, farm.seq(), &writes).await.unwrap();
    let other = Store::open_to_read(&url).await.unwrap().unwrap();
    assert!(other.job(PROJECT, id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_recipe_in_a_notice_has_its_words_again() {
    let (_folder, store, mut farm) = store().await;
    apply(&store, &mut farm, Command::Submit(Box::new(job(1, 1))), 4).await;
    let row = farm.durable().tasks[0].clone();
    let recipe = serde_json::json!(*row.spec);
    assert_eq!(recipe["prompt"], "", "memory has only the shape");
    let notice = crate::core::rows::NoticeRow {
        seq: farm.seq() + 1,
        at_ms: 5,
        kind: "poison".into(),
        actor: None,
        subject: row.id.to_string(),
        detail: serde_json::json!({"recipe": recipe}),
    };
    let write = Write::InsertNotice(notice);
    store
        .commit(farm.term(), farm.seq() + 1, &[write])
        .await
        .unwrap();
    let told = store.notices(1).await.unwrap().remove(0);
    assert_eq!(told.detail["recipe"]["prompt"], "a red ball falls");
}
