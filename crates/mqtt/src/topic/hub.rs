//! Topics of the hub's messages to a device. Each has the shape that the strictest SDK parser accepts (Spec §4.2).
//!
//! They are the ones that the subscriptions accepted by [`super::channels`] promise.

use holdfast_model::IdentityId;

use super::{RequestId, Version, own, request, write_own};
use crate::escape::append;

/// A topic on which the hub publishes to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubTopic<'a> {
    /// `devices/{d}/messages/devicebound/{bag}`; the bag is never empty (rule 1).
    CloudToDevice {
        /// Already encoded.
        bag: &'a str,
    },
    /// `$iothub/twin/res/{status}/?$rid=X[&$version=N]`.
    TwinResponse {
        /// 100–999: exactly three digits (rule 11).
        status: u16,
        /// As in the request.
        rid: RequestId<'a>,
        /// The new version of the reported properties, after a patch.
        version: Option<Version>,
    },
    /// `$iothub/twin/PATCH/properties/desired/?$version=N`.
    Desired {
        /// The version that the patch made.
        version: Version,
    },
    /// `$iothub/methods/POST/{method}/?$rid=X`, and nothing after the id (rule 10).
    Method {
        /// Raw, without `/` (rule 19).
        name: &'a str,
        /// Made by the hub; without `/ ? & = + #`.
        rid: RequestId<'a>,
    },
    /// `$iothub/credentials/res/{status}/?$rid=X`: five parts, as the .NET client counts them.
    CredentialsResponse {
        /// 100–999.
        status: u16,
        /// As in the request.
        rid: RequestId<'a>,
    },
}

const TWIN_RESPONSE: &str = "$iothub/twin/res/";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/?$version=";
const METHOD: &str = "$iothub/methods/POST/";
const CREDENTIALS_RESPONSE: &str = "$iothub/credentials/res/";

impl<'a> HubTopic<'a> {
    /// Appends the topic for a client of this identity.
    pub fn write(&self, identity: &IdentityId, out: &mut String) {
        match *self {
            Self::CloudToDevice { bag } => {
                write_own(identity, out);
                out.push_str("/messages/devicebound/");
                out.push_str(bag);
            }
            Self::TwinResponse { status, rid, version } => {
                append(out, format_args!("{TWIN_RESPONSE}{status:03}/"));
                request::write(out, rid, version);
            }
            Self::Desired { version } => append(out, format_args!("{DESIRED}{version}")),
            Self::Method { name, rid } => {
                append(out, format_args!("{METHOD}{name}/"));
                request::write(out, rid, None);
            }
            Self::CredentialsResponse { status, rid } => {
                append(out, format_args!("{CREDENTIALS_RESPONSE}{status:03}/"));
                request::write(out, rid, None);
            }
        }
    }

    /// Parses as strictly as the SDKs do; `None` for anything that is not one of the shapes.
    #[must_use]
    pub fn parse(identity: &IdentityId, topic: &'a str) -> Option<Self> {
        if let Some(rest) = own(identity, topic) {
            let bag = rest.strip_prefix("/messages/devicebound/")?;
            return Some(Self::CloudToDevice { bag });
        }
        if let Some(rest) = topic.strip_prefix(TWIN_RESPONSE) {
            let (status, tail) = response(rest)?;
            return Some(Self::TwinResponse {
                status,
                rid: tail.rid?,
                version: tail.version,
            });
        }
        if let Some(rest) = topic.strip_prefix(CREDENTIALS_RESPONSE) {
            let (status, tail) = response(rest)?;
            return Some(Self::CredentialsResponse { status, rid: tail.rid? });
        }
        if let Some(version) = topic.strip_prefix(DESIRED) {
            return Some(Self::Desired {
                version: version.parse().ok()?,
            });
        }
        let (name, tail) = topic.strip_prefix(METHOD)?.split_once('/')?;
        Some(Self::Method {
            name,
            rid: tail.strip_prefix("?$rid=")?,
        })
    }
}

fn response(rest: &str) -> Option<(u16, request::Tail<'_>)> {
    let (status, tail) = rest.split_once('/')?;
    let digits = status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit());
    let status = status.parse().ok().filter(|_| digits)?;
    Some((status, request::parse(tail).ok()?))
}
