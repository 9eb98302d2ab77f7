//! The hub as the server needs it: names, clock, policies, and the audit log.
//!
//! Why a trait: the server is below the registry and the device hub, and its tests need neither.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use holdfast_auth::bearer::{BearerRefusal, Principal};
use holdfast_auth::{HubNames, Policy};
use holdfast_model::UnixMillis;

use crate::Refused;

/// The answer of the registry's leader: whether the local replica is up to date; and the end of a fetch of the issuer's keys, if one
/// is on its way.
pub type Confirmation = Pin<Box<dyn Future<Output = Result<(), Box<dyn Error + Send + Sync>>>>>;

/// The transport of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// TLS or plain TCP.
    Tcp,
    /// A WebSocket with the subprotocol `AMQPWSB10`.
    WebSocket,
}

/// The use of the hub that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Reading events, or authenticating for whatever follows.
    Events,
    /// Sending messages to devices, and their feedback.
    Messages,
    /// A link of a device or module.
    Device,
    /// A device that registers with the provisioning service.
    Registration,
}

/// The refused principal, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub struct RefusedPrincipal<'a> {
    /// The authenticated policy or principal, or the identity that the client claims.
    pub identity: &'a str,
    /// How it is connected.
    pub carrier: Carrier,
    /// Its network address.
    pub address: SocketAddr,
    /// Its purpose.
    pub purpose: Purpose,
}

/// The hub.
pub trait Authority {
    /// The hub's name; empty while it is not known.
    fn hub_name(&self) -> String;

    /// The host names under which tokens address the hub.
    fn host_names(&self) -> &HubNames;

    /// The hub's clock.
    fn now(&self) -> UnixMillis;

    /// The shared access policy of this name, as the local replica has it.
    fn policy(&self, name: &str) -> Option<Arc<Policy>>;

    /// Whether tokens and keys of policies are accepted at all.
    fn accepts_policies(&self) -> bool;

    /// Checks a bearer token with the issuer's keys that there are. A token with an unknown key has them fetched, which
    /// [`Self::confirm`] waits for.
    ///
    /// # Errors
    /// The rule that it breaks.
    fn bearer(&self, token: &str) -> Result<Principal, BearerRefusal>;

    /// Asks the registry's leader whether the local replica is up to date.
    fn confirm(&self) -> Confirmation;

    /// Takes a put-token's part of the hub's rate. [`Self::give_back_token`] follows for one that is not accepted.
    ///
    /// # Errors
    /// The rate is used up.
    fn admit_token(&self, _: Carrier) -> Result<(), Refused> {
        Ok(())
    }

    /// See [`Self::admit_token`].
    fn give_back_token(&self) {}

    /// Records a refusal.
    fn refused(&self, principal: RefusedPrincipal<'_>, refused: &Refused);
}
