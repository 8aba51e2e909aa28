//! The page: one file that asks nobody for anything but its own numbers.

use std::sync::LazyLock;

use axum::{
    Router,
    response::{Html, IntoResponse as _, Response},
    routing::get,
};
use http::{
    HeaderName, HeaderValue,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        X_FRAME_OPTIONS,
    },
};
use sha2::{Digest as _, Sha256};

const PAGE: &str = include_str!("page.html");

/// On the page, on what it is told and on what the controls answer: nobody but the page itself reads it, and nothing is made of it but what it is.
pub(super) const LOCKED_DOWN: [(HeaderName, HeaderValue); 3] = [
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// Only the page's own style and script count, by their hashes; nothing is fetched but from where it came.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |element: &str| {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        let inside = PAGE
            .split_once(&open)
            .and_then(|(_, rest)| rest.split_once(&close));
        let inside = inside.map_or("", |(inside, _)| inside);
        format!("'sha256-{}'", base64(&Sha256::digest(inside)))
    };
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        hash("script"),
        hash("style"),
    );
    HeaderValue::try_from(policy).expect("it is ASCII")
});

pub(super) fn routes() -> Router {
    Router::new().route("/status", get(page))
}

async fn page() -> Response {
    let headers = [
        (CONTENT_SECURITY_POLICY, POLICY.clone()),
        (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (LOCKED_DOWN, headers, Html(PAGE)).into_response()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let padded = [0, 1, 2].map(|at| group.get(at).copied().unwrap_or_default());
        let [one, two, three] = padded.map(u32::from);
        let bits = (one << 16) | (two << 8) | three;
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = usize::try_from((bits >> shift) & 63).unwrap_or_default();
            let digit = DIGITS.get(digit).copied().unwrap_or_default();
            text.push(if place > group.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_everybody_writes_it() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn the_page_makes_text_of_whatever_it_is_told() {
        for (element, times) in [("script", 1), ("style", 1)] {
            assert_eq!(PAGE.matches(&format!("<{element}>")).count(), times);
        }
        for wrong in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
            "style=\"",
            "onclick=",
            "localStorage",
        ] {
            // The namespace of SVG is a name, nobody asks there.
            let page = PAGE.replace("http://www.w3.org/2000/svg", "");
            assert!(!page.contains(wrong), "{wrong}");
        }
    }
}
