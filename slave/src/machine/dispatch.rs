//! Which machine a command is for, and one queue of commands for each machine.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use reloop_protocol::slave::{Fact, Probed, RunKey};
use tokio::sync::mpsc;

use super::process::ProcessMachine;
use super::simulated::{self, SimulatedMachine};
use super::types::{Command, Machine, Rejection, Reporter, Work, run_name};
use crate::config::{Config, Program, listed, shown};

/// Commands that wait for one machine. A slave has a handful of jobs with a handful of commands each; more than this wait only
/// if the machine hangs, and then a refusal is the better answer.
const QUEUE_LIMIT: usize = 256;

/// All machines of this slave: one driver for all programs of the box, and one for each simulated machine.
pub struct Machines {
    units: Vec<Unit>,
    /// For each configured program, the index of its unit.
    programs: BTreeMap<String, usize>,
    /// For each run that this agent has started or probed, the index of its unit: a stop right after a start finds it.
    routes: BTreeMap<RunKey, usize>,
    reporter: Reporter,
}

impl Machines {
    /// As configured. Runs of processes get this very program as their runner.
    ///
    /// # Errors
    /// The boot id or the directory of the simulated machines cannot be read.
    pub fn new(config: &Config, facts: mpsc::Sender<(RunKey, Fact)>) -> io::Result<Self> {
        // Not its path: after an upgrade another program is there, while this link names the one that runs.
        Self::with_runner(config, Path::new("/proc/self/exe"), facts)
    }

    /// As configured, with another program as the runner of processes: it is called with `runner <run_dir>`.
    ///
    /// # Errors
    /// As for [`Machines::new`].
    pub fn with_runner(
        config: &Config,
        runner: &Path,
        facts: mpsc::Sender<(RunKey, Fact)>,
    ) -> io::Result<Self> {
        let boot = config.boot_id()?;
        let mut machines = Self::empty(facts);
        let memories = config.state_dir.join("machines");
        let mut processes = BTreeMap::new();
        for (name, program) in &config.programs {
            match program {
                Program::Process(program) => {
                    processes.insert(name.clone(), program.clone());
                }
                Program::Simulated(settings) => {
                    let machine =
                        SimulatedMachine::new(name, settings, &memories, boot, machines.reporter.clone());
                    let unit = machines.add(name, Arc::new(machine));
                    machines.programs.insert(name.clone(), unit);
                }
            }
        }
        // A program that was removed from the configuration may have left a run that somebody will ask about.
        for name in simulated::remembered(&memories)? {
            if !machines.programs.contains_key(&name) {
                let machine = SimulatedMachine::retired(&name, &memories, boot, machines.reporter.clone());
                machines.add(&name, Arc::new(machine));
            }
        }
        let names: Vec<String> = processes.keys().cloned().collect();
        let machine =
            ProcessMachine::new(processes, &config.state_dir, runner, boot, machines.reporter.clone());
        let unit = machines.add("processes", Arc::new(machine));
        machines.programs.extend(names.into_iter().map(|name| (name, unit)));
        Ok(machines)
    }

    fn empty(facts: mpsc::Sender<(RunKey, Fact)>) -> Self {
        Self {
            units: Vec::new(),
            programs: BTreeMap::new(),
            routes: BTreeMap::new(),
            reporter: Reporter::new(facts),
        }
    }

    fn add(&mut self, name: &str, machine: Arc<dyn Machine>) -> usize {
        let index = self.units.len();
        let (queue, reporter) = (Arc::default(), self.reporter.clone());
        self.units.push(Unit { name: name.to_owned(), index, machine, queue, reporter });
        index
    }

