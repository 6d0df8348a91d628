//! What a run found: tables for people, JSON for programs, and a verdict for each target. It does
//! not hide a target that was missed.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::machine::Machine;
use crate::stats::Spread;

/// The format of the JSON file; fields are added, never changed.
const FORMAT: u32 = 1;

/// Between these stand the figures in docs/benchmarks.md.
const BEGIN: &str = "<!-- generated: make bench -->";
const END: &str = "<!-- end -->";

/// How a figure is compared with its target.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn keeps(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// One target, and what was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Verdict {
    pub(crate) case: String,
    pub(crate) target: String,
    pub(crate) measured: Spread,
    pub(crate) unit: &'static str,
    pub(crate) bound: Bound,
    /// Of the median.
    pub(crate) reached: bool,
}

impl Verdict {
    pub(crate) fn new(
        case: &str,
        target: impl Into<String>,
        measured: Spread,
        unit: &'static str,
        bound: Bound,
    ) -> Self {
        Self {
            case: case.to_owned(),
            target: target.into(),
            measured,
            unit,
            bound,
            reached: bound.keeps(measured.median),
        }
    }

    fn cells(&self) -> Vec<String> {
        let unit = if self.unit == "x" {
            "x".to_owned()
        } else {
            format!(" {}", self.unit)
        };
        let bound = match self.bound {
            Bound::AtLeast(bound) => format!("≥ {}{unit}", digits(bound)),
            Bound::AtMost(bound) => format!("≤ {}{unit}", digits(bound)),
        };
        let Spread { median, min, max } = self.measured;
        vec![
            self.case.clone(),
            self.target.clone(),
            bound,
            format!("{}{unit}", digits(median)),
            format!("{}–{}", digits(min), digits(max)),
            if self.reached { "PASS" } else { "FALLS SHORT" }.to_owned(),
        ]
    }
}

/// Rows under a head.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Table {
    pub(crate) head: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// What one case found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CaseReport {
    pub(crate) name: String,
    pub(crate) title: String,
    /// What a reader must know to read the table.
    pub(crate) notes: Vec<String>,
    pub(crate) tables: Vec<Table>,
    pub(crate) verdicts: Vec<Verdict>,
    /// Every single measurement.
    pub(crate) raw: serde_json::Value,
    pub(crate) took_s: f64,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) format: u32,
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) quick: bool,
    pub(crate) rounds: u32,
    pub(crate) seconds_per_round: u64,
    pub(crate) wrk: String,
    pub(crate) machine: Machine,
    pub(crate) versions: Vec<(&'static str, String)>,
    pub(crate) cases: Vec<CaseReport>,
    /// Cases that could not be measured, and why.
    pub(crate) failed: Vec<(String, String)>,
    pub(crate) took_s: f64,
}

impl Report {
    pub(crate) const FORMAT: u32 = FORMAT;

    pub(crate) fn missed(&self) -> usize {
        self.verdicts().filter(|one| !one.reached).count()
    }

    fn verdicts(&self) -> impl Iterator<Item = &Verdict> {
        self.cases.iter().flat_map(|case| &case.verdicts)
    }

    /// Everything as text, or as Markdown for docs/benchmarks.md.
    pub(crate) fn text(&self, markdown: bool) -> String {
        let mut out = String::new();
        self.text_head(&mut out, markdown);
        for case in &self.cases {
            out.push_str(&case.text(markdown));
        }
        title(&mut out, markdown, "Targets");
        table(&mut out, markdown, &self.summary());
        for (case, why) in &self.failed {
            let _ = writeln!(out, "\nNOT MEASURED: {case}: {why}");
        }
        out
    }

    fn text_head(&self, out: &mut String, markdown: bool) {
        let Machine {
            cpu,
            cores_of_machine,
            cores_used,
            memory_mb,
            kernel,
            swap,
            virtual_machine,
            ..
        } = &self.machine;
        let versions: Vec<_> = self
            .versions
            .iter()
            .map(|(_, version)| version.as_str())
            .collect();
        let rows = [
            ("Date", self.date.clone()),
            ("Commit", self.commit.clone()),
            (
                "CPU",
                cpu.clone()
                    + if *virtual_machine {
                        ", virtual machine"
                    } else {
                        ""
                    },
            ),
            (
                "Cores",
                format!(
                    "{cores_of_machine} in the machine; servers and load generator share {cores_used:?}"
                ),
            ),
            (
                "Memory",
                format!("{memory_mb} MiB, swap {}", if *swap { "on" } else { "off" }),
            ),
            ("Kernel", format!("Linux {kernel}")),
            ("Versions", versions.join("; ")),
            (
                "Rounds",
                format!(
                    "{} of {} s for each contender, in turn{}; `{}`",
                    self.rounds,
                    self.seconds_per_round,
                    if self.quick {
                        " (quick: not for comparing)"
                    } else {
                        ""
                    },
                    self.wrk
                ),
            ),
        ];
        let rows = rows
            .map(|(key, value)| vec![key.to_owned(), value])
            .to_vec();
        table(
            out,
            markdown,
            &Table {
                head: vec!["", ""],
                rows,
            },
        );
    }

