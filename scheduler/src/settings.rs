//! Settings of the scheduler: defaults, then a file, then `DAILIES__SCHEDULER__…` variables.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use config::{Config, ConfigError, Environment, File};
use jiff::{civil::Time, tz::TimeZone};
use serde::Deserialize;

use crate::{
    api::ApiSettings,
    artifacts::{self, ArtifactsUrl, S3Settings},
    chores::ChoreSettings,
    core::{
        limits::Limits,
        tariff::Series,
        windows::{AtEnd, EVERY_DAY, Window},
    },
    store::DatabaseUrl,
};

/// All settings; an unknown key is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address for users and agents alike; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Folder of the database, the artefacts, the lock and the first keys.
    pub data: PathBuf,
    pub farm: FarmSettings,
    pub api: ApiSettings,
    pub chores: ChoreSettings,
    /// Windows that a job may name in `start`; `overnight` is there from the start.
    pub windows: BTreeMap<String, WindowSettings>,
    /// `sqlite:FILE` or `postgres://USER:PASSWORD@HOST/NAME`; a file in the data folder when absent.
    pub database: Option<DatabaseUrl>,
    /// `file:FOLDER` or `s3://BUCKET/PREFIX`; a folder in the data folder when absent.
    pub artifacts: Option<ArtifactsUrl>,
    pub s3: S3Settings,
    /// `http://HOST:PORT` at which other schedulers reach this one; where it listens when absent.
    pub advertise: Option<String>,
}

/// A window in civil time, such as `zone = "Europe/Berlin"`, `start = "22:00"`, `end = "06:00"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSettings {
    /// An IANA name; the machine's own zone when absent.
    pub zone: Option<String>,
    /// `mon` to `sun`; every day when absent.
    pub weekdays: Option<Vec<String>>,
    pub start: String,
    /// Not after `start`: on the next day.
    pub end: String,
    /// What becomes of running work when it closes: `finish` (the default) lets it go on, `yield` stops
    /// it at its next step; it goes on from there the next night.
    #[serde(default)]
    pub at_end: AtEndSetting,
    /// Only work that will probably be done before the window closes may start.
    #[serde(default)]
    pub fit: bool,
    /// CSV file of what a device hour costs: lines `2027-01-31T22:00:00+01:00,0.21`, one an hour, in any
    /// unit (money, grams of carbon). Work takes the cheap hours of the window. Read at the start.
    #[serde(default)]
    pub prices: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtEndSetting {
    #[default]
    Finish,
    Yield,
}

/// Times of leases and agents, in milliseconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FarmSettings {
    pub lease_ttl_ms: i64,
    /// First expiry of a grant, until a heartbeat names it.
    pub start_ttl_ms: i64,
    pub heartbeat_ms: i64,
    /// How long a poll without work is held; below common idle limits of proxies.
    pub long_poll_ms: u64,
    pub yield_grace_ms: i64,
    pub drain_finish_ms: i64,
    pub gone_after_ms: i64,
    pub progress_write_ms: i64,
    /// How long work runs before an urgent job may take its device.
    pub preempt_min_run_ms: i64,
    /// Steps that it runs before.
    pub preempt_min_steps: u32,
    /// A device is only taken if that starts the urgent job at least this much sooner.
    pub preempt_gain_ms: i64,
    /// How long other work goes before a job that needs several devices at once, until it claims devices.
    pub claim_after_ms: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data: PathBuf::from("data"),
            farm: FarmSettings::default(),
            api: ApiSettings::default(),
            chores: ChoreSettings::default(),
            windows: BTreeMap::new(),
            database: None,
            artifacts: None,
            s3: S3Settings::default(),
            advertise: None,
        }
    }
}

impl Default for FarmSettings {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            lease_ttl_ms: limits.lease_ttl_ms,
            start_ttl_ms: limits.start_ttl_ms,
            heartbeat_ms: limits.heartbeat_ms,
            long_poll_ms: 25_000,
            yield_grace_ms: limits.yield_grace_ms,
            drain_finish_ms: limits.drain_finish_ms,
            gone_after_ms: limits.gone_after_ms,
            progress_write_ms: limits.progress_write_ms,
            preempt_min_run_ms: limits.preempt_min_run_ms,
            preempt_min_steps: limits.preempt_min_steps,
            preempt_gain_ms: limits.preempt_gain_ms,
            claim_after_ms: limits.claim_after_ms,
        }
    }
}

