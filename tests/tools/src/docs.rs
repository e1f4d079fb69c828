//! The pages that are printed from the code: `docs/reconciliation.md` and `docs/states.md`. [`crate::coverage`] is
//! the source of `docs/coverage.md`.
//!
//! Tables of the rules are printed from the rules. The meanings of their words are in `meanings`, in matches without a
//! `_` arm, so that a new value does not compile without its meaning.

mod attempts;
mod meanings;
mod reconciliation;
mod states;

use reloop_protocol::message::Flags;
use reloop_protocol::reconcile::TABLE;
use reloop_protocol::wire::WireError;

use crate::rows;

pub use self::reconciliation::reconciliation;
pub use self::states::states;

/// The values of a slave's link at the master, with what MTConnect, Nomad and AWS IoT call them.
pub const LINKS: [(&str, &str, [&str; 3]); 3] = [
    ("online", "the handshake is settled and the slave is heard", ["AVAILABLE", "ready", "connected"]),
    (
        "offline",
        "there is no link; the last reports are shown, with their age",
        ["UNAVAILABLE", "disconnected", "disconnected"],
    ),
    ("never", "known by name and key, but never settled", ["UNAVAILABLE", "initializing", "—"]),
];

/// Every value of a plain enum, in wire order.
pub fn all<T>(decode: fn(&[u8], usize) -> Result<T, WireError>) -> Vec<T> {
    (0..=u8::MAX).map_while(|number| decode(&[number], 1).ok()).collect()
}

pub(crate) struct Page(pub(crate) String);

impl Page {
    /// A page with a title and a comment that names its sources.
    pub(crate) fn new(title: &str, source: &str) -> Self {
        Self(format!(
            "# {title}\n\n<!-- Printed from {source} by `UPDATE_DOCS=1 cargo test -p reloop-tools --test \
             docs`. -->\n"
        ))
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.0.push_str(&format!("\n{}\n", text.trim()));
    }

    pub(crate) fn table(&mut self, heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        self.0.push_str(&format!("\n| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len())));
        for row in rows {
            self.0.push_str(&format!("| {} |\n", row.join(" | ")));
        }
    }
}

/// Flags that the master adds when it shows a job.
pub const SHOWN_FLAGS: [(&str, &str); 2] = [
    ("stale", "its slave is not connected: everything else is from its last report"),
    ("cancel_pending", "it was canceled, and the slave has not carried that out yet"),
];

/// The flags in use: bit and name.
pub fn flags() -> Vec<(u16, &'static str)> {
    let named = |bit: u32| Some((1 << bit, Flags(1 << bit).names().next()?));
    (0..u16::BITS).filter_map(named).collect()
}

/// Values without a meaning in the tables; the matches of `meanings` catch most of them at compile time.
pub fn missing() -> Vec<String> {
    let cases = TABLE.iter().flat_map(|line| line.cases).filter(|case| rows::row(case).is_none());
    let flags = flags().into_iter().filter(|(_, name)| meanings::flag(name).is_none());
    cases.map(|case| format!("case {case}")).chain(flags.map(|(_, name)| format!("flag {name}"))).collect()
}
