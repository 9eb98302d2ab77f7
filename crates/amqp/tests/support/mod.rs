//! A client and a server engine with their bytes carried between them in memory.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several test binaries"
)]

use std::time::{Duration, Instant};

use holdfast_amqp::{
    Accept, AttachSpec, ClientSasl, Config, Connection, Event, LinkId, OpenSpec, SaslCode, SessionId, Violation,
};

/// An event of a side, without the borrows.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    SaslInit(String),
    SaslResponse(Vec<u8>),
    SaslFailed(u8),
    Open(String),
    Begun(SessionId),
    Ended(Option<String>),
    Requested(LinkId, String),
    Attached(LinkId, bool),
    Detached(LinkId, Option<String>),
    Credit(LinkId, u32, bool),
    Drained(LinkId),
    Window,
    Transfer {
        link: LinkId,
        id: u32,
        settled: bool,
        tag: Vec<u8>,
        payload: Vec<u8>,
    },
    Disposition {
        first: u32,
        last: u32,
        settled: bool,
        outcome: String,
    },
    SenderSettled {
        first: u32,
        last: u32,
        outcome: String,
    },
    Closed(Option<String>),
}

pub fn seen(event: &Event<'_>) -> Seen {
    let condition = |error: &Option<holdfast_amqp::Fault<'_>>| error.map(|error| error.condition.to_owned());
    match event {
        Event::SaslInit(init) => Seen::SaslInit(init.mechanism.to_owned()),
        Event::SaslResponse(response) => Seen::SaslResponse(response.to_vec()),
        Event::SaslFailed(code) => Seen::SaslFailed(*code),
        Event::Open(open) => Seen::Open(open.container_id.to_owned()),
        Event::Begun(session) => Seen::Begun(*session),
        Event::Ended { error, .. } => Seen::Ended(condition(error)),
        Event::AttachRequested { link, attach } => {
            Seen::Requested(*link, attach.address().unwrap().unwrap_or("").to_owned())
        }
        Event::Attached { link, attach } => {
            Seen::Attached(*link, attach.source_raw.is_some() && attach.target_raw.is_some())
        }
        Event::Detached { link, error, .. } => Seen::Detached(*link, condition(error)),
        Event::Credit { link, credit, drain } => Seen::Credit(*link, *credit, *drain),
        Event::Drained(link) => Seen::Drained(*link),
        Event::WindowOpened(_) => Seen::Window,
        Event::Transfer(incoming) => Seen::Transfer {
            link: incoming.link,
            id: incoming.delivery_id,
            settled: incoming.settled,
            tag: incoming.tag.to_vec(),
            payload: incoming.payload.to_vec(),
        },
        Event::Disposition {
            first,
            last,
            settled,
            outcome,
            ..
        } => Seen::Disposition {
            first: *first,
            last: *last,
            settled: *settled,
            outcome: format!("{outcome:?}"),
        },
        Event::SenderSettled {
            first, last, outcome, ..
        } => Seen::SenderSettled {
            first: *first,
            last: *last,
            outcome: format!("{outcome:?}"),
        },
        Event::Closed(error) => Seen::Closed(condition(error)),
    }
}

pub struct Pair {
    pub client: Connection,
    pub server: Connection,
    pub now: Instant,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// Bytes carried at once; small numbers cut frames.
    pub chunk: usize,
}

pub fn start() -> Instant {
    // Any instant will do; the tests move it themselves.
    #[expect(clippy::disallowed_methods, reason = "a test's starting point")]
    Instant::now()
}

impl Pair {
    pub fn new(client: Config, sasl: ClientSasl) -> Self {
        let now = start();
        let open = OpenSpec {
            container_id: "client".to_owned(),
            hostname: Some("hub.example".to_owned()),
        };
        Self {
            client: Connection::client(client, sasl, open, now),
            server: Connection::server(Config::default(), now),
            now,
            to_server: Vec::new(),
            to_client: Vec::new(),
            chunk: usize::MAX,
        }
    }

    pub fn opened() -> Self {
        let mut pair = Self::new(Config::default(), ClientSasl::None);
        pair.pump();
        assert!(pair.client.is_open() && pair.server.is_open());
        pair
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Carries bytes until both sides are silent; SASL succeeds, opens are answered, links accepted with 10 credits.
    pub fn pump(&mut self) -> (Vec<Seen>, Vec<Seen>) {
        self.try_pump(&mut |server, event, _| match event {
            Event::SaslInit(_) => server.sasl_outcome(SaslCode::Ok),
            Event::Open(_) => server.open(&OpenSpec {
                container_id: "server".to_owned(),
                hostname: None,
            }),
            Event::AttachRequested { link, .. } => server.accept(
                *link,
                &Accept {
                    credit: 10,
                    ..Accept::default()
                },
            ),
            _ => {}
        })
        .unwrap()
    }

    /// The same with answers of the test's own. Returns what client and server have seen.
    #[allow(clippy::type_complexity)]
    pub fn try_pump(
        &mut self,
        answer: &mut dyn FnMut(&mut Connection, &Event<'_>, Instant),
    ) -> Result<(Vec<Seen>, Vec<Seen>), Violation> {
        let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
        loop {
            let moved = carry(&mut self.client, &mut self.to_server, self.chunk, self.now);
            feed(&mut self.server, &mut self.to_server, self.now, &mut |server, event| {
                at_server.push(seen(event));
                answer(server, event, self.now);
            })?;
            let back = carry(&mut self.server, &mut self.to_client, self.chunk, self.now);
            feed(&mut self.client, &mut self.to_client, self.now, &mut |_, event| {
                at_client.push(seen(event))
            })?;
            if moved + back == 0 {
                return Ok((at_client, at_server));
            }
        }
    }

    /// A session and a link of the client's, accepted: the session, the link at the client, the link at the server.
    pub fn link(&mut self, spec: &AttachSpec<'_>) -> (SessionId, LinkId, LinkId) {
        let session = self.client.begin().unwrap();
        self.pump();
        let link = self.client.attach(session, spec).unwrap();
        let (_, at_server) = self.pump();
        let at_server = at_server
            .iter()
            .find_map(|seen| match seen {
                Seen::Requested(link, _) => Some(*link),
                _ => None,
            })
            .unwrap();
        (session, link, at_server)
    }
}

fn carry(from: &mut Connection, to: &mut Vec<u8>, chunk: usize, now: Instant) -> usize {
    let count = from.output().len().min(chunk);
    to.extend_from_slice(&from.output()[..count]);
    from.advance_output(count, now);
    count
}

fn feed(
    into: &mut Connection,
    buffer: &mut Vec<u8>,
    now: Instant,
    on: &mut dyn FnMut(&mut Connection, &Event<'_>),
) -> Result<(), Violation> {
    let mut input = buffer.as_slice();
    while let Some(event) = into.receive(&mut input, now)? {
        on(into, &event);
    }
    let rest = input.len();
    buffer.drain(..buffer.len() - rest);
    Ok(())
}

/// The largest frame at the beginning of whole frames; headers are skipped.
pub fn largest_frame(mut bytes: &[u8]) -> usize {
    let mut largest = 0;
    while bytes.starts_with(b"AMQP") {
        bytes = &bytes[8..];
    }
    while let Some(size) = bytes.first_chunk::<4>() {
        let size = u32::from_be_bytes(*size) as usize;
        if size < 8 || size > bytes.len() {
            break;
        }
        largest = largest.max(size);
        bytes = &bytes[size..];
    }
    largest
}
