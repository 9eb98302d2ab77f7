//! Maps a method and path to a call and the right that it needs (Spec rest §2–§8, auth-and-limits §2).

use std::time::Duration;

use holdfast_auth::Rights;
use holdfast_auth::bearer::Action;
use holdfast_model::limits::MAX_METHOD_TIMEOUT;
use http::Method;

/// How long one page of a query may take beside the time of any call.
pub(super) const MAX_QUERY_TIME: Duration = Duration::from_secs(30);

/// A call of the service API. Ids are the decoded texts of the path, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    PutIdentity(IdentityPath),
    GetIdentity(IdentityPath),
    DeleteIdentity(IdentityPath),
    ListDevices,
    ListModules(String),
    Bulk,
    RegenerateKeys,
    DeviceStatistics,
    ServiceStatistics,
    InvokeMethod(IdentityPath),
    Query,
    PurgeMessages(IdentityPath),
    GetTwin(IdentityPath),
    PatchTwin(IdentityPath),
    ReplaceTwin(IdentityPath),
    /// A call of Azure IoT Hub that this version does not implement.
    Unimplemented(Unimplemented),
    Holdfast(HoldfastCall),
}

/// A device, or a module of it, as a path names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IdentityPath {
    pub(super) device: String,
    pub(super) module: Option<String>,
}

/// A call that is not implemented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unimplemented {
    /// The feature, for the error text.
    pub(super) feature: &'static str,
    pub(super) right: Rights,
    /// The action that a role must open; `None`: no bearer token suffices.
    pub(super) action: Option<Action>,
    /// The device (and module) whose own credentials are accepted too.
    pub(super) device_side: Option<IdentityPath>,
}

/// A call of our own API under `/holdfast/v1` (Spec rest §10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HoldfastCall {
    OpenApi,
    Hub,
    ListDevices,
    ExplainQuery,
    ListSavedQueries,
    GetSavedQuery(String),
    PutSavedQuery(String),
    DeleteSavedQuery(String),
    RunSavedQuery(String),
    Diagnose(IdentityPath),
    Trace(IdentityPath),
    ListMessages(IdentityPath),
    SendMessage(IdentityPath),
    RequeueMessages(IdentityPath),
    TwinHistory(IdentityPath),
    GetSettings,
    PatchSettings,
    ListConsumerGroups,
    PutConsumerGroup(String),
    DeleteConsumerGroup(String),
    ListPolicies,
    GetPolicy(String),
    PutPolicy(String),
    DeletePolicy(String),
    RegeneratePolicyKey(String),
    SwapPolicyKeys(String),
    ListCertificates,
    GetCertificate(String),
    PutCertificate(String),
    DeleteCertificate(String),
    GenerateVerificationCode(String),
    VerifyCertificate(String),
    GetCrl(String),
    PutCrl(String),
    DeleteCrl(String),
    PlanRollover,
    ListRevocations,
    Revoke,
    GetRevocation(String),
    DeleteRevocation(String),
    BackupFacts,
    ExportGroup(String),
    ClusterStatus,
    SetReplication,
    RaiseFeatureLevel,
    CreateJoinToken,
    ListJoinTokens,
    RevokeJoinToken(String),
    DrainNode(String),
    UndrainNode(String),
    RemoveNode(String),
    DebugNode(String),
}

/// The meaning of a method and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolved {
    Call(Call),
    /// The path exists, with these other methods.
    Method(&'static str),
    Nothing,
}

