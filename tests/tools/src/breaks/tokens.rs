//! Splits Rust source into tokens, so that two pieces of it can be compared without their formatting.

use std::ops::Range;

/// The tokens of a piece of Rust source, as ranges of bytes: words, numbers and strings are one token, every other
/// character is one. White space, line comments, and commas before a closing bracket are left out.
pub(super) fn of(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut tokens: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at += bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - at);
                continue;
            }
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(bytes.len());
            }
            b'\'' if bytes.get(at + 1) == Some(&b'"') && bytes.get(at + 2) == Some(&b'\'') => at += 3,
            byte if is_of_word(byte) => {
                at += bytes[at..].iter().take_while(|byte| is_of_word(**byte)).count()
            }
            _ => at += 1,
        }
        let closes = matches!(bytes[start], b')' | b']' | b'}');
        if closes && tokens.last().is_some_and(|last| &bytes[last.clone()] == b",") {
            tokens.pop();
        }
        tokens.push(start..at);
    }
    tokens
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

/// Where the find's tokens occur in the text one after the other, as ranges of bytes of the text. A comma at the end of
/// the find may be missing in the text before a closing bracket.
pub(super) fn matches(
    text: &str,
    tokens: &[Range<usize>],
    find: &str,
    wanted: &[Range<usize>],
) -> Vec<Range<usize>> {
    let (wanted, comma) = match wanted.split_last() {
        Some((last, rest)) if &find[last.clone()] == "," => (rest, true),
        _ => (wanted, false),
    };
    let Some(last) = wanted.len().checked_sub(1) else { return Vec::new() };
    let end = |end: usize| if comma && text[end..].starts_with(',') { end + 1 } else { end };
    let is_it = |window: &&[Range<usize>]| {
        window.iter().zip(wanted).all(|(token, wanted)| text[token.clone()] == find[wanted.clone()])
    };
    tokens.windows(wanted.len()).filter(is_it).map(|window| window[0].start..end(window[last].end)).collect()
}

/// The body of the function with this name, including its brackets. `None` if there is not exactly one.
pub(super) fn body(text: &str, tokens: &[Range<usize>], function: &str) -> Option<Range<usize>> {
    let word = |at: usize| tokens.get(at).map(|token| &text[token.clone()]);
    let mut named = (0..tokens.len()).filter(|at| word(*at) == Some("fn") && word(at + 1) == Some(function));
    let start = named.next().filter(|_| named.next().is_none())?;
    let open = (start..tokens.len()).find(|at| word(*at) == Some("{"))?;
    let mut depth = 0_usize;
    for at in open..tokens.len() {
        match word(at) {
            Some("{") => depth += 1,
            Some("}") => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(tokens[open].start..tokens[at].end);
        }
    }
    None
}
