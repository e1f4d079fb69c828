//! Programs of this box as machines, with the real runner: what they do, and what is known when one of them was killed.

#![allow(clippy::unwrap_used, reason = "also the helpers of a test may")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use reloop_protocol::job::End;
use reloop_protocol::slave::{Fact, Probed, RunKey};
use reloop_slave::config::ParamError;
use reloop_slave::machine::{Command, Rejection, process};
use rustix::process::{Pid, Signal, getsid, kill_process, kill_process_group, test_kill_process_group};
use support::{Agent, Scratch, group, key, params, run_name, until, work};

/// `sh` with a script from the order: only a test may be so careless.
const SH: &str = r#"
[programs.sh]
driver = "process"
command = ["/bin/sh", "-c", "{script}", "sh"]
stop_grace_seconds = 1
env = { COLOUR = "blue" }
[programs.sh.params]
script = { pattern = "(?s).*" }
"#;

const STAND_IN: &str = "RELOOP_TEST_STAND_IN";

fn start(agent: &mut Agent, key: RunKey, script: &str) {
    agent.start(key, "sh", &[("script", script)]);
    agent.expect(key, Fact::Started);
}

fn run_dir(agent: &Agent, key: RunKey) -> std::path::PathBuf {
    process::run_dir(&agent.state_dir, key)
}

fn output(dir: &Path) -> String {
    String::from_utf8(process::read_output(dir, 0, 1 << 20).map(|read| read.0).unwrap_or_default()).unwrap()
}

fn runner(dir: &Path) -> Pid {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", group(dir).as_raw_nonzero())).unwrap();
    let parent = stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(1).unwrap();
    Pid::from_raw(parent.parse().unwrap()).unwrap()
}

fn gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // Without an init that waits for orphans a zombie may stay; it moves nothing any more.
    stat.map_or(true, |stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

#[test]
fn a_program_runs_to_its_end_with_its_output_in_a_file() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    start(&mut agent, key(1), "echo out; echo err >&2; pwd; echo $COLOUR $RELOOP_JOB $RELOOP_ATTEMPT");
    let ended = agent.ended(key(1));
    assert_eq!((ended.end, ended.outcome.exit_code, ended.outcome.signal), (End::Succeeded, Some(0), None));
    assert_eq!(ended.outcome.text, "exit code 0");
    let run = run_dir(&agent, key(1));
    let work_dir = run.join("work");
    assert_eq!(output(&run), format!("out\nerr\n{}\nblue {} 1\n", work_dir.display(), key(1).job));
    assert_eq!(
        agent.machines.output(key(1), 4, 3).unwrap(),
        Some((b"err".to_vec(), output(&run).len() as u64))
    );
    assert_eq!(agent.machines.output(key(2), 0, 3).unwrap(), None);
    assert_eq!(std::fs::metadata(&run).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::metadata(run.join("output")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(agent.probe(key(1), "sh"), Probed::Ended(ended));
}

#[test]
fn the_environment_of_the_agent_does_not_leak_into_a_job() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    start(&mut agent, key(1), "env; ls -l /proc/self/fd");
    agent.ended(key(1));
    let output = output(&run_dir(&agent, key(1)));
    assert!(output.contains("PATH=") && !output.contains("CARGO"), "{output}");
    // What the test itself was given by its parents is not the agent's.
    let own = dir.path().to_str().unwrap();
    let files: Vec<&str> =
        output.lines().filter_map(|line| line.split_once(" -> ")?.1.strip_prefix(own)).collect();
    let run = format!("/runs/{}/", run_name(key(1)));
    let mut names: Vec<&str> = files.iter().map(|file| file.strip_prefix(&run).unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["lock", "output", "output"]);
}

#[test]
fn a_failure_comes_with_code_and_last_words() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    start(&mut agent, key(1), "echo no such tool; echo '::reloop progress=0.1'; exit 3");
    let ended = agent.ended(key(1));
    assert_eq!((ended.end, ended.outcome.exit_code), (End::Failed, Some(3)));
    assert_eq!(ended.outcome.text, "exit code 3; last output: no such tool");
    start(&mut agent, key(2), "kill -SEGV $$");
    let ended = agent.ended(key(2));
    assert_eq!((ended.end, ended.outcome.exit_code, ended.outcome.signal), (End::Failed, None, Some(11)));
}

