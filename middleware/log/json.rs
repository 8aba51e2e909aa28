//! The layer that writes each event as one line.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::escape;
use super::line::{Again, Line, Reserved};
use super::schema::{self, Schema, Unit};
use super::span::SpanFields;
use super::visit::{self, Fields, Visitor};
use super::writer::{Kind, Writer};
use crate::{clock, context};

/// The target of the lines that tell how calls ended.
const ACCESS: &str = "plimsoll::access";

/// Targets of events whose fields the schema renames.
const OWN: &str = "plimsoll::";

/// Targets and names of spans come from code; longer ones are cut, in bytes.
const MAX_NAME: usize = 256;

/// Texts inside of a nested object are cut to this many bytes, so that the object fits into the line.
const MAX_NESTED: usize = 2048;

/// An event inside of an event inside of an event: one whose `Debug` logs. Deeper ones are counted as dropped.
const MAX_DEPTH: usize = 4;

/// A [`Layer`] that writes every event as one flat JSON object a line.
///
/// A line has `timestamp` (RFC 3339, UTC, microseconds), `level`, `target`, `service`, `version`, `deployment`, the
/// `request_id`, `trace_id` and `span_id` of the call that is running, `message`, the event's fields, `span` (the name
/// of the innermost span), and the fields of all spans around it. No key stands twice: a field of the event hides one
/// of a span, an inner span's hides an outer's, and a field with one of our own names, or one that the event has twice,
/// is written under `fields.<name>`. Lines are at most 16 KiB long; then the longest texts are cut and
/// `"truncated":true` says so.
///
/// It stacks with filters and other layers, and each clone writes to the same [`Writer`].
///
/// ```
/// use plimsoll::log::{JsonLayer, Writer};
/// use tracing_subscriber::layer::SubscriberExt;
///
/// let writer = Writer::new(std::io::sink())?;
/// let subscriber = tracing_subscriber::registry().with(JsonLayer::new(writer.clone()).service("reception"));
/// tracing::subscriber::with_default(subscriber, || tracing::info!(coffee = "cappuccino", "order taken"));
/// writer.flush(std::time::Duration::from_secs(1))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct JsonLayer {
    writer: Writer,
    form: Form,
}

impl JsonLayer {
    /// Writes to `writer`, in the [plain](Schema::Plain) schema, without the name of a service.
    pub fn new(writer: Writer) -> Self {
        Self {
            writer,
            form: Form::default(),
        }
        .announced()
    }

    /// The name of the service, on every line. Default: none.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.form.identity.service = Some(name.into());
        self.announced()
    }

    /// The version of the service, on every line; a git commit serves well. Default: none.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.form.identity.version = Some(version.into());
        self.announced()
    }

    /// Where the service is deployed, such as `production`, on every line. Default: none.
    pub fn deployment(mut self, deployment: impl Into<String>) -> Self {
        self.form.identity.deployment = Some(deployment.into());
        self.announced()
    }

    /// Under which names a line tells its facts. Default: [`Schema::Plain`].
    pub fn schema(mut self, schema: Schema) -> Self {
        self.form.schema = schema;
        self.announced()
    }

    pub(super) fn identity(mut self, identity: Identity) -> Self {
        self.form.identity = identity;
        self.announced()
    }

    /// What the writer itself has to say shall look like all other lines.
    fn announced(mut self) -> Self {
        self.form = Form::new(self.form.schema, self.form.identity);
        self.writer.set_form(Arc::new(self.form.clone()));
        self
    }
}

impl fmt::Debug for JsonLayer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = &self.form.identity;
        out.debug_struct("JsonLayer")
            .field("schema", &self.form.schema)
            .field("identity", identity)
            .finish()
    }
}

impl<S> Layer<S> for JsonLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.is_empty() {
            return;
        }
        self.with_span_fields(id, &context, |visitor| attributes.record(visitor));
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        self.with_span_fields(id, &context, |visitor| record.record(visitor));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let kind = if metadata.target() == ACCESS {
            Kind::Access
        } else {
            Kind::Event
        };
        let Some(_deeper) = Depth::enter() else {
            self.writer.drop_nested(kind);
            return;
        };
        Scratch::with(|scratch| {
            self.render(event, kind, &context, scratch);
            self.writer.append(kind, scratch.line.finish());
        });
    }
}

