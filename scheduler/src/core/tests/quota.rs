//! Quota: who may submit, who may run, what each entry says. Holds are 10 s, a finished task used 4 s.

use expect_test::expect;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use schemas::{AccountId, GpuMicros};
use uuid::Uuid;

use super::{World, check};
use crate::core::{
    budget::{AtLimit, BudgetRule, Period},
    command::{Command, Refusal, Reply, Submitted},
    model::{PROJECT, job},
    quota::{LimitsChange, Ordered, QUOTA_MAX, QuotaChange, QuotaOrder, chained},
    rows::Bucket,
};

fn seconds(text: &str) -> GpuMicros {
    GpuMicros(text.parse::<i64>().unwrap() * 1_000_000)
}

impl World {
    fn order(&mut self, account: AccountId, change: QuotaChange) -> Result<Ordered, Refusal> {
        let order = QuotaOrder {
            actor: "ops".into(),
            account,
            change,
        };
        match self.apply(Command::OrderQuota(Box::new(order))) {
            Reply::Ordered(done) => done,
            other => panic!("{other:?}"),
        }
    }

    /// `give ACCOUNT SECONDS NAME`, `limit ACCOUNT metered=… overdraft=… jobs=… devices=…`, `money ACCOUNT`.
    pub(super) fn run_quota(&mut self, words: &[&str]) -> String {
        let accounts = self.model.accounts.values();
        let named = accounts
            .clone()
            .find(|row| Some(&row.name.as_str()) == words.get(1));
        let id = named.map_or(AccountId(Uuid::nil()), |row| row.id);
        let change = match words[0] {
            "money" => return self.money(id),
            "told" => return self.told(),
            "give" => QuotaChange::Grant {
                name: words[3].into(),
                amount: seconds(words[2]),
                expires_at_ms: words.get(4).map(|ms| ms.parse().unwrap()),
            },
            "budget" => QuotaChange::Budget(budget(&words[2..])),
            "pool" => {
                let numbers: Vec<u32> = words[3..].iter().map(|n| n.parse().unwrap()).collect();
                QuotaChange::Capacity {
                    pool: words[2].into(),
                    limits: numbers.try_into().ok(),
                }
            }
            _ => QuotaChange::Limits(limits(&words[2..])),
        };
        match self.order(id, change) {
            Ok(done) => format!("{done:?}"),
            Err(why) => format!("refused: {why}"),
        }
    }

    fn money(&self, id: AccountId) -> String {
        let balance = self.model.balances.get(&id).copied().unwrap_or_default();
        let [available, held, spent, mint] =
            [balance.available, balance.held, balance.spent, balance.mint].map(|b| b.0 / 1_000_000);
        let loan = match balance.loan.0 / 1_000_000 {
            0 => String::new(),
            loan => format!(", loan {loan}"),
        };
        format!("available {available}, held {held}, spent {spent}, mint {mint}{loan}")
    }

    /// Events about quota so far.
    fn told(&self) -> String {
        let events = self
            .model
            .outbox
            .iter()
            .filter(|row| row.kind.starts_with("quota."));
        let told = events.map(|row| {
            let account = &self.model.accounts[&row.project].name;
            format!("{account} {}", row.kind.trim_start_matches("quota.budget_"))
        });
        told.collect::<Vec<_>>().join(", ")
    }
}

/// `SECONDS month|Nd [cancel]`, or `none`.
fn budget(words: &[&str]) -> Option<BudgetRule> {
    if words[0] == "none" {
        return None;
    }
    let days = words[1].strip_suffix('d').map(|days| days.parse().unwrap());
    Some(BudgetRule {
        limit: seconds(words[0]),
        period: days.map_or(Period::Month, Period::Days),
        zone: TimeZone::UTC,
        at_limit: match words.get(2) {
            Some(_) => AtLimit::Cancel,
            None => AtLimit::Complete,
        },
    })
}

