//! The connection to Redis: one, shared, pipelined, and made anew in the background.

use std::{
    error::Error,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, Value,
    aio::MultiplexedConnection,
};
use tokio::{sync::watch, time::timeout};

use super::script::{ErrorCounts, Question, Reply, StoreErrorKind};
use crate::{
    server::rate_limit::{gcra::Pace, shared::TARGET},
    task,
};

/// So many failures in a row, and it is away.
const FAILURES: u32 = 3;
/// Questions under way at once.
const MOST_UNDER_WAY: u32 = 4_096;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// A Redis, or Valkey, that replicas share. Clones share one connection.
///
/// It is connected to at the first call, within a tokio runtime, and again whenever it was away: one attempt at a time,
/// 100 ms to 2 s apart with jitter, until it decides again. Its password is never shown.
#[derive(Clone)]
pub struct Redis {
    link: Arc<Link>,
    budget: Duration,
}

impl Redis {
    /// At `redis://[user:password@]host[:port][/database]` or `redis+unix:///path`. Redis 6.2 or later, or Valkey.
    ///
    /// # Errors
    ///
    /// No such URL; nothing of it is repeated, since it may hold a password.
    pub fn new(url: &str) -> Result<Self, InvalidRedisUrl> {
        let info = url.into_connection_info().ok().ok_or(InvalidRedisUrl)?;
        let address = info.addr().to_string();
        let client = Client::open(info).ok().ok_or(InvalidRedisUrl)?;
        let (state, _) = watch::channel(State::Starting);
        let link = Link {
            client,
            address,
            state,
            connecting: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            under_way: AtomicU32::new(0),
            errors: ErrorCounts::default(),
        };
        Ok(Self {
            link: Arc::new(link),
            budget: Duration::from_millis(50),
        })
    }

    /// The most that one decision waits for an answer. Default: 50 ms, many times what a Redis nearby needs and less
    /// than a caller minds. After three failures in a row nobody waits until it is back.
    #[must_use]
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// Whether it decided when it was last asked.
    pub fn is_there(&self) -> bool {
        matches!(*self.link.state.borrow(), State::There(_))
    }

    /// How often it did not decide, by kind, for all limits together. Their handles tell `plimsoll.store.errors` of each.
    pub fn errors(&self) -> Vec<(StoreErrorKind, u64)> {
        self.link.errors.counts().collect()
    }

    /// Asks, within the budget.
    pub(super) async fn ask(&self, question: &Question) -> Result<Reply, StoreErrorKind> {
        let generation = self.link.generation.load(Ordering::Relaxed);
        let answer = match timeout(self.budget, self.link.ask(question)).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreErrorKind::Timeout),
        };
        match &answer {
            Ok(_) => self.link.failures.store(0, Ordering::Relaxed),
            Err(kind) => self.link.failed(*kind, generation),
        }
        answer
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("address", &self.link.address)
            .field("budget", &self.budget)
            .field("is_there", &self.is_there())
            .finish()
    }
}

/// A text that is no URL of a Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRedisUrl;

impl fmt::Display for InvalidRedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the URL is none of a Redis, as in redis://user:password@host:6379/0")
    }
}

impl Error for InvalidRedisUrl {}

#[derive(Clone)]
enum State {
    /// Never yet connected: the first calls wait for it.
    Starting,
    There(MultiplexedConnection),
    /// Nobody waits for it.
    Away,
}

struct Link {
    client: Client,
    /// Without user and password.
    address: String,
    state: watch::Sender<State>,
    connecting: AtomicBool,
    /// How many connections there were.
    generation: AtomicU64,
    /// In a row.
    failures: AtomicU32,
    under_way: AtomicU32,
    errors: ErrorCounts,
}

impl Link {
    async fn ask(self: &Arc<Self>, question: &Question) -> Result<Reply, StoreErrorKind> {
        let connection = self.connection().await?;
        let _one = UnderWay::begin(&self.under_way).ok_or(StoreErrorKind::Busy)?;
        decide(connection, question).await
    }

    async fn connection(self: &Arc<Self>) -> Result<MultiplexedConnection, StoreErrorKind> {
        self.connect();
        let mut states = self.state.subscribe();
        let state = states
            .wait_for(|state| !matches!(state, State::Starting))
            .await;
        match state.as_deref() {
            Ok(State::There(connection)) => Ok(connection.clone()),
            _ => Err(StoreErrorKind::Away),
        }
    }

    /// Counts, and gives it up if it is away. What an earlier connection failed at says nothing of this one.
    fn failed(self: &Arc<Self>, kind: StoreErrorKind, generation: u64) {
        self.errors.count(kind);
        let is_late = generation != self.generation.load(Ordering::Relaxed);
        if kind.is_of_one_key() || is_late {
            return;
        }
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if kind == StoreErrorKind::Connection || failures >= FAILURES {
            self.give_up(kind);
        }
    }

