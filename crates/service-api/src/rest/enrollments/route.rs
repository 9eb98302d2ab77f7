//! Maps a method and path to a call.

use holdfast_registry::EnrollmentKind;
use http::Method;

use super::issuing::IssuingCall;

const ENROLLMENTS: &str = "enrollments";
const GROUPS: &str = "enrollmentGroups";
const REGISTRATIONS: &str = "registrations";
/// Of our own.
const LINKED_HUBS: &str = "linkedHubs";
const ISSUING_CAS: &str = "certificateAuthorities";
const POLICIES: &str = "certificatePolicies";
const ISSUED: &str = "issuedCertificates";

/// A call. Ids are decoded, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Put(EnrollmentKind, String),
    Get(EnrollmentKind, String),
    Delete(EnrollmentKind, String),
    Bulk(EnrollmentKind),
    Query(EnrollmentKind),
    Mechanism(EnrollmentKind, String),
    GetRegistration(String),
    DeleteRegistration(String),
    /// Why a device can or cannot register; of our own.
    Diagnose(String),
    /// Of the registrations of a group.
    QueryRegistrations(String),
    ListHubs,
    PutHub(String),
    GetHub(String),
    DeleteHub(String),
    Issuing(IssuingCall),
}

/// The meaning of a method and a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolved {
    Call(Call),
    /// The path exists, with these methods.
    Method(&'static str),
    Nothing,
}

/// Whether a request with this path, still escaped, is one of the provisioning service's API.
#[must_use]
pub fn is_enrollment_path(path: &str) -> bool {
    let first = path.split('/').nth(1).unwrap_or_default();
    [ENROLLMENTS, GROUPS, REGISTRATIONS, LINKED_HUBS, ISSUING_CAS, ISSUED]
        .iter()
        .any(|word| word.eq_ignore_ascii_case(first))
}

/// Fixed words are found in any case.
pub(super) fn resolve(method: &Method, segments: &[String]) -> Resolved {
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let Some((first, rest)) = segments.split_first() else {
        return Resolved::Nothing;
    };
    if first.eq_ignore_ascii_case(REGISTRATIONS) {
        return registrations(method, rest);
    }
    if first.eq_ignore_ascii_case(LINKED_HUBS) {
        return linked_hubs(method, rest);
    }
    if first.eq_ignore_ascii_case(ISSUING_CAS) {
        return issuing_cas(method, rest);
    }
    if first.eq_ignore_ascii_case(ISSUED) {
        return issued(method, rest);
    }
    let kind = match first {
        first if first.eq_ignore_ascii_case(ENROLLMENTS) => EnrollmentKind::Individual,
        first if first.eq_ignore_ascii_case(GROUPS) => EnrollmentKind::Group,
        _ => return Resolved::Nothing,
    };
    let is = |word: &str, wanted: &str| word.eq_ignore_ascii_case(wanted);
    match (method.as_str(), rest) {
        ("POST", []) => Resolved::Call(Call::Bulk(kind)),
        (_, []) => Resolved::Method("POST"),
        // An enrollment may be named "query": it has no POST.
        ("POST", [word]) if is(word, "query") => Resolved::Call(Call::Query(kind)),
        ("PUT", [id]) => Resolved::Call(Call::Put(kind, (*id).to_owned())),
        ("GET", [id]) => Resolved::Call(Call::Get(kind, (*id).to_owned())),
        ("DELETE", [id]) => Resolved::Call(Call::Delete(kind, (*id).to_owned())),
        (_, [_]) => Resolved::Method("GET, PUT, DELETE"),
        ("POST", [id, word]) if is(word, "attestationmechanism") => {
            Resolved::Call(Call::Mechanism(kind, (*id).to_owned()))
        }
        (_, [_, word]) if is(word, "attestationmechanism") => Resolved::Method("POST"),
        _ => Resolved::Nothing,
    }
}

fn linked_hubs(method: &Method, rest: &[&str]) -> Resolved {
    match (method.as_str(), rest) {
        ("GET", []) => Resolved::Call(Call::ListHubs),
        (_, []) => Resolved::Method("GET"),
        ("PUT", [host]) => Resolved::Call(Call::PutHub((*host).to_owned())),
        ("GET", [host]) => Resolved::Call(Call::GetHub((*host).to_owned())),
        ("DELETE", [host]) => Resolved::Call(Call::DeleteHub((*host).to_owned())),
        (_, [_]) => Resolved::Method("GET, PUT, DELETE"),
        _ => Resolved::Nothing,
    }
}

fn registrations(method: &Method, rest: &[&str]) -> Resolved {
    match (method.as_str(), rest) {
        ("GET", [id]) => Resolved::Call(Call::GetRegistration((*id).to_owned())),
        ("DELETE", [id]) => Resolved::Call(Call::DeleteRegistration((*id).to_owned())),
        (_, [_]) => Resolved::Method("GET, DELETE"),
        ("POST", [group, word]) if word.eq_ignore_ascii_case("query") => {
            Resolved::Call(Call::QueryRegistrations((*group).to_owned()))
        }
        (_, [_, word]) if word.eq_ignore_ascii_case("query") => Resolved::Method("POST"),
        ("GET", [id, word]) if word.eq_ignore_ascii_case("diagnosis") => {
            Resolved::Call(Call::Diagnose((*id).to_owned()))
        }
        (_, [_, word]) if word.eq_ignore_ascii_case("diagnosis") => Resolved::Method("GET"),
        _ => Resolved::Nothing,
    }
}

