//! Turns observations at both sides into lines of the story.

use anyhow::Context as _;
use jiff::Timestamp;

use super::screen::{Board, Machine, Row, Style, Voice};
use super::watch::{self, Job, Receipt};
use super::{Factory, SLAVES, Station, Trouble, age, percent};

impl Factory {
    pub(super) async fn look(&mut self) -> anyhow::Result<()> {
        let jobs: Vec<Job> = watch::list(&self.client, "/v1/jobs?limit=100").await?;
        self.jobs = jobs
            .into_iter()
            .filter(|job| self.names.contains_key(&job.id))
            .map(|job| (job.name().to_owned(), job))
            .collect();
        let slaves: Vec<watch::Slave> = watch::list(&self.client, "/v1/slaves").await?;
        let before = std::mem::take(&mut self.slaves);
        self.slaves = slaves.into_iter().map(|slave| (slave.name.clone(), slave)).collect();
        for station in self.stations.values_mut().filter(|station| station.trouble != Some(Trouble::Killed)) {
            station.seen = station.eye.seen();
        }
        self.tell_of_machines();
        for (name, slave) in &before {
            match (slave.link.as_str(), self.link(name).to_owned().as_str()) {
                ("online", "offline") => {
                    let text = format!(
                        "The master hears nothing of {name} any more: offline. Its jobs stay as they are."
                    );
                    self.screen.say(Voice::Sees, text);
                }
                ("offline", "online") => self.tell_of_receipt(name).await?,
                _ => {}
            }
        }
        self.tell_of_outcomes();
        let board = self.board();
        self.screen.show(board);
        Ok(())
    }

    pub(super) fn tell_of_machines(&mut self) {
        let mut news = Vec::new();
        for (slave, station) in &self.stations {
            let cut = station.trouble == Some(Trouble::Cut);
            for held in station.seen.iter().flat_map(|seen| &seen.jobs) {
                let Some(name) = self.names.get(&held.id) else { continue };
                let deferred = if held.not_before.is_some() { ", its time has come" } else { "" };
                let text = match (held.state.as_str(), cut) {
                    ("running", true) => {
                        format!("{slave} starts {name} by itself{deferred}; no link is needed.")
                    }
                    ("running", false) => format!("{slave} starts {name}{deferred}."),
                    ("succeeded", true) => {
                        format!("{slave} is done with {name}, and keeps the outcome until the master has it.")
                    }
                    _ => continue,
                };
                let voice = if cut { Voice::Good } else { Voice::Sees };
                news.push((
                    format!("{name} {} {cut}", held.state),
                    format!("{name} {}", held.state),
                    voice,
                    text,
                ));
            }
        }
        for (_, key, voice, text) in news {
            if self.told.insert(key) {
                self.screen.say(voice, text);
            }
        }
    }

    pub(super) async fn tell_of_receipt(&mut self, slave: &str) -> anyhow::Result<()> {
        let path = format!("/v1/slaves/{slave}/receipts");
        let receipts: Vec<Receipt> = watch::list(&self.client, &path).await?;
        let newest = receipts.into_iter().max_by_key(|receipt| receipt.number);
        let receipt = newest.with_context(|| format!("no receipt of the handshake with {slave}"))?;
        let took = match receipt.took_ms {
            0 => "less than 1 ms".to_owned(),
            ms => format!("{ms} ms"),
        };
        let text = format!("{slave} is back. Both views were compared in one handshake, settled in {took}:");
        self.screen.say(Voice::Good, text);
        for line in &receipt.lines {
            let name = self.names.get(&line.job).unwrap_or(&line.job);
            let text = format!(
                "{name}: the master had {}, the machine says {} → {}: {}",
                line.master.as_deref().unwrap_or("nothing"),
                line.slave.as_deref().unwrap_or("nothing"),
                line.line,
                line.verdict
            );
            self.screen.say(Voice::Detail, text);
        }
        if let Some(station) = self.stations.get_mut(slave) {
            station.receipt = Some(receipt);
        }
        Ok(())
    }

    pub(super) fn tell_of_outcomes(&mut self) {
        for job in self.jobs.values().filter(|job| job.is_ended()) {
            if self.told.insert(format!("{} at the master", job.name())) {
                let voice = if job.state == "succeeded" { Voice::Good } else { Voice::Bad };
                let text = format!("{} {}; the master has it on its disk.", job.name(), job.state);
                self.screen.say(voice, text);
            }
        }
    }

    pub(super) fn board(&self) -> Board {
        let rows = SLAVES.iter().map(|name| self.row(name, &self.stations[name])).collect();
        let named = |wanted: &dyn Fn(&Job) -> bool| {
            let names = self.order.iter().filter(|name| self.jobs.get(*name).is_some_and(wanted));
            names.cloned().collect::<Vec<_>>()
        };
        Board {
            title: format!("Reloop · one master, three slaves, bad cables · http://{}", self.office.addr),
            rows,
            orders: vec![
                ("waiting", named(&|job| !job.is_ended() && !job.is_under_way())),
                ("running", named(&Job::is_under_way)),
                ("done", named(&Job::is_ended)),
            ],
        }
    }

    pub(super) fn row(&self, name: &str, station: &Station) -> Row {
        let link = match (station.trouble, self.link(name)) {
            (Some(Trouble::Cut), _) => ("○ cable cut", Style::Yellow),
            (Some(Trouble::Killed), _) => ("✗ agent killed", Style::Red),
            (None, "online") => ("● online", Style::Green),
            (None, _) => ("○ connecting", Style::Dim),
        };
        let mine = |job: &&Job| job.slave.as_deref() == Some(name) && !job.is_ended();
        let under_way = self.jobs.values().filter(mine).find(|job| job.is_under_way());
        let master = match under_way.or_else(|| self.jobs.values().find(mine)) {
            Some(job) if job.state == "running" => {
                format!("{} {}", job.name(), percent(job.progress.unwrap_or_default()))
            }
            Some(job) if job.is_under_way() => {
                format!("{} {} {}", job.name(), job.state, percent(job.progress.unwrap_or_default()))
            }
            Some(job) => format!("{} waits", job.name()),
            None => "idle".to_owned(),
        };
        let contact = self.slaves.get(name).and_then(|slave| slave.last_contact_at.as_deref());
        Row {
            slave: name.to_owned(),
            link: (link.0.to_owned(), link.1),
            machine: self.machine(station),
            master,
            age: age(contact),
        }
    }

    pub(super) fn machine(&self, station: &Station) -> Machine {
        if station.trouble == Some(Trouble::Killed) {
            let done = self.milled().unwrap_or_default();
            return Machine::Works("bracket".to_owned(), done);
        }
        let Some(seen) = &station.seen else { return Machine::Says("no agent answers yet".to_owned()) };
        let name = |id: &String| self.names.get(id).unwrap_or(id).clone();
        if let Some(job) = seen.jobs.iter().find(|job| watch::is_under_way(&job.state)) {
            return Machine::Works(name(&job.id), f64::from(job.progress.unwrap_or_default()) / 1000.0);
        }
        match seen.jobs.iter().find(|job| job.state == "accepted") {
            Some(job) => {
                Machine::Says(match job.not_before.as_deref().and_then(|at| at.parse::<Timestamp>().ok()) {
                    Some(at) => format!(
                        "{} starts in {} s",
                        name(&job.id),
                        at.duration_since(Timestamp::now()).as_secs().max(0)
                    ),
                    None => format!("{} is next", name(&job.id)),
                })
            }
            None => Machine::Says("idle".to_owned()),
        }
    }
}
