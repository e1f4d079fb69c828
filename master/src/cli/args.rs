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
    /// Address of the master.
    #[arg(
        long,
        global = true,
        env = "RELOOP_MASTER",
        default_value = "http://127.0.0.1:7400",
        value_name = "URL"
    )]
    pub(super) master: String,
    /// File that holds the client's token. Without it: RELOOP_TOKEN_FILE, RELOOP_TOKEN, or the admin token of a master on this box.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Certificates in PEM to trust with https, beside the system's.
    #[arg(long, global = true, env = "RELOOP_CA_FILE", value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Output format.
    #[arg(short, long, global = true, default_value = "table", value_name = "FORMAT")]
    pub(super) output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// A table, for people.
    Table,
    /// The master's answer as JSON.
    Json,
    /// Ids or names only, one to a line.
    Id,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the master.
    Serve(ServeArgs),
    /// Place, list and cancel orders.
    #[command(subcommand)]
    Order(OrderCommand),
    /// List, follow and control jobs.
    #[command(subcommand)]
    Job(JobCommand),
    /// List slaves, set their modes, enrol and revoke them.
    #[command(subcommand)]
    Slave(SlaveCommand),
    /// List what needs a person, the most urgent first, with the command that ends it and its risk.
    Needs {
        /// List at most this many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Confirm that the master was restored from a backup.
    #[command(subcommand)]
    Restore(RestoreCommand),
    /// Make, list and revoke clients' tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Export the store of a master that is stopped as text, or import one.
    #[command(subcommand)]
    Store(super::store::StoreCommand),
    /// Explain a command, or the exit codes.
    Help {
        /// The command to explain, or `exit-codes`.
        topic: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// Address to listen on. Also RELOOP_LISTEN.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen: Option<String>,
    /// Directory of the store and the tokens. Also RELOOP_DATA_DIR.
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// The config file.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// How slaves are enrolled: token, approve or open. Also RELOOP_ENROLLMENT.
    #[arg(long, value_name = "HOW")]
    pub(super) enrollment: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum OrderCommand {
    /// Place an order.
    Submit(Box<SubmitArgs>),
    /// Show an order with its jobs.
    Show {
        /// The order's id, or the beginning or end of it.
        id: String,
    },
    /// List orders, newest first.
    #[command(alias = "list")]
    Ls {
        /// List at most this many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Cancel all jobs of an order.
    Cancel {
        /// The order's id, or the beginning or end of it.
        id: String,
        /// How a running job may be stopped.
        #[arg(long, default_value = "safe_point")]
        mode: Mode,
        /// Skip the confirmation prompt.
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("work").required(true).args(["file", "program"])))]
pub(super) struct SubmitArgs {
    /// The order as JSON; - for stdin. Other options override its fields.
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// The program to run.
    #[arg(long)]
    pub(super) program: Option<String>,
    /// A parameter of the program; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) param: Vec<(String, String)>,
    /// The only slave that may take the jobs.
    #[arg(long)]
    pub(super) slave: Option<String>,
    /// A label that the slave must have; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) require: Vec<(String, String)>,
    /// Number of jobs in the order.
    #[arg(long)]
    pub(super) quantity: Option<u32>,
    /// Priority of the jobs; the highest goes first.
    #[arg(long, allow_negative_numbers = true)]
    pub(super) priority: Option<i32>,
    /// Do not start before this, as 2026-03-01T06:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(super) not_before: Option<String>,
    /// Do not start after this.
    #[arg(long, value_name = "TIME")]
    pub(super) deadline: Option<String>,
    /// Hold the jobs until a person releases them.
    #[arg(long)]
    pub(super) hold: bool,
    /// A label of the jobs, for people.
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Idempotency key: a repeated request with the same key places no second order; random if absent.
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
    /// Wait until all jobs have ended; the exit code says how.
    #[arg(long, conflicts_with = "detach")]
    pub(super) wait: bool,
    /// Return as soon as the order is placed (the default).
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
    /// Cancel only a job that has not started.
    IfNotStarted,
    /// Stop a running job where its machine can end cleanly.
    SafePoint,
    /// Stop a running job at once.
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
        /// List only jobs in these states, separated by commas.
        #[arg(long)]
        state: Option<String>,
        /// List only jobs at this slave.
        #[arg(long)]
        slave: Option<String>,
        /// List only jobs of this order.
        #[arg(long)]
        order: Option<String>,
        /// List at most this many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show a job.
    Show(JobId),
    /// Print each change of a job until it ends. Ctrl-C ends the command only.
    Watch(JobId),
    /// Wait until jobs have ended; the exit code says how.
    Wait {
        /// The jobs' ids, or the beginnings or ends of them.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Give up waiting after this long.
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Cancel a job.
    Cancel {
        #[command(flatten)]
        job: JobId,
        /// How a running job may be stopped.
        #[arg(long, default_value = "safe_point")]
        mode: Mode,
        /// Skip the confirmation prompt.
        #[arg(short, long)]
        yes: bool,
    },
    /// Do not start a job; pause it if it runs.
    Pause(JobId),
    /// Resume a paused job.
    Resume(JobId),
    /// Let a held job start.
    Release {
        #[command(flatten)]
        job: JobId,
        /// How long the release stays valid.
        #[arg(long, default_value_t = 600, value_name = "SECONDS")]
        valid: u64,
    },
    /// Set when a job that has not started may start. An option that is not given removes its old value.
    Reschedule {
        #[command(flatten)]
        job: JobId,
        /// Do not start before this, as 2026-03-01T06:00:00Z.
        #[arg(long, value_name = "TIME")]
        not_before: Option<String>,
        /// Do not start after this.
        #[arg(long, value_name = "TIME")]
        deadline: Option<String>,
        /// What happens if the slave finds --not-before past by more than its tolerance: hold (until a release; the default), run, or skip (expire).
        #[arg(long, value_name = "HOW")]
        late: Option<String>,
    },
    /// Begin a new attempt of a job that ended without success.
    Retry(JobId),
    /// Say how an uncertain job ended. Look at the machine first.
    Resolve {
        #[command(flatten)]
        job: JobId,
        /// How it ended, as seen at the machine.
        outcome: Outcome,
    },
    /// Give up a job whose slave is gone. The machine may still run.
    Abandon {
        #[command(flatten)]
        job: JobId,
        /// Skip the confirmation prompt.
        #[arg(short, long)]
        yes: bool,
    },
    /// Print a job's output, which its slave has; by default the end of it.
    Log {
        #[command(flatten)]
        job: JobId,
        /// Start at this byte.
        #[arg(long)]
        offset: Option<u64>,
        /// Print at most this many bytes.
        #[arg(long)]
        limit: Option<u32>,
        /// Keep printing until the job has ended.
        #[arg(short, long)]
        follow: bool,
    },
    /// Explain why a job has not started.
    Explain(JobId),
    /// List a job's changes of state.
    Events(JobId),
}

#[derive(Debug, clap::Args)]
pub(super) struct JobId {
    /// The job's id, or the beginning or end of it.
    pub(super) id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Outcome {
    /// The work was done.
    Succeeded,
    /// The work went wrong.
    Failed,
    /// Somebody stopped the work.
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
    /// List the receipts of a slave's handshakes: what was compared and what followed.
    Receipts(SlaveName),
    /// Confirm that a slave's machine is clear of the finished job.
    Ready(SlaveName),
    /// Confirm that a person has looked at what needed attention at a slave's machine.
    Clear(SlaveName),
    /// Set a slave's operating mode.
    Mode {
        #[command(flatten)]
        slave: SlaveName,
        /// The mode: production, draining, maintenance, disabled or quarantined.
        mode: String,
        /// Reason, for the master's log.
        #[arg(short = 'm', long)]
        reason: Option<String>,
    },
    /// Enrol a slave whose key waits for approval.
    Approve(SlaveName),
    /// Revoke a slave's key. The jobs that it holds stay with it.
    Forget {
        #[command(flatten)]
        slave: SlaveName,
        /// Skip the confirmation prompt.
        #[arg(short, long)]
        yes: bool,
    },
    /// Make a token that enrols slaves.
    EnrollToken {
        /// Only a slave of this name may use it.
        #[arg(long)]
        name: Option<String>,
        /// How long it stays valid.
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
    /// Confirm that this master was restored from a backup and goes on: its slaves obey it from then on.
    ///
    /// Every link is closed, and queued and assigned jobs are held until a person releases them. Refused while no slave has seen
    /// a later state of this master, unless --force is given.
    Confirm {
        /// Confirm even if no slave has seen a later state, for instance because all that could have are offline.
        #[arg(long)]
        force: bool,
        /// Skip the confirmation prompt.
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token.
    Create {
        /// Who uses the token, for people.
        #[arg(long)]
        name: String,
        /// The role: viewer, client, operator or admin.
        #[arg(long)]
        role: String,
    },
    /// List tokens.
    #[command(alias = "list")]
    Ls,
    /// Revoke a token.
    Revoke {
        /// The token's id.
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
