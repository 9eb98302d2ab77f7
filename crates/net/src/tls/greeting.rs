//! What a client says of itself in its first message, in words that label a metric.
//!
//! Why: an operator must know which clients a change of the server certificate reaches before the change (docs/runbook.md).
//! Invariant: every word is from a fixed set.

use rustls::{CipherSuite, SignatureScheme};

/// Which name of the hub a client has named in its TLS greeting (SNI).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    /// `hub.host`.
    Hub,
    /// `HUB.device.DOMAIN`.
    Device,
    /// `HUB.service.DOMAIN`.
    Service,
    /// One of `hub.aliases`.
    Alias,
    /// Any other name.
    Other,
    /// No name; also clients that connect to an IP address.
    None,
}

impl NameKind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Device => "device",
            Self::Service => "service",
            Self::Alias => "alias",
            Self::Other => "other",
            Self::None => "none",
        }
    }
}

/// The names of the hub that clients may name. Names are compared without regard to case.
#[derive(Debug, Clone, Default)]
pub struct ServerNames(Vec<(String, NameKind)>);

impl ServerNames {
    /// The first of several equal names counts.
    pub fn new(names: impl IntoIterator<Item = (String, NameKind)>) -> Self {
        Self(names.into_iter().collect())
    }

    pub(super) fn kind(&self, name: Option<&str>) -> NameKind {
        let Some(name) = name else { return NameKind::None };
        let known = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map_or(NameKind::Other, |(_, kind)| *kind)
    }
}

/// Whether a browser greets: it names cipher suites that do not exist (GREASE, RFC 8701), which no TLS library of devices does.
///
/// Chromium ends the handshake of a WebSocket in which a client certificate is requested, so none is requested from a browser.
pub(super) fn is_browser(suites: &[CipherSuite]) -> bool {
    suites.iter().any(|suite| {
        let [high, low] = u16::from(*suite).to_be_bytes();
        high == low && low & 0x0f == 0x0a
    })
}

/// Which kinds of server keys a client can verify.
pub(super) fn signatures(schemes: &[SignatureScheme]) -> &'static str {
    let has = |wanted: &[SignatureScheme]| schemes.iter().any(|scheme| wanted.contains(scheme));
    let ecdsa = has(&[
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ECDSA_NISTP521_SHA512,
    ]);
    let rsa = has(&[
        SignatureScheme::RSA_PKCS1_SHA256,
        SignatureScheme::RSA_PKCS1_SHA384,
        SignatureScheme::RSA_PKCS1_SHA512,
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PSS_SHA384,
        SignatureScheme::RSA_PSS_SHA512,
    ]);
    match (ecdsa, rsa) {
        (true, true) => "ecdsa_rsa",
        (true, false) => "ecdsa",
        (false, true) => "rsa",
        (false, false) => "other",
    }
}
