//! One exchange over a WebSocket: the upgrade, one message out, one message in (RFC 6455).
//!
//! Not here: fragments and pings, which no server sends between the upgrade and the answer to CONNECT.

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest answer to the upgrade, headers included.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The longest message that is read.
const MAX_MESSAGE_BYTES: usize = 125;

/// A WebSocket whose upgrade was accepted.
pub(super) struct WebSocket<S> {
    stream: S,
    input: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Asks for `path` with a subprotocol.
    ///
    /// # Errors
    /// The status line of an answer other than 101.
    pub(super) async fn open(mut stream: S, host: &str, path: &str, subprotocol: &str) -> Result<Self> {
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut input = Vec::new();
        let end = loop {
            if let Some(at) = input.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(input.len() <= MAX_HEAD_BYTES, "the answer to the upgrade has no end");
            if stream.read_buf(&mut input).await? == 0 {
                bail!("the server closed the connection instead of answering the upgrade");
            }
        };
        let head = String::from_utf8_lossy(&input[..end]).into_owned();
        let status = head.lines().next().unwrap_or_default();
        ensure!(
            status.split(' ').nth(1) == Some("101"),
            "the upgrade was answered with \"{status}\""
        );
        input.drain(..end);
        Ok(Self { stream, input })
    }

    /// Sends one binary message.
    pub(super) async fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.stream.write_all(&masked_frame(payload, rand::random())).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next message.
    ///
    /// # Errors
    /// When the server closes first, or sends something else than one short binary message.
    pub(super) async fn receive(&mut self) -> Result<Vec<u8>> {
        loop {
            if let [first, length, rest @ ..] = &self.input[..] {
                let length = usize::from(*length);
                ensure!(
                    length <= MAX_MESSAGE_BYTES,
                    "a message longer than an answer to CONNECT"
                );
                match first & 0x0f {
                    8 => bail!("the server closed the WebSocket"),
                    2 => {}
                    other => bail!("a frame with opcode {other}"),
                }
                if let Some(payload) = rest.get(..length) {
                    let payload = payload.to_vec();
                    self.input.drain(..2 + length);
                    return Ok(payload);
                }
            }
            if self.stream.read_buf(&mut self.input).await.context("reading")? == 0 {
                bail!("the server closed the connection");
            }
        }
    }
}

/// A final binary frame; clients mask (RFC 6455 §5.3).
fn masked_frame(payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0x82];
    match u16::try_from(payload.len()) {
        Ok(short @ 0..=125) => frame.push(0x80 | short as u8),
        Ok(medium) => {
            frame.push(0x80 | 126);
            frame.extend(medium.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_carry_their_payload() {
        assert_eq!(
            masked_frame(b"Hello", [0x37, 0xfa, 0x21, 0x3d]),
            [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]
        );
        assert_eq!(masked_frame(&[0; 200], [0; 4])[..4], [0x82, 0xfe, 0, 200]);
        assert_eq!(masked_frame(&[0; 70_000], [0; 4])[..4], [0x82, 0xff, 0, 0]);
    }

    #[tokio::test]
    async fn an_answer_that_is_no_upgrade_is_shown() {
        let (client, mut server) = tokio::io::duplex(4096);
        let answer = async move {
            let mut request = [0; 1024];
            let read = server.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /x HTTP/1.1"));
            server.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
        };
        let (opened, ()) = tokio::join!(WebSocket::open(client, "hub", "/x", "mqtt"), answer);
        let error = opened.err().unwrap().to_string();
        assert_eq!(error, "the upgrade was answered with \"HTTP/1.1 403 Forbidden\"");
    }
}