#[test]
fn a_polite_program_stops_by_itself_and_a_deaf_one_is_killed_when_the_grace_is_over() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    start(&mut agent, key(1), "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
    until("it is up", || output(&run_dir(&agent, key(1))).contains("up"));
    agent.stop(key(1));
    let ended = agent.ended(key(1));
    assert_eq!((ended.end, ended.outcome.exit_code), (End::Stopped, Some(0)));
    assert!(output(&run_dir(&agent, key(1))).ends_with("bye\n"));

    for (number, now, grace) in [(2, false, 1), (3, true, 2)] {
        start(&mut agent, key(number), "trap '' TERM; echo up; while :; do sleep 0.05; done");
        until("it is up", || output(&run_dir(&agent, key(number))).contains("up"));
        let asked = Instant::now();
        let stop = Command::Stop { key: key(number), now };
        agent.machines.command(stop.clone());
        let ended = agent.ended(key(number));
        assert!(asked.elapsed() >= Duration::from_secs(grace));
        assert_eq!((ended.end, ended.outcome.signal), (End::Stopped, Some(9)));
        assert!(ended.outcome.text.contains("killed when its time was up"), "{}", ended.outcome.text);
        agent.machines.command(stop);
        assert_eq!(agent.ended(key(number)), ended, "asked again, it answers with how it ended");
    }
}

/// The states of the processes of a group, one letter each (proc_pid_stat(5), fields 3 and 5).
fn states(group: Pid) -> String {
    let group = group.as_raw_nonzero().to_string();
    let processes = std::fs::read_dir("/proc").unwrap();
    let states = processes.filter_map(|entry| {
        // A process that has ended meanwhile has left the group.
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        (fields[2] == group).then(|| fields[0].to_owned())
    });
    let states: String = states.collect();
    assert!(!states.is_empty(), "no process is left in group {group}");
    states
}

#[test]
fn a_paused_program_stands_still_and_can_be_stopped() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    start(&mut agent, key(1), "while :; do echo .; sleep 0.02; done");
    let run = run_dir(&agent, key(1));
    until("it works", || output(&run).len() > 10);
    agent.machines.command(Command::Pause(key(1)));
    agent.expect(key(1), Fact::Paused);
    // The kernel says that it is stopped, so it is not just slow and can write nothing.
    until("all of it is stopped", || states(support::group(&run)).chars().all(|state| "TZ".contains(state)));
    let length = output(&run).len();
    assert!(matches!(agent.probe(key(1), "sh"), Probed::Alive { paused: true, .. }));
    assert_eq!(output(&run).len(), length);
    agent.machines.command(Command::Resume(key(1)));
    agent.expect(key(1), Fact::Resumed);
    until("it works again", || output(&run).len() > length);
    agent.machines.command(Command::Pause(key(1)));
    agent.expect(key(1), Fact::Paused);
    agent.stop(key(1));
    agent.expect(key(1), Fact::Resumed);
    let ended = agent.ended(key(1));
    assert_eq!((ended.end, ended.outcome.signal), (End::Stopped, Some(15)), "politely, not by the kill");
    agent.machines.command(Command::Pause(key(1)));
    assert!(agent.refusal(key(1)).contains("ended already"));
}

