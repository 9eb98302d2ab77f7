//! Publish topics of devices and modules.

use holdfast_model::IdentityId;

use super::{RequestId, Version, own, request, write_own};
use crate::escape::append;
use crate::violation::Violation;

/// A parsed publish topic of a device or module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceTopic<'a> {
    /// Telemetry: `devices/{d}[/modules/{m}]/messages/events/{bag}`.
    Events {
        /// For [`crate::bag::parse`]; raw, may be empty.
        bag: &'a str,
    },
    /// `$iothub/twin/GET/?$rid=X`; its payload is ignored.
    TwinGet {
        /// Echoed in the reply.
        rid: RequestId<'a>,
    },
    /// `$iothub/twin/PATCH/properties/reported/?$rid=X[&$version=N]`.
    TwinPatch {
        /// Echoed in the reply; without it the patch is applied and not answered.
        rid: Option<RequestId<'a>>,
        /// Apply only if the reported properties still have this version.
        version: Option<Version>,
    },
    /// `$iothub/methods/res/{status}/?$rid=X`.
    MethodResponse {
        /// The application's own status.
        status: i32,
        /// The id of the call.
        rid: RequestId<'a>,
    },
    /// `$iothub/credentials/POST/issueCertificate/?$rid=X` (Spec provisioning §11.5).
    IssueCertificate {
        /// Echoed in the replies.
        rid: RequestId<'a>,
    },
}

const TWIN_GET: &str = "$iothub/twin/GET";
const TWIN_PATCH: &str = "$iothub/twin/PATCH/properties/reported";
const METHOD_RESPONSE: &str = "$iothub/methods/res/";
const ISSUE_CERTIFICATE: &str = "$iothub/credentials/POST/issueCertificate";

impl<'a> DeviceTopic<'a> {
    /// Parses the topic of a PUBLISH that `identity` sent.
    ///
    /// # Errors
    /// [`Violation::ForeignTopic`] for topics of other identities and unknown ones, [`Violation::WildcardInTopic`] for
    /// those with `+` or `#` outside the own id and the bag, and one variant per broken rule of a request's tail.
    #[inline]
    pub fn parse(identity: &IdentityId, topic: &'a str) -> Result<Self, Violation> {
        match events_bag(identity, topic) {
            Some(bag) => Ok(Self::Events { bag }),
            None => Self::parse_request(topic),
        }
    }

    fn parse_request(topic: &'a str) -> Result<Self, Violation> {
        if topic.contains(['+', '#']) {
            return Err(Violation::WildcardInTopic);
        }
        if let Some(tail) = after(topic, TWIN_GET) {
            return Ok(Self::TwinGet {
                rid: request::parse(tail)?.require_rid()?,
            });
        }
        if let Some(tail) = after(topic, TWIN_PATCH) {
            let tail = request::parse(tail)?;
            return Ok(Self::TwinPatch {
                rid: tail.rid,
                version: tail.version,
            });
        }
        if let Some(rest) = topic.strip_prefix(METHOD_RESPONSE) {
            let (status, tail) = rest.split_once('/').ok_or(Violation::RequestIdMissing)?;
            let status = status.parse().map_err(|_| Violation::MethodStatus)?;
            return Ok(Self::MethodResponse {
                status,
                rid: request::parse(tail)?.require_rid()?,
            });
        }
        if let Some(tail) = after(topic, ISSUE_CERTIFICATE) {
            return Ok(Self::IssueCertificate {
                rid: request::parse(tail)?.require_rid()?,
            });
        }
        Err(Violation::ForeignTopic)
    }

    /// Appends the topic as a client of this identity publishes it.
    pub fn write(&self, identity: &IdentityId, out: &mut String) {
        match *self {
            Self::Events { bag } => {
                write_own(identity, out);
                out.push_str("/messages/events/");
                out.push_str(bag);
            }
            Self::TwinGet { rid } => {
                out.push_str(TWIN_GET);
                out.push('/');
                request::write(out, rid, None);
            }
            Self::TwinPatch { rid, version } => {
                out.push_str(TWIN_PATCH);
                out.push('/');
                match (rid, version) {
                    (Some(rid), version) => request::write(out, rid, version),
                    (None, Some(version)) => append(out, format_args!("?$version={version}")),
                    (None, None) => {}
                }
            }
            Self::MethodResponse { status, rid } => {
                append(out, format_args!("{METHOD_RESPONSE}{status}/"));
                request::write(out, rid, None);
            }
            Self::IssueCertificate { rid } => {
                out.push_str(ISSUE_CERTIFICATE);
                out.push('/');
                request::write(out, rid, None);
            }
        }
    }
}

/// The bag of the identity's own telemetry topic, with or without the final `/`.
#[inline]
fn events_bag<'a>(identity: &IdentityId, topic: &'a str) -> Option<&'a str> {
    let rest = own(identity, topic)?.strip_prefix("/messages/events")?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_prefix('/')
    }
}

/// The text behind `prefix` and a `/`; empty for the prefix alone.
fn after<'a>(topic: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = topic.strip_prefix(prefix)?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_prefix('/')
    }
}
