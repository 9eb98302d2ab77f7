//! Device front ends: they translate a protocol to the device-session API and back.
//!
//! Why: the wire side of a protocol is here, the rules of sessions are in `device-hub`.
//! Invariants: one connection lives on one core; between two connections of a core nothing is locked; an idle
//! connection owns no buffer; acknowledgements leave in the order of the messages.
//! Not here: credentials, batches, one session per identity (`device-hub`); sockets, buffers and deadlines (`net`).
#![warn(missing_docs)]

mod amqp;
mod config;
mod faults;
mod https;
mod methods_in_flight;
mod metrics;
mod mqtt;
mod own_address;
mod registration;
mod sent_deliveries;
mod twin_requests;

pub use amqp::{AmqpDevices, AmqpRegistration};
pub use config::{AmqpConfig, HttpsConfig, MqttConfig};
pub use https::{HttpsFront, UploadLocation, UploadStorage, UploadedBlob, is_device_path};
pub use metrics::METRICS;
pub use mqtt::MqttFront;
pub use registration::{RegistrationFront, is_registration_path};
