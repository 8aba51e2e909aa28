use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::frame;

/// `traceparent`, as W3C Trace Context names it.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`, as W3C Trace Context names it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;
/// So many bytes of `tracestate` every party must be able to pass on (W3C Trace Context, section 3.3.1.5).
const MAX_STATE: usize = 512;
/// A longer member is the first to go.
const LONG_MEMBER: usize = 128;
/// The most members of a `tracestate` (section 3.3.1).
const MAX_MEMBERS: usize = 32;

/// The trace that a call belongs to: its `traceparent` and `tracestate`, checked and otherwise as they came.
///
/// Written by the outermost layer of a call; read by `access_log`, the log's formatter and `propagate`.
/// Parsing is strict (W3C Trace Context, section 3.2): what is malformed is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    parent: HeaderValue,
    state: Option<HeaderValue>,
}

impl TraceContext {
    /// The trace context in these headers; `None` when there is none, more than one, or a malformed one.
    #[inline]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let first = headers.get(TRACEPARENT)?;
        Self::read(first, headers)
    }

    #[cold]
    fn read(parent: &HeaderValue, headers: &HeaderMap) -> Option<Self> {
        let alone = headers.get_all(TRACEPARENT).iter().nth(1).is_none();
        (alone && is_well_formed(parent.as_bytes())).then(|| Self {
            parent: as_known(parent),
            state: joined(headers),
        })
    }

    /// The trace context of the call that this code runs in.
    pub fn current() -> Option<Self> {
        frame::current(|frame| frame.trace().cloned()).flatten()
    }

    /// The context of a span of ours.
    pub(crate) fn new(
        trace: [u8; 16],
        span: [u8; 8],
        flags: u8,
        state: Option<HeaderValue>,
    ) -> Self {
        // Every span of a call has one, and the formatter takes ten times as long.
        let mut parent = Vec::with_capacity(LENGTH);
        parent.extend_from_slice(b"00-");
        parent.extend_from_slice(hex(trace).as_flattened());
        parent.push(b'-');
        parent.extend_from_slice(hex(span).as_flattened());
        parent.push(b'-');
        parent.extend_from_slice(hex([flags]).as_flattened());
        let parent = HeaderValue::from_maybe_shared(Bytes::from(parent));
        Self {
            parent: parent.expect("hex digits and dashes"),
            state,
        }
    }

    /// The id of the trace: 32 lowercase hex digits.
    pub fn trace_id(&self) -> &str {
        self.part(3, 35)
    }

    /// The id of the span that caused the call: 16 lowercase hex digits.
    pub fn span_id(&self) -> &str {
        self.part(36, 52)
    }

    /// The flags: two lowercase hex digits; the lowest bit means "sampled".
    pub fn flags_hex(&self) -> &str {
        self.part(53, 55)
    }

    /// The `traceparent`, as it came; of a version after 00, what 00 knows of it.
    pub fn parent(&self) -> &HeaderValue {
        &self.parent
    }

    /// The `tracestate`, several headers joined into one, of which as much is kept as every party is sure to pass on: 32
    /// members and 512 bytes. `None` as well if it is not ASCII.
    pub fn state(&self) -> Option<&HeaderValue> {
        self.state.as_ref()
    }

    fn part(&self, from: usize, to: usize) -> &str {
        self.parent
            .to_str()
            .ok()
            .and_then(|text| text.get(from..to))
            .expect("checked when it was read")
    }
}

/// Two digits for each byte.
fn hex<const N: usize>(bytes: [u8; N]) -> [[u8; 2]; N] {
    const TO_LETTER: u8 = b'a' - 10;
    let digit = |bits: u8| bits.wrapping_add(if bits < 10 { b'0' } else { TO_LETTER });
    bytes.map(|byte| [digit(byte >> 4), digit(byte & 0x0f)])
}

