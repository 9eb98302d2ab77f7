//! How a command ends: an exit code that scripts can act on, and a message that a person can.

use std::fmt;
use std::process::ExitCode;

/// The kind of failure, for scripts. The numbers are a public contract (docs/runbook.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The hub or the machine refused; the message says why.
    Failed = 1,
    /// The command line or the configuration is wrong. Trying again without a change cannot help.
    Usage = 2,
    /// The object of the command does not exist.
    NotFound = 3,
    /// The hub cannot be reached, or does not prove that it is the hub.
    Unreachable = 4,
    /// The credentials are missing, wrong, expired or lack the right.
    Unauthorized = 5,
    /// The hub cannot start here: a port or the data directory is taken, too few open files, a wrong clock.
    CannotStart = 6,
    /// The disk failed or the stored data is damaged. Restarting will not help; see the runbook first.
    Storage = 7,
    /// A bug: the program panicked outside a connection. A supervisor should start the hub again.
    Panicked = 8,
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    pub outcome: Outcome,
    pub message: String,
    /// The remedy.
    pub advice: Option<String>,
}

impl Failure {
    pub fn new(outcome: Outcome, message: impl fmt::Display) -> Self {
        Self {
            outcome,
            message: message.to_string(),
            advice: None,
        }
    }

    /// A failure with its whole chain of causes in one line.
    pub fn caused(outcome: Outcome, error: impl Into<anyhow::Error>) -> Self {
        Self::new(outcome, format!("{:#}", error.into()))
    }

    /// Adds what the reader can do.
    #[must_use]
    pub fn advise(mut self, advice: impl fmt::Display) -> Self {
        self.advice = Some(advice.to_string());
        self
    }

    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Outcome::Usage, message)
    }

    pub fn cannot_start(message: impl fmt::Display) -> Self {
        Self::new(Outcome::CannotStart, message)
    }

    /// Writes the message to standard error and gives the exit code.
    pub fn report(&self) -> ExitCode {
        eprintln!("holdfast: {}", self.message);
        if let Some(advice) = &self.advice {
            eprintln!("  → {advice}");
        }
        ExitCode::from(self.outcome as u8)
    }
}

impl From<anyhow::Error> for Failure {
    /// The whole chain of causes, in one line.
    fn from(error: anyhow::Error) -> Self {
        Self::caused(Outcome::Failed, error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Outcome::Failed, error)
    }
}
