//! Shared access signatures of blobs: a URL's query that opens one blob, one container or parts of the account until a time.
//!
//! The same text is signed for the embedded endpoint and for an account in Azure. Its lines depend on the version in `sv`.
//! Invariants: a signature is checked before its fields mean anything; what this version does not know (stored policies, user
//! delegation, directories) opens nothing.

use std::net::IpAddr;

use holdfast_model::UnixMillis;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use thiserror::Error;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime};

use crate::Account;

/// The version of signatures that are made here; Azure and all SDKs of today know it.
const VERSION: &str = "2021-12-02";

/// From this version on the resource and the snapshot are signed too.
const SIGNED_RESOURCE_SINCE: &str = "2018-11-09";
/// From this version on the encryption scope is signed too.
const ENCRYPTION_SCOPE_SINCE: &str = "2020-12-06";
/// The oldest version that is read.
const OLDEST: &str = "2015-04-05";

/// How long before its making a signature counts, for clocks that differ.
const BACKDATE_MS: u64 = 15 * 60 * 1000;

/// All but RFC 3986's unreserved characters.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The same without the slash: for paths.
const PATH: &AsciiSet = &STRICT.remove(b'/');

/// What a signature allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions(u16);

impl Permissions {
    const LETTERS: [(u8, u16); 6] = [(b'r', 1), (b'c', 2), (b'w', 4), (b'd', 8), (b'l', 16), (b'a', 32)];
    /// To read contents and properties.
    pub const READ: Self = Self(1);
    /// To make a blob that is not there.
    pub const CREATE: Self = Self(2);
    /// To write, also over what is there.
    pub const WRITE: Self = Self(4);
    /// To delete.
    pub const DELETE: Self = Self(8);
    /// To list a container.
    pub const LIST: Self = Self(16);

    /// The letters of `sp`; others are known to Azure and open nothing here.
    fn parse(text: &str) -> Self {
        let bit = |byte| Self::LETTERS.iter().find(|(letter, _)| *letter == byte);
        Self(text.bytes().filter_map(bit).fold(0, |bits, (_, bit)| bits | bit))
    }

    /// Whether one of `wanted` is among them.
    #[must_use]
    pub const fn has_any(self, wanted: Self) -> bool {
        self.0 & wanted.0 != 0
    }

    /// These and `other`.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What an account's signature is for: bits of `srt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResourceTypes {
    pub(crate) service: bool,
    pub(crate) container: bool,
    pub(crate) object: bool,
}

/// What a valid signature opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The one blob of the request.
    Blob,
    /// The container of the request, and its blobs.
    Container,
    /// The account.
    Account(ResourceTypes),
}

/// A signature that has been verified for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) scope: Scope,
    pub(crate) permissions: Permissions,
}

/// Why a signature opens nothing. The texts reach the caller and contain no key and no signature.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum SasError {
    #[error("the field {0} of the signature is missing or malformed")]
    Field(&'static str),
    #[error("the signature uses {0}, which this endpoint does not have")]
    Unsupported(&'static str),
    #[error("the signature is not that of this resource by a key of the account")]
    Signature,
    #[error("the signature has expired: se={until}, the time here is {now}")]
    Expired { until: String, now: String },
    #[error("the signature is not valid yet: st={from}, the time here is {now}")]
    NotYet { from: String, now: String },
    #[error("the signature is for other addresses than that of the caller")]
    Address,
}

/// The resource of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resource<'a> {
    pub(crate) container: Option<&'a str>,
    pub(crate) blob: Option<&'a str>,
}

/// The fields of a query, decoded.
pub(crate) type Query = [(String, String)];

fn field<'a>(query: &'a Query, name: &str) -> &'a str {
    query
        .iter()
        .find(|(key, _)| key == name)
        .map_or("", |(_, value)| value.as_str())
}

/// Whether the query has a signature.
pub(crate) fn is_signed(query: &Query) -> bool {
    !field(query, "sig").is_empty()
}

