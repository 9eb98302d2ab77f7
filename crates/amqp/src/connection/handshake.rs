//! From the first eight bytes to both opens: headers, SASL, open.

use std::time::Duration;

use super::event::Event;
use super::{Connection, limits};
use crate::error::Violation;
use crate::frame::{self, AMQP_HEADER, Frame, SASL_HEADER, TYPE_SASL};
use crate::performative::{
    self, Open, Performative, SaslFrame, SaslInit, encode_challenge, encode_mechanisms, encode_outcome,
};
use crate::types::Value;

/// The mechanisms that the server offers, in this order: clients take the first that they know (Spec amqp §1.2). The last one is for
/// [`super::Config::offers_tpm`].
pub(crate) const MECHANISMS: [&str; 5] = ["MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL", "TPM"];

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Server: waits for either header.
    ServerHeader,
    /// Server: waits for the client's sasl-init.
    ServerInit,
    /// Server: waits for the driver's verdict or challenge.
    ServerVerdict,
    /// Server: waits for the client's answer to a challenge.
    ServerResponse,
    /// Server: waits for the AMQP header after SASL.
    ServerAmqpHeader,
    /// Server: has the client's open, waits for the driver's.
    ServerOpen,
    /// Client: waits for the SASL header.
    ClientSaslHeader,
    /// Client: waits for the server's offer.
    ClientMechanisms,
    /// Client: waits for the server's verdict.
    ClientOutcome,
    /// Client: waits for the AMQP header.
    ClientHeader,
    /// Waits for the peer's open.
    AwaitOpen,
    /// Open on both sides.
    Open,
    /// Close sent, the peer's is waited for.
    Closing,
    /// Nothing more to read.
    Closed,
}

/// The verdict on a SASL exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslCode {
    /// Go on.
    Ok,
    /// The credentials are wrong.
    Auth,
    /// A permanent failure of the server.
    System,
    /// A temporary failure of the server; the client can retry.
    Temporary,
}

impl SaslCode {
    fn number(self) -> u8 {
        match self {
            SaslCode::Ok => 0,
            SaslCode::Auth => 1,
            SaslCode::System => 2,
            SaslCode::Temporary => 4,
        }
    }
}

/// How a client starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientSasl {
    /// No SASL: the AMQP header comes first.
    None,
    /// `ANONYMOUS`, as most Event Hubs clients.
    Anonymous,
    /// `MSSBCBS`, as C and .NET clients.
    Mssbcbs,
    /// `PLAIN` with a token as password.
    Plain {
        /// For example `policy@sas.root.hub`.
        user: String,
        /// The whole token.
        password: String,
    },
}

/// The content of our open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSpec {
    /// Our name for ourselves.
    pub container_id: String,
    /// The host that a client means to speak to.
    pub hostname: Option<String>,
}

/// The state of a client until it has sent its open.
#[derive(Debug)]
pub(super) struct ClientStart {
    sasl: ClientSasl,
    open: OpenSpec,
}

impl Connection {
    pub(super) fn start_client(&mut self, sasl: ClientSasl, open: OpenSpec) {
        if sasl == ClientSasl::None {
            self.output.raw(&AMQP_HEADER);
            self.put_open(&open);
            self.phase = Phase::ClientHeader;
        } else {
            self.output.raw(&SASL_HEADER);
            self.phase = Phase::ClientSaslHeader;
            self.client = Some(Box::new(ClientStart { sasl, open }));
        }
    }

    /// Server: answers [`Event::SaslInit`]. Any other verdict than ok closes the connection.
    pub fn sasl_outcome(&mut self, code: SaslCode) {
        if self.phase != Phase::ServerVerdict {
            return;
        }
        frame::encode(&mut self.output.buf, TYPE_SASL, 0, |buf| {
            encode_outcome(buf, code.number())
        });
        self.phase = if code == SaslCode::Ok {
            Phase::ServerAmqpHeader
        } else {
            Phase::Closed
        };
    }

