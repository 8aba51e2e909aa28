//! The fields of a span, written as JSON once and copied into each line of the span.

use tracing::field::Field;

use super::line::{Again, Line, MAX_LINE, Reserved};
use super::schema::Unit;
use super::visit::Fields;

/// A span that holds more than this loses its further fields.
const MAX_SPAN: usize = 2 * MAX_LINE;

/// Lengths of key and value stand before them.
const HEAD: usize = 8;

/// Fields of a span, one behind the other: length of key, length of value, key, value.
#[derive(Debug, Default)]
pub(super) struct SpanFields {
    packed: Vec<u8>,
    begun: usize,
    cut: bool,
}

impl SpanFields {
    /// A copy that takes no more room than it needs.
    pub(super) fn compact(&self) -> Self {
        Self {
            packed: self.packed.clone(),
            begun: 0,
            cut: self.cut,
        }
    }

    pub(super) fn clear(&mut self) {
        self.packed.clear();
        self.packed.shrink_to(2 * MAX_SPAN);
        self.cut = false;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packed.is_empty() && !self.cut
    }

    /// Takes over newer fields; those of the same name are replaced.
    pub(super) fn replace(&mut self, newer: &SpanFields) {
        for (key, value) in newer.iter() {
            self.remove(key);
            self.push(key, value);
        }
        self.cut |= newer.cut;
    }

    /// Copies the fields into a line, but for those which the line has already.
    pub(super) fn copy_to(&self, line: &mut Line, reserved: &Reserved) {
        for (key, value) in self.iter() {
            line.copy(key, value, reserved, Again::Skip);
        }
        if self.cut {
            line.mark_cut();
        }
    }

    fn push(&mut self, key: &[u8], value: &[u8]) {
        if self.packed.len().saturating_add(value.len()) > MAX_SPAN {
            self.cut = true;
            return;
        }
        self.packed.extend_from_slice(&head(key.len(), value.len()));
        self.packed.extend_from_slice(key);
        self.packed.extend_from_slice(value);
    }

    fn remove(&mut self, key: &[u8]) {
        let mut at = 0_usize;
        let found = self.iter().find_map(|(other, value)| {
            let start = at;
            at = at
                .saturating_add(HEAD)
                .saturating_add(other.len())
                .saturating_add(value.len());
            (other == key).then_some(start..at)
        });
        if let Some(range) = found {
            self.packed.drain(range);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = self.packed.as_slice();
        std::iter::from_fn(move || {
            let ([k0, k1, k2, k3, v0, v1, v2, v3], fields) = rest.split_first_chunk::<HEAD>()?;
            let key_length = u32::from_le_bytes([*k0, *k1, *k2, *k3]) as usize;
            let value_length = u32::from_le_bytes([*v0, *v1, *v2, *v3]) as usize;
            let (key, fields) = fields.split_at_checked(key_length)?;
            let (value, fields) = fields.split_at_checked(value_length)?;
            rest = fields;
            Some((key, value))
        })
    }
}

fn head(key: usize, value: usize) -> [u8; HEAD] {
    let [k0, k1, k2, k3] = (key as u32).to_le_bytes();
    let [v0, v1, v2, v3] = (value as u32).to_le_bytes();
    [k0, k1, k2, k3, v0, v1, v2, v3]
}

impl SpanFields {
    fn open(&mut self, name: &str) -> Option<Unit> {
        if self.packed.len() > MAX_SPAN {
            self.cut = true;
            return None;
        }
        self.begun = self.packed.len();
        self.packed.extend_from_slice(&[0; HEAD]);
        super::escape::push_text(&mut self.packed, name);
        let key_length = self
            .packed
            .len()
            .saturating_sub(self.begun)
            .saturating_sub(HEAD);
        self.set_head(key_length, 0);
        Some(Unit::AsIs)
    }
}

impl Fields for SpanFields {
    fn begin(&mut self, field: &Field) -> Option<Unit> {
        self.open(field.name())
    }

    fn value(&mut self) -> &mut Vec<u8> {
        &mut self.packed
    }

    fn end(&mut self, cut: bool) {
        let field = self
            .packed
            .get(self.begun..)
            .and_then(<[u8]>::first_chunk::<4>);
        let key_length = field.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
        let length = self.packed.len().saturating_sub(self.begun);
        self.set_head(
            key_length,
            length.saturating_sub(HEAD).saturating_sub(key_length),
        );
        self.cut |= cut;
    }
}

impl SpanFields {
    fn set_head(&mut self, key: usize, value: usize) {
        let field = self
            .packed
            .get_mut(self.begun..)
            .and_then(<[u8]>::first_chunk_mut);
        if let Some(lengths) = field {
            *lengths = head(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> SpanFields {
        let mut fields = SpanFields::default();
        for (key, value) in pairs {
            assert_eq!(fields.open(key), Some(Unit::AsIs));
            fields.value().extend_from_slice(value.as_bytes());
            fields.end(false);
        }
        fields
    }

    fn shown(fields: &SpanFields) -> String {
        let mut line = Line::default();
        line.bytes().push(b'{');
        fields.copy_to(&mut line, &Reserved::default());
        String::from_utf8(line.finish().to_vec()).expect("UTF-8")
    }

    #[test]
    fn a_newer_value_replaces_the_older() {
        let mut span = SpanFields::default();
        span.replace(&fields(&[("a", "1"), ("b", "2"), ("a", "3")]));
        assert_eq!(shown(&span), "{,\"b\":2,\"a\":3}\n");
        span.replace(&fields(&[("b", "4"), ("c", "5")]));
        assert_eq!(shown(&span), "{,\"a\":3,\"b\":4,\"c\":5}\n");
    }

    #[test]
    fn a_span_that_holds_too_much_says_so() {
        let mut span = SpanFields::default();
        let long = format!("\"{}\"", "x".repeat(MAX_LINE));
        for key in ["a", "b", "c"] {
            span.replace(&fields(&[(key, &long)]));
        }
        assert!(span.packed.len() <= MAX_SPAN + 64);
        assert!(shown(&span).ends_with("\"truncated\":true}\n"));
    }
}
