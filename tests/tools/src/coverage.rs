//! Which tests show which row of the disagreements, and on which level: collected from the tests' names in the sources.
//!
//! A test shows a row if its name begins with the row's number: `a9_an_outcome_beats_a_late_cancel`. [`gaps`] lists
//! what is missing; a test fails if it is not empty.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::rows::{Level, ROWS, Row, Scope, row};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    pub file: String,
    pub name: String,
}

impl Test {
    /// The row's number in its name, if any: `A9`.
    pub fn number(&self) -> Option<String> {
        let (number, rest) = self.name.split_once('_')?;
        let (letter, count) = number.split_at_checked(1)?;
        let counts = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let is_number = counts && !rest.is_empty() && letter.bytes().all(|byte| byte.is_ascii_lowercase());
        is_number.then(|| number.to_uppercase())
    }

    /// The level on which it runs, by its folder. `None` where a test may not carry a number.
    pub fn level(&self) -> Option<Level> {
        let with_processes = |tests: &str| tests.starts_with("scenarios_") || tests.starts_with("disks/");
        if self.file.starts_with("tests/sim/tests/disagreements/") {
            Some(Level::Rules)
        } else if self.file.strip_prefix("tests/rig/tests/").is_some_and(with_processes) {
            Some(Level::Processes)
        } else {
            None
        }
    }
}

/// The folders with tests of both nodes.
pub const FOLDERS: [&str; 3] = ["tests/sim/tests", "tests/rig/tests", "tests/tools/tests"];

/// All tests in the sources below a folder of the workspace, sorted.
pub fn collect(root: &Path, folder: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(root.join(&folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
        for entry in entries {
            let entry = entry.unwrap_or_else(|error| panic!("{folder}: {error}"));
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.ends_with(".rs") {
                let source =
                    fs::read_to_string(entry.path()).unwrap_or_else(|error| panic!("{path}: {error}"));
                tests.extend(of_source(&path, &source));
            }
        }
    }
    tests.sort();
    tests
}

/// The tests of one source file, without ignored ones.
pub fn of_source(file: &str, source: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    let (mut is_test, mut is_ignored) = (false, false);
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= ["#[test]", "#[tokio::test]"].contains(&line) || line.starts_with("#[tokio::test(");
            is_ignored |= line.starts_with("#[ignore");
        } else if let Some((_, name)) = line.split_once("fn ").filter(|_| is_test) {
            let end = name.find('(').unwrap_or(name.len());
            if !is_ignored {
                tests.push(Test { file: file.to_owned(), name: name[..end].to_owned() });
            }
            (is_test, is_ignored) = (false, false);
        } else if !line.starts_with("//") {
            (is_test, is_ignored) = (false, false);
        }
    }
    tests
}

fn shows<'a>(row: &Row, level: Level, tests: &'a [Test]) -> Vec<&'a Test> {
    let number = Some(row.number.to_owned());
    tests.iter().filter(|test| test.number() == number && test.level() == Some(level)).collect()
}

/// What is missing or wrong, one line each: rows without a required test, and numbers that are no row.
pub fn gaps(tests: &[Test]) -> Vec<String> {
    let mut gaps = Vec::new();
    for row in ROWS {
        for level in row.needs().filter(|level| shows(row, *level, tests).is_empty()) {
            let at = match level {
                Level::Rules => "at the level of the rules (tests/sim/tests/disagreements/)",
                Level::Processes => "end to end (tests/rig/tests/scenarios_*.rs)",
            };
            let prefix = row.number.to_lowercase();
            gaps.push(format!("{} has no test {at}: none is named `{prefix}_…`", row.number));
        }
    }
    for test in tests {
        let Some(number) = test.number() else { continue };
        let Test { file, name } = test;
        match row(&number) {
            None => gaps.push(format!("`{name}` in {file}: there is no row {number}")),
            Some(Row { scope: Scope::Nothing(why), .. }) => {
                gaps.push(format!("`{name}` in {file}: {number} is not implemented ({why})"));
            }
            Some(_) if test.level().is_none() => {
                gaps.push(format!("`{name}` in {file}: its folder has no level"));
            }
            Some(_) => {}
        }
    }
    gaps
}

