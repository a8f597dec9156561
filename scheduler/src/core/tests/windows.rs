//! Work that waits for the night. The script begins at 00:16:40 UTC, so the window is open until 06:00.

use expect_test::expect;

use super::check;

/// From 00:16:40 to 06:00:00, and from there to 22:00:00.
#[test]
fn a_job_starts_only_while_its_window_is_open() {
    check(
        "hello a no-ffmpeg
         wait 20600000
         reboot a no-ffmpeg
         job start=overnight
         why s0
         grant a
         wait 57599999
         reboot a no-ffmpeg
         grant a
         wait 1
         grant a",
        expect![[r#"
            hello a no-ffmpeg         Online
            wait 20600000             
            reboot a no-ffmpeg        Online
            job start=overnight       created 1
            why s0                    WindowClosed { window: "overnight", opens_ms: 79200000 }
            grant a                   idle: nothing_waits
            wait 57599999             s0 Ready, film Blocked
            reboot a no-ffmpeg        Online
            grant a                   idle: nothing_waits
            wait 1                    s0 Ready, film Blocked
            grant a                   s0#1 Leased, from step 0, 0 inputs
        "#]],
    );
}

#[test]
fn what_could_not_start_before_the_window_closed_waits_for_the_next_night_also_after_a_crash() {
    check(
        "job start=overnight
         why s0
         wait 20600000
         hello a no-ffmpeg
         grant a
         crash
         grant a
         why s0",
        expect![[r#"
            job start=overnight       created 1
            why s0                    ModelMissing { weights: "builtin" }
            wait 20600000             s0 Ready, film Blocked
            hello a no-ffmpeg         Online
            grant a                   idle: nothing_waits
            crash                     s0 Ready, film Blocked
            grant a                   idle: nothing_waits
            why s0                    WindowClosed { window: "overnight", opens_ms: 79200000 }
        "#]],
    );
}

#[test]
fn what_has_begun_goes_on_after_the_window_has_closed() {
    check(
        "hello a
         job start=overnight
         grant a
         wait 20600000
         reboot a
         grant a
         succeed s0#2
         grant a",
        expect![[r#"
            hello a                   Online
            job start=overnight       created 1
            grant a                   s0#1 Leased, from step 0, 0 inputs
            wait 20600000             s0 Ready, film Blocked
            reboot a                  Online
            grant a                   s0#2 Leased, from step 0, 0 inputs
            succeed s0#2              Succeeded
            grant a                   film#1 Leased, from step 0, 1 inputs
        "#]],
    );
}
