//! What each command of the client does.

mod job;
mod need;
mod order;
mod slave;
mod token;

use std::collections::BTreeMap;
use std::io::{BufRead as _, IsTerminal as _};

use reloop_api::{Page, RestoreRequest, Restored};
use serde::de::DeserializeOwned;

use super::args::{ClientArgs, Command, Output, RestoreCommand};
use super::client::{Answer, Client, Failure};
use super::table::clean;
use super::{Exit, remark, say};

pub(super) async fn command(args: &ClientArgs, command: Command) -> Result<Exit, Failure> {
    let client = Client::new(args)?;
    let confirms = matches!(command, Command::Restore(_));
    let done = act(&client, args.output, command).await;
    if let Some(doubt) = client.doubt().filter(|_| !confirms) {
        remark(&format!("the master may have been restored: {doubt}"));
    }
    done
}

async fn act(client: &Client, out: Output, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Order(command) => order::run(client, out, command).await,
        Command::Job(command) => job::run(client, out, command).await,
        Command::Slave(command) => slave::run(client, out, command).await,
        Command::Needs { limit } => need::list(client, out, limit).await,
        Command::Restore(RestoreCommand::Confirm { yes, force }) => {
            let question =
                "Every slave will obey this copy of the master from here. Is the old one gone for good?";
            confirm(question, yes)?;
            let request = RestoreRequest { force: Some(force) };
            let answer = client.post("/v1/master/confirm-restore", &request).await?;
            let shown = |restored: &Restored| {
                format!("confirmed: {} is at epoch {}\n", clean(&restored.master), restored.epoch)
            };
            print(out, &answer, |restored: &Restored| restored.master.clone(), shown)
        }
        Command::Token(command) => token::run(client, out, command).await,
        Command::Serve(_) | Command::Store(_) | Command::Help { .. } => {
            Err(Failure::new(Exit::Usage, "this is no command of the client"))
        }
    }
}

/// Prints what the master said: as it is, as its id, or by `table`.
fn print<T: DeserializeOwned>(
    out: Output,
    answer: &Answer,
    id: impl FnOnce(&T) -> String,
    table: impl FnOnce(&T) -> String,
) -> Result<Exit, Failure> {
    Ok(say(&match out {
        Output::Json => answer.pretty(),
        Output::Id => format!("{}\n", clean(&id(&answer.read()?))),
        Output::Table => table(&answer.read()?),
    }))
}

/// Prints a list that the master answered: as it is, as its entries' ids, or by `table`.
fn print_list<T: DeserializeOwned>(
    out: Output,
    answer: &Answer,
    id: impl Fn(&T) -> String,
    table: impl FnOnce(&[T]) -> String,
) -> Result<Exit, Failure> {
    let entries = || Ok(answer.read::<Page<T>>()?.data);
    Ok(say(&match out {
        Output::Json => answer.pretty(),
        Output::Id => entries()?.iter().map(|entry| format!("{}\n", clean(&id(entry)))).collect(),
        Output::Table => table(&entries()?),
    }))
}

/// Asks a person at a terminal; a program that runs this has decided already.
fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    remark(&format!("{question} [y/N]"));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match read {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) => Err(Failure::new(Exit::Error, "nothing was done")),
        Err(error) => Err(Failure::new(Exit::Error, format!("no answer: {error}; nothing was done"))),
    }
}

/// How far a command got, in words.
fn delivery(delivery: &str) -> String {
    match delivery {
        "applied" => "done".to_owned(),
        "sent" => "sent to the slave".to_owned(),
        "pending_on_reconnect" => {
            "the slave is offline and gets it when it is back; the machine may still run".to_owned()
        }
        "too_late" => "too late".to_owned(),
        newer => clean(newer),
    }
}

/// Names and values on one line.
fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(name, value)| format!("{}={}", clean(name), clean(value))).collect::<Vec<_>>().join(" ")
}

/// Texts on one line.
fn words<T: AsRef<str>>(texts: &[T]) -> String {
    texts.iter().map(|text| clean(text.as_ref())).collect::<Vec<_>>().join(" ")
}
