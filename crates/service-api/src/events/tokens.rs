//! The tokens of one connection: what they cover, when they expire, whether their keys are still valid.
//!
//! Pure: the clock and the policies are arguments.
//! Invariants: no signature and no key is kept; a renewal replaces the token of the same resource; a failed renewal leaves it.

use std::sync::Arc;

use holdfast_amqp::address::percent_decode;
use holdfast_auth::{
    Grant, HubNames, KeyFingerprint, Policy, ResourcePath, ResourceScope, Rights, SasRefusal, SasToken, verify_policy,
};
use holdfast_model::UnixMillis;
use holdfast_model::limits::MAX_CBS_TOKENS;

/// An accepted token.
#[derive(Debug)]
struct Held {
    /// `sr` as it stood in the token.
    resource: Box<str>,
    policy: Arc<str>,
    key: KeyFingerprint,
    ends: UnixMillis,
}

/// The accepted tokens of a connection.
#[derive(Debug, Default)]
pub(super) struct Tokens(Vec<Held>);

/// The connection has its maximum of tokens (403005).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManyTokens;

/// The part of the events endpoint that a link or request addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndpointScope<'a> {
    /// `$management`: covered by any token for the endpoint or for something below it. Python's consumer client has one
    /// for its consumer group only.
    Management,
    /// The endpoint as a whole.
    Whole,
    /// One partition for one consumer group.
    Partition {
        /// The consumer group.
        group: &'a str,
        /// The partition id.
        partition: &'a str,
    },
}

/// Checks a policy's token by itself: signature, right, expiry, host. Its scope is checked later, link by link.
pub(super) fn check(
    token: &SasToken<'_>,
    policy: Option<&Policy>,
    names: &HubNames,
    now: UnixMillis,
) -> Result<Grant, SasRefusal> {
    let segments = segments(token.resource());
    let resource = segments
        .iter()
        .fold(ResourcePath::HUB, |path, segment| path.then(segment));
    verify_policy(token, &resource, policy, Rights::SERVICE_CONNECT, names, now)
}

/// The path of an `sr`, split as [`ResourceScope`] does it.
fn segments(sr: &str) -> Vec<String> {
    let text = if sr.contains('/') {
        sr.into()
    } else {
        percent_decode(sr)
    };
    let text = text.split_once("://").map_or(&*text, |(_, rest)| rest);
    let path = text.split_once('/').map_or("", |(_, path)| path).trim_end_matches('/');
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .map(str::to_owned)
        .collect()
}

impl Tokens {
    /// No identity has authenticated, or every token has expired.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps an accepted token.
    pub(super) fn put(&mut self, resource: &str, policy: &str, grant: &Grant) -> Result<(), TooManyTokens> {
        let held = Held {
            resource: resource.into(),
            policy: policy.into(),
            key: grant.fingerprint,
            ends: grant.ends(),
        };
        if let Some(old) = self.0.iter_mut().find(|old| *old.resource == *resource) {
            *old = held;
        } else if self.0.len() < MAX_CBS_TOKENS {
            self.0.push(held);
        } else {
            return Err(TooManyTokens);
        }
        Ok(())
    }

    /// The policy whose token covers a part of the events endpoint called `name`.
    pub(super) fn covering(&self, name: &str, part: EndpointScope<'_>) -> Option<&Arc<str>> {
        self.0
            .iter()
            .find(|held| covers(&held.resource, name, part))
            .map(|held| &held.policy)
    }

    /// The name of any policy that has authenticated here, for the audit log.
    pub(super) fn first_policy(&self) -> Option<&Arc<str>> {
        self.0.first().map(|held| &held.policy)
    }

    /// When the first token expires.
    pub(super) fn next_end(&self) -> Option<UnixMillis> {
        self.0.iter().map(|held| held.ends).min()
    }

    /// Removes the tokens that have expired by `now`; `true` when there were any.
    pub(super) fn expire(&mut self, now: UnixMillis) -> bool {
        let before = self.0.len();
        self.0.retain(|held| held.ends >= now);
        self.0.len() < before
    }

    /// Removes tokens whose policy, right or key no longer exists; `true` when there were any.
    pub(super) fn revoke(&mut self, policy: impl Fn(&str) -> Option<Arc<Policy>>) -> bool {
        let before = self.0.len();
        self.0.retain(|held| {
            policy(&held.policy)
                .is_some_and(|policy| policy.rights.contains(Rights::SERVICE_CONNECT) && policy.keys.holds(held.key))
        });
        self.0.len() < before
    }
}

fn covers(sr: &str, name: &str, part: EndpointScope<'_>) -> bool {
    let Ok(scope) = ResourceScope::parse(sr) else {
        return false;
    };
    // Readers of the hub's own path have tokens for the hub or for that path.
    let hub_path = ResourcePath::HUB.then("messages").then("events");
    [ResourcePath::events(name, &[]), hub_path]
        .into_iter()
        .any(|root| match part {
            EndpointScope::Whole => scope.covers(&root),
            EndpointScope::Management => scope.covers(&root.then("$management")) || lies_within(sr, &root),
            EndpointScope::Partition { group, partition } => scope.covers(
                &root
                    .then("ConsumerGroups")
                    .then(group)
                    .then("Partitions")
                    .then(partition),
            ),
        })
}

