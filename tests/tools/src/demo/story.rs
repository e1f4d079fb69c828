//! The story, part by part.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::screen::Voice;
use super::watch::Job;
use super::{Factory, MILL_NAME, OVEN, Station, Trouble, age, percent};

/// How long the mill has no agent: long enough to see that its program goes on.
const WITHOUT_AGENT: Duration = Duration::from_millis(3500);
/// From the order to the deferred start: some seconds after the first job of that oven has ended.
const CAKE_IS_DUE_AFTER: SignedDuration = SignedDuration::from_secs(21);

impl Factory {
    pub(super) async fn play(&mut self) -> anyhow::Result<()> {
        self.begin().await?;
        self.cut_the_cable().await?;
        self.kill_the_agent().await?;
        self.wait_without_a_link().await?;
        self.plug_the_cable().await?;
        self.screen.caption("All is connected again: the last jobs run to their end.");
        self.until("the ovens and the mill to be done", |factory| factory.jobs.values().all(Job::is_ended))
            .await?;
        self.break_the_drill().await?;
        self.screen.caption("Nothing is broken any more.");
        self.until("every job to succeed", |factory| {
            let at_work = |station: &Station| station.seen.as_ref().is_none_or(|seen| !seen.jobs.is_empty());
            factory.jobs.values().all(Job::is_ended) && !factory.stations.values().any(at_work)
        })
        .await
    }

    pub(super) async fn begin(&mut self) -> anyhow::Result<()> {
        self.screen
            .caption("A master and three slaves start, each slave behind a network that can be broken.");
        let text =
            format!("A master is up at http://{}, with its own disk and nothing else.", self.office.addr);
        self.screen.say(Voice::Does, text);
        self.until("three slaves to come online", |factory| {
            factory.slaves.len() == 3 && factory.slaves.values().all(|slave| slave.link == "online")
        })
        .await?;
        self.screen.say(
            Voice::Sees,
            "Three slaves dialled in: two simulated ovens and a mill that runs a real program, a shell script.",
        );
        self.screen.caption("Orders come in over REST; the master hands them out as jobs.");
        let due = Timestamp::now() + CAKE_IS_DUE_AFTER;
        self.facts.cake_due = Some(due);
        self.place(
            "bread",
            "16 s in oven-1",
            json!({"program": "bake", "slave": OVEN, "params": {"seconds": "16"}}),
        )
        .await?;
        let mugs = json!({"program": "bake", "requires": {"machine": "oven"}, "params": {"seconds": "15"}});
        self.place("mugs", "15 s, in any oven", mugs).await?;
        let bracket = json!({"program": "mill", "params": {"part": "bracket", "seconds": "30"}});
        self.place("bracket", "30 s, by the real program", bracket).await?;
        let cake = json!({
            "program": "bake", "slave": OVEN, "params": {"seconds": "10"}, "start": {"not_before": due.to_string()},
        });
        let text = format!("10 s in oven-1, deferred: not before {} s from now", CAKE_IS_DUE_AFTER.as_secs());
        self.place("cake", &text, cake).await?;
        self.until("all three machines to work", |factory| {
            ["bread", "mugs", "bracket"].iter().all(|job| factory.share(job).is_some_and(|share| share > 0.0))
                && factory.held("cake").is_some()
        })
        .await
    }

