//! Sending deliveries: straight into the output buffer, cut into frames only when larger than one.

use super::event::{Delivery, LinkId};
use super::link::State;
use super::session::{Sent, Stalled};
use super::{Connection, limits};
use crate::error::SendError;
use crate::frame::{self, TYPE_AMQP};
use crate::performative::{Role, Transfer};
use crate::types::{put_bool, put_uint};

impl Connection {
    /// How many deliveries can be sent on `link` now, the session's window permitting; 0 for links that are gone.
    #[must_use]
    pub fn sendable(&self, link: LinkId) -> u32 {
        let Some(session) = self.session(link.session).filter(|session| session.stalled.is_none()) else {
            return 0;
        };
        match session.link(link) {
            Some(slot) if slot.role == Role::Sender && slot.state == State::Attached => {
                slot.credit.min(session.remote_window)
            }
            _ => 0,
        }
    }

    /// The credit that the receiver of `link` has granted, whatever the session's window; 0 for links that are gone.
    #[must_use]
    pub fn granted(&self, link: LinkId) -> u32 {
        match self.session(link.session).and_then(|session| session.link(link)) {
            Some(slot) if slot.role == Role::Sender && slot.state == State::Attached => slot.credit,
            _ => 0,
        }
    }

    /// Sends one delivery whose sections `write` appends to the buffer that it is given (and only appends).
    ///
    /// Returns the delivery's number within the session. A delivery larger than the peer's frames is cut; what the
    /// peer's window does not take is held (at most one delivery a session) and follows when the window opens.
    ///
    /// # Errors
    /// [`SendError`]: nothing has been sent, and `write` may have run in vain ([`SendError::TooLarge`]).
    pub fn send_with(
        &mut self,
        link: LinkId,
        delivery: &Delivery<'_>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<u32, SendError> {
        let peer_max_frame = self.peer_max_frame as usize;
        let Some(session) = self
            .sessions
            .get_mut(usize::from(link.session.channel))
            .and_then(Option::as_deref_mut)
        else {
            return Err(SendError::Gone);
        };
        let Some(slot) = session
            .links
            .get_mut(link.handle as usize)
            .and_then(Option::as_deref_mut)
        else {
            return Err(SendError::Gone);
        };
        if slot.serial != link.serial || slot.role != Role::Sender || slot.state != State::Attached {
            return Err(SendError::Gone);
        }
        if slot.credit == 0 {
            return Err(SendError::NoCredit);
        }
        if session.remote_window == 0 || session.stalled.is_some() {
            return Err(SendError::WindowClosed);
        }
        if !delivery.settled && slot.unsettled >= limits::MAX_UNSETTLED {
            return Err(SendError::TooManyUnsettled);
        }
        let delivery_id = session.next_delivery_id;
        let buf = &mut self.output.buf;
        let start = frame::begin(buf, TYPE_AMQP, link.session.channel);
        put_first_transfer(buf, link.handle, delivery_id, delivery);
        let payload_start = buf.len();
        write(buf);
        let payload_len = buf.len() - payload_start;
        if slot.peer_max_message_size > 0 && payload_len as u64 > slot.peer_max_message_size {
            buf.truncate(start);
            return Err(SendError::TooLarge);
        }
        slot.credit -= 1;
        slot.delivery_count = slot.delivery_count.wrapping_add(1);
        session.next_delivery_id = delivery_id.wrapping_add(1);
        if !delivery.settled {
            slot.unsettled += 1;
            let sent = Sent {
                handle: link.handle,
                serial: link.serial,
                tag: delivery.tag.into(),
            };
            session.outgoing.insert(delivery_id, sent);
        }
        session.next_outgoing_id = session.next_outgoing_id.wrapping_add(1);
        session.remote_window -= 1;
        if buf.len() - start <= peer_max_frame {
            frame::finish(buf, start);
            return Ok(delivery_id);
        }
        let room = peer_max_frame - (payload_start - start);
        let payload = buf.split_off(payload_start);
        set_more(buf, payload_start);
        buf.extend_from_slice(&payload[..room]);
        frame::finish(buf, start);
        session.stalled = Some(Box::new(Stalled {
            handle: link.handle,
            settled: delivery.settled,
            payload,
            sent: room,
        }));
        self.continue_stalled(link.session.channel);
        Ok(delivery_id)
    }

    /// Sends further frames of the delivery that was cut off, as far as the window goes.
    pub(super) fn continue_stalled(&mut self, channel: u16) {
        let peer_max_frame = self.peer_max_frame as usize;
        let Some(session) = self.sessions[usize::from(channel)].as_deref_mut() else {
            return;
        };
        let Some(mut stalled) = session.stalled.take() else {
            return;
        };
        let buf = &mut self.output.buf;
        while session.remote_window > 0 {
            let start = frame::begin(buf, TYPE_AMQP, channel);
            let transfer = Transfer {
                handle: stalled.handle,
                delivery_id: None,
                delivery_tag: None,
                message_format: None,
                settled: Some(stalled.settled),
                more: false,
                rcv_settle_mode: None,
                state: None,
                aborted: false,
            };
            transfer.encode(buf);
            let payload_start = buf.len();
            let rest = &stalled.payload[stalled.sent..];
            let taken = rest.len().min(peer_max_frame - (payload_start - start));
            if taken < rest.len() {
                set_more(buf, payload_start);
            }
            buf.extend_from_slice(&rest[..taken]);
            frame::finish(buf, start);
            stalled.sent += taken;
            session.next_outgoing_id = session.next_outgoing_id.wrapping_add(1);
            session.remote_window -= 1;
            if stalled.sent == stalled.payload.len() {
                return;
            }
        }
        session.stalled = Some(stalled);
    }
}

/// The transfer performative of a whole delivery; the same bytes as [`Transfer::encode`], without its indirections.
fn put_first_transfer(buf: &mut Vec<u8>, handle: u32, delivery_id: u32, delivery: &Delivery<'_>) {
    debug_assert!(delivery.tag.len() <= limits::MAX_DELIVERY_TAG);
    let tag = &delivery.tag[..delivery.tag.len().min(limits::MAX_DELIVERY_TAG)];
    buf.extend_from_slice(&[0x00, 0x53, 0x14, 0xc0, 0, 11]);
    let fields = buf.len();
    put_uint(buf, handle);
    put_uint(buf, delivery_id);
    crate::types::put_binary(buf, tag);
    put_uint(buf, delivery.message_format);
    put_bool(buf, delivery.settled);
    // more, rcv-settle-mode, state, resume, aborted, batchable
    buf.extend_from_slice(&[0x42, 0x40, 0x40, 0x42, 0x42, 0x42]);
    #[expect(clippy::cast_possible_truncation, reason = "at most 5 + 5 + 34 + 5 + 7 bytes")]
    let size = (buf.len() - fields + 1) as u8;
    buf[fields - 2] = size;
}

/// Sets `more` in the transfer that ends at `end`: the sixth field from its end, all of one byte.
fn set_more(buf: &mut [u8], end: usize) {
    buf[end - 6] = 0x41;
}
