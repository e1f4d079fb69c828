//! Which slaves could take a job, and which have one that another could take, by program: the cost of finding one does not grow with
//! the number of slaves.
//!
//! The lists are derived from the slave records and the book: a slave is listed anew whenever one of the two has changed for it. What is
//! known only here is for whom jobs are recalled, and who waits for a job of another slave; a master that starts again has recalled
//! nothing for anybody, and looks at each slave that comes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::line::{Line, Place, View};
use super::{Book, Enrolled, Job, SlaveRecord};
use crate::id::{JobId, SlaveKey};
use crate::message::Mode;
use crate::time::{Millis, Time};

/// How long a slave with room waits for a job that is recalled for it: longer than any round trip over a link that works. One that is
/// dead without a word is noticed only later, and until then the slave takes other work.
const RECALL_PATIENCE: Millis = Millis::seconds(2);

/// How many slaves are kept for jobs of others at the same time: looking at them again is bounded by that.
const KEPT: usize = 256;

/// What a slave can do with jobs, as far as the master knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Ability {
    /// The master can tell it nothing at present.
    Away,
    /// It starts nothing before something has changed there, or it is to take no more.
    Barred,
    /// It starts its jobs. It has declined one and said nothing since, so nothing is offered to it.
    Declining,
    /// It starts its jobs and takes more.
    Able,
}

impl SlaveRecord {
    pub(super) fn ability(&self) -> Ability {
        let may_start = self.machine.as_ref().is_some_and(|machine| machine.may_start());
        if self.live().is_none() || self.enrolled != Enrolled::Yes || self.doubts {
            Ability::Away
        } else if self.operating_mode.mode != Mode::Production || !may_start {
            Ability::Barred
        } else if self.declining {
            Ability::Declining
        } else {
            Ability::Able
        }
    }
}

/// For whom a job is recalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ForWhom {
    /// A slave with room for it.
    Slave(SlaveKey),
    /// A queued job that goes before it.
    Job(JobId),
}

/// How many more jobs that could start a slave takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) enum Room {
    #[default]
    None,
    /// At least one, and it would start now.
    Idle,
    /// At least one, after this many.
    After(usize),
    /// None, unless the unstarted one in this place is given back.
    InsteadOf(Place),
}

/// What a slave has, counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Load<'a> {
    /// How many could start or execute.
    pub(super) now: usize,
    /// How many wait for their time or for a person.
    pub(super) later: usize,
    is_executing: bool,
    /// One of them is being given back.
    is_recalling: bool,
    /// With ageing, how many have not begun: one of them may keep others from coming.
    unstarted: usize,
    /// The last in line of those that could be given back.
    last_spare: Option<Place>,
    /// The first in line, of each program, of those that another slave could take.
    movable: Vec<(&'a str, Place)>,
}

impl<'a> Load<'a> {
    pub(super) fn of(book: &'a Book, slave: &SlaveRecord) -> Self {
        let view = book.view();
        let is_barred = slave.ability() == Ability::Barred;
        // What it has besides, of jobs for which other attempts speak, takes places there too.
        let mut load = Self { now: slave.other_attempts.len(), ..Self::default() };
        load.is_executing = slave.machine.as_ref().is_some_and(|machine| machine.activity.is_at_work());
        for job in book.held_by(slave.key) {
            load.add(job, view, is_barred);
        }
        load
    }

    fn add(&mut self, job: &'a Job, view: View, is_barred: bool) {
        match job.line(view) {
            Some(Line::Now) => self.now += 1,
            Some(Line::Later) => self.later += 1,
            None => {}
        }
        self.is_executing |= job.state.is_executing();
        self.is_recalling |= job.is_being_recalled();
        self.unstarted += usize::from(view.placement.ageing.is_some() && job.waits_there(view));
        let is_spare = job.is_spare(view);
        if is_spare {
            self.last_spare = self.last_spare.max(Some(job.place(view.placement)));
        }
        // A slave at work may be free by the time of a deferred job; one that can't start is not.
        if job.is_movable(view) && (is_spare || is_barred) {
            let (program, place) = (job.spec.program.as_str(), job.place(view.placement));
            match self.movable.iter_mut().find(|(known, _)| *known == program) {
                Some((_, first)) => *first = place.min(*first),
                None => self.movable.push((program, place)),
            }
        }
    }

