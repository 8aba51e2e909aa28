//! By which names the port may be called.
//!
//! A page of elsewhere whose own name is made to lead here (DNS rebinding) is of the same origin to its browser, and may
//! read what it is answered. Only `Host` tells that it was meant for another.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::State,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use http::{
    HeaderMap, HeaderName, Request, Uri,
    header::{ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN},
    uri::Authority,
};
use serde_json::json;

use super::{Parts, guard::Refusal, page::LOCKED_DOWN};
use crate::{clock, context::PeerAddr};

/// No name in DNS is longer: of longer ones the log tells so much.
const LONGEST: usize = 253;

/// The names that were given, besides addresses and `localhost`.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    names: Vec<String>,
}

impl Hosts {
    /// Whatever port it bears is any port, and of a whole URL the host is meant.
    pub(super) fn add(&mut self, name: &str) {
        let name = name.split_once("://").map_or(name, |(_, rest)| rest);
        let name = name.split_once('/').map_or(name, |(host, _)| host);
        let authority: Option<Authority> = name.parse().ok();
        let name = authority.as_ref().map_or(name, Authority::host);
        self.names.push(plain(name).to_owned());
    }

    /// Whether all that it says of whom it is for is known, and it says something.
    fn know(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let hosts = headers.get_all(HOST).iter();
        let hosts = hosts.map(|host| host.to_str().ok()?.parse().ok());
        let authority = uri.authority().cloned().map(Some);
        let mut told = authority.into_iter().chain(hosts).peekable();
        let known =
            |told: Option<Authority>| told.is_some_and(|authority| self.knows(authority.host()));
        told.peek().is_some() && told.all(known)
    }

    /// An address is nobody's name: no page of elsewhere can have it made to lead here. Browsers know by themselves where
    /// `localhost` is.
    fn knows(&self, host: &str) -> bool {
        let inside = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if inside.unwrap_or(host).parse::<IpAddr>().is_ok() {
            return true;
        }
        let host = plain(host);
        let mut names = self.names.iter().map(String::as_str).chain(["localhost"]);
        names.any(|name| name.eq_ignore_ascii_case(host))
    }
}

/// Without the dot that says that it is whole.
fn plain(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether a browser asks. To a host without TLS it sends no `Sec-Fetch-*`, and no `Origin` when a page reads from its own;
/// but always the languages that its user reads, which a page can change and not leave out. Scrapers and probes read none.
fn is_browser(headers: &HeaderMap) -> bool {
    let says = |name: &HeaderName| {
        name == ORIGIN || name == ACCEPT_LANGUAGE || name.as_str().starts_with("sec-fetch-")
    };
    headers.keys().any(says)
}

/// What only people ask for: all must call it by a name that is known.
pub(super) fn by_all(routes: Router, parts: &Arc<Parts>) -> Router {
    routes.route_layer(from_fn_with_state(Arc::clone(parts), all))
}

/// What machines ask for too, by whatever name they have: browsers must call it by one that is known.
pub(super) fn by_browsers(routes: Router, parts: &Arc<Parts>) -> Router {
    routes.route_layer(from_fn_with_state(Arc::clone(parts), browsers))
}

async fn all(State(parts): State<Arc<Parts>>, request: Request<Body>, next: Next) -> Response {
    if parts.hosts.know(request.headers(), request.uri()) {
        return next.run(request).await;
    }
    refuse(&parts, &request)
}

async fn browsers(State(parts): State<Arc<Parts>>, request: Request<Body>, next: Next) -> Response {
    let is_free = !is_browser(request.headers());
    if is_free || parts.hosts.know(request.headers(), request.uri()) {
        return next.run(request).await;
    }
    refuse(&parts, &request)
}

fn refuse(parts: &Parts, request: &Request<Body>) -> Response {
    let refusal = Refusal::Host;
    let peer = PeerAddr::of(request.extensions()).map(|peer| peer.0);
    let by = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
    let told = request.headers().get(HOST).map(|host| host.as_bytes());
    let told = told.or_else(|| {
        let authority = request.uri().authority();
        authority.map(|authority| authority.as_str().as_bytes())
    });
    let told: String = String::from_utf8_lossy(told.unwrap_or_default())
        .chars()
        .take(LONGEST)
        .collect();
    let why = format!("it was for {told:?}");
    let path = request.uri().path();
    parts.refusals.note(refusal, &by, path, &why, clock::now());
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    let body = json!({ "error": refusal.message() }).to_string();
    (refusal.status(), LOCKED_DOWN, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn addresses_localhost_and_given_names_are_known_and_nothing_like_them() {
        let mut hosts = Hosts::default();
        hosts.add("Ops.Example");
        hosts.add("other.example.:9090");
        hosts.add("https://third.example/status");
        for (host, known) in [
            ("127.0.0.1:9090", true),
            ("10.1.2.3", true),
            ("[::1]:9090", true),
            ("[2001:db8::1]", true),
            ("localhost", true),
            ("LocalHost.:9090", true),
            ("ops.example:1", true),
            ("OPS.EXAMPLE.", true),
            ("other.example", true),
            ("third.example:9090", true),
            ("evil.example:9090", false),
            ("x.ops.example", false),
            ("ops.example.evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1@evil.example", false),
            ("localhost..", false),
            ("localhost,evil.example", false),
            ("2130706433", false),
            ("", false),
            (":9090", false),
            ("[]", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            let uri = Uri::from_static("/status.json");
            assert_eq!(hosts.know(&headers, &uri), known, "{host:?}");
            // Whoever names two is believed neither.
            headers.append(HOST, HeaderValue::from_static("evil.example"));
            assert!(!hosts.know(&headers, &uri), "{host:?}");
        }
        let nothing = HeaderMap::new();
        assert!(!hosts.know(&nothing, &Uri::from_static("/status")));
        let (good, bad) = ("http://ops.example/status", "http://evil.example/status");
        assert!(hosts.know(&nothing, &Uri::from_static(good)));
        assert!(!hosts.know(&nothing, &Uri::from_static(bad)));
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        assert!(!hosts.know(&headers, &Uri::from_static(bad)));
    }

    #[test]
    fn a_browser_is_known_by_what_no_page_can_leave_out() {
        for (name, is) in [
            ("origin", true),
            ("sec-fetch-mode", true),
            ("accept-language", true),
            ("user-agent", false),
            ("accept", false),
            ("x-prometheus-scrape-timeout-seconds", false),
        ] {
            let mut headers = HeaderMap::new();
            let name = HeaderName::from_static(name);
            headers.insert(name, HeaderValue::from_static(""));
            assert_eq!(is_browser(&headers), is, "{headers:?}");
        }
        assert!(!is_browser(&HeaderMap::new()));
    }
}
