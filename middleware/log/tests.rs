//! What a line of a call looks like: these need the frame of a call, which only layers make.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tracing_subscriber::layer::SubscriberExt;

use super::{JsonLayer, Schema, Writer};
use crate::context::{self, FieldValue};

/// The keys of an object, in order and with repetitions.
pub(super) fn keys_of(line: &[u8]) -> Vec<String> {
    use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Vec<String>;
        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut keys = Vec::new();
            while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
                keys.push(key);
            }
            Ok(keys)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(line);
    let keys = json.deserialize_map(Keys).expect("one JSON object");
    json.end().expect("nothing behind it");
    keys
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that `work` logs.
fn lines(schema: Schema, work: impl FnOnce()) -> Vec<Value> {
    let memory = Memory::default();
    let writer = Writer::new(memory.clone()).expect("a thread");
    let layer = JsonLayer::new(writer.clone())
        .schema(schema)
        .service("s")
        .version("v")
        .deployment("d");
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    writer.flush(Duration::from_secs(60)).expect("written");
    let written = memory.0.lock().expect("free").clone();
    let lines = written.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let mut keys = keys_of(line);
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all, "{}", String::from_utf8_lossy(line));
        let mut value: Value = serde_json::from_slice(line).expect("JSON");
        for time in ["timestamp", "@timestamp", "time"] {
            value.as_object_mut().expect("an object").remove(time);
        }
        value
    });
    lines.collect()
}

fn access_line() {
    let span = tracing::info_span!("request", method = "forged", uri = "/");
    let _entered = span.enter();
    let error: Option<&str> = None;
    tracing::warn!(
        target: "plimsoll::access",
        event = "request",
        request_id = "own-id",
        protocol = "http/1.1",
        method = "GET",
        path = "/orders",
        status = 200_u64,
        outcome = "ok",
        error,
        bytes_out = 5_u64,
        duration_ms = 12.25,
        ttfb_ms = 2.5,
        "call ended"
    );
}

#[test]
fn every_line_of_a_call_bears_its_ids() {
    let written = lines(Schema::Plain, || {
        context::pretend("id-1", vec![("tenant", FieldValue::Bool(true))], || {
            tracing::info!(trace_id = "mine", "within");
        });
        tracing::info!("outside");
    });
    assert_eq!(
        written,
        [
            json!({
                "level": "INFO", "target": "plimsoll::log::tests", "service": "s", "version": "v", "deployment": "d",
                "request_id": "id-1", "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331",
                "message": "within", "fields.trace_id": "mine",
            }),
            json!({
                "level": "INFO", "target": "plimsoll::log::tests", "service": "s", "version": "v", "deployment": "d",
                "message": "outside",
            }),
        ]
    );
}

#[test]
fn the_access_line_brings_its_own_id_and_what_handlers_added() {
    let fields = vec![
        ("tenant", FieldValue::Text("acme".into())),
        ("status", FieldValue::Signed(-1)),
        ("level", FieldValue::Unsigned(7)),
        ("share", FieldValue::Float(0.5)),
    ];
    let written = lines(Schema::Plain, || {
        context::pretend("other-id", fields, access_line)
    });
    assert_eq!(
        written,
        [json!({
            "level": "WARN", "target": "plimsoll::access", "service": "s", "version": "v", "deployment": "d",
            "event": "request", "request_id": "own-id", "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "span_id": "b7ad6b7169203331", "protocol": "http/1.1", "method": "GET", "path": "/orders", "status": 200,
            "outcome": "ok", "bytes_out": 5, "duration_ms": 12.25, "ttfb_ms": 2.5, "message": "call ended",
            "tenant": "acme", "fields.status": -1, "fields.level": 7, "share": 0.5,
            "fields.method": "forged", "uri": "/",
        })]
    );
}

#[test]
fn schemas_swap_names_and_units() {
    let of = |schema| lines(schema, access_line).remove(0);
    let otel = of(Schema::Otel);
    assert_eq!(otel["severity_text"], "WARN");
    assert_eq!(otel["severity_number"], 13);
    assert_eq!(otel["body"], "call ended");
    assert_eq!(otel["http.request.method"], "GET");
    assert_eq!(otel["fields.http.request.method"], Value::Null);
    assert_eq!(otel["method"], "forged");
    assert_eq!(otel["http.server.request.duration"], 0.01225);
    assert_eq!(otel["service.name"], "s");
    let ecs = of(Schema::Ecs);
    assert_eq!(ecs["log.level"], "WARN");
    assert_eq!(ecs["event.action"], "request");
    assert_eq!(ecs["event.duration"], 12_250_000);
    assert_eq!(ecs["http.request.id"], "own-id");
    let gcp = of(Schema::Gcp);
    assert_eq!(gcp["severity"], "WARNING");
    assert_eq!(
        gcp["httpRequest"],
        json!({
            "protocol": "http/1.1", "requestMethod": "GET", "requestUrl": "/orders", "status": 200,
            "responseSize": 5, "latency": "0.01225s",
        })
    );
}

#[test]
fn a_giant_access_line_keeps_how_the_call_ended() {
    for schema in [Schema::Plain, Schema::Otel, Schema::Ecs, Schema::Gcp] {
        let long = "\u{1}".repeat(65_536);
        let line = lines(schema, || {
            tracing::info!(
                target: "plimsoll::access",
                path = long, user_agent = long, error = long, outcome = "ok", duration_ms = 1.0, "call ended"
            );
        });
        assert_eq!(line[0]["truncated"], true, "{schema:?}");
        assert_eq!(line[0]["outcome"], "ok");
        assert!(line[0].to_string().contains("\\u0001"));
    }
}
