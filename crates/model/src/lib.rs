//! The words that every other crate shares: identities, positions in the log, telemetry, errors and limits.
//!
//! Why: five protocols and three storage formats speak of the same device, message and error; each is named here once.
//! Invariants: pure (no clock, no I/O, no randomness); nothing here knows a protocol's framing.
//! Not here: checks of tokens (`auth`), stored forms (`proto`, `storage`).
#![warn(missing_docs)]

mod api_version;
mod certificate;
mod clock;
mod error_code;
mod feature_level;
mod identity;
mod ip_range;
pub mod json;
pub mod lenient_json;
pub mod limits;
mod metric;
mod partition;
mod position;
pub mod property;
mod raft;
mod rate;
mod ratio;
pub mod reason;
mod redact;
mod telemetry;
mod time;
mod units;

pub use api_version::{ApiVersion, InvalidApiVersion};
pub use certificate::{CertificateChain, TlsParameters};
pub use clock::Clock;
pub use error_code::{ErrorCode, ErrorKind, MqttAnswer};
pub use feature_level::FEATURE_LEVEL;
pub use identity::{DeviceId, ETag, GenerationId, IdentityId, InvalidId, ModuleId};
pub use ip_range::{InvalidIpRange, IpRange, IpRule};
pub use metric::{Metric, MetricKind};
pub use partition::{PartitionCount, PartitionId};
pub use position::SequenceNumber;
pub use raft::{Incarnation, LinkId, NodeId, SessionKey, Term};
pub use rate::Rate;
pub use ratio::Ratio;
pub use reason::RefusalReason;
pub use redact::redact;
pub use telemetry::{
    AuthMethod, AuthScope, AuthType, MessageSource, Property, PropertyValue, SystemProperties, TelemetryMessage,
};
pub use time::{UnixMillis, round_trip, us_date};
pub use units::{ByteSize, HumanDuration, InvalidUnit};
