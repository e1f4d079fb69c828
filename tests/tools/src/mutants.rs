//! Runs the tests of the rules against every mutant that cargo-mutants lists.
//!
//! A mutant is a small change of the source: another operator, a condition that always holds, a function that does
//! nothing. cargo-mutants names the mutants ([`list`]). All that can be switched are built into one copy of the rules
//! ([`doctor`]), each switched on by its number in the environment ([`SWITCH`]); the others are built one by one
//! ([`copy`]).
//!
//! cargo-mutants itself builds each mutant: 20 s for 0.5 s of tests on two cores, which makes 8.4 hours for all 1,465,
//! without schedules and model check. One build with switches tries all of them against all three in half an hour to an
//! hour.
//!
//! A mutant that does not compile is not viable and is counted separately. The others are tried against the tests of
//! the rules, the random schedules and the model check ([`run`]), until one fails. A run without a mutant records which
//! mutants each test reaches; a mutant is tried only against tests that reach it. A mutant that nothing notices has
//! survived: either the tests have a gap, or the change makes no difference, and then [`EXPLAINED`] says why.

pub mod copy;
pub mod doctor;
mod explained;
pub mod report;
pub mod run;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

pub use self::doctor::{Genre, Number, Piece};
pub use self::explained::EXPLAINED;

/// The environment variable that switches one mutant on, by its number.
pub const SWITCH: &str = "RELOOP_MUTANT";

/// The environment variable that names a file for the numbers of the mutants that a program reaches.
pub const REACHED: &str = "RELOOP_MUTANTS_REACHED";

const PACKAGE: &str = "reloop-protocol";

#[derive(Debug, Clone)]
pub struct Mutant {
    pub file: String,
    /// File, description and the text of the line. It stays the same when lines move.
    pub name: String,
    pub piece: Piece,
}

#[derive(Deserialize)]
struct Listed {
    file: String,
    name: String,
    genre: Genre,
    replacement: String,
    span: Extent,
}

#[derive(Deserialize)]
struct Extent {
    start: Position,
    end: Position,
}

/// Lines and columns count from one; columns count characters.
#[derive(Deserialize)]
struct Position {
    line: usize,
    column: usize,
}

impl Position {
    fn byte(&self, text: &str) -> Option<usize> {
        let line: &str = text.split_inclusive('\n').nth(self.line.checked_sub(1)?)?;
        let before: usize = text.split_inclusive('\n').take(self.line - 1).map(str::len).sum();
        let inside: usize = line.chars().take(self.column.checked_sub(1)?).map(char::len_utf8).sum();
        Some(before + inside)
    }
}

/// Every mutant of the rules, as cargo-mutants lists them; the numbers count from zero.
///
/// # Errors
/// cargo-mutants is not installed, or what it lists does not fit the sources.
pub fn list(workspace: &Path) -> Result<Vec<Mutant>, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["mutants", "--list", "--json", "--package", PACKAGE])
        .current_dir(workspace)
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("no such command") {
            return Err("cargo-mutants is not there: `cargo install cargo-mutants --locked`".to_owned());
        }
        return Err(format!("`cargo mutants --list` failed: {said}"));
    }
    let read = |file: &str| std::fs::read_to_string(workspace.join(file)).map_err(|e| format!("{file}: {e}"));
    listed(&String::from_utf8_lossy(&output.stdout), read)
}

fn listed(json: &str, read: impl Fn(&str) -> Result<String, String>) -> Result<Vec<Mutant>, String> {
    let all: Vec<Listed> = serde_json::from_str(json).map_err(|error| format!("cargo-mutants: {error}"))?;
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    let mut mutants = Vec::new();
    for (number, one) in all.into_iter().enumerate() {
        if !texts.contains_key(&one.file) {
            texts.insert(one.file.clone(), read(&one.file)?);
        }
        let text = &texts[&one.file];
        let at = one.span.start.byte(text).zip(one.span.end.byte(text)).map(|(start, end)| start..end);
        let at = at.filter(|at| at.start <= at.end && text.get(at.clone()).is_some());
        let at = at.ok_or_else(|| format!("{}: there is no such place", one.name))?;
        let what = one.name.splitn(4, ':').nth(3).unwrap_or(&one.name).trim();
        let mut name = format!("{}: {what}", one.file);
        if one.genre != Genre::FnValue {
            let line = text.lines().nth(one.span.start.line - 1).unwrap_or_default().trim();
            name = format!("{name} in `{line}`");
        }
        let time = times.entry(name.clone()).or_default();
        *time += 1;
        if *time > 1 {
            name = format!("{name} ({time})");
        }
        let piece = Piece { number, genre: one.genre, at, instead: one.replacement };
        mutants.push(Mutant { file: one.file, name, piece });
    }
    Ok(mutants)
}

#[cfg(test)]
mod tests;
