//! By what callers are told apart, as a text.

use http::HeaderName;

use crate::caller::{Key, TrustedProxies};

const EXPECTED: &str =
    "`peer`, `client`, `everyone`, `route` or `header:<name>`, perhaps several with `and`";

/// Whether this is a key.
pub(super) fn understands(text: &str) -> Result<(), String> {
    read(text, &TrustedProxies::default()).map(|_| ())
}

/// Whether it asks for the caller behind proxies.
pub(super) fn needs_proxies(text: &str) -> bool {
    text.split(" and ").any(|part| part.trim() == "client")
}

/// The key that a text means.
pub(super) fn read(text: &str, proxies: &TrustedProxies) -> Result<Key, String> {
    let mut parts = text.split(" and ").map(|part| one(part.trim(), proxies));
    let first = parts.next().unwrap_or_else(|| Err(EXPECTED.to_owned()))?;
    parts.try_fold(first, |key, part| Ok(key.and(part?)))
}

fn one(text: &str, proxies: &TrustedProxies) -> Result<Key, String> {
    match text {
        "peer" => Ok(Key::peer()),
        "client" => Ok(Key::client(proxies.clone())),
        "everyone" => Ok(Key::everyone()),
        "route" => Ok(Key::route()),
        _ => match text.strip_prefix("header:").map(HeaderName::try_from) {
            Some(Ok(name)) => Ok(Key::header(name)),
            Some(Err(error)) => Err(format!("the name of a header: {error}")),
            None => Err(EXPECTED.to_owned()),
        },
    }
}
