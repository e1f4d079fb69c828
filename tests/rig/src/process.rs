//! Real masters and slaves as processes, each in a directory of its own.
//!
//! A [`Master`] or [`Slave`] is the node with its disk: it can be killed, stopped, restarted, wiped or copied. When the
//! handle is dropped its processes are killed, for a slave also those of its runs, and the directory is removed; after
//! a panic the directory is kept and the tail of the log is printed.
//!
//! The default programs of a slave write what they do into a machine log beside the state directory, which the nodes do
//! not write: see [`Slave::starts`].

mod master;
mod slave;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::daemon::{WorkDir, copy_dir, remove_dir};

pub use self::master::{Master, MasterOptions};
pub use self::slave::{Slave, SlaveOptions};

/// A `[link]` table: key and whole number. The defaults of the tests let a dead link be noticed within seconds.
pub type LinkSettings = BTreeMap<&'static str, u64>;

fn fast_link() -> LinkSettings {
    BTreeMap::from([("heartbeat_seconds", 1), ("dead_after_seconds", 3), ("handshake_seconds", 5)])
}

/// A node's files at one moment.
#[derive(Debug)]
pub struct Backup(WorkDir);

impl Backup {
    fn of(dir: &Path) -> Self {
        let backup = WorkDir::new("reloop-backup-");
        copy_dir(dir, backup.path());
        Self(backup)
    }

    fn put_back(&self, dir: &Path) {
        remove_dir(dir);
        copy_dir(self.0.path(), dir);
    }
}

/// As a TOML string: JSON's escapes are a subset of TOML's.
fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

fn text(path: &Path) -> String {
    path.to_str().expect("temporary directories have plain names").to_owned()
}

fn push_link_table(config: &mut String, link: &LinkSettings) {
    config.push_str("[link]\n");
    for (key, value) in link {
        writeln!(config, "{key} = {value}").expect("a string takes everything");
    }
}
