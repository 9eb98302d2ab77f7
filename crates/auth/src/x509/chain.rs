//! Verifies a client's certificate against the CAs of the hub (Spec auth-and-limits §3).
//!
//! The path is built and its signatures are verified by `webpki`, with the hub's CAs as anchors, roots or not. Everything that
//! needs no signature is checked before. Issuers are known by their names, and a chain has at most one of each name, so that there
//! is one way through it: as many signatures are verified as the path has steps, times the CAs of the hub that share a name.
//!
//! A verified signature stays valid, so a path that was verified is known by the digests of all its certificates
//! ([`PathMemory`]); dates and revocation are checked each time.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::limits::{MAX_CERTIFICATE_BYTES, MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES};
use holdfast_model::{CertificateChain, UnixMillis};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use sha2::{Digest as _, Sha256};
use webpki::aws_lc_rs as algorithms;

use super::authority::{CaCertificate, CaSet, SentIssuer};
use super::leaf::ClientCertificate;
use super::refusal::CertificateRefusal;
use super::revocation::PathCertificate;
use super::{CertificateFingerprints, shown};

/// The signatures that issuers may make: no MD5, no SHA-1, and RSA from 2048 bits.
pub(crate) const SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// A chain that leads to a CA of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChain {
    /// SHA-256 of the CA's certificate.
    pub ca: [u8; 32],
    /// The path below the CA, from the client's own certificate upwards.
    pub path: Vec<PathCertificate>,
    /// When the first certificate of the path ends, the CA's included.
    pub ends: UnixMillis,
}

/// Names the certificates that a path was looked for among: the digest of their digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PathKey([u8; 32]);

/// Where a path lies among the certificates of its [`PathKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathShape {
    /// How many of the issuers that the client has sent are part of it.
    issuers: u8,
    /// Which of the CAs it ends in.
    anchor: u8,
}

/// Knows paths that [`verify_chain`] has verified, so that a client that returns costs no signature.
///
/// Only paths that a CA of the hub has issued are stored: a stranger cannot fill it.
pub trait PathMemory {
    /// The path of these certificates, if it was stored.
    fn find(&self, key: &PathKey) -> Option<PathShape>;
    /// Stores a path whose signatures hold.
    fn store(&self, key: PathKey, path: PathShape);
}

/// Knows nothing: each signature is verified each time.
impl PathMemory for () {
    fn find(&self, _: &PathKey) -> Option<PathShape> {
        None
    }

    fn store(&self, _: PathKey, _: PathShape) {}
}

/// Checks the size of a chain, before any of it is parsed.
///
/// # Errors
/// [`CertificateRefusal::TooLarge`].
pub fn check_size(chain: &CertificateChain) -> Result<(), CertificateRefusal> {
    let bytes: usize = chain.iter().map(<[u8]>::len).sum();
    let largest = chain.iter().map(<[u8]>::len).max().unwrap_or_default();
    let certificates = chain.iter().len();
    if certificates > MAX_CHAIN_CERTIFICATES || bytes > MAX_CHAIN_BYTES || largest > MAX_CERTIFICATE_BYTES {
        return Err(CertificateRefusal::TooLarge {
            certificates,
            bytes,
            largest,
        });
    }
    Ok(())
}

/// Verifies that one of `authorities` has issued `leaf`, the first certificate of `chain`, directly or over issuers that the
/// client has sent, and that all of them are valid at `now`. Signatures of a path that `memory` knows are not verified again.
///
/// # Errors
/// [`CertificateRefusal`] names the first rule that is broken; rules about signatures come last.
pub fn verify_chain(
    chain: &CertificateChain,
    leaf: &ClientCertificate<'_>,
    authorities: &CaSet,
    memory: &dyn PathMemory,
    now: UnixMillis,
) -> Result<VerifiedChain, CertificateRefusal> {
    check_size(chain)?;
    leaf.check_is_leaf()?;
    leaf.check_time(now)?;
    let mut sent: Vec<SentIssuer<'_>> = Vec::with_capacity(chain.issuers().len());
    for der in chain.issuers() {
        let issuer = SentIssuer::parse(der)?;
        // The first one of a name counts; see the head of this file.
        if sent.iter().all(|other| other.subject() != issuer.subject()) {
            sent.push(issuer);
        }
    }
    let walk = follow(leaf, &sent, authorities, now)?;
    let digests: Vec<[u8; 32]> = walk
        .issuers
        .iter()
        .map(|issuer| CertificateFingerprints::sha256(issuer.der))
        .collect();
    let key = path_key(leaf, &digests, &walk.anchors);
    let shape = match memory.find(&key) {
        Some(known) => known,
        None => {
            let found = if leaf.is_version_1() {
                verify_direct(chain.leaf(), leaf, &walk.anchors)?
            } else {
                verify_path(chain.leaf(), &walk, now)?
            };
            memory.store(key, found);
            found
        }
    };
    let gone = || CertificateRefusal::Chain("its CA is gone".to_owned());
    let ca = walk.anchors.get(usize::from(shape.anchor)).ok_or_else(gone)?;
    // `follow` found the issuers from the client's certificate upwards; the path has the first ones of them.
    let issuers = walk.issuers.get(..usize::from(shape.issuers)).ok_or_else(gone)?;
    Ok(VerifiedChain {
        ca: ca.fingerprints().sha256,
        ends: issuers
            .iter()
            .map(|issuer| issuer.ends())
            .fold(leaf.ends().min(ca.ends()), UnixMillis::min),
        path: path_certificates(leaf, issuers, &digests, ca),
    })
}

