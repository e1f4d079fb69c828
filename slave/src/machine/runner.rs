//! The tiny parent of one job: `reloop-slave runner <run_dir>`.
//!
//! It exists so that somebody is there to see how the program ends when the agent is not: killed, upgraded, restarted.
//! Its files and the rules about them are described in [`process`](super::process). It does five things: takes the lock,
//! writes `started`, executes the program, does what comes through the FIFO, and writes `exit`. It has a session of its own and
//! adopts whatever the program leaves behind, so that nothing of a job moves a machine after the job has ended.
//!
//! The signals with which people and systems end or nudge a process do not end it, since its work is to see the program
//! end. A SIGTERM that comes from outside of its run is noted: at a shutdown it reaches everybody, and an end that follows
//! is an interruption, whatever the program returned.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use reloop_node::durable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, set_child_subreaper, setsid, wait,
};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;

use super::process::{
    CHILD, CONTROL, ChildId, EXIT, Exit, LOCK, OUTPUT, PLAN, Plan, Refusal, STARTED, STATE, Started, State,
    VOID, WORK, read_json,
};
use super::tree::{self, Frozen, Process, ProcessId};
use super::{Grade, TEXT_LIMIT, Verb, clip, wall_ms};

/// The grace of a stop at once: long enough for a handler that switches a spindle off, short enough to be called now.
const NOW_GRACE: Duration = Duration::from_secs(2);
/// How often it buries the program's orphans, and looks for the program's end should the kernel have no pidfd.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often it looks whether the rest of the tree has ended, once the program has: nothing wakes it for that.
const REST_INTERVAL: Duration = Duration::from_millis(50);
/// How long a pause may take to stop all of the tree. What hangs in the kernel for longer can't be called paused.
const PAUSE_LIMIT: Duration = Duration::from_secs(2);
/// The same before a stop, which then goes on: signals reach also what does not stand still.
const STOP_FREEZE_LIMIT: Duration = Duration::from_millis(500);
/// An end within this time after a SIGTERM from outside counts as brought about by it: twice what systemd waits by default
/// before it kills what is left at a shutdown (`DefaultTimeoutStopSec`, 90 s). A box that is still up after that was not
/// shut down.
const SHUTDOWN_WINDOW: Duration = Duration::from_secs(180);
/// How long it chases what the program left behind. What can't be killed by then hangs in the kernel.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);
const SWEEP_PAUSE: Duration = Duration::from_millis(20);
/// Between two tries to write down how it ended, on a disk that takes nothing; at most.
const RETRY_LIMIT: Duration = Duration::from_secs(10);
/// Refusals that wait for an agent to read them: it reads within a fraction of a second, and after a restart it asks again.
const REFUSALS_KEPT: usize = 4;
/// Kept aside on disk until the end, so that a program which fills the disk leaves room for its own outcome.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: usize = 16 * 1024;
/// Longer than any command.
const COMMAND_LIMIT: usize = 256;
/// How much of the program's last line goes into the text of a failure.
const LAST_WORDS: usize = 300;