impl JsonLayer {
    /// Writes the fields of a span as JSON, then keeps them with the span. While users' code formats a value no lock is
    /// held, since that code may log.
    fn with_span_fields<S>(
        &self,
        id: &Id,
        context: &Context<'_, S>,
        record: impl FnOnce(&mut dyn Visit),
    ) where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        Scratch::with(|scratch| {
            let newer = &mut scratch.span;
            newer.clear();
            record(&mut Visitor(newer));
            let Some(span) = context.span(id).filter(|_| !newer.is_empty()) else {
                return;
            };
            let mut extensions = span.extensions_mut();
            match extensions.get_mut::<SpanFields>() {
                Some(fields) => fields.replace(newer),
                None => extensions.insert(newer.compact()),
            }
        });
    }

    fn render<S>(
        &self,
        event: &Event<'_>,
        kind: Kind,
        context: &Context<'_, S>,
        scratch: &mut Scratch,
    ) where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let form = &self.form;
        let Scratch {
            line,
            stamp,
            nested,
            ..
        } = scratch;
        let metadata = event.metadata();
        let access = kind == Kind::Access;
        let foreign = Foreign::of(event);
        line.clear();
        nested.clear();
        form.head(line, stamp, metadata.level(), foreign.target(metadata));
        if !access {
            form.ids(line);
        }
        let mut fields = EventFields {
            line,
            nested,
            form,
            own: metadata.target().starts_with(OWN),
            foreign: foreign.is_foreign(),
            reserved: if access {
                &form.for_access
            } else {
                &form.reserved
            },
            place: None,
        };
        event.record(&mut Visitor(&mut fields));
        fields.close_nested();
        let reserved = if access {
            &form.in_access
        } else {
            &form.reserved
        };
        if access {
            form.call(line);
        }
        let mut named = access;
        for span in context.event_scope(event).into_iter().flatten() {
            if !named {
                named = true;
                field(line, form.schema.base().span, span.name());
            }
            if let Some(fields) = span.extensions().get::<SpanFields>() {
                fields.copy_to(line, reserved);
            }
        }
    }
}

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
    schema: Schema,
    identity: Identity,
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
    reserved: Reserved,
    for_access: Reserved,
    in_access: Reserved,
}

impl Default for Form {
    fn default() -> Self {
        Self::new(Schema::default(), Identity::default())
    }
}

