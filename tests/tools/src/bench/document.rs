//! Prints docs/performance.md from the results in docs/performance.json.
//!
//! The text around the tables is `document/performance.md`. A line `@table NAME` there becomes the table of that bench, and
//! `@plots` the pictures of all curves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use reloop_rig::daemon::workspace;
use serde::{Deserialize, Serialize};

use super::report::{Curve, Report};
use super::stats::figure;

const TEMPLATE: &str = include_str!("document/performance.md");

/// The newest results of every bench.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Found {
    machine: String,
    benches: BTreeMap<String, Report>,
}

fn docs() -> PathBuf {
    workspace().join("docs")
}

fn found() -> anyhow::Result<Found> {
    match fs::read(docs().join("performance.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes).context("docs/performance.json"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Found::default()),
        Err(error) => Err(error).context("docs/performance.json"),
    }
}

/// Stores a bench's results in place of its former ones, and prints the document.
pub(super) fn keep(report: Report) -> anyhow::Result<()> {
    let mut found = found()?;
    found.machine = machine();
    found.benches.insert(report.bench.clone(), report);
    let text = serde_json::to_string_pretty(&found)?;
    fs::write(docs().join("performance.json"), text + "\n").context("docs/performance.json")?;
    print()
}

/// Prints the document and its pictures.
pub fn print() -> anyhow::Result<()> {
    let found = found()?;
    let mut text = String::new();
    for line in TEMPLATE.lines() {
        if let Some(bench) = line.strip_prefix("@table ") {
            text.push_str(&table(found.benches.get(bench)));
        } else if line == "@machine" {
            writeln!(text, "{}", found.machine)?;
        } else if line == "@plots" {
            text.push_str(&plots(&found)?);
        } else {
            writeln!(text, "{line}")?;
        }
    }
    fs::write(docs().join("performance.md"), text).context("docs/performance.md")
}

/// Processor, cores, memory and kernel.
fn machine() -> String {
    let line = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kib: u64 =
        line("/proc/meminfo", "MemTotal").split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} ({cores} cores, shared), {} GiB of memory, Linux {}",
        line("/proc/cpuinfo", "model name"),
        kib >> 20,
        kernel.trim()
    )
}

fn table(report: Option<&Report>) -> String {
    let Some(report) = report else { return "Not measured yet.\n".to_owned() };
    let mut text = String::from("| what | Reloop | beside it | ratio | aim |\n|---|---|---|---|---|\n");
    for row in &report.rows {
        let against = match row.against.is_empty() {
            true => "–".to_owned(),
            false => format!("{}: {}", row.against, row.theirs),
        };
        let line = format!("| {} | {} | {against} | {} | {} |\n", row.what, row.ours, row.ratio, row.reach);
        text.push_str(&line);
    }
    for left_out in &report.left_out {
        text.push_str(&format!("\nNot measured: {left_out}\n"));
    }
    text.push_str(&format!("\nLoad of the machine when it began (1, 5, 15 minutes): {}.\n", report.load));
    text
}

fn plots(found: &Found) -> anyhow::Result<String> {
    let curves: Vec<&Curve> = found.benches.values().flat_map(|report| &report.curves).collect();
    let titles: BTreeSet<&str> = curves.iter().map(|curve| curve.plot.as_str()).collect();
    let mut text = String::new();
    for title in titles {
        let file = title.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let path = format!("performance/{file}.svg");
        fs::create_dir_all(docs().join("performance"))?;
        let mine: Vec<&Curve> = curves.iter().copied().filter(|curve| curve.plot == title).collect();
        fs::write(docs().join(&path), svg(title, &mine)).context(path.clone())?;
        writeln!(text, "![{title}]({path})")?;
    }
    Ok(text)
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 40.0;
const COLOURS: [&str; 4] = ["#1f6feb", "#d1242f", "#1a7f37", "#9a6700"];

/// The exponents of the first and the last power of ten around all values.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values.filter(|value| *value > 0.0) {
        low = low.min(value.log10().floor());
        high = high.max(value.log10().ceil());
    }
    (low, high.max(low + 1.0))
}

