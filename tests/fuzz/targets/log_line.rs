//! Whatever a caller sends and a handler logs: each line is one JSON object of at most 16 KiB, no key twice, no control byte.

#![no_main]

use std::{
    collections::HashSet,
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    io::Write,
    pin::pin,
    sync::{Arc, LazyLock, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use libfuzzer_sys::{arbitrary, arbitrary::Arbitrary, fuzz_target};
use plimsoll::{
    log::{JsonLayer, Schema, Writer},
    server::{
        access_log::{self, AccessLogLayer},
        catch_panic::CatchPanicLayer,
        request_id::RequestIdLayer,
    },
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use tower_layer::Layer;
use tower_service::Service;
use tracing::Dispatch;
use tracing_subscriber::prelude::*;

const MAX_LINE: usize = 16 * 1024;

/// What the caller sends and the handler logs.
#[derive(Arbitrary, Clone, Debug)]
struct Input {
    schema: u8,
    path: String,
    headers: [Vec<u8>; 4],
    message: String,
    field: String,
    chain: Vec<String>,
    bytes: Vec<u8>,
    number: f64,
    integer: i128,
    span: String,
    own: String,
    panics: bool,
    repeat: u16,
}

struct Log {
    lines: Arc<Mutex<Vec<u8>>>,
    writer: Writer,
    subscribers: Vec<Dispatch>,
}

struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .expect("no target panics while it holds the lock")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    // libFuzzer ends the process in a panic hook of its own: panics that are caught are no findings here.
    std::panic::set_hook(Box::new(|_| {}));
    let lines = Arc::<Mutex<Vec<u8>>>::default();
    let writer = Writer::new(Sink(Arc::clone(&lines))).expect("a writer");
    let subscribers = [Schema::Plain, Schema::Otel, Schema::Ecs, Schema::Gcp].map(|schema| {
        let layer = JsonLayer::new(writer.clone())
            .service("fuzz\u{7f}")
            .version("\"1\"")
            .deployment("\u{9b}")
            .schema(schema);
        Dispatch::new(tracing_subscriber::registry().with(layer))
    });
    Log {
        lines,
        writer,
        subscribers: subscribers.into(),
    }
});

fuzz_target!(|input: Input| {
    let log = &*LOG;
    let subscriber = &log.subscribers[usize::from(input.schema) % log.subscribers.len()];
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let lines = tracing::dispatcher::with_default(subscriber, || run(&input));
        log.writer
            .flush(Duration::from_secs(5))
            .expect("the sink takes all");
        let written = std::mem::take(
            &mut *log
                .lines
                .lock()
                .expect("no target panics while it holds the lock"),
        );
        check(&written, lines);
    }));
    if let Err(panic) = caught {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        eprintln!("{input:?}: {}", text.unwrap_or("a panic without a text"));
        std::process::abort();
    }
});

/// One call through all layers of the server, which logs on its way. Returns how many lines that makes.
fn run(input: &Input) -> usize {
    let layers = (
        RequestIdLayer::new(),
        AccessLogLayer::new().call_span(),
        CatchPanicLayer::new(),
    );
    let mut service = layers
        .0
        .layer(layers.1.layer(layers.2.layer(Handler(input.clone()))));
    let path: String = input
        .path
        .chars()
        .filter(|&letter| letter.is_ascii_graphic())
        .collect();
    let mut request = Request::builder().uri(format!("/{path}"));
    for (name, value) in ["x-request-id", "user-agent", "traceparent", "authorization"]
        .into_iter()
        .zip(&input.headers)
    {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request = request.header(name, value);
        }
    }
    let Ok(request) = request.body(Full::<&[u8]>::default()) else {
        return 0;
    };
    let mut call = pin!(service.call(request));
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => drop(answer),
        Poll::Pending => panic!("a handler that is always ready was pending"),
    }
    5 + usize::from(input.panics)
}

#[derive(Clone)]
struct Handler(Input);

impl<B> Service<Request<B>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let Input {
            message,
            field,
            chain,
            bytes,
            number,
            integer,
            span,
            own,
            panics,
            repeat,
            ..
        } = &self.0;
        let long = field.repeat(usize::from(*repeat) % 2_000);
        let _entered = tracing::info_span!("a span", field = span.as_str(), level = span.as_str(), only = ?span).entered();
        let _inner =
            tracing::info_span!("inner", field = %span, request_id = span.as_str()).entered();
        tracing::info!(field = field.as_str(), number, integer, "{message}");
        tracing::warn!(level = field.as_str(), timestamp = %field, target = ?field, service = message.as_str(), message = field.as_str());
        tracing::error!(
            request_id = field.as_str(),
            trace_id = field.as_str(),
            event = field.as_str(),
            fields.level = 1,
            "{long}"
        );
        tracing::info!(error = &Chain::of(chain) as &(dyn std::error::Error + 'static), bytes = &bytes[..], deep.er.name = ?bytes, long);
        access_log::field("own", own.clone());
        access_log::field("status", own.clone());
        assert!(!panics, "{message}");
        ready(Ok(Response::new(Full::default())))
    }
}

#[derive(Debug)]
struct Chain(String, Option<Box<Chain>>);

impl Chain {
    fn of(texts: &[String]) -> Self {
        match texts.split_first() {
            Some((first, rest)) => Self(
                first.clone(),
                (!rest.is_empty()).then(|| Box::new(Self::of(rest))),
            ),
            None => Self(String::new(), None),
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Chain {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.1.as_deref().map(|cause| cause as _)
    }
}

fn check(written: &[u8], lines: usize) {
    let text = std::str::from_utf8(written).expect("UTF-8");
    assert_eq!(text.matches('\n').count(), lines, "lines in {text}");
    for line in text.split_terminator('\n') {
        assert!(line.len() < MAX_LINE, "{} bytes", line.len());
        let bad = line.chars().find(|letter| letter.is_control());
        assert!(bad.is_none(), "{bad:?} in {line}");
        assert!(line.starts_with('{'), "no object: {line}");
        if let Err(error) = serde_json::from_str::<NoKeyTwice>(line) {
            panic!("{error}: {line}");
        }
    }
}

/// Any JSON, if no object in it has a key twice.
struct NoKeyTwice;

impl<'de> Deserialize<'de> for NoKeyTwice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = NoKeyTwice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<NoKeyTwice, M::Error> {
                let mut keys = HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    map.next_value::<NoKeyTwice>()?;
                    if let Some(twice) = keys.replace(key) {
                        return Err(M::Error::custom(format!("the key {twice:?} twice")));
                    }
                }
                Ok(NoKeyTwice)
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<NoKeyTwice, S::Error> {
                while seq.next_element::<NoKeyTwice>()?.is_some() {}
                Ok(NoKeyTwice)
            }

            fn visit_unit<E>(self) -> Result<NoKeyTwice, E> {
                Ok(NoKeyTwice)
            }

            fn visit_bool<E>(self, _: bool) -> Result<NoKeyTwice, E> {
                Ok(NoKeyTwice)
            }

            fn visit_i64<E>(self, _: i64) -> Result<NoKeyTwice, E> {
                Ok(NoKeyTwice)
            }

            fn visit_u64<E>(self, _: u64) -> Result<NoKeyTwice, E> {
                Ok(NoKeyTwice)
            }

            fn visit_f64<E>(self, _: f64) -> Result<NoKeyTwice, E> {
                Ok(NoKeyTwice)
            }

            fn visit_str<E>(self, _: &str) -> Result<NoKeyTwice, E> {
                Ok(NoKeyTwice)
            }
        }
        deserializer.deserialize_any(Any)
    }
}
