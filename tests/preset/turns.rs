//! A configuration that is read again and again.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, ThreadId},
    time::Duration,
};

use plimsoll::{
    ops::health::{Check, Health},
    preset::{Part, Stack},
    server::rate_limit::Quotas,
};
use tracing::Event;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::{
    common::Lines,
    config::File,
    reload::{built, shop, watched},
};

const BOUND: Duration = Duration::from_secs(20);

/// Of a head that was set and is not any more only the default is left, which gives way to a shorter total.
#[test]
fn a_setting_that_is_taken_back_is_forgotten_though_its_value_stays() {
    let file = File::of("origins", "[timeout]\nhead = \"30s\"\ntotal = \"60s\"\n");
    let stack = built(&file);
    file.write("[timeout]\ntotal = \"60s\"\n");
    assert_eq!(stack.reload().expect("valid").changed, [""; 0]);
    file.write("[timeout]\ntotal = \"10s\"\n[body_limit]\nmax = \"1 MiB\"\n");
    let reloaded = stack.reload().expect("valid");
    assert_eq!(reloaded.changed, ["timeout.total", "body_limit.max"]);
}

#[test]
fn a_change_is_told_from_what_held_and_not_from_what_was_said() {
    let lines = Lines::listen();
    let text = "[back_pressure]\nlimit = 5\nmax_waiting = 1\n[rate_limit]\nquotas = \"3/h\"\nkey = \"everyone\"\n";
    let file = File::of("from", text);
    let stack = built(&file);
    stack.limit().hold(NonZeroUsize::new(77).expect("above 0"));
    stack.limit().set_waiting(Some(8), None);
    let quotas = stack.rate_limit().expect("there are some");
    let held = quotas.set_quotas("default", "4/h".parse::<Quotas>().expect("quotas"));
    held.expect("there is room");
    stack.timeout().set_head(Duration::from_secs(3));
    file.write(
        "[back_pressure]\nlimit = 6\nmax_waiting = 2\n[rate_limit]\nquotas = \"5/h\"\nkey = \"everyone\"\n[timeout]\nhead = \"9s\"\n",
    );
    stack.reload().expect("valid");
    let told = lines.take_of("plimsoll::ops");
    let told = told
        .iter()
        .map(|line| [&*line["setting"], &*line["from"], &*line["to"]]);
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ["timeout.head", "3s", "9s"],
            ["rate_limit.quotas", "4/h", "5/h"],
            ["back_pressure.limit", "77", "6"],
            ["back_pressure.max_waiting", "8", "2"],
        ]
    );
}

/// The file is as at the start again before the task that watches it has looked.
#[tokio::test(start_paused = true)]
async fn what_the_program_took_is_known_to_the_one_that_watches() {
    let limit = |calls: usize| format!("[back_pressure]\nlimit = {calls}\n");
    let file = File::of("known", &limit(5));
    let stack = watched(&file);
    file.write(&limit(6));
    stack.reload().expect("valid");
    assert_eq!(stack.limit().limit(), 6);
    file.write(&limit(5));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((stack.limit().limit(), stack.reloads().applied()), (5, 2));
}

/// Gives up the stack as soon as a change of it is told.
struct GivesUp(Arc<Mutex<Option<Stack>>>);

impl<S: tracing::Subscriber> Layer<S> for GivesUp {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "plimsoll::ops" {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            drop(held.take());
        }
    }
}

/// Tells the thread on which it is dropped.
struct Ends(mpsc::Sender<ThreadId>);

impl Drop for Ends {
    fn drop(&mut self) {
        let told = self.0.send(thread::current().id());
        told.expect("somebody listens");
    }
}

/// To end a stack may take a while: its log is written to the end.
#[tokio::test]
async fn a_stack_that_ends_in_a_reload_ends_where_work_may_block() {
    let (tell, told) = mpsc::channel();
    let ends = Ends(tell);
    let check = Check::new("held", move || {
        let _held = &ends;
        async { Ok::<(), std::io::Error>(()) }
    });
    let file = File::of("ends", "");
    let setup = shop(&file).without(Part::Log).without(Part::Telemetry);
    let setup = setup
        .set("reload.every", "10ms")
        .health(Health::new().check(check));
    let stack = setup.start().expect("nothing is wrong with it");
    let held = Arc::new(Mutex::new(Some(stack)));
    let lines = tracing_subscriber::registry().with(GivesUp(held));
    let _listening = tracing::subscriber::set_default(lines);
    file.write("[back_pressure]\nlimit = 5\n");
    let ended = tokio::task::spawn_blocking(move || told.recv_timeout(BOUND));
    let ended = ended.await.expect("no panic").expect("it ends");
    assert_ne!(ended, thread::current().id());
}
