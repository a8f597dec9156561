//! What a farm foretells beside what then happens: real films on this machine, at random times.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::row::Row;
use crate::{cargo, farm::Farm, ffmpeg, run, target};

/// Films that are timed alone first, to know how many fill the farm.
const ALONE: u32 = 6;
/// Far above what the last films take.
const PATIENCE: Duration = Duration::from_secs(600);
const SECONDS: [&str; 4] = ["2", "4", "4", "8"];
const SIZES: [&str; 3] = ["720x1280", "1280x720", "64x64"];
const PRIORITIES: [&str; 4] = ["normal", "normal", "low", "high"];

#[derive(clap::Args)]
pub struct Eta {
    /// The program to measure [default: built here, in release mode]
    #[arg(long, value_name = "FILE")]
    dailies: Option<PathBuf>,
    /// Films in all; what is foretold of the second half has learnt from the first.
    #[arg(long, default_value_t = 400)]
    films: u32,
    /// Share of the time in which the farm has work.
    #[arg(long, default_value_t = 0.7)]
    load: f64,
}

impl Eta {
    pub fn run(&self) -> Result<Vec<Row>> {
        let ffmpeg = ffmpeg::find_or_install()?;
        let program = match &self.dailies {
            Some(program) => program.clone(),
            None => {
                let build = ["build", "--release", "--locked", "--quiet", "-p", "dailies"];
                run(cargo().args(build))?;
                target().join("release/dailies")
            }
        };
        let data = target().join("bench").join("eta");
        let _ = fs::remove_dir_all(&data);
        let mut farm = Farm::start(&program, &data, &ffmpeg)?;
        let rows = self.measure(&program, &farm);
        farm.stop();
        rows
    }

    fn measure(&self, program: &Path, farm: &Farm) -> Result<Vec<Row>> {
        let mut dice = Dice(1);
        let began = Instant::now();
        for _ in 0..ALONE {
            submit(program, farm, &mut dice, true)?;
        }
        let service = began.elapsed().as_secs_f64() / f64::from(ALONE);
        let half = self.films / 2;
        self.send(program, farm, &mut dice, service, half)?;
        let middle = Told::after(farm, ALONE + half)?;
        self.send(program, farm, &mut dice, service, self.films - half)?;
        let end = Told::after(farm, ALONE + self.films)?;
        Ok(self.rows(&middle, &end, service))
    }

    fn send(
        &self,
        program: &Path,
        farm: &Farm,
        dice: &mut Dice,
        service: f64,
        films: u32,
    ) -> Result<()> {
        for _ in 0..films {
            let pause = -(1.0 - dice.share()).ln() * service / self.load;
            sleep(Duration::from_secs_f64(pause));
            submit(program, farm, dice, false)?;
        }
        Ok(())
    }

    fn rows(&self, middle: &Told, end: &Told, service: f64) -> Vec<Row> {
        let row = |name: &str, value: f64, unit: &str, films: f64| Row {
            name: name.into(),
            value,
            unit: unit.into(),
            rival: None,
            rival_value: None,
            ratio: None,
            runs: Vec::new(),
            conditions: format!(
                "{films:.0} films of 2 to 8 s, three sizes, three priorities; one node, load {}, \
                 {service:.1} s a film alone",
                self.load
            ),
        };
        let late = end.less(middle);
        vec![
            row("inside the interval, all", end.inside(), "%", end.films()),
            row(
                "inside the interval, second half",
                late.inside(),
                "%",
                late.films(),
            ),
            row(
                "mean distance from its middle, second half",
                late.error_s / late.errors,
                "s",
                late.errors,
            ),
            row(
                "price over the expected, mean, second half",
                late.price / late.prices,
                "x",
                late.prices,
            ),
        ]
    }
}

/// One film of random length, size and priority.
fn submit(program: &Path, farm: &Farm, dice: &mut Dice, waits: bool) -> Result<()> {
    let mut submit = Command::new(program);
    submit.args(["submit", "--url", &farm.base_url, "--data"]);
    submit.arg(&farm.data);
    submit.args(["--seconds", dice.of(&SECONDS), "--size", dice.of(&SIZES)]);
    submit.args(["--priority", dice.of(&PRIORITIES)]);
    if waits {
        submit.arg("--wait");
    }
    submit.args(["--", "a red ball falls and bounces"]);
    let ended = submit
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .context("cannot start 'dailies submit'")?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "a film was not taken: {said}");
    Ok(())
}

/// Sums of the scheduler's metrics.
#[derive(Default)]
struct Told {
    right: f64,
    wrong: f64,
    error_s: f64,
    errors: f64,
    price: f64,
    prices: f64,
}

impl Told {
    /// Once so many films are done.
    fn after(farm: &Farm, films: u32) -> Result<Self> {
        let limit = Instant::now() + PATIENCE;
        loop {
            let told = Self::read(&metrics(farm)?);
            if told.prices >= f64::from(films) {
                return Ok(told);
            }
            ensure!(Instant::now() < limit, "the last films do not end");
            sleep(Duration::from_millis(200));
        }
    }

    fn read(text: &str) -> Self {
        let mut told = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let value: f64 = value.parse().unwrap_or_default();
            let of = |what: &str| name.split('{').next().is_some_and(|it| it.ends_with(what));
            let sum = match name {
                _ if of("eta_jobs_total") && name.contains("inside=\"true\"") => &mut told.right,
                _ if of("eta_jobs_total") => &mut told.wrong,
                _ if of("eta_error_seconds_sum") => &mut told.error_s,
                _ if of("eta_error_seconds_count") => &mut told.errors,
                _ if of("price_error_ratio_sum") => &mut told.price,
                _ if of("price_error_ratio_count") => &mut told.prices,
                _ => continue,
            };
            *sum += value;
        }
        told
    }

    fn less(&self, before: &Self) -> Self {
        Self {
            right: self.right - before.right,
            wrong: self.wrong - before.wrong,
            error_s: self.error_s - before.error_s,
            errors: self.errors - before.errors,
            price: self.price - before.price,
            prices: self.prices - before.prices,
        }
    }

    fn films(&self) -> f64 {
        self.right + self.wrong
    }

    /// Per cent.
    fn inside(&self) -> f64 {
        100.0 * self.right / self.films()
    }
}

fn metrics(farm: &Farm) -> Result<String> {
    let address = farm.base_url.trim_start_matches("http://");
    let address = address.split('/').next().unwrap_or_default();
    let mut stream = TcpStream::connect(address).context("the farm is gone")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The same numbers each time (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// At least 0 and below 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.next() as usize % all.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_bands_and_sides() {
        let told = Told::read(
            "# HELP eta_jobs_total x\n\
             dailies_eta_jobs_total{band=\"a\",inside=\"true\"} 3\n\
             dailies_eta_jobs_total{band=\"b\",inside=\"true\"} 5\n\
             dailies_eta_jobs_total{band=\"a\",inside=\"false\"} 2\n\
             dailies_eta_error_seconds_sum{band=\"a\",side=\"late\"} 4.5\n\
             dailies_eta_error_seconds_count{band=\"a\",side=\"late\"} 9\n\
             dailies_price_error_ratio_count{band=\"a\"} 10\n",
        );
        assert_eq!((told.films(), told.inside()), (10.0, 80.0));
        assert_eq!((told.error_s, told.errors), (4.5, 9.0));
        assert_eq!(told.prices, 10.0);
    }
}
