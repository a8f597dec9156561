//! What a first start makes: the default project, its key, the token of the agents.

use std::{
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::rand::{GetRandomFlags, getrandom};
use schemas::AccountId;
use uuid::Uuid;

use crate::{
    core::rows::{AccountRow, KeyRow, Level, Priority},
    dispatcher::{DispatchError, Dispatcher},
    store::{Store, StoreError},
};

/// File in the data folder with the first API key; the user may move it elsewhere.
pub const API_KEY_FILE: &str = "api-key";
/// File in the data folder with the token that agents show.
pub const AGENT_TOKEN_FILE: &str = "agent-token";
/// Bits of chance in a key or token: as many as its BLAKE3 hash has.
const SECRET_BYTES: usize = 32;
/// Only the owner may read a secret.
const SECRET_MODE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("cannot write {path}; check the space and the rights there")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {path}; check the rights there")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the system gave no random bytes")]
    Random(#[source] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot enter the first project")]
    Dispatch(#[from] DispatchError),
}

/// The hash under which a key is stored.
pub fn key_hash(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex().to_string()
}

/// A key that nobody can guess.
pub fn new_key() -> Result<String, BootstrapError> {
    secret("dk_")
}

/// Makes the default org and project when there are none, and a key when there is none.
/// Answers the key if it was made now: it is not stored and cannot be shown again from the database.
pub async fn first_key(
    data: &Path,
    store: &Store,
    dispatcher: &Dispatcher,
) -> Result<Option<String>, BootstrapError> {
    let project = default_project(store, dispatcher).await?;
    if !store.keys().await?.is_empty() {
        return Ok(None);
    }
    let key = new_key()?;
    // The file first: a crash in between only leaves a key that the next start replaces.
    write_secret(&data.join(API_KEY_FILE), &key)?;
    dispatcher
        .add_key(KeyRow {
            hash: key_hash(&key),
            project,
            name: "first".into(),
            created_at_ms: dispatcher.now_ms(),
            revoked_at_ms: None,
            admin: true,
            priority_max: Priority::Urgent,
        })
        .await?;
    Ok(Some(key))
}

async fn default_project(
    store: &Store,
    dispatcher: &Dispatcher,
) -> Result<AccountId, BootstrapError> {
    let accounts = store.accounts().await?;
    let find = |level| accounts.iter().find(|row| row.level == level);
    if let Some(project) = find(Level::Project) {
        return Ok(project.id);
    }
    let org = match find(Level::Org) {
        Some(org) => org.id,
        None => add_account(dispatcher, None, Level::Org, "default-org").await?,
    };
    add_account(dispatcher, Some(org), Level::Project, "default").await
}

async fn add_account(
    dispatcher: &Dispatcher,
    parent: Option<AccountId>,
    level: Level,
    name: &str,
) -> Result<AccountId, BootstrapError> {
    let id = AccountId(Uuid::now_v7());
    let row = AccountRow {
        id,
        parent,
        level,
        name: name.into(),
        created_at_ms: dispatcher.now_ms(),
        weight: 1,
    };
    dispatcher.add_account(row).await?;
    Ok(id)
}

/// The token in the data folder, made on the first start.
pub fn agent_token(data: &Path) -> Result<String, BootstrapError> {
    let path = data.join(AGENT_TOKEN_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_string()),
        Ok(_) => make_token(&path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_token(&path),
        Err(source) => Err(BootstrapError::Read { path, source }),
    }
}

fn make_token(path: &Path) -> Result<String, BootstrapError> {
    let token = secret("at_")?;
    write_secret(path, &token)?;
    Ok(token)
}

fn secret(prefix: &str) -> Result<String, BootstrapError> {
    let mut bytes = [0; SECRET_BYTES];
    let mut filled = 0;
    while filled < SECRET_BYTES {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())
            .map_err(|errno| BootstrapError::Random(errno.into()))?;
    }
    Ok(format!("{prefix}{}", hex::encode(bytes)))
}

/// Whole or not at all, and never readable for others.
fn write_secret(path: &Path, text: &str) -> Result<(), BootstrapError> {
    let failed = |source| BootstrapError::Write {
        path: path.to_path_buf(),
        source,
    };
    let half = path.with_extension("half");
    match std::fs::remove_file(&half) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(SECRET_MODE)
        .open(&half)
        .map_err(failed)?;
    writeln!(file, "{text}").map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&half, path).map_err(failed)
}

/// Why a key cannot be of this account, and what to do.
pub fn no_project(name: &str, level: Option<Level>) -> String {
    match level {
        Some(Level::Org) => format!(
            "'{name}' is an org, and keys are those of projects: make one with \
             'dailies quota add PROJECT --under {name}'"
        ),
        _ => format!("there is no project '{name}': see 'dailies quota'"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_token_is_made_once_and_only_its_owner_reads_it() {
        let data = tempfile::tempdir().unwrap();
        let token = agent_token(data.path()).unwrap();
        assert_eq!(token.len(), "at_".len() + 2 * SECRET_BYTES);
        assert_eq!(agent_token(data.path()).unwrap(), token);
        let path = data.path().join(AGENT_TOKEN_FILE);
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SECRET_MODE);
    }

    #[test]
    fn two_secrets_differ() {
        assert_ne!(secret("dk_").unwrap(), secret("dk_").unwrap());
    }
}
