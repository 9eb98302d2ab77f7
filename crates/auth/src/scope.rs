//! The scope of a token: host names and paths, compared by segment (Spec auth-and-limits §1.4, amqp §5).

use std::borrow::Cow;
use std::fmt;

use holdfast_model::IdentityId;
use percent_encoding::percent_decode_str;

use crate::{Defect, SasRefusal};

/// The names under which the hub is reached: FQDN, aliases, and `*.suffix` for any one label before a suffix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HubNames(Vec<String>);

/// The names beside `host`, the hub's own one, under which devices and back ends reach it: `HUB.device.DOMAIN` and
/// `HUB.service.DOMAIN` for `HUB.DOMAIN` (Spec auth-and-limits §4). None for an IP address, and for a name without a domain other than
/// `localhost`, which is its own domain.
#[must_use]
pub fn split_names(host: &str) -> Option<[String; 2]> {
    let host = host.to_ascii_lowercase();
    if strip_brackets(&host).parse::<std::net::IpAddr>().is_ok() {
        return None;
    }
    let (hub, domain) = match host.split_once('.') {
        Some(parts) => parts,
        None if host == "localhost" => ("localhost", "localhost"),
        None => return None,
    };
    (!hub.is_empty() && !domain.is_empty()).then(|| ["device", "service"].map(|role| format!("{hub}.{role}.{domain}")))
}

impl HubNames {
    /// The names of the hub at `host`: its own, those for devices and back ends, and `aliases`.
    pub fn of_hub<S: AsRef<str>>(host: &str, aliases: impl IntoIterator<Item = S>) -> Self {
        let mut names = vec![host.to_owned()];
        names.extend(split_names(host).into_iter().flatten());
        names.extend(aliases.into_iter().map(|alias| alias.as_ref().to_owned()));
        Self::new(names)
    }

    /// Takes the names in any case; IPv6 addresses with or without brackets.
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        Self(
            names
                .into_iter()
                .map(|name| strip_brackets(name.as_ref()).to_ascii_lowercase())
                .collect(),
        )
    }

    /// Whether `host` (perhaps with `:port`) is one of the names, in any case.
    #[must_use]
    pub fn contains(&self, host: &str) -> bool {
        let host = strip_brackets(strip_port(host));
        self.0.iter().any(|name| match name.strip_prefix("*.") {
            None => name.eq_ignore_ascii_case(host),
            Some(suffix) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix)),
        })
    }

    /// The first name, which connection strings contain.
    #[must_use]
    pub fn primary(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }

    /// All names, lower case.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// `host:port` → `host`; a bare IPv6 address is left alone.
fn strip_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if !port.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

fn strip_brackets(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(host)
}

/// The most segments that a resource path keeps.
const MAX_SEGMENTS: usize = 8;

/// The resource of a request: decoded segments below the host, e.g. `devices`, `dev-1`, `modules`, `m1`.
///
/// Segments past the eighth are dropped, which only makes the path coarser, so that a deeper token no longer covers it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ResourcePath<'a> {
    segments: [&'a str; MAX_SEGMENTS],
    length: usize,
}

impl<'a> ResourcePath<'a> {
    /// The hub as a whole: only tokens for the whole hub cover it.
    pub const HUB: ResourcePath<'static> = ResourcePath {
        segments: [""; MAX_SEGMENTS],
        length: 0,
    };

    /// A device or module, the resource of its connection.
    #[must_use]
    pub fn identity(identity: &'a IdentityId) -> Self {
        let path = ResourcePath::HUB.then("devices").then(identity.device.as_str());
        match &identity.module {
            None => path,
            Some(module) => path.then("modules").then(module.as_str()),
        }
    }

    /// The built-in events endpoint: `{name}` of the event hub, and the segments of a link below it
    /// (`["ConsumerGroups", cg, "Partitions", p]`, `["$management"]` or nothing).
    #[must_use]
    pub fn events(name: &'a str, below: &[&'a str]) -> Self {
        below
            .iter()
            .fold(ResourcePath::HUB.then(name), |path, segment| path.then(segment))
    }

    /// One segment deeper.
    #[must_use]
    pub fn then(mut self, segment: &'a str) -> Self {
        if self.length < MAX_SEGMENTS {
            self.segments[self.length] = segment;
            self.length += 1;
        }
        self
    }

    /// The segments.
    #[must_use]
    pub fn segments(&self) -> &[&'a str] {
        &self.segments[..self.length]
    }
}

