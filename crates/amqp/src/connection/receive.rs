//! Taking frames from the input and finding out what they mean.

use std::borrow::Cow;
use std::time::Instant;

use super::event::{Event, Incoming, LinkId, SessionId};
use super::handshake::{Phase, Step};
use super::link::{Partial, State};
use super::{Connection, limits};
use crate::error::Violation;
use crate::frame::{self, Frame, TYPE_SASL};
use crate::performative::{self, Fault, Flow, Performative, Role, Transfer, encode_close};

impl Connection {
    /// Takes frames off `input` until one of them is an event; `None` when the rest is no whole frame (keep it and come
    /// again with more), or nothing more is wanted ([`Connection::is_blocked`], [`Connection::is_closed`]).
    ///
    /// The event borrows from the input, not from the connection: answer it before the next call.
    ///
    /// # Errors
    /// A [`Violation`] ends the connection; its `close` is in the output.
    pub fn receive<'a>(&mut self, input: &mut &'a [u8], now: Instant) -> Result<Option<Event<'a>>, Violation> {
        if let Some(session) = self.window_opened.take() {
            return Ok(Some(Event::WindowOpened(session)));
        }
        if !input.is_empty() {
            self.last_received = now;
        }
        loop {
            let step = match self.phase {
                Phase::Open => self.open_step(input, now),
                Phase::Closing => self.closing_step(input),
                Phase::ServerVerdict | Phase::ServerOpen => return Ok(None),
                Phase::Closed => {
                    *input = &[];
                    return Ok(None);
                }
                _ => self.handshake(input),
            };
            match step {
                Ok(Step::Again) => {}
                Ok(Step::NeedMore) => return Ok(None),
                Ok(Step::Event(event)) => return Ok(Some(event)),
                Err(violation) => {
                    self.fail(&violation);
                    return Err(violation);
                }
            }
        }
    }

    fn open_step<'a>(&mut self, input: &mut &'a [u8], now: Instant) -> Result<Step<'a>, Violation> {
        let Some((frame, size)) = frame::decode(input, self.config.max_frame_size)? else {
            return Ok(Step::NeedMore);
        };
        *input = &input[size..];
        Ok(self.on_frame(frame, now)?.map_or(Step::Again, Step::Event))
    }

    /// After our close only the peer's matters.
    fn closing_step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, Violation> {
        let Some((frame, size)) = frame::decode(input, self.config.max_frame_size)? else {
            return Ok(Step::NeedMore);
        };
        *input = &input[size..];
        match performative::decode(frame.body) {
            Ok((Performative::Close(error), _)) => {
                self.phase = Phase::Closed;
                Ok(Step::Event(Event::Closed(error)))
            }
            _ => Ok(Step::Again),
        }
    }

    fn on_frame<'a>(&mut self, frame: Frame<'a>, now: Instant) -> Result<Option<Event<'a>>, Violation> {
        if frame.kind == TYPE_SASL {
            return Err(Violation::UnexpectedFrame("sasl"));
        }
        if frame.body.is_empty() {
            return Ok(None);
        }
        let (performative, payload) = performative::decode(frame.body)?;
        match performative {
            Performative::Open(_) => return Err(Violation::UnexpectedFrame("open")),
            Performative::Close(error) => return Ok(Some(self.on_close(error))),
            Performative::Begin(begin) => return self.on_begin(frame.channel, &begin),
            _ => {}
        }
        let Some(&channel) = self.remote_channels.get(&frame.channel) else {
            // Frames after an end are late, frames without a begin are wrong (Spec amqp §2).
            if self
                .highest_remote_channel
                .is_some_and(|highest| frame.channel <= highest)
            {
                return Ok(None);
            }
            return Err(Violation::UnknownChannel(frame.channel));
        };
        let ending = self.sessions[usize::from(channel)]
            .as_ref()
            .is_none_or(|session| session.ending);
        Ok(match performative {
            Performative::End(error) => self.on_end(channel, error),
            _ if ending => None,
            Performative::Attach(attach) => self.on_attach(channel, attach),
            Performative::Flow(flow) => self.on_flow(channel, &flow),
            Performative::Transfer(transfer) => return self.on_transfer(channel, &transfer, payload, now),
            Performative::Disposition(disposition) => self.on_disposition(channel, disposition),
            Performative::Detach(detach) => match self.find_link(channel, detach.handle) {
                Found::Link(link) => self.on_detach(link, &detach),
                Found::Late => None,
                Found::Never => Some(self.unattached(channel)),
            },
            Performative::Open(_) | Performative::Close(_) | Performative::Begin(_) => None,
        })
    }

    fn on_close<'a>(&mut self, error: Option<Fault<'a>>) -> Event<'a> {
        self.output.frame(0, |buf| encode_close(buf, None));
        self.phase = Phase::Closed;
        self.drop_sessions();
        Event::Closed(error)
    }

    fn unattached(&mut self, channel: u16) -> Event<'static> {
        self.end_with(
            channel,
            "amqp:session:unattached-handle",
            "a frame names a handle that was never attached",
        )
    }

    fn find_link(&self, channel: u16, remote: u32) -> Found {
        let Some(session) = self.sessions[usize::from(channel)].as_deref() else {
            return Found::Late;
        };
        let Some(&handle) = session.remote_handles.get(&remote) else {
            let was_attached = session.highest_remote_handle.is_some_and(|highest| remote <= highest);
            return if was_attached { Found::Late } else { Found::Never };
        };
        match session.links.get(handle as usize).and_then(Option::as_deref) {
            Some(link) => Found::Link(LinkId {
                session: SessionId {
                    channel,
                    serial: session.serial,
                },
                handle,
                serial: link.serial,
            }),
            None => Found::Late,
        }
    }

    fn on_flow(&mut self, channel: u16, flow: &Flow) -> Option<Event<'static>> {
        let session = self.sessions[usize::from(channel)].as_deref_mut()?;
        let id = SessionId {
            channel,
            serial: session.serial,
        };
        let opened = session.update_window(flow);
        if opened {
            self.continue_stalled(channel);
        }
        let opened = opened && self.session(id).is_some_and(|session| session.remote_window > 0);
        let Some(remote) = flow.handle else {
            if flow.echo {
                self.put_session_flow(channel);
            }
            return opened.then_some(Event::WindowOpened(id));
        };
        if opened {
            self.window_opened = Some(id);
        }
        let link = match self.find_link(channel, remote) {
            Found::Link(link) => link,
            Found::Late => return None,
            Found::Never => return Some(self.unattached(channel)),
        };
        let slot = self
            .link_mut(link)
            .filter(|slot| !matches!(slot.state, State::Detaching(_)))?;
        let event = match slot.role {
            Role::Sender => {
                let granted = flow
                    .delivery_count
                    .unwrap_or(0)
                    .wrapping_add(flow.link_credit.unwrap_or(0));
                let credit = granted.wrapping_sub(slot.delivery_count);
                // A count behind ours is a flow that crossed our transfers with less credit than they used.
                slot.credit = if credit > i32::MAX as u32 { 0 } else { credit };
                slot.drain = flow.drain;
                Some(Event::Credit {
                    link,
                    credit: slot.credit,
                    drain: slot.drain,
                })
            }
            Role::Receiver => {
                if let Some(count) = flow.delivery_count {
                    let used = count.wrapping_sub(slot.delivery_count);
                    if used <= slot.credit {
                        slot.credit -= used;
                        slot.delivery_count = count;
                    }
                }
                let is_drained = slot.drain && slot.credit == 0;
                slot.drain &= !is_drained;
                is_drained.then_some(Event::Drained(link))
            }
        };
        if flow.echo {
            self.put_link_flow(link);
        }
        event
    }

    fn on_transfer<'a>(
        &mut self,
        channel: u16,
        transfer: &Transfer<'a>,
        payload: &'a [u8],
        now: Instant,
    ) -> Result<Option<Event<'a>>, Violation> {
        let Some(session) = self.sessions[usize::from(channel)].as_deref_mut() else {
            return Ok(None);
        };
        session.next_incoming_id = session.next_incoming_id.wrapping_add(1);
        if session.incoming_window == 0 {
            session.overrun += 1;
            if session.overrun > limits::SESSION_WINDOW_SLACK {
                let text = "more transfers than the incoming window allows";
                return Ok(Some(self.end_with(channel, "amqp:session:window-violation", text)));
            }
        } else {
            session.incoming_window -= 1;
        }
        let event = match self.find_link(channel, transfer.handle) {
            Found::Link(link) => self.deliver(link, transfer, payload, now)?,
            Found::Late => None,
            Found::Never => Some(self.unattached(channel)),
        };
        if let Some(session) = self.sessions[usize::from(channel)].as_deref_mut()
            && !session.ending
            && session.reopen_window()
        {
            self.put_session_flow(channel);
        }
        Ok(event)
    }

    fn deliver<'a>(
        &mut self,
        id: LinkId,
        transfer: &Transfer<'a>,
        payload: &'a [u8],
        now: Instant,
    ) -> Result<Option<Event<'a>>, Violation> {
        let max_size = self.config.max_message_size;
        let Some(session) = self.sessions[usize::from(id.session.channel)].as_deref_mut() else {
            return Ok(None);
        };
        let Some(link) = session.links.get_mut(id.handle as usize).and_then(Option::as_deref_mut) else {
            return Ok(None);
        };
        if matches!(link.state, State::Detaching(_)) {
            return Ok(None);
        }
        if link.role != Role::Receiver {
            let text = "a transfer on a link whose receiver sent it";
            return Ok(Some(self.end_with(id.session.channel, "amqp:not-allowed", text)));
        }
        let gathered = link.partial.as_ref().map_or(0, |partial| partial.payload.len());
        if transfer.aborted {
            link.partial = None;
            self.partial_bytes -= gathered;
            return Ok(None);
        }
        if gathered as u64 + payload.len() as u64 > max_size {
            let error = Fault::new(
                "amqp:link:message-size-exceeded",
                "the message exceeds max-message-size",
            );
            self.detach(id, super::Detached::Closed, Some(&error), now);
            return Ok(None);
        }
        if link.partial.is_none() {
            let tag = transfer.delivery_tag.unwrap_or(&[]);
            let Some(delivery_id) = transfer.delivery_id.filter(|_| tag.len() <= limits::MAX_DELIVERY_TAG) else {
                let text = "a first transfer without delivery-id, or with too long a delivery-tag";
                return Ok(Some(self.end_with(id.session.channel, "amqp:invalid-field", text)));
            };
            link.delivery_count = link.delivery_count.wrapping_add(1);
            link.credit = link.credit.saturating_sub(1);
            let message_format = transfer.message_format.unwrap_or(0);
            let settled = transfer.settled.unwrap_or(false);
            if !transfer.more {
                if !settled {
                    link.unsettled += 1;
                    session.unsettled += 1;
                }
                return Ok(Some(Event::Transfer(Incoming {
                    link: id,
                    delivery_id,
                    settled,
                    message_format,
                    tag: Cow::Borrowed(tag),
                    payload: Cow::Borrowed(payload),
                })));
            }
            link.partial = Some(Box::new(Partial {
                delivery_id,
                settled,
                message_format,
                tag: tag.into(),
                payload: Vec::new(),
            }));
        }
        let Some(partial) = link.partial.as_deref_mut() else {
            return Ok(None);
        };
        partial.settled |= transfer.settled.unwrap_or(false);
        partial.payload.extend_from_slice(payload);
        if transfer.more {
            self.partial_bytes += payload.len();
            if self.partial_bytes > limits::MAX_PARTIAL_BYTES {
                return Err(Violation::ResourceLimit("bytes of unfinished deliveries"));
            }
            return Ok(None);
        }
        self.partial_bytes -= gathered;
        let Some(whole) = link.partial.take() else {
            return Ok(None);
        };
        if !whole.settled {
            link.unsettled += 1;
            session.unsettled += 1;
        }
        Ok(Some(Event::Transfer(Incoming {
            link: id,
            delivery_id: whole.delivery_id,
            settled: whole.settled,
            message_format: whole.message_format,
            tag: Cow::Owned(whole.tag.to_vec()),
            payload: Cow::Owned(whole.payload),
        })))
    }
}

/// The meaning of a peer's handle.
enum Found {
    Link(LinkId),
    /// It was attached once; frames that crossed the detach.
    Late,
    Never,
}
