//! Session tickets: a client that shows one resumes its session without certificates and signatures.
//!
//! Invariants: a ticket works for [`TicketKeys::lifetime`] after the full handshake that began its session, also when the session is
//! resumed again and again; keys are in memory alone, one node's, and are dropped two lifetimes after they were made at
//! the latest, if [`TicketKeys::rotate`] is called; a ticket holds [`MAX_SESSION_BYTES`] at most.
//! Not here: what the client of a resumed session may do. Its certificates come out of the ticket and are judged by the registry
//! like those of a full handshake (docs/decisions/0043).

use std::fmt;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use holdfast_tasks::sync::RwLock;
use zeroize::Zeroizing;

/// The largest session that gets a ticket, in bytes: a leaf and two issuers with RSA keys. A client sends its ticket in the
/// first message, before anything is known of it.
pub(super) const MAX_SESSION_BYTES: usize = 4096;
const NAME_BYTES: usize = 16;
const ORIGIN_BYTES: usize = 8;
const KEY_BYTES: usize = 32;

/// The time in seconds, from any begin, never going back.
pub(super) type Seconds = Box<dyn Fn() -> u64 + Send + Sync>;

/// The keys of a node's tickets.
pub(super) struct TicketKeys {
    lifetime: u32,
    seconds: Seconds,
    keys: RwLock<Keys>,
}

struct Keys {
    current: TicketKey,
    previous: Option<TicketKey>,
    /// When the current one was made.
    made: u64,
}

struct TicketKey {
    /// Says which key opens a ticket.
    name: [u8; NAME_BYTES],
    key: RandomizedNonceKey,
}

/// A session out of a ticket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// When its full handshake was.
    pub(super) origin: u64,
    /// As rustls has written it.
    pub(super) bytes: Vec<u8>,
}

impl TicketKeys {
    /// Makes the first key; tickets work for `lifetime`, in whole seconds.
    pub(super) fn new(lifetime: Duration) -> Result<Self, Unspecified> {
        let begin = Instant::now();
        Self::with_clock(lifetime, Box::new(move || begin.elapsed().as_secs()))
    }

    pub(super) fn with_clock(lifetime: Duration, seconds: Seconds) -> Result<Self, Unspecified> {
        let keys = Keys {
            current: TicketKey::generate()?,
            previous: None,
            made: seconds(),
        };
        Ok(Self {
            lifetime: u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX),
            seconds,
            keys: RwLock::new(keys),
        })
    }

    pub(super) fn now(&self) -> u64 {
        (self.seconds)()
    }

    /// How long a session that began at `origin` may still be resumed, in seconds.
    pub(super) fn remaining(&self, origin: u64) -> u32 {
        let age = self.now().saturating_sub(origin);
        u32::try_from(u64::from(self.lifetime).saturating_sub(age)).unwrap_or(u32::MAX)
    }

    /// Replaces the current key when it is a lifetime old, and drops the one before it. Without randomness the old ones stay, and
    /// tickets still end by their age.
    pub(super) fn rotate(&self) {
        let (now, lifetime) = (self.now(), u64::from(self.lifetime));
        let is_due = |keys: &Keys| now.saturating_sub(keys.made) >= lifetime;
        if !is_due(&self.keys.read()) {
            return;
        }
        let Ok(fresh) = TicketKey::generate() else { return };
        let mut keys = self.keys.write();
        // Another core may have been faster.
        if is_due(&keys) {
            // A key that nothing used for two lifetimes opens no ticket that is still young enough.
            let was_used_lately = now.saturating_sub(keys.made) < 2 * lifetime;
            let last = std::mem::replace(&mut keys.current, fresh);
            keys.previous = was_used_lately.then_some(last);
            keys.made = now;
        }
    }

    /// A ticket for a session that began at `origin`; `None` when it is too old or too large for one.
    pub(super) fn seal(&self, origin: u64, session: &[u8]) -> Option<Vec<u8>> {
        if session.len() > MAX_SESSION_BYTES || self.remaining(origin) == 0 {
            return None;
        }
        self.rotate();
        let keys = self.keys.read();
        let key = &keys.current;
        let mut sealed = Vec::with_capacity(ORIGIN_BYTES + session.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&origin.to_be_bytes());
        sealed.extend_from_slice(session);
        let nonce = key
            .key
            .seal_in_place_append_tag(Aad::from(key.name), &mut sealed)
            .ok()?;
        Some([&key.name[..], nonce.as_ref(), &sealed].concat())
    }

    /// The session of a ticket; `None` when another node or an older key has made it, or when it is no ticket or too old.
    pub(super) fn open(&self, ticket: &[u8]) -> Option<Session> {
        self.rotate();
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let keys = self.keys.read();
        let key = std::iter::once(&keys.current)
            .chain(&keys.previous)
            .find(|key| key.name == name)?;
        let mut bytes = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = key.key.open_in_place(nonce, Aad::from(key.name), &mut bytes).ok()?;
        let (origin, session) = opened.split_first_chunk::<ORIGIN_BYTES>()?;
        let origin = u64::from_be_bytes(*origin);
        (self.remaining(origin) > 0).then(|| Session {
            origin,
            bytes: session.to_vec(),
        })
    }
}

