//! One measured number, beside that of a rival, and the table of all of them.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub value: f64,
    /// `1/s` and what ends in `/s` is better when larger; everything else when smaller.
    pub unit: String,
    /// Who did the same in the same run, if anybody.
    #[serde(default)]
    pub rival: Option<String>,
    #[serde(default)]
    pub rival_value: Option<f64>,
    /// How many times better than the rival; below 1 the rival is better.
    #[serde(default)]
    pub ratio: Option<f64>,
    pub conditions: String,
    /// Values of several runs, of which `value` is the middle one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<f64>,
}

/// The rows of several runs as one: the middle value of those with the same name.
pub fn middle(runs: &[Vec<Row>]) -> Vec<Row> {
    let last = runs.last().map_or(&[][..], Vec::as_slice);
    let row = |row: &Row| {
        let of_run = |run: &Vec<Row>| run.iter().find(|other| other.name == row.name).cloned();
        let runs: Vec<f64> = runs
            .iter()
            .filter_map(of_run)
            .map(|row| row.value)
            .collect();
        Row {
            value: median(&runs),
            runs,
            ..row.clone()
        }
    };
    last.iter().map(row).collect()
}

/// The middle one; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Row {
    /// The same measurement beside a rival's.
    pub fn beside(&self, rival: &str, value: f64) -> Self {
        let larger_is_better = self.unit.ends_with("/s");
        let ratio = match larger_is_better {
            true => self.value / value,
            false => value / self.value,
        };
        Self {
            rival: Some(rival.into()),
            rival_value: Some(value),
            ratio: ratio.is_finite().then_some(ratio),
            ..self.clone()
        }
    }
}

/// Rows that a measuring program wrote: one JSON object a line.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let row = |line| serde_json::from_str(line).with_context(|| format!("no row: {line}"));
    text.lines().map(row).collect()
}

/// All rows, aligned.
pub fn table(rows: &[Row]) -> String {
    let head = [
        "",
        "value",
        "unit",
        "rival",
        "its value",
        "ratio",
        "conditions",
    ];
    let mut lines = vec![head.map(String::from)];
    lines.extend(rows.iter().map(cells));
    let widths: Vec<usize> = (0..head.len())
        .map(|at| lines.iter().map(|line| line[at].chars().count()).max())
        .map(|width| width.unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in &lines {
        for (at, cell) in line.iter().enumerate() {
            let width = widths[at];
            let shown = match is_number(at) {
                true => format!("{cell:>width$}  "),
                false => format!("{cell:<width$}  "),
            };
            text.push_str(&shown);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn is_number(column: usize) -> bool {
    matches!(column, 1 | 4 | 5)
}

fn cells(row: &Row) -> [String; 7] {
    [
        row.name.clone(),
        number(row.value),
        row.unit.clone(),
        row.rival.clone().unwrap_or_default(),
        row.rival_value.map(number).unwrap_or_default(),
        row.ratio
            .map(|ratio| format!("{}x", number(ratio)))
            .unwrap_or_default(),
        row.conditions.clone(),
    ]
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(unit: &str) -> Row {
        Row {
            name: "work".into(),
            value: 200.0,
            unit: unit.into(),
            rival: None,
            rival_value: None,
            ratio: None,
            conditions: "here".into(),
            runs: Vec::new(),
        }
    }

    #[test]
    fn more_a_second_is_better_and_so_is_less_time() {
        assert_eq!(row("1/s").beside("them", 50.0).ratio, Some(4.0));
        assert_eq!(row("ms").beside("them", 50.0).ratio, Some(0.25));
        assert_eq!(row("1/s").beside("them", 0.0).ratio, None);
    }

    #[test]
    fn the_middle_of_several_runs_counts_and_all_are_kept() {
        let of = |value| Row {
            value,
            ..row("1/s")
        };
        let once = Row {
            name: "restart".into(),
            ..of(4.0)
        };
        let runs = [vec![of(9.0)], vec![of(1.0)], vec![of(3.0), once]];
        let rows = middle(&runs);
        assert_eq!(
            (rows[0].value, &rows[0].runs[..]),
            (3.0, &[9.0, 1.0, 3.0][..])
        );
        assert_eq!((rows[1].value, &rows[1].runs[..]), (4.0, &[4.0][..]));
        assert_eq!(middle(&[]), []);
    }

    #[test]
    fn the_table_lines_up_and_rows_come_back_from_their_file() {
        let rows = [row("1/s").beside("them", 50.0), row("ms")];
        let told = table(&rows);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(
            lines,
            [
                "      value  unit  rival  its value  ratio  conditions",
                "work    200  1/s   them        50.0  4.00x  here",
                "work    200  ms                             here",
            ]
        );
        let file = std::env::temp_dir().join(format!("dailies-rows-{}", std::process::id()));
        let text: Vec<String> = rows
            .iter()
            .map(|row| serde_json::to_string(row).unwrap())
            .collect();
        fs::write(&file, text.join("\n")).unwrap();
        assert_eq!(read(&file).unwrap(), rows);
        fs::remove_file(&file).unwrap();
    }
}
