//! The greeting of a browser, byte by byte: no client library of tests sends GREASE.

use std::time::Duration;

use super::*;
use crate::accept_tls;

const CERTIFICATE_REQUEST: u8 = 13;
const SERVER_HELLO_DONE: u8 = 14;

/// A TLS 1.2 greeting for ECDHE with ECDSA and AES-GCM, and one more cipher suite.
fn greeting(suite: u16) -> Vec<u8> {
    let mut extensions = Vec::new();
    // Groups: P-256. Points: uncompressed. Signatures: ECDSA with P-256 and SHA-256.
    for (kind, body) in [(10u16, &[0, 2, 0, 23][..]), (11, &[1, 0]), (13, &[0, 2, 4, 3])] {
        extensions.extend(kind.to_be_bytes());
        extensions.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        extensions.extend(body);
    }
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4]);
    hello.extend(suite.to_be_bytes());
    hello.extend([0xc0, 0x2b, 1, 0]);
    hello.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    hello.extend(extensions);
    let length = u16::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1];
    record.extend((length + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend(length.to_be_bytes());
    record.extend(hello);
    record
}

/// The types of the handshake messages in the server's first flight.
async fn first_flight(suite: u16) -> Vec<u8> {
    let hub = Hub::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    client.write_all(&greeting(suite)).await.unwrap();
    let answer = async {
        let (mut messages, mut types) = (Vec::new(), Vec::new());
        while types.last() != Some(&SERVER_HELLO_DONE) {
            let mut head = [0; 5];
            client.read_exact(&mut head).await.unwrap();
            assert_eq!(head[0], 22, "a handshake record");
            let mut record = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            client.read_exact(&mut record).await.unwrap();
            messages.extend(record);
            while let [kind, a, b, c, ..] = messages[..] {
                let end = 4 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
                if messages.len() < end {
                    break;
                }
                types.push(kind);
                messages.drain(..end);
            }
        }
        types
    };
    tokio::select! {
        types = answer => types,
        _ = accept_tls(socket, &hub.server, Duration::from_secs(60)) => panic!("the server has ended the handshake"),
    }
}

#[tokio::test]
async fn a_browser_is_not_asked_for_a_certificate() {
    assert!(!first_flight(0x3a3a).await.contains(&CERTIFICATE_REQUEST));
}

#[tokio::test]
async fn every_other_client_is_asked_for_a_certificate() {
    // No suite that exists, and none of GREASE: its bytes differ.
    for suite in [0xc02f, 0x0a1a] {
        assert!(first_flight(suite).await.contains(&CERTIFICATE_REQUEST), "{suite:#06x}");
    }
}