    pub(super) async fn cut_the_cable(&mut self) -> anyhow::Result<()> {
        self.until("bread to be well under way", |factory| factory.share("bread") >= Some(0.3)).await?;
        let share = self.share("bread").context("bread is under way")?;
        self.facts.bread_at_cut = share;
        let station = self.station(OVEN);
        // Both sockets stay open and silent, as with a pulled cable behind a reverse proxy.
        station.proxy.half_open();
        station.trouble = Some(Trouble::Cut);
        self.facts.cut_at = Some(Instant::now());
        self.screen.caption("oven-1 has no cable: its bar moves on while the master's word gets older.");
        let text = format!(
            "CUT: the cable of oven-1 is pulled in mid-job, bread at {}. Nobody is told.",
            percent(share)
        );
        self.screen.say(Voice::Breaks, text);
        self.until("the master to notice", |factory| factory.link(OVEN) == "offline").await?;
        self.facts.bread_when_noticed = self.share("bread").unwrap_or_default();
        let belief = self.jobs.get("bread").cloned().context("bread is in the master's book")?;
        let text = format!(
            "At the machine: bread at {}. The master: {} at {}, {} s old, {}. It gives nothing up.",
            percent(self.facts.bread_when_noticed),
            belief.state,
            percent(belief.progress.unwrap_or_default()),
            age(belief.freshness.observed_at.as_deref()).map_or(0, |age| age.as_secs()),
            belief.flags.join(", "),
        );
        self.facts.belief_when_noticed = Some(belief);
        self.screen.say(Voice::Sees, text);
        self.screen
            .say(Voice::Does, "Orders are taken all the same: plates, then vase with a higher priority.");
        let plates = json!({"program": "bake", "requires": {"machine": "oven"}, "params": {"seconds": "10"}});
        self.place("plates", "10 s, in any oven", plates).await?;
        let vase = json!({
            "program": "bake", "requires": {"machine": "oven"}, "params": {"seconds": "7"}, "priority": 10,
        });
        self.place("vase", "7 s, in any oven, priority 10", vase).await
    }

    pub(super) async fn kill_the_agent(&mut self) -> anyhow::Result<()> {
        self.until("the bracket to be well under way", |factory| factory.share("bracket") >= Some(0.4))
            .await?;
        self.facts.mill_before = self.mill_process()?;
        self.facts.mill_at_kill = self.milled()?;
        let at = percent(self.facts.mill_at_kill);
        let station = self.station(MILL_NAME);
        let agent = station.slave.pid().unwrap_or_default();
        station.slave.kill();
        station.trouble = Some(Trouble::Killed);
        station.seen = None;
        let killed = Instant::now();
        self.screen.caption("mill-3 has no agent: its program does not need one to go on.");
        let text =
            format!("KILL: kill -9 to the agent of mill-3 (process {agent}) in mid-job, bracket at {at}.");
        self.screen.say(Voice::Breaks, text);
        self.until("some seconds without an agent", |_| killed.elapsed() >= WITHOUT_AGENT).await?;
        let text = format!(
            "The program works on without it: process {}, bracket at {} by its own notes.",
            self.mill_process()?.unwrap_or_default(),
            percent(self.milled()?)
        );
        self.screen.say(Voice::Sees, text);
        self.screen.say(Voice::Does, "The agent of mill-3 is started again.");
        let station = self.station(MILL_NAME);
        station.slave.restart();
        station.trouble = None;
        self.until("the new agent to find its job", |factory| {
            factory.held("bracket").is_some_and(|(state, _)| state == "running")
                && factory.link(MILL_NAME) == "online"
        })
        .await?;
        self.facts.agent_gone_for = killed.elapsed();
        self.facts.mill_after = self.mill_process()?;
        self.facts.mill_at_return = self.milled()?;
        let text = format!(
            "The new agent found bracket again: same process {}, at {}. Nothing was started a second time.",
            self.facts.mill_after.unwrap_or_default(),
            percent(self.facts.mill_at_return)
        );
        self.screen.say(Voice::Good, text);
        Ok(())
    }

    pub(super) async fn wait_without_a_link(&mut self) -> anyhow::Result<()> {
        self.screen.caption("oven-1 still has no cable: it ends bread, and begins cake when its time comes.");
        self.until("bread to be done at the machine", |factory| {
            factory.held("bread").is_some_and(|(state, _)| state == "succeeded")
        })
        .await?;
        self.facts.bread_done_while_cut = true;
        self.until("cake to be started by the machine", |factory| factory.share("cake").is_some()).await?;
        self.facts.cake_started_while_cut = self.link(OVEN) == "offline";
        self.until("cake to be on its way", |factory| factory.share("cake") >= Some(0.3)).await
    }

