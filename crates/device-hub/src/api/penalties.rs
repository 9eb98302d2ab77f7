//! Answers to wrong credentials that come later and later, per credential and source.
//!
//! Why: a client that guesses, or repeats a wrong credential without a pause, must cost little. It is never the device that is
//! penalised: anybody can claim to be it, and could keep it out.
//! Invariants: a right credential is checked first and never delayed, whatever else its source, or others in the name of its device,
//! have tried; a client may try several credentials one after the other without a delay; only keyed hashes of credentials are
//! kept, in a table of [`MAX_ROWS`] rows (about 1.6 MiB); at most [`MAX_DELAYED`] answers wait.
//! Not here: AMQP, whose connections delay their answers by the same rule (`amqp-server`).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_auth::{BackoffRule, RefusalBackoff, source};
use holdfast_model::RefusalReason;
use holdfast_tasks::sync::Mutex;
use tokio::time::Instant;

use super::connect_request::{ConnectRequest, Credential, Protocol, Refusal};
use crate::{DeviceHub, Operation, metrics};

/// Credentials and sources that are remembered.
const MAX_ROWS: usize = 16_384;

/// Answers of a node that wait; further ones are given at once.
const MAX_DELAYED: usize = 4096;

/// One credential from one source. The free refusals are for clients that connect anew a few times.
const CREDENTIAL: BackoffRule = BackoffRule {
    free: 5,
    forget_after: Duration::from_secs(60),
    ..BackoffRule::REPEATED
};

/// All wrong credentials of one source, behind which there may be many devices.
const SOURCE: BackoffRule = BackoffRule {
    free: 100,
    step: 50,
    first: Duration::from_millis(250),
    longest: Duration::from_secs(2),
    forget_after: Duration::from_secs(60),
};

/// The penalties of one node.
pub(crate) struct Penalties {
    backoff: Mutex<RefusalBackoff>,
    delayed: AtomicUsize,
}

impl Penalties {
    pub(crate) fn new() -> Self {
        Self {
            backoff: Mutex::new(RefusalBackoff::new(MAX_ROWS)),
            delayed: AtomicUsize::new(0),
        }
    }

    /// When the refusal of `credential` is to be answered, and whether it is the first one that is delayed.
    fn count(&self, address: IpAddr, credential: &[&[u8]], now: Instant) -> (Option<Instant>, bool) {
        let source = source(address);
        let now = now.into_std();
        let mut backoff = self.backoff.lock();
        let of_credential = backoff.refuse((0, source, credential), &CREDENTIAL, now);
        let of_source = backoff.refuse((1, source), &SOURCE, now);
        let due = of_credential.due.max(of_source.due).map(Instant::from_std);
        let begins = of_credential.number == CREDENTIAL.free + 1 || of_source.number == SOURCE.free + 1;
        (due, begins)
    }
}

/// The answer to a wrong credential that has to wait.
pub struct Penalty {
    hub: Arc<DeviceHub>,
    due: Instant,
}

impl Penalty {
    /// Waits until the refusal may be sent.
    pub async fn served(self) {
        tokio::time::sleep_until(self.due).await;
    }
}

impl Drop for Penalty {
    fn drop(&mut self) {
        self.hub.penalties.delayed.fetch_sub(1, Ordering::AcqRel);
    }
}

impl DeviceHub {
    /// Counts the refusal of a credential, given as its parts; the penalty that is to be served before it is answered.
    /// `identity` is what the client calls itself, for the audit log.
    pub fn penalty(
        self: &Arc<Self>,
        operation: Operation,
        identity: &str,
        protocol: Protocol,
        address: std::net::SocketAddr,
        credential: &[&[u8]],
        reason: RefusalReason,
    ) -> Option<Penalty> {
        if !reason.is_wrong_credential() {
            return None;
        }
        let (due, begins) = self.penalties.count(address.ip(), credential, Instant::now());
        if begins {
            let refusal = Refusal::new(RefusalReason::Guessing);
            self.audit
                .refused_identity(operation, identity, protocol, address, refusal, self.parts.clock.now());
        }
        let due = due?;
        metrics::refusal_delayed(protocol);
        let waiting = self.penalties.delayed.fetch_add(1, Ordering::AcqRel);
        // Dropping it counts back.
        let penalty = Penalty {
            hub: Arc::clone(self),
            due,
        };
        (waiting < MAX_DELAYED).then_some(penalty)
    }

    /// The same for a refused connection of a device.
    pub(crate) fn connect_penalty(
        self: &Arc<Self>,
        request: &ConnectRequest<'_>,
        reason: RefusalReason,
    ) -> Option<Penalty> {
        let token = |token: &'_ str| token.as_bytes().to_vec();
        let (token, leaf) = match request.credential {
            Credential::None => return None,
            Credential::SasToken(text) => (token(text), None),
            Credential::CertificateChain(chain) => (Vec::new(), Some(chain.leaf())),
            Credential::Both(text, chain) => (token(text), Some(chain.leaf())),
        };
        let leaf: &[u8] = leaf.map_or(&[], |leaf| leaf);
        let credential = [token.as_slice(), leaf];
        let (protocol, address) = (request.protocol, request.address);
        self.penalty(
            Operation::Connect,
            request.device,
            protocol,
            address,
            &credential,
            reason,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test(start_paused = true)]
    async fn one_credential_is_delayed_after_a_few_refusals_and_others_of_its_source_are_not() {
        let (penalties, now) = (Penalties::new(), Instant::now());
        for number in 1..=8 {
            let (due, begins) = penalties.count(ADDRESS, &[b"wrong"], now);
            assert_eq!((due.is_some(), begins), (number > 5, number == 6), "{number}");
        }
        for other in [b"first".as_slice(), b"second", b"third", b"fourth"] {
            assert_eq!(penalties.count(ADDRESS, &[other], now), (None, false));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_guesses_is_slowed_down_to_a_bound_and_another_one_is_not() {
        let (penalties, now) = (Penalties::new(), Instant::now());
        let mut delays = Vec::new();
        for guess in 0..1000_u32 {
            let (due, begins) = penalties.count(ADDRESS, &[&guess.to_be_bytes()], now);
            assert_eq!(begins, guess == 100);
            delays.push(due.map_or(0, |due| (due - now).as_millis()));
        }
        assert_eq!((delays[99], delays[100], delays[150], delays[999]), (0, 250, 500, 2000));
        assert!(delays.is_sorted());
        let other = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
        assert_eq!(penalties.count(other, &[b"x"], now), (None, false));
        let later = now + SOURCE.forget_after + SOURCE.longest;
        assert_eq!(penalties.count(ADDRESS, &[b"y"], later), (None, false));
    }
}
