//! Ids and numbers: of nodes, orders, jobs, attempts, desired states and reports.
//!
//! By them the nodes tell apart situations that look alike over a link that failed: a slave that was wiped, rolled back,
//! cloned, rebooted or only reconnected; a master that is an old copy, restored or only restarted.

use std::cmp::Ordering;
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
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        /// The order of its bytes, compared as one number: a search among many ids compares often.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// The text form's prefix, before the underscore.
            pub const PREFIX: &str = $prefix;

            /// An id from a time in milliseconds since the Unix epoch and 80 bits of randomness, as a ULID
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
    /// One order of a client. Never reused, not even after a restore from a backup.
    OrderId, "ord", "an order"
}
text_id! {
    /// One job of an order. Never reused, not even after a restore from a backup.
    JobId, "job", "a job"
}
text_id! {
    /// A master's store: drawn when the store is made, and kept by its backups.
    MasterId, "mst", "a master"
}
text_id! {
    /// A slave's store: drawn when the store is made. Another value means that the slave has forgotten what was before.
    StoreId, "sto", "a store"
}

/// Makes new ids of orders and jobs, each of which sorts after all that were made or noted before: orders are listed and jobs are
/// queued by their ids. While the clock shows an earlier time than the newest id has, because it was set back, new ids count on from
/// that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NewestId(u128);

/// The random bits of an id's number.
const RANDOM_BITS: u32 = 80;

/// Ids with this time or a later one, in milliseconds since the Unix epoch, are not noted. It is the year 6429: only a peer makes
/// such ids up, and there would be none after them.
const FARTHEST_MS: u128 = 1 << 47;

/// The random bits of a step by which ids count on. They make sure that a master that was restored does not make an id again that
/// it has forgotten.
const COUNT_ON_BITS: u32 = 48;

impl NewestId {
    /// Call this with the bytes of each id that is stored.
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
        let fresh = (u128::from(unix_ms) << RANDOM_BITS) + (random >> (128 - RANDOM_BITS + 1));
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
            /// The next number; the highest that a peer accepts stays as it is.
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
    /// The number of an attempt of a job, raised by the master with each; a desired state for an older attempt is ignored. 0: the
    /// job was never assigned.
    Attempt(u32) up to limits::COUNT
}
number! {
    /// The number of a desired state of a job, or of an operating mode; the highest is the newest.
    Generation(u32) up to limits::COUNT
}

/// How many desired states of one job have numbers of their own in each epoch.
const GENERATIONS_PER_EPOCH: u32 = 1 << 16;

/// The last epoch that has numbers of its own: numbers end at 2³¹ − 1.
const LAST_NUMBERED_EPOCH: u32 = 1 << 14;

impl Generation {
    /// The number of the next desired state by a person's command in this epoch. It is higher than any that this master gave out
    /// before it was restored, even if the master has forgotten how many those were.
    #[must_use]
    pub fn uttered(self, epoch: Epoch) -> Self {
        let before = epoch.0.saturating_sub(1).min(LAST_NUMBERED_EPOCH);
        self.max(Self(before * GENERATIONS_PER_EPOCH)).next()
    }

    /// The number of a desired state for a slave that may have been told to let the attempt go, when it knew the number `known`: the
    /// master does not note that it has used the number after that one.
    #[must_use]
    pub fn above_withdrawal(self, known: Self) -> Self {
        self.max(known.next()).next()
    }

    /// Whether a slave may have been told the desired state `said` by a master that is in `epoch`, knows `self` as its newest, and may
    /// have forgotten newer ones. Also those of later epochs count, up to a limit: a slave may have obeyed such a copy of the master.
    pub fn may_be_followed_by(self, said: Self, epoch: Epoch) -> bool {
        let latest = epoch.0.saturating_add(limits::EPOCHS_AHEAD).min(LAST_NUMBERED_EPOCH);
        said <= self || said.0 <= latest * GENERATIONS_PER_EPOCH
    }
}

number! {
    /// Begins at 1, and is raised each time a person confirms that a master's store was put back to an earlier state.
    Epoch(u32) up to limits::COUNT
}
number! {
    /// A master's count of durable commits. It falls only if the master's files were put back.
    Commit(u64) up to limits::COMMITS
}
number! {
    /// A slave's count of connections, kept in its store. One that is not higher than the last means that the store was put
    /// back to an earlier state.
    Session(u64)
}
number! {
    /// How often the work of one attempt was begun. Above 1 only if the order allows a restart, or nothing had begun before.
    Run(u32)
}

/// One start of a master's process: random bytes that it draws then. Two copies of a master's files that both go on from the
/// same state differ in it even if their commit counts are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Incarnation(pub [u8; 8]);

/// The kernel's boot id: another value means that the box was off and every process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootId(pub [u8; 16]);

/// A slave's identity: its Ed25519 public key (RFC 8032). The name is only a label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlaveKey(pub [u8; 32]);

impl SlaveKey {
    /// The first 16 hex digits, for people to compare.
    pub fn fingerprint(&self) -> String {
        self.0[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for SlaveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint())
    }
}

/// Orders the reports of one slave about one attempt: by the agent's starts on this store, then by the reports since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ReportSeq {
    /// The agent's starts on this store.
    pub start: u32,
    /// Reports about the job since that start, from 1 on. On disk 0: it is not kept there.
    pub count: u32,
}

impl ReportSeq {
    /// The number of the report after this one, in the agent's `start`.
    #[must_use]
    pub fn next(self, start: u32) -> Self {
        Self { start, count: self.count + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::{FARTHEST_MS, JobId, NewestId, RANDOM_BITS};

    #[test]
    fn ids_are_in_the_order_of_their_bytes() {
        let with = |at: usize, byte: u8| {
            let mut bytes = [7; 16];
            bytes[at] = byte;
            bytes
        };
        let all: Vec<[u8; 16]> =
            (0..16).flat_map(|at| [0, 6, 7, 8, 127, 128, 255].map(|byte| with(at, byte))).collect();
        for one in &all {
            for other in &all {
                assert_eq!(JobId(*one).cmp(&JobId(*other)), one.cmp(other));
                assert_eq!(JobId(*one).partial_cmp(&JobId(*other)), Some(one.cmp(other)));
            }
        }
    }

    #[test]
    fn only_ids_before_the_farthest_time_are_noted() {
        let at = |number: u128| number.to_be_bytes();
        let farthest = FARTHEST_MS << RANDOM_BITS;
        for (noted, is_noted) in [(farthest - 1, true), (farthest, false)] {
            let mut newest = NewestId::default();
            newest.note(at(noted));
            let next = newest.next(1, 0, 1).next().unwrap();
            assert_eq!(next > at(noted), is_noted, "{noted:x}");
        }
    }
}
