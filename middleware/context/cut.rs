use std::cell::Cell;

use crate::outcome::Outcome;

thread_local! {
    static CUT: Cell<Option<Outcome>> = const { Cell::new(None) };
}

/// Runs what drops a call because the server cuts it off: the call's outcome is this one, and not that its caller left.
pub(crate) fn while_cut<R>(outcome: Outcome, drop_it: impl FnOnce() -> R) -> R {
    let before = CUT.replace(Some(outcome));
    let _restored = Restored(before);
    drop_it()
}

/// Why the call that is being dropped just now is cut off, if it is.
pub(crate) fn cut_off() -> Option<Outcome> {
    CUT.get()
}

struct Restored(Option<Outcome>);

impl Drop for Restored {
    fn drop(&mut self) {
        CUT.set(self.0);
    }
}
