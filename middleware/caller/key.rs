//! By what callers are told apart.

use std::{
    any::type_name,
    fmt,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::IpAddr,
    sync::Arc,
};

use http::{Extensions, HeaderMap, HeaderName, Method, Request, Uri};

use super::client::{Ipv6Prefix, TrustedProxies};
use crate::context::{PeerAddr, Route};

/// What tells a caller: a request without its body.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Call<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path and query.
    pub uri: &'a Uri,
    /// The headers, or metadata of gRPC.
    pub headers: &'a HeaderMap,
    /// What outer layers and the server have put there.
    pub extensions: &'a Extensions,
}

impl<'a> Call<'a> {
    pub(crate) fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

/// By what callers are told apart: each key has its own quota. Parts can be combined.
///
/// ```
/// # use http::HeaderName;
/// # use plimsoll::caller::Key;
/// let api_key = HeaderName::from_static("x-api-key");
/// // The API key, else the address; and for each route apart.
/// let key = Key::header(api_key).or(Key::peer()).and(Key::route());
/// ```
///
/// A call without a key is rejected as `missing_key` (500, gRPC 13), since it is a fault of the wiring: never is it
/// "unlimited", and never do such calls share a key in silence.
#[derive(Clone)]
pub struct Key(Kind);

#[derive(Clone)]
enum Kind {
    Everyone,
    Peer(Ipv6Prefix),
    Client(Arc<TrustedProxies>, Ipv6Prefix),
    Header(HeaderName),
    Route,
    Own(Arc<Own>),
    Both(Arc<(Key, Key)>),
    Either(Arc<(Key, Key)>),
}

struct Own {
    name: &'static str,
    write: Box<Write>,
}

/// Writes what makes the key, and says whether there is any.
type Write = dyn Fn(&Call<'_>, &mut dyn Hasher) -> bool + Send + Sync;

impl Key {
    /// One key for all: the quota is that of the layer as a whole.
    pub fn everyone() -> Self {
        Self(Kind::Everyone)
    }

    /// The address at the other end of the connection ([`PeerAddr`]), of IPv6 the /64, whatever headers say. For
    /// services that callers reach directly.
    pub fn peer() -> Self {
        Self(Kind::Peer(Ipv6Prefix::SUBNET))
    }

    /// The address of the caller behind these proxies, of IPv6 the /64.
    pub fn client(proxies: TrustedProxies) -> Self {
        Self(Kind::Client(Arc::new(proxies), Ipv6Prefix::SUBNET))
    }

    /// The first value of this header. Only a hash of it is kept, and nothing of it is logged. A caller can make values up: place the
    /// limit behind what checks them, or limit by address too.
    pub fn header(name: HeaderName) -> Self {
        Self(Kind::Header(name))
    }

    /// The route that matched ([`Route`]), so that each route has a quota of its own. Combine it with a caller's key.
    /// For gRPC it is the path, which names service and method; a path of HTTP is never a key, since callers choose it.
    pub fn route() -> Self {
        Self(Kind::Route)
    }

    /// An extension of the request, such as the user that an authentication layer further out has put there.
    pub fn extension<T: Hash + Send + Sync + 'static>() -> Self {
        Self::own(type_name::<T>(), |call, hasher| {
            let value = call.extensions.get::<T>();
            hash_into(value, hasher)
        })
    }

    /// A function of your own; `None` is no key.
    pub fn by<T: Hash>(key: impl Fn(&Call<'_>) -> Option<T> + Send + Sync + 'static) -> Self {
        Self::own("by", move |call, hasher| {
            hash_into(key(call).as_ref(), hasher)
        })
    }

    /// Both parts make the key. It is there if both are.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(Kind::Both(Arc::new((self, other))))
    }

    /// The other part makes the key where this one is not there.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(Kind::Either(Arc::new((self, other))))
    }

    /// How many bits of an IPv6 address count in all parts. Default: [`Ipv6Prefix::SUBNET`].
    #[must_use]
    pub fn ipv6_prefix(self, prefix: Ipv6Prefix) -> Self {
        let both = |parts: &(Self, Self)| {
            let (left, right) = parts.clone();
            Arc::new((left.ipv6_prefix(prefix), right.ipv6_prefix(prefix)))
        };
        Self(match self.0 {
            Kind::Peer(_) => Kind::Peer(prefix),
            Kind::Client(proxies, _) => Kind::Client(proxies, prefix),
            Kind::Both(parts) => Kind::Both(both(&parts)),
            Kind::Either(parts) => Kind::Either(both(&parts)),
            other => other,
        })
    }

