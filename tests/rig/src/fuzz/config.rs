//! Both config parsers: any text is a config, or an error that names the file and the place.

use std::path::Path;

use reloop_master::config as of_master;
use reloop_slave::config as of_slave;

const FILE: &str = "/etc/reloop/fuzzed.toml";

pub fn master(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match of_master::Config::parse(text, Some(Path::new(FILE)), of_master::Overrides::default()) {
        Ok(config) => {
            let link = config.link;
            assert!(config.data_dir.is_absolute() && link.max_handshakes > 0);
            assert!(link.dead_after >= link.heartbeat * 2 && !link.handshake.is_zero());
        }
        Err(error) => {
            let key = match &error {
                of_master::ConfigError::Value { key, .. } => Some(key.as_str()),
                of_master::ConfigError::Syntax { .. } => None,
                of_master::ConfigError::Unreadable { .. } => panic!("nothing was read: {error}"),
            };
            is_helpful(&error.to_string(), key);
        }
    }
}

pub fn slave(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match of_slave::Config::parse(text, Path::new(FILE), of_slave::Overrides::default()) {
        Ok(config) => {
            let link = config.link;
            assert!(config.state_dir.is_absolute() && (1..=64).contains(&config.capacity));
            assert!(link.dead_after >= link.heartbeat * 2 && link.backoff_max >= link.backoff_min);
            // A slave's labels have to be within the master's limits.
            let labels: usize = config.labels.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
            assert!(config.name.len() <= reloop_protocol::limits::NAME_BYTES && !config.name.is_empty());
            assert!(labels <= reloop_protocol::limits::LIST_BYTES, "{labels} bytes of labels");
            let programs: usize = config.programs.keys().map(|name| name.len() + 1).sum();
            assert!(programs <= reloop_protocol::limits::LIST_BYTES, "{programs} bytes of programs");
        }
        Err(error) => {
            let key = match &error {
                of_slave::ConfigError::Value { key, .. } => Some(key.as_str()),
                of_slave::ConfigError::Syntax { .. } => None,
                of_slave::ConfigError::Unreadable { .. } => panic!("nothing was read: {error}"),
            };
            is_helpful(&error.to_string(), key);
        }
    }
}

/// An error names the file, then the key or the line.
fn is_helpful(error: &str, key: Option<&str>) {
    let rest = error.strip_prefix(FILE).unwrap_or_else(|| panic!("it does not name the file: {error}"));
    match key {
        Some(key) => {
            let why = rest.strip_prefix(&format!(": {key}: "));
            assert!(!key.is_empty() && why.is_some_and(|why| !why.is_empty()), "no key or no why: {error}");
        }
        None => assert!(rest.contains("line ") || rest.len() > 3, "it does not say where: {error}"),
    }
}
