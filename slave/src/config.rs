//! `slave.toml`: the name of this slave, the master that it dials, and the programs that its machine may run.
//!
//! With this file the machine's owner decides what an order can make the machine do: an order only names a program and
//! parameters. A program of the `process` driver is an argument list whose elements may contain `{parameter}` placeholders;
//! each parameter has a pattern, which its value must match from end to end. A value becomes part of exactly one argument and
//! never reaches a shell. If a value must not be taken for an option by the program, its pattern has to forbid a dash at the
//! beginning: `[a-z0-9][a-z0-9_.-]*` does, `.*` does not.
//!
//! Flags beat the environment (`RELOOP_SLAVE_NAME`, `RELOOP_SLAVE_MASTER`, `RELOOP_SLAVE_STATE_DIR`,
//! `RELOOP_SLAVE_ENROLL_TOKEN_FILE`), which beats the file, which beats the defaults. Everything is checked when it is
//! loaded, so that a typing error stops the start of the agent and not a job at night. `RELOOP_MASTER` is not read: it holds
//! the master's address for the client `reloop`, which is an address of another kind.

mod names;
mod params;
mod program;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use reloop_node::config::ConfigError;
use reloop_node::config::{self, Wrong, absolute, check_dead_after, pick, whole};
use reloop_protocol::id::BootId;
use reloop_protocol::slave::{AfterFailure, LATE_TOLERANCE, MAX_FAILURES_IN_ROW, Release, TrustClock};
use reloop_protocol::time::Millis;
use serde::{Deserialize, Deserializer, de};
use tokio_tungstenite::tungstenite::http::Uri;

use self::names::{NAME_LIMIT, check_name};
pub use self::params::ParamError;
pub(crate) use self::params::{check_size, listed, shown};
use self::program::RawProgram;
pub use self::program::{ProcessProgram, Program, SimulatedProgram};

/// How many deferred jobs a slave keeps by default: a week of two shifts with one planned start each, and some more.
const DEFERRED_CAPACITY: i64 = 16;
/// The most jobs that a slave keeps: every handshake lists them.
const CAPACITY_LIMIT: i64 = 64;

/// The largest `max_failures_in_row`: a machine where so many jobs fail one after the other is broken by any measure.
const FAILURES_LIMIT: i64 = 1000;
/// The longest period in the file, a week: longer than any sensible one, and far from any overflow.
const PERIOD_LIMIT_SECONDS: i64 = 7 * 24 * 3600;
const LABELS_LIMIT: usize = 64;

/// A slave's settings, checked and complete.
#[derive(Debug, Clone)]
pub struct Config {
    /// The slave's label for people. Its identity is its key.
    pub name: String,
    /// The address to dial: `ws://` or `wss://`.
    pub master: String,
    /// The directory of all files of the agent; absolute.
    pub state_dir: PathBuf,
    /// What has to happen before the machine takes the next job.
    pub release: Release,
    /// What has to happen after a job failed.
    pub after_failure: AfterFailure,
    /// What orders may ask for.
    pub labels: BTreeMap<String, String>,
    /// How many jobs the slave keeps that could start, the one that runs included.
    pub capacity: u8,
    /// How many jobs it keeps besides that wait for their time or for a person.
    pub deferred_capacity: u8,
    /// The token that enrols the slave, needed until it is enrolled.
    pub enroll_token_file: Option<PathBuf>,
    /// Certificates to trust beside the system's, for a certificate authority of the factory.
    pub ca_file: Option<PathBuf>,
    /// The kernel's id of this boot.
    pub boot_id_file: PathBuf,
    /// The id of this box, by which a copy of its disk in another box is recognized.
    pub machine_id_file: PathBuf,
    /// When the wall clock is trusted after a boot, until the master was reached.
    pub trust_clock: TrustClock,
    /// The file that exists once a time service has set the wall clock in this boot.
    pub clock_sync_file: PathBuf,
    /// A start that is found to be late by more than this was missed.
    pub late_tolerance: Millis,
    /// How often an attempt may be interrupted by a reboot before a person is asked.
    pub max_interruptions: u32,
    /// After how many jobs in a row that failed the machine starts nothing before a person has looked at it; 0: it goes on.
    pub max_failures_in_row: u16,
    /// The periods of the link to the master.
    pub link: Link,
    /// What this machine can run, by name.
    pub programs: BTreeMap<String, Program>,
}

