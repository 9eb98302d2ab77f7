//! The operation that a request asks for, by method, path and query, and the right that it needs.

use http::request::Parts;
use http::{HeaderMap, Method};

use super::error::BlobError;
use crate::names;
use crate::sas::{Grant, Permissions, Query, Scope};

/// The resource of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) container: Option<String>,
    pub(crate) blob: Option<String>,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    ListContainers,
    GetAccount,
    CreateContainer,
    GetContainer,
    DeleteContainer,
    SetContainerMetadata,
    ListBlobs,
    PutBlob,
    PutBlock,
    PutBlockList,
    GetBlockList,
    GetBlob,
    GetBlobProperties,
    SetBlobMetadata,
    SetBlobProperties,
    DeleteBlob,
}

/// The kind of resource that an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Service,
    Container,
    Object,
}

impl Target {
    /// The resource below the account. The path is decoded once and as a whole: some SDKs escape the slashes of a blob's name, and
    /// some do not.
    pub(crate) fn parse(path: &str, account: &str) -> Result<Self, BlobError> {
        let bad = |text: &str| BlobError::new(http::StatusCode::BAD_REQUEST, "InvalidUri", text);
        let path = percent_encoding::percent_decode_str(path).decode_utf8();
        let path = path.map_err(|_| bad("the path is not UTF-8"))?;
        let path = path.strip_prefix('/').unwrap_or(&path);
        // Without the account it is a container of uploads, as the router has found.
        let path = match path.strip_prefix(account) {
            Some("") => "",
            Some(rest) if rest.starts_with('/') => &rest[1..],
            _ => path,
        };
        let (container, blob) = path.split_once('/').unwrap_or((path, ""));
        let invalid = |error: names::InvalidName| {
            BlobError::new(http::StatusCode::BAD_REQUEST, "InvalidResourceName", error.to_string())
        };
        if container.is_empty() && blob.is_empty() {
            return Ok(Self {
                container: None,
                blob: None,
            });
        }
        names::is_container(container).map_err(invalid)?;
        if !blob.is_empty() {
            names::is_blob(blob).map_err(invalid)?;
        }
        Ok(Self {
            container: Some(container.to_owned()),
            blob: (!blob.is_empty()).then(|| blob.to_owned()),
        })
    }
}

/// The value of a parameter; names are as Azure writes them.
pub(crate) fn parameter<'a>(query: &'a Query, name: &str) -> Option<&'a str> {
    let found = query.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

impl Operation {
    pub(crate) fn of(head: &Parts, target: &Target, query: &Query) -> Result<Self, BlobError> {
        let (comp, restype) = (
            parameter(query, "comp").unwrap_or_default(),
            parameter(query, "restype").unwrap_or_default(),
        );
        let is_read = head.method == Method::GET || head.method == Method::HEAD;
        let method = match &head.method {
            _ if is_read => "GET",
            other => other.as_str(),
        };
        let found = match (&target.container, &target.blob) {
            (None, _) => match (method, restype, comp) {
                ("GET", "", "list") => Some(Self::ListContainers),
                ("GET", "account", "properties") => Some(Self::GetAccount),
                _ => None,
            },
            (Some(_), None) => match (method, restype, comp) {
                ("PUT", "container", "") => Some(Self::CreateContainer),
                ("GET", "container", "" | "metadata") => Some(Self::GetContainer),
                ("GET", "container", "list") => Some(Self::ListBlobs),
                ("GET", "account", "properties") => Some(Self::GetAccount),
                ("DELETE", "container", "") => Some(Self::DeleteContainer),
                ("PUT", "container", "metadata") => Some(Self::SetContainerMetadata),
                _ => None,
            },
            (Some(_), Some(_)) => match (method, comp) {
                ("PUT", "") => Some(Self::PutBlob),
                ("PUT", "block") => Some(Self::PutBlock),
                ("PUT", "blocklist") => Some(Self::PutBlockList),
                ("PUT", "metadata") => Some(Self::SetBlobMetadata),
                ("PUT", "properties") => Some(Self::SetBlobProperties),
                ("GET", "blocklist") => Some(Self::GetBlockList),
                ("GET", "") if head.method == Method::HEAD => Some(Self::GetBlobProperties),
                ("GET", "metadata") => Some(Self::GetBlobProperties),
                ("GET", "") => Some(Self::GetBlob),
                ("DELETE", "") => Some(Self::DeleteBlob),
                _ => None,
            },
        };
        let found = found.ok_or_else(|| {
            let shown = |text: &str| text.chars().take(40).collect::<String>().escape_debug().to_string();
            BlobError::unsupported(&format!(
                "the operation {} with restype '{}' and comp '{}'",
                head.method,
                shown(restype),
                shown(comp)
            ))
        })?;
        found.check_features(&head.headers, query)?;
        Ok(found)
    }

