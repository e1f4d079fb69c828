//! Looks for a schedule that shows that something is broken. It is a program of its own in the doctored copy of the rules,
//! so that a break which ends the process ends no more than that.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use reloop_sim::simulation::run;

/// The first of these schedules that breaks, and what it says; none if all of them converge.
pub fn first_broken(seeds: Range<u64>) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| {
        let story = || run(seed, 1 + (seed / 20 % 4) as usize, 4 + (seed / 7 % 9) as usize);
        let said = catch_unwind(AssertUnwindSafe(story)).err()?;
        let text = said.downcast_ref::<String>().cloned();
        let text = text.or_else(|| said.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Some((seed, text.unwrap_or_default()))
    })
}

/// Plays the schedules from one seed up to another, and prints what the first that breaks says. The exit status is 0 if none
/// does.
pub fn main() -> ExitCode {
    let number = |at| std::env::args().nth(at).and_then(|text| text.parse().ok()).expect("two numbers");
    std::panic::set_hook(Box::new(|_| {}));
    match first_broken(number(1)..number(2)) {
        None => ExitCode::SUCCESS,
        Some((seed, text)) => {
            println!("{seed}\t{}", text.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}
