//! Refusals: the error for the peer, and the record in the audit log (Spec amqp §4.2, §9).

use holdfast_amqp::{Fault, InfoValue};
use holdfast_auth::bearer::{Action, BearerRefusal};
use holdfast_model::{ErrorCode, RefusalReason, UnixMillis, round_trip};

use crate::Authority;

/// The condition of a receiver that another one with an epoch keeps out.
pub const LINK_STOLEN: &str = "amqp:link:stolen";

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The condition of the error.
    pub condition: &'static str,
    /// Its number in the error catalogue.
    pub code: ErrorCode,
    /// The text for the client, without the tracking id.
    pub text: String,
    /// Why the credentials did not suffice, if they are the cause.
    pub reason: Option<RefusalReason>,
}

impl Refused {
    /// With the catalogue's condition for the number.
    #[must_use]
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            condition: code.amqp_condition(),
            code,
            text: text.into(),
            reason: None,
        }
    }

    /// With another condition than the catalogue's, where Event Hubs has one of its own.
    #[must_use]
    pub fn with_condition(self, condition: &'static str) -> Self {
        Self { condition, ..self }
    }

    /// Credentials that are missing, wrong or too weak. The text names no policy and no key.
    #[must_use]
    pub fn credentials(reason: RefusalReason) -> Self {
        let text = match reason {
            RefusalReason::Expired => "ExpiredToken: The token is expired.",
            RefusalReason::Malformed => "MalformedToken: The token cannot be read.",
            RefusalReason::Host => "InvalidAudience: The token is for another host.",
            RefusalReason::Scope => "InvalidAudience: The token does not cover this address.",
            RefusalReason::Right => "Unauthorized access. 'Listen' claim(s) are required to perform this operation.",
            RefusalReason::SasDisabled => {
                "PoliciesDisabled: Tokens and keys of shared access policies are switched off (auth.service.shared_policies). Use a bearer token of the hub's issuer."
            }
            RefusalReason::Unconfirmed | RefusalReason::Draining => {
                "The hub cannot check credentials at the moment. Please try again."
            }
            _ => "InvalidSignature: The token has an invalid signature, or there is none.",
        };
        Self::by_reason(reason, text)
    }

    /// A bearer token that is not accepted. The text repeats nothing of the token but its times.
    #[must_use]
    pub fn bearer(refusal: BearerRefusal) -> Self {
        let class = match refusal {
            BearerRefusal::Expired { .. } => "ExpiredToken",
            BearerRefusal::Malformed(_) => "MalformedToken",
            BearerRefusal::Audience => "InvalidAudience",
            BearerRefusal::Signature => "InvalidSignature",
            _ => "InvalidToken",
        };
        Self::by_reason(refusal.reason(), format!("{class}: {refusal}."))
    }

    /// A principal without a role that opens `action`, in the words of Azure.
    #[must_use]
    pub fn without_role(principal: &str, action: Action, address: &str) -> Self {
        let address: String = address.chars().take(256).collect();
        let action = action.name();
        let text = format!(
            "Principal {principal} is not authorized for {action} on {address} due to no assigned permissions."
        );
        Self::by_reason(RefusalReason::Right, text)
    }

    fn by_reason(reason: RefusalReason, text: impl Into<String>) -> Self {
        let refused = Self {
            reason: Some(reason),
            ..Self::new(reason.code(), text)
        };
        match reason {
            RefusalReason::Unconfirmed | RefusalReason::Draining => refused.with_condition("com.microsoft:server-busy"),
            _ => refused.with_condition("amqp:unauthorized-access"),
        }
    }

    /// An entity that does not exist. Clients match on this wording.
    #[must_use]
    pub fn no_entity(host: &str, path: &str) -> Self {
        let text = format!("The messaging entity 'sb://{host}/{path}' could not be found.");
        Self::new(ErrorCode::AmqpAddressNotFound, text)
    }

    /// An address that names nothing. The text repeats the client's, truncated so that it cannot fill a frame.
    #[must_use]
    pub fn no_address(authority: &dyn Authority, address: &str) -> Self {
        let host = authority.host_names().primary().unwrap_or_default();
        let path = address
            .split_once("://")
            .map_or(address, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
        let path: String = path.trim_start_matches('/').chars().take(256).collect();
        Self::no_entity(host, &path)
    }

    /// A request that the hub cannot serve now.
    #[must_use]
    pub fn busy(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::ServiceUnavailable, text).with_condition("com.microsoft:server-busy")
    }

    /// Whether the hub is sure: a client may try a refusal that is not again with the same credentials.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        !matches!(
            self.reason,
            Some(
                RefusalReason::Unconfirmed
                    | RefusalReason::Draining
                    | RefusalReason::Throttled
                    | RefusalReason::CrlEnded
            )
        )
    }

    /// The status code of a response.
    #[must_use]
    pub fn status(&self) -> i32 {
        match self.reason {
            Some(RefusalReason::Right) => 403,
            // A put-token without a readable token is a malformed request.
            Some(RefusalReason::Malformed | RefusalReason::Missing) => 400,
            _ => i32::from(self.code.http_status()),
        }
    }

    /// Builds the error for the wire and passes it to `build`.
    pub(crate) fn with_fault<R>(&self, hub: &str, now: UnixMillis, build: impl FnOnce(&Fault<'_>) -> R) -> R {
        let tracking = Tracking::new(hub, now);
        let text = tracking.text(&self.text);
        let code = i32::try_from(self.code.number()).unwrap_or_default();
        let info = [
            ("com.microsoft:tracking-id", InfoValue::Text(tracking.id.as_str())),
            ("com.microsoft:error-code", InfoValue::Int(code)),
        ];
        let fault = Fault::new(self.condition, &text);
        // Event Hubs sends no info with this one (Spec amqp §8.3).
        if self.condition == LINK_STOLEN {
            return build(&fault);
        }
        build(&fault.with_info(&info))
    }
}

