//! The checker: pure functions from recorded histories to findings.
//!
//! Each check counts what it has looked at, so that a report cannot be clean for want of anything to check.

pub mod availability;
pub mod identity;
pub mod linear;
pub mod readers;
pub mod revocation;
pub mod sessions;

use serde::Serialize;

use crate::history::Micros;

/// How many violations of one check are described one by one.
const MAX_EXAMPLES: usize = 20;

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// When it was seen, as far as that is known.
    pub at: Option<Micros>,
    /// What was broken, with everything that helps to find out why.
    pub text: String,
}

/// What one check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The promise, in words.
    pub promise: String,
    /// How many things were looked at.
    pub checked: u64,
    /// How many of them could not be decided within the checker's budget.
    pub undecided: u64,
    /// How many broke the promise.
    pub violations: u64,
    /// The first of them.
    pub examples: Vec<Violation>,
}

impl Findings {
    /// Findings about `promise`, with nothing looked at yet.
    #[must_use]
    pub fn about(promise: &str) -> Self {
        Self {
            promise: promise.to_owned(),
            ..Self::default()
        }
    }

    /// Adds a violation.
    pub fn violation(&mut self, at: Option<Micros>, text: impl FnOnce() -> String) {
        self.violations += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(Violation { at, text: text() });
        }
    }

    /// Whether the promise was kept, as far as was looked.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations == 0
    }
}
