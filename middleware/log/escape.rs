//! Text and numbers as JSON that no reader, terminal or parser can be fooled by.

use std::fmt;

/// Appends `text` as the inside of a JSON string.
pub(super) fn push_text(out: &mut Vec<u8>, text: &str) {
    if is_clean(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        push_escaped(out, text);
    }
}

/// Appends bytes as the inside of a JSON string; what is not UTF-8 becomes U+FFFD.
pub(super) fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        push_text(out, chunk.valid());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Appends an integer.
pub(super) fn push_integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends a number with a fraction. JSON has no NaN and no infinities: they become `null`.
pub(super) fn push_float(out: &mut Vec<u8>, value: f64) {
    /// Below this a float tells thousandths apart.
    const EXACT: f64 = 1e12;
    if !value.is_finite() {
        out.extend_from_slice(b"null");
        return;
    }
    let thousandths = (value * 1000.0).round();
    if value.abs() < EXACT
        && thousandths / 1000.0 == value
        && (value != 0.0 || value.is_sign_positive())
    {
        push_thousandths(out, thousandths as i64);
    } else {
        // The shortest text that reads back as the same number, such as 1e300 or 0.1234567.
        Escaped::new(out, usize::MAX).push(format_args!("{value:?}"));
    }
}

/// Times have at most three decimals; writing them so takes a tenth of what the general way does.
fn push_thousandths(out: &mut Vec<u8>, thousandths: i64) {
    if thousandths < 0 {
        out.push(b'-');
    }
    let magnitude = thousandths.unsigned_abs();
    push_integer(out, magnitude / 1000);
    let fraction = magnitude % 1000;
    let [hundreds, tens, ones] = [fraction / 100, fraction / 10 % 10, fraction % 10];
    let digits = [b'.', digit(hundreds), digit(tens), digit(ones)];
    let length = match (tens, ones) {
        (_, 1..) => 4,
        (1.., 0) => 3,
        (0, 0) => 2,
    };
    out.extend(digits.iter().take(length));
}

/// The digit of a number below ten.
pub(super) fn digit(number: u64) -> u8 {
    b'0'.wrapping_add(number as u8)
}

/// Where formatted text goes; stops formatting once `limit` bytes came.
pub(super) struct Escaped<'a> {
    out: &'a mut Vec<u8>,
    room: usize,
    cut: bool,
}

impl<'a> Escaped<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>, limit: usize) -> Self {
        Self {
            out,
            room: limit,
            cut: false,
        }
    }

    /// Formats into the line. An error that is not ours means that the value's own formatting failed.
    pub(super) fn push(&mut self, text: fmt::Arguments<'_>) -> Pushed {
        match (fmt::Write::write_fmt(self, text), self.cut) {
            (_, true) => Pushed::Cut,
            (Ok(()), false) => Pushed::Whole,
            (Err(fmt::Error), false) => Pushed::Failed,
        }
    }
}

/// How a value came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Whole,
    Cut,
    Failed,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let (kept, cut) = start_of(text, self.room);
        push_text(self.out, kept);
        self.room = self.room.saturating_sub(kept.len());
        self.cut |= cut;
        if cut { Err(fmt::Error) } else { Ok(()) }
    }
}

