//! One device with a connection of its own, driven message by message: what the chaos harness loads with.

use anyhow::{Result, bail};

use super::device::SessionCredit;
use super::frame::{Outcome, Reply, Role, put_transfer};
use super::value::{put_binary, put_descriptor};
use super::{Connection, Devices};
use crate::connect::{self, ConnectAttempt};
use crate::target::{Credentials, Target};

/// A message's data section.
const DATA: u8 = 0x75;

/// A connected device.
pub struct AmqpDevice {
    connection: Connection,
    /// Deliveries that the hub takes since the link was attached.
    limit: u64,
    /// Deliveries so far.
    sent: u32,
}

impl AmqpDevice {
    /// Connects device `number`, puts its token, and attaches its link for telemetry.
    ///
    /// # Errors
    /// When the hub cannot be reached or refuses; the text then has the condition.
    pub async fn open(target: &Target, number: u32) -> Result<Self> {
        let Credentials::Hub(hub) = &target.credentials else {
            bail!("devices over AMQP need a hub");
        };
        let stream = connect::open_stream(target, number, ConnectAttempt::Initial).await?;
        let credential = hub.credential(target.names.name(number));
        let mut connection = Connection::open(stream, &credential.device, hub.host()).await?;
        let address = format!("/devices/{}/messages/events", credential.device);
        Devices::authenticate(&mut connection, &[credential]).await?;
        let SessionCredit { window, links } = Devices::attach(&mut connection, 0, &[(Role::Sender, &address)]).await?;
        Ok(Self {
            connection,
            limit: window.min(links.first().copied().unwrap_or_default()),
            sent: 0,
        })
    }

    /// How many messages the hub takes now.
    #[must_use]
    pub fn room(&self) -> usize {
        usize::try_from(self.limit.saturating_sub(u64::from(self.sent))).unwrap_or(usize::MAX)
    }

    /// Appends a message, which [`Self::flush`] writes; its number on this connection, from 0.
    ///
    /// # Errors
    /// Never so far; the number of a device's session leaves room for several.
    pub fn put(&mut self, payload: &[u8]) -> Result<u32> {
        let number = self.sent;
        let mut message = Vec::new();
        put_descriptor(&mut message, DATA);
        put_binary(&mut message, payload);
        let channel = Devices::channel(0)?;
        put_transfer(&mut self.connection.out, channel, 0, number, false, &message);
        self.sent += 1;
        Ok(number)
    }

    /// Writes what was put.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn flush(&mut self) -> Result<()> {
        self.connection.flush().await
    }

    /// Waits for bytes, or until a sign of life is to be flushed. May be dropped before it is done.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn read(&mut self) -> Result<()> {
        self.connection.read().await
    }

    /// Hands the numbers of messages that were accepted to `visit`.
    ///
    /// # Errors
    /// Those of `visit`; when the hub refuses a message or ends the link; when it accepts what was not sent.
    pub fn accepted(&mut self, mut visit: impl FnMut(u32) -> Result<()>) -> Result<()> {
        let Self {
            connection,
            limit,
            sent,
        } = self;
        connection.frames(|_, reply, _| {
            match reply {
                Reply::Disposition { first, last, outcome } => match outcome {
                    Outcome::Accepted if first <= last && *last < u64::from(*sent) => {
                        for number in *first..=*last {
                            visit(u32::try_from(number)?)?;
                        }
                    }
                    Outcome::Accepted => bail!("{first} to {last} of {sent} messages are accepted"),
                    Outcome::Not(reason) => bail!("a message is not accepted: {reason}"),
                },
                Reply::Flow {
                    next_incoming,
                    incoming_window,
                    link: Some((_, delivered, credit)),
                } => *limit = (next_incoming + incoming_window).min(delivered + credit),
                Reply::Detach { reason, .. } | Reply::End { reason } | Reply::Close { reason } => {
                    bail!("the hub ended it: {reason}")
                }
                _ => {}
            }
            Ok(true)
        })
    }

    /// Ends the connection in order, as far as the hub still reads.
    pub async fn close(mut self) {
        self.connection.close().await;
    }
}
