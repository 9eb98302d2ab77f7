//! The tokens of one connection: their resources, their expiry, and whether their keys are still valid.
//!
//! Pure: the clock and the policies are arguments.
//! Invariants: no signature and no key is kept; a renewal replaces the token of the same resource; a failed renewal leaves it.

use std::sync::Arc;

use holdfast_amqp::address::percent_decode;
use holdfast_amqp::limits::MAX_TOKENS;
use holdfast_auth::bearer::{Action, Principal, Roles};
use holdfast_auth::{
    Grant, HubNames, KeyFingerprint, Policy, ResourcePath, Rights, SasRefusal, SasToken, verify_policy,
};
use holdfast_model::{RefusalReason, UnixMillis};

use crate::Refused;

/// An accepted token.
#[derive(Debug)]
struct Held {
    /// `sr` as it stood in the token of a policy; for a bearer token, its principal.
    resource: Box<str>,
    /// The policy or the principal, for records.
    name: Arc<str>,
    opens: Opens,
    ends: UnixMillis,
}

/// How far a token reaches.
#[derive(Debug)]
enum Opens {
    /// Everything that ServiceConnect opens, within its resource, as long as its policy has this key.
    Policy(KeyFingerprint),
    /// What the roles of its principal open, in the whole hub.
    Roles(Roles),
}

/// The accepted tokens of a connection.
#[derive(Debug, Default)]
pub struct Tokens(Vec<Held>);

/// The connection has its maximum of tokens (403005).
#[derive(Debug, PartialEq, Eq)]
pub struct TooManyTokens;

/// Checks a policy's token by itself: signature, right, expiry, host. Its scope is checked later, link by link.
pub(crate) fn check(
    token: &SasToken<'_>,
    policy: Option<&Policy>,
    names: &HubNames,
    now: UnixMillis,
) -> Result<Grant, SasRefusal> {
    let segments = token_path(token.resource());
    let resource = segments
        .iter()
        .fold(ResourcePath::HUB, |path, segment| path.then(segment));
    verify_policy(token, &resource, policy, Rights::SERVICE_CONNECT, names, now)
}

/// The path of an `sr`, split as [`holdfast_auth::ResourceScope`] does it.
#[must_use]
pub fn token_path(sr: &str) -> Vec<String> {
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
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps an accepted token.
    pub(crate) fn put(&mut self, resource: &str, policy: &str, grant: &Grant) -> Result<(), TooManyTokens> {
        self.hold(Held {
            resource: resource.into(),
            name: policy.into(),
            opens: Opens::Policy(grant.fingerprint),
            ends: grant.ends(),
        })
    }

    /// Keeps the principal of an accepted bearer token, in place of an earlier token of it.
    pub(crate) fn put_principal(&mut self, principal: &Principal) -> Result<(), TooManyTokens> {
        self.hold(Held {
            // No resource has a space.
            resource: format!("bearer {}", principal.name).into(),
            name: Arc::clone(&principal.name),
            opens: Opens::Roles(principal.roles),
            ends: principal.ends,
        })
    }

    fn hold(&mut self, held: Held) -> Result<(), TooManyTokens> {
        if let Some(old) = self.0.iter_mut().find(|old| old.resource == held.resource) {
            *old = held;
        } else if self.0.len() < MAX_TOKENS {
            self.0.push(held);
        } else {
            return Err(TooManyTokens);
        }
        Ok(())
    }

    /// The policy or principal of the first token that opens `action` on what a link or request addresses; the resource of a
    /// policy's token must `cover` it.
    #[must_use]
    pub fn covering(&self, action: Action, covers: impl Fn(&str) -> bool) -> Option<&Arc<str>> {
        let opens = |held: &&Held| match held.opens {
            Opens::Policy(_) => covers(&held.resource),
            Opens::Roles(roles) => roles.allow(action),
        };
        self.0.iter().find(opens).map(|held| &held.name)
    }

    /// Why no token opens what a link or request addresses: the rule of the credentials that there are.
    #[must_use]
    pub fn refusal(&self, action: Action, address: &str) -> Refused {
        let principal = |held: &&Held| matches!(held.opens, Opens::Roles(_));
        match self.0.iter().find(principal) {
            Some(held) => Refused::without_role(&held.name, action, address),
            None if self.is_empty() => Refused::credentials(RefusalReason::Missing),
            None => Refused::credentials(RefusalReason::Scope),
        }
    }

    /// The name of any policy or principal that has authenticated here, for the audit log.
    pub(crate) fn first_name(&self) -> Option<&Arc<str>> {
        self.0.first().map(|held| &held.name)
    }

    /// When the first token expires.
    pub(crate) fn next_end(&self) -> Option<UnixMillis> {
        self.0.iter().map(|held| held.ends).min()
    }

    /// Removes the tokens that have expired by `now`; `true` when there were any.
    pub(crate) fn expire(&mut self, now: UnixMillis) -> bool {
        let before = self.0.len();
        self.0.retain(|held| held.ends >= now);
        self.0.len() < before
    }

    /// Removes tokens whose policy, right or key no longer exists; `true` when there were any.
    pub(crate) fn revoke(&mut self, policy: impl Fn(&str) -> Option<Arc<Policy>>) -> bool {
        let before = self.0.len();
        self.0.retain(|held| match held.opens {
            Opens::Policy(key) => policy(&held.name)
                .is_some_and(|policy| policy.rights.contains(Rights::SERVICE_CONNECT) && policy.keys.holds(key)),
            Opens::Roles(_) => true,
        });
        self.0.len() < before
    }
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
    fn a_principal_opens_what_its_roles_do_until_its_token_ends() {
        use holdfast_auth::bearer::Role;

        let principal = |name: &str, role, ends| Principal {
            name: name.into(),
            roles: Roles::NONE.with(role),
            ends: UnixMillis(ends),
        };
        let mut tokens = Tokens::default();
        tokens
            .put_principal(&principal("alice", Role::DataReader, 1000))
            .unwrap();
        let opens = |tokens: &Tokens, action| tokens.covering(action, |_| false).map(ToString::to_string);
        assert_eq!(opens(&tokens, Action::EVENTS_READ).as_deref(), Some("alice"));
        assert_eq!(opens(&tokens, Action::MESSAGES_SEND), None);
        let refused = tokens.refusal(Action::MESSAGES_SEND, "/messages/devicebound");
        assert_eq!(refused.reason, Some(RefusalReason::Right));
        assert!(
            refused.text.contains("Principal alice is not authorized"),
            "{}",
            refused.text
        );
        // A newer token of the principal replaces the earlier one, its roles included.
        tokens
            .put_principal(&principal("alice", Role::DataContributor, 2000))
            .unwrap();
        tokens
            .put_principal(&principal("bob", Role::TwinContributor, 3000))
            .unwrap();
        assert_eq!(tokens.next_end(), Some(UnixMillis(2000)));
        assert_eq!(opens(&tokens, Action::MESSAGES_SEND).as_deref(), Some("alice"));
        assert!(!tokens.revoke(|_| None), "no policy has to do with it");
        assert!(tokens.expire(UnixMillis(2001)));
        assert_eq!(opens(&tokens, Action::EVENTS_READ), None);
        assert!(tokens.expire(UnixMillis(3001)) && tokens.is_empty());
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
