//! Slaves and their handshakes.

use reloop_api::{Attention, Receipt, ReceiptLine, Slave};
use reloop_protocol::job::State;
use reloop_protocol::master::{self, Enrolled, Master, SlaveRecord};
use reloop_protocol::message::{Activity, Mode};
use reloop_protocol::time::Time;

use super::time;

/// A slave as a client sees it; `heard` is when it was last heard by this process.
pub(in crate::rest) fn slave(state: &Master, slave: &SlaveRecord, heard: Option<Time>) -> Slave {
    let live = slave.live().is_some();
    let machine = slave.machine.as_ref();
    let last_contact = heard.max(slave.last_contact);
    Slave {
        name: slave.name.clone(),
        key: slave.key.fingerprint(),
        link: link(slave).into(),
        mode: slave.operating_mode.mode.name().into(),
        mode_pending: machine
            .is_none_or(|machine| machine.operating_mode.generation < slave.operating_mode.generation),
        activity: activity(slave).name().into(),
        status: status(slave).into(),
        enrolled: match slave.enrolled {
            Enrolled::Yes => "yes",
            Enrolled::Pending => "pending",
            Enrolled::Revoked => "revoked",
        }
        .into(),
        attention: machine.and_then(|machine| {
            let code = machine.attention?.name().into();
            Some(Attention { code, text: machine.attention_text()? })
        }),
        unloading: machine.and_then(|machine| machine.unloading).map(|job| job.to_string()),
        uncertain: machine.and_then(|machine| machine.uncertain).map(|job| job.to_string()),
        local_lock: machine.is_some_and(|machine| machine.local_lock),
        cloned: slave.cloned_at.is_some(),
        doubts: slave.doubts,
        last_contact_at: last_contact.map(time),
        last_contact_at_least: last_contact.is_some() && !live && heard.is_none(),
        session: slave.session.0,
        programs: slave.programs.clone(),
        labels: slave.labels.clone(),
        capacity: slave.capacity,
        deferred_capacity: slave.deferred_capacity,
        jobs: master::jobs_at(state, slave).iter().map(ToString::to_string).collect(),
        clock_offset_ms: slave.clock_offset_ms,
        agent_version: slave.agent.clone(),
    }
}

/// The word for a slave's link.
pub(in crate::rest) fn link(slave: &SlaveRecord) -> &'static str {
    if slave.live().is_some() {
        "online"
    } else if slave.store.is_none() {
        "never"
    } else {
        "offline"
    }
}

fn activity(slave: &SlaveRecord) -> Activity {
    slave.machine.as_ref().map_or(Activity::Unknown, |machine| machine.activity)
}

/// One word for displays. What keeps a machine from work goes before what it does, and that its word may be old goes
/// before that word.
fn status(slave: &SlaveRecord) -> &'static str {
    let machine = slave.machine.as_ref();
    let needs_person =
        machine.is_some_and(|machine| machine.attention.is_some() || machine.uncertain.is_some());
    match (slave.operating_mode.mode, activity(slave)) {
        (Mode::Quarantined, _) => "quarantined",
        (Mode::Disabled, _) => "disabled",
        (Mode::Maintenance, _) => "maintenance",
        _ if slave.live().is_none() => "offline",
        (_, Activity::Fault) => "fault",
        (_, Activity::Attention) => "attention",
        _ if needs_person || slave.cloned_at.is_some() => "attention",
        (_, Activity::MachineOff) => "machine_off",
        (_, Activity::Unloading) => "unloading",
        (_, Activity::Paused) => "paused",
        (Mode::Draining, _) => "draining",
        (Mode::Production, activity) => activity.name(),
    }
}

/// What one handshake came to.
pub(in crate::rest) fn receipt(receipt: &master::Receipt) -> Receipt {
    let lines = receipt.lines.iter().map(|line| ReceiptLine {
        job: line.job.to_string(),
        attempt: line.attempt.0,
        master: line.mine.map(State::name).map(Into::into),
        slave: line.theirs.map(State::name).map(Into::into),
        line: line.line.clone(),
        verdict: line.verdict.name().into(),
    });
    Receipt {
        number: receipt.number,
        at: time(receipt.at),
        took_ms: receipt.took.0,
        session: receipt.session.0,
        store: receipt.store.name().into(),
        rebooted: receipt.rebooted,
        lines: lines.collect(),
    }
}
