//! What the service API asks of the rest of the node: connections, diagnosis, audit.
//!
//! Why a trait: tests of the calls need no device hub, and a later owner on another node answers the same questions.

use std::net::SocketAddr;
use std::pin::Pin;

use holdfast_model::{ErrorCode, IdentityId, RefusalReason, UnixMillis};

/// Whether an identity is connected (MQTT and AMQP only), and when it was last heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection {
    /// Connected now.
    pub is_connected: bool,
    /// When that changed last; `None` = never, as far as is known.
    pub updated: Option<UnixMillis>,
    /// When it last connected, sent or received.
    pub last_activity: Option<UnixMillis>,
}

/// Who calls, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The policy that signed the token (`policy iothubowner`), or what stands for a caller without one.
    pub principal: String,
    /// The peer's address.
    pub address: SocketAddr,
}

/// What is asked of other nodes too. Who does not answer in time is left out.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The rest of the hub.
pub trait HubView: Send + Sync + 'static {
    /// The connections of devices and modules, in their order.
    fn connections<'a>(&'a self, ids: Vec<&'a IdentityId>) -> Asked<'a, Vec<Connection>>;

    /// How many devices are connected by MQTT or AMQP.
    fn connected_device_count(&self) -> Asked<'_, u64>;

    /// Everything about an identity's connections that explains why it can or cannot connect, as a JSON object without
    /// secrets.
    fn diagnose<'a>(&'a self, id: &'a IdentityId) -> Asked<'a, serde_json::Value>;

    /// A caller was turned away.
    fn refused(&self, caller: &Caller, reason: RefusalReason, code: ErrorCode);

    /// A caller changed something, or tried to: `code` is why it was refused.
    fn changed(&self, caller: &Caller, operation: &'static str, subject: &str, code: Option<ErrorCode>);
}
