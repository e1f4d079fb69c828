//! Lists slaves, and tells the master what people decide about them.

use reloop_api::{
    EnrollToken, EnrollTokenRequest, ModeRequest, PersonRequest, Receipt, Slave, SlaveCommand as Commanded,
};
use serde::Serialize;

use super::{confirm, delivery, pairs, print, print_list, words};
use crate::cli::args::{Output, SlaveCommand};
use crate::cli::client::{Client, Failure, escape};
use crate::cli::table::{at_most, clean, heard_ago, or_dash, or_nothing, sheet, table};
use crate::cli::{Exit, remark};

/// Slaves are listed whole: a factory's machines fit a screen or a pipe.
const ALL_SLAVES: u32 = 100_000;

pub(super) async fn run(client: &Client, out: Output, command: SlaveCommand) -> Result<Exit, Failure> {
    let tell = Teller { client, out };
    match command {
        SlaveCommand::Ls => {
            let list = client.list("/v1/slaves", "", ALL_SLAVES).await?;
            print_list(out, &list, |slave: &Slave| slave.name.clone(), show_all)
        }
        SlaveCommand::Show(slave) => {
            let slave = client.get(&format!("/v1/slaves/{}", escape(&slave.name))).await?;
            print(out, &slave, |slave: &Slave| slave.name.clone(), show)
        }
        SlaveCommand::Receipts(slave) => {
            let list = client.get(&format!("/v1/slaves/{}/receipts", escape(&slave.name))).await?;
            print_list(out, &list, |receipt: &Receipt| receipt.number.to_string(), show_receipts)
        }
        SlaveCommand::EnrollToken { name, ttl, uses } => {
            let request = EnrollTokenRequest { name, ttl_seconds: Some(ttl), uses: Some(uses) };
            let answer = client.post("/v1/enroll-tokens", &request).await?;
            print(
                out,
                &answer,
                |made: &EnrollToken| made.token.clone(),
                |made| {
                    remark(&format!("It holds until {} and is shown this once.", clean(&made.expires_at)));
                    format!("{}\n", clean(&made.token))
                },
            )
        }
        SlaveCommand::Ready(slave) => tell.command(&slave.name, "ready", &PersonRequest::default()).await,
        SlaveCommand::Clear(slave) => tell.command(&slave.name, "clear", &PersonRequest::default()).await,
        SlaveCommand::Approve(slave) => tell.command(&slave.name, "approve", &PersonRequest::default()).await,
        SlaveCommand::Mode { slave, mode, reason } => {
            tell.command(&slave.name, "mode", &ModeRequest { mode: mode.into(), reason }).await
        }
        SlaveCommand::Forget { slave, yes } => {
            let question = format!("Revoke the key of {}? What it holds stays with it.", slave.name);
            confirm(&question, yes)?;
            tell.command(&slave.name, "forget", &PersonRequest::default()).await
        }
    }
}

/// Sends commands, and says how far they got.
struct Teller<'a> {
    client: &'a Client,
    out: Output,
}

impl Teller<'_> {
    async fn command(&self, name: &str, verb: &str, request: &impl Serialize) -> Result<Exit, Failure> {
        let answer = self.client.post(&format!("/v1/slaves/{}/{verb}", escape(name)), request).await?;
        print(
            self.out,
            &answer,
            |done: &Commanded| done.slave.clone(),
            |done| format!("{} {verb}: {}\n", clean(&done.slave), delivery(&done.delivery)),
        )
    }
}

/// The one word for a slave: of one that was revoked or waits for approval that, and not that it is offline.
fn status<'a>(status: &'a str, enrolled: &'a str) -> &'a str {
    if enrolled == "yes" { status } else { enrolled }
}

fn show_all(slaves: &[Slave]) -> String {
    let now = jiff::Timestamp::now();
    let row = |slave: &Slave| {
        let seen = at_most(slave.last_contact_at.as_deref(), slave.last_contact_at_least, now);
        let status = status(&slave.status, &slave.enrolled);
        let axes = [status, &slave.link, &slave.mode, &slave.activity].map(clean);
        let jobs = slave.jobs.len().to_string();
        std::iter::once(clean(&slave.name)).chain(axes).chain([jobs, seen]).collect()
    };
    let rows: Vec<_> = slaves.iter().map(row).collect();
    table(&["NAME", "STATUS", "LINK", "MODE", "ACTIVITY", "JOBS", "LAST-SEEN"], &rows)
}

fn show(slave: &Slave) -> String {
    let now = jiff::Timestamp::now();
    let mode = if slave.mode_pending { " (not confirmed by the slave)" } else { "" };
    let marks = [("local_lock", slave.local_lock), ("cloned", slave.cloned), ("doubts", slave.doubts)];
    let marks: Vec<_> = marks.into_iter().filter(|(_, marked)| *marked).map(|(name, _)| name).collect();
    sheet(&[
        ("slave", clean(&slave.name)),
        ("key", clean(&slave.key)),
        ("enrolled", clean(&slave.enrolled)),
        ("status", clean(&slave.status)),
        ("link", clean(&slave.link)),
        ("mode", format!("{}{mode}", clean(&slave.mode))),
        ("activity", clean(&slave.activity)),
        ("attention", or_nothing(slave.attention.as_ref().map(|attention| attention.text.as_str()))),
        ("unloading", or_nothing(slave.unloading.as_deref())),
        ("uncertain", or_nothing(slave.uncertain.as_deref())),
        ("marks", marks.join(" ")),
        ("last seen", heard_ago(slave.last_contact_at.as_deref(), slave.last_contact_at_least, now)),
        ("session", slave.session.to_string()),
        ("programs", words(&slave.programs)),
        ("labels", pairs(&slave.labels)),
        ("capacity", format!("{} and {} deferred", slave.capacity, slave.deferred_capacity)),
        ("jobs", words(&slave.jobs)),
        ("clock", format!("{} ms off the master's", slave.clock_offset_ms)),
        ("agent", clean(&slave.agent_version)),
    ])
}

fn show_receipts(receipts: &[Receipt]) -> String {
    let mut shown = Vec::new();
    for receipt in receipts {
        let head = [clean(&receipt.at), receipt.session.to_string(), clean(&receipt.store)];
        if receipt.lines.is_empty() {
            shown.push(head.iter().cloned().chain(["-", "-", "-", "-", "-"].map(str::to_owned)).collect());
        }
        for line in &receipt.lines {
            let (master, slave) = (or_dash(line.master.as_deref()), or_dash(line.slave.as_deref()));
            let cells = [clean(&line.job), master, slave, clean(&line.line), clean(&line.verdict)];
            shown.push(head.iter().cloned().chain(cells).collect());
        }
    }
    table(&["AT", "SESSION", "STORE", "JOB", "MASTER", "SLAVE", "LINE", "VERDICT"], &shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slave_that_does_not_belong_to_this_master_is_shown_as_that() {
        assert_eq!(status("offline", "yes"), "offline");
        assert_eq!(status("offline", "revoked"), "revoked");
    }
}
