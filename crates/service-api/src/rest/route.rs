//! Which call a method and path mean, and the right that it needs (Spec rest §2–§8, auth-and-limits §2).

use holdfast_auth::Rights;
use http::Method;

/// A call of the service API. Ids are texts as sent, decoded, and not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    PutDevice(String),
    GetDevice(String),
    DeleteDevice(String),
    ListDevices,
    Bulk,
    RegenerateKeys,
    DeviceStatistics,
    ServiceStatistics,
    PutModule(String, String),
    GetModule(String, String),
    DeleteModule(String, String),
    ListModules(String),
    /// A call that the original has and this version does not.
    Later(Later),
    Own(Own),
}

/// What a later version will answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Later {
    /// In words, for the text.
    pub(super) feature: &'static str,
    pub(super) right: Rights,
    /// The device (and module) whose own credentials count too.
    pub(super) device_side: Option<(String, Option<String>)>,
}

/// Our own additions under `/holdfast/v1` (Spec rest §10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Own {
    Hub,
    Diagnose(String, Option<String>),
    ListConsumerGroups,
    PutConsumerGroup(String),
    DeleteConsumerGroup(String),
    ClusterStatus,
    SetReplication,
    CreateJoinToken,
    ListJoinTokens,
    RevokeJoinToken(String),
    DrainNode(String),
    UndrainNode(String),
    RemoveNode(String),
}

/// What a method and path come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolved {
    Call(Call),
    /// The path is known, with other methods.
    Method(&'static str),
    Nothing,
}

impl Call {
    /// The right that a policy needs for it.
    pub(super) fn right(&self) -> Rights {
        match self {
            Self::GetDevice(_)
            | Self::ListDevices
            | Self::GetModule(..)
            | Self::ListModules(_)
            | Self::DeviceStatistics => Rights::REGISTRY_READ,
            Self::PutDevice(_)
            | Self::DeleteDevice(_)
            | Self::Bulk
            | Self::RegenerateKeys
            | Self::PutModule(..)
            | Self::DeleteModule(..) => Rights::REGISTRY_WRITE,
            Self::ServiceStatistics => Rights::SERVICE_CONNECT,
            Self::Later(later) => later.right,
            Self::Own(_) => Rights::ALL,
        }
    }
}

/// Whether the path is one of ours, which carry their version themselves.
pub(super) fn is_own(segments: &[String]) -> bool {
    segments
        .first()
        .is_some_and(|first| first.eq_ignore_ascii_case("holdfast"))
}

