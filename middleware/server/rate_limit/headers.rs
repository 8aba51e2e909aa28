//! How callers are told of their quotas.

use http::{HeaderMap, HeaderName, HeaderValue, header::Entry};

use super::{
    gcra::{Nanos, Times},
    quota::{MAX_QUOTAS, Quota},
    tier::Tier,
};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The headers, or metadata of gRPC, that tell a caller of its quotas, on every response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuotaHeaders {
    /// `RateLimit-Policy: "second";q=50;w=1` and `RateLimit: "second";r=49;t=1` (draft-ietf-httpapi-ratelimit-headers-10).
    /// `q` is the burst and `w` the seconds in which it comes back; `r` is what is left and `t` the seconds until there
    /// is one more. The default: it is the one form that is written down, knows several quotas and has one meaning.
    #[default]
    Draft10,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`, of the quota with the least left. `Reset` is in seconds from now,
    /// as Envoy has it, until all of the burst is there again; others write the time of day there, so tell your callers.
    Legacy,
    /// Both.
    Both,
    /// None: nothing is told until a call is rejected, and then only when to come again.
    None,
}

impl QuotaHeaders {
    pub(super) fn any(self) -> bool {
        self != Self::None
    }
}

/// The value of `RateLimit-Policy`.
pub(super) fn policy(quotas: &[Quota]) -> HeaderValue {
    let items: Vec<String> = quotas
        .iter()
        .map(|quota| {
            let window = seconds(quota.pace().window);
            format!("\"{}\";q={};w={window}", quota.name(), quota.max_burst())
        })
        .collect();
    HeaderValue::try_from(items.join(", ")).expect("names are printable ASCII")
}

/// Adds what this caller is to be told.
pub(super) fn tell(
    headers: &mut HeaderMap,
    dialect: QuotaHeaders,
    tier: &Tier,
    times: &Times,
    now: Nanos,
) {
    if matches!(dialect, QuotaHeaders::Draft10 | QuotaHeaders::Both) {
        // Lists: another limit's items may stand there too.
        headers.append(RATE_LIMIT_POLICY, tier.policy_header().clone());
        headers.append(RATE_LIMIT, standing(tier, times, now));
    }
    if matches!(dialect, QuotaHeaders::Legacy | QuotaHeaders::Both) {
        legacy(headers, tier, times, now);
    }
}

fn standing(tier: &Tier, times: &Times, now: Nanos) -> HeaderValue {
    let mut text = Text::default();
    for (quota, standing) in tier.standings(times, now) {
        text.push(if text.length == 0 { "\"" } else { ", \"" });
        text.push(quota.name());
        text.push("\";r=");
        text.push(itoa::Buffer::new().format(standing.remaining));
        if standing.until_more > 0 {
            text.push(";t=");
            text.push(itoa::Buffer::new().format(seconds(standing.until_more)));
        }
    }
    HeaderValue::from_bytes(text.bytes()).expect("names are printable ASCII")
}

/// The trio has room for one quota: the one with the least left.
fn legacy(headers: &mut HeaderMap, tier: &Tier, times: &Times, now: Nanos) {
    let standings = tier.standings(times, now).map(|(_, standing)| standing);
    let Some(least) = standings.min_by_key(|standing| standing.remaining) else {
        return;
    };
    // A limit further in has spoken already, and knows better.
    if let Entry::Vacant(limit) = headers.entry(LIMIT) {
        limit.insert(least.burst.into());
        headers.insert(REMAINING, least.remaining.into());
        headers.insert(RESET, seconds(least.until_full).into());
    }
}

/// Whole seconds, rounded up.
fn seconds(nanos: Nanos) -> u64 {
    nanos.div_ceil(1_000_000_000)
}

/// The longest name that is told whole; longer ones are cut.
const LONGEST_NAME: usize = 64;

/// A short text without an allocation of its own.
struct Text {
    bytes: [u8; Self::ROOM],
    length: usize,
}

impl Text {
    /// An item is a name and two numbers of at most 20 digits.
    const ROOM: usize = MAX_QUOTAS * (LONGEST_NAME + 56);

    fn push(&mut self, text: &str) {
        let text = text.as_bytes();
        let text = text.get(..text.len().min(LONGEST_NAME)).unwrap_or(text);
        let end = self.length.saturating_add(text.len());
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(text);
            self.length = end;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Default for Text {
    fn default() -> Self {
        Self {
            bytes: [0; Self::ROOM],
            length: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(dialect: QuotaHeaders, quotas: &str, spent: u32, now: Nanos) -> Vec<String> {
        let tier = Tier::new("default", quotas.parse().expect("quotas"));
        let mut times = Times::default();
        for _ in 0..spent {
            tier.spend(&mut times, 1, 0).expect("within the quota");
        }
        let mut headers = HeaderMap::new();
        tell(&mut headers, dialect, &tier, &times, now);
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn each_dialect_says_the_same() {
        let cases: &[(QuotaHeaders, &str, u32, Nanos, &[&str])] = &[
            (
                QuotaHeaders::Draft10,
                "100/s burst 50",
                1,
                0,
                &[
                    r#"ratelimit-policy: "second";q=50;w=1"#,
                    r#"ratelimit: "second";r=49;t=1"#,
                ],
            ),
            (
                QuotaHeaders::Draft10,
                "20/s and 1000/h",
                20,
                0,
                &[
                    r#"ratelimit-policy: "second";q=20;w=1, "hour";q=1000;w=3600"#,
                    r#"ratelimit: "second";r=0;t=1, "hour";r=980;t=4"#,
                ],
            ),
            (
                QuotaHeaders::Draft10,
                "1/10s",
                0,
                0,
                &[
                    r#"ratelimit-policy: "default";q=1;w=10"#,
                    r#"ratelimit: "default";r=1"#,
                ],
            ),
            (
                QuotaHeaders::Legacy,
                "20/s and 1000/h burst 5",
                4,
                3_600_000_000,
                &[
                    "x-ratelimit-limit: 5",
                    "x-ratelimit-remaining: 2",
                    "x-ratelimit-reset: 11",
                ],
            ),
            (QuotaHeaders::None, "20/s", 4, 0, &[]),
        ];
        for (dialect, quotas, spent, now, expected) in cases {
            assert_eq!(told(*dialect, quotas, *spent, *now), *expected, "{quotas}");
        }
        assert_eq!(told(QuotaHeaders::Both, "5/m", 2, 0).len(), 5);
    }
}
