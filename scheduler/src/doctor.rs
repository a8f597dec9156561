//! What database and artefact store say when one looks at them from outside; changes nothing in them.

use std::fmt::Display;

use crate::{
    artifacts::{Artifacts, ArtifactsUrl},
    outbound::first_cause,
    settings::Settings,
    store::{DatabaseUrl, Store},
};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: &'static str,
    pub verdict: Verdict,
    /// What was found, or what is wrong and how to mend it.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Found,
    /// Not there yet; the first start makes it.
    Absent,
    /// No scheduler can run until this is mended.
    Missing,
    /// Data was damaged.
    Broken,
}

fn finding(what: &'static str, verdict: Verdict, detail: impl Display) -> Finding {
    let detail = detail.to_string();
    Finding {
        what,
        verdict,
        detail,
    }
}

/// Looks at the database, its ledger of quota, and the artefact store.
pub async fn examine(settings: &Settings) -> Vec<Finding> {
    let mut findings = database(&settings.database()).await;
    findings.push(artefacts(settings).await);
    findings
}

async fn database(url: &DatabaseUrl) -> Vec<Finding> {
    let what = "database";
    let store = match Store::open_to_read(url).await {
        Ok(Some(store)) => store,
        Ok(None) => {
            let later = "the next 'dailies serve' or 'dailies up' makes it or brings it up to date";
            return vec![finding(what, Verdict::Absent, format!("{url}: {later}"))];
        }
        Err(error) => return vec![unreachable(url, &error)],
    };
    let mut findings = vec![finding(what, Verdict::Found, url)];
    match store.check_ledger().await {
        Ok(faults) => findings.push(match faults.first() {
            None => finding("ledger", Verdict::Found, "whole: chain, balances and holds"),
            Some(first) => {
                let more = faults.len();
                let detail = format!("{first}; {more} faults in all: restore a backup of {url}");
                finding("ledger", Verdict::Broken, detail)
            }
        }),
        Err(error) => findings = vec![unreachable(url, &error)],
    }
    store.close().await;
    findings
}

fn unreachable(url: &DatabaseUrl, error: &(dyn std::error::Error + 'static)) -> Finding {
    let detail = format!("{url}: {error}: {}", first_cause(error));
    finding("database", Verdict::Missing, detail)
}

async fn artefacts(settings: &Settings) -> Finding {
    let (what, url) = ("artefacts", settings.artifacts());
    if let ArtifactsUrl::Folder(folder) = &url
        && !folder.is_dir()
    {
        let later = "the first 'dailies serve' or 'dailies up' makes it";
        return finding(what, Verdict::Absent, format!("{url}: {later}"));
    }
    let probed = match Artifacts::open_at(url.clone(), &settings.s3) {
        Ok(artifacts) => artifacts.probe().await,
        Err(error) => Err(error),
    };
    match probed {
        Ok(took) => {
            let detail = format!(
                "{url}: writes, reads and removes in {} ms",
                took.as_millis()
            );
            finding(what, Verdict::Found, detail)
        }
        Err(error) => {
            let cause = first_cause(&error);
            finding(what, Verdict::Missing, format!("{url}: {error}: {cause}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{
            Farm,
            command::Command,
            limits::Limits,
            model::{accounts, job},
        },
        store::testing::database,
    };

    fn told(findings: &[Finding]) -> Vec<(&str, Verdict)> {
        let told = findings.iter().map(|found| (found.what, found.verdict));
        told.collect()
    }

    #[tokio::test]
    async fn it_tells_what_is_there_and_what_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            data: folder.path().to_path_buf(),
            database: Some(database(folder.path())),
            ..Settings::default()
        };
        let before = examine(&settings).await;
        let absent = [
            ("database", Verdict::Absent),
            ("artefacts", Verdict::Absent),
        ];
        assert_eq!(told(&before), absent, "{before:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

        Artifacts::in_folder(folder.path()).unwrap();
        let store = Store::open(settings.database()).await.unwrap();
        let found = [
            ("database", Verdict::Found),
            ("ledger", Verdict::Found),
            ("artefacts", Verdict::Found),
        ];
        assert_eq!(told(&examine(&settings).await), found);

        let term = store.take_term().await.unwrap();
        let mut farm = Farm::empty(Limits::default(), term);
        let mut commands: Vec<Command> = accounts().into_iter().map(Command::AddAccount).collect();
        commands.push(Command::Submit(Box::new(job(1, 1))));
        for command in commands {
            let writes = farm.apply(command, 1).writes;
            store.commit(term, farm.seq(), &writes).await.unwrap();
        }
        assert_eq!(told(&examine(&settings).await), found);
        store.execute("UPDATE balance SET spent_us = 7").await;
        let broken = examine(&settings).await;
        assert_eq!(broken[1].verdict, Verdict::Broken, "{broken:?}");
        assert!(broken[1].detail.contains("restore a backup"), "{broken:?}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_said_without_its_password() {
        let url = "postgres://ann:s3cret@127.0.0.1:1/farm";
        let settings = Settings {
            database: Some(url.parse().unwrap()),
            data: "/nowhere".into(),
            ..Settings::default()
        };
        let found = examine(&settings).await;
        assert_eq!(found[0].verdict, Verdict::Missing);
        let text = &found[0].detail;
        assert!(
            text.contains("127.0.0.1:1/farm") && text.contains("refused"),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "{text}");
    }
}
