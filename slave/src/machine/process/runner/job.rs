//! The program and its descendants, from the execution of the program until nothing of it lives.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use reloop_node::clock::wall_ms;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, wait};
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;

use super::log::complain;
use super::steer::{hold_still, terminate};
use crate::machine::process::files::{Exit, OUTPUT, Plan, Refusal, Refused, STATE, State, StopMode};
use crate::machine::process::freeze::thaw;
use crate::machine::process::tree::{self, Process, ProcessId, own_pid};
use crate::machine::types::{TEXT_LIMIT, clip};

/// The grace period of a stop at once: long enough for a handler that switches a spindle off.
const NOW_GRACE: Duration = Duration::from_secs(2);
/// How often ended orphans of the program are waited for; on kernels without pidfds the program's end is seen then too.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// After the end of the program, how often the end of the rest of the tree is looked for: no event tells of that.
const REST_INTERVAL: Duration = Duration::from_millis(50);
/// How long a pause may take to stop the whole tree. A process that hangs in the kernel for longer does not count as paused.
const PAUSE_LIMIT: Duration = Duration::from_secs(2);
/// An end within this time after a SIGTERM from outside counts as its consequence: twice the time that systemd waits by
/// default at a shutdown before it kills what is left (`DefaultTimeoutStopSec`, 90 s). A box that is up after that was not
/// shut down.
const SHUTDOWN_WINDOW: Duration = Duration::from_secs(180);
/// How long processes that the program left behind are killed again and again. One that lives on hangs in the kernel.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);
const SWEEP_PAUSE: Duration = Duration::from_millis(20);
/// Refusals that an agent has not read: it reads within a fraction of a second, and after a restart it asks again.
const REFUSALS_KEPT: usize = 4;
/// Longer than any command.
const COMMAND_LIMIT: usize = 256;
/// How much of the program's last line goes into the text of a failure.
const LAST_LINE: usize = 300;

pub(super) struct Job<'a> {
    dir: &'a Path,
    plan: &'a Plan,
    /// The program's process.
    pid: Pid,
    signals: SignalsInfo<WithOrigin>,
    control: File,
    /// The beginning of a command whose rest has not come yet.
    pending: Vec<u8>,
    /// As it is on disk.
    state: State,
    /// The processes that a pause has stopped, and that a resume lets go on.
    stopped: BTreeSet<ProcessId>,
    stop: Option<Stop>,
    sigterm: Option<Sigterm>,
    end: Option<ProgramEnd>,
}

struct Stop {
    mode: StopMode,
    kill_at: Instant,
    is_killed: bool,
}

/// A SIGTERM that came to the runner from outside of its run.
struct Sigterm {
    at: Instant,
    by: String,
}

