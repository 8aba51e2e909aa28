//! What can be changed while the program runs. Each change is one line; each attempt that is refused is counted.

use std::{
    fmt::{self, Display},
    num::NonZeroUsize,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    response::{IntoResponse as _, Response},
    routing::post,
};
use http::{
    HeaderValue, Request, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::{Map, Value, json};

use super::{
    Parts,
    guard::{FORGOTTEN, Refusal},
    page::LOCKED_DOWN,
};
use crate::{clock, context::PeerAddr, ops::change, server::rate_limit::Quotas};

/// No request is longer.
const MAX_BODY: usize = 4 * 1024;
/// None takes longer to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// A change that was made.
struct Changed {
    setting: String,
    from: String,
    to: String,
}

/// Why none was.
struct Wrong {
    status: StatusCode,
    text: String,
}

impl Wrong {
    fn request(text: impl Display) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            text: text.to_string(),
        }
    }

    fn missing(what: &str, name: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            text: format!("there is no {what} of the name {name:?}"),
        }
    }

    fn conflict(text: impl Display) -> Self {
        Self {
            status: StatusCode::CONFLICT,
            text: text.to_string(),
        }
    }
}

type Change = fn(&Parts, &Map<String, Value>) -> Result<Changed, Wrong>;

pub(super) fn routes(parts: &Arc<Parts>) -> Router {
    let control = |change: Change| {
        post(
            move |State(parts): State<Arc<Parts>>, request: Request<Body>| async move {
                control(&parts, request, change).await
            },
        )
    };
    Router::new()
        .route("/control/limit", control(limit))
        .route("/control/rate_limit", control(rate_limit))
        .route("/control/drain", control(drain))
        .with_state(Arc::clone(parts))
}

async fn control(parts: &Parts, request: Request<Body>, change: Change) -> Response {
    let (head, body) = request.into_parts();
    let peer = PeerAddr::of(&head.extensions).map(|peer| peer.0);
    // Whoever stands in between may say who asked; nobody believes it.
    let by = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
    let (now, path) = (clock::now(), head.uri.path());
    let refuse = |refusal: Refusal, why: &str| parts.refusals.note(refusal, &by, path, why, now);
    let (controls, address) = (parts.controls.as_ref(), peer.map(|peer| peer.ip()));
    let allowed = parts
        .guard
        .check(controls, &head.headers, &head.uri, address, now);
    if let Err(refusal) = allowed {
        refuse(refusal, refusal.message());
        let (mut message, mut header) = (refusal.message().to_owned(), None);
        match refusal {
            Refusal::Token => {
                header = Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
            }
            Refusal::Locked => {
                let seconds = FORGOTTEN.as_secs();
                message = format!("{message}: try again in {seconds} s");
                header = Some((RETRY_AFTER, HeaderValue::from(seconds)));
            }
            _ => {}
        }
        let mut response = answer(refusal.status(), &json!({ "error": message }));
        response.headers_mut().extend(header);
        return response;
    }
    let asked = read(head.headers.get(CONTENT_TYPE), body).await;
    match asked.and_then(|asked| change(parts, &asked)) {
        Ok(changed) => {
            parts.changes.fetch_add(1, Ordering::Relaxed);
            change::tell(&by, &changed.setting, &changed.from, &changed.to);
            let Changed { setting, from, to } = changed;
            answer(
                StatusCode::OK,
                &json!({ "setting": setting, "from": from, "to": to }),
            )
        }
        Err(wrong) => {
            refuse(Refusal::Request, &wrong.text);
            answer(wrong.status, &json!({ "error": wrong.text }))
        }
    }
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    (status, LOCKED_DOWN, headers, body.to_string()).into_response()
}

async fn read(content_type: Option<&HeaderValue>, body: Body) -> Result<Map<String, Value>, Wrong> {
    let media = content_type.and_then(|value| value.to_str().ok());
    let media = media.and_then(|value| value.split(';').next());
    if !media.is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Wrong {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            text: "the content-type must be application/json".to_owned(),
        });
    }
    let read = tokio::time::timeout(PATIENCE, to_bytes(body, MAX_BODY)).await;
    let bytes = match read {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            return Err(Wrong {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                text: format!("the body is cut or longer than {MAX_BODY} bytes: {error}"),
            });
        }
        Err(_) => {
            return Err(Wrong {
                status: StatusCode::REQUEST_TIMEOUT,
                text: "the body did not come in time".to_owned(),
            });
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(asked)) => Ok(asked),
        Ok(_) => Err(Wrong::request("the body is no object")),
        Err(error) => Err(Wrong::request(format_args!("the body is no JSON: {error}"))),
    }
}

