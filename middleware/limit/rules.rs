use std::{fmt, sync::Arc, time::Instant};

use http::Request;

use super::{Gate, Shared, state::Ask};
use crate::context::{Priority, Scope};

/// What a layer was told about the calls that it lets in.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    pub(crate) gates: Vec<Arc<dyn Gate>>,
    /// Callers are told not to try again at all.
    pub(crate) never: bool,
}

impl Rules {
    /// What is to be asked for a call.
    #[inline]
    pub(super) fn ask<B>(&self, _request: &Request<B>, _scope: &mut Scope, _shared: &Shared) -> Ask {
        Ask {
            priority: Priority::Normal,
            deadline: None,
            caller: None,
            streams: false,
        }
    }

    /// The name of a gate that does not let a call in.
    #[inline]
    pub(super) fn shut_gate(&self, priority: Priority, now: Instant) -> Option<&'static str> {
        let shut = self.gates.iter().find(|gate| !gate.admits(priority, now))?;
        Some(shut.name())
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gates: Vec<_> = self.gates.iter().map(|gate| gate.name()).collect();
        f.debug_struct("Rules")
            .field("gates", &gates)
            .field("never", &self.never)
            .finish_non_exhaustive()
    }
}
