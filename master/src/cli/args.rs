//! What the command line takes.

use std::path::PathBuf;

use clap::{ArgGroup, Parser, Subcommand, ValueEnum};

/// Runs jobs on fleets of factory machines over networks that fail.
#[derive(Debug, Parser)]
#[command(
    name = "reloop",
    version,
    disable_help_subcommand = true,
    after_help = "`reloop help exit-codes` lists the exit codes."
)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) client: ClientArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, clap::Args)]
pub(super) struct ClientArgs {
    /// The master's address.
    #[arg(
        long,
        global = true,
        env = "RELOOP_MASTER",
        default_value = "http://127.0.0.1:7400",
        value_name = "URL"
    )]
    pub(super) master: String,
    /// Holds the token. Else RELOOP_TOKEN_FILE, RELOOP_TOKEN, or the admin token of a master on this box.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Certificates in PEM to trust with https, beside the system's.
    #[arg(long, global = true, env = "RELOOP_CA_FILE", value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, global = true, default_value = "table", value_name = "FORMAT")]
    pub(super) output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// What the master says.
    Json,
    /// Ids or names only, one to a line.
    Id,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the master.
    Serve(ServeArgs),
    /// Orders: what shall be done.
    #[command(subcommand)]
    Order(OrderCommand),
    /// Jobs: what is done of it.
    #[command(subcommand)]
    Job(JobCommand),
    /// Slaves: who does it.
    #[command(subcommand)]
    Slave(SlaveCommand),
    /// What needs a person, the most urgent first: the command that ends it, and its risk.
    Needs {
        /// How many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// A master that was restored from a backup.
    #[command(subcommand)]
    Restore(RestoreCommand),
    /// Tokens of clients.
    #[command(subcommand)]
    Token(TokenCommand),
    /// The database of a master that is stopped, as text.
    #[command(subcommand)]
    Store(super::store::StoreCommand),
    /// Help about a command, or `help exit-codes`.
    Help {
        /// Which.
        topic: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// Where to listen. Also RELOOP_LISTEN.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen: Option<String>,
    /// Where to keep everything. Also RELOOP_DATA_DIR.
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// The settings.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Who may become a slave: token, approve or open. Also RELOOP_ENROLLMENT.
    #[arg(long, value_name = "HOW")]
    pub(super) enrollment: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum OrderCommand {
    /// Place an order.
    Submit(Box<SubmitArgs>),
    /// Show an order with its jobs.
    Show {
        /// Its id, or the beginning or end of it.
        id: String,
    },
    /// List orders, newest first.
    #[command(alias = "list")]
    Ls {
        /// How many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Cancel all jobs of an order.
    Cancel {
        /// Its id, or the beginning or end of it.
        id: String,
        /// How a running job may be stopped.
        #[arg(long, default_value = "safe_point")]
        mode: Mode,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("work").required(true).args(["file", "program"])))]
pub(super) struct SubmitArgs {
    /// The order as JSON; - for stdin. Other options are laid over it.
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Which program.
    #[arg(long)]
    pub(super) program: Option<String>,
    /// A parameter of the program; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) param: Vec<(String, String)>,
    /// Only on this slave.
    #[arg(long)]
    pub(super) slave: Option<String>,
    /// A label that the slave must have; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) require: Vec<(String, String)>,
    /// How many jobs.
    #[arg(long)]
    pub(super) quantity: Option<u32>,
    /// The highest goes first.
    #[arg(long, allow_negative_numbers = true)]
    pub(super) priority: Option<i32>,
    /// Do not start before this, as 2026-03-01T06:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(super) not_before: Option<String>,
    /// Do not start after this.
    #[arg(long, value_name = "TIME")]
    pub(super) deadline: Option<String>,
    /// Start only when somebody releases it.
    #[arg(long)]
    pub(super) hold: bool,
    /// A name for people.
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Sent again with the same key, the order is placed once. Made up if absent.
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
    /// Wait until all its jobs have ended, and tell by the exit code how.
    #[arg(long, conflicts_with = "detach")]
    pub(super) wait: bool,
    /// Do not wait: the default.
    #[arg(long)]
    pub(super) detach: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected name=value".to_owned()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Mode {
    /// Only if it has not started.
    IfNotStarted,
    /// Where the machine can end cleanly.
    SafePoint,
    /// At once.
    Now,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::IfNotStarted => "if_not_started",
            Self::SafePoint => "safe_point",
            Self::Now => "now",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum JobCommand {
    /// List jobs, newest first.
    #[command(alias = "list")]
    Ls {
        /// Only in these states, with commas between.
        #[arg(long)]
        state: Option<String>,
        /// Only at this slave.
        #[arg(long)]
        slave: Option<String>,
        /// Only of this order.
        #[arg(long)]
        order: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show a job.
    Show(JobId),
    /// Follow a job until it ends. Ctrl-C leaves it alone.
    Watch(JobId),
    /// Wait until jobs have ended, and tell by the exit code how.
    Wait {
        /// Their ids, or the beginnings or ends of them.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Not longer than this.
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// End a job.
    Cancel {
        #[command(flatten)]
        job: JobId,
        /// How a running job may be stopped.
        #[arg(long, default_value = "safe_point")]
        mode: Mode,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Do not start a job; pause it if it runs.
    Pause(JobId),
    /// Let a paused job go on.
    Resume(JobId),
    /// Let a held job start.
    Release {
        #[command(flatten)]
        job: JobId,
        /// How long the word holds.
        #[arg(long, default_value_t = 600, value_name = "SECONDS")]
        valid: u64,
    },
    /// Change when an unstarted job may start: what is not given no longer counts.
    Reschedule {
        #[command(flatten)]
        job: JobId,
        /// Do not start before this, as 2026-03-01T06:00:00Z.
        #[arg(long, value_name = "TIME")]
        not_before: Option<String>,
        /// Do not start after this.
        #[arg(long, value_name = "TIME")]
        deadline: Option<String>,
        /// If its time passes while the slave is off: hold, run or skip. hold if not given.
        #[arg(long, value_name = "HOW")]
        late: Option<String>,
    },
    /// Begin a new attempt of a job that ended without success.
    Retry(JobId),
    /// Say how an uncertain job ended. Look at the machine first.
    Resolve {
        #[command(flatten)]
        job: JobId,
        /// How.
        outcome: Outcome,
    },
    /// Give up a job whose slave is gone. The machine may still run.
    Abandon {
        #[command(flatten)]
        job: JobId,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Print a job's output, from its slave; the end of it if nothing else is said.
    Log {
        #[command(flatten)]
        job: JobId,
        /// From this byte.
        #[arg(long)]
        offset: Option<u64>,
        /// Not more than so many bytes.
        #[arg(long)]
        limit: Option<u32>,
        /// Go on until the job has ended.
        #[arg(short, long)]
        follow: bool,
    },
    /// Why a job has not started.
    Explain(JobId),
    /// What a job went through.
    Events(JobId),
}

#[derive(Debug, clap::Args)]
pub(super) struct JobId {
    /// The job's id, or the beginning or end of it.
    pub(super) id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Outcome {
    /// As it should.
    Succeeded,
    /// Badly.
    Failed,
    /// Because somebody stopped it.
    Canceled,
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum SlaveCommand {
    /// List slaves.
    #[command(alias = "list")]
    Ls,
    /// Show a slave.
    Show(SlaveName),
    /// What its handshakes came to.
    Receipts(SlaveName),
    /// Confirm that its machine is clear.
    Ready(SlaveName),
    /// Confirm that somebody has looked at what needed attention.
    Clear(SlaveName),
    /// Put it into a mode.
    Mode {
        #[command(flatten)]
        slave: SlaveName,
        /// production, draining, maintenance, disabled or quarantined.
        mode: String,
        /// Why, for the master's log.
        #[arg(short = 'm', long)]
        reason: Option<String>,
    },
    /// Enrol a key that waits for it.
    Approve(SlaveName),
    /// Revoke its key. What it holds stays with it.
    Forget {
        #[command(flatten)]
        slave: SlaveName,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Make a token that enrols slaves.
    EnrollToken {
        /// Only a slave of this name.
        #[arg(long)]
        name: Option<String>,
        /// How long it holds.
        #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
        ttl: u64,
        /// How many slaves it enrols.
        #[arg(long, default_value_t = 1)]
        uses: u32,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct SlaveName {
    /// The slave's name, or its key.
    pub(super) name: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum RestoreCommand {
    /// Confirm that this master was restored and is the one: its slaves obey it from here.
    ///
    /// It ends every link and holds what waits, and so is refused while no slave has seen a later state of this master.
    Confirm {
        /// Also if no slave says that it was restored, since those that could tell are away.
        #[arg(long)]
        force: bool,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token.
    Create {
        /// Whose it is, for people.
        #[arg(long)]
        name: String,
        /// viewer, client, operator or admin.
        #[arg(long)]
        role: String,
    },
    /// List tokens.
    #[command(alias = "list")]
    Ls,
    /// Make a token worthless.
    Revoke {
        /// Its id.
        id: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_order_needs_a_file_or_a_program() {
        assert!(Args::try_parse_from(["reloop", "order", "submit"]).is_err());
        assert!(Args::try_parse_from(["reloop", "order", "submit", "-f", "-"]).is_ok());
        let args =
            ["reloop", "order", "submit", "--program", "mill", "--param", "file=a=b", "--priority", "-3"];
        let Command::Order(OrderCommand::Submit(submit)) = Args::try_parse_from(args).unwrap().command else {
            panic!("it is an order");
        };
        assert_eq!(submit.param, [("file".to_owned(), "a=b".to_owned())]);
        assert_eq!(submit.priority, Some(-3));
        assert!(
            Args::try_parse_from(["reloop", "order", "submit", "--program", "x", "--param", "=b"]).is_err()
        );
    }
}
