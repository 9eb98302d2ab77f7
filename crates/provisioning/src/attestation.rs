//! Who a device is: the enrollment that its credential opens (Spec provisioning §6).
//!
//! Invariants: an individual enrollment of the registration id decides alone, whatever its state and kind; a group's own key opens
//! nothing; of a chain, the certificate nearest to the device's decides which group it is.

use std::sync::Arc;

use data_encoding::HEXUPPER;
use holdfast_auth::x509::{
    CaCertificate, CertificateFingerprints, CertificateRefusal, ClientCertificate, check_size, verify_chain,
};
use holdfast_auth::{
    HubNames, KeyForm, KeyPair, KeySlot, ResourcePath, SasRefusal, SasToken, check_claims, is_signed_by,
    verify_signature,
};
use holdfast_device_hub::Credential;
use holdfast_model::json::quoted;
use holdfast_model::limits::MAX_CHAIN_CERTIFICATES;
use holdfast_model::{CertificateChain, DeviceId, RefusalReason, UnixMillis};
use holdfast_registry::{
    Attestation, AuthenticationWrite, Authorities, CertificateSource, Enrollment, EnrollmentGroups, EnrollmentKind,
    Registration, Registry, RegistryError, Thumbprint, Thumbprints, TpmAttestation, X509Attestation,
};

use crate::recent_groups::RecentGroups;
use crate::tpm::{EnrolledTpm, ProvenTpm, TpmKeys, TpmUse};

/// What the SDKs write into `skn` of a device's token.
const DEVICE_POLICY: &str = "registration";

/// Up to how many groups are tried without a look at the names of other devices.
const FEW_GROUPS: usize = 16;

/// The fault of a TPM that is not enrolled.
pub(crate) const NO_TPM_DETAIL: &str = "there is no individual enrollment with this registration id";

/// A device whose credential is right.
pub(crate) struct Attested {
    /// The enrollment.
    pub(crate) enrollment: Arc<Enrollment>,
    /// How the device authenticates at its hub.
    pub(crate) authentication: AuthenticationWrite,
    /// The device's name, as its certificate has it.
    pub(crate) certified_name: Option<String>,
    /// The TPM that has proved itself.
    pub(crate) tpm: Option<ProvenTpm>,
}

/// Why it is not.
#[derive(Debug)]
pub(crate) enum NotAttested {
    /// The credential is refused.
    Refused {
        /// The cause.
        reason: RefusalReason,
        /// The exact fault, for the operator.
        detail: String,
    },
    /// The registry cannot be read.
    Registry(RegistryError),
}

impl From<RegistryError> for NotAttested {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl From<SasRefusal> for NotAttested {
    fn from(refusal: SasRefusal) -> Self {
        refused(refusal.reason(), refusal.to_string())
    }
}

fn refused(reason: RefusalReason, detail: impl Into<String>) -> NotAttested {
    NotAttested::Refused {
        reason,
        detail: detail.into(),
    }
}

/// A device that claims to be a registration id.
pub(crate) struct Claimant<'a> {
    pub(crate) registry: &'a Registry,
    /// The service's own.
    pub(crate) id_scope: &'a str,
    pub(crate) registration_id: &'a str,
    pub(crate) now: UnixMillis,
    /// Where devices were found last.
    pub(crate) recent_groups: &'a RecentGroups,
    /// Of the device, if it has one.
    pub(crate) registration: Option<&'a Registration>,
    /// What a token of a TPM is to open.
    pub(crate) tpm: TpmUse<'a>,
}