    /// The names of the configured programs, sorted.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.programs.keys().map(String::as_str)
    }

    /// Whether the configuration allows this work: the program exists, every parameter is known and has an allowed value,
    /// and no parameter is missing that has no default.
    pub fn check(&self, program: &str, params: &BTreeMap<String, String>) -> Result<(), Rejection> {
        let unit = self.programs.get(program).ok_or_else(|| Rejection::UnknownProgram {
            program: shown(program),
            known: listed(self.programs.keys()),
        })?;
        self.units[*unit].machine.check(program, params)
    }

    /// What keeps the machine of this program from beginning it now; without one that is configured, what keeps any machine from
    /// beginning whatever it is. The answer may take as long as the disk does, so it is asked for elsewhere than here.
    pub fn could_begin(
        &self,
        program: Option<String>,
    ) -> impl FnOnce() -> Result<(), String> + Send + 'static {
        let asked = program.and_then(|program| Some((*self.programs.get(&program)?, program)));
        let units = self.units.iter().filter(|unit| asked.as_ref().is_none_or(|(of, _)| unit.index == *of));
        let machines: Vec<_> = units.map(|unit| Arc::clone(&unit.machine)).collect();
        let program = asked.map(|(_, program)| program);
        move || {
            let could_begin = |machine: &Arc<dyn Machine>| machine.could_begin(program.as_deref());
            machines.iter().try_for_each(|machine| catch_panic(|| could_begin(machine)).flatten())
        }
    }

    /// Passes a command on to its machine, and does not wait for it.
    pub fn command(&mut self, command: Command) {
        let key = command.key();
        let route = self.route(key);
        match command {
            Command::Start(work) => match self.place(&work, route) {
                Ok(unit) => {
                    self.routes.insert(key, unit);
                    self.send(unit, Command::Start(work));
                }
                Err(fact) => self.answer(key, fact),
            },
            Command::Probe(work) => match route.or_else(|| self.programs.get(&work.program).copied()) {
                Some(unit) => {
                    self.routes.insert(key, unit);
                    self.send(unit, Command::Probe(work));
                }
                None => self.ask_all(work),
            },
            Command::Stop { .. } | Command::Pause(_) | Command::Resume(_) => match route {
                Some(unit) => self.send(unit, command),
                None => {
                    let why = "no machine here knows this run; probe it first".to_owned();
                    if let Some(fact) = command.refused(why) {
                        self.answer(key, fact);
                    }
                }
            },
            Command::Dismiss(_) => {
                self.routes.remove(&key);
                if let Some(unit) = route {
                    self.send(unit, command);
                }
            }
        }
    }

    /// At most `max` bytes of a run's output from this offset on, and the output's total length. `None` if no machine has
    /// output of the run. Blocks on the disk.
    ///
    /// # Errors
    /// The output cannot be read.
    pub fn output(&self, key: RunKey, offset: u64, max: usize) -> io::Result<Option<(Vec<u8>, u64)>> {
        match self.route(key) {
            Some(unit) => self.units[unit].machine.output(key, offset, max),
            None => Ok(None),
        }
    }

    fn route(&self, key: RunKey) -> Option<usize> {
        let known = self.routes.get(&key).copied();
        known.or_else(|| self.units.iter().position(|unit| unit.machine.knows(key)))
    }

    /// The unit for a start, or the answer if it is not possible.
    fn place(&self, work: &Work, route: Option<usize>) -> Result<usize, Fact> {
        self.check(&work.program, &work.params)
            .map_err(|rejection| Fact::StartRejected(rejection.reason()))?;
        let unit = self.programs[&work.program];
        if route.is_some_and(|route| route != unit) {
            let why = "this run was begun on another machine; probe it";
            return Err(Fact::StartRefused(why.to_owned()));
        }
        Ok(unit)
    }

    fn send(&self, unit: usize, command: Command) {
        let Err((Task::Command(command), why)) = self.units[unit].send(Task::Command(command)) else {
            return;
        };
        let fact = match command {
            // The machine was not told of the start, so this is a proof.
            Command::Start(_) => Some(Fact::Probed(Probed::NotBegun(why))),
            Command::Stop { .. }
            | Command::Pause(_)
            | Command::Resume(_)
            | Command::Probe(_)
            | Command::Dismiss(_) => command.refused(why),
        };
        if let Some(fact) = fact {
            self.answer(command.key(), fact);
        }
    }

    /// Probes a run that no machine is known to have. Only if all machines prove that they never had it, it never started.
    fn ask_all(&self, work: Work) {
        let units = self.units.clone();
        let reporter = self.reporter.clone();
        self.aside(work.key, move || {
            let key = work.key;
            let (answer, answers) = channel();
            let asked = units.len();
            for unit in &units {
                // A unit whose queue is full gives no answer, and is missing from the count below.
                drop(unit.send(Task::Ask(work.clone(), answer.clone())));
            }
            drop(answer);
            let (unit, probed) = conclude(answers, asked);
            let is_alive = matches!(probed, Probed::Alive { .. });
            if reporter.tell(key, Fact::Probed(probed))
                && is_alive
                && let Some(unit) = unit
                && let Err((_, why)) = units[unit].send(Task::Watch(key))
            {
                tracing::error!(key = run_name(key), %why, "the run is not watched; probe it again");
            }
        });
    }

    /// Reports from a thread of its own: the channel may be full, and the caller must not wait.
    fn answer(&self, key: RunKey, fact: Fact) {
        let reporter = self.reporter.clone();
        self.aside(key, move || {
            reporter.tell(key, fact);
        });
    }

    fn aside(&self, key: RunKey, work: impl FnOnce() + Send + 'static) {
        if let Err(error) = thread::Builder::new().name("machine answer".into()).spawn(work) {
            let key = run_name(key);
            tracing::error!(key, %error, "no thread to answer a command for the machine; probe the run again");
        }
    }
}

