//! The ways in which a CONNECT fails to name an identity.

use holdfast_model::{ErrorCode, RefusalReason};
use thiserror::Error;

/// Why a CONNECT names no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LoginError {
    /// The user name is missing or empty.
    #[error("the user name is missing")]
    UsernameMissing,
    /// The user name has no `/` and so no device id.
    #[error("the user name is not {{host}}/{{device id}}[/{{module id}}]/?api-version=…")]
    UsernameShape,
    /// The device id is not one (empty, too long, forbidden characters).
    #[error("the user name's device id is not valid")]
    DeviceId,
    /// The module id is not one.
    #[error("the user name's module id is not valid")]
    ModuleId,
    /// A parameter is not UTF-8 after percent-decoding.
    #[error("a parameter of the user name is not valid UTF-8 after decoding")]
    ParameterUtf8,
    /// `api-version` is not an accepted version ([`holdfast_model::ApiVersion`]).
    #[error("the user name's api-version is not supported")]
    ApiVersion,
    /// The client id is empty.
    #[error("the client id is empty")]
    ClientIdEmpty,
    /// The client id is not the identity of the user name, byte for byte.
    #[error("the client id is not the identity that the user name names")]
    ClientIdMismatch,
}

impl LoginError {
    /// The cause, in the words of the audit log.
    #[must_use]
    pub const fn reason(self) -> RefusalReason {
        match self {
            Self::UsernameMissing => RefusalReason::Missing,
            Self::ApiVersion => RefusalReason::Version,
            Self::ClientIdEmpty | Self::ClientIdMismatch => RefusalReason::IdentityMismatch,
            Self::UsernameShape | Self::DeviceId | Self::ModuleId | Self::ParameterUtf8 => RefusalReason::Malformed,
        }
    }

    /// The catalogue number for the log.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        self.reason().code()
    }

    /// A short name for a counter's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::UsernameMissing => "username_missing",
            Self::UsernameShape => "username_shape",
            Self::DeviceId => "username_device_id",
            Self::ModuleId => "username_module_id",
            Self::ParameterUtf8 => "username_parameter_utf8",
            Self::ApiVersion => "api_version",
            Self::ClientIdEmpty => "client_id_empty",
            Self::ClientIdMismatch => "client_id_mismatch",
        }
    }
}
