//! Makes schedules from seeds.

use reloop_protocol::job::{End, OnInterrupt};
use reloop_protocol::message::Mode;
use reloop_protocol::spec::{CancelMode, Late};
use serde::{Deserialize, Serialize};

use super::{Head, Kind, Schedule};
use crate::world::{Act, JobAct, LocalAct, Placed, Said, SlaveAct};

/// One seed in so many has a large fleet.
const LARGE_EVERY: u64 = 250;

/// A fleet of so many slaves is large, and has few faults at each slave.
const LARGE: usize = 9;

/// In one schedule in so many a slave lies.
const LIES_EVERY: u64 = 3;

const HOUR_MS: i64 = 3_600_000;

/// A good crystal is off by 20 ppm, a bad one by 100: this is worse than what is sold.
const WORST_DRIFT_PPM: i64 = 200;

/// A small generator (SplitMix64, Steele, Lea and Flood 2014): the same seed gives the same schedule everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.any() % limit.max(1) as u64) as usize
    }

    /// True with probability 1 / `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn ms(&mut self, from: i64, to: i64) -> i64 {
        from + self.below(usize::try_from(to - from).unwrap_or(1)) as i64
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// The kinds of acts in a schedule. In each, links fail, processes crash, power fails and people give commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Disks keep what was written.
    Sound,
    /// Disks keep what was written, but clocks drift and jump.
    Clocks,
    /// Slaves' disks are replaced, restored and cloned.
    Stores,
    /// Masters are restored, wiped and doubled.
    Masters,
    Everything,
    /// A large fleet with few faults.
    Calm,
}

impl Profile {
    fn of(seed: u64, slaves: usize) -> Self {
        if slaves >= LARGE {
            return Self::Calm;
        }
        match seed % 20 {
            0..=9 => Self::Sound,
            10..=12 => Self::Clocks,
            13..=15 => Self::Stores,
            16..=18 => Self::Masters,
            _ => Self::Everything,
        }
    }
}

/// The number of slaves and jobs in a seed's schedule.
pub fn size(seed: u64) -> (usize, usize) {
    if seed % LARGE_EVERY == LARGE_EVERY - 1 {
        let mut random = Random::new(!seed);
        return (10 + random.below(41), 100 + random.below(401));
    }
    (1 + (seed / 20 % 4) as usize, 4 + (seed / 7 % 9) as usize)
}

/// The schedule of a seed. It depends on nothing but the arguments.
pub fn schedule(seed: u64, slaves: usize, jobs: usize) -> Schedule {
    let profile = Profile::of(seed, slaves);
    let mut made = Maker {
        random: Random::new(seed),
        profile,
        slaves,
        jobs,
        placed: 0,
        lies: seed.is_multiple_of(LIES_EVERY),
        acts: Vec::new(),
    };
    let kinds = (0..slaves).map(|_| made.kind()).collect();
    // In a large fleet, most acts are work and not faults.
    let rounds = if profile == Profile::Calm { jobs * 3 } else { jobs * 12 };
    for _ in 0..rounds {
        made.round();
    }
    let approves = made.random.one_in(4);
    let ageing_ms = made.random.pick(&[0, 0, 0, 1_000, 10_000]);
    let recall_before_ms = made.random.pick(&[0, 0, 1_000, 10_000]);
    let head = Head {
        seed,
        profile,
        invariant: None,
        note: None,
        approves,
        ageing_ms,
        recall_before_ms,
        slaves: kinds,
    };
    Schedule { head, acts: made.acts }
}

struct Maker {
    random: Random,
    profile: Profile,
    slaves: usize,
    jobs: usize,
    placed: usize,
    lies: bool,
    acts: Vec<Act>,
}

impl Maker {
    fn kind(&mut self) -> Kind {
        let random = &mut self.random;
        let drifts = matches!(self.profile, Profile::Clocks | Profile::Everything);
        let drift = random.ms(-WORST_DRIFT_PPM, WORST_DRIFT_PPM + 1);
        Kind {
            length_ms: random.ms(2_000, 22_000),
            ack: random.one_in(3),
            hold: random.one_in(2),
            capacity: 1 + random.below(4) as u16,
            trust_clock: random.one_in(6),
            drift_ppm: if drifts { drift } else { 0 },
            progress: !random.one_in(3),
            max_failures_in_row: random.below(4) as u16,
            deferred_capacity: random.pick(&[1, 2, 16, 16]),
            stutters: false,
        }
    }

