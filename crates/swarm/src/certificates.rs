//! Certificates of simulated devices, and the CAs that issue them.
//!
//! Invariants: every key is ECDSA P-256; a device shows its own certificate alone, without issuers.
//! Not here: which of them a hub accepts ([`crate::operator`] registers them).

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsConnector;

use crate::target::Tls;

/// The files of a CA that is kept.
const CA_FILE: &str = "device-ca.pem";
const CA_KEY_FILE: &str = "device-ca.key";

/// A device's certificate and its key.
#[derive(Clone)]
pub struct DeviceCertificate {
    der: CertificateDer<'static>,
    identity: Arc<CertifiedKey>,
}

impl DeviceCertificate {
    /// A certificate that only its thumbprint makes known.
    ///
    /// # Errors
    /// When the library refuses the name.
    pub fn self_signed(device: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let der = leaf(device)?.self_signed(&key)?.der().clone();
        Self::new(der, &key)
    }

    fn new(der: CertificateDer<'static>, key: &KeyPair) -> Result<Self> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)?;
        let identity = Arc::new(CertifiedKey::new(vec![der.clone()], signer));
        Ok(Self { der, identity })
    }

    /// Its SHA-256, 64 hexadecimal digits.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(&self.der) {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02X}");
        }
        text
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// A TLS client that trusts what `base` trusts and shows this certificate.
    #[must_use]
    pub fn tls(&self, base: &Tls) -> Tls {
        let mut config = rustls::ClientConfig::clone(base.connector.config());
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&self.identity)));
        Tls {
            connector: TlsConnector::from(Arc::new(config)),
            server: base.server.clone(),
        }
    }
}

/// A CA of devices with its key.
pub struct DeviceCa {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl DeviceCa {
    /// A new root.
    ///
    /// # Errors
    /// When the library refuses the name.
    pub fn new(name: &str) -> Result<Self> {
        let (key, params) = (KeyPair::generate()?, root(name)?);
        let der = params.self_signed(&key)?.der().clone();
        let issuer = Issuer::new(params, key);
        Ok(Self { der, issuer })
    }

    /// The CA that is kept in `folder`; a new one where there is none. Two processes thus use the same.
    ///
    /// # Errors
    /// When the folder's files cannot be read or written.
    pub fn kept_in(folder: &Path, name: &str) -> Result<Self> {
        let (file, key_file) = (folder.join(CA_FILE), folder.join(CA_KEY_FILE));
        if !file.exists() {
            let ca = Self::new(name)?;
            fs::create_dir_all(folder)?;
            fs::write(&key_file, ca.issuer.key().serialize_pem())
                .with_context(|| format!("cannot write {}", key_file.display()))?;
            fs::write(&file, pem(&ca.der)).with_context(|| format!("cannot write {}", file.display()))?;
            return Ok(ca);
        }
        let der = CertificateDer::from_pem_file(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let key = fs::read_to_string(&key_file).with_context(|| format!("cannot read {}", key_file.display()))?;
        let issuer = Issuer::new(root(name)?, KeyPair::from_pem(&key)?);
        Ok(Self { der, issuer })
    }

    /// Its certificate.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// A certificate of `common_name`, a device or a verification code, with a new key.
    ///
    /// # Errors
    /// When the library refuses the name.
    pub fn issue(&self, common_name: &str) -> Result<DeviceCertificate> {
        let key = KeyPair::generate()?;
        let der = leaf(common_name)?.signed_by(&key, &self.issuer)?.der().clone();
        DeviceCertificate::new(der, &key)
    }
}

/// A certificate for a server called `name` under a CA of its own: the CA, the certificate, and its key.
///
/// # Errors
/// When the library refuses the name.
pub(crate) fn server(name: &str) -> Result<(CertificateDer<'static>, CertificateDer<'static>, PrivateKeyDer<'static>)> {
    let ca = DeviceCa::new("swarm's reference server")?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name = common_name(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &ca.issuer)?.der().clone();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    Ok((ca.der, certificate, key))
}

/// A certificate as PEM.
pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn common_name(name: &str) -> DistinguishedName {
    let mut full = DistinguishedName::new();
    full.push(DnType::CommonName, name);
    full
}

fn root(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = common_name(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_ca_is_the_same_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = DeviceCa::kept_in(folder.path(), "kept").unwrap();
        let second = DeviceCa::kept_in(folder.path(), "kept").unwrap();
        assert_eq!(first.der(), second.der());
        assert_eq!(
            pem(first.der()),
            fs::read_to_string(folder.path().join(CA_FILE)).unwrap()
        );
        let (one, other) = (first.issue("d").unwrap(), second.issue("d").unwrap());
        assert_ne!(one.thumbprint(), other.thumbprint());
        assert_eq!(one.thumbprint().len(), 64);
    }
}