#[test]
fn reports_in_the_output_become_progress_but_not_more_often_than_twice_a_second() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    start(
        &mut agent,
        key(1),
        "echo '::reloop phase=cut'; for i in 1 2 3 4 5 6 7 8 9; do echo \"::reloop progress=0.$i\"; echo noise; \
         sleep 0.15; done; echo '::reloop progress=100%'; echo '::reloop note=all cut'",
    );
    let begun = Instant::now();
    let (mut permilles, mut notes, mut facts) = (vec![], vec![], 0);
    loop {
        match agent.next().1 {
            Fact::Progressed { permille, note } => {
                facts += 1;
                permilles.extend(permille);
                notes.extend(note);
            }
            Fact::Ended(ended) => {
                assert_eq!(ended.end, End::Succeeded);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(permilles.is_sorted() && permilles.last() == Some(&1000), "{permilles:?}");
    assert_eq!(notes, ["cut", "all cut"]);
    let allowed = begun.elapsed().as_millis() / 500 + 2;
    assert!(facts <= allowed, "{facts} facts, {allowed} allowed");
}

#[test]
fn a_new_agent_finds_the_work_running_and_sees_it_end() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    let done = dir.path().join("done");
    start(
        &mut agent,
        key(1),
        &format!(
            "echo '::reloop progress=25%'; while ! [ -e {} ]; do sleep 0.02; done; exit 4",
            done.display()
        ),
    );
    assert_eq!(agent.permille(key(1)), 250);
    drop(agent);
    let mut agent = Agent::new(dir.path(), SH);
    let probe = agent.probe(key(1), "sh");
    assert!(matches!(probe, Probed::Alive { paused: false, permille: Some(250) }), "{probe:?}");
    agent.start(key(1), "sh", &[("script", "true")]);
    assert!(agent.refusal(key(1)).contains("never begins twice"));
    std::fs::write(&done, "").unwrap();
    let ended = agent.ended(key(1));
    assert_eq!((ended.end, ended.outcome.exit_code), (End::Failed, Some(4)));
}

#[test]
fn work_that_ended_while_nobody_looked_is_known() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    start(&mut agent, key(1), "sleep 0.2; exit 5");
    let run = run_dir(&agent, key(1));
    drop(agent);
    until("it has ended", || run.join("exit").exists());
    let mut agent = Agent::new(dir.path(), "[programs.other]\ndriver = \"simulated\"");
    let Probed::Ended(ended) = agent.probe(key(1), "sh") else {
        panic!("its program is no longer configured")
    };
    assert_eq!(ended.outcome.exit_code, Some(5));
    agent.stop_now(key(1));
    assert_eq!(agent.ended(key(1)), ended);
}

#[test]
fn a_run_is_found_although_its_program_means_another_machine_by_now() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    start(&mut agent, key(1), "sleep 600");
    drop(agent);
    let mut agent = Agent::new(dir.path(), "[programs.sh]\ndriver = \"simulated\"");
    assert!(matches!(agent.probe(key(1), "sh"), Probed::Alive { .. }));
    agent.start(key(1), "sh", &[]);
    assert!(agent.refusal(key(1)).contains("another machine"));
    agent.stop_now(key(1));
    assert_eq!(agent.ended(key(1)).end, End::Stopped);
}

#[test]
fn a_removed_run_directory_is_no_reason_to_hang_around() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    start(&mut agent, key(1), "echo up; sleep 1");
    let run = run_dir(&agent, key(1));
    until("it is up", || output(&run) == "up\n" && run.join("child").exists());
    let runner = runner(&run);
    std::fs::remove_dir_all(&run).unwrap();
    assert!(matches!(agent.fact(key(1)), Fact::Probed(Probed::Unknown(_))));
    until("the runner has gone", || gone(runner));
}

/// No test of its own: the agent process that `kill_minus_nine_of_the_agent_does_not_touch_the_work` kills.
#[test]
fn stand_in() {
    let Some(state_dir) = std::env::var_os(STAND_IN) else { return };
    let mut agent = Agent::new(Path::new(&state_dir), SH);
    start(&mut agent, key(1), "echo up; while ! [ -e ../../../done ]; do sleep 0.02; done; echo down");
    agent.within(support::PATIENCE);
}