fn issuing_cas(method: &Method, rest: &[&str]) -> Resolved {
    let call = |call| Resolved::Call(Call::Issuing(call));
    let is_policies = |word: &str| word.eq_ignore_ascii_case(POLICIES);
    match (method.as_str(), rest) {
        ("GET", []) => call(IssuingCall::ListCas),
        (_, []) => Resolved::Method("GET"),
        ("GET", [ca]) => call(IssuingCall::GetCa((*ca).to_owned())),
        ("PUT", [ca]) => call(IssuingCall::PutCa((*ca).to_owned())),
        ("DELETE", [ca]) => call(IssuingCall::DeleteCa((*ca).to_owned())),
        (_, [_]) => Resolved::Method("GET, PUT, DELETE"),
        ("POST", [ca, word]) if word.eq_ignore_ascii_case("issue") => call(IssuingCall::Issue((*ca).to_owned())),
        (_, [_, word]) if word.eq_ignore_ascii_case("issue") => Resolved::Method("POST"),
        ("PUT", [ca, word, name]) if is_policies(word) => {
            call(IssuingCall::PutPolicy((*ca).to_owned(), (*name).to_owned()))
        }
        ("DELETE", [ca, word, name]) if is_policies(word) => {
            call(IssuingCall::DeletePolicy((*ca).to_owned(), (*name).to_owned()))
        }
        (_, [_, word, _]) if is_policies(word) => Resolved::Method("PUT, DELETE"),
        _ => Resolved::Nothing,
    }
}

fn issued(method: &Method, rest: &[&str]) -> Resolved {
    let call = |call| Resolved::Call(Call::Issuing(call));
    match (method.as_str(), rest) {
        ("GET", [device]) => call(IssuingCall::List((*device).to_owned())),
        ("DELETE", [device]) => call(IssuingCall::RevokeAll((*device).to_owned())),
        (_, [_]) => Resolved::Method("GET, DELETE"),
        ("DELETE", [device, serial]) => call(IssuingCall::Revoke((*device).to_owned(), (*serial).to_owned())),
        (_, [_, _]) => Resolved::Method("DELETE"),
        _ => Resolved::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(method: &str, path: &str) -> Resolved {
        let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        resolve(&method.parse().unwrap(), &segments)
    }

    #[test]
    fn paths_of_all_sdks_are_found() {
        let (individual, group) = (EnrollmentKind::Individual, EnrollmentKind::Group);
        for (method, path, call) in [
            ("PUT", "enrollments/Dev-1", Call::Put(individual, "Dev-1".into())),
            ("GET", "enrollmentgroups/g", Call::Get(group, "g".into())),
            ("DELETE", "enrollmentGroups/query", Call::Delete(group, "query".into())),
            ("POST", "enrollments", Call::Bulk(individual)),
            ("POST", "enrollmentGroups/query", Call::Query(group)),
            (
                "POST",
                "enrollmentgroups/g/attestationmechanism",
                Call::Mechanism(group, "g".into()),
            ),
            ("GET", "registrations/d", Call::GetRegistration("d".into())),
            ("GET", "registrations/d/diagnosis", Call::Diagnose("d".into())),
            ("GET", "linkedhubs", Call::ListHubs),
            ("PUT", "linkedHubs/h", Call::PutHub("h".into())),
            ("POST", "registrations/g/query", Call::QueryRegistrations("g".into())),
            (
                "POST",
                "certificateauthorities/ca/issue",
                Call::Issuing(IssuingCall::Issue("ca".into())),
            ),
            (
                "DELETE",
                "issuedCertificates/d/0A",
                Call::Issuing(IssuingCall::Revoke("d".into(), "0A".into())),
            ),
        ] {
            assert_eq!(at(method, path), Resolved::Call(call), "{method} {path}");
        }
        assert_eq!(at("PATCH", "enrollments/d"), Resolved::Method("GET, PUT, DELETE"));
        assert_eq!(at("GET", "enrollments"), Resolved::Method("POST"));
        assert_eq!(at("GET", "enrollments/a/b"), Resolved::Nothing);
        assert_eq!(at("GET", "registrations"), Resolved::Nothing);
    }

    #[test]
    fn only_its_own_first_segments_are_of_this_api() {
        for path in ["/enrollments/", "/EnrollmentGroups/g", "/registrations/d"] {
            assert!(is_enrollment_path(path), "{path}");
        }
        for path in ["/", "/devices/enrollments", "/0ne1/registrations/d", "/enrollmentsX"] {
            assert!(!is_enrollment_path(path), "{path}");
        }
    }
}