/// As much of `text` as fits into `limit` bytes, and whether something is left out.
pub(super) fn start_of(text: &str, limit: usize) -> (&str, bool) {
    if text.len() <= limit {
        return (text, false);
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    (text.split_at(end).0, true)
}

/// How many bytes of the inside of a JSON string fit into `limit` without cutting an escape or a character in two.
pub(super) fn whole_units(inside: &[u8], limit: usize) -> usize {
    let mut end = 0_usize;
    while let Some(rest) = inside.get(end..) {
        let unit = match rest {
            [b'\\', b'u', ..] => 6,
            [b'\\', ..] => 2,
            [0xf0..=0xff, ..] => 4,
            [0xe0..=0xef, ..] => 3,
            [0xc0..=0xdf, ..] => 2,
            [_, ..] => 1,
            [] => break,
        };
        let next = end.saturating_add(unit);
        if next > limit {
            break;
        }
        end = next;
    }
    end
}

/// True for bytes that need an escape, or begin a character that may.
const fn suspicious(byte: u8) -> bool {
    // `|` and not `||`: without branches the compiler tests 16 bytes at once.
    (byte < 0x20)
        | (byte == b'"')
        | (byte == b'\\')
        | (byte == 0x7f)
        | (byte == 0xc2) // U+0080..U+00BF: C1 controls
        | (byte == 0xd8) // U+0600..U+063F: the Arabic letter mark
        | (byte == 0xe2) // U+2000..U+2FFF: line separators, directions of text
}

#[inline(always)]
fn clean<const N: usize>(chunk: &[u8; N]) -> bool {
    let mut found = false;
    for &byte in chunk {
        found |= suspicious(byte);
    }
    !found
}

/// True if `bytes` can be copied as they are. Ends are tested by chunks that overlap.
#[inline]
fn is_clean(bytes: &[u8]) -> bool {
    if let Some(last) = bytes.last_chunk::<16>() {
        bytes.as_chunks::<16>().0.iter().all(clean) && clean(last)
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        clean(first) & clean(last)
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        clean(first) & clean(last)
    } else {
        !bytes.iter().any(|&byte| suspicious(byte))
    }
}

/// How many bytes from the start can be copied as they are.
fn clean_prefix(bytes: &[u8]) -> usize {
    let chunks = bytes.as_chunks::<16>().0.iter();
    let whole = chunks
        .take_while(|chunk| clean(chunk))
        .count()
        .saturating_mul(16);
    let rest = bytes.get(whole..).unwrap_or_default();
    let clean = rest
        .iter()
        .position(|&byte| suspicious(byte))
        .unwrap_or(rest.len());
    whole.saturating_add(clean)
}

#[inline(never)]
fn push_escaped(out: &mut Vec<u8>, text: &str) {
    let mut rest = text;
    loop {
        // A suspicious byte is never inside a character, so this splits between two.
        let (plain, odd) = rest.split_at(clean_prefix(rest.as_bytes()));
        out.extend_from_slice(plain.as_bytes());
        let mut chars = odd.chars();
        match chars.next() {
            Some(char) => push_char(out, char),
            None => return,
        }
        rest = chars.as_str();
    }
}

fn push_char(out: &mut Vec<u8>, char: char) {
    match char {
        '"' => out.extend_from_slice(br#"\""#),
        '\\' => out.extend_from_slice(br"\\"),
        '\n' => out.extend_from_slice(br"\n"),
        '\r' => out.extend_from_slice(br"\r"),
        '\t' => out.extend_from_slice(br"\t"),
        '\0'..='\u{1f}'
        | '\u{7f}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => push_code(out, u32::from(char)),
        _ => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn push_code(out: &mut Vec<u8>, code: u32) {
    let hex = |shift: u32| match (code >> shift) & 0xf {
        low @ 0..=9 => digit(u64::from(low)),
        high => b'a'.wrapping_add(high as u8).wrapping_sub(10),
    };
    out.extend_from_slice(&[b'\\', b'u', hex(12), hex(8), hex(4), hex(0)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).expect("always UTF-8")
    }

    fn tame(text: &str) -> bool {
        text.chars().all(|char| {
            !char.is_control() && !matches!(char, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        })
    }

    #[test]
    fn escapes_what_could_forge_a_line_or_turn_a_terminal() {
        for (raw, escaped) in [
            ("plain", "plain"),
            ("a\"b\\c", r#"a\"b\\c"#),
            ("\n\r\t\0", r"\n\r\t\u0000"),
            ("\u{1b}[31m", r"\u001b[31m"),
            ("\u{7f}\u{80}\u{9f}\u{a0}", "\\u007f\\u0080\\u009f\u{a0}"),
            ("\u{2028}\u{202e}\u{2066}", r"\u2028\u202e\u2066"),
            ("Grüße, мир, 世界 🎉 €", "Grüße, мир, 世界 🎉 €"),
        ] {
            assert_eq!(text(|out| push_text(out, raw)), escaped);
        }
    }

    #[test]
    fn replaces_what_is_not_utf8() {
        assert_eq!(
            text(|out| push_bytes(out, b"a\x80\xffb\xc2")),
            "a\u{fffd}\u{fffd}b\u{fffd}"
        );
    }

    #[test]
    fn writes_numbers_that_read_back_as_themselves() {
        for (value, written) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (12.5, "12.5"),
            (0.007, "0.007"),
            (-3.25, "-3.25"),
            (1e300, "1e300"),
            (f64::NAN, "null"),
            (f64::NEG_INFINITY, "null"),
        ] {
            assert_eq!(text(|out| push_float(out, value)), written);
        }
    }

    #[test]
    fn formatting_stops_at_the_limit() {
        let mut out = Vec::new();
        assert_eq!(
            Escaped::new(&mut out, 4).push(format_args!("abc{}", "éf")),
            Pushed::Cut
        );
        assert_eq!(out, b"abc");
        assert_eq!(whole_units(br"ab\u0000c", 7), 2);
        assert_eq!(whole_units("aé\\\"".as_bytes(), 4), 3);
    }

    proptest! {
        #[test]
        fn any_text_reads_back_as_itself(raw: String) {
            let json = text(|out| push_text(out, &raw));
            prop_assert!(tame(&json));
            prop_assert_eq!(serde_json::from_str::<String>(&format!("\"{json}\"")).expect("valid"), raw);
        }

        #[test]
        fn any_bytes_become_valid_text(raw: Vec<u8>) {
            let json = text(|out| push_bytes(out, &raw));
            prop_assert_eq!(serde_json::from_str::<String>(&format!("\"{json}\"")).expect("valid"), String::from_utf8_lossy(&raw));
        }

        #[test]
        fn any_float_reads_back_as_itself(bits: u64, millis in -1_000_000_000_i64..1_000_000_000) {
            for value in [f64::from_bits(bits), millis as f64 / 1000.0] {
                let json = text(|out| push_float(out, value));
                if value.is_finite() {
                    prop_assert_eq!(json.parse::<f64>().expect("a number").to_bits(), value.to_bits());
                }
            }
        }

        #[test]
        fn a_cut_never_splits_an_escape(raw: String, limit in 0_usize..64) {
            let json = text(|out| push_text(out, &raw));
            let end = whole_units(json.as_bytes(), limit);
            prop_assert!(end <= limit);
            let cut = format!("\"{}\"", &json[..end]);
            prop_assert!(raw.starts_with(&serde_json::from_str::<String>(&cut).expect("valid")));
        }
    }
}
