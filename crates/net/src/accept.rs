//! Accepting connections until the node stops.
//!
//! Invariants: an address that the rules reject gets no byte of an answer and costs no TLS; a head of the PROXY protocol is read from
//! configured load balancers alone, in bounded time and number, while other connections are accepted.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use holdfast_model::IpRule;
use holdfast_tasks::{Phase, Stop};
use metrics::Counter;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use crate::NetConfig;
use crate::metrics::rejected;
use crate::proxy_protocol::{ProxyHeadError, read_head};

/// Delay after an accept error that an immediate retry would repeat.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A connection that has been accepted and set up.
pub struct Accepted {
    /// The socket, without Nagle's delay.
    pub socket: TcpStream,
    /// The client's address: the peer's, or the one that a configured load balancer has named.
    pub address: SocketAddr,
}

/// A connection that was closed before it could say anything.
#[derive(Debug)]
pub enum Rejected {
    /// `net.ip_rules` reject the client's address.
    Address(SocketAddr),
    /// A load balancer of `net.proxies` has not said whose connection it is.
    ProxyHead(SocketAddr, ProxyHeadError),
}

/// Accepts on `listener` and hands each connection to `handle`, and each that it turns away to `turned_away`, until the node stops
/// accepting.
///
/// When file descriptors run out, accepting backs off and is logged; open connections are not affected.
pub async fn accept_loop(
    listener: TcpListener,
    config: NetConfig,
    stop: Stop,
    mut handle: impl FnMut(Accepted),
    mut turned_away: impl FnMut(Rejected),
) {
    let counters = Counters::new();
    let mut heads = FuturesUnordered::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.reached(Phase::Accepting) => return,
            Some(head) = heads.next() => {
                let (socket, proxy, head): (TcpStream, SocketAddr, Result<Option<SocketAddr>, ProxyHeadError>) = head;
                match head {
                    Ok(client) => {
                        let address = client.unwrap_or(proxy);
                        admit(Accepted { socket, address }, &config, &counters, &mut handle, &mut turned_away);
                    }
                    Err(error) => {
                        counters.head.increment(1);
                        turned_away(Rejected::ProxyHead(proxy, error));
                    }
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, address)) => {
                let address = canonical(address);
                if let Err(error) = set_up(&socket, &config) {
                    tracing::debug!(%address, %error, "setting up a connection failed; it is dropped");
                    continue;
                }
                if !config.proxies.iter().any(|range| range.contains(address.ip())) {
                    let accepted = Accepted { socket, address };
                    admit(accepted, &config, &counters, &mut handle, &mut turned_away);
                } else if heads.len() < config.max_unauthenticated {
                    heads.push(with_head(socket, address, config.handshake_timeout));
                } else {
                    tracing::debug!(%address, "too many connections of load balancers wait for their head (net.max_unauthenticated); connection dropped");
                }
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

/// The address of an IPv4 client as such: a listener on `[::]` sees it as `::ffff:a.b.c.d`.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

struct Counters {
    ip: Counter,
    head: Counter,
}

impl Counters {
    fn new() -> Self {
        Self {
            ip: rejected("ip"),
            head: rejected("proxy_head"),
        }
    }
}

/// Applies the rules for addresses.
fn admit(
    accepted: Accepted,
    config: &NetConfig,
    counters: &Counters,
    handle: &mut impl FnMut(Accepted),
    turned_away: &mut impl FnMut(Rejected),
) {
    if IpRule::all_accept(&config.ip_rules, accepted.address.ip()) {
        return handle(accepted);
    }
    counters.ip.increment(1);
    // Without the exchange of a close: a flood of rejected connections leaves no state behind.
    crate::socket::reset_on_close(&accepted.socket);
    turned_away(Rejected::Address(accepted.address));
}

async fn with_head(
    mut socket: TcpStream,
    proxy: SocketAddr,
    deadline: Duration,
) -> (TcpStream, SocketAddr, Result<Option<SocketAddr>, ProxyHeadError>) {
    let head = tokio::time::timeout(deadline, read_head(&mut socket)).await;
    (socket, proxy, head.unwrap_or(Err(ProxyHeadError::Late)))
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;

    use super::*;
    use crate::bind;

    enum Outcome {
        Accepted(SocketAddr, Vec<u8>),
        Rejected(Rejected),
    }

    /// Long enough for a head that arrives, on a busy machine too.
    const LONG: Duration = Duration::from_secs(30);

    async fn outcome(rules: &[&str], proxies: &[&str], bytes: &[u8]) -> Outcome {
        outcome_within(LONG, rules, proxies, bytes).await
    }

    /// Connects, sends `bytes` and returns what the listener with `rules` and `proxies` makes of it.
    async fn outcome_within(timeout: Duration, rules: &[&str], proxies: &[&str], bytes: &[u8]) -> Outcome {
        outcome_on(SocketAddr::from(([127, 0, 0, 1], 0)), timeout, rules, proxies, bytes).await
    }

    /// The same with a listener on `listen`; the client calls 127.0.0.1.
    async fn outcome_on(
        listen: SocketAddr,
        timeout: Duration,
        rules: &[&str],
        proxies: &[&str],
        bytes: &[u8],
    ) -> Outcome {
        let config = NetConfig {
            ip_rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
            proxies: proxies.iter().map(|range| range.parse().unwrap()).collect(),
            handshake_timeout: timeout,
            ..NetConfig::default()
        };
        let listener = bind(listen, &config).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let (accepted, mut outcomes) = mpsc::channel(1);
        let rejected = accepted.clone();
        let run = accept_loop(
            listener,
            config,
            Stop::new(),
            move |connection| accepted.try_send(Ok(connection)).unwrap_or(()),
            move |why| rejected.try_send(Err(why)).unwrap_or(()),
        );
        let client = async {
            // A rejected one may be closed before its connect has returned.
            let mut client = TcpStream::connect(address).await.ok();
            if let Some(client) = &mut client {
                let _ = client.write_all(bytes).await;
            }
            let outcome = outcomes.recv().await.unwrap();
            if let Some(client) = &mut client {
                let _ = client.shutdown().await;
            }
            match outcome {
                Ok(mut connection) => {
                    let mut rest = Vec::new();
                    connection.socket.read_to_end(&mut rest).await.unwrap();
                    Outcome::Accepted(connection.address, rest)
                }
                Err(why) => Outcome::Rejected(why),
            }
        };
        tokio::select! {
            () = run => panic!("the loop ended"),
            outcome = client => outcome,
        }
    }

    #[tokio::test]
    async fn rules_decide_before_anything_is_read() {
        let Outcome::Accepted(address, rest) = outcome(&["reject 127.1.0.0/16"], &[], b"hello").await else {
            panic!("rejected")
        };
        assert_eq!(
            (address.ip().to_string().as_str(), &rest[..]),
            ("127.0.0.1", &b"hello"[..])
        );
        for rules in [&["reject 127.0.0.0/8"][..], &["accept 10.0.0.0/8", "reject 0.0.0.0/0"]] {
            let why = outcome(rules, &[], b"").await;
            assert!(matches!(why, Outcome::Rejected(Rejected::Address(_))));
        }
    }

    #[tokio::test]
    async fn a_listener_for_both_families_sees_ipv4_clients_as_such() {
        let both: SocketAddr = "[::]:0".parse().unwrap();
        if std::net::TcpListener::bind(both).is_err() {
            // A machine without IPv6.
            return;
        }
        let Outcome::Accepted(address, _) = outcome_on(both, LONG, &["reject 10.0.0.0/8"], &[], b"").await else {
            panic!("rejected")
        };
        assert_eq!(address.ip().to_string(), "127.0.0.1");
        let why = outcome_on(both, LONG, &["reject 127.0.0.0/8"], &[], b"").await;
        assert!(matches!(why, Outcome::Rejected(Rejected::Address(address)) if address.is_ipv4()));
        let head = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 8883\r\n";
        let Outcome::Accepted(address, _) = outcome_on(both, LONG, &[], &["127.0.0.0/8"], head).await else {
            panic!("the load balancer is not known by its IPv4 address")
        };
        assert_eq!(address.to_string(), "192.0.2.7:4711");
    }

    #[tokio::test]
    async fn the_address_that_a_load_balancer_names_counts_and_its_own_for_itself() {
        let head = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 8883\r\nhello";
        let proxies = &["127.0.0.0/8"];
        let Outcome::Accepted(address, rest) =
            outcome(&["accept 192.0.2.0/24", "reject 0.0.0.0/0"], proxies, head).await
        else {
            panic!("rejected")
        };
        assert_eq!(
            (address.to_string().as_str(), &rest[..]),
            ("192.0.2.7:4711", &b"hello"[..])
        );
        match outcome(&["reject 192.0.2.0/24"], proxies, head).await {
            Outcome::Rejected(Rejected::Address(address)) => assert_eq!(address.to_string(), "192.0.2.7:4711"),
            _ => panic!("accepted"),
        }
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0hello";
        let Outcome::Accepted(address, rest) = outcome(&[], proxies, local).await else {
            panic!("rejected")
        };
        assert_eq!(
            (address.ip().to_string().as_str(), &rest[..]),
            ("127.0.0.1", &b"hello"[..])
        );
    }

    #[tokio::test]
    async fn a_head_is_required_of_load_balancers_in_time_and_is_nothing_from_others() {
        for bytes in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00"[..],
            b"PROXY TCP4 192.0.2.7",
            b"",
        ] {
            let why = outcome_within(Duration::from_millis(200), &[], &["127.0.0.1"], bytes).await;
            assert!(matches!(why, Outcome::Rejected(Rejected::ProxyHead(..))));
        }
        let head = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 8883\r\n";
        let Outcome::Accepted(address, rest) = outcome(&[], &["127.0.0.2"], head).await else {
            panic!("rejected")
        };
        assert_eq!((address.ip().to_string().as_str(), &rest[..]), ("127.0.0.1", &head[..]));
    }
}
