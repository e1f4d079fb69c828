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

/// All figures of one run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// In the order in which they came.
    pub rows: Vec<Row>,
    /// What was not measured, by bench, and why.
    pub left_out: Vec<(String, String)>,
}

impl Report {
    /// One more figure; it is shown at once.
    pub fn row(&mut self, row: Row) {
        println!("{:<10} {:<70} {:>26}  aim {}", row.bench, row.what, row.ours.to_string(), row.reach);
        if !row.theirs.is_empty() {
            println!("{:<10} {:<70} {:>26}  ratio {}", "", row.against, row.theirs.to_string(), row.ratio);
        }
        self.rows.push(row);
    }

    /// A peer that is not installed here.
    pub fn left_out(&mut self, bench: &str, peer: Peer) {
        let text =
            format!("not measured: {} is not installed (`apt-get install {}`)", peer.name(), peer.package());
        println!("{bench:<10} {text}");
        self.left_out.push((bench.to_owned(), text));
    }
}
