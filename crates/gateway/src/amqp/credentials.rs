//! The tokens that a connection's client has put for devices and modules, until they end.
//!
//! Why they are kept: a session begins with a link, after the token was put, and only then is it known which identity a
//! policy's token is used for; the hub decides again with the token at hand.
//! Invariants: at most [`MAX_TOKENS`]; a renewal replaces the token of the same resource, a refused one leaves it; nothing
//! here is printed.
//! Not here: whether a token is valid (`device-hub`).

use std::collections::HashMap;
use std::rc::Rc;

use holdfast_amqp::address::percent_decode;
use holdfast_amqp::limits::MAX_TOKENS;
use holdfast_amqp_server::{Refused, token_path};
use holdfast_auth::SasToken;
use holdfast_model::{ErrorCode, UnixMillis};

/// The identity that a client names: device, and module of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) device: Box<str>,
    pub(super) module: Option<Box<str>>,
}

impl Name {
    pub(super) fn new(device: &str, module: Option<&str>) -> Self {
        Self {
            device: device.into(),
            module: module.map(Into::into),
        }
    }

    /// The identity in the audience of a token; `None`: it covers more than one device, or is no token. Ids in audiences are
    /// encoded once or twice; `exists` tells which reading is meant.
    pub(super) fn of_token(token: &str, exists: impl Fn(&Self) -> bool) -> Option<Self> {
        let token = SasToken::parse(token).ok()?;
        let path = token_path(token.resource());
        let (device, module) = match path.as_slice() {
            [devices, device, modules, module, ..]
                if devices.eq_ignore_ascii_case("devices") && modules.eq_ignore_ascii_case("modules") =>
            {
                (device, Some(module))
            }
            [devices, device, ..] if devices.eq_ignore_ascii_case("devices") => (device, None),
            _ => return None,
        };
        let as_written = Self::new(device, module.map(String::as_str));
        let module = module.map(|module| percent_decode(module));
        let decoded = Self::new(&percent_decode(device), module.as_deref());
        Some(if as_written != decoded && exists(&as_written) {
            as_written
        } else {
            decoded
        })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.device)?;
        self.module.as_ref().map_or(Ok(()), |module| write!(f, "/{module}"))
    }
}

struct Held {
    token: Rc<str>,
    /// `None` = never.
    ends: Option<UnixMillis>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Credentials {
    of_identities: HashMap<Name, Held>,
    /// Tokens of policies that cover more than one device, newest last.
    of_policies: Vec<(Box<str>, Held)>,
    /// A certificate of the connection has opened a session, and none of these was ended by the hub.
    pub(super) certificate_proved: bool,
}

impl Credentials {
    fn room(&self) -> Result<(), Refused> {
        if self.of_identities.len() + self.of_policies.len() < MAX_TOKENS {
            return Ok(());
        }
        let text = "The connection has as many tokens as one connection can have.";
        Err(Refused::new(ErrorCode::IotHubMaxCbsTokenExceeded, text))
    }

    /// Keeps an accepted token of an identity.
    ///
    /// # Errors
    /// 403005: there are too many.
    pub(super) fn put(&mut self, name: &Name, token: Rc<str>, ends: Option<UnixMillis>) -> Result<(), Refused> {
        if !self.of_identities.contains_key(name) {
            self.room()?;
        }
        self.of_identities.insert(name.clone(), Held { token, ends });
        Ok(())
    }

    /// Keeps an accepted token of a policy.
    ///
    /// # Errors
    /// 403005: there are too many.
    pub(super) fn put_policy(&mut self, resource: &str, token: &str, ends: UnixMillis) -> Result<(), Refused> {
        self.of_policies.retain(|(known, _)| **known != *resource);
        self.room()?;
        let held = Held {
            token: token.into(),
            ends: Some(ends),
        };
        self.of_policies.push((resource.into(), held));
        Ok(())
    }

