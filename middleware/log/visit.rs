//! Fields of events and spans as JSON values.

use std::error::Error;
use std::fmt::{self, Debug};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::field::{Field, Visit};

use super::escape::{self, Escaped, Pushed};
use super::line::MAX_LINE;
use super::schema::Unit;
use crate::context::FieldValue;

/// What stands in place of a value that panicked while it was formatted.
const PANICKED: &[u8] = b"<panicked while it was formatted>";

/// What stands behind a value that could not be formatted to its end.
const FAILED: &[u8] = b"<could not be formatted>";

/// Takes fields one after the other.
pub(super) trait Fields {
    /// Makes ready for the value of a field and says in which unit it is wanted; `None` if it is not wanted.
    fn begin(&mut self, field: &Field) -> Option<Unit>;
    /// Where the value goes.
    fn value(&mut self) -> &mut Vec<u8>;
    /// The value is there; `cut` if it is not the whole of it.
    fn end(&mut self, cut: bool);
}

/// Writes each field it visits into `F`.
pub(super) struct Visitor<'a, F>(pub(super) &'a mut F);

impl<F: Fields> Visitor<'_, F> {
    fn put(&mut self, field: &Field, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        if self.0.begin(field).is_some() {
            let cut = write(self.0.value());
            self.0.end(cut);
        }
    }
}

impl<F: Fields> Visit for Visitor<'_, F> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, |out| text(out, value));
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        self.put(field, |out| {
            let (kept, left_out) = value.split_at(value.len().min(MAX_LINE));
            out.push(b'"');
            escape::push_bytes(out, kept);
            out.push(b'"');
            !left_out.is_empty()
        });
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, |out| boolean(out, value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, |out| integer(out, value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, |out| integer(out, value));
    }

    // Few readers of JSON keep more than 64 bits of a number, so it is written as text.
    fn record_i128(&mut self, field: &Field, value: i128) {
        self.put(field, |out| debug(out, &format_args!("{value}")));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put(field, |out| debug(out, &format_args!("{value}")));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if let Some(unit) = self.0.begin(field) {
            unit.push(self.0.value(), value);
            self.0.end(false);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, |out| debug(out, &Chain(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, |out| debug(out, value));
    }
}

/// Appends a value that a handler added to its call. True if it was cut.
pub(super) fn own(out: &mut Vec<u8>, value: &FieldValue) -> bool {
    match value {
        FieldValue::Text(value) => text(out, value),
        FieldValue::Signed(value) => integer(out, *value),
        FieldValue::Unsigned(value) => integer(out, *value),
        FieldValue::Bool(value) => boolean(out, *value),
        FieldValue::Float(value) => {
            escape::push_float(out, *value);
            false
        }
    }
}

fn text(out: &mut Vec<u8>, value: &str) -> bool {
    let (kept, cut) = escape::start_of(value, MAX_LINE);
    out.push(b'"');
    escape::push_text(out, kept);
    out.push(b'"');
    cut
}

fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) -> bool {
    escape::push_integer(out, value);
    false
}

pub(super) fn boolean(out: &mut Vec<u8>, value: bool) -> bool {
    out.extend_from_slice(if value { b"true" } else { b"false" });
    false
}

/// Appends what `Debug` says. A value that panics does not take the call with it: its place in the line tells.
pub(super) fn debug(out: &mut Vec<u8>, value: &dyn Debug) -> bool {
    out.push(b'"');
    let start = out.len();
    let formatted = catch_unwind(AssertUnwindSafe(|| {
        Escaped::new(out, MAX_LINE).push(format_args!("{value:?}"))
    }));
    let cut = match formatted {
        Ok(Pushed::Whole) => false,
        Ok(Pushed::Cut) => true,
        Ok(Pushed::Failed) => {
            out.extend_from_slice(FAILED);
            false
        }
        Err(payload) => {
            // Dropping what was thrown may panic again.
            std::mem::forget(payload);
            out.truncate(start);
            out.extend_from_slice(PANICKED);
            false
        }
    };
    out.push(b'"');
    cut
}

/// An error and its sources, outermost first.
struct Chain<'a>(&'a (dyn Error + 'static));

impl Debug for Chain<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(out, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
