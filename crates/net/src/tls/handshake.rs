//! One handshake: the certificate that it shows, the session that it resumes, and how it is counted.
//!
//! Why an object for each: the tickets of a resumed session carry the age of its full handshake on, and rustls calls the maker of tickets
//! without saying for which connection.
//! Invariant: it is dropped when the handshake is complete, so that an idle connection has none of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CommonState, HandshakeKind, ProtocolVersion, ServerConfig};

use super::greeting::{NameKind, ServerNames, signatures};
use super::tickets::TicketKeys;
use super::{ServerCertificates, TlsServer};
use crate::metrics;

/// A session has been made from nothing.
const NONE: u64 = u64::MAX;

/// A handshake that has begun.
pub(crate) struct Handshake {
    state: Arc<State>,
    config: Arc<ServerConfig>,
    /// Where it is timed.
    began: Option<Instant>,
}

/// When a handshake began and was complete.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeTime {
    /// Its first byte had come.
    pub began: Instant,
    /// Its last message was there.
    pub ended: Instant,
}

#[derive(Debug)]
struct State {
    certificates: ServerCertificates,
    names: Arc<ServerNames>,
    tickets: Option<Arc<TicketKeys>>,
    /// When the oldest session was made that the client has shown a ticket of; [`NONE`] without one.
    origin: AtomicU64,
    greeting: OnceLock<Greeting>,
}

/// The client's first message.
#[derive(Debug)]
struct Greeting {
    name: NameKind,
    signatures: &'static str,
    /// The chain that it is shown in a full handshake.
    chain: &'static str,
}

impl Handshake {
    pub(super) fn begin(server: &TlsServer, common: &ServerConfig) -> Self {
        let shared = &server.0;
        let state = Arc::new(State {
            certificates: shared.certificates.clone(),
            names: Arc::clone(&shared.names),
            tickets: shared.tickets.clone(),
            origin: AtomicU64::new(NONE),
            greeting: OnceLock::new(),
        });
        let mut config = common.clone();
        config.cert_resolver = Arc::clone(&state) as Arc<dyn ResolvesServerCert>;
        if state.tickets.is_some() {
            config.ticketer = Arc::clone(&state) as Arc<dyn ProducesTickets>;
        }
        Self {
            state,
            config: Arc::new(config),
            began: shared.times_handshakes.then(Instant::now),
        }
    }

    /// The configuration of this handshake alone.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Counts the handshake, which is complete; gives its time where it is timed.
    pub(crate) fn completed(self, connection: &CommonState) -> Option<HandshakeTime> {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            _ => "1.2",
        };
        let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let kind = if is_resumed { "resumed" } else { "full" };
        metrics::handshakes(version, kind).increment(1);
        if let (false, Some(greeting)) = (is_resumed, self.state.greeting.get()) {
            metrics::clients(greeting.name.as_str(), version, greeting.signatures, greeting.chain).increment(1);
        }
        let ended = Instant::now();
        self.began.map(|began| HandshakeTime { began, ended })
    }
}

impl ResolvesServerCert for State {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (key, chain) = self.certificates.choose(&hello)?;
        // After a request for another key share the client greets again, with the same content.
        self.greeting.get_or_init(|| Greeting {
            name: self.names.kind(hello.server_name()),
            signatures: signatures(hello.signature_schemes()),
            chain,
        });
        Some(key)
    }
}

impl State {
    /// When the full handshake of this session was: now, unless it is resumed.
    fn origin(&self, tickets: &TicketKeys) -> u64 {
        match self.origin.load(Ordering::Relaxed) {
            NONE => tickets.now(),
            origin => origin,
        }
    }
}

impl ProducesTickets for State {
    fn enabled(&self) -> bool {
        self.tickets.is_some()
    }

    fn lifetime(&self) -> u32 {
        let tickets = self.tickets.as_ref();
        tickets.map_or(0, |tickets| tickets.remaining(self.origin(tickets)))
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let tickets = self.tickets.as_ref()?;
        tickets.seal(self.origin(tickets), plain)
    }

    /// A client may show several tickets. The oldest one's age counts, whichever of them is taken.
    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let session = self.tickets.as_ref()?.open(cipher)?;
        self.origin.fetch_min(session.origin, Ordering::Relaxed);
        Some(session.bytes)
    }
}
