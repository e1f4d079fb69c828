//! Runs the tests against each seeded bug and reports which of them notice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::workspace::{self, Programs};
use super::{Break, RULE_TESTS, SIMULATION, SWITCH};
use reloop_rig::daemon::kill_processes_of;

/// Schedules that are played against one seeded bug: as many as `cargo test` plays.
const SCHEDULES: u64 = 3_000;
/// Schedules that have to pass without a seeded bug.
const SOUND_SCHEDULES: u64 = 300;
/// Longer than the slowest test of the rules or search takes on two busy cores.
const RULE_PATIENCE: Duration = Duration::from_secs(240);
/// Several times as long as the slowest scenario takes.
const PROCESS_PATIENCE: Duration = Duration::from_secs(600);
/// Poll interval while a test program runs.
const PAUSE: Duration = Duration::from_millis(10);
/// Seeded bugs tried at the same time without processes: each needs a core.
const RULE_WORKERS: usize = 2;
/// Seeded bugs tried at the same time with processes, which mostly wait.
const PROCESS_WORKERS: usize = 3;
/// Columns of a failed test's message in the table.
const WORDS: usize = 110;

/// A seeded bug and one test that has to notice it.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: &'static str,
    pub catcher: String,
    pub caught: bool,
    pub after: String,
    pub said: String,
}

pub fn table(rows: &[Row]) -> String {
    let mut lines =
        vec!["seeded bug | noticed by | after | message".to_owned(), "---|---|---|---".to_owned()];
    lines.extend(rows.iter().map(|row| {
        let by = if row.caught { row.catcher.clone() } else { format!("SURVIVED {}", row.catcher) };
        format!("{} | {by} | {} | {}", row.name, row.after, row.said)
    }));
    lines.join("\n")
}

#[derive(Debug, Clone)]
struct Verdict {
    failed: bool,
    said: String,
}

/// Tries these seeded bugs against the tests of the rules and the schedules, after all of them have passed without one.
pub fn rules(workspace: &Path, all: &[Break], breaks: &[Break], survey: bool) -> Result<Vec<Row>, String> {
    let programs = build_rules(workspace, all)?;
    let bench = Bench {
        programs: &programs,
        logs: workspace.join("target/breaks/log/rules"),
        patience: RULE_PATIENCE,
    };
    bench.sound(breaks.iter().flat_map(Break::rule_tests))?;
    let hunted = bench.hunt(None, SOUND_SCHEDULES)?;
    if hunted.failed {
        return Err(format!("a schedule fails without a seeded bug: {}", hunted.said));
    }
    let rows = in_parallel(breaks, RULE_WORKERS, |one| {
        let mut rows = Vec::new();
        let tests = if survey { bench.every_test(&RULE_TESTS)? } else { one.rule_tests() };
        rows.extend(bench.tests(one, &tests)?);
        if survey || one.is_hunted() {
            let began = Instant::now();
            let schedules = if one.is_hunted() { SCHEDULES } else { SOUND_SCHEDULES };
            let Verdict { failed, said } = bench.hunt(Some(one.name), schedules)?;
            let (seed, said) = said.split_once('\t').unwrap_or(("", &said));
            let tried = seed.parse::<u64>().map_or(schedules, |seed| seed + 1);
            let after = format!("{tried} schedules, {:.1} s", began.elapsed().as_secs_f64());
            let said = clipped(said);
            rows.push(Row { name: one.name, catcher: SIMULATION.to_owned(), caught: failed, after, said });
        }
        if survey {
            rows.retain(|row| row.caught);
        }
        Ok(rows)
    })?;
    if survey {
        let noticed: BTreeSet<_> = rows.iter().map(|row| row.catcher.as_str()).collect();
        let nobody = breaks.iter().filter(|one| rows.iter().all(|row| row.name != one.name));
        nobody.for_each(|one| println!("nobody notices {}", one.name));
        for (program, test) in bench.every_test(&RULE_TESTS)? {
            if !noticed.contains(format!("{program}::{test}").as_str()) {
                println!("{program}::{test} notices nothing");
            }
        }
    }
    Ok(rows)
}

/// Tries these seeded bugs against the tests with real processes, after all of them have passed without one.
pub fn processes(workspace: &Path, all: &[Break], breaks: &[Break]) -> Result<Vec<Row>, String> {
    let programs = build_whole(workspace, all)?;
    let bench = Bench {
        programs: &programs,
        logs: workspace.join("target/breaks/log/whole"),
        patience: PROCESS_PATIENCE,
    };
    bench.sound(breaks.iter().flat_map(Break::process_tests))?;
    in_parallel(breaks, PROCESS_WORKERS, |one| bench.tests(one, &one.process_tests()))
}

