//! What the hub expects of a token, and the decision about one: claims first, which need no key, then the signature.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::UnixMillis;
use serde_json::{Map, Value};

use super::token::texts;
use super::{Algorithm, BearerRefusal, BearerToken, IssuerKeys, Role, Roles};

/// Longest name of a principal in logs and answers, in characters.
const MAX_NAME_CHARS: usize = 64;

/// The hub's rules for the tokens of its issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerRules {
    /// `iss`, exactly.
    pub issuer: String,
    /// `aud` must have one of them.
    pub audiences: Vec<String>,
    /// `alg` must be one of them.
    pub algorithms: Vec<Algorithm>,
    /// How far the clocks of issuer and hub may differ.
    pub clock_skew: Duration,
    /// The claim with the principal's roles: a name, or a path with dots into objects.
    pub role_claim: String,
    /// Values of that claim, and their roles.
    pub roles: Vec<(String, Role)>,
    /// Values of `sub`, and their roles.
    pub subjects: Vec<(String, Role)>,
}

/// A principal that has proved itself. A connection keeps this, never the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// `sub`, else `oid`, printable and truncated: for logs and answers.
    pub name: Arc<str>,
    /// Its roles; perhaps none.
    pub roles: Roles,
    /// When a live connection loses it: `exp` plus the allowance for clocks.
    pub ends: UnixMillis,
}

impl IssuerRules {
    /// Checks `token` at `now` (hub clock). `keys` = `None`: they have never been read.
    ///
    /// # Errors
    /// The first rule that is broken, in the order of [`BearerRefusal`].
    pub fn check(
        &self,
        token: &BearerToken<'_>,
        keys: Option<&IssuerKeys>,
        now: UnixMillis,
    ) -> Result<Principal, BearerRefusal> {
        let algorithm = token.algorithm.filter(|algorithm| self.algorithms.contains(algorithm));
        let algorithm = algorithm.ok_or(BearerRefusal::Algorithm)?;
        if token.issuer != self.issuer {
            return Err(BearerRefusal::Issuer);
        }
        if !token.audiences.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(BearerRefusal::Audience);
        }
        let skew = u64::try_from(self.clock_skew.as_millis()).unwrap_or(u64::MAX);
        let ends = UnixMillis(token.expires.0.saturating_add(skew));
        if ends < now {
            return Err(BearerRefusal::Expired { at: token.expires, now });
        }
        if let Some(at) = token.not_before.filter(|at| at.0 > now.0.saturating_add(skew)) {
            return Err(BearerRefusal::NotYet { at, now });
        }
        keys.ok_or(BearerRefusal::NoKeys)?.verify(token, algorithm)?;
        Ok(Principal {
            name: name(&token.claims).into(),
            roles: self.roles_of(&token.claims),
            ends,
        })
    }

    fn roles_of(&self, claims: &Map<String, Value>) -> Roles {
        let values = texts(claim(claims, &self.role_claim)).unwrap_or_default();
        let subject = claims.get("sub").and_then(Value::as_str);
        let by_value = self.roles.iter().filter(|(value, _)| values.contains(value));
        let by_subject = self.subjects.iter().filter(|(value, _)| subject == Some(value));
        by_value.chain(by_subject).map(|(_, role)| *role).collect()
    }
}

/// The claim of this name, or at this path: names of claims may have dots, too.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    claim(claims.get(first)?.as_object()?, rest)
}

fn name(claims: &Map<String, Value>) -> String {
    let named = ["sub", "oid"].iter().find_map(|name| claims.get(*name)?.as_str());
    let name = named.unwrap_or("without name");
    let printable = |c: char| if c.is_control() || c == ';' { '?' } else { c };
    name.chars().take(MAX_NAME_CHARS).map(printable).collect()
}
