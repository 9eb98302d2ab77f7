//! The credential of a refused attempt, for `holdfast device diagnose`: enough to compare with the registered one.
//!
//! Invariant: no signature, key or token; of a token only the fields that its owner sees in it too.

use bytes::Bytes;
use holdfast_auth::SasToken;
use holdfast_auth::x509::CertificateFingerprints;
use holdfast_model::{TlsParameters, UnixMillis};
use holdfast_proto::cluster::v1 as proto;

use super::connect_request::{ConnectRequest, Credential};

/// Longest part of a token's audience or policy that is kept, in bytes.
const MAX_TEXT_BYTES: usize = 256;

/// The kind of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferedKind {
    /// The client sent none.
    Nothing,
    /// A token.
    Token,
    /// A certificate.
    Certificate,
    /// Both.
    Both,
}

impl OfferedKind {
    /// The word in the diagnosis.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Token => "sas",
            Self::Certificate => "x509",
            Self::Both => "sas+x509",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Its kind.
    pub kind: OfferedKind,
    /// `sr` of the token as it was written, cut; `None`: there is no readable token.
    pub audience: Option<Box<str>>,
    /// `skn` of the token; `None`: the identity's own key.
    pub policy: Option<Box<str>>,
    /// `se` of the token.
    pub expires: Option<UnixMillis>,
    /// Digests of the client's certificate.
    pub certificate: Option<CertificateFingerprints>,
    /// The parameters of its TLS connection.
    pub tls: Option<TlsParameters>,
}

impl Offered {
    /// The credential of a request.
    #[must_use]
    pub fn of(request: &ConnectRequest<'_>) -> Self {
        let token = request.credential.token().and_then(|text| SasToken::parse(text).ok());
        Self {
            kind: match request.credential {
                Credential::None => OfferedKind::Nothing,
                Credential::SasToken(_) => OfferedKind::Token,
                Credential::CertificateChain(_) => OfferedKind::Certificate,
                Credential::Both(..) => OfferedKind::Both,
            },
            audience: token.as_ref().map(|token| cut(token.resource())),
            policy: token.as_ref().and_then(|token| token.policy().map(cut)),
            expires: token.as_ref().map(SasToken::expires),
            certificate: request
                .credential
                .chain()
                .map(|chain| CertificateFingerprints::of(chain.leaf())),
            tls: request.tls.cloned(),
        }
    }

    pub(crate) fn encode(&self) -> proto::OfferedCredential {
        let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
        let digest = |digest: fn(&CertificateFingerprints) -> &[u8]| {
            let certificate = self.certificate.as_ref();
            certificate
                .map(|prints| Bytes::copy_from_slice(digest(prints)))
                .unwrap_or_default()
        };
        let tls = self.tls.as_ref();
        proto::OfferedCredential {
            kind: match self.kind {
                OfferedKind::Nothing => 1,
                OfferedKind::Token => 2,
                OfferedKind::Certificate => 3,
                OfferedKind::Both => 4,
            },
            audience: text(&self.audience),
            policy: text(&self.policy),
            expires_ms: self.expires.map_or(0, |expires| expires.0),
            sha1: digest(|prints| &prints.sha1),
            sha256: digest(|prints| &prints.sha256),
            tls_version: tls.map(|tls| tls.version.to_string()).unwrap_or_default(),
            tls_cipher: tls.map(|tls| tls.cipher.to_string()).unwrap_or_default(),
        }
    }

    /// That of another node; `None` for a kind that this version does not know.
    pub(crate) fn decode(offered: &proto::OfferedCredential) -> Option<Self> {
        let text = |text: &str| (!text.is_empty()).then(|| cut(text));
        let certificate = || {
            Some(CertificateFingerprints {
                sha1: offered.sha1[..].try_into().ok()?,
                sha256: offered.sha256[..].try_into().ok()?,
            })
        };
        let tls = TlsParameters {
            version: cut(&offered.tls_version).into_string().into(),
            cipher: cut(&offered.tls_cipher).into_string().into(),
        };
        Some(Self {
            kind: match offered.kind {
                1 => OfferedKind::Nothing,
                2 => OfferedKind::Token,
                3 => OfferedKind::Certificate,
                4 => OfferedKind::Both,
                _ => return None,
            },
            audience: text(&offered.audience),
            policy: text(&offered.policy),
            expires: (offered.expires_ms > 0).then_some(UnixMillis(offered.expires_ms)),
            certificate: certificate(),
            tls: (!tls.version.is_empty()).then_some(tls),
        })
    }
}

fn cut(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(MAX_TEXT_BYTES)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offered_credential_is_decoded_as_it_was_encoded() {
        let offered = Offered {
            kind: OfferedKind::Both,
            audience: Some("hub%2Fdevices%2Fd".into()),
            policy: Some("device".into()),
            expires: Some(UnixMillis(7)),
            certificate: Some(CertificateFingerprints::of(b"a certificate")),
            tls: Some(TlsParameters {
                version: "TLSv1_3".into(),
                cipher: "TLS13_AES_256_GCM_SHA384".into(),
            }),
        };
        assert_eq!(Offered::decode(&offered.encode()), Some(offered));
        let nothing = Offered {
            kind: OfferedKind::Nothing,
            audience: None,
            policy: None,
            expires: None,
            certificate: None,
            tls: None,
        };
        assert_eq!(Offered::decode(&nothing.encode()), Some(nothing));
        assert_eq!(Offered::decode(&proto::OfferedCredential::default()), None);
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(cut(&"ä".repeat(200)).len(), 256);
        assert_eq!(cut(&format!("a{}", "ä".repeat(200))).len(), 255);
    }
}