/// Makes and builds both copies.
pub fn build(workspace: &Path, all: &[Break]) -> Result<(), String> {
    build_whole(workspace, all)?;
    build_rules(workspace, all).map(drop)
}

fn build_rules(workspace: &Path, all: &[Break]) -> Result<Programs, String> {
    let copy = workspace::rules(workspace, all).map_err(|error| error.to_string())?;
    let mut programs = copy.build(&["test", "--no-run", "-p", "reloop-sim", "--tests"])?;
    programs.extend(copy.build(&["build", "-p", "reloop-sim", "--bins"])?);
    Ok(programs)
}

fn build_whole(workspace: &Path, all: &[Break]) -> Result<Programs, String> {
    let copy = workspace::whole(workspace, all).map_err(|error| error.to_string())?;
    // The scenarios look for the nodes' programs in their own directory.
    copy.build(&["build", "-p", "reloop-master", "-p", "reloop-slave", "--bins"])?;
    let mut arguments = vec!["test", "--no-run"];
    let tests: BTreeSet<_> = all.iter().flat_map(Break::process_tests).map(|(program, _)| program).collect();
    for test in &tests {
        arguments.extend(["--test", test]);
    }
    copy.build(&arguments)
}

/// Runs `act` for each seeded bug, several at a time. The rows keep the order of the bugs.
fn in_parallel(
    breaks: &[Break],
    workers: usize,
    work: impl Fn(&Break) -> Result<Vec<Row>, String> + std::marker::Sync,
) -> Result<Vec<Row>, String> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((at, one)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    breaks.get(at).map(|one| (at, one))
                } {
                    let rows = work(one).map_err(|error| format!("{}: {error}", one.name));
                    if let Ok(rows) = &rows {
                        rows.iter().for_each(progress);
                    }
                    done.lock().expect("no worker panics with it").insert(at, rows);
                }
            });
        }
    });
    let done = done.into_inner().expect("no worker panics with it");
    let mut rows = Vec::new();
    for of_one in done.into_values() {
        rows.extend(of_one?);
    }
    Ok(rows)
}

/// Prints one line per result immediately: the whole run takes minutes.
fn progress(row: &Row) {
    let verdict = if row.caught { "noticed by" } else { "SURVIVED" };
    println!("{}: {verdict} {} after {}: {}", row.name, row.catcher, row.after, row.said);
}

struct Bench<'a> {
    programs: &'a Programs,
    logs: PathBuf,
    patience: Duration,
}

