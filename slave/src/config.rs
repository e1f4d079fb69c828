//! `slave.toml`: what this slave is called, whom it dials, and above all which programs its machine may run.
//!
//! The file is the machine owner's side of the contract: an order names a program and parameters, and here stands what
//! that may become. A program of the `process` driver is an argument list in which whole or partial elements are
//! `{parameter}` placeholders; each parameter has a pattern which its value must match from end to end. A value becomes
//! part of exactly one argument and never meets a shell. Whether a value may begin with a dash, and so be taken for an
//! option by the program, is for the pattern to say: `[a-z0-9][a-z0-9_.-]*` keeps it out, `.*` does not.
//!
//! Flags beat the environment (`RELOOP_SLAVE_NAME`, `RELOOP_SLAVE_MASTER`, `RELOOP_SLAVE_STATE_DIR`,
//! `RELOOP_SLAVE_ENROLL_TOKEN_FILE`), which beats the file, which beats the defaults. Everything is checked when it is
//! loaded, so that a typing error stops the start of the agent and not a job in the night. `RELOOP_MASTER` is not read: it
//! names the master of the client `reloop`, by another kind of address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;
pub use reloop_node::config::ConfigError;
use reloop_node::config::{self, Wrong, absolute, check_dead_after, pick, whole};
use reloop_protocol::id::BootId;
use serde::Deserialize;
use tokio_tungstenite::tungstenite::http::Uri;

use crate::machine::Rejection;

/// The longest value a parameter may have: two of them and a long command line still fit the kernel's limit for
/// one argument (128 KiB) many times over, and an order stays a small message.
pub const PARAM_LIMIT: usize = 4096;
/// The most jobs a slave keeps: what it holds travels in every handshake.
const CAPACITY_LIMIT: i64 = 64;
/// No period in the file may be longer: a week is past any sense, and far from any overflow.
const PERIOD_LIMIT_SECONDS: i64 = 7 * 24 * 3600;
/// Names and labels of this length fit a line of a table.
const NAME_LIMIT: usize = 63;
const LABELS_LIMIT: usize = 64;

/// A slave's settings, checked and complete.
#[derive(Debug, Clone)]
pub struct Config {
    /// What people call this slave: a label, not its identity.
    pub name: String,
    /// Where it dials: `ws://` or `wss://`.
    pub master: String,
    /// Where all its files are; absolute.
    pub state_dir: PathBuf,
    /// Who says that the machine is clear after a job.
    pub release: Release,
    /// What has to happen after a job failed.
    pub after_failure: AfterFailure,
    /// What orders may ask for.
    pub labels: BTreeMap<String, String>,
    /// How many accepted jobs it keeps.
    pub capacity: u8,
    /// Holds the token that enrols it, if it has not been enrolled yet.
    pub enroll_token_file: Option<PathBuf>,
    /// Certificates to trust beside the system's, for a factory's own authority.
    pub ca_file: Option<PathBuf>,
    /// Where the kernel's boot id is read.
    pub boot_id_file: PathBuf,
    /// Where the box's own id is read, which no copy of its disk to another box should carry along.
    pub machine_id_file: PathBuf,
    /// After a boot without contact, whether the wall clock may be trusted.
    pub trust_clock: bool,
    /// How often an attempt may be interrupted by a reboot before a person is asked.
    pub max_interruptions: u32,
    /// The link's periods.
    pub link: Link,
    /// What this machine can run.
    pub programs: BTreeMap<String, Program>,
}

/// Who says that the machine is clear after a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Release {
    /// Nobody has to: it is ready at once.
    Auto,
    /// A person, at the machine or through the master.
    Ack,
}

/// What has to happen after a job failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AfterFailure {
    /// The same as after any other job.
    Release,
    /// Nothing starts until somebody has looked at the machine.
    Hold,
}

/// The link's periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Between two pings.
    pub heartbeat: Duration,
    /// Without a byte from the master for this long, the link is dead.
    pub dead_after: Duration,
    /// The first pause before dialling again, and
    pub backoff_min: Duration,
    /// the longest.
    pub backoff_max: Duration,
    /// A handshake that takes longer is given up.
    pub handshake: Duration,
}