/// Runs the job of this directory from beginning to end. Succeeds if there is an outcome on disk, or nothing to do.
pub fn main(run_dir: &Path) -> ExitCode {
    match run(run_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path) -> io::Result<()> {
    match setsid() {
        // The leader of a group can't; it was started by hand then, and has its session.
        Ok(_) | Err(Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let signals = survive()?;
    // Before the lock: whoever finds the lock held finds somebody who reads commands. Also for writing, so that it never ends.
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).expect("an open flag fits an int"))
        .open(dir.join(CONTROL))?;
    let lock = OpenOptions::new().write(true).open(dir.join(LOCK))?;
    loop {
        match flock(&lock, FlockOperation::LockExclusive) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if dir.join(VOID).exists() {
        return Ok(());
    }
    if dir.join(STARTED).exists() {
        return Err(io::Error::other("this run was begun before, and never begins twice"));
    }
    let plan: Plan = read_json(dir, PLAN)?.ok_or_else(|| io::Error::other("there is no plan"))?;
    let output = OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join(OUTPUT))?;
    durable::write_file(&dir.join(RESERVE), &[b'\n'; RESERVE_BYTES], 0o600)?;
    set_child_subreaper(Some(getpid()))?;
    let runner = Process::read(own_pid()).ok().flatten().map(|process| process.id);
    let started = Started { at_ms: wall_ms(), boot: plan.boot, runner };
    if let Err(error) = durable::write_file(&dir.join(STARTED), &serde_json::to_vec(&started)?, 0o600) {
        // Nothing was executed, and nothing may say that it was.
        let _ = fs::remove_file(dir.join(STARTED));
        return Err(error);
    }

    let exit = match execute(dir, &plan, &lock, &output) {
        Ok(pid) => Job {
            dir,
            plan: &plan,
            pid,
            signals,
            control,
            pending: Vec::new(),
            state: State::default(),
            stopped: BTreeSet::new(),
            stop: None,
            told: None,
            end: None,
        }
        .attend(),
        Err(error) => Exit {
            at_ms: wall_ms(),
            exit_code: None,
            signal: None,
            stop_requested: false,
            // The system executes a program or says why not: nothing began.
            not_begun: true,
            text: format!("could not execute {}: {error}", plan.argv[0]),
            interrupted: None,
            left: None,
        },
    };
    record(dir, &exit);
    Ok(())
}

/// Handlers, not ignored signals: those would be inherited by the program.
fn survive() -> io::Result<SignalsInfo<WithOrigin>> {
    SignalsInfo::new([SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM])
}

fn own_pid() -> i32 {
    getpid().as_raw_nonzero().get()
}

fn execute(dir: &Path, plan: &Plan, lock: &File, output: &File) -> io::Result<Pid> {
    let (program, arguments) =
        plan.argv.split_first().ok_or_else(|| io::Error::other("the plan has no command"))?;
    fcntl_setfd(lock, FdFlags::empty())?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&plan.env)
        .current_dir(dir.join(WORK))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn();
    if let Err(error) = fcntl_setfd(lock, FdFlags::CLOEXEC) {
        complain(format_args!("the lock may be inherited by what the runner starts besides: {error}"));
    }
    let pid = Pid::from_child(&child?);
    let id = ChildId { pid: pid.as_raw_nonzero().get() };
    if let Err(error) =
        serde_json::to_vec(&id).map_err(Into::into).and_then(|id| fs::write(dir.join(CHILD), id))
    {
        complain(format_args!("the process group could not be noted: {error}"));
    }
    Ok(pid)
}

/// The program, and whatever descends from it, while it lives.
struct Job<'a> {
    dir: &'a Path,
    plan: &'a Plan,
    /// Of the program.
    pid: Pid,
    signals: SignalsInfo<WithOrigin>,
    control: File,
    /// The beginning of a command.
    pending: Vec<u8>,
    /// As it is on disk.
    state: State,
    /// What a pause has stopped, and a resume lets go on.
    stopped: BTreeSet<ProcessId>,
    stop: Option<Stop>,
    told: Option<Told>,
    end: Option<ProgramEnd>,
}

struct Stop {
    grade: Grade,
    kill_at: Instant,
    killed: bool,
}

/// Somebody outside of the run has told the runner to end.
struct Told {
    at: Instant,
    by: String,
}

/// The program has ended; what it has started may live.
struct ProgramEnd {
    at: Instant,
    exit_code: Option<i32>,
    signal: Option<i32>,
}

