//! The TLS of one connection as data: received bytes in, plaintext and records out.
//!
//! Why not rustls' own buffers: it keeps 4 kB for reading on every connection, more than all the rest of an idle one. Here received bytes
//! lie in a buffer that all connections of a thread share, and a connection keeps only what is no complete record yet.
//! Invariants: after each call the kept bytes are less than a record, or the handshake is incomplete; records leave in the order in which they
//! were made; an idle connection has no buffer.
//! Not here: the socket ([`super::lazy`]).

use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    AppDataRecord, ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{CommonState, Error, ServerConfig};

/// Plaintext of one record (RFC 8446 §5.1).
const RECORD_BYTES: usize = 16 * 1024;
/// What a record adds to its plaintext, at most: header, explicit nonce, tag, content type.
const RECORD_OVERHEAD: usize = 64;
/// Records that wait for the kernel; more is not taken.
const MAX_OUTGOING_BYTES: usize = 64 * 1024;

/// See the module.
pub(super) struct TlsSession {
    connection: UnbufferedServerConnection,
    /// Received bytes that are no complete record, or no complete message of the handshake.
    incoming: Vec<u8>,
    /// Records that the kernel has not taken, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// The peer has ended its direction.
    is_ended: bool,
    /// The peer has broken TLS and has been sent an alert: rustls must not be asked again.
    failure: Option<Error>,
}

impl TlsSession {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            is_ended: false,
            failure: None,
        })
    }

    /// What the handshake has agreed on.
    pub(super) fn common(&self) -> &CommonState {
        &self.connection
    }

    /// Whether the peer has ended its direction: no more plaintext comes.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// How many bytes may be received at once, so that their plaintext fits `plain` bytes.
    pub(super) fn capacity(&self, plain: usize) -> usize {
        plain.saturating_sub(self.incoming.len())
    }

    /// Takes received bytes, at most [`Self::capacity`], and returns the length of their plaintext in `plain`. There may be records to
    /// send afterwards, also after an error: the alert.
    ///
    /// # Errors
    /// The peer breaks TLS.
    pub(super) fn receive(&mut self, received: &mut [u8], plain: &mut [u8]) -> Result<usize, Error> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        if self.incoming.is_empty() {
            let (consumed, outcome) = self.process(received, plain);
            self.incoming
                .extend_from_slice(received.get(consumed..).unwrap_or_default());
            return outcome;
        }
        let mut kept = std::mem::take(&mut self.incoming);
        kept.extend_from_slice(received);
        let (consumed, outcome) = self.process(&mut kept, plain);
        kept.drain(..consumed.min(kept.len()));
        // A buffer that was needed once is not kept for an idle connection.
        if !kept.is_empty() {
            self.incoming = kept;
        }
        outcome
    }

    /// Handles the complete records at the start of `bytes`. How many bytes those are, and the length of their plaintext.
    fn process(&mut self, bytes: &mut [u8], plain: &mut [u8]) -> (usize, Result<usize, Error>) {
        let Self {
            connection,
            outgoing,
            is_ended,
            failure,
            ..
        } = self;
        let (mut consumed, mut filled) = (0, 0);
        loop {
            let rest = bytes.get_mut(consumed..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = connection.process_tls_records(rest);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(AppDataRecord { discard: more, payload }) => {
                                discard += more;
                                let Some(place) = plain.get_mut(filled..filled + payload.len()) else {
                                    return (consumed + discard, Err(Error::General(TOO_LONG.into())));
                                };
                                place.copy_from_slice(payload);
                                filled += payload.len();
                            }
                            Err(error) => return (consumed + discard, Err(error)),
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => encode(&mut message, outgoing),
                // It leaves in order with everything else.
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    *is_ended = true;
                    return (consumed + discard, Ok(filled));
                }
                Ok(_) => return (consumed + discard, Ok(filled)),
                Err(error) => {
                    *failure = Some(error.clone());
                    encode_alert(connection, outgoing);
                    return (consumed + discard, Err(error));
                }
            }
            consumed += discard;
        }
    }

    /// Makes records of `data`, and returns how much of it was taken.
    ///
    /// # Errors
    /// The handshake is not complete, or the keys are used up.
    pub(super) fn send(&mut self, data: &[u8]) -> Result<usize, Error> {
        let taken = data.len().min(MAX_OUTGOING_BYTES.saturating_sub(self.outgoing().len()));
        let data = data.get(..taken).unwrap_or_default();
        let length = taken + (taken / RECORD_BYTES + 1) * RECORD_OVERHEAD;
        self.write(length, |traffic, place| traffic.encrypt(data, place))?;
        Ok(taken)
    }

    /// Tells the peer that no more comes.
    pub(super) fn send_close_notify(&mut self) -> Result<(), Error> {
        self.write(RECORD_OVERHEAD, |traffic, place| traffic.queue_close_notify(place))
    }

    /// Appends to the records what `encrypt` makes, which is about `length` bytes.
    fn write(
        &mut self,
        length: usize,
        mut encrypt: impl FnMut(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), Error> {
        let Self {
            connection,
            incoming,
            outgoing,
            failure,
            ..
        } = self;
        if let Some(error) = failure {
            return Err(error.clone());
        }
        loop {
            // No complete record is in there, so that nothing is discarded.
            match connection.process_tls_records(incoming).state? {
                ConnectionState::EncodeTlsData(mut message) => encode(&mut message, outgoing),
                ConnectionState::TransmitTlsData(sent) => sent.done(),
                ConnectionState::PeerClosed => self.is_ended = true,
                ConnectionState::WriteTraffic(mut traffic) => {
                    return append(outgoing, length, |place| match encrypt(&mut traffic, place) {
                        Ok(written) => Ok(Ok(written)),
                        Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                            Err(required_size)
                        }
                        Err(EncryptError::EncryptExhausted) => Ok(Err(Error::EncryptError)),
                    });
                }
                ConnectionState::Closed => return Err(Error::General("the connection is closed".into())),
                _ => return Err(Error::HandshakeNotComplete),
            }
        }
    }

    /// The records that the kernel has not taken.
    pub(super) fn outgoing(&self) -> &[u8] {
        self.outgoing.get(self.sent..).unwrap_or_default()
    }

    /// The kernel has taken the first `bytes` of them.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.outgoing.len() {
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
    }
}