pub fn page(tests: &[Test]) -> String {
    let mut page = crate::docs::Page::new("Coverage", "`tests/tools/src/rows.rs` and the names of the tests");
    page.text(
        "The disagreements between master and slave: for each the outcome, the rules that decide it, and the \
         tests that show it. A test's name begins with the number of its row. A row without a test on a \
         level that it needs fails the build, and so does a number without a row.\n\n\
         *Rules*: the rules of both nodes against each other, step by step, in a world without processes. \
         *End to end*: real masters and slaves with real disks and machines, behind a network that fails on \
         command. A row is also shown end to end if it is about something outside the rules: processes, \
         disks, clocks, links, identity, or people at a machine.",
    );
    let mut fields: BTreeMap<char, (usize, usize, usize)> = BTreeMap::new();
    for row in ROWS {
        let counts = fields.entry(row.number.chars().next().unwrap_or('?')).or_default();
        counts.0 += 1;
        counts.1 += shows(row, Level::Rules, tests).len();
        counts.2 += shows(row, Level::Processes, tests).len();
    }
    page.table(
        &["field", "rows", "tests of the rules", "tests end to end"],
        fields.iter().map(|(field, (rows, rules, processes))| {
            vec![field_means(*field).to_owned(), rows.to_string(), rules.to_string(), processes.to_string()]
        }),
    );
    page.text("What is not implemented, and shown by no test:");
    let missing = ROWS.iter().filter_map(|row| match row.scope {
        Scope::Whole => None,
        Scope::Without(why) => Some(vec![row.number.to_owned(), "a part".to_owned(), why.to_owned()]),
        Scope::Nothing(why) => Some(vec![row.number.to_owned(), "all of it".to_owned(), why.to_owned()]),
    });
    page.table(&["row", "missing", "what is missing, and why"], missing);
    let mut field = None;
    for row in ROWS {
        let letter = row.number.chars().next();
        if letter != field {
            field = letter;
            page.text(&format!("## {}", letter.map_or("", field_means)));
        }
        page.text(&format!("### {}\n\n{} → {}", row.number, row.case, row.outcome));
        page.text(&facts(row, tests).join("\n"));
    }
    page.0
}

fn field_means(field: char) -> &'static str {
    match field {
        'A' => "A. Assignment, start, cancel",
        'B' => "B. Deferred jobs and time",
        'C' => "C. Store and identity",
        'D' => "D. The master",
        'P' => "P. Placement",
        _ => "E. Data, capability, locality",
    }
}

fn facts(row: &Row, tests: &[Test]) -> Vec<String> {
    let lines = row.lines().map(|line| format!("[`{}`](reconciliation.md#the-table)", line.name));
    let rules = row.rules.iter().map(|rule| format!("[`{}`](../{})", rule.function, rule.file));
    let decides: Vec<String> = lines.chain(rules).collect();
    let named = |level| {
        let tests = shows(row, level, tests);
        tests.iter().map(|test| format!("[`{}`](../{})", test.name, test.file)).collect::<Vec<_>>()
    };
    let mut facts = Vec::new();
    let mut fact = |what: &str, of: Vec<String>| {
        if !of.is_empty() {
            facts.push(format!("* {what}: {}", of.join(", ")));
        }
    };
    fact("decided by", decides);
    fact("about", row.about.iter().map(|about| about.name().to_owned()).collect());
    fact("rules", named(Level::Rules));
    fact("end to end", named(Level::Processes));
    match row.scope {
        Scope::Whole => {}
        Scope::Without(why) => fact("not implemented", vec![why.to_owned()]),
        Scope::Nothing(why) => fact("not implemented", vec![why.to_owned()]),
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(file: &str, name: &str) -> Test {
        Test { file: file.to_owned(), name: name.to_owned() }
    }

    /// One test for each row and level that needs one.
    fn enough() -> Vec<Test> {
        let named = |row: &Row, level| match level {
            Level::Rules => {
                test("tests/sim/tests/disagreements/a.rs", &format!("{}_x", row.number.to_lowercase()))
            }
            Level::Processes => {
                test("tests/rig/tests/scenarios_x.rs", &format!("{}_x", row.number.to_lowercase()))
            }
        };
        ROWS.iter().flat_map(|row| row.needs().map(move |level| named(row, level))).collect()
    }

    #[test]
    fn a_row_without_a_test_is_a_gap_on_each_level_that_it_needs() {
        assert_eq!(gaps(&enough()), Vec::<String>::new());
        for at in 0..enough().len() {
            let mut tests = enough();
            let removed = tests.remove(at);
            assert_eq!(gaps(&tests).len(), 1, "{removed:?}");
        }
    }

    #[test]
    fn a_number_without_a_row_and_a_number_in_a_folder_without_a_level_are_gaps() {
        for wrong in [
            test("tests/rig/tests/scenarios_x.rs", "a23_x"),
            test("tests/sim/tests/disagreements/a.rs", "f1_x"),
            test("tests/rig/tests/scenarios_x.rs", "e3_x"),
            test("tests/sim/tests/rules.rs", "a1_x"),
        ] {
            let mut tests = enough();
            tests.push(wrong.clone());
            assert_eq!(gaps(&tests).len(), 1, "{wrong:?}");
        }
    }

    #[test]
    fn only_a_test_that_runs_counts_and_only_a_number_is_a_number() {
        let source = "
            #[test]
            fn a1_first() {}
            fn a2_helper() {}
            #[tokio::test]
            #[allow(dead_code)]
            // a comment between the attribute and the function
            async fn a3_third() {
            // #[test]
            fn a4_commented() {}
            #[test]
            #[ignore = \"slow\"]
            fn a5_ignored() {}
            #[tokio::test(flavor = \"multi_thread\")]
            pub async fn a6_sixth() {}";
        let names: Vec<_> = of_source("x.rs", source).into_iter().map(|test| test.name).collect();
        assert_eq!(names, ["a1_first", "a3_third", "a6_sixth"]);
        let number = |name: &str| test("x.rs", name).number();
        assert_eq!(number("a12_x"), Some("A12".to_owned()));
        for none in ["a_job", "a1x_y", "ab1_x", "a1", "a1_", "_1_x", "1a_x"] {
            assert_eq!(number(none), None, "{none}");
        }
    }
}
