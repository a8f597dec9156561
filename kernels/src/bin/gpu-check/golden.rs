//! Keeps what this card computes of a family of ops in a small file, for CI without a card.

use std::error::Error;

use serde_json::json;

use kernels::Device;
use kernels::check::{Scale, family, golden::Golden};
use kernels::cuda::Gpu;

use crate::child::{say, smi_driver};
use crate::options::Options;

/// Runs the small cases of a family and writes `golden-FAMILY-DEVICE.json` beside the report.
///
/// # Errors
/// When the card refuses, or the file cannot be written.
pub fn write(options: &Options, gpu: &Gpu, name: &str) -> Result<(), Box<dyn Error>> {
    let cpu = Device::cpu(0)?;
    let driver = if options.cpu { None } else { smi_driver() };
    let mut golden = Golden::new(name, gpu, driver, options.seed);
    let cases = family(name, Scale::Small, gpu.card().is_hopper());
    for case in cases.iter().filter(|case| options.wants(case.op)) {
        let outcome = case.run(gpu, &cpu, options.seed)?;
        if let Err(why) = golden.keep(case, &outcome) {
            say(json!({"kind": "failure", "why": format!("golden {why}")}));
        }
    }
    if golden.is_empty() {
        say(json!({"kind": "skipped", "why": format!("golden {name}: no such op")}));
        return Ok(());
    }
    let path = golden.write(&options.out)?;
    let bytes = std::fs::metadata(&path)?.len();
    let shape = format!("{} cases", golden.len());
    say(json!({"kind": "op", "name": format!("golden {name}"), "shape": shape, "bytes": bytes}));
    Ok(())
}
