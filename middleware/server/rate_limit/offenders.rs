//! Who is rejected most, in fixed memory.

use std::{fmt, net::IpAddr};

/// Keys that one sketch watches.
const WATCHED: usize = 8;
/// So many callers stand in a line of the log.
pub(super) const NAMED: usize = 3;

/// A caller who was rejected often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offender {
    /// Its key, as it may be shown.
    pub key: ShownKey,
    /// How often it was rejected: at most this.
    pub rejected: u64,
    /// How much of that may be another's: at least `rejected - error` are its own.
    pub error: u64,
}

/// A key as it may be shown: the address if it has one, else a hash that only this process can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShownKey {
    /// An address; of IPv6 the network.
    Address(IpAddr),
    /// The hash of a key that may be a secret. It differs between processes.
    Hash(u64),
}

impl fmt::Display for ShownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Hash(hash) => write!(f, "#{hash:016x}"),
        }
    }
}

/// A space-saving sketch (Metwally, Agrawal, El Abbadi 2005): whoever has more than one in [`WATCHED`] of all
/// rejections is in it.
#[derive(Debug, Default)]
pub(super) struct Sketch {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    address: Option<IpAddr>,
    rejected: u64,
    error: u64,
}

impl Sketch {
    /// The address is asked for where it is not known yet.
    pub(super) fn note(&mut self, hash: u64, address: impl FnOnce() -> Option<IpAddr>) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.hash == hash) {
            entry.rejected = entry.rejected.saturating_add(1);
            return;
        }
        let mut entry = Entry {
            hash,
            address: address(),
            rejected: 1,
            error: 0,
        };
        if self.entries.len() < WATCHED {
            self.entries.push(entry);
        } else if let Some(least) = self.entries.iter_mut().min_by_key(|entry| entry.rejected) {
            // The newcomer may have been seen before: it inherits the count, and the doubt.
            entry.error = least.rejected;
            entry.rejected = least.rejected.saturating_add(1);
            *least = entry;
        }
    }

    pub(super) fn offenders(&self) -> impl Iterator<Item = Offender> {
        self.entries.iter().map(|entry| Offender {
            key: entry
                .address
                .map_or(ShownKey::Hash(entry.hash), ShownKey::Address),
            rejected: entry.rejected,
            error: entry.error,
        })
    }
}

/// Callers as they stand in a line: `203.0.113.7 (812), #00c0ffee00c0ffee (3)`.
pub(super) fn list(offenders: &[Offender]) -> String {
    let items: Vec<String> = offenders
        .iter()
        .map(|offender| format!("{} ({})", offender.key, offender.rejected))
        .collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heavy_ones_stay_among_any_number_of_others() {
        let mut sketch = Sketch::default();
        let note = |sketch: &mut Sketch, hash| sketch.note(hash, || None);
        for other in 0..10_000 {
            note(&mut sketch, 1_000 + other);
            if other % 2 == 0 {
                note(&mut sketch, 1);
            }
            if other % 3 == 0 {
                note(&mut sketch, 2);
            }
        }
        let offenders: Vec<Offender> = sketch.offenders().collect();
        assert_eq!(offenders.len(), WATCHED);
        for (hash, rejected) in [(1, 5_000), (2, 3_334)] {
            let heavy = offenders
                .iter()
                .find(|offender| offender.key == ShownKey::Hash(hash));
            let heavy = heavy.expect("it is watched");
            assert!(
                heavy.rejected >= rejected && heavy.rejected - heavy.error <= rejected,
                "{heavy:?}"
            );
        }
        assert_eq!(ShownKey::Hash(255).to_string(), "#00000000000000ff");
    }
}
