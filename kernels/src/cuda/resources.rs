//! What ptxas says that a kernel takes, and what it complains of.

use std::collections::BTreeMap;

/// What one kernel takes on one architecture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread's stack.
    pub stack_bytes: u32,
    /// Bytes that did not fit in registers, stored and loaded.
    pub spill_bytes: u32,
    /// Static shared memory of a block.
    pub shared_bytes: u32,
}

/// Warnings that make a kernel wrong for its purpose: registers that cannot be handed over between
/// warpgroups, products that wait for each other.
const COMPLAINTS: &[&str] = &["C7508", "C7510", "C7512"];

impl Resources {
    /// Reads the log of a compilation with `--ptxas-options=-v`: kernel -> resources.
    pub fn parse(log: &str) -> BTreeMap<String, Self> {
        let mut found = BTreeMap::new();
        let mut entry = String::new();
        for line in log.lines() {
            if let Some(rest) = line.split_once("entry function '") {
                entry = rest.1.split('\'').next().unwrap_or_default().to_string();
            }
            let one: &mut Self = match entry.is_empty() {
                true => continue,
                false => found.entry(entry.clone()).or_default(),
            };
            let before = |words: &str| number_before(line, words);
            one.stack_bytes = one.stack_bytes.max(before(" bytes stack frame"));
            one.spill_bytes += before(" bytes spill stores") + before(" bytes spill loads");
            one.registers = one.registers.max(before(" registers"));
            one.shared_bytes = one.shared_bytes.max(before(" bytes smem"));
        }
        found
    }

    /// Lines of a log that no kernel may cause.
    pub fn complaints(log: &str) -> Vec<&str> {
        log.lines()
            .filter(|line| COMPLAINTS.iter().any(|code| line.contains(code)))
            .collect()
    }
}

/// The number that stands right before `words`, or 0.
fn number_before(line: &str, words: &str) -> u32 {
    let Some(end) = line.find(words) else {
        return 0;
    };
    let digits = line[..end].rsplit(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_a_log_is_read() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'a' for 'sm_80'\n\
            ptxas info    : Function properties for a\n    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
            ptxas info    : Used 255 registers, used 1 barriers, 16 bytes cumulative stack size, 64 bytes smem, 400 bytes cmem[0]\n\
            ptxas info    : Compiling entry function 'b' for 'sm_80'\n\
            ptxas info    : Used 32 registers\n";
        let found = Resources::parse(log);
        assert_eq!(
            found["a"],
            Resources {
                registers: 255,
                stack_bytes: 16,
                spill_bytes: 20,
                shared_bytes: 64
            }
        );
        assert_eq!(
            found["b"],
            Resources {
                registers: 32,
                ..Resources::default()
            }
        );
        assert!(Resources::complaints(log).is_empty());
        assert_eq!(
            Resources::complaints("x\nptxas info (C7508): no\n").len(),
            1
        );
    }
}
