//! The certificates that a client showed in its TLS handshake.
//!
//! Why: the front ends receive them from the transport, the device hub decides on them, and neither may depend on a
//! TLS library for that.
//! Invariants: a chain is never empty; TLS has proved that the client owns the leaf's private key, and nothing else.
//! Not here: parsing and validation of certificates.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// The parameters that a TLS handshake has agreed on, as their standards name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsParameters {
    /// The version, such as `TLSv1_3`.
    pub version: Cow<'static, str>,
    /// The cipher suite, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: Cow<'static, str>,
}

/// A client's certificate chain: DER, leaf first. Clones share it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CertificateChain(Arc<[Bytes]>);

impl CertificateChain {
    /// The chain of `certificates`, leaf first; `None` without a leaf.
    pub fn new(certificates: impl IntoIterator<Item = Bytes>) -> Option<Self> {
        let certificates: Arc<[Bytes]> = certificates.into_iter().collect();
        (!certificates.is_empty()).then_some(Self(certificates))
    }

    /// The client's own certificate, in DER.
    #[must_use]
    pub fn leaf(&self) -> &[u8] {
        // `new` refuses an empty chain.
        self.0.first().map_or(&[], |leaf| leaf)
    }

    /// The issuers, as the client sent them behind its own certificate.
    #[must_use]
    pub fn issuers(&self) -> &[Bytes] {
        self.0.get(1..).unwrap_or_default()
    }

    /// All certificates, leaf first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.0.iter().map(|certificate| &**certificate)
    }
}

impl fmt::Debug for CertificateChain {
    /// The sizes only: whole certificates do not belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateChain(")?;
        f.debug_list().entries(self.iter().map(<[u8]>::len)).finish()?;
        write!(f, " bytes)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_a_leaf_and_keeps_the_order() {
        assert_eq!(CertificateChain::new([]), None);
        let chain = CertificateChain::new([Bytes::from_static(b"leaf"), Bytes::from_static(b"ca")]).unwrap();
        assert_eq!(chain.leaf(), b"leaf");
        assert_eq!(chain.issuers(), [Bytes::from_static(b"ca")]);
        assert_eq!(chain.iter().collect::<Vec<_>>(), [&b"leaf"[..], b"ca"]);
    }

    #[test]
    fn debug_output_shows_sizes_and_no_bytes() {
        let chain = CertificateChain::new([Bytes::from_static(b"leaf")]).unwrap();
        assert_eq!(format!("{chain:?}"), "CertificateChain([4] bytes)");
    }
}
