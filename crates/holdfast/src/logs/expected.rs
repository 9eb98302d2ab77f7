//! Warnings of libraries that belong to normal operation: the list of them, and the formatter that hides them.
//!
//! Why: an operator who sees warnings at every start stops reading them. Each entry names the exact target and beginning
//! of the message, so that no other warning is hidden.
//! Not here: whether they are hidden (`log.level` may name the library, and then shows everything).

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

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

/// Formats every event but the expected warnings. A formatter and no filter: a filter of a layer that hides an event after
/// it was enabled leaves the state of the other filters of that thread behind (a debug build of the library asserts this).
pub(super) struct WithoutExpected<F> {
    inner: F,
    hides: bool,
}

impl<F> WithoutExpected<F> {
    /// `hides`: whether expected warnings are left out at all.
    pub(super) fn new(inner: F, hides: bool) -> Self {
        Self { inner, hides }
    }
}

impl<S, N, F> FormatEvent<S, N> for WithoutExpected<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.hides && is_expected(event) {
            return Ok(());
        }
        self.inner.format_event(context, writer, event)
    }
}

fn is_expected(event: &Event<'_>) -> bool {
    let metadata = event.metadata();
    let mut candidates = EXPECTED
        .iter()
        .filter(|expected| *metadata.level() == Level::WARN && expected.target == metadata.target())
        .peekable();
    if candidates.peek().is_none() {
        return false;
    }
    let mut message = Message::default();
    event.record(&mut message);
    candidates.any(|expected| message.0.starts_with(expected.begins))
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

    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt as _;

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
        let log = fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .map_event_format(|format| WithoutExpected::new(format, true));
        let subscriber = tracing_subscriber::registry().with(log);
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
