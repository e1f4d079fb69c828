//! What the benches found, kept beside the documentation as data, and printed from there.

use serde::{Deserialize, Serialize};

use super::peers::Peer;
use super::stats::Sample;

/// One figure, with the peer that it was measured beside.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Row {
    /// The bench's name.
    pub bench: String,
    /// What was measured, with its unit.
    pub what: String,
    /// The figures.
    pub ours: Sample,
    /// Beside what; empty if alone.
    pub against: String,
    /// Its figures.
    pub theirs: Sample,
    /// What was aimed at.
    pub reach: String,
    /// Pair by pair: above 1 is better than the peer.
    pub ratio: Sample,
}

/// All figures of one run of one bench.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Which bench.
    pub bench: String,
    /// How many processes wanted to run when it began, over 1, 5 and 15 minutes: what else the machine did.
    pub load: String,
    /// In the order in which they came.
    pub rows: Vec<Row>,
    /// What was not measured, and why.
    pub left_out: Vec<String>,
    /// Curves over a size, for the plots.
    pub curves: Vec<Curve>,
}

/// One curve of a plot.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Curve {
    /// Which plot it belongs to: its title, with the unit of its height.
    pub plot: String,
    /// What it shows.
    pub name: String,
    /// Size and figure.
    pub points: Vec<(f64, f64)>,
}

impl Report {
    /// Of a bench that begins now.
    pub fn new(bench: &str) -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().take(3).collect::<Vec<_>>().join(", ");
        Self { bench: bench.to_owned(), load, ..Self::default() }
    }

    /// One more figure; it is shown at once.
    pub fn row(&mut self, row: Row) {
        println!("{:<10} {:<70} {:>26}  aim {}", row.bench, row.what, row.ours.to_string(), row.reach);
        if !row.theirs.is_empty() {
            println!("{:<10} {:<70} {:>26}  ratio {}", "", row.against, row.theirs.to_string(), row.ratio);
        }
        self.rows.push(row);
    }

    /// One more point of a curve.
    pub fn point(&mut self, plot: &str, name: &str, point: (f64, f64)) {
        match self.curves.iter_mut().find(|curve| curve.plot == plot && curve.name == name) {
            Some(curve) => curve.points.push(point),
            None => {
                let (plot, name) = (plot.to_owned(), name.to_owned());
                self.curves.push(Curve { plot, name, points: vec![point] });
            }
        }
    }

    /// A peer that is not installed here.
    pub fn left_out(&mut self, bench: &str, peer: Peer) {
        let text = format!("{} is not installed (`apt-get install {}`)", peer.name(), peer.package());
        println!("{bench:<10} not measured: {text}");
        if !self.left_out.contains(&text) {
            self.left_out.push(text);
        }
    }
}
