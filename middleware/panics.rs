//! What is known of a panic: its text, its place, its backtrace; and the last words of a program that dies of one.
//!
//! The payload of a caught panic tells only the text. The rest is known to the panic hook alone, so one is installed
//! by `catch_panic`, by [`task`](crate::task) and by the log's set-up. It keeps what it learns of panics that are
//! caught here, and hands all others to the hook that was there before.

use std::{
    any::Any,
    backtrace::Backtrace,
    cell::{Cell, RefCell},
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::{
        Once, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    context,
    gauge::{Kind, Metric},
};

/// What is told of caught panics, with the attribute `where`.
pub(crate) const PANICS: Metric = Metric::new(
    "plimsoll.panics",
    Kind::Counter,
    "{panic}",
    "Panics that were caught, by place.",
);

/// How long a dying program waits for its log.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the standard library says when a panic leaves a destructor that runs while another one unwinds, or a function
/// that cannot unwind. Then it aborts.
const LAST: &[&str] = &[
    "panic in a destructor during cleanup",
    "panic in a function that cannot unwind",
];

thread_local! {
    /// What is to be done about a panic on this thread.
    static CATCHING: Cell<Catching> = const { Cell::new(Catching::NOTHING) };
    /// A panic that has not been caught yet.
    static UNDER_WAY: RefCell<Option<PanicFacts>> = const { RefCell::new(None) };
}

static FLUSH: OnceLock<fn(Duration)> = OnceLock::new();
static WRITES_ALL: AtomicBool = AtomicBool::new(false);

/// Who catches panics on a thread.
#[derive(Clone, Copy)]
struct Catching {
    /// Where a panic would be caught here, if it would.
    place: Option<&'static str>,
    backtrace: bool,
    /// Whether there was one.
    under_way: bool,
}

impl Catching {
    const NOTHING: Self = Self {
        place: None,
        backtrace: false,
        under_way: false,
    };
}

/// What is known of one panic.
#[derive(Clone, Debug)]
pub(crate) struct PanicFacts {
    pub(crate) text: String,
    place: &'static str,
    location: Option<String>,
    backtrace: Option<String>,
}

impl PanicFacts {
    fn of_hook(info: &PanicHookInfo<'_>, catching: Catching) -> Self {
        let backtrace = catching.backtrace.then(Backtrace::force_capture);
        Self {
            text: text_of(info.payload()),
            place: catching.place.unwrap_or("task"),
            location: info.location().map(ToString::to_string),
            backtrace: backtrace.map(|backtrace| backtrace.to_string()),
        }
    }

    /// File, line and column.
    pub(crate) fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// Writes the line of this panic. Secrets of the current request are taken out of its text.
    pub(crate) fn write_line(&self, fate: Fate) {
        let redacted = context::redact(&self.text);
        tracing::error!(
            target: "plimsoll::panic",
            event = "panic",
            r#where = self.place,
            panic = &*redacted,
            location = self.location.as_deref(),
            backtrace = self.backtrace.as_deref(),
            fatal = (fate == Fate::Fatal).then_some(true),
            caught_inside = (fate == Fate::CaughtInside).then_some(true),
            "panicked",
        );
    }
}

/// What becomes of a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Caught here, or by the runtime whose task it ends.
    Caught,
    /// Caught by other code, further in, which may have told nobody.
    CaughtInside,
    /// It ends the process.
    Fatal,
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&'static str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic whose payload is no text")
        .to_owned()
}

/// Runs this and catches its panic. The place is what its line tells as `where`.
#[inline]
pub(crate) fn catch<R>(
    place: &'static str,
    backtrace: bool,
    run: impl FnOnce() -> R,
) -> Result<R, PanicFacts> {
    let catching = Catching {
        place: Some(place),
        backtrace,
        under_way: false,
    };
    let outer = CATCHING.replace(catching);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    let under_way = CATCHING.replace(outer).under_way;
    if under_way && result.is_ok() {
        caught_inside();
    }
    result.map_err(|payload| facts_of(payload, place))
}

