//! `$cbs` put-token and SASL PLAIN: from credentials to a token of the connection (Spec amqp §1.2, §5).

use std::sync::Arc;

use holdfast_amqp::message::Request;
use holdfast_auth::{Policy, SasToken, SaslUser};
use holdfast_device_hub::DeviceHub;
use holdfast_model::{ErrorCode, RefusalReason, UnixMillis};

use super::refusal::Refused;
use super::tokens::{Tokens, TooManyTokens, check};

/// Whether the registry's leader has confirmed that the local replica is up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certainty {
    /// The leader has not been asked: a refusal that a stale replica could cause has to wait.
    Local,
    /// The leader has confirmed that the replica is up to date.
    Confirmed,
    /// The leader could not be asked.
    Unconfirmed,
}

/// The decision about credentials.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They are valid, and the token is kept.
    Accepted,
    /// They are not valid.
    Refused(Refused),
    /// The registry's leader must confirm the refusal first.
    NeedsConfirmation,
}

/// Decides about a put-token request.
pub(super) fn put_token(
    hub: &DeviceHub,
    tokens: &mut Tokens,
    request: &Request<'_>,
    certainty: Certainty,
    now: UnixMillis,
) -> Verdict {
    if request.operation != Some("put-token") {
        let text = "The operation of a request to $cbs must be put-token.";
        return Verdict::Refused(Refused::new(ErrorCode::InvalidOperation, text));
    }
    match request.text {
        Some(token) => present(hub, tokens, token, certainty, now),
        None => Verdict::Refused(Refused::credentials(RefusalReason::Missing)),
    }
}

/// Decides about user and password of SASL PLAIN: the password is a whole token, the user must be its policy.
pub(super) fn plain(
    hub: &DeviceHub,
    tokens: &mut Tokens,
    user: &str,
    password: &str,
    certainty: Certainty,
    now: UnixMillis,
) -> Verdict {
    let named = match SaslUser::parse(user) {
        Some(SaslUser::Policy { name, .. }) => name,
        Some(SaslUser::Identity { .. }) => return Verdict::Refused(no_devices()),
        None => return Verdict::Refused(Refused::credentials(RefusalReason::Malformed)),
    };
    let signed_by = SasToken::parse(password)
        .ok()
        .and_then(|token| token.policy().map(str::to_owned));
    if signed_by.is_some_and(|policy| !policy.eq_ignore_ascii_case(named)) {
        return Verdict::Refused(Refused::credentials(RefusalReason::IdentityMismatch));
    }
    present(hub, tokens, password, certainty, now)
}

/// This version serves devices over MQTT only.
fn no_devices() -> Refused {
    Refused::new(
        ErrorCode::FeatureNotSupported,
        "Devices cannot connect over AMQP to this version of the hub.",
    )
}

/// Checks a token and keeps it if it is valid.
pub(super) fn present(
    hub: &DeviceHub,
    tokens: &mut Tokens,
    token: &str,
    certainty: Certainty,
    now: UnixMillis,
) -> Verdict {
    let refuse = |reason| Verdict::Refused(Refused::credentials(reason));
    let token = match SasToken::parse(token) {
        Ok(token) => token,
        Err(refusal) => return refuse(refusal.reason()),
    };
    let Some(name) = token.policy() else {
        return Verdict::Refused(no_devices());
    };
    let policy: Option<Arc<Policy>> = hub.registry().policy(name);
    match check(&token, policy.as_deref(), hub.hub_names(), now) {
        Ok(grant) => {
            let name = policy.as_ref().map_or(name, |policy| policy.name.as_str());
            match tokens.put(token.resource(), name, &grant) {
                Ok(()) => Verdict::Accepted,
                Err(TooManyTokens) => {
                    let text = "The connection has as many tokens as one connection can have.";
                    Verdict::Refused(Refused::new(ErrorCode::IotHubMaxCbsTokenExceeded, text))
                }
            }
        }
        Err(refusal) if refusal.reason().needs_confirmation() => match certainty {
            Certainty::Local => Verdict::NeedsConfirmation,
            Certainty::Confirmed => refuse(refusal.reason()),
            Certainty::Unconfirmed => refuse(RefusalReason::Unconfirmed),
        },
        Err(refusal) => refuse(refusal.reason()),
    }
}