#[test]
fn kill_minus_nine_of_the_agent_does_not_touch_the_work() {
    let dir = Scratch::new();
    let run = process::run_dir(dir.path(), key(1));
    let mut agent = Program::new(std::env::current_exe().unwrap())
        .args(["--exact", "stand_in"])
        .env(STAND_IN, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("it is up", || output(&run) == "up\n");
    agent.kill().unwrap();
    agent.wait().unwrap();

    let mut agent = Agent::new(dir.path(), SH);
    assert!(matches!(agent.probe(key(1), "sh"), Probed::Alive { .. }));
    assert_eq!(getsid(Some(group(&run))), Ok(runner(&run)), "a terminal that closes takes its session along");
    for signal in [Signal::HUP, Signal::INT] {
        kill_process(runner(&run), signal).unwrap();
    }
    std::fs::write(dir.path().join("done"), "").unwrap();
    assert_eq!(agent.ended(key(1)).end, End::Succeeded);
    assert_eq!(output(&run), "up\ndown\n");
}

#[test]
fn without_its_runner_the_work_is_in_doubt_and_then_gone() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    start(&mut agent, key(1), "echo up; exec sleep 600");
    let run = run_dir(&agent, key(1));
    until("it is up", || output(&run) == "up\n");
    let (program, runner) = (group(&run), runner(&run));
    kill_process(runner, Signal::KILL).unwrap();
    until("the runner is dead", || gone(runner));
    let Fact::Probed(Probed::Unknown(why)) = agent.fact(key(1)) else { panic!() };
    assert!(why.contains(&format!("`kill -9 {}` at the machine", program.as_raw_nonzero())), "{why}");
    assert_eq!(agent.probe(key(1), "sh"), Probed::Unknown(why.clone()));
    agent.stop_now(key(1));
    agent.expect(key(1), Fact::StopRefused(why));
    kill_process_group(program, Signal::KILL).unwrap();
    until("the program is dead", || gone(program));
    assert_eq!(agent.probe(key(1), "sh"), Probed::Gone);
    agent.start(key(1), "sh", &[("script", "true")]);
    assert!(agent.refusal(key(1)).contains("never begins twice"));
}

#[test]
fn a_power_cut_leaves_a_run_without_outcome_gone() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    start(&mut agent, key(1), "echo up; sleep 600");
    let run = run_dir(&agent, key(1));
    until("it is up", || output(&run) == "up\n");
    let (program, runner) = (group(&run), runner(&run));
    drop(agent);
    kill_process(runner, Signal::KILL).unwrap();
    kill_process_group(program, Signal::KILL).unwrap();
    until("all is dead", || gone(runner) && gone(program));
    support::reboot(dir.path(), 2);
    let mut agent = Agent::new(dir.path(), SH);
    // What the shell had started may die a moment later than the shell.
    until("nothing of it is left", || agent.probe(key(1), "sh") == Probed::Gone);
}

#[test]
fn a_probe_that_proves_that_nothing_began_also_forbids_it() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    assert_eq!(agent.probe(key(1), "sh"), Probed::NeverStarted);
    assert_eq!(agent.probe(key(1), "sh"), Probed::NeverStarted);
    agent.start(key(1), "sh", &[("script", "echo ran")]);
    assert!(agent.refusal(key(1)).contains("never begins twice"));

    // The files that an agent leaves which was killed when its runner had just started.
    start(&mut agent, key(2), "echo ran");
    agent.ended(key(2));
    let (pattern, late) = (run_dir(&agent, key(2)), run_dir(&agent, key(3)));
    std::fs::create_dir_all(late.join("work")).unwrap();
    std::fs::copy(pattern.join("plan"), late.join("plan")).unwrap();
    std::fs::write(late.join("lock"), "").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, late.join("control"), rustix::fs::Mode::from_raw_mode(0o600))
        .unwrap();
    let runs = |key: RunKey| {
        let run = process::run_dir(dir.path(), key);
        let runner =
            Program::new(env!("CARGO_BIN_EXE_reloop-slave")).arg("runner").arg(&run).status().unwrap();
        (runner.success(), output(&run))
    };
    assert_eq!(agent.probe(key(3), "sh"), Probed::NeverStarted);
    assert_eq!(runs(key(3)), (true, String::new()), "void: the runner goes without a word");
    assert_eq!(agent.probe(key(3), "sh"), Probed::NeverStarted);
    assert_eq!(runs(key(2)), (false, "ran\n".to_owned()), "begun before: not a second time");
    std::fs::remove_file(late.join("void")).unwrap();
    assert_eq!(runs(key(3)), (true, "ran\n".to_owned()), "the directory was good but for that");
}

