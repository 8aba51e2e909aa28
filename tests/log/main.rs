//! The log through its public API: what a line is, and what becomes of lines when the sink does not work.
#![cfg(feature = "access-log")]

mod line;
mod sink;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plimsoll::log::{JsonLayer, Writer};
use serde_json::Value;
use tracing::Dispatch;
use tracing::dispatcher::with_default;
use tracing_subscriber::layer::SubscriberExt;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

/// Keeps what it is given, as the settings of `faults` allow.
#[derive(Clone, Default)]
struct Memory {
    bytes: Arc<Mutex<Vec<u8>>>,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Default)]
struct Faults {
    /// What becomes of the next writes; then all is well.
    next: Vec<Fault>,
    /// Whether all writes fail, whatever `next` says.
    broken: bool,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Error,
    Zero,
    Panic,
    Short(usize),
    Again,
}

impl Memory {
    fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn text(&self) -> String {
        let bytes = self
            .bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        String::from_utf8(bytes).expect("always UTF-8")
    }

    /// All lines, each checked to be what every line must be.
    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "a torn line: {text:?}"
        );
        text.lines().map(checked).collect()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fault = {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            if faults.broken {
                Some(Fault::Error)
            } else {
                faults.next.pop()
            }
        };
        let length = match fault {
            None => bytes.len(),
            Some(Fault::Short(length)) => length.clamp(1, bytes.len()),
            Some(Fault::Zero) => return Ok(0),
            Some(Fault::Error) => return Err(io::Error::other("the disk is full")),
            Some(Fault::Again) => return Err(io::ErrorKind::Interrupted.into()),
            Some(Fault::Panic) => std::panic::resume_unwind(Box::new("the sink panics")),
        };
        self.bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Parses a line and checks what holds for every line: one object, no key twice, no byte that is not printed.
fn checked(line: &str) -> Value {
    assert!(line.len() < 16 * 1024, "{} bytes", line.len());
    let tame = |char: char| {
        !char.is_control()
            && !matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(line.chars().all(tame), "{line:?}");
    struct Object(HashMap<String, Value>);
    impl<'de> serde::Deserialize<'de> for Object {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Unique;
            impl<'de> serde::de::Visitor<'de> for Unique {
                type Value = Object;
                fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                    out.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Object, A::Error> {
                    let mut object = HashMap::new();
                    while let Some((key, value)) = map.next_entry::<String, Value>()? {
                        if let Some(earlier) = object.insert(key, value) {
                            return Err(serde::de::Error::custom(format!(
                                "a key twice, first {earlier}"
                            )));
                        }
                    }
                    Ok(Object(object))
                }
            }
            from.deserialize_map(Unique)
        }
    }
    let object: Object =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    object.0.into_iter().collect()
}

fn json(memory: &Memory) -> (Writer, Dispatch) {
    let writer = Writer::new(memory.clone()).expect("a thread");
    let subscriber = tracing_subscriber::registry().with(JsonLayer::new(writer.clone()));
    (writer, Dispatch::new(subscriber))
}

/// The lines that `work` logs.
fn logged(work: impl FnOnce()) -> Vec<Value> {
    let memory = Memory::default();
    let (writer, dispatch) = json(&memory);
    with_default(&dispatch, work);
    writer.flush(LONG).expect("written");
    memory.lines()
}
