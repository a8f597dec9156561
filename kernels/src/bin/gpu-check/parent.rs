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

use kernels::check::{Case, FAMILIES, Scale, cases};

use crate::{bench, options::Options, report::Report};

/// The phases in their order, each with the most seconds of one of its parts.
const PHASES: &[(&str, u64)] = &[
    ("probe", 30),
    // Each kernel once on small shapes, before anything that may take long.
    ("smoke", 20),
    // The same under NVIDIA's own checker, on request.
    ("sanitize", 90),
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
const EMULATED: [&str; 4] = ["probe", "sanitize", "correct", "golden"];
/// What `compute-sanitizer` looks for, one at a time, and how it ends when it has found something.
const SANITIZERS: [&str; 3] = ["memcheck", "racecheck", "synccheck"];
const SANITIZER: &str = "compute-sanitizer";
const SANITIZER_FOUND: &str = "99";
/// Lines of its words that a failure repeats.
const SANITIZER_LINES_MAX: usize = 6;

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
            if *phase == "sanitize" && !options.sanitize {
                continue;
            }
            report.skipped.push(format!("{phase}: not asked for"));
            continue;
        }
        if report.env.contains_key("no_gpu") || (options.cpu && !EMULATED.contains(phase)) {
            let why = if options.cpu { "emulated" } else { "no GPU" };
            report.skipped.push(format!("{phase}: {why}"));
            continue;
        }
        if *phase == "sanitize" && !has_sanitizer() {
            let why = format!("sanitize: no {SANITIZER} on PATH (it comes with the CUDA toolkit)");
            report.skipped.push(why);
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

fn has_sanitizer() -> bool {
    let mut command = Command::new(SANITIZER);
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What of a phase gets a child of its own.
fn parts(phase: &str, options: &Options) -> Vec<String> {
    let mut names: Vec<String> = match phase {
        "smoke" | "correct" | "sanitize" => kernels(options),
        "bench" => bench::GROUPS
            .iter()
            .filter(|group| options.wants(group))
            .map(|group| group.to_string())
            .collect(),
        "golden" => FAMILIES.map(str::to_string).to_vec(),
        _ => return vec![phase.to_string()],
    };
    let mut unique: Vec<String> = Vec::new();
    names.drain(..).for_each(|name| {
        if !unique.contains(&name) {
            unique.push(name);
        }
    });
    let of = |phase: &str| -> Vec<String> {
        let part = |name: &String| format!("{phase}:{name}");
        unique.iter().map(part).collect()
    };
    match phase {
        "sanitize" => SANITIZERS
            .iter()
            .flat_map(|tool| of(&format!("sanitize/{tool}")))
            .collect(),
        phase => of(phase),
    }
}

/// Ops; of those with several paths each apart, since one that hangs must not hide the others.
fn kernels(options: &Options) -> Vec<String> {
    let all = cases(Scale::Small, true);
    let wanted = all.iter().filter(|case| options.wants(case.op));
    let name = |case: &Case| match case.op {
        "attention" | "conv3d" => format!(
            "{}/{}",
            case.op,
            case.shape.split(' ').next().unwrap_or_default()
        ),
        op => op.to_string(),
    };
    wanted.map(name).collect()
}

/// The command of a part: this program, under the sanitizer where that is asked for.
fn command(options: &Options, part: &str) -> std::io::Result<Command> {
    let program = std::env::current_exe()?;
    let tool = part
        .strip_prefix("sanitize/")
        .and_then(|rest| rest.split(':').next());
    let mut command = match tool {
        Some(tool) => {
            let mut command = Command::new(SANITIZER);
            command.args(["--tool", tool, "--error-exitcode", SANITIZER_FOUND]);
            command.arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(options.for_child(part));
    Ok(command)
}

fn run_part(options: &Options, part: &str, limit: Duration, report: &mut Report) {
    let child = match part {
        "torch" => torch(options),
        _ => command(options, part)
            .and_then(|mut command| command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()),
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
    let mut said = Vec::new();
    let in_time = listen(&mut child, limit, report, &mut said);
    let ended = if in_time {
        child.wait()
    } else {
        child.kill().and_then(|()| child.wait())
    };
    let why = match ended {
        _ if !in_time => format!("{part}: did not end within {} s", limit.as_secs()),
        Ok(status) if status.success() => return,
        Ok(status) if said.is_empty() => format!("{part}: ended with {status}"),
        Ok(status) => format!("{part}: ended with {status}: {}", said.join("; ")),
        Err(error) => format!("{part}: {error}"),
    };
    // PyTorch is a rival, not ours: what it does wrong is a note.
    if part == "torch" {
        report.skipped.push(why)
    } else {
        report.failures.push(why)
    }
}

/// Adds each line to the report as it comes, and to `said` the first words of a sanitizer; false when the time is up.
fn listen(child: &mut Child, limit: Duration, report: &mut Report, said: &mut Vec<String>) -> bool {
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
                Err(_) => {
                    let words = line.strip_prefix("=========").map(str::trim);
                    let is_new = said.len() < SANITIZER_LINES_MAX;
                    said.extend(
                        words
                            .filter(|words| is_new && !words.is_empty())
                            .map(str::to_owned),
                    );
                    eprintln!("{line}");
                }
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
