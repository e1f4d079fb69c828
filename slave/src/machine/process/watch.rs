//! Watches one run, from a thread of its own, until it is over.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use reloop_protocol::id::BootId;
use reloop_protocol::slave::{Fact, Probed, RunKey};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::fate::{BEGIN_LIMIT, fate, has_runner, not_begun, outcome};
use super::files::{
    CHILD, DISMISSED, EXIT, Exit, OUTPUT, RUNNER_LOG, STARTED, State, VOID, exists, is_absent, read_json,
    read_state,
};
use super::reports::{BACKLOG_LIMIT, Tail};
use crate::machine::types::{Reporter, TEXT_LIMIT, clip, run_name};

/// How soon anything is noticed that raises no file event: a run that vanished, an agent that is ending.
const TICK: Duration = Duration::from_secs(1);
/// The least time between two looks at a run's directory, however much the program prints.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The least time between two progress facts. The rules keep none of them on disk, but each becomes a report to the master.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

pub(super) enum Begin {
    /// Start the runner and see it begin.
    Start { runner: PathBuf },
    /// The run is alive already.
    Adopt,
}

pub(super) struct Watch {
    pub(super) key: RunKey,
    pub(super) dir: PathBuf,
    pub(super) boot: BootId,
    pub(super) reporter: Reporter,
    pub(super) watched: Arc<Mutex<BTreeSet<RunKey>>>,
    pub(super) alive: Weak<()>,
}

impl Watch {
    pub(super) fn spawn(self, begin: Begin) -> io::Result<()> {
        thread::Builder::new().name("run watch".into()).spawn(move || self.run(begin)).map(drop)
    }

    fn run(&self, begin: Begin) {
        let events = self.events();
        match begin {
            Begin::Start { runner } => {
                if let Some(mut child) = self.start(&runner, &events) {
                    self.follow(&events, State::default(), Tail::default());
                    self.wait_for(&mut child);
                }
            }
            Begin::Adopt => {
                let state = State { stopping: None, ..read_state(&self.dir).unwrap_or_default() };
                // What was printed before was reported by the agent of that time, and the newest progress by the probe.
                let offset = fs::metadata(self.dir.join(OUTPUT)).map_or(0, |file| file.len());
                self.follow(&events, state, Tail::from(offset));
            }
        }
    }

