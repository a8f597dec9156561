//! The process that is started: runs the parts as children within their time, collects what they say.

use std::{
    error::Error,
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::Value;

use kernels::check::{FAMILIES, Scale, cases};

use crate::{bench, options::Options, report::Report};

/// The phases in their order, each with the most seconds of one of its parts.
const PHASES: &[(&str, u64)] = &[
    ("probe", 30),
    // Each kernel once on small shapes, before anything that may take long.
    ("smoke", 20),
    ("ceilings", 40),
    ("correct", 60),
    ("bench", 60),
    // Lists of blocks at long lengths: time beside that without a list.
    ("sparse", 60),
    ("torch", 120),
    ("pass", 90),
    ("nvrtc", 60),
    // Results of the small cases, for CI without a card.
    ("golden", 60),
];

/// What `--cpu` runs.
const EMULATED: [&str; 3] = ["probe", "correct", "golden"];

/// Compares with PyTorch; written to the results' folder and run from there.
const TORCH: &str = include_str!("bench_torch.py");

/// Runs everything; whether all was right.
///
/// # Errors
/// When the results' folder cannot be written.
pub fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    fs::create_dir_all(&options.out)?;
    let start = Instant::now();
    let mut report = Report {
        seed: options.seed,
        ..Report::default()
    };
    for (phase, limit_s) in PHASES {
        if !options.wants_phase(phase) && *phase != "probe" {
            report.skipped.push(format!("{phase}: not asked for"));
            continue;
        }
        if report.env.contains_key("no_gpu") || (options.cpu && !EMULATED.contains(phase)) {
            let why = if options.cpu { "emulated" } else { "no GPU" };
            report.skipped.push(format!("{phase}: {why}"));
            continue;
        }
        for part in parts(phase, options) {
            let left = Duration::from_secs(options.budget_s).saturating_sub(start.elapsed());
            if left < Duration::from_secs(5) {
                report.skipped.push(format!("{part}: no time left"));
                continue;
            }
            eprintln!("[{:>4.0} s] {part}", start.elapsed().as_secs_f64());
            run_part(
                options,
                &part,
                left.min(Duration::from_secs(*limit_s)),
                &mut report,
            );
            report.elapsed_s = start.elapsed().as_secs_f64();
            report.save(&options.out)?;
        }
    }
    report.save(&options.out)?;
    if let Some(why) = report.env.get("no_gpu").and_then(Value::as_str) {
        println!("no GPU: {why}");
        report
            .skipped
            .iter()
            .for_each(|what| println!("skipped: {what}"));
    }
    println!("{}", report.table());
    Ok(report.failures.is_empty())
}

/// What of a phase gets a child of its own.
fn parts(phase: &str, options: &Options) -> Vec<String> {
    let mut names: Vec<String> = match phase {
        "smoke" | "correct" => cases(Scale::Small, true)
            .iter()
            .filter(|case| options.wants(case.op))
            // Paths apart: one that hangs must not hide the others.
            .map(|case| match case.op {
                "attention" | "conv3d" => format!(
                    "{}/{}",
                    case.op,
                    case.shape.split(' ').next().unwrap_or_default()
                ),
                op => op.to_string(),
            })
            .collect(),
        "bench" => bench::GROUPS
            .iter()
            .filter(|group| options.wants(group))
            .map(|group| group.to_string())
            .collect(),
        "golden" => FAMILIES.map(str::to_string).to_vec(),
        _ => return vec![phase.to_string()],
    };
    names.dedup();
    let mut unique: Vec<String> = Vec::new();
    names.into_iter().for_each(|name| {
        if !unique.contains(&name) {
            unique.push(name);
        }
    });
    unique
        .into_iter()
        .map(|name| format!("{phase}:{name}"))
        .collect()
}

fn run_part(options: &Options, part: &str, limit: Duration, report: &mut Report) {
    let child = match part {
        "torch" => torch(options),
        _ => std::env::current_exe().and_then(|program| {
            Command::new(program)
                .args(options.for_child(part))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
        }),
    };
    let mut child = match child {
        Ok(child) => child,
        Err(error) if part == "torch" => return report.skipped.push(format!("torch: {error}")),
        Err(error) => {
            return report
                .failures
                .push(format!("{part}: cannot start: {error}"));
        }
    };
    let in_time = listen(&mut child, limit, report);
    let ended = if in_time {
        child.wait()
    } else {
        child.kill().and_then(|()| child.wait())
    };
    let why = match ended {
        _ if !in_time => format!("{part}: did not end within {} s", limit.as_secs()),
        Ok(status) if status.success() => return,
        Ok(status) => format!("{part}: ended with {status}"),
        Err(error) => format!("{part}: {error}"),
    };
    // PyTorch is a rival, not ours: what it does wrong is a note.
    if part == "torch" {
        report.skipped.push(why)
    } else {
        report.failures.push(why)
    }
}

/// Adds each line to the report as it comes; false when the time is up.
fn listen(child: &mut Child, limit: Duration, report: &mut Report) -> bool {
    let (to, from) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
    }
    let end = Instant::now() + limit;
    loop {
        match from.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(value) => report.add(&value),
                Err(_) => eprintln!("{line}"),
            },
            Err(mpsc::RecvTimeoutError::Disconnected) => return true,
            Err(mpsc::RecvTimeoutError::Timeout) => return false,
        }
    }
}

fn torch(options: &Options) -> std::io::Result<Child> {
    let script = options.out.join("bench_torch.py");
    fs::write(&script, TORCH)?;
    let shapes = serde_json::to_string(&bench::torch_shapes())?;
    Command::new(&options.python)
        .arg(script)
        .arg(shapes)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
}
