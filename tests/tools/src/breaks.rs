//! Can the proof fail? Seeded bugs, and the means to show that each of them is caught.
//!
//! A [`Break`] is one rule, broken on purpose: a piece of the source and what stands in its place. All breaks are built
//! into one doctored copy of the workspace, each behind a switch that the environment turns (`RELOOP_BREAK=name`), so
//! that one build serves for all of them. The true sources know nothing of it: the copy lies under `target/`, and only
//! there the rules have a function that asks for the switch.
//!
//! There are two levels. What the rules decide is tried against the rules' own tests and against the random schedules
//! of [`simulation`](reloop_sim::simulation), in a copy that holds nothing else ([`workspace::rules`]); the test command
//! does that. What takes real processes is tried against the scenarios, in a copy of everything
//! ([`workspace::whole`]); `harness breaks` does that.
//!
//! A find that no longer stands in its file exactly once is an error that names it: the list cannot rot in silence.

pub mod hunt;
mod list;
pub mod run;
pub mod workspace;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

pub use self::list::UNBROKEN;

/// The environment variable that turns one break on.
pub const SWITCH: &str = "RELOOP_BREAK";

/// In a [`Break::with`]: whether the break is on. Where it stands, `with` is the whole of what replaces the find.
pub const SEEDED: &str = "SEEDED";

/// How [`Break::caught_by`] calls the random schedules.
pub const SIMULATION: &str = "simulation";

/// Test programs that are about the rules alone, as `caught_by` names them.
pub const RULE_TESTS: [&str; 3] = ["rules", "disagreements", "fences"];

/// One rule, broken.
#[derive(Debug, Clone, Copy)]
pub struct Break {
    /// Its name, as the environment says it.
    pub name: &'static str,
    /// The file, from the workspace's root.
    pub file: &'static str,
    /// The source text that it changes: an expression, or a statement with its semicolon; anything at all if `with`
    /// says [`SEEDED`] itself.
    pub find: &'static str,
    /// What runs instead.
    pub with: &'static str,
    /// Which rule that breaks.
    pub what: &'static str,
    /// Who notices: [`SIMULATION`], or `program::test`.
    pub caught_by: &'static [&'static str],
}

/// Every break, in the order of the files.
pub fn all() -> Vec<Break> {
    list::ALL.iter().flat_map(|part| part.iter().copied()).collect()
}

impl Break {
    /// The simulation is to notice it.
    pub fn is_hunted(&self) -> bool {
        self.caught_by.contains(&SIMULATION)
    }

    /// The tests of the rules that are to notice it: program and name.
    pub fn rule_tests(&self) -> Vec<(&'static str, &'static str)> {
        self.tests().filter(|(program, _)| RULE_TESTS.contains(program)).collect()
    }

    /// The tests with real processes that are to notice it: program and name.
    pub fn process_tests(&self) -> Vec<(&'static str, &'static str)> {
        self.tests().filter(|(program, _)| !RULE_TESTS.contains(program)).collect()
    }

    fn tests(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.caught_by.iter().filter_map(|test| test.split_once("::"))
    }

    fn writes_its_own_switch(&self) -> bool {
        self.with.contains(SEEDED)
    }
}

/// A piece of a file and what stands there in the copy.
struct Splice {
    at: Range<usize>,
    text: String,
    names: Vec<&'static str>,
}

/// The text of a file with all its breaks in it.
///
/// # Errors
/// What is wrong with the list: a find that is not there exactly once, or two that overlap.
pub fn doctored(file: &str, text: &str, breaks: &[Break]) -> Result<String, String> {
    let mut wrong = Vec::new();
    let mut by_find: BTreeMap<&str, Vec<&Break>> = BTreeMap::new();
    for one in breaks.iter().filter(|one| one.file == file) {
        by_find.entry(one.find).or_default().push(one);
    }
    let mut splices = Vec::new();
    for (find, same) in by_find {
        let places: Vec<usize> = text.match_indices(find).map(|(at, _)| at).collect();
        let names: Vec<_> = same.iter().map(|one| one.name).collect();
        let &[at] = places.as_slice() else {
            wrong.push(format!(
                "{}: {file} holds its find {} times, not once: {find}",
                names.join(", "),
                places.len()
            ));
            continue;
        };
        if same.len() > 1 && same.iter().any(|one| one.writes_its_own_switch()) {
            wrong
                .push(format!("{}: those that write their own switch cannot share a find", names.join(", ")));
            continue;
        }
        splices.push(Splice { at: at..at + find.len(), text: switched(file, find, &same), names });
    }
    splices.sort_by_key(|splice| splice.at.start);
    for pair in splices.windows(2) {
        if pair[0].at.end > pair[1].at.start {
            wrong.push(format!(
                "{} and {} overlap in {file}",
                pair[0].names.join(", "),
                pair[1].names.join(", ")
            ));
        }
    }
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    let mut copy = String::with_capacity(text.len() * 2);
    let mut from = 0;
    for splice in splices {
        copy.push_str(&text[from..splice.at.start]);
        copy.push_str(&splice.text);
        from = splice.at.end;
    }
    copy.push_str(&text[from..]);
    Ok(copy)
}

