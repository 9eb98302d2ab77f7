//! Clients' writes of identities, checked as far as possible without the state.
//!
//! Why: the REST front end, bulk calls, import and the CLI use the same writes, and an invalid command never reaches the
//! log.
//! Not here: whether the identity exists or the ETag matches (`state`), JSON (`service-api`).

use holdfast_auth::KeyPair;
use holdfast_model::limits::MAX_STATUS_REASON_CHARS;
use holdfast_model::{ErrorCode, IdentityId};

use crate::identity::{Status, Thumbprints, TwinSeed};
use crate::state::Rejection;

/// Longest scope text that is stored, in bytes: prefix, device id and a generation.
const MAX_SCOPE_BYTES: usize = 256;

/// Longest `managedBy`, in characters.
const MAX_MANAGED_BY_CHARS: usize = 128;

/// Longest tags and desired properties of a create, in bytes of JSON text; the exact limits of a twin are below these
/// and are checked when the twin is created.
const MAX_TAGS_JSON_BYTES: usize = 32 * 1024;
const MAX_DESIRED_JSON_BYTES: usize = 128 * 1024;

/// One write of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityWrite {
    /// The identity.
    pub id: IdentityId,
    /// The operation.
    pub operation: WriteOperation,
}

/// An operation on an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOperation {
    /// It must not exist.
    Create(IdentityContent),
    /// It must exist, with this ETag.
    Update(IfMatch, IdentityContent),
    /// If it exists, then with this ETag.
    CreateOrUpdate(IfMatch, IdentityContent),
    /// It must exist, with this ETag.
    Delete(IfMatch),
}

/// The condition of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// With any ETag.
    Any,
    /// Only with this ETag.
    ETag(String),
}

/// The fields of an identity that a client may set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdentityContent {
    /// Devices only.
    pub status: Status,
    /// Devices only.
    pub status_reason: Option<String>,
    /// `None`: kept on update; SAS with generated keys on create.
    pub authentication: Option<AuthenticationWrite>,
    /// `None`: kept on update; `false` on create. Devices only.
    pub iot_edge: Option<bool>,
    /// Ignored for edge devices, whose scope is generated.
    pub device_scope: ScopeWrite,
    /// For devices other than edge devices, used only if `device_scope` is [`ScopeWrite::Keep`].
    pub parent_scope: ScopeWrite,
    /// Modules only.
    pub managed_by: Option<String>,
    /// Used only when the write creates the identity.
    pub twin: TwinSeed,
}

/// A change of a scope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ScopeWrite {
    /// Unchanged.
    #[default]
    Keep,
    /// No parent.
    Remove,
    /// Child of this edge device.
    Set(String),
}

/// The new authentication method of the identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthenticationWrite {
    /// By symmetric keys; `None`: the ones it has, else generated ones.
    Sas(Option<KeyPair>),
    /// By symmetric keys that are generated, also where it has keys.
    SasWithNewKeys,
    /// By a certificate's thumbprint; `None`: the ones it has.
    SelfSigned(Option<Thumbprints>),
    /// By a certificate of a CA.
    CertificateAuthority,
    /// None. Modules only.
    None,
}

/// Which keys to regenerate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyChoice {
    /// The first.
    Primary,
    /// The second.
    Secondary,
    /// Both.
    Both,
}

/// One entry of a regeneration of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRegeneration {
    /// The identity.
    pub id: IdentityId,
    /// The condition.
    pub if_match: IfMatch,
}

impl IdentityWrite {
    /// Checks the values that need no state.
    ///
    /// # Errors
    /// [`Rejection`] with [`ErrorCode::ArgumentInvalid`] naming the first value that is wrong.
    pub fn check(&self) -> Result<(), Rejection> {
        match &self.operation {
            WriteOperation::Create(content)
            | WriteOperation::Update(_, content)
            | WriteOperation::CreateOrUpdate(_, content) => content.check(&self.id),
            WriteOperation::Delete(_) => Ok(()),
        }
    }
}

impl IdentityContent {
    fn check(&self, id: &IdentityId) -> Result<(), Rejection> {
        let invalid = |text: String| Err(Rejection::new(ErrorCode::ArgumentInvalid, text));
        if self
            .status_reason
            .as_ref()
            .is_some_and(|text| text.chars().count() > MAX_STATUS_REASON_CHARS)
        {
            return invalid(format!(
                "statusReason has more than {MAX_STATUS_REASON_CHARS} characters"
            ));
        }
        if self
            .managed_by
            .as_ref()
            .is_some_and(|text| text.chars().count() > MAX_MANAGED_BY_CHARS)
        {
            return invalid(format!("managedBy has more than {MAX_MANAGED_BY_CHARS} characters"));
        }
        for scope in [&self.device_scope, &self.parent_scope] {
            if matches!(scope, ScopeWrite::Set(text) if text.len() > MAX_SCOPE_BYTES) {
                return Err(Rejection::new(
                    ErrorCode::InvalidDeviceScope,
                    "the scope is longer than any scope can be",
                ));
            }
        }
        if id.module.is_none() && self.authentication == Some(AuthenticationWrite::None) {
            return invalid("authentication type none is for modules only".to_owned());
        }
        if self
            .twin
            .tags
            .as_ref()
            .is_some_and(|text| text.len() > MAX_TAGS_JSON_BYTES)
        {
            return invalid("the twin's tags are too large".to_owned());
        }
        if self
            .twin
            .desired
            .as_ref()
            .is_some_and(|text| text.len() > MAX_DESIRED_JSON_BYTES)
        {
            return invalid("the twin's desired properties are too large".to_owned());
        }
        if self
            .twin
            .reported
            .as_ref()
            .is_some_and(|text| text.len() > MAX_DESIRED_JSON_BYTES)
        {
            return invalid("the twin's reported properties are too large".to_owned());
        }
        Ok(())
    }
}
