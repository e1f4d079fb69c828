//! Everything on which the future of a world depends, as one number: two worlds with the same fingerprint go on alike.
//!
//! A model check needs equal states to have equal fingerprints, and many parts of a world only record its past. What is
//! left out or renamed, and why that is sound:
//!
//! * Connections, boots and databases are only compared for equality. Each gets a number when it is first met on a walk
//!   that has the same order in all worlds.
//! * A slave's sessions are compared with each other and incremented. Each is represented by its distance from the
//!   newest one, so that a shift of all of them changes nothing.
//! * The master's commits are compared and incremented too. Unless a backup brings an older count back, nobody knows a
//!   later one than the master, and it only matters whether one is known at all. Where a backup is or will be made,
//!   distances are used.
//! * A node that is up equals its disk, or [`Invariant::DiskIsState`](super::Invariant) is broken: only one of them is
//!   included. What is derived from the jobs is left out.
//! * Receipts, a job's events and revision, last contacts, answers and counters are for people. No rule reads them.
//! * Incarnations of the master are only compared for equality, and only where its files may be restored.
//! * The contents of the last Hello matter only while its Welcome is on its way; a spare store id is like any other.
//! * What a machine was told to pause matters only when a schedule is healed; the model check does not heal schedules.
//! * The order of late frames does not matter.
//!
//! A new field of one of these types does not compile until it is decided how it counts.

mod commits;
mod mixer;

use std::hash::{Hash, Hasher};

use reloop_protocol::id::{BootId, Commit, Incarnation, Session, SlaveKey, StoreId};
use reloop_protocol::job::State;
use reloop_protocol::master::{self, Book, Contender, Master, SlaveLink, SlaveRecord};
use reloop_protocol::message::{Begun, Challenge, Hello, MasterBinding, Message, Settled, Welcome};
use reloop_protocol::slave::{self, Link, LinkId, Slave, Sync, Volatile};

use self::commits::counted;
use self::mixer::Mixer;
use super::{Station, Stray, Wire, World};

impl World {
    /// See the module. Clocks are included, so worlds at different times differ. `may_go_back`: the master may still be
    /// restored from a backup, which may not have been made yet.
    pub fn fingerprint(&self, may_go_back: bool) -> u64 {
        let mut walk = Walk::new(self, may_go_back);
        walk.world(self);
        walk.hash.finish()
    }
}

struct Walk {
    hash: Mixer,
    links: Vec<LinkId>,
    boots: Vec<BootId>,
    stores: Vec<StoreId>,
    /// Each slave's newest session.
    newest: Vec<(SlaveKey, Session)>,
    commits: Vec<Commit>,
    incarnations: Vec<Incarnation>,
    /// Distances between commits matter, not only whether there is one.
    gaps: bool,
}

/// The number of a name, by the order in which names are met.
fn number<T: PartialEq>(names: &mut Vec<T>, name: T) -> usize {
    names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}

impl Walk {
    fn new(world: &World, gaps: bool) -> Self {
        let session = |held: &Station| {
            let node = held.state.as_ref().map(|state| &state.node).or_else(|| held.disk.node());
            (held.settings.key, node.map_or(Session(0), |node| node.session))
        };
        Self {
            hash: Mixer::default(),
            links: Vec::new(),
            boots: Vec::new(),
            stores: Vec::new(),
            newest: world.boxes.iter().map(session).collect(),
            commits: world.commits().into_iter().collect(),
            incarnations: Vec::new(),
            gaps,
        }
    }

    fn see(&mut self, what: impl Hash) {
        what.hash(&mut self.hash);
    }

    fn link(&mut self, link: LinkId) {
        let number = number(&mut self.links, link);
        self.see(number);
    }

    fn boot(&mut self, boot: BootId) {
        let number = number(&mut self.boots, boot);
        self.see(number);
    }

    fn store(&mut self, store: StoreId) {
        let number = number(&mut self.stores, store);
        self.see(number);
    }

    fn session(&mut self, of: SlaveKey, session: Session) {
        let newest = self.newest.iter().find(|(key, _)| *key == of).map_or(Session(0), |(_, newest)| *newest);
        // 0 has a meaning of its own: no Hello yet.
        let behind = (session != Session(0)).then(|| newest.0.wrapping_sub(session.0));
        self.see(behind);
    }

    fn commit(&mut self, commit: Commit) {
        // 0 has a meaning of its own: this master has just been met.
        self.see(commit == Commit(0));
        if self.gaps {
            let newest = self.commits.last().copied().unwrap_or_default();
            self.see(newest.0.wrapping_sub(commit.0));
        }
    }

    fn said_at(&mut self, commit: Commit, message: &Message) {
        if let Some(commit) = counted(commit, message) {
            self.commit(commit);
        }
    }