    /// The token that is to open a session of `name`: its own, or that of its device, which can be a policy's, or a policy's
    /// for more.
    pub(super) fn token(&self, name: &Name) -> Option<Rc<str>> {
        let device = Name::new(&name.device, None);
        let own = self.of_identities.get(name).or_else(|| self.of_identities.get(&device));
        let of_policy = self.of_policies.last().map(|(_, held)| held);
        own.or(of_policy).map(|held| Rc::clone(&held.token))
    }

    /// Forgets the token of an identity whose session the hub has ended.
    pub(super) fn remove(&mut self, name: &Name) {
        self.of_identities.remove(name);
        self.certificate_proved = false;
    }

    /// Forgets what has ended by `now`, and policies' tokens that are not `valid` any more.
    pub(super) fn recheck(&mut self, now: UnixMillis, valid: impl Fn(&str) -> bool) {
        let lasts = |held: &Held| held.ends.is_none_or(|ends| ends >= now);
        self.of_identities.retain(|_, held| lasts(held));
        self.of_policies.retain(|(_, held)| lasts(held) && valid(&held.token));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of_identities.is_empty() && self.of_policies.is_empty() && !self.certificate_proved
    }

    /// When the first of them ends.
    pub(super) fn next_end(&self) -> Option<UnixMillis> {
        let of_policies = self.of_policies.iter().map(|(_, held)| held);
        let all = self.of_identities.values().chain(of_policies);
        all.filter_map(|held| held.ends).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(sr: &str) -> String {
        format!("SharedAccessSignature sr={sr}&sig=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA%3D&se=1700000000")
    }

    #[test]
    fn an_audience_names_its_identity_encoded_once_or_twice() {
        let never = |_: &Name| false;
        for (sr, device, module) in [
            ("hub%2Fdevices%2Fd1", "d1", None),
            ("hub/devices/d1", "d1", None),
            ("hub%2Fdevices%2Fa%2540b", "a@b", None),
            ("hub%2Fdevices%2Fa%40b", "a@b", None),
            ("amqps%3A%2F%2Fhub%2Fdevices%2Fd1%2Fmodules%2Fm1", "d1", Some("m1")),
        ] {
            assert_eq!(
                Name::of_token(&token(sr), never),
                Some(Name::new(device, module)),
                "{sr}"
            );
        }
        // A device whose id looks encoded.
        let written = Name::new("a%41", None);
        assert_eq!(
            Name::of_token(&token("hub%2Fdevices%2Fa%2541"), |name| *name == written),
            Some(written.clone())
        );
        for sr in ["hub", "hub%2Fmessages", "hub%2Fdevices"] {
            assert_eq!(Name::of_token(&token(sr), never), None, "{sr}");
        }
    }

    #[test]
    fn tokens_are_counted_renewed_and_forgotten() {
        let mut credentials = Credentials::default();
        for number in 0..MAX_TOKENS {
            let name = Name::new(&number.to_string(), None);
            credentials
                .put(&name, "t".into(), Some(UnixMillis(number as u64)))
                .unwrap();
        }
        let name = Name::new("0", None);
        credentials.put(&name, "newer".into(), None).unwrap();
        assert_eq!(&*credentials.token(&Name::new("0", Some("m"))).unwrap(), "newer");
        let more = credentials.put(&Name::new("more", None), "t".into(), None);
        assert_eq!(more.unwrap_err().code, ErrorCode::IotHubMaxCbsTokenExceeded);
        assert_eq!(credentials.next_end(), Some(UnixMillis(1)));
        credentials.recheck(UnixMillis(10_000), |_| true);
        assert_eq!(credentials.of_identities.len(), 1);
        credentials.remove(&name);
        assert!(credentials.is_empty());
        credentials.put_policy("hub", "p", UnixMillis(5)).unwrap();
        assert_eq!(&*credentials.token(&name).unwrap(), "p");
        credentials.recheck(UnixMillis(5), |_| false);
        assert!(credentials.is_empty());
    }
}
