//! One certificate that is to be issued: what is asked of it, and how it is made.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXUPPER;
use holdfast_auth::x509::{CertificateFingerprints, ClientCertificate, SigningRequest};
use holdfast_model::{DeviceId, UnixMillis};
use holdfast_registry::{
    Authorities, DeviceCertificates, IssuancePolicy, IssueWrite, IssuedCertificate, Issuer, IssuerKey,
};

use super::certificate::{self, Contents, Role};
use super::key::CaKey;
use super::signer::{self, CallSigner, SignerCall};

/// How far before now a certificate begins, for devices whose clocks are slow.
const BACKDATED: Duration = Duration::from_secs(5 * 60);

/// A certificate to be issued.
pub(crate) struct Order {
    /// As it was sent.
    pub(crate) csr: Vec<u8>,
    pub(crate) request: SigningRequest,
    pub(crate) device: DeviceId,
    /// `None`: for an operator.
    pub(crate) registration_id: Option<String>,
    /// The operation that issues it: a signer that gets the same one again may answer the same.
    pub(crate) operation_id: Option<String>,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) policy: IssuancePolicy,
    /// Whether it is to end with the device's epoch; only this hub knows it.
    pub(crate) has_epoch: bool,
}

/// A certificate that was issued, and its record.
pub(crate) struct Issued {
    /// DER, the device's first.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) write: IssueWrite,
}

impl Order {
    /// Has it signed. `found`: the certificates that the device has.
    ///
    /// # Errors
    /// For people: what the issuing CA or its signer has not done.
    pub(crate) async fn issued(
        self,
        found: Option<&DeviceCertificates>,
        authorities: &Authorities,
        call: Option<&CallSigner>,
        now: UnixMillis,
    ) -> Result<Issued, String> {
        self.check_issuer(authorities, now)?;
        let epoch = found.map_or_else(rand::random, |found| found.epoch);
        let until = self.until(now);
        let carried = self.has_epoch.then_some(epoch);
        let chain = match &self.issuer.key {
            IssuerKey::External { url, token } => {
                let call = call.ok_or_else(|| "this node calls no signers".to_owned())?;
                let answer = call(SignerCall {
                    url: url.clone(),
                    token: token.as_ref().map(|token| token.to_string()),
                    body: signer::body(&self, carried.as_ref(), until),
                });
                signer::read(&answer.await?, &self, until, now)?
            }
            IssuerKey::Own(key) => {
                let (issuer, key) = (Arc::clone(&self.issuer), key.clone());
                let (device, public) = (self.device.clone(), self.request.key().to_vec());
                // A signature with a long RSA key takes milliseconds.
                let leaf = holdfast_tasks::spawn_blocking(move || {
                    let subject = certificate::name(device.as_str());
                    let key = CaKey::read(&key)?;
                    sign(&issuer, &key, &subject, &public, carried.as_ref(), now, until)
                });
                let mut chain = vec![leaf.await.map_err(str::to_owned)?];
                chain.extend(self.issuer.chain.iter().map(|der| der.to_vec()));
                chain
            }
        };
        let leaf = chain.first().map(|der| ClientCertificate::parse(der));
        let leaf = match leaf {
            Some(Ok(leaf)) => leaf,
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the chain is empty".to_owned()),
        };
        let certificate = IssuedCertificate {
            serial: leaf.serial(),
            sha256: leaf.fingerprints().sha256,
            from: leaf.begins(),
            until: leaf.ends(),
            issuer: self.issuer.name.clone(),
            policy: self.policy.name.clone(),
            has_epoch: leaf.epoch().map_err(|error| error.to_string())? == Some(epoch),
        };
        tracing::info!(
            target: "audit",
            event = "certificate_issued",
            device = %self.device,
            ca = self.issuer.name,
            policy = self.policy.name,
            serial = %certificate.serial,
            sha256 = HEXUPPER.encode(&certificate.sha256),
        );
        let write = IssueWrite {
            device: self.device,
            registration_id: self.registration_id,
            epoch,
            is_first: found.is_none(),
            certificate,
        };
        Ok(Issued { chain, write })
    }

