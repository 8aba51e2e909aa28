//! Who may change something: whoever has the token, asks from the page itself or from no page at all, and has not
//! guessed before.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::{
    HeaderMap, HeaderName, StatusCode, Uri,
    header::{AUTHORIZATION, HOST, ORIGIN},
};
use sha2::{Digest as _, Sha256};

use crate::{
    gauge::{Kind, Metric},
    report::Report,
};

pub(crate) const TOKEN: &str = "PLIMSOLL_OPS_TOKEN";
/// 128 bits, if they are random.
const SHORTEST: usize = 16;
/// So many wrong tokens an address may send in this time; then none of its tokens is looked at until the time is over.
const GUESSES: u32 = 5;
pub(super) const FORGOTTEN: Duration = Duration::from_secs(60);
/// So many addresses are remembered. Past them the whole port is locked as one address is.
const ADDRESSES: usize = 256;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

pub(super) const REFUSED: Metric = Metric::new(
    "plimsoll.ops.refused",
    Kind::Counter,
    "{attempt}",
    "Attempts to change something that were refused, by reason.",
);

/// The controls of [`Ops`](super::Ops), and the token that opens them.
#[derive(Clone)]
pub struct Controls {
    /// Of the token, which itself is not kept.
    digest: [u8; 32],
}

impl Controls {
    /// With the token in the variable `PLIMSOLL_OPS_TOKEN`: at least 16 bytes of printable ASCII, as from
    /// `openssl rand -hex 32`. `None` if it is not set or empty: then nothing can be changed.
    ///
    /// # Errors
    ///
    /// The token is too short or has other characters.
    pub fn from_env() -> Result<Option<Self>, InvalidToken> {
        match env::var_os(TOKEN) {
            Some(token) if !token.is_empty() => {
                let controls = Self::with_token(token.as_encoded_bytes());
                controls.map(Some).map_err(InvalidToken::of_environment)
            }
            _ => Ok(None),
        }
    }

    /// With a token that was kept elsewhere.
    ///
    /// # Errors
    ///
    /// The token is too short or has other characters.
    pub fn with_token(token: impl AsRef<[u8]>) -> Result<Self, InvalidToken> {
        let token = token.as_ref();
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(Flaw::NotPrintable.into());
        }
        if token.len() < SHORTEST {
            return Err(Flaw::TooShort { bytes: token.len() }.into());
        }
        Ok(Self {
            digest: Sha256::digest(token).into(),
        })
    }

    /// Whether it is the token. Digests are compared, and all of them: neither tells by its time how much was right.
    fn opens(&self, token: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let pairs = self.digest.iter().zip(digest);
        pairs.fold(0, |differs, (known, told)| differs | (known ^ told)) == 0
    }
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Controls(..)")
    }
}

/// A token that cannot be used. It says why, and names the variable if the token comes from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidToken {
    flaw: Flaw,
    variable: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// It could be guessed.
    TooShort { bytes: usize },
    /// It has characters that are not printable ASCII, such as a space or a newline at its end.
    NotPrintable,
}

impl InvalidToken {
    fn of_environment(self) -> Self {
        let variable = Some(TOKEN);
        Self { variable, ..self }
    }
}

impl From<Flaw> for InvalidToken {
    fn from(flaw: Flaw) -> Self {
        let variable = None;
        Self { flaw, variable }
    }
}

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the token ")?;
        if let Some(variable) = self.variable {
            write!(f, "in {variable} ")?;
        }
        match self.flaw {
            Flaw::TooShort { bytes } => {
                write!(f, "has {bytes} bytes, and {SHORTEST} are the least")
            }
            Flaw::NotPrintable => f.write_str("must be printable ASCII without spaces"),
        }
    }
}

impl Error for InvalidToken {}

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident => ($label:literal, $status:ident, $message:literal),)*) => {
        /// Why an attempt was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Refusal { $($(#[$doc])* $variant,)* }

        impl Refusal {
            const ALL: &[Self] = &[$(Self::$variant,)*];

            pub(super) fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            pub(super) fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            pub(super) fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)* }
            }
        }
    };
}

refusals! {
    /// There are no controls.
    Off => ("off", NOT_FOUND, "the controls are off"),
    /// A page of elsewhere asks.
    Origin => ("origin", FORBIDDEN, "the request comes from a page of another origin"),
    /// Too many wrong tokens came from there.
    Locked => ("locked", TOO_MANY_REQUESTS, "too many wrong tokens came from this address"),
    /// No token, or a wrong one.
    Token => ("token", UNAUTHORIZED, "the token is missing or wrong"),
    /// It had the token, and asked for what cannot be done.
    Request => ("request", BAD_REQUEST, "the request asks for what cannot be done"),
}

