//! Cuts a failing schedule down with delta debugging (Zeller and Hildebrandt 2002): removes acts, then makes the
//! numbers in them and the fleet smaller, as long as the same invariant breaks.

use serde_json::Value;

use super::{Failure, Kind, Schedule, play};
use crate::world::{Act, Invariant};

/// The steps of both nodes that may be spent on one schedule: about a minute.
const BUDGET: u64 = 20_000_000;

/// The minimum cost of a play: a world has to be built.
const PLAY: u64 = 200;

/// Cuts a failing schedule down. Returns it with its failure.
pub fn shrink(mut schedule: Schedule, failure: Failure) -> (Schedule, Failure) {
    if let Some(at) = failure.at {
        schedule.acts.truncate(at + 1);
    }
    schedule.head.invariant = Some(failure.broken.invariant);
    let mut shrinker =
        Shrinker { invariant: failure.broken.invariant, spent: 0, smallest: schedule, failure };
    while shrinker.spent < BUDGET {
        let before = shrinker.smallest.clone();
        shrinker.drop_acts();
        shrinker.simplify_acts();
        shrinker.simplify_fleet();
        if shrinker.smallest == before {
            break;
        }
    }
    (shrinker.smallest, shrinker.failure)
}

struct Shrinker {
    invariant: Invariant,
    spent: u64,
    smallest: Schedule,
    failure: Failure,
}

impl Shrinker {
    /// Keeps the candidate if the same invariant breaks.
    fn try_this(&mut self, mut candidate: Schedule) -> bool {
        if self.spent >= BUDGET || candidate == self.smallest {
            return false;
        }
        match play(&candidate) {
            Err(failure) => {
                self.spent += failure.steps + PLAY;
                if failure.broken.invariant != self.invariant {
                    return false;
                }
                if let Some(at) = failure.at {
                    candidate.acts.truncate(at + 1);
                }
                self.smallest = candidate;
                self.failure = failure;
                true
            }
            Ok(outcome) => {
                self.spent += outcome.steps + PLAY;
                false
            }
        }
    }

    fn drop_acts(&mut self) {
        let mut length = self.smallest.acts.len().div_ceil(2);
        while length > 0 {
            let mut from = 0;
            while from < self.smallest.acts.len() {
                let mut candidate = self.smallest.clone();
                let to = (from + length).min(candidate.acts.len());
                candidate.acts.drain(from..to);
                if !self.try_this(candidate) {
                    from += length;
                }
            }
            length = if length == 1 { 0 } else { length.div_ceil(2) };
        }
    }

    fn simplify_acts(&mut self) {
        let mut number = 0;
        while number < self.smallest.acts.len() {
            let simpler = simpler(&self.smallest.acts[number]);
            let better = simpler.into_iter().any(|act| {
                let mut candidate = self.smallest.clone();
                if let Some(place) = candidate.acts.get_mut(number) {
                    *place = act;
                }
                self.try_this(candidate)
            });
            if !better {
                number += 1;
            }
        }
    }

    fn simplify_fleet(&mut self) {
        while self.smallest.head.slaves.len() > 1 {
            let mut candidate = self.smallest.clone();
            candidate.head.slaves.pop();
            if !self.try_this(candidate) {
                break;
            }
        }
        for slave in 0..self.smallest.head.slaves.len() {
            let kind = self.smallest.head.slaves[slave];
            let plain = Kind { stutters: kind.stutters, ..Kind::default() };
            let candidates = [
                plain,
                Kind { ack: false, ..kind },
                Kind { hold: false, ..kind },
                Kind { progress: false, ..kind },
                Kind { trust_clock: false, ..kind },
                Kind { drift_ppm: 0, ..kind },
                Kind { length_ms: plain.length_ms, ..kind },
                Kind { capacity: plain.capacity, ..kind },
            ];
            for kind in candidates {
                let mut candidate = self.smallest.clone();
                candidate.head.slaves[slave] = kind;
                if self.try_this(candidate) {
                    break;
                }
            }
        }
    }
}

/// The same act with a smaller number, a switch off or an option left out.
fn simpler(act: &Act) -> Vec<Act> {
    let Ok(value) = serde_json::to_value(act) else { return vec![] };
    let mut values = Vec::new();
    vary(&value, &mut |value| values.push(value));
    let acts = values.into_iter().filter_map(|value| serde_json::from_value(value).ok());
    acts.filter(|simpler| simpler != act).collect()
}

fn vary(value: &Value, tell: &mut dyn FnMut(Value)) {
    match value {
        Value::Bool(true) => tell(Value::Bool(false)),
        Value::Number(number) => {
            if let Some(number) = number.as_i64().filter(|number| *number != 0) {
                let round = number / 1_000 * 1_000;
                let smaller = [0, number / 2, round, number - number.signum()];
                for candidate in smaller.into_iter().filter(|smaller| *smaller != number) {
                    tell(candidate.into());
                }
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let mut without = fields.clone();
                without.remove(name);
                tell(Value::Object(without));
                vary(field, &mut |simpler| {
                    let mut with = fields.clone();
                    with.insert(name.clone(), simpler);
                    tell(Value::Object(with));
                });
            }
        }
        Value::Null | Value::Bool(false) | Value::String(_) | Value::Array(_) => {}
    }
}
