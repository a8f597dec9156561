//! What was found, as JSON that is rewritten after each part, and as a table.

use std::{fs, io, path::Path};

use serde_json::{Map, Value, json};

/// Most lines of the closing table.
const TABLE_LINES_MAX: usize = 30;

/// Everything so far.
#[derive(Debug, Default)]
pub struct Report {
    /// Device, driver, libraries.
    pub env: Map<String, Value>,
    /// What the card can do at best.
    pub ceilings: Map<String, Value>,
    /// Rows of checks and measurements, by (name, shape).
    pub ops: Vec<Map<String, Value>>,
    /// The model's passes, by size.
    pub passes: Vec<Map<String, Value>>,
    /// What was wrong.
    pub failures: Vec<String>,
    /// What did not run, and why.
    pub skipped: Vec<String>,
    /// Where random inputs began.
    pub seed: u64,
    /// Seconds since the start.
    pub elapsed_s: f64,
}

impl Report {
    /// Adds what a child said in one line.
    pub fn add(&mut self, line: &Value) {
        let text = |name: &str| {
            line.get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_string()
        };
        match line.get("kind").and_then(Value::as_str) {
            Some("env") => self.env.extend(fields(line)),
            Some("ceiling") => self.ceilings.extend(fields(line)),
            Some("pass") => merge(&mut self.passes, fields(line)),
            Some("skipped") => self.skipped.push(text("why")),
            Some("failure") => self.failures.push(text("why")),
            Some("op") => merge(&mut self.ops, fields(line)),
            _ => self.failures.push(format!("a child said: {line}")),
        }
    }

    /// Shares of the ceilings and ratios to torch, which need rows of several children.
    fn complete(&mut self) {
        let (copy, matmul) = (
            self.ceilings.get("copy_gbs").cloned(),
            self.ceilings.get("matmul_tflops").cloned(),
        );
        for row in self.ops.iter_mut().chain(&mut self.passes) {
            let number = |name: &str| row.get(name).and_then(Value::as_f64);
            let share = match (number("tflops"), number("gbs")) {
                (Some(own), _) => matmul.as_ref().and_then(Value::as_f64).map(|top| own / top),
                (None, Some(own)) => copy.as_ref().and_then(Value::as_f64).map(|top| own / top),
                (None, None) => None,
            };
            let ratio = number("torch_ms")
                .zip(number("ms"))
                .map(|(torch, own)| torch / own);
            row.insert("share_of_ceiling".into(), json!(share));
            row.insert("ratio".into(), json!(ratio));
        }
    }

    /// The report as JSON.
    pub fn json(&mut self) -> Value {
        self.complete();
        json!({
            "schema": 2, "env": self.env, "ceilings": self.ceilings, "ops": self.ops, "passes": self.passes,
            "failures": self.failures, "skipped": self.skipped, "seed": self.seed, "elapsed_s": self.elapsed_s,
        })
    }

    /// Writes `gpu-check.json`, whole or not at all.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&mut self, folder: &Path) -> io::Result<()> {
        let aside = folder.join("gpu-check.json.new");
        fs::write(&aside, serde_json::to_vec_pretty(&self.json())?)?;
        fs::rename(aside, folder.join("gpu-check.json"))
    }

    /// At most thirty lines: failures first, then what was measured.
    pub fn table(&self) -> String {
        let mut lines: Vec<String> = self
            .failures
            .iter()
            .map(|why| format!("WRONG    {}", why.lines().next().unwrap_or_default()))
            .collect();
        lines.truncate(TABLE_LINES_MAX / 2);
        let right = self
            .ops
            .iter()
            .filter(|row| row.get("right") == Some(&Value::Bool(true)))
            .count();
        let checked = self
            .ops
            .iter()
            .filter(|row| row.contains_key("right"))
            .count();
        let mut measured: Vec<String> = self
            .ops
            .iter()
            .filter(|row| row.contains_key("ms"))
            .map(line_of)
            .collect();
        let room = TABLE_LINES_MAX - 5 - lines.len();
        if measured.len() > room {
            measured.truncate(room);
            measured.push("… all rows are in gpu-check.json".into());
        }
        if !measured.is_empty() {
            lines.push(format!(
                "{:<46} {:>9} {:>9} {:>8} {:>6} {:>6}",
                "op", "ms", "TFLOP/s", "GB/s", "share", "torch"
            ));
        }
        lines.extend(measured);
        let ours = self.passes.iter().filter(|pass| pass.contains_key("ms"));
        lines.extend(ours.map(|pass| {
            let field = |name: &str| pass.get(name).and_then(Value::as_f64).unwrap_or_default();
            let torch = match pass.get("torch_ms").and_then(Value::as_f64) {
                Some(ms) => format!(", diffusers {:.3} s", ms / 1e3),
                None => String::new(),
            };
            format!(
                "one pass of 48 blocks at {}: {:.3} s, {:.0} % of the peak{torch}",
                pass["shape"].as_str().unwrap_or_default(),
                field("ms") / 1e3,
                field("mfu") * 100.0
            )
        }));
        lines.push(format!(
            "{right} of {checked} checks right, {} failures, {} skipped, seed {}, {:.0} s",
            self.failures.len(),
            self.skipped.len(),
            self.seed,
            self.elapsed_s
        ));
        lines.join("\n")
    }
}

