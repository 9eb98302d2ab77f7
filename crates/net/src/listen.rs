//! Binding a port once per core.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::TcpListener;

use crate::NetConfig;

/// A port could not be bound.
#[derive(Debug, Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The requested address.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Binds `address` with `SO_REUSEPORT`, so that every core can have a listener of its own, and listens.
///
/// Must be called inside the core's runtime. With port 0 the first call chooses; pass its address to the other cores.
///
/// # Errors
/// [`BindError`] names the address.
pub fn bind(address: SocketAddr, config: &NetConfig) -> Result<TcpListener, BindError> {
    let failed = |source| BindError { address, source };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    socket.set_reuse_address(true).map_err(failed)?;
    socket.set_reuse_port(true).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    socket.bind(&address.into()).map_err(failed)?;
    socket
        .listen(i32::try_from(config.accept_backlog).unwrap_or(i32::MAX))
        .map_err(failed)?;
    TcpListener::from_std(socket.into()).map_err(failed)
}
