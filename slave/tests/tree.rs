//! A run is its whole process tree: a pause, a stop, a proof and an outcome hold for every process of it, however the
//! program wraps, detaches or hides them.

#![allow(clippy::unwrap_used, reason = "also the helpers of a test may")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use reloop_protocol::job::End;
use reloop_protocol::slave::{Ended, Fact, Probed, RunKey};
use reloop_slave::machine::{Command, process};
use rustix::process::{Pid, Signal, getuid, kill_process};
use support::{Agent, Scratch, group, key, until};

/// `sh` with a script from the order, and a grace that no test waits for.
const SH: &str = r#"
[programs.sh]
driver = "process"
command = ["/bin/sh", "-c", "{script}", "sh"]
stop_grace_seconds = 600
[programs.sh.params]
script = { pattern = "(?s).*" }
"#;

/// The same with a short grace.
const HASTY: &str = r#"
[programs.sh]
driver = "process"
command = ["/bin/sh", "-c", "{script}", "sh"]
stop_grace_seconds = 1
[programs.sh.params]
script = { pattern = "(?s).*" }
"#;

/// Moves until it is told to stop, then parks.
const WORKER: &str = "
trap 'echo parked >>moves; exit 0' TERM
echo $$ >>pids
while :; do echo moved >>moves; sleep 0.02; done
";

/// Moves and hears nothing.
const DEAF: &str = "
trap '' TERM HUP INT
echo $$ >>pids
while :; do echo moved >>moves; sleep 0.02; done
";

/// When told to stop it waits until the file `gate` is there.
const SLOW: &str = "
trap 'while ! [ -e gate ]; do sleep 0.02; done; echo parked >>moves; exit 0' TERM
echo $$ >>pids
while :; do echo moved >>moves; sleep 0.02; done
";

/// Gives up what it was given, as a daemon does, then moves. Its argument lists the steps.
const DAEMON: &str = r#"
import os, sys, time
steps = sys.argv[1].split(",")
moves, pids = os.path.abspath("moves"), os.path.abspath("pids")
if "fork" in steps and os.fork():
    os._exit(0)
if "setsid" in steps:
    os.setsid()
if "fork" in steps and os.fork():
    os._exit(0)
if "close" in steps:
    os.closerange(3, 1024)
if "all" in steps:
    os.closerange(0, 1024)
    os.chdir("/")
if "exec" in steps:
    # A new image without the old environment.
    env = {}
    script = "echo $$ >>%s; while :; do echo moved >>%s; sleep 0.02; done" % (pids, moves)
    os.execve("/bin/sh", ["sh", "-c", script], env)
with open(pids, "a") as file:
    file.write("%d\n" % os.getpid())
while True:
    with open(moves, "a") as file:
        file.write("moved\n")
    time.sleep(0.02)
"#;

/// One run with its files. When it is dropped, it kills the processes that are left.
struct Rig {
    scratch: Scratch,
    agent: Agent,
    key: RunKey,
}

impl Rig {
    fn new(table: &str) -> Self {
        let scratch = Scratch::new();
        for (name, text) in [("worker", WORKER), ("deaf", DEAF), ("slow", SLOW), ("daemon", DAEMON)] {
            fs::write(scratch.path().join(name), text).unwrap();
        }
        let agent = Agent::new(scratch.path(), table);
        Self { scratch, agent, key: key(1) }
    }

    /// Starts the script, in which `@` stands for the directory of the workers' scripts, and waits until so many workers move.
    fn start(&mut self, script: &str, workers: usize) {
        let script = script.replace('@', self.scratch.path().to_str().unwrap());
        self.agent.start(self.key, "sh", &[("script", &script)]);
        self.agent.expect(self.key, Fact::Started);
        until("all workers are up", || self.workers().len() == workers);
        until("something moves", || self.moves() > 2);
    }

    fn dir(&self) -> PathBuf {
        process::run_dir(self.scratch.path(), self.key)
    }

    fn work(&self, file: &str) -> PathBuf {
        self.dir().join("work").join(file)
    }

    fn workers(&self) -> Vec<Pid> {
        let pids = fs::read_to_string(self.work("pids")).unwrap_or_default();
        pids.lines().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
    }

    fn moves(&self) -> usize {
        fs::read_to_string(self.work("moves")).unwrap_or_default().lines().count()
    }

