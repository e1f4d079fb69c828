//! The program `reloop-slave`: the agent, the commands of people at the machine, and with `runner <run_dir>` the parent
//! process of one run.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use reloop_node::transfer::TransferError;
use reloop_protocol::message::PROTOCOL;
use reloop_slave::config::{Config, Overrides};
use reloop_slave::local::{self, CallError, Request, Resolution};
use reloop_slave::run::{EXIT_CONFIG, run};
use reloop_slave::{check, identity, machine, store, telemetry};

/// The command was refused.
const EXIT_REFUSED: u8 = 1;
/// No agent is running.
const EXIT_NOT_RUNNING: u8 = 6;
/// The agent was asked, and it is not known whether it did what was asked.
const EXIT_NO_ANSWER: u8 = 7;

const EXIT_STATUS: &str = "\
Exit status of a command to the agent: 0 done; 1 refused, and the message says what would help; 6 no agent is running; \
7 the agent ended before it answered, or its answer makes no sense: `status` tells whether the command was done.
Exit status of `store`: 0 done; 1 refused; 74 the store can't be opened or written.
Exit status of the agent itself: 0 it was told to stop; 74 its disk fails; 78 a setting is wrong.";

/// How long the end of the agent waits for threads that read an output: longer than a disk takes that is not stuck.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// Threads for name lookups and for reading outputs, which take a moment each; others wait.
const BLOCKING_THREADS: usize = 4;

/// Runs one machine for a Reloop master, with or without a link.
#[derive(Parser)]
#[command(name = "reloop-slave", version, arg_required_else_help = true, after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the agent; when it ends, the job goes on, and the next agent finds it again
    Run(Settings),
    /// Store an enrolment token; the agent shows it to the master until the slave is enrolled
    Enroll {
        #[command(flatten)]
        place: Place,
        /// The file that holds the token; - for the standard input
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
    },
    /// Check everything that the agent needs, and change nothing
    Check(Settings),
    /// Show what the slave does, which jobs it holds and what it waits for
    Status {
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Confirm that the machine is clear of the last job, so that it takes the next one
    Ready(Place),
    /// Confirm that you have looked at what needed attention
    Clear(Place),
    /// Pause the running job; it can only be resumed at this machine
    Pause(Place),
    /// Resume the paused job
    Resume(Place),
    /// Stop the running job where it can be left without harm; this is no emergency stop
    Stop {
        #[command(flatten)]
        place: Place,
        /// Stop at once, not at a safe point
        #[arg(long)]
        now: bool,
    },
    /// Switch local control on or off: while it is on, no job from the master starts
    Local {
        /// on: no job from the master starts; off: they start again
        switch: Switch,
        #[command(flatten)]
        place: Place,
    },
    /// Set the outcome of an uncertain job, after a look at the machine
    #[command(allow_missing_positional = true)]
    Resolve {
        /// The job's id; may be left out if only one job is uncertain
        job: Option<String>,
        /// The outcome that you have found at the machine
        outcome: Resolution,
        #[command(flatten)]
        place: Place,
    },
    /// Export the store of an agent that is stopped as text, or import one
    #[command(subcommand)]
    Store(StoreVerb),
    /// Show the version of the program and of the protocol
    Version,
}

#[derive(Subcommand)]
enum StoreVerb {
    /// Write the store as text, one record per line
    Export {
        #[command(flatten)]
        place: Place,
        /// A new file; - for the standard output
        file: PathBuf,
    },
    /// Make the store from an exported text
    ///
    /// A store that holds records is not replaced. Import only what was exported after the agent's last run: an older
    /// store does not know what the machine has begun since.
    Import {
        #[command(flatten)]
        place: Place,
        /// An exported text; - for the standard input
        file: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Args)]
struct Place {
    /// The config file
    #[arg(
        long,
        value_name = "FILE",
        env = "RELOOP_SLAVE_CONFIG",
        default_value = "/etc/reloop-slave/slave.toml"
    )]
    config: PathBuf,
    /// The directory of the agent's files, instead of the config's state_dir
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Args)]
struct Settings {
    #[command(flatten)]
    place: Place,
    /// The slave's name, instead of the config's name
    #[arg(long)]
    name: Option<String>,
    /// The address to dial, instead of the config's master
    #[arg(long, value_name = "URL")]
    master: Option<String>,
}

impl Place {
    fn find(self) -> anyhow::Result<PathBuf> {
        let flags = Overrides { state_dir: self.state_dir, ..Overrides::default() };
        Ok(Config::state_dir(&self.config, flags)?)
    }
}

