//! Seeded bugs: each is built into a copy of the sources, and the tests that are named with it have to fail.
//!
//! A [`Break`] is one seeded bug: a piece of the source, and what replaces it. All of them are built into one copy of
//! the workspace under `target/breaks/`, each behind a switch that the environment sets (`RELOOP_BREAK=name`), so that
//! one build serves all of them. The original sources contain no switch.
//!
//! There are two levels. Bugs of the rules are tried against the tests of the rules and the random schedules of
//! [`simulation`](reloop_sim::simulation), in a copy that contains nothing else ([`workspace::rules`]); `cargo test`
//! does that. Bugs that only real processes show are tried against the scenarios, in a copy of the whole workspace
//! ([`workspace::whole`]); `harness breaks` does that.
//!
//! The source text of a bug is compared token by token, in one file or in all files of a folder, so that formatting and
//! moved code do not matter. If it is not found exactly once, a test fails and names the bug.
//!
//! `protocol/` is also covered by [`mutants`](crate::mutants). A seeded bug is added there only for what no mutation
//! operator makes (a record written too late, a wrong field, a missing call, several places at once), or where it is
//! the only proof that a test can fail.

pub mod hunt;
mod list;
pub mod run;
mod tokens;
pub mod workspace;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

pub use self::list::{all, unbroken};

pub const SWITCH: &str = "RELOOP_BREAK";

/// Placeholder in [`Break::with`] for the switch. If `with` contains it, `with` replaces the whole find.
pub const SEEDED: &str = "SEEDED";

/// The name of the random schedules in [`Break::caught_by`].
pub const SIMULATION: &str = "simulation";

/// The test programs that need no processes, as `caught_by` names them.
pub const RULE_TESTS: [&str; 4] = ["rules", "rules_edges", "disagreements", "fences"];

#[derive(Debug, Clone)]
pub struct Break {
    /// The value of `RELOOP_BREAK` that switches it on.
    pub name: &'static str,
    /// A file, or a folder whose files are searched, relative to the workspace's root. With `#name`, only the body of
    /// that function.
    pub place: &'static str,
    /// The source text to replace: an expression, a statement with its semicolon, or any text if `with` contains
    /// [`SEEDED`].
    pub find: String,
    pub with: String,
    pub what: &'static str,
    /// Who has to notice: [`SIMULATION`], or `program::test`.
    pub caught_by: Vec<&'static str>,
}

impl Break {
    /// Whether the random schedules have to notice it.
    pub fn is_hunted(&self) -> bool {
        self.caught_by.contains(&SIMULATION)
    }

    /// The tests without processes that have to notice it, as (program, name).
    pub fn rule_tests(&self) -> Vec<(&'static str, &'static str)> {
        self.tests().filter(|(program, _)| RULE_TESTS.contains(program)).collect()
    }

    /// The tests with real processes that have to notice it, as (program, name).
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

struct Splice {
    at: Range<usize>,
    text: String,
    names: Vec<&'static str>,
}

impl Break {
    /// The file or folder, and the function if one is named.
    fn place(&self) -> (&'static str, Option<&'static str>) {
        self.place.split_once('#').map_or((self.place, None), |(path, function)| (path, Some(function)))
    }

    fn covers(&self, file: &str) -> bool {
        let rest = file.strip_prefix(self.place().0);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) && file.ends_with(".rs")
    }
}

/// Builds the seeded bugs into these files, which are given by their paths from the workspace's root.
///
/// # Errors
/// A find is not there exactly once, or two of them overlap.
pub fn doctor(texts: &mut BTreeMap<String, String>, breaks: &[Break]) -> Result<(), String> {
    let mut wrong = Vec::new();
    let mut by_find: BTreeMap<(&str, &str), Vec<&Break>> = BTreeMap::new();
    for one in breaks {
        by_find.entry((one.place, &one.find)).or_default().push(one);
    }
    let sources: Vec<_> =
        texts.iter().map(|(file, text)| (file.clone(), text.clone(), tokens::of(text))).collect();
    let mut splices: BTreeMap<&str, Vec<Splice>> = BTreeMap::new();
    for ((place, find), same) in by_find {
        let names: Vec<_> = same.iter().map(|one| one.name).collect();
        let wanted = tokens::of(find);
        let mut found = Vec::new();
        for (file, text, source) in sources.iter().filter(|(file, ..)| same[0].covers(file)) {
            let body = same[0].place().1.map(|function| tokens::body(text, source, function));
            let within = |at: &Range<usize>| match &body {
                None => true,
                Some(None) => false,
                Some(Some(body)) => body.start <= at.start && at.end <= body.end,
            };
            let at = tokens::matches(text, source, find, &wanted).into_iter().filter(within);
            found.extend(at.map(|at| (file.as_str(), &text[at.clone()], at)));
        }
        let &[(file, piece, ref at)] = found.as_slice() else {
            let names = names.join(", ");
            wrong.push(format!("{names}: {place} holds its find {} times, not once: {find}", found.len()));
            continue;
        };
        if same.len() > 1 && same.iter().any(|one| one.writes_its_own_switch()) {
            wrong
                .push(format!("{}: those that write their own switch cannot share a find", names.join(", ")));
            continue;
        }
        let text = switched(file, piece, &same);
        splices.entry(file).or_default().push(Splice { at: at.clone(), text, names });
    }
    for (file, splices) in &mut splices {
        splices.sort_by_key(|splice| splice.at.start);
        for pair in splices.windows(2) {
            if pair[0].at.end > pair[1].at.start {
                let (one, other) = (pair[0].names.join(", "), pair[1].names.join(", "));
                wrong.push(format!("{one} and {other} overlap in {file}"));
            }
        }
    }
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    for (file, splices) in splices {
        let Some(text) = texts.get_mut(file) else { continue };
        for splice in splices.into_iter().rev() {
            text.replace_range(splice.at, &splice.text);
        }
    }
    Ok(())
}

