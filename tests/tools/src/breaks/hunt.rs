//! Searches random schedules for one that fails. It is a separate program in the copy of the rules, because a seeded
//! bug may end the process.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use reloop_sim::simulation::run;

/// The first of these seeds whose schedule breaks an invariant, with the message.
pub fn first_broken(seeds: Range<u64>) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| {
        let story = || run(seed, 1 + (seed / 20 % 4) as usize, 4 + (seed / 7 % 9) as usize);
        let said = catch_unwind(AssertUnwindSafe(story)).err()?;
        let text = said.downcast_ref::<String>().cloned();
        let text = text.or_else(|| said.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Some((seed, text.unwrap_or_default()))
    })
}

/// Plays the schedules from one seed up to another and prints the first failure. The exit status is 0 if there is none.
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
