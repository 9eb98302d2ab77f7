//! What operators ask of the cluster: who is in it, how it is doing, and changes of its membership.
//!
//! Why a trait: the decisions are the cluster's; this API carries them to whoever may ask.

use std::pin::Pin;
use std::time::Duration;

use holdfast_model::ErrorCode;
use serde_json::Value;

/// What comes of a request; the text of an error says what to do instead.
pub type AdminAnswer<'a> = Pin<Box<dyn Future<Output = Result<Value, AdminError>> + Send + 'a>>;

/// A request that was refused, or could not be carried out now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminError {
    /// The number of the error catalogue.
    pub code: ErrorCode,
    /// For the operator.
    pub text: String,
}

/// The cluster as its operators see it.
pub trait ClusterAdmin: Send + Sync + 'static {
    /// Nodes, groups, leaders, lag, disk, sessions.
    fn status(&self) -> AdminAnswer<'_>;

    /// A secret with which one node may join within `valid`; `gateway`: as a gateway without partitions.
    fn create_token(&self, valid: Duration, gateway: bool) -> AdminAnswer<'_>;

    /// Begins to move everything away from the node named `node`.
    fn drain(&self, node: String) -> AdminAnswer<'_>;

    /// Takes a draining node back into service.
    fn undrain(&self, node: String) -> AdminAnswer<'_>;

    /// Removes the node named `node`, which is drained or, with `force`, dead for good.
    fn remove(&self, node: String, force: bool) -> AdminAnswer<'_>;
}
