//! The breaks as text, one paragraph each:
//!
//! | a line that begins with | says |
//! |---|---|
//! | `#` | a comment |
//! | `@` | the place of all breaks that follow, as [`Break::place`] has it |
//! | a name and `: ` | what holds as long as nothing is broken |
//! | `-` | the source text that is changed |
//! | `+` | what stands there instead; nothing if there is no such line |
//! | `=` | a test that notices, as [`Break::caught_by`] has it |

use super::Break;

const BREAKS: [&str; 3] =
    [include_str!("list/slave.txt"), include_str!("list/master.txt"), include_str!("list/shells.txt")];

pub fn all() -> Vec<Break> {
    BREAKS.into_iter().flat_map(parse).collect()
}

/// The tests that no break is known for.
pub fn unbroken() -> Vec<&'static str> {
    parse(include_str!("list/unbroken.txt")).into_iter().flat_map(|gap| gap.caught_by).collect()
}

/// # Panics
/// A line is none of those that the table knows.
pub(super) fn parse(text: &'static str) -> Vec<Break> {
    let mut breaks: Vec<Break> = Vec::new();
    let mut place = "";
    for line in text.lines() {
        let (mark, rest) = line.split_at(usize::from(!line.is_empty()));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        match (mark, breaks.last_mut()) {
            ("" | "#", _) => {}
            ("@", _) => place = rest,
            ("-", Some(last)) => add(&mut last.find, rest),
            ("+", Some(last)) => add(&mut last.with, rest),
            ("=", Some(last)) => last.caught_by.push(rest),
            _ => {
                let (name, what) =
                    line.split_once(": ").unwrap_or_else(|| panic!("no break begins like this: {line}"));
                let (find, with, caught_by) = (String::new(), String::new(), Vec::new());
                breaks.push(Break { name, place, find, with, what, caught_by });
            }
        }
    }
    breaks
}

fn add(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}