    pub(super) fn room(&self, slave: &SlaveRecord) -> Room {
        let has_room = self.now < usize::from(slave.capacity);
        match (slave.ability(), self.last_spare) {
            (Ability::Able, _) if has_room && self.now == 0 && slave.is_ready() => Room::Idle,
            (Ability::Able, _) if has_room => Room::After(self.now),
            // Also one that has declined: when it has given something back, it has room.
            (Ability::Able | Ability::Declining, Some(place)) if !has_room && !self.is_recalling => {
                Room::InsteadOf(place)
            }
            (Ability::Able | Ability::Declining | Ability::Barred | Ability::Away, _) => Room::None,
        }
    }

    pub(super) fn takes_deferred(&self, slave: &SlaveRecord) -> bool {
        slave.ability() == Ability::Able && self.later < usize::from(slave.deferred_capacity)
    }
}

type ByProgram<T> = BTreeMap<String, BTreeSet<T>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Availability {
    /// Where each slave is listed.
    listings: BTreeMap<SlaveKey, Listing>,
    /// Slaves that have been listed anew, and not looked at since; none between two steps.
    changed: BTreeSet<SlaveKey>,
    /// For whom jobs are recalled, by the slave that has them.
    recalls: BTreeMap<SlaveKey, BTreeMap<JobId, ForWhom>>,
    /// Slaves for which jobs are recalled, with the time until which each is waited for.
    expecting: BTreeMap<SlaveKey, BTreeMap<JobId, Time>>,
    /// Slaves with room that get nothing before a job of another slave: by that slave, and that job's place.
    kept: BTreeMap<SlaveKey, BTreeMap<Place, BTreeSet<SlaveKey>>>,
    lists: Lists,
}

/// Where to look for a slave, or for its job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Lists {
    /// They could start a job now.
    idle: ByProgram<SlaveKey>,
    /// They have room for a job that could start; first those with the fewest before it.
    busy: ByProgram<(usize, SlaveKey)>,
    /// They have no room, and a job that could be given back; first those where that one is the last in line.
    full: ByProgram<(Reverse<Place>, SlaveKey)>,
    /// They have room for a job that waits for its time; first those with the fewest.
    deferred: ByProgram<(usize, SlaveKey)>,
    /// They can't start what they have, and another slave could; first those whose job is the first in line.
    stuck: ByProgram<(Place, SlaveKey)>,
    /// They are at work and have another job that could start; first those whose job is the first in line.
    behind: ByProgram<(Place, SlaveKey)>,
}

/// Where a slave is listed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Listing {
    /// The slave's programs; none without room for any job.
    programs: Vec<String>,
    room: Room,
    /// How many jobs wait there for their time, if it takes one more.
    deferred: Option<usize>,
    /// The first job of each program that another slave could take.
    movable: Vec<(String, Place)>,
    is_stuck: bool,
    /// See [`Load::unstarted`].
    unstarted: usize,
}

impl Lists {
    /// Enters the slave in the lists of those that take jobs, or removes it from them.
    fn offer(&mut self, key: SlaveKey, listing: &Listing, is_in: bool) {
        for program in &listing.programs {
            match listing.room {
                Room::None => {}
                Room::Idle => enter(&mut self.idle, program, key, is_in),
                Room::After(count) => enter(&mut self.busy, program, (count, key), is_in),
                Room::InsteadOf(place) => enter(&mut self.full, program, (Reverse(place), key), is_in),
            }
            if let Some(count) = listing.deferred {
                enter(&mut self.deferred, program, (count, key), is_in);
            }
        }
    }

    /// The same in the lists of those that have jobs which another slave could take.
    fn lend(&mut self, key: SlaveKey, listing: &Listing, is_in: bool) {
        let lists = if listing.is_stuck { &mut self.stuck } else { &mut self.behind };
        for (program, place) in &listing.movable {
            enter(lists, program, (*place, key), is_in);
        }
    }
}

