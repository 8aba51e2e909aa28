use std::{borrow::Cow, env};

use http::Method;

/// What a method is called that is not known: a caller may send any token as one.
pub(crate) const OTHER: &str = "_OTHER";

/// The comma separated list that replaces the standard methods, as OpenTelemetry names it.
const KNOWN_METHODS: &str = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS";

/// The most methods that can be known, so that five bits number them and the others.
const MAX_METHODS: usize = 31;

/// The methods that are named in metrics and spans; all others are [`OTHER`].
#[derive(Clone, Debug)]
pub(crate) struct Methods(Vec<Method>);

impl Methods {
    /// Those of RFC 9110, PATCH (RFC 5789) and QUERY; what the semantic conventions of OpenTelemetry take as known.
    pub(crate) fn standard() -> Self {
        let query = Method::from_bytes(b"QUERY").expect("a token");
        Self(vec![
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::HEAD,
            Method::OPTIONS,
            Method::PATCH,
            Method::TRACE,
            Method::CONNECT,
            query,
        ])
    }

    /// These if they are given, else those of the environment, else the standard ones.
    pub(crate) fn chosen(methods: Option<&[Method]>) -> Self {
        match (methods, env::var(KNOWN_METHODS)) {
            (Some(methods), _) => Self::only(methods.iter().cloned()),
            (None, Ok(list)) => Self::listed(&list),
            (None, Err(_)) => Self::standard(),
        }
    }

    /// These and no others. What is past the most that can be known counts as [`OTHER`].
    pub(crate) fn only(methods: impl IntoIterator<Item = Method>) -> Self {
        Self(methods.into_iter().take(MAX_METHODS).collect())
    }

    /// A comma separated list, which replaces the standard ones whole.
    /// What is no token can be no method and is left out.
    pub(crate) fn listed(list: &str) -> Self {
        Self::only(
            list.split(',')
                .filter_map(|name| Method::from_bytes(name.trim().as_bytes()).ok()),
        )
    }

    /// The number of a method; that of the others is the largest.
    #[inline]
    pub(crate) fn number(&self, method: &Method) -> u8 {
        let known = self.0.iter().position(|known| known == method);
        u8::try_from(known.unwrap_or(self.0.len())).unwrap_or(u8::MAX)
    }

    pub(crate) fn name(&self, number: u8) -> String {
        self.0
            .get(usize::from(number))
            .map_or_else(|| OTHER.to_owned(), |method| method.as_str().to_owned())
    }

    /// The name of a method: that of a known one, else [`OTHER`]. Those of RFC 9110 and PATCH cost no allocation.
    pub(crate) fn label(&self, method: &Method) -> Cow<'static, str> {
        if !self.0.contains(method) {
            return Cow::Borrowed(OTHER);
        }
        match *method {
            Method::GET => Cow::Borrowed("GET"),
            Method::POST => Cow::Borrowed("POST"),
            Method::PUT => Cow::Borrowed("PUT"),
            Method::DELETE => Cow::Borrowed("DELETE"),
            Method::HEAD => Cow::Borrowed("HEAD"),
            Method::OPTIONS => Cow::Borrowed("OPTIONS"),
            Method::PATCH => Cow::Borrowed("PATCH"),
            Method::TRACE => Cow::Borrowed("TRACE"),
            Method::CONNECT => Cow::Borrowed("CONNECT"),
            _ => Cow::Owned(method.as_str().to_owned()),
        }
    }

    /// How many numbers there are.
    pub(crate) fn numbers(&self) -> usize {
        self.0.len().saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_methods_replaces_the_standard_ones() {
        let methods = Methods::listed("GET, BREW,,wh at");
        assert_eq!(methods.numbers(), 3);
        let brew = Method::from_bytes(b"BREW").expect("a token");
        assert_eq!(methods.name(methods.number(&brew)), "BREW");
        assert_eq!(methods.name(methods.number(&Method::POST)), OTHER);
        for known in &Methods::standard().0 {
            assert_eq!(Methods::standard().label(known), known.as_str());
        }
        assert_eq!(
            (&*methods.label(&brew), &*methods.label(&Method::POST)),
            ("BREW", OTHER)
        );
        assert_eq!(Methods::listed("").numbers(), 1);
        let get = Method::from_bytes(b"get").expect("a token");
        let standard = Methods::standard();
        assert_eq!(
            standard.name(standard.number(&get)),
            OTHER,
            "case counts, as in HTTP"
        );
    }
}
