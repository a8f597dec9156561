//! The chores on a real database and a real folder, run by the real worker.

use std::time::Duration;

use schemas::{Digest, JobId};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{Chore, ChoreError, ChoreSettings, Chores, ledger, retention, start, sweep};
use crate::{
    artifacts::testing::Kept,
    clock::Clock,
    core::{
        Farm,
        command::Command,
        limits::Limits,
        model::{PROJECT, accounts, job},
    },
    store::{Store, entity::chore::Model},
};

struct World {
    _database: tempfile::TempDir,
    kept: Kept,
    chores: Chores,
}

async fn world(settings: ChoreSettings) -> World {
    world_in(Kept::Folder(tempfile::tempdir().unwrap()), settings).await
}

async fn world_in(kept: Kept, settings: ChoreSettings) -> World {
    let folder = tempfile::tempdir().unwrap();
    let chores = Chores {
        settings,
        store: Store::open(crate::store::testing::database(folder.path()))
            .await
            .unwrap(),
        artifacts: kept.open(),
        clock: Clock::start(),
    };
    World {
        _database: folder,
        kept,
        chores,
    }
}

impl World {
    async fn artefact(&self, text: &'static str, age: Duration) -> Digest {
        let digest = self.chores.artifacts.put_bytes(text.into()).await.unwrap();
        self.kept.age(digest, age);
        digest
    }

    async fn is_stored(&self, digest: Digest) -> bool {
        self.chores.artifacts.size(digest).await.unwrap().is_some()
    }

    /// A job whose first frame is this artefact.
    async fn job_with(&self, digest: Digest) {
        let term = self.chores.store.take_term().await.unwrap();
        let mut farm = Farm::empty(Limits::default(), term);
        let mut new = job(1, 1);
        new.tasks[0].reads = vec![digest];
        let mut commands: Vec<Command> = accounts().into_iter().map(Command::AddAccount).collect();
        commands.push(Command::Submit(Box::new(new)));
        for command in commands {
            let writes = farm.apply(command, 1).writes;
            let store = &self.chores.store;
            store.commit(term, farm.seq(), &writes).await.unwrap();
        }
    }
}

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_sweep_removes_only_what_is_old_and_unreferenced() {
    for kept in Kept::both().await {
        sweep_in(kept).await;
    }
}

async fn sweep_in(kept: Kept) {
    let world = world_in(kept, ChoreSettings::default()).await;
    let old = world.artefact("loser of a race", 2 * DAY).await;
    let young = world.artefact("on its way", DAY / 2).await;
    let used = world.artefact("first frame", 2 * DAY).await;
    let again = world.artefact("uploaded again", 2 * DAY).await;
    world
        .chores
        .artifacts
        .put_bytes("uploaded again".into())
        .await
        .unwrap();
    world.job_with(used).await;
    assert_eq!(sweep::sweep(&world.chores).await.unwrap(), 1);
    assert!(!world.is_stored(old).await);
    for kept in [young, used, again] {
        assert!(world.is_stored(kept).await);
    }
}

#[tokio::test]
async fn retention_removes_old_tombstones() {
    let settings = ChoreSettings {
        tombstone_ms: 0,
        log_ms: i64::MAX / 2, // the test's clock began in 1970
        ..ChoreSettings::default()
    };
    let world = world(settings).await;
    world.job_with(Digest::of(b"x")).await;
    let delete = crate::core::write::Write::RemoveJob {
        project: PROJECT,
        job: JobId(Uuid::from_u128(1)),
        at_ms: 5,
    };
    world.chores.store.commit(1, 99, &[delete]).await.unwrap();
    assert_eq!(retention::remove(&world.chores).await.unwrap(), 1);
    assert_eq!(retention::remove(&world.chores).await.unwrap(), 0);
}