    fn binding(&mut self, binding: Option<MasterBinding>) {
        self.see(binding.is_some());
        let Some(MasterBinding { master, epoch, incarnation, commit }) = binding else { return };
        self.see((master, epoch));
        if self.gaps {
            self.incarnation(incarnation);
        }
        self.commit(commit);
    }

    fn incarnation(&mut self, incarnation: Incarnation) {
        let number = number(&mut self.incarnations, incarnation);
        self.see(number);
    }

    /// Only read by a slave that has seen a later state.
    fn begun(&mut self, begun: &[Begun]) {
        if !self.gaps {
            return;
        }
        for Begun { incarnation, at } in begun {
            self.incarnation(*incarnation);
            self.commit(*at);
        }
    }

    fn world(&mut self, world: &World) {
        let World {
            ms,
            master,
            master_disk,
            master_off,
            enrollment,
            placement,
            boxes,
            ledger,
            disks_are_sound,
            broken,
            dead_links,
            late,
            double,
            swapped,
            backup,
            fuse,
            answers: _,
            tracing: _,
            lenient: _,
            patience: _,
            steps: _,
            crossed: _,
            keeps_crossed: _,
            acts: _,
            numbered,
            pings_are_slow,
            pings,
            progress,
            next: _,
        } = world;
        self.see((ms, master_off, enrollment, placement, disks_are_sound, swapped, fuse, numbered));
        self.see(ledger);
        self.see(progress);
        self.see((pings_are_slow, pings.len()));
        for (double, link) in pings {
            self.see(double);
            self.link(*link);
        }
        self.see(broken.as_ref().map(|broken| broken.invariant));
        for held in boxes {
            self.station(held);
        }
        match master {
            Some(master) => {
                self.master(master);
                // Ended jobs are not in memory, and are loaded when a message mentions them.
                for job in master_disk.jobs.values().filter(|job| job.state.is_ended()) {
                    self.master_job(job);
                }
            }
            None => {
                self.see(0u8);
                self.master_disk(master_disk);
            }
        }
        self.see(master_disk.orders.keys().collect::<Vec<_>>());
        let mut dead: Vec<_> = dead_links.iter().map(|link| number(&mut self.links, *link)).collect();
        dead.sort_unstable();
        self.see(dead);
        self.late(late.iter(), boxes);
        self.see(backup.is_some());
        if let Some(backup) = backup {
            self.master_disk(backup);
        }
        // A second master is not enumerated, so it is included unchanged.
        if let Some(double) = double {
            self.see((&double.state, &double.disk, &double.dead_links, double.fuse));
        }
    }

