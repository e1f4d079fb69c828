//! Lists what needs a person.

use reloop_api::{Counts, Need, NeedPage};

use super::print_list;
use crate::cli::args::Output;
use crate::cli::client::{Client, Failure};
use crate::cli::table::{clean, or_dash};
use crate::cli::{Exit, remark};

pub(super) async fn list(client: &Client, out: Output, limit: u32) -> Result<Exit, Failure> {
    let answer = client.list("/v1/needs", "", limit).await?;
    let shown = print_list(out, &answer, who, |needs| {
        if needs.is_empty() {
            remark("nothing needs a person");
        }
        needs.iter().map(show).collect()
    })?;
    if out == Output::Table {
        let page: NeedPage = answer.read()?;
        if page.next_cursor.is_some() {
            let counts: Counts = client.get("/v1/counts").await?.read()?;
            remark(&format!("{} of {}: --limit shows more", page.data.len(), counts.needs));
        }
    }
    Ok(shown)
}

fn who(need: &Need) -> String {
    need.job.as_deref().map_or_else(|| or_dash(need.slave.as_deref()), clean)
}

fn show(need: &Need) -> String {
    let at = need.job.as_ref().and(need.slave.as_ref()).map(|slave| format!(" at {}", clean(slave)));
    let at = at.unwrap_or_default();
    let (text, command, risk) = (clean(&need.text), clean(&need.command), clean(&need.risk));
    format!("{}{at}: {text}\n  {command}\n  risk: {risk}\n", who(need))
}