impl Job<'_> {
    fn attend(mut self) -> Exit {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty()).ok();
        loop {
            let alone = self.bury();
            self.hear_signals();
            // First the end, then commands: one that came too late must not turn a success into a stop.
            if alone || self.end.is_some() && self.rest_until().is_none() {
                break;
            }
            self.obey();
            if self.kill_at().is_some_and(|at| at <= Instant::now()) {
                if let Some(stop) = &mut self.stop {
                    stop.killed = true;
                }
                break;
            }
            self.wait(pidfd.as_ref());
        }
        let at_ms = wall_ms();
        let left = self.sweep();
        let interrupted = self.interrupted();
        let text = self.text(interrupted.as_deref(), left.as_deref());
        let end = self.end.as_ref();
        Exit {
            at_ms,
            exit_code: end.and_then(|end| end.exit_code),
            signal: end.and_then(|end| end.signal),
            stop_requested: self.stop.is_some(),
            not_begun: false,
            text,
            interrupted,
            left: left.map(|left| left.iter().map(|process| process.id).collect()),
        }
    }

    /// Waits for everything that has ended. True if nothing is left: orphans become this process's children, so without a
    /// child it has no descendant.
    fn bury(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                // Once it was waited for, its id may be another's.
                Ok(Some((pid, status))) if pid == self.pid && self.end.is_none() => {
                    let (exit_code, signal) = (status.exit_status(), status.terminating_signal());
                    self.end = Some(ProgramEnd { at: Instant::now(), exit_code, signal });
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return false,
                Err(Errno::CHILD) => return true,
                Err(error) => {
                    complain(format_args!("what has ended can't be waited for: {error}"));
                    return false;
                }
            }
        }
    }

    fn hear_signals(&mut self) {
        let signals: Vec<_> = self.signals.pending().filter(|origin| origin.signal == SIGTERM).collect();
        for origin in signals {
            let sender = origin.process.map(|process| process.pid);
            let own = tree::descendants(own_pid()).unwrap_or_default();
            if sender.is_some_and(|sender| own.iter().any(|process| process.id.pid == sender)) {
                complain(format_args!(
                    "a process of this run sent SIGTERM to its runner, which passes it over"
                ));
            } else if self.end.is_none() || self.told.is_none() {
                // It was sent before the end was seen, which is looked for first; later ones change nothing.
                self.told = Some(Told { at: Instant::now(), by: told_by(sender) });
            }
        }
    }

    /// Who brought the end about, if it was neither the program nor a stop.
    fn interrupted(&self) -> Option<String> {
        let (Some(told), Some(end), None) = (&self.told, &self.end, &self.stop) else { return None };
        let follows = end.at.saturating_duration_since(told.at) <= SHUTDOWN_WINDOW;
        follows.then(|| told.by.clone())
    }

    /// Until when what is left of the tree may end by itself after the program has: a stop and a shutdown give all of it
    /// the same grace. After any other end there is none.
    fn rest_until(&self) -> Option<Instant> {
        if let Some(stop) = &self.stop {
            return Some(stop.kill_at);
        }
        self.interrupted()?;
        self.told.as_ref()?.at.checked_add(self.grace())
    }

    fn kill_at(&self) -> Option<Instant> {
        match &self.stop {
            Some(stop) => Some(stop.kill_at),
            None => self.end.as_ref().and_then(|_| self.rest_until()),
        }
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.plan.stop_grace_ms)
    }

    fn wait(&self, pidfd: Option<&OwnedFd>) {
        let mut longest = if self.end.is_some() { REST_INTERVAL } else { HOUSEKEEPING };
        if let Some(at) = self.kill_at() {
            longest = longest.min(at.saturating_duration_since(Instant::now()));
        }
        let timeout = Timespec::try_from(longest).expect("at most a second");
        let mut fds = vec![PollFd::new(&self.control, PollFlags::IN)];
        // Once the program has ended its handle is ready for ever.
        let pidfd = pidfd.filter(|_| self.end.is_none());
        fds.extend(pidfd.map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                complain(format_args!("poll: {error}"));
                thread::sleep(longest);
            }
        }
    }

    fn obey(&mut self) {
        let mut buffer = [0; 1024];
        loop {
            match self.control.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    complain(format_args!("commands can't be read: {error}"));
                    break;
                }
            }
        }
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            match line.trim_ascii() {
                b"stop safe_point" => self.begin_stop(Grade::SafePoint, self.grace()),
                b"stop now" => self.begin_stop(Grade::Now, NOW_GRACE),
                b"pause" => self.pause(),
                b"resume" => self.resume(),
                other => complain(format_args!("no such command: {:?}", String::from_utf8_lossy(other))),
            }
        }
        if self.pending.len() > COMMAND_LIMIT {
            self.pending.clear();
        }
    }

    fn begin_stop(&mut self, grade: Grade, grace: Duration) {
        let kill_at = Instant::now() + grace;
        match &mut self.stop {
            // Asked again: it can only come sooner. The tree has had its signal, and may take a second one for impatience.
            Some(stop) => {
                stop.grade = stop.grade.max(grade);
                stop.kill_at = stop.kill_at.min(kill_at);
                self.state.stopping = Some(stop.grade);
            }
            None => {
                if let Err(why) = terminate() {
                    return self.refuse(Verb::Stop, why);
                }
                self.stop = Some(Stop { grade, kill_at, killed: false });
                self.state = State { paused: false, stopping: Some(grade), ..self.state.clone() };
            }
        }
        self.write_state();
    }

    fn pause(&mut self) {
        if self.stop.is_some() {
            return;
        }
        match still(PAUSE_LIMIT) {
            // It has ended, which is told next.
            Ok(frozen) if frozen.tree.is_empty() => {}
            Ok(frozen) => {
                self.stopped.extend(frozen.stopped);
                self.state.paused = true;
                self.write_state();
            }
            Err(why) => self.refuse(Verb::Pause, why),
        }
    }

    fn resume(&mut self) {
        if self.stop.is_some() {
            return;
        }
        tree::thaw(own_pid(), &std::mem::take(&mut self.stopped));
        self.state.paused = false;
        self.write_state();
    }

    fn refuse(&mut self, what: Verb, why: String) {
        let refused = &mut self.state.refused;
        let number = refused.last().map_or(0, |refusal| refusal.number) + 1;
        refused.push(Refusal { number, what, why: clip(&why, TEXT_LIMIT) });
        if refused.len() > REFUSALS_KEPT {
            refused.remove(0);
        }
        self.write_state();
    }

    fn write_state(&self) {
        let draft = self.dir.join(format!(".{STATE}"));
        let written = serde_json::to_vec(&self.state)
            .map_err(Into::into)
            .and_then(|state| fs::write(&draft, state))
            .and_then(|()| fs::rename(&draft, self.dir.join(STATE)));
        if let Err(error) = written {
            complain(format_args!("the state could not be noted: {error}"));
        }
    }

    /// Kills what is left of the tree, and returns what would not go.
    fn sweep(&mut self) -> Option<Vec<Process>> {
        let deadline = Instant::now() + SWEEP_LIMIT;
        while !self.bury() {
            let left = tree::descendants(own_pid()).unwrap_or_else(|error| {
                complain(format_args!("the processes can't be listed: {error}"));
                Vec::new()
            });
            let over = Instant::now() >= deadline;
            for process in &left {
                if let Err(error) = tree::send(process.id, Signal::KILL)
                    && over
                {
                    complain(format_args!("process {} was not killed: {error}", process.id.pid));
                }
            }
            if over {
                return Some(left);
            }
            thread::sleep(SWEEP_PAUSE);
        }
        None
    }

    fn text(&self, interrupted: Option<&str>, left: Option<&[Process]>) -> String {
        let end = self.end.as_ref();
        let mut text = match (end.and_then(|end| end.exit_code), end.and_then(|end| end.signal)) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "how it ended is unknown".to_owned(),
        };
        if let Some(stop) = &self.stop {
            let how = if stop.killed { ", killed when its time was up" } else { "" };
            text = format!("stopped on request ({}{how}): {text}", stop.grade);
        } else if let Some(by) = interrupted {
            text = format!("interrupted by SIGTERM from {by}: {text}");
        } else if end.and_then(|end| end.exit_code) != Some(0)
            && let Some(words) = last_words(&self.dir.join(OUTPUT))
        {
            text = format!("{text}; last output: {words}");
        }
        clip(&text, TEXT_LIMIT)
            + &left.map_or(String::new(), |left| {
                format!("; {} of its processes could not be killed: {}", left.len(), tree::names(left))
            })
    }
}

