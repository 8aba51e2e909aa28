//! A subscriber that keeps the events of a test.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use plimsoll::context::RequestId;
use tracing::{
    Dispatch, Event, Subscriber,
    field::{Field, Visit},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{Layer, layer, layer::SubscriberExt as _, registry};

/// One event: its fields as text, its `target` and `level`, and as `current` the id of the call that it was told in.
pub type Line = BTreeMap<String, String>;

/// The events of a test, as far as they are told on a thread that this listens to.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<Line>>>);

/// Listens until it is dropped.
pub struct Listening {
    lines: Lines,
    _guard: DefaultGuard,
}

impl std::ops::Deref for Listening {
    type Target = Lines;

    fn deref(&self) -> &Lines {
        &self.lines
    }
}

impl Lines {
    /// Listens on this thread.
    pub fn listen() -> Listening {
        let lines = Self::default();
        let guard = tracing::dispatcher::set_default(&lines.dispatch());
        Listening {
            lines,
            _guard: guard,
        }
    }

    /// For threads of another kind.
    pub fn dispatch(&self) -> Dispatch {
        others_may_listen();
        Dispatch::new(registry().with(self.clone()))
    }

    /// All that was told so far, once.
    pub fn take(&self) -> Vec<Line> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was told so far with this target, once; the rest is forgotten.
    pub fn take_of(&self, target: &str) -> Vec<Line> {
        let mut lines = self.take();
        lines.retain(|line| line["target"] == target);
        lines
    }

    /// The access lines so far, once.
    pub fn take_access(&self) -> Vec<Line> {
        self.take_of("plimsoll::access")
    }

    /// The only access line so far.
    #[track_caller]
    pub fn one(&self) -> Line {
        let mut lines = self.take_access();
        assert_eq!(lines.len(), 1, "one line a call: {lines:#?}");
        lines.remove(0)
    }

    /// Waits for this many access lines of calls whose ends only the server sees.
    pub async fn access(&self, count: usize) -> Vec<Line> {
        let seen = || {
            let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines
                .iter()
                .filter(|line| line["target"] == "plimsoll::access")
                .count()
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), async {
            while seen() < count {
                tokio::task::yield_now().await;
            }
        });
        waited
            .await
            .unwrap_or_else(|_| panic!("{count} lines, there are {}", seen()));
        // What would be one line too many comes now.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let lines = self.take_access();
        assert_eq!(lines.len(), count, "one line a call: {lines:#?}");
        lines
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let metadata = event.metadata();
        if !metadata.target().starts_with("plimsoll") && metadata.target() != "test" {
            return;
        }
        let mut line = Line::new();
        event.record(&mut Fields(&mut line));
        line.insert("target".to_owned(), metadata.target().to_owned());
        line.insert("level".to_owned(), metadata.level().to_string());
        if let Some(id) = RequestId::current() {
            line.insert("current".to_owned(), id.to_string());
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line);
    }
}

/// Tests of one process run beside each other. While there is but one subscriber, `tracing` asks the thread that comes to a
/// place in the code first whether anybody listens there, and keeps the answer for all threads: it must not be the only one.
pub fn others_may_listen() {
    static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(registry()));
    LazyLock::force(&ANOTHER);
}

struct Fields<'a>(&'a mut Line);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}