/// The periods of the link to the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The time between two pings.
    pub heartbeat: Duration,
    /// The link is dead when no byte came from the master for this long.
    pub dead_after: Duration,
    /// The first pause before dialling again.
    pub backoff_min: Duration,
    /// The longest pause before dialling again.
    pub backoff_max: Duration,
    /// A handshake that takes longer is given up.
    pub handshake: Duration,
}

/// Values from the command line, or from the environment. Each beats the file's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Replaces the file's `name`.
    pub name: Option<String>,
    /// Replaces the file's `master`.
    pub master: Option<String>,
    /// Replaces the file's `state_dir`.
    pub state_dir: Option<PathBuf>,
    /// Replaces the file's `enroll_token_file`.
    pub enroll_token_file: Option<PathBuf>,
}

impl Overrides {
    /// The values from the environment. A variable that is empty counts as not set.
    pub fn from_env() -> Self {
        Self {
            name: config::env_text("RELOOP_SLAVE_NAME"),
            master: config::env_text("RELOOP_SLAVE_MASTER"),
            state_dir: config::env_path("RELOOP_SLAVE_STATE_DIR"),
            enroll_token_file: config::env_path("RELOOP_SLAVE_ENROLL_TOKEN_FILE"),
        }
    }

    /// These values, and `other`'s where there are none.
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
    #[serde(default, with = "ReleaseName")]
    release: Release,
    #[serde(default, with = "AfterFailureName")]
    after_failure: AfterFailure,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    capacity: Option<i64>,
    deferred_capacity: Option<i64>,
    enroll_token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    boot_id_file: Option<PathBuf>,
    machine_id_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "trust")]
    trust_clock: TrustClock,
    clock_sync_file: Option<PathBuf>,
    late_tolerance_seconds: Option<i64>,
    max_interruptions: Option<i64>,
    max_failures_in_row: Option<i64>,
    #[serde(default)]
    link: RawLink,
    #[serde(default)]
    programs: BTreeMap<String, RawProgram>,
}

/// The names of [`Release`] in the file.
#[derive(Deserialize)]
#[serde(remote = "Release", rename_all = "lowercase")]
enum ReleaseName {
    Auto,
    Ack,
}

/// The names of [`AfterFailure`] in the file.
#[derive(Deserialize)]
#[serde(remote = "AfterFailure", rename_all = "lowercase")]
enum AfterFailureName {
    Release,
    Hold,
}

/// Reads `trust_clock`: a truth value, or "synchronized".
fn trust<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustClock, D::Error> {
    struct Trust;

    impl de::Visitor<'_> for Trust {
        type Value = TrustClock;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("true, false or \"synchronized\"")
        }

        fn visit_bool<E: de::Error>(self, always: bool) -> Result<TrustClock, E> {
            Ok(if always { TrustClock::Always } else { TrustClock::Never })
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<TrustClock, E> {
            match word {
                "synchronized" => Ok(TrustClock::Synchronized),
                other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
            }
        }
    }

    deserializer.deserialize_any(Trust)
}