#[cold]
fn caught_inside() {
    if let Some(facts) = UNDER_WAY.with_borrow_mut(Option::take) {
        facts.write_line(Fate::CaughtInside);
    }
}

#[cold]
fn facts_of(payload: Box<dyn Any + Send>, place: &'static str) -> PanicFacts {
    let facts = UNDER_WAY.with_borrow_mut(Option::take);
    // Without facts our hook was replaced, or the panic came by `resume_unwind`, which calls none.
    let facts = facts.unwrap_or_else(|| PanicFacts {
        text: text_of(&*payload),
        place,
        location: None,
        backtrace: None,
    });
    // The payload is a value of the panicking code: dropping it may panic too.
    if let Err(again) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
    facts
}

/// Installs the hook, once.
pub(crate) fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| on_panic(info, &*previous)));
    });
}

/// Writes a line for every panic of the program, in place of the hook that was there before.
pub(crate) fn write_all_panics() {
    install_hook();
    WRITES_ALL.store(true, Ordering::Relaxed);
}

/// What flushes the log before the program dies.
pub(crate) fn flush_by(flush: fn(Duration)) {
    FLUSH.get_or_init(|| flush);
}

/// Flushes the log, for a program that is about to die.
pub(crate) fn last_words() {
    if let Some(flush) = FLUSH.get() {
        flush(LAST_WORDS);
    }
}

fn on_panic(info: &PanicHookInfo<'_>, previous: &dyn Fn(&PanicHookInfo<'_>)) {
    let catching = CATCHING.get();
    let facts = PanicFacts::of_hook(info, catching);
    let before = UNDER_WAY.with(|under_way| under_way.try_borrow_mut().ok()?.take());
    let fatal = cfg!(panic = "abort") || LAST.contains(&&*facts.text);
    if catching.place.is_some() && !fatal {
        if let Some(before) = before {
            // It was caught further in, or this one happens while it unwinds: nobody tells which.
            before.write_line(Fate::Caught);
        }
        CATCHING.set(Catching {
            under_way: true,
            ..catching
        });
        UNDER_WAY.set(Some(facts));
        return;
    }
    let writes_all = WRITES_ALL.load(Ordering::Relaxed);
    if fatal {
        // What the standard library says last tells nothing of the panic that led to it.
        before.unwrap_or(facts).write_line(Fate::Fatal);
        last_words();
    } else if writes_all {
        facts.write_line(Fate::Caught);
    }
    if !writes_all {
        previous(info);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_text_and_place_of_what_it_catches() {
        install_hook();
        let facts = catch("call", true, || panic!("text {}", 1)).expect_err("it panicked");
        assert_eq!(facts.text, "text 1");
        assert!(
            facts
                .location
                .is_some_and(|location| location.contains("panics.rs"))
        );
        assert!(facts.backtrace.is_some());
        let facts = catch("call", false, || panic::panic_any(7)).expect_err("it panicked");
        assert_eq!(facts.text, "a panic whose payload is no text");
        assert!(facts.backtrace.is_none());
        let facts = catch("call", false, || panic::resume_unwind(Box::new("resumed")))
            .expect_err("it panicked");
        assert_eq!((facts.text.as_str(), facts.location), ("resumed", None));
        assert_eq!(catch("call", false, || 5).expect("no panic"), 5);
    }

    #[test]
    fn a_panic_that_was_caught_further_in_leaves_nothing_under_way() {
        install_hook();
        let inner = || drop(panic::catch_unwind(|| panic!("caught further in")));
        assert!(catch("call", false, inner).is_ok());
        let facts = catch("call", false, || panic!("another")).expect_err("it panicked");
        assert_eq!(facts.text, "another");
    }

    #[test]
    fn survives_a_payload_that_panics_when_dropped() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("in drop");
            }
        }
        install_hook();
        assert!(catch("call", false, || panic::panic_any(Bomb)).is_err());
        assert_eq!(
            catch("call", false, || 5).expect("nothing is left under way"),
            5
        );
    }
}