/// The find, behind the switches of all the breaks that change it.
fn switched(file: &str, find: &str, breaks: &[&Break]) -> String {
    let crate_of_rules = if file.starts_with("protocol/") { "crate" } else { "reloop_protocol" };
    let switch = |name: &str| format!("{crate_of_rules}::seeded({name:?})");
    if let [one] = breaks
        && one.writes_its_own_switch()
    {
        return one.with.replace(SEEDED, &switch(one.name));
    }
    let mut text = String::new();
    for one in breaks {
        text.push_str(&format!("if {} {{ {} }} else ", switch(one.name), one.with));
    }
    text.push_str(&format!("{{ {find} }}"));
    // A statement stays one; anything else is an expression wherever it stands.
    if find.trim_end().ends_with(';') { text } else { format!("({text})") }
}

/// What the copy's rules are given: the switch itself.
const SEEDED_FN: &str = r#"
/// Whether this break is on.
pub fn seeded(name: &str) -> bool {
    static ON: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var("RELOOP_BREAK").ok()).as_deref() == Some(name)
}
"#;

/// Everything that is wrong with the list as it stands beside these sources.
pub fn rotten(workspace: &Path, breaks: &[Break]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut files: Vec<_> = breaks.iter().map(|one| one.file).collect();
    files.sort_unstable();
    files.dedup();
    for file in files {
        match std::fs::read_to_string(workspace.join(file)) {
            Ok(text) => wrong.extend(doctored(file, &text, breaks).err()),
            Err(error) => wrong.push(format!("{file}: {error}")),
        }
    }
    let mut names: Vec<_> = breaks.iter().map(|one| one.name).collect();
    names.sort_unstable();
    wrong.extend(
        names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| format!("two are called {}", pair[0])),
    );
    for one in breaks {
        if one.caught_by.is_empty() {
            wrong.push(format!("{}: nobody is named who catches it", one.name));
        }
        let strange = one.caught_by.iter().filter(|test| **test != SIMULATION && !test.contains("::"));
        wrong.extend(strange.map(|test| format!("{}: {test:?} is not program::test", one.name)));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "protocol/src/x.rs";

    fn one(name: &'static str, find: &'static str, with: &'static str) -> Break {
        Break { name, file: FILE, find, with, what: "", caught_by: &[SIMULATION] }
    }

    #[test]
    fn an_expression_is_put_behind_its_switch_where_it_stands() {
        let copy = doctored(FILE, "let a = b > c;", &[one("n", "b > c", "true")]).unwrap();
        assert_eq!(copy, "let a = (if crate::seeded(\"n\") { true } else { b > c });");
    }

    #[test]
    fn a_statement_stays_a_statement_and_two_breaks_may_share_it() {
        let breaks = [one("n", "a();", ""), one("m", "a();", "b();")];
        let copy = doctored(FILE, "{ a(); c() }", &breaks).unwrap();
        let expected =
            "{ if crate::seeded(\"n\") {  } else if crate::seeded(\"m\") { b(); } else { a(); } c() }";
        assert_eq!(copy, expected);
    }

    #[test]
    fn a_break_may_write_its_own_switch() {
        let copy = doctored(FILE, "Some(x) if x => y", &[one("n", "if x", "if x && !SEEDED")]).unwrap();
        assert_eq!(copy, "Some(x) if x && !crate::seeded(\"n\") => y");
    }

    #[test]
    fn a_find_that_is_gone_or_there_twice_is_an_error_that_names_it() {
        for text in ["nothing", "a b a"] {
            let error = doctored(FILE, text, &[one("named", "a", "b")].map(|b| Break { find: "a ", ..b }));
            let twice = doctored(FILE, "a a a ", &[Break { find: "a ", ..one("named", "", "") }]);
            assert!(twice.unwrap_err().contains("named"));
            assert!(text != "nothing" || error.unwrap_err().contains("named"));
        }
    }

    #[test]
    fn breaks_that_overlap_are_an_error_that_names_both() {
        let error = doctored(FILE, "abc", &[one("n", "ab", "x"), one("m", "bc", "x")]).unwrap_err();
        assert!(error.contains('n') && error.contains('m'), "{error}");
    }
}
