//! User names and topics of devices that register with the provisioning service (Spec provisioning §4).
//!
//! Invariants: what is echoed (`$rid`) is echoed byte for byte; a reply's topic has exactly the form that the parsers of all SDKs take.
//! Not here: whether scope and id exist (`provisioning`), the order of packets (`gateway`).

use std::borrow::Cow;

use crate::escape;
use crate::limits::MAX_REQUEST_ID_BYTES;
use crate::violation::Violation;

/// The one topic filter of such a connection.
pub const REPLY_FILTER: &str = "$dps/registrations/res/#";

const REGISTER: &str = "$dps/registrations/PUT/iotdps-register/";
const STATUS: &str = "$dps/registrations/GET/iotdps-get-operationstatus/";

/// The second segment of a user name.
const REGISTRATIONS: &str = "registrations";

/// A user name, taken apart: `{scope}/registrations/{id}/api-version={v}[&…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvisioningLogin<'a> {
    /// As sent.
    pub id_scope: &'a str,
    /// Percent-decoded.
    pub registration_id: Cow<'a, str>,
    /// As sent, decoded; `None` when it is missing.
    pub api_version: Option<Cow<'a, str>>,
}

impl<'a> ProvisioningLogin<'a> {
    /// Reads a user name; `None` for those of hubs. Parameters come in any order, with or without a `?` before them.
    #[must_use]
    pub fn parse(username: &'a str) -> Option<Self> {
        let (id_scope, rest) = username.split_once('/')?;
        let (word, rest) = rest.split_once('/')?;
        if id_scope.is_empty() || !word.eq_ignore_ascii_case(REGISTRATIONS) {
            return None;
        }
        let (id, parameters) = rest.split_once('/').unwrap_or((rest, ""));
        let parameters = parameters.strip_prefix('?').unwrap_or(parameters);
        let version = parameters.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.eq_ignore_ascii_case("api-version").then_some(value)
        });
        Some(Self {
            id_scope,
            registration_id: escape::decode(id)?,
            api_version: match version {
                Some(version) => Some(escape::decode(version)?),
                None => None,
            },
        })
    }
}

/// What a device publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProvisioningRequest<'a> {
    /// To register.
    Register {
        /// Names the request in its reply.
        rid: &'a str,
    },
    /// To read the state of an operation.
    Status {
        /// Names the request in its reply.
        rid: &'a str,
        /// As sent.
        operation_id: &'a str,
    },
}

impl<'a> ProvisioningRequest<'a> {
    /// Reads the topic of a PUBLISH.
    ///
    /// # Errors
    /// [`Violation::ForeignTopic`], [`Violation::RequestIdMissing`], [`Violation::RequestIdTooLong`].
    pub fn parse(topic: &'a str) -> Result<Self, Violation> {
        let (parameters, is_status) = match (topic.strip_prefix(REGISTER), topic.strip_prefix(STATUS)) {
            (Some(parameters), _) => (parameters, false),
            (None, Some(parameters)) => (parameters, true),
            (None, None) => return Err(Violation::ForeignTopic),
        };
        let parameters = parameters.strip_prefix('?').ok_or(Violation::RequestIdMissing)?;
        let value = |name: &str| {
            let mut values = parameters.split('&').filter_map(|pair| pair.split_once('='));
            values.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let rid = value("$rid")
            .filter(|rid| !rid.is_empty())
            .ok_or(Violation::RequestIdMissing)?;
        if rid.len() > MAX_REQUEST_ID_BYTES {
            return Err(Violation::RequestIdTooLong);
        }
        // Clients split replies at these.
        if rid.contains(['$', '/', '+', '#']) {
            return Err(Violation::WildcardInTopic);
        }
        if !is_status {
            return Ok(Self::Register { rid });
        }
        Ok(Self::Status {
            rid,
            operation_id: value("operationId").unwrap_or_default(),
        })
    }

    /// Its `$rid`.
    #[must_use]
    pub const fn rid(&self) -> &'a str {
        match self {
            Self::Register { rid } | Self::Status { rid, .. } => rid,
        }
    }
}

/// The topic of the reply to the request `rid`.
#[must_use]
pub fn reply_topic(status: u16, rid: &str, retry_after_seconds: Option<u64>) -> String {
    match retry_after_seconds {
        Some(seconds) => format!("$dps/registrations/res/{status}/?$rid={rid}&retry-after={seconds}"),
        None => format!("$dps/registrations/res/{status}/?$rid={rid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_of_the_sdks_are_read() {
        for (username, id, version) in [
            (
                "0ne00000001/registrations/dev-1/api-version=2019-03-31&ClientVersion=azure-iot-device-provisioning-py%2F2.14.0",
                "dev-1",
                Some("2019-03-31"),
            ),
            (
                "0ne1/registrations/Dev%3A1/api-version=2026-11-02-preview",
                "Dev:1",
                Some("2026-11-02-preview"),
            ),
            (
                "0ne1/registrations/d/ClientVersion=2019-03-31&api-version=2019-03-31",
                "d",
                Some("2019-03-31"),
            ),
            ("0ne1/registrations/d/?api-version=2019-03-31", "d", Some("2019-03-31")),
            ("0ne1/registrations/d", "d", None),
            ("0ne1/registrations/", "", None),
        ] {
            let login = ProvisioningLogin::parse(username).unwrap();
            assert_eq!(login.registration_id, id, "{username}");
            assert_eq!(login.api_version.as_deref(), version, "{username}");
        }
        for other in [
            "",
            "hub1.example.com/dev-1/?api-version=2021-04-12",
            "0ne1",
            "0ne1/registrationsX/d/api-version=1",
            "/registrations/d/api-version=1",
            "0ne1/registrations/%ff/api-version=1",
        ] {
            assert_eq!(ProvisioningLogin::parse(other), None, "{other}");
        }
    }

    #[test]
    fn topics_of_the_sdks_are_read_and_others_are_refused() {
        let parse = ProvisioningRequest::parse;
        assert_eq!(
            parse("$dps/registrations/PUT/iotdps-register/?$rid=2b6c-1"),
            Ok(ProvisioningRequest::Register { rid: "2b6c-1" })
        );
        assert_eq!(
            parse("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=7&operationId=4.ab.c-d"),
            Ok(ProvisioningRequest::Status {
                rid: "7",
                operation_id: "4.ab.c-d"
            })
        );
        for (topic, violation) in [
            ("devices/d/messages/events/", Violation::ForeignTopic),
            ("$dps/registrations/DELETE/x/?$rid=1", Violation::ForeignTopic),
            ("$dps/registrations/PUT/iotdps-register/", Violation::RequestIdMissing),
            (
                "$dps/registrations/PUT/iotdps-register/?$rid=",
                Violation::RequestIdMissing,
            ),
            (
                "$dps/registrations/PUT/iotdps-register/?$rid=a$b",
                Violation::WildcardInTopic,
            ),
            (
                "$dps/registrations/PUT/iotdps-register/?$rid=a/b",
                Violation::WildcardInTopic,
            ),
        ] {
            assert_eq!(parse(topic), Err(violation), "{topic}");
        }
        let long = format!("$dps/registrations/PUT/iotdps-register/?$rid={}", "a".repeat(257));
        assert_eq!(parse(&long), Err(Violation::RequestIdTooLong));
    }

    #[test]
    fn a_reply_names_its_request_first() {
        assert_eq!(reply_topic(200, "1", None), "$dps/registrations/res/200/?$rid=1");
        assert_eq!(
            reply_topic(429, "a-b", Some(4)),
            "$dps/registrations/res/429/?$rid=a-b&retry-after=4"
        );
    }
}