impl Availability {
    /// Lists a slave anew; `None`: there is no such slave.
    pub(super) fn list(&mut self, key: SlaveKey, slave: Option<&SlaveRecord>, book: &Book) {
        let ability = slave.map_or(Ability::Away, SlaveRecord::ability);
        let slave = slave.filter(|_| ability != Ability::Away);
        let load = slave.map(|slave| Load::of(book, slave)).unwrap_or_default();
        let room = slave.map_or(Room::None, |slave| load.room(slave));
        let deferred = slave.filter(|slave| load.takes_deferred(slave)).map(|_| load.later);
        let offered = slave.filter(|_| room != Room::None || deferred.is_some());
        let programs = offered.map_or(&[][..], |slave| &*slave.programs);
        let lends = ability == Ability::Barred || load.is_executing;
        let movable = if lends { &*load.movable } else { &[] };
        let is_stuck = ability == Ability::Barred && !movable.is_empty();
        let unstarted = load.unstarted;
        let listing = self.listings.entry(key).or_default();
        let is_offered_anew =
            (listing.room, listing.deferred) != (room, deferred) || listing.programs != programs;
        let is_moved = listing.is_stuck != is_stuck
            || !listing
                .movable
                .iter()
                .map(|(program, place)| (&**program, *place))
                .eq(movable.iter().copied());
        if is_offered_anew {
            self.lists.offer(key, listing, false);
            if listing.programs != programs {
                listing.programs = programs.to_vec();
            }
            (listing.room, listing.deferred) = (room, deferred);
            self.lists.offer(key, listing, true);
        }
        if is_moved {
            self.lists.lend(key, listing, false);
            let movable = movable.iter().map(|(program, place)| ((*program).to_owned(), *place));
            (listing.movable, listing.is_stuck) = (movable.collect(), is_stuck);
            self.lists.lend(key, listing, true);
        }
        if is_offered_anew || is_moved || listing.unstarted != unstarted {
            self.changed.insert(key);
        }
        listing.unstarted = unstarted;
        if *listing == Listing::default() {
            self.listings.remove(&key);
        }
    }

    /// It lists what the slave records and the book say, and nobody is left to be looked at.
    pub(super) fn is_true_of(&self, slaves: &BTreeMap<SlaveKey, SlaveRecord>, book: &Book) -> bool {
        let mut again = Self::default();
        for (key, slave) in slaves {
            again.list(*key, Some(slave), book);
        }
        (&again.listings, &again.lists, true) == (&self.listings, &self.lists, self.changed.is_empty())
    }

    /// The slaves that have been listed anew since this was last asked.
    pub(super) fn take_changed(&mut self) -> BTreeSet<SlaveKey> {
        std::mem::take(&mut self.changed)
    }

    /// A job is recalled from the slave that has it.
    pub(super) fn recalled(&mut self, holder: SlaveKey, id: JobId, whom: ForWhom, now: Time) {
        self.recalls.entry(holder).or_default().insert(id, whom);
        if let ForWhom::Slave(key) = whom {
            self.expecting.entry(key).or_default().insert(id, now.after(RECALL_PATIENCE));
        }
    }

    /// A job is recalled from this slave for somebody.
    pub(super) fn lends(&self, holder: SlaveKey) -> bool {
        self.recalls.contains_key(&holder)
    }

    /// For whom this slave's jobs were recalled that are not being recalled any more, whatever became of them.
    pub(super) fn take_settled(&mut self, holder: SlaveKey, is_open: impl Fn(JobId) -> bool) -> Vec<ForWhom> {
        let Some(asked) = self.recalls.get_mut(&holder) else { return vec![] };
        let settled: Vec<_> =
            asked.iter().filter(|(id, _)| !is_open(**id)).map(|(id, whom)| (*id, *whom)).collect();
        for (id, _) in &settled {
            asked.remove(id);
        }
        if asked.is_empty() {
            self.recalls.remove(&holder);
        }
        for (id, whom) in &settled {
            if let ForWhom::Slave(key) = whom {
                self.expects_no_more(*key, |expected, _| expected == *id);
            }
        }
        settled.into_iter().map(|(_, whom)| whom).collect()
    }

    /// Has a slave looked at although nothing has changed for it.
    pub(super) fn look_at(&mut self, key: SlaveKey) {
        self.changed.insert(key);
    }

    /// The room of a slave for jobs that could start.
    pub(super) fn room(&self, key: SlaveKey) -> Room {
        self.listings.get(&key).map_or(Room::None, |listing| listing.room)
    }

    /// The slave takes one more job that waits for its time.
    pub(super) fn takes_deferred(&self, key: SlaveKey) -> bool {
        self.listings.get(&key).is_some_and(|listing| listing.deferred.is_some())
    }

    fn expects_no_more(&mut self, key: SlaveKey, is_over: impl Fn(JobId, Time) -> bool) -> bool {
        let Some(expected) = self.expecting.get_mut(&key) else { return false };
        let before = expected.len();
        expected.retain(|id, until| !is_over(*id, *until));
        let is_less = expected.len() < before;
        if expected.is_empty() {
            self.expecting.remove(&key);
        }
        is_less
    }