    fn late<'a>(&mut self, late: impl Iterator<Item = &'a Stray>, boxes: &[Station]) {
        let mut each: Vec<u64> = late
            .map(|late| {
                let outside = std::mem::take(&mut self.hash);
                match late {
                    Stray::ToSlave(slave, link, session, commit, message) => {
                        let key = boxes[*slave].settings.key;
                        self.see((0u8, slave));
                        self.link(*link);
                        self.session(key, *session);
                        self.said_at(*commit, message);
                        self.message(key, message);
                    }
                    Stray::ToMaster(double, link, message) => {
                        self.see((1u8, double));
                        self.link(*link);
                        // A Hello identifies its slave; the session in a Settled is included unchanged.
                        let key = match message {
                            Message::Hello(hello) => hello.key,
                            _ => SlaveKey([0; 32]),
                        };
                        self.message(key, message);
                    }
                }
                std::mem::replace(&mut self.hash, outside).finish()
            })
            .collect();
        each.sort_unstable();
        self.see(each);
    }

    fn station(&mut self, station: &Station) {
        let Station {
            state,
            disk,
            settings,
            machine,
            boot,
            booted_at,
            wall_off,
            drift_ppm,
            synchronized,
            fingerprint,
            link,
            cable,
            dials_double,
            retired,
            closed,
            synced,
            saved,
            fuse,
            token,
            began,
            narrow,
            runs_narrow,
            rejected,
            told_to_pause: _,
            replies: _,
        } = station;
        self.see((settings, machine));
        self.boot(*boot);
        self.see((
            booted_at,
            wall_off,
            drift_ppm,
            synchronized,
            fingerprint,
            cable,
            dials_double,
            retired,
            fuse,
        ));
        self.see(closed.last());
        self.see((synced, saved, token, began));
        self.see((narrow, runs_narrow, rejected));
        match state {
            Some(state) => {
                self.see((1u8, disk.node().is_some()));
                self.slave(state);
            }
            None => {
                self.see(0u8);
                self.see(disk.node().is_some());
                if let Some(node) = disk.node() {
                    self.slave_node(settings.key, node);
                }
                self.slave_jobs(disk.held());
                self.see(disk.recent_outcomes());
            }
        }
        self.see(link.is_some());
        if let Some(wire) = link {
            self.wire(settings.key, wire);
        }
    }

    fn wire(&mut self, key: SlaveKey, wire: &Wire) {
        let Wire { id, to_master, to_slave, session, half_open, double } = wire;
        self.link(*id);
        self.session(key, *session);
        self.see((half_open, double, to_master.len(), to_slave.len()));
        for message in to_master {
            self.message(key, message);
        }
        for (session, commit, message) in to_slave {
            self.session(key, *session);
            self.said_at(*commit, message);
            self.message(key, message);
        }
    }

    fn slave(&mut self, slave: &Slave) {
        let Slave { settings, node, jobs, recent_outcomes, link, volatile } = slave;
        let key = settings.key;
        // All other settings belong to the station.
        self.see(&settings.token);
        self.slave_node(key, node);
        self.slave_jobs(jobs.values());
        self.see(recent_outcomes);
        self.see(std::mem::discriminant(link));
        match *link {
            Link::Down => {}
            Link::Opened { link } => self.link(link),
            Link::Challenged { link, doubtful, disclosure } => {
                self.link(link);
                self.see((doubtful, disclosure));
            }
            Link::Introduced { link, session, doubtful } | Link::Live { link, session, doubtful } => {
                self.link(link);
                self.session(key, session);
                self.see(doubtful);
            }
        }
        let Volatile { boot, next_store, awake_since, heard, lacks_room, probing, checks, told, owed } =
            volatile;
        if let Some(boot) = boot {
            self.boot(*boot);
        }
        // The time counts only until the master is heard again.
        self.see((
            next_store.is_some(),
            awake_since.map(|at| (!heard).then_some(at)),
            lacks_room,
            probing,
            checks,
            owed.is_some(),
        ));
        if let Some(owed) = owed {
            self.commit(*owed);
        }
        if let Link::Introduced { .. } = link {
            self.see(told);
        }
    }

    fn slave_jobs<'a>(&mut self, jobs: impl Iterator<Item = &'a slave::Job>) {
        for job in jobs {
            let mut job = job.clone();
            let since = job.run.works_since.take();
            self.see(job);
            self.see(since.map(|since| (since.boot_ms, since.at)));
            if let Some(since) = since {
                self.boot(since.boot);
            }
        }
        self.see(u64::MAX);
    }

    fn slave_node(&mut self, key: SlaveKey, node: &slave::Node) {
        let slave::Node {
            store,
            starts,
            session,
            binding,
            sync,
            fingerprint,
            unloading,
            attention,
            local_lock,
            operating_mode,
            cause,
            doubts_releases,
            failed,
        } = node;
        self.store(*store);
        self.session(key, *session);
        self.binding(*binding);
        self.see(sync.is_some());
        if let Some(Sync { boot, boot_ms, wall, master, synchronized }) = sync {
            self.boot(*boot);
            self.see((
                master.0 - i64::try_from(*boot_ms).unwrap_or(i64::MAX),
                master.0 - wall.0,
                synchronized,
            ));
        }
        self.see((
            starts,
            fingerprint,
            unloading,
            attention,
            local_lock,
            operating_mode,
            cause,
            doubts_releases,
            failed,
        ));
    }

    fn master(&mut self, master: &Master) {
        let Master {
            settings,
            node,
            begun,
            book,
            slaves,
            tokens,
            links,
            asked,
            next_ask,
            doubted_by,
            later,
            clock_mark,
            availability,
        } = master;
        self.see(1u8);
        self.master_node(node);
        self.begun(begun);
        for job in book.jobs.values() {
            self.master_job(&job);
        }
        for record in slaves.values() {
            self.record(record, book);
        }
        let mut known: Vec<_> =
            links.iter().map(|(link, key)| (number(&mut self.links, *link), key)).collect();
        known.sort_unstable();
        self.see(known);
        // The model check does not vary these, so they are included unchanged.
        self.see((settings, tokens, asked, next_ask, doubted_by, later, clock_mark, availability));
    }

    fn master_node(&mut self, node: &master::Node) {
        let master::Node { id, epoch, commit } = node;
        self.see((id, epoch));
        self.commit(*commit);
    }

    fn master_disk(&mut self, disk: &super::MasterDisk) {
        self.see(disk.node().is_some());
        if let Some(node) = disk.node() {
            self.master_node(node);
        }
        self.begun(&disk.begun);
        self.see(disk.clock_mark);
        for job in disk.jobs.values() {
            self.master_job(job);
        }
        for record in disk.slaves() {
            self.record(record, &Book::default());
        }
        self.see(disk.orders.keys().collect::<Vec<_>>());
    }

    fn master_job(&mut self, job: &master::Job) {
        let master::Job {
            id,
            spec,
            digest,
            slave,
            requires,
            start,
            retry,
            created_at,
            state,
            desired,
            generation,
            recalled,
            attempt,
            last_attempt,
            holder,
            report,
            others,
            assigned,
            reason,
            flags,
            ended_at,
            events,
            retry_backoff,
            retries,
            retry_at,
            rejected_by,
            heard_at: _,
            heard_on,
            revision: _,
        } = job;
        self.see((id, spec, digest, slave, requires, start, retry, created_at));
        self.see((state, desired, generation, recalled, attempt, last_attempt, holder));
        self.see((report, others, assigned, reason, flags, ended_at));
        self.see((retry_backoff, retries, retry_at, rejected_by));
        self.see(heard_on.is_some());
        if let Some(link) = heard_on {
            self.link(*link);
        }
        // The checks need to know whether it was retried.
        self.see(events.iter().filter(|event| event.state == State::Queued).take(2).count());
    }

    fn record(&mut self, record: &SlaveRecord, book: &Book) {
        let SlaveRecord {
            key,
            name,
            agent,
            enrolled,
            store,
            boot,
            session,
            programs,
            labels,
            capacity,
            deferred_capacity,
            operating_mode,
            machine,
            cloned_at,
            starts,
            link,
            contender,
            declining,
            doubts,
            settled_in,
            last_contact: _,
            clock_offset_ms: _,
            receipts: _,
            other_attempts: _,
        } = record;
        self.see((key, name, agent, enrolled, programs, labels, operating_mode, machine));
        self.see((capacity, deferred_capacity, starts));
        self.see(settled_in);
        self.see((cloned_at.is_some(), declining, doubts, store.is_some(), boot.is_some()));
        if let Some(store) = store {
            self.store(*store);
        }
        if let Some(boot) = boot {
            self.boot(*boot);
        }
        self.session(*key, *session);
        self.slave_link(*key, link, book);
        self.see(contender.is_some());
        if let Some(Contender { link, hello }) = contender {
            self.link(*link);
            self.hello(*key, hello);
        }
    }

    fn slave_link(&mut self, key: SlaveKey, link: &SlaveLink, book: &Book) {
        self.see(std::mem::discriminant(link));
        match link {
            SlaveLink::Down => {}
            SlaveLink::Live { link } => self.link(*link),
            SlaveLink::Welcomed { link, hello, store, judged, since } => {
                self.link(*link);
                self.hello(key, hello);
                self.see((store, since));
                // A verdict is valid as long as its job has not changed.
                for one in judged {
                    let holds = book.jobs.get(&one.job).map_or(0, |job| job.revision) == one.revision;
                    self.see((one.job, one.attempt, holds.then_some(one.line.name)));
                }
            }
        }
    }

    fn message(&mut self, key: SlaveKey, message: &Message) {
        self.see(std::mem::discriminant(message));
        match message {
            Message::Challenge(Challenge { protocol, master, epoch, commit, begun, nonce, time }) => {
                self.see((protocol, master, epoch, nonce, time));
                self.begun(begun);
                self.commit(*commit);
            }
            Message::Hello(hello) => self.hello(key, hello),
            Message::Welcome(Welcome { protocol, session, binding, operating_mode, rulings }) => {
                self.session(key, *session);
                self.binding(Some(*binding));
                self.see((protocol, operating_mode, rulings));
            }
            Message::Settled(Settled { session, reports, records, declined, machine }) => {
                self.session(key, *session);
                self.see((reports, records, declined, machine));
            }
            Message::Refuse(refuse) => self.see(refuse),
            Message::Report(report) => self.see(report),
            Message::Declined(declined) => self.see(declined),
            Message::Machine(machine) => self.see(machine),
            Message::DesiredState(desired_state) => self.see(desired_state),
            Message::Forget(forget) => self.see(forget),
            Message::OperatingMode(operating_mode) => self.see(operating_mode),
            Message::Ask(ask) => self.see(ask),
            Message::Answer(answer) => self.see(answer),
            Message::Ping | Message::Pong => {}
        }
    }

    fn hello(&mut self, key: SlaveKey, hello: &Hello) {
        let Hello {
            protocol,
            key: said,
            name,
            agent,
            binding,
            token,
            store,
            boot,
            starts,
            session,
            clock,
            machine,
            programs,
            labels,
            capacity,
            deferred_capacity,
            rows,
            recent_outcomes,
        } = hello;
        self.see((protocol, said, name, agent, token, clock, starts));
        self.binding(*binding);
        self.store(*store);
        self.boot(*boot);
        self.session(key, *session);
        self.see((machine, programs, labels, capacity, deferred_capacity, rows, recent_outcomes));
    }
}