impl Bench<'_> {
    /// Fails if one of these tests fails without a seeded bug.
    fn sound(&self, tests: impl Iterator<Item = (&'static str, &'static str)>) -> Result<(), String> {
        let mut of_program: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (program, test) in tests {
            of_program.entry(program).or_default().insert(test);
        }
        for (program, tests) in of_program {
            let tests: Vec<_> = tests.into_iter().collect();
            for (test, verdict) in self.run_tests(None, program, &tests)? {
                if verdict.failed {
                    return Err(format!("{program}::{test} fails without a seeded bug: {}", verdict.said));
                }
            }
        }
        Ok(())
    }

    fn tests(&self, one: &Break, tests: &[(&str, &str)]) -> Result<Vec<Row>, String> {
        let mut rows = Vec::new();
        let programs: BTreeSet<_> = tests.iter().map(|(program, _)| *program).collect();
        for program in programs {
            let names: Vec<_> =
                tests.iter().filter(|(of, _)| *of == program).map(|(_, test)| *test).collect();
            let began = Instant::now();
            let verdicts = self.run_tests(Some(one.name), program, &names)?;
            let after = format!("{:.1} s", began.elapsed().as_secs_f64());
            rows.extend(verdicts.into_iter().map(|(test, verdict)| Row {
                name: one.name,
                catcher: format!("{program}::{test}"),
                caught: verdict.failed,
                after: after.clone(),
                said: verdict.said,
            }));
        }
        Ok(rows)
    }

    fn program(&self, name: &str) -> Result<&Path, String> {
        self.programs.get(name).map(PathBuf::as_path).ok_or_else(|| format!("there is no program {name}"))
    }

    fn every_test(&self, programs: &[&'static str]) -> Result<Vec<(&'static str, &'static str)>, String> {
        let mut tests = Vec::new();
        for program in programs {
            let listed = Command::new(self.program(program)?).args(["--list", "--format", "terse"]).output();
            let listed = listed.map_err(|error| format!("{program}: {error}"))?;
            let text = String::from_utf8_lossy(&listed.stdout).into_owned();
            // Leaked because [`Row`] holds `&'static str`; a survey runs once per process.
            let text: &'static str = text.leak();
            tests.extend(text.lines().filter_map(|line| Some((*program, line.strip_suffix(": test")?))));
        }
        Ok(tests)
    }

    /// Runs tests of one program with a seeded bug. Returns each test's result.
    fn run_tests(
        &self,
        switch: Option<&str>,
        program: &str,
        tests: &[&str],
    ) -> Result<Vec<(String, Verdict)>, String> {
        let mut command = Command::new(self.program(program)?);
        command.arg("--exact").args(tests);
        let (_, text) = self.run(switch, program, command)?;
        let mut verdicts = Vec::new();
        for test in tests {
            let passed = text.contains(&format!("test {test} ... ok\n"));
            let failed = text.contains(&format!("test {test} ... FAILED\n"));
            if !passed && !failed {
                let known = text.contains("running 0 tests");
                let why = if known { "there is no such test" } else { "it did not finish" };
                return Err(format!("{program}::{test}: {why}; see {}", self.log(switch, program).display()));
            }
            verdicts.push(((*test).to_owned(), Verdict { failed, said: last_words(&text, test) }));
        }
        Ok(verdicts)
    }

    /// Plays random schedules with a seeded bug.
    fn hunt(&self, switch: Option<&str>, schedules: u64) -> Result<Verdict, String> {
        let mut command = Command::new(self.program("hunt")?);
        command.args(["0", &schedules.to_string()]);
        let (status, text) = self.run(switch, "hunt", command)?;
        // The message of the failure is the last line.
        let said = text.lines().last().map_or_else(|| format!("\t{status}"), str::to_owned);
        Ok(Verdict { failed: !status.success(), said })
    }

    fn log(&self, switch: Option<&str>, program: &str) -> PathBuf {
        self.logs.join(format!("{}.{program}.log", switch.unwrap_or("sound")))
    }

    /// Runs a program to its end, and kills what it has started.
    fn run(
        &self,
        switch: Option<&str>,
        name: &str,
        mut command: Command,
    ) -> Result<(ExitStatus, String), String> {
        let log = self.log(switch, name);
        let about = |error: std::io::Error| format!("{}: {error}", log.display());
        fs::create_dir_all(&self.logs).map_err(about)?;
        let file = File::create(&log).map_err(about)?;
        // Failed scenarios keep their directories; nobody looks at these, and they would fill the disk.
        let place = tempfile::tempdir().map_err(about)?;
        for variable in ["RELOOP_SEED", "RELOOP_SIMULATIONS", "RELOOP_TRACE", SWITCH] {
            command.env_remove(variable);
        }
        command.env("TMPDIR", place.path()).env("RUST_BACKTRACE", "0");
        // The nodes were built with the tests: the scenarios must not build them again.
        if let Some(nodes) = Path::new(command.get_program()).parent().and_then(Path::parent) {
            let nodes = nodes.to_owned();
            command.env("RELOOP_BIN_DIR", nodes);
        }
        if let Some(switch) = switch {
            command.env(SWITCH, switch);
        }
        command.stdin(Stdio::null()).stdout(file.try_clone().map_err(about)?).stderr(file);
        let mut child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        let end = Instant::now() + self.patience;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(about)? {
                break Some(status);
            }
            if Instant::now() > end {
                break None;
            }
            std::thread::sleep(PAUSE);
        };
        if status.is_none() {
            child.kill().and_then(|()| child.wait()).map_err(about)?;
        }
        kill_processes_of(place.path(), None);
        let text = fs::read(&log).map_err(about)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        match status {
            Some(status) => Ok((status, text)),
            None => Err(format!("{name} did not end in {:?}; see {}", self.patience, log.display())),
        }
    }
}

/// The message of a failed test: the line after `panicked at`.
fn last_words(text: &str, test: &str) -> String {
    let Some((_, own)) = text.split_once(&format!("---- {test} stdout ----")) else { return String::new() };
    let own = own.split_once("\n---- ").map_or(own, |(own, _)| own);
    let words = own.lines().skip_while(|line| !line.contains("panicked at")).skip(1).take(3);
    clipped(&words.collect::<Vec<_>>().join(" "))
}

fn clipped(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(WORDS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