/// One thing the machine can run, by the driver that runs it.
#[derive(Debug, Clone)]
pub enum Program {
    /// Any program of this box.
    Process(ProcessProgram),
    /// A make-believe machine.
    Simulated(SimulatedProgram),
}

/// A program of the `process` driver.
#[derive(Debug, Clone)]
pub struct ProcessProgram {
    command: Vec<Template>,
    params: BTreeMap<String, Param>,
    /// From the polite request to stop to the kill, for a stop at a safe point.
    pub stop_grace: Duration,
    /// Added to the clean environment.
    pub env: BTreeMap<String, String>,
}

/// A program of the `simulated` driver.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedProgram {
    /// A power cut kills the work without a trace.
    pub forget_on_boot: bool,
    /// The machine answers no probe.
    pub silent: bool,
    /// How many times faster than the order says it works.
    pub speed: f64,
}

#[derive(Debug, Clone)]
struct Param {
    pattern: Regex,
    /// As it stands in the file, for messages.
    source: String,
    default: Option<String>,
}

/// One element of the argument list, cut at its placeholders.
type Template = Vec<Piece>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Param(String),
}

/// What flags on the command line set, and the environment likewise: each beats the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// For `name`.
    pub name: Option<String>,
    /// For `master`.
    pub master: Option<String>,
    /// For `state_dir`.
    pub state_dir: Option<PathBuf>,
    /// For `enroll_token_file`.
    pub enroll_token_file: Option<PathBuf>,
}

impl Overrides {
    /// What the environment says. A variable that is set to nothing counts as not set.
    pub fn from_env() -> Self {
        Self {
            name: config::env_text("RELOOP_SLAVE_NAME"),
            master: config::env_text("RELOOP_SLAVE_MASTER"),
            state_dir: config::env_path("RELOOP_SLAVE_STATE_DIR"),
            enroll_token_file: config::env_path("RELOOP_SLAVE_ENROLL_TOKEN_FILE"),
        }
    }

