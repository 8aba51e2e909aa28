use std::{
    collections::BTreeMap,
    fmt,
    hash::RandomState,
    sync::{Arc, LazyLock},
    time::Instant,
};

use http::Request;

use super::{Gate, Shared, state::Ask};
use crate::{
    caller::{Call, Key, TrustedProxies},
    context::{CRITICALITY, PeerAddr, Priority, Route, Scope},
};

/// Callers are hashed under a key that is drawn when the process starts.
static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);

type PriorityBy = dyn Fn(&Call<'_>) -> Option<Priority> + Send + Sync;

/// What a layer was told about the calls that it lets in.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    pub(crate) priority_by: Option<Arc<PriorityBy>>,
    pub(crate) routes: BTreeMap<String, Priority>,
    /// Peers whose word is taken for the priority of their calls.
    pub(crate) trusted: Option<TrustedProxies>,
    pub(crate) caller: Option<Key>,
    pub(crate) streams: Vec<String>,
    pub(crate) gates: Vec<Arc<dyn Gate>>,
    /// Callers are told not to try again at all.
    pub(crate) never: bool,
}

impl Rules {
    /// What is to be asked for a call.
    #[inline]
    pub(super) fn ask<B>(&self, request: &Request<B>, scope: &mut Scope, shared: &Shared) -> Ask {
        let (known, deadline) = scope
            .update(|frame| (frame.priority(), frame.deadline()))
            .unwrap_or_default();
        let call = Call::of(request);
        let told = self.priority_of(&call);
        if let Some(priority) = told {
            scope.own(request);
            scope.tell(|frame| frame.set_priority(priority));
        }
        let key = self.caller.as_ref();
        Ask {
            priority: told.or(known).unwrap_or_default(),
            deadline: deadline.map(|deadline| shared.seconds(deadline.0)),
            // Whoever has no key is one caller with all others like it.
            caller: key.map(|key| key.identify(&call, &*SEED).unwrap_or_default()),
            streams: !self.streams.is_empty()
                && self.streams.iter().any(|known| is_at(&call, known)),
        }
    }

    /// The priority of a call: of the function, else of its route, else of its header if that can be trusted.
    fn priority_of(&self, call: &Call<'_>) -> Option<Priority> {
        let by = self.priority_by.as_ref().and_then(|by| by(call));
        by.or_else(|| {
            let mut routes = self.routes.iter();
            let of_route = routes.find(|(route, _)| is_at(call, route));
            of_route.map(|(_, priority)| *priority)
        })
        .or_else(|| {
            let trusted = self.trusted.as_ref()?;
            let header = call.headers.get(CRITICALITY)?;
            let peer = PeerAddr::of(call.extensions)?;
            let is_trusted = trusted.trusts(peer.0.ip());
            is_trusted
                .then(|| header.to_str().ok()?.parse().ok())
                .flatten()
        })
    }

    /// The name of a gate that does not let a call in.
    #[inline]
    pub(super) fn shut_gate(&self, priority: Priority, now: Instant) -> Option<&'static str> {
        let shut = self.gates.iter().find(|gate| !gate.admits(priority, now))?;
        Some(shut.name())
    }
}

/// Whether a call is for this route; where nothing matched, for this path.
fn is_at(call: &Call<'_>, place: &str) -> bool {
    match Route::of(call.extensions) {
        Some(route) => route.as_str() == place,
        None => call.uri.path() == place,
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gates: Vec<_> = self.gates.iter().map(|gate| gate.name()).collect();
        f.debug_struct("Rules")
            .field("routes", &self.routes)
            .field("trusted", &self.trusted)
            .field("caller", &self.caller)
            .field("streams", &self.streams)
            .field("gates", &gates)
            .field("never", &self.never)
            .finish_non_exhaustive()
    }
}

/// The settings that both layers have.
macro_rules! rules {
    () => {
        /// Tells the priority of a call by a function; `None` leaves it to the other rules. Default: none.
        #[must_use]
        pub fn priority_by(
            self,
            priority: impl Fn(&crate::caller::Call<'_>) -> Option<crate::context::Priority>
            + Send
            + Sync
            + 'static,
        ) -> Self {
            self.with(|rules| rules.priority_by = Some(std::sync::Arc::new(priority)))
        }

        /// Gives these routes a priority, as in `[("/health", Priority::CriticalPlus)]`. For gRPC, and where no router
        /// stands further out, name the path. Where [`priority_by`](Self::priority_by) says something, that counts.
        #[must_use]
        pub fn priority_of_routes<R: Into<String>>(
            self,
            routes: impl IntoIterator<Item = (R, crate::context::Priority)>,
        ) -> Self {
            let routes = routes
                .into_iter()
                .map(|(route, priority)| (route.into(), priority));
            self.with(|rules| rules.routes.extend(routes))
        }

        /// Takes the word of these peers for the priority of their calls, in the header or metadata `x-criticality`. It
        /// counts where neither a function nor a route says something. From others, and where it is no priority, the
        /// header is ignored. Default: nobody is trusted.
        ///
        /// The peer is the one at the other end of the connection, so name what stands directly before this service:
        /// proxies that set or remove the header, or services of your own.
        #[must_use]
        pub fn priority_from(self, peers: crate::caller::TrustedProxies) -> Self {
            self.with(|rules| rules.trusted = Some(peers))
        }

        /// Tells callers apart by this key, so that none of them has more than its share while there is too little for
        /// all. Calls without a key are one caller together. Default: callers are not told apart.
        #[must_use]
        pub fn fair_share(self, key: crate::caller::Key) -> Self {
            self.with(|rules| rules.caller = Some(key))
        }

        /// Counts successful calls of these routes apart from the limit once their head has left: they are
        /// streams. For gRPC name the path, `/package.Service/Method`. Server-sent events and upgrades are
        /// found without being named. How many there may be: [`Limit::max_streams`](crate::limit::Limit::max_streams).
        #[must_use]
        pub fn streams<R: Into<String>>(self, routes: impl IntoIterator<Item = R>) -> Self {
            let routes = routes.into_iter().map(Into::into);
            self.with(|rules| rules.streams.extend(routes))
        }

        /// Also asks this gate, before the limit. Gates are asked in the order in which they were added.
        #[must_use]
        pub fn gate(self, gate: impl crate::limit::Gate) -> Self {
            self.with(|rules| rules.gates.push(std::sync::Arc::new(gate)))
        }

        /// Tells callers not to try again: gRPC pushback `-1`, for HTTP no `Retry-After`. For an overload that a retry
        /// elsewhere would not escape, such as that of a store that all replicas share. Default: they are told when to
        /// try again, by the rate at which calls end, each a little differently.
        #[must_use]
        pub fn never_retry(self) -> Self {
            self.with(|rules| rules.never = true)
        }
    };
}

pub(crate) use rules;
