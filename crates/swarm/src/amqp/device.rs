//! The devices of one connection: tokens by `$cbs`, a session for each, and its links (Spec amqp §5, §6).

use anyhow::{Context as _, Result, ensure};

use super::Connection;
use super::connection::link_name;
use super::frame::{Reply, Role, put_attach, put_begin, put_credit, put_transfer};
use super::section::property;
use super::value::{Value, put_descriptor, put_list, put_map, put_null, put_string};

/// The channel on which tokens are put.
const CBS_CHANNEL: u16 = 0;
const CBS_SENDER: u32 = 0;
const CBS_RECEIVER: u32 = 1;
const APPLICATION_PROPERTIES: u64 = 0x74;

/// What opens a device.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    /// The device's id.
    pub(crate) device: String,
    /// The resource of its token, `HOST/devices/DEVICE`.
    pub(crate) resource: String,
    /// The token.
    pub(crate) token: String,
}

/// A connection with its devices; the device with index *i* has the session on channel *i* + 1.
pub(crate) struct Devices;

impl Devices {
    /// The channel of the device with this index.
    pub(crate) fn channel(index: usize) -> Result<u16> {
        Ok(u16::try_from(index + 1)?)
    }

    /// The index of the device with this channel.
    pub(crate) fn index(channel: u16) -> Option<usize> {
        usize::from(channel).checked_sub(1)
    }

    /// Puts the token of each, one after the other.
    pub(crate) async fn authenticate(connection: &mut Connection, credentials: &[Credential]) -> Result<()> {
        put_begin(&mut connection.out, CBS_CHANNEL);
        let node = |out: &mut Vec<u8>, handle, role| {
            put_attach(out, CBS_CHANNEL, handle, &link_name(handle), role, "$cbs");
        };
        node(&mut connection.out, CBS_SENDER, Role::Sender);
        node(&mut connection.out, CBS_RECEIVER, Role::Receiver);
        attached(connection, 2).await.context("$cbs")?;
        // The server's credit for requests is at least one from here on, and each has its answer before the next.
        let answers = u32::try_from(credentials.len())?;
        put_credit(&mut connection.out, CBS_CHANNEL, CBS_RECEIVER, 0, answers + 1);
        for (number, credential) in credentials.iter().enumerate() {
            let number = u32::try_from(number)?;
            let message = put_token(credential, number);
            put_transfer(&mut connection.out, CBS_CHANNEL, CBS_SENDER, number, true, &message);
            let status = connection
                .answer(|_, reply| match reply {
                    Reply::Transfer { message, .. } => status_of(message).map(Some),
                    _ => Ok(None),
                })
                .await?;
            ensure!(
                status == 200,
                "the token of {} is refused with {status}",
                credential.device
            );
        }
        Ok(())
    }

    /// Begins the session of the device with this index and attaches its links; each has its place in `links` as handle.
    /// Gives the credit of each link and the session's window.
    pub(crate) async fn attach(
        connection: &mut Connection,
        index: usize,
        links: &[(Role, &str)],
    ) -> Result<SessionCredit> {
        let channel = Self::channel(index)?;
        put_begin(&mut connection.out, channel);
        for (handle, (role, address)) in (0..).zip(links) {
            put_attach(&mut connection.out, channel, handle, &link_name(handle), *role, address);
        }
        let senders = links.iter().filter(|(role, _)| *role == Role::Sender).count();
        let mut credit = SessionCredit {
            window: 0,
            links: vec![0; links.len()],
        };
        let (mut attached, mut granted) = (0, 0);
        connection
            .answer(|on, reply| {
                if on != channel {
                    return Ok(None);
                }
                match reply {
                    Reply::Begin { incoming_window, .. } => credit.window = *incoming_window,
                    Reply::Attach { is_refused: false, .. } => attached += 1,
                    Reply::Flow {
                        link: Some((handle, _, granted_now)),
                        ..
                    } => {
                        let link = credit
                            .links
                            .get_mut(usize::try_from(*handle)?)
                            .context("credit of no link")?;
                        if *link == 0 && *granted_now > 0 {
                            granted += 1;
                        }
                        *link = *granted_now;
                    }
                    _ => {}
                }
                Ok((attached == links.len() && granted >= senders).then_some(()))
            })
            .await?;
        Ok(credit)
    }
}

/// What the server lets a new session send.
#[derive(Debug, Clone)]
pub(crate) struct SessionCredit {
    /// Frames of the session.
    pub(crate) window: u64,
    /// Deliveries of each link; 0 of those that receive.
    pub(crate) links: Vec<u64>,
}

/// Waits until `count` links are attached.
async fn attached(connection: &mut Connection, count: usize) -> Result<()> {
    let mut attached = 0;
    connection
        .answer(|_, reply| {
            attached += usize::from(matches!(reply, Reply::Attach { is_refused: false, .. }));
            Ok((attached == count).then_some(()))
        })
        .await
}

fn put_token(credential: &Credential, number: u32) -> Vec<u8> {
    let mut out = Vec::new();
    put_descriptor(&mut out, 0x73);
    put_list(&mut out, 5, |out| {
        put_string(out, &number.to_string());
        put_null(out);
        put_string(out, "$cbs");
        put_null(out);
        put_string(out, "cbs");
    });
    put_descriptor(&mut out, 0x74);
    put_map(&mut out, 6, |out| {
        let pairs = [
            ("operation", "put-token"),
            ("type", "servicebus.windows.net:sastoken"),
            ("name", &credential.resource),
        ];
        for (key, value) in pairs {
            put_string(out, key);
            put_string(out, value);
        }
    });
    put_descriptor(&mut out, 0x77);
    put_string(&mut out, &credential.token);
    out
}

fn status_of(message: &[u8]) -> Result<i64> {
    match property(message, APPLICATION_PROPERTIES, "status-code")? {
        Some(Value::Signed(status)) => Ok(status),
        other => anyhow::bail!("an answer with the status {other:?}"),
    }
}
