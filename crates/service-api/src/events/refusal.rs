//! Refusals: the error for the peer, and the record in the audit log (Spec amqp §4.2, §9).

use std::net::SocketAddr;

use holdfast_amqp::{Fault, InfoValue};
use holdfast_device_hub::{DeviceHub, Operation, Protocol, Refusal, RefusedRequest};
use holdfast_model::{ErrorCode, RefusalReason, UnixMillis};
use time::OffsetDateTime;
use time::macros::format_description;

use super::metrics::Metrics;

/// The condition of a receiver that another one with an epoch keeps out.
pub(super) const LINK_STOLEN: &str = "amqp:link:stolen";

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// The condition of the error.
    pub(super) condition: &'static str,
    /// Its number in the error catalogue.
    pub(super) code: ErrorCode,
    /// The text for the client, without the tracking id.
    pub(super) text: String,
    /// Why the credentials did not suffice, if they are the cause.
    pub(super) reason: Option<RefusalReason>,
}

impl Refused {
    /// With the catalogue's condition for the number.
    pub(super) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            condition: code.amqp_condition(),
            code,
            text: text.into(),
            reason: None,
        }
    }

    /// With another condition than the catalogue's, where Event Hubs has one of its own.
    pub(super) fn with_condition(self, condition: &'static str) -> Self {
        Self { condition, ..self }
    }

    /// Credentials that are missing, wrong or too weak. The text names no policy and no key.
    pub(super) fn credentials(reason: RefusalReason) -> Self {
        let text = match reason {
            RefusalReason::Expired => "ExpiredToken: The token is expired.",
            RefusalReason::Malformed => "MalformedToken: The token cannot be read.",
            RefusalReason::Host => "InvalidAudience: The token is for another host.",
            RefusalReason::Scope => "InvalidAudience: The token does not cover this address.",
            RefusalReason::Right => "Unauthorized access. 'Listen' claim(s) are required to perform this operation.",
            RefusalReason::Unconfirmed | RefusalReason::Draining => {
                "The hub cannot check credentials at the moment. Please try again."
            }
            _ => "InvalidSignature: The token has an invalid signature, or there is none.",
        };
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
    pub(super) fn no_entity(host: &str, path: &str) -> Self {
        let text = format!("The messaging entity 'sb://{host}/{path}' could not be found.");
        Self::new(ErrorCode::AmqpAddressNotFound, text)
    }

    /// A request that the hub cannot serve now.
    pub(super) fn busy(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::ServiceUnavailable, text).with_condition("com.microsoft:server-busy")
    }

    /// The status code of a response.
    pub(super) fn status(&self) -> i32 {
        match self.reason {
            Some(RefusalReason::Right) => 403,
            // A put-token without a readable token is a malformed request.
            Some(RefusalReason::Malformed | RefusalReason::Missing) => 400,
            _ => i32::from(self.code.http_status()),
        }
    }

    /// Builds the error for the wire and passes it to `build`.
    pub(super) fn with_fault<R>(&self, hub: &str, now: UnixMillis, build: impl FnOnce(&Fault<'_>) -> R) -> R {
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
pub(super) struct Tracking {
    id: String,
    suffix: String,
}

impl Tracking {
    pub(super) fn new(hub: &str, now: UnixMillis) -> Self {
        let id = format!("{:032x}_G0", rand::random::<u128>());
        let suffix = format!(" TrackingId:{id}, SystemTracker:{hub}, Timestamp:{}", utc(now));
        Self { id, suffix }
    }

    pub(super) fn text(&self, text: &str) -> String {
        format!("{text}{}", self.suffix)
    }
}

fn utc(time: UnixMillis) -> String {
    let seconds = i64::try_from(time.seconds()).unwrap_or_default();
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(format).ok())
        .unwrap_or_default()
}

/// The refused principal, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct RefusedPrincipal<'a> {
    /// The policy that has authenticated, or principal the client claims to be.
    pub(super) identity: &'a str,
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
}

/// Counts the refusal and writes it to the audit log.
pub(super) fn audit(
    hub: &DeviceHub,
    metrics: &Metrics,
    principal: RefusedPrincipal<'_>,
    refused: &Refused,
    now: UnixMillis,
) {
    metrics.refused(refused.code);
    match refused.reason {
        Some(reason) => hub.audit().refused_identity(
            Operation::ReadEvents,
            principal.identity,
            principal.protocol,
            principal.address,
            Refusal {
                code: refused.code,
                reason,
            },
            now,
        ),
        None => hub.audit().refused_request(
            &RefusedRequest {
                operation: Operation::ReadEvents,
                identity: principal.identity,
                protocol: principal.protocol,
                address: principal.address,
                code: refused.code,
                reason: refused.condition,
                text: &refused.text,
            },
            now,
        ),
    }
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
