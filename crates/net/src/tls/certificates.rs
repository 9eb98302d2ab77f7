//! The certificates that the listeners show, and the choice among them.
//!
//! A TLS 1.2 client restricts elliptic curves twice: by its signature schemes and by its named groups, which count for
//! the certificate's key too (RFC 8422 §5.1). In TLS 1.3 the groups restrict the key exchange only, but a certificate
//! that fits both is right in either version.

use std::sync::Arc;

use holdfast_tasks::sync::RwLock;
use rustls::crypto::aws_lc_rs;
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;
use rustls::{NamedGroup, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::TlsError;

/// A certificate chain, leaf first, and its key.
pub struct ServerIdentity {
    /// As the metrics name it.
    pub name: &'static str,
    /// The host name whose clients get it, and those of no other name; `None`: clients of all names that have none of their own.
    pub host: Option<String>,
    /// Leaf first, all intermediates, without the root (Spec device-mqtt §12).
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
    /// The OCSP response for clients that ask for one.
    pub staple: Option<Staple>,
}

/// An OCSP response that may be stapled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staple {
    /// In DER.
    pub response: Vec<u8>,
    /// Its `nextUpdate`, from which on it is not stapled.
    pub until: UnixTime,
}

/// The certificates that listeners show, in order of preference. Clones share them; a replacement is effective for
/// handshakes that begin afterwards.
#[derive(Debug, Clone)]
pub struct ServerCertificates(Arc<RwLock<Vec<Chain>>>);

#[derive(Debug)]
struct Chain {
    name: &'static str,
    host: Option<String>,
    key: Arc<CertifiedKey>,
    /// The same with an OCSP response, and when that one ends.
    stapled: Option<(Arc<CertifiedKey>, UnixTime)>,
}

impl Chain {
    fn at(&self, now: UnixTime) -> Arc<CertifiedKey> {
        match &self.stapled {
            Some((stapled, until)) if now < *until => Arc::clone(stapled),
            _ => Arc::clone(&self.key),
        }
    }
}

impl ServerCertificates {
    /// The first ones.
    ///
    /// # Errors
    /// [`TlsError`] when there is no usable certificate.
    pub fn new(identities: Vec<ServerIdentity>) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(certified(identities)?))))
    }

    /// Replaces the certificates; the old ones stay when the new ones cannot be used.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn replace(&self, identities: Vec<ServerIdentity>) -> Result<(), TlsError> {
        let keys = certified(identities)?;
        *self.0.write() = keys;
        Ok(())
    }

    /// The chain for a client, and its name. In this order: those for the host name that the client names, else those without a host
    /// name; of these the first that fits the client's signature schemes and named groups, else the first that
    /// fits its signature schemes, else the first.
    pub(super) fn choose(&self, hello: &ClientHello<'_>) -> Option<(Arc<CertifiedKey>, &'static str)> {
        let chains = self.0.read();
        let named = |chain: &&Chain| match (&chain.host, hello.server_name()) {
            (Some(host), Some(name)) => host.eq_ignore_ascii_case(name),
            _ => false,
        };
        let of_name = chains.iter().any(|chain| named(&chain));
        let candidates = || (chains.iter()).filter(|chain| if of_name { named(chain) } else { chain.host.is_none() });
        let fits_schemes = |chain: &&Chain| chain.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let fits_groups = |chain: &&Chain| match (curve(&chain.key), hello.named_groups()) {
            (Some(curve), Some(groups)) => groups.contains(&curve),
            // Other keys have no curve; a client without the extension accepts every curve.
            _ => true,
        };
        let chain = candidates()
            .find(|chain| fits_schemes(chain) && fits_groups(chain))
            .or_else(|| candidates().find(fits_schemes))
            .or_else(|| candidates().next())?;
        Some((chain.at(UnixTime::now()), chain.name))
    }
}

fn certified(identities: Vec<ServerIdentity>) -> Result<Vec<Chain>, TlsError> {
    let provider = aws_lc_rs::default_provider();
    let mut keys = Vec::with_capacity(identities.len());
    for identity in identities {
        let certified =
            CertifiedKey::from_der(identity.chain, identity.key, &provider).map_err(TlsError::Certificate)?;
        let stapled = identity.staple.map(|staple| {
            let mut stapled = certified.clone();
            stapled.ocsp = Some(staple.response);
            (Arc::new(stapled), staple.until)
        });
        keys.push(Chain {
            name: identity.name,
            host: identity.host,
            key: Arc::new(certified),
            stapled,
        });
    }
    if keys.iter().all(|chain| chain.host.is_some()) {
        return Err(TlsError::NoCertificate);
    }
    Ok(keys)
}

/// The curve of an ECDSA key; `None` for other keys. Each ECDSA scheme of rustls belongs to one curve.
fn curve(key: &CertifiedKey) -> Option<NamedGroup> {
    const CURVES: [(SignatureScheme, NamedGroup); 3] = [
        (SignatureScheme::ECDSA_NISTP256_SHA256, NamedGroup::secp256r1),
        (SignatureScheme::ECDSA_NISTP384_SHA384, NamedGroup::secp384r1),
        (SignatureScheme::ECDSA_NISTP521_SHA512, NamedGroup::secp521r1),
    ];
    CURVES
        .into_iter()
        .find(|(scheme, _)| key.key.choose_scheme(&[*scheme]).is_some())
        .map(|(_, curve)| curve)
}