    /// Who has waited long enough for a job that is recalled waits no more for it, and is looked at again.
    pub(super) fn lose_patience(&mut self, now: Time) {
        if self.next_patience().is_none_or(|until| until > now) {
            return;
        }
        for key in self.expecting.keys().copied().collect::<Vec<_>>() {
            if self.expects_no_more(key, |_, until| until <= now) {
                self.changed.insert(key);
            }
        }
    }

    /// When somebody has waited long enough.
    pub(super) fn next_patience(&self) -> Option<Time> {
        self.expecting.values().flat_map(BTreeMap::values).min().copied()
    }

    /// The jobs that are being recalled for this slave, and for which it waits.
    pub(super) fn expected(&self, key: SlaveKey) -> impl Iterator<Item = JobId> {
        self.expecting.get(&key).into_iter().flat_map(BTreeMap::keys).copied()
    }

    /// There are jobs at slaves that others could take, or that are recalled for others.
    pub(super) fn lends_any(&self) -> bool {
        !(self.lists.stuck.is_empty() && self.lists.behind.is_empty() && self.expecting.is_empty())
    }

    /// A slave with room is given nothing before this job of another slave, and is looked at again when that is gone from there. Beyond
    /// [`KEPT`] slaves it is not: such a slave gets something when next something changes for itself.
    pub(super) fn keep(&mut self, key: SlaveKey, holder: SlaveKey, first: Place) {
        let count: usize = self.kept.values().flat_map(BTreeMap::values).map(BTreeSet::len).sum();
        if count < KEPT {
            self.kept.entry(holder).or_default().entry(first).or_default().insert(key);
        }
    }

    /// Has those looked at that were kept for a job of this slave which is not there any more.
    pub(super) fn let_go(&mut self, holder: SlaveKey, is_there: impl Fn(Place) -> bool) {
        let Self { kept, changed, .. } = self;
        let Some(firsts) = kept.get_mut(&holder) else { return };
        firsts.retain(|first, slaves| {
            let stays = is_there(*first);
            if !stays {
                changed.append(slaves);
            }
            stays
        });
        if firsts.is_empty() {
            kept.remove(&holder);
        }
    }

    /// There is nobody who could start a job now.
    pub(super) fn nobody_idles(&self) -> bool {
        self.lists.idle.is_empty()
    }

    /// Those that could start a job now.
    pub(super) fn idle(&self, program: &str) -> impl Iterator<Item = SlaveKey> {
        self.lists.idle.get(program).into_iter().flatten().copied()
    }

    /// Those with room for a job in this line, the one with the fewest before it first. In the line of what starts at once, idle slaves
    /// are listed apart; a deferred job does not care whether a slave is idle.
    pub(super) fn with_room(&self, program: &str, line: Line) -> impl Iterator<Item = SlaveKey> {
        let lists = match line {
            Line::Now => &self.lists.busy,
            Line::Later => &self.lists.deferred,
        };
        lists.get(program).into_iter().flatten().map(|(_, key)| *key)
    }

    /// Those without room that have a job behind this place, which could be given back for one in this place.
    pub(super) fn instead(&self, program: &str, place: Place) -> impl Iterator<Item = SlaveKey> {
        let full = self.lists.full.get(program).into_iter().flatten();
        full.take_while(move |(Reverse(last), _)| *last > place).map(|(_, key)| *key)
    }

    /// Those that can't start what they have, and could be without it, with the place of the first such job.
    pub(super) fn stuck(&self, program: &str) -> impl Iterator<Item = (Place, SlaveKey)> {
        self.lists.stuck.get(program).into_iter().flatten().copied()
    }

    /// Those that are at work, and could be without another job, with the place of the first such job.
    pub(super) fn behind(&self, program: &str) -> impl Iterator<Item = (Place, SlaveKey)> {
        self.lists.behind.get(program).into_iter().flatten().copied()
    }
}

fn enter<T: Ord>(lists: &mut ByProgram<T>, program: &str, entry: T, is_in: bool) {
    if is_in {
        match lists.get_mut(program) {
            Some(list) => drop(list.insert(entry)),
            None => drop(lists.insert(program.to_owned(), BTreeSet::from([entry]))),
        }
    } else if let Some(list) = lists.get_mut(program) {
        list.remove(&entry);
        if list.is_empty() {
            lists.remove(program);
        }
    }
}
