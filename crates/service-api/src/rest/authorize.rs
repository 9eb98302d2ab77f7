//! Authentication and authorization of callers (Spec auth-and-limits §1, §2, rest §1.2).
//!
//! Invariants: a caller whose credential is not accepted learns only what its own token contains; a refusal that a stale
//! replica could cause is sent only after the registry's leader has confirmed the replica (docs/architecture.md).

use holdfast_auth::bearer::{Action, BearerRefusal, bearer_text};
use holdfast_auth::{HubNames, ResourcePath, Rights, SasRefusal, SasToken, verify, verify_policy};
use holdfast_model::{DeviceId, ErrorCode, IdentityId, ModuleId, RefusalReason, UnixMillis};
use holdfast_oidc::Issuer;
use holdfast_registry::{Authentication, Registry};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::error::ApiError;
use super::route::IdentityPath;
use super::timestamps;

/// The data for checking a credential.
pub(super) struct Check<'a> {
    pub(super) registry: &'a Registry,
    pub(super) hub_names: &'a HubNames,
    /// The issuer of bearer tokens, if there is one.
    pub(super) issuer: Option<&'a Issuer>,
    /// Whether tokens of policies are accepted.
    pub(super) accepts_policies: bool,
    pub(super) now: UnixMillis,
    pub(super) method: &'a str,
    /// The request's path, decoded.
    pub(super) segments: &'a [String],
    /// The right that a policy needs; [`Rights::NONE`] where any valid token suffices.
    pub(super) right: Rights,
    /// The actions that the roles of a principal must open, all of them; `None`: no bearer token suffices.
    pub(super) actions: Option<&'a [Action]>,
    /// The identity whose own key is accepted too.
    pub(super) device_side: Option<&'a IdentityPath>,
}

/// A caller with valid credentials and the right.
#[derive(Debug)]
pub(super) struct Authorized {
    /// For the audit log.
    pub(super) principal: String,
    /// Whether it may have the keys of policies.
    pub(super) sees_policy_keys: bool,
}

/// A caller without valid credentials or without the right.
#[derive(Debug)]
pub(super) struct Denied {
    /// For the audit log.
    pub(super) principal: String,
    pub(super) reason: RefusalReason,
    pub(super) error: ApiError,
}

/// Checks the `Authorization` header.
pub(super) async fn authorize(headers: &HeaderMap, check: &Check<'_>) -> Result<Authorized, Box<Denied>> {
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Err(denied("nobody", RefusalReason::Missing, "Authorization header missing"));
    };
    let Ok(text) = header.to_str() else {
        return Err(denied(
            "nobody",
            RefusalReason::Malformed,
            "the Authorization header is not ASCII text",
        ));
    };
    if let Some(bearer) = bearer_text(text) {
        return by_bearer(bearer, check).await;
    }
    let token = SasToken::parse(text).map_err(|refusal| sas_denied("unreadable token", refusal))?;
    match check_token(&token, check) {
        Err(denied) if denied.reason.needs_confirmation() => {
            if let Err(error) = check.registry.read_barrier().await {
                let reason = RefusalReason::Unconfirmed;
                return Err(Box::new(Denied {
                    reason,
                    error: error.into(),
                    ..*denied
                }));
            }
            check_token(&token, check)
        }
        outcome => outcome,
    }
}

fn check_token(token: &SasToken<'_>, check: &Check<'_>) -> Result<Authorized, Box<Denied>> {
    match (token.policy(), check.device_side) {
        (None, Some(device_side)) => by_own_key(token, check, device_side),
        (name, _) => by_policy(token, name, check),
    }
}

/// A bearer token: valid first, then its roles.
async fn by_bearer(bearer: &str, check: &Check<'_>) -> Result<Authorized, Box<Denied>> {
    let checked = match check.issuer {
        Some(issuer) => issuer.check_with_newest(bearer, check.now).await,
        None => Err(BearerRefusal::NoIssuer),
    };
    let found = checked.map_err(bearer_denied)?;
    let principal = format!("bearer {}", found.name);
    let opens = |actions: &[Action]| !found.roles.is_empty() && actions.iter().all(|action| found.roles.allow(*action));
    if !check.actions.is_some_and(opens) {
        let path: String = check.segments.join("/").chars().take(MAX_PATH_CHARS).collect();
        let text = format!(
            "Principal {} is not authorized for {} on /{path} due to no assigned permissions",
            found.name, check.method
        );
        return Err(denied(&principal, RefusalReason::Right, &text));
    }
    Ok(Authorized {
        principal,
        sees_policy_keys: found.roles.allow(Action::POLICIES_LIST_KEYS),
    })
}