/// Verifies the signature of a query against the resource that the request names.
pub(crate) fn verify(
    account: &Account,
    query: &Query,
    resource: Resource<'_>,
    caller: IpAddr,
    now: UnixMillis,
) -> Result<Grant, SasError> {
    let version = field(query, "sv");
    if version.len() != VERSION.len() || version < OLDEST {
        return Err(SasError::Field("sv"));
    }
    for (name, feature) in [
        ("si", "a stored access policy"),
        ("skoid", "a key of a user"),
        ("sdd", "a directory"),
    ] {
        if !field(query, name).is_empty() {
            return Err(SasError::Unsupported(feature));
        }
    }
    let is_account = !field(query, "ss").is_empty();
    let (scope, text) = match is_account {
        true => account_text(account, query)?,
        false => service_text(account, query, version, resource)?,
    };
    if !account.verifies(&text, field(query, "sig")) {
        return Err(SasError::Signature);
    }
    check_time(query, now)?;
    check_address(field(query, "sip"), caller)?;
    Ok(Grant {
        scope,
        permissions: Permissions::parse(field(query, "sp")),
    })
}

fn service_text(
    account: &Account,
    query: &Query,
    version: &str,
    resource: Resource<'_>,
) -> Result<(Scope, String), SasError> {
    let container = resource.container.ok_or(SasError::Signature)?;
    let (scope, name) = match field(query, "sr") {
        "b" => {
            let blob = resource.blob.ok_or(SasError::Signature)?;
            (Scope::Blob, format!("/blob/{}/{container}/{blob}", account.name()))
        }
        "c" => (Scope::Container, format!("/blob/{}/{container}", account.name())),
        "bs" | "bv" | "d" => return Err(SasError::Unsupported("a snapshot, a version or a directory")),
        _ => return Err(SasError::Field("sr")),
    };
    let get = |name| field(query, name);
    let mut lines = vec![
        get("sp"),
        get("st"),
        get("se"),
        &name,
        get("si"),
        get("sip"),
        get("spr"),
        version,
    ];
    if version >= SIGNED_RESOURCE_SINCE {
        lines.extend([get("sr"), get("snapshot")]);
    }
    if version >= ENCRYPTION_SCOPE_SINCE {
        lines.push(get("ses"));
    }
    lines.extend(["rscc", "rscd", "rsce", "rscl", "rsct"].map(get));
    Ok((scope, lines.join("\n")))
}

fn account_text(account: &Account, query: &Query) -> Result<(Scope, String), SasError> {
    let get = |name| field(query, name);
    if !get("ss").contains('b') {
        return Err(SasError::Field("ss"));
    }
    let types = get("srt");
    let scope = Scope::Account(ResourceTypes {
        service: types.contains('s'),
        container: types.contains('c'),
        object: types.contains('o'),
    });
    let mut text = [
        account.name(),
        get("sp"),
        get("ss"),
        types,
        get("st"),
        get("se"),
        get("sip"),
        get("spr"),
        get("sv"),
    ]
    .join("\n");
    text.push('\n');
    if get("sv") >= ENCRYPTION_SCOPE_SINCE {
        text.push_str(get("ses"));
        text.push('\n');
    }
    Ok((scope, text))
}

fn check_time(query: &Query, now: UnixMillis) -> Result<(), SasError> {
    let shown = || time_text(now);
    let until = field(query, "se");
    let end = parse_time(until).ok_or(SasError::Field("se"))?;
    if end <= i128::from(now.0) {
        return Err(SasError::Expired {
            until: until.to_owned(),
            now: shown(),
        });
    }
    let from = field(query, "st");
    if !from.is_empty() && parse_time(from).ok_or(SasError::Field("st"))? > i128::from(now.0) {
        return Err(SasError::NotYet {
            from: from.to_owned(),
            now: shown(),
        });
    }
    Ok(())
}

