//! The fault of a bucket, in words for its operator.
//!
//! Why: an error of S3 is a status and a code in XML, somewhere in a chain of sources, and only some of its text helps.
//! Invariant: no secret, no signature and no signed text of a request is in an error.

use std::error::Error;
use std::fmt;

use object_store::Error as StoreError;

use super::http::TransportError;

/// Longest text of an error that is shown.
const MAX_TEXT_CHARS: usize = 300;

/// What an operator looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketCause {
    /// The service does not know the credentials, or their secret is another one, or they could not be had.
    Credentials,
    /// They do not allow it.
    Denied,
    /// There is no such bucket.
    NoBucket,
    /// The bucket is in another region.
    Region,
    /// The clocks differ too much.
    Clock,
    /// The certificate does not fit.
    Tls,
    /// Nothing listens there, or its name is not known.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The service says that it cannot, now.
    Busy,
    /// The object is not what was written.
    Content,
    /// The rest.
    Other,
}

impl BucketCause {
    /// The word in metric labels and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::Denied => "denied",
            Self::NoBucket => "no_bucket",
            Self::Region => "region",
            Self::Clock => "clock",
            Self::Tls => "tls",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::Content => "content",
            Self::Other => "other",
        }
    }

    /// What to do.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Credentials => {
                "check s3.credentials_file, or the AWS_ variables of the hub's environment: the key's id, its secret, and whether it is active"
            }
            Self::Denied => {
                "allow the hub's credentials s3:PutObject, s3:GetObject, s3:DeleteObject and s3:AbortMultipartUpload on the objects, and \
                 s3:ListBucket on the bucket"
            }
            Self::NoBucket => "make the bucket, or correct s3.bucket, s3.endpoint and s3.virtual_hosted",
            Self::Region => "set s3.region to the region of the bucket",
            Self::Clock => "set the clock of this machine, or that of the service; they may differ by 15 minutes",
            Self::Tls => {
                "set s3.ca_file to the CA of the service's certificate, and s3.endpoint to a name that is in it"
            }
            Self::Unreachable => "check s3.endpoint, and the network between this node and it",
            Self::Timeout => "check the service and the network, or raise s3.request_timeout",
            Self::Busy => "look at the service; the hub needs nothing once it works",
            Self::Content => {
                "look for a proxy between this node and the service, or for another writer of the same keys"
            }
            Self::Other => "look at the service's log",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketError {
    /// What an operator looks at.
    pub cause: BucketCause,
    text: String,
}

impl fmt::Display for BucketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for BucketError {}

impl BucketError {
    pub(super) fn new(cause: BucketCause, text: impl Into<String>) -> Self {
        Self {
            cause,
            text: text.into(),
        }
    }

    /// The service has the bucket, and not the object.
    pub(super) fn is_absent_object(error: &StoreError) -> bool {
        matches!(error, StoreError::NotFound { .. }) && !deepest(error).contains("NoSuchBucket")
    }
}

impl From<StoreError> for BucketError {
    fn from(error: StoreError) -> Self {
        let mut current: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(one) = current {
            if let Some(transport) = one.downcast_ref::<TransportError>() {
                return Self::new(of_transport(transport), transport.to_string());
            }
            current = one.source();
        }
        let text = deepest(&error);
        let (code, message) = (element(&text, "Code"), element(&text, "Message"));
        let status = status(&text);
        let cause = of_answer(code, status, &error, &text);
        let shown = match (code, message) {
            // Azure adds lines with the id and the time of the request.
            (Some(code), Some(message)) => format!("{code}: {}", message.lines().next().unwrap_or_default()),
            (Some(code), None) => code.to_owned(),
            // What comes before the answer's body.
            _ => text
                .split('<')
                .next()
                .unwrap_or_default()
                .trim_end_matches([':', ' '])
                .to_owned(),
        };
        Self::new(cause, shown.chars().take(MAX_TEXT_CHARS).collect::<String>())
    }
}

fn deepest(error: &StoreError) -> String {
    let mut current: &dyn Error = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}

/// The text of an element of the service's answer.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once('<')?;
    Some(value)
}