    /// These where they say something, else `other`.
    #[must_use]
    pub fn over(self, other: Self) -> Self {
        Self {
            name: self.name.or(other.name),
            master: self.master.or(other.master),
            state_dir: self.state_dir.or(other.state_dir),
            enroll_token_file: self.enroll_token_file.or(other.enroll_token_file),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    name: Option<String>,
    master: Option<String>,
    state_dir: Option<PathBuf>,
    release: Option<Release>,
    after_failure: Option<AfterFailure>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    capacity: Option<i64>,
    enroll_token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    boot_id_file: Option<PathBuf>,
    machine_id_file: Option<PathBuf>,
    trust_clock: Option<bool>,
    max_interruptions: Option<i64>,
    #[serde(default)]
    link: RawLink,
    #[serde(default)]
    programs: BTreeMap<String, RawProgram>,
}

/// What a local command reads of the file.
#[derive(Deserialize)]
struct RawPlace {
    state_dir: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLink {
    heartbeat_seconds: Option<i64>,
    dead_after_seconds: Option<i64>,
    backoff_min_ms: Option<i64>,
    backoff_max_ms: Option<i64>,
    handshake_seconds: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProgram {
    driver: RawDriver,
    command: Option<Vec<String>>,
    params: Option<BTreeMap<String, RawParam>>,
    stop_grace_seconds: Option<i64>,
    env: Option<BTreeMap<String, String>>,
    forget_on_boot: Option<bool>,
    probe: Option<RawProbe>,
    speed: Option<f64>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum RawDriver {
    Process,
    Simulated,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum RawProbe {
    Answers,
    Silent,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParam {
    pattern: String,
    default: Option<String>,
}

impl Config {
    /// Reads and checks the file, with the environment's overrides.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, Overrides::default())
    }

    /// Reads and checks the file, with the environment's overrides and these flags on top.
    pub fn load_with(path: &Path, flags: Overrides) -> Result<Self, ConfigError> {
        let overrides = flags.over(Overrides::from_env());
        check(config::read(path)?, overrides).map_err(|wrong| from_origin(wrong, path))
    }

    /// Checks the text of a file; `path` is only for messages.
    pub fn parse(text: &str, path: &Path, overrides: Overrides) -> Result<Self, ConfigError> {
        check(config::parse(text, path)?, overrides).map_err(|wrong| from_origin(wrong, path))
    }

    /// Only the directory of the agent's files, which is all that a local command needs: it works with a file in which
    /// something else is wrong, and without a file where a flag or the environment names the directory.
    pub fn state_dir(path: &Path, flags: Overrides) -> Result<PathBuf, ConfigError> {
        Self::state_dir_by(flags.over(Overrides::from_env()), path)
    }

    fn state_dir_by(overrides: Overrides, path: &Path) -> Result<PathBuf, ConfigError> {
        let in_file = match overrides.state_dir {
            Some(_) => None,
            None => config::read::<RawPlace>(path)?.state_dir,
        };
        check_state_dir(overrides.state_dir, in_file).map_err(|wrong| from_origin(wrong, path))
    }

    /// Which boot of the box this is.
    pub fn boot_id(&self) -> std::io::Result<BootId> {
        let text = std::fs::read_to_string(&self.boot_id_file)?;
        parse_boot_id(text.trim()).ok_or_else(|| {
            std::io::Error::other(format!(
                "{}: {:?} is not a boot id; expected 32 hexadecimal digits, with or without dashes",
                self.boot_id_file.display(),
                text.trim().chars().take(64).collect::<String>(),
            ))
        })
    }
}

fn parse_boot_id(text: &str) -> Option<BootId> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(|number| BootId(number.to_be_bytes()))
}

/// The error to report, with its origin.
fn from_origin(wrong: Wrong, file: &Path) -> ConfigError {
    wrong.from_origin(file.display(), "command line or environment (RELOOP_SLAVE_*)")
}

fn check_state_dir(over: Option<PathBuf>, in_file: Option<PathBuf>) -> Result<PathBuf, Wrong> {
    let dir = pick(over, in_file, |dir| absolute("state_dir", &dir))?;
    Ok(dir.unwrap_or_else(|| PathBuf::from("/var/lib/reloop-slave")))
}

fn check(raw: RawConfig, overrides: Overrides) -> Result<Config, Wrong> {
    let name = pick(overrides.name, raw.name, |name| check_name("name", &name).map(|()| name))?
        .ok_or_else(|| Wrong::new("name", "missing; give the slave a name, for example name = \"mill-3\""))?;
    let master = pick(overrides.master, raw.master, |master| check_master(&master).map(|()| master))?
        .ok_or_else(|| {
            Wrong::new("master", "missing; for example master = \"ws://127.0.0.1:7400/v1/link\"")
        })?;
    let state_dir = check_state_dir(overrides.state_dir, raw.state_dir)?;
    let enroll_token_file = pick(overrides.enroll_token_file, raw.enroll_token_file, |file| {
        absolute("enroll_token_file", &file)
    })?;
    let release = raw.release.unwrap_or(Release::Auto);
    if raw.labels.len() > LABELS_LIMIT {
        return Err(Wrong::new(
            "labels",
            format_args!("{} labels; at most {LABELS_LIMIT}", raw.labels.len()),
        ));
    }
    for (label, value) in &raw.labels {
        check_name(format_args!("labels.{label}"), label)?;
        if value.is_empty() || value.len() > NAME_LIMIT || value.chars().any(char::is_control) {
            return Err(Wrong::new(
                format_args!("labels.{label}"),
                format_args!("{value:?}; allowed are 1 to {NAME_LIMIT} bytes without control characters"),
            ));
        }
    }
    let capacity = whole("capacity", raw.capacity, 4, 1..=CAPACITY_LIMIT)?;
    let max_interruptions = whole("max_interruptions", raw.max_interruptions, 3, 0..=1000)?;
    let mut programs = BTreeMap::new();
    for (program, raw) in raw.programs {
        let key = format!("programs.{program}");
        check_name(&key, &program)?;
        programs.insert(program, check_program(&key, raw)?);
    }
    Ok(Config {
        name,
        master,
        state_dir,
        release,
        after_failure: raw.after_failure.unwrap_or(AfterFailure::Release),
        labels: raw.labels,
        capacity: u8::try_from(capacity).expect("checked against a limit below 256"),
        enroll_token_file,
        ca_file: raw.ca_file.map(|path| absolute("ca_file", &path)).transpose()?,
        boot_id_file: absolute(
            "boot_id_file",
            raw.boot_id_file.as_deref().unwrap_or(Path::new("/proc/sys/kernel/random/boot_id")),
        )?,
        machine_id_file: absolute(
            "machine_id_file",
            raw.machine_id_file.as_deref().unwrap_or(Path::new("/etc/machine-id")),
        )?,
        trust_clock: raw.trust_clock.unwrap_or(false),
        max_interruptions: u32::try_from(max_interruptions).expect("checked against a limit below 2^32"),
        link: check_link(&raw.link)?,
        programs,
    })
}

fn check_name(key: impl Display, name: &str) -> Result<(), Wrong> {
    let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let rest = |c: char| first(c) || matches!(c, '.' | '_' | '-');
    if name.len() <= NAME_LIMIT && name.starts_with(first) && name.chars().all(rest) {
        return Ok(());
    }
    Err(Wrong::new(
        key,
        format_args!(
            "{name:?} is no name; allowed are 1 to {NAME_LIMIT} of a-z 0-9 . _ - with a letter or digit first"
        ),
    ))
}

fn check_master(master: &str) -> Result<(), Wrong> {
    let right = master.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("ws" | "wss")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    if right {
        return Ok(());
    }
    Err(Wrong::new(
        "master",
        format_args!(
            "{master:?}; expected ws://host[:port]/path or wss://host[:port]/path, usually /v1/link"
        ),
    ))
}

fn check_link(raw: &RawLink) -> Result<Link, Wrong> {
    let seconds = |key, value, default| {
        whole(format_args!("link.{key}"), value, default, 1..=PERIOD_LIMIT_SECONDS).map(Duration::from_secs)
    };
    let millis = |key, value, default| {
        whole(format_args!("link.{key}"), value, default, 1..=PERIOD_LIMIT_SECONDS * 1000)
            .map(Duration::from_millis)
    };
    let link = Link {
        heartbeat: seconds("heartbeat_seconds", raw.heartbeat_seconds, 15)?,
        dead_after: seconds("dead_after_seconds", raw.dead_after_seconds, 45)?,
        backoff_min: millis("backoff_min_ms", raw.backoff_min_ms, 200)?,
        backoff_max: millis("backoff_max_ms", raw.backoff_max_ms, 60_000)?,
        handshake: seconds("handshake_seconds", raw.handshake_seconds, 10)?,
    };
    check_dead_after(link.dead_after, link.heartbeat)?;
    if link.backoff_max < link.backoff_min {
        return Err(Wrong::new(
            "link.backoff_max_ms",
            "less than link.backoff_min_ms; allowed is that or more",
        ));
    }
    Ok(link)
}

fn check_program(key: &str, raw: RawProgram) -> Result<Program, Wrong> {
    let foreign = |present: &[(&str, bool)], driver: &str, allowed: &str| match present
        .iter()
        .find(|(_, present)| *present)
    {
        Some((name, _)) => Err(Wrong::new(
            format_args!("{key}.{name}"),
            format_args!("not for driver = \"{driver}\"; allowed are driver, {allowed}"),
        )),
        None => Ok(()),
    };
    match raw.driver {
        RawDriver::Process => {
            let simulated = [
                ("forget_on_boot", raw.forget_on_boot.is_some()),
                ("probe", raw.probe.is_some()),
                ("speed", raw.speed.is_some()),
            ];
            foreign(&simulated, "process", "command, params, stop_grace_seconds, env")?;
            check_process(key, raw).map(Program::Process)
        }
        RawDriver::Simulated => {
            let process = [
                ("command", raw.command.is_some()),
                ("params", raw.params.is_some()),
                ("stop_grace_seconds", raw.stop_grace_seconds.is_some()),
                ("env", raw.env.is_some()),
            ];
            foreign(&process, "simulated", "forget_on_boot, probe, speed")?;
            let speed = raw.speed.unwrap_or(1.0);
            if !(speed.is_finite() && (0.001..=1_000_000.0).contains(&speed)) {
                return Err(Wrong::new(
                    format_args!("{key}.speed"),
                    format_args!("{speed}; allowed are 0.001 to 1000000"),
                ));
            }
            Ok(Program::Simulated(SimulatedProgram {
                forget_on_boot: raw.forget_on_boot.unwrap_or(false),
                silent: raw.probe == Some(RawProbe::Silent),
                speed,
            }))
        }
    }
}

fn check_process(key: &str, raw: RawProgram) -> Result<ProcessProgram, Wrong> {
    let command_key = format!("{key}.command");
    let example = "for example command = [\"/usr/local/bin/mill\", \"{file}\"]";
    let Some(command) = raw.command.filter(|command| !command.is_empty()) else {
        return Err(Wrong::new(command_key, format_args!("missing or empty; {example}")));
    };
    if !Path::new(&command[0]).is_absolute() || command[0].contains(['{', '}']) {
        return Err(Wrong::new(
            command_key,
            format_args!("{:?} must be the program's full path, without placeholders; {example}", command[0]),
        ));
    }
    let templates: Vec<Template> = command
        .iter()
        .map(|text| parse_template(text))
        .collect::<Result<_, _>>()
        .map_err(|why| Wrong::new(&command_key, why))?;

    let mut params = BTreeMap::new();
    for (name, raw) in raw.params.unwrap_or_default() {
        let param_key = format!("{key}.params.{name}");
        check_name(&param_key, &name)?;
        params.insert(name, check_param(&param_key, raw)?);
    }

    let used: BTreeSet<&str> = templates
        .iter()
        .flatten()
        .filter_map(|piece| match piece {
            Piece::Param(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
        .collect();
    if let Some(name) = used.iter().find(|name| !params.contains_key(**name)) {
        return Err(Wrong::new(
            command_key,
            format_args!(
                "{{{name}}} is not declared; add [{key}.params] {name} = {{ pattern = \"...\" }}, or write {{{{ \
                 for a brace"
            ),
        ));
    }
    if let Some(name) = params.keys().find(|name| !used.contains(name.as_str())) {
        return Err(Wrong::new(
            format_args!("{key}.params.{name}"),
            format_args!("never used; put {{{name}}} into {key}.command or remove it"),
        ));
    }

    let env = raw.env.unwrap_or_default();
    for (name, value) in &env {
        let right = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !right || name.starts_with("RELOOP_") || value.contains('\0') {
            return Err(Wrong::new(
                format_args!("{key}.env.{name}"),
                "allowed are names of A-Z a-z 0-9 _ that do not begin with RELOOP_, and values without NUL",
            ));
        }
    }
    let grace = whole(
        format_args!("{key}.stop_grace_seconds"),
        raw.stop_grace_seconds,
        30,
        0..=PERIOD_LIMIT_SECONDS,
    )?;
    Ok(ProcessProgram { command: templates, params, stop_grace: Duration::from_secs(grace), env })
}

fn check_param(key: &str, raw: RawParam) -> Result<Param, Wrong> {
    let pattern_key = format!("{key}.pattern");
    // The bare pattern first: `a)|(b` would only be whole, and escape its anchors, inside the wrapped one.
    let bad = |why: regex::Error| Wrong::new(&pattern_key, format_args!("not a regular expression: {why}"));
    Regex::new(&raw.pattern).map_err(bad)?;
    let pattern = Regex::new(&format!(r"\A(?:{})\z", raw.pattern)).map_err(bad)?;
    if let Some(default) = &raw.default {
        check_value("default", &pattern, &raw.pattern, default)
            .map_err(|why| Wrong::new(format_args!("{key}.default"), why))?;
    }
    Ok(Param { pattern, source: raw.pattern, default: raw.default })
}

fn check_value(name: &str, pattern: &Regex, source: &str, value: &str) -> Result<(), Rejection> {
    check_shape(name, value)?;
    if !pattern.is_match(value) {
        return Err(Rejection::bad_value(name, value, format!("a match of {source}, from end to end")));
    }
    Ok(())
}

/// What no parameter of any driver may be, whatever its pattern says.
pub(crate) fn check_shape(name: &str, value: &str) -> Result<(), Rejection> {
    if value.len() > PARAM_LIMIT || value.contains('\0') {
        return Err(Rejection::bad_value(name, value, format!("at most {PARAM_LIMIT} bytes and no NUL")));
    }
    Ok(())
}

/// `{name}` is a placeholder, `{{` and `}}` are braces.
fn parse_template(text: &str) -> Result<Template, String> {
    if text.contains('\0') {
        return Err("an argument can't contain NUL".into());
    }
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        plain.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix(brace) {
            plain.push_str(brace);
            rest = after;
            continue;
        }
        let Some((name, after)) = after.split_once('}').filter(|_| brace == "{") else {
            return Err(format!(
                "{text:?} has a lone {brace}; write {{name}} for a parameter, {{{{ or }}}} for a brace"
            ));
        };
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(Piece::Param(name.to_owned()));
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

impl ProcessProgram {
    /// The file that is executed.
    pub fn executable(&self) -> &Path {
        match self.command.first().map(Vec::as_slice) {
            Some([Piece::Text(path)]) => Path::new(path),
            _ => unreachable!("a command begins with a full path without placeholders"),
        }
    }

    /// The argument list for these parameters, with defaults for those that are left out.
    pub fn arguments(&self, params: &BTreeMap<String, String>) -> Result<Vec<String>, Rejection> {
        if let Some(name) = params.keys().find(|name| !self.params.contains_key(*name)) {
            return Err(Rejection::unknown_param(name, self.params.keys().cloned()));
        }
        let mut values = BTreeMap::new();
        for (name, param) in &self.params {
            let Some(value) = params.get(name).or(param.default.as_ref()) else {
                return Err(Rejection::missing_param(name, &param.source));
            };
            check_value(name, &param.pattern, &param.source, value)?;
            values.insert(name.as_str(), value.as_str());
        }
        Ok(self
            .command
            .iter()
            .map(|template| {
                template
                    .iter()
                    .map(|piece| match piece {
                        Piece::Text(text) => text.as_str(),
                        Piece::Param(name) => values[name.as_str()],
                    })
                    .collect()
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "name = \"mill-3\"\nmaster = \"ws://127.0.0.1:7400/v1/link\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("slave.toml"), Overrides::default()).map_err(|error| error.to_string())
    }

    fn mill(command: &str, params: &str) -> Result<ProcessProgram, String> {
        let text = format!(
            "{MINIMAL}[programs.mill]\ndriver = \"process\"\ncommand = {command}\n[programs.mill.params]\n{params}\n"
        );
        match parse(&text)?.programs.remove("mill") {
            Some(Program::Process(program)) => Ok(program),
            other => panic!("{other:?}"),
        }
    }

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[track_caller]
    fn refused(text: &str, expected: &[&str]) {
        let error = parse(text).expect_err("should be refused");
        for part in expected {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }

    #[test]
    fn the_example_of_the_manual_is_read_with_its_defaults() {
        let config = parse(
            r#"
name = "mill-3"
master = "ws://127.0.0.1:7400/v1/link"
state_dir = "/var/lib/reloop-slave"
release = "auto"                 # or "ack"
labels = { material = "pla" }
capacity = 4
[programs.mill]
driver = "process"
command = ["/usr/local/bin/mill", "{file}", "--speed", "{speed}"]
[programs.mill.params]
file  = { pattern = "[a-z0-9_-]+\\.nc" }
speed = { pattern = "[0-9]{1,4}", default = "100" }
[programs.bake]
driver = "simulated"             # params: seconds, fail_at
"#,
        )
        .unwrap();
        assert_eq!((config.capacity, config.max_interruptions), (4, 3));
        assert!(!config.trust_clock);
        assert_eq!(config.link.dead_after, Duration::from_secs(45));
        let Program::Process(mill) = &config.programs["mill"] else { panic!() };
        assert_eq!(mill.stop_grace, Duration::from_secs(30));
        assert_eq!(
            mill.arguments(&values(&[("file", "part.nc")])).unwrap(),
            ["/usr/local/bin/mill", "part.nc", "--speed", "100"]
        );
        assert!(matches!(&config.programs["bake"], Program::Simulated(bake) if bake.speed == 1.0));
    }

    #[test]
    fn every_refusal_names_the_file_the_key_and_what_is_allowed() {
        refused("", &["slave.toml", "name", "missing"]);
        refused(
            &format!("{MINIMAL}colour = 1"),
            &["slave.toml", "line 3", "colour", "expected one of", "`capacity`"],
        );
        refused(&format!("{MINIMAL}capacity = 65"), &["slave.toml", "capacity", "65", "1 to 64"]);
        refused(&format!("{MINIMAL}capacity = 0"), &["capacity", "1 to 64"]);
        refused(&format!("{MINIMAL}capacity = \"four\""), &["capacity", "line 3"]);
        refused(&format!("{MINIMAL}release = \"never\""), &["release", "`auto`", "`ack`"]);
        refused(&format!("{MINIMAL}after_failure = \"stop\""), &["after_failure", "`release`", "`hold`"]);
        refused(
            &format!("{MINIMAL}[link]\nheartbeat_seconds = 30"),
            &["link.dead_after_seconds", "at least"],
        );
        refused(&format!("{MINIMAL}[link]\nbackoff_max_ms = 1"), &["link.backoff_max_ms"]);
        refused(&format!("{MINIMAL}[labels]\nA = \"b\""), &["labels.A", "a-z"]);
        refused(
            &format!("{MINIMAL}[programs.x]\ndriver = \"magic\""),
            &["magic", "`process`", "`simulated`"],
        );
        refused(
            &format!("{MINIMAL}[programs.x]\ndriver = \"simulated\"\ncommand = [\"/bin/x\"]"),
            &["programs.x.command", "forget_on_boot"],
        );
        refused(
            &format!("{MINIMAL}[programs.x]\ndriver = \"process\"\ncommand = [\"/x\"]\nspeed = 2.0"),
            &["programs.x.speed", "stop_grace_seconds"],
        );
        for name in ["", "Mill", "-mill", "mill 3", "../mill", &"m".repeat(64)] {
            refused(&format!("name = {name:?}\nmaster = \"ws://m/v1/link\""), &["name", "a-z"]);
        }
        for master in ["http://m/v1/link", "m:7400", "ws://", "ws:///v1/link", "ws://a b/"] {
            refused(&format!("name = \"mill\"\nmaster = {master:?}"), &["master", "ws://host"]);
        }
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file() {
        let environment = Overrides {
            name: Some("env".into()),
            master: Some("wss://env/v1/link".into()),
            ..Overrides::default()
        };
        let flags =
            Overrides { name: Some("flag".into()), state_dir: Some("state".into()), ..Overrides::default() };
        let config = Config::parse(MINIMAL, Path::new("slave.toml"), flags.over(environment)).unwrap();
        assert_eq!((config.name.as_str(), config.master.as_str()), ("flag", "wss://env/v1/link"));
        assert_eq!(config.state_dir, std::env::current_dir().unwrap().join("state"));
    }

    #[test]
    fn an_override_that_is_wrong_is_not_blamed_on_the_file() {
        let environment = Overrides { master: Some("http://m".into()), ..Overrides::default() };
        let error = Config::parse(MINIMAL, Path::new("slave.toml"), environment).unwrap_err().to_string();
        assert!(error.starts_with("command line or environment (RELOOP_SLAVE_*): master: "), "{error}");
    }

    #[test]
    fn a_local_command_needs_to_know_only_where_the_agents_files_are() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("slave.toml");
        let by = |overrides| Config::state_dir_by(overrides, &file).map_err(|error| error.to_string());
        let named = Overrides { state_dir: Some("/srv/mill".into()), ..Overrides::default() };
        let missing = by(Overrides::default()).unwrap_err();
        assert!(missing.contains("--config"), "{missing}");
        assert_eq!(by(named.clone()).unwrap(), Path::new("/srv/mill"));
        // Neither a name nor a master, and a program that an agent would refuse.
        std::fs::write(&file, "state_dir = \"/srv/oven\"\n[programs.x]\ndriver = \"magic\"\n").unwrap();
        assert_eq!(by(Overrides::default()).unwrap(), Path::new("/srv/oven"));
        assert_eq!(by(named).unwrap(), Path::new("/srv/mill"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(by(Overrides::default()).unwrap(), Path::new("/var/lib/reloop-slave"));
    }

    #[test]
    fn a_command_must_be_whole() {
        for (command, params, expected) in [
            ("[]", "", "programs.mill.command"),
            (r#"["mill"]"#, "", "full path"),
            (r#"["/bin/{p}"]"#, "p = { pattern = \"a\" }", "full path"),
            (r#"["/bin/mill", "{file}"]"#, "", "{file} is not declared"),
            (r#"["/bin/mill", "{file"]"#, "", "lone {"),
            (r#"["/bin/mill", "file}"]"#, "", "lone }"),
            (r#"["/bin/mill"]"#, "p = { pattern = \"a\" }", "never used"),
            (r#"["/bin/mill", "{p}"]"#, "p = { pattern = \"(\" }", "programs.mill.params.p.pattern"),
            (r#"["/bin/mill", "{p}"]"#, "p = { pattern = \"a)|(?:b\" }", "regular expression"),
            (
                r#"["/bin/mill", "{p}"]"#,
                "p = { pattern = \"a\", default = \"b\" }",
                "programs.mill.params.p.default",
            ),
            (r#"["/bin/mill", "{p}"]"#, "p = { pattern = \"a\" }\np = { pattern = \"b\" }", "duplicate key"),
            (r#"["/bin/mill", "{p}"]"#, "p = { pattern = \"a\", kind = \"b\" }", "kind"),
        ] {
            let error = mill(command, params).expect_err(command);
            assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        }
    }

    #[test]
    fn a_value_is_matched_from_end_to_end() {
        let program =
            mill(r#"["/bin/mill", "--file={file}", "{{}}"]"#, r#"file = { pattern = "[a-z]+|[0-9]+" }"#)
                .unwrap();
        let arguments = |value: &str| program.arguments(&values(&[("file", value)]));
        assert_eq!(arguments("part").unwrap(), ["/bin/mill", "--file=part", "{}"]);
        assert_eq!(arguments("77").unwrap()[1], "--file=77");
        for value in
            ["", "part;7", "a7", "7a", "part\n", "\npart", "../part", "$(part)", "-part", "part 7", "a\0"]
        {
            assert!(arguments(value).is_err(), "{value:?} was let through");
        }
        assert!(program.arguments(&values(&[])).is_err());
        assert!(program.arguments(&values(&[("file", "a"), ("other", "b")])).is_err());
        assert!(arguments(&"a".repeat(PARAM_LIMIT)).is_ok());
        assert!(arguments(&"a".repeat(PARAM_LIMIT + 1)).is_err());
    }

    #[test]
    fn the_kernels_boot_id_is_read() {
        let config = parse(MINIMAL).unwrap();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(Some(config.boot_id().unwrap()), parse_boot_id(kernel.trim()));
        assert_eq!(parse_boot_id("00000000-0000-0000-0000-000000000001").map(|id| id.0[15]), Some(1));
        assert_eq!(parse_boot_id("boot"), None);
    }
}
