//! Refusals as Blob storage words them: status, code, and a text in XML.

use http::StatusCode;

use super::xml::Element;
use crate::sas::SasError;
use crate::shared_key::SharedKeyError;
use crate::store::BlobStoreError;

/// What a caller gets instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlobError {
    pub(crate) status: StatusCode,
    /// The word in `x-ms-error-code`, by which SDKs choose their exception.
    pub(crate) code: &'static str,
    pub(crate) text: String,
    /// The bytes of the blob, for a range outside of them.
    pub(crate) blob_size: Option<u64>,
}

impl BlobError {
    pub(crate) fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Self {
            status,
            code,
            text: text.into(),
            blob_size: None,
        }
    }

    /// A range outside of the blob's `size` bytes.
    pub(crate) fn range(size: u64) -> Self {
        let text = format!("the range is outside of the {size} bytes of the blob");
        Self {
            blob_size: Some(size),
            ..Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", text)
        }
    }

    pub(crate) fn header(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidHeaderValue", text)
    }

    pub(crate) fn query(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidQueryParameterValue", text)
    }

    pub(crate) fn denied(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "AuthenticationFailed", text)
    }

    pub(crate) fn busy(text: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServerBusy", text)
    }

    pub(crate) fn unsupported(what: &str) -> Self {
        let text = format!("the embedded blob endpoint of the hub does not have {what}");
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", text)
    }

    /// The body.
    pub(crate) fn xml(&self, request_id: &str) -> String {
        let mut error = Element::document("Error");
        error.text("Code", self.code);
        error.text("Message", &format!("{}\nRequestId:{request_id}", self.text));
        error.finish()
    }
}

impl From<SharedKeyError> for BlobError {
    fn from(error: SharedKeyError) -> Self {
        Self::denied(error.to_string())
    }
}

impl From<SasError> for BlobError {
    fn from(error: SasError) -> Self {
        match error {
            SasError::Address => Self::new(
                StatusCode::FORBIDDEN,
                "AuthorizationSourceIPMismatch",
                error.to_string(),
            ),
            other => Self::denied(other.to_string()),
        }
    }
}

impl From<BlobStoreError> for BlobError {
    fn from(error: BlobStoreError) -> Self {
        use BlobStoreError as E;
        let text = error.to_string();
        let (status, code) = match error {
            E::NoContainer => (StatusCode::NOT_FOUND, "ContainerNotFound"),
            E::ContainerExists => (StatusCode::CONFLICT, "ContainerAlreadyExists"),
            E::NoBlob => (StatusCode::NOT_FOUND, "BlobNotFound"),
            E::BlobExists => (StatusCode::FORBIDDEN, "UnauthorizedBlobOverwrite"),
            E::AlreadyThere => (StatusCode::CONFLICT, "BlobAlreadyExists"),
            E::Condition => (StatusCode::PRECONDITION_FAILED, "ConditionNotMet"),
            E::NotModified => (StatusCode::NOT_MODIFIED, "ConditionNotMet"),
            E::NoBlock => (StatusCode::BAD_REQUEST, "InvalidBlockList"),
            E::Limit(_) => (StatusCode::CONFLICT, "BlockCountExceedsLimit"),
            E::BlockIdLength => (StatusCode::BAD_REQUEST, "InvalidBlobOrBlock"),
            E::Full(_) => (StatusCode::SERVICE_UNAVAILABLE, "ServerBusy"),
            E::Body(_) => (StatusCode::BAD_REQUEST, "IncompleteBody"),
            E::Md5 => (StatusCode::BAD_REQUEST, "Md5Mismatch"),
            E::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "ServerBusy"),
            E::Name(_) => (StatusCode::BAD_REQUEST, "InvalidResourceName"),
            E::Metadata(_) => (StatusCode::BAD_REQUEST, "MetadataTooLarge"),
            E::NotInBucket(_) => (StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
            // Its log line is the bucket's; addresses and keys are for the log.
            E::Bucket(_) => return Self::busy("the storage behind the hub does not answer as it must; retry"),
            E::File { .. } | E::Unreadable | E::Storage(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a blob request failed");
                // Paths and errors of the node's disk are for its log.
                let text = "the hub cannot use its disk; its log says why";
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", text);
            }
        };
        Self::new(status, code, text)
    }
}