fn bearer_denied(refusal: BearerRefusal) -> Box<Denied> {
    // Both times, so that the caller can compare clocks.
    let times = |at, now| (timestamps::iso(Some(at)), timestamps::iso(Some(now)));
    let text = match refusal {
        BearerRefusal::Expired { at, now } => {
            let (at, now) = times(at, now);
            format!("the token expired at {at}, the hub's time is {now}")
        }
        BearerRefusal::NotYet { at, now } => {
            let (at, now) = times(at, now);
            format!("the token is good from {at} on, the hub's time is {now}")
        }
        refusal => refusal.to_string(),
    };
    denied("bearer", refusal.reason(), &text)
}

fn by_policy(token: &SasToken<'_>, name: Option<&str>, check: &Check<'_>) -> Result<Authorized, Box<Denied>> {
    let principal = match name {
        Some(name) => format!("policy {}", name.chars().take(64).collect::<String>()),
        None => "token without policy".to_owned(),
    };
    if !check.accepts_policies {
        return Err(denied(&principal, RefusalReason::SasDisabled, POLICIES_OFF_TEXT));
    }
    let resource: ResourcePath<'_> = check.segments.iter().map(String::as_str).collect();
    let policy = name.and_then(|name| check.registry.policy(name));
    verify_policy(
        token,
        &resource,
        policy.as_deref(),
        check.right,
        check.hub_names,
        check.now,
    )
    .map_err(|refusal| sas_denied(&principal, refusal))?;
    Ok(Authorized {
        principal,
        sees_policy_keys: policy.is_some_and(|policy| policy.rights.contains(Rights::ALL)),
    })
}

fn by_own_key(token: &SasToken<'_>, check: &Check<'_>, path: &IdentityPath) -> Result<Authorized, Box<Denied>> {
    let principal = "device key";
    let unknown = |reason| denied(principal, reason, SIGNATURE_TEXT);
    let id = DeviceId::parse(&path.device)
        .ok()
        .and_then(|device| match &path.module {
            None => Some(IdentityId::device(device)),
            Some(module) => Some(IdentityId::module(device, ModuleId::parse(module).ok()?)),
        });
    let id = id.ok_or_else(|| unknown(RefusalReason::UnknownIdentity))?;
    let identity = match check.registry.identity(&id) {
        Ok(Some(identity)) => identity,
        Ok(None) => return Err(unknown(RefusalReason::UnknownIdentity)),
        Err(error) => {
            let reason = RefusalReason::Unconfirmed;
            return Err(Box::new(Denied {
                principal: principal.to_owned(),
                reason,
                error: error.into(),
            }));
        }
    };
    let Authentication::Sas(keys) = &identity.authentication else {
        return Err(unknown(RefusalReason::AuthType));
    };
    verify(token, &ResourcePath::identity(&id), keys, check.hub_names, check.now)
        .map_err(|refusal| sas_denied(principal, refusal))?;
    if !identity.is_enabled() {
        return Err(unknown(RefusalReason::Disabled));
    }
    Ok(Authorized {
        principal: format!("identity {id}"),
        sees_policy_keys: false,
    })
}

/// Longest path in an error text, in characters.
const MAX_PATH_CHARS: usize = 128;

const POLICIES_OFF_TEXT: &str = "tokens of shared access policies are switched off on this hub (auth.service.shared_policies): use a bearer token of its \
                                 issuer";

/// The same text for a policy that does not exist, a wrong key and an unknown device.
const SIGNATURE_TEXT: &str = "the token's policy, identity or signature is not valid";

fn sas_denied(principal: &str, refusal: SasRefusal) -> Box<Denied> {
    let text = match refusal {
        SasRefusal::UnknownPolicy | SasRefusal::Signature => SIGNATURE_TEXT.to_owned(),
        // Both times, so that the caller can compare clocks.
        SasRefusal::Expired { at, now } => {
            let (at, now) = (timestamps::iso(Some(at)), timestamps::iso(Some(now)));
            format!("the token expired at {at}, the hub's time is {now}")
        }
        SasRefusal::Right(right) => format!("Authorization rule does not allow access, missing right {right}"),
        refusal => refusal.to_string(),
    };
    let error = ApiError::new(refusal.code(), text);
    Box::new(Denied {
        principal: principal.to_owned(),
        reason: refusal.reason(),
        error,
    })
}

fn denied(principal: &str, reason: RefusalReason, text: &str) -> Box<Denied> {
    let error = ApiError::new(reason.code(), text);
    Box::new(Denied {
        principal: principal.to_owned(),
        reason,
        error,
    })
}

/// The refusal of a call without api-version, for the audit log.
pub(super) fn wrong_version(text: String) -> ApiError {
    ApiError::new(ErrorCode::InvalidProtocolVersion, text)
}
