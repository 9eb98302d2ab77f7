//! The hub's refusals and ends of sessions as errors of AMQP (Spec amqp §9).

use holdfast_amqp_server::Refused;
use holdfast_device_hub::{CloseReason, Refusal};
use holdfast_model::{ErrorCode, RefusalReason};

/// The error for a credential or session that the hub refuses.
pub(super) fn of_refusal(refusal: Refusal) -> Refused {
    let reason = refusal.reason;
    let text = match reason {
        RefusalReason::Expired => "ExpiredToken: The token is expired.".into(),
        RefusalReason::Malformed => "MalformedToken: The token cannot be read.".into(),
        RefusalReason::Host => "InvalidAudience: The token is for another host.".into(),
        RefusalReason::Scope => "InvalidAudience: The token does not cover this address.".into(),
        RefusalReason::Missing => "No token covers this address: put one to $cbs first.".into(),
        RefusalReason::Unconfirmed | RefusalReason::Draining | RefusalReason::CrlEnded => {
            "The hub cannot open a session at the moment; connect again.".into()
        }
        RefusalReason::Throttled | RefusalReason::InjectedFault => format!("{}.", refusal.code.meaning()),
        // An identity that does not exist must look like one with other credentials.
        _ => "Unauthorized: The credential does not open this address.".to_owned(),
    };
    let condition = match reason {
        RefusalReason::Unconfirmed
        | RefusalReason::Draining
        | RefusalReason::CrlEnded
        | RefusalReason::Throttled
        | RefusalReason::InjectedFault => refusal.code.amqp_condition(),
        _ => "amqp:unauthorized-access",
    };
    Refused {
        reason: Some(reason),
        ..Refused::new(refusal.code, text).with_condition(condition)
    }
}

/// The error with which the links of an identity are detached whose session the hub ends, and the reason in the audit log;
/// none when the node stops.
pub(super) fn of_end(end: CloseReason) -> (Refused, Option<RefusalReason>) {
    let reason = match end {
        CloseReason::TakenOver => RefusalReason::Superseded,
        CloseReason::TokenExpired => RefusalReason::Expired,
        CloseReason::CertificateExpired => RefusalReason::CertificateTime,
        CloseReason::Revoked => RefusalReason::Revoked,
        CloseReason::CertificateRevoked => RefusalReason::CertificateRevoked,
        CloseReason::Unavailable => RefusalReason::Unconfirmed,
        CloseReason::Stopping => {
            let text = "The node is stopping; connect again.";
            return (Refused::new(ErrorCode::ServiceUnavailable, text), None);
        }
    };
    let refused = match end {
        CloseReason::TakenOver => Refused::new(
            ErrorCode::LinkCreationConflict,
            "Another connection of the same identity has taken the place of this one.",
        ),
        CloseReason::Unavailable => Refused::new(
            ErrorCode::ServiceUnavailable,
            "A message could not be stored, or the hub cannot check credentials; connect again.",
        ),
        CloseReason::TokenExpired => of_refusal(Refusal::new(reason)),
        _ => Refused {
            reason: Some(reason),
            ..Refused::new(reason.code(), "Unauthorized: The credential is not valid any more.")
                .with_condition("amqp:unauthorized-access")
        },
    };
    (refused, Some(reason))
}
