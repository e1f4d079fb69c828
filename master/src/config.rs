//! `master.toml`: where the master listens, where it keeps its data, and how slaves are enrolled.
//!
//! Flags override the environment (`RELOOP_LISTEN`, `RELOOP_DATA_DIR`, `RELOOP_ENROLLMENT`), which overrides the file, which
//! overrides the defaults. No file is read unless `--config` names one. Everything is checked before the master starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use reloop_node::config::ConfigError;
use reloop_node::config::{self, Wrong, check_dead_after, pick, whole};
use reloop_node::link::Timing;
use reloop_protocol::master::{Enrollment, Placement, RECALL_BEFORE};
use reloop_protocol::time::Millis;
use serde::Deserialize;

/// Clients on the same computer and the reverse proxy find the master here.
pub const DEFAULT_PORT: u16 = 7400;
/// The data directory of a packaged master.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/reloop";

/// How long a client's connection may be idle: longer than proxies keep an idle connection (nginx 60 s, most others at most
/// that), so that the master never closes a connection on which a proxy is sending a request.
const DEFAULT_IDLE: Duration = Duration::from_secs(75);
/// Below this much free space no order is taken: it is needed for the jobs that are under way.
const DEFAULT_MIN_FREE_BYTES: u64 = 64 * 1024 * 1024;
/// Handshakes at a time: of 5,000 slaves that connect after a restart, each is served within seconds.
const DEFAULT_MAX_HANDSHAKES: i64 = 256;
/// Connections that wait for a handshake, about 10 KiB each: more than all slaves that one master is designed for.
const DEFAULT_MAX_WAITING: i64 = 16_384;
/// How long an older link has to answer when the same slave connects again.
const DEFAULT_PROBE: Duration = Duration::from_secs(5);
/// The shortest heartbeat that does not flood the network.
const PERIOD_MIN_SECONDS: f64 = 0.01;
/// Longer than any sensible period, and far from any overflow.
const PERIOD_MAX_SECONDS: f64 = 7.0 * 24.0 * 3600.0;
/// A week: whoever plans for longer can as well hand work out later.
const PLACEMENT_MAX_SECONDS: i64 = 7 * 24 * 3600;
/// Linux allows a process about as many connections.
const CONNECTIONS_LIMIT: i64 = 65_536;

/// The master's settings, checked and complete.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// An absolute path.
    pub data_dir: PathBuf,
    pub enrollment: Enrollment,
    pub placement: Placement,
    /// Whether `/metrics` is answered without a token.
    pub metrics_public: bool,
    /// Below this much free space no order is taken.
    pub min_free_bytes: u64,
    pub http: Http,
    pub link: Link,
}

/// How long clients' connections may take.
#[derive(Debug, Clone, Copy)]
pub struct Http {
    /// How long a connection may be idle between two requests.
    pub idle: Duration,
}

/// The links to the slaves.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// The time between two pings.
    pub heartbeat: Duration,
    /// A link is dead if no byte came from the slave for this long.
    pub dead_after: Duration,
    /// The longest duration of a handshake.
    pub handshake: Duration,
    /// How many handshakes run at a time.
    pub max_handshakes: usize,
    /// How many connections wait for a handshake; others are told when to come back.
    pub max_waiting: usize,
    /// How long an older link has to answer when the same slave connects again.
    pub probe: Duration,
}

/// Settings from flags or from the environment, which override the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    pub listen: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub enrollment: Option<String>,
}

impl Overrides {
    /// Reads the environment. An empty variable counts as not set.
    pub fn from_env() -> Self {
        Self {
            listen: config::env_text("RELOOP_LISTEN"),
            data_dir: config::env_path("RELOOP_DATA_DIR"),
            enrollment: config::env_text("RELOOP_ENROLLMENT"),
        }
    }

