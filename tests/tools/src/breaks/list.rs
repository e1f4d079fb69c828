//! The format of the list of seeded bugs, one paragraph each:
//!
//! | a line that begins with | contains |
//! |---|---|
//! | `#` | a comment |
//! | `@` | the place of all seeded bugs that follow, see [`Break::place`] |
//! | a name and `: ` | the rule that the bug breaks |
//! | `-` | the source text to replace |
//! | `+` | the replacement; without such a line the text is deleted |
//! | `=` | a test that has to notice, see [`Break::caught_by`] |

use super::Break;

const BREAKS: [&str; 3] =
    [include_str!("list/slave.txt"), include_str!("list/master.txt"), include_str!("list/shells.txt")];

pub fn all() -> Vec<Break> {
    BREAKS.into_iter().flat_map(parse).collect()
}

/// The tests for which no seeded bug is known.
pub fn unbroken() -> Vec<&'static str> {
    parse(include_str!("list/unbroken.txt")).into_iter().flat_map(|gap| gap.caught_by).collect()
}

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
