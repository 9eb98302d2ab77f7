//! A connection that another node has opened.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use holdfast_consensus::transport::Service;
use tokio::sync::watch;

use super::rate_limited_log::RateLimitedLog;
use crate::peer::peer_table::{Caller, CloseSender, PeerTable};

/// See the module.
pub(super) struct Connection {
    pub(super) table: Arc<PeerTable>,
    pub(super) from: SocketAddr,
    pub(super) certificate_expires: Option<SystemTime>,
    /// The nodes that its certificate names.
    pub(super) certificate_nodes: Vec<String>,
    /// The caller, once its hello was accepted.
    pub(super) caller: OnceLock<Caller>,
    /// Closes the connection, with the reason.
    pub(super) close: CloseSender,
    /// When something was last received on it, in [`PeerTable::now_ms`].
    pub(super) heard: Arc<AtomicU64>,
    /// Whether its hello was accepted.
    pub(super) hello_done: watch::Sender<bool>,
    /// Whether its only stream of frames was started.
    pub(super) has_frames: AtomicBool,
    pub(super) log: Arc<RateLimitedLog>,
}

/// The service with this number, if the caller may call it.
pub(super) fn permitted_service(caller: &Caller, service: u8) -> Result<Service, &'static str> {
    match Service::from_number(service) {
        None => Err("this node does not know the service: it runs an older version"),
        Some(service) if caller.joins && service != Service::Control => {
            Err("only members may call this service: join the cluster first")
        }
        Some(service) => Ok(service),
    }
}