    fn own(
        name: &'static str,
        write: impl Fn(&Call<'_>, &mut dyn Hasher) -> bool + Send + Sync + 'static,
    ) -> Self {
        let write = Box::new(write);
        Self(Kind::Own(Arc::new(Own { name, write })))
    }

    /// The hash of who calls. `None` if there is no key.
    #[inline]
    pub(crate) fn identify<D: Digest>(&self, call: &Call<'_>, digest: &D) -> Option<D::Hash> {
        match &self.0 {
            Kind::Peer(prefix) => {
                let peer = PeerAddr::of(call.extensions)?;
                Some(address(digest, prefix.of(peer.0.ip())))
            }
            Kind::Everyone => Some(digest.digest(|hasher| hasher.write_u8(0))),
            _ => self.identify_further(call, digest),
        }
    }

    fn identify_further<D: Digest>(&self, call: &Call<'_>, digest: &D) -> Option<D::Hash> {
        match &self.0 {
            Kind::Everyone | Kind::Peer(_) => self.identify(call, digest),
            Kind::Client(proxies, prefix) => {
                let client = client(call, proxies)?;
                Some(address(digest, prefix.of(client)))
            }
            Kind::Header(name) => {
                let value = call.headers.get(name)?;
                Some(digest.digest(|hasher| {
                    hasher.write_u8(2);
                    hasher.write(value.as_bytes());
                }))
            }
            Kind::Route => {
                let route = match Route::pattern(call.extensions) {
                    Some(route) => route,
                    None if is_grpc(call) => call.uri.path(),
                    None => return None,
                };
                Some(digest.digest(|hasher| {
                    hasher.write_u8(3);
                    hasher.write(route.as_bytes());
                }))
            }
            Kind::Own(own) => {
                let mut found = false;
                let hash = digest.digest(|hasher| {
                    hasher.write_u8(4);
                    found = (own.write)(call, hasher);
                });
                found.then_some(hash)
            }
            Kind::Both(parts) => {
                let left = parts.0.identify(call, digest)?;
                let right = parts.1.identify(call, digest)?;
                Some(digest.digest(|mut hasher| {
                    hasher.write_u8(5);
                    left.hash(&mut hasher);
                    right.hash(&mut hasher);
                }))
            }
            Kind::Either(parts) => parts
                .0
                .identify(call, digest)
                .or_else(|| parts.1.identify(call, digest)),
        }
    }

    /// The address in the key of who calls, which may be shown; of IPv6 the network.
    pub(crate) fn address(&self, call: &Call<'_>) -> Option<IpAddr> {
        match &self.0 {
            Kind::Peer(prefix) => Some(prefix.of(PeerAddr::of(call.extensions)?.0.ip())),
            Kind::Client(proxies, prefix) => Some(prefix.of(client(call, proxies)?)),
            Kind::Both(parts) => parts.0.address(call).or_else(|| parts.1.address(call)),
            Kind::Either(parts) if parts.0.is_there(call) => parts.0.address(call),
            Kind::Either(parts) => parts.1.address(call),
            Kind::Everyone | Kind::Header(_) | Kind::Route | Kind::Own(_) => None,
        }
    }

    fn is_there(&self, call: &Call<'_>) -> bool {
        self.identify(call, &NoDigest).is_some()
    }
}

fn client(call: &Call<'_>, proxies: &TrustedProxies) -> Option<IpAddr> {
    let peer = PeerAddr::of(call.extensions)?;
    Some(proxies.client(peer.0.ip(), call.headers))
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Everyone => f.write_str("everyone"),
            Kind::Peer(_) => f.write_str("peer"),
            Kind::Client(..) => f.write_str("client"),
            Kind::Header(name) => write!(f, "header({name})"),
            Kind::Route => f.write_str("route"),
            Kind::Own(own) => write!(f, "own({})", own.name),
            Kind::Both(parts) => write!(f, "({:?} and {:?})", parts.0, parts.1),
            Kind::Either(parts) => write!(f, "({:?} or {:?})", parts.0, parts.1),
        }
    }
}

/// How keys are hashed. Nobody without its secret can make two that collide.
pub(crate) trait Digest {
    type Hash: Copy + Hash;

    fn digest(&self, write: impl FnOnce(&mut dyn Hasher)) -> Self::Hash;

    /// The digest of one word.
    #[inline]
    fn digest_word(&self, word: u64) -> Self::Hash {
        self.digest(|hasher| hasher.write_u64(word))
    }
}

/// SipHash under a key that is drawn when the process starts: what the standard library keeps its own maps safe by.
impl Digest for RandomState {
    type Hash = u64;

    #[inline]
    fn digest(&self, write: impl FnOnce(&mut dyn Hasher)) -> u64 {
        let mut hasher = self.build_hasher();
        write(&mut hasher);
        hasher.finish()
    }

    #[inline]
    fn digest_word(&self, word: u64) -> u64 {
        self.hash_one(word)
    }
}

/// For whoever only asks whether there is a key.
struct NoDigest;

impl Digest for NoDigest {
    type Hash = ();

    fn digest(&self, write: impl FnOnce(&mut dyn Hasher)) {
        write(&mut NoHasher);
    }
}

struct NoHasher;

impl Hasher for NoHasher {
    fn write(&mut self, _: &[u8]) {}

    fn finish(&self) -> u64 {
        0
    }
}

