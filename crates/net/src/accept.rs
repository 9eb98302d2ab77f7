//! Accepting connections until the node stops.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use holdfast_tasks::{Phase, Stop};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use crate::NetConfig;

/// How long a listener rests after an accept error that more of the same would only repeat.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that has been accepted and set up.
pub struct Accepted {
    /// The socket, without Nagle's delay.
    pub socket: TcpStream,
    /// Where it comes from.
    pub address: SocketAddr,
}

/// Accepts on `listener` and hands each connection to `handle`, until the node stops accepting.
///
/// Running out of file descriptors pauses accepting and is logged; it ends nothing that is connected.
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
                    tracing::debug!(%address, %error, "connection lost before it was set up");
                    continue;
                }
                handle(Accepted { socket, address });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = ACCEPT_PAUSE.as_millis(), "cannot accept connections, pausing");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn set_up(socket: &TcpStream, config: &NetConfig) -> io::Result<()> {
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_tcp_user_timeout(Some(config.user_timeout))
}

/// Errors that concern the connection that was to be accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
