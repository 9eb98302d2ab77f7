//! The TLS of a connection without a socket, against rustls' own client: cut anywhere, broken anywhere.

use std::io::{Read as _, Write as _};

use super::super::session::TlsSession;
use super::*;

/// The two ends of a connection, and the plaintext that each has received.
struct Pair {
    client: ClientConnection,
    session: TlsSession,
    at_client: Vec<u8>,
    at_server: Vec<u8>,
    plain: Vec<u8>,
}

impl Pair {
    fn new(hub: &Hub, version: &'static SupportedProtocolVersion) -> Self {
        let config = Arc::new(hub.client(version, &[], None));
        Self {
            client: ClientConnection::new(config, HOST.try_into().unwrap()).unwrap(),
            session: TlsSession::new(hub.server.begin().config()).unwrap(),
            at_client: Vec::new(),
            at_server: Vec::new(),
            plain: vec![0; 64 * 1024],
        }
    }

    /// A pair whose handshake is complete.
    fn open(hub: &Hub, version: &'static SupportedProtocolVersion) -> Self {
        let mut pair = Self::new(hub, version);
        pair.run(4096).unwrap();
        assert!(!pair.client.is_handshaking() && !pair.session.common().is_handshaking());
        pair
    }

    /// Exchanges records until both sides are silent; the server receives them in pieces of `piece` bytes.
    fn run(&mut self, piece: usize) -> Result<(), rustls::Error> {
        loop {
            let mut records = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut records).unwrap();
            }
            let answers = self.session.outgoing().len();
            if records.is_empty() && answers == 0 {
                return Ok(());
            }
            for piece in records.chunks_mut(piece) {
                let read = self.session.receive(piece, &mut self.plain)?;
                self.at_server.extend_from_slice(&self.plain[..read]);
            }
            self.deliver()?;
        }
    }

    fn deliver(&mut self) -> Result<(), rustls::Error> {
        while !self.session.outgoing().is_empty() {
            let taken = self.client.read_tls(&mut self.session.outgoing()).unwrap();
            self.session.advance(taken);
            self.client.process_new_packets()?;
            let mut plain = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = self.client.reader().read(&mut plain) {
                self.at_client.extend_from_slice(&plain[..read]);
            }
        }
        Ok(())
    }
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn records_may_be_cut_anywhere() {
    let hub = Hub::new();
    for version in [&TLS12, &TLS13] {
        for piece in [1, 2, 5, 21, 100, 16 * 1024] {
            let mut pair = Pair::new(&hub, version);
            pair.run(piece).unwrap();
            for length in [1, 100, 20_000] {
                pair.client.writer().write_all(&text(length)).unwrap();
                pair.run(piece).unwrap();
                assert!(
                    pair.at_server == text(length),
                    "{version:?}, {length} bytes in pieces of {piece}"
                );
                pair.at_server.clear();
            }
        }
    }
}

#[test]
fn data_of_any_length_is_sent_and_what_does_not_fit_is_not_taken() {
    let hub = Hub::new();
    for version in [&TLS12, &TLS13] {
        let mut pair = Pair::open(&hub, version);
        for length in [0, 1, 16 * 1024, 16 * 1024 + 1, 60_000] {
            assert_eq!(pair.session.send(&text(length)).unwrap(), length);
            pair.deliver().unwrap();
            assert!(pair.at_client == text(length), "{version:?}, {length} bytes");
            pair.at_client.clear();
        }
        // The kernel takes nothing: the peer does not read.
        let data = text(1024 * 1024);
        let taken = pair.session.send(&data).unwrap();
        assert!(taken < data.len());
        assert!(pair.session.outgoing().len() < 70 * 1024);
        assert_eq!(pair.session.send(&data).unwrap(), 0);
        pair.deliver().unwrap();
        assert!(pair.at_client == data[..taken]);
    }
}

#[test]
fn a_record_that_is_not_complete_does_not_hinder_writing() {
    let hub = Hub::new();
    let mut pair = Pair::open(&hub, &TLS13);
    pair.client.writer().write_all(b"hello").unwrap();
    let mut records = Vec::new();
    pair.client.write_tls(&mut records).unwrap();
    let (first, second) = records.split_at_mut(7);
    assert_eq!(pair.session.receive(first, &mut pair.plain).unwrap(), 0);
    pair.session.send(b"an answer meanwhile").unwrap();
    pair.deliver().unwrap();
    assert_eq!(pair.at_client, b"an answer meanwhile");
    let read = pair.session.receive(second, &mut pair.plain).unwrap();
    assert_eq!(&pair.plain[..read], b"hello");
}

