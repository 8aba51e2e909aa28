//! How lines look, and what of it can be written once for all of them.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::Level;

use super::escape;
use super::line::{Again, Line, Reserved};
use super::schema::{self, Schema};
use super::scratch::Stamp;
use super::visit;
use crate::{clock, context};

/// Targets and names of spans come from code; longer ones are cut, in bytes.
const MAX_NAME: usize = 256;

/// Nothing is reserved.
pub(super) static NONE: Reserved = Reserved::none();

/// What the service is called, on every line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) service: Option<String>,
    pub(super) version: Option<String>,
    pub(super) deployment: Option<String>,
}

/// How lines look: names, and all that can be written once for all lines.
#[derive(Clone, Debug)]
pub(super) struct Form {
    /// Tells one form from another.
    pub(super) number: u64,
    pub(super) schema: Schema,
    pub(super) identity: Identity,
    /// `{"timestamp":"`
    start: String,
    /// From `TRACE` to `ERROR`: `","level":"INFO","target":"`. The first quote ends the timestamp.
    levels: [String; 5],
    /// `","service":"reception"`. The first quote ends the target.
    service: String,
    request_id: String,
    trace_id: String,
    span_id: String,
    trace_flags: Option<String>,
    pub(super) reserved: Reserved,
    for_access: Reserved,
    pub(super) in_access: Reserved,
}

impl Default for Form {
    fn default() -> Self {
        Self::new(Schema::default(), Identity::default())
    }
}

impl Form {
    pub(super) fn new(schema: Schema, identity: Identity) -> Self {
        let base = schema.base();
        let key = |name: &str| format!(",\"{name}\":\"");
        let level = |(text, number): (&str, &str)| {
            let number = base
                .severity_number
                .map(|name| format!(",\"{name}\":{number}"))
                .unwrap_or_default();
            format!(
                "\",\"{}\":\"{text}\"{number},\"{}\":\"",
                base.level, base.target
            )
        };
        let [trace, debug, info, warn, error] = base.levels;
        let [n1, n2, n3, n4, n5] = schema::SEVERITY_NUMBERS;
        let mut service = b"\"".to_vec();
        for (name, value) in [
            (base.service, &identity.service),
            (base.version, &identity.version),
            (base.deployment, &identity.deployment),
        ] {
            if let Some(value) = value {
                service.extend_from_slice(key(name).as_bytes());
                escape::push_text(&mut service, escape::start_of(value, MAX_NAME).0);
                service.push(b'"');
            }
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            schema,
            start: format!("{{\"{}\":\"", base.timestamp),
            levels: [
                (trace, n1),
                (debug, n2),
                (info, n3),
                (warn, n4),
                (error, n5),
            ]
            .map(level),
            service: String::from_utf8(service).expect("escaped text is UTF-8"),
            request_id: key(base.request_id),
            trace_id: key(base.trace_id),
            span_id: key(base.span_id),
            trace_flags: base.trace_flags.map(key),
            reserved: schema.reserved(),
            for_access: schema.reserved_for_access(),
            in_access: schema.reserved_in_access(),
            identity,
        }
    }

    fn level(&self, level: &Level) -> &str {
        let [trace, debug, info, warn, error] = &self.levels;
        match *level {
            Level::TRACE => trace,
            Level::DEBUG => debug,
            Level::INFO => info,
            Level::WARN => warn,
            Level::ERROR => error,
        }
    }

    /// Starts a line: all that is known before the event's own fields.
    pub(super) fn head(&self, line: &mut Line, stamp: &mut Stamp, level: &Level, target: &str) {
        self.time(line, stamp);
        self.callsite(line.bytes(), level, target);
    }

    /// The first part of the head, which no two lines share.
    pub(super) fn time(&self, line: &mut Line, stamp: &mut Stamp) {
        let out = line.bytes();
        out.extend_from_slice(self.start.as_bytes());
        stamp.push(out, clock::wall_clock());
    }

    /// The rest of the head, the same for all lines of a callsite: level, target, and the service's names.
    pub(super) fn callsite(&self, out: &mut Vec<u8>, level: &Level, target: &str) {
        out.extend_from_slice(self.level(level).as_bytes());
        escape::push_text(out, escape::start_of(target, MAX_NAME).0);
        out.extend_from_slice(self.service.as_bytes());
    }

    /// Keys that the fields of an event may not take.
    pub(super) fn reserved_for(&self, access: bool) -> &Reserved {
        if access {
            &self.for_access
        } else {
            &self.reserved
        }
    }

    /// Starts a line of the writer's own, and tells the name of the message.
    pub(super) fn own_head(
        &self,
        line: &mut Line,
        stamp: &mut Stamp,
        level: &Level,
        target: &str,
    ) -> &'static str {
        line.clear();
        self.head(line, stamp, level, target);
        self.schema.base().message
    }

    /// What one of our own fields is called.
    pub(super) fn own_name(&self, name: &'static str) -> &'static str {
        self.schema.place(name).map_or(name, |place| place.key)
    }

    /// The ids of the call that is running.
    pub(super) fn ids(&self, line: &mut Line) {
        context::current(|call| {
            if let Some(id) = call.request_id() {
                self.text(line, self.request_id.as_bytes(), id.as_str());
            }
            if let Some(trace) = call.trace() {
                self.text(line, self.trace_id.as_bytes(), trace.trace_id());
                self.text(line, self.span_id.as_bytes(), trace.span_id());
                if let Some(key) = &self.trace_flags {
                    self.text(line, key.as_bytes(), trace.flags_hex());
                }
            }
        });
    }

    /// The end of an access line: ids, unless it brought them itself, then what handlers added.
    pub(super) fn call(&self, line: &mut Line, has_ids: bool) {
        let base = self.schema.base();
        context::current(|call| {
            let trace = call.trace();
            if !has_ids {
                for (key, value) in [
                    (base.request_id, call.request_id().map(|id| id.as_str())),
                    (base.trace_id, trace.map(|trace| trace.trace_id())),
                    (base.span_id, trace.map(|trace| trace.span_id())),
                ] {
                    if let Some(value) = value {
                        field(line, key, value);
                    }
                }
            }
            if let (Some(key), Some(trace)) = (base.trace_flags, trace) {
                field(line, key, trace.flags_hex());
            }
            for (name, value) in call.fields() {
                if line.begin(name, &self.in_access, Again::Prefix) {
                    if visit::own(line.bytes(), value) {
                        line.mark_cut();
                    }
                    line.end();
                }
            }
        });
    }

    /// A text under a key that is ready to be copied.
    fn text(&self, line: &mut Line, key: &[u8], value: &str) {
        let out = line.bytes();
        out.extend_from_slice(key);
        escape::push_text(out, escape::start_of(value, MAX_NAME).0);
        out.push(b'"');
    }
}

/// Writes one of our own fields, unless the line has it.
pub(super) fn field(line: &mut Line, key: &str, value: &str) {
    if line.begin(key, &NONE, Again::Skip) {
        line.bytes().push(b'"');
        escape::push_text(line.bytes(), escape::start_of(value, MAX_NAME).0);
        line.bytes().push(b'"');
        line.end();
    }
}
