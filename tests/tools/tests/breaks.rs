//! Can the proof fail? The rules are broken on purpose, one at a time, and each time somebody has to notice.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use reloop_rig::daemon::workspace;
use reloop_tools::breaks::{Break, RULE_TESTS, all, rotten, run, unbroken};

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
        all.iter().filter(|one| one.is_hunted() || !one.rule_tests().is_empty()).cloned().collect();
    assert!(breaks.len() >= AT_LEAST, "{} rules are broken", breaks.len());
    let rows = run::rules(workspace(), &all, &breaks, false).unwrap();
    println!("{}", run::table(&rows));
    let survived: Vec<_> = rows.iter().filter(|row| !row.caught).cloned().collect();
    assert!(survived.is_empty(), "not noticed:\n{}", run::table(&survived));
}

#[test]
fn no_scenario_is_without_a_break_that_it_catches() {
    let tests = workspace().join("tests/rig/tests");
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
    without_a_break(&workspace().join("tests/sim/tests"), RULE_TESTS.into_iter());
}

fn without_a_break<'a>(dir: &Path, programs: impl Iterator<Item = &'a str>) {
    let named: BTreeSet<&str> = all().iter().flat_map(|one| one.caught_by.iter().copied()).collect();
    let mut there = BTreeSet::new();
    let mut checked = BTreeSet::new();
    for program in programs {
        let of_program = tests_of(dir, program);
        assert!(!of_program.is_empty(), "{program} has no tests");
        there.extend(of_program);
        checked.insert(program);
    }
    let excused: BTreeSet<&str> = unbroken().into_iter().collect();
    let alone: Vec<_> = there.iter().map(String::as_str).filter(|test| !named.contains(test)).collect();
    let unexcused: Vec<_> = alone.iter().filter(|test| !excused.contains(*test)).collect();
    assert!(unexcused.is_empty(), "no break is known that these would notice: {unexcused:#?}");
    let of_checked =
        |test: &&str| test.split_once("::").is_some_and(|(program, _)| checked.contains(program));
    let gone: Vec<_> =
        named.iter().copied().filter(of_checked).filter(|test| !there.contains(*test)).collect();
    assert!(gone.is_empty(), "there are no such tests: {gone:#?}");
    let needless: Vec<_> =
        excused.iter().copied().filter(of_checked).filter(|test| !alone.contains(test)).collect();
    assert!(needless.is_empty(), "these need no excuse: they notice a break, or are gone: {needless:#?}");
}

/// The tests of one program, which is a file or a folder of modules.
fn tests_of(dir: &Path, program: &str) -> Vec<String> {
    let mut files = vec![(program.to_owned(), dir.join(format!("{program}.rs")))];
    if let Ok(modules) = std::fs::read_dir(dir.join(program)) {
        files = modules.map(|entry| module(program, entry.unwrap().path())).collect();
    }
    let tests = |(prefix, path): (String, PathBuf)| {
        let text = std::fs::read_to_string(path).unwrap();
        tests_in(&text).into_iter().map(|test| format!("{prefix}::{test}")).collect::<Vec<_>>()
    };
    files.into_iter().flat_map(tests).collect()
}

fn module(program: &str, path: PathBuf) -> (String, PathBuf) {
    match path.file_stem().and_then(|stem| stem.to_str()).unwrap() {
        "main" => (program.to_owned(), path),
        name => (format!("{program}::{name}"), path),
    }
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