fn check_address(range: &str, caller: IpAddr) -> Result<(), SasError> {
    if range.is_empty() {
        return Ok(());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (Ok(first), Ok(last)) = (first.parse::<IpAddr>(), last.parse::<IpAddr>()) else {
        return Err(SasError::Field("sip"));
    };
    match (first..=last).contains(&caller.to_canonical()) {
        true => Ok(()),
        false => Err(SasError::Address),
    }
}

/// Milliseconds since 1970 of a date, or of a time in UTC with or without seconds and fraction.
fn parse_time(text: &str) -> Option<i128> {
    let time = if text.len() == 10 {
        let date = Date::parse(text, format_description!("[year]-[month]-[day]")).ok()?;
        date.midnight().assume_utc()
    } else if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        time
    } else {
        let minutes = format_description!("[year]-[month]-[day]T[hour]:[minute]Z");
        PrimitiveDateTime::parse(text, minutes).ok()?.assume_utc()
    };
    Some(time.unix_timestamp_nanos() / 1_000_000)
}

/// `2026-11-23T10:20:30Z`.
fn time_text(at: UnixMillis) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let seconds = i64::try_from(at.seconds()).ok();
    let time = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(format).ok()).unwrap_or_default()
}

/// The query, with its `?`, that opens one blob for reading and writing over HTTPS until `until`.
#[must_use]
pub fn for_upload(account: &Account, container: &str, blob: &str, now: UnixMillis, until: UnixMillis) -> String {
    let (st, se) = (
        time_text(UnixMillis(now.0.saturating_sub(BACKDATE_MS))),
        time_text(until),
    );
    for_blob(account, container, blob, "rw", &st, &se)
}

