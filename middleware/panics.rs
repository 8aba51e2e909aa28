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
/// So many panics of one poll are remembered. Of more, the first are told at once.
const MOST_UNDER_WAY: usize = 16;
/// What std says where a panic may not go on: it calls the hook once more, and aborts.
const CANNOT_UNWIND: [&str; 2] = [
    "panic in a destructor during cleanup",
    "panic in a function that cannot unwind",
];

thread_local! {
    /// What is to be done about a panic on this thread.
    static CATCHING: Cell<Catching> = const { Cell::new(Catching::NOTHING) };
    /// The panics that would be caught here, the latest last. Which of them were caught further in shows when those who
    /// catch here get a payload, or none.
    static UNDER_WAY: RefCell<Vec<PanicFacts>> = const { RefCell::new(Vec::new()) };
}

static FLUSH: OnceLock<fn(Duration)> = OnceLock::new();
static WRITES_ALL: AtomicBool = AtomicBool::new(false);

/// Who catches panics on a thread.
#[derive(Clone, Copy)]
struct Catching {
    /// Where a panic would be caught here, if it would.
    place: Option<&'static str>,
    backtrace: bool,
    /// How many there were.
    under_way: u32,
}

impl Catching {
    const NOTHING: Self = Self {
        place: None,
        backtrace: false,
        under_way: 0,
    };
}

/// What is known of one panic.
#[derive(Clone, Debug)]
pub(crate) struct PanicFacts {
    pub(crate) text: String,
    /// Where it is caught, if it is caught here.
    place: Option<&'static str>,
    location: Option<String>,
    backtrace: Option<String>,
}

impl PanicFacts {
    fn of_hook(info: &PanicHookInfo<'_>, catching: Catching) -> Self {
        let backtrace = catching.backtrace.then(Backtrace::force_capture);
        Self {
            text: text_of(info.payload()),
            place: catching.place,
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
        under_way: 0,
    };
    let outer = CATCHING.replace(catching);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    let under_way = CATCHING.replace(outer).under_way;
    if under_way > 0 && result.is_ok() {
        caught_inside(take(under_way));
    }
    result.map_err(|payload| facts_of(payload, place, under_way))
}

/// Takes the latest of those under way.
#[cold]
fn take(count: u32) -> Vec<PanicFacts> {
    let taken = UNDER_WAY.try_with(|under_way| {
        let mut under_way = under_way.try_borrow_mut().ok()?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let first = under_way.len().saturating_sub(count);
        Some(under_way.split_off(first))
    });
    taken.ok().flatten().unwrap_or_default()
}

/// Keeps one until it is caught, and gives back the first if there are too many. A thread that ends keeps none: it gives
/// back the one.
fn keep(facts: PanicFacts) -> Option<PanicFacts> {
    let mut facts = Some(facts);
    let kept = UNDER_WAY.try_with(|under_way| {
        let mut under_way = under_way.try_borrow_mut().ok()?;
        under_way.extend(facts.take());
        (under_way.len() > MOST_UNDER_WAY).then(|| under_way.remove(0))
    });
    facts.or(kept.ok().flatten())
}

#[cold]
fn caught_inside(all: Vec<PanicFacts>) {
    for facts in all {
        facts.write_line(Fate::CaughtInside);
    }
}

#[cold]
fn facts_of(payload: Box<dyn Any + Send>, place: &'static str, under_way: u32) -> PanicFacts {
    let text = text_of(&*payload);
    let mut all = take(under_way);
    let own = all.iter().rposition(|facts| facts.text == text);
    let own = own.map(|own| all.remove(own));
    // The others never came here.
    caught_inside(all);
    // Without facts our hook was replaced, or the panic came by `resume_unwind`, which calls none.
    let facts = own.unwrap_or(PanicFacts {
        text,
        place: Some(place),
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
    let by_std = info
        .location()
        .is_some_and(|location| location.file().ends_with("panicking.rs"));
    let fatal = cfg!(panic = "abort") || (by_std && CANNOT_UNWIND.contains(&facts.text.as_str()));
    if catching.place.is_some() && !fatal {
        let under_way = catching.under_way.saturating_add(1);
        CATCHING.set(Catching {
            under_way,
            ..catching
        });
        if let Some(first) = keep(facts) {
            first.write_line(Fate::CaughtInside);
        }
        if !is_heard() {
            previous(info);
        }
        return;
    }
    let writes_all = WRITES_ALL.load(Ordering::Relaxed);
    // What led to a fatal end, where it is known: the panic that unwound, and the one in its way.
    let earlier = if fatal { take(u32::MAX) } else { Vec::new() };
    for facts in &earlier {
        facts.write_line(Fate::Fatal);
    }
    if fatal && earlier.is_empty() {
        facts.write_line(Fate::Fatal);
    } else if writes_all && !fatal {
        facts.write_line(Fate::Caught);
    }
    if fatal {
        last_words();
    }
    if !(writes_all && is_heard()) {
        previous(info);
    }
}

/// Whether anybody takes the line of a panic. Else the hook that was there before tells of it.
fn is_heard() -> bool {
    tracing::enabled!(target: "plimsoll::panic", tracing::Level::ERROR)
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
    fn tells_its_own_panic_from_those_that_were_caught_further_in() {
        install_hook();
        let inside = |text: &'static str| drop(panic::catch_unwind(|| panic::panic_any(text)));
        let nested = || catch("inner", false, || panic!("of another")).expect_err("it panicked");
        let facts = catch("call", false, || {
            inside("first");
            assert_eq!(nested().place, Some("inner"));
            (0..100).for_each(|_| inside("many"));
            panic!("last")
        });
        let facts = facts.expect_err("it panicked");
        assert_eq!((facts.text.as_str(), facts.place), ("last", Some("call")));
        assert!(facts.location.is_some());
        // A payload that was kept is still the first panic's.
        let facts = catch("call", false, || {
            let kept = panic::catch_unwind(|| panic!("kept")).expect_err("it panicked");
            inside("later");
            panic::resume_unwind(kept)
        });
        let facts = facts.expect_err("it panicked");
        assert_eq!(facts.text, "kept");
        assert!(facts.location.is_some());
        assert!(UNDER_WAY.with_borrow(Vec::is_empty));
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
