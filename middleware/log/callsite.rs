//! What is the same in every line of a callsite: prepared when its first line is written, then copied.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::slice;

use tracing::Metadata;
use tracing::field::Field;

use super::access;
use super::form::{Form, NONE};
use super::line::{Again, Line, Ready, Reserved};
use super::schema::Unit;

/// The target of the lines that tell how calls ended.
pub(super) const ACCESS: &str = "plimsoll::access";

/// Targets of events whose fields the schema renames.
const OWN: &str = "plimsoll::";

/// A thread forgets all callsites when it has seen so many, should a program make them while it runs.
const MAX_CALLSITES: usize = 4096;

/// One place in the code that logs.
#[derive(Debug)]
pub(super) struct Callsite {
    /// Level, target, and the service's names; see [`Form::callsite`].
    pub(super) head: Vec<u8>,
    pub(super) access: bool,
    /// True where a whole line is lent along with the event, none of it nested; see [`access::lent`].
    pub(super) whole: bool,
    /// True for records of the `log` crate: one callsite speaks for many places, and names the place in fields.
    pub(super) foreign: bool,
    keys: Vec<Option<Key>>,
}

/// The key of a field.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) ready: Ready,
    pub(super) unit: Unit,
    /// The name inside of the nested object, if the schema moved the field there.
    pub(super) nested: Option<&'static str>,
}

impl Callsite {
    fn new(form: &Form, metadata: &'static Metadata<'static>) -> Self {
        let access = metadata.target() == ACCESS;
        let foreign = metadata.target() == "log" && metadata.name() == "log event";
        let own = metadata.target().starts_with(OWN);
        let reserved = form.reserved_for(access);
        // All keys are written into one line, which finds those that are taken.
        let mut line = Line::default();
        let mut head = Vec::new();
        form.callsite(&mut head, metadata.level(), metadata.target());
        let keys = metadata.fields().iter();
        let keys = keys.map(|field| {
            if foreign && field.name().starts_with("log.") {
                return None;
            }
            Key::new(form, &mut line, field.name(), own, reserved)
        });
        let keys: Vec<Option<Key>> = keys.collect();
        let flat = keys.iter().flatten().all(|key| key.nested.is_none());
        Self {
            head,
            access,
            whole: access && flat && metadata.module_path() == Some(access::MODULE),
            foreign,
            keys,
        }
    }

    /// The keys of all fields in their order.
    #[inline]
    pub(super) fn keys(&self) -> slice::Iter<'_, Option<Key>> {
        self.keys.iter()
    }

    /// The key of a field; `None` if the field is not written.
    pub(super) fn key(&self, field: &Field) -> Option<&Key> {
        self.keys.get(field.index())?.as_ref()
    }
}

impl Key {
    fn new(
        form: &Form,
        line: &mut Line,
        name: &str,
        own: bool,
        reserved: &Reserved,
    ) -> Option<Self> {
        let mut ready = |key, reserved| line.ready(key, reserved, Again::Prefix);
        let place = form.schema.place(name).filter(|_| own);
        let (ready, unit, nested) = match (name, place) {
            ("message", _) => {
                let message = form.schema.base().message;
                // The first message is the line's own, a second one is a field as any other.
                let ready = ready(message, &NONE)?;
                (ready, Unit::AsIs, None)
            }
            (_, Some(place)) if place.nested => {
                let ready = Line::default().ready(place.key, &NONE, Again::Prefix)?;
                (ready, place.unit, Some(place.key))
            }
            (_, Some(place)) => (ready(place.key, reserved)?, place.unit, None),
            (_, None) => (ready(name, reserved)?, Unit::AsIs, None),
        };
        Some(Self {
            ready,
            unit,
            nested,
        })
    }
}

/// The callsites that a thread has seen, for each form of lines.
#[derive(Debug, Default)]
pub(super) struct Callsites(HashMap<(u64, usize), Callsite, BuildHasherDefault<Addresses>>);

impl Callsites {
    pub(super) fn find(&mut self, form: &Form, metadata: &'static Metadata<'static>) -> &Callsite {
        if self.0.len() >= MAX_CALLSITES {
            self.0.clear();
        }
        let address = std::ptr::from_ref(metadata).addr();
        let made = || Callsite::new(form, metadata);
        self.0.entry((form.number, address)).or_insert_with(made)
    }
}

/// Spreads addresses, which nobody outside chooses.
#[derive(Debug, Default)]
struct Addresses(u64);

impl Addresses {
    fn mix(&mut self, number: u64) {
        // 2^64 divided by the golden ratio: neighbours end far apart.
        self.0 = (self.0.rotate_left(32) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for Addresses {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.mix(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.mix(number as u64);
    }

    fn finish(&self) -> u64 {
        // A table takes its place from the low bits; a product has its best ones high.
        self.0.rotate_left(32)
    }
}