#[tokio::test]
async fn the_worker_runs_what_is_due_and_stops_when_asked() {
    let world = world(ChoreSettings::default()).await;
    let old = world.artefact("loser of a race", 2 * DAY).await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let Chores {
        settings,
        store,
        artifacts,
        ..
    } = world.chores.clone();
    start(settings, store.clone(), artifacts, &tasks, stop.clone())
        .await
        .unwrap();
    let all_done = async {
        loop {
            let rows = store.chores().await.unwrap();
            if rows.iter().all(|row| row.last_done_at_ms.is_some()) {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let rows = tokio::time::timeout(Duration::from_secs(60), all_done)
        .await
        .unwrap();
    assert_eq!(rows.len(), Chore::ALL.len());
    for row in rows {
        assert_eq!((row.run, row.failures, row.leased_until_ms), (1, 0, None));
        assert!(row.next_at_ms > row.last_done_at_ms.unwrap());
    }
    assert!(!world.is_stored(old).await);
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn a_failing_chore_is_tried_again_later_and_holds_up_no_other() {
    let world = world(ChoreSettings::default()).await;
    let store = world.chores.store.clone();
    store
        .enter_chore("of_a_later_version", "\"launder\"", 1)
        .await
        .unwrap();
    store.execute("DROP TABLE tombstone").await; // retention cannot work
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let Chores {
        settings,
        artifacts,
        ..
    } = world.chores.clone();
    start(settings, store.clone(), artifacts, &tasks, stop.clone())
        .await
        .unwrap();
    let all_ended = async {
        loop {
            let rows = store.chores().await.unwrap();
            let ended = |row: &Model| row.failures > 0 || row.last_done_at_ms.is_some();
            if rows.iter().all(ended) {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let rows = tokio::time::timeout(Duration::from_secs(60), all_ended)
        .await
        .unwrap();
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row.name.as_str(), row.failures, row.last_error.is_some()))
        .collect();
    assert_eq!(
        told,
        [
            ("check_ledger", 0, false),
            ("of_a_later_version", 1, true),
            ("retention", 1, true),
            ("sweep_artefacts", 0, false)
        ]
    );
    let now = world.chores.clock.now_ms();
    assert!(
        rows.iter()
            .all(|row| row.next_at_ms > now && row.leased_until_ms.is_none())
    );
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn a_run_that_was_overtaken_changes_nothing() {
    let world = world(ChoreSettings::default()).await;
    let store = &world.chores.store;
    store.enter_chore("c", "null", 10).await.unwrap();
    store.enter_chore("c", "null", 99).await.unwrap();
    assert_eq!(store.take_chore(9, 30).await.unwrap(), None);
    let first = store.take_chore(10, 30).await.unwrap().unwrap();
    assert_eq!(store.take_chore(39, 30).await.unwrap(), None);
    let second = store.take_chore(40, 30).await.unwrap().unwrap();
    assert_eq!((first.run, second.run), (1, 2));
    assert!(!store.finish_chore("c", first.run, 41, 100).await.unwrap());
    assert!(!store.renew_chore("c", first.run, 99).await.unwrap());
    assert_eq!(
        store.fail_chore("c", first.run, "late", 100).await.unwrap(),
        None
    );
    assert!(store.renew_chore("c", second.run, 80).await.unwrap());
    assert_eq!(
        store
            .fail_chore("c", second.run, "broke", 100)
            .await
            .unwrap(),
        Some(1)
    );
    let third = store.take_chore(100, 30).await.unwrap().unwrap();
    assert!(store.finish_chore("c", third.run, 101, 200).await.unwrap());
    assert_eq!(store.chores().await.unwrap()[0].failures, 0);
}

#[tokio::test]
async fn a_whole_ledger_passes_and_a_changed_one_fails_the_chore() {
    let world = world(ChoreSettings::default()).await;
    let digest = world.artefact("frame", Duration::ZERO).await;
    world.job_with(digest).await;
    assert_eq!(ledger::check(&world.chores).await.unwrap(), 0);
    let store = &world.chores.store;
    store.execute("UPDATE ledger_entry SET amount_us = 1").await;
    let error = ledger::check(&world.chores).await.unwrap_err();
    assert!(matches!(error, ChoreError::Ledger { .. }), "{error}");
}