    fn round(&mut self) {
        if self.lies && self.random.one_in(8) {
            let random = &mut self.random;
            let said = [Said::Accepted, Said::Running, Said::Uncertain, Said::Succeeded, Said::Failed];
            let (job, ahead, said) =
                (random.below(self.placed.max(1)), random.below(3) as u32, random.pick(&said));
            self.acts.push(Act::Lie { job, ahead, said });
        }
        if self.profile == Profile::Calm {
            self.stir();
            if self.random.one_in(3) {
                let slave = self.slave();
                self.acts.extend([Act::StartMaster, Act::Revive { slave }, Act::Plug { slave }]);
            }
            if self.placed < self.jobs && !self.random.one_in(3) {
                self.place();
            } else if self.random.one_in(3) {
                self.trouble();
            }
            return;
        }
        for _ in 0..self.random.below(4) {
            let (slave, moves) = (self.slave(), 1 + self.random.below(3));
            self.acts.push(Act::Pump { slave, moves });
        }
        if self.random.one_in(3) {
            let ms = self.random.ms(100, 4_100);
            self.acts.push(Act::Pass { ms });
        }
        if self.random.one_in(4) {
            let frame = self.random.below(64);
            self.acts.push(Act::Late { frame });
        }
        if self.random.one_in(5) {
            self.special();
        }
        if self.random.one_in(12) {
            self.interrupt();
        }
        if self.random.one_in(12) {
            self.handshake();
        }
        if self.random.one_in(4) && self.placed < self.jobs {
            self.place();
        } else {
            self.trouble();
        }
    }

    fn stir(&mut self) {
        let (from, moves) = (self.slave(), 1 + self.random.below(60));
        self.acts.push(Act::Stir { from, moves });
        if self.random.one_in(3) {
            let ms = self.random.ms(100, 2_000);
            self.acts.push(Act::Pass { ms });
        }
    }

    fn slave(&mut self) -> usize {
        let clones = matches!(self.profile, Profile::Stores | Profile::Everything);
        // Clones have the indices after the slaves.
        if clones && self.random.one_in(6) {
            return self.slaves + self.random.below(2);
        }
        self.random.below(self.slaves)
    }

    fn place(&mut self) {
        let random = &mut self.random;
        let mut order = Placed {
            bake: random.one_in(2),
            on_interrupt: random.pick(&[OnInterrupt::Hold, OnInterrupt::Fail, OnInterrupt::Restart]),
            stop_overdue: random.one_in(2),
            max_runtime_ms: random.one_in(4).then(|| random.pick(&[3_000, 25_000])),
            priority: random.below(3) as i32,
            held: random.one_in(8),
            again: random.one_in(4),
            backs_off: random.one_in(2),
            wide: random.one_in(5),
            labelled: random.one_in(5),
            ..Placed::default()
        };
        if random.one_in(4) {
            let far = self.profile == Profile::Clocks && random.one_in(3);
            order.not_before_ms = Some(random.ms(0, if far { 2 * HOUR_MS } else { 20_000 }));
            order.late = random.pick(&[Late::Hold, Late::Run, Late::Skip]);
        }
        if random.one_in(6) {
            order.deadline_ms = Some(random.ms(5_000, 35_000));
        }
        if random.one_in(6) {
            order.slave = Some(random.below(self.slaves));
        }
        let job = self.placed;
        self.placed += 1;
        self.acts.push(Act::Place { job, order });
    }

    /// A box loses its power in the middle of its work, and people give commands before and afterwards.
    fn interrupt(&mut self) {
        let slave = self.random.below(self.slaves);
        let job = self.random.below(self.placed.max(1));
        self.desired_of(job);
        let moves = self.random.below(6);
        self.acts.push(Act::Pump { slave, moves });
        if self.random.one_in(2) {
            let ms = self.random.ms(1_000, 20_000);
            self.acts.push(Act::Pass { ms });
        }
        self.acts.extend([Act::Reboot { slave }, Act::Plug { slave }]);
        for _ in 0..2 {
            let moves = 4 + self.random.below(16);
            self.acts.push(Act::Pump { slave, moves });
            self.desired_of(job);
        }
    }

    /// A slave reconnects, and is revoked or enrolled before the handshake is over. As a newcomer it comes from a box
    /// that was restarted, while the master still has its older link.
    fn handshake(&mut self) {
        let slave = self.slave();
        if self.random.one_in(2) {
            self.acts.extend([Act::Pings { slow: true }, Act::HalfOpen { slave }, Act::Reboot { slave }]);
        } else {
            self.acts.push(Act::Cut { slave });
        }
        self.acts.push(Act::Plug { slave });
        for _ in 0..1 + self.random.below(3) {
            let moves = 1 + self.random.below(4);
            self.acts.push(Act::Pump { slave, moves });
            let job = self.random.below(self.placed.max(1));
            let act = match self.random.below(8) {
                0 | 1 => Act::Slave { slave, command: SlaveAct::Forget },
                2 => Act::Slave { slave, command: SlaveAct::Approve },
                3 | 4 => Act::Enroll { slave },
                5 => Act::Job { job, command: self.job_command() },
                6 => Act::Kill { slave },
                _ => Act::Cut { slave },
            };
            self.acts.push(act);
        }
        self.acts.extend([Act::Revive { slave }, Act::Plug { slave }]);
    }

    fn desired_of(&mut self, job: usize) {
        let desired_states =
            [JobAct::Pause, JobAct::Resume, JobAct::Pause, JobAct::Cancel(CancelMode::SafePoint)];
        if self.random.one_in(2) {
            let command = self.random.pick(&desired_states);
            self.acts.push(Act::Job { job, command });
        }
    }