impl Call {
    /// The right that a policy needs for the call.
    pub(super) fn right(&self) -> Rights {
        match self {
            Self::GetIdentity(_)
            | Self::ListDevices
            | Self::ListModules(_)
            | Self::DeviceStatistics
            | Self::Holdfast(HoldfastCall::ListDevices | HoldfastCall::ListPolicies | HoldfastCall::GetPolicy(_)) => {
                Rights::REGISTRY_READ
            }
            Self::PutIdentity(_) | Self::DeleteIdentity(_) | Self::Bulk | Self::RegenerateKeys => {
                Rights::REGISTRY_WRITE
            }
            Self::ServiceStatistics
            | Self::InvokeMethod(_)
            | Self::Query
            | Self::Holdfast(
                HoldfastCall::ExplainQuery
                | HoldfastCall::Trace(_)
                | HoldfastCall::ListSavedQueries
                | HoldfastCall::GetSavedQuery(_)
                | HoldfastCall::RunSavedQuery(_),
            )
            | Self::PurgeMessages(_)
            | Self::Holdfast(
                HoldfastCall::ListMessages(_) | HoldfastCall::SendMessage(_) | HoldfastCall::RequeueMessages(_),
            )
            | Self::GetTwin(_)
            | Self::PatchTwin(_)
            | Self::ReplaceTwin(_)
            | Self::Holdfast(HoldfastCall::TwinHistory(_)) => Rights::SERVICE_CONNECT,
            Self::Unimplemented(missing) => missing.right,
            // It is the same for every hub of this version.
            Self::Holdfast(HoldfastCall::OpenApi) => Rights::NONE,
            Self::Holdfast(_) => Rights::ALL,
        }
    }
}

impl Call {
    /// The actions that the roles of a principal must open, all of them (Spec auth-and-limits §5); `None`: no bearer token suffices.
    pub(super) fn actions(&self) -> Option<&[Action]> {
        Some(match self {
            Self::GetIdentity(_)
            | Self::ListDevices
            | Self::ListModules(_)
            | Self::Holdfast(HoldfastCall::ListDevices) => &[Action::DEVICES_READ],
            Self::PutIdentity(_) | Self::RegenerateKeys => &[Action::DEVICES_WRITE],
            Self::DeleteIdentity(_) => &[Action::DEVICES_DELETE],
            Self::Bulk => &[Action::DEVICES_WRITE, Action::DEVICES_DELETE],
            Self::DeviceStatistics | Self::ServiceStatistics => &[Action::STATISTICS_READ],
            Self::InvokeMethod(_) => &[Action::METHODS_INVOKE],
            Self::Query
            | Self::GetTwin(_)
            | Self::Holdfast(
                HoldfastCall::ExplainQuery
                | HoldfastCall::ListSavedQueries
                | HoldfastCall::GetSavedQuery(_)
                | HoldfastCall::RunSavedQuery(_)
                | HoldfastCall::TwinHistory(_),
            ) => &[Action::TWINS_READ],
            Self::PatchTwin(_) | Self::ReplaceTwin(_) => &[Action::TWINS_WRITE],
            Self::PurgeMessages(_) => &[Action::MESSAGES_PURGE],
            Self::Holdfast(HoldfastCall::ListMessages(_)) => &[Action::MESSAGES_READ],
            Self::Holdfast(HoldfastCall::SendMessage(_)) => &[Action::MESSAGES_SEND],
            Self::Holdfast(HoldfastCall::RequeueMessages(_)) => &[Action::MESSAGES_REQUEUE],
            Self::Holdfast(
                HoldfastCall::Hub
                | HoldfastCall::GetSettings
                | HoldfastCall::Diagnose(_)
                | HoldfastCall::ListConsumerGroups
                | HoldfastCall::ListPolicies
                | HoldfastCall::GetPolicy(_)
                | HoldfastCall::ListCertificates
                | HoldfastCall::GetCertificate(_)
                | HoldfastCall::GetCrl(_)
                | HoldfastCall::ListRevocations
                | HoldfastCall::GetRevocation(_)
                | HoldfastCall::ClusterStatus,
            ) => &[Action::ADMINISTRATION_READ],
            Self::Holdfast(_) => &[Action::ADMINISTRATION_WRITE],
            Self::Unimplemented(missing) => std::slice::from_ref(missing.action.as_ref()?),
        })
    }
}

