//! What layers further out found out about a call, for those further in and for its line.

use std::{sync::Arc, time::Duration};

use super::Frame;
use crate::{
    context::{Deadline, Priority, Secrets},
    observe::Intake,
};

impl Frame {
    pub(crate) fn intake(&self) -> Option<&Arc<Intake>> {
        self.intake.as_ref()
    }

    pub(crate) fn set_intake(&mut self, intake: Arc<Intake>) {
        self.intake = Some(intake);
    }

    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    pub(crate) fn secrets_mut(&mut self) -> &mut Secrets {
        &mut self.secrets
    }

    pub(crate) fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// Brings the deadline forward; it is never put off.
    pub(crate) fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = Some(self.deadline.map_or(deadline, |set| set.min(deadline)));
    }

    pub(crate) fn deadline_capped(&self) -> bool {
        self.deadline_capped
    }

    /// The caller asked for more time than it was given.
    pub(crate) fn cap_deadline(&mut self) {
        self.deadline_capped = true;
    }

    pub(crate) fn which(&self) -> Option<&'static str> {
        self.which
    }

    /// Tells which of several limits ended the call; the first counts.
    pub(crate) fn set_which(&mut self, which: &'static str) {
        self.which.get_or_insert(which);
    }

    pub(crate) fn priority(&self) -> Option<Priority> {
        self.priority
    }

    /// The layer that is asked last knows best.
    pub(crate) fn set_priority(&mut self, priority: Priority) {
        self.priority = Some(priority);
    }

    pub(crate) fn queued(&self) -> Option<(&'static str, Duration)> {
        self.queued
    }

    /// The call waited for this limit. If it waited before, that is added.
    pub(crate) fn set_queued(&mut self, limit: &'static str, waited: Duration) {
        let before = self.queued.map_or(Duration::ZERO, |(_, before)| before);
        self.queued = Some((limit, before.saturating_add(waited)));
    }
}
