//! Bodies of orders and commands: any JSON is an order or a problem with a stable code, and an accepted order is within
//! the rules' bounds, from the record on disk to the message that carries it.

use std::collections::BTreeMap;

use reloop_master::records;
use reloop_master::rest::bodies;
use reloop_master::rest::problem::{Code, Problem};
use reloop_node::store::{KEY_LIMIT_BYTES, Op, VALUE_LIMIT_BYTES};
use reloop_protocol::id::{Commit, JobId, MasterId, OrderId};
use reloop_protocol::job::State;
use reloop_protocol::limits;
use reloop_protocol::master::{
    self, Answer, Effect, Enrollment, Event, JobCommand, Loaded, Master, RequestId, Settings,
};
use reloop_protocol::message::Message;
use reloop_protocol::spec::SPEC_BYTES;
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame, MAX_MESSAGE};

use super::any::Source;

const NOW: Time = Time(1_700_000_000_000);

const MANY: usize = 500;

const JOB_VERBS: [&str; 9] =
    ["cancel", "pause", "resume", "release", "reschedule", "retry", "resolve", "abandon", "destroy"];
const SLAVE_VERBS: [&str; 6] = ["ready", "clear", "mode", "approve", "forget", "explode"];

/// The first byte chooses the type of the body; an order may be followed by a line `---` and a job's command.
pub fn run(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else { return };
    let body = &stretched(body);
    match choice % 4 {
        0 | 1 => order(body, *choice),
        2 => {
            let verb = JOB_VERBS[usize::from(choice / 4) % JOB_VERBS.len()];
            match bodies::job_command(verb, body) {
                Some(Ok(command)) => drop(format!("{command:?}")),
                Some(Err(problem)) => is_stable(&problem),
                None => assert_eq!(verb, "destroy"),
            }
        }
        _ => {
            let verb = SLAVE_VERBS[usize::from(choice / 4) % SLAVE_VERBS.len()];
            match bodies::slave_command(verb, body) {
                Some(Ok(command)) => drop(format!("{command:?}")),
                Some(Err(problem)) => is_stable(&problem),
                None => assert_eq!(verb, "explode"),
            }
        }
    }
}

/// A unit separator, which JSON may not contain, stands for many letters, so that small inputs make large bodies.
fn stretched(bytes: &[u8]) -> Vec<u8> {
    let many = |byte: &u8| if *byte == 0x1F { vec![b'x'; MANY] } else { vec![*byte] };
    bytes.iter().flat_map(many).collect()
}

fn is_stable(problem: &Problem) {
    assert!(Code::ALL.contains(&problem.code));
    assert!(matches!(problem.code, Code::BadRequest | Code::UnknownField), "{problem:?}");
    let document = problem.document("req_fuzz");
    assert_eq!(document.code, problem.code.name());
    assert!(!document.detail.is_empty(), "{document:?}");
    for error in &document.errors {
        assert!(!error.field.is_empty() && !error.detail.is_empty(), "{document:?}");
    }
}

