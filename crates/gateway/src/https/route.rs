//! Maps a method and path to a call of a device (Spec rest §5).

use holdfast_device_hub::Settlement;
use holdfast_net::http_api::query;
use http::{Method, Uri};

/// A call, and the identity that the path names. Ids are decoded, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) device: String,
    pub(super) module: Option<String>,
    pub(super) call: Resolved,
}

/// What a device asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    /// To store one message, or a batch.
    Send,
    /// To take the next message to the device.
    Receive,
    /// To settle a message by the token of its lock.
    Settle(String, Settlement),
    /// To begin a file upload.
    BeginUpload,
    /// To report the end of one, with the correlation id of the path, if it is there.
    EndUpload(Option<String>),
}

/// The meaning of a method and a path below the identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolved {
    Call(Call),
    /// The path exists, with these other methods.
    Method(&'static str),
    Nothing,
}

impl Call {
    /// The word in metric labels.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Settle(..) => "settle",
            Self::BeginUpload => "begin_upload",
            Self::EndUpload(_) => "end_upload",
        }
    }
}

/// Whether a request with this path, still escaped, is for a device's own front end.
#[must_use]
pub fn is_device_path(path: &str) -> bool {
    let mut segments = path.split('/').skip(1);
    let is = |segment: Option<&str>, words: &[&str]| {
        segment.is_some_and(|segment| words.iter().any(|word| segment.eq_ignore_ascii_case(word)))
    };
    if !is(segments.next(), &["devices"]) || segments.next().is_none() {
        return false;
    }
    let third = segments.next();
    if is(third, &["modules"]) && segments.next().is_some() {
        return is(segments.next(), &["messages", "files"]);
    }
    is(third, &["messages", "files"])
}

/// The route of a request; `None` for a path that names no identity. Fixed words are found in any case.
pub(super) fn route(method: &Method, uri: &Uri, segments: &[String]) -> Option<Route> {
    let (device, module, rest) = match segments {
        [_, device, modules, module, rest @ ..] if modules.eq_ignore_ascii_case("modules") => {
            (device, Some(module.clone()), rest)
        }
        [_, device, rest @ ..] => (device, None, rest),
        _ => return None,
    };
    let rest: Vec<String> = rest.iter().map(|segment| segment.to_ascii_lowercase()).collect();
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    Some(Route {
        device: device.clone(),
        module,
        call: resolve(method, uri, &rest),
    })
}

fn resolve(method: &Method, uri: &Uri, rest: &[&str]) -> Resolved {
    match rest {
        ["messages", "events"] => only(method, "POST", Call::Send),
        ["messages", "devicebound"] => only(method, "GET", Call::Receive),
        ["messages", "devicebound", token] => {
            let settlement = if rejects(uri) {
                Settlement::Rejected
            } else {
                Settlement::Accepted
            };
            only(method, "DELETE", Call::Settle((*token).to_owned(), settlement))
        }
        ["messages", "devicebound", token, "abandon"] => {
            only(method, "POST", Call::Settle((*token).to_owned(), Settlement::Released))
        }
        ["files"] => only(method, "POST", Call::BeginUpload),
        ["files", "notifications"] => only(method, "POST", Call::EndUpload(None)),
        ["files", "notifications", id] => only(method, "POST", Call::EndUpload(Some((*id).to_owned()))),
        _ => Resolved::Nothing,
    }
}

/// `reject=`, a bare `reject`, and Java's parameter named `?reject`: any value but `false` (Spec rest §5).
fn rejects(uri: &Uri) -> bool {
    let value = query(uri, "reject").or_else(|| query(uri, "?reject"));
    value.is_some_and(|value| !value.eq_ignore_ascii_case("false"))
}

fn only(method: &Method, allowed: &'static str, call: Call) -> Resolved {
    match method.as_str() == allowed {
        true => Resolved::Call(call),
        false => Resolved::Method(allowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_devices_and_of_the_service_api_are_separate() {
        for path in [
            "/devices/d/messages/events",
            "/Devices/d/Messages/deviceBound/token",
            "/devices/d/files/notifications",
            "/devices/d/modules/m/messages/events/",
            "/devices/d/modules/m/files",
            "/devices/a%2Fb/messages",
        ] {
            assert!(is_device_path(path), "{path}");
        }
        for path in [
            "/",
            "/devices",
            "/devices/d",
            "/devices/messages/events",
            "/devices/d/modules/messages",
            "/devices/d/modules/m",
            "/devices/d/commands",
            "/messages/serviceBound/feedback",
            "//devices/d/messages/events",
        ] {
            assert!(!is_device_path(path), "{path}");
        }
    }

    #[test]
    fn fixed_words_are_found_in_any_case_and_ids_are_kept() {
        let segments = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let uri = Uri::from_static("/x?api-version=2021-04-12");
        let found = route(
            &Method::POST,
            &uri,
            &segments("devices/Dev/modules/Mod/Messages/EVENTS"),
        )
        .unwrap();
        assert_eq!((found.device.as_str(), found.module.as_deref()), ("Dev", Some("Mod")));
        assert_eq!(found.call, Resolved::Call(Call::Send));
        let found = route(&Method::GET, &uri, &segments("devices/d/messages/events")).unwrap();
        assert_eq!(found.call, Resolved::Method("POST"));
        let found = route(&Method::POST, &uri, &segments("devices/d/messages/events/x")).unwrap();
        assert_eq!(found.call, Resolved::Nothing);
    }

    #[test]
    fn every_form_of_a_rejection_is_one() {
        for (query, expected) in [
            ("api-version=x", Settlement::Accepted),
            ("api-version=x&reject", Settlement::Rejected),
            ("reject=&api-version=x", Settlement::Rejected),
            ("api-version=x&?reject=true", Settlement::Rejected),
            ("reject=false", Settlement::Accepted),
        ] {
            let uri = Uri::try_from(format!("/x?{query}")).unwrap();
            let rest = ["messages", "devicebound", "t"];
            let found = resolve(&Method::DELETE, &uri, &rest);
            assert_eq!(found, Resolved::Call(Call::Settle("t".to_owned(), expected)), "{query}");
        }
    }
}