fn for_blob(account: &Account, container: &str, blob: &str, permissions: &str, st: &str, se: &str) -> String {
    let query: Vec<(String, String)> = [
        ("sv", VERSION),
        ("spr", "https"),
        ("st", st),
        ("se", se),
        ("sr", "b"),
        ("sp", permissions),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let resource = Resource {
        container: Some(container),
        blob: Some(blob),
    };
    // The resource is whole, so that there is a text.
    let text = service_text(account, &query, VERSION, resource).map_or_else(|_| String::new(), |(_, text)| text);
    let mut token = String::from("?");
    for (name, value) in &query {
        token.push_str(&format!("{name}={}&", utf8_percent_encode(value, STRICT)));
    }
    token.push_str("sig=");
    token.push_str(&utf8_percent_encode(&account.sign(&text), STRICT).to_string());
    token
}

/// The path of a blob below its host, escaped.
#[must_use]
pub fn path_of(container: &str, blob: &str) -> String {
    format!("/{container}/{}", utf8_percent_encode(blob, PATH))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use holdfast_auth::Key;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_000_000_000);
    const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

    fn account() -> Account {
        Account::new("holdfast", Key::from_bytes(vec![7; 64]).unwrap())
    }

    fn parse(token: &str) -> Vec<(String, String)> {
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8()
                .unwrap()
                .into_owned()
        };
        let pairs = token.trim_start_matches('?').split('&');
        pairs
            .map(|pair| {
                pair.split_once('=')
                    .map(|(name, value)| (decode(name), decode(value)))
                    .unwrap()
            })
            .collect()
    }

    fn at<'a>(container: &'a str, blob: &'a str) -> Resource<'a> {
        Resource {
            container: Some(container),
            blob: Some(blob),
        }
    }

    #[test]
    fn a_signature_opens_its_blob_until_its_end_and_nothing_else() {
        let until = UnixMillis(NOW.0 + 3_600_000);
        let query = parse(&for_upload(&account(), "uploads", "dev-1/a b/ü.txt", NOW, until));
        let check = |resource, now| verify(&account(), &query, resource, CALLER, now);
        let grant = check(at("uploads", "dev-1/a b/ü.txt"), NOW).unwrap();
        assert_eq!(grant.scope, Scope::Blob);
        assert!(grant.permissions.has_any(Permissions::WRITE) && grant.permissions.has_any(Permissions::READ));
        assert!(!grant.permissions.has_any(Permissions::DELETE) && !grant.permissions.has_any(Permissions::LIST));
        for resource in [
            at("uploads", "dev-2/a b/ü.txt"),
            at("other", "dev-1/a b/ü.txt"),
            Resource {
                container: Some("uploads"),
                blob: None,
            },
        ] {
            assert_eq!(check(resource, NOW), Err(SasError::Signature), "{resource:?}");
        }
        let own = at("uploads", "dev-1/a b/ü.txt");
        assert!(matches!(check(own, until), Err(SasError::Expired { .. })));
        let early = UnixMillis(NOW.0 - BACKDATE_MS - 2000);
        assert!(matches!(check(own, early), Err(SasError::NotYet { .. })));
    }

    #[test]
    fn a_changed_field_is_another_signature() {
        let until = UnixMillis(NOW.0 + 3_600_000);
        let query = parse(&for_upload(&account(), "uploads", "b", NOW, until));
        for (name, value) in [
            ("sp", "rwd"),
            ("se", "2999-01-01T00:00:00Z"),
            ("sr", "c"),
            ("sv", "2018-11-09"),
            ("sv", "2015-04-05"),
            ("spr", ""),
        ] {
            let mut changed = query.clone();
            changed.iter_mut().find(|(key, _)| key == name).unwrap().1 = value.to_owned();
            assert_eq!(
                verify(&account(), &changed, at("uploads", "b"), CALLER, NOW),
                Err(SasError::Signature),
                "{name}={value}"
            );
        }
        for (name, value) in [("si", "policy"), ("skoid", "x"), ("sdd", "1")] {
            let mut more = query.clone();
            more.push((name.to_owned(), value.to_owned()));
            let refused = verify(&account(), &more, at("uploads", "b"), CALLER, NOW);
            assert!(matches!(refused, Err(SasError::Unsupported(_))), "{name}");
        }
    }

    /// The text and signature that azure-storage-blob 12.24 for Python makes of the same fields.
    #[test]
    fn the_signature_is_that_of_the_python_sdk() {
        let text =
            "rw\n\n2026-12-01T00:00:00Z\n/blob/holdfast/uploads/dev-1/x.txt\n\n\nhttps\n2021-12-02\nb\n\n\n\n\n\n\n";
        let query = parse(&for_blob(
            &account(),
            "uploads",
            "dev-1/x.txt",
            "rw",
            "",
            "2026-12-01T00:00:00Z",
        ));
        assert_eq!(field(&query, "sig"), account().sign(text));
    }

    #[test]
    fn an_account_signature_names_its_kinds_of_resources() {
        let mut query = parse("sv=2021-12-02&ss=bq&srt=co&sp=rl&se=2026-12-01&sip=10.0.0.1-10.0.0.9&spr=https&sig=x");
        let text = "holdfast\nrl\nbq\nco\n\n2026-12-01\n10.0.0.1-10.0.0.9\nhttps\n2021-12-02\n\n";
        query.last_mut().unwrap().1 = account().sign(text);
        let check = |caller| verify(&account(), &query, at("any", "blob"), caller, UnixMillis(0));
        let grant = check(CALLER).unwrap();
        let types = ResourceTypes {
            service: false,
            container: true,
            object: true,
        };
        assert_eq!(grant.scope, Scope::Account(types));
        assert_eq!(check(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10))), Err(SasError::Address));
    }

    #[test]
    fn hostile_fields_are_no_panic() {
        let key = STANDARD.encode([0; 32]);
        for token in [
            "sig=",
            "sig=x",
            "sv=2021-12-02&sig=x",
            &format!("sv=2021-12-02&sr=b&se=x&sig={key}"),
            "sv=\u{fc}021-12-0&sr=b&sig=x",
            "sv=9999-99-99&sr=b&se=9999-99-99T99:99:99Z&sig=x",
        ] {
            assert!(
                verify(&account(), &parse(token), at("c", "b"), CALLER, NOW).is_err(),
                "{token}"
            );
        }
        for (text, expected) in [
            ("1970-01-02", Some(86_400_000)),
            ("1970-01-01T00:01Z", Some(60_000)),
            ("1970-01-01T00:00:01.5Z", Some(1500)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text), expected, "{text}");
        }
    }
}