/// Version 00 is exactly 55 bytes; a later version may go on after a `-`; `ff` is forbidden, and so are ids of zeros.
fn is_well_formed(parent: &[u8]) -> bool {
    let is_hex = |text: &[u8]| {
        text.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |text: &[u8]| is_hex(text) && text.iter().any(|&byte| byte != b'0');
    let Some((known, rest)) = parent.split_at_checked(LENGTH) else {
        return false;
    };
    let [v0, v1, b'-', trace @ .., b'-', f0, f1] = known else {
        return false;
    };
    let Some((trace, span)) = trace.split_at_checked(32) else {
        return false;
    };
    let [b'-', span @ ..] = span else {
        return false;
    };
    let version = [*v0, *v1];
    let ends = match &version {
        b"00" => rest.is_empty(),
        b"ff" => false,
        _ => is_hex(&version) && matches!(rest.first(), None | Some(b'-')) && rest.is_ascii(),
    };
    ends && is_id(trace)
        && is_id(span)
        && is_hex(&[*f0, *f1])
        && rest.iter().all(|byte| byte.is_ascii_graphic())
}

/// What comes after the fields of version 00 is not ours to pass on (W3C Trace Context, 3.2.4).
fn as_known(parent: &HeaderValue) -> HeaderValue {
    let known = parent.as_bytes().get(2..LENGTH).unwrap_or_default();
    if parent.as_bytes().starts_with(b"00") {
        return parent.clone();
    }
    HeaderValue::from_bytes(&[b"00", known].concat()).expect("a part of a value is a value")
}

fn joined(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut states = headers.get_all(TRACESTATE).iter();
    let first = states.next()?;
    let mut rest = states.peekable();
    if rest.peek().is_none() && is_fitting(first.as_bytes()) {
        return Some(first.clone());
    }
    let mut all = first.as_bytes().to_vec();
    for state in rest {
        all.push(b',');
        all.extend_from_slice(state.as_bytes());
    }
    fitting(&all)
}

fn is_fitting(state: &[u8]) -> bool {
    let members = state.split(|&byte| byte == b',').count();
    state.len() <= MAX_STATE && members <= MAX_MEMBERS && state.is_ascii()
}

/// The members that are passed on: at most 32, and no more bytes than every party is sure to take. Whole members are left
/// out, long ones first, then from the right (section 3.3.1.5). One that is not ASCII spoils them all.
///
/// Each member is looked at so many times and no more: a hostile caller sends a hundred thousand of them.
fn fitting(state: &[u8]) -> Option<HeaderValue> {
    let members = state.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let members: Vec<&[u8]> = members.filter(|member| !member.is_empty()).collect();
    // With a comma each, which the last one lacks.
    let cost = |member: &[u8]| member.len().saturating_add(1);
    let bytes = members.iter().map(|member| cost(member)).sum();
    let (mut bytes, mut count): (usize, _) = (bytes, members.len());
    let mut kept = Vec::new();
    for long_ones in [true, false] {
        let from = if long_ones { &members } else { &kept };
        let mut keeps = Vec::new();
        for &member in from.iter().rev() {
            let too_much = bytes > MAX_STATE.saturating_add(1) || count > MAX_MEMBERS;
            if too_much && (member.len() > LONG_MEMBER || !long_ones) {
                bytes = bytes.saturating_sub(cost(member));
                count = count.saturating_sub(1);
            } else {
                keeps.push(member);
            }
        }
        keeps.reverse();
        kept = keeps;
    }
    HeaderValue::from_bytes(&kept.join(&b','))
        .ok()
        .filter(|kept| !kept.is_empty() && state.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read(parents: &[&str], states: &[&'static str]) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(
                TRACEPARENT,
                HeaderValue::from_str(parent).expect("a header"),
            );
        }
        for state in states {
            headers.append(TRACESTATE, HeaderValue::from_static(state));
        }
        TraceContext::of(&headers)
    }

    #[test]
    fn reads_the_parts_and_joins_the_states() {
        let context = read(&[GOOD], &["a=1", "b=2,c=3"]).expect("well formed");
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span_id(), "b7ad6b7169203331");
        assert_eq!(context.flags_hex(), "01");
        assert_eq!(context.state().expect("a state"), "a=1,b=2,c=3");
        assert_eq!(read(&[GOOD], &[]).expect("well formed").state(), None);
    }

    #[test]
    fn a_span_of_ours_is_written_as_it_is_read() {
        let (trace, span) = (u128::MAX / 7 * 3, 0x0123_4567_89ab_cdef_u64);
        let ours = TraceContext::new(trace.to_be_bytes(), span.to_be_bytes(), 0x03, None);
        assert_eq!(ours.parent(), &*format!("00-{trace:032x}-{span:016x}-03"));
        assert_eq!(
            read(&[ours.parent().to_str().expect("text")], &[]),
            Some(ours)
        );
    }

    #[test]
    fn leaves_out_whole_members_of_a_state_that_is_too_long() {
        let long = format!("long={}", "x".repeat(200));
        let many: Vec<String> = (0..60).map(|number| format!("k{number}=12345")).collect();
        let all = format!("{long},{}", many.join(","));
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(GOOD));
        headers.insert(TRACESTATE, HeaderValue::from_str(&all).expect("a header"));
        let context = TraceContext::of(&headers).expect("well formed");
        let kept = context.state().and_then(|state| state.to_str().ok());
        assert_eq!(kept, Some(many[..32].join(",").as_str()));
    }

    #[test]
    fn a_flood_of_members_costs_a_look_at_each() {
        for (state, kept) in [
            ("a,".repeat(500_000), "a,".repeat(32)),
            (
                format!("{},", "x".repeat(129)).repeat(5_000),
                format!("{},", "x".repeat(129)).repeat(3),
            ),
            (
                format!("a={},", "x".repeat(400)).repeat(2),
                format!("a={},", "x".repeat(400)),
            ),
            (
                format!("a={}", "x".repeat(510)),
                format!("a={},", "x".repeat(510)),
            ),
            (format!("a={}", "x".repeat(511)), String::new()),
            (",".repeat(100_000), String::new()),
        ] {
            let context = read(&[GOOD], &[state.leak()]).expect("well formed");
            let found = context.state().and_then(|state| state.to_str().ok());
            assert_eq!(found, kept.strip_suffix(','));
        }
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(GOOD));
        for odd in [&b"a=\xff"[..], b"a=\xff,b=1"] {
            headers.append(TRACESTATE, HeaderValue::from_bytes(odd).expect("a header"));
            assert_eq!(
                TraceContext::of(&headers).expect("well formed").state(),
                None
            );
        }
    }

    #[test]
    fn is_strict() {
        let later = format!("cc{}-more", &GOOD[2..]);
        let later = read(&[&later], &[]).expect("its beginning is well formed");
        assert_eq!(later.parent(), GOOD, "as much of it as is known");
        for bad in [
            "".to_owned(),
            "00-1-2-01".to_owned(),
            format!("{GOOD}-more"),
            format!("{GOOD}0"),
            format!("cc{}x", &GOOD[2..]),
            format!("ff{}", &GOOD[2..]),
            format!("0{}", &GOOD[1..].replace("-01", "-1")),
            GOOD.to_uppercase(),
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            GOOD.replace("0af7", "+af7"),
            GOOD.replace('-', "_"),
        ] {
            assert_eq!(read(&[&bad], &[]), None, "{bad:?}");
        }
        assert_eq!(read(&[GOOD, GOOD], &[]), None, "two traceparents");
        assert_eq!(read(&[], &["a=1"]), None);
    }
}