fn order(bytes: &[u8], choice: u8) {
    let cut = bytes.windows(5).position(|line| line == b"\n---\n");
    let (body, then) = cut.map_or((bytes, &b""[..]), |at| (&bytes[..at], &bytes[at + 5..]));
    let key = (choice & 4 != 0).then_some(&b"key"[..]);
    let (order, key) = match bodies::order(body, key, NOW) {
        Ok(placed) => placed,
        Err(problem) => return is_stable(&problem),
    };
    assert!((1..=1000).contains(&order.jobs.len()) && order.spec.size() <= SPEC_BYTES);
    assert!(order.spec.order == order.id && order.jobs.is_sorted() && !order.spec.program.is_empty());
    assert!((1..=100).contains(&order.retry.max_attempts));

    let mut world = Small::new();
    let jobs = order.jobs.clone();
    let answers = world.event(Event::OrderPlaced {
        request: RequestId(1),
        order: Box::new(order.clone()),
        key: key.clone(),
    });
    assert_eq!(answers, [Answer::Placed { order: order.id, replayed: false }]);
    assert_eq!(world.jobs.len(), jobs.len(), "every job of an acknowledged order is on disk");
    if let Some(key) = key {
        let id = order.id;
        let again = bodies::order(body, Some(b"key"), NOW).expect("it was an order a moment ago");
        assert_eq!(again.1, Some(key), "the same body has the same fingerprint");
        let again =
            world.event(Event::OrderPlaced { request: RequestId(2), order: Box::new(again.0), key: again.1 });
        assert_eq!(again, [Answer::Placed { order: id, replayed: true }]);
        assert_eq!(world.jobs.len(), jobs.len(), "and nothing is placed twice");
    }
    // The desired state that a slave gets for the first job, at its largest.
    let desired_state = reloop_protocol::spec::DesiredState {
        requires: Default::default(),
        job: jobs[0],
        attempt: Default::default(),
        generation: Default::default(),
        digest: order.spec.digest(),
        spec: Some(order.spec.clone()),
        desired: reloop_protocol::spec::Desired::Run,
        start: order.start,
    };
    sendable(&Message::DesiredState(desired_state));

    let mut source = Source::new(then);
    let verb = JOB_VERBS[source.below(JOB_VERBS.len())];
    let command = bodies::job_command(verb, then.get(1..).unwrap_or_default());
    let command = command.and_then(Result::ok).unwrap_or(JobCommand::Pause);
    for command in [command, JobCommand::Resume, JobCommand::Release { valid: Default::default() }] {
        let few = jobs.iter().take(4).copied().collect();
        world.event(Event::JobsCommanded { request: RequestId(3), jobs: few, command });
    }
    world.now = Time(i64::MAX - 1);
    world.event(Event::TimePassed);
    for id in jobs {
        assert!(world.state.book.jobs.contains_key(&id) || world.jobs[&id].state != State::Queued, "{id}");
    }
}

/// Checks that a peer accepts the message.
fn sendable(message: &Message) {
    assert_eq!(limits::check(message), Ok(()));
    let frame =
        Frame { session: Default::default(), commit: Commit(0), message: message.clone(), signature: None };
    assert!(wire::encode(&frame).len() <= MAX_MESSAGE);
}

/// A master with a disk and no slaves.
struct Small {
    state: Master,
    now: Time,
    jobs: BTreeMap<JobId, master::Job>,
    keys: BTreeMap<String, (OrderId, [u8; 32])>,
    node: Option<master::Write>,
}

impl Small {
    fn new() -> Self {
        let state = master::recover(
            Settings { enrollment: Enrollment::Open, placement: Default::default() },
            MasterId([1; 16]),
            [],
        );
        Self { state, now: NOW, jobs: BTreeMap::new(), keys: BTreeMap::new(), node: None }
    }

    fn event(&mut self, event: Event) -> Vec<Answer> {
        let unknown = master::unknown(&self.state, &event);
        let loaded = Loaded {
            jobs: unknown.jobs.iter().filter_map(|id| self.jobs.get(id).cloned()).collect(),
            orders: vec![],
            keys: unknown.keys.iter().map(|key| (key.clone(), self.keys.get(key).copied())).collect(),
        };
        let state = master::step(self.state.clone(), self.now, Event::Loaded(loaded)).state;
        let step = master::step(state, self.now, event);
        assert_eq!(master::broken_invariant(&step.state), None);
        let mut ops = Vec::new();
        for write in step.persist {
            records::ops(&write, &mut ops);
            match write {
                master::Write::Job(job) => drop(self.jobs.insert(job.id, *job)),
                master::Write::Key(key, order) => drop(self.keys.insert(key.key, (order, key.fingerprint))),
                master::Write::Node(_) => self.node = Some(write),
                master::Write::Order(_)
                | master::Write::Slave(_)
                | master::Write::Token(..)
                | master::Write::Receipt(_)
                | master::Write::Begun(_)
                | master::Write::ClockMark(_) => {}
            }
        }
        for op in ops {
            if let Op::Put { key, value } = op {
                assert!(key.len() <= KEY_LIMIT_BYTES && value.len() <= VALUE_LIMIT_BYTES);
            }
        }
        let live = self.jobs.values().map(|job| master::Write::Job(Box::new(job.clone())));
        let back =
            master::recover(step.state.settings, step.state.node.id, self.node.iter().cloned().chain(live));
        assert_eq!(master::durable(&back), master::durable(&step.state));
        // Must not panic, even if a deadline is at the end of time.
        master::next_deadline(&step.state);
        self.state = step.state;
        let answer = |effect| match effect {
            Effect::Answer { answer, .. } => Some(answer),
            _ => None,
        };
        step.effects.into_iter().filter_map(answer).collect()
    }
}
