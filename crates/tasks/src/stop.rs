//! The order in which a node stops: stop accepting, drain, close.

use tokio_util::sync::CancellationToken;

/// A step of stopping; each implies the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Listeners close; open connections continue.
    Accepting,
    /// Sessions accept no new work; work in progress is finished and acknowledged.
    Draining,
    /// Sessions close; groups and storage flush.
    Closing,
}

/// The stop signal of a node, handed to every part; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    accepting: CancellationToken,
    draining: CancellationToken,
    closing: CancellationToken,
}

impl Stop {
    /// A signal on which no phase has been entered.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters `phase` and all before it. Calls after the first have no effect.
    pub fn enter(&self, phase: Phase) {
        self.accepting.cancel();
        if phase >= Phase::Draining {
            self.draining.cancel();
        }
        if phase >= Phase::Closing {
            self.closing.cancel();
        }
    }

    fn token(&self, phase: Phase) -> &CancellationToken {
        match phase {
            Phase::Accepting => &self.accepting,
            Phase::Draining => &self.draining,
            Phase::Closing => &self.closing,
        }
    }

    /// Whether `phase` has been entered.
    #[must_use]
    pub fn is_in(&self, phase: Phase) -> bool {
        self.token(phase).is_cancelled()
    }

    /// Returns once `phase` has been entered. Cancel-safe.
    pub async fn reached(&self, phase: Phase) {
        self.token(phase).cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_implies_the_ones_before_it() {
        let stop = Stop::new();
        assert!(!stop.is_in(Phase::Accepting));
        stop.enter(Phase::Draining);
        assert!(stop.is_in(Phase::Accepting) && stop.is_in(Phase::Draining) && !stop.is_in(Phase::Closing));
    }
}
