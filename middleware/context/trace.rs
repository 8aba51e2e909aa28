use http::{HeaderMap, HeaderName, HeaderValue};

use super::frame;

/// `traceparent`, as W3C Trace Context names it.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`, as W3C Trace Context names it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

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
            state: joined(headers).filter(is_bearable),
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
        let trace = u128::from_be_bytes(trace);
        let span = u64::from_be_bytes(span);
        let parent = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
        Self {
            parent: HeaderValue::from_str(&parent).expect("hex digits and dashes"),
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

    /// The `tracestate`, several headers joined into one. `None` as well if it is longer than 4 KiB, has more than 32
    /// members or is not ASCII: each service that it came to would have to bear it.
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

/// Version 00 is exactly 55 bytes; a later version may go on after a `-`; `ff` is forbidden, and so are ids of zeros.
fn is_well_formed(parent: &[u8]) -> bool {
    let is_hex = |text: &[u8]| {
        text.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |text: &[u8]| is_hex(text) && text.iter().any(|&byte| byte != b'0');
    let Some((known, rest)) = parent.split_at_checked(55) else {
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
    let known = parent.as_bytes().get(2..55).unwrap_or_default();
    if parent.as_bytes().starts_with(b"00") {
        return parent.clone();
    }
    HeaderValue::from_bytes(&[b"00", known].concat()).expect("a part of a value is a value")
}

/// Whether it is within the limits of W3C Trace Context, 3.3.1: 32 members, for which 4 KiB are plenty.
fn is_bearable(state: &HeaderValue) -> bool {
    const MOST_BYTES: usize = 4 * 1024;
    const MOST_MEMBERS: usize = 32;
    let state = state.as_bytes();
    let members = state.split(|&byte| byte == b',');
    let members = members.filter(|member| !member.trim_ascii().is_empty());
    state.len() <= MOST_BYTES && state.is_ascii() && members.count() <= MOST_MEMBERS
}

fn joined(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut states = headers.get_all(TRACESTATE).iter();
    let first = states.next()?;
    let mut rest = states.peekable();
    if rest.peek().is_none() && first.len() <= MAX_STATE {
        return Some(first.clone());
    }
    let mut all = first.as_bytes().to_vec();
    for state in rest {
        all.push(b',');
        all.extend_from_slice(state.as_bytes());
    }
    fitting(&all)
}

/// The members that are passed on: at most 32, and no more bytes than every party is sure to take. Whole members are left
/// out, long ones first, then from the right (section 3.3.1.5).
fn fitting(state: &[u8]) -> Option<HeaderValue> {
    let members = state.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let mut members: Vec<&[u8]> = members.filter(|member| !member.is_empty()).collect();
    let bytes = |members: &[&[u8]]| {
        let commas = members.len().saturating_sub(1);
        members
            .iter()
            .fold(commas, |sum, member| sum.saturating_add(member.len()))
    };
    while bytes(&members) > MAX_STATE || members.len() > MAX_MEMBERS {
        let long = members
            .iter()
            .rposition(|member| member.len() > LONG_MEMBER);
        members.remove(long.unwrap_or(members.len().saturating_sub(1)));
    }
    HeaderValue::from_bytes(&members.join(&b','))
        .ok()
        .filter(|state| !state.is_empty())
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