    /// Starts the runner and waits until it has begun. `None` if it has not and never will, or if the agent is ending.
    fn start(&self, runner: &Path, events: &Option<OwnedFd>) -> Option<Child> {
        let mut child = match self.spawn_runner(runner) {
            Ok(child) => child,
            Err(error) => {
                self.refuse(&format!("could not start the runner {}: {error}", runner.display()));
                return None;
            }
        };
        let mut started = None::<Instant>;
        loop {
            if exists(&self.dir, STARTED) {
                // It is written before the program is executed, and `child` or `exit` right after that.
                if let Ok(Some(exit)) = read_json::<Exit>(&self.dir, EXIT)
                    && exit.not_begun
                {
                    // Nobody will ask for its files by this key, so they may be removed with those of other runs.
                    if let Err(error) = File::create(self.dir.join(DISMISSED)) {
                        let key = run_name(self.key);
                        tracing::info!(key, %error, "the files of a run that never began stay");
                    }
                    self.tell_last(Fact::Probed(outcome(exit)));
                    self.wait_for(&mut child);
                    return None;
                }
                let since = *started.get_or_insert_with(Instant::now);
                let is_executed = exists(&self.dir, CHILD) || exists(&self.dir, EXIT);
                let is_late = since.elapsed() >= BEGIN_LIMIT || !matches!(child.try_wait(), Ok(None));
                if is_executed || is_late {
                    return self.reporter.tell(self.key, Fact::Started).then_some(child);
                }
            }
            if exists(&self.dir, VOID) {
                // A stop or a probe has made the run void and reported that. The runner will find `void` too, once it has the
                // lock.
                lock(&self.watched).remove(&self.key);
                self.wait_for(&mut child);
                return None;
            }
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) if !exists(&self.dir, STARTED) => {
                    let log = fs::read_to_string(self.dir.join(RUNNER_LOG)).unwrap_or_default();
                    self.refuse(&format!("the runner gave up ({status}): {}", log.trim()));
                    return None;
                }
                Ok(Some(_)) => {}
                Err(error) => self.warn_of_wait(&error),
            }
            if self.alive.strong_count() == 0 {
                return None;
            }
            wait(events, LOOK_INTERVAL);
        }
    }

    fn spawn_runner(&self, runner: &Path) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(self.dir.join(RUNNER_LOG))?;
        Command::new(runner)
            .arg0("reloop-slave")
            .arg("runner")
            .arg(&self.dir)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
    }

    fn wait_for(&self, runner: &mut Child) {
        if let Err(error) = runner.wait() {
            self.warn_of_wait(&error);
        }
    }

    fn warn_of_wait(&self, error: &io::Error) {
        tracing::warn!(key = run_name(self.key), %error, "the runner could not be waited for");
    }

    /// The runner is dead or was never started. Proves that nothing began, so that nothing can begin after this report.
    fn refuse(&self, why: &str) {
        let fact = match fate(&self.dir, self.boot) {
            Ok(Probed::NeverStarted) => not_begun(why),
            Ok(probed) => Fact::Probed(probed),
            // A dead runner writes nothing any more.
            Err(_) if self.dir.is_dir() && is_absent(&self.dir.join(STARTED)) => not_begun(why),
            Err(error) => Fact::StartRefused(clip(&format!("{why}; {error}"), TEXT_LIMIT)),
        };
        self.tell_last(fact);
    }

    /// Reports how the run ended. It counts as not watched from before that report.
    fn tell_last(&self, fact: Fact) {
        lock(&self.watched).remove(&self.key);
        self.reporter.tell(self.key, fact);
    }

    fn follow(&self, events: &Option<OwnedFd>, mut state: State, mut tail: Tail) {
        let mut told_at: Option<Instant> = None;
        let mut checked_at = Instant::now();
        loop {
            // Read `exit` first: what the program printed before it ended is then in the output.
            let exit = read_json::<Exit>(&self.dir, EXIT);
            if let Err(error) = tail.read(&self.dir.join(OUTPUT), BACKLOG_LIMIT) {
                let key = run_name(self.key);
                tracing::warn!(key, %error, "the output could not be read; its reports are late");
            }
            if let Ok(now) = read_state(&self.dir)
                && now != state
                && !self.tell_state(&mut state, now)
            {
                return;
            }
            let is_over = matches!(exit, Ok(Some(_)));
            let is_due = is_over || told_at.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL);
            if is_due && let Some(progress) = tail.news.take() {
                told_at = Some(Instant::now());
                if !self.reporter.tell(self.key, progress) {
                    return;
                }
            }
            match exit {
                Ok(Some(exit)) => {
                    return self.tell_last(match outcome(exit) {
                        Probed::Ended(ended) => Fact::Ended(ended),
                        probed => Fact::Probed(probed),
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    let why = format!("how it ended can't be read: {error}");
                    return self.tell_last(Fact::Probed(Probed::Unknown(clip(&why, TEXT_LIMIT))));
                }
            }
            if checked_at.elapsed() >= TICK {
                checked_at = Instant::now();
                if let Some(probed) = self.without_runner() {
                    return self.tell_last(Fact::Probed(probed));
                }
            }
            if self.alive.strong_count() == 0 {
                return;
            }
            thread::sleep(LOOK_INTERVAL);
            let news_wait = if tail.news.is_empty() { TICK } else { PROGRESS_INTERVAL };
            wait(events, news_wait);
        }
    }

    /// What became of the run if its runner was killed or its directory removed; `None` if neither is so.
    fn without_runner(&self) -> Option<Probed> {
        if matches!(has_runner(&self.dir), Ok(false))
            && let Ok(
                probed @ (Probed::Gone | Probed::NeverStarted | Probed::NotBegun(_) | Probed::Unknown(_)),
            ) = fate(&self.dir, self.boot)
        {
            return Some(probed);
        }
        (!self.dir.is_dir()).then(|| {
            let why = format!("{} was removed while the run was on", self.dir.display());
            Probed::Unknown(clip(&why, TEXT_LIMIT))
        })
    }

    /// Reports what is new in the runner's state. False if nobody receives facts any more.
    fn tell_state(&self, before: &mut State, now: State) -> bool {
        let mut is_heard = true;
        if now.paused != before.paused {
            is_heard &= self.reporter.tell(self.key, if now.paused { Fact::Paused } else { Fact::Resumed });
        }
        let told = before.refused.last().map_or(0, |refusal| refusal.number);
        for refusal in now.refused.iter().filter(|refusal| refusal.number > told) {
            is_heard &= self.reporter.tell(self.key, refusal.fact());
        }
        *before = now;
        is_heard
    }

    /// File events of the run's directory. The system has only so many of them; without them the directory is looked at once
    /// a tick.
    fn events(&self) -> Option<OwnedFd> {
        let watch = || {
            let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
            let flags = inotify::WatchFlags::MODIFY
                | inotify::WatchFlags::MOVED_TO
                | inotify::WatchFlags::CREATE
                | inotify::WatchFlags::ONLYDIR;
            inotify::add_watch(&events, &self.dir, flags)?;
            Ok::<_, Errno>(events)
        };
        watch()
            .inspect_err(|error| {
                let key = run_name(self.key);
                tracing::info!(key, %error, "no file events; the run is looked at once a second");
            })
            .ok()
    }
}

/// Waits until something happens in the directory, but no longer than this.
fn wait(events: &Option<OwnedFd>, longest: Duration) {
    let Some(events) = events else {
        thread::sleep(longest);
        return;
    };
    let timeout = Timespec::try_from(longest).expect("a constant of seconds");
    // After a signal or an error the next look only comes sooner. Draining ends at the first empty read.
    if poll(&mut [PollFd::new(events, PollFlags::IN)], Some(&timeout)).is_ok() {
        let mut buffer = [0; 4096];
        while rustix::io::read(events, &mut buffer).is_ok_and(|count| count > 0) {}
    }
}

pub(super) fn lock(watched: &Mutex<BTreeSet<RunKey>>) -> MutexGuard<'_, BTreeSet<RunKey>> {
    // A set of keys is consistent at any moment, even after a panic of another thread.
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}