/// A picture of curves over a size, both axes logarithmic.
fn svg(title: &str, curves: &[&Curve]) -> String {
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let (x_low, x_high) = decades(points().map(|(x, _)| x));
    let (y_low, y_high) = decades(points().map(|(_, y)| y));
    let x = |value: f64| LEFT + (value.log10() - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT);
    let y =
        |value: f64| HEIGHT - BOTTOM - (value.log10() - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\" \
         font-size=\"14\">{title}</text>\n"
    );
    let mut line = |from: (f64, f64), to: (f64, f64)| {
        text.push_str(&format!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#d0d7de\"/>\n",
            from.0, from.1, to.0, to.1
        ));
    };
    let ticks = |low: f64, high: f64| (low as i32..=high as i32).map(|power| 10_f64.powi(power));
    for tick in ticks(x_low, x_high) {
        line((x(tick), TOP), (x(tick), HEIGHT - BOTTOM));
    }
    for tick in ticks(y_low, y_high) {
        line((LEFT, y(tick)), (WIDTH - RIGHT, y(tick)));
    }
    for tick in ticks(x_low, x_high) {
        let place = (x(tick), HEIGHT - BOTTOM + 18.0);
        text.push_str(&label(place, "middle", &figure_of(tick)));
    }
    for tick in ticks(y_low, y_high) {
        text.push_str(&label((LEFT - 8.0, y(tick) + 4.0), "end", &figure_of(tick)));
    }
    for (place, curve) in curves.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let at: Vec<String> =
            curve.points.iter().map(|(size, value)| format!("{:.1},{:.1}", x(*size), y(*value))).collect();
        text.push_str(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
            at.join(" ")
        ));
        for (size, value) in &curve.points {
            text.push_str(&format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>\n",
                x(*size),
                y(*value)
            ));
            text.push_str(&label((x(*size), y(*value) - 8.0), "middle", &figure(*value)));
        }
        if curves.len() > 1 {
            let row = TOP + 14.0 * place as f64;
            text.push_str(&format!(
                "<text x=\"{:.1}\" y=\"{row:.1}\" text-anchor=\"end\" fill=\"{colour}\">{}</text>\n",
                WIDTH - RIGHT,
                curve.name
            ));
        }
    }
    text + "</svg>\n"
}

fn label((x, y): (f64, f64), anchor: &str, words: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>\n")
}

fn figure_of(tick: f64) -> String {
    match tick {
        ..1.0 => format!("{tick}"),
        ..100.0 => format!("{tick:.0}"),
        _ => figure(tick),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_shows_every_point_inside_its_frame() {
        let points = vec![(100.0, 3.0), (1000.0, 40.0), (10_000.0, 5.0)];
        let curve = Curve { plot: "p".to_owned(), name: "n".to_owned(), points };
        let picture = svg("p", &[&curve]);
        let heights: Vec<f64> = picture
            .lines()
            .filter_map(|line| {
                line.strip_prefix("<circle")?.split("cy=\"").nth(1)?.split('"').next()?.parse().ok()
            })
            .collect();
        assert_eq!(heights.len(), 3);
        assert!(heights.iter().all(|y| (TOP..=HEIGHT - BOTTOM).contains(y)), "{heights:?}");
        assert!(heights[1] < heights[0], "what is more stands higher");
    }

    #[test]
    fn ticks_are_whole_decades() {
        assert_eq!(decades([3.0, 40.0].into_iter()), (0.0, 2.0));
        assert_eq!(decades([10.0].into_iter()), (1.0, 2.0));
    }

    #[test]
    fn ticks_read_well() {
        assert_eq!([0.1, 1.0, 100.0, 10_000.0].map(figure_of), ["0.1", "1", "100", "10,000"]);
    }
}