impl FarmSettings {
    /// What the core takes.
    ///
    /// # Errors
    /// A text that names the setting under which leases could not live.
    pub fn limits(&self) -> Result<Limits, String> {
        let positive = [
            ("lease_ttl_ms", self.lease_ttl_ms),
            ("start_ttl_ms", self.start_ttl_ms),
            ("heartbeat_ms", self.heartbeat_ms),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value <= 0) {
            return Err(format!("farm.{name} must be above 0"));
        }
        if self.lease_ttl_ms < 3 * self.heartbeat_ms {
            return Err(format!(
                "farm.lease_ttl_ms is {}: a lease must outlive three heartbeats of {} ms",
                self.lease_ttl_ms, self.heartbeat_ms
            ));
        }
        Ok(Limits {
            lease_ttl_ms: self.lease_ttl_ms,
            start_ttl_ms: self.start_ttl_ms,
            heartbeat_ms: self.heartbeat_ms,
            yield_grace_ms: self.yield_grace_ms,
            drain_finish_ms: self.drain_finish_ms,
            gone_after_ms: self.gone_after_ms,
            progress_write_ms: self.progress_write_ms,
            preempt_min_run_ms: self.preempt_min_run_ms,
            preempt_min_steps: self.preempt_min_steps,
            preempt_gain_ms: self.preempt_gain_ms,
            claim_after_ms: self.claim_after_ms,
            windows: BTreeMap::new(),
            rate_ppm: BTreeMap::new(),
        })
    }
}

impl WindowSettings {
    /// Ten in the evening to six in the morning where the machine is.
    fn overnight() -> Self {
        Self {
            zone: None,
            weekdays: None,
            start: "22:00".into(),
            end: "06:00".into(),
            at_end: AtEndSetting::Finish,
            fit: false,
            prices: None,
        }
    }

    fn window(&self, name: &str) -> Result<Window, String> {
        let wrong = |key: &str, text: &str, must: &str| {
            format!("windows.{name}.{key} is '{text}': it must be {must}")
        };
        let time = |key, text: &str| {
            text.parse::<Time>()
                .map_err(|_| wrong(key, text, "a time such as 22:00"))
        };
        let weekday = |text: &String| {
            let at = WEEKDAYS.iter().position(|day| day == text);
            at.map(|at| EVERY_DAY[at])
                .ok_or_else(|| wrong("weekdays", text, "mon, tue, wed, thu, fri, sat or sun"))
        };
        let weekdays = match &self.weekdays {
            None => EVERY_DAY.to_vec(),
            Some(days) => days.iter().map(weekday).collect::<Result<_, _>>()?,
        };
        let zone = match &self.zone {
            None => TimeZone::system(),
            Some(zone) => TimeZone::get(zone)
                .map_err(|_| wrong("zone", zone, "an IANA name such as Europe/Berlin"))?,
        };
        Ok(Window {
            zone,
            weekdays,
            start: time("start", &self.start)?,
            end: time("end", &self.end)?,
            at_end: match self.at_end {
                AtEndSetting::Finish => AtEnd::Finish,
                AtEndSetting::Yield => AtEnd::Yield,
            },
            fit: self.fit,
            prices: self.prices(name)?,
        })
    }
}

impl WindowSettings {
    fn prices(&self, name: &str) -> Result<Option<Arc<Series>>, String> {
        let Some(path) = &self.prices else {
            return Ok(None);
        };
        let wrong = |why: String| format!("windows.{name}.prices, {}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        Series::read(&text)
            .map(|series| Some(Arc::new(series)))
            .map_err(wrong)
    }
}

const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// The window that is always there.
const OVERNIGHT: &str = "overnight";

impl Settings {
    /// Where the database is.
    pub fn database(&self) -> DatabaseUrl {
        let in_folder = || self.data.as_path().into();
        self.database.clone().unwrap_or_else(in_folder)
    }