    fn parked(&self) -> bool {
        fs::read_to_string(self.work("moves")).unwrap_or_default().contains("parked")
    }

    fn runner(&self) -> Pid {
        let stat = stat(group(&self.dir())).unwrap();
        Pid::from_raw(stat[1].parse().unwrap()).unwrap()
    }

    fn kill_runner(&self) {
        let runner = self.runner();
        kill_process(runner, Signal::KILL).unwrap();
        until("the runner is dead", || is_dead(runner));
    }

    fn probe(&mut self) -> Probed {
        self.agent.probe(self.key, "sh")
    }

    /// What the watch reports after the runner was killed.
    fn doubt(&mut self) -> String {
        match self.agent.fact(self.key) {
            Fact::Probed(Probed::Unknown(why)) => why,
            other => panic!("no doubt: {other:?}"),
        }
    }

    fn pause(&mut self) {
        self.agent.machines.command(Command::Pause(self.key));
        self.agent.expect(self.key, Fact::Paused);
    }

    fn resume(&mut self) {
        self.agent.machines.command(Command::Resume(self.key));
        self.agent.expect(self.key, Fact::Resumed);
    }

    fn stop(&mut self) -> Ended {
        self.agent.stop(self.key);
        loop {
            match self.agent.fact(self.key) {
                // A paused run goes on in order to stop.
                Fact::Resumed => {}
                Fact::Ended(ended) => return ended,
                other => panic!("not the end: {other:?}"),
            }
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for pid in self.workers().into_iter().filter(|pid| !is_dead(*pid)) {
            // It may have ended this very moment.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The fields of proc_pid_stat(5) from the third on, if there is such a process.
fn stat(pid: Pid) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace().map(str::to_owned).collect())
}

fn is_dead(pid: Pid) -> bool {
    stat(pid).is_none_or(|stat| stat[0] == "Z")
}

fn stands_still(pid: Pid) -> bool {
    stat(pid).is_some_and(|stat| stat[0] == "T")
}

/// The real user.
fn owner(pid: Pid) -> u32 {
    let status = fs::read_to_string(format!("/proc/{}/status", number(pid))).unwrap();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    uids.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

fn number(pid: Pid) -> String {
    pid.as_raw_nonzero().to_string()
}

/// The processes that the text tells a person to kill.
fn numbers(why: &str) -> Vec<Pid> {
    let (_, command) = why.split_once("`kill -9 ").unwrap_or_else(|| panic!("what to do? {why}"));
    let (pids, _) = command.split_once('`').unwrap();
    pids.split(' ').map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
}

/// Ways in which a program's processes leave its process group, its session or its parent.
const DETACHED: [(&str, &str); 7] = [
    ("timeout", "timeout 3600 sh @/worker"),
    ("setsid", "setsid sh @/worker & wait"),
    ("set -m", "set -m; sh @/worker & wait"),
    ("set -m in front", "set -m; sh @/worker; echo moved on >>moves; sh @/deaf"),
    ("double fork", "(setsid sh @/worker &); while :; do sleep 0.02; done"),
    ("wrapper", "sh @/worker; true"),
    ("deep", "timeout 3600 setsid -w sh -c 'timeout 3600 sh @/worker; true'; true"),
];

#[test]
fn a_pause_stands_for_the_whole_tree_and_a_resume_too() {
    for (how, script) in DETACHED {
        let mut rig = Rig::new(SH);
        rig.start(script, 1);
        rig.pause();
        // All of it stands still already when the pause is reported.
        assert!(rig.workers().into_iter().all(stands_still), "{how}: it moves and is called paused");
        let moves = rig.moves();
        assert!(matches!(rig.probe(), Probed::Alive { paused: true, .. }), "{how}");
        assert_eq!(rig.moves(), moves, "{how}");
        rig.resume();
        until("it moves again", || rig.moves() > moves + 2);
        assert_eq!(rig.workers().len(), 1, "{how}: it went on as if it had never stood still");
        rig.pause();
        let ended = rig.stop();
        assert_eq!(ended.end, End::Stopped, "{how}");
        assert!(rig.parked(), "{how}: it was told politely, out of the pause");
    }
}

#[test]
fn a_stop_is_told_to_the_whole_tree() {
    for (how, script) in DETACHED {
        let mut rig = Rig::new(SH);
        rig.start(script, 1);
        let worker = rig.workers()[0];
        let ended = rig.stop();
        assert_eq!(ended.end, End::Stopped, "{how}: {ended:?}");
        assert!(rig.parked(), "{how}: it was not told");
        assert!(is_dead(worker), "{how}");
    }
}

#[test]
fn what_does_not_hear_is_killed_when_the_grace_is_over_wherever_it_hides() {
    for script in ["setsid sh @/deaf & wait", "timeout 3600 sh @/deaf", "(setsid sh @/deaf &); sleep 600"] {
        let mut rig = Rig::new(HASTY);
        rig.start(script, 1);
        let worker = rig.workers()[0];
        let asked = Instant::now();
        let ended = rig.stop();
        assert!(asked.elapsed() >= Duration::from_secs(1), "{script}");
        assert_eq!(ended.end, End::Stopped, "{script}");
        assert!(
            ended.outcome.text.contains("killed when its time was up"),
            "{script}: {}",
            ended.outcome.text
        );
        assert!(is_dead(worker), "{script}");
    }
}

#[test]
fn a_tree_that_grows_all_the_time_is_paused_and_stopped() {
    let mut rig = Rig::new(HASTY);
    // Each moves once and starts a successor in another session, so every list of processes is outdated at once.
    let script = "echo $$ >pids; echo 'echo moved >>moves; setsid sh next & exit' >next; sh next; sleep 600";
    rig.start(script, 1);
    rig.pause();
    let moves = rig.moves();
    assert!(matches!(rig.probe(), Probed::Alive { paused: true, .. }));
    assert_eq!(rig.moves(), moves);
    rig.resume();
    until("it moves again", || rig.moves() > moves + 2);
    assert_eq!(rig.stop().end, End::Stopped);
    let moves = rig.moves();
    assert!(matches!(rig.probe(), Probed::Ended(_)));
    assert_eq!(rig.moves(), moves);
}

#[test]
fn what_can_not_be_reached_refuses_a_pause_and_a_stop_and_all_goes_on() {
    if !getuid().is_root() {
        println!("not tried: only root can give a program to another user");
        return;
    }
    let mut rig = Rig::new(HASTY);
    let place = rig.scratch.path().display().to_string();
    let script = |name: &str, text: &str, mode: u32| {
        let path = rig.scratch.path().join(name);
        fs::write(&path, text.replace('@', &place)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    // A setuid program, like `sudo`: from there on the process is another user's.
    fs::copy("/usr/bin/setpriv", rig.scratch.path().join("become")).unwrap();
    fs::set_permissions(rig.scratch.path().join("become"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_reloop-slave"), rig.scratch.path().join("slave")).unwrap();
    fs::set_permissions(rig.scratch.path().join("slave"), fs::Permissions::from_mode(0o755)).unwrap();
    let runner = script(
        "runner",
        "#!/bin/sh
chmod 755 @ @/runs && chown -R 65534:65534 \"$2\" || exit 1
exec setpriv --reuid 65534 --regid 65534 --clear-groups @/slave \"$1\" \"$2\"
",
        0o755,
    );
    rig.agent = Agent::with_runner(rig.scratch.path(), HASTY, &runner);
    // Make the files first: the other user could not write to files of root.
    rig.start(": >>pids; : >>moves; @/become --reuid 0 sh @/worker & sh @/worker & wait", 2);
    let foreign = rig.workers().into_iter().find(|pid| owner(*pid) == 0).unwrap();

    let mut refused = |command: Command| {
        rig.agent.machines.command(command);
        let why = rig.agent.refusal(rig.key);
        assert!(why.contains("belong to another user") && why.contains(&number(foreign)), "{why}");
        assert!(matches!(rig.agent.probe(rig.key, "sh"), Probed::Alive { paused: false, .. }));
    };
    refused(Command::Pause(rig.key));
    refused(Command::Stop { key: rig.key, now: false });
    refused(Command::Pause(rig.key));
    let moves = rig.moves();
    until("all of it goes on", || rig.moves() > moves + 2 && !rig.workers().into_iter().any(stands_still));
    assert!(!rig.parked());

    // The program's end is not the run's end while the foreign process moves.
    kill_process(group(&rig.dir()), Signal::KILL).unwrap();
    let Fact::Probed(Probed::Unknown(why)) = rig.agent.fact(rig.key) else { panic!("it moves") };
    assert!(why.contains("could not be killed") && why.contains(&number(foreign)), "{why}");
    assert_eq!(rig.probe(), Probed::Unknown(why));
    kill_process(foreign, Signal::KILL).unwrap();
    until("its end is known", || matches!(rig.probe(), Probed::Ended(_)));
}

#[test]
fn the_grace_lasts_until_the_last_process_of_the_tree_has_ended() {
    for script in ["sh @/slow; true", "timeout 3600 sh @/slow", "setsid sh @/slow & wait"] {
        let mut rig = Rig::new(SH);
        rig.start(script, 1);
        let (leader, worker) = (group(&rig.dir()), rig.workers()[0]);
        rig.agent.begin_stop(rig.key);
        if !script.starts_with("timeout") {
            // `timeout` waits for its child before it ends; a shell does not.
            until("the runner has seen the leader's end", || stat(leader).is_none());
        }
        assert!(!is_dead(worker), "{script}: killed within its grace");
        fs::write(rig.work("gate"), "").unwrap();
        let ended = rig.agent.ended(rig.key);
        assert_eq!(ended.end, End::Stopped, "{script}");
        assert!(rig.parked(), "{script}");
    }
}

#[test]
fn a_second_stop_at_once_ends_the_grace() {
    let mut rig = Rig::new(SH);
    rig.start("sh @/slow; true", 1);
    let leader = group(&rig.dir());
    rig.agent.begin_stop(rig.key);
    until("the leader has ended", || is_dead(leader));
    rig.agent.stop_now(rig.key);
    let ended = rig.agent.ended(rig.key);
    assert_eq!(ended.end, End::Stopped);
    assert!(ended.outcome.text.contains("killed when its time was up"), "{}", ended.outcome.text);
    assert!(!rig.parked());
}

#[test]
fn without_its_runner_a_run_is_not_gone_while_anything_of_it_lives() {
    let hidden = [
        // As sshd does: the run's lock is closed.
        "exec python3 @/daemon close",
        "exec python3 @/daemon all",
        "python3 @/daemon fork,setsid,all; exec sleep 600",
        // Without the mark: recognized by session, parent or files.
        "exec python3 @/daemon all,exec",
        "python3 @/daemon all,exec; exec sleep 600",
        "python3 @/daemon fork,setsid,close,exec; exec sleep 600",
        "sh -c 'python3 @/daemon setsid,all,exec & trap \"\" TERM; wait' & exec sleep 600",
        // A program that hides nothing.
        "sh @/worker; true",
    ];
    std::thread::scope(|scope| {
        for script in hidden {
            scope.spawn(move || is_not_gone_while_it_lives(script));
        }
    });
}

fn is_not_gone_while_it_lives(script: &str) {
    let mut rig = Rig::new(SH);
    rig.start(script, 1);
    let (leader, worker) = (group(&rig.dir()), rig.workers()[0]);
    rig.kill_runner();
    if leader != worker {
        kill_process(leader, Signal::KILL).unwrap();
        until("the leader is dead", || is_dead(leader));
    }
    assert!(!is_dead(worker), "{script}");
    let why = rig.doubt();
    assert!(why.contains(&number(worker)), "{script}: {why}");
    // A new agent says the same.
    rig.agent = Agent::new(rig.scratch.path(), SH);
    let Probed::Unknown(why) = rig.probe() else { panic!("{script}: it moves") };
    assert!(why.contains(&number(worker)), "{script}: {why}");
    rig.agent.stop_now(rig.key);
    let why = rig.agent.refusal(rig.key);
    assert!(why.contains(&number(worker)), "{script}: {why}");
    rig.agent.machines.command(Command::Pause(rig.key));
    let why = rig.agent.refusal(rig.key);
    assert!(why.contains(&number(worker)), "{script}: {why}");

    // A person does what the text says. What a shell had started besides is found in another probe.
    until("nothing of it is left", || match rig.probe() {
        Probed::Gone => true,
        Probed::Unknown(why) => {
            for pid in numbers(&why) {
                // It may have ended this very moment.
                let _ = kill_process(pid, Signal::KILL);
            }
            false
        }
        other => panic!("{script}: {other:?}"),
    });
    assert!(is_dead(worker), "{script}");
}

#[test]
fn a_killed_runner_without_anything_that_lives_is_gone() {
    let mut rig = Rig::new(SH);
    rig.start("exec sh @/worker", 1);
    let (runner, worker) = (rig.runner(), rig.workers()[0]);
    // A stopped runner cannot notice that the program is dead.
    kill_process(runner, Signal::STOP).unwrap();
    kill_process(worker, Signal::KILL).unwrap();
    until("the program is dead", || is_dead(worker));
    kill_process(runner, Signal::KILL).unwrap();
    until("nothing of it is left", || rig.probe() == Probed::Gone);
}

#[test]
fn an_end_that_a_shutdown_brought_about_is_an_interruption() {
    for script in
        ["trap 'exit 0' TERM; sh @/worker & wait", "exec sh @/worker", "sh @/worker & exec sleep 600"]
    {
        let mut rig = Rig::new(SH);
        rig.start(script, 1);
        let (runner, leader, worker) = (rig.runner(), group(&rig.dir()), rig.workers()[0]);
        for pid in [runner, leader, worker] {
            // The worker may be the leader, and dead of that already.
            let _ = kill_process(pid, Signal::TERM);
        }
        assert_eq!(rig.agent.fact(rig.key), Fact::Probed(Probed::Gone), "{script}");
        assert!(rig.parked(), "{script}: it had its grace");
        rig.agent = Agent::new(rig.scratch.path(), SH);
        assert_eq!(rig.probe(), Probed::Gone, "{script}");
        let exit = fs::read_to_string(rig.dir().join("exit")).unwrap();
        assert!(exit.contains(&format!("process {}", std::process::id())), "by whom: {exit}");
    }
}

#[test]
fn the_rest_of_the_tree_has_its_grace_at_a_shutdown_too() {
    let mut rig = Rig::new(SH);
    rig.start("sh @/slow; true", 1);
    let (runner, leader, worker) = (rig.runner(), group(&rig.dir()), rig.workers()[0]);
    for pid in [runner, leader, worker] {
        kill_process(pid, Signal::TERM).unwrap();
    }
    until("the runner has seen the leader's end", || stat(leader).is_none());
    assert!(!is_dead(worker));
    fs::write(rig.work("gate"), "").unwrap();
    assert_eq!(rig.agent.fact(rig.key), Fact::Probed(Probed::Gone));
    assert!(rig.parked());
}

#[test]
fn a_signal_to_the_program_alone_is_an_end_like_any_other() {
    let mut rig = Rig::new(SH);
    rig.start("exec sh @/deaf", 1);
    kill_process(rig.workers()[0], Signal::KILL).unwrap();
    let ended = rig.agent.ended(rig.key);
    assert_eq!((ended.end, ended.outcome.signal), (End::Failed, Some(9)));
}

#[test]
fn a_program_that_tells_its_own_runner_to_end_does_not_shut_down_the_box() {
    let mut rig = Rig::new(SH);
    rig.start("(sh @/worker & kill -TERM $PPID; while ! [ -e gate ]; do sleep 0.02; done; exit 0)", 1);
    fs::write(rig.work("gate"), "").unwrap();
    assert_eq!(rig.agent.ended(rig.key).end, End::Succeeded);
}

#[test]
fn what_was_stopped_on_request_stays_stopped_at_a_shutdown() {
    let mut rig = Rig::new(SH);
    rig.start("exec sh @/slow", 1);
    rig.agent.begin_stop(rig.key);
    kill_process(rig.runner(), Signal::TERM).unwrap();
    fs::write(rig.work("gate"), "").unwrap();
    assert_eq!(rig.agent.ended(rig.key).end, End::Stopped);
}

#[test]
fn other_signals_end_neither_the_runner_nor_the_run() {
    let mut rig = Rig::new(SH);
    rig.start("exec sh @/worker", 1);
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::ALARM] {
        kill_process(rig.runner(), signal).unwrap();
    }
    let moves = rig.moves();
    until("it moves on", || rig.moves() > moves + 2);
    assert!(matches!(rig.probe(), Probed::Alive { paused: false, .. }));
    kill_process(rig.workers()[0], Signal::TERM).unwrap();
    assert_eq!(rig.agent.ended(rig.key).end, End::Succeeded);
}
