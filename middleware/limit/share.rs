//! How much each caller has of a limit, so that one of them never has it all.

use std::collections::HashMap;

use super::window::Seconds;

/// The most callers that are told apart. More of them share one place.
const MOST: usize = 4_096;
/// A caller counts for so long after its last call.
const ACTIVE: Seconds = 1.0;
/// How often those who went away are looked for.
const SWEEP: Seconds = 0.1;

/// Who holds how much.
#[derive(Debug, Default)]
pub(super) struct Callers {
    places: HashMap<u64, usize>,
    slots: Vec<Caller>,
    free: Vec<usize>,
    swept: Seconds,
}

#[derive(Debug, Default)]
struct Caller {
    key: u64,
    held: usize,
    waiting: usize,
    seen: Seconds,
}

impl Callers {
    /// The place of this caller, who calls now.
    pub(super) fn enter(&mut self, key: u64, now: Seconds) -> usize {
        if now - self.swept > SWEEP {
            self.sweep(now);
        }
        // When there are too many, the rest are one caller: that of key 0.
        let key = if self.places.len() >= MOST && !self.places.contains_key(&key) {
            0
        } else {
            key
        };
        let (slots, free) = (&mut self.slots, &mut self.free);
        let place = *self.places.entry(key).or_insert_with(|| {
            free.pop().unwrap_or_else(|| {
                slots.push(Caller::default());
                slots.len().saturating_sub(1)
            })
        });
        if let Some(caller) = slots.get_mut(place) {
            caller.key = key;
            caller.seen = now;
        }
        place
    }

    /// How many permits this caller holds.
    pub(super) fn held(&self, place: usize) -> usize {
        self.slots.get(place).map_or(0, |caller| caller.held)
    }

    /// How much this caller holds and waits for.
    pub(super) fn demand(&self, place: usize) -> usize {
        let caller = self.slots.get(place);
        caller.map_or(0, |caller| caller.held.saturating_add(caller.waiting))
    }

    /// What each may hold while there is too little for all.
    pub(super) fn share(&self, limit: usize) -> usize {
        limit.div_ceil(self.places.len().max(1)).max(1)
    }

    pub(super) fn takes(&mut self, place: Option<usize>) {
        self.change(place, |caller| caller.held = caller.held.saturating_add(1));
    }

    pub(super) fn gives_back(&mut self, place: Option<usize>) {
        self.change(place, |caller| caller.held = caller.held.saturating_sub(1));
    }

    pub(super) fn waits(&mut self, place: Option<usize>) {
        self.change(place, |caller| {
            caller.waiting = caller.waiting.saturating_add(1);
        });
    }

    pub(super) fn stops_waiting(&mut self, place: Option<usize>) {
        self.change(place, |caller| {
            caller.waiting = caller.waiting.saturating_sub(1);
        });
    }

    fn change(&mut self, place: Option<usize>, change: impl FnOnce(&mut Caller)) {
        if let Some(caller) = place.and_then(|place| self.slots.get_mut(place)) {
            change(caller);
        }
    }

    fn sweep(&mut self, now: Seconds) {
        self.swept = now;
        let (slots, free) = (&self.slots, &mut self.free);
        self.places.retain(|_, place| {
            let stays = slots.get(*place).is_some_and(|caller| {
                caller.held > 0 || caller.waiting > 0 || now - caller.seen < ACTIVE
            });
            if !stays {
                free.push(*place);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_calls_has_a_share_and_who_went_away_has_none() {
        let mut callers = Callers::default();
        let hog = callers.enter(7, 0.0);
        assert_eq!(callers.share(10), 10);
        callers.takes(Some(hog));
        let other = callers.enter(8, 0.5);
        assert_eq!(callers.share(10), 5);
        assert_eq!(callers.share(1), 1);
        // The hog still holds one, the other one is gone.
        assert_eq!(callers.enter(7, 2.0), hog);
        assert_eq!(callers.share(10), 10);
        assert_eq!(callers.enter(9, 2.0), other, "its place is used again");
        assert_eq!((callers.held(hog), callers.held(other)), (1, 0));
    }

    #[test]
    fn made_up_callers_take_no_more_than_the_table() {
        let mut callers = Callers::default();
        for key in 1..20_000 {
            callers.enter(key, 0.0);
        }
        assert!(callers.slots.len() <= MOST + 1, "{}", callers.slots.len());
        assert_eq!(callers.enter(20_001, 0.0), callers.enter(20_002, 0.0));
        callers.enter(1, 5.0);
        assert_eq!(callers.share(10), 10);
    }
}
