//! The grammar of user names, with the forms of old and raw clients (Spec §2.2).

use std::borrow::Cow;

use holdfast_model::{ApiVersion, InvalidApiVersion};

use super::LoginError;
use crate::escape;
use crate::limits::MAX_CLIENT_TYPE_BYTES;

/// A user name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login<'a> {
    /// As sent; may carry a port, see [`Login::host_name`].
    pub host: &'a str,
    /// Raw; validated by [`Login::identity`].
    pub device: &'a str,
    /// Raw; `None` for a device.
    pub module: Option<&'a str>,
    /// `None` = newest behaviour.
    pub api_version: Option<ApiVersion>,
    /// SDK and platform, for logs only; cut to 1 KiB.
    pub client_type: Option<Cow<'a, str>>,
    /// DTMI of the device's model, for as long as this connection lasts. `None` does not clear a stored one.
    pub model_id: Option<Cow<'a, str>>,
    /// Edge on-behalf-of: `target;…;actor`.
    pub auth_chain: Option<Cow<'a, str>>,
}

/// Names after which a `/` is taken for a forgotten `&`, as the Azure ML client writes it.
const PARAMETERS: [&str; 4] = ["api-version=", "DeviceClientType=", "model-id=", "auth-chain="];

impl<'a> Login<'a> {
    /// Takes a user name apart.
    ///
    /// # Errors
    /// [`LoginError::UsernameShape`], [`LoginError::ApiVersion`], [`LoginError::ParameterUtf8`]; ids are judged by
    /// [`Login::identity`].
    pub fn parse(username: &'a str) -> Result<Self, LoginError> {
        let (host, rest) = username.split_once('/').ok_or(LoginError::UsernameShape)?;
        let (device, rest) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() || device.is_empty() {
            return Err(LoginError::UsernameShape);
        }
        let (module, parameters) = if rest.is_empty() {
            (None, "")
        } else if let Some(parameters) = start_of_parameters(rest) {
            (None, parameters)
        } else {
            let (module, rest) = rest.split_once('/').unwrap_or((rest, ""));
            let parameters = if rest.is_empty() {
                Some("")
            } else {
                start_of_parameters(rest)
            };
            (Some(module), parameters.ok_or(LoginError::UsernameShape)?)
        };
        let mut login = Self {
            host,
            device,
            module,
            api_version: None,
            client_type: None,
            model_id: None,
            auth_chain: None,
        };
        login.read_parameters(parameters)?;
        Ok(login)
    }

    fn read_parameters(&mut self, parameters: &'a str) -> Result<(), LoginError> {
        let mut version_seen = false;
        for pair in parameters.split('&').flat_map(SlashPairs::new) {
            let Some((name, value)) = pair.split_once('=') else {
                continue;
            };
            // The first of two counts.
            match name {
                "api-version" if !version_seen => {
                    version_seen = true;
                    let version =
                        ApiVersion::parse(&decode(value)?).map_err(|_: InvalidApiVersion| LoginError::ApiVersion)?;
                    self.api_version = Some(version);
                }
                "DeviceClientType" if self.client_type.is_none() => self.client_type = Some(cut(decode(value)?)),
                "model-id" if self.model_id.is_none() => self.model_id = Some(decode(value)?),
                "auth-chain" if self.auth_chain.is_none() => self.auth_chain = Some(decode(value)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// The host without a port. To be compared without regard to case.
    #[must_use]
    pub fn host_name(&self) -> &'a str {
        match self.host.rsplit_once(':') {
            Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => self.host,
        }
    }
}

/// The parameters, if they begin here: after a `?`, or with a name of the old form without one.
fn start_of_parameters(rest: &str) -> Option<&str> {
    let is_known = |text: &str, names: &[&str]| names.iter().any(|name| text.starts_with(name));
    match rest.strip_prefix('?') {
        // A module id may begin with a question mark; then a further segment follows with the parameters.
        Some(parameters) if is_known(parameters, &PARAMETERS) || !parameters.contains("/?") => Some(parameters),
        Some(_) => None,
        None => is_known(rest, &PARAMETERS[..2]).then_some(rest),
    }
}

/// The pieces of a pair that has `/{known name}=` inside.
struct SlashPairs<'a>(Option<&'a str>);

impl<'a> SlashPairs<'a> {
    fn new(pair: &'a str) -> Self {
        Self(Some(pair))
    }
}

impl<'a> Iterator for SlashPairs<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0?;
        let slash = text.match_indices('/').map(|(at, _)| at).find(|at| {
            let rest = text.get(at + 1..).unwrap_or_default();
            PARAMETERS.iter().any(|name| rest.starts_with(name))
        });
        let (piece, rest) = match slash {
            Some(at) => (text.get(..at)?, text.get(at + 1..)),
            None => (text, None),
        };
        self.0 = rest;
        Some(piece)
    }
}

fn decode(value: &str) -> Result<Cow<'_, str>, LoginError> {
    escape::decode(value).ok_or(LoginError::ParameterUtf8)
}

fn cut(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= MAX_CLIENT_TYPE_BYTES {
        return text;
    }
    let end = text.floor_char_boundary(MAX_CLIENT_TYPE_BYTES);
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(..end).unwrap_or_default()),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    }
}
