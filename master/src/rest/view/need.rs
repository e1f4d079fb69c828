//! What needs a person, and how many there are of everything.

use std::collections::BTreeMap;

use reloop_api::words::LINKS;
use reloop_api::{Counts, Need, Word};
use reloop_protocol::job::State;
use reloop_protocol::master::{self, Enrolled, Master, Needed, Subject};
use reloop_protocol::time::Time;

use super::link;

/// Everything that is counted, by the book's own numbers. Of slaves those that belong here or want to.
pub(in crate::rest) fn counts(state: &Master, now: Time) -> Counts {
    let unended = State::ALL.into_iter().filter(|state| !state.is_ended());
    let mut slaves: BTreeMap<Word, usize> = LINKS.into_iter().map(|link| (link.into(), 0)).collect();
    for slave in state.slaves.values().filter(|slave| slave.enrolled != Enrolled::Revoked) {
        *slaves.entry(link(slave).into()).or_default() += 1;
    }
    Counts {
        jobs: unended.map(|job_state| (job_state.name().into(), state.book.count(job_state))).collect(),
        slaves,
        needs: master::count_needs(state, now),
    }
}

/// Something that needs a person, with its slave's name.
pub(in crate::rest) fn need(state: &Master, needed: &Needed) -> Need {
    let slave = needed.slave.and_then(|key| state.slaves.get(&key));
    Need {
        need: needed.need.name().into(),
        slave: slave.map(|slave| slave.name.clone()),
        slave_key: slave.map(|slave| slave.key.fingerprint()),
        job: match needed.subject {
            Subject::Slave(_) => None,
            Subject::Job(id) => Some(id.to_string()),
        },
        text: needed.text(),
        action: needed.need.action().into(),
        command: needed.command(),
        risk: needed.need.risk().into(),
    }
}