/// The status in the text of an error, as `object_store` writes it.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn of_transport(error: &TransportError) -> BucketCause {
    match error {
        TransportError::NoHost | TransportError::Connect(..) => BucketCause::Unreachable,
        TransportError::Tls(..) => BucketCause::Tls,
        TransportError::Timeout(_) | TransportError::Stalled => BucketCause::Timeout,
        TransportError::TooLarge => BucketCause::Other,
        TransportError::Http(_) => BucketCause::Unreachable,
    }
}

fn of_answer(code: Option<&str>, status: Option<u16>, error: &StoreError, text: &str) -> BucketCause {
    match code {
        Some(
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "InvalidSecurity"
            | "NotSignedUp"
            | "UnauthorizedAccess"
            | "AuthenticationFailed",
        ) => return BucketCause::Credentials,
        Some(
            "AccessDenied"
            | "AllAccessDisabled"
            | "AccountProblem"
            | "AuthorizationFailure"
            | "AuthorizationPermissionMismatch",
        ) => return BucketCause::Denied,
        Some("NoSuchBucket" | "InvalidBucketName" | "ContainerNotFound") => return BucketCause::NoBucket,
        Some(
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "IllegalLocationConstraintException"
            | "AuthorizationQueryParametersError",
        ) => return BucketCause::Region,
        Some("RequestTimeTooSkewed" | "RequestExpired") => return BucketCause::Clock,
        Some("SlowDown" | "ServiceUnavailable" | "ServerBusy" | "InternalError" | "OperationAborted") => {
            return BucketCause::Busy;
        }
        Some("BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody" | "InvalidDigest" | "InvalidPart") => {
            return BucketCause::Content;
        }
        _ => {}
    }
    match (status, error) {
        (Some(401), _) | (_, StoreError::Unauthenticated { .. }) => BucketCause::Credentials,
        (Some(403), _) | (_, StoreError::PermissionDenied { .. }) => BucketCause::Denied,
        (Some(404), _) | (_, StoreError::NotFound { .. }) => BucketCause::NoBucket,
        (Some(301 | 307), _) => BucketCause::Region,
        (Some(429 | 500..=599), _) => BucketCause::Busy,
        _ if text.contains("redirect") => BucketCause::Region,
        _ => BucketCause::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: &str, body: &str) -> BucketError {
        let text = format!("Server returned non-2xx status code: {status}: {body}");
        BucketError::from(StoreError::Generic {
            store: "S3",
            source: text.into(),
        })
    }

    #[test]
    fn an_answer_of_the_service_is_a_cause_and_shows_nothing_of_the_request() {
        for (status, code, cause) in [
            ("403 Forbidden", "InvalidAccessKeyId", BucketCause::Credentials),
            ("403 Forbidden", "SignatureDoesNotMatch", BucketCause::Credentials),
            ("403 Forbidden", "RequestTimeTooSkewed", BucketCause::Clock),
            ("403 Forbidden", "AccessDenied", BucketCause::Denied),
            ("404 Not Found", "NoSuchBucket", BucketCause::NoBucket),
            ("400 Bad Request", "AuthorizationHeaderMalformed", BucketCause::Region),
            ("301 Moved Permanently", "PermanentRedirect", BucketCause::Region),
            ("503 Service Unavailable", "SlowDown", BucketCause::Busy),
            ("400 Bad Request", "XAmzContentSHA256Mismatch", BucketCause::Content),
            ("400 Bad Request", "EntityTooLarge", BucketCause::Other),
        ] {
            let body = format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>why</Message><StringToSign>AWS4 \
                 secret</StringToSign></Error>"
            );
            let error = of(status, &body);
            assert_eq!(
                (error.cause, error.to_string()),
                (cause, format!("{code}: why")),
                "{code}"
            );
        }
        let error = of("502 Bad Gateway", "<html>down</html>");
        assert_eq!(error.cause, BucketCause::Busy);
        assert_eq!(
            error.to_string(),
            "Server returned non-2xx status code: 502 Bad Gateway"
        );
        assert!(of("418", &"x".repeat(5000)).to_string().len() <= MAX_TEXT_CHARS);
    }
}