impl TicketKey {
    fn generate() -> Result<Self, Unspecified> {
        let mut name = [0; NAME_BYTES];
        aws_lc_rs::rand::fill(&mut name)?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut *key)?;
        Ok(Self {
            name,
            key: RandomizedNonceKey::new(&AES_256_GCM, &*key)?,
        })
    }
}

/// Without keys.
impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const LIFETIME: u64 = 100;

    fn keys() -> (Arc<AtomicU64>, TicketKeys) {
        let time = Arc::new(AtomicU64::new(1000));
        let seconds = Arc::clone(&time);
        let keys = TicketKeys::with_clock(
            Duration::from_secs(LIFETIME),
            Box::new(move || seconds.load(Ordering::Relaxed)),
        );
        (time, keys.unwrap())
    }

    #[test]
    fn a_ticket_opens_until_its_session_is_a_lifetime_old_however_often_it_is_renewed() {
        let (time, keys) = keys();
        let mut ticket = keys.seal(1000, b"session").unwrap();
        for now in [1000, 1050, 1099] {
            time.store(now, Ordering::Relaxed);
            let session = keys.open(&ticket).unwrap();
            assert_eq!((session.origin, &*session.bytes), (1000, &b"session"[..]));
            ticket = keys.seal(session.origin, &session.bytes).unwrap();
        }
        assert_eq!(keys.remaining(1000), 1);
        time.store(1100, Ordering::Relaxed);
        assert_eq!(keys.open(&ticket), None);
        assert_eq!(keys.seal(1000, b"session"), None);
    }

    #[test]
    fn a_key_seals_for_a_lifetime_opens_for_another_one_and_is_gone_then() {
        let (time, keys) = keys();
        let first = keys.keys.read().current.name;
        time.store(1099, Ordering::Relaxed);
        let late = keys.seal(1099, b"session").unwrap();
        time.store(1100, Ordering::Relaxed);
        keys.rotate();
        assert_ne!(keys.keys.read().current.name, first);
        assert!(keys.open(&late).is_some(), "by the key before");
        time.store(1200, Ordering::Relaxed);
        keys.rotate();
        let previous = keys.keys.read().previous.as_ref().map(|key| key.name);
        assert!(previous.is_some_and(|name| name != first));
        // After a long silence neither key is left.
        time.store(1500, Ordering::Relaxed);
        keys.rotate();
        assert!(keys.keys.read().previous.is_none());
    }

    #[test]
    fn tickets_of_others_and_changed_ones_do_not_open() {
        let (_, keys) = keys();
        let ticket = keys.seal(1000, b"session").unwrap();
        let (_, other) = super::tests::keys();
        assert_eq!(other.open(&ticket), None);
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(keys.open(&changed), None, "byte {at}");
            assert_eq!(keys.open(&ticket[..at]), None, "{at} bytes");
        }
    }

    #[test]
    fn a_session_beyond_the_limit_gets_no_ticket() {
        let (_, keys) = keys();
        assert!(keys.seal(1000, &[0; MAX_SESSION_BYTES]).is_some());
        assert_eq!(keys.seal(1000, &[0; MAX_SESSION_BYTES + 1]), None);
    }
}
