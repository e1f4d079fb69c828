use std::fmt::Display;

use reloop_node::config::Wrong;

/// The longest name or label, in bytes: it fits into a line of a table.
pub(super) const NAME_LIMIT: usize = 63;

pub(super) fn check_name(key: impl Display, name: &str) -> Result<(), Wrong> {
    let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let rest = |c: char| first(c) || matches!(c, '.' | '_' | '-');
    if name.len() <= NAME_LIMIT && name.starts_with(first) && name.chars().all(rest) {
        return Ok(());
    }
    Err(Wrong::new(
        key,
        format_args!(
            "{name:?} is no name; allowed are 1 to {NAME_LIMIT} of a-z 0-9 . _ - with a letter or digit first"
        ),
    ))
}
