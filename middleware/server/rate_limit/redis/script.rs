//! What is asked of Redis, and what its answers mean.

use std::{
    hash::Hasher,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, RedisError, Script, ServerErrorKind, Value};
use sha2::{Digest as _, Sha256};

use crate::{
    caller::Digest,
    server::rate_limit::{
        gcra::{Nanos, Pace, Times},
        tier::Refusal,
    },
};

const TEXT: &str = include_str!("decide.lua");
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));

/// The script counts in sixteenths of a microsecond.
const PER_MICROSECOND: u64 = 16;

/// A caller, to all replicas: 128 bits of SHA-256.
pub(super) type Who = u128;

/// Hashes a key so that all replicas agree, and nobody who reads Redis sees it.
#[derive(Debug)]
pub(super) struct Shared {
    /// What limits of other names do not share.
    pub(super) name: &'static str,
}

impl Digest for Shared {
    type Hash = Who;

    fn digest(&self, write: impl FnOnce(&mut dyn Hasher)) -> Who {
        let mut hasher = Sha(Sha256::new());
        hasher.write(self.name.as_bytes());
        hasher.write_u8(0);
        write(&mut hasher);
        let (first, _) =
            hasher
                .0
                .finalize()
                .into_iter()
                .fold((0_u128, 0_u32), |(sum, taken), byte| {
                    if taken < 16 {
                        (sum << 8 | u128::from(byte), taken.saturating_add(1))
                    } else {
                        (sum, taken)
                    }
                });
        first
    }
}

struct Sha(Sha256);

impl Hasher for Sha {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Not asked for: the whole digest is taken.
    fn finish(&self) -> u64 {
        0
    }
}

/// What is asked about one caller.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) who: Who,
    pub(super) weight: u32,
    /// Spend, be there room or not.
    pub(super) forced: bool,
    /// Take so much more, as far as there is room.
    pub(super) more: u32,
    pub(super) paces: Vec<Pace>,
}

impl Question {
    /// Asked by the script's hash, or with its whole text for a Redis that does not know it.
    pub(super) fn command(&self, whole: bool) -> Cmd {
        let mut command = if whole {
            redis::cmd("EVAL")
        } else {
            redis::cmd("EVALSHA")
        };
        let script = if whole { TEXT } else { SCRIPT.get_hash() };
        command.arg(script).arg(1).arg(self.key());
        command.arg(self.weight).arg(u8::from(self.forced));
        command.arg(self.more);
        for pace in &self.paces {
            command.arg(sixteenths(pace.interval)).arg(pace.burst);
        }
        command
    }

    /// 43 bytes; the braces make a cluster keep all of a caller in one slot.
    pub(super) fn key(&self) -> String {
        format!("plimsoll:{{{:032x}}}", self.who)
    }
}

/// Rounded up, so that no quota is exceeded.
fn sixteenths(nanos: Nanos) -> u64 {
    let whole = u128::from(nanos).saturating_mul(u128::from(PER_MICROSECOND));
    u64::try_from(whole.div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// What Redis decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) verdict: Result<(), Refusal>,
    /// How much more was taken.
    pub(super) more: u32,
    /// How far ahead of now each quota is spent.
    pub(super) owed: Times,
}

impl Reply {
    /// `None` if it is nothing that the script says.
    pub(super) fn read(value: &Value, quotas: usize) -> Option<Self> {
        let Value::Array(items) = value else {
            return None;
        };
        let mut numbers = items.iter().map(|item| match item {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        });
        let refused = usize::try_from(numbers.next()??).ok()?;
        let wait = Duration::from_nanos(nanos(numbers.next()??));
        let more = u32::try_from(numbers.next()??).ok()?;
        let mut owed = Times::default();
        let mut read = 0_usize;
        for (place, number) in owed.iter_mut().zip(&mut numbers) {
            *place = nanos(number?);
            read = read.saturating_add(1);
        }
        if read != quotas || refused > quotas || numbers.next().is_some() {
            return None;
        }
        let verdict = match refused.checked_sub(1) {
            Some(quota) => Err(Refusal {
                quota,
                wait: Some(wait),
            }),
            None => Ok(()),
        };
        Some(Self {
            verdict,
            more,
            owed,
        })
    }
}

fn nanos(sixteenths: u64) -> Nanos {
    let nanos = u128::from(sixteenths)
        .saturating_mul(1_000)
        .div_ceil(u128::from(PER_MICROSECOND));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident => $label:literal,)*) => {
        /// Why Redis did not decide.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum StoreErrorKind { $($(#[$doc])* $variant,)* }

        impl StoreErrorKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in metrics and log lines.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

kinds! {
    /// It was known to be away, and was not asked.
    Away => "away",
    /// No connection, or it broke.
    Connection => "connection",
    /// No answer within the budget.
    Timeout => "timeout",
    /// Too many questions are under way.
    Busy => "busy",
    /// It would not let us in.
    Auth => "auth",
    /// It does not know the script, not even when it is sent whole.
    NoScript => "noscript",
    /// It is reading its data.
    Loading => "loading",
    /// It is a replica, or lost its primary.
    ReadOnly => "readonly",
    /// It is out of memory.
    OutOfMemory => "oom",
    /// Something else lies under the caller's key.
    WrongType => "wrongtype",
    /// It is a node of a cluster, and the wrong one.
    Moved => "moved",
    /// An answer that the script does not give.
    Garbage => "garbage",
    /// Any other error.
    Other => "other",
}

impl StoreErrorKind {
    pub(super) fn of(error: &RedisError) -> Self {
        use redis::ErrorKind;

        if error.is_timeout() {
            return Self::Timeout;
        }
        match error.kind() {
            ErrorKind::Io => return Self::Connection,
            ErrorKind::AuthenticationFailed => return Self::Auth,
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => return Self::Garbage,
            ErrorKind::Server(ServerErrorKind::NoScript) => return Self::NoScript,
            ErrorKind::Server(ServerErrorKind::BusyLoading) => return Self::Loading,
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => {
                return Self::ReadOnly;
            }
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask) => return Self::Moved,
            ErrorKind::Server(ServerErrorKind::NoPerm) => return Self::Auth,
            _ => {}
        }
        // Redis 6.2 hides the code of an error within a script in the text.
        let said = |code: &str| {
            error.code() == Some(code) || error.detail().is_some_and(|text| text.contains(code))
        };
        match () {
            () if said("WRONGTYPE") => Self::WrongType,
            () if said("OOM") => Self::OutOfMemory,
            () if said("READONLY") => Self::ReadOnly,
            () if said("NOAUTH") || said("WRONGPASS") => Self::Auth,
            () if error.is_connection_dropped() || error.is_connection_refusal() => {
                Self::Connection
            }
            () => Self::Other,
        }
    }

    /// Whether it says something of one caller only, and not of the store.
    pub(super) fn is_of_one_key(self) -> bool {
        matches!(self, Self::WrongType | Self::Away | Self::Busy)
    }
}

