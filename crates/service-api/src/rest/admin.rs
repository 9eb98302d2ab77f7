//! What operators ask of the cluster: who is in it, how it is doing, and changes of its membership.
//!
//! Why a trait: the decisions are the cluster's; this API carries them to whoever may ask.

use std::pin::Pin;
use std::time::Duration;

use holdfast_model::{ErrorCode, UnixMillis};
use serde_json::Value;

/// What comes of a request; the text of an error says what to do instead.
pub type AdminAnswer<'a, T = Value> = Pin<Box<dyn Future<Output = Result<T, AdminError>> + Send + 'a>>;

/// A request that was refused, or could not be carried out now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminError {
    /// The number of the error catalogue.
    pub code: ErrorCode,
    /// For the operator.
    pub text: String,
}

/// A permission to join, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinPermission {
    /// Tells it from others in lists and in the audit log.
    pub id: String,
    /// For a gateway without partitions.
    pub gateway: bool,
    /// When it was made.
    pub created: UnixMillis,
    /// From when on it is worth nothing.
    pub expires: UnixMillis,
    /// Whether it can still be used.
    pub standing: Standing,
}

/// What has become of a permission to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A node may use it.
    Waiting,
    /// This node has used it: its name, or its id when it is no member any more.
    Used(String),
    /// It was taken back.
    Revoked,
    /// Nobody used it in time.
    Expired,
}

/// A permission that has just been made, with its secret, which nobody is told again.
#[derive(Clone)]
pub struct NewPermission {
    /// What the node shows to join.
    pub secret: String,
    /// Of the token, as in lists.
    pub id: String,
    /// From when on it is worth nothing.
    pub expires: UnixMillis,
}

/// The cluster as its operators see it.
pub trait ClusterAdmin: Send + Sync + 'static {
    /// Nodes, groups, leaders, lag, disk, sessions.
    fn status(&self) -> AdminAnswer<'_>;

    /// A secret with which one node may join within `valid`; `gateway`: as a gateway without partitions.
    fn create_token(&self, valid: Duration, gateway: bool) -> AdminAnswer<'_, NewPermission>;

    /// The permissions to join, the newest first.
    fn tokens(&self) -> AdminAnswer<'_, Vec<JoinPermission>>;

    /// Takes the permission with this id back.
    fn revoke_token(&self, id: String) -> AdminAnswer<'_, ()>;

    /// Sets how many replicas each partition is to have.
    fn set_replication(&self, factor: u8) -> AdminAnswer<'_>;

    /// Begins to move everything away from the node named `node`.
    fn drain(&self, node: String) -> AdminAnswer<'_>;

    /// Takes a draining node back into service.
    fn undrain(&self, node: String) -> AdminAnswer<'_>;

    /// Removes the node named `node`, which is drained or, with `force`, dead for good.
    fn remove(&self, node: String, force: bool) -> AdminAnswer<'_>;
}
