//! The tiny parent of one job: `reloop-slave runner <run_dir>`.
//!
//! It exists so that somebody is there to see how the program ends when the agent is not: killed, upgraded, restarted.
//! Its files and the rules about them are described in [`process`](super::process). It does five things: takes the lock,
//! writes `started`, executes the program, does what comes through the FIFO, and writes `exit`. It has a session of its own,
//! survives SIGTERM, SIGHUP and SIGINT (at a shutdown those reach everybody, and its work is to see the program end), and
//! adopts whatever the program leaves behind, so that nothing of a job moves a machine after the job has ended.

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
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, kill_process_group,
    pidfd_open, set_child_subreaper, setsid, wait, waitid,
};
use tokio::signal::unix::{SignalKind, signal};

use super::process::{
    CHILD, CONTROL, ChildId, EXIT, Exit, LOCK, OUTPUT, PLAN, Plan, STARTED, STATE, Started, State, VOID,
    WORK, read_json,
};
use super::{Grade, TEXT_LIMIT, clip, wall_ms};

/// The grace of a stop at once: long enough for a handler that switches a spindle off, short enough to be called now.
const NOW_GRACE: Duration = Duration::from_secs(2);
/// How often it buries the program's orphans, and looks for the program's end should the kernel have no pidfd.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How long it chases what the program left behind. What can't be killed by then hangs in the kernel.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);
const SWEEP_PAUSE: Duration = Duration::from_millis(20);
/// Between two tries to write down how it ended, on a disk that takes nothing; at most.
const RETRY_LIMIT: Duration = Duration::from_secs(10);
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
    let _signals = survive()?;
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
    let started = Started { at_ms: wall_ms(), boot: plan.boot };
    if let Err(error) = durable::write_file(&dir.join(STARTED), &serde_json::to_vec(&started)?, 0o600) {
        // Nothing was executed, and nothing may say that it was.
        let _ = fs::remove_file(dir.join(STARTED));
        return Err(error);
    }

    let exit = match execute(dir, &plan, &lock, &output) {
        Ok(pid) => {
            Job { dir, plan: &plan, pid, control, pending: Vec::new(), stop: None, paused: false }.attend()
        }
        Err(error) => Exit {
            at_ms: wall_ms(),
            exit_code: None,
            signal: None,
            stop_requested: false,
            // The system executes a program or says why not: nothing began.
            not_begun: true,
            text: format!("could not execute {}: {error}", plan.argv[0]),
        },
    };
    record(dir, &exit);
    Ok(())
}

/// Handlers, not ignored signals: those would be inherited by the program.
fn survive() -> io::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    {
        let _context = runtime.enter();
        for kind in [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()] {
            // The handler stays for the life of the process; nobody needs to hear of the signals.
            drop(signal(kind)?);
        }
    }
    Ok(runtime)
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

/// The program while it lives.
struct Job<'a> {
    dir: &'a Path,
    plan: &'a Plan,
    /// Of the program, and of its process group. It is not waited for until the group is dead, so it can't be another's.
    pid: Pid,
    control: File,
    /// The beginning of a command.
    pending: Vec<u8>,
    stop: Option<Stop>,
    paused: bool,
}

struct Stop {
    grade: Grade,
    kill_at: Instant,
    killed: bool,
}