    /// Server: answers [`Event::SaslInit`] or [`Event::SaslResponse`] with a question, whose answer is an [`Event::SaslResponse`].
    pub fn sasl_challenge(&mut self, challenge: &[u8]) {
        if self.phase == Phase::ServerVerdict {
            frame::encode(&mut self.output.buf, TYPE_SASL, 0, |buf| {
                encode_challenge(buf, challenge)
            });
            self.phase = Phase::ServerResponse;
        }
    }

    /// Server: the mechanisms that it offers.
    fn mechanisms(&self) -> &'static [&'static str] {
        match self.config.offers_tpm {
            true => &MECHANISMS,
            false => &MECHANISMS[..MECHANISMS.len() - 1],
        }
    }

    /// Server: answers [`Event::Open`].
    pub fn open(&mut self, open: &OpenSpec) {
        if self.phase == Phase::ServerOpen {
            self.put_open(open);
            self.phase = Phase::Open;
        }
    }

    fn put_open(&mut self, open: &OpenSpec) {
        let performative = Open {
            container_id: &open.container_id,
            hostname: open.hostname.as_deref(),
            max_frame_size: Some(self.config.max_frame_size),
            channel_max: Some(limits::CHANNEL_MAX),
            idle_time_out: self
                .config
                .idle_timeout
                .map(|idle| u32::try_from(idle.as_millis()).unwrap_or(u32::MAX)),
            desired_capabilities: None,
            properties: None,
        };
        self.output.frame(0, |buf| performative.encode(buf));
    }

    /// One step before both opens; consumes what it understood.
    pub(super) fn handshake<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, Violation> {
        match self.phase {
            Phase::ServerHeader | Phase::ServerAmqpHeader | Phase::ClientSaslHeader | Phase::ClientHeader => {
                self.header(input)
            }
            Phase::ServerInit | Phase::ServerResponse | Phase::ClientMechanisms | Phase::ClientOutcome => {
                let Some((frame, size)) = frame::decode(input, limits::MAX_FRAME_SIZE)? else {
                    return Ok(Step::NeedMore);
                };
                *input = &input[size..];
                self.sasl_frame(frame)
            }
            _ => {
                let Some((frame, size)) = frame::decode(input, self.config.max_frame_size)? else {
                    return Ok(Step::NeedMore);
                };
                *input = &input[size..];
                self.open_frame(frame)
            }
        }
    }

    fn header<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, Violation> {
        let Some((header, rest)) = input.split_first_chunk::<8>() else {
            // Nonsense is refused as soon as it shows, not after eight bytes of it.
            let prefix = |header: &[u8; 8]| header.starts_with(input);
            if prefix(&AMQP_HEADER) || prefix(&SASL_HEADER) {
                return Ok(Step::NeedMore);
            }
            return Err(Violation::ProtocolHeader);
        };
        match (self.phase, *header) {
            (Phase::ServerHeader, SASL_HEADER) => {
                self.output.raw(&SASL_HEADER);
                let mechanisms = self.mechanisms();
                frame::encode(&mut self.output.buf, TYPE_SASL, 0, |buf| {
                    encode_mechanisms(buf, mechanisms.iter().copied())
                });
                self.phase = Phase::ServerInit;
            }
            (Phase::ServerHeader | Phase::ServerAmqpHeader, AMQP_HEADER) => {
                self.output.raw(&AMQP_HEADER);
                self.phase = Phase::AwaitOpen;
            }
            (Phase::ClientSaslHeader, SASL_HEADER) => self.phase = Phase::ClientMechanisms,
            (Phase::ClientHeader, AMQP_HEADER) => self.phase = Phase::AwaitOpen,
            _ => return Err(Violation::ProtocolHeader),
        }
        *input = rest;
        Ok(Step::Again)
    }

    fn sasl_frame<'a>(&mut self, frame: Frame<'a>) -> Result<Step<'a>, Violation> {
        if frame.kind != TYPE_SASL {
            return Err(Violation::UnexpectedFrame("amqp"));
        }
        match (self.phase, SaslFrame::decode(frame.body)?) {
            (Phase::ServerInit, SaslFrame::Init(init)) => {
                self.phase = Phase::ServerVerdict;
                if !self.mechanisms().contains(&init.mechanism) {
                    self.sasl_outcome(SaslCode::Auth);
                    return Ok(Step::NeedMore);
                }
                Ok(Step::Event(Event::SaslInit(init)))
            }
            (Phase::ServerResponse, SaslFrame::Response(response)) => {
                self.phase = Phase::ServerVerdict;
                Ok(Step::Event(Event::SaslResponse(response)))
            }
            (Phase::ClientMechanisms, SaslFrame::Mechanisms(offered)) => {
                self.answer_mechanisms(offered)?;
                self.phase = Phase::ClientOutcome;
                Ok(Step::Again)
            }
            (Phase::ClientOutcome, SaslFrame::Outcome(0)) => {
                self.output.raw(&AMQP_HEADER);
                if let Some(start) = self.client.take() {
                    self.put_open(&start.open);
                }
                self.phase = Phase::ClientHeader;
                Ok(Step::Again)
            }
            (Phase::ClientOutcome, SaslFrame::Outcome(code)) => {
                self.phase = Phase::Closed;
                Ok(Step::Event(Event::SaslFailed(code)))
            }
            _ => Err(Violation::UnexpectedFrame("sasl")),
        }
    }

    fn answer_mechanisms(&mut self, offered: Value<'_>) -> Result<(), Violation> {
        let Some(start) = &self.client else {
            return Err(Violation::UnexpectedFrame("sasl"));
        };
        let response;
        let (mechanism, initial_response) = match &start.sasl {
            ClientSasl::Mssbcbs => ("MSSBCBS", None),
            ClientSasl::Plain { user, password } => {
                response = format!("\0{user}\0{password}");
                ("PLAIN", Some(response.as_bytes()))
            }
            ClientSasl::Anonymous | ClientSasl::None => ("ANONYMOUS", None),
        };
        let is_offered = match offered {
            Value::Array(array) => array
                .iter()
                .any(|item| item.is_ok_and(|item| item.text() == Some(mechanism))),
            other => other.text() == Some(mechanism),
        };
        if !is_offered {
            return Err(Violation::NoMechanism);
        }
        let init = SaslInit {
            mechanism,
            initial_response,
            hostname: start.open.hostname.as_deref(),
        };
        frame::encode(&mut self.output.buf, TYPE_SASL, 0, |buf| init.encode(buf));
        Ok(())
    }

    fn open_frame<'a>(&mut self, frame: Frame<'a>) -> Result<Step<'a>, Violation> {
        if frame.kind == TYPE_SASL {
            return Err(Violation::UnexpectedFrame("sasl"));
        }
        if frame.body.is_empty() {
            return Ok(Step::Again);
        }
        let open = match performative::decode(frame.body)?.0 {
            Performative::Open(open) => open,
            Performative::Close(error) => {
                self.phase = Phase::Closed;
                return Ok(Step::Event(Event::Closed(error)));
            }
            _ => return Err(Violation::UnexpectedFrame("first")),
        };
        self.peer_max_frame = open
            .max_frame_size
            .unwrap_or(u32::MAX)
            .clamp(limits::MIN_MAX_FRAME_SIZE, limits::MAX_FRAME_SIZE);
        self.peer_channel_max = open.channel_max.unwrap_or(u16::MAX);
        self.peer_idle = open
            .idle_time_out
            .filter(|millis| *millis > 0)
            .map(|millis| Duration::from_millis(millis.into()));
        self.phase = if self.is_client { Phase::Open } else { Phase::ServerOpen };
        Ok(Step::Event(Event::Open(open)))
    }
}

/// The result of one handshake step.
pub(super) enum Step<'a> {
    /// The input ends within a frame.
    NeedMore,
    /// A frame was handled and needs no word to the driver.
    Again,
    /// A frame was handled.
    Event(Event<'a>),
}