/// The part of the file that a local command reads.
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

    /// Reads the directory of the agent's files only, which is all that a local command needs: it works with a file in which
    /// something else is wrong, and without a file if a flag or the environment names the directory.
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

    /// Reads the id of the present boot.
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
    let left = CAPACITY_LIMIT - i64::try_from(capacity).expect("it is below the limit");
    let deferred_capacity =
        whole("deferred_capacity", raw.deferred_capacity, DEFERRED_CAPACITY.min(left), 0..=CAPACITY_LIMIT)?;
    if i64::try_from(deferred_capacity).is_ok_and(|deferred| deferred > left) {
        return Err(Wrong::new(
            "deferred_capacity",
            format_args!("{deferred_capacity}; with a capacity of {capacity}, allowed is 0 to {left}"),
        ));
    }
    let max_interruptions = whole("max_interruptions", raw.max_interruptions, 3, 0..=1000)?;
    let max_failures_in_row = whole(
        "max_failures_in_row",
        raw.max_failures_in_row,
        MAX_FAILURES_IN_ROW.into(),
        0..=FAILURES_LIMIT,
    )?;
    let default_tolerance = i64::try_from(LATE_TOLERANCE.0 / 1000).expect("it is a minute");
    let late_tolerance = whole(
        "late_tolerance_seconds",
        raw.late_tolerance_seconds,
        default_tolerance,
        1..=PERIOD_LIMIT_SECONDS,
    )?;
    let mut programs = BTreeMap::new();
    for (program, raw) in raw.programs {
        let key = format!("programs.{program}");
        check_name(&key, &program)?;
        programs.insert(program, raw.check(&key)?);
    }
    Ok(Config {
        name,
        master,
        state_dir,
        release: raw.release,
        after_failure: raw.after_failure,
        labels: raw.labels,
        capacity: u8::try_from(capacity).expect("checked against a limit below 256"),
        deferred_capacity: u8::try_from(deferred_capacity).expect("checked against a limit below 256"),
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
        trust_clock: raw.trust_clock,
        clock_sync_file: absolute(
            "clock_sync_file",
            raw.clock_sync_file.as_deref().unwrap_or(Path::new("/run/systemd/timesync/synchronized")),
        )?,
        late_tolerance: Millis::seconds(late_tolerance),
        max_interruptions: u32::try_from(max_interruptions).expect("checked against a limit below 2^32"),
        max_failures_in_row: u16::try_from(max_failures_in_row)
            .expect("checked against a limit below 65,536"),
        link: check_link(&raw.link)?,
        programs,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "name = \"mill-3\"\nmaster = \"ws://127.0.0.1:7400/v1/link\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("slave.toml"), Overrides::default()).map_err(|error| error.to_string())
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
        assert_eq!((config.capacity, config.deferred_capacity, config.max_interruptions), (4, 16, 3));
        assert_eq!(config.max_failures_in_row, 3);
        assert_eq!((config.trust_clock, config.late_tolerance), (TrustClock::Never, Millis::seconds(60)));
        assert_eq!(config.link.dead_after, Duration::from_secs(45));
        let Program::Process(mill) = &config.programs["mill"] else { panic!() };
        assert_eq!(mill.stop_grace, Duration::from_secs(30));
        assert_eq!(
            mill.arguments(&BTreeMap::from([("file".to_owned(), "part.nc".to_owned())])).unwrap(),
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
        let both = "capacity = 60\ndeferred_capacity = 5";
        refused(&format!("{MINIMAL}{both}"), &["slave.toml", "deferred_capacity", "5; ", "0 to 4"]);
        refused(&format!("{MINIMAL}deferred_capacity = -1"), &["deferred_capacity", "0 to 64"]);
        refused(&format!("{MINIMAL}release = \"never\""), &["release", "`auto`", "`ack`"]);
        let trust = ["trust_clock", "line 3", "true, false or \"synchronized\""];
        refused(&format!("{MINIMAL}trust_clock = \"ntp\""), &trust);
        refused(&format!("{MINIMAL}trust_clock = 1"), &trust);
        refused(&format!("{MINIMAL}late_tolerance_seconds = 0"), &["late_tolerance_seconds", "1 to"]);
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
    fn the_file_says_when_the_clock_of_the_box_is_trusted() {
        for (text, expected) in [
            ("false", TrustClock::Never),
            ("true", TrustClock::Always),
            ("\"synchronized\"", TrustClock::Synchronized),
        ] {
            let config =
                parse(&format!("{MINIMAL}trust_clock = {text}\nlate_tolerance_seconds = 90")).unwrap();
            assert_eq!((config.trust_clock, config.late_tolerance), (expected, Millis::seconds(90)));
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
    fn the_kernels_boot_id_is_read() {
        let config = parse(MINIMAL).unwrap();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(Some(config.boot_id().unwrap()), parse_boot_id(kernel.trim()));
        assert_eq!(parse_boot_id("00000000-0000-0000-0000-000000000001").map(|id| id.0[15]), Some(1));
        assert_eq!(parse_boot_id("boot"), None);
    }
}
