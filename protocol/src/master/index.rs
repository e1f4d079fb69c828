//! What is derived from the jobs of the book: who waits for what, who has what, and what needs a person.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::line::{Line, Place, View};
use super::{AgentStart, Job, Need, SlaveRecord};
use crate::id::{JobId, SlaveKey};
use crate::job::State;
use crate::time::Time;

/// Jobs by who could do them, in order.
type ByRequirement = BTreeMap<Requirement, BTreeSet<Place>>;

/// What decides which slaves could do a job, beside its program and the name of its slave. A job in the queue
/// keeps it until it has left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Requirement {
    labels: BTreeMap<String, String>,
    /// Who has rejected it, and in which start of its agent.
    rejected_by: BTreeSet<(SlaveKey, AgentStart)>,
}

impl Requirement {
    fn of(job: &Job) -> Self {
        Self { labels: job.requires.clone(), rejected_by: job.who_rejects().collect() }
    }

    fn is_met_by(&self, slave: &SlaveRecord) -> bool {
        let start = slave.agent_start();
        let has_rejected = |start| self.rejected_by.contains(&(slave.key, start));
        fits(&self.labels, &slave.labels) && !start.is_some_and(has_rejected)
    }
}

/// What waits for a slave in one line, all of one program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Queue {
    /// Any slave may do it.
    open: ByRequirement,
    /// Only the slave of this name may.
    named: BTreeMap<String, ByRequirement>,
}

/// The book's indexes: each finds what it is asked for at a cost that does not grow with the number of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Index {
    /// The time by which jobs are listed.
    view: View,
    /// What waits and could start, by program.
    queued: BTreeMap<String, Queue>,
    /// What waits for its time, by program.
    deferred: BTreeMap<String, Queue>,
    /// What a slave has.
    held: BTreeMap<SlaveKey, BTreeSet<JobId>>,
    /// When jobs are listed elsewhere by themselves.
    turns: BTreeSet<(Time, JobId)>,
    /// Latest starts of queued jobs: by their order, or by a release.
    windows: BTreeSet<(Time, JobId)>,
    /// What needs a person, but for lapsed releases.
    needing: BTreeSet<(Need, JobId)>,
    /// Until when jobs may start that were released and wait: past that they need a person again.
    releases: BTreeSet<(Time, JobId)>,
    /// How many there are of each state.
    counts: BTreeMap<State, usize>,
    /// With ageing, a job has left the queue, which may have kept the next from a slave. False between two steps.
    is_shorter: bool,
}

/// Where the indexes list a job; nowhere by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Listed {
    /// Counted as in this state.
    state: Option<State>,
    queued: Option<(Line, Place)>,
    turns: [Option<Time>; 2],
    holder: Option<SlaveKey>,
    window: Option<Time>,
    need: Option<Need>,
    released_until: Option<Time>,
}

impl Listed {
    /// Where a job belongs at this time.
    pub(super) fn of(job: &Job, view: View) -> Self {
        Self {
            state: Some(job.state),
            queued: job.queue_line(view).map(|line| (line, job.place(view.placement))),
            turns: job.turns(view.placement),
            holder: job.holder.filter(|_| !job.state.is_ended()),
            window: job.latest_start().filter(|_| job.state == State::Queued),
            need: job.need(),
            released_until: job.released_until(),
        }
    }
}

impl Index {
    pub(super) fn new(view: View) -> Self {
        Self { view, ..Self::default() }
    }

    pub(super) fn view(&self) -> View {
        self.view
    }

    /// Lists by another time from here on. Returns the jobs whose listing may differ: they have to be listed anew.
    pub(super) fn turn_to(&mut self, now: Time) -> Vec<JobId> {
        let then = std::mem::replace(&mut self.view.now, now);
        let between = (Bound::Excluded((then.min(now), LAST)), Bound::Included((then.max(now), LAST)));
        self.turns.range(between).map(|(_, id)| *id).collect()
    }

