//! Budgets, users, loans, grants that expire. A finished task used 4 s, a hold is 10 s; it is 1970-01-01 00:16:40.

use expect_test::expect;

use super::{World, check};

#[test]
fn a_budget_warns_stops_and_begins_anew_the_next_month() {
    check(
        "hello a
         budget project 8 month
         job
         job
         grant a
         succeed s0#1
         told
         grant a
         crash
         succeed film#1
         told
         grant a
         why 2/s0
         job
         crash
         grant a
         job of=second
         wait 2677400000
         reboot a
         told
         why 2/s0
         grant a",
        expect![[r#"
            hello a                   Online
            budget project 8 month    Now
            job                       created 1
            job                       created 2
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            told                      project warning_50
            grant a                   film#1 Leased, from step 0, 1 inputs
            crash                     s0 Succeeded, film Leased, 2/s0 Ready, 2/film Blocked
            succeed film#1            Succeeded
            told                      project warning_50, project warning_80, project warning_95, project used
            grant a                   idle: nothing_waits
            why 2/s0                  BudgetStopped { account: "project", until_ms: 2678400000 }
            job                       refused: the budget of project is used up
            crash                     s0 Succeeded, film Succeeded, 2/s0 Ready, 2/film Blocked
            grant a                   idle: nothing_waits
            job of=second             created 4
            wait 2677400000           s0 Succeeded, film Succeeded, 2/s0 Ready, 2/film Blocked, 4/s0 Ready, 4/film Blocked
            reboot a                  Online
            told                      project warning_50, project warning_80, project warning_95, project used
            why 2/s0                  FairShare { own_s: 0, leading_s: 0 }
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_budget_of_an_org_stops_its_projects_and_a_higher_one_lets_them_go_on() {
    check(
        "hello a no-ffmpeg
         budget org 4 7d
         job of=second
         job
         job of=foreign
         grant a
         succeed 1/s0#1
         why 2/s0
         job
         grant a
         succeed 3/s0#1
         budget org 5 7d
         told
         grant a
         succeed 2/s0#1
         budget org none
         job",
        expect![[r#"
            hello a no-ffmpeg         Online
            budget org 4 7d           Now
            job of=second             created 1
            job                       created 2
            job of=foreign            created 3
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed 1/s0#1            Succeeded
            why 2/s0                  BudgetStopped { account: "org", until_ms: 86400000 }
            job                       refused: the budget of org is used up
            grant a                   3/s0#1 Leased, from step 0, 0 inputs
            succeed 3/s0#1            Succeeded
            budget org 5 7d           Now
            told                      org warning_50, org warning_80, org warning_95, org used
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            succeed 2/s0#1            Succeeded
            budget org none           Now
            job                       created 5
        "#]],
    );
}

#[test]
fn a_rolling_budget_forgets_day_by_day() {
    check(
        "hello a no-ffmpeg
         budget project 4 2d
         job
         job
         grant a
         succeed s0#1
         wait 86400000
         reboot a no-ffmpeg
         why 2/s0
         wait 86400000
         reboot a no-ffmpeg
         why 2/s0
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            budget project 4 2d       Now
            job                       created 1
            job                       created 2
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            wait 86400000             s0 Succeeded, film Ready, 2/s0 Ready, 2/film Blocked
            reboot a no-ffmpeg        Online
            why 2/s0                  BudgetStopped { account: "project", until_ms: 172800000 }
            wait 86400000             s0 Succeeded, film Ready, 2/s0 Ready, 2/film Blocked
            reboot a no-ffmpeg        Online
            why 2/s0                  DevicesBusy { devices: 1, earliest_ms: Some(173800000) }
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_budget_that_cancels_ends_what_runs_and_what_waits_and_keeps_what_was_posted() {
    check(
        "hello a
         hello b
         budget project 4 month cancel
         job shots=2
         job
         job of=second
         grant a
         grant b
         succeed s0#1
         beat b s1#1:2
         job-state 1
         job-state 2
         job-state 3
         money project",
        expect![[r#"
            hello a                   Online
            hello b                   Online
            budget project 4 month cancelNow
            job shots=2               created 1
            job                       created 2
            job of=second             created 3
            grant a                   s0#1 Leased, from step 0, 0 inputs
            grant b                   3/s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            beat b s1#1:2             Run Abandon { reason: "attempt 1 is not the current one" }
            job-state 1               Failed 33% Posted spent 4 cancelled_by_operator
            job-state 2               Failed 0% Voided spent 0 cancelled_by_operator
            job-state 3               Rendering 0% Pending spent 0 
            money project             available -4, held 0, spent 4, mint 0
        "#]],
    );
}

#[test]
fn what_is_refunded_counts_no_longer() {
    check(
        "hello a
         budget project 4 month
         job shots=2
         job
         grant a
         succeed s0#1
         why s1
         budget project 9 month
         grant a
         fail s1#1 rejected
         budget project 4 month
         why 2/s0",
        expect![[r#"
            hello a                   Online
            budget project 4 month    Now
            job shots=2               created 1
            job                       created 2
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            why s1                    BudgetStopped { account: "project", until_ms: 2678400000 }
            budget project 9 month    Now
            grant a                   s1#1 Leased, from step 0, 0 inputs
            fail s1#1 rejected        Failed
            budget project 4 month    Now
            why 2/s0                  DevicesBusy { devices: 1, earliest_ms: Some(1000000) }
        "#]],
    );
}

#[test]
fn users_of_a_project_share_it_fairly_and_have_limits_of_their_own() {
    check(
        "hello a no-ffmpeg
         hello b no-ffmpeg
         hello c no-ffmpeg
         job user=ann
         job user=ann
         job user=ann
         job user=bob
         limit project:ann devices=1
         grant a
         grant b
         why 2/s0
         grant c
         crash
         limit project:ann devices=none
         grant c
         give project:ann 10 a
         job user=ann
         job user=bob
         money project:bob
         money project
         money org",
        expect![[r#"
            hello a no-ffmpeg         Online
            hello b no-ffmpeg         Online
            hello c no-ffmpeg         Online
            job user=ann              created 1
            job user=ann              created 2
            job user=ann              created 3
            job user=bob              created 4
            limit project:ann devices=1Now
            grant a                   s0#1 Leased, from step 0, 0 inputs
            grant b                   4/s0#1 Leased, from step 0, 0 inputs
            why 2/s0                  ConcurrencyCap { account: "project:ann", used: 1, of: 1 }
            grant c                   idle: nothing_waits
            crash                     s0 Leased, film Blocked, 2/s0 Ready, 2/film Blocked, 3/s0 Ready, 3/film Blocked, 4/s0 Leased, 4/film Blocked
            limit project:ann devices=noneNow
            grant c                   2/s0#1 Leased, from step 0, 0 inputs
            give project:ann 10 a     Now
            job user=ann              refused: account project:ann is short by 30 s
            job user=bob              created 6
            money project:bob         available -20, held 20, spent 0, mint 0
            money project             available -50, held 50, spent 0, mint 0
            money org                 available -50, held 50, spent 0, mint 0
        "#]],
    );
}

#[test]
fn work_of_a_project_itself_and_of_its_users_is_served_by_age() {
    check(
        "hello a
         job
         job user=ann
         job
         grant a
         succeed 1/s0#1
         grant a
         succeed 1/film#1
         grant a
         succeed 2/s0#1
         grant a
         succeed 2/film#1
         grant a",
        expect![[r#"
            hello a                   Online
            job                       created 1
            job user=ann              created 2
            job                       created 3
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed 1/s0#1            Succeeded
            grant a                   film#1 Leased, from step 0, 1 inputs
            succeed 1/film#1          Succeeded
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            succeed 2/s0#1            Succeeded
            grant a                   2/film#1 Leased, from step 0, 1 inputs
            succeed 2/film#1          Succeeded
            grant a                   3/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn an_account_borrows_from_a_sibling_and_pays_back_with_its_next_grant() {
    check(
        "give project 4 a
         give second 20 a
         job
         limit second lend=9
         job
         limit project borrow=9
         job
         job
         money project
         money second
         crash
         give project 4 b
         money project
         money second
         give project 9 c
         money project
         money second
         money org",
        expect![[r#"
            give project 4 a          Now
            give second 20 a          Now
            job                       refused: account project is short by 6 s
            limit second lend=9       Now
            job                       refused: account project is short by 6 s
            limit project borrow=9    Now
            job                       created 3
            job                       refused: account project is short by 10 s
            money project             available 0, held 10, spent 0, mint -4, loan -6
            money second              available 14, held 0, spent 0, mint -20, loan 6
            crash                     3/s0 Ready, 3/film Blocked
            give project 4 b          Now
            money project             available 0, held 10, spent 0, mint -8, loan -2
            money second              available 18, held 0, spent 0, mint -20, loan 2
            give project 9 c          Now
            money project             available 7, held 10, spent 0, mint -17
            money second              available 20, held 0, spent 0, mint -20
            money org                 available -10, held 10, spent 0, mint 0
        "#]],
    );
}

#[test]
fn a_grant_expires_and_what_was_used_or_held_of_it_stays() {
    check(
        "give project 30 soon 2000000
         give project 20 later 9000000
         give project 5 forever
         job
         crash
         wait 1000000
         money project
         wait 7000000
         money project
         give project 30 soon 2000000
         give project 1 past 3000
         money project",
        expect![[r#"
            give project 30 soon 2000000Now
            give project 20 later 9000000Now
            give project 5 forever    Now
            job                       created 1
            crash                     s0 Ready, film Blocked
            wait 1000000              s0 Ready, film Blocked
            money project             available 25, held 10, spent 0, mint -35
            wait 7000000              s0 Ready, film Blocked
            money project             available 5, held 10, spent 0, mint -15
            give project 30 soon 2000000Before
            give project 1 past 3000  refused: the job is not valid: a grant expires later than now
            money project             available 5, held 10, spent 0, mint -15
        "#]],
    );
}

#[test]
fn operators_read_of_a_budget_in_their_log() {
    let mut world = World::new();
    for line in [
        "hello a",
        "budget project 8 month",
        "job",
        "grant a",
        "succeed s0#1",
    ] {
        world.run(line);
    }
    let [notice] = &world.model.notices[..] else {
        panic!("{:?}", world.model.notices)
    };
    assert_eq!((&*notice.kind, &*notice.subject), ("budget", "project"));
    assert_eq!(
        notice.detail["why"],
        "50 % of the budget of this period is spent"
    );
}