/// The suffix that Event Hubs appends to every text: it identifies the line in the log.
#[derive(Debug)]
pub(crate) struct Tracking {
    id: String,
    suffix: String,
}

impl Tracking {
    pub(crate) fn new(hub: &str, now: UnixMillis) -> Self {
        let id = format!("{:032x}_G0", rand::random::<u128>());
        let suffix = format!(" TrackingId:{id}, SystemTracker:{hub}, Timestamp:{}", utc(now));
        Self { id, suffix }
    }

    pub(crate) fn text(&self, text: &str) -> String {
        format!("{text}{}", self.suffix)
    }
}

fn utc(time: UnixMillis) -> String {
    let mut text = i64::try_from(time.0).ok().and_then(round_trip).unwrap_or_default();
    text.truncate("2023-11-14T22:13:20".len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_condition_text_tracking_id_and_number() {
        let refused = Refused::no_entity("hub.example", "other");
        refused.with_fault("hub", UnixMillis(1_700_000_000_000), |fault| {
            assert_eq!(fault.condition, "amqp:not-found");
            let text = fault.description.unwrap();
            assert!(text.starts_with("The messaging entity 'sb://hub.example/other' could not be found. TrackingId:"));
            assert!(
                text.ends_with("_G0, SystemTracker:hub, Timestamp:2023-11-14T22:13:20"),
                "{text}"
            );
            assert_eq!(fault.info[1], ("com.microsoft:error-code", InfoValue::Int(404_006)));
        });
        assert_eq!(refused.status(), 404);
    }

    #[test]
    fn statuses_of_put_token_are_those_that_clients_know() {
        for (reason, status) in [
            (RefusalReason::Malformed, 400),
            (RefusalReason::Signature, 401),
            (RefusalReason::Expired, 401),
            (RefusalReason::UnknownPolicy, 401),
            (RefusalReason::Right, 403),
            (RefusalReason::Unconfirmed, 503),
        ] {
            assert_eq!(Refused::credentials(reason).status(), status, "{reason}");
        }
    }

    #[test]
    fn every_number_that_is_sent_has_its_help() {
        for code in [ErrorCode::AmqpAddressNotFound, ErrorCode::ServiceUnavailable] {
            assert!(code.is_sent());
        }
    }
}