    /// Lists a job elsewhere than before. Its program, its slave's name and the labels that it requires never change, and who has
    /// rejected it changes in no edit by which it comes into the queue or leaves it.
    pub(super) fn relist(&mut self, job: &Job, before: &Listed, after: &Listed) {
        if before.state != after.state {
            if let Some(state) = before.state {
                self.uncount(state);
            }
            if let Some(state) = after.state {
                *self.counts.entry(state).or_default() += 1;
            }
        }
        if before.queued != after.queued {
            if let Some((line, place)) = before.queued {
                self.unqueue(job, line, place);
                self.is_shorter |= self.view.placement.ageing.is_some();
            }
            if let Some((line, place)) = after.queued {
                self.queue(job, line, place);
            }
        }
        if before.turns != after.turns {
            for at in before.turns.into_iter().flatten() {
                self.turns.remove(&(at, job.id));
            }
            self.turns.extend(after.turns.into_iter().flatten().map(|at| (at, job.id)));
        }
        if before.holder != after.holder {
            if let Some(holder) = before.holder {
                self.let_go(holder, job.id);
            }
            if let Some(holder) = after.holder {
                self.held.entry(holder).or_default().insert(job.id);
            }
        }
        relist(&mut self.windows, job.id, before.window, after.window);
        relist(&mut self.needing, job.id, before.need, after.need);
        relist(&mut self.releases, job.id, before.released_until, after.released_until);
    }