impl<'a> FromIterator<&'a str> for ResourcePath<'a> {
    fn from_iter<I: IntoIterator<Item = &'a str>>(segments: I) -> Self {
        segments.into_iter().fold(ResourcePath::HUB, ResourcePath::then)
    }
}

impl fmt::Debug for ResourcePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResourcePath(/{})", self.segments().join("/"))
    }
}

/// The `sr` of a token, parsed.
///
/// Producers escape once, twice or not at all. A text with a raw `/` keeps its segments as they are; one without is
/// decoded as a whole first. After that each segment counts both as written and decoded once more, because the
/// characters of an id include `%`. Fixed words and ids are compared without regard to case: the documentation asks for
/// lower-cased resources, and the identity itself stays case-sensitive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceScope<'a> {
    /// `host[/segment…]` without scheme.
    text: Cow<'a, str>,
}

impl<'a> ResourceScope<'a> {
    /// Reads a raw `sr`.
    ///
    /// # Errors
    /// [`Defect::Resource`] when decoding gives no UTF-8 or there is no host.
    pub fn parse(sr: &'a str) -> Result<Self, SasRefusal> {
        let text = if sr.contains('/') {
            Cow::Borrowed(sr)
        } else {
            percent_decode_str(sr)
                .decode_utf8()
                .map_err(|_| SasRefusal::Malformed(Defect::Resource))?
        };
        let start = text.find("://").map_or(0, |at| at + "://".len());
        let text = match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[start..]),
            Cow::Owned(mut text) => {
                text.drain(..start);
                Cow::Owned(text)
            }
        };
        let scope = Self { text };
        if scope.host().is_empty() {
            Err(SasRefusal::Malformed(Defect::Resource))
        } else {
            Ok(scope)
        }
    }

    /// The host as written, perhaps with a port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.text.split_once('/').map_or(&*self.text, |(host, _)| host)
    }

    /// The segments below the host. Empty ones at the end and a last `api-version=…` (of a sample in the documentation)
    /// are left out.
    fn segments(&self) -> impl Iterator<Item = &str> {
        let path = self
            .text
            .split_once('/')
            .map_or("", |(_, path)| path)
            .trim_end_matches('/');
        let path = match path.rsplit_once('/') {
            Some((front, last)) if last.starts_with("api-version=") => front,
            None if path.starts_with("api-version=") => "",
            _ => path,
        };
        path.split('/').take(if path.is_empty() { 0 } else { usize::MAX })
    }

    /// Whether the scope is `resource` or a prefix of it, by segment: `/a/b` covers `/a/b/c`, not `/a/bc`.
    #[must_use]
    pub fn covers(&self, resource: &ResourcePath<'_>) -> bool {
        let mut wanted = resource.segments().iter();
        self.segments()
            .all(|segment| wanted.next().is_some_and(|wanted| same_segment(segment, wanted)))
    }
}

/// Equal as written, or decoded once.
fn same_segment(segment: &str, wanted: &str) -> bool {
    segment.eq_ignore_ascii_case(wanted)
        || (segment.contains('%')
            && percent_decode_str(segment)
                .map(|byte| byte.to_ascii_lowercase())
                .eq(wanted.bytes().map(|byte| byte.to_ascii_lowercase())))
}

#[cfg(test)]
mod tests;