/// Tells all of the tree to end, exactly once: what a handler starts to clean up is not told, because everything stands
/// still until all have been told.
fn terminate() -> Result<(), String> {
    let frozen = tree::freeze(own_pid(), STOP_FREEZE_LIMIT).map_err(|error| unlisted(&error))?;
    if !frozen.barred.is_empty() {
        return Err(barred(&frozen));
    }
    for process in &frozen.tree {
        if let Err(error) = tree::send(process.id, Signal::TERM) {
            complain(format_args!("process {} was not told to end: {error}", process.id.pid));
        }
    }
    // Also what stood still before: it does not get the signal before it goes on.
    tree::thaw(own_pid(), &frozen.tree.iter().map(|process| process.id).collect());
    Ok(())
}

/// Makes all of the tree stand still, or leaves it as it was and tells why.
fn still(patience: Duration) -> Result<Frozen, String> {
    let frozen = tree::freeze(own_pid(), patience).map_err(|error| unlisted(&error))?;
    if !frozen.barred.is_empty() {
        return Err(barred(&frozen));
    }
    if !frozen.restless.is_empty() {
        tree::thaw(own_pid(), &frozen.stopped);
        return Err(format!(
            "{} of its {} processes did not stand still within {} s, and all go on: {}",
            frozen.restless.len(),
            frozen.tree.len(),
            patience.as_secs(),
            tree::names(&frozen.restless)
        ));
    }
    Ok(frozen)
}

