use std::{borrow::Cow, collections::BTreeSet};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION},
    uri::PathAndQuery,
};

use super::current;
use crate::protocol::code::percent_decode;

/// Shorter values are not searched for in texts: they would hit by chance.
const SHORTEST: usize = 4;
/// Values of this length are replaced wherever they stand, shorter ones only as words of their own.
const SURE: usize = 12;
/// A request with more values than this is hostile: texts of its errors are not searched but replaced whole.
const MAX_SEARCHED: usize = 256;
/// What stands in place of a secret.
pub(crate) const REDACTED: &str = "REDACTED";

/// The text without the secrets of the current call's request.
pub(crate) fn redact(text: &str) -> Cow<'_, str> {
    current(|frame| frame.secrets().redact(text)).unwrap_or(Cow::Borrowed(text))
}

/// What a request told in confidence: the values of its sensitive headers and of its query.
///
/// Kept as shared handles until the call ends, since an error or a panic may quote them. They never reach a log line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secrets {
    values: Vec<HeaderValue>,
    query: Option<PathAndQuery>,
}

impl Secrets {
    /// What is sensitive in every request.
    pub(super) const REQUEST_HEADERS: &[HeaderName] = &[AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION];

    pub(super) fn add(&mut self, value: &HeaderValue) {
        self.values.push(value.clone());
    }

    pub(super) fn set_query(&mut self, path: Option<&PathAndQuery>) {
        self.query = path.cloned();
    }

    /// Adds what these headers hold.
    pub(crate) fn add_headers(&mut self, headers: &HeaderMap, names: &[HeaderName]) {
        self.values
            .extend(names.iter().flat_map(|name| headers.get_all(name)).cloned());
    }

    pub(super) fn clear(&mut self) {
        self.values.clear();
        self.query = None;
    }

    /// The text with each secret in it replaced.
    pub(crate) fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        if self.values.is_empty() && self.query.is_none() {
            return text;
        }
        let pairs = self
            .query
            .as_ref()
            .and_then(PathAndQuery::query)
            .unwrap_or_default();
        if self.values.len().saturating_add(pairs.split('&').count()) > MAX_SEARCHED {
            return Cow::Borrowed(REDACTED);
        }
        // Longest first, so that a secret within another leaves no rest behind.
        let mut needles: Vec<String> = self.needles(text.as_ref()).into_iter().collect();
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
        for needle in needles {
            if let Some(redacted) = replace(&text, &needle) {
                text = Cow::Owned(redacted);
            }
        }
        text
    }

    /// The forms in which this text may quote them: whole, a part of a list or pair, and percent-decoded.
    fn needles(&self, text: &str) -> BTreeSet<String> {
        let mut needles = Needles {
            windows: Windows::of(text.as_bytes()),
            found: BTreeSet::new(),
        };
        for value in &self.values {
            let value = String::from_utf8_lossy(value.as_bytes());
            needles.keep(&value);
            for part in value.split([' ', ';', ',']) {
                needles.keep(part);
                needles.keep(part.split_once('=').map_or("", |(_, value)| value));
            }
        }
        let query = self.query.as_ref().and_then(PathAndQuery::query);
        for pair in query.unwrap_or_default().split('&') {
            needles.keep(pair.split_once('=').map_or(pair, |(_, value)| value));
        }
        needles.found
    }
}

/// The secrets that a text may hold. A hostile request brings tens of thousands of them, and a text few.
struct Needles {
    windows: Windows,
    found: BTreeSet<String>,
}

impl Needles {
    fn keep(&mut self, text: &str) {
        let text = text.trim().trim_matches('"');
        self.keep_form(text);
        if text.contains(['%', '+']) {
            for form in [text, &text.replace('+', " ")] {
                self.keep_form(form);
                self.keep_form(&String::from_utf8_lossy(&percent_decode(form.as_bytes())));
            }
        }
    }

    fn keep_form(&mut self, form: &str) {
        if form.len() >= SHORTEST && self.windows.may_hold(form.as_bytes()) {
            self.found.insert(form.to_owned());
        }
    }
}

/// Which runs of bytes, as long as the shortest secret, a text has; by a hash, so that a few more may seem to be there.
struct Windows {
    bits: Vec<u64>,
    length: usize,
}

impl Windows {
    const BITS: u32 = 16;
    const WORDS: usize = 1 << 10;

