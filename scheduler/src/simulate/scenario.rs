//! The farm and its load, as a person writes them down.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{civil::Time, tz::TimeZone};
use schemas::task::GROUP_SIZES;
use serde::{Deserialize, Serialize};

use crate::core::{
    tariff::Series,
    windows::{AtEnd, EVERY_DAY, Window},
};

/// A farm and what is asked of it. Times are hours from midnight of the first day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    /// Same seed, same report.
    #[serde(default)]
    pub seed: u64,
    /// When the story begins and ends, in hours. Jobs that have not ended by then count as unfinished.
    pub from_h: f64,
    pub to_h: f64,
    /// Spread of service times: standard deviation of their logarithm.
    #[serde(default = "spread")]
    pub spread: f64,
    /// Price of a device hour, for the cost column; absent leaves the column out.
    #[serde(default)]
    pub price_per_device_hour: Option<f64>,
    /// Windows in which films may start, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub windows: BTreeMap<String, StoryWindow>,
    pub nodes: Vec<NodeGroup>,
    pub tenants: Vec<Tenant>,
}

/// A window on the story's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoryWindow {
    /// As in `22:00`.
    pub start: String,
    /// Not after `start`: on the next day.
    pub end: String,
    /// Work that runs at the end stops and goes on the next night.
    #[serde(default)]
    pub yields: bool,
    /// Nothing starts that may not be done by the end.
    #[serde(default)]
    pub fit: bool,
    /// What a device hour costs in each hour of the day, from midnight on: 24 numbers, or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prices: Vec<f64>,
}

impl StoryWindow {
    /// For days up to the end of the story.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn window(&self, name: &str, to_h: f64) -> Result<Window, ScenarioError> {
        let time = |text: &String| {
            text.parse::<Time>().map_err(|_| ScenarioError::Window {
                name: name.into(),
                why: format!("'{text}' is no time such as 22:00"),
            })
        };
        let prices = match self.prices.len() {
            0 => None,
            24 => Some(self.series(to_h)),
            found => {
                return Err(ScenarioError::Window {
                    name: name.into(),
                    why: format!("it has {found} prices, not one for each of 24 hours"),
                });
            }
        };
        Ok(Window {
            zone: TimeZone::UTC,
            weekdays: EVERY_DAY.to_vec(),
            start: time(&self.start)?,
            end: time(&self.end)?,
            at_end: match self.yields {
                true => AtEnd::Yield,
                false => AtEnd::Finish,
            },
            fit: self.fit,
            prices: prices.map(Arc::new),
        })
    }

    fn series(&self, to_h: f64) -> Series {
        let hours = 0..=(to_h.ceil() as i64).clamp(24, 24 * 366);
        let price = |hour: i64| (self.prices[hour as usize % 24] * 1e6).round() as i64;
        Series::of(hours.map(|hour| (hour, price(hour))).collect()).expect("a day has hours")
    }
}

/// Nodes that are alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeGroup {
    pub class: String,
    pub count: u32,
    pub devices: u32,
    /// How many seconds of the reference device it does in one.
    #[serde(default = "one")]
    pub speed: f64,
    /// Mean hours between failures of a node; absent: it never fails.
    #[serde(default)]
    pub mtbf_h: Option<f64>,
    /// Hours until a failed node is back.
    #[serde(default = "repair")]
    pub repair_h: f64,
    /// A failure of the first node of the group at this hour, whatever chance says.
    #[serde(default)]
    pub dies_at_h: Option<f64>,
}

/// A project and its films.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    pub name: String,
    /// Its part of the farm beside the others.
    #[serde(default = "one_part")]
    pub weight: u32,
    /// Devices by class that are its own, that it may borrow, that it lends.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capacity: BTreeMap<String, StoryCapacity>,
    pub arrivals: Vec<Arrivals>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoryCapacity {
    pub nominal: u32,
    pub borrow: u32,
    pub lend: u32,
}

/// Films that come all at once, or one by one by chance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrivals {
    /// `urgent`, `standard` or `overnight`.
    #[serde(default)]
    pub band: crate::core::rows::Band,
    /// How many.
    pub films: u32,
    /// All at this hour; or, with `until_h`, at random from this hour to that one.
    pub at_h: f64,
    #[serde(default)]
    pub until_h: Option<f64>,
    /// Name of the window in which they may start; absent: at any time.
    #[serde(default)]
    pub start: Option<String>,
    /// A film that has not begun at this hour is given up.
    #[serde(default)]
    pub deadline_h: Option<f64>,
    #[serde(default = "one_shot")]
    pub shots: u32,
    /// Seconds of the reference device that a shot takes.
    pub shot_s: f64,
    /// Denoising steps of a shot: where it may be interrupted.
    #[serde(default = "steps")]
    pub steps: u32,
    /// Devices of one node that work on each shot at once, 1, 2, 4 or 8; they share its time evenly.
    #[serde(default = "one_device")]
    pub devices: u32,
}

