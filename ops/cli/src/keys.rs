//! `dailies keys`: API keys of a scheduler that is not running.
//!
//! Only the scheduler writes its database, so this starts one on the data folder, on a free
//! loopback port and without agents, and ends it again. A running one holds the folder's lock.

use std::{fs::File, io::Read, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use scheduler::{
    Running, Scheduler, Settings,
    bootstrap::key_hash,
    core::rows::{AccountRow, KeyRow, Level, Priority},
};

/// Random bytes of a key.
const SECRET_BYTES: usize = 32;
/// Digits of a key's hash that name it.
const NAME_DIGITS: usize = 12;

#[derive(Args, Debug)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
    /// Data folder of the scheduler, which must not be running.
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
        /// The key may see and change nodes, and the quota of every account.
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
    if !args.data.is_dir() {
        bail!(
            "there is no data folder {}: name it with --data",
            args.data.display()
        );
    }
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = Settings {
        data: args.data,
        listen: loopback,
        ..Settings::read(None)?
    };
    let running = Scheduler::start(settings).await?;
    let done = match &args.command {
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
            create(&running, key).await
        }
        KeysCommand::List => list(&running).await,
        KeysCommand::Revoke { hash } => revoke(&running, hash).await,
    };
    running.shutdown().await;
    done
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
        Some(name) => format!("there is no project {name}: see 'dailies quota'"),
        None => "the database has no project".into(),
    };
    let project = accounts.iter().find(asked).context(missing)?.id;
    let mut secret = [0; SECRET_BYTES];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut secret))
        .context("the system gave no random bytes")?;
    let key: String = std::iter::once("dk_".to_string())
        .chain(secret.iter().map(|byte| format!("{byte:02x}")))
        .collect();
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

async fn list(running: &Running) -> Result<()> {
    for key in running.store().keys().await? {
        let state = if key.revoked_at_ms.is_some() {
            "revoked"
        } else {
            "valid"
        };
        let (hash, priority) = (&key.hash[..NAME_DIGITS], key.priority_max.name());
        println!("{hash}  {state:8}  {priority:8}  {}", key.name);
    }
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
