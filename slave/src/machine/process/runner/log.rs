use std::fmt;
use std::io::{self, Write as _};

/// Writes a line to the run's log, which is this process's standard error. If that fails, there is nobody left to tell.
pub(super) fn complain(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{what}");
}
