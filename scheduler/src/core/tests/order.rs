//! Bands, fair shares, ranks, aged work.

use expect_test::expect;

use super::check;

#[test]
fn bands_come_before_the_order_of_submission() {
    check(
        "hello a no-ffmpeg
         job band=overnight
         job
         job band=urgent
         why 1/s0
         why 2/s0
         grant a
         succeed 3/s0#1
         grant a
         succeed 2/s0#1
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            job band=overnight        created 1
            job                       created 2
            job band=urgent           created 3
            why 1/s0                  BandBehind { urgent: 1, standard: 1 }
            why 2/s0                  BandBehind { urgent: 1, standard: 0 }
            grant a                   3/s0#1 Leased, from step 0, 0 inputs
            succeed 3/s0#1            Succeeded
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            succeed 2/s0#1            Succeeded
            grant a                   s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_flood_of_one_project_does_not_keep_another_waiting() {
    check(
        "hello a no-ffmpeg
         job
         job
         job
         job of=second
         grant a
         succeed s0#1
         why 2/s0
         grant a
         succeed 4/s0#1
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            job                       created 2
            job                       created 3
            job of=second             created 4
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            why 2/s0                  FairShare { own_s: 4, leading_s: 0 }
            grant a                   4/s0#1 Leased, from step 0, 0 inputs
            succeed 4/s0#1            Succeeded
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_double_weight_gets_double_and_siblings_do_not_leak_into_another_org() {
    // Two projects of one org together get as much as that org alone would: a third of the farm here.
    check(
        "hello a no-ffmpeg
         hello b no-ffmpeg
         hello c no-ffmpeg
         job
         job of=second
         job of=foreign
         job of=foreign
         job of=foreign
         grant a
         grant b
         grant c
         succeed s0#1
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            hello b no-ffmpeg         Online
            hello c no-ffmpeg         Online
            job                       created 1
            job of=second             created 2
            job of=foreign            created 3
            job of=foreign            created 4
            job of=foreign            created 5
            grant a                   s0#1 Leased, from step 0, 0 inputs
            grant b                   3/s0#1 Leased, from step 0, 0 inputs
            grant c                   4/s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_grant_counts_at_once_so_that_free_devices_do_not_all_go_to_one_account() {
    check(
        "hello a no-ffmpeg
         hello b no-ffmpeg
         job
         job
         job of=second
         grant a
         grant b",
        expect![[r#"
            hello a no-ffmpeg         Online
            hello b no-ffmpeg         Online
            job                       created 1
            job                       created 2
            job of=second             created 3
            grant a                   s0#1 Leased, from step 0, 0 inputs
            grant b                   3/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn old_usage_fades_and_survives_a_crash() {
    // After ten days almost nothing of the work of job 1 counts; the work of job 2 is fresh.
    check(
        "hello a no-ffmpeg
         job
         grant a
         succeed s0#1
         crash
         wait 864000000
         reboot a no-ffmpeg
         job of=second
         grant a
         succeed 2/s0#1
         crash
         job of=second
         job
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            succeed s0#1              Succeeded
            crash                     s0 Succeeded, film Ready
            wait 864000000            s0 Succeeded, film Ready
            reboot a no-ffmpeg        Online
            job of=second             created 2
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
            succeed 2/s0#1            Succeeded
            crash                     s0 Succeeded, film Ready, 2/s0 Succeeded, 2/film Ready
            job of=second             created 3
            job                       created 4
            grant a                   4/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn a_rank_orders_the_jobs_of_one_account_only() {
    check(
        "hello a no-ffmpeg
         job
         job rank=-1
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            job rank=-1               created 2
            grant a                   2/s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn work_that_has_waited_beyond_its_age_goes_before_urgent_work() {
    check(
        "hello a no-ffmpeg
         job
         wait 14400000
         reboot a no-ffmpeg
         job band=urgent
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            job                       created 1
            wait 14400000             s0 Ready, film Blocked
            reboot a no-ffmpeg        Online
            job band=urgent           created 2
            grant a                   s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}