    /// Where the artefacts are.
    pub fn artifacts(&self) -> ArtifactsUrl {
        let in_folder = || ArtifactsUrl::Folder(self.data.join(artifacts::FOLDER));
        self.artifacts.clone().unwrap_or_else(in_folder)
    }

    /// Where others find a scheduler that listens on `address`.
    pub fn advertised(&self, address: SocketAddr) -> String {
        let shown = self.advertise.as_ref();
        let shown = shown.map(|url| url.trim_end_matches('/').to_string());
        shown.unwrap_or_else(|| match address.ip().is_unspecified() {
            true => format!("http://{}:{}", host_name(), address.port()),
            false => format!("http://{address}"),
        })
    }

    /// Limits of the core, windows included.
    ///
    /// # Errors
    /// A text that names the setting that cannot hold.
    pub fn limits(&self) -> Result<Limits, String> {
        let mut limits = self.farm.limits()?;
        limits.rate_ppm = self.api.models.rate_ppm.clone();
        limits.windows.insert(
            OVERNIGHT.into(),
            WindowSettings::overnight().window(OVERNIGHT)?,
        );
        for (name, window) in &self.windows {
            limits.windows.insert(name.clone(), window.window(name)?);
        }
        Ok(limits)
    }

    /// Reads `file`, if there is one, and the environment.
    ///
    /// # Errors
    /// Names the file, key or variable that cannot be read or is not known.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::from_sources(file, Environment::with_prefix("DAILIES__SCHEDULER"))
    }

    fn from_sources(file: Option<&Path>, variables: Environment) -> Result<Self, ConfigError> {
        let variables = variables
            .prefix_separator("__")
            .separator("__")
            .try_parsing(true);
        let mut sources = Config::builder();
        if let Some(file) = file {
            sources = sources.add_source(File::from(file));
        }
        sources.add_source(variables).build()?.try_deserialize()
    }
}

