//! `$cbs` put-token and SASL PLAIN: from credentials to a token of the connection (Spec amqp §1.2, §5).

use std::sync::Arc;

use holdfast_amqp::message::Request;
use holdfast_auth::bearer::bearer_text;
use holdfast_auth::{Grant, Policy, Rights, SasRefusal, SasToken, SaslUser, verify_policy_key};
use holdfast_model::{ErrorCode, RefusalReason};

use crate::tokens::check;
use crate::{Authority, Refused, Tokens, TooManyTokens};

/// Whether the registry's leader has confirmed that the local replica is up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// The leader has not been asked: a refusal that a stale replica could cause has to wait.
    Local,
    /// The leader has confirmed that the replica is up to date.
    Confirmed,
    /// The leader could not be asked.
    Unconfirmed,
}

/// The decision about credentials.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are valid, and the token is kept.
    Accepted,
    /// They are not valid.
    Refused(Refused),
    /// The registry's leader must confirm the refusal first.
    NeedsConfirmation,
}

/// Decides about a put-token request.
pub(crate) fn put_token(
    authority: &dyn Authority,
    tokens: &mut Tokens,
    request: &Request<'_>,
    certainty: Certainty,
) -> Verdict {
    if request.operation != Some("put-token") {
        let text = "The operation of a request to $cbs must be put-token.";
        return Verdict::Refused(Refused::new(ErrorCode::InvalidOperation, text));
    }
    match request.text {
        Some(token) => present(authority, tokens, token, certainty),
        None => Verdict::Refused(Refused::credentials(RefusalReason::Missing)),
    }
}

/// Decides about user and password of SASL PLAIN. The user names a policy; the password is a token signed with its key,
/// or the key itself, as generic AMQP clients of Event Hubs send it (Spec amqp §1.2).
pub(crate) fn plain(
    authority: &dyn Authority,
    tokens: &mut Tokens,
    user: &str,
    password: &str,
    certainty: Certainty,
) -> Verdict {
    let named = match SaslUser::parse(user) {
        Some(SaslUser::Policy { name, .. }) => name,
        Some(SaslUser::Identity { .. }) => return Verdict::Refused(no_devices()),
        None => return Verdict::Refused(Refused::credentials(RefusalReason::Malformed)),
    };
    if !authority.accepts_policies() {
        return Verdict::Refused(Refused::credentials(RefusalReason::SasDisabled));
    }
    match SasToken::parse(password) {
        Ok(token) if token.policy().is_some_and(|policy| !policy.eq_ignore_ascii_case(named)) => {
            Verdict::Refused(Refused::credentials(RefusalReason::IdentityMismatch))
        }
        // A key contains no space, and a token begins with a word and a space.
        Err(_) if !password.is_empty() && !password.contains(' ') => {
            present_key(authority, tokens, named, password, certainty)
        }
        _ => present(authority, tokens, password, certainty),
    }
}

/// Checks a policy's key, and keeps a token for the whole hub that does not expire if it is valid.
fn present_key(
    authority: &dyn Authority,
    tokens: &mut Tokens,
    named: &str,
    key: &str,
    certainty: Certainty,
) -> Verdict {
    let policy = authority.policy(named);
    let Some(host) = authority.host_names().primary() else {
        return Verdict::Refused(Refused::busy("The hub has no name yet."));
    };
    let checked = verify_policy_key(key, policy.as_deref(), Rights::SERVICE_CONNECT);
    keep(tokens, host, policy.as_deref(), named, checked, certainty)
}

/// The server has no handler of devices.
pub(crate) fn no_devices() -> Refused {
    Refused::new(
        ErrorCode::FeatureNotSupported,
        "This endpoint takes no tokens of devices.",
    )
}

/// Checks a token and keeps it if it is valid.
pub fn present(authority: &dyn Authority, tokens: &mut Tokens, token: &str, certainty: Certainty) -> Verdict {
    let refuse = |reason| Verdict::Refused(Refused::credentials(reason));
    if let Some(bearer) = bearer_text(token) {
        return present_bearer(authority, tokens, bearer, certainty);
    }
    let token = match SasToken::parse(token) {
        Ok(token) => token,
        Err(refusal) => return refuse(refusal.reason()),
    };
    let Some(name) = token.policy() else {
        return Verdict::Refused(no_devices());
    };
    if !authority.accepts_policies() {
        return refuse(RefusalReason::SasDisabled);
    }
    let policy: Option<Arc<Policy>> = authority.policy(name);
    let checked = check(&token, policy.as_deref(), authority.host_names(), authority.now());
    keep(tokens, token.resource(), policy.as_deref(), name, checked, certainty)
}

/// Checks a bearer token and keeps its principal if it is valid. Whether that may do anything is decided link by link.
fn present_bearer(authority: &dyn Authority, tokens: &mut Tokens, bearer: &str, certainty: Certainty) -> Verdict {
    match authority.bearer(bearer) {
        Ok(principal) => kept(tokens.put_principal(&principal)),
        // The issuer may have new keys, which are being fetched.
        Err(refusal) if refusal.needs_newer_keys() && certainty == Certainty::Local => Verdict::NeedsConfirmation,
        Err(refusal) => Verdict::Refused(Refused::bearer(refusal)),
    }
}

fn kept(put: Result<(), TooManyTokens>) -> Verdict {
    match put {
        Ok(()) => Verdict::Accepted,
        Err(TooManyTokens) => {
            let text = "The connection has as many tokens as one connection can have.";
            Verdict::Refused(Refused::new(ErrorCode::IotHubMaxCbsTokenExceeded, text))
        }
    }
}

/// Keeps a token for `resource` if the check has granted it; `name` is the policy as the client spells it.
fn keep(
    tokens: &mut Tokens,
    resource: &str,
    policy: Option<&Policy>,
    name: &str,
    checked: Result<Grant, SasRefusal>,
    certainty: Certainty,
) -> Verdict {
    let refuse = |reason| Verdict::Refused(Refused::credentials(reason));
    match checked {
        Ok(grant) => {
            let name = policy.map_or(name, |policy| policy.name.as_str());
            kept(tokens.put(resource, name, &grant))
        }
        Err(refusal) if refusal.reason().needs_confirmation() => match certainty {
            Certainty::Local => Verdict::NeedsConfirmation,
            Certainty::Confirmed => refuse(refusal.reason()),
            Certainty::Unconfirmed => refuse(RefusalReason::Unconfirmed),
        },
        Err(refusal) => refuse(refusal.reason()),
    }
}
