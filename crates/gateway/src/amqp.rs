//! AMQP 1.0 for devices and modules (Spec amqp §4 to §6): links of identities beside those of back ends on one port, and
//! many identities on one connection.
//!
//! [`AmqpDevices`] is one core's part. It is a service of `amqp-server`, which owns the connection and tells links apart by
//! address; each connection gets a [`handler::Devices`].
//! Invariants: an identity's session begins with its first link and ends with its last; each identity of a connection has a
//! session of its own, and the end of one touches no other; a message is accepted after its commit, in the order of the
//! messages.
//! [`AmqpRegistration`] is the provisioning service's part of the same connections.
//! Not here: SASL and `$cbs` themselves (`amqp-server`), credentials and sessions (`device-hub`).

mod cloud;
mod credentials;
mod device;
mod downlink;
mod ending;
mod faults;
mod handler;
mod inbox;
mod message;
mod methods;
mod refused;
mod registration;
mod telemetry;
mod twins;

pub use registration::AmqpRegistration;

use std::rc::Rc;

use holdfast_amqp_server::{Carrier, LinkHandler, LinkService};
use holdfast_device_hub::{Core, Protocol};
use tokio::time::Instant;

use crate::AmqpConfig;
use crate::metrics::Metrics;

/// One core's AMQP front end for devices and modules.
pub struct AmqpDevices(Rc<Front>);

/// The parts that all connections of a core share.
struct Front {
    core: Rc<Core>,
    config: AmqpConfig,
    metrics: Metrics,
    began: Instant,
    /// Whether messages have a rate.
    limits_sends: bool,
}

impl AmqpDevices {
    /// The front end of `core`, for the AMQP server of the same thread.
    #[must_use]
    pub fn new(core: Rc<Core>, config: AmqpConfig) -> Self {
        Self(Rc::new(Front {
            limits_sends: core.hub().limits_sends(),
            core,
            config,
            metrics: Metrics::new("amqp"),
            began: Instant::now(),
        }))
    }
}

impl LinkService for AmqpDevices {
    fn connect(&self) -> Box<dyn LinkHandler> {
        Box::new(handler::Devices::new(Rc::clone(&self.0)))
    }
}

/// The protocol of a connection.
fn protocol(carrier: Carrier) -> Protocol {
    match carrier {
        Carrier::Tcp => Protocol::Amqp,
        Carrier::WebSocket => Protocol::AmqpWs,
    }
}