/// Counts what was refused, and tells it in lines of bounded number.
#[derive(Debug)]
pub(super) struct Refusals {
    origin: Instant,
    counts: [(AtomicU64, Report); Refusal::ALL.len()],
}

impl Refusals {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            counts: Default::default(),
        }
    }

    pub(super) fn note(&self, refusal: Refusal, peer: &str, path: &str, why: &str, now: Instant) {
        // The variants bear no values of their own: this counts from 0.
        if let Some((count, report)) = self.counts.get(refusal as usize) {
            count.fetch_add(1, Ordering::Relaxed);
            if report.is_due(true, self.millis(now)) {
                tell(
                    refusal,
                    report.news(count.load(Ordering::Relaxed)),
                    peer,
                    path,
                    why,
                );
            }
        }
    }

    /// Tells what no line has told yet, if it is time. To be asked now and then.
    pub(super) fn report(&self, now: Instant) {
        for (refusal, (count, report)) in Refusal::ALL.iter().zip(&self.counts) {
            if report.is_due(false, self.millis(now)) {
                let times = report.news(count.load(Ordering::Relaxed));
                tell(*refusal, times, "several", "", refusal.message());
            }
        }
    }

    /// Each reason with its count.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = Refusal::ALL.iter().zip(&self.counts);
        counts.map(|(refusal, (count, _))| (refusal.label(), count.load(Ordering::Relaxed)))
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.origin).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

fn tell(refusal: Refusal, times: u64, by: &str, path: &str, why: &str) {
    if times > 0 {
        tracing::warn!(
            target: "plimsoll::ops",
            event = "change_refused",
            reason = refusal.label(),
            by,
            path,
            error = why,
            times,
            "an attempt to change a setting was refused",
        );
    }
}

/// Who stands before the controls.
#[derive(Debug, Default)]
pub(super) struct Guard {
    guesses: Mutex<BTreeMap<IpAddr, (u32, Instant)>>,
}

