//! Who may write the database: on SQLite the process that holds the lock file beside it, on
//! PostgreSQL the one whose connection holds the leader's lock.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::store::{DatabaseUrl, StoreError, lock::Lock};

/// Name of the lock file beside the database.
pub const FILE: &str = "leader.lock";
/// How often a leader looks after its lock, and a standby for a free one.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks at a lock that is taken before a leader that lost its own believes it: the server may take
/// a moment to see that the old connection is gone.
const RETAKES_MAX: u32 = 5;

/// Held as long as this scheduler leads; the system or the server frees it when the process ends,
/// however it ends.
#[derive(Debug)]
pub enum Leadership {
    File(File),
    Server { url: DatabaseUrl, lock: Lock },
}

#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    #[error(
        "another scheduler already runs on {folder}; stop it first, or give this one another data folder"
    )]
    Taken { folder: PathBuf },
    #[error("another scheduler already leads on {url}; stop it first")]
    TakenOnServer { url: DatabaseUrl },
    #[error(
        "cannot write to the data folder {folder}; check that it is a folder that this user may write to"
    )]
    NotWritable {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot reach {url}; check the address, the user and the password, and that it runs")]
    Unreachable {
        url: DatabaseUrl,
        #[source]
        source: StoreError,
    },
}

/// Takes the leadership of a database, or says who has it.
pub async fn lead_on(url: &DatabaseUrl) -> Result<Leadership, LeaderError> {
    if let DatabaseUrl::Sqlite(file) = url {
        let folder = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        return lead(folder.unwrap_or(Path::new("."))).map(Leadership::File);
    }
    let asked = Lock::try_take(url).await;
    let lock = asked.map_err(|source| LeaderError::Unreachable {
        url: url.clone(),
        source,
    })?;
    let url = url.clone();
    match lock {
        Some(lock) => Ok(Leadership::Server { url, lock }),
        None => Err(LeaderError::TakenOnServer { url }),
    }
}

/// Waits until the leadership of a server is free. A server that cannot be reached is asked again.
pub async fn wait_to_lead(url: &DatabaseUrl) -> Result<Leadership, LeaderError> {
    loop {
        match lead_on(url).await {
            Err(LeaderError::TakenOnServer { .. }) => {}
            Err(LeaderError::Unreachable { url, source }) => {
                tracing::warn!(%url, cause = ?source, "cannot ask who leads");
            }
            led => return led,
        }
        sleep(LOOK_EVERY).await;
    }
}

impl Leadership {
    /// Looks after the lock until the guard is dropped; `lost` is cancelled when another leads.
    pub fn keep(self, lost: CancellationToken) -> Kept {
        let released = CancellationToken::new();
        match self {
            Self::File(file) => Kept::File(file),
            Self::Server { url, lock } => {
                let task = tokio::spawn(watch(url, lock, released.clone(), lost));
                Kept::Server {
                    released: released.drop_guard(),
                    task,
                }
            }
        }
    }
}

/// A leadership that is looked after.
#[derive(Debug)]
pub enum Kept {
    /// Freed by the drop of the file.
    File(File),
    Server {
        released: DropGuard,
        task: tokio::task::JoinHandle<()>,
    },
}

impl Kept {
    /// Frees it; when this answers, another may lead.
    pub async fn release(self) {
        match self {
            Self::File(file) => drop(file),
            Self::Server { released, task } => {
                drop(released);
                if let Err(error) = task.await {
                    tracing::warn!(%error, "the watch over the lock ended badly");
                }
            }
        }
    }
}

/// The lock goes with its connection. Whoever leads next takes a new term, so a commit of this
/// scheduler fails from then on; if nobody has, this one takes the lock again and goes on.
async fn watch(
    url: DatabaseUrl,
    mut lock: Lock,
    released: CancellationToken,
    lost: CancellationToken,
) {
    loop {
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = released.cancelled() => return lock.release().await,
        }
        if lock.is_held().await {
            continue;
        }
        tracing::error!(%url, "the connection that holds the leader's lock is lost");
        drop(lock);
        let again = tokio::select! {
            again = retake(&url) => again,
            () = released.cancelled() => return,
        };
        let Some(again) = again else {
            tracing::error!(%url, "another scheduler leads: this one stops");
            return lost.cancel();
        };
        tracing::info!(%url, "the leader's lock is held again");
        lock = again;
    }
}