fn unlisted(error: &io::Error) -> String {
    format!("its processes can't be listed, and all go on: {error}")
}

fn barred(frozen: &Frozen) -> String {
    format!(
        "{} of its {} processes belong to another user and can't be reached, and all go on: {}",
        frozen.barred.len(),
        frozen.tree.len(),
        tree::names(&frozen.barred)
    )
}

/// For people: who sent a signal. The kernel tells no id of a process outside of what this one can see.
fn told_by(sender: Option<i32>) -> String {
    match sender {
        Some(pid) if pid > 0 => match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("process {pid} ({})", name.trim_end()),
            Err(_) => format!("process {pid}"),
        },
        Some(_) | None => "outside of this system".to_owned(),
    }
}

/// The last line that is no report, if there is one: mostly that is why it failed.
fn last_words(output: &Path) -> Option<String> {
    const END: u64 = 4096;
    let mut file = File::open(output).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END))).ok()?;
    let mut bytes = Vec::new();
    file.take(END).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line =
        text.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with("::reloop "))?;
    let plain: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(clip(&plain, LAST_WORDS))
}

/// Does not return before the outcome is on disk: the lock stays held until then, and the run counts as running. That is
/// the lesser evil, since an outcome that is lost here nobody can ever find out.
fn record(dir: &Path, exit: &Exit) {
    let bytes = serde_json::to_vec(exit).expect("numbers and text are always JSON");
    let mut pause = Duration::from_millis(100);
    while let Err(error) = durable::write_file(&dir.join(EXIT), &bytes, 0o600) {
        if !dir.is_dir() {
            // Somebody removed the run: there is nothing left that could tell, and nobody to be told.
            complain(format_args!("{} is gone, and the outcome with it: {error}", dir.display()));
            return;
        }
        complain(format_args!("the outcome can't be written, trying again: {error}"));
        // Gone already at the second try; then only the disk's owner can help.
        let _ = fs::remove_file(dir.join(RESERVE));
        thread::sleep(pause);
        pause = (pause * 2).min(RETRY_LIMIT);
    }
    // What was kept aside is of no use now, and goes with the directory at the latest.
    let _ = fs::remove_file(dir.join(RESERVE));
}

fn complain(what: std::fmt::Arguments<'_>) {
    // Into the run's log. If that can't be written either, there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{what}");
}
