//! `gpu-check`: is every kernel right on this card, and how fast is it? One binary for a machine with a GPU
//! and nothing else: no Rust, no network. The process that is started never touches the GPU: each part runs
//! in a child of its own, so a kernel that faults or hangs costs its own part and no other.

mod attended;
mod bench;
mod child;
mod golden;
mod make;
mod options;
mod parent;
mod pass;
mod report;
mod sparse;

use std::process::ExitCode;

use options::Options;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(words) => {
            eprintln!("{words}");
            return ExitCode::from(2);
        }
    };
    let outcome = match (&options.child, &options.pack) {
        (Some(part), _) => child::run(&options, part),
        (None, Some(file)) => make::pack(&options, file),
        (None, None) => parent::run(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