/// `None` when another scheduler holds it.
async fn retake(url: &DatabaseUrl) -> Option<Lock> {
    let mut taken = 0;
    while taken < RETAKES_MAX {
        match Lock::try_take(url).await {
            Ok(Some(lock)) => return Some(lock),
            Ok(None) => taken += 1,
            Err(error) => tracing::warn!(cause = ?error, "cannot take the leader's lock: {error}"),
        }
        sleep(LOOK_EVERY).await;
    }
    None
}

/// Takes the lock file, or says who has it. The folder is made when it is missing.
pub fn lead(folder: &Path) -> Result<File, LeaderError> {
    let not_writable = |source| LeaderError::NotWritable {
        folder: folder.to_path_buf(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(not_writable)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(FILE))
        .map_err(not_writable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(LeaderError::Taken {
            folder: folder.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(not_writable(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        Store, lock,
        testing::{Outage, postgres},
    };

    #[test]
    fn a_second_leader_is_refused_until_the_first_ends() {
        let folder = tempfile::tempdir().unwrap();
        let first = lead(folder.path()).unwrap();
        let second = lead(folder.path()).unwrap_err();
        assert!(matches!(second, LeaderError::Taken { .. }), "{second}");
        drop(first);
        lead(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_that_is_a_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data");
        std::fs::write(&file, "").unwrap();
        let error = lead(&file).unwrap_err();
        assert!(matches!(error, LeaderError::NotWritable { .. }), "{error}");
        assert!(error.to_string().contains("data"), "{error}");
    }

    /// Ends the connection that holds the lock, once somebody waits for the lock.
    const END_THE_HOLDER: &str = "SELECT pg_terminate_backend(holder.pid)
        FROM pg_locks holder JOIN pg_locks waiter USING (locktype, database)
        WHERE locktype = 'advisory' AND holder.granted AND NOT waiter.granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

    #[tokio::test]
    async fn a_server_has_one_leader_and_the_next_one_waits_for_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let Some(url) = postgres(folder.path()) else {
            return;
        };
        let lost = CancellationToken::new();
        let first = lead_on(&url).await.unwrap().keep(lost.clone());
        let second = lead_on(&url).await.unwrap_err();
        assert!(
            matches!(second, LeaderError::TakenOnServer { .. }),
            "{second}"
        );
        let (next, ()) = tokio::join!(wait_to_lead(&url), first.release());
        next.unwrap();
        assert!(!lost.is_cancelled());
    }

    #[tokio::test]
    async fn a_leader_that_lost_its_lock_to_another_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let Some(url) = postgres(folder.path()) else {
            return;
        };
        let lost = CancellationToken::new();
        let _kept = lead_on(&url).await.unwrap().keep(lost.clone());
        let operator = Store::open(url.clone()).await.unwrap();
        let other = Store::open(url.clone()).await.unwrap();
        let take = format!("SELECT pg_advisory_lock({})", lock::KEY);
        let mut taken = std::pin::pin!(other.execute(&take));
        loop {
            tokio::select! {
                () = &mut taken => break,
                () = operator.execute(END_THE_HOLDER) => {}
            }
        }
        lost.cancelled().await;
    }

    #[tokio::test]
    async fn a_leader_whose_server_was_away_holds_its_lock_again() {
        let folder = tempfile::tempdir().unwrap();
        let Some(url) = postgres(folder.path()) else {
            return;
        };
        let lost = CancellationToken::new();
        let kept = lead_on(&url).await.unwrap().keep(lost.clone());
        let outage = Outage::begin(folder.path()).await;
        let unreachable = lead_on(&url).await.unwrap_err();
        assert!(
            matches!(unreachable, LeaderError::Unreachable { .. }),
            "{unreachable}"
        );
        outage.end().await;
        // The lock is free until it is taken again.
        while lead_on(&url).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!lost.is_cancelled());
        kept.release().await;
        wait_to_lead(&url).await.unwrap();
    }
}
