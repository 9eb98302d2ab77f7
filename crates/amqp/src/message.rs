//! The content of transfers: sections found lazily, sections written in the order that readers expect.
//!
//! Invariants: sections are taken in any order, unknown ones are skipped, a missing body is fine (Spec amqp §2); nothing
//! is decoded that the caller does not request.
//! Not here: which annotations an event has (`service-api`), what a device may send (`gateway`).

mod properties;
mod request;
mod scan;
mod sections;

pub use properties::{Properties, id_text};
pub use request::{Request, Response, ResponseView, put_token, read_request};
pub use scan::{Body, Message};
pub use sections::{
    BATCH_FORMAT, begin_application_properties, begin_delivery_annotations, begin_message_annotations, put_data,
    put_properties, put_value,
};
