//! Accepting connections until the node stops.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use holdfast_tasks::{Phase, Stop};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use crate::NetConfig;

/// Delay after an accept error that an immediate retry would repeat.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A connection that has been accepted and set up.
pub struct Accepted {
    /// The socket, without Nagle's delay.
    pub socket: TcpStream,
    /// The peer's address.
    pub address: SocketAddr,
}

/// Accepts on `listener` and hands each connection to `handle`, until the node stops accepting.
///
/// When file descriptors run out, accepting backs off and is logged; open connections are not affected.
pub async fn accept_loop(listener: TcpListener, config: NetConfig, stop: Stop, mut handle: impl FnMut(Accepted)) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.reached(Phase::Accepting) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, address)) => {
                if let Err(error) = set_up(&socket, &config) {
                    tracing::debug!(%address, %error, "setting up a connection failed; it is dropped");
                    continue;
                }
                handle(Accepted { socket, address });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(
                    %error,
                    backoff_ms = ACCEPT_BACKOFF.as_millis(),
                    "accepting connections failed; retrying"
                );
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

fn set_up(socket: &TcpStream, config: &NetConfig) -> io::Result<()> {
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_tcp_user_timeout(Some(config.user_timeout))
}

/// Errors of the connection that was to be accepted, not of the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
