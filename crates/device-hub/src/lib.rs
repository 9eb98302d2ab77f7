//! The device-session API: every protocol connects a device and sends for it through this crate, and through nothing
//! else.
//!
//! Why: authentication, one session per identity, batching, acknowledgement order and back-pressure are the same for MQTT,
//! AMQP and HTTPS; front ends only translate (docs/architecture.md, "Sessions on several nodes").
//! The way up is [`Core::send`], and [`Core::send_request`] for a protocol without sessions; the way down [`DeviceHub::deliver`], with an answer [`DeviceHub::invoke_method`] and
//! through a queue [`DeviceHub::send_cloud_message`], from any node.
//! Invariants: a receipt says `Committed` only after the partition's record is committed and synced; receipts of one
//! session come in the order of its messages; one identity has one session; every queue is bounded.
//! Not here: MQTT, AMQP, HTTP; how records are stored (`partition`) or identities kept (`registry`).
//!
//! Start at [`DeviceHub`] (shared by the node), then [`Core`] (one per core), [`Core::connect`] and [`Core::send`].
#![warn(missing_docs)]

mod api;
mod c2d;
mod device_state;
mod downlink;
mod gateway;
mod ingest;
mod methods;
mod metrics;
mod outbox;
mod owner;
mod queries;
mod rpc;
mod session_types;
mod throttles;
mod twins;
mod uploads;

pub use api::audit::{Audit, AuditRecord, EndedConnection, Operation, RefusedRequest};
pub use api::authenticate::{Verified, authenticate};
pub use api::config::{DeviceHubConfig, TwinsConfig};
pub use api::connect::ConnectAttempt;
pub use api::connect_request::{ConnectRequest, Credential, Denied, Protocol, Refusal, StoredSession};
pub use api::core::{Core, Outcome, Receipt, ReceiptTarget};
pub use api::credential_check::{CheckedCredential, CredentialCheck};
pub use api::diagnose::{ConnectionChain, ConnectionState, Diagnosis, LastConnection, LiveSession, QueriedNode};
pub use api::hub::{DeviceHub, HubParts};
pub use api::offered::{Offered, OfferedKind};
pub use api::penalties::Penalty;
pub use api::requester::Requester;
pub use api::session::{CloseReason, Session, SessionTarget};
pub use api::trace::{MAX_TRACE_TIME, TooManyTraces, TraceEvent, TraceEvents, TraceKind, TraceRequest};
pub use c2d::api::{CloudQueueError, Enqueued, Feedback, FeedbackVerdict, ListedMessage};
pub use c2d::feedback::{FeedbackRequest, FeedbackStatus};
pub use c2d::feedback_source::FeedbackSource;
pub use c2d::message::CloudMessage;
pub use c2d::queue::DeadLetterReason;
pub use c2d::requests::TakenMessage;
pub use device_state::Subscriptions;
pub use downlink::delivery::{
    Delivery, DeliveryError, DeliveryId, DeliveryKind, DeliveryKinds, DeliveryOutcome, DeliveryTag, OnSessionChange,
    PendingDelivery, Settlement,
};
pub use downlink::receive::ReceivedDelivery;
pub use gateway::drain::close_when_draining;
pub use gateway::link_renewal::maintain_links;
pub use gateway::revocation::watch_registry;
pub use gateway::subscription_requests::SubscriptionError;
pub use methods::call::{MethodAnswer, MethodCall, MethodError};
pub use methods::pending::MethodResult;
pub use metrics::METRICS;
pub use queries::{
    IndexPlan, QueryAccess, QueryExplanation, QueryFailure, QueryPage, QueryPlan, QueryPosition, SavedQueryCount,
    count_saved_queries, match_count, twin_indexing,
};
pub use session_types::{SessionCertificate, SessionNumber};
pub use throttles::class::ThrottleClass;
pub use throttles::config::ThrottlesConfig;
pub use throttles::node::Throttled;
pub use throttles::profile::Profile;
pub use throttles::quota::count::DailyQuota;
pub use throttles::reservation::Reservation;
pub use throttles::sender::{AdmittedSend, SendRates, TwinRates};
pub use throttles::share_out::share_rates;
pub use twins::ask::{TwinError, TwinView, TwinWrite, check_section};
pub use twins::document::Twin;
pub use twins::history::TwinVersion;
pub use twins::limits::SectionName;
pub use twins::patch::WriteMode;
pub use twins::stored::UnreadableTwin;
pub use uploads::api::{FoundUpload, UploadError, UploadedFile};
pub use uploads::config::{UploadConfig, UploadStorageKind, is_web_url};
pub use uploads::source::UploadSource;
pub use uploads::{UploadNotification, UploadReader};
