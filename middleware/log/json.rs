//! The layer that writes each event as one line.

use std::fmt;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::access::{self, Facts};
use super::callsite::{ACCESS, Callsite};
use super::form::{Form, Identity, field};
use super::line::{Again, Line, Reserved};
use super::schema::{self, Schema, Unit};
use super::scratch::{Depth, Scratch};
use super::span::SpanFields;
use super::visit::{Fields, Visitor};
use super::writer::{Kind, Writer};

/// Texts inside of a nested object are cut to this many bytes, so that the object fits into the line.
const MAX_NESTED: usize = 2048;

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
            self.render(event, &context, scratch);
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

    fn render<S>(&self, event: &Event<'_>, context: &Context<'_, S>, scratch: &mut Scratch)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let form = &self.form;
        let Scratch {
            line,
            stamp,
            nested,
            callsites,
            ..
        } = scratch;
        let callsite = callsites.find(form, event.metadata());
        let access = callsite.access;
        line.clear();
        nested.clear();
        if callsite.foreign {
            let target = Foreign::target(event);
            let target = target.as_deref().unwrap_or(event.metadata().target());
            form.head(line, stamp, event.metadata().level(), target);
        } else {
            form.time(line, stamp);
            line.bytes().extend_from_slice(&callsite.head);
        }
        if !access {
            form.ids(line);
        }
        let out = line.bytes();
        let lent =
            callsite.whole && access::lent(|it, tell| tell(it, &mut Facts::of(callsite, out)));
        if !lent {
            let mut fields = EventFields {
                line,
                nested,
                callsite,
                nested_key: None,
            };
            event.record(&mut Visitor(&mut fields));
            fields.close_nested(form.reserved_for(access));
        }
        let reserved = if access {
            &form.in_access
        } else {
            &form.reserved
        };
        if access {
            form.call(line, lent);
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

/// The fields of an event on their way into the line.
struct EventFields<'a> {
    line: &'a mut Line,
    nested: &'a mut Vec<u8>,
    callsite: &'a Callsite,
    /// The name of the field that was begun, if it goes into the nested object.
    nested_key: Option<&'static str>,
}

impl Fields for EventFields<'_> {
    fn begin(&mut self, field: &Field) -> Option<Unit> {
        let key = self.callsite.key(field)?;
        self.nested_key = key.nested;
        self.line.begin_ready(&key.ready).then_some(key.unit)
    }

    fn value(&mut self) -> &mut Vec<u8> {
        self.line.bytes()
    }

    fn end(&mut self, cut: bool) {
        self.line.end();
        if cut {
            self.line.mark_cut();
        }
        if let Some(key) = self.nested_key {
            self.nest(key);
        }
    }
}

impl EventFields<'_> {
    /// Moves the field that was written last into the nested object.
    fn nest(&mut self, key: &str) {
        let before: &[u8] = if self.nested.is_empty() {
            b"{\""
        } else {
            b",\""
        };
        self.nested.extend_from_slice(before);
        self.nested.extend_from_slice(key.as_bytes());
        self.nested.extend_from_slice(b"\":");
        self.line.move_value(self.nested, MAX_NESTED);
    }

    fn close_nested(&mut self, reserved: &Reserved) {
        let some = !self.nested.is_empty();
        if some
            && self
                .line
                .begin(schema::HTTP_REQUEST, reserved, Again::Prefix)
        {
            self.line.bytes().extend_from_slice(self.nested);
            self.line.bytes().push(b'}');
            self.line.end();
        }
    }
}

/// Where a record of the `log` crate says it comes from. Its own target is `log`.
struct Foreign(Option<String>);

impl Foreign {
    fn target(event: &Event<'_>) -> Option<String> {
        let mut foreign = Self(None);
        event.record(&mut foreign);
        foreign.0
    }
}

impl Visit for Foreign {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
