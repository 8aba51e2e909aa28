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
        // Longest first, so that a secret within another leaves no rest behind.
        let mut needles: Vec<String> = self.needles().into_iter().collect();
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
        for needle in needles {
            if let Some(redacted) = replace(&text, &needle) {
                text = Cow::Owned(redacted);
            }
        }
        text
    }

    /// The forms in which a text may quote them: whole, a part of a list or pair, and percent-decoded.
    fn needles(&self) -> BTreeSet<String> {
        let mut needles = BTreeSet::new();
        for value in &self.values {
            let value = String::from_utf8_lossy(value.as_bytes());
            keep(&mut needles, &value);
            for part in value.split([' ', ';', ',']) {
                keep(&mut needles, part);
                keep(
                    &mut needles,
                    part.split_once('=').map_or("", |(_, value)| value),
                );
            }
        }
        for pair in self
            .query
            .as_ref()
            .and_then(PathAndQuery::query)
            .unwrap_or_default()
            .split('&')
        {
            keep(
                &mut needles,
                pair.split_once('=').map_or(pair, |(_, value)| value),
            );
        }
        needles
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

fn keep(needles: &mut BTreeSet<String>, text: &str) {
    let text = text.trim().trim_matches('"');
    for form in [text, &text.replace('+', " ")] {
        let decoded = String::from_utf8_lossy(&percent_decode(form.as_bytes())).into_owned();
        needles.extend(
            [form.to_owned(), decoded]
                .into_iter()
                .filter(|form| form.len() >= SHORTEST),
        );
    }
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
    fn a_short_value_is_replaced_as_a_word_only() {
        let secrets = secrets(&[], "/x?fail=panic&token=abcdef-0123456789");
        assert_eq!(
            secrets.redact("it panicked: panic!"),
            "it panicked: REDACTED!"
        );
        assert_eq!(secrets.redact("xabcdef-0123456789x"), "xREDACTEDx");
    }
}
