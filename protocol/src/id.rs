//! Names of things: who is who, which attempt of which job, which desired state, which report.
//!
//! Together they tell apart what a broken link makes look alike: a slave that was wiped, rolled back, cloned,
//! rebooted or merely reconnected, and a master that is old, restored or simply restarted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;

/// The text is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {kind} id: expected {prefix}_ and 26 characters of Crockford base 32")]
pub struct BadId {
    text: String,
    kind: &'static str,
    prefix: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// The text form's prefix, before the underscore.
            pub const PREFIX: &str = $prefix;

            /// From a time in milliseconds since the Unix epoch and 80 bits of randomness, as a ULID
            /// (<https://github.com/ulid/spec>): ids sort by the time they were made.
            pub fn from_parts(unix_ms: u64, random: u128) -> Self {
                Self(ulid::Ulid::from_parts(unix_ms, random).to_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut buffer = [0; ulid::ULID_LEN];
                let text = ulid::Ulid::from_bytes(self.0).array_to_str(&mut buffer);
                write!(f, "{}_{}", $prefix, text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(|rest| ulid::Ulid::from_string(rest).ok())
                    .map(|ulid| Self(ulid.to_bytes()))
                    .ok_or_else(|| BadId { text: text.chars().take(64).collect(), kind: $kind, prefix: $prefix })
            }
        }
    };
}

text_id! {
    /// One order of a client. Never reused, also not after a restore from backup.
    OrderId, "ord", "an order"
}
text_id! {
    /// One job of an order. Never reused, also not after a restore from backup.
    JobId, "job", "a job"
}
text_id! {
    /// One master's database, for ever: born with it, kept by its backups.
    MasterId, "mst", "a master"
}
text_id! {
    /// One slave's database: born with it. Another value means that the slave remembers nothing from before.
    StoreId, "sto", "a store"
}

/// Makes the numbers of new ids, so that each sorts after all that were made or noted before, whatever a clock has shown in
/// between: orders are listed and jobs are queued by their ids. While the clock shows an earlier time than the newest id bears, ids
/// count on from that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NewestId(u128);

/// The random bits of an id's number.
const RANDOM_BITS: u32 = 80;

/// Ids from this time on, in milliseconds since the Unix epoch, are not counted on from: it is the year 6429, and a peer that makes
/// ids up must not use up the numbers that come after them.
const FARTHEST_MS: u128 = 1 << 47;

/// By how much ids count on, at most: so much that a master that was restored does not make an id again which it has forgotten.
const COUNT_ON_BITS: u32 = 48;

impl NewestId {
    /// There is an id of an order or a job with these bytes.
    pub fn note(&mut self, id: [u8; 16]) {
        let number = u128::from_be_bytes(id);
        if number >> RANDOM_BITS < FARTHEST_MS {
            self.0 = self.0.max(number);
        }
    }

    /// The bytes of `count` new ids in ascending order, from the time in milliseconds since the Unix epoch and random bits.
    pub fn next(
        &mut self,
        unix_ms: u64,
        random: u128,
        count: usize,
    ) -> impl Iterator<Item = [u8; 16]> + use<> {
        // Of the random bits the highest is left free, so that counting on never reaches the next millisecond.
        let fresh = (u128::from(unix_ms) << RANDOM_BITS) | (random >> (128 - RANDOM_BITS + 1));
        let after_newest = self.0 + 1 + (random >> (128 - COUNT_ON_BITS));
        let first = fresh.max(after_newest);
        let count = count as u128;
        self.0 = first + count.saturating_sub(1);
        (first..first + count).map(u128::to_be_bytes)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        number! { $(#[$doc])* $name($int) up to <$int>::MAX }
    };
    ($(#[$doc:meta])* $name:ident($int:ty) up to $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $int);

        impl $name {
            /// The one after this; the highest that a peer takes stays.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1).min($max))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Which attempt of a job: raised by the master each time, and so the fence against an older one. 0: never
    /// assigned.
    Attempt(u32) up to limits::COUNT
}
number! {
    /// Which desired state of the master for a job; the highest is the newest.
    Generation(u32) up to limits::COUNT
}

/// How many desired states an epoch has room for before its numbers run into those of the next.
const WISHES_PER_EPOCH: u32 = 1 << 16;

/// The last epoch that has numbers of its own: the wire has room for 2³¹ − 1.
const LAST_NUMBERED_EPOCH: u32 = 1 << 14;

impl Generation {
    /// The number of a desired state that a person utters in this epoch, after this one: newer than any that a master uttered before
    /// it was restored, even if it has forgotten how many those were.
    #[must_use]
    pub fn uttered(self, epoch: Epoch) -> Self {
        let before = epoch.0.saturating_sub(1).min(LAST_NUMBERED_EPOCH);
        self.max(Self(before * WISHES_PER_EPOCH)).next()
    }

    /// Whether a slave may have been told this desired state by a master in this epoch that has forgotten it, and whose newest desired state is
    /// `self`. It may have been told in a later epoch, if it has belonged to another master since and obeys this one again.
    pub fn may_be_followed_by(self, said: Self, epoch: Epoch) -> bool {
        let latest = epoch.0.saturating_add(limits::EPOCHS_AHEAD).min(LAST_NUMBERED_EPOCH);
        said <= self || said.0 <= latest * WISHES_PER_EPOCH
    }
}

number! {
    /// How often a master's data was restored from a backup or confirmed by a person after it went back in time.
    Epoch(u32) up to limits::COUNT
}
number! {
    /// A master's count of durable commits: it never goes back unless the master's files did.
    Commit(u64) up to limits::COMMITS
}
number! {
    /// A slave's count of connections, kept on its disk: lower than known means that its store was rolled back.
    Session(u64)
}
number! {
    /// How often the work of one attempt was begun: above 1 only where the order says that it may be restarted.
    Run(u32)
}

/// One run of a master's process: random bytes that it draws when it starts. Two copies of a master's files that both go on
/// from the same state differ in it, whatever their counts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Incarnation(pub [u8; 8]);

/// The kernel's boot id: another value means that the box was off, and every process with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootId(pub [u8; 16]);

/// A slave's identity: its Ed25519 public key (RFC 8032). The name is only a label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlaveKey(pub [u8; 32]);

impl SlaveKey {
    /// The first 16 hex digits: what people compare by eye.
    pub fn fingerprint(&self) -> String {
        self.0[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for SlaveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint())
    }
}

/// Orders the reports of one slave about one attempt: agent starts on this store first, then reports since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ReportSeq {
    /// The agent's starts on this store.
    pub start: u32,
    /// Reports about the job since then.
    pub count: u32,
}
