//! A TLS connection that stops in the middle of its handshake: the server has answered, and waits for the client.

use std::io::{self, Read, Write};

use anyhow::{Context as _, Result, bail};
use rustls::ClientConnection;
use tokio::net::TcpStream;

use super::Device;
use crate::connect::{ConnectionOptions, Door, check_connack, dial_any};

/// See the module.
pub(super) struct HalfOpen {
    tcp: TcpStream,
    tls: ClientConnection,
}

impl HalfOpen {
    /// Connects, sends the first message of the handshake and reads the server's answer to it, but does not answer.
    ///
    /// # Errors
    /// When the connection breaks, or `device` speaks no TLS.
    pub(super) async fn open(door: Door<'_>, device: &Device) -> Result<Self> {
        let tls = device.tls.as_ref().context("a half-open handshake needs TLS")?;
        let tcp = dial_any(door.addresses, door.source).await?;
        let config = std::sync::Arc::clone(tls.connector.config());
        let mut half = Self {
            tcp,
            tls: ClientConnection::new(config, tls.server.clone())?,
        };
        half.flush().await?;
        // Once the server's part is complete, the client has something to say.
        while !half.tls.wants_write() {
            half.read().await?;
        }
        Ok(half)
    }

    /// Completes the handshake and waits until the server has accepted the device.
    ///
    /// # Errors
    /// When the connection breaks, or the server refuses.
    pub(super) async fn finish(&mut self, device: &Device, options: ConnectionOptions) -> Result<()> {
        self.flush().await?;
        // TLS 1.2: the server speaks last.
        while self.tls.is_handshaking() {
            self.read().await?;
            self.flush().await?;
        }
        let mut packet = Vec::new();
        device.login.connect(options).encode(&mut packet)?;
        self.tls.writer().write_all(&packet)?;
        self.flush().await?;
        let (mut answer, mut length) = ([0; 4], 0);
        while length < answer.len() {
            match self.tls.reader().read(&mut answer[length..]) {
                Ok(0) => bail!("the server closed the connection instead of answering CONNECT"),
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.read().await?,
                Err(error) => return Err(error.into()),
            }
        }
        check_connack(answer)
    }

    async fn flush(&mut self) -> Result<()> {
        while self.tls.wants_write() {
            self.tcp.writable().await?;
            match self.tls.write_tls(&mut Socket(&self.tcp)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("TLS handshake"),
            }
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        self.tcp.readable().await?;
        match self.tls.read_tls(&mut Socket(&self.tcp)) {
            Ok(0) => bail!("the server closed the connection in its TLS handshake"),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("TLS handshake"),
        }
        self.tls.process_new_packets().context("TLS handshake")?;
        Ok(())
    }
}

/// Reads and writes without waiting.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.try_write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
