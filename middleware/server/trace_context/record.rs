use std::{borrow::Cow, fmt, sync::atomic::Ordering};

use http::{HeaderMap, Request, Response, Version};
use http_body::Body;
use opentelemetry::{
    Array, Context, KeyValue, StringValue, Value,
    trace::{Link, SpanBuilder, SpanContext, SpanKind},
};

use super::{Settings, Trust};
use crate::{
    clock,
    context::{PeerAddr, Route, Scope, TRACEPARENT, TraceContext},
    observe::{End, Observer, Witness},
    protocol::{OTHER, Protocol},
    spans::{self, Live, Start},
};

/// A method that is not known is told in full up to this many bytes.
const MAX_ORIGINAL: usize = 64;

/// A call and its span, which ends with it.
pub struct Traced {
    live: Live,
    witness: Witness,
    protocol: Protocol,
}

impl Traced {
    pub(super) fn begin<B: Body + 'static>(
        request: Request<B>,
        start: &dyn Start,
        settings: &Settings,
        scope: &mut Scope,
    ) -> (Request<B>, Self) {
        let came = scope.update(|frame| frame.trace().cloned()).flatten();
        let parent = settings.parent(came.as_ref(), request.headers());
        let protocol = scope.protocol(&request);
        let mut builder = settings.describe(&request, protocol);
        let parent = match (settings.trust, parent) {
            (Trust::Restart, Some(theirs)) => {
                builder.links = Some(vec![Link::with_context(theirs)]);
                None
            }
            (_, parent) => parent,
        };
        let restarted = settings.trust == Trust::Restart;
        let live = start.start(builder, &spans::context_of(parent));
        let told = spans::told(&live.context(), came.as_ref().filter(|_| !restarted));
        // Without a provider the caller's trace is passed on as it came.
        let told = told.or_else(|| came.filter(|_| !restarted));
        scope.update(|frame| frame.set_trace(told));
        if let Some(span) = live.entered() {
            scope.set_span(span.clone());
        }
        let mut witness = Witness::of(protocol);
        let request = witness.watch(request, scope);
        let traced = Self {
            live,
            witness,
            protocol,
        };
        (request, traced)
    }

    pub(super) fn context(&self) -> Option<Context> {
        self.live.active().cloned()
    }
}

impl Observer for Traced {
    fn on_head<B: Body>(&mut self, response: &mut Response<B>) {
        self.witness.on_head(response);
    }

    fn on_end(mut self, end: End<'_>) {
        let outcome = self.witness.judge(&end);
        let live = &self.live;
        if live.is_recording() {
            let head = self.witness.head();
            let (status, grpc) = (
                head.map(|head| head.status),
                head.and_then(|head| head.grpc),
            );
            if self.protocol.is_grpc() {
                if let Some(code) = grpc {
                    live.set(KeyValue::new("rpc.response.status_code", code.name()));
                }
            } else if let Some(status) = status {
                let status = i64::from(status.as_u16());
                live.set(KeyValue::new("http.response.status_code", status));
            }
            if let Some(error) = outcome.error_type(status, grpc) {
                // What the status says already needs no description.
                let said = error
                    .bytes()
                    .next()
                    .is_none_or(|first| !first.is_ascii_lowercase());
                let description = if said { "" } else { outcome.label() };
                live.set(KeyValue::new("error.type", error.into_owned()));
                live.fail(Cow::Borrowed(description));
            }
        }
        live.end();
    }
}

impl fmt::Debug for Traced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traced")
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// The caller's span, as far as its wishes are heard.
    fn parent(&self, came: Option<&TraceContext>, headers: &HeaderMap) -> Option<SpanContext> {
        let Some(came) = came else {
            if headers.contains_key(TRACEPARENT) {
                self.counts.malformed.fetch_add(1, Ordering::Relaxed);
            }
            return None;
        };
        let parent = spans::parent(came, true);
        let Some(cap) = self.cap.as_ref().filter(|_| parent.is_sampled()) else {
            return Some(parent);
        };
        if cap.admits(clock::now()) {
            return Some(parent);
        }
        self.counts.over_cap.fetch_add(1, Ordering::Relaxed);
        Some(spans::parent(came, false))
    }

    /// Name, kind and what a sampler may want to know.
    fn describe<B>(&self, request: &Request<B>, protocol: Protocol) -> SpanBuilder {
        let mut attributes = Vec::with_capacity(10);
        let name = if protocol.is_grpc() {
            self.describe_rpc(request, &mut attributes)
        } else {
            self.describe_http(request, &mut attributes)
        };
        if let Some(PeerAddr(peer)) = PeerAddr::of(request.extensions()) {
            let address = peer.ip().to_string();
            attributes.push(KeyValue::new("client.address", address.clone()));
            attributes.push(KeyValue::new("network.peer.address", address));
            attributes.push(KeyValue::new("network.peer.port", i64::from(peer.port())));
        }
        for header in &self.headers {
            let values = request.headers().get_all(header).iter();
            let values: Vec<StringValue> = values
                .map(|value| {
                    String::from_utf8_lossy(value.as_bytes())
                        .into_owned()
                        .into()
                })
                .collect();
            if !values.is_empty() {
                let key = format!("http.request.header.{header}");
                attributes.push(KeyValue::new(key, Value::Array(Array::String(values))));
            }
        }
        SpanBuilder::from_name(name)
            .with_kind(SpanKind::Server)
            .with_attributes(attributes)
    }

    fn describe_http<B>(
        &self,
        request: &Request<B>,
        attributes: &mut Vec<KeyValue>,
    ) -> Cow<'static, str> {
        let method = self.methods.label(request.method());
        let mut name = method.clone();
        if method == OTHER {
            let original = shortened(request.method().as_str());
            attributes.push(KeyValue::new("http.request.method_original", original));
            name = Cow::Borrowed("HTTP");
        }
        if let Some(route) = Route::pattern(request.extensions()) {
            name = [&*name, " ", route].concat().into();
            attributes.push(KeyValue::new("http.route", route.to_owned()));
        }
        let uri = request.uri();
        let https = uri
            .scheme()
            .is_some_and(|scheme| *scheme == http::uri::Scheme::HTTPS);
        attributes.push(KeyValue::new("http.request.method", method));
        attributes.push(KeyValue::new("url.path", uri.path().to_owned()));
        attributes.push(KeyValue::new(
            "url.scheme",
            if https { "https" } else { "http" },
        ));
        attributes.push(KeyValue::new(
            "network.protocol.version",
            version(request.version()),
        ));
        name
    }

    fn describe_rpc<B>(
        &self,
        request: &Request<B>,
        attributes: &mut Vec<KeyValue>,
    ) -> Cow<'static, str> {
        let method = request.uri().path().trim_start_matches('/');
        attributes.push(KeyValue::new("rpc.system.name", "grpc"));
        if self.rpc_methods.contains(method) {
            attributes.push(KeyValue::new("rpc.method", method.to_owned()));
            method.to_owned().into()
        } else {
            attributes.push(KeyValue::new("rpc.method", OTHER));
            attributes.push(KeyValue::new("rpc.method_original", shortened(method)));
            "grpc".into()
        }
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(MAX_ORIGINAL).collect()
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}