#[test]
fn a_stop_before_the_start_keeps_it_from_starting() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    agent.stop_now(key(1));
    assert!(agent.refusal(key(1)).contains("probe it first"));
    for number in 2..12 {
        // Either of them may win, but there is one outcome, and it does not change.
        agent.start(key(number), "sh", &[("script", "sleep 600")]);
        agent.stop_now(key(number));
        let mut facts = vec![];
        while !matches!(facts.last(), Some(Fact::Ended(_) | Fact::Probed(_))) {
            facts.push(agent.fact(key(number)));
        }
        let probe = agent.probe(key(number), "sh");
        match facts.last() {
            Some(Fact::Probed(Probed::NeverStarted)) => {
                assert_eq!(facts.len(), 1);
                assert_eq!(probe, Probed::NeverStarted);
            }
            Some(Fact::Ended(ended)) => {
                assert_eq!(ended.end, End::Stopped, "{facts:?}");
                assert!(facts.contains(&Fact::Started), "{facts:?}");
                assert_eq!(probe, Probed::Ended(ended.clone()));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_runner_that_can_not_run_is_a_refused_start_and_a_proof() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    agent.start(key(1), "sh", &[("script", "true\0")]);
    assert!(agent.refusal(key(1)).contains("NUL"));
    assert_eq!(agent.probe(key(1), "sh"), Probed::NeverStarted);

    let text = format!("name = \"test\"\nmaster = \"ws://m/\"\nstate_dir = {:?}\n{SH}", dir.path());
    let config =
        reloop_slave::config::Config::parse(&text, Path::new("slave.toml"), Default::default()).unwrap();
    for (number, runner) in [(2, "/no/such/runner"), (3, "/bin/false")] {
        let (facts_in, mut facts) = tokio::sync::mpsc::channel(8);
        let mut machines =
            reloop_slave::machine::Machines::with_runner(&config, Path::new(runner), facts_in).unwrap();
        machines.command(Command::Start(work(key(number), "sh", &[("script", "true")])));
        let fact = facts.blocking_recv().unwrap();
        assert!(matches!(&fact.1, Fact::Probed(Probed::NotBegun(why)) if why.contains("runner")), "{fact:?}");
        assert_eq!(agent.probe(key(number), "sh"), Probed::NeverStarted);
    }
}

/// Why nothing began.
fn not_begun(agent: &mut Agent, key: RunKey) -> String {
    match agent.fact(key) {
        Fact::Probed(Probed::NotBegun(why)) => why,
        other => panic!("no proof: {other:?}"),
    }
}

#[test]
fn a_program_that_the_system_does_not_execute_has_not_begun() {
    let dir = Scratch::new();
    let tool = dir.path().join("tool");
    let programs = format!("[programs.tool]\ndriver = \"process\"\ncommand = [{tool:?}]\n");
    let mut agent = Agent::new(dir.path(), &programs);
    let put = |text: &str, mode: u32| {
        let _ = std::fs::remove_file(&tool);
        std::fs::write(&tool, text).unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    // Each text names the program and the error. Whether it could begin is known beforehand of all but one.
    let breaks: [(&str, bool, &dyn Fn()); 4] = [
        ("No such file", true, &|| {}),
        ("Permission denied", true, &|| put("#!/bin/sh\n", 0o644)),
        ("No such file", true, &|| put("#!/nowhere/sh\n", 0o755)),
        ("Exec format error", false, &|| put("\0 no program", 0o755)),
    ];
    for (number, (expected, is_known, break_it)) in (1..).zip(breaks) {
        break_it();
        let found = agent.machines.could_begin(Some("tool".to_owned()))();
        assert_eq!(
            found.is_err_and(|why| why.contains(expected) && why.contains("tool")),
            is_known,
            "{expected}"
        );
        assert_eq!(agent.machines.could_begin(None)(), Ok(()), "that does not depend on the program");
        agent.start(key(number), "tool", &[]);
        let why = not_begun(&mut agent, key(number));
        assert!(why.contains(expected) && why.contains("tool"), "{why}");
        assert_eq!(agent.probe(key(number), "tool"), Probed::NotBegun(why), "also after a crash");
        agent.start(key(number), "tool", &[]);
        assert!(agent.refusal(key(number)).contains("never begins twice"));
    }
    put("#!/bin/sh\n", 0o755);
    agent.start(key(9), "tool", &[]);
    agent.expect(key(9), Fact::Started);
    assert_eq!(agent.ended(key(9)).end, End::Succeeded);
}

#[test]
fn where_no_directory_of_a_run_can_be_made_nothing_begins_and_nothing_is_in_doubt() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    std::fs::write(dir.path().join("runs"), "no directory").unwrap();
    agent.start(key(1), "sh", &[("script", "echo ran")]);
    assert!(not_begun(&mut agent, key(1)).contains("runs"));
    assert_eq!(agent.probe(key(1), "sh"), Probed::NeverStarted, "what an agent that comes up then asks");
    std::fs::remove_file(dir.path().join("runs")).unwrap();
    start(&mut agent, key(2), "echo ran");
    assert_eq!(agent.ended(key(2)).end, End::Succeeded);
}

#[test]
fn nothing_of_a_job_lives_longer_than_the_job() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), SH);
    start(&mut agent, key(1), "sleep 600 & echo $!; setsid sh -c 'echo $$; sleep 600' & sleep 0.5; exit 0");
    let run = run_dir(&agent, key(1));
    until("all are up", || output(&run).lines().count() == 2);
    let pids: Vec<Pid> =
        output(&run).lines().map(|line| Pid::from_raw(line.parse().unwrap()).unwrap()).collect();
    assert!(pids.iter().all(|pid| !gone(*pid)));
    assert_eq!(agent.ended(key(1)).end, End::Succeeded);
    for pid in pids {
        assert!(gone(pid), "{pid:?}");
        assert!(test_kill_process_group(pid).is_err(), "{pid:?}");
    }
}

