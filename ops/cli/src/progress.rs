//! Shows progress: a bar on a terminal, a few lines where there is none.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal one line is written at each of this many parts of the work.
const LINES: u64 = 4;

pub struct Bar {
    bar: ProgressBar,
    is_terminal: bool,
    /// Part and word of the last line.
    told: Mutex<(u64, u64)>,
}

impl Bar {
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{msg:18} [{bar:32}] {pos}/{len} steps{prefix}")
            .expect("the template is valid");
        bar.set_style(style.progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        let is_terminal = std::io::stderr().is_terminal();
        Self {
            bar,
            is_terminal,
            told: Mutex::new((u64::MAX, 0)),
        }
    }

    /// `left_s` is shown as what remains, in seconds.
    pub fn show(&self, word: &str, done: u64, of: u64, left_s: Option<f64>) {
        if self.is_terminal {
            self.bar.set_length(of);
            self.bar.set_position(done);
            self.bar.set_message(word.to_string());
            self.bar.set_prefix(
                left_s
                    .map(|s| format!(", {} left", seconds(s)))
                    .unwrap_or_default(),
            );
            return;
        }
        let now = (done * LINES / of.max(1), hash(word));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *told, now) != now {
            let left = left_s
                .map(|s| format!(", {} left", seconds(s)))
                .unwrap_or_default();
            eprintln!("{word}: {done}/{of} steps{left}");
        }
    }
}

impl Bar {
    /// Pictures that are decoded, of how many; the steps are done. Lines are not written for each of them.
    pub fn decoding(&self, pictures: u32, of: u32, steps: (u64, u64)) {
        let word = match self.is_terminal && of > 0 {
            true => format!("decode, {pictures}/{of} pictures"),
            false => "decode".into(),
        };
        self.show(&word, steps.0, steps.1, None);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn hash(word: &str) -> u64 {
    word.bytes().fold(0, |hash: u64, byte| {
        hash.wrapping_mul(31).wrapping_add(u64::from(byte))
    })
}

/// Seconds as people say them.
pub fn seconds(s: f64) -> String {
    match s.max(0.0).ceil() as u64 {
        whole @ 0..=99 => format!("{whole} s"),
        whole @ 100..=5_999 => format!("{} min {} s", whole / 60, whole % 60),
        whole => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_read_as_people_say_them() {
        assert_eq!(seconds(-3.0), "0 s");
        assert_eq!(seconds(4.2), "5 s");
        assert_eq!(seconds(125.0), "2 min 5 s");
        assert_eq!(seconds(7_260.0), "2 h 1 min");
    }
}
