use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

type Things = Mutex<Vec<Box<dyn Any + Send>>>;

/// What is kept until a connection is closed, also one that was handed over to another protocol.
#[derive(Default)]
pub(crate) struct Belongings(Arc<Things>);

/// The way there. Written by `serve` into requests over HTTP/1 that ask for another protocol; read by the layers of a limit.
#[derive(Clone)]
pub(crate) struct Handover(Weak<Things>);

impl Belongings {
    pub(crate) fn handover(&self) -> Handover {
        Handover(Arc::downgrade(&self.0))
    }
}

impl Handover {
    /// Keeps this until the connection is closed; if it is closed already, not at all.
    pub(crate) fn keep(&self, thing: impl Any + Send) {
        if let Some(things) = self.0.upgrade() {
            let mut things = things.lock().unwrap_or_else(PoisonError::into_inner);
            things.push(Box::new(thing));
        }
    }
}

impl fmt::Debug for Belongings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Belongings").finish_non_exhaustive()
    }
}