/// The answer of all machines together, and the unit that has the run.
fn conclude(answers: Receiver<(usize, Probed)>, asked: usize) -> (Option<usize>, Probed) {
    let answers: Vec<(usize, Probed)> = answers.into_iter().collect();
    let missing = asked - answers.len();
    let mut doubt = (missing > 0)
        .then(|| Probed::Unknown(format!("{missing} machine drivers gave no answer; probe again")));
    for (unit, probed) in answers {
        match probed {
            Probed::Alive { .. } | Probed::Ended(_) | Probed::Gone | Probed::NotBegun(_) => {
                return (Some(unit), probed);
            }
            Probed::Unknown(_) => doubt = Some(probed),
            Probed::NeverStarted => {}
        }
    }
    (None, doubt.unwrap_or(Probed::NeverStarted))
}

/// One machine and its queue.
#[derive(Clone)]
struct Unit {
    name: String,
    index: usize,
    machine: Arc<dyn Machine>,
    queue: Arc<Mutex<Queue>>,
    reporter: Reporter,
}

/// A thread does what is queued, one task after the other, and ends when the queue is empty: most machines have nothing to do
/// for hours, and a small board has little memory for idle threads.
#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    has_thread: bool,
}

enum Task {
    Command(Command),
    /// A probe of all machines, which are answered for together.
    Ask(Work, Sender<(usize, Probed)>),
    Watch(RunKey),
}

impl Unit {
    /// Queues a task, or returns it with the reason why not.
    fn send(&self, task: Task) -> Result<(), (Task, String)> {
        let mut queue = lock(&self.queue);
        if queue.tasks.len() >= QUEUE_LIMIT {
            return Err((task, format!("the machine has {QUEUE_LIMIT} commands to do first")));
        }
        queue.tasks.push_back(task);
        if queue.has_thread {
            return Ok(());
        }
        let unit = self.clone();
        let spawned =
            thread::Builder::new().name(format!("machine {}", self.name)).spawn(move || unit.work_off());
        match spawned {
            Ok(_) => queue.has_thread = true,
            Err(error) => {
                let why = format!("the system gives no thread for the machine ({error}); try again");
                // Without a thread the queue was empty before.
                return queue.tasks.pop_back().map_or(Ok(()), |task| Err((task, why)));
            }
        }
        Ok(())
    }

    fn work_off(&self) {
        while let Some(task) = next_task(&self.queue) {
            self.perform(task);
        }
    }

    fn perform(&self, task: Task) {
        match task {
            Task::Command(Command::Probe(work)) => {
                let probed = self.probe(&work);
                let is_alive = matches!(probed, Probed::Alive { .. });
                if self.reporter.tell(work.key, Fact::Probed(probed)) && is_alive {
                    self.watch(work.key);
                }
            }
            Task::Command(command) => {
                let machine = &self.machine;
                let done = catch_panic(|| match &command {
                    Command::Start(work) => machine.start(work),
                    Command::Stop { key, now } => machine.stop(*key, *now),
                    Command::Pause(key) => machine.pause(*key),
                    Command::Resume(key) => machine.resume(*key),
                    Command::Dismiss(key) => {
                        machine.dismiss(*key);
                        Ok(())
                    }
                    Command::Probe(_) => Ok(()),
                });
                if let Err(why) = done.flatten()
                    && let Some(fact) = command.refused(why)
                {
                    self.reporter.tell(command.key(), fact);
                }
            }
            Task::Ask(work, answer) => {
                // If the receiver is gone, it has its answer already.
                let _ = answer.send((self.index, self.probe(&work)));
            }
            Task::Watch(key) => self.watch(key),
        }
    }

    fn probe(&self, work: &Work) -> Probed {
        catch_panic(|| self.machine.probe(work)).unwrap_or_else(Probed::Unknown)
    }

    fn watch(&self, key: RunKey) {
        if let Err(why) = catch_panic(|| self.machine.watch(key)) {
            tracing::error!(key = run_name(key), %why, "the run is not watched; probe it again");
        }
    }
}