/// What the kernel calls this machine.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.map(|name| name.trim().to_string());
    name.ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("scheduler.toml");
        std::fs::write(&file, text).unwrap();
        let source = variables
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        let variables = Environment::with_prefix("DAILIES__SCHEDULER").source(Some(source));
        Settings::from_sources(Some(&file), variables)
    }

    #[test]
    fn variables_win_over_the_file_and_the_file_over_defaults() {
        let file = "listen = '127.0.0.1:9000'\n[farm]\nheartbeat_ms = 700\n";
        let variables = [
            ("DAILIES__SCHEDULER__FARM__HEARTBEAT_MS", "900"),
            ("DAILIES__AGENT__NAME", "ignored"),
        ];
        let settings = read(file, &variables).unwrap();
        assert_eq!(settings.listen.port(), 9000);
        assert_eq!(settings.farm.heartbeat_ms, 900);
        assert_eq!(settings.farm.limits().unwrap().lease_ttl_ms, 30_000);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = read("lisen = '127.0.0.1:1'", &[]).unwrap_err().to_string();
        assert!(error.contains("lisen"), "{error}");
        let error = read("", &[("DAILIES__SCHEDULER__FARM__TTL", "1")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("ttl"), "{error}");
    }

    #[test]
    fn windows_are_read_and_a_wrong_one_says_what_it_must_be() {
        let file = "[windows.lunch]\nzone = 'Europe/Berlin'\nweekdays = ['mon', 'fri']\nstart = '12:00'\nend = '13:30'\n";
        let limits = read(file, &[]).unwrap().limits().unwrap();
        let names: Vec<&String> = limits.windows.keys().collect();
        assert_eq!(names, ["lunch", "overnight"]);
        for (wrong, word) in [
            (file.replace("Berlin", "Atlantis"), "IANA name"),
            (file.replace("12:00", "noon"), "a time such as"),
            (file.replace("'mon'", "'monday'"), "mon, tue"),
        ] {
            let error = read(&wrong, &[]).unwrap().limits().unwrap_err();
            assert!(
                error.contains("windows.lunch") && error.contains(word),
                "{error}"
            );
        }
    }

    #[test]
    fn a_password_in_the_database_address_is_never_shown() {
        let variable = "DAILIES__SCHEDULER__DATABASE";
        let settings = read("", &[(variable, "postgres://ann:s3cret@db/farm")]).unwrap();
        assert!(settings.database().is_postgres());
        assert!(!format!("{settings:?}").contains("s3cret"));
        let refused = read("", &[(variable, "mysql://ann:s3cret@db/farm")]).unwrap_err();
        assert!(
            refused.to_string().contains("must be sqlite:FILE"),
            "{refused}"
        );
        assert!(
            !format!("{refused:?} {refused}").contains("s3cret"),
            "{refused:?}"
        );
    }

    #[test]
    fn a_bucket_is_read_and_its_secret_never_shown() {
        let file = "artifacts = 's3://films/farm'\n[s3]\nendpoint = 'http://10.0.0.7:9000'\nsecret_access_key = 's3cret'\n";
        let variables = [("DAILIES__SCHEDULER__S3__ACCESS_KEY_ID", "ann")];
        let settings = read(file, &variables).unwrap();
        assert_eq!(settings.artifacts().to_string(), "s3://films/farm");
        assert_eq!(settings.s3.access_key_id.as_deref(), Some("ann"));
        assert!(!format!("{settings:?}").contains("s3cret"));
        let refused = read("artifacts = 'ftp://host'", &[]).unwrap_err();
        assert!(refused.to_string().contains("s3://BUCKET"), "{refused}");
        let here = read("data = '/srv'", &[]).unwrap();
        assert_eq!(here.artifacts().to_string(), "/srv/cas");
    }

    #[test]
    fn others_find_it_where_it_listens_or_where_it_says() {
        let listens = |text: &str| Settings::default().advertised(text.parse().unwrap());
        assert_eq!(listens("10.0.0.7:80"), "http://10.0.0.7:80");
        assert!(!listens("0.0.0.0:80").contains("0.0.0.0"));
        let told = read("advertise = 'http://farm-a:8080/'", &[]).unwrap();
        let address = "0.0.0.0:80".parse().unwrap();
        assert_eq!(told.advertised(address), "http://farm-a:8080");
    }

    #[test]
    fn a_lease_shorter_than_three_heartbeats_is_refused() {
        let farm = FarmSettings {
            lease_ttl_ms: 1_000,
            heartbeat_ms: 400,
            ..FarmSettings::default()
        };
        assert!(farm.limits().unwrap_err().contains("lease_ttl_ms"));
    }

    const TABLES: [&str; 9] = [
        "",
        "[s3]",
        "[farm]",
        "[api]",
        "[api.models]",
        "[api.rates]",
        "[api.price]",
        "[chores]",
        "[windows.w]",
    ];

    #[test]
    fn the_file_of_settings_names_each_with_its_default() {
        let file = include_str!("../../ops/scheduler.toml");
        let with = |signs: &[&str]| {
            let line = |line: &str| {
                let set = signs.iter().find_map(|sign| line.strip_prefix(sign));
                set.filter(|set| !set.starts_with([' ', ':']))
                    .unwrap_or(line)
                    .to_owned()
            };
            let lines: Vec<String> = file.lines().map(line).collect();
            read(&lines.join("\n"), &[]).unwrap()
        };
        let defaults = format!("{:?}", Settings::default());
        assert_eq!(format!("{:?}", with(&[])), defaults, "nothing is set");
        assert_eq!(
            format!("{:?}", with(&["#"])),
            defaults,
            "only defaults are set"
        );
        with(&["#: ", "#"]);
        for table in TABLES {
            let error = read(&format!("{table}\nxyz = 1"), &[]).unwrap_err();
            let error = error.to_string();
            let (_, names) = error.split_once("expected").unwrap();
            let (names, _) = names.split_once(" for key").unwrap_or((names, ""));
            // `expected` is for farms that must take work before the first agent comes.
            let names = names
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|name| *name != "expected");
            for name in names {
                let forms = [format!("{name} ="), format!("{name}]"), format!("[{name}.")];
                let is_there = forms.iter().any(|form| file.contains(form));
                assert!(is_there, "{table} {name} is missing");
            }
        }
    }
}