/// Each kind of part begins with a byte of its own, so that no header can be made to look like an address.
#[inline]
fn address<D: Digest>(digest: &D, address: IpAddr) -> D::Hash {
    match address {
        // One word, the least that can be hashed: most calls come from such addresses.
        IpAddr::V4(v4) => digest.digest_word(u64::from(v4.to_bits()) << 8 | 1),
        IpAddr::V6(v6) => digest.digest(|hasher| {
            hasher.write_u8(1);
            hasher.write(&v6.octets());
        }),
    }
}

fn hash_into<T: Hash>(value: Option<&T>, mut hasher: &mut dyn Hasher) -> bool {
    value.map(|value| value.hash(&mut hasher)).is_some()
}

fn is_grpc(call: &Call<'_>) -> bool {
    crate::protocol::Protocol::of(call.headers).is_grpc()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::HeaderValue;

    use super::*;

    #[derive(Clone, Hash)]
    struct User(u32);

    fn request(
        peer: Option<&str>,
        api_key: Option<&'static str>,
        user: Option<u32>,
    ) -> Request<()> {
        let mut request = Request::new(());
        if let Some(peer) = peer {
            let peer: IpAddr = peer.parse().expect("an address");
            request
                .extensions_mut()
                .insert(PeerAddr(SocketAddr::new(peer, 4_711)));
        }
        if let Some(api_key) = api_key {
            request
                .headers_mut()
                .insert("x-api-key", HeaderValue::from_static(api_key));
        }
        if let Some(user) = user {
            request.extensions_mut().insert(User(user));
        }
        request
    }

    fn api_key() -> Key {
        Key::header(HeaderName::from_static("x-api-key"))
    }

    #[test]
    fn tells_apart_by_its_parts_and_by_nothing_else() {
        let seed = RandomState::new();
        let hash = |key: &Key, request: &Request<()>| key.identify(&Call::of(request), &seed);
        let a = request(Some("192.0.2.1"), Some("k1"), Some(1));
        let b = request(Some("::ffff:192.0.2.1"), Some("k2"), Some(1));
        let c = request(Some("192.0.2.2"), None, None);
        let nobody = request(None, None, None);

        assert_eq!(hash(&Key::everyone(), &a), hash(&Key::everyone(), &nobody));
        assert_eq!(hash(&Key::peer(), &a), hash(&Key::peer(), &b));
        assert_ne!(hash(&Key::peer(), &a), hash(&Key::peer(), &c));
        assert_eq!(hash(&Key::peer(), &nobody), None);
        assert_ne!(hash(&api_key(), &a), hash(&api_key(), &b));
        assert_eq!(hash(&api_key(), &c), None);
        let user = Key::extension::<User>();
        assert_eq!(hash(&user, &a), hash(&user, &b));
        assert_eq!(hash(&user, &c), None);
        let by = Key::by(|call| call.headers.get("x-api-key").map(|key| key.len()));
        assert_eq!(hash(&by, &a), hash(&by, &b));
        assert_eq!(hash(&by, &c), None);

        let both = Key::peer().and(api_key());
        assert_ne!(hash(&both, &a), hash(&both, &b));
        assert_eq!(hash(&both, &c), None);
        let either = both.clone().or(Key::peer());
        assert_eq!(hash(&either, &a), hash(&both, &a));
        assert_eq!(hash(&either, &c), hash(&Key::peer(), &c));
        assert_eq!(hash(&either, &nobody), None);
        assert_eq!(
            hash(&Key::route(), &a),
            None,
            "nothing matched, and a path is no key"
        );
        assert_eq!(
            format!("{either:?}"),
            "((peer and header(x-api-key)) or peer)"
        );
    }

    #[test]
    fn a_header_cannot_be_made_to_look_like_an_address() {
        let seed = RandomState::new();
        let peer = request(Some("65.66.67.68"), None, None);
        let sent = request(None, Some("ABCD"), None);
        let key = api_key().or(Key::peer());
        let of = |request| key.identify(&Call::of(request), &seed).expect("a key");
        assert_ne!(of(&peer), of(&sent));
        let shown = |request| key.address(&Call::of(request));
        assert_eq!(shown(&peer), "65.66.67.68".parse().ok());
        assert_eq!(shown(&sent), None, "a header is never shown");
    }

    #[test]
    fn the_prefix_reaches_all_parts() {
        let seed = RandomState::new();
        let prefix = Ipv6Prefix::new(48).expect("1 to 128");
        let key = api_key()
            .or(Key::peer())
            .and(Key::client(TrustedProxies::default()));
        let key = key.ipv6_prefix(prefix);
        let of = |peer| {
            let request = request(Some(peer), None, None);
            key.identify(&Call::of(&request), &seed)
        };
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:4::5"));
        let shown = key.address(&Call::of(&request(Some("2001:db8:1:2::3"), None, None)));
        assert_eq!(shown, "2001:db8:1::".parse().ok());
        assert_ne!(of("2001:db8:1:2::3"), of("2001:db8:2:2::3"));
    }
}