    fn of(text: &[u8]) -> Self {
        let mut bits = vec![0; Self::WORDS];
        for window in text.windows(SHORTEST) {
            let (word, bit) = Self::place(window);
            if let Some(word) = bits.get_mut(word) {
                *word |= bit;
            }
        }
        Self {
            bits,
            length: text.len(),
        }
    }

    fn may_hold(&self, needle: &[u8]) -> bool {
        let has = |window: &[u8]| {
            let (word, bit) = Self::place(window);
            self.bits.get(word).is_some_and(|word| word & bit != 0)
        };
        needle.len() <= self.length && needle.windows(SHORTEST).all(has)
    }

    fn place(window: &[u8]) -> (usize, u64) {
        let hash = window.iter().fold(0_u32, |hash, &byte| {
            (hash.rotate_left(8) ^ u32::from(byte)).wrapping_mul(0x9e37_79b1)
        });
        // The upper bits of a product are its best.
        let index = hash >> u32::BITS.saturating_sub(Self::BITS);
        let word = usize::try_from(index >> 6).unwrap_or_default();
        (word, 1 << (index & 63))
    }
}

/// Replaces the needle. A short one counts only where it stands alone: `panic` is no secret within `panicked`.
/// `None` where it is not there.
fn replace(text: &str, needle: &str) -> Option<String> {
    let is_part = |neighbour: Option<char>| neighbour.is_some_and(char::is_alphanumeric);
    let mut redacted = String::new();
    let mut done = 0;
    for (at, found) in text.match_indices(needle) {
        let end = at.saturating_add(found.len());
        let before = text.get(..at).unwrap_or_default().chars().next_back();
        let after = text.get(end..).unwrap_or_default().chars().next();
        if needle.len() >= SURE || !(is_part(before) || is_part(after)) {
            redacted.push_str(text.get(done..at).unwrap_or_default());
            redacted.push_str(REDACTED);
            done = end;
        }
    }
    (done > 0).then(|| redacted + text.get(done..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;

    fn secrets(headers: &[(HeaderName, &'static str)], uri: &'static str) -> Secrets {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect();
        let mut secrets = Secrets::default();
        secrets.add_headers(&headers, Secrets::REQUEST_HEADERS);
        secrets.set_query(Uri::from_static(uri).path_and_query());
        secrets
    }

    #[test]
    fn no_form_of_a_secret_stays_in_a_text() {
        let secrets = secrets(
            &[
                (AUTHORIZATION, "Bearer tok-123456"),
                (COOKIE, "session=s3cr3t-cookie; theme=dark"),
            ],
            "/x?key=q%20uery%2Fvalue&plain+words&n=3",
        );
        for text in [
            "Bearer tok-123456",
            "got tok-123456, wanted another",
            "cookie s3cr3t-cookie is stale",
            "cannot parse `q uery/value`",
            "cannot parse q%20uery%2Fvalue",
            "no plain words or plain+words",
        ] {
            let redacted = secrets.redact(text);
            assert!(redacted.contains(REDACTED), "{redacted}");
            for canary in ["tok-", "s3cr3t", "uery", "plain"] {
                assert!(!redacted.contains(canary), "{redacted}");
            }
        }
        assert_eq!(
            secrets.redact("3 apples"),
            "3 apples",
            "too short to be searched for"
        );
    }

    #[test]
    fn a_flood_of_secrets_costs_no_more_than_a_look_at_each() {
        let flood: String = (0..20_000).map(|n| format!("k{n:05}=v{n:05}; ")).collect();
        let mut secrets = Secrets::default();
        secrets.add(&HeaderValue::try_from(flood + "last=s3cr3t").expect("a header"));
        let text = "the cookie `s3cr3t` is stale, v00007 too";
        let found = secrets.needles(text);
        assert_eq!(found.iter().collect::<Vec<_>>(), ["s3cr3t", "v00007"]);
        assert_eq!(
            secrets.redact(text),
            "the cookie `REDACTED` is stale, REDACTED too"
        );
    }

    #[test]
    fn a_short_value_is_replaced_as_a_word_only() {
        let secrets = secrets(&[], "/x?fail=panic&token=abcdef-0123456789");
        assert_eq!(
            secrets.redact("it panicked: panic!"),
            "it panicked: REDACTED!"
        );
        assert_eq!(secrets.redact("xabcdef-0123456789x"), "xREDACTEDx");
    }
}