    /// Each setting of `self`, or that of `other` where `self` has none.
    #[must_use]
    pub fn over(self, other: Self) -> Self {
        Self {
            listen: self.listen.or(other.listen),
            data_dir: self.data_dir.or(other.data_dir),
            enrollment: self.enrollment.or(other.enrollment),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    listen: Option<String>,
    data_dir: Option<PathBuf>,
    enrollment: Option<String>,
    metrics_public: Option<bool>,
    min_free_bytes: Option<i64>,
    #[serde(default)]
    placement: RawPlacement,
    #[serde(default)]
    http: RawHttp,
    #[serde(default)]
    link: RawLink,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawPlacement {
    recall_before_seconds: Option<i64>,
    ageing_seconds: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawHttp {
    idle_seconds: Option<f64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLink {
    heartbeat_seconds: Option<f64>,
    dead_after_seconds: Option<f64>,
    handshake_seconds: Option<f64>,
    max_handshakes: Option<i64>,
    max_waiting: Option<i64>,
    probe_seconds: Option<f64>,
}

impl Config {
    /// Reads and checks the file, if one is named, with the environment and then `flags` overriding it.
    pub fn load(file: Option<&Path>, flags: Overrides) -> Result<Self, ConfigError> {
        let overrides = flags.over(Overrides::from_env());
        let raw = file.map(config::read).transpose()?.unwrap_or_default();
        complete(raw, file, overrides)
    }

    /// Checks the text of a file; `path` is for messages only.
    pub fn parse(text: &str, path: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let raw = config::parse(text, path.unwrap_or(Path::new("master.toml")))?;
        complete(raw, path, overrides)
    }
}

fn complete(raw: RawConfig, path: Option<&Path>, overrides: Overrides) -> Result<Config, ConfigError> {
    const OUTSIDE: &str = "command line or environment";
    let file = path.map_or(OUTSIDE.into(), |path| path.to_string_lossy());
    check(raw, overrides).map_err(|wrong| wrong.from_origin(file, OUTSIDE))
}

fn check(raw: RawConfig, overrides: Overrides) -> Result<Config, Wrong> {
    let listen = pick(overrides.listen, raw.listen, |text| {
        text.parse().map_err(|_| {
            Wrong::new("listen", format_args!("{text:?}; expected an address and a port, as 127.0.0.1:7400"))
        })
    })?
    .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)));
    let data_dir = pick(overrides.data_dir, raw.data_dir, |dir| config::absolute("data_dir", &dir))?
        .unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
    let enrollment = pick(overrides.enrollment, raw.enrollment, |text| match text.as_str() {
        "token" => Ok(Enrollment::Token),
        "approve" => Ok(Enrollment::Approve),
        "open" => Ok(Enrollment::Open),
        _ => Err(Wrong::new(
            "enrollment",
            format_args!("{text:?}; allowed are \"token\", \"approve\" and \"open\""),
        )),
    })?
    .unwrap_or_default();
    let min_free_bytes = match raw.min_free_bytes {
        None => DEFAULT_MIN_FREE_BYTES,
        Some(bytes) => u64::try_from(bytes)
            .map_err(|_| Wrong::new("min_free_bytes", format_args!("{bytes}; allowed is 0 and above")))?,
    };
    Ok(Config {
        listen,
        data_dir,
        enrollment,
        placement: check_placement(&raw.placement)?,
        metrics_public: raw.metrics_public.unwrap_or(false),
        min_free_bytes,
        http: Http { idle: period("http.idle_seconds", raw.http.idle_seconds, DEFAULT_IDLE)? },
        link: check_link(&raw.link)?,
    })
}

fn check_placement(raw: &RawPlacement) -> Result<Placement, Wrong> {
    let default = i64::try_from(RECALL_BEFORE.0 / 1000).expect("it is a quarter of an hour");
    let key = "placement.recall_before_seconds";
    let seconds = whole(key, raw.recall_before_seconds, default, 0..=PLACEMENT_MAX_SECONDS)?;
    let recall_before = Millis::seconds(seconds);
    let seconds = whole("placement.ageing_seconds", raw.ageing_seconds, 0, 0..=PLACEMENT_MAX_SECONDS)?;
    let ageing = (seconds > 0).then(|| Millis::seconds(seconds));
    Ok(Placement { recall_before, ageing })
}

fn check_link(raw: &RawLink) -> Result<Link, Wrong> {
    let default = Timing::default();
    let heartbeat = period("link.heartbeat_seconds", raw.heartbeat_seconds, default.heartbeat)?;
    let dead_after = period("link.dead_after_seconds", raw.dead_after_seconds, default.dead_after)?;
    check_dead_after(dead_after, heartbeat)?;
    let connections = |key, value, default, least| {
        let count = whole(key, value, default, least..=CONNECTIONS_LIMIT)?;
        Ok(usize::try_from(count).expect("checked against a limit below 2^32"))
    };
    Ok(Link {
        heartbeat,
        dead_after,
        handshake: period("link.handshake_seconds", raw.handshake_seconds, default.handshake)?,
        max_handshakes: connections("link.max_handshakes", raw.max_handshakes, DEFAULT_MAX_HANDSHAKES, 1)?,
        max_waiting: connections("link.max_waiting", raw.max_waiting, DEFAULT_MAX_WAITING, 0)?,
        probe: period("link.probe_seconds", raw.probe_seconds, DEFAULT_PROBE)?,
    })
}

fn period(key: &str, seconds: Option<f64>, default: Duration) -> Result<Duration, Wrong> {
    let Some(seconds) = seconds else { return Ok(default) };
    if !(PERIOD_MIN_SECONDS..=PERIOD_MAX_SECONDS).contains(&seconds) {
        let why = format_args!("{seconds}; allowed are {PERIOD_MIN_SECONDS} to {PERIOD_MAX_SECONDS} seconds");
        return Err(Wrong::new(key, why));
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Some(Path::new("/etc/reloop/master.toml")), Overrides::default())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_file_everything_has_its_default() {
        let config = Config::parse("", None, Overrides::default()).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:7400");
        assert_eq!(config.data_dir, Path::new(DEFAULT_DATA_DIR));
        assert_eq!(config.enrollment, Enrollment::Token);
        assert!(!config.metrics_public);
        assert_eq!(config.min_free_bytes, 64 << 20);
        assert_eq!(config.http.idle, Duration::from_secs(75));
        assert_eq!(config.link.max_handshakes, 256);
        assert_eq!(config.link.max_waiting, 16_384);
        assert_eq!(config.link.probe, Duration::from_secs(5));
    }

    #[test]
    fn the_shipped_file_says_the_defaults() {
        let shipped = parse(include_str!("../../deploy/config/master.toml")).unwrap();
        let default = Config::parse("", None, Overrides::default()).unwrap();
        assert_eq!(format!("{shipped:?}"), format!("{default:?}"));
    }

    #[test]
    fn the_shipped_proxy_closes_an_idle_connection_before_the_master_does() {
        let site = include_str!("../../deploy/nginx/reloop.conf");
        let (_, upstream) = site.split_once("upstream reloop {").unwrap();
        let (_, text) = upstream.split_once("    keepalive_timeout ").unwrap();
        let seconds: u64 = text.split_once("s;").unwrap().0.parse().unwrap();
        assert!(Duration::from_secs(seconds + 10) <= DEFAULT_IDLE, "{seconds}");
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file() {
        let flags = Overrides { listen: Some("0.0.0.0:1".to_owned()), ..Overrides::default() };
        let environment = Overrides {
            listen: Some("0.0.0.0:2".to_owned()),
            enrollment: Some("approve".to_owned()),
            ..Overrides::default()
        };
        let text = "listen = \"0.0.0.0:3\"\nenrollment = \"open\"\ndata_dir = \"/srv/reloop\"";
        let config = Config::parse(text, None, flags.over(environment)).unwrap();
        assert_eq!(config.listen.port(), 1);
        assert_eq!(config.enrollment, Enrollment::Approve);
        assert_eq!(config.data_dir, Path::new("/srv/reloop"));
    }

    #[test]
    fn fractions_of_seconds_are_allowed() {
        let config = parse("[link]\nheartbeat_seconds = 0.2\ndead_after_seconds = 1").unwrap();
        assert_eq!(config.link.heartbeat, Duration::from_millis(200));
        assert_eq!(config.link.dead_after, Duration::from_secs(1));
    }

    #[test]
    fn an_error_names_file_key_and_what_is_allowed() {
        for (text, words) in [
            ("listen = \"localhost\"", ["master.toml", "listen", "127.0.0.1:7400"]),
            ("listne = \"127.0.0.1:1\"", ["master.toml", "listne", "`listen`"]),
            ("enrollment = \"maybe\"", ["master.toml", "enrollment", "\"approve\""]),
            ("min_free_bytes = -1", ["master.toml", "min_free_bytes", "0 and above"]),
            (
                "[placement]\nrecall_before_seconds = -1",
                ["master.toml", "placement.recall_before_seconds", "0 to 604800"],
            ),
            (
                "[placement]\nageing_seconds = 604801",
                ["master.toml", "placement.ageing_seconds", "0 to 604800"],
            ),
            ("[http]\nidle_seconds = 0", ["master.toml", "http.idle_seconds", "0.01 to"]),
            ("[link]\nheartbeat_seconds = 0", ["master.toml", "link.heartbeat_seconds", "0.01 to"]),
            ("[link]\nheartbeat_seconds = nan", ["master.toml", "link.heartbeat_seconds", "0.01 to"]),
            (
                "[link]\ndead_after_seconds = 16",
                ["master.toml", "link.dead_after_seconds", "twice the heartbeat"],
            ),
            ("[link]\nmax_handshakes = 0", ["master.toml", "link.max_handshakes", "1 to 65536"]),
            ("[link]\nmax_waiting = -1", ["master.toml", "link.max_waiting", "0 to 65536"]),
            ("metrics_public = \"yes\"", ["master.toml", "metrics_public", "boolean"]),
        ] {
            let error = parse(text).expect_err(text);
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
    }

    #[test]
    fn an_override_that_is_wrong_is_not_blamed_on_the_file() {
        let flags = Overrides { enrollment: Some("all".to_owned()), ..Overrides::default() };
        let error = Config::parse("", Some(Path::new("master.toml")), flags).unwrap_err().to_string();
        assert!(error.starts_with("command line or environment: enrollment: \"all\""), "{error}");
    }
}
