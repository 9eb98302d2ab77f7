//! Devices that keep their connection and their links, and send nothing.

use std::ops::Range;
use std::rc::Rc;

use super::frame::Role;
use super::{Connection, Devices};
use crate::fleet::Worker;

/// Runs the devices `numbers`, which share a connection.
pub(crate) async fn run(worker: Rc<Worker>, numbers: Range<u32>, survive_disconnect: bool) {
    let (first, count) = (numbers.start, numbers.end - numbers.start);
    let open = async |attempt| {
        let (mut connection, credentials) = worker.open_amqp(first, count, attempt).await?;
        for (index, credential) in credentials.iter().enumerate() {
            let address = format!("/devices/{}/messages/events", credential.device);
            Devices::attach(&mut connection, index, &[(Role::Sender, &address)]).await?;
        }
        let server = connection.server();
        Ok((connection, server))
    };
    let drive = async |mut connection: Connection| match connection.hold().await? {};
    worker.sustain(count, survive_disconnect, open, drive).await;
}