impl Claimant<'_> {
    /// Finds the enrollment that `credential` opens.
    pub(crate) fn attest(&self, credential: Credential<'_>) -> Result<Attested, NotAttested> {
        // A TLS client may show a certificate for other reasons; a token is sent on purpose.
        match credential {
            Credential::SasToken(token) | Credential::Both(token, _) => self.by_token(token),
            Credential::CertificateChain(chain) => self.by_certificate(chain),
            Credential::None => Err(refused(
                RefusalReason::Missing,
                "the request has neither a token nor a client certificate",
            )),
        }
    }

    /// The challenge for the TPM of the device.
    ///
    /// # Errors
    /// `Ok(None)`: there is no individual enrollment.
    pub(crate) fn challenge(&self, keys: &TpmKeys, text: &str) -> Result<Option<Vec<u8>>, NotAttested> {
        let Some(enrollment) = self.individual()? else {
            return Ok(None);
        };
        let Attestation::Tpm(attestation) = &enrollment.attestation else {
            return Err(other_kind(&enrollment, "the keys of a TPM"));
        };
        let enrolled = self.enrolled_tpm(attestation);
        if !enrolled.is_of(keys) {
            let text = format!(
                "the endorsement key is not that of the individual enrollment '{}'",
                enrollment.id
            );
            return Err(refused(RefusalReason::Thumbprint, text));
        }
        let challenge = enrolled.challenge(keys, text);
        challenge
            .map(Some)
            .map_err(|error| refused(RefusalReason::Malformed, error.text))
    }

    fn enrolled_tpm<'b>(&'b self, attestation: &'b TpmAttestation) -> EnrolledTpm<'b> {
        EnrolledTpm {
            attestation,
            id_scope: self.id_scope,
            registration_id: self.registration_id,
            registration: self.registration,
            now: self.now,
        }
    }

    fn individual(&self) -> Result<Option<Arc<Enrollment>>, RegistryError> {
        self.registry
            .enrollment(EnrollmentKind::Individual, self.registration_id)
    }

    fn by_token(&self, text: &str) -> Result<Attested, NotAttested> {
        let token = SasToken::parse(text)?;
        let path = ResourcePath::HUB.then("registrations").then(self.registration_id);
        check_claims(&token, &path, &HubNames::new([self.id_scope]), self.now)?;
        if let Some(name) = token.policy().filter(|name| !name.eq_ignore_ascii_case(DEVICE_POLICY)) {
            let text = format!(
                "skn of a device's token is {DEVICE_POLICY} or empty, not {}",
                quoted(name)
            );
            return Err(refused(RefusalReason::UnknownPolicy, text));
        }
        if let Some(enrollment) = self.individual()? {
            if let Attestation::Tpm(attestation) = &enrollment.attestation {
                let tpm = self.enrolled_tpm(attestation).verify(&token, self.tpm);
                let tpm = tpm.map_err(|(reason, detail)| refused(reason, detail))?;
                return Ok(Attested {
                    authentication: AuthenticationWrite::Sas(Some(tpm.hub_keys.clone())),
                    enrollment,
                    certified_name: None,
                    tpm: Some(tpm),
                });
            }
            let Attestation::SymmetricKey(keys) = &enrollment.attestation else {
                return Err(other_kind(&enrollment, "a token"));
            };
            let fits = verify_signature(&token, keys, KeyForm::Decoded).is_some();
            let authentication = AuthenticationWrite::Sas(Some(keys.clone()));
            return match fits {
                true => Ok(Attested {
                    enrollment,
                    authentication,
                    certified_name: None,
                    tpm: None,
                }),
                false => Err(refused(
                    RefusalReason::Signature,
                    format!(
                        "the signature fits neither key of the individual enrollment '{}'",
                        enrollment.id
                    ),
                )),
            };
        }
        if matches!(self.tpm, TpmUse::Register(Some(_))) {
            // Groups have no TPMs.
            return Err(refused(RefusalReason::UnknownIdentity, NO_TPM_DETAIL));
        }
        let groups = self.registry.enrollment_groups();
        let found = self.group_of_token(&token, &groups)?;
        match found {
            Some((enrollment, keys)) => Ok(Attested {
                enrollment,
                authentication: AuthenticationWrite::Sas(Some(keys)),
                certified_name: None,
                tpm: None,
            }),
            None => Err(refused(RefusalReason::Signature, no_group(&groups))),
        }
    }

    /// The group by symmetric key that has signed the token, through the device's key. The token names none, so that keys are tried: first
    /// that of the device's registration, then those of likely groups, then those of the devices with the nearest names, then all.
    fn group_of_token(
        &self,
        token: &SasToken<'_>,
        groups: &EnrollmentGroups,
    ) -> Result<Option<(Arc<Enrollment>, KeyPair)>, RegistryError> {
        let signed =
            |group: &Arc<Enrollment>, slots: &[KeySlot]| Some((Arc::clone(group), self.derived(token, group, slots)?));
        let signed_by = |id: &str| signed(groups.get(id)?, &KeySlot::BOTH);
        let known = self.registration.and_then(|registration| registration.group.as_deref());
        if let Some(found) = known.and_then(signed_by) {
            return Ok(Some(found));
        }
        let recent = self.recent_groups.likely(self.registration_id);
        if let Some(found) = recent.iter().find_map(|id| signed_by(id)) {
            return Ok(Some(found));
        }
        // A look at the disk costs as much as some groups.
        if groups.symmetric().len() > FEW_GROUPS
            && let Some(found) = self
                .registry
                .groups_near(self.registration_id)?
                .iter()
                .find_map(|id| signed_by(id))
        {
            return Ok(Some(found));
        }
        Ok(KeySlot::BOTH
            .iter()
            .find_map(|slot| groups.symmetric().iter().find_map(|group| signed(group, &[*slot]))))
    }

    /// The keys that `group` gives the device, if that of one of the `slots` has signed the token. Device tools derive them from the id as
    /// it is written; ids are found in any case, so that one may also be written in lower case.
    fn derived(&self, token: &SasToken<'_>, group: &Enrollment, slots: &[KeySlot]) -> Option<KeyPair> {
        let Attestation::SymmetricKey(keys) = &group.attestation else {
            return None;
        };
        let lower = self.registration_id.to_ascii_lowercase();
        let written = std::iter::once(self.registration_id);
        let mut ids = written.chain((lower != self.registration_id).then_some(lower.as_str()));
        let has_signed = |id: &&str| {
            let mut slots = slots.iter();
            slots.any(|slot| is_signed_by(token, &keys.get(*slot).derive(id), KeyForm::Decoded))
        };
        let id = ids.find(has_signed)?;
        Some(KeyPair {
            primary: keys.primary.derive(id),
            secondary: keys.secondary.derive(id),
        })
    }

    fn by_certificate(&self, chain: &CertificateChain) -> Result<Attested, NotAttested> {
        let unfit = |refusal: CertificateRefusal| refused(refusal.reason(), refusal.to_string());
        check_size(chain).map_err(unfit)?;
        let leaf = ClientCertificate::parse(chain.leaf()).map_err(unfit)?;
        let name = match leaf.common_name() {
            Ok(name) if name.eq_ignore_ascii_case(self.registration_id) => name.to_owned(),
            Ok(name) => return Err(other_name(&quoted(name))),
            Err(fault) => return Err(other_name(&fault)),
        };
        leaf.check_time(self.now).map_err(unfit)?;
        let authorities = self.registry.authorities();
        if let Some(enrollment) = self.individual()? {
            let Attestation::X509(x509) = &enrollment.attestation else {
                return Err(other_kind(&enrollment, "a certificate"));
            };
            let digest = leaf.fingerprints().sha256;
            let Some(thumbprints) = thumbprints(x509, &digest) else {
                let text = format!(
                    "the certificate is neither of those of the individual enrollment '{}'",
                    enrollment.id
                );
                return Err(refused(RefusalReason::Thumbprint, text));
            };
            if let Some(by) = authorities.revoked(&digest, &[], None) {
                return Err(refused(RefusalReason::CertificateRevoked, by.to_string()));
            }
            return Ok(Attested {
                authentication: AuthenticationWrite::SelfSigned(Some(thumbprints)),
                enrollment,
                certified_name: Some(name),
                tpm: None,
            });
        }
        // A device registers rarely: its path is not remembered.
        let verified = verify_chain(chain, &leaf, authorities.verified(), &(), self.now).map_err(unfit)?;
        let digest = leaf.fingerprints().sha256;
        if let Some(by) = authorities.revoked(&digest, &verified.path, Some(&verified.ca)) {
            return Err(refused(RefusalReason::CertificateRevoked, by.to_string()));
        }
        self.check_epoch(&leaf, &name)?;
        let issuers = verified.path.iter().skip(1).map(|issuer| issuer.sha256);
        let above = above(&authorities, verified.ca);
        let groups = self.registry.enrollment_groups();
        match issuers
            .chain(above)
            .find_map(|digest| group_of(&groups, &authorities, &digest))
        {
            Some(enrollment) => Ok(Attested {
                enrollment,
                // As the original does: any hub admits the device then, also one that does not have the CA.
                authentication: AuthenticationWrite::SelfSigned(thumbprint(&digest)),
                certified_name: Some(name),
                tpm: None,
            }),
            None => Err(refused(
                RefusalReason::Chain,
                "the chain is verified, and no enrollment group has one of its CAs",
            )),
        }
    }
}