impl Form {
    fn new(schema: Schema, identity: Identity) -> Self {
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
        Self {
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
    fn head(&self, line: &mut Line, stamp: &mut Stamp, level: &Level, target: &str) {
        let out = line.bytes();
        out.extend_from_slice(self.start.as_bytes());
        stamp.push(out, clock::wall_clock());
        out.extend_from_slice(self.level(level).as_bytes());
        escape::push_text(out, escape::start_of(target, MAX_NAME).0);
        out.extend_from_slice(self.service.as_bytes());
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
    fn ids(&self, line: &mut Line) {
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

    /// The end of an access line: ids that it did not bring itself, then what handlers added.
    fn call(&self, line: &mut Line) {
        let base = self.schema.base();
        context::current(|call| {
            let trace = call.trace();
            for (key, value) in [
                (
                    Some(base.request_id),
                    call.request_id().map(|id| id.as_str()),
                ),
                (Some(base.trace_id), trace.map(|trace| trace.trace_id())),
                (Some(base.span_id), trace.map(|trace| trace.span_id())),
                (base.trace_flags, trace.map(|trace| trace.flags_hex())),
            ] {
                if let (Some(key), Some(value)) = (key, value) {
                    field(line, key, value);
                }
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
fn field(line: &mut Line, key: &str, value: &str) {
    if line.begin(key, &NONE, Again::Skip) {
        line.bytes().push(b'"');
        escape::push_text(line.bytes(), escape::start_of(value, MAX_NAME).0);
        line.bytes().push(b'"');
        line.end();
    }
}

/// The fields of an event on their way into the line.
struct EventFields<'a> {
    line: &'a mut Line,
    nested: &'a mut Vec<u8>,
    form: &'a Form,
    own: bool,
    foreign: bool,
    reserved: &'a Reserved,
    /// Where the field that was begun goes, if the schema moved it.
    place: Option<schema::Place>,
}

impl Fields for EventFields<'_> {
    fn begin(&mut self, name: &str) -> Option<Unit> {
        self.place = None;
        if name == "message" {
            let key = self.form.schema.base().message;
            // A second message is a field as any other.
            let reserved = if self.line.has(key) {
                self.reserved
            } else {
                &NONE
            };
            return self
                .line
                .begin(key, reserved, Again::Prefix)
                .then_some(Unit::AsIs);
        }
        if self.foreign && name.starts_with("log.") {
            return None;
        }
        if self.own {
            self.place = self.form.schema.place(name);
        }
        let (key, unit) = self
            .place
            .map_or((name, Unit::AsIs), |place| (place.key, place.unit));
        self.line
            .begin(key, self.reserved, Again::Prefix)
            .then_some(unit)
    }

    fn value(&mut self) -> &mut Vec<u8> {
        self.line.bytes()
    }

    fn end(&mut self, cut: bool) {
        self.line.end();
        if cut {
            self.line.mark_cut();
        }
        if let Some(place) = self.place.filter(|place| place.nested) {
            self.nested.extend_from_slice(if self.nested.is_empty() {
                b"{\""
            } else {
                b",\""
            });
            self.nested.extend_from_slice(place.key.as_bytes());
            self.nested.extend_from_slice(b"\":");
            self.line.move_value(self.nested, MAX_NESTED);
        }
    }
}

impl EventFields<'_> {
    fn close_nested(&mut self) {
        if !self.nested.is_empty()
            && self
                .line
                .begin(schema::HTTP_REQUEST, self.reserved, Again::Prefix)
        {
            self.line.bytes().extend_from_slice(self.nested);
            self.line.bytes().push(b'}');
            self.line.end();
        }
    }
}

static NONE: Reserved = Reserved::none();

/// Where an event of the `log` crate says it comes from. Its own target is `log`.
#[derive(Default)]
struct Foreign {
    is_foreign: bool,
    target: Option<String>,
}

impl Foreign {
    fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        if metadata.target() != "log" || metadata.name() != "log event" {
            return Self::default();
        }
        let mut foreign = Self {
            is_foreign: true,
            target: None,
        };
        event.record(&mut foreign);
        foreign
    }

    fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    fn target<'a>(&'a self, metadata: &'a Metadata<'_>) -> &'a str {
        self.target.as_deref().unwrap_or(metadata.target())
    }
}

impl Visit for Foreign {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.target = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// What a thread keeps from line to line, so that a line allocates nothing.
#[derive(Default)]
struct Scratch {
    line: Line,
    nested: Vec<u8>,
    span: SpanFields,
    stamp: Stamp,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

impl Scratch {
    /// Lends the thread's memory. A line that is written while another is finds none there and brings its own.
    fn with(work: impl FnOnce(&mut Self)) {
        // A thread that is ending has no memory of its own left.
        let mut scratch = SCRATCH
            .try_with(Cell::take)
            .unwrap_or_default()
            .unwrap_or_default();
        work(&mut scratch);
        if let Err(_ending) = SCRATCH.try_with(|kept| kept.set(Some(scratch))) {
            // The memory is gone with the thread; the line is not.
        }
    }
}

/// How many lines this thread is writing inside of each other.
struct Depth;

impl Depth {
    fn enter() -> Option<Self> {
        let depth = DEPTH.get();
        DEPTH.set(depth.saturating_add(1));
        let deeper = Self;
        (depth < MAX_DEPTH).then_some(deeper)
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get().saturating_sub(1));
    }
}

/// The time as text. The second's text is kept: only the microseconds change from line to line.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    second: Option<u64>,
    text: String,
}

impl Stamp {
    pub(super) fn push(&mut self, out: &mut Vec<u8>, now: SystemTime) {
        // A clock that stands before 1970 shows 1970.
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            let second = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            let time = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::MAX);
            self.text.clear();
            let written = write!(self.text, "{}", time.strftime("%Y-%m-%dT%H:%M:%S."));
            written.expect("every time of this format can be written");
            self.second = Some(since.as_secs());
        }
        out.extend_from_slice(self.text.as_bytes());
        let micros = u64::from(since.subsec_micros());
        out.extend_from_slice(&[
            escape::digit(micros / 100_000),
            escape::digit(micros / 10_000 % 10),
            escape::digit(micros / 1_000 % 10),
            escape::digit(micros / 100 % 10),
            escape::digit(micros / 10 % 10),
            escape::digit(micros % 10),
            b'Z',
        ]);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_is_rfc_3339_in_utc_with_microseconds() {
        let mut stamp = Stamp::default();
        let mut shown = |now| {
            let mut out = Vec::new();
            stamp.push(&mut out, now);
            String::from_utf8(out).expect("UTF-8")
        };
        let now = UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_042);
        assert_eq!(shown(now), "2023-11-14T22:13:20.000042Z");
        assert_eq!(
            shown(now + Duration::from_millis(999)),
            "2023-11-14T22:13:20.999042Z"
        );
        assert_eq!(
            shown(now + Duration::from_secs(1)),
            "2023-11-14T22:13:21.000042Z"
        );
        assert_eq!(
            shown(UNIX_EPOCH - Duration::from_secs(9)),
            "1970-01-01T00:00:00.000000Z"
        );
    }
}
