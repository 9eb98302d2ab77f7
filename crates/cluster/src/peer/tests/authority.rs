//! A certificate authority for tests.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

use crate::peer::{PEER_DNS_NAME, PeerTls, PeerTlsError, node_dns_name};

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
}

/// The contents of a certificate.
pub(super) struct Wanted {
    pub(super) name: &'static str,
    pub(super) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(super) ends: i32,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            name: PEER_DNS_NAME,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            ends: 2090,
        }
    }
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "peers");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2095, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate and its key as PEM.
    pub(super) fn issue(&self, wanted: &Wanted) -> (String, String) {
        self.sign(vec![wanted.name.to_owned()], wanted)
    }

    fn sign(&self, names: Vec<String>, wanted: &Wanted) -> (String, String) {
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(wanted.ends, 1, 1);
        params.extended_key_usages.clone_from(&wanted.usages);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Certificates for the nodes of these names.
    pub(super) fn node_called(&self, nodes: &[&str]) -> PeerTls {
        let mut names = vec![PEER_DNS_NAME.to_owned()];
        names.extend(nodes.iter().map(|node| node_dns_name(node)));
        let (certificate, key) = self.sign(names, &Wanted::default());
        PeerTls::from_pem(self.pem.as_bytes(), certificate.as_bytes(), key.as_bytes()).unwrap()
    }

    /// A node's certificates.
    pub(super) fn node(&self) -> PeerTls {
        self.load(&Wanted::default()).unwrap()
    }

    pub(super) fn load(&self, wanted: &Wanted) -> Result<PeerTls, PeerTlsError> {
        let (certificate, key) = self.issue(wanted);
        PeerTls::from_pem(self.pem.as_bytes(), certificate.as_bytes(), key.as_bytes())
    }
}
