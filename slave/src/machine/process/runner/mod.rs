//! The small parent process of one run: `reloop-slave runner <run_dir>`.
//!
//! It is there to see how the program ends when the agent is not: killed, upgraded, restarted. The files that it reads and
//! writes are described in the parent module. It takes the lock, writes `started`, executes the program, obeys the commands
//! that come through the FIFO, and writes `exit`. It has a session of its own and becomes the parent of whatever the program
//! leaves behind, so that nothing of a run moves a machine after the run has ended.
//!
//! It survives the signals that usually end a process. A SIGTERM from outside of its run is noted, because a shutdown
//! sends it to every process: an end of the program that follows is an interruption, whatever the program returned.

mod job;
mod log;
mod steer;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use reloop_node::clock::wall_ms;
use reloop_node::durable;
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, getpid, set_child_subreaper, setsid};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;

use self::job::Job;
use self::log::complain;
use super::files::{
    CHILD, CONTROL, ChildId, EXIT, Exit, LOCK, OUTPUT, PLAN, Plan, STARTED, Started, VOID, WORK, exists,
    nonblocking, read_json,
};
use super::tree::{Process, own_pid};

/// The longest pause between two attempts to write the outcome to a disk that takes nothing.
const RETRY_LIMIT: Duration = Duration::from_secs(10);
/// A file that takes up space until the end, so that there is room for the outcome of a program that fills the disk.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: usize = 16 * 1024;

/// Runs the program of this directory from beginning to end. Succeeds if the outcome is on disk, or if there is nothing to do.
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
        // The leader of a process group may not; it was started by hand then, and has a session.
        Ok(_) | Err(Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let signals = survive()?;
    // Open the FIFO before taking the lock: whoever finds the lock held finds a reader of commands. It is opened for writing
    // too, so that it has no end of file.
    let control =
        OpenOptions::new().read(true).write(true).custom_flags(nonblocking()).open(dir.join(CONTROL))?;
    let lock = OpenOptions::new().write(true).open(dir.join(LOCK))?;
    loop {
        match flock(&lock, FlockOperation::LockExclusive) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if exists(dir, VOID) {
        return Ok(());
    }
    if exists(dir, STARTED) {
        return Err(io::Error::other("this run was begun before, and never begins twice"));
    }
    let plan: Plan = read_json(dir, PLAN)?.ok_or_else(|| io::Error::other("there is no plan"))?;
    let output = OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join(OUTPUT))?;
    durable::write_file(&dir.join(RESERVE), &[b'\n'; RESERVE_BYTES], 0o600)?;
    set_child_subreaper(Some(getpid()))?;
    let runner = Process::read(own_pid()).ok().flatten().map(|process| process.id);
    let started = Started { at_ms: wall_ms(), boot: plan.boot, runner };
    if let Err(error) = durable::write_file(&dir.join(STARTED), &serde_json::to_vec(&started)?, 0o600) {
        // Nothing was executed, so no file may say that it was.
        let _ = fs::remove_file(dir.join(STARTED));
        return Err(error);
    }

    let exit = match execute(dir, &plan, &lock, &output) {
        Ok(pid) => Job::new(dir, &plan, pid, signals, control).attend(),
        Err(error) => Exit {
            at_ms: wall_ms(),
            exit_code: None,
            signal: None,
            stop_requested: false,
            // The system either executes a program or says why it does not.
            not_begun: true,
            text: format!("could not execute {}: {error}", plan.argv[0]),
            interrupted: None,
            left: None,
        },
    };
    record(dir, &exit);
    Ok(())
}

/// Installs handlers for the signals: if they were ignored, the program would inherit that.
fn survive() -> io::Result<SignalsInfo<WithOrigin>> {
    SignalsInfo::new([SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM])
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

/// Returns when the outcome is on disk. Until then the lock is held and the run counts as alive: an outcome that is lost here
/// could never be found out again.
fn record(dir: &Path, exit: &Exit) {
    let bytes = serde_json::to_vec(exit).expect("numbers and text are always JSON");
    let mut pause = Duration::from_millis(100);
    while let Err(error) = durable::write_file(&dir.join(EXIT), &bytes, 0o600) {
        if !dir.is_dir() {
            // Somebody has removed the run's directory: nobody can ask for the outcome any more.
            complain(format_args!("{} is gone, and the outcome with it: {error}", dir.display()));
            return;
        }
        complain(format_args!("the outcome can't be written, trying again: {error}"));
        // It is there at the first attempt only; after that a person has to make room.
        let _ = fs::remove_file(dir.join(RESERVE));
        thread::sleep(pause);
        pause = (pause * 2).min(RETRY_LIMIT);
    }
    // If this fails, the file goes with the directory.
    let _ = fs::remove_file(dir.join(RESERVE));
}
