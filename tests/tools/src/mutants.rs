//! Can the proof fail? Every mutant of the rules that cargo-mutants knows, each tried against what proves the rules.
//!
//! A mutant is a small change that nobody thought of: an operator turned round, a condition that always holds, a
//! function that does nothing. Most of them are bugs, and each of those has to be noticed by somebody. cargo-mutants
//! names them ([`list`]); all that can be are built into one copy of the rules, each behind a switch ([`doctor`]) that
//! the environment turns ([`SWITCH`]), and only what cannot be switched is built by itself ([`copy`]).
//!
//! cargo-mutants itself builds each mutant: 20 s for 0.5 s of the rules' tests on two cores, which makes 8.4 hours for all
//! 1,465 and leaves out the schedules and the model check. One build with switches tries all of them against all three in half
//! an hour to an hour.
//!
//! A mutant that does not compile is not viable, and is counted apart. The others meet, until one notices, the tests of
//! the rules, the random schedules and the model check ([`run`]). A run without any mutant tells which mutants each test
//! reaches, and a mutant meets only the tests that reach it. What none notices has survived. Either that is a gap in the
//! proof, or the change makes no difference: then [`EXPLAINED`] says why.

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

/// The environment variable that turns one mutant on, by its number.
pub const SWITCH: &str = "RELOOP_MUTANT";

/// The environment variable that names a file for the numbers of the mutants that a program reaches.
pub const REACHED: &str = "RELOOP_MUTANTS_REACHED";

/// The package whose mutants these are.
const PACKAGE: &str = "reloop-protocol";

#[derive(Debug, Clone)]
pub struct Mutant {
    pub file: String,
    /// What it is called: file, description and the line it stands in. It stays the same when lines move.
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
/// cargo-mutants is not there, or says what does not fit the sources.
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