fn limits(words: &[&str]) -> LimitsChange {
    let mut change = LimitsChange::default();
    for word in words {
        match word.split_once('=').unwrap() {
            ("metered", is) => change.metered = Some(is.parse().unwrap()),
            ("overdraft", s) => change.overdraft = Some(seconds(s)),
            ("jobs", n) => change.jobs_max = Some(n.parse().ok()),
            ("devices", n) => change.devices_max = Some(n.parse().ok()),
            ("lend", s) => change.lend = Some(seconds(s)),
            ("borrow", s) => change.borrow = Some(seconds(s)),
            ("weight", n) => change.weight = Some(n.parse().unwrap()),
            other => panic!("{other:?}"),
        }
    }
    change
}

#[test]
fn an_account_that_nobody_limited_takes_every_job_and_is_counted() {
    check(
        "job
         job
         money project
         money org",
        expect![[r#"
            job                       created 1
            job                       created 2
            money project             available -20, held 20, spent 0, mint 0
            money org                 available -20, held 20, spent 0, mint 0
        "#]],
    );
}

#[test]
fn a_metered_account_refuses_a_job_that_it_cannot_hold() {
    check(
        "give project 15 a
         job
         job
         money project
         money org
         cancel 1
         job
         money project",
        expect![[r#"
            give project 15 a         Now
            job                       created 1
            job                       refused: account project is short by 5 s
            money project             available 5, held 10, spent 0, mint -15
            money org                 available -10, held 10, spent 0, mint 0
            cancel 1                  Cancelled(Now)
            job                       created 3
            money project             available 5, held 10, spent 0, mint -15
        "#]],
    );
}

#[test]
fn the_metrics_count_what_was_granted_to_a_project_once() {
    let mut world = World::new();
    for line in ["give project 100 a", "job"] {
        world.run(line);
    }
    let ledger = |world: &World| {
        let parts = world.farm.counts().ledger_us;
        ["granted", "available", "held", "spent"].map(|part| parts[part] / 1_000_000)
    };
    assert_eq!(ledger(&world), [100, 90, 10, 0]);
    world.run("give org 50 a");
    let said = "the org's limit stands above the project's";
    assert_eq!(ledger(&world), [50, 40, 10, 0], "{said}");
}

#[test]
fn every_metered_account_of_the_path_must_have_it() {
    check(
        "give project 100 a
         give org 10 a
         job of=second
         job
         money project
         money org",
        expect![[r#"
            give project 100 a        Now
            give org 10 a             Now
            job of=second             created 1
            job                       refused: account org is short by 10 s
            money project             available 100, held 0, spent 0, mint -100
            money org                 available 0, held 10, spent 0, mint -10
        "#]],
    );
}

#[test]
fn a_group_larger_than_its_account_may_have_is_refused_with_what_to_do() {
    check(
        "limit org devices=2
         job devices=4
         job devices=2
         limit org devices=0
         job devices=2",
        expect![[r#"
            limit org devices=2       Now
            job devices=4             refused: the job could never start: 'org' may use 2 devices at once, and each shot asks for 4; ask for fewer, or have an operator allow more: dailies quota set org --devices 4
            job devices=2             created 2
            limit org devices=0       Now
            job devices=2             created 3
        "#]],
    );
}

#[test]
fn an_overdraft_lends_and_an_account_can_be_freed_again() {
    check(
        "limit project metered=true overdraft=10
         job
         job
         limit project metered=false
         job",
        expect![[r#"
            limit project metered=true overdraft=10Now
            job                       created 1
            job                       refused: account project is short by 10 s
            limit project metered=falseNow
            job                       created 3
        "#]],
    );
}

#[test]
fn work_before_the_limit_is_forgiven_but_what_is_in_flight_is_not() {
    check(
        "hello a
         job
         grant a
         succeed s0#1
         grant a
         succeed film#1
         job
         money project
         give project 25 a
         money project
         job
         job",
        expect![[r#"
            hello a                   Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            grant a                   film#1 Leased, from step 0, 1 inputs
            succeed film#1            Succeeded
            job                       created 2
            money project             available -18, held 10, spent 8, mint 0
            give project 25 a         Now
            money project             available 15, held 10, spent 8, mint -33
            job                       created 3
            job                       refused: account project is short by 5 s
        "#]],
    );
}

#[test]
fn a_grant_counts_once_also_after_a_crash() {
    check(
        "give project 10 a
         give project 10 a
         crash
         give project 10 a
         give project 20 a
         give second 10 a
         money project",
        expect![[r#"
            give project 10 a         Now
            give project 10 a         Before
            crash                     
            give project 10 a         Before
            give project 20 a         refused: grant a gave 10 s before
            give second 10 a          Now
            money project             available 10, held 0, spent 0, mint -10
        "#]],
    );
}

#[test]
fn a_retry_finds_its_job_though_the_quota_is_used_up() {
    check(
        "give project 10 a
         job retry=0
         job retry=0
         job retry=1
         crash
         job retry=1",
        expect![[r#"
            give project 10 a         Now
            job retry=0               created 1
            job retry=0               refused: account project is short by 10 s
            job retry=1               was 1
            crash                     s0 Ready, film Blocked
            job retry=1               refused: account project is short by 10 s
        "#]],
    );
}

#[test]
fn a_job_that_is_refused_leaves_nothing_behind() {
    let mut world = World::new();
    world.run("limit project metered=true");
    let before = format!("{:?}", world.farm.durable());
    let outcome = world
        .farm
        .apply(Command::Submit(Box::new(job(1, 2))), world.now);
    assert!(matches!(
        outcome.reply,
        Reply::Submitted(Submitted::Refused(Refusal::OverQuota { .. }))
    ));
    assert!(outcome.writes.is_empty());
    assert_eq!(format!("{:?}", world.farm.durable()), before);
}

#[test]
fn a_cap_on_jobs_lets_a_begun_job_end_first() {
    check(
        "hello a
         hello b
         limit project jobs=1
         job shots=2
         job
         grant a
         grant b
         succeed s0#1
         grant a
         why 2/s0
         limit project jobs=2
         grant a",
        expect![[r#"
            hello a                   Online
            hello b                   Online
            limit project jobs=1      Now
            job shots=2               created 1
            job                       created 2
            grant a                   s0#1 Leased, from step 0, 0 inputs
            grant b                   s1#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            grant a                   idle: nothing_waits
            why 2/s0                  ConcurrencyCap { account: "project", used: 1, of: 1 }
            limit project jobs=2      Now
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_cap_on_devices_says_why_and_leaves_siblings_alone() {
    check(
        "hello a
         hello b
         limit project devices=1
         job
         job
         grant a
         grant b
         why 2/s0
         job of=second
         grant b
         succeed s0#1
         grant a
         crash
         limit org devices=0
         why 2/s0
         limit org devices=none",
        expect![[r#"
            hello a                   Online
            hello b                   Online
            limit project devices=1   Now
            job                       created 1
            job                       created 2
            grant a                   s0#1 Leased, from step 0, 0 inputs
            grant b                   idle: nothing_waits
            why 2/s0                  ConcurrencyCap { account: "project", used: 1, of: 1 }
            job of=second             created 3
            grant b                   3/s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            grant a                   film#1 Leased, from step 0, 1 inputs
            crash                     s0 Succeeded, film Leased, 2/s0 Ready, 2/film Blocked, 3/s0 Leased, 3/film Blocked
            limit org devices=0       Now
            why 2/s0                  ConcurrencyCap { account: "project", used: 1, of: 1 }
            limit org devices=none    Now
        "#]],
    );
}

#[test]
fn an_urgent_task_over_its_cap_takes_no_device() {
    check(
        "hello a no-ffmpeg
         limit second devices=0
         job
         grant a
         beat a s0#1:1
         wait 14000
         beat a s0#1:2
         wait 14000
         beat a s0#1:3
         wait 14000
         beat a s0#1:4
         wait 14000
         beat a s0#1:4
         wait 14000
         job of=second band=urgent
         beat a s0#1:4
         why 2/s0
         limit second devices=1
         beat a s0#1:4",
        expect![[r#"
            hello a no-ffmpeg         Online
            limit second devices=0    Now
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            beat a s0#1:1             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:2             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:3             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            wait 14000                s0 Leased, film Blocked
            job of=second band=urgent created 2
            beat a s0#1:4             Run Continue { ttl_ms: 30000 }
            why 2/s0                  ConcurrencyCap { account: "second", used: 0, of: 0 }
            limit second devices=1    Now
            beat a s0#1:4             Run Yield { reason: "a more urgent task needs the device" }
        "#]],
    );
}

#[test]
fn orders_that_make_no_sense_are_refused() {
    let mut world = World::new();
    let mut refuse = |id: AccountId, change: QuotaChange| {
        let writes = world.model.audit.len();
        let refused = world.order(id, change);
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{refused:?}");
        assert_eq!(world.model.audit.len(), writes);
    };
    let grant = |name: &str, amount: i64| QuotaChange::Grant {
        name: name.into(),
        amount: GpuMicros(amount),
        expires_at_ms: None,
    };
    refuse(AccountId(Uuid::nil()), grant("a", 1));
    refuse(PROJECT, grant("a", 0));
    refuse(PROJECT, grant("a", -1));
    refuse(PROJECT, grant("a", QUOTA_MAX.0 + 1));
    refuse(PROJECT, grant("", 1));
    refuse(PROJECT, grant("a b", 1));
    refuse(PROJECT, grant(&"a".repeat(81), 1));
    let set = |edit: &dyn Fn(&mut LimitsChange)| {
        let mut change = LimitsChange::default();
        edit(&mut change);
        QuotaChange::Limits(change)
    };
    refuse(PROJECT, set(&|c| c.weight = Some(0)));
    refuse(PROJECT, set(&|c| c.weight = Some(1_001)));
    refuse(PROJECT, set(&|c| c.overdraft = Some(GpuMicros(-1))));
}

#[test]
fn an_account_is_opened_once_and_only_where_it_belongs() {
    let mut world = World::new();
    let mut open = |id: u128, name: &str, parent: Option<AccountId>| {
        let change = QuotaChange::Open {
            name: name.into(),
            parent,
        };
        let said = world.order(AccountId(Uuid::from_u128(id)), change);
        world.model.check(&world.farm, &world.limits, world.now);
        said.map_err(|why| why.to_string())
    };
    let studio = AccountId(Uuid::from_u128(90));
    assert_eq!(open(90, "studio", None), Ok(Ordered::Now));
    assert_eq!(open(91, "shorts", Some(studio)), Ok(Ordered::Now));
    let no = AccountId(Uuid::nil());
    for (id, name, parent, why) in [
        (92, "studio", None, "exists already"),
        (91, "other", None, "exists already"),
        (92, "under-project", Some(PROJECT), "belongs to an org"),
        (92, "under-nobody", Some(no), "belongs to an org"),
        (92, "Big", None, "a-z"),
        (92, "", None, "a-z"),
        (92, &"a".repeat(33), None, "a-z"),
    ] {
        let refused = open(id, name, parent).unwrap_err();
        assert!(refused.contains(why), "{name}: {refused}");
    }
    assert_eq!(world.model.audit.len(), 2);
}

#[test]
fn what_an_operator_did_is_kept_with_before_and_after() {
    let mut world = World::new();
    world.run("limit project weight=3 jobs=2");
    world.run("give project 10 a");
    let told: Vec<String> = (world.model.audit.iter())
        .map(|row| {
            format!(
                "{} {}\n  {}\n  {}\n",
                row.actor, row.command, row.was, row.now
            )
        })
        .collect();
    expect![[r#"
        ops quota_set
          {"available_us":0,"borrow_us":0,"budget":null,"capacity":{},"devices_max":null,"jobs_max":null,"lend_us":0,"metered":false,"overdraft_us":0,"weight":1}
          {"available_us":0,"borrow_us":0,"budget":null,"capacity":{},"devices_max":null,"jobs_max":2,"lend_us":0,"metered":false,"overdraft_us":0,"weight":3}
        ops quota_grant
          {"available_us":0,"borrow_us":0,"budget":null,"capacity":{},"devices_max":null,"jobs_max":2,"lend_us":0,"metered":false,"overdraft_us":0,"weight":3}
          {"available_us":10000000,"borrow_us":0,"budget":null,"capacity":{},"devices_max":null,"jobs_max":2,"lend_us":0,"metered":true,"overdraft_us":0,"weight":3}
    "#]].assert_eq(&told.concat());
}

#[test]
fn a_post_says_how_it_came_about() {
    let mut world = World::new();
    for line in ["hello a", "job band=urgent", "grant a", "succeed s0#1"] {
        world.run(line);
    }
    let posts = world
        .model
        .ledger
        .iter()
        .filter(|row| row.to == Bucket::Spent);
    let why = posts.map(|row| row.why.unwrap()).next().unwrap();
    assert_eq!((why.device_us, why.factor_percent), (4_000_000, 200));
    assert_eq!(why.amount(), GpuMicros(8_000_000));
}

#[test]
fn steps_that_are_lost_with_a_checkpoint_are_charged_once() {
    // One second led to step 5, which is not trusted after the NaN; the result took 4 s on the other node.
    check(
        "hello a no-ffmpeg
         hello b no-ffmpeg
         job
         grant a
         release s0#1 5
         grant a
         fail s0#2 numeric
         wait 3000
         grant b
         succeed s0#3
         money project",
        expect![[r#"
            hello a no-ffmpeg         Online
            hello b no-ffmpeg         Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            release s0#1 5            Ready
            grant a                   s0#2 Leased, from step 5, 0 inputs
            fail s0#2 numeric         Ready
            wait 3000                 s0 Ready, film Blocked
            grant b                   s0#3 Leased, from step 0, 0 inputs
            succeed s0#3              Succeeded
            money project             available -10, held 6, spent 4, mint 0
        "#]],
    );
}

#[test]
fn a_changed_entry_has_another_hash() {
    let mut world = World::new();
    world.run("job");
    world.run("cancel 1");
    let rows = &world.model.ledger;
    for (at, row) in rows.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| rows[at].hash);
        assert_eq!(chained(before, row), row.hash);
        let mut changed = row.clone();
        changed.amount.0 += 1;
        assert_ne!(chained(before, &changed), row.hash);
        assert_ne!(chained(Some(row.hash), row), row.hash);
    }
}

/// One step of a random story about one metered project.
#[derive(Clone, Copy, Debug)]
enum Step {
    Give(i64),
    Submit,
    /// Finish the oldest job that lives.
    Finish,
    Cancel,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..40_i64).prop_map(Step::Give),
        Just(Step::Submit),
        Just(Step::Submit),
        Just(Step::Finish),
        Just(Step::Cancel),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The naive model: seconds in three numbers. A finished job used 4 s twice, the rest comes back.
    #[test]
    fn the_ledger_is_what_three_numbers_say(story in steps()) {
        let mut world = World::new();
        world.run("hello a");
        world.run("limit project metered=true");
        let (mut available, mut held, mut spent) = (0, 0, 0);
        let mut live: Vec<u128> = Vec::new();
        for (at, step) in story.into_iter().enumerate() {
            match step {
                Step::Give(amount) => {
                    world.run(&format!("give project {amount} g{at}"));
                    available += amount;
                }
                Step::Submit => {
                    let said = world.run("job");
                    prop_assert_eq!(said.starts_with("created"), available >= 10, "{}", said);
                    if available >= 10 {
                        (available, held) = (available - 10, held + 10);
                        live.push(world.jobs);
                    }
                }
                Step::Finish if !live.is_empty() => {
                    let job = live.remove(0);
                    world.run("grant a");
                    world.run(&format!("succeed {job}/s0#1"));
                    world.run("grant a");
                    world.run(&format!("succeed {job}/film#1"));
                    (available, held, spent) = (available + 2, held - 10, spent + 8);
                }
                Step::Cancel if !live.is_empty() => {
                    world.run(&format!("cancel {}", live.remove(0)));
                    (available, held) = (available + 10, held - 10);
                }
                Step::Finish | Step::Cancel => {}
            }
            world.model.check(&world.farm, &world.limits, world.now);
            let balance = world.model.balances.get(&PROJECT).copied().unwrap_or_default();
            let seconds = [balance.available, balance.held, balance.spent].map(|b| b.0 / 1_000_000);
            prop_assert_eq!(seconds, [available, held, spent]);
        }
    }
}