/// The only key of these that is there, besides the name, with its value.
fn one_of<'a>(
    asked: &'a Map<String, Value>,
    name: &'static str,
    keys: &[&'static str],
) -> Result<(&'a str, &'static str, &'a Value), Wrong> {
    let named = asked.get(name).and_then(Value::as_str);
    let named = named.ok_or_else(|| Wrong::request(format_args!("{name:?} is missing")))?;
    let mut others = asked.iter().filter(|(key, _)| *key != name);
    if let (Some((key, value)), None) = (others.next(), others.next())
        && let Some(known) = keys.iter().find(|known| *known == key)
    {
        return Ok((named, known, value));
    }
    let keys = keys.join(", ");
    Err(Wrong::request(format_args!(
        "besides {name:?} exactly one of these is needed: {keys}"
    )))
}

/// The only one of this name.
fn only<'a, T>(
    all: &'a [T],
    what: &str,
    name: &str,
    has: impl Fn(&T) -> bool,
) -> Result<&'a T, Wrong> {
    let mut found = all.iter().filter(|one| has(one));
    let one = found.next().ok_or_else(|| Wrong::missing(what, name))?;
    if found.next().is_some() {
        let text = format!("there are several {what}s of the name {name:?}: name them apart");
        return Err(Wrong::conflict(text));
    }
    Ok(one)
}

fn is_on(value: &Value) -> Result<bool, Wrong> {
    let on = value.as_bool();
    on.ok_or_else(|| Wrong::request("\"dry_run\" is true or false"))
}

/// `{"limit": NAME, "set": 50 | "adaptive"}` or `{"limit": NAME, "dry_run": true}`.
fn limit(parts: &Parts, asked: &Map<String, Value>) -> Result<Changed, Wrong> {
    let (name, key, value) = one_of(asked, "limit", &["set", "dry_run"])?;
    let limit = only(&parts.limits, "limit", name, |limit| limit.name() == name)?;
    if key == "dry_run" {
        let (on, before) = (is_on(value)?, limit.is_dry_run());
        limit.set_dry_run(on);
        return Ok(Changed {
            setting: format!("limit.{name}.dry_run"),
            from: before.to_string(),
            to: on.to_string(),
        });
    }
    let steers = |is_adaptive| if is_adaptive { "adaptive" } else { "fixed" };
    let from = format!("{} {}", steers(limit.is_adaptive()), limit.limit());
    if value == "adaptive" {
        if !limit.adapt() {
            let text = format!("the limit {name:?} was made with a fixed number");
            return Err(Wrong::conflict(text));
        }
    } else {
        let calls = value.as_u64().filter(|calls| *calls <= MOST_CALLS);
        let calls = calls.and_then(|calls| usize::try_from(calls).ok());
        let calls = calls.and_then(NonZeroUsize::new).ok_or_else(|| {
            Wrong::request(format_args!(
                "\"set\" is a whole number from 1 to {MOST_CALLS}, or \"adaptive\""
            ))
        })?;
        limit.hold(calls);
    }
    Ok(Changed {
        setting: format!("limit.{name}"),
        from,
        to: format!("{} {}", steers(limit.is_adaptive()), limit.limit()),
    })
}

/// More calls than any process bears.
const MOST_CALLS: u64 = 1_000_000;

/// `{"policy": NAME, "quotas": "100/s burst 50"}` or `{"policy": NAME, "dry_run": true}`. A dry run is one of the whole
/// layer, which bears the name of its own policy.
fn rate_limit(parts: &Parts, asked: &Map<String, Value>) -> Result<Changed, Wrong> {
    let (name, key, value) = one_of(asked, "policy", &["quotas", "dry_run"])?;
    if key == "dry_run" {
        let on = is_on(value)?;
        let layer = only(&parts.rate_limits, "rate limit", name, |layer| {
            layer.policy() == name
        })?;
        let before = layer.is_dry_run();
        layer.set_dry_run(on);
        return Ok(Changed {
            setting: format!("rate_limit.{name}.dry_run"),
            from: before.to_string(),
            to: on.to_string(),
        });
    }
    let layer = only(&parts.rate_limits, "policy", name, |layer| {
        layer.quotas(name).is_some()
    })?;
    let text = value.as_str().unwrap_or_default();
    let quotas: Quotas = text.parse().map_err(Wrong::request)?;
    let from = layer.quotas(name).map(|quotas| quotas.to_string());
    layer.set_quotas(name, quotas).map_err(Wrong::conflict)?;
    let to = layer.quotas(name).map(|quotas| quotas.to_string());
    Ok(Changed {
        setting: format!("rate_limit.{name}.quotas"),
        from: from.unwrap_or_default(),
        to: to.unwrap_or_default(),
    })
}

/// `{}`.
fn drain(parts: &Parts, asked: &Map<String, Value>) -> Result<Changed, Wrong> {
    if !asked.is_empty() {
        return Err(Wrong::request("there is nothing to choose: the body is {}"));
    }
    let Some(drain) = &parts.on_drain else {
        return Err(Wrong::conflict("there is nothing to drain"));
    };
    let before = parts.draining.swap(true, Ordering::Relaxed);
    drain();
    Ok(Changed {
        setting: "drain".to_owned(),
        from: before.to_string(),
        to: true.to_string(),
    })
}

impl fmt::Debug for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.text)
    }
}
