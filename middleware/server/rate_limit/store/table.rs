//! A table of fixed size: from the hash of a key to its times. It forgets only what has all of its burst again.
//!
//! A key may lie in two buckets of some neighbouring slots each; with one quota a bucket is one cache line. A new key
//! goes into the emptier of its two, or has one of those that are there moved to its other bucket. So nearly all slots
//! can be used, nothing ever grows, and no operation looks at more than a few buckets.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::server::rate_limit::gcra::{Nanos, Times};

/// Words of a cache line.
const LINE: usize = 8;
/// Buckets that each new key sweeps: far more slots than it takes.
const SWEPT_PER_KEY: usize = 4;

/// How many keys there may be in all tables of a store together.
#[derive(Debug)]
pub(super) struct Seats {
    taken: AtomicUsize,
    all: usize,
}

impl Seats {
    pub(super) fn new(all: usize) -> Self {
        Self {
            taken: AtomicUsize::new(0),
            all,
        }
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        let taken = |taken: usize| (taken < self.all).then(|| taken.saturating_add(1));
        // Only the number counts: the slots themselves are behind the lock of their table.
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .is_ok()
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The table of one shard. Word 0 of a slot is the hash of its key (0 = nobody's), the others are its times.
#[derive(Debug)]
pub(super) struct Table {
    words: Box<[u64]>,
    /// Words before the first cache line that is all ours.
    skipped: usize,
    /// Words of a slot.
    slot: usize,
    /// Words of a bucket.
    bucket: usize,
    /// Slots of a bucket.
    slots: usize,
    buckets: usize,
    /// The bucket that is swept next.
    hand: usize,
}

/// A slot of the table, by its first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(usize);

impl Table {
    /// Room for so many keys and a quarter more, of which each has so many times.
    pub(super) fn new(keys: usize, times: usize) -> Self {
        let slot = times.saturating_add(1);
        let lines = match times {
            0 | 1 => 1,
            2 | 3 => 2,
            _ => 3,
        };
        let bucket = LINE.saturating_mul(lines);
        let slots = bucket.checked_div(slot).unwrap_or(1);
        let wanted = keys.saturating_add(keys.div_ceil(4));
        let buckets = wanted.div_ceil(slots).max(2);
        let words = buckets.saturating_mul(bucket).saturating_add(LINE);
        let words = vec![0; words].into_boxed_slice();
        let skipped = words
            .as_ptr()
            .align_offset(LINE.saturating_mul(size_of::<u64>()));
        Self {
            skipped: if skipped < LINE { skipped } else { 0 },
            words,
            slot,
            bucket,
            slots,
            buckets,
            hand: 0,
        }
    }

    pub(super) fn buckets(&self) -> usize {
        self.buckets
    }

    #[inline]
    pub(super) fn find(&self, hash: u64) -> Option<Slot> {
        let [first, second] = self.homes(hash);
        self.find_in(first, hash)
            .or_else(|| self.find_in(second, hash))
    }

    #[inline]
    pub(super) fn times(&self, slot: Slot) -> Times {
        let mut times = Times::default();
        for (time, word) in times.iter_mut().zip(self.slot_words(slot)) {
            *time = *word;
        }
        times
    }

    #[inline]
    pub(super) fn set_times(&mut self, slot: Slot, times: &Times) {
        let end = slot.0.saturating_add(self.slot);
        let words = self.words.get_mut(slot.0.saturating_add(1)..end);
        for (word, time) in words.into_iter().flatten().zip(times) {
            *word = *time;
        }
    }

    /// A slot for a key that is not there, made its own, with all of its burst. `None` if the store has as many keys as
    /// it may have, or this corner of it is full, and none of them can be forgotten.
    pub(super) fn make_room(&mut self, hash: u64, now: Nanos, seats: &Seats) -> Option<Slot> {
        let hand = self.hand;
        self.hand = self.sweep(hand, SWEPT_PER_KEY, now, seats);
        let homes = self.homes(hash);
        if !seats.take() {
            return None;
        }
        let [first, second] = homes.map(|home| self.free_slots(home));
        let home = if first >= second { homes[0] } else { homes[1] };
        let slot = self
            .free_slot(home)
            .or_else(|| self.free_in(homes, now, seats));
        match slot {
            Some(slot) => {
                self.set_hash(slot, hash);
                self.set_times(slot, &Times::default());
            }
            None => seats.give_back(),
        }
        slot
    }

    /// Forgets the keys of so many buckets that have all of their burst again, and returns the bucket after them.
    pub(super) fn sweep(
        &mut self,
        from: usize,
        buckets: usize,
        now: Nanos,
        seats: &Seats,
    ) -> usize {
        let mut at = from;
        for _ in 0..buckets.min(self.buckets) {
            self.forget_full(at, now, seats);
            at = at.saturating_add(1);
            if at >= self.buckets {
                at = 0;
            }
        }
        at
    }

    /// The two buckets of a key. The table's shard was chosen by the hash's first bits; these are others.
    #[inline]
    fn homes(&self, hash: u64) -> [usize; 2] {
        [hash.rotate_left(21), hash.rotate_left(42)].map(|bits| scale(bits, self.buckets))
    }

    /// Makes a slot free in one of these full buckets: by forgetting, else by moving one to its other bucket.
    fn free_in(&mut self, homes: [usize; 2], now: Nanos, seats: &Seats) -> Option<Slot> {
        for home in homes {
            self.forget_full(home, now, seats);
            if let Some(slot) = self.free_slot(home) {
                return Some(slot);
            }
        }
        for home in homes {
            for slot in self.slots_of(home) {
                let hash = self.hash_at(slot);
                let [first, second] = self.homes(hash);
                let other = if first == home { second } else { first };
                self.forget_full(other, now, seats);
                if let Some(to) = self.free_slot(other) {
                    let times = self.times(slot);
                    self.set_hash(to, hash);
                    self.set_times(to, &times);
                    self.set_hash(slot, 0);
                    return Some(slot);
                }
            }
        }
        None
    }

    fn forget_full(&mut self, bucket: usize, now: Nanos, seats: &Seats) {
        for slot in self.slots_of(bucket) {
            let is_full = self.slot_words(slot).iter().all(|&full_at| full_at <= now);
            if is_full && self.hash_at(slot) != 0 {
                self.set_hash(slot, 0);
                seats.give_back();
            }
        }
    }

    #[inline]
    fn find_in(&self, bucket: usize, hash: u64) -> Option<Slot> {
        self.slots_of(bucket)
            .find(|&slot| self.hash_at(slot) == hash)
    }

    fn free_slot(&self, bucket: usize) -> Option<Slot> {
        self.find_in(bucket, 0)
    }

    fn free_slots(&self, bucket: usize) -> usize {
        self.slots_of(bucket)
            .filter(|&slot| self.hash_at(slot) == 0)
            .count()
    }

    #[inline]
    fn slots_of(&self, bucket: usize) -> impl Iterator<Item = Slot> + use<> {
        let (start, slot) = (self.start_of(bucket), self.slot);
        (0..self.slots).map(move |at| Slot(start.saturating_add(at.saturating_mul(slot))))
    }

    #[inline]
    fn start_of(&self, bucket: usize) -> usize {
        self.skipped
            .saturating_add(bucket.saturating_mul(self.bucket))
    }

    #[inline]
    fn slot_words(&self, slot: Slot) -> &[u64] {
        let end = slot.0.saturating_add(self.slot);
        self.words
            .get(slot.0.saturating_add(1)..end)
            .unwrap_or_default()
    }

    #[inline]
    fn hash_at(&self, slot: Slot) -> u64 {
        self.words.get(slot.0).copied().unwrap_or_default()
    }

    fn set_hash(&mut self, slot: Slot, hash: u64) {
        if let Some(word) = self.words.get_mut(slot.0) {
            *word = hash;
        }
    }
}

/// A number below `below`, by the first bits.
#[inline]
pub(super) fn scale(bits: u64, below: usize) -> usize {
    let below = u64::try_from(below).unwrap_or(u64::MAX);
    let scaled = u128::from(bits).wrapping_mul(u128::from(below)) >> u64::BITS;
    usize::try_from(scaled).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::server::rate_limit::quota::MAX_QUOTAS;

    fn hash(key: u64) -> u64 {
        // A bijection that spreads: the finaliser of SplitMix64.
        let mut bits = key.wrapping_add(0x9E37_79B9_7F4A_7C15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)).max(1)
    }

    #[test]
    fn takes_as_many_keys_as_it_was_made_for_and_not_one_more() {
        for times in 1..=MAX_QUOTAS {
            for keys in [1, 3, 10, 100, 1_500, 20_000] {
                let seats = Seats::new(keys);
                let mut table = Table::new(keys, times);
                let mut left_out = 0;
                for key in 0..u64::try_from(keys).expect("small") {
                    match table.make_room(hash(key), 0, &seats) {
                        Some(slot) => table.set_times(slot, &[1_000 + key; MAX_QUOTAS]),
                        None => left_out += 1,
                    }
                }
                assert!(
                    left_out * 1_000 <= keys,
                    "{left_out} of {keys} with {times} times"
                );
                assert_eq!(seats.taken(), keys - left_out);
                for key in 0..u64::try_from(keys).expect("small") {
                    if let Some(slot) = table.find(hash(key)) {
                        assert_eq!(table.times(slot)[times - 1], 1_000 + key);
                    }
                }
                let surplus = table.make_room(hash(u64::MAX), 0, &seats);
                assert_eq!(surplus.is_some(), left_out > 0);
            }
        }
    }

    #[test]
    fn a_slot_needs_at_most_32_bytes_with_one_or_two_times_and_64_with_more() {
        for (times, most) in [(1, 32), (2, 33), (3, 64), (4, 64)] {
            let keys = 100_000;
            let table = Table::new(keys, times);
            let bytes = table.words.len() * size_of::<u64>();
            assert!(bytes <= most * keys, "{} bytes a key", bytes / keys);
        }
    }

    proptest! {
        /// Against a map that forgets nothing: whoever is not full is still there, with its times.
        #[test]
        fn forgets_only_who_has_all_of_its_burst_again(
            steps in proptest::collection::vec((0..60_u64, 0..40_u64, 0..3_u64), 1..400),
        ) {
            let seats = Seats::new(24);
            let mut table = Table::new(24, 2);
            let mut model: HashMap<u64, Times> = HashMap::new();
            let mut now = 1;
            for (key, owed, pause) in steps {
                now += pause;
                let key = hash(key);
                let slot = table.find(key).or_else(|| table.make_room(key, now, &seats));
                if let Some(slot) = slot {
                    let times = [now + owed, now + owed / 2, 0, 0];
                    table.set_times(slot, &times);
                    model.insert(key, times);
                }
                let owing: Vec<_> = model.iter().filter(|(_, times)| times[0] > now).collect();
                for &(&key, &times) in &owing {
                    let kept = table.find(key).map(|slot| table.times(slot));
                    prop_assert_eq!(kept, Some(times));
                }
                if slot.is_none() {
                    // A bucket may be full before the table is.
                    prop_assert!(owing.len() >= 16, "refused with {} owing", owing.len());
                }
                prop_assert!(seats.taken() <= 24);
            }
            let slots: usize = (0..table.buckets())
                .map(|bucket| table.slots_of(bucket).filter(|&slot| table.hash_at(slot) != 0).count())
                .sum();
            prop_assert_eq!(slots, seats.taken());
        }
    }
}