    /// Acts of every profile.
    fn trouble(&mut self) {
        let slave = self.slave();
        let random = &mut self.random;
        let act = match random.below(26) {
            0 | 1 => Act::Cut { slave },
            2 => Act::HalfOpen { slave },
            3 => Act::Swallow { slave },
            4 | 5 => Act::Plug { slave },
            6 => Act::Kill { slave },
            7 | 8 => Act::Revive { slave },
            9 if random.one_in(3) => Act::Reboot { slave },
            9 | 10 => Act::Crash { slave, effects: random.below(6) },
            11 if random.one_in(2) => Act::KillMaster,
            11 => Act::CrashMaster { effects: random.below(12) },
            12..=14 => Act::StartMaster,
            15 | 16 => Act::Machine {
                slave,
                silent: random.one_in(6),
                unstoppable: random.one_in(4),
                refuses: random.one_in(12),
                fails: random.one_in(3),
                slow: random.one_in(2),
                unfit: random.one_in(12),
                rejects: random.one_in(12),
                ponders: random.one_in(2),
            },
            25 => {
                let (narrow, bare) = (random.one_in(2), random.one_in(2));
                self.acts.extend([Act::Configure { slave, narrow, bare }, Act::Kill { slave }]);
                Act::Revive { slave }
            }
            17..=20 => {
                let job = random.below(self.placed.max(1));
                let command = self.job_command();
                Act::Job { job, command }
            }
            21 | 22 => {
                let command = match random.below(7) {
                    0 => LocalAct::Pause,
                    1 => LocalAct::Resume,
                    2 => LocalAct::Stop { now: random.one_in(2) },
                    3 => LocalAct::Lock(random.one_in(2)),
                    4 => LocalAct::Ready,
                    5 => LocalAct::Resolve(random.pick(&[End::Succeeded, End::Failed])),
                    _ => LocalAct::Clear,
                };
                Act::Local { slave, command }
            }
            _ => {
                let modes = [Mode::Production, Mode::Draining, Mode::Maintenance, Mode::Production];
                let command = match random.below(9) {
                    0 => SlaveAct::Ready,
                    1 => SlaveAct::Clear,
                    2 => SlaveAct::Forget,
                    3 => SlaveAct::Approve,
                    4 => return self.acts.push(Act::Enroll { slave }),
                    5 => return self.acts.push(Act::Pings { slow: !random.one_in(3) }),
                    _ => SlaveAct::Mode(random.pick(&modes)),
                };
                Act::Slave { slave, command }
            }
        };
        self.acts.push(act);
    }

    fn job_command(&mut self) -> JobAct {
        let random = &mut self.random;
        match random.below(9) {
            0 => JobAct::Cancel(random.pick(&[
                CancelMode::IfNotStarted,
                CancelMode::SafePoint,
                CancelMode::Now,
            ])),
            1 => JobAct::Pause,
            2 | 3 => JobAct::Resume,
            4 => JobAct::Release { valid_ms: 10_000 },
            5 => JobAct::Resolve(random.pick(&[End::Succeeded, End::Failed])),
            6 => JobAct::Abandon,
            7 => JobAct::Retry,
            _ => JobAct::Reschedule {
                not_before_ms: random.one_in(2).then(|| random.ms(0, 10_000)),
                deadline_ms: random.one_in(3).then(|| random.ms(1_000, 30_000)),
                late: random.pick(&[Late::Hold, Late::Run, Late::Skip]),
            },
        }
    }

    /// Acts of this profile only.
    fn special(&mut self) {
        let kinds: &[Profile] = match self.profile {
            Profile::Sound | Profile::Calm => return,
            Profile::Clocks => &[Profile::Clocks],
            Profile::Stores => &[Profile::Stores],
            Profile::Masters => &[Profile::Masters],
            Profile::Everything => &[Profile::Clocks, Profile::Stores, Profile::Masters],
        };
        let slave = self.slave();
        let random = &mut self.random;
        let act = match random.pick(kinds) {
            Profile::Clocks => match random.below(6) {
                0 | 1 => Act::SlaveClock { slave, by_ms: random.ms(-5 * HOUR_MS, 5 * HOUR_MS) },
                2 => Act::MastersClock { by_ms: random.ms(-5 * HOUR_MS, 5 * HOUR_MS) },
                3 => Act::Pass { ms: random.ms(0, HOUR_MS) },
                4 => Act::Reboot { slave },
                _ => Act::MastersClock { by_ms: random.ms(-20_000, 20_000) },
            },
            Profile::Stores => match random.below(11) {
                0..=2 => Act::ReplaceDisk { slave },
                3..=6 => Act::SaveDisk { slave },
                7..=9 => Act::PutBackDisk { slave },
                _ => Act::Clone { slave },
            },
            _ => match random.below(20) {
                0..=4 => Act::BackUp,
                5 | 6 => Act::Restore { confirmed: true },
                7 => Act::Restore { confirmed: false },
                8 | 9 => Act::Confirm,
                10 => Act::WipeMaster,
                11 => Act::Double { confirmed: true },
                12 => Act::Double { confirmed: false },
                13..=15 => Act::Dial { slave, double: true },
                16 | 17 => Act::Dial { slave, double: false },
                _ => Act::EndDouble,
            },
        };
        self.acts.push(act);
    }
}