/// The order of the anchors counts: the first one that fits is the path's.
fn path_key(leaf: &ClientCertificate<'_>, issuers: &[[u8; 32]], anchors: &[&Arc<CaCertificate>]) -> PathKey {
    let mut digest = Sha256::new();
    digest.update(leaf.fingerprints().sha256);
    digest.update((issuers.len() as u64).to_be_bytes());
    for issuer in issuers {
        digest.update(issuer);
    }
    for anchor in anchors {
        digest.update(anchor.fingerprints().sha256);
    }
    PathKey(digest.finalize().into())
}

/// Verifies the signatures, constraints and usages of a path from the certificate `leaf`.
fn verify_path(leaf: &[u8], walk: &Walk<'_>, now: UnixMillis) -> Result<PathShape, CertificateRefusal> {
    let used: Vec<CertificateDer<'_>> = walk.issuers.iter().map(|issuer| issuer.der.into()).collect();
    let ders: Vec<CertificateDer<'_>> = walk
        .anchors
        .iter()
        .map(|ca| CertificateDer::from(&**ca.der()))
        .collect();
    let mut anchors = Vec::with_capacity(ders.len());
    for der in &ders {
        anchors.push(webpki::anchor_from_trusted_cert(der).map_err(refused)?);
    }
    let leaf = CertificateDer::from(leaf);
    let end_entity = webpki::EndEntityCert::try_from(&leaf).map_err(refused)?;
    // The position of a path's anchor: keys and names of two CAs may be equal, and the later one of them then ends last.
    let anchor_of = |path: &webpki::VerifiedPath<'_>| {
        let same = |anchor: &rustls_pki_types::TrustAnchor<'_>| {
            anchor.subject == path.anchor().subject
                && anchor.subject_public_key_info == path.anchor().subject_public_key_info
        };
        anchors.iter().position(same)
    };
    // webpki checks the path lengths of the issuers, but knows none of an anchor.
    let check_path_length = |path: &webpki::VerifiedPath<'_>| {
        let allowed = anchor_of(path).and_then(|at| walk.anchors[at].path_length());
        let issuers = path.intermediate_certificates().count();
        match allowed {
            Some(allowed) if issuers > usize::try_from(allowed).unwrap_or(usize::MAX) => {
                Err(webpki::Error::PathLenConstraintViolated)
            }
            _ => Ok(()),
        }
    };
    let time = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
    let usage = webpki::KeyUsage::client_auth();
    let path = end_entity
        .verify_for_usage(SIGNATURES, &anchors, &used, time, usage, None, Some(&check_path_length))
        .map_err(refused)?;
    shape(path.intermediate_certificates().count(), anchor_of(&path))
}

/// Verifies that a CA of the hub itself has issued a certificate of version 1, which `webpki` does not read: `openssl x509 -req`
/// makes such certificates. It has no extensions, so that nothing but the signature is left to verify.
fn verify_direct(
    der: &[u8],
    leaf: &ClientCertificate<'_>,
    anchors: &[&Arc<CaCertificate>],
) -> Result<PathShape, CertificateRefusal> {
    let named = anchors.iter().filter(|ca| ca.subject_der() == leaf.issuer());
    if named.clone().next().is_none() {
        return Err(CertificateRefusal::Chain(
            "a certificate of version 1 must be issued by a CA of the hub itself, not by an issuer below it".to_owned(),
        ));
    }
    let issuer = anchors
        .iter()
        .position(|ca| ca.subject_der() == leaf.issuer() && ca.has_issued_version_1(der, leaf));
    match issuer {
        Some(issuer) => shape(0, Some(issuer)),
        None if named.clone().all(|ca| ca.constrains_names()) => Err(refused(webpki::Error::NameConstraintViolation)),
        None => Err(refused(webpki::Error::InvalidSignatureForPublicKey)),
    }
}

