//! The books of one layer: every call is entered when it begins and when it ends, in the ledger of its thread, and the
//! ledgers are balanced when metrics are collected.

use std::{
    cell::Cell,
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use http::Method;
use opentelemetry::{
    KeyValue,
    metrics::{Meter, ObservableGauge},
};

use super::{
    Settings,
    hash::Map,
    instruments::{HTTP_DURATION, Instruments, Names, RPC_DURATION, method, protocol, scheme},
    labels::{Asked, Labels, Place, Wire},
    series::{Sample, Series, Tally},
    watch::Watched,
};
use crate::{
    clock,
    protocol::{Methods, OTHER},
};

/// At most one line about lack of series in this time.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(10);
/// More ledgers than this gain nothing.
const MAX_LEDGERS: usize = 64;

thread_local! {
    /// The number of this thread, to choose its ledger by.
    static THREAD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Shared by all clones of a layer.
pub(super) struct Books {
    ledgers: Box<[Arc<Ledger>]>,
    core: Arc<Core>,
}

/// What all ledgers need when they meet something new.
struct Core {
    instruments: Instruments,
    settings: Settings,
    methods: Methods,
    rpc_methods: Map<Box<str>, Place>,
    registry: Mutex<Registry>,
}

/// All series and places there are.
#[derive(Default)]
struct Registry {
    series: Map<u64, Arc<Series>>,
    /// How many count towards the cap.
    resolved: usize,
    /// The places in the order of their numbers, the first after [`Place::NONE`].
    places: Vec<Arc<str>>,
    numbers: Map<Arc<str>, Place>,
}

/// The entries of the calls that began on one thread, wherever they end.
pub(super) struct Ledger {
    core: Arc<Core>,
    page: Mutex<Page>,
}

/// On a line of its own, so that threads do not slow each other.
#[repr(align(128))]
struct Page {
    /// By slot: calls that began and that ended.
    started: Vec<u64>,
    ended: Vec<u64>,
    places: Map<Arc<str>, Place>,
    tallies: Map<u64, Tally>,
    /// Whether it knows all series that there will be.
    complete: bool,
}

impl Books {
    /// Opens the books. From then on the meter's provider asks for them whenever it collects.
    pub(super) fn open(meter: &Meter, settings: Settings) -> Arc<Self> {
        let methods = Methods::chosen(settings.known_methods.as_deref());
        let slots = Wire::ALL
            .len()
            .saturating_mul(methods.numbers())
            .saturating_mul(2);
        // Numbered after the places of no match; the router's places follow.
        let mut registry = Registry::default();
        let rpc_methods = settings
            .rpc_methods
            .iter()
            .map(|name| (Box::from(&**name), registry.number(name)))
            .collect();
        let core = Arc::new(Core {
            instruments: Instruments::of(meter),
            methods,
            rpc_methods,
            registry: Mutex::new(registry),
            settings,
        });
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let ledgers = (0..threads.saturating_mul(2).min(MAX_LEDGERS))
            .map(|_| {
                Arc::new(Ledger {
                    core: Arc::clone(&core),
                    page: Mutex::new(Page::blank(slots)),
                })
            })
            .collect();
        let books = Arc::new(Self { ledgers, core });
        books.hand_over_to(meter);
        books
    }

    /// Has the provider balance the books before it reads the instruments. The callback keeps the books for as long as
    /// the provider lives: the SDK cannot forget one.
    fn hand_over_to(self: &Arc<Self>, meter: &Meter) {
        let balance = Mutex::new(Balance {
            reported: vec![(0, 0); self.ledgers.first().map_or(0, |ledger| ledger.slots())],
            watched: Watched::of(meter, &self.core.settings.watched),
            samples: Vec::new(),
            drained: VecDeque::new(),
            warned: None,
        });
        let books = Arc::clone(self);
        let _never_observes: ObservableGauge<u64> = meter
            .u64_observable_gauge("plimsoll.collect")
            .with_description(
                "Never has a value: it is asked first, so that the others are up to date.",
            )
            .with_callback(move |_| lock(&balance).strike(&books))
            .build();
    }

    /// Enters a call that begins.
    #[inline]
    pub(super) fn begin(
        &self,
        wire: Wire,
        asked_method: &Method,
        https: bool,
        route: Option<&str>,
        path: &str,
    ) -> (Arc<Ledger>, Asked) {
        let core = &self.core;
        let place = wire.place_in(path, route);
        let mut asked = Asked {
            wire,
            method: core.methods.number(asked_method),
            https,
            place: Place::NONE,
        };
        if wire.is_grpc() {
            asked.place = place
                .and_then(|name| core.rpc_methods.get(name))
                .copied()
                .unwrap_or(Place::NONE);
        }
        let ledger = self.ledger();
        {
            let mut page = lock(&ledger.page);
            if let Some(route) = place
                && !wire.is_grpc()
            {
                asked.place = page.place(route, core);
            }
            if let Some(count) = page.started.get_mut(core.slot(asked)) {
                *count = count.saturating_add(1);
            }
        }
        (Arc::clone(ledger), asked)
    }

    /// That of this thread.
    #[inline]
    fn ledger(&self) -> &Arc<Ledger> {
        let index = thread_number().checked_rem(self.ledgers.len());
        let ledger = index.and_then(|index| self.ledgers.get(index));
        ledger.expect("there is a ledger for each thread of the machine, and one thread at least")
    }
}

#[inline]
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    THREAD.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> 1));
        }
        number.get()
    })
}

