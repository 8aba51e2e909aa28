//! Who reads the file, and when: the program, or a task that watches it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tracing::dispatcher;

use super::{
    config::{ConfigError, Sources},
    hangup::Hangup,
    reload::{Reloaded, TARGET},
    stack::{Parts, Stack},
};
use crate::task::{self, Task, supervise};

const TASK: &str = "preset_reload";

/// A file, or why it cannot be read.
type Content = Result<Option<String>, String>;

/// The sources of the settings, and what was taken of the file among them.
pub(super) struct Watched {
    pub(super) sources: Sources,
    seen: Mutex<Seen>,
}

impl Watched {
    /// Of which this was read and taken.
    pub(super) fn new(sources: Sources, file: Option<String>) -> Self {
        Self {
            sources,
            seen: Mutex::new(Seen::new(Ok(file))),
        }
    }

    /// To be held from before the file is read until it is taken, or what was read first might hold last.
    fn turn(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    /// Takes what the file says now, or nothing of it.
    pub(super) fn reload(&self) -> Result<Reloaded, ConfigError> {
        let mut seen = self.watched.turn();
        let file = self.watched.sources.read();
        seen.take(content(&file));
        self.take(file)
    }
}

fn content(file: &Result<Option<String>, ConfigError>) -> Content {
    match file {
        Ok(text) => Ok(text.clone()),
        Err(error) => Err(error.to_string()),
    }
}

/// Watches the file, if there is one and a runtime to do so.
pub(super) fn watch(stack: &Stack) {
    let parts = &stack.parts;
    let values = parts.values();
    let every = values.time("reload.every").unwrap_or(Duration::MAX);
    let wanted = parts.watched.sources.path.is_some() && values.switch("reload.enabled");
    drop(values);
    if !wanted {
        return;
    }
    let hangup = tokio::runtime::Handle::try_current()
        .map_err(|error| error.to_string())
        .and_then(|_| Hangup::new().map_err(|error| error.to_string()));
    match hangup {
        Ok(hangup) => {
            let hangup = Arc::new(tokio::sync::Mutex::new(hangup));
            let (watched, of) = (Arc::clone(&parts.watched), Arc::downgrade(parts));
            let task = supervise(TASK, move || {
                run(Arc::clone(&watched), of.clone(), Arc::clone(&hangup), every)
            });
            parts.watch.get_or_init(|| Watch(task));
        }
        Err(error) => tracing::warn!(
            target: TARGET,
            event = "config_not_watched",
            stack = parts.name,
            error,
            "the configuration is not watched for changes"
        ),
    }
}

/// The task that watches. It ends when this is dropped, with the stack.
#[derive(Debug)]
pub(super) struct Watch(Task<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(
    watched: Arc<Watched>,
    parts: Weak<Parts>,
    hangup: Arc<tokio::sync::Mutex<Hangup>>,
    every: Duration,
) {
    let mut hangup = hangup.lock().await;
    loop {
        let asked = tokio::select! {
            () = tokio::time::sleep(every) => false,
            () = hangup.next() => true,
        };
        let (watched, parts) = (Arc::clone(&watched), parts.clone());
        // What it tells goes where the lines of this task go.
        let lines = dispatcher::get_default(Clone::clone);
        let looked = task::blocking(TASK, move || {
            dispatcher::with_default(&lines, || look(&watched, &parts, asked));
        });
        // swallow: plimsoll.tasks.died a panic is told there, and the next look may do better
        let _ended = looked.await;
    }
}

/// Reads the file, and takes it if that is due. For a thread where work may block: to read, to wait for one's turn, and to
/// end the stack, should the program have given it up meanwhile.
fn look(watched: &Watched, parts: &Weak<Parts>, asked: bool) {
    let mut seen = watched.turn();
    // A file system that hangs keeps no stack alive.
    let file = watched.sources.read();
    let content = content(&file);
    let emptied = !asked && seen.empties(&content);
    if !seen.takes(content, asked) {
        return;
    }
    let file = match emptied {
        true => Err(watched.sources.emptied()),
        false => file,
    };
    if let Some(parts) = parts.upgrade() {
        // What is wrong has been told.
        // swallow: plimsoll.config.reloads the line and the count tell of it
        let _told = parts.take(file);
    }
}

/// Whether a file is to be taken. The content decides, not its time: that may be coarse, and a file that is moved into
/// place may be older than the one before.
struct Seen {
    taken: Content,
    before: Content,
}

impl Seen {
    fn new(taken: Content) -> Self {
        Self {
            before: taken.clone(),
            taken,
        }
    }

    /// Whether there was a configuration, and now there is an empty file: of a full disk, or an editor that died.
    fn empties(&self, content: &Content) -> bool {
        let says = |content: &Content| match content {
            Ok(Some(text)) => Some(!text.trim().is_empty()),
            _ => None,
        };
        says(content) == Some(false) && says(&self.taken) != Some(false)
    }

    /// Whether this is new. Unless somebody asked, it must have been the same the last time: it may be half written.
    fn takes(&mut self, content: Content, asked: bool) -> bool {
        let takes = asked || (content == self.before && content != self.taken);
        if takes {
            self.take(content);
        } else {
            self.before = content;
        }
        takes
    }

    fn take(&mut self, content: Content) {
        *self = Self::new(content);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_once_it_stays_the_same() {
        let is = |text: &str| Ok(Some(text.to_owned()));
        let gone = || Err("gone".to_owned());
        let mut seen = Seen::new(is("a"));
        for (content, asked, takes) in [
            (is("a"), false, false),
            (is("ab"), false, false),
            (is("abc"), false, false),
            (is("abc"), false, true),
            (is("abc"), false, false),
            // Moved away and back: nothing has changed.
            (gone(), false, false),
            (is("abc"), false, false),
            (gone(), false, false),
            (gone(), false, true),
            (gone(), false, false),
            // Somebody says that it is whole.
            (is("d"), true, true),
            (is("d"), false, false),
            (is("d"), true, true),
        ] {
            assert_eq!(seen.takes(content.clone(), asked), takes, "{content:?}");
        }
    }
}
