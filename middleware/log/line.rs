//! One line: a flat JSON object in which no key stands twice and which never grows past its cap.

use super::escape;

/// The longest line, with its newline.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// Once a line is this long before it is cut, further texts are cut to [`LAST_RESORT`]; at twice this, further fields are
/// left out.
const MAX_DRAFT: usize = 8 * MAX_LINE;

/// What a value is cut to in the longest of lines, in bytes.
const LAST_RESORT: usize = 256;

/// What stands at the end of a line that was cut.
const TRUNCATED: &[u8] = br#","truncated":true"#;

/// What a value is cut to, if that is enough: the first of these with which the line fits.
const SHORTER: [usize; 9] = [8192, 4096, 2048, 1024, 512, 256, 128, 64, 32];

/// Keys that belong to plimsoll, with a bit for each so that most other keys are told apart at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Reserved {
    names: Vec<&'static str>,
    bits: u64,
}

impl Reserved {
    pub(super) fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        let names: Vec<_> = names.into_iter().collect();
        let bits = names
            .iter()
            .fold(0, |bits, name| bits | bit(name.as_bytes()));
        Self { names, bits }
    }

    /// Nothing is reserved.
    pub(super) const fn none() -> Self {
        Self {
            names: Vec::new(),
            bits: 0,
        }
    }

    #[inline]
    fn has(&self, key: &[u8], bit: u64) -> bool {
        self.bits & bit != 0 && self.names.iter().any(|name| name.as_bytes() == key)
    }
}

/// What becomes of a field whose key stands in the line already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It is written under `fields.<key>`.
    Prefix,
    /// It is left out: the one that is there is nearer.
    Skip,
}

/// A line that is being written. Reused, so that writing a line allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Line {
    bytes: Vec<u8>,
    fields: Vec<Field>,
    bits: u64,
    cut: bool,
}

/// `,"key":`, prepared.
#[derive(Debug)]
pub(super) struct Ready {
    text: Vec<u8>,
    bit: u64,
}

impl Ready {
    #[inline]
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }
}

/// Where a field stands in the line: `,"key":value`.
#[derive(Clone, Copy, Debug)]
struct Field {
    start: usize,
    key_end: usize,
    end: usize,
}

impl Field {
    /// `,"` before the key.
    fn key_start(self) -> usize {
        self.start.saturating_add(2)
    }

    /// `":` behind the key.
    fn value_start(self) -> usize {
        self.key_end.saturating_add(2)
    }
}

