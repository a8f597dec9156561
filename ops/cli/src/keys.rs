//! `dailies keys`: API keys, through the scheduler that runs, or in the data folder of one that does
//! not.
//!
//! Only the scheduler writes its database. When none runs, this starts one on the data folder, on a
//! free loopback port and without agents, and ends it again.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use scheduler::{
    Running, Scheduler, Settings, StartError,
    bootstrap::{key_hash, new_key, no_project},
    core::rows::{AccountRow, KeyRow, Level, Priority},
    leader::LeaderError,
    store::Store,
};
use serde_json::json;

use crate::api::{Api, ServerArgs};

/// Digits of a key's hash that name it.
const NAME_DIGITS: usize = 12;

#[derive(Args, Debug)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
    /// Address of a scheduler that runs [default: the one on the data folder]
    #[arg(long, global = true, env = "DAILIES_URL")]
    url: Option<String>,
    /// An operator's key, when a scheduler runs [default: the file api-key in the data folder]
    #[arg(long, global = true, env = "DAILIES_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Data folder of the scheduler.
    #[arg(long, global = true, env = "DAILIES_DATA", default_value = "data")]
    data: PathBuf,
}

#[derive(Subcommand, Debug)]
enum KeysCommand {
    /// Make a key and show it, once: only its hash is stored.
    #[command(visible_alias = "add")]
    Create {
        /// What the key is for.
        name: String,
        /// The key may see and change nodes, and quota and keys of every account.
        #[arg(long)]
        admin: bool,
        /// The project that the key belongs to [default: the first]
        #[arg(long)]
        project: Option<String>,
        /// The highest priority that it may send; urgent work takes devices from others.
        #[arg(long, value_name = "PRIORITY", value_parser = priority, default_value = "high")]
        priority_max: Priority,
    },
    /// Show all keys by their names and the first digits of their hashes.
    List,
    /// End a key for good.
    Revoke {
        /// First digits of its hash, as 'keys list' shows them.
        hash: String,
    },
}

pub async fn run(args: KeysArgs) -> Result<()> {
    if let Some(url) = args.url.clone() {
        return ask(&args, url).await;
    }
    if !args.data.is_dir() {
        bail!(
            "there is no data folder {}: name it with --data, or a scheduler that runs with --url",
            args.data.display()
        );
    }
    let settings = Settings {
        data: args.data.clone(),
        ..Settings::read(None)?
    };
    match start(settings.clone()).await? {
        Some(running) => {
            let done = obey(&args.command, &running).await;
            running.shutdown().await;
            done
        }
        None => ask(&args, leader(&settings).await?).await,
    }
}

/// `None` when one runs already.
async fn start(settings: Settings) -> Result<Option<Running>> {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let alone = Settings {
        listen: loopback,
        advertise: None,
        ..settings
    };
    match Scheduler::start(alone).await {
        Ok(running) => Ok(Some(running)),
        Err(StartError::Leader(LeaderError::Taken { .. } | LeaderError::TakenOnServer { .. })) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Where the scheduler that runs answers, as it wrote into the database.
async fn leader(settings: &Settings) -> Result<String> {
    let url = settings.database();
    let address = match Store::open_to_read(&url).await? {
        Some(store) => {
            let address = store.leader_address().await;
            store.close().await;
            address?
        }
        None => None,
    };
    address.context("a scheduler runs but is not ready or of another version: name it with --url")
}

async fn ask(args: &KeysArgs, url: String) -> Result<()> {
    let api = Api::new(&ServerArgs {
        url,
        key: args.key.clone(),
        data: args.data.clone(),
    })?;
    match &args.command {
        KeysCommand::Create {
            name,
            admin,
            project,
            priority_max,
        } => {
            let mut wish =
                json!({"name": name, "admin": admin, "priority_max": priority_max.name()});
            if let Some(project) = project {
                wish["project"] = json!(project);
            }
            let made = api.create_key(&wish).await?;
            println!(
                "{}",
                made.key
                    .context("the scheduler made a key and did not show it")?
            );
        }
        KeysCommand::List => {
            for key in api.keys().await?.data {
                show(
                    &key.id,
                    key.revoked_at.is_some(),
                    &key.priority_max,
                    &key.name,
                );
            }
        }
        KeysCommand::Revoke { hash } => {
            let key = api.revoke_key(hash).await?;
            println!("{} ({}) is revoked", key.id, key.name);
        }
    }
    Ok(())
}

fn show(id: &str, is_revoked: bool, priority_max: &str, name: &str) {
    let state = if is_revoked { "revoked" } else { "valid" };
    println!("{id}  {state:8}  {priority_max:8}  {name}");
}

async fn obey(command: &KeysCommand, running: &Running) -> Result<()> {
    match command {
        KeysCommand::Create {
            name,
            admin,
            project,
            priority_max,
        } => {
            let key = NewKey {
                name,
                admin: *admin,
                project: project.as_deref(),
                priority_max: *priority_max,
            };
            create(running, key).await
        }
        KeysCommand::List => {
            for key in running.store().keys().await? {
                show(
                    &key.hash[..NAME_DIGITS],
                    key.revoked_at_ms.is_some(),
                    key.priority_max.name(),
                    &key.name,
                );
            }
            Ok(())
        }
        KeysCommand::Revoke { hash } => revoke(running, hash).await,
    }
}

struct NewKey<'a> {
    name: &'a str,
    admin: bool,
    project: Option<&'a str>,
    priority_max: Priority,
}

fn priority(text: &str) -> Result<Priority, String> {
    let found = Priority::ALL.into_iter().find(|p| p.name() == text);
    found.ok_or_else(|| "low, normal, high or urgent".into())
}

async fn create(running: &Running, new: NewKey<'_>) -> Result<()> {
    let accounts = running.store().accounts().await?;
    let asked = |row: &&AccountRow| {
        row.level == Level::Project && new.project.is_none_or(|name| row.name == name)
    };
    let missing = match new.project {
        Some(name) => {
            let named = accounts.iter().find(|row| row.name == name);
            no_project(name, named.map(|row| row.level))
        }
        None => "the database has no project".into(),
    };
    let project = accounts.iter().find(asked).context(missing)?.id;
    let key = new_key()?;
    let row = KeyRow {
        hash: key_hash(&key),
        project,
        name: new.name.to_string(),
        created_at_ms: running.dispatcher().now_ms(),
        revoked_at_ms: None,
        admin: new.admin,
        priority_max: new.priority_max,
    };
    running.dispatcher().add_key(row).await?;
    println!("{key}");
    Ok(())
}

async fn revoke(running: &Running, digits: &str) -> Result<()> {
    let keys = running.store().keys().await?;
    let mut named = keys.iter().filter(|key| key.hash.starts_with(digits));
    let (Some(key), None) = (named.next(), named.next()) else {
        bail!("'{digits}' does not name exactly one key: see 'dailies keys list'");
    };
    running.dispatcher().revoke_key(key.hash.clone()).await?;
    println!("{} ({}) is revoked", &key.hash[..NAME_DIGITS], key.name);
    Ok(())
}
