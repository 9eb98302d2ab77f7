//! The head that a load balancer puts before a connection, to say whose it is (the PROXY protocol, versions 1 and 2).
//!
//! Invariants: exactly the head is read, so that TLS behind it begins untouched; it is bounded in bytes, and its reader in time.
//! Not here: which addresses may send one (`accept`). From any other address it would be a way to forge one's own.

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How a head of version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// How a head of version 1 begins.
const TEXT: &[u8] = b"PROXY ";

/// Longest head of version 1, with its line end.
const MAX_TEXT_BYTES: usize = 107;

/// Version and command, family and transport, length.
const BINARY_REST: usize = 4;

/// Longest head of version 2: addresses and a few additions, such as the name that the client has requested.
const MAX_BINARY_BYTES: usize = 2048;

/// Why a head is not taken.
#[derive(Debug, Error)]
pub enum ProxyHeadError {
    /// The connection begins with something else.
    #[error("the connection does not begin with a head of the PROXY protocol")]
    Missing,
    /// It breaks the protocol, or has a form that no TCP connection has.
    #[error("the head of the PROXY protocol cannot be read")]
    Malformed,
    /// Longer than this reader takes.
    #[error("the head of the PROXY protocol has {0} bytes; at most {MAX_BINARY_BYTES} are read")]
    TooLong(usize),
    /// It did not arrive in time.
    #[error("the head of the PROXY protocol did not arrive within net.handshake_timeout")]
    Late,
    /// The connection ended or broke.
    #[error("the connection ended in the head of the PROXY protocol")]
    Socket(#[from] io::Error),
}

/// Reads the head; `None`: the load balancer speaks for itself, for example to see whether the hub is up, or does not know the client.
///
/// # Errors
/// [`ProxyHeadError`].
pub(crate) async fn read_head(socket: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyHeadError> {
    let mut head = vec![0; SIGNATURE.len()];
    socket.read_exact(&mut head).await?;
    if head == SIGNATURE {
        head.resize(SIGNATURE.len() + BINARY_REST, 0);
        socket.read_exact(&mut head[SIGNATURE.len()..]).await?;
        let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
        let whole = head.len() + length;
        if whole > MAX_BINARY_BYTES {
            return Err(ProxyHeadError::TooLong(whole));
        }
        let begun = head.len();
        head.resize(whole, 0);
        socket.read_exact(&mut head[begun..]).await?;
    } else if head.starts_with(TEXT) {
        while !head.ends_with(b"\r\n") {
            if head.len() >= MAX_TEXT_BYTES {
                return Err(ProxyHeadError::Malformed);
            }
            // One at a time: what follows belongs to TLS.
            head.push(socket.read_u8().await?);
        }
    } else {
        return Err(ProxyHeadError::Missing);
    }
    let parsed = ProxyHeader::parse(&head, ParseConfig::default());
    let (header, used) = parsed.map_err(|_| ProxyHeadError::Malformed)?;
    if used != head.len() {
        return Err(ProxyHeadError::Malformed);
    }
    match header.proxied_address() {
        None => Ok(None),
        Some(client) if client.protocol == Protocol::Stream => Ok(Some(client.source)),
        Some(_) => Err(ProxyHeadError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A head of version 2.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, rest].concat()
    }

    fn v4() -> Vec<u8> {
        vec![192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x22, 0xb3]
    }

    async fn read(head: &[u8]) -> (Result<Option<SocketAddr>, ProxyHeadError>, Vec<u8>) {
        let whole = [head, b"behind it"].concat();
        let mut rest = &whole[..];
        let outcome = read_head(&mut rest).await;
        (outcome, rest.to_vec())
    }

    #[tokio::test]
    async fn the_address_of_the_client_is_read_and_nothing_behind_the_head() {
        let mut v6 = vec![0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&12345_u16.to_be_bytes());
        let with_additions = [v4(), vec![0x02, 0, 3, b'h', b'u', b'b']].concat();
        for (head, expected) in [
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 8883\r\n".to_vec(),
                Some("192.0.2.7:12345"),
            ),
            (
                b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 8883\r\n".to_vec(),
                Some("[2001:db8::7]:12345"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:f::1 ffff:f::2 65535 65535\r\n".to_vec(), None),
            (binary(1, 0x11, &v4()), Some("192.0.2.7:12345")),
            (binary(1, 0x11, &with_additions), Some("192.0.2.7:12345")),
            (binary(1, 0x21, &v6), Some("[2001:db8::7]:12345")),
            // LOCAL: whatever it says, it is the load balancer's own.
            (binary(0, 0x00, &[]), None),
            (binary(0, 0x11, &v4()), None),
            (binary(1, 0x00, &[]), None),
        ] {
            let (outcome, rest) = read(&head).await;
            let expected = expected.map(|address| address.parse::<SocketAddr>().unwrap());
            assert_eq!(outcome.unwrap(), expected, "{}", head.escape_ascii());
            assert_eq!(rest, b"behind it");
        }
    }

    #[tokio::test]
    async fn what_is_no_head_is_refused_and_bounded() {
        let endless = [&b"PROXY TCP4 "[..], &[b'1'; 4096]].concat();
        let long = binary(1, 0x11, &vec![0; 4000]);
        let heads: Vec<(&str, Vec<u8>)> = vec![
            (
                "TLS",
                [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 100]].concat(),
            ),
            ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
            ("lower case", b"proxy TCP4 192.0.2.7 10.0.0.1 12345 8883\r\n".to_vec()),
            ("no address", b"PROXY TCP4\r\n        ".to_vec()),
            ("a name", b"PROXY TCP4 localhost 10.0.0.1 12345 8883\r\n".to_vec()),
            (
                "a port too large",
                b"PROXY TCP4 192.0.2.7 10.0.0.1 123456 8883\r\n".to_vec(),
            ),
            (
                "the other family",
                b"PROXY TCP6 192.0.2.7 10.0.0.1 12345 8883\r\n".to_vec(),
            ),
            ("UDP", b"PROXY UDP4 192.0.2.7 10.0.0.1 12345 8883\r\n".to_vec()),
            ("a line that does not end", endless),
            (
                "a line feed alone",
                [b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 8883\n".to_vec(), vec![b' '; 100]].concat(),
            ),
            ("version 3", [&SIGNATURE[..], &[0x31, 0x11, 0, 12], &v4()].concat()),
            ("an unknown command", binary(2, 0x11, &v4())),
            ("datagrams", binary(1, 0x12, &v4())),
            ("an unknown family", binary(1, 0x51, &v4())),
            ("addresses cut", binary(1, 0x11, &v4()[..8])),
            ("no addresses", binary(1, 0x21, &v4())),
            ("longer than any", long),
        ];
        for (what, head) in heads {
            let (outcome, _) = read(&head).await;
            assert!(outcome.is_err(), "{what}: {outcome:?}");
        }
        // Cut at every byte: the connection has ended.
        let whole = binary(1, 0x11, &v4());
        for cut in 0..whole.len() {
            let outcome = read_head(&mut &whole[..cut]).await;
            assert!(matches!(outcome, Err(ProxyHeadError::Socket(_))), "{cut}");
        }
    }
}
