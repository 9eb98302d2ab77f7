//! Who a CONNECT claims to be: the grammar of user names, and what client id and user name must agree on.
//!
//! Wire facts: Spec device-mqtt §2.1–2.4; the test vectors are the user names of the SDKs.
//! Invariants: ids are raw, values are percent-decoded; a refusal found here is certain, so CONNACK 5 may be said.
//! Not here: whether the host is ours, the identity exists and the token is right (`auth`, `gateway`).

mod username;

pub use username::{Login, Provisioning};

use holdfast_model::{DeviceId, ErrorCode, IdentityId, InvalidId, ModuleId, RefusalReason};
use thiserror::Error;

use crate::codec::{Connect, connack};

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
    /// The CONNACK: 1 for versions, 5 for everything else.
    #[must_use]
    pub const fn connack(self) -> &'static [u8] {
        const VERSION: [u8; 4] = connack(false, 1);
        const NOT_AUTHORISED: [u8; 4] = connack(false, 5);
        match self {
            Self::ApiVersion => &VERSION,
            _ => &NOT_AUTHORISED,
        }
    }

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

/// A CONNECT whose parts agree with each other; nothing is proved yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim<'a> {
    /// Who it claims to be.
    pub identity: IdentityId,
    /// The user name, taken apart.
    pub login: Login<'a>,
    /// A SAS token; `None` or empty = a certificate is to speak.
    pub password: Option<&'a [u8]>,
    /// The packet itself: will, keep-alive, clean session.
    pub connect: Connect<'a>,
}

impl<'a> Claim<'a> {
    /// Reads the claim of a CONNECT.
    ///
    /// # Errors
    /// [`LoginError`], the first rule that is broken.
    pub fn of(connect: &Connect<'a>) -> Result<Self, LoginError> {
        let username = connect
            .username
            .filter(|text| !text.is_empty())
            .ok_or(LoginError::UsernameMissing)?;
        let login = Login::parse(username)?;
        if connect.client_id.is_empty() {
            return Err(LoginError::ClientIdEmpty);
        }
        if !login.matches_client_id(connect.client_id) {
            return Err(LoginError::ClientIdMismatch);
        }
        let identity = login.identity()?;
        let password = connect.password.filter(|bytes| !bytes.is_empty());
        Ok(Self {
            identity,
            login,
            password,
            connect: *connect,
        })
    }
}

impl Login<'_> {
    /// The identity that the user name names.
    ///
    /// # Errors
    /// [`LoginError::DeviceId`], [`LoginError::ModuleId`].
    pub fn identity(&self) -> Result<IdentityId, LoginError> {
        let device = DeviceId::parse(self.device).map_err(|_: InvalidId| LoginError::DeviceId)?;
        match self.module {
            None => Ok(IdentityId::device(device)),
            Some(module) => {
                let module = ModuleId::parse(module).map_err(|_: InvalidId| LoginError::ModuleId)?;
                Ok(IdentityId::module(device, module))
            }
        }
    }

    /// Whether the client id is `{device}` or `{device}/{module}`, byte for byte.
    #[must_use]
    pub fn matches_client_id(&self, client_id: &str) -> bool {
        match (client_id.strip_prefix(self.device), self.module) {
            (Some(rest), None) => rest.is_empty(),
            (Some(rest), Some(module)) => rest.strip_prefix('/') == Some(module),
            (None, _) => false,
        }
    }
}

#[cfg(test)]
mod tests;