fn shape(issuers: usize, anchor: Option<usize>) -> Result<PathShape, CertificateRefusal> {
    let small = |number: usize| u8::try_from(number).ok();
    match (small(issuers), anchor.and_then(small)) {
        (Some(issuers), Some(anchor)) => Ok(PathShape { issuers, anchor }),
        _ => Err(CertificateRefusal::Chain("its CA is gone".to_owned())),
    }
}

fn path_certificates(
    leaf: &ClientCertificate<'_>,
    issuers: &[&SentIssuer<'_>],
    digests: &[[u8; 32]],
    ca: &CaCertificate,
) -> Vec<PathCertificate> {
    let own = std::iter::once((leaf.fingerprints().sha256, leaf.serial()));
    let above = digests
        .iter()
        .zip(issuers)
        .map(|(sha256, issuer)| (*sha256, issuer.serial()));
    let ids = issuers.iter().map(|issuer| issuer.issuer_id());
    own.chain(above)
        .zip(ids.chain(std::iter::once(ca.issuer_id())))
        .map(|((sha256, serial), issuer)| PathCertificate { sha256, issuer, serial })
        .collect()
}

/// The issuers and CAs that a path may consist of.
struct Walk<'a> {
    issuers: Vec<&'a SentIssuer<'a>>,
    anchors: Vec<&'a Arc<CaCertificate>>,
}

/// Follows the names of the issuers from the client's certificate upwards, and checks each of them on the way.
fn follow<'a>(
    leaf: &ClientCertificate<'_>,
    sent: &'a [SentIssuer<'a>],
    authorities: &'a CaSet,
    now: UnixMillis,
) -> Result<Walk<'a>, CertificateRefusal> {
    let mut walk = Walk {
        issuers: Vec::new(),
        anchors: Vec::new(),
    };
    let mut outdated = None;
    let (mut wanted, mut wanted_text) = (leaf.issuer(), leaf.issuer_text());
    loop {
        for ca in authorities.named(wanted) {
            let revoked = authorities.revoked(&ca.fingerprints().sha256);
            match (ca.check_time(now), revoked) {
                (Ok(()), None) => walk.anchors.push(ca),
                (Ok(()), Some(by)) => outdated = Some(CertificateRefusal::revoked_ca(ca.subject(), by)),
                (Err(refusal), _) => outdated = Some(refusal),
            }
        }
        // A CA that was sent although the hub has it proves nothing; one that was passed already would be a loop.
        let next = sent
            .iter()
            .find(|issuer| issuer.subject() == wanted && issuer.subject() != issuer.issuer())
            .filter(|next| walk.issuers.iter().all(|passed| passed.subject() != next.subject()));
        let Some(next) = next else { break };
        if walk.anchors.is_empty() {
            next.check(now)?;
        } else if next.check(now).is_err() {
            break;
        }
        (wanted, wanted_text) = (next.issuer(), next.issuer_text());
        walk.issuers.push(next);
    }
    if walk.anchors.is_empty() {
        return Err(outdated.unwrap_or(CertificateRefusal::UnknownCa { issuer: wanted_text }));
    }
    walk.anchors.sort_by_key(|ca| std::cmp::Reverse(ca.ends()));
    Ok(walk)
}

fn refused(error: webpki::Error) -> CertificateRefusal {
    CertificateRefusal::Chain(describe(&error))
}

/// What `webpki` says, in words; without parts of a certificate.
pub(crate) fn describe(error: &webpki::Error) -> String {
    use webpki::Error;
    match error {
        Error::InvalidSignatureForPublicKey => "a signature is not by the key of its issuer".to_owned(),
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | Error::SignatureAlgorithmMismatch => {
            "a signature is made by an algorithm that is not accepted; use RSA from 2048 bits, P-256 or P-384, with SHA-2"
                .to_owned()
        }
        Error::PathLenConstraintViolated => "more issuers follow a CA than its path length allows".to_owned(),
        Error::MaximumPathDepthExceeded => "it has more than six issuers below the CA".to_owned(),
        Error::RequiredEkuNotFoundContext(_) => {
            "the extended key usage of a certificate does not have clientAuth".to_owned()
        }
        Error::NameConstraintViolation => "the names of a certificate are outside its CA's name constraints".to_owned(),
        Error::UnsupportedCriticalExtension => "a certificate has a critical extension that the hub does not know".to_owned(),
        Error::CaUsedAsEndEntity => "the certificate is a CA's".to_owned(),
        Error::UnknownIssuer => "no verified CA of the hub has issued it".to_owned(),
        other => shown(&other.to_string()),
    }
}
