//! The end of the story: a summary, and the checks that decide the exit status.

use std::fmt::Write as _;

use super::screen::Style;
use super::watch::Job;
use super::{Factory, MILL_NAME, OVEN, instant, percent};

/// Lines of each log that are shown after a failure.
const LOG_TAIL_LINES: usize = 15;

impl Factory {
    pub(super) fn sum_up(&mut self) -> bool {
        let total = self.screen.elapsed();
        self.screen.caption("The story is over.");
        let board = self.board();
        self.screen.show(board);
        self.screen.finish();
        let facts = &self.facts;
        let mut text = String::from("\n");
        let mut line = |line: String| {
            writeln!(text, "{}", format!("  {line}").trim_end()).expect("a string takes everything")
        };
        let bold = |text: &str| self.screen.paint(Style::Bold, text);
        let dim = |text: &str| self.screen.paint(Style::Dim, text);
        line(format!(
            "{}  the cable of oven-1, in mid-job, for {} s",
            bold("cut   "),
            facts.cut_for.as_secs()
        ));
        let gone = facts.agent_gone_for.as_secs_f64();
        line(format!(
            "{}  the agent of mill-3, in mid-job, with SIGKILL; away for {gone:.1} s",
            bold("killed")
        ));
        line(format!("{}  the bit of a drill, so that whatever it is given fails", bold("broken")));
        line(String::new());
        line(dim(&format!("{:<10}{:<10}{:<12}{:<9}{}", "JOB", "MACHINE", "OUTCOME", "STARTS", "TOOK")));
        for job in self.in_order() {
            let starts =
                self.starts(job).map_or_else(|error| format!("{error:#}"), |starts| starts.to_string());
            let took = match (instant(job.started_at.as_deref()), instant(job.ended_at.as_deref())) {
                (Some(from), Some(to)) => format!("{:.1} s", to.duration_since(from).as_secs_f64()),
                _ => "unknown".to_owned(),
            };
            let slave = job.slave.as_deref().unwrap_or("none");
            line(format!("{:<10}{slave:<10}{:<12}{starts:<9}{took}", job.name(), job.state));
        }
        line(String::new());
        let checks = self.checks();
        let mut right = true;
        for (what, trouble) in &checks {
            right &= trouble.is_none();
            line(match trouble {
                None => format!("{} {what}", self.screen.paint(Style::Green, "✓")),
                Some(trouble) => format!("{} {what}: NO, {trouble}", self.screen.paint(Style::Red, "✗")),
            });
        }
        line(String::new());
        let (orders, seconds) = (self.order.len(), total.as_secs_f64());
        line(match checks.iter().filter(|(_, trouble)| trouble.is_some()).count() {
            0 => bold(&format!(
                "Everything came out right: {orders} orders, {orders} jobs done in {seconds:.1} s."
            )),
            wrong => bold(&format!("{wrong} of {} checks did not come out right.", checks.len())),
        });
        self.screen.print(&text);
        right
    }

    pub(super) fn in_order(&self) -> impl Iterator<Item = &Job> {
        self.order.iter().filter_map(|name| self.jobs.get(name))
    }