    fn give_up(self: &Arc<Self>, kind: StoreErrorKind) {
        // There, Starting -> Away
        let was_in_use = self.state.send_if_modified(|state| {
            let in_use = !matches!(state, State::Away);
            *state = State::Away;
            in_use
        });
        if was_in_use {
            tracing::warn!(
                target: TARGET,
                event = "store_away",
                store = "redis",
                address = self.address,
                kind = kind.label(),
                "redis does not decide: each limit does as its policy says"
            );
        }
        self.connect();
    }

    /// Connects in the background, unless it is connected to or somebody does already.
    fn connect(self: &Arc<Self>) {
        if matches!(*self.state.borrow(), State::There(_))
            || self.connecting.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let attempt = Connecting(Arc::clone(self));
        // swallow: plimsoll.tasks.died a panic is told and counted there, and the next call connects again
        drop(task::spawn("rate_limit_redis", async move {
            attempt.0.until_there().await;
        }));
    }

    async fn until_there(self: &Arc<Self>) {
        let mut wait = FIRST_WAIT;
        loop {
            match self.try_connect().await {
                Ok(connection) => {
                    self.failures.store(0, Ordering::Relaxed);
                    self.generation.fetch_add(1, Ordering::Relaxed);
                    // Starting, Away -> There
                    let before = self.state.send_replace(State::There(connection));
                    if matches!(before, State::Away) {
                        tracing::warn!(
                            target: TARGET,
                            event = "store_back",
                            store = "redis",
                            address = self.address,
                            "redis decides again"
                        );
                    }
                    return;
                }
                Err(kind) => self.failed_to_connect(kind),
            }
            tokio::time::sleep(jittered(wait)).await;
            wait = wait.saturating_mul(2).min(LONGEST_WAIT);
        }
    }

    fn failed_to_connect(self: &Arc<Self>, kind: StoreErrorKind) {
        if matches!(*self.state.borrow(), State::Starting) {
            self.give_up(kind);
        }
    }

    /// A connection over which a decision was made: one that can only read would not do.
    async fn try_connect(&self) -> Result<MultiplexedConnection, StoreErrorKind> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(Some(CONNECT_WITHIN));
        let connecting = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        let connection = connecting
            .await
            .map_err(|error| StoreErrorKind::of(&error))?;
        let probe = Question {
            who: 0,
            weight: 1,
            forced: true,
            more: 0,
            paces: vec![Pace::new(
                Duration::from_millis(1),
                std::num::NonZeroU32::MIN,
            )],
        };
        match timeout(CONNECT_WITHIN, decide(connection.clone(), &probe)).await {
            Ok(decided) => decided.map(|_| connection),
            Err(_) => Err(StoreErrorKind::Timeout),
        }
    }
}

/// One round trip; two if Redis does not know the script yet.
async fn decide(
    mut connection: MultiplexedConnection,
    question: &Question,
) -> Result<Reply, StoreErrorKind> {
    let mut whole = false;
    loop {
        let answer = match connection
            .send_packed_command(&question.command(whole))
            .await
        {
            Ok(Value::ServerError(error)) => Err(RedisError::from(error)),
            answer => answer,
        };
        match answer {
            Ok(value) => {
                let reply = Reply::read(&value, question.paces.len());
                return reply.ok_or(StoreErrorKind::Garbage);
            }
            Err(error) => match StoreErrorKind::of(&error) {
                StoreErrorKind::NoScript if !whole => whole = true,
                kind => return Err(kind),
            },
        }
    }
}

/// Says when nobody connects any more, also when the runtime ends meanwhile.
struct Connecting(Arc<Link>);

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.connecting.store(false, Ordering::Release);
    }
}

/// A question under way.
struct UnderWay<'a>(&'a AtomicU32);

impl<'a> UnderWay<'a> {
    fn begin(count: &'a AtomicU32) -> Option<Self> {
        let one = Self(count);
        let before = count.fetch_add(1, Ordering::Relaxed);
        (before < MOST_UNDER_WAY).then_some(one)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// From one half to all of it, so that replicas do not come back all at once.
pub(super) fn jittered(wait: Duration) -> Duration {
    let half = wait.checked_div(2).unwrap_or_default();
    // A fresh state of the standard library's hasher differs each time.
    let chance = u32::try_from(RandomState::new().hash_one(wait) >> 32).unwrap_or_default();
    let part = half.as_nanos().saturating_mul(u128::from(chance)) >> u32::BITS;
    half.saturating_add(Duration::from_nanos(
        u64::try_from(part).unwrap_or_default(),
    ))
}