/// The next task. If there is none, the queue counts as one without a thread from here on.
fn next_task(queue: &Mutex<Queue>) -> Option<Task> {
    let mut queue = lock(queue);
    let task = queue.tasks.pop_front();
    queue.has_thread = task.is_some();
    task
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // No code that can panic runs between two changes of a queue, so it is consistent even if the lock is poisoned.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A panic in a driver counts as a refusal, so that every command has an answer and the next one is served. What the machine
/// did before the panic is not known: the rules probe it, as after any refusal.
fn catch_panic<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
        format!("the machine's driver panicked: {text}")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reloop_protocol::id::{Attempt, JobId, Run};

    use super::*;

    fn concluded(probes: &[Probed], asked: usize) -> Probed {
        let (answer, answers) = channel();
        for entry in probes.iter().cloned().enumerate() {
            answer.send(entry).unwrap();
        }
        drop(answer);
        conclude(answers, asked).1
    }

    #[test]
    fn only_all_machines_together_prove_that_a_run_never_was() {
        let unknown = Probed::Unknown("silent".into());
        assert_eq!(concluded(&[Probed::NeverStarted, Probed::NeverStarted], 2), Probed::NeverStarted);
        assert_eq!(concluded(&[Probed::NeverStarted, unknown.clone()], 2), unknown);
        assert_eq!(concluded(&[unknown, Probed::Gone, Probed::NeverStarted], 3), Probed::Gone);
        assert!(matches!(concluded(&[Probed::NeverStarted], 2), Probed::Unknown(_)));
    }

    /// A driver with a bug in every call.
    struct Panics;

    impl Machine for Panics {
        fn knows(&self, _: RunKey) -> bool {
            true
        }
        fn check(&self, _: &str, _: &BTreeMap<String, String>) -> Result<(), Rejection> {
            Ok(())
        }
        fn could_begin(&self, _program: Option<&str>) -> Result<(), String> {
            panic!("in could_begin")
        }
        fn start(&self, _: &Work) -> Result<(), String> {
            panic!("in start")
        }
        fn stop(&self, _: RunKey, _: bool) -> Result<(), String> {
            panic!("in stop")
        }
        fn pause(&self, _: RunKey) -> Result<(), String> {
            panic!("in pause")
        }
        fn resume(&self, _: RunKey) -> Result<(), String> {
            panic!("in resume")
        }
        fn probe(&self, _: &Work) -> Probed {
            panic!("in probe")
        }
        fn watch(&self, _: RunKey) {
            panic!("in watch")
        }
        fn dismiss(&self, _: RunKey) {
            panic!("in dismiss")
        }
        fn output(&self, _: RunKey, _: u64, _: usize) -> io::Result<Option<(Vec<u8>, u64)>> {
            Ok(None)
        }
    }

    async fn next(facts: &mut mpsc::Receiver<(RunKey, Fact)>) -> (RunKey, Fact) {
        let fact = tokio::time::timeout(Duration::from_secs(60), facts.recv());
        fact.await.expect("a command is answered").expect("the machines are there")
    }

    #[tokio::test]
    async fn a_driver_that_panics_leaves_no_command_unanswered_and_serves_the_next() {
        let (sender, mut facts) = mpsc::channel(16);
        let mut machines = Machines::empty(sender);
        let unit = machines.add("mill", Arc::new(Panics));
        machines.programs.insert("mill".to_owned(), unit);
        let key = RunKey { job: JobId::from_parts(1, 1), attempt: Attempt(1), run: Run(1) };
        let work = Work { key, program: "mill".to_owned(), params: BTreeMap::new() };
        let panicked = |call: &str| format!("the machine's driver panicked: in {call}");

        // All but the dismissal are answered, in their order.
        let commands = [
            (Command::Dismiss(key), None),
            (Command::Start(work.clone()), Some(Fact::StartRefused(panicked("start")))),
            (Command::Stop { key, now: true }, Some(Fact::StopRefused(panicked("stop")))),
            (Command::Pause(key), Some(Fact::PauseRefused(panicked("pause")))),
            (Command::Resume(key), Some(Fact::PauseRefused(panicked("resume")))),
            (Command::Probe(work), Some(Fact::Probed(Probed::Unknown(panicked("probe"))))),
        ];
        for (command, answer) in commands {
            machines.command(command);
            if let Some(answer) = answer {
                assert_eq!(next(&mut facts).await, (key, answer));
            }
        }
        machines.units[unit].send(Task::Watch(key)).map_err(|(_, why)| why).unwrap();
        assert_eq!(machines.could_begin(None)(), Err(panicked("could_begin")));
        machines.command(Command::Pause(key));
        let refused = Fact::PauseRefused(panicked("pause"));
        assert_eq!(next(&mut facts).await, (key, refused), "after a watch too");
    }
}
