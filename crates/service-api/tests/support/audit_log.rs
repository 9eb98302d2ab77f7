//! Captures the audit records that the current thread emits.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part")]

use std::fmt::Debug;
use std::sync::Arc;

use holdfast_tasks::sync::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Metadata, Subscriber};

/// Principal and reason.
pub(crate) type Refusal = (String, String);
/// Operation, subject, and the number of a refusal.
pub(crate) type Change = (String, String, Option<u32>);

type Fields = Vec<(&'static str, String)>;

/// The audit records of this thread since [`AuditLog::capture`].
pub(crate) struct AuditLog {
    records: Arc<Mutex<Vec<Fields>>>,
    _guard: DefaultGuard,
}

impl AuditLog {
    pub(crate) fn capture() -> Self {
        let records = Arc::default();
        let guard = tracing::subscriber::set_default(Collector(Arc::clone(&records)));
        Self { records, _guard: guard }
    }

    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        let records = self.records.lock();
        let refused = records.iter().filter(|record| value(record, "event") == "refused");
        refused
            .map(|record| (value(record, "identity"), value(record, "reason")))
            .collect()
    }

    /// Identity and count of the records about suppressed refusals.
    pub(crate) fn suppressed(&self) -> Vec<(String, u64)> {
        let records = self.records.lock();
        let suppressed = records
            .iter()
            .filter(|record| value(record, "event") == "refusals_suppressed");
        suppressed
            .map(|record| (value(record, "identity"), value(record, "count").parse().unwrap()))
            .collect()
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        let records = self.records.lock();
        let changes = records
            .iter()
            .filter(|record| value(record, "event").starts_with("change"));
        changes
            .map(|record| {
                assert_eq!(value(record, "principal"), "policy iothubowner");
                assert_eq!(value(record, "address"), "127.0.0.1:4711");
                let code = value(record, "code").parse().ok();
                (value(record, "operation"), value(record, "subject"), code)
            })
            .collect()
    }
}

fn value(record: &Fields, name: &str) -> String {
    let found = record.iter().find(|(field, _)| *field == name);
    found.map_or_else(String::new, |(_, value)| value.clone())
}

struct Collector(Arc<Mutex<Vec<Fields>>>);

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "audit"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut visitor = Visitor(Vec::new());
        event.record(&mut visitor);
        self.0.lock().push(visitor.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Visitor(Fields);

impl Visit for Visitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}
