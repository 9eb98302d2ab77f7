//! Bearer tokens of an OpenID Connect issuer: JSON Web Tokens (RFC 7519, RFC 7515) with roles (Spec auth-and-limits §5).
//!
//! Why: a shared key opens the hub for every program that holds it; an issuer names each principal, and its tokens end by themselves.
//! Invariants: pure (the caller brings keys and clock); nothing of a token is believed before its signature but the choice of a
//! key, and that choice is the issuer's, never the token's: keys and addresses inside a token are ignored; only the algorithms
//! of public keys exist here, and each belongs to one type of key, so that neither `none` nor a public key as an HMAC secret can be
//! requested; a token is bounded before it is decoded, and its JSON has no duplicate keys.
//! Not here: where keys come from (`oidc`), which action a call needs (`service-api`).
//! Start at [`BearerToken::parse`], then [`IssuerRules::check`].

mod access;
mod keys;
mod refusal;
mod rules;
#[cfg(test)]
mod tests;
mod token;

pub use access::{Action, InvalidRole, Role, Roles};
pub use keys::{Algorithm, IssuerKeys, KeySetError};
pub use refusal::{BearerDefect, BearerRefusal};
pub use rules::{IssuerRules, Principal};
pub use token::BearerToken;

/// The token in an `Authorization` header or a put-token: the text behind the word `Bearer`, or a bare JSON Web Token. `None`
/// for other credentials. Decided by the text alone, since clients name the wrong type beside it (Spec amqp §5).
#[must_use]
pub fn bearer_text(credential: &str) -> Option<&str> {
    match credential.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer ") => Some(token.trim()),
        // The base64 of `{"`: every header begins so, and no shared access signature does.
        _ => credential.starts_with("eyJ").then_some(credential),
    }
}