/// How often there was an error of each kind.
#[derive(Debug)]
pub(super) struct ErrorCounts([AtomicU64; StoreErrorKind::ALL.len()]);

impl ErrorCounts {
    pub(super) fn count(&self, kind: StoreErrorKind) {
        let place = StoreErrorKind::ALL.iter().position(|known| *known == kind);
        if let Some(count) = place.and_then(|place| self.0.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (StoreErrorKind, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        StoreErrorKind::ALL.iter().copied().zip(counts)
    }
}

impl Default for ErrorCounts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; StoreErrorKind::ALL.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_or_refused_and_never_a_panic() {
        let ints =
            |numbers: &[i64]| Value::Array(numbers.iter().copied().map(Value::Int).collect());
        let admitted = Reply {
            verdict: Ok(()),
            more: 7,
            owed: [1_000_000, 62_500, 0, 0],
        };
        assert_eq!(
            Reply::read(&ints(&[0, 0, 7, 16_000, 1_000]), 2),
            Some(admitted)
        );
        let refusal = Refusal {
            quota: 1,
            wait: Some(Duration::from_nanos(63)),
        };
        let refused = Reply {
            verdict: Err(refusal),
            more: 0,
            owed: [1_000_000, 62_500, 0, 0],
        };
        assert_eq!(
            Reply::read(&ints(&[2, 1, 0, 16_000, 1_000]), 2),
            Some(refused)
        );
        for garbage in [
            ints(&[]),
            ints(&[0, 0, 0, 1]),
            ints(&[0, 0, 0, 1, 2, 3]),
            ints(&[3, 1, 0, 1, 1]),
            ints(&[-1, 0, 0, 1, 1]),
            ints(&[0, 0, -1, 1, 1]),
            ints(&[0, 0, 1 << 40, 1, 1]),
            ints(&[0, 0, 0, i64::MIN, 1]),
            Value::Nil,
            Value::Okay,
            Value::Int(1),
            Value::Array(vec![Value::Nil; 4]),
        ] {
            assert_eq!(Reply::read(&garbage, 2), None, "{garbage:?}");
        }
    }

    #[test]
    fn keys_are_short_hashed_and_in_one_slot() {
        let digest = Shared {
            name: "a-limit-with-quite-a-long-name-of-its-own-to-be-sure",
        };
        let who = digest.digest(|hasher| hasher.write(&[b's'; 5_000]));
        let question = Question {
            who,
            weight: 1,
            forced: false,
            more: 0,
            paces: Vec::new(),
        };
        let key = question.key();
        assert!(key.len() <= 64, "{key}");
        assert!(key.starts_with("plimsoll:{") && key.ends_with('}'));
        let other = Shared { name: "other" }.digest(|hasher| hasher.write(&[b's'; 5_000]));
        assert_ne!(who, other, "limits of other names share nothing");
    }
}