impl Ledger {
    /// Enters a call that has ended.
    #[inline]
    pub(super) fn end(&self, labels: &Labels, sample: Sample) {
        let core = &*self.core;
        let mut page = lock(&self.page);
        if let Some(count) = page.ended.get_mut(core.slot(labels.asked)) {
            *count = count.saturating_add(1);
        }
        match page.tallies.get_mut(&labels.packed()) {
            Some(tally) => tally.add(sample, &core.instruments),
            None => page.enter_new(labels, sample, core),
        }
    }

    /// Enters how long a call waited to be let in.
    #[cold]
    pub(super) fn waited(&self, limit: &'static str, waited: Duration) {
        self.core.instruments.waited(limit, waited.as_secs_f64());
    }

    fn slots(&self) -> usize {
        lock(&self.page).started.len()
    }
}

impl Page {
    fn blank(slots: usize) -> Self {
        Self {
            started: vec![0; slots],
            ended: vec![0; slots],
            places: Map::default(),
            tallies: Map::default(),
            complete: false,
        }
    }

    #[inline]
    fn place(&mut self, route: &str, core: &Core) -> Place {
        match self.places.get(route) {
            Some(&place) => place,
            None => self.new_place(route, core),
        }
    }

    #[cold]
    fn new_place(&mut self, route: &str, core: &Core) -> Place {
        // The router's patterns are finite, and so is what is kept of them if they should not be.
        if self.places.len() >= core.settings.max_series {
            return Place::OVERFLOW;
        }
        let mut registry = lock(&core.registry);
        let place = registry.number(route);
        self.places.insert(Arc::from(route), place);
        place
    }

    #[cold]
    fn enter_new(&mut self, labels: &Labels, sample: Sample, core: &Core) {
        let mut labels = *labels;
        if !self.complete && !labels.is_overflow() {
            let mut registry = lock(&core.registry);
            match registry.series_of(&labels, core) {
                Some(series) => {
                    let tally = Tally::of(series);
                    drop(registry);
                    let tally = self.tallies.entry(labels.packed()).or_insert(tally);
                    return tally.add(sample, &core.instruments);
                }
                None => {
                    // No more will be made: with all of them at hand, the lock is not needed again.
                    for (packed, series) in &registry.series {
                        let known = self.tallies.entry(*packed);
                        known.or_insert_with(|| Tally::of(Arc::clone(series)));
                    }
                    self.complete = true;
                    if let Some(tally) = self.tallies.get_mut(&labels.packed()) {
                        return tally.add(sample, &core.instruments);
                    }
                }
            }
        }
        labels = labels.overflowed();
        let tally = self.tallies.entry(labels.packed()).or_insert_with(|| {
            let mut registry = lock(&core.registry);
            Tally::of(registry.overflow_of(&labels, core))
        });
        tally.add(sample, &core.instruments);
    }
}

impl Registry {
    fn number(&mut self, place: &str) -> Place {
        if let Some(&number) = self.numbers.get(place) {
            return number;
        }
        let place: Arc<str> = Arc::from(place);
        self.places.push(Arc::clone(&place));
        let number = u32::try_from(self.places.len()).map_or(Place::OVERFLOW, Place);
        self.numbers.insert(place, number);
        number
    }

    /// The series of these labels; a new one while there is room.
    fn series_of(&mut self, labels: &Labels, core: &Core) -> Option<Arc<Series>> {
        let packed = labels.packed();
        if let Some(series) = self.series.get(&packed) {
            return Some(Arc::clone(series));
        }
        if labels.is_overflow() || self.resolved >= core.settings.max_series {
            return None;
        }
        self.resolved = self.resolved.saturating_add(1);
        Some(self.insert(labels, core))
    }

    fn overflow_of(&mut self, labels: &Labels, core: &Core) -> Arc<Series> {
        let known = self.series.get(&labels.packed()).map(Arc::clone);
        known.unwrap_or_else(|| self.insert(labels, core))
    }

    fn insert(&mut self, labels: &Labels, core: &Core) -> Arc<Series> {
        let names = Names {
            method: core.methods.name(labels.asked.method),
            place: self.name_of(labels.asked),
        };
        let objectives = &core.settings.objectives;
        let series = Arc::new(Series::new(*labels, names, &core.instruments, objectives));
        self.series.insert(labels.packed(), Arc::clone(&series));
        series
    }