    pub(super) async fn plug_the_cable(&mut self) -> anyhow::Result<()> {
        let belief = self
            .jobs
            .get("bread")
            .map_or(0, |job| age(job.freshness.observed_at.as_deref()).map_or(0, |age| age.as_secs()));
        self.facts.cut_for = self.facts.cut_at.map(|at| at.elapsed()).unwrap_or_default();
        self.screen.caption(
            "The cable is back: both sides compare what they know, and settle it in one round trip.",
        );
        let station = self.station(OVEN);
        station.proxy.pass();
        station.trouble = None;
        let text = format!("PLUG: the cable of oven-1 is back. The master last heard of it {belief} s ago.");
        self.screen.say(Voice::Does, text);
        self.until("oven-1 to be reconciled", |factory| factory.stations[OVEN].receipt.is_some()).await
    }

    /// A machine fails at once whatever it is given: left alone, it would get the most work of all.
    pub(super) async fn break_the_drill(&mut self) -> anyhow::Result<()> {
        let broken = self.tools.path().join(format!("{MILL_NAME}.broken"));
        std::fs::write(&broken, "").context("the drill can't be broken")?;
        self.screen.caption("mill-3 and oven-2 have a drill each, and the bit of one is broken.");
        self.screen
            .say(Voice::Breaks, "BREAK: the drill of mill-3 fails within a moment, whatever it is given.");
        for hole in ["hole-a", "hole-b", "hole-c", "hole-d", "hole-e", "hole-f"] {
            let order = json!({
                "program": "drill", "params": {"hole": hole},
                "retry": {"max_attempts": 3, "on": ["failed"], "backoff_seconds": 2},
            });
            self.place(hole, "by any drill; tried again if it fails", order).await?;
        }
        let asks = |factory: &Self| factory.slaves.get(MILL_NAME).and_then(|slave| slave.attention.clone());
        self.until("mill-3 to be barred", |factory| asks(factory).is_some()).await?;
        let attention = asks(self).context("mill-3 needs a person")?;
        self.facts.barred = Some(attention.code);
        self.screen.say(Voice::Sees, format!("mill-3 is barred: {}.", attention.text));
        self.screen.caption("mill-3 gets nothing more: what failed there, and what waited, goes to oven-2.");
        self.until("every hole to be drilled", |factory| factory.jobs.values().all(Job::is_ended)).await?;
        self.facts.failed_there = self.drilled_at(MILL_NAME);
        std::fs::remove_file(&broken).context("the drill can't be repaired")?;
        let cleared = self.client.slave_command(MILL_NAME, "clear", &json!({})).await?;
        ensure!(cleared.status == 202, "clear: the master answered {}", cleared.status);
        self.screen.say(Voice::Does, "A person changes the bit, and says `reloop slave clear mill-3`.");
        self.until("mill-3 to be clear", |factory| asks(factory).is_none()).await?;
        let last = json!({"program": "drill", "slave": MILL_NAME, "params": {"hole": "hole-g"}});
        self.place("hole-g", "by the drill of mill-3", last).await?;
        self.until("the repaired drill to work", |factory| {
            factory.jobs.get("hole-g").is_some_and(|job| job.state == "succeeded")
        })
        .await?;
        self.facts.worked_again = true;
        Ok(())
    }

    pub(super) async fn place(&mut self, name: &str, what: &str, mut order: Value) -> anyhow::Result<()> {
        order["name"] = name.into();
        let reply = self.client.place(&order, Some(name)).await.context("the master does not take orders")?;
        ensure!(reply.status == 201, "order {name}: the master answered {}: {:#}", reply.status, reply.body);
        let job = &reply.body["jobs"][0];
        let id = job.as_str().or_else(|| job["id"].as_str()).context("an order has a job")?;
        self.names.insert(id.to_owned(), name.to_owned());
        self.order.push(name.to_owned());
        self.screen.say(Voice::Does, format!("Order {name:<8} {what}."));
        Ok(())
    }
}
