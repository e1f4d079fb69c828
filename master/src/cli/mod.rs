//! The command line: `serve` runs the master, everything else asks one over REST.
//!
//! Data goes to stdout and words to stderr, so that `-o json` and `-o id` can be piped. Every command says how far it
//! got, not just that it was taken. Ctrl-C while something is watched leaves the job alone.

mod args;
mod client;
mod commands;
mod store;
mod table;
mod watch;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use reloop_node::store::StoreError;

use self::args::{Args, Command, ServeArgs};
use crate::config::{Config, Overrides};
use crate::{serve, telemetry};

/// How a command ended, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it should.
    Ok = 0,
    /// An error that has no number of its own.
    Error = 1,
    /// The command line is wrong.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// The token is missing, wrong, or of a role that may not.
    Auth = 4,
    /// It is not possible as things stand.
    Conflict = 5,
    /// The master does not answer.
    Unreachable = 6,
    /// It took longer than `--timeout`.
    Timeout = 7,
    /// The awaited job failed.
    JobFailed = 10,
    /// The awaited job was canceled.
    JobCanceled = 11,
    /// The awaited job was rejected by its slave.
    JobRejected = 12,
    /// The awaited job's window closed before it started.
    JobExpired = 13,
    /// The awaited job was given up: its outcome is not known.
    JobLost = 14,
    /// The disk does not take or give what it should.
    Storage = 74,
    /// The config can't be used.
    Config = 78,
    /// Somebody pressed Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

const EXIT_CODES: &str = "\
Exit codes

   0  as it should
   1  an error that has no number of its own
   2  the command line is wrong
   3  there is no such order, job or slave
   4  the token is missing, wrong, or of a role that may not
   5  it is not possible as things stand
   6  the master does not answer
   7  it took longer than --timeout
  74  serve, store: the store can't be opened or written; nothing was changed, mend the disk and start again
  78  serve, store: the config can't be used
 130  Ctrl-C: what was watched goes on

`order submit --wait` and `job wait` tell how the work ended; of several jobs the highest number counts:

  10  failed
  11  canceled
  12  rejected by its slave
  13  expired: its window closed before it started
  14  lost: somebody gave it up, and its outcome is not known
";

/// The program `reloop`: reads the command line and runs what it says.
pub fn main() -> ExitCode {
    let provider = rustls::crypto::ring::default_provider();
    provider.install_default().expect("nothing has installed another provider before");
    let args = Args::parse();
    match args.command {
        Command::Serve(serve) => run_master(serve).into(),
        Command::Store(command) => store::run(command).into(),
        Command::Help { topic } => help(&topic).into(),
        command => run_client(&args.client, command).into(),
    }
}

fn run_master(args: ServeArgs) -> Exit {
    if let Err(error) = telemetry::init() {
        complain(&error.to_string());
        return Exit::Config;
    }
    let flags = Overrides { listen: args.listen, data_dir: args.data_dir, enrollment: args.enrollment };
    let config = match Config::load(args.config.as_deref(), flags) {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return Exit::Config;
        }
    };
    // One for the loop and one beside it: what is slow is the disk, and that has a thread of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(serve::run(config)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(&format!("{error:#}"));
            if error.is::<StoreError>() { Exit::Storage } else { Exit::Error }
        }
    }
}

fn run_client(client: &args::ClientArgs, command: Command) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(commands::command(client, command)),
        Err(error) => Err(client::Failure::new(Exit::Error, error.to_string())),
    };
    match result {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.text.is_empty() {
                complain(&failure.text);
            }
            failure.exit
        }
    }
}

fn help(topic: &[String]) -> Exit {
    if topic.len() == 1 && topic[0] == "exit-codes" {
        return say(EXIT_CODES);
    }
    let mut command = Args::command();
    command.build();
    let mut at = &mut command;
    for word in topic {
        let Some(next) = at.find_subcommand_mut(word) else {
            complain(&format!("there is no help about {word:?}: `reloop help` lists the commands"));
            return Exit::Usage;
        };
        at = next;
    }
    let text = at.render_long_help().to_string();
    say(&text)
}

/// Writes data to stdout. A closed pipe is no error: that is how `head` ends.
fn say(text: &str) -> Exit {
    write_out(text.as_bytes())
}

fn write_out(bytes: &[u8]) -> Exit {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Exit::Ok,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => {
            complain(&format!("cannot write: {error}"));
            Exit::Error
        }
    }
}

/// Writes an error to stderr.
#[expect(clippy::print_stderr, reason = "the one place for it")]
fn complain(text: &str) {
    eprintln!("reloop: {text}");
}

/// Writes a remark to stderr.
#[expect(clippy::print_stderr, reason = "the one place for it")]
fn remark(text: &str) {
    eprintln!("{text}");
}