/// Why plaintext has no place: more was received than [`TlsSession::capacity`].
const TOO_LONG: &str = "more was received than the plaintext's buffer holds";

type Traffic<'a> = rustls::unbuffered::WriteTraffic<'a, rustls::server::ServerConnectionData>;

fn encode(message: &mut EncodeTlsData<'_, rustls::server::ServerConnectionData>, outgoing: &mut Vec<u8>) {
    // The error of a message that was encoded before cannot come: each state is asked once.
    let _ = append(outgoing, RECORD_OVERHEAD, |place| match message.encode(place) {
        Ok(written) => Ok(Ok(written)),
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => Err(required_size),
        Err(EncodeError::AlreadyEncoded) => Ok(Ok(0)),
    });
}

/// The last records after an error. Without received bytes: rustls panics when it fails twice.
fn encode_alert(connection: &mut UnbufferedServerConnection, outgoing: &mut Vec<u8>) {
    while connection.wants_write() {
        match connection.process_tls_records(&mut []).state {
            Ok(ConnectionState::EncodeTlsData(mut message)) => encode(&mut message, outgoing),
            // Plaintext in front of the error is lost with the connection.
            Ok(ConnectionState::ReadTraffic(mut traffic)) => while traffic.next_record().is_some() {},
            _ => return,
        }
    }
}

/// Appends what `fill` writes: `Err(size)` is asked again with a place of that size.
fn append(
    outgoing: &mut Vec<u8>,
    length: usize,
    mut fill: impl FnMut(&mut [u8]) -> Result<Result<usize, Error>, usize>,
) -> Result<(), Error> {
    let start = outgoing.len();
    let mut length = length;
    loop {
        outgoing.resize(start + length, 0);
        match fill(outgoing.get_mut(start..).unwrap_or_default()) {
            Ok(outcome) => {
                outgoing.truncate(start + *outcome.as_ref().unwrap_or(&0));
                return outcome.map(drop);
            }
            Err(required) if required > length => length = required,
            Err(_) => {
                outgoing.truncate(start);
                return Err(Error::EncryptError);
            }
        }
    }
}