impl Settings {
    fn load(self) -> anyhow::Result<Config> {
        let Self { place: Place { config, state_dir }, name, master } = self;
        let flags = Overrides { name, master, state_dir, enroll_token_file: None };
        Ok(Config::load_with(&config, flags)?)
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if let (Some(verb), Some(run_dir), None) = (arguments.next(), arguments.next(), arguments.next())
        && verb == "runner"
    {
        return machine::process::runner::main(Path::new(&run_dir));
    }
    match act(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn act(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Run(settings) => {
            let config = settings.load()?;
            telemetry::init()?;
            block_on(run(config))?
        }
        Verb::Enroll { place, token_file } => enroll(&place.find()?, &token_file),
        Verb::Check(settings) => {
            let config = settings.load()?;
            let findings = block_on(check::check(&config))?;
            let mut fine = true;
            for finding in findings {
                let (mark, text) = match finding.found {
                    Ok(text) => ("ok", text),
                    Err(text) => ("NOT OK", text),
                };
                fine &= mark == "ok";
                say(&format!("{:<18} {mark:<7} {text}", finding.subject))?;
            }
            Ok(if fine { ExitCode::SUCCESS } else { ExitCode::from(EXIT_REFUSED) })
        }
        Verb::Status { place, json } => status(&place.find()?, json),
        Verb::Ready(place) => ask(place, &Request::Ready),
        Verb::Clear(place) => ask(place, &Request::Clear),
        Verb::Pause(place) => ask(place, &Request::Pause),
        Verb::Resume(place) => ask(place, &Request::Resume),
        Verb::Stop { place, now } => ask(place, &Request::Stop { now }),
        Verb::Local { switch, place } => ask(place, &Request::Local { on: matches!(switch, Switch::On) }),
        Verb::Resolve { job, outcome, place } => ask(place, &Request::Resolve { job, outcome }),
        Verb::Store(StoreVerb::Export { place, file }) => transferred(store::export(&place.find()?, &file)),
        Verb::Store(StoreVerb::Import { place, file }) => transferred(store::import(&place.find()?, &file)),
        Verb::Version => {
            let version = env!("CARGO_PKG_VERSION");
            say(&format!("reloop-slave {version}, protocol {} to {}", PROTOCOL.oldest, PROTOCOL.newest))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("the system gives no event loop")?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_THREADS);
    Ok(done)
}

fn enroll(state_dir: &Path, token_file: &Path) -> anyhow::Result<ExitCode> {
    let text = if token_file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("the standard input")?;
        text
    } else {
        fs::read_to_string(token_file).with_context(|| token_file.display().to_string())?
    };
    reloop_node::durable::create_dir_all_synced(state_dir)
        .with_context(|| format!("state_dir = {state_dir:?}"))?;
    let path = identity::keep_token(state_dir, &text).context("the token was not kept")?;
    let then = match local::call(state_dir, &Request::Dial) {
        Ok(_) => "the running agent shows it to the master now".to_owned(),
        Err(CallError::NotRunning(_)) => "the agent shows it to the master when it is started".to_owned(),
        Err(error) => format!("the running agent was not told ({error}) and shows it at its next try"),
    };
    say(&format!("the token is in {}: {then}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn status(state_dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let answer = match local::call(state_dir, &Request::Status) {
        Ok(answer) => answer,
        Err(error) => return Ok(no_answer(&error)),
    };
    match answer.status {
        Some(status) if json => say(&serde_json::to_string_pretty(&status)?)?,
        Some(status) => say(status.for_people().trim_end())?,
        None => {
            complain(&answer.text);
            return Ok(ExitCode::from(EXIT_REFUSED));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(place: Place, request: &Request) -> anyhow::Result<ExitCode> {
    let state_dir = place.find()?;
    match local::call(&state_dir, request) {
        Ok(answer) if answer.done => {
            say(&answer.text)?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(answer) => {
            complain(&answer.text);
            Ok(ExitCode::from(EXIT_REFUSED))
        }
        Err(error) => Ok(no_answer(&error)),
    }
}

fn no_answer(error: &CallError) -> ExitCode {
    complain(&error.to_string());
    match error {
        CallError::NotRunning(_) => {
            complain("start it: `systemctl start reloop-slave@NAME`, or `reloop-slave run --config FILE`");
            ExitCode::from(EXIT_NOT_RUNNING)
        }
        CallError::NotAllowed { .. } => ExitCode::from(EXIT_REFUSED),
        CallError::Ended | CallError::NoAnswer(_) => ExitCode::from(EXIT_NO_ANSWER),
    }
}

/// Its words are on standard error, because an export may be on standard output.
fn transferred(done: Result<String, TransferError>) -> anyhow::Result<ExitCode> {
    match done {
        Ok(text) => {
            // There is nobody else to tell.
            let _ = writeln!(io::stderr().lock(), "{text}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            complain(&error.to_string());
            Ok(ExitCode::from(store::exit_code(&error)))
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        // The reader has closed the pipe: it needs no more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("the standard output"),
    }
}

fn complain(text: &str) {
    // If this fails, there is nobody else to tell.
    let _ = writeln!(io::stderr().lock(), "reloop-slave: {text}");
}
