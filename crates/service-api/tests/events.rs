//! The Event-Hubs-compatible endpoint against a client of ours, through memory.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/audit_log.rs"]
mod audit_log;
#[path = "support/events_hub.rs"]
mod events_hub;
#[path = "support/issuer.rs"]
mod issuer;

#[path = "events/bearer.rs"]
mod bearer;
#[path = "events/connections.rs"]
mod connections;
#[path = "events/credentials.rs"]
mod credentials;
#[path = "events/management.rs"]
mod management;
#[path = "events/messages.rs"]
mod messages;
#[path = "events/reading.rs"]
mod reading;
#[path = "events/redirects.rs"]
mod redirects;
#[path = "events/refusals.rs"]
mod refusals;

use events_hub::{Hub, on_a_core};
use holdfast_amqp::selector::Start;
use holdfast_service_api::events::EventsConfig;

fn on_a_hub<F: Future<Output = ()>>(test: impl FnOnce(Hub) -> F) {
    on_a_core(|| async { test(Hub::start(EventsConfig::default()).await).await });
}

fn sequence(number: u64, inclusive: bool) -> Start {
    Start::Sequence { number, inclusive }
}