#[test]
fn keys_may_change() {
    let hub = Hub::new();
    let mut pair = Pair::open(&hub, &TLS13);
    for _ in 0..3 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.writer().write_all(b"with new keys").unwrap();
        pair.run(10).unwrap();
        assert_eq!(pair.at_server, b"with new keys");
        pair.session.send(b"so is the answer").unwrap();
        pair.deliver().unwrap();
        assert_eq!(pair.at_client, b"so is the answer");
        pair.at_server.clear();
        pair.at_client.clear();
    }
}

#[test]
fn each_side_may_end_first() {
    let hub = Hub::new();
    for version in [&TLS12, &TLS13] {
        let mut pair = Pair::open(&hub, version);
        pair.client.writer().write_all(b"the last word").unwrap();
        pair.client.send_close_notify();
        pair.run(4096).unwrap();
        assert_eq!(pair.at_server, b"the last word");
        assert!(pair.session.is_ended());
        // The other direction is still open.
        pair.session.send(b"an answer").unwrap();
        pair.session.send_close_notify().unwrap();
        pair.deliver().unwrap();
        assert_eq!(pair.at_client, b"an answer");

        let mut pair = Pair::open(&hub, version);
        pair.session.send_close_notify().unwrap();
        let records = pair.session.outgoing().to_vec();
        pair.client.read_tls(&mut &*records).unwrap();
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn nothing_is_sent_before_the_handshake_is_complete() {
    let hub = Hub::new();
    let mut pair = Pair::new(&hub, &TLS13);
    assert_eq!(
        pair.session.send(b"early").unwrap_err(),
        rustls::Error::HandshakeNotComplete
    );
    assert!(pair.session.outgoing().is_empty());
    pair.run(4096).unwrap();
    pair.session.send(b"late").unwrap();
    pair.deliver().unwrap();
    assert_eq!(pair.at_client, b"late");
}

/// The peer hears of what it has broken, and nothing of what it has sent is read.
#[test]
fn a_broken_record_ends_the_connection_with_an_alert() {
    let hub = Hub::new();
    for version in [&TLS12, &TLS13] {
        let mut pair = Pair::open(&hub, version);
        pair.client.writer().write_all(b"hello").unwrap();
        let mut records = Vec::new();
        pair.client.write_tls(&mut records).unwrap();
        *records.last_mut().unwrap() ^= 1;
        assert_eq!(
            pair.session.receive(&mut records, &mut pair.plain).unwrap_err(),
            rustls::Error::DecryptError
        );
        assert!(matches!(pair.deliver().unwrap_err(), rustls::Error::AlertReceived(_)));
        assert!(pair.session.receive(&mut [23, 3, 3, 0, 1, 0], &mut pair.plain).is_err());
    }
    // A client that does not speak TLS.
    let mut pair = Pair::new(&hub, &TLS13);
    let mut garbage = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    assert!(pair.session.receive(&mut garbage, &mut pair.plain).is_err());
    assert!(!pair.session.outgoing().is_empty());
}

/// A handshake message may be announced with 16 MB and come byte by byte.
#[test]
fn an_endless_greeting_is_refused() {
    let hub = Hub::new();
    let mut pair = Pair::new(&hub, &TLS13);
    let mut kept = 0;
    for _ in 0..10 {
        let mut record = vec![22, 3, 1, 0x40, 0];
        // One message of 16,777,215 bytes, in records of 16 KiB.
        record.extend(if kept == 0 { vec![1, 255, 255, 255] } else { Vec::new() });
        record.resize(5 + 16 * 1024, 0);
        kept += record.len();
        if pair.session.receive(&mut record, &mut pair.plain).is_err() {
            assert!(kept <= 128 * 1024, "refused after {kept} bytes");
            return;
        }
        if pair.session.capacity(64 * 1024) == 0 {
            return;
        }
    }
    panic!("{kept} bytes are kept");
}
