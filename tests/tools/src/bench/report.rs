//! Results of benches, stored as data beside the documentation, which is printed from them.

use serde::{Deserialize, Serialize};

use super::peers::Peer;
use super::stats::Sample;

/// One result, with that of the peer that was measured beside it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Row {
    /// What was measured, with its unit.
    pub(super) what: String,
    pub(super) ours: Sample,
    /// The peer; empty if there is none.
    pub(super) against: String,
    pub(super) theirs: Sample,
    /// The aim, in words.
    pub(super) reach: String,
    /// Of each pair of rounds: above 1 is better than the peer.
    pub(super) ratio: Sample,
}

/// The results of one run of a bench.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) bench: String,
    /// The load average of the computer over 1, 5 and 15 minutes before the run.
    pub(super) load: String,
    pub(super) rows: Vec<Row>,
    /// Peers that were not measured, and why.
    pub(super) left_out: Vec<String>,
    /// Curves over a size, for the plots.
    pub(super) curves: Vec<Curve>,
}

/// One curve of a plot.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Curve {
    /// The title of the plot, with the unit of the y axis.
    pub(super) plot: String,
    pub(super) name: String,
    /// Size (x) and result (y).
    pub(super) points: Vec<(f64, f64)>,
}

impl Row {
    /// A result without a peer.
    pub(super) fn new(what: impl Into<String>, ours: Sample, reach: &str) -> Self {
        Self { what: what.into(), ours, reach: reach.to_owned(), ..Self::default() }
    }

    /// The same beside a peer, for results of which a larger one is better.
    pub(super) fn beside(self, against: &str, theirs: Sample) -> Self {
        Self { ratio: self.ours.ratio(&theirs), against: against.to_owned(), theirs, ..self }
    }
}

impl Report {
    /// An empty report with the current load.
    pub(super) fn new(bench: &str) -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().take(3).collect::<Vec<_>>().join(", ");
        Self { bench: bench.to_owned(), load, ..Self::default() }
    }

    /// Adds and prints a result.
    pub(super) fn row(&mut self, row: Row) {
        println!("{:<10} {:<70} {:>26}  aim {}", self.bench, row.what, row.ours.to_string(), row.reach);
        if !row.theirs.is_empty() {
            println!("{:<10} {:<70} {:>26}  ratio {}", "", row.against, row.theirs.to_string(), row.ratio);
        }
        self.rows.push(row);
    }

    /// Adds a point to a curve.
    pub(super) fn point(&mut self, plot: &str, name: &str, point: (f64, f64)) {
        match self.curves.iter_mut().find(|curve| curve.plot == plot && curve.name == name) {
            Some(curve) => curve.points.push(point),
            None => {
                let (plot, name) = (plot.to_owned(), name.to_owned());
                self.curves.push(Curve { plot, name, points: vec![point] });
            }
        }
    }

    /// Notes and prints that a peer is not installed.
    pub(super) fn left_out(&mut self, peer: Peer) {
        let text = format!("{} is not installed (`apt-get install {}`)", peer.name(), peer.package());
        println!("{:<10} not measured: {text}", self.bench);
        if !self.left_out.contains(&text) {
            self.left_out.push(text);
        }
    }
}
