//! The checker: pure functions from recorded histories to findings.
//!
//! Each check counts the items it has checked, so that a report without items cannot be clean.

pub mod availability;
pub mod identity;
pub mod linear;
pub mod messages;
pub mod methods;
pub mod queries;
pub mod readers;
pub mod reconnection;
pub mod revocation;
pub mod sessions;
pub mod twins;
mod versioned;

use serde::Serialize;

use crate::history::Micros;

/// How many violations of one check are described one by one.
const MAX_EXAMPLES: usize = 20;

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// When it was observed, if known.
    pub at: Option<Micros>,
    /// The violation, with the details that help to find its cause.
    pub text: String,
}

/// The result of one check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The guarantee, in words.
    pub promise: String,
    /// How many items were checked.
    pub checked: u64,
    /// How many of them could not be decided within the checker's budget.
    pub undecided: u64,
    /// How many violate the guarantee.
    pub violations: u64,
    /// The first of them.
    pub examples: Vec<Violation>,
}

impl Findings {
    /// Findings about `promise`, without any checked item.
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

    /// Whether no checked item violates the guarantee.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations == 0
    }
}