    /// What would change the meaning of a request and is not there is refused, not ignored.
    fn check_features(self, headers: &HeaderMap, query: &Query) -> Result<(), BlobError> {
        for name in ["snapshot", "versionid"] {
            if parameter(query, name).is_some_and(|value| !value.is_empty()) {
                return Err(BlobError::unsupported("snapshots and versions"));
            }
        }
        for (name, what) in [
            ("x-ms-lease-id", "leases"),
            ("x-ms-copy-source", "copies from a URL"),
            ("x-ms-content-crc64", "CRC64 of bodies; send Content-MD5"),
            ("x-ms-structured-body", "structured bodies"),
            ("x-ms-encryption-key", "keys of clients"),
            ("x-ms-if-tags", "conditions on tags"),
        ] {
            if headers.contains_key(name) {
                return Err(BlobError::unsupported(what));
            }
        }
        Ok(())
    }

    /// The word in metric labels and logs.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::ListContainers => "list_containers",
            Self::GetAccount => "get_account",
            Self::CreateContainer => "create_container",
            Self::GetContainer => "get_container",
            Self::DeleteContainer => "delete_container",
            Self::SetContainerMetadata => "set_container_metadata",
            Self::ListBlobs => "list_blobs",
            Self::PutBlob => "put_blob",
            Self::PutBlock => "put_block",
            Self::PutBlockList => "put_block_list",
            Self::GetBlockList => "get_block_list",
            Self::GetBlob => "get_blob",
            Self::GetBlobProperties => "get_blob_properties",
            Self::SetBlobMetadata => "set_blob_metadata",
            Self::SetBlobProperties => "set_blob_properties",
            Self::DeleteBlob => "delete_blob",
        }
    }

    /// Whether it reads contents: reads and writes have places of their own.
    pub(crate) const fn is_read(self) -> bool {
        matches!(
            self,
            Self::ListContainers
                | Self::GetAccount
                | Self::GetContainer
                | Self::ListBlobs
                | Self::GetBlockList
                | Self::GetBlob
                | Self::GetBlobProperties
        )
    }

    const fn level(self) -> Level {
        match self {
            Self::ListContainers | Self::GetAccount => Level::Service,
            Self::CreateContainer
            | Self::GetContainer
            | Self::DeleteContainer
            | Self::SetContainerMetadata
            | Self::ListBlobs => Level::Container,
            _ => Level::Object,
        }
    }

    /// Any of these opens it.
    const fn permissions(self) -> Permissions {
        match self {
            Self::ListContainers | Self::ListBlobs => Permissions::LIST,
            Self::GetAccount | Self::GetContainer | Self::GetBlockList | Self::GetBlob | Self::GetBlobProperties => {
                Permissions::READ
            }
            Self::CreateContainer | Self::PutBlob | Self::PutBlockList => Permissions::WRITE.and(Permissions::CREATE),
            Self::SetContainerMetadata | Self::PutBlock | Self::SetBlobMetadata | Self::SetBlobProperties => {
                Permissions::WRITE
            }
            Self::DeleteContainer | Self::DeleteBlob => Permissions::DELETE,
        }
    }

    /// Whether a signature opens it.
    pub(crate) fn check(self, grant: Grant) -> Result<(), BlobError> {
        let is_covered = match (grant.scope, self.level()) {
            (Scope::Blob, level) => level == Level::Object,
            (Scope::Container, level) => level == Level::Object || self == Self::ListBlobs,
            (Scope::Account(types), Level::Service) => types.service,
            (Scope::Account(types), Level::Container) => types.container,
            (Scope::Account(types), Level::Object) => types.object,
        };
        if !is_covered {
            let text = "the signature is for another kind of resource";
            return Err(BlobError::new(
                http::StatusCode::FORBIDDEN,
                "AuthorizationResourceTypeMismatch",
                text,
            ));
        }
        match grant.permissions.has_any(self.permissions()) {
            true => Ok(()),
            false => Err(BlobError::new(
                http::StatusCode::FORBIDDEN,
                "AuthorizationPermissionMismatch",
                "the permissions of the signature (sp) do not allow the operation",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::sas::ResourceTypes;

    fn of(method: &str, path: &str, query: &[(&str, &str)]) -> Result<Operation, BlobError> {
        let head = Request::builder()
            .method(method)
            .uri("/x")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        let query: Vec<(String, String)> = query.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        Operation::of(&head, &Target::parse(path, "holdfast").unwrap(), &query)
    }

    #[test]
    fn the_account_is_in_the_path_or_not_and_slashes_are_escaped_or_not() {
        for path in [
            "/holdfast/uploads/dev-1/a%20b.txt",
            "/uploads/dev-1/a%20b.txt",
            "/uploads/dev-1%2Fa%20b.txt",
            "/holdfast/uploads%2Fdev-1%2Fa%20b.txt",
        ] {
            let target = Target::parse(path, "holdfast").unwrap();
            assert_eq!(target.container.as_deref(), Some("uploads"), "{path}");
            assert_eq!(target.blob.as_deref(), Some("dev-1/a b.txt"), "{path}");
        }
        for path in ["/", "/holdfast", "/holdfast/"] {
            let target = Target::parse(path, "holdfast").unwrap();
            assert_eq!((target.container, target.blob), (None, None), "{path}");
        }
        for path in [
            "/holdfast/uploads/..",
            "/holdfast/uploads/%2e%2e/x",
            "/holdfast/uploads/a%00b",
            "/holdfast/uploads//a",
            "/holdfast/Uploads/a",
            "/holdfast//a",
            "/uploads/%ff",
        ] {
            assert!(Target::parse(path, "holdfast").is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_not_there_is_said_and_not_ignored() {
        assert_eq!(of("PUT", "/abc/x", &[("comp", "block")]), Ok(Operation::PutBlock));
        assert_eq!(of("HEAD", "/abc/x", &[]), Ok(Operation::GetBlobProperties));
        assert_eq!(
            of("GET", "/abc", &[("restype", "container"), ("comp", "list")]),
            Ok(Operation::ListBlobs)
        );
        for (method, path, query) in [
            ("PUT", "/abc/x", &[("comp", "lease")][..]),
            ("PUT", "/abc/x", &[("comp", "appendblock")]),
            ("GET", "/abc/x", &[("snapshot", "2026-01-01")]),
            ("PUT", "/abc", &[]),
            ("POST", "/", &[("comp", "batch")]),
        ] {
            assert_eq!(
                of(method, path, query).unwrap_err().code,
                "NotImplemented",
                "{method} {query:?}"
            );
        }
    }

    #[test]
    fn a_signature_opens_what_it_names() {
        let all = Permissions::READ
            .and(Permissions::WRITE)
            .and(Permissions::DELETE)
            .and(Permissions::LIST);
        let check = |scope, permissions, operation: Operation| operation.check(Grant { scope, permissions }).is_ok();
        assert!(check(Scope::Blob, all, Operation::PutBlock));
        assert!(!check(Scope::Blob, all, Operation::ListBlobs) && !check(Scope::Blob, all, Operation::DeleteContainer));
        assert!(check(Scope::Container, all, Operation::ListBlobs));
        assert!(!check(Scope::Container, all, Operation::DeleteContainer));
        assert!(!check(Scope::Container, Permissions::READ, Operation::PutBlob));
        let types = ResourceTypes {
            service: false,
            container: true,
            object: false,
        };
        assert!(check(Scope::Account(types), all, Operation::CreateContainer));
        assert!(!check(Scope::Account(types), all, Operation::GetBlob));
        assert!(!check(Scope::Account(types), all, Operation::ListContainers));
    }
}