impl Line {
    /// Starts anew and keeps the memory, unless a giant line made it large.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(4 * MAX_LINE);
        self.fields.clear();
        self.fields.shrink_to(1024);
        self.bits = 0;
        self.cut = false;
    }

    /// The text so far, to append to. What is written before the first field is never cut.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Remembers that something was left out.
    pub(super) fn mark_cut(&mut self) {
        self.cut = true;
    }

    /// Writes `,"key":`. False if the field must be left out.
    pub(super) fn begin(&mut self, key: &str, reserved: &Reserved, again: Again) -> bool {
        let Some(start) = self.open() else {
            return false;
        };
        escape::push_text(&mut self.bytes, key);
        self.close_key(start, reserved, again)
    }

    /// Prepares a key, as [`begin`](Self::begin) would write it into this line. The key is taken from now on.
    pub(super) fn ready(&mut self, key: &str, reserved: &Reserved, again: Again) -> Option<Ready> {
        let start = self.bytes.len();
        let begun = self.begin(key, reserved, again);
        self.end();
        begun.then(|| {
            let text = self.bytes.get(start..).unwrap_or_default().to_vec();
            let key = text
                .get(2..text.len().saturating_sub(2))
                .unwrap_or_default();
            Ready {
                bit: bit(key),
                text,
            }
        })
    }

    /// Writes a key that was prepared: nothing in the line may have it.
    pub(super) fn begin_ready(&mut self, key: &Ready) -> bool {
        let start = self.bytes.len();
        if start > 2 * MAX_DRAFT {
            self.cut = true;
            return false;
        }
        self.bytes.extend_from_slice(&key.text);
        let end = self.bytes.len();
        self.bits |= key.bit;
        self.fields.push(Field {
            start,
            key_end: end.saturating_sub(2),
            end,
        });
        true
    }

    /// Copies a field that was written before, its key and value as they stand in JSON.
    pub(super) fn copy(&mut self, key: &[u8], value: &[u8], reserved: &Reserved, again: Again) {
        let Some(start) = self.open() else {
            return;
        };
        self.bytes.extend_from_slice(key);
        if self.close_key(start, reserved, again) {
            self.bytes.extend_from_slice(value);
            self.end();
        }
    }

    /// Ends the field that was begun last.
    pub(super) fn end(&mut self) {
        if let Some(field) = self.fields.last_mut() {
            let late = field.start > MAX_DRAFT;
            let limit = if late { LAST_RESORT } else { MAX_LINE };
            if self.bytes.len().saturating_sub(field.start) > limit {
                self.cut |= shorten(&mut self.bytes, field.value_start(), limit);
            }
            field.end = self.bytes.len();
        }
    }

    /// Takes the field that was begun last out of the line again, and gives its value to `to`.
    pub(super) fn move_value(&mut self, to: &mut Vec<u8>, limit: usize) {
        let Some(field) = self.fields.pop() else {
            return;
        };
        self.cut |= shorten(&mut self.bytes, field.value_start(), limit);
        to.extend_from_slice(self.bytes.get(field.value_start()..).unwrap_or_default());
        self.bytes.truncate(field.start);
    }

    /// Closes the object and hands out the whole line.
    pub(super) fn finish(&mut self) -> &[u8] {
        if self.cut || self.bytes.len().saturating_add(2) > MAX_LINE {
            self.fit();
            self.bytes.extend_from_slice(TRUNCATED);
        }
        self.bytes.extend_from_slice(b"}\n");
        &self.bytes
    }

    fn open(&mut self) -> Option<usize> {
        let start = self.bytes.len();
        if start > 2 * MAX_DRAFT {
            self.cut = true;
            return None;
        }
        self.bytes.extend_from_slice(b",\"");
        Some(start)
    }

    /// Gives the key that ends the text a form that is not taken.
    fn close_key(&mut self, start: usize, reserved: &Reserved, again: Again) -> bool {
        let key_start = start.saturating_add(2);
        loop {
            let key = self.bytes.get(key_start..).unwrap_or_default();
            let key_bit = bit(key);
            if !reserved.has(key, key_bit) {
                if self.bits & key_bit == 0 || !self.written(key) {
                    self.bits |= key_bit;
                    break;
                }
                if again == Again::Skip {
                    self.bytes.truncate(start);
                    return false;
                }
            }
            let key_end = self.bytes.len();
            self.bytes.extend_from_slice(b"fields.");
            if let Some(key) = self.bytes.get_mut(key_start..) {
                key.rotate_left(key_end.saturating_sub(key_start));
            }
        }
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(b"\":");
        self.fields.push(Field {
            start,
            key_end,
            end: key_end,
        });
        true
    }

    fn written(&self, key: &[u8]) -> bool {
        let mut fields = self.fields.iter();
        fields.any(|field| self.bytes.get(field.key_start()..field.key_end) == Some(key))
    }

    /// Cuts the longest texts, and drops fields from the end if that is not enough.
    #[inline(never)]
    fn fit(&mut self) {
        let Some(first) = self.fields.first() else {
            return;
        };
        let room = MAX_LINE
            .saturating_sub(first.start)
            .saturating_sub(TRUNCATED.len())
            .saturating_sub(2);
        let length = |limit: usize| {
            self.fields.iter().fold(0_usize, |sum, field| {
                let key = field.value_start().saturating_sub(field.start);
                let value = field.end.saturating_sub(field.value_start());
                sum.saturating_add(key).saturating_add(value.min(limit))
            })
        };
        let limit = match length(usize::MAX) <= room {
            true => usize::MAX,
            false => SHORTER
                .into_iter()
                .find(|&limit| length(limit) <= room)
                .unwrap_or(32),
        };
        let mut kept = self.bytes.get(..first.start).unwrap_or_default().to_vec();
        let end = kept.len().saturating_add(room);
        for field in &self.fields {
            let start = kept.len();
            let value_start = field
                .value_start()
                .saturating_sub(field.start)
                .saturating_add(start);
            kept.extend_from_slice(self.bytes.get(field.start..field.end).unwrap_or_default());
            shorten(&mut kept, value_start, limit);
            if kept.len() > end {
                kept.truncate(start);
            }
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(&kept);
    }
}