impl Claimant<'_> {
    /// A certificate that the hub has issued counts until the device's certificates are revoked, here as at the hub.
    fn check_epoch(&self, leaf: &ClientCertificate<'_>, name: &str) -> Result<(), NotAttested> {
        let unfit = |refusal: CertificateRefusal| refused(refusal.reason(), refusal.to_string());
        let Some(epoch) = leaf.epoch().map_err(unfit)? else {
            return Ok(());
        };
        let device = DeviceId::parse(name).map_err(|error| refused(RefusalReason::CommonName, error.to_string()))?;
        let found = self.registry.device_certificates(&device)?;
        match found.is_some_and(|found| found.epoch == epoch) {
            true => Ok(()),
            false => Err(unfit(CertificateRefusal::Epoch)),
        }
    }
}

fn no_group(groups: &EnrollmentGroups) -> String {
    format!(
        "there is no individual enrollment with this registration id, and the token is signed with the device key of none of {} \
         enrollment groups",
        groups.symmetric().len()
    )
}

fn other_kind(enrollment: &Enrollment, offered: &str) -> NotAttested {
    let text = format!(
        "the individual enrollment '{}' attests by {}, and the device sent {offered}",
        enrollment.id,
        enrollment.attestation.type_name()
    );
    refused(RefusalReason::AuthType, text)
}

