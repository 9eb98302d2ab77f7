//! One AMQP connection of a load: bytes, frames, and the numbers by which each side names channels and links.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::frame::{EMPTY_FRAME, MAX_FRAME, PROTOCOL_HEADER, Reply, first_frame, put_close, put_open};
use crate::connect::Stream;

/// How long a server may take for an answer while a device connects.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Between signs of life; well below every server's idle time-out.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
/// How much more is read at once.
const READ_BYTES: usize = 16 * 1024;
/// Free bytes that an idle connection keeps.
const IDLE_BYTES: usize = 512;

/// An open connection.
pub(crate) struct Connection {
    stream: Stream,
    input: Vec<u8>,
    /// Bytes to be written.
    pub(crate) out: Vec<u8>,
    /// Channels that the server names otherwise: its number, and the device's.
    channels: Vec<(u16, u16)>,
    /// Links that the server names otherwise: the channel, its number, and the device's.
    handles: Vec<(u16, u64, u64)>,
    next_sign: Instant,
}

impl Connection {
    /// Opens a connection over `stream` to the hub `host`, without SASL.
    pub(crate) async fn open(stream: Stream, container: &str, host: &str) -> Result<Self> {
        let mut connection = Self {
            stream,
            input: Vec::new(),
            out: PROTOCOL_HEADER.to_vec(),
            channels: Vec::new(),
            handles: Vec::new(),
            next_sign: Instant::now() + SIGN_OF_LIFE,
        };
        put_open(&mut connection.out, container, host);
        connection.flush().await?;
        let mut header = [0; PROTOCOL_HEADER.len()];
        tokio::time::timeout(ANSWER_TIMEOUT, connection.stream.read_exact(&mut header))
            .await
            .context("no protocol header in time")?
            .context("the server closed the connection instead of its protocol header")?;
        ensure!(
            header == PROTOCOL_HEADER,
            "the server answers with the header {header:02x?}"
        );
        connection
            .answer(|_, reply| Ok(matches!(reply, Reply::Open { .. }).then_some(())))
            .await
            .context("opening the connection")?;
        Ok(connection)
    }

    /// The server's address, for messages.
    pub(crate) fn server(&self) -> String {
        self.stream.server()
    }

    /// Writes all of [`Self::out`].
    pub(crate) async fn flush(&mut self) -> Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await.context("writing")?;
            self.stream.flush().await.context("writing")?;
            self.out.clear();
            self.next_sign = Instant::now() + SIGN_OF_LIFE;
        }
        Ok(())
    }

    /// Writes, then waits for a reply that `found` takes.
    pub(crate) async fn answer<T>(&mut self, mut found: impl FnMut(u16, &Reply<'_>) -> Result<Option<T>>) -> Result<T> {
        let wait = async {
            loop {
                self.flush().await?;
                let mut answer = None;
                self.frames(|channel, reply, _| {
                    if let Reply::Detach { reason, .. } | Reply::End { reason } | Reply::Close { reason } = reply {
                        bail!("the server refuses: {reason}");
                    }
                    answer = found(channel, reply)?;
                    Ok(answer.is_none())
                })?;
                if let Some(answer) = answer {
                    return Ok(answer);
                }
                self.read().await?;
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, wait)
            .await
            .context("no answer in time")?
    }

    /// Waits for bytes, or until a sign of life is due and part of [`Self::out`]. May be dropped before it is done.
    pub(crate) async fn read(&mut self) -> Result<()> {
        self.input
            .reserve(if self.input.is_empty() { IDLE_BYTES } else { READ_BYTES });
        tokio::select! {
            biased;
            read = self.stream.read_buf(&mut self.input) => {
                ensure!(read.context("reading")? > 0, "the server closed the connection");
            }
            () = tokio::time::sleep_until(self.next_sign) => {
                self.out.extend_from_slice(&EMPTY_FRAME);
                self.next_sign = Instant::now() + SIGN_OF_LIFE;
            }
        }
        Ok(())
    }

    /// Hands the whole frames that were read to `visit`, with the device's own numbers of channels and links, until it returns false.
    pub(crate) fn frames(
        &mut self,
        mut visit: impl FnMut(u16, &Reply<'_>, &mut Vec<u8>) -> Result<bool>,
    ) -> Result<()> {
        let mut used = 0;
        loop {
            let Some((channel, mut reply, length)) = first_frame(&self.input[used..])? else {
                break;
            };
            used += length;
            let channel = match &reply {
                Reply::Begin { remote_channel, .. } => {
                    let ours = u16::try_from(*remote_channel)?;
                    if ours != channel {
                        self.channels.push((channel, ours));
                    }
                    ours
                }
                _ => self
                    .channels
                    .iter()
                    .find(|(theirs, _)| *theirs == channel)
                    .map_or(channel, |(_, ours)| *ours),
            };
            match &mut reply {
                Reply::Attach { name, handle, .. } => {
                    let ours = link_of(name)?;
                    if ours != *handle {
                        self.handles.push((channel, *handle, ours));
                    }
                    *handle = ours;
                }
                Reply::Flow {
                    link: Some((handle, ..)),
                    ..
                }
                | Reply::Transfer { handle, .. }
                | Reply::Detach { handle, .. } => {
                    let known = self
                        .handles
                        .iter()
                        .find(|(on, theirs, _)| (*on, *theirs) == (channel, *handle));
                    *handle = known.map_or(*handle, |(_, _, ours)| *ours);
                }
                _ => {}
            }
            if matches!(reply, Reply::Empty) {
                continue;
            }
            if !visit(channel, &reply, &mut self.out)? {
                break;
            }
        }
        self.input.drain(..used);
        if self.input.is_empty() && self.input.capacity() > READ_BYTES + MAX_FRAME as usize {
            self.input = Vec::new();
        }
        Ok(())
    }

    /// Keeps the connection while nothing is expected of it.
    ///
    /// # Errors
    /// When it is lost, always: it has no other end.
    pub(crate) async fn hold(&mut self) -> Result<std::convert::Infallible> {
        loop {
            self.frames(|_, reply, _| match reply {
                Reply::Detach { reason, .. } | Reply::End { reason } | Reply::Close { reason } => {
                    bail!("the server ended it: {reason}")
                }
                _ => Ok(true),
            })?;
            self.read().await?;
            self.flush().await?;
        }
    }

    /// Ends the connection in order, as far as the server still reads.
    pub(crate) async fn close(&mut self) {
        put_close(&mut self.out);
        // Best effort: the connection ends either way.
        let _ = self.flush().await;
    }
}

/// The name of the link `handle`.
pub(crate) fn link_name(handle: u32) -> String {
    format!("link-{handle}")
}

fn link_of(name: &[u8]) -> Result<u64> {
    let number = name
        .strip_prefix(b"link-")
        .and_then(|number| std::str::from_utf8(number).ok());
    number
        .and_then(|number| number.parse().ok())
        .context("the server attached a link of another name")
}
