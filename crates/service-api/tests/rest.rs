//! The service API over a real registry: a real disk, a real group of one member, requests without a socket.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

#[path = "rest/bearer.rs"]
mod bearer;
#[path = "rest/c2d.rs"]
mod c2d;
#[path = "rest/certificates.rs"]
mod certificates;
#[path = "rest/holdfast_api.rs"]
mod holdfast_api;
#[path = "rest/identities.rs"]
mod identities;
#[path = "rest/methods.rs"]
mod methods;
#[path = "rest/policies.rs"]
mod policies;
#[path = "rest/query.rs"]
mod query;
#[path = "rest/refusals.rs"]
mod refusals;
#[path = "rest/rights.rs"]
mod rights;
#[path = "rest/saved_queries.rs"]
mod saved_queries;
#[path = "rest/settings.rs"]
mod settings;
#[path = "rest/throttles.rs"]
mod throttles;
#[path = "rest/twins.rs"]
mod twins;