fn other_name(found: &str) -> NotAttested {
    let text = format!("the common name of the certificate is not the registration id: it is {found}");
    refused(RefusalReason::CommonName, text)
}

/// The thumbprints of an individual enrollment, if one of its certificates has this digest.
fn thumbprints(x509: &X509Attestation, digest: &[u8; 32]) -> Option<Thumbprints> {
    if x509.source != CertificateSource::Client {
        return None;
    }
    let all: Vec<_> = x509.iter().map(|der| CertificateFingerprints::of(der)).collect();
    if all.iter().all(|known| known.sha256 != *digest) {
        return None;
    }
    let mut all = all.into_iter();
    let mut next = || Thumbprint::parse(&all.next()?.sha256_hex()).ok();
    Some(Thumbprints {
        primary: next()?,
        secondary: next(),
    })
}

fn thumbprint(sha256: &[u8; 32]) -> Option<Thumbprints> {
    let primary = Thumbprint::parse(&HEXUPPER.encode(sha256)).ok()?;
    Some(Thumbprints {
        primary,
        secondary: None,
    })
}

/// A verified CA and the CAs of the hub above it, by digest.
fn above(authorities: &Authorities, ca: [u8; 32]) -> Vec<[u8; 32]> {
    let find = |digest: &[u8; 32]| -> Option<Arc<CaCertificate>> {
        let mut all = authorities.iter().map(|authority| &authority.certificate);
        all.find(|certificate| certificate.fingerprints().sha256 == *digest)
            .map(Arc::clone)
    };
    let mut path = vec![ca];
    let mut current = find(&ca);
    while let Some(certificate) = current {
        let issuer = authorities
            .iter()
            .filter(|authority| authority.is_verified)
            .map(|authority| &authority.certificate)
            .find(|issuer| !path.contains(&issuer.fingerprints().sha256) && certificate.is_issued_by(issuer));
        current = issuer.filter(|_| path.len() < MAX_CHAIN_CERTIFICATES).map(Arc::clone);
        path.extend(current.iter().map(|issuer| issuer.fingerprints().sha256));
    }
    path
}

/// The group that has the certificate with this digest, itself or by the name of a CA of the hub.
fn group_of(groups: &EnrollmentGroups, authorities: &Authorities, digest: &[u8; 32]) -> Option<Arc<Enrollment>> {
    let named = || {
        let mut all = authorities.iter();
        let ca =
            all.find(|authority| authority.is_verified && authority.certificate.fingerprints().sha256 == *digest)?;
        groups.of_ca(&ca.name)
    };
    groups.of_certificate(digest).or_else(named).map(Arc::clone)
}