impl Call {
    /// How long the call may wait for a device, or for all of them.
    pub(super) fn device_wait(&self) -> Duration {
        match self {
            // To connect, and to answer.
            Self::InvokeMethod(_) => 2 * MAX_METHOD_TIMEOUT,
            Self::Query | Self::Holdfast(HoldfastCall::RunSavedQuery(_)) => MAX_QUERY_TIME,
            _ => Duration::ZERO,
        }
    }
}

/// Whether the path belongs to our own API, whose paths contain their version.
pub(super) fn is_holdfast_api(segments: &[String]) -> bool {
    segments
        .first()
        .is_some_and(|first| first.eq_ignore_ascii_case("holdfast"))
}

/// Finds the call. Fixed words are case-insensitive; ids keep their case.
pub(super) fn resolve(method: &Method, segments: &[String]) -> Resolved {
    let words: Vec<String> = segments.iter().map(|segment| segment.to_ascii_lowercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let id = |at: usize| segments[at].clone();
    let device = |at: usize| IdentityPath {
        device: id(at),
        module: None,
    };
    let module = |at: usize, module: usize| IdentityPath {
        device: id(at),
        module: Some(id(module)),
    };
    match words.as_slice() {
        ["devices"] => by_method(method, "GET, POST", &[("GET", Call::ListDevices), ("POST", Call::Bulk)]),
        ["devices", "query"] if method == Method::POST => Resolved::Call(Call::Query),
        ["devices", "keys", "regenerate"] => only(method, "POST", Call::RegenerateKeys),
        ["devices", _] => identity(method, device(1)),
        ["devices", _, "modules"] => only(method, "GET", Call::ListModules(id(1))),
        ["devices", _, "modules", _] => identity(method, module(1, 3)),
        // A module below a module: one name, which the id check refuses with 400301.
        ["devices", _, "modules", _, "modules", _] if method == Method::PUT => {
            Resolved::Call(Call::PutIdentity(IdentityPath {
                device: id(1),
                module: Some(format!("{}/{}", segments[3], segments[5])),
            }))
        }
        ["devices", _, "commands"] => only(method, "DELETE", Call::PurgeMessages(device(1))),
        ["devices", _, "modules", _, "commands"] => only(method, "DELETE", Call::PurgeMessages(module(1, 3))),
        ["devices", _, "applyconfigurationcontent"] => unimplemented(
            "configurations",
            Rights::REGISTRY_WRITE,
            Some(Action::CONFIGURATIONS_WRITE),
        ),
        ["devices", _, "messages" | "files", ..] => device_side(device(1)),
        ["devices", _, "modules", _, "messages" | "files", ..] => device_side(module(1, 3)),
        ["devices", _, "modules", _, ..] => unimplemented("IoT Edge scopes", Rights::DEVICE_CONNECT, None),
        ["statistics", "devices"] => only(method, "GET", Call::DeviceStatistics),
        ["statistics", "service"] => only(method, "GET", Call::ServiceStatistics),
        ["twins", _, "methods"] => only(method, "POST", Call::InvokeMethod(device(1))),
        ["twins", _, "modules", _, "methods"] => only(method, "POST", Call::InvokeMethod(module(1, 3))),
        ["twins", _] => twin(method, device(1)),
        ["twins", _, "modules", _] => twin(method, module(1, 3)),
        ["digitaltwins", _, ..] => unimplemented("digital twins", Rights::SERVICE_CONNECT, Some(Action::TWINS_READ)),
        ["messages", "servicebound", ..] => unimplemented(
            "feedback over HTTPS",
            Rights::SERVICE_CONNECT,
            Some(Action::MESSAGES_FEEDBACK),
        ),
        ["jobs", "v2", ..] => unimplemented("scheduled jobs", Rights::SERVICE_CONNECT, Some(jobs_action(method))),
        ["jobs", ..] if method == Method::GET => {
            unimplemented("import and export jobs", Rights::REGISTRY_READ, Some(Action::JOBS_READ))
        }
        ["jobs", ..] => unimplemented(
            "import and export jobs",
            Rights::REGISTRY_WRITE,
            Some(jobs_action(method)),
        ),
        ["configurations", ..] if method == Method::GET => unimplemented(
            "configurations",
            Rights::REGISTRY_READ,
            Some(Action::CONFIGURATIONS_READ),
        ),
        ["configurations", ..] => unimplemented(
            "configurations",
            Rights::REGISTRY_WRITE,
            Some(Action::CONFIGURATIONS_WRITE),
        ),
        ["holdfast", "v1", rest @ ..] => holdfast_call(method, rest, segments),
        _ => Resolved::Nothing,
    }
}

fn holdfast_call(method: &Method, rest: &[&str], segments: &[String]) -> Resolved {
    let id = |at: usize| segments[at].clone();
    match rest {
        ["openapi.json"] => only(method, "GET", Call::Holdfast(HoldfastCall::OpenApi)),
        ["hub"] => only(method, "GET", Call::Holdfast(HoldfastCall::Hub)),
        ["devices"] => only(method, "GET", Call::Holdfast(HoldfastCall::ListDevices)),
        ["queries", "explain"] => only(method, "POST", Call::Holdfast(HoldfastCall::ExplainQuery)),
        ["queries", "saved"] => only(method, "GET", Call::Holdfast(HoldfastCall::ListSavedQueries)),
        ["queries", "saved", _] => by_method(
            method,
            "GET, PUT, DELETE",
            &[
                ("GET", Call::Holdfast(HoldfastCall::GetSavedQuery(id(4)))),
                ("PUT", Call::Holdfast(HoldfastCall::PutSavedQuery(id(4)))),
                ("DELETE", Call::Holdfast(HoldfastCall::DeleteSavedQuery(id(4)))),
            ],
        ),
        ["queries", "saved", _, "devices"] => by_method(
            method,
            "GET, POST",
            &[
                ("GET", Call::Holdfast(HoldfastCall::RunSavedQuery(id(4)))),
                ("POST", Call::Holdfast(HoldfastCall::RunSavedQuery(id(4)))),
            ],
        ),
        ["devices", _, "c2d"] | ["devices", _, "modules", _, "c2d"] => {
            let path = IdentityPath {
                device: id(3),
                module: (rest.len() > 3).then(|| id(5)),
            };
            by_method(
                method,
                "GET, POST",
                &[
                    ("GET", Call::Holdfast(HoldfastCall::ListMessages(path.clone()))),
                    ("POST", Call::Holdfast(HoldfastCall::SendMessage(path))),
                ],
            )
        }
        ["devices", _, "c2d", "requeue"] | ["devices", _, "modules", _, "c2d", "requeue"] => {
            let path = IdentityPath {
                device: id(3),
                module: (rest.len() > 4).then(|| id(5)),
            };
            only(method, "POST", Call::Holdfast(HoldfastCall::RequeueMessages(path)))
        }
        ["diagnose", _] | ["diagnose", _, "modules", _] => {
            let path = IdentityPath {
                device: id(3),
                module: segments.get(5).cloned(),
            };
            only(method, "GET", Call::Holdfast(HoldfastCall::Diagnose(path)))
        }
        ["trace", _] | ["trace", _, "modules", _] => {
            let path = IdentityPath {
                device: id(3),
                module: segments.get(5).cloned(),
            };
            only(method, "POST", Call::Holdfast(HoldfastCall::Trace(path)))
        }
        ["twins", _, "history"] | ["twins", _, "modules", _, "history"] => {
            let path = IdentityPath {
                device: id(3),
                module: (rest.len() > 3).then(|| id(5)),
            };
            only(method, "GET", Call::Holdfast(HoldfastCall::TwinHistory(path)))
        }
        ["settings"] => by_method(
            method,
            "GET, PATCH",
            &[
                ("GET", Call::Holdfast(HoldfastCall::GetSettings)),
                ("PATCH", Call::Holdfast(HoldfastCall::PatchSettings)),
            ],
        ),
        ["consumergroups"] => only(method, "GET", Call::Holdfast(HoldfastCall::ListConsumerGroups)),
        ["consumergroups", _] => by_method(
            method,
            "PUT, DELETE",
            &[
                ("PUT", Call::Holdfast(HoldfastCall::PutConsumerGroup(id(3)))),
                ("DELETE", Call::Holdfast(HoldfastCall::DeleteConsumerGroup(id(3)))),
            ],
        ),
        ["policies"] => only(method, "GET", Call::Holdfast(HoldfastCall::ListPolicies)),
        ["policies", _] => by_method(
            method,
            "GET, PUT, DELETE",
            &[
                ("GET", Call::Holdfast(HoldfastCall::GetPolicy(id(3)))),
                ("PUT", Call::Holdfast(HoldfastCall::PutPolicy(id(3)))),
                ("DELETE", Call::Holdfast(HoldfastCall::DeletePolicy(id(3)))),
            ],
        ),
        ["policies", _, "regeneratekey"] => {
            only(method, "POST", Call::Holdfast(HoldfastCall::RegeneratePolicyKey(id(3))))
        }
        ["policies", _, "swapkeys"] => only(method, "POST", Call::Holdfast(HoldfastCall::SwapPolicyKeys(id(3)))),
        ["certificates"] => only(method, "GET", Call::Holdfast(HoldfastCall::ListCertificates)),
        ["certificates", _] => by_method(
            method,
            "GET, PUT, DELETE",
            &[
                ("GET", Call::Holdfast(HoldfastCall::GetCertificate(id(3)))),
                ("PUT", Call::Holdfast(HoldfastCall::PutCertificate(id(3)))),
                ("DELETE", Call::Holdfast(HoldfastCall::DeleteCertificate(id(3)))),
            ],
        ),
        ["certificates", _, "generateverificationcode"] => only(
            method,
            "POST",
            Call::Holdfast(HoldfastCall::GenerateVerificationCode(id(3))),
        ),
        ["certificates", _, "verify"] => only(method, "POST", Call::Holdfast(HoldfastCall::VerifyCertificate(id(3)))),
        ["certificates", _, "crl"] => by_method(
            method,
            "GET, PUT, DELETE",
            &[
                ("GET", Call::Holdfast(HoldfastCall::GetCrl(id(3)))),
                ("PUT", Call::Holdfast(HoldfastCall::PutCrl(id(3)))),
                ("DELETE", Call::Holdfast(HoldfastCall::DeleteCrl(id(3)))),
            ],
        ),
        ["rollover"] => only(method, "GET", Call::Holdfast(HoldfastCall::PlanRollover)),
        ["revocations"] => by_method(
            method,
            "GET, POST",
            &[
                ("GET", Call::Holdfast(HoldfastCall::ListRevocations)),
                ("POST", Call::Holdfast(HoldfastCall::Revoke)),
            ],
        ),
        ["revocations", _] => by_method(
            method,
            "GET, DELETE",
            &[
                ("GET", Call::Holdfast(HoldfastCall::GetRevocation(id(3)))),
                ("DELETE", Call::Holdfast(HoldfastCall::DeleteRevocation(id(3)))),
            ],
        ),
        ["backup"] => only(method, "GET", Call::Holdfast(HoldfastCall::BackupFacts)),
        ["backup", "groups", _] => only(method, "GET", Call::Holdfast(HoldfastCall::ExportGroup(id(4)))),
        ["cluster"] => only(method, "GET", Call::Holdfast(HoldfastCall::ClusterStatus)),
        ["cluster", "replication"] => only(method, "PUT", Call::Holdfast(HoldfastCall::SetReplication)),
        ["cluster", "feature-level"] => only(method, "POST", Call::Holdfast(HoldfastCall::RaiseFeatureLevel)),
        // A node can be named "tokens"; it is removed and drained like any other.
        ["nodes", "tokens"] => by_method(
            method,
            "GET, POST, DELETE",
            &[
                ("GET", Call::Holdfast(HoldfastCall::ListJoinTokens)),
                ("POST", Call::Holdfast(HoldfastCall::CreateJoinToken)),
                ("DELETE", Call::Holdfast(HoldfastCall::RemoveNode(id(3)))),
            ],
        ),
        ["nodes", _] => only(method, "DELETE", Call::Holdfast(HoldfastCall::RemoveNode(id(3)))),
        ["nodes", _, "drain"] => by_method(
            method,
            "POST, DELETE",
            &[
                ("POST", Call::Holdfast(HoldfastCall::DrainNode(id(3)))),
                ("DELETE", Call::Holdfast(HoldfastCall::UndrainNode(id(3)))),
            ],
        ),
        ["nodes", _, "debug"] => only(method, "GET", Call::Holdfast(HoldfastCall::DebugNode(id(3)))),
        ["nodes", "tokens", _] => only(method, "DELETE", Call::Holdfast(HoldfastCall::RevokeJoinToken(id(4)))),
        _ => Resolved::Nothing,
    }
}

/// A call whose policy needs `right`, and whose principal a role for `action`.
fn unimplemented(feature: &'static str, right: Rights, action: Option<Action>) -> Resolved {
    Resolved::Call(Call::Unimplemented(Unimplemented {
        feature,
        right,
        action,
        device_side: None,
    }))
}

fn jobs_action(method: &Method) -> Action {
    match *method {
        Method::GET => Action::JOBS_READ,
        Method::DELETE => Action::JOBS_DELETE,
        _ => Action::JOBS_WRITE,
    }
}

fn identity(method: &Method, path: IdentityPath) -> Resolved {
    by_method(
        method,
        "GET, PUT, DELETE",
        &[
            ("GET", Call::GetIdentity(path.clone())),
            ("PUT", Call::PutIdentity(path.clone())),
            ("DELETE", Call::DeleteIdentity(path)),
        ],
    )
}

fn twin(method: &Method, path: IdentityPath) -> Resolved {
    by_method(
        method,
        "GET, PATCH, PUT",
        &[
            ("GET", Call::GetTwin(path.clone())),
            ("PATCH", Call::PatchTwin(path.clone())),
            ("PUT", Call::ReplaceTwin(path)),
        ],
    )
}

fn device_side(path: IdentityPath) -> Resolved {
    Resolved::Call(Call::Unimplemented(Unimplemented {
        feature: "sending and receiving over HTTPS",
        right: Rights::DEVICE_CONNECT,
        action: None,
        device_side: Some(path),
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

/// The effective method: `POST` with `X-HTTP-Method-Override: PATCH` is a PATCH, on twins only.
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

    fn path(device: &str, module: Option<&str>) -> IdentityPath {
        IdentityPath {
            device: device.to_owned(),
            module: module.map(str::to_owned),
        }
    }

    #[test]
    fn fixed_words_are_found_in_any_case_and_ids_keep_theirs() {
        assert_eq!(
            at(Method::GET, "Devices/DEV"),
            Resolved::Call(Call::GetIdentity(path("DEV", None)))
        );
        assert_eq!(
            at(Method::PUT, "devices/d/MODULES/m"),
            Resolved::Call(Call::PutIdentity(path("d", Some("m"))))
        );
        assert_eq!(
            at(Method::GET, "devices/query"),
            Resolved::Call(Call::GetIdentity(path("query", None)))
        );
        assert_eq!(at(Method::POST, "devices/query"), Resolved::Call(Call::Query));
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
