//! Can the proof fail? The rules are broken on purpose, one at a time, and each time somebody has to notice.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::collections::BTreeSet;
use std::path::Path;

use reloop_tests::breaks::{Break, RULE_TESTS, all, rotten, run};
use reloop_tests::daemon::workspace;

/// Rules that are broken: fewer would be a sign that the list is not kept up.
const AT_LEAST: usize = 25;

#[test]
fn every_break_still_fits_the_source_that_it_breaks() {
    let wrong = rotten(workspace(), &all());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_broken_rule_is_noticed_by_those_who_claim_to_prove_it() {
    let all = all();
    let breaks: Vec<Break> =
        all.iter().filter(|one| one.is_hunted() || !one.rule_tests().is_empty()).copied().collect();
    assert!(breaks.len() >= AT_LEAST, "{} rules are broken", breaks.len());
    let rows = run::rules(workspace(), &all, &breaks, false).unwrap();
    println!("{}", run::table(&rows));
    let survived: Vec<_> = rows.iter().filter(|row| !row.caught).cloned().collect();
    assert!(survived.is_empty(), "not noticed:\n{}", run::table(&survived));
}

#[test]
fn no_scenario_is_without_a_break_that_it_catches() {
    let tests = workspace().join("tests/tests");
    let scenarios = std::fs::read_dir(&tests).unwrap().map(|entry| entry.unwrap().file_name());
    let programs: Vec<_> = scenarios
        .filter_map(|name| Some(name.to_str()?.strip_suffix(".rs")?.to_owned()))
        .filter(|name| name.starts_with("scenarios_"))
        .collect();
    assert!(programs.len() >= 5, "{programs:?}");
    without_a_break(&tests, programs.iter().map(String::as_str));
}

#[test]
fn no_test_of_the_rules_is_without_a_break_that_it_catches() {
    without_a_break(&workspace().join("tests/tests"), RULE_TESTS.into_iter());
}

fn without_a_break<'a>(dir: &Path, programs: impl Iterator<Item = &'a str>) {
    let named: BTreeSet<&str> = all().iter().flat_map(|one| one.caught_by.iter().copied()).collect();
    let mut there = BTreeSet::new();
    let mut checked = BTreeSet::new();
    for program in programs {
        let text = std::fs::read_to_string(dir.join(format!("{program}.rs"))).unwrap();
        there.extend(tests_in(&text).into_iter().map(|test| format!("{program}::{test}")));
        checked.insert(program.to_owned());
    }
    let alone: Vec<_> = there.iter().filter(|test| !named.contains(test.as_str())).collect();
    assert!(alone.is_empty(), "no break is known that these would notice: {alone:#?}");
    let of_checked =
        |test: &&&str| test.split_once("::").is_some_and(|(program, _)| checked.contains(program));
    let gone: Vec<_> = named.iter().filter(of_checked).filter(|test| !there.contains(**test)).collect();
    assert!(gone.is_empty(), "there are no such tests: {gone:#?}");
}

/// The names of the tests in a source file.
fn tests_in(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in text.lines().map(str::trim_start) {
        marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let function = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "));
        if let (true, Some(rest)) = (marked, function) {
            names.extend(rest.split('(').next());
            marked = false;
        }
    }
    names
}

#[test]
fn a_test_is_found_by_its_mark() {
    let text = "#[test]\nfn one() {}\nfn helper() {}\n#[tokio::test]\n#[ignore]\nasync fn two() {}\n";
    assert_eq!(tests_in(text), ["one", "two"]);
}
