//! Warnings of libraries that belong to normal operation: the list of them, and the filter that hides them.
//!
//! Why: an operator who sees warnings at every start stops reading them. Each entry names the exact target and beginning
//! of the message, so that no other warning is hidden.
//! Not here: whether the filter applies (`log.level` may name the library, and then shows everything).

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// A warning that is expected, and the reason why it is harmless.
struct Expected {
    target: &'static str,
    begins: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "for readers of this list, and its test"))]
    reason: &'static str,
}

const EXPECTED: &[Expected] = &[Expected {
    target: "openraft::core::raft_core",
    begins: "A message will be ignored because",
    reason: "An answer to an earlier election, or a message to a leader that no longer leads, arrives late. Raft discards \
             it; it comes with every election, also with the one of a hub's first start.",
}];

/// Lets every event pass but the expected warnings.
pub(super) struct WithoutExpected;

impl<S: Subscriber> Filter<S> for WithoutExpected {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::always()
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let mut candidates = EXPECTED
            .iter()
            .filter(|expected| *metadata.level() == Level::WARN && expected.target == metadata.target())
            .peekable();
        if candidates.peek().is_none() {
            return true;
        }
        let mut message = Message::default();
        event.record(&mut message);
        !candidates.any(|expected| message.0.starts_with(expected.begins))
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::{Layer as _, fmt};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn expected_warnings_are_hidden_and_no_others() {
        assert!(EXPECTED.iter().all(|expected| !expected.reason.is_empty()));
        let written = Written::default();
        let writer = written.clone();
        let log = fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(log.with_filter(WithoutExpected));
        tracing::subscriber::with_default(subscriber, || {
            let vote = "T2";
            tracing::warn!(
                target: "openraft::core::raft_core",
                "A message will be ignored because Candidate vote changed: my vote: {vote}"
            );
            tracing::warn!(target: "openraft::core::raft_core", "the log cannot be read");
            tracing::error!(target: "openraft::core::raft_core", "A message will be ignored because of damage");
            tracing::warn!(target: "holdfast", "A message will be ignored because it is ours");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("vote changed"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