    fn summary(&self) -> Table {
        Table {
            head: vec!["case", "target", "wanted", "median", "min–max", ""],
            rows: self.verdicts().map(Verdict::cells).collect(),
        }
    }
}

impl CaseReport {
    pub(crate) fn text(&self, markdown: bool) -> String {
        let mut out = String::new();
        title(
            &mut out,
            markdown,
            &format!("{}: {}", self.name, self.title),
        );
        for (at, one) in self.tables.iter().enumerate() {
            if at > 0 {
                out.push('\n');
            }
            table(&mut out, markdown, one);
        }
        for note in &self.notes {
            let _ = writeln!(out, "{}{note}", if markdown { "\n" } else { "  " });
        }
        out
    }
}

fn title(out: &mut String, markdown: bool, text: &str) {
    let _ = if markdown {
        writeln!(out, "\n### {text}\n")
    } else {
        writeln!(out, "\n{text}")
    };
}

fn table(out: &mut String, markdown: bool, table: &Table) {
    let width = |column: usize| {
        let cells = table.rows.iter().filter_map(|row| row.get(column));
        let widths = cells.map(|cell| cell.chars().count());
        widths
            .chain([table.head[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let head: Vec<String> = table.head.iter().map(|&cell| cell.to_owned()).collect();
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let named = head.iter().any(|cell| !cell.is_empty());
    let mut line = |cells: &[String]| {
        if markdown {
            let _ = writeln!(out, "| {} |", cells.join(" | "));
            return;
        }
        let mut text = String::from("  ");
        for (at, cell) in cells.iter().enumerate() {
            let fill = " ".repeat(widths[at].saturating_sub(cell.chars().count()));
            // Names to the left, figures to the right.
            let number = at > 0 && named && cell.starts_with(|c: char| c.is_ascii_digit());
            text += &if number {
                format!("{fill}{cell}  ")
            } else {
                format!("{cell}{fill}  ")
            };
        }
        let _ = writeln!(out, "{}", text.trim_end());
    };
    if markdown || named {
        line(&head);
    }
    if markdown {
        let rule = vec!["---".to_owned(); head.len()];
        line(&rule);
    }
    for row in &table.rows {
        line(row);
    }
}

/// A page with `figures` between its marks instead of what stood there.
pub(crate) fn replaced(page: &str, figures: &str) -> Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.with_context(|| format!("no `{BEGIN}` and `{END}` in the page"))?;
    Ok(format!(
        "{before}{BEGIN}\n\n{}\n{END}{after}",
        figures.trim_start()
    ))
}

/// A number with as many digits as it deserves.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => grouped(value),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// `12345.6` → `12 346`.
fn grouped(value: f64) -> String {
    let plain = format!("{value:.0}");
    let (sign, numbers) = plain
        .strip_prefix('-')
        .map_or(("", plain.as_str()), |rest| ("-", rest));
    let mut text = String::from(sign);
    for (at, digit) in numbers.chars().enumerate() {
        if at > 0 && (numbers.len() - at) % 3 == 0 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: f64, bound: Bound, expected: bool) {
        let spread = Spread {
            median: value,
            min: 0.0,
            max: 99.0,
        };
        assert_eq!(Verdict::new("a", "b", spread, "x", bound).reached, expected);
    }

    #[test]
    fn the_median_decides() {
        check(4.0, Bound::AtLeast(4.0), true);
        check(3.99, Bound::AtLeast(4.0), false);
        check(0.22, Bound::AtMost(0.22), true);
        check(0.23, Bound::AtMost(0.22), false);
    }

    #[test]
    fn figures_go_between_the_marks() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let expected = format!("a\n{BEGIN}\n\nnew\n\n{END}\nb\n");
        assert_eq!(replaced(&page, "new\n").unwrap(), expected);
        assert_eq!(replaced(&expected, "new\n").unwrap(), expected);
        assert!(replaced("a\n", "new\n").is_err());
    }

    #[test]
    fn digits_as_deserved() {
        for (value, expected) in [
            (1_234_567.8, "1\u{202f}234\u{202f}568"),
            (123.4, "123"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (-1234.0, "-1\u{202f}234"),
        ] {
            assert_eq!(digits(value), expected);
        }
    }

    #[test]
    fn a_table_in_both_clothes() {
        let one = Table {
            head: vec!["who", "n"],
            rows: vec![
                vec!["realm".into(), "1".into()],
                vec!["x".into(), "20".into()],
            ],
        };
        let mut out = String::new();
        table(&mut out, true, &one);
        assert_eq!(
            out,
            "| who | n |\n| --- | --- |\n| realm | 1 |\n| x | 20 |\n"
        );
        out.clear();
        table(&mut out, false, &one);
        assert_eq!(out, "  who    n\n  realm   1\n  x      20\n");
    }
}
