//! Tries the seeded bugs of the rules: each has to be noticed by the tests that the list names.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::collections::BTreeSet;

use reloop_rig::daemon::workspace;
use reloop_tools::breaks::{Break, RULE_TESTS, all, rotten, run, unbroken};
use reloop_tools::coverage::{Test, collect};

/// A shorter list would mean that it is not maintained.
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
    let programs = without_a_break("tests/rig/tests", |program| program.starts_with("scenarios_"));
    assert!(programs >= 5, "{programs} programs of scenarios");
}

#[test]
fn no_test_of_the_rules_is_without_a_break_that_it_catches() {
    // The tests of `rules_edges` were written against mutants, which show that they can fail.
    let is_checked = |program: &str| RULE_TESTS.contains(&program) && program != "rules_edges";
    assert_eq!(without_a_break("tests/sim/tests", is_checked), RULE_TESTS.len() - 1);
}

/// Checks that each test of the selected programs in this folder is named by a seeded bug or excused. Returns the
/// number of programs.
fn without_a_break(folder: &str, is_checked: impl Fn(&str) -> bool) -> usize {
    let program = |test: &str| test.split("::").next().unwrap_or_default().to_owned();
    let of_checked = |test: &&str| is_checked(&program(test));
    let tests: BTreeSet<String> =
        collect(workspace(), folder).iter().map(|test| path(folder, test)).collect();
    let there: BTreeSet<&str> = tests.iter().map(String::as_str).filter(of_checked).collect();
    let all = all();
    let named: BTreeSet<&str> =
        all.iter().flat_map(|one| one.caught_by.iter().copied()).filter(of_checked).collect();
    let excused: BTreeSet<&str> = unbroken().into_iter().filter(of_checked).collect();
    let alone: BTreeSet<&str> = there.difference(&named).copied().collect();
    let unexcused: Vec<_> = alone.difference(&excused).collect();
    assert!(unexcused.is_empty(), "no break is known that these would notice: {unexcused:#?}");
    let gone: Vec<_> = named.difference(&there).collect();
    assert!(gone.is_empty(), "there are no such tests: {gone:#?}");
    let needless: Vec<_> = excused.difference(&alone).collect();
    assert!(needless.is_empty(), "these need no excuse: they notice a break, or are gone: {needless:#?}");
    there.iter().map(|test| program(test)).collect::<BTreeSet<_>>().len()
}

/// A test as the list names it: program, modules and name.
fn path(folder: &str, test: &Test) -> String {
    let file = test.file.trim_start_matches(folder).trim_start_matches('/').trim_end_matches(".rs");
    format!("{}::{}", file.trim_end_matches("/main").replace('/', "::"), test.name)
}