fn spread() -> f64 {
    0.1
}
fn one() -> f64 {
    1.0
}
fn repair() -> f64 {
    1.0
}
fn one_part() -> u32 {
    1
}
fn one_shot() -> u32 {
    1
}
fn one_device() -> u32 {
    1
}
fn steps() -> u32 {
    40
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ScenarioError {
    #[error("the scenario has no {0}; add at least one")]
    Empty(&'static str),
    #[error("{what} is {found}; it must be {must}")]
    Number {
        what: String,
        found: f64,
        must: &'static str,
    },
    #[error("window {name}: {why}")]
    Window { name: String, why: String },
    #[error("two tenants are called {0}; give each a name of its own")]
    Twice(String),
    #[error("the scenario has {found} {what}; at most {most} can be played")]
    TooMany {
        what: &'static str,
        found: u64,
        most: u64,
    },
}

/// Devices and films that one run may have.
const DEVICES_MAX: u64 = 10_000;
const FILMS_MAX: u64 = 1_000_000;
const SHOTS_MAX: f64 = crate::core::limits::SHOTS_MAX as f64;

impl Scenario {
    /// The story of the README: a batch of 500 at seven in the evening, a node that dies at two, urgent work at three.
    pub fn night() -> Self {
        let films = |band, films, at_h, until_h, shot_s| Arrivals {
            band,
            films,
            at_h,
            until_h,
            start: None,
            deadline_h: None,
            shots: 1,
            shot_s,
            steps: steps(),
            devices: 1,
        };
        use crate::core::rows::Band::{Overnight, Standard, Urgent};
        let tenant = |name: &str, arrivals| Tenant {
            name: name.into(),
            weight: 1,
            capacity: BTreeMap::new(),
            arrivals,
        };
        Self {
            name: "a night".into(),
            seed: 1,
            from_h: 18.0,
            to_h: 34.0,
            spread: spread(),
            price_per_device_hour: None,
            windows: BTreeMap::new(),
            nodes: vec![NodeGroup {
                class: "gpu".into(),
                count: 3,
                devices: 4,
                speed: 1.0,
                mtbf_h: None,
                repair_h: 4.0,
                dies_at_h: Some(26.0),
            }],
            tenants: vec![
                tenant("producer", vec![films(Overnight, 500, 19.0, None, 600.0)]),
                tenant("studio", vec![films(Standard, 60, 18.0, Some(30.0), 600.0)]),
                tenant("newsroom", vec![films(Urgent, 4, 27.0, None, 300.0)]),
            ],
        }
    }

    /// # Errors
    /// The first thing that makes no sense.
    pub fn check(&self) -> Result<(), ScenarioError> {
        at_least("to_h", self.to_h, self.from_h + f64::MIN_POSITIVE)?;
        at_least("spread", self.spread, 0.0)?;
        let devices: u64 = self
            .nodes
            .iter()
            .map(|n| u64::from(n.count) * u64::from(n.devices))
            .sum();
        if devices == 0 {
            return Err(ScenarioError::Empty("devices"));
        }
        at_most("devices", devices, DEVICES_MAX)?;
        for group in &self.nodes {
            more_than_zero(&format!("speed of {}", group.class), group.speed)?;
            more_than_zero(&format!("repair_h of {}", group.class), group.repair_h)?;
            if let Some(mtbf_h) = group.mtbf_h {
                more_than_zero(&format!("mtbf_h of {}", group.class), mtbf_h)?;
            }
        }
        for (name, window) in &self.windows {
            window.window(name, self.to_h)?;
        }
        self.check_tenants()
    }

    fn check_tenants(&self) -> Result<(), ScenarioError> {
        let mut names = std::collections::BTreeSet::new();
        let mut films = 0;
        for tenant in &self.tenants {
            if !names.insert(&tenant.name) {
                return Err(ScenarioError::Twice(tenant.name.clone()));
            }
            for row in &tenant.arrivals {
                if let Some(name) = row
                    .start
                    .as_ref()
                    .filter(|name| !self.windows.contains_key(*name))
                {
                    return Err(ScenarioError::Window {
                        name: name.clone(),
                        why: format!("films of {} start in it, and it is not there", tenant.name),
                    });
                }
                films += u64::from(row.films);
                more_than_zero(&format!("shot_s of {}", tenant.name), row.shot_s)?;
                at_least(&format!("shots of {}", tenant.name), row.shots.into(), 1.0)?;
                at_least(&format!("steps of {}", tenant.name), row.steps.into(), 1.0)?;
                at_least(&format!("at_h of {}", tenant.name), row.at_h, self.from_h)?;
                at_least(
                    &format!("until_h of {}", tenant.name),
                    row.until_h.unwrap_or(row.at_h),
                    row.at_h,
                )?;
                if !GROUP_SIZES.contains(&row.devices) {
                    return Err(ScenarioError::Number {
                        what: format!("devices of {}", tenant.name),
                        found: row.devices.into(),
                        must: "1, 2, 4 or 8",
                    });
                }
                if f64::from(row.shots) > SHOTS_MAX {
                    return Err(ScenarioError::TooMany {
                        what: "shots in a film",
                        found: row.shots.into(),
                        most: SHOTS_MAX as u64,
                    });
                }
            }
        }
        if films == 0 {
            return Err(ScenarioError::Empty("films"));
        }
        at_most("films", films, FILMS_MAX)
    }
}

fn more_than_zero(what: &str, found: f64) -> Result<(), ScenarioError> {
    let fine = found.is_finite() && found > 0.0;
    refuse_unless(fine, what, found, "above 0")
}

fn at_least(what: &str, found: f64, least: f64) -> Result<(), ScenarioError> {
    let fine = found.is_finite() && found >= least;
    refuse_unless(fine, what, found, "larger")
}

fn refuse_unless(
    fine: bool,
    what: &str,
    found: f64,
    must: &'static str,
) -> Result<(), ScenarioError> {
    match fine {
        true => Ok(()),
        false => Err(ScenarioError::Number {
            what: what.into(),
            found,
            must,
        }),
    }
}

fn at_most(what: &'static str, found: u64, most: u64) -> Result<(), ScenarioError> {
    match found <= most {
        true => Ok(()),
        false => Err(ScenarioError::TooMany { what, found, most }),
    }
}