/// The end of the program; its descendants may live on.
struct ProgramEnd {
    at: Instant,
    exit_code: Option<i32>,
    signal: Option<i32>,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        dir: &'a Path,
        plan: &'a Plan,
        pid: Pid,
        signals: SignalsInfo<WithOrigin>,
        control: File,
    ) -> Self {
        Self {
            dir,
            plan,
            pid,
            signals,
            control,
            pending: Vec::new(),
            state: State::default(),
            stopped: BTreeSet::new(),
            stop: None,
            sigterm: None,
            end: None,
        }
    }

    /// Obeys commands until the program has ended, then ends what it left behind.
    pub(super) fn attend(mut self) -> Exit {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty()).ok();
        loop {
            let is_alone = self.wait_for_ended();
            self.note_signals();
            // Look for the end before reading commands: a stop that comes too late must not turn a success into a stop.
            if is_alone || self.end.is_some() && self.rest_until().is_none() {
                break;
            }
            self.obey();
            if self.kill_at().is_some_and(|at| at <= Instant::now()) {
                if let Some(stop) = &mut self.stop {
                    stop.is_killed = true;
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

    /// Waits for every child that has ended. True if no child is left: orphans become children of this process, so then it
    /// has no descendants either.
    fn wait_for_ended(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                // After the program was waited for, its id may belong to another process.
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

    fn note_signals(&mut self) {
        let signals: Vec<_> = self.signals.pending().filter(|origin| origin.signal == SIGTERM).collect();
        for origin in signals {
            let sender = origin.process.map(|process| process.pid);
            let own = tree::descendants(own_pid()).unwrap_or_default();
            if sender.is_some_and(|sender| own.iter().any(|process| process.id.pid == sender)) {
                complain(format_args!(
                    "a process of this run sent SIGTERM to its runner, which passes it over"
                ));
            } else if self.end.is_none() || self.sigterm.is_none() {
                // The end is looked for first, so the first signal seen after it was sent before the end was seen; later
                // ones change nothing.
                self.sigterm = Some(Sigterm { at: Instant::now(), by: sender_name(sender) });
            }
        }
    }

    /// Who brought the end about, if it was neither the program itself nor a stop.
    fn interrupted(&self) -> Option<String> {
        let (Some(sigterm), Some(end), None) = (&self.sigterm, &self.end, &self.stop) else { return None };
        let follows = end.at.saturating_duration_since(sigterm.at) <= SHUTDOWN_WINDOW;
        follows.then(|| sigterm.by.clone())
    }

    /// Until when the rest of the tree may end by itself after the program has ended: a stop and a shutdown give the whole
    /// tree the same grace period. After any other end there is none.
    fn rest_until(&self) -> Option<Instant> {
        if let Some(stop) = &self.stop {
            return Some(stop.kill_at);
        }
        self.interrupted()?;
        self.sigterm.as_ref()?.at.checked_add(self.grace())
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
        // The handle of a program that has ended is always ready.
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
                b"stop safe_point" => self.begin_stop(StopMode::SafePoint, self.grace()),
                b"stop now" => self.begin_stop(StopMode::Now, NOW_GRACE),
                b"pause" => self.pause(),
                b"resume" => self.resume(),
                other => complain(format_args!("no such command: {:?}", String::from_utf8_lossy(other))),
            }
        }
        if self.pending.len() > COMMAND_LIMIT {
            self.pending.clear();
        }
    }

    fn begin_stop(&mut self, mode: StopMode, grace: Duration) {
        let kill_at = Instant::now() + grace;
        match &mut self.stop {
            // A second stop can only make the kill come sooner. The tree is not told again: a program may take a second
            // signal for impatience.
            Some(stop) => {
                stop.mode = stop.mode.max(mode);
                stop.kill_at = stop.kill_at.min(kill_at);
                self.state.stopping = Some(stop.mode);
            }
            None => {
                if let Err(why) = terminate() {
                    return self.refuse(Refused::Stop, why);
                }
                self.stop = Some(Stop { mode, kill_at, is_killed: false });
                self.state = State { paused: false, stopping: Some(mode), ..self.state.clone() };
            }
        }
        self.write_state();
    }

    fn pause(&mut self) {
        if self.stop.is_some() {
            return;
        }
        match hold_still(PAUSE_LIMIT) {
            // The run has ended, which is reported next.
            Ok(frozen) if frozen.tree.is_empty() => {}
            Ok(frozen) => {
                self.stopped.extend(frozen.stopped);
                self.state.paused = true;
                self.write_state();
            }
            Err(why) => self.refuse(Refused::Pause, why),
        }
    }

    fn resume(&mut self) {
        if self.stop.is_some() {
            return;
        }
        thaw(own_pid(), &std::mem::take(&mut self.stopped));
        self.state.paused = false;
        self.write_state();
    }

    fn refuse(&mut self, what: Refused, why: String) {
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

    /// Kills the rest of the tree, and returns the processes that live on.
    fn sweep(&mut self) -> Option<Vec<Process>> {
        let deadline = Instant::now() + SWEEP_LIMIT;
        while !self.wait_for_ended() {
            let left = tree::descendants(own_pid()).unwrap_or_else(|error| {
                complain(format_args!("the processes can't be listed: {error}"));
                Vec::new()
            });
            let is_over = Instant::now() >= deadline;
            for process in &left {
                if let Err(error) = tree::send(process.id, Signal::KILL)
                    && is_over
                {
                    complain(format_args!("process {} was not killed: {error}", process.id.pid));
                }
            }
            if is_over {
                return Some(left);
            }
            thread::sleep(SWEEP_PAUSE);
        }
        None
    }

    /// For people: how the run ended.
    fn text(&self, interrupted: Option<&str>, left: Option<&[Process]>) -> String {
        let end = self.end.as_ref();
        let mut text = match (end.and_then(|end| end.exit_code), end.and_then(|end| end.signal)) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "how it ended is unknown".to_owned(),
        };
        if let Some(stop) = &self.stop {
            let how = if stop.is_killed { ", killed when its time was up" } else { "" };
            text = format!("stopped on request ({}{how}): {text}", stop.mode.name());
        } else if let Some(by) = interrupted {
            text = format!("interrupted by SIGTERM from {by}: {text}");
        } else if end.and_then(|end| end.exit_code) != Some(0)
            && let Some(line) = last_line(&self.dir.join(OUTPUT))
        {
            text = format!("{text}; last output: {line}");
        }
        clip(&text, TEXT_LIMIT)
            + &left.map_or(String::new(), |left| {
                format!("; {} of its processes could not be killed: {}", left.len(), tree::names(left))
            })
    }
}

/// For people: who sent a signal. The kernel tells no id if this process cannot see the sender.
fn sender_name(sender: Option<i32>) -> String {
    match sender {
        Some(pid) if pid > 0 => match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("process {pid} ({})", name.trim_end()),
            Err(_) => format!("process {pid}"),
        },
        Some(_) | None => "outside of this system".to_owned(),
    }
}

/// The last line of the output that is no report. It usually says why the program failed.
fn last_line(output: &Path) -> Option<String> {
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
    Some(clip(&plain, LAST_LINE))
}