/// Finds the call. Fixed words are matched in any case, ids are taken as they are.
pub(super) fn resolve(method: &Method, segments: &[String]) -> Resolved {
    let words: Vec<String> = segments.iter().map(|segment| segment.to_ascii_lowercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let id = |at: usize| segments[at].clone();
    match words.as_slice() {
        ["devices"] => by_method(method, "GET, POST", &[("GET", Call::ListDevices), ("POST", Call::Bulk)]),
        ["devices", "query"] if method == Method::POST => later("device queries", Rights::SERVICE_CONNECT),
        ["devices", "keys", "regenerate"] => only(method, "POST", Call::RegenerateKeys),
        ["devices", _] => by_method(
            method,
            "GET, PUT, DELETE",
            &[
                ("GET", Call::GetDevice(id(1))),
                ("PUT", Call::PutDevice(id(1))),
                ("DELETE", Call::DeleteDevice(id(1))),
            ],
        ),
        ["devices", _, "modules"] => only(method, "GET", Call::ListModules(id(1))),
        ["devices", _, "modules", _] => by_method(
            method,
            "GET, PUT, DELETE",
            &[
                ("GET", Call::GetModule(id(1), id(3))),
                ("PUT", Call::PutModule(id(1), id(3))),
                ("DELETE", Call::DeleteModule(id(1), id(3))),
            ],
        ),
        // A module below a module: one name, which the id check refuses with the number for it.
        ["devices", _, "modules", _, "modules", _] if method == Method::PUT => {
            Resolved::Call(Call::PutModule(id(1), format!("{}/{}", segments[3], segments[5])))
        }
        ["devices", _, "commands"] => later("cloud-to-device messages", Rights::SERVICE_CONNECT),
        ["devices", _, "applyconfigurationcontent"] => later("configurations", Rights::REGISTRY_WRITE),
        ["devices", _, "messages" | "files", ..] => device_side(id(1), None),
        ["devices", _, "modules", _, "messages" | "files", ..] => device_side(id(1), Some(id(3))),
        ["devices", _, "modules", _, ..] => later("IoT Edge scopes", Rights::DEVICE_CONNECT),
        ["statistics", "devices"] => only(method, "GET", Call::DeviceStatistics),
        ["statistics", "service"] => only(method, "GET", Call::ServiceStatistics),
        ["twins", _, "methods"] | ["twins", _, "modules", _, "methods"] => {
            later("direct methods", Rights::SERVICE_CONNECT)
        }
        ["twins", _] | ["twins", _, "modules", _] => later("device twins", Rights::SERVICE_CONNECT),
        ["digitaltwins", _, ..] => later("digital twins", Rights::SERVICE_CONNECT),
        ["messages", "servicebound", ..] => later("cloud-to-device messages", Rights::SERVICE_CONNECT),
        ["jobs", "v2", ..] => later("scheduled jobs", Rights::SERVICE_CONNECT),
        ["jobs", ..] if method == Method::GET => later("import and export jobs", Rights::REGISTRY_READ),
        ["jobs", ..] => later("import and export jobs", Rights::REGISTRY_WRITE),
        ["configurations", ..] if method == Method::GET => later("configurations", Rights::REGISTRY_READ),
        ["configurations", ..] => later("configurations", Rights::REGISTRY_WRITE),
        ["holdfast", "v1", rest @ ..] => own(method, rest, segments),
        _ => Resolved::Nothing,
    }
}

fn own(method: &Method, rest: &[&str], segments: &[String]) -> Resolved {
    let id = |at: usize| segments[at].clone();
    match rest {
        ["hub"] => only(method, "GET", Call::Own(Own::Hub)),
        ["diagnose", _] => only(method, "GET", Call::Own(Own::Diagnose(id(3), None))),
        ["diagnose", _, "modules", _] => only(method, "GET", Call::Own(Own::Diagnose(id(3), Some(id(5))))),
        ["consumergroups"] => only(method, "GET", Call::Own(Own::ListConsumerGroups)),
        ["consumergroups", _] => by_method(
            method,
            "PUT, DELETE",
            &[
                ("PUT", Call::Own(Own::PutConsumerGroup(id(3)))),
                ("DELETE", Call::Own(Own::DeleteConsumerGroup(id(3)))),
            ],
        ),
        ["cluster"] => only(method, "GET", Call::Own(Own::ClusterStatus)),
        ["cluster", "replication"] => only(method, "PUT", Call::Own(Own::SetReplication)),
        // A node may be called "tokens", and be removed and drained like any other.
        ["nodes", "tokens"] => by_method(
            method,
            "GET, POST, DELETE",
            &[
                ("GET", Call::Own(Own::ListJoinTokens)),
                ("POST", Call::Own(Own::CreateJoinToken)),
                ("DELETE", Call::Own(Own::RemoveNode(id(3)))),
            ],
        ),
        ["nodes", _] => only(method, "DELETE", Call::Own(Own::RemoveNode(id(3)))),
        ["nodes", _, "drain"] => by_method(
            method,
            "POST, DELETE",
            &[
                ("POST", Call::Own(Own::DrainNode(id(3)))),
                ("DELETE", Call::Own(Own::UndrainNode(id(3)))),
            ],
        ),
        ["nodes", "tokens", _] => only(method, "DELETE", Call::Own(Own::RevokeJoinToken(id(4)))),
        _ => Resolved::Nothing,
    }
}

fn later(feature: &'static str, right: Rights) -> Resolved {
    Resolved::Call(Call::Later(Later {
        feature,
        right,
        device_side: None,
    }))
}

fn device_side(device: String, module: Option<String>) -> Resolved {
    Resolved::Call(Call::Later(Later {
        feature: "sending and receiving over HTTPS",
        right: Rights::DEVICE_CONNECT,
        device_side: Some((device, module)),
    }))
}

fn only(method: &Method, allowed: &'static str, call: Call) -> Resolved {
    if method.as_str() == allowed {
        Resolved::Call(call)
    } else {
        Resolved::Method(allowed)
    }
}

fn by_method(method: &Method, allowed: &'static str, calls: &[(&str, Call)]) -> Resolved {
    let found = calls.iter().find(|(name, _)| *name == method.as_str());
    found.map_or(Resolved::Method(allowed), |(_, call)| Resolved::Call(call.clone()))
}

/// The method that counts: `POST` with `X-HTTP-Method-Override: PATCH` is a PATCH on twins, and only there.
pub(super) fn overridden(method: &Method, over: Option<&str>, segments: &[String]) -> Method {
    let twins = segments
        .first()
        .is_some_and(|first| first.eq_ignore_ascii_case("twins") || first.eq_ignore_ascii_case("digitaltwins"));
    if *method == Method::POST && twins && over.is_some_and(|over| over.eq_ignore_ascii_case("PATCH")) {
        return Method::PATCH;
    }
    method.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(method: Method, path: &str) -> Resolved {
        let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        resolve(&method, &segments)
    }

    #[test]
    fn fixed_words_are_found_in_any_case_and_ids_keep_theirs() {
        assert_eq!(
            at(Method::GET, "Devices/DEV"),
            Resolved::Call(Call::GetDevice("DEV".into()))
        );
        assert_eq!(
            at(Method::PUT, "devices/d/MODULES/m"),
            Resolved::Call(Call::PutModule("d".into(), "m".into()))
        );
        assert_eq!(
            at(Method::GET, "devices/query"),
            Resolved::Call(Call::GetDevice("query".into()))
        );
        assert!(matches!(
            at(Method::POST, "devices/query"),
            Resolved::Call(Call::Later(_))
        ));
        assert_eq!(at(Method::PATCH, "devices/d"), Resolved::Method("GET, PUT, DELETE"));
        assert_eq!(at(Method::GET, "nothing"), Resolved::Nothing);
        assert_eq!(at(Method::POST, "$admin/exportRegistry"), Resolved::Nothing);
    }

    #[test]
    fn the_override_makes_a_patch_on_twins_only() {
        let twins = ["twins".to_owned(), "d".to_owned()];
        assert_eq!(overridden(&Method::POST, Some("patch"), &twins), Method::PATCH);
        assert_eq!(overridden(&Method::POST, Some("DELETE"), &twins), Method::POST);
        assert_eq!(overridden(&Method::PUT, Some("PATCH"), &twins), Method::PUT);
        assert_eq!(
            overridden(&Method::POST, Some("PATCH"), &["devices".to_owned()]),
            Method::POST
        );
        assert_eq!(overridden(&Method::POST, None, &twins), Method::POST);
    }
}
