//! Limits on the resources that a peer can use (Spec amqp §12).
//!
//! Not here: limits of messages and identities, which belong to the hub (`model::limits`).

use std::time::Duration;

/// The smallest frame size that either side may ask for, bytes (AMQP 1.0 §2.4.1).
pub const MIN_MAX_FRAME_SIZE: u32 = 512;
/// The largest frame that we accept, bytes, its header included; SASL frames too, since tokens are long.
pub const MAX_FRAME_SIZE: u32 = 65_536;
/// The highest channel number that a peer may use: at most 8192 sessions a connection.
pub const CHANNEL_MAX: u16 = 8191;
/// The highest handle that a peer may use: at most 65,536 links a session.
pub const HANDLE_MAX: u32 = 65_535;
/// Links of one connection, over all its sessions, once an identity has authenticated.
pub const MAX_LINKS: u32 = 65_535;
/// Links of one connection before an identity has authenticated.
pub const MAX_LINKS_UNAUTHENTICATED: u32 = 64;
/// Bytes of a link's name.
pub const MAX_LINK_NAME: usize = 1024;
/// Transfer frames that a session may send us before we grant more; also the most deliveries that we leave unsettled.
pub const SESSION_WINDOW: u32 = 5000;
/// Frames beyond the window after which the session is ended: tolerance for clients that count inexactly.
pub const SESSION_WINDOW_SLACK: u32 = 5000;
/// Deliveries of one link that may wait for the peer's outcome.
pub const MAX_UNSETTLED: u32 = 5000;
/// Bytes of one incoming delivery, all its frames together; announced as `max-message-size`.
pub const MAX_MESSAGE_SIZE: u64 = 1_048_576;
/// Bytes of unfinished deliveries, over all links of a connection.
pub const MAX_PARTIAL_BYTES: usize = 4 * 1_048_576;
/// Bytes of a delivery tag (AMQP 1.0 §2.8.7).
pub const MAX_DELIVERY_TAG: usize = 32;
/// How deep described, list, map and array values may nest.
pub const MAX_NESTING: u32 = 16;
/// Elements of an array whose elements take no bytes.
pub const MAX_EMPTY_ELEMENTS: u32 = 4096;
/// Credit that a server's receiving link starts with.
pub const RECEIVER_CREDIT: u32 = 100;
/// Tokens put on one connection (Spec amqp §5): the next one is refused with 403005.
pub const MAX_TOKENS: usize = 1000;

/// The idle time-out that we advertise; a peer silent for twice as long is dropped. Never below 5 s: .NET closes then.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// From the first byte until the peer's open has been read.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a detach that we sent waits for the peer's.
pub const DETACH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a close that we sent waits for the peer's.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

const _: () = assert!(MIN_MAX_FRAME_SIZE < MAX_FRAME_SIZE);
const _: () = assert!(MAX_MESSAGE_SIZE <= MAX_PARTIAL_BYTES as u64);
const _: () = assert!(IDLE_TIMEOUT.as_secs() >= 5);