    fn uncount(&mut self, state: State) {
        if let Some(count) = self.counts.get_mut(&state) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&state);
            }
        }
    }

    fn queues(&mut self, line: Line) -> &mut BTreeMap<String, Queue> {
        match line {
            Line::Now => &mut self.queued,
            Line::Later => &mut self.deferred,
        }
    }

    fn queue(&mut self, job: &Job, line: Line, place: Place) {
        let Queue { open, named } = or_default(self.queues(line), &job.spec.program);
        let queue = match &job.slave {
            None => open,
            Some(name) => or_default(named, name),
        };
        queue.entry(Requirement::of(job)).or_default().insert(place);
    }

    fn unqueue(&mut self, job: &Job, line: Line, place: Place) {
        let Some(Queue { open, named }) = self.queues(line).get_mut(&job.spec.program) else { return };
        match &job.slave {
            None => forget(open, &Requirement::of(job), place),
            Some(name) => {
                if let Some(queue) = named.get_mut(name) {
                    forget(queue, &Requirement::of(job), place);
                    if queue.is_empty() {
                        named.remove(name);
                    }
                }
            }
        }
        if open.is_empty() && named.is_empty() {
            self.queues(line).remove(&job.spec.program);
        }
    }

    fn let_go(&mut self, holder: SlaveKey, id: JobId) {
        if let Some(held) = self.held.get_mut(&holder) {
            held.remove(&id);
            if held.is_empty() {
                self.held.remove(&holder);
            }
        }
    }

    /// How many jobs need a person.
    pub(super) fn count_needs(&self, now: Time) -> usize {
        self.needing.len() + self.lapsed(now).count()
    }

    /// The jobs that need a person, lapsed releases left out, in order from here on.
    pub(super) fn needing(&self, from: Option<(Need, JobId)>) -> impl Iterator<Item = (Need, JobId)> {
        let from = from.map_or(Bound::Unbounded, Bound::Included);
        self.needing.range((from, Bound::Unbounded)).copied()
    }

    /// The jobs whose release has lapsed.
    pub(super) fn lapsed(&self, now: Time) -> impl Iterator<Item = JobId> {
        self.releases.iter().take_while(move |(latest, _)| *latest < now).map(|(_, id)| *id)
    }

    /// How many jobs are in a state.
    pub(super) fn count(&self, state: State) -> usize {
        self.counts.get(&state).copied().unwrap_or(0)
    }

    /// What a slave has, in order.
    pub(super) fn held_by(&self, key: SlaveKey) -> impl Iterator<Item = JobId> {
        self.held.get(&key).into_iter().flatten().copied()
    }

    /// The first of what waits in a line for this program and this slave.
    pub(super) fn first_queued(&self, line: Line, program: &str, slave: &SlaveRecord) -> Option<Place> {
        let queues = match line {
            Line::Now => &self.queued,
            Line::Later => &self.deferred,
        };
        let Queue { open, named } = queues.get(program)?;
        let queues = [Some(open), named.get(&slave.name)].into_iter().flatten().flatten();
        let could_do = queues.filter(|(requirement, _)| requirement.is_met_by(slave));
        could_do.filter_map(|(_, places)| places.first().copied()).min()
    }

    /// With ageing, a job has left the queue: whoever is first in line now may find a slave. A slave has one line for all of its programs.
    pub(super) fn take_is_shorter(&mut self) -> bool {
        std::mem::take(&mut self.is_shorter)
    }

    /// Of what could start, the first of each program and requirement.
    pub(super) fn firsts(&self) -> impl Iterator<Item = JobId> {
        let groups =
            self.queued.values().flat_map(|queue| std::iter::once(&queue.open).chain(queue.named.values()));
        groups.flat_map(BTreeMap::values).filter_map(BTreeSet::first).map(|(_, id)| *id)
    }

    /// The first in line of those that the same slaves could do.
    pub(super) fn first_like(&self, job: &Job, line: Line) -> Option<JobId> {
        let queue = match line {
            Line::Now => self.queued.get(&job.spec.program),
            Line::Later => self.deferred.get(&job.spec.program),
        };
        let by = queue.and_then(|queue| match &job.slave {
            Some(name) => queue.named.get(name),
            None => Some(&queue.open),
        });
        let by = by.filter(|by| !by.is_empty());
        by.and_then(|by| by.get(&Requirement::of(job))?.first()).map(|(_, id)| *id)
    }

    /// How many of what waits in a line for the same program go before this job; no more than `limit` are counted.
    pub(super) fn count_before(&self, line: Line, job: &Job, limit: usize) -> usize {
        let queues = match line {
            Line::Now => &self.queued,
            Line::Later => &self.deferred,
        };
        let Some(Queue { open, named }) = queues.get(&job.spec.program) else { return 0 };
        let all = std::iter::once(open).chain(named.values()).flat_map(BTreeMap::values);
        all.flat_map(|places| places.range(..job.place(self.view.placement))).take(limit).count()
    }

    /// When a job is next listed elsewhere by itself.
    pub(super) fn next_turn(&self) -> Option<Time> {
        let after = (Bound::Excluded((self.view.now, LAST)), Bound::Unbounded);
        self.turns.range(after).next().map(|(at, _)| *at)
    }

    /// The next latest start of a queued job.
    pub(super) fn next_window(&self) -> Option<Time> {
        self.windows.first().map(|(at, _)| *at)
    }

    /// The queued job whose latest start passed first.
    pub(super) fn closed_window(&self, now: Time) -> Option<JobId> {
        self.windows.first().filter(|(at, _)| *at < now).map(|(_, id)| *id)
    }
}

/// Above every id.
const LAST: JobId = JobId([u8::MAX; 16]);

/// Moves a job in a set that is ordered by something of it.
fn relist<T: Ord + Copy>(set: &mut BTreeSet<(T, JobId)>, id: JobId, before: Option<T>, after: Option<T>) {
    if before != after {
        if let Some(at) = before {
            set.remove(&(at, id));
        }
        set.extend(after.map(|at| (at, id)));
    }
}

/// The value of this key. The key is only copied if it is new.
fn or_default<'a, V: Default>(map: &'a mut BTreeMap<String, V>, key: &str) -> &'a mut V {
    if !map.contains_key(key) {
        map.insert(key.to_owned(), V::default());
    }
    map.get_mut(key).expect("it was just put there")
}

fn forget(queue: &mut ByRequirement, requirement: &Requirement, place: Place) {
    if let Some(places) = queue.get_mut(requirement) {
        places.remove(&place);
        if places.is_empty() {
            queue.remove(requirement);
        }
    }
}

/// A slave with these labels has everything that is required.
pub(super) fn fits(requires: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    requires.iter().all(|(key, value)| labels.get(key) == Some(value))
}