#[test]
fn a_value_is_one_argument_or_refused_and_never_a_command() {
    let dir = Scratch::new();
    let programs = r#"
[programs.echo]
driver = "process"
command = ["/usr/bin/printf", "<%s>", "{free}", "--name={strict}"]
[programs.echo.params]
free = { pattern = "(?s).*" }
strict = { pattern = "[a-z0-9_-]+\\.nc", default = "a.nc" }
"#;
    let mut agent = Agent::new(dir.path(), programs);
    let nasty = [
        "two words",
        "a; touch pwned",
        "$(touch pwned)",
        "`touch pwned`",
        "line\nbreak",
        "../../etc/passwd",
        "'\"\\",
        "",
    ];
    for (number, value) in (1..).zip(nasty) {
        agent.start(key(number), "echo", &[("free", value)]);
        agent.expect(key(number), Fact::Started);
        assert_eq!(agent.ended(key(number)).end, End::Succeeded);
        let run = run_dir(&agent, key(number));
        assert_eq!(output(&run), format!("<{value}><--name=a.nc>"));
        assert_eq!(std::fs::read_dir(run.join("work")).unwrap().count(), 0);

        let strict = work(key(100), "echo", &[("free", "x"), ("strict", value)]);
        let rejection = agent.machines.check("echo", &strict.params).unwrap_err();
        assert!(matches!(rejection, Rejection::Params(ParamError::Bad { .. })), "{rejection:?}");
        agent.machines.command(Command::Start(strict));
        assert!(agent.refusal(key(100)).contains("strict"));
    }
    assert!(!run_dir(&agent, key(100)).exists());
    let check = |pairs: &[(&str, &str)]| match agent.machines.check("echo", &params(pairs)) {
        Ok(()) => None,
        Err(Rejection::Params(error)) => Some(error),
        Err(rejection) => panic!("{rejection:?}"),
    };
    for value in ["../a.nc", "a.nc\n"] {
        assert!(
            matches!(check(&[("free", "x"), ("strict", value)]), Some(ParamError::Bad { .. })),
            "{value:?}"
        );
    }
    assert!(matches!(check(&[("free", "x"), ("other", "y")]), Some(ParamError::Unknown { .. })));
    assert!(matches!(check(&[]), Some(ParamError::Missing { .. })));
    assert_eq!(check(&[("free", "x"), ("strict", "b.nc")]), None);
}
