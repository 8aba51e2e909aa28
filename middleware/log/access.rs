//! The line of a call, whole.
//!
//! `access_log` makes one event of `tracing` of each call, which any subscriber takes field by field. While it does, the
//! same facts lie here, and our own formatter takes them as they are: half of the work for a line of twenty fields.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::net::IpAddr;
use std::slice;
use std::thread::LocalKey;

use http::{HeaderValue, Method, uri::PathAndQuery};
use tracing::field::DisplayValue;

use super::callsite::{Callsite, Key};
use super::escape;
use super::line::MAX_LINE;
use super::schema::Unit;
use super::visit;
use crate::context::{Free, Keep, Kept, RequestId, Route, TraceContext};

/// So many bytes of text from outside leave room for all else, though each may become six.
const SHORT: usize = MAX_LINE / 16;

/// Where the events are made whose facts lie here.
pub(super) const MODULE: &str = "plimsoll::server::access_log::record";

/// What is known of a call at its end. What is empty is left out of the line.
#[derive(Debug, Default)]
pub(crate) struct AccessLine {
    pub(crate) request_id: Option<RequestId>,
    pub(crate) request_id_replaced: bool,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) protocol: &'static str,
    pub(crate) method: Method,
    pub(crate) path: Option<PathAndQuery>,
    /// The path with its query, without the values in it.
    pub(crate) redacted_path: Option<String>,
    pub(crate) route: Option<Route>,
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<&'static str>,
    pub(crate) outcome: &'static str,
    pub(crate) layer: Option<&'static str>,
    pub(crate) which: Option<&'static str>,
    pub(crate) deadline_capped: bool,
    pub(crate) error: Option<String>,
    pub(crate) error_missing: bool,
    pub(crate) also: Option<String>,
    pub(crate) bytes_in: Option<u64>,
    pub(crate) bytes_out: u64,
    pub(crate) queue_ms: Option<f64>,
    pub(crate) ttfb_ms: Option<f64>,
    pub(crate) duration_ms: f64,
    pub(crate) client: Option<IpAddr>,
    pub(crate) user_agent: Option<HeaderValue>,
}

thread_local! {
    static FREE: Free<AccessLine> = const { Free::none() };
}

impl Keep for AccessLine {
    fn free() -> &'static LocalKey<Free<Self>> {
        &FREE
    }
}

impl AccessLine {
    /// Whether the line cannot grow past its cap, whatever must be escaped in it: then nothing of it is ever cut.
    #[inline]
    fn is_short(&self) -> bool {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let value = |value: &Option<HeaderValue>| value.as_ref().map_or(0, HeaderValue::len);
        let route = self.route.as_ref().map_or(0, |route| route.as_str().len());
        let path = self.path().map_or(0, str::len);
        [
            self.method.as_str().len(),
            path,
            route,
            text(&self.error),
            text(&self.also),
            value(&self.user_agent),
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
            <= SHORT
    }

    /// The path as the line tells it.
    #[inline]
    pub(crate) fn path(&self) -> Option<&str> {
        let plain = || self.path.as_ref().map(PathAndQuery::path);
        self.redacted_path.as_deref().or_else(plain)
    }
}

/// Tells the facts of a line in the order of the event's fields.
pub(crate) type Tell = fn(&AccessLine, &mut Facts<'_>);

thread_local! {
    static LENT: RefCell<Option<(Kept<AccessLine>, Tell)>> = const { RefCell::new(None) };
    /// Whether an event is being made of another line than the one that lies here.
    static HIDDEN: Cell<bool> = const { Cell::new(false) };
}

/// Lends the line to our own formatter, while an event is made of it.
pub(crate) fn lend(line: Kept<AccessLine>, tell: Tell, make_event: impl FnOnce(&AccessLine)) {
    let free = LENT.try_with(|lent| lent.try_borrow().is_ok_and(|lent| lent.is_none()));
    if free.unwrap_or_default() {
        let _back = TakeBack;
        LENT.set(Some((line, tell)));
        LENT.with_borrow(|lent| lent.as_ref().map(|(line, _)| make_event(line)));
    } else {
        // A subscriber made this call while it was told of another one, or the thread is ending.
        let _shown = ShowAgain(HIDDEN.replace(true));
        make_event(&line);
    }
}

/// The line that an event is being made of; false if it does not lie here, or is long.
pub(super) fn lent(take: impl FnOnce(&AccessLine, Tell)) -> bool {
    if HIDDEN.get() {
        return false;
    }
    let taken = LENT.try_with(|lent| {
        let lent = lent.try_borrow().ok()?;
        let (line, tell) = lent.as_ref().filter(|(line, _)| line.is_short())?;
        take(line, *tell);
        Some(())
    });
    taken.is_ok_and(|taken| taken.is_some())
}

/// When dropped, since a subscriber may panic.
struct TakeBack;

impl Drop for TakeBack {
    fn drop(&mut self) {
        LENT.take();
    }
}

/// When dropped, since a subscriber may panic.
struct ShowAgain(bool);

impl Drop for ShowAgain {
    fn drop(&mut self) {
        HIDDEN.set(self.0);
    }
}

/// Takes the facts of a line one after the other. Nothing is counted and nothing cut: see [`AccessLine::is_short`].
pub(crate) struct Facts<'a> {
    keys: slice::Iter<'a, Option<Key>>,
    out: &'a mut Vec<u8>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(callsite: &'a Callsite, out: &'a mut Vec<u8>) -> Self {
        let keys = callsite.keys();
        Self { keys, out }
    }

    /// The next fact.
    #[inline]
    pub(crate) fn tell(&mut self, fact: impl Fact) {
        if let Some(Some(key)) = self.keys.next()
            && fact.is_there()
        {
            self.out.extend_from_slice(key.ready.text());
            fact.write(self.out, key.unit);
        }
    }
}

/// What can be told. It is written as the same value of an event is.
pub(crate) trait Fact {
    /// Whether there is one.
    fn is_there(&self) -> bool {
        true
    }

    /// Appends it.
    fn write(&self, out: &mut Vec<u8>, unit: Unit);
}

impl<F: Fact> Fact for Option<F> {
    #[inline]
    fn is_there(&self) -> bool {
        self.is_some()
    }

    #[inline]
    fn write(&self, out: &mut Vec<u8>, unit: Unit) {
        if let Some(fact) = self {
            fact.write(out, unit);
        }
    }
}

impl Fact for &str {
    #[inline]
    fn write(&self, out: &mut Vec<u8>, _: Unit) {
        out.push(b'"');
        escape::push_text(out, self);
        out.push(b'"');
    }
}

impl Fact for u64 {
    #[inline]
    fn write(&self, out: &mut Vec<u8>, _: Unit) {
        escape::push_integer(out, *self);
    }
}

impl Fact for f64 {
    #[inline]
    fn write(&self, out: &mut Vec<u8>, unit: Unit) {
        unit.push(out, *self);
    }
}

impl Fact for bool {
    #[inline]
    fn write(&self, out: &mut Vec<u8>, _: Unit) {
        visit::boolean(out, *self);
    }
}

impl<T: Display> Fact for DisplayValue<T> {
    fn write(&self, out: &mut Vec<u8>, _: Unit) {
        visit::debug(out, self);
    }
}