    /// A certificate of a CA that the hub does not have any more would open nothing.
    fn check_issuer(&self, authorities: &Authorities, now: UnixMillis) -> Result<(), String> {
        let issuer = &self.issuer;
        let known = authorities.get(&issuer.name);
        if !known.is_some_and(|known| known.is_verified && known.certificate.der() == issuer.certificate.der()) {
            return Err(format!("the issuing CA '{}' is no verified CA of the hub", issuer.name));
        }
        let sha256 = CertificateFingerprints::sha256(issuer.certificate.der());
        if let Some(by) = authorities.revoked(&sha256, &[], Some(&sha256)) {
            return Err(format!("the issuing CA '{}' is revoked by {by}", issuer.name));
        }
        issuer.certificate.check_time(now).map_err(|error| error.to_string())
    }

    /// The policy's time, but no longer than that of the CA.
    fn until(&self, now: UnixMillis) -> UnixMillis {
        let validity = u64::try_from(self.policy.validity.as_millis()).unwrap_or(u64::MAX);
        let ca = self.issuer.certificate.ends().0.saturating_sub(1000);
        UnixMillis(now.0.saturating_add(validity).min(ca))
    }
}

fn sign(
    issuer: &Issuer,
    key: &CaKey,
    subject: &[u8],
    public: &[u8],
    epoch: Option<&[u8; 16]>,
    now: UnixMillis,
    until: UnixMillis,
) -> Result<Vec<u8>, &'static str> {
    let backdated = u64::try_from(BACKDATED.as_millis()).unwrap_or_default();
    let contents = Contents {
        serial: &certificate::serial(rand::random()),
        algorithm: key.algorithm(),
        issuer: issuer.certificate.subject_der(),
        issuer_key: issuer.certificate.key_identifier(),
        from: UnixMillis(now.0.saturating_sub(backdated)),
        until,
        subject,
        key: public,
        role: Role::Device {
            epoch: epoch.map(|epoch| &epoch[..]),
        },
    };
    let to_be_signed = contents.to_be_signed();
    let signature = key.sign(&to_be_signed)?;
    Ok(certificate::signed(&to_be_signed, key.algorithm(), &signature))
}

/// A CA of the hub's own, self-signed: its certificate in DER, and its key as PKCS#8.
pub(crate) fn new_authority(
    common_name: &str,
    now: UnixMillis,
    until: UnixMillis,
) -> Result<(Vec<u8>, zeroize::Zeroizing<Vec<u8>>), &'static str> {
    let pkcs8 = CaKey::generate()?;
    let key = CaKey::read(&pkcs8)?;
    let public = key.public().ok_or("the public key cannot be read")?;
    let name = certificate::name(common_name);
    let backdated = u64::try_from(BACKDATED.as_millis()).unwrap_or_default();
    let contents = Contents {
        serial: &certificate::serial(rand::random()),
        algorithm: key.algorithm(),
        issuer: &name,
        issuer_key: None,
        from: UnixMillis(now.0.saturating_sub(backdated)),
        until,
        subject: &name,
        key: &public,
        role: Role::Authority,
    };
    let to_be_signed = contents.to_be_signed();
    let signature = key.sign(&to_be_signed)?;
    Ok((certificate::signed(&to_be_signed, key.algorithm(), &signature), pkcs8))
}

/// Whether `pkcs8` is the key of the CA's certificate.
///
/// # Errors
/// It is another one, or cannot be read.
pub(crate) fn check_key(pkcs8: &[u8], ca: &holdfast_auth::x509::CaCertificate) -> Result<(), &'static str> {
    let public = CaKey::read(pkcs8)?.public();
    match public.is_some_and(|public| public == ca.key()) {
        true => Ok(()),
        false => Err("the key is not that of the certificate"),
    }
}