impl Job<'_> {
    fn attend(mut self) -> Exit {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty()).ok();
        let (exit_code, signal) = loop {
            if let Some(status) = self.status() {
                break status;
            }
            self.bury_orphans();
            self.wait(pidfd.as_ref());
            // First the end, then commands: one that came too late must not turn a success into a stop.
            if let Some(status) = self.status() {
                break status;
            }
            self.obey();
            if let Some(stop) = &mut self.stop
                && !stop.killed
                && stop.kill_at <= Instant::now()
            {
                stop.killed = true;
                self.signal(Signal::KILL);
            }
        };
        let at_ms = wall_ms();
        let left = self.sweep();
        let text = self.text(exit_code, signal, left);
        Exit { at_ms, exit_code, signal, stop_requested: self.stop.is_some(), not_begun: false, text }
    }

    /// Exit code or signal, once it has ended. It stays a zombie.
    fn status(&self) -> Option<(Option<i32>, Option<i32>)> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.pid), options) {
            Ok(Some(status)) => Some((status.exit_status(), status.terminating_signal())),
            Ok(None) | Err(Errno::INTR) => None,
            Err(error) => {
                complain(format_args!("the program can't be waited for: {error}"));
                Some((None, None))
            }
        }
    }

    fn wait(&self, pidfd: Option<&OwnedFd>) {
        let mut longest = HOUSEKEEPING;
        if let Some(stop) = self.stop.as_ref().filter(|stop| !stop.killed) {
            longest = longest.min(stop.kill_at.saturating_duration_since(Instant::now()));
        }
        let timeout = Timespec::try_from(longest).expect("at most a second");
        let mut fds = vec![PollFd::new(&self.control, PollFlags::IN)];
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
                b"stop safe_point" => {
                    self.begin_stop(Grade::SafePoint, Duration::from_millis(self.plan.stop_grace_ms));
                }
                b"stop now" => self.begin_stop(Grade::Now, NOW_GRACE),
                b"pause" => self.set_paused(true),
                b"resume" => self.set_paused(false),
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
            // Asked again: it can only come sooner. The program has had its signal, and may take a second one for impatience.
            Some(stop) => {
                stop.grade = stop.grade.max(grade);
                stop.kill_at = stop.kill_at.min(kill_at);
            }
            None => {
                self.stop = Some(Stop { grade, kill_at, killed: false });
                self.paused = false;
                self.signal(Signal::TERM);
                // What stands still does not get the signal before it goes on.
                self.signal(Signal::CONT);
            }
        }
        self.write_state();
    }

    fn set_paused(&mut self, paused: bool) {
        if self.stop.is_some() {
            return;
        }
        self.signal(if paused { Signal::STOP } else { Signal::CONT });
        self.paused = paused;
        self.write_state();
    }

    fn signal(&self, signal: Signal) {
        match kill_process_group(self.pid, signal) {
            // All of it has ended in the meantime.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => complain(format_args!("{signal:?} was not delivered: {error}")),
        }
    }

    fn write_state(&self) {
        let state = State { paused: self.paused, stopping: self.stop.as_ref().map(|stop| stop.grade) };
        let draft = self.dir.join(format!(".{STATE}"));
        let written = serde_json::to_vec(&state)
            .map_err(Into::into)
            .and_then(|state| fs::write(&draft, state))
            .and_then(|()| fs::rename(&draft, self.dir.join(STATE)));
        if let Err(error) = written {
            complain(format_args!("the state could not be noted: {error}"));
        }
    }

    /// Orphans of the program become this process's children. Those that have ended are waited for, one by one and by name,
    /// because waiting for any would take the program itself along.
    fn bury_orphans(&self) {
        for pid in children().into_iter().filter(|pid| *pid != self.pid) {
            // It fails for what is no longer a child, which is what was wanted.
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }

    /// Kills what the program left behind, and returns how much of it would not go.
    fn sweep(&self) -> usize {
        self.signal(Signal::KILL);
        let deadline = Instant::now() + SWEEP_LIMIT;
        loop {
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
            let left = children();
            if left.is_empty() || deadline <= Instant::now() {
                return left.len();
            }
            for pid in left {
                // A child that has ended in the meantime is still there as a zombie: it can't be somebody else's id.
                if let Err(error) = kill_process(pid, Signal::KILL) {
                    complain(format_args!("process {pid:?} was not killed: {error}"));
                }
            }
            thread::sleep(SWEEP_PAUSE);
        }
    }

    fn text(&self, exit_code: Option<i32>, signal: Option<i32>, left: usize) -> String {
        let mut text = match (exit_code, signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "how it ended is unknown".to_owned(),
        };
        if let Some(stop) = &self.stop {
            let how = if stop.killed { ", killed when its time was up" } else { "" };
            text = format!("stopped on request ({}{how}): {text}", stop.grade);
        } else if exit_code != Some(0)
            && let Some(words) = last_words(&self.dir.join(OUTPUT))
        {
            text = format!("{text}; last output: {words}");
        }
        if left > 0 {
            text = format!("{text}; {left} of its processes could not be killed");
        }
        clip(&text, TEXT_LIMIT)
    }
}

/// This process's children; none if the kernel does not list them.
fn children() -> Vec<Pid> {
    let own = getpid().as_raw_nonzero();
    let Ok(list) = fs::read_to_string(format!("/proc/self/task/{own}/children")) else { return Vec::new() };
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)).collect()
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
