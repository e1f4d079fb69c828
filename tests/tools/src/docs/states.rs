//! `docs/states.md`: every word that is shown for a job or a slave.

use reloop_protocol::job::State;
use reloop_protocol::master::{Delivery, Need, WhyNot};
use reloop_protocol::message::{Activity, Attention, CloseCode, Mode, ReasonCode, Source, WaitingFor};
use reloop_protocol::slave::redial::{self, Redial};
use reloop_protocol::wire;

use super::meanings::{
    JOB_STANDARDS, activity, attention, close, delivery_means, flag, job, mode, need, reason, source,
    waiting_for, why_not,
};
use super::{LINKS, Page, SHOWN_FLAGS, all, flags};

pub fn states() -> String {
    let mut page = Page::new("States and words", "`protocol/src/` and `tests/tools/src/docs.rs`");
    page.text(
        "Every word that Reloop shows for a job or a slave: its meaning, and the closest term in standards \
         and systems that factories already use (\"—\": there is none). The terms are for people who connect \
         systems; nothing in Reloop depends on them.",
    );
    page.text(
        "## Jobs\n\n`state` is the last durable fact and never a guess. Desired state, reason, flags and \
         freshness are separate fields. The last six states are ends: only a retry, a late report of a lost job, or another attempt that speaks changes one. \
         [reconciliation.md](reconciliation.md) tells how a job changes its state.",
    );
    page.table(&["state", "meaning"], State::ALL.map(|state| row(code(state.name()), job(state).means, &[])));
    let heads: Vec<&str> = ["state"].into_iter().chain(JOB_STANDARDS).collect();
    page.table(
        &heads,
        State::ALL.map(|state| {
            let maps = job(state).maps;
            row(code(state.name()), maps[0], &maps[1..])
        }),
    );
    page.text(
        "PackML and ISA-95 both say Held and Suspended and mean different things: in PackML Held has an \
         inner cause and Suspended an outer one; in ISA-95 Held is a constraint and Suspended a decision. \
         Reloop says `paused`, with a reason.",
    );
    page.text("### What an accepted job waits for");
    page.table(
        &["waiting_for", "meaning", "what ends it"],
        all(wire::decode::<WaitingFor>).into_iter().map(|waiting| {
            let (means, ends) = waiting_for(waiting);
            row(code(waiting.name()), means, &[ends])
        }),
    );
    page.text("### Flags: facts beside the state");
    page.table(
        &["flag", "meaning"],
        flags().into_iter().map(|(_, name)| row(code(name), flag(name).unwrap_or(""), &[])),
    );
    page.text("Two more are computed when a job is shown, and are not stored:");
    page.table(&["flag", "meaning"], SHOWN_FLAGS.map(|(name, means)| row(code(name), means, &[])));
    page.text("### The delivery of a command");
    page.table(
        &["delivery", "meaning"],
        Delivery::ALL.map(|delivery| row(code(delivery.name()), delivery_means(delivery), &[])),
    );
    page.text("### Why a slave does not take a job\n\n`explain` tells this for every slave.");
    page.table(
        &["why_not", "meaning", "what ends it"],
        WhyNot::ALL.map(|why| {
            let (means, ends) = why_not(why);
            row(code(why.name()), means, &[ends])
        }),
    );
    page.text(
        "### Freshness\n\n`freshness.observed_at` is the time at which the job's slave was last heard, \
         whatever message it sent. It never goes back while the job is at that slave. After a restart the \
         master only knows the times on its disk: until it hears the slave, `at_least` is true, and the \
         slave was heard then or later. A slave has the same as `last_contact_at` and \
         `last_contact_at_least`.",
    );
    page.text(
        "### What needs a person\n\n`reloop needs` and `GET /v1/needs` list this, the most urgent first; \
         `GET /v1/counts` counts it.",
    );
    page.table(
        &["need", "meaning", "what ends it", "risk"],
        Need::ALL.map(|value| {
            row(code(value.name()), need(value), &[&format!("`{}`", value.action()), value.risk()])
        }),
    );
    page.text("### Who caused the last change");
    page.table(
        &["source", "meaning"],
        all(wire::decode::<Source>).into_iter().map(|s| row(code(s.name()), source(s), &[])),
    );
    page.text(
        "### Reasons\n\nThe code is stable and for programs; the text beside it is for people and may change.",
    );
    page.table(
        &["code", "meaning", "what helps"],
        ReasonCode::ALL.iter().map(|code_| {
            let (means, helps) = reason(*code_);
            row(code(code_.name()), means, &[helps])
        }),
    );
    page.text("## Slaves\n\nA slave has three independent values.\n\n### `link`: what the master observes");
    page.table(
        &["link", "meaning", "MTConnect AVAILABILITY", "Nomad node", "AWS IoT thing"],
        LINKS.map(|(name, means, maps)| row(code(name), means, &maps)),
    );
    page.text("### `mode`: what people decide");
    page.table(
        &["mode", "meaning", "OPC UA Machinery operation mode", "Nomad node", "SEMI E10 time"],
        Mode::ALL.map(|value| {
            let (means, maps) = mode(value);
            row(code(value.name()), means, &maps)
        }),
    );
    page.text("### `activity`: what the slave reports");
    page.table(
        &["activity", "meaning", "OPC UA Machinery item", "PackML", "MTConnect EXECUTION", "SEMI E10"],
        Activity::ALL.map(|value| {
            let (means, maps) = activity(value);
            row(code(value.name()), means, &maps)
        }),
    );
    page.text(
        "### Why a person is needed\n\nEach is ended by `clear`, at the machine or through the master.",
    );
    page.table(
        &["attention", "meaning", "before that"],
        all(wire::decode::<Attention>).into_iter().map(|value| {
            let (means, todo) = attention(value);
            row(code(value.name()), means, &[todo])
        }),
    );
    page.text(
        "## Why a link was closed\n\nThe WebSocket close codes. After a passing one the slave reconnects by \
         itself within a minute; after the others a person has to do something, and the slave keeps trying \
         meanwhile. The machine goes on in any case.",
    );
    page.table(
        &["code", "name", "passing", "meaning", "what helps", "the slave"],
        CloseCode::ALL.iter().map(|value| {
            let (means, helps) = close(*value);
            let passing = if value.is_passing() { "yes" } else { "no" };
            let name = format!("{value:?}");
            let slave = match redial::after(*value) {
                Redial::Back => "reconnects".to_owned(),
                Redial::Patient => "reconnects; its pauses keep growing".to_owned(),
                Redial::Person(todo) => format!("tries once a minute, and reports: {}", todo.text()),
            };
            row(value.number().to_string(), &name, &[passing, means, helps, &slave])
        }),
    );
    page.0
}

fn code(word: &str) -> String {
    format!("`{word}`")
}

fn row(first: String, second: &str, rest: &[&str]) -> Vec<String> {
    let rest = rest.iter().map(|text| (*text).to_owned());
    [first, second.to_owned()].into_iter().chain(rest).collect()
}