    fn name_of(&self, asked: Asked) -> Option<String> {
        let index = usize::try_from(asked.place.0).ok()?.checked_sub(1);
        let name = index.and_then(|index| self.places.get(index));
        match name {
            Some(name) => Some(name.to_string()),
            None => asked.wire.is_grpc().then(|| OTHER.to_owned()),
        }
    }
}

impl Core {
    /// Where calls in flight are counted: by protocol, method and scheme.
    #[inline]
    fn slot(&self, asked: Asked) -> usize {
        (asked.wire as usize)
            .saturating_mul(self.methods.numbers())
            .saturating_add(usize::from(asked.method))
            .saturating_mul(2)
            .saturating_add(usize::from(asked.https))
    }

    /// The labels of a slot.
    fn at(&self, slot: usize) -> Option<(Wire, u8, bool)> {
        let https = slot & 1 == 1;
        let row = slot >> 1;
        let number = row.checked_rem(self.methods.numbers())?;
        let wire = Wire::ALL.get(row.checked_div(self.methods.numbers())?)?;
        Some((*wire, u8::try_from(number).ok()?, https))
    }
}

/// What has been handed to the instruments, and room to do it again.
struct Balance {
    /// By slot: calls that began and that ended.
    reported: Vec<(u64, u64)>,
    watched: Watched,
    samples: Vec<Sample>,
    drained: VecDeque<(Arc<Series>, usize, u64)>,
    warned: Option<Instant>,
}

impl Balance {
    /// Hands all entries to the instruments.
    fn strike(&mut self, books: &Books) {
        let core = &*books.core;
        let mut totals = vec![(0_u64, 0_u64); self.reported.len()];
        for ledger in &books.ledgers {
            self.drain(&mut lock(&ledger.page), &mut totals);
        }
        self.record(core);
        self.report_slots(core, &totals);
        self.watched.read();
    }

    /// Takes what is on a page. The lock is held for copies only. A call begins and ends on one page, so that no call
    /// is ever seen to end that was not seen to begin.
    fn drain(&mut self, page: &mut Page, totals: &mut [(u64, u64)]) {
        let counts = page.started.iter().zip(&page.ended);
        for (total, (started, ended)) in totals.iter_mut().zip(counts) {
            total.0 = total.0.saturating_add(*started);
            total.1 = total.1.saturating_add(*ended);
        }
        for tally in page.tallies.values_mut().filter(|tally| tally.ended > 0) {
            let (series, samples) = (Arc::clone(&tally.series), tally.samples.len());
            self.samples.append(&mut tally.samples);
            let ended = std::mem::take(&mut tally.ended);
            self.drained.push_back((series, samples, ended));
        }
    }

    fn record(&mut self, core: &Core) {
        let mut samples = &*self.samples;
        let (mut of_http, mut of_rpc) = (0_u64, 0_u64);
        while let Some((series, of_it, ended)) = self.drained.pop_front() {
            let (of_it, rest) = samples.split_at_checked(of_it).unwrap_or_default();
            samples = rest;
            series.record(of_it, &core.instruments);
            series.count(ended);
            if series.is_overflow() {
                let count = if series.wire().is_grpc() {
                    &mut of_rpc
                } else {
                    &mut of_http
                };
                *count = count.saturating_add(ended);
            }
        }
        self.samples.clear();
        for (count, instrument) in [(of_http, HTTP_DURATION), (of_rpc, RPC_DURATION)] {
            if count > 0 {
                let attributes = [KeyValue::new("instrument", instrument)];
                core.instruments.overflow.add(count, &attributes);
                self.warn(instrument, count, core.settings.max_series);
            }
        }
    }

    fn warn(&mut self, instrument: &'static str, calls: u64, max_series: usize) {
        let now = clock::now();
        let warned = self.warned;
        if warned.is_none_or(|at| now.saturating_duration_since(at) >= BETWEEN_WARNINGS) {
            self.warned = Some(now);
            tracing::warn!(
                target: "plimsoll::metrics",
                event = "label_overflow",
                instrument,
                calls,
                max_series,
                "calls were counted without their labels, for lack of series",
            );
        }
    }

    fn report_slots(&mut self, core: &Core, totals: &[(u64, u64)]) {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        for (slot, (reported, now)) in self.reported.iter_mut().zip(totals).enumerate() {
            let started = now.0.saturating_sub(reported.0);
            let ended = now.1.saturating_sub(reported.1);
            *reported = *now;
            let Some((wire, number, https)) = core.at(slot).filter(|_| started != 0 || ended != 0)
            else {
                continue;
            };
            let more = signed(started).saturating_sub(signed(ended));
            let by_protocol = [protocol(wire)];
            core.instruments.started.add(started, &by_protocol);
            core.instruments.in_flight.add(more, &by_protocol);
            if !wire.is_grpc() {
                let attributes = [method(core.methods.name(number)), scheme(https)];
                core.instruments.active.add(more, &attributes);
            }
        }
    }
}

#[inline]
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