fn line_of(row: &Map<String, Value>) -> String {
    let number = |name: &str, digits: usize| match row.get(name).and_then(Value::as_f64) {
        Some(value) => format!("{value:.digits$}"),
        None => "-".into(),
    };
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
    let name: String = format!("{} {}", text("name"), text("shape"))
        .chars()
        .take(46)
        .collect();
    format!(
        "{name:<46} {:>9} {:>9} {:>8} {:>6} {:>6}",
        number("ms", 3),
        number("tflops", 0),
        number("gbs", 0),
        number("share_of_ceiling", 2),
        number("ratio", 2)
    )
}

/// Joins a row with the one of the same name and shape.
fn merge(rows: &mut Vec<Map<String, Value>>, row: Map<String, Value>) {
    let same = |other: &&mut Map<String, Value>| {
        other["name"] == row["name"] && other["shape"] == row["shape"]
    };
    match rows.iter_mut().find(same) {
        Some(other) => other.extend(row),
        None => rows.push(row),
    }
}

fn fields(line: &Value) -> Map<String, Value> {
    let mut fields = line.as_object().cloned().unwrap_or_default();
    fields.remove("kind");
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_op_are_joined_and_compared() {
        let mut report = Report::default();
        report.add(&json!({"kind": "ceiling", "copy_gbs": 4000.0, "matmul_tflops": 800.0}));
        report.add(
            &json!({"kind": "op", "name": "attention", "shape": "a", "ms": 2.0, "tflops": 400.0}),
        );
        report.add(&json!({"kind": "op", "name": "attention", "shape": "a", "torch_ms": 3.0}));
        report.add(&json!({"kind": "op", "name": "norm", "shape": "b", "ms": 1.0, "gbs": 3000.0}));
        report
            .add(&json!({"kind": "pass", "name": "pass", "shape": "768", "ms": 300.0, "mfu": 0.6}));
        report.add(&json!({"kind": "pass", "name": "pass", "shape": "768", "torch_ms": 450.0}));
        report.add(&json!({"kind": "failure", "why": "conv hung"}));
        let found = report.json();
        assert_eq!(found["ops"].as_array().unwrap().len(), 2);
        assert_eq!(found["ops"][0]["ratio"], 1.5);
        assert_eq!(found["ops"][0]["share_of_ceiling"], 0.5);
        assert_eq!(found["ops"][1]["share_of_ceiling"], 0.75);
        assert_eq!(found["ops"][1]["ratio"], Value::Null);
        let table = report.table();
        assert!(table.starts_with("WRONG    conv hung"), "{table}");
        assert!(table.contains("1.50"), "{table}");
        assert!(
            table.contains("at 768: 0.300 s, 60 % of the peak, diffusers 0.450 s"),
            "{table}"
        );
        assert_eq!(found["passes"][0]["ratio"], 1.5);
    }

    #[test]
    fn the_table_stays_short() {
        let mut report = Report::default();
        for i in 0..100 {
            report.add(&json!({"kind": "failure", "why": format!("{i}")}));
            report.add(&json!({"kind": "op", "name": "x", "shape": format!("{i}"), "ms": 1.0}));
        }
        assert!(report.table().lines().count() <= TABLE_LINES_MAX);
    }
}
