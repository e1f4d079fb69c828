//! The documentation that is printed from the code: `docs/reconciliation.md` and `docs/states.md`. (`docs/coverage.md`
//! is [`crate::coverage`]'s.)
//!
//! What the rules decide is printed from the rules, so that no table is written twice. What people have to be told beside it
//! stands in `meanings`, in matches without a `_` arm: a new value does not compile without its row.

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

/// What a slave's link can be, as the master sees it, with what MTConnect, Nomad and AWS IoT call it.
pub const LINKS: [(&str, &str, [&str; 3]); 3] = [
    ("online", "a handshake is settled and the peer is heard", ["AVAILABLE", "ready", "connected"]),
    (
        "offline",
        "no link now; what is shown is the last word, with its age",
        ["UNAVAILABLE", "disconnected", "disconnected"],
    ),
    ("never", "known by name and key, and never settled", ["UNAVAILABLE", "initializing", "—"]),
];

/// Every value of a plain enum, in wire order.
pub fn all<T>(decode: fn(&[u8], usize) -> Result<T, WireError>) -> Vec<T> {
    (0..=u8::MAX).map_while(|number| decode(&[number], 1).ok()).collect()
}

pub(crate) struct Page(pub(crate) String);

impl Page {
    /// With its title, and what it is printed from.
    pub(crate) fn new(title: &str, source: &str) -> Self {
        Self(format!(
            "# {title}\n\n<!-- Printed from {source} by `UPDATE_DOCS=1 cargo test -p reloop-tools --test docs`. -->\n"
        ))
    }

    /// A paragraph, a heading or a list.
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

/// What the master adds to the flags when it shows a job.
pub const SHOWN_FLAGS: [(&str, &str); 2] = [
    ("stale", "its slave is not connected: everything else is the last word of it"),
    ("cancel_pending", "it was canceled, and that has not happened yet"),
];

/// The flags in use: bit and word.
pub fn flags() -> Vec<(u16, &'static str)> {
    let named = |bit: u32| Some((1 << bit, Flags(1 << bit).names().next()?));
    (0..u16::BITS).filter_map(named).collect()
}

/// Values that have no row; the matches above catch most of them before.
pub fn missing() -> Vec<String> {
    let cases = TABLE.iter().flat_map(|line| line.cases).filter(|case| rows::row(case).is_none());
    let flags = flags().into_iter().filter(|(_, name)| meanings::flag(name).is_none());
    cases.map(|case| format!("case {case}")).chain(flags.map(|(_, name)| format!("flag {name}"))).collect()
}