/// The find with the switches of all bugs that change it.
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
    // A statement has to stay a statement; everything else is put in parentheses, so that it is an expression.
    if find.trim_end().ends_with(';') { text } else { format!("({text})") }
}

const SEEDED_FN: &str = r#"
/// Whether this seeded bug is switched on.
pub fn seeded(name: &str) -> bool {
    static ON: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var("RELOOP_BREAK").ok()).as_deref() == Some(name)
}
"#;

/// Returns what is wrong with the list: finds that do not fit these sources.
pub fn rotten(workspace: &Path, breaks: &[Break]) -> Vec<String> {
    let mut wrong = Vec::new();
    match workspace::sources(workspace) {
        Ok(mut texts) => wrong.extend(doctor(&mut texts, breaks).err()),
        Err(error) => wrong.push(error.to_string()),
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
        Break {
            name,
            place: FILE,
            find: find.into(),
            with: with.into(),
            what: "",
            caught_by: vec![SIMULATION],
        }
    }

    fn doctored(text: &str, breaks: &[Break]) -> Result<String, String> {
        let mut texts = BTreeMap::from([(FILE.to_owned(), text.to_owned())]);
        doctor(&mut texts, breaks)?;
        Ok(texts.remove(FILE).unwrap())
    }

    #[test]
    fn a_paragraph_of_the_list_is_a_break() {
        let text =
            "# why\n@ a\n\nn: what: it is\n- f(\n-   b);\n= simulation\n= p::m::t\n@ b#g\nm: x\n- c\n+ d\n";
        let breaks = list::parse(text);
        let [n, m] = breaks.as_slice() else { panic!("{breaks:?}") };
        assert_eq!((n.name, n.place, n.what), ("n", "a", "what: it is"));
        assert_eq!(
            (&*n.find, &*n.with, &*n.caught_by),
            ("f(\n  b);", "", ["simulation", "p::m::t"].as_slice())
        );
        assert_eq!((m.name, m.place, &*m.find, &*m.with), ("m", "b#g", "c", "d"));
    }

    #[test]
    fn an_expression_is_put_behind_its_switch_where_it_stands() {
        let copy = doctored("let a = b > c;", &[one("n", "b > c", "true")]).unwrap();
        assert_eq!(copy, "let a = (if crate::seeded(\"n\") { true } else { b > c });");
    }

    #[test]
    fn a_statement_stays_a_statement_and_two_breaks_may_share_it() {
        let breaks = [one("n", "a();", ""), one("m", "a();", "b();")];
        let copy = doctored("{ a(); c() }", &breaks).unwrap();
        let expected =
            "{ if crate::seeded(\"n\") {  } else if crate::seeded(\"m\") { b(); } else { a(); } c() }";
        assert_eq!(copy, expected);
    }

    #[test]
    fn a_break_may_write_its_own_switch() {
        let copy = doctored("Some(x) if x => y", &[one("n", "if x", "if x && !SEEDED")]).unwrap();
        assert_eq!(copy, "Some(x) if x && !crate::seeded(\"n\") => y");
    }

    #[test]
    fn a_find_is_found_however_it_is_formatted_and_in_whatever_file_of_its_folder() {
        let text = "f(\n    a,\n    // why\n    b,\n);";
        let mut texts =
            BTreeMap::from([("a/y.rs".to_owned(), String::new()), ("a/x.rs".into(), text.into())]);
        doctor(&mut texts, &[Break { place: "a", ..one("n", "f(a, b);", "") }]).unwrap();
        assert!(texts["a/x.rs"].starts_with("if reloop_protocol::seeded"), "{texts:?}");
        let inside = "fn f() { a(b); }\nfn g() { a(b); }";
        let mut texts = BTreeMap::from([("a/x.rs".to_owned(), inside.to_owned())]);
        doctor(&mut texts, &[Break { place: "a#g", ..one("n", "a(b);", "c();") }]).unwrap();
        assert!(texts["a/x.rs"].starts_with("fn f() { a(b); }\nfn g() { if "), "{texts:?}");
        let elsewhere = doctor(&mut texts, &[Break { place: "b", ..one("n", "f(a, b);", "") }]);
        assert!(elsewhere.is_err());
    }

    #[test]
    fn a_find_that_is_missing_or_there_twice_is_an_error_that_names_it() {
        for text in ["nothing", "a b a", "ab", ""] {
            assert!(doctored(text, &[one("named", "a", "b")]).unwrap_err().contains("named"), "{text}");
        }
    }

    #[test]
    fn breaks_that_overlap_are_an_error_that_names_both() {
        let error = doctored("a b c", &[one("n", "a b", "x"), one("m", "b c", "x")]).unwrap_err();
        assert!(error.contains('n') && error.contains('m'), "{error}");
    }
}