/// Cuts the text that stands from `start` to the end to `limit` bytes with its quotes. Numbers and objects are left alone.
fn shorten(bytes: &mut Vec<u8>, start: usize, limit: usize) -> bool {
    let value = bytes.get(start..).unwrap_or_default();
    let [b'"', inside @ .., b'"'] = value else {
        return false;
    };
    if value.len() <= limit {
        return false;
    }
    let kept = escape::whole_units(inside, limit.saturating_sub(2));
    bytes.truncate(start.saturating_add(1).saturating_add(kept));
    bytes.push(b'"');
    true
}

/// One of 64 bits for a key. Two keys with the same bit are then compared. With these factors none of the access line's
/// keys has the bit of another one or of a key that every line has.
#[inline]
fn bit(key: &[u8]) -> u64 {
    let (first, last) = match key {
        [first, .., last] => (*first, *last),
        [only] => (*only, *only),
        [] => (0, 0),
    };
    let mixed = u32::from(first).wrapping_mul(3) ^ u32::from(last).wrapping_mul(17);
    1_u64.wrapping_shl(mixed ^ (key.len() as u32).wrapping_mul(9))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(fields: &[(&str, &str)], again: Again) -> String {
        let mut line = Line::default();
        let reserved = Reserved::new(["level", "message"]);
        line.bytes().extend_from_slice(b"{\"level\":\"INFO\"");
        for (key, value) in fields {
            if line.begin(key, &reserved, again) {
                line.bytes().push(b'"');
                escape::push_text(line.bytes(), value);
                line.bytes().push(b'"');
                line.end();
            }
        }
        String::from_utf8(line.finish().to_vec()).expect("UTF-8")
    }

    #[test]
    fn a_taken_key_is_moved_or_left_out() {
        let fields = [
            ("level", "a"),
            ("x", "b"),
            ("x", "c"),
            ("fields.level", "d"),
        ];
        assert_eq!(
            line(&fields, Again::Prefix),
            concat!(
                r#"{"level":"INFO","fields.level":"a","x":"b","fields.x":"c","fields.fields.level":"d"}"#,
                "\n"
            )
        );
        assert_eq!(
            line(&fields, Again::Skip),
            concat!(r#"{"level":"INFO","fields.level":"a","x":"b"}"#, "\n")
        );
    }

    #[test]
    fn a_line_of_exactly_the_cap_is_whole() {
        let frame = line(&[("x", "")], Again::Prefix).len();
        let whole = line(&[("x", &"y".repeat(MAX_LINE - frame))], Again::Prefix);
        assert_eq!(whole.len(), MAX_LINE);
        assert!(!whole.contains("truncated"));
        let cut = line(&[("x", &"y".repeat(MAX_LINE - frame + 1))], Again::Prefix);
        assert!(cut.len() <= MAX_LINE && cut.ends_with("\",\"truncated\":true}\n"));
    }

    #[test]
    fn only_the_long_texts_are_cut() {
        let long = "\n".repeat(65_536);
        let cut = line(
            &[("path", &long), ("status", "200"), ("agent", &long)],
            Again::Prefix,
        );
        assert!(cut.len() <= MAX_LINE);
        let value: serde_json::Value = serde_json::from_str(&cut).expect("JSON");
        assert_eq!(value["status"], "200");
        assert_eq!(value["truncated"], true);
        assert!(value["path"].as_str().expect("text").len() > 1000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_key_twice_and_never_too_long(
            fields in prop::collection::vec(("[a-cm]{0,2}|level|message|fields\\.level|\\PC{0,40}", "\\PC{0,20}|[\\x00\"a]{0,9000}"), 0..40),
            skip: bool,
        ) {
            let fields: Vec<_> = fields.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let line = line(&fields, if skip { Again::Skip } else { Again::Prefix });
            prop_assert!(line.len() <= MAX_LINE);
            let keys = crate::log::tests::keys_of(line.as_bytes());
            let mut unique = keys.clone();
            unique.sort();
            unique.dedup();
            prop_assert_eq!(keys.len(), unique.len());
        }
    }
}