/// Whether the resource of a token is something below `root`.
fn lies_within(sr: &str, root: &ResourcePath<'_>) -> bool {
    let segments = segments(sr);
    let root = root.segments();
    segments.len() >= root.len()
        && segments
            .iter()
            .zip(root)
            .all(|(segment, root)| percent_decode(segment).eq_ignore_ascii_case(root))
}

#[cfg(test)]
mod tests {
    use holdfast_auth::{Key, KeyPair, sign};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn policy() -> Policy {
        let key = |byte| Key::from_bytes(vec![byte; 32]).unwrap();
        Policy {
            name: "service".to_owned(),
            keys: KeyPair {
                primary: key(1),
                secondary: key(2),
            },
            rights: Rights::SERVICE_CONNECT,
        }
    }

    fn put(tokens: &mut Tokens, resource: &str, key: &[u8]) -> Result<(), SasRefusal> {
        let text = sign(resource, key, Some("service"), 1_700_000_100);
        let token = SasToken::parse(&text)?;
        let grant = check(&token, Some(&policy()), &HubNames::new(["hub.example"]), NOW)?;
        tokens.put(token.resource(), "service", &grant).unwrap();
        Ok(())
    }

    #[test]
    fn tokens_of_event_hubs_clients_signed_with_the_text_of_the_key_cover_what_they_name() {
        let partition = EndpointScope::Partition {
            group: "$Default",
            partition: "0",
        };
        for (resource, whole, management, one) in [
            ("sb://hub.example/hub", true, true, true),
            ("sb://hub.example/hub/", true, true, true),
            ("amqps://hub.example/HUB/consumergroups/$default", false, true, true),
            (
                "sb://hub.example/hub/ConsumerGroups/$Default/Partitions/0",
                false,
                true,
                true,
            ),
            (
                "sb://hub.example/hub/ConsumerGroups/$Default/Partitions/1",
                false,
                true,
                false,
            ),
            ("sb://hub.example/hub/$management", false, true, false),
            ("hub.example", true, true, true),
            ("hub.example/messages/events", true, true, true),
            ("hub.example/devices/hub", false, false, false),
        ] {
            let mut tokens = Tokens::default();
            put(&mut tokens, resource, policy().keys.primary.to_base64().as_bytes()).unwrap();
            assert_eq!(
                tokens.covering("hub", EndpointScope::Whole).is_some(),
                whole,
                "{resource}"
            );
            assert_eq!(
                tokens.covering("hub", EndpointScope::Management).is_some(),
                management,
                "{resource}"
            );
            assert_eq!(tokens.covering("hub", partition).is_some(), one, "{resource}");
        }
    }

    #[test]
    fn tokens_signed_with_the_bytes_of_either_key_count_and_others_do_not() {
        let mut tokens = Tokens::default();
        assert_eq!(put(&mut tokens, "hub.example", &[2; 32]), Ok(()));
        assert_eq!(put(&mut tokens, "hub.example", &[3; 32]), Err(SasRefusal::Signature));
        assert_eq!(put(&mut tokens, "other.example", &[2; 32]), Err(SasRefusal::Host));
    }

    #[test]
    fn a_renewal_replaces_and_the_end_of_the_last_token_leaves_none() {
        let mut tokens = Tokens::default();
        put(&mut tokens, "hub.example", &[1; 32]).unwrap();
        put(&mut tokens, "hub.example", &[1; 32]).unwrap();
        assert_eq!(tokens.0.len(), 1);
        let end = tokens.next_end().unwrap();
        assert_eq!(end, UnixMillis(1_700_000_400_000), "five minutes of grace for clocks");
        assert!(!tokens.expire(end) && tokens.expire(UnixMillis(end.0 + 1)));
        assert!(tokens.is_empty());
    }

    #[test]
    fn a_changed_key_or_a_lost_right_takes_the_token_away() {
        let changes: [fn(&mut Policy); 2] = [
            |policy| policy.keys.primary = Key::from_bytes(vec![9; 32]).unwrap(),
            |policy| policy.rights = Rights::NONE,
        ];
        for change in changes {
            let mut tokens = Tokens::default();
            put(&mut tokens, "hub.example", &[1; 32]).unwrap();
            assert!(!tokens.revoke(|_| Some(Arc::new(policy()))));
            let mut changed = policy();
            change(&mut changed);
            assert!(tokens.revoke(|_| Some(Arc::new(changed.clone()))));
        }
        let mut tokens = Tokens::default();
        put(&mut tokens, "hub.example", &[1; 32]).unwrap();
        assert!(tokens.revoke(|_| None));
    }
}
