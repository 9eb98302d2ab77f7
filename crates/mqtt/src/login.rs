//! The identity that a CONNECT claims: the grammar of user names, and the rule that client id and user name agree.
//!
//! Wire facts: Spec device-mqtt §2.1–2.4; the test vectors are the user names of the SDKs.
//! Invariants: ids are raw, values are percent-decoded; a refusal found here is certain, so CONNACK 5 may be said.
//! Not here: checks of host, identity and token (`auth`, `device-hub`).

mod username;

pub use crate::login_error::LoginError;
pub use username::Login;

use holdfast_model::{DeviceId, IdentityId, InvalidId, ModuleId};

use crate::codec::Connect;

/// A CONNECT whose parts agree with each other; nothing is proved yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim<'a> {
    /// The claimed identity.
    pub identity: IdentityId,
    /// The user name, taken apart.
    pub login: Login<'a>,
    /// A SAS token; `None` = the client authenticates with a certificate.
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