impl Guard {
    /// Whether whoever asks may change something.
    pub(super) fn check(
        &self,
        controls: Option<&Controls>,
        headers: &HeaderMap,
        uri: &Uri,
        peer: Option<IpAddr>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let controls = controls.ok_or(Refusal::Off)?;
        if !is_same_origin(headers, uri) {
            return Err(Refusal::Origin);
        }
        // All whose address is not known are one.
        let peer = network(peer.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        guesses.retain(|_, (_, since)| now.saturating_duration_since(*since) < FORGOTTEN);
        let is_known = guesses.contains_key(&peer);
        let is_locked = guesses
            .get(&peer)
            .is_some_and(|(wrong, _)| *wrong >= GUESSES);
        if is_locked || (!is_known && guesses.len() >= ADDRESSES) {
            return Err(Refusal::Locked);
        }
        let token = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        if token
            .and_then(bearer)
            .is_some_and(|token| controls.opens(token))
        {
            guesses.remove(&peer);
            return Ok(());
        }
        if token.is_some() {
            let (wrong, since) = guesses.entry(peer).or_insert((0, now));
            *wrong = wrong.saturating_add(1);
            *since = now;
        }
        Err(Refusal::Token)
    }
}

/// Whoever has one address of IPv6 has a network of them.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(prefix))
        }
        address => address,
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// Whether no page of elsewhere asks. Browsers tell where a page that posts comes from; programs that are none tell
/// nothing, and no browser sends the token for them.
fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    if let Some(site) = headers.get(SEC_FETCH_SITE)
        && site != "same-origin"
    {
        return false;
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return true;
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str()));
    let origin = origin.to_str().ok().and_then(|origin| {
        let plain = origin.strip_prefix("http://");
        plain.or_else(|| origin.strip_prefix("https://"))
    });
    match (origin, host) {
        (Some(origin), Some(host)) => origins.next().is_none() && origin.eq_ignore_ascii_case(host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const GOOD: &str = "correct-horse-battery-staple";

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().cloned();
        pairs
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_token_is_long_and_printable() {
        Controls::with_token("0123456789abcdef").expect("16 bytes");
        for (token, wrong) in [
            ("0123456789abcde", Flaw::TooShort { bytes: 15 }),
            ("0123456789abcdef\n", Flaw::NotPrintable),
            ("0123456789 abcdef", Flaw::NotPrintable),
        ] {
            let told = Controls::with_token(token).expect_err("wrong");
            assert_eq!(told.flaw, wrong);
            // Only a token that comes from there blames the variable.
            assert!(!told.to_string().contains(TOKEN), "{told}");
            let told = told.of_environment().to_string();
            assert!(told.contains("in PLIMSOLL_OPS_TOKEN "), "{told}");
        }
        let controls = Controls::with_token(GOOD).expect("long");
        assert!(controls.opens(GOOD.as_bytes()) && !controls.opens(b"correct-horse-battery-stapl"));
        assert!(!format!("{controls:?}").contains("horse"));
    }

    #[test]
    fn pages_of_elsewhere_are_told_apart() {
        let uri = Uri::from_static("/control/drain");
        for (pairs, expected) in [
            (vec![(HOST, "a:9090")], true),
            (vec![(HOST, "a:9090"), (ORIGIN, "http://a:9090")], true),
            (vec![(HOST, "A"), (ORIGIN, "https://a")], true),
            (vec![(HOST, "a:9090"), (ORIGIN, "http://a")], false),
            (vec![(HOST, "a"), (ORIGIN, "http://b.a")], false),
            (vec![(HOST, "a"), (ORIGIN, "null")], false),
            (vec![(ORIGIN, "http://a")], false),
            (
                vec![
                    (HOST, "a"),
                    (ORIGIN, "http://a"),
                    (SEC_FETCH_SITE, "cross-site"),
                ],
                false,
            ),
            (
                vec![
                    (HOST, "a"),
                    (ORIGIN, "http://a"),
                    (SEC_FETCH_SITE, "same-origin"),
                ],
                true,
            ),
            (vec![(HOST, "a"), (SEC_FETCH_SITE, "none")], false),
        ] {
            assert_eq!(
                is_same_origin(&headers(&pairs), &uri),
                expected,
                "{pairs:?}"
            );
        }
        let mut two = headers(&[(HOST, "a"), (ORIGIN, "http://a")]);
        two.append(ORIGIN, HeaderValue::from_static("http://b"));
        assert!(!is_same_origin(&two, &uri));
        let authority = Uri::from_static("http://a:9090/control/drain");
        assert!(is_same_origin(
            &headers(&[(ORIGIN, "http://a:9090")]),
            &authority
        ));
    }

    #[test]
    fn guessing_is_locked_out_for_a_minute_and_others_are_not() {
        let (guard, start) = (Guard::default(), Instant::now());
        let controls = Controls::with_token(GOOD).expect("long");
        let ask = |token: &str, peer: &str, seconds| {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("text");
            headers.insert(AUTHORIZATION, value);
            let peer = Some(peer.parse().expect("an address"));
            let now = start + Duration::from_secs(seconds);
            guard.check(Some(&controls), &headers, &Uri::from_static("/"), peer, now)
        };
        for _ in 0..GUESSES {
            assert_eq!(ask("wrong", "2001:db8::1", 0), Err(Refusal::Token));
        }
        // Not even the right one, from anywhere in its network.
        assert_eq!(ask(GOOD, "2001:db8::2", 59), Err(Refusal::Locked));
        assert_eq!(ask(GOOD, "2001:db8:0:1::1", 59), Ok(()));
        assert_eq!(ask(GOOD, "127.0.0.1", 59), Ok(()));
        assert_eq!(ask(GOOD, "2001:db8::1", 60), Ok(()));
        // A right one makes up for wrong ones.
        for _ in 0..3 * GUESSES {
            assert_eq!(ask("wrong", "127.0.0.1", 61), Err(Refusal::Token));
            assert_eq!(ask(GOOD, "127.0.0.1", 61), Ok(()));
        }
        // Guesses from very many addresses do not take more memory, and are stopped.
        let mut looked_at = 0;
        for number in 0..10_000_u32 {
            let peer = std::net::Ipv4Addr::from_bits(number).to_string();
            looked_at += u32::from(ask("wrong", &peer, 70) == Err(Refusal::Token));
        }
        assert_eq!(usize::try_from(looked_at), Ok(ADDRESSES));
        assert_eq!(ask(GOOD, "127.0.0.1", 70 + FORGOTTEN.as_secs()), Ok(()));
        let nobody = HeaderMap::new();
        let uri = Uri::from_static("/");
        let now = start + Duration::from_secs(500);
        for _ in 0..2 * GUESSES {
            // No token is no guess.
            let refused = guard.check(Some(&controls), &nobody, &uri, None, now);
            assert_eq!(refused, Err(Refusal::Token));
        }
        assert_eq!(
            guard.check(None, &nobody, &uri, None, now),
            Err(Refusal::Off)
        );
    }
}
