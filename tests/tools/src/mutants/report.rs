//! The page `docs/mutants.md`: the result for each mutant.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Mutant;
use super::run::{Fate, Stage};

/// The share of viable mutants that has to be noticed, in percent.
pub const GOAL: f64 = 95.0;

/// Results by the mutants' names.
pub type Fates = BTreeMap<String, Fate>;

#[derive(Default)]
struct Row {
    all: usize,
    unviable: usize,
    rules: usize,
    simulation: usize,
    model: usize,
    states: usize,
    hung: usize,
    survived: usize,
}

impl Row {
    fn count(&mut self, fate: &Fate) {
        self.all += 1;
        match fate {
            Fate::Unviable => self.unviable += 1,
            Fate::Caught { by, hung, .. } => {
                self.hung += usize::from(*hung);
                match by {
                    Stage::Rules => self.rules += 1,
                    Stage::Simulation => self.simulation += 1,
                    Stage::Model => self.model += 1,
                    Stage::States => self.states += 1,
                }
            }
            Fate::Survived { .. } => self.survived += 1,
        }
    }

    fn viable(&self) -> usize {
        self.all - self.unviable
    }

    fn percent(&self) -> f64 {
        if self.viable() == 0 {
            100.0
        } else {
            100.0 * (self.viable() - self.survived) as f64 / self.viable() as f64
        }
    }

    fn line(&self, name: &str) -> String {
        let Self { all, rules, simulation, model, states, hung, survived, .. } = self;
        let (viable, percent) = (self.viable(), self.percent());
        format!(
            "| {name} | {all} | {viable} | {rules} | {simulation} | {model} | {states} | {hung} | {survived} | {percent:.1} |\n"
        )
    }
}

/// The page, and the reasons to fail: too few are noticed, or a survivor is not explained.
pub fn page(mutants: &[Mutant], fates: &Fates, explained: &[(&str, &str)]) -> (String, Vec<String>) {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut all = Row::default();
    let mut survivors: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    let mut wrong = Vec::new();
    let why: BTreeMap<&str, &str> = explained.iter().copied().collect();
    for one in mutants {
        let Some(fate) = fates.get(&one.name) else {
            wrong.push(format!("never tried: {}", one.name));
            continue;
        };
        rows.entry(&one.file).or_default().count(fate);
        all.count(fate);
        let reason = why.get(one.name.as_str()).copied();
        match (fate, reason) {
            (Fate::Survived { .. }, None) => wrong.push(format!("survives unexplained: {}", one.name)),
            (Fate::Survived { .. }, Some(_)) => {}
            (_, Some(_)) => wrong.push(format!("is explained, but does not survive: {}", one.name)),
            (_, None) => {}
        }
        if matches!(fate, Fate::Survived { .. }) {
            let what = one.name.strip_prefix(&format!("{}: ", one.file)).unwrap_or(&one.name);
            survivors.entry(&one.file).or_default().push((what, reason.unwrap_or("unexplained")));
        }
    }
    for (name, _) in explained.iter().filter(|(name, _)| mutants.iter().all(|one| one.name != *name)) {
        wrong.push(format!("is explained, but is no mutant: {name}"));
    }
    if all.percent() < GOAL {
        wrong.push(format!("{:.1} % are noticed, and {GOAL} % have to be", all.percent()));
    }
    let mut page = String::from(HEAD);
    let _ = write!(
        page,
        "Of {} viable mutants {} are noticed: **{:.1} %**. {} more do not compile.\n\n",
        all.viable(),
        all.viable() - all.survived,
        all.percent(),
        all.unviable
    );
    let untried = mutants.iter().filter(|one| !fates.contains_key(&one.name)).count();
    if untried > 0 {
        let _ = write!(page, "**This page is not complete**: {untried} mutants have not been tried.\n\n");
    }
    page.push_str(
        "| file | mutants | viable | rules | simulation | model | states | of these hung | survived | % |\n",
    );
    page.push_str("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
    for (file, row) in &rows {
        page.push_str(&row.line(&format!("`{}`", file.strip_prefix("protocol/src/").unwrap_or(file))));
    }
    page.push_str(&all.line("all"));
    page.push_str(LEGEND);
    for (file, of_file) in survivors {
        let _ = write!(page, "\n### `{file}`\n\n");
        for (what, why) in of_file {
            let _ = writeln!(page, "* {what}: {why}");
        }
    }
    (page, wrong)
}

const HEAD: &str = "# Mutants of the rules\n\n\
Printed by `cargo run --release -p reloop-tools -- mutants`, which takes half an hour to an hour and needs\n\
cargo-mutants (`cargo install cargo-mutants --locked`). Run it again when the rules or their tests have changed; it fails\n\
if fewer than 95 % are noticed, or if a survivor is not explained in `tests/tools/src/mutants/explained.rs`.\n\
[CONTRIBUTING.md](../CONTRIBUTING.md) describes how it works.\n\n\
A mutant is one small change of the rules in `protocol/`: another operator, a condition that always holds, a missing match\n\
arm, a function that does nothing. cargo-mutants lists them. Each is a bug that a test has to notice, unless the change\n\
makes no difference.\n\n";

const LEGEND: &str = "\n\
A mutant is counted where it is first noticed: by the tests of the rules (those of `protocol/`, and `rules`, `rules_edges`,\n\
`disagreements`, `fences` and `hostile` of `tests/`), by 1,000 random schedules, or by the model check's short\n\
configurations, because a property does not hold (`model`) or because only the number of states differs (`states`).\n\
A mutant that hangs is noticed by its timeout.\n\n\
## Survivors\n";