    /// What has to hold, and for each what is wrong if it does not.
    pub(super) fn checks(&self) -> Vec<(&'static str, Option<String>)> {
        let facts = &self.facts;
        let unless = |right: bool, trouble: &dyn Fn() -> String| if right { None } else { Some(trouble()) };
        let states: Vec<_> = self
            .in_order()
            .filter(|job| job.state != "succeeded")
            .map(|job| format!("{} is {}", job.name(), job.state))
            .collect();
        let counts: Vec<_> = self
            .in_order()
            .filter(|job| !self.is_hole(job))
            .filter_map(|job| match self.starts(job) {
                Ok(1) if job.attempt == 1 => None,
                Ok(starts) => {
                    Some(format!("{} was started {starts} times in {} attempts", job.name(), job.attempt))
                }
                Err(error) => Some(format!("{error:#}")),
            })
            .collect();
        let belief = facts.belief_when_noticed.as_ref();
        let honest =
            belief.is_some_and(|job| job.state == "running" && job.flags.iter().any(|flag| flag == "stale"));
        let started = |name: &str| self.jobs.get(name).and_then(|job| instant(job.started_at.as_deref()));
        let on_time = facts.cake_due.zip(started("cake")).is_some_and(|(due, started)| started >= due);
        let verdict = |slave: &str, name: &str| {
            let receipt = self.stations.get(slave).and_then(|station| station.receipt.as_ref());
            let lines = receipt.into_iter().flat_map(|receipt| &receipt.lines);
            let line =
                lines.into_iter().find(|line| self.names.get(&line.job).is_some_and(|known| known == name));
            line.map_or_else(|| "none".to_owned(), |line| format!("{}: {}", line.line, line.verdict))
        };
        let judged = [verdict(OVEN, "bread"), verdict(OVEN, "cake"), verdict(MILL_NAME, "bracket")];
        vec![
            (
                "every order succeeded",
                unless(states.is_empty() && self.jobs.len() == self.order.len(), &|| states.join(", ")),
            ),
            (
                "every job but the holes was started exactly once, by its machine's own memory",
                unless(counts.is_empty(), &|| counts.join(", ")),
            ),
            (
                "the job went on when its cable was cut",
                unless(facts.bread_when_noticed > facts.bread_at_cut && facts.bread_done_while_cut, &|| {
                    format!(
                        "bread was at {} and then at {}",
                        percent(facts.bread_at_cut),
                        percent(facts.bread_when_noticed)
                    )
                }),
            ),
            (
                "the master said how old its word was, and gave nothing up",
                unless(honest, &|| {
                    format!(
                        "it said {:?} with the flags {:?}",
                        belief.map(|job| &job.state),
                        belief.map(|job| &job.flags)
                    )
                }),
            ),
            (
                "the deferred job started on time, without a link",
                unless(on_time && facts.cake_started_while_cut, &|| {
                    format!("due {:?}, started {:?}", facts.cake_due, started("cake"))
                }),
            ),
            (
                "the killed agent found its job again, the same process and further on",
                unless(
                    facts.mill_before.is_some()
                        && facts.mill_before == facts.mill_after
                        && facts.mill_at_return > facts.mill_at_kill,
                    &|| format!("process {:?} became {:?}", facts.mill_before, facts.mill_after),
                ),
            ),
            (
                "each reconnect settled what both sides knew",
                unless(judged == ["it_ended: forget", "it_runs: keep", "it_runs: keep"], &|| {
                    judged.join(", ")
                }),
            ),
            (
                "the machine that failed three times was barred, its work went elsewhere, and one word ended it",
                unless(
                    facts.barred.as_deref() == Some("failures_in_row")
                        && facts.failed_there == 3
                        && facts.worked_again,
                    &|| format!("{:?} after {} starts there", facts.barred, facts.failed_there),
                ),
            ),
            (
                "the urgent order went before the one placed earlier",
                unless(
                    started("vase").zip(started("plates")).is_some_and(|(vase, plates)| vase < plates),
                    &|| format!("vase started {:?}, plates {:?}", started("vase"), started("plates")),
                ),
            ),
        ]
    }

    pub(super) fn show_logs(&self) {
        let logs = self.stations.values().map(|station| (station.slave.name(), station.slave.log()));
        for (name, log) in [("master", self.office.daemon.log())].into_iter().chain(logs) {
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
            self.screen.print(&format!("\n---- the end of the log of {name} ----\n{tail}\n"));
        }
    }

    pub(super) fn invite(&self) {
        let url = format!("http://{}", self.office.addr);
        let token = format!("-H \"Authorization: Bearer $(cat {})\"", self.office.token_file().display());
        let order = r#"{"name":"rolls","program":"bake","params":{"seconds":"20"}}"#;
        let bold = |text: &str| self.screen.paint(Style::Bold, text);
        let dim = |text: &str| self.screen.paint(Style::Dim, text);
        self.screen.print(&format!(
            "\n  The factory stays up. Look at it in a browser: {}\n  The page asks for the token in {}\n\n\
             {}\ncurl -s {token} {url}/v1/jobs\n\n\
             {}\ncurl -s {token} -H 'Content-Type: application/json' -d '{order}' {url}/v1/orders\n\n\
             {}\ncurl -s {token} {url}/v1/slaves/{OVEN}/receipts\n\n  Ctrl-C stops everything.\n",
            bold(&url),
            self.office.token_file().display(),
            dim("# all jobs, with how fresh each word is"),
            dim("# one more order"),
            dim("# why did it do that? what oven-1's handshakes came to"),
        ));
    }
}
