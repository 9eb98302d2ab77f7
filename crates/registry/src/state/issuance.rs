//! Changes of issuing CAs, and of the record of what was issued (docs/decisions/0051).
//!
//! Invariants: an issuing CA is a verified CA of the hub from the same command on; a certificate is recorded only for the epoch that the
//! device has, so that a revocation cannot be overtaken by a certificate that was signed before it.
//! Not here: signatures (`provisioning`), the deny list (`revocations`).

use holdfast_model::{DeviceId, ErrorCode, IdentityId};
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{
    CaRecord, DeviceCertificatesRecord, EntryAnswer, IdentityRecord, IssueCertificate, IssuerRecord, PutCa, PutIssuer,
    RemoveIssuer, RevokeDeviceCertificates,
};

use super::rejection::{ApplyError, Rejection};
use super::{ANY_ETAG, ChangeKind, Stop, Work, authorities, identity, layout};

/// The version of the records that this code writes.
const RECORD_VERSION: u32 = 1;

/// Applies every command about issuing; `None` for other commands.
pub(super) fn change(work: &mut Work<'_>, command: &Command) -> Option<Result<EntryAnswer, Stop>> {
    let outcome = match command {
        Command::PutIssuer(command) => put(work, command),
        Command::RemoveIssuer(command) => remove(work, command),
        Command::IssueCertificate(command) => issue(work, command).map(|()| EntryAnswer::default()),
        Command::RevokeDeviceCertificates(command) => revoke(work, command),
        _ => return None,
    };
    Some(outcome)
}

fn put(work: &mut Work<'_>, command: &PutIssuer) -> Result<EntryAnswer, Stop> {
    let given = command
        .issuer
        .as_ref()
        .ok_or_else(|| Rejection::new(ErrorCode::ArgumentNull, "the issuing CA is missing"))?;
    let key = layout::issuer(&given.name);
    let before = work.view.message::<IssuerRecord>(&key)?;
    match (&before, command.if_match.as_deref()) {
        (Some(_), None) => {
            let text = format!(
                "issuing CA '{}' exists: send its ETag in If-Match to change it",
                given.name
            );
            return Err(Rejection::new(ErrorCode::GenericConflict, text).into());
        }
        (None, Some(etag)) if etag != ANY_ETAG => return Err(not_found(&given.name).into()),
        (Some(record), Some(etag)) => check_etag(record, etag)?,
        (None, _) => check_room(work, command.max_cas)?,
    }
    let certificate = given
        .chain
        .first()
        .ok_or_else(|| Rejection::new(ErrorCode::ArgumentNull, "the issuing CA has no certificate"))?;
    let mut record = given.clone();
    if let Some(before) = &before {
        if before.chain.first() != Some(certificate) {
            let text = "an issuing CA keeps its certificate: create another one, and let enrollments name it";
            return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
        }
        if record.sealed_key.is_empty() && record.external.is_none() {
            record.sealed_key.clone_from(&before.sealed_key);
            record.external.clone_from(&before.external);
        }
        record.name.clone_from(&before.name);
    }
    if record.sealed_key.is_empty() && record.external.is_none() {
        let text = "the issuing CA has neither a key nor an external signer";
        return Err(Rejection::new(ErrorCode::ArgumentNull, text).into());
    }
    put_ca(work, &record.name, certificate, command)?;
    record.version = RECORD_VERSION;
    record.created_ms = before.as_ref().map_or(work.time_ms, |before| before.created_ms);
    record.updated_ms = work.time_ms;
    work.view.put_message(key, &record);
    work.issuers_changed = true;
    Ok(EntryAnswer {
        created: before.is_none(),
        ..EntryAnswer::default()
    })
}

/// Makes the issuing CA one of the hub, unless it is one by this name.
fn put_ca(work: &mut Work<'_>, name: &str, certificate: &bytes::Bytes, command: &PutIssuer) -> Result<(), Stop> {
    let known = work.view.message::<CaRecord>(&layout::ca(name))?;
    if let Some(known) = &known {
        if known.certificate != *certificate {
            let text = format!("the hub has another CA named '{name}'");
            return Err(Rejection::new(ErrorCode::GenericConflict, text).into());
        }
        if known.is_verified {
            return Ok(());
        }
    }
    let ca = PutCa {
        name: name.to_owned(),
        if_match: known.map(|_| ANY_ETAG.to_owned()),
        etag: command.ca_etag.clone(),
        certificate: certificate.clone(),
        is_verified: Some(true),
        max_cas: command.max_cas,
    };
    authorities::put(work, &ca)?;
    work.authorities_changed = true;
    Ok(())
}

fn remove(work: &mut Work<'_>, command: &RemoveIssuer) -> Result<EntryAnswer, Stop> {
    let key = layout::issuer(&command.name);
    let before = work.view.message::<IssuerRecord>(&key)?;
    let before = before.ok_or_else(|| not_found(&command.name))?;
    if let Some(etag) = command.if_match.as_deref() {
        check_etag(&before, etag)?;
    }
    work.view.delete(key);
    work.issuers_changed = true;
    Ok(EntryAnswer::default())
}

/// Records a certificate of a device, whose identity need not exist: a factory issues before the first boot.
pub(super) fn issue(work: &mut Work<'_>, command: &IssueCertificate) -> Result<(), Stop> {
    let device = device(&command.device_id)?;
    let certificate = command
        .certificate
        .clone()
        .ok_or_else(|| Rejection::new(ErrorCode::ArgumentNull, "the certificate is missing"))?;
    let key = layout::device_certificates(&device);
    let before = work.view.message::<DeviceCertificatesRecord>(&key)?;
    let is_current = match &before {
        Some(before) => !command.is_first && before.epoch == command.epoch,
        None => command.is_first,
    };
    if !is_current {
        let text = "the device's certificates have been revoked, or others issued, meanwhile";
        return Err(Rejection::new(ErrorCode::RegistrationConflict, text).into());
    }
    let mut record = before.unwrap_or_default();
    record.version = RECORD_VERSION;
    record.epoch.clone_from(&command.epoch);
    if !command.registration_id.is_empty() {
        record.registration_id.clone_from(&command.registration_id);
    }
    let now = work.time_ms;
    record.issued.retain(|known| known.not_after_ms > now);
    let most = usize::try_from(command.max_issued).unwrap_or(usize::MAX).max(1);
    while record.issued.len() >= most {
        // One with an epoch is ended by the next one, on the record or not.
        let Some(oldest) = record.issued.iter().position(|known| known.has_epoch) else {
            let text = format!("the device has {most} certificates that have not ended; revoke them first");
            return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
        };
        record.issued.remove(oldest);
    }
    record.issued.push(certificate);
    work.view.put_message(key, &record);
    Ok(())
}

fn revoke(work: &mut Work<'_>, command: &RevokeDeviceCertificates) -> Result<EntryAnswer, Stop> {
    let device = device(&command.device_id)?;
    let key = layout::device_certificates(&device);
    let Some(mut record) = work.view.message::<DeviceCertificatesRecord>(&key)? else {
        let text = format!("the hub has issued no certificate to device '{device}'");
        return Err(Rejection::new(ErrorCode::CertificateNotFound, text).into());
    };
    record.epoch.clone_from(&command.epoch);
    record.issued.clear();
    work.view.put_message(key, &record);
    let id = IdentityId::device(device);
    if let Some(known) = work.view.message::<IdentityRecord>(&layout::identity(&id))? {
        identity::changed(work, &id, &known, ChangeKind::CredentialsChanged);
    }
    Ok(EntryAnswer::default())
}

fn device(text: &str) -> Result<DeviceId, Rejection> {
    DeviceId::parse(text).map_err(|error| Rejection::new(ErrorCode::ArgumentInvalid, error.to_string()))
}

fn check_room(work: &Work<'_>, most: u32) -> Result<(), Stop> {
    let count = work.view.keys(&layout::issuers())?.len();
    if count >= usize::try_from(most).unwrap_or(usize::MAX) {
        let text = format!("the hub has its maximum of {most} issuing CAs (registry.max_cas)");
        return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
    }
    Ok(())
}

fn check_etag(record: &IssuerRecord, etag: &str) -> Result<(), Rejection> {
    if etag == ANY_ETAG || etag == record.etag {
        return Ok(());
    }
    let text = format!(
        "the ETag of issuing CA '{}' is not the one given: it has been changed meanwhile",
        record.name
    );
    Err(Rejection::new(ErrorCode::PreconditionFailed, text))
}

fn not_found(name: &str) -> Rejection {
    Rejection::new(
        ErrorCode::CertificateNotFound,
        format!("issuing CA '{name}' does not exist"),
    )
}

/// Forgets the certificates of a device that is deleted: one of the same name that comes after it has an epoch of its own.
pub(super) fn forget_device(work: &mut Work<'_>, device: &DeviceId) -> Result<(), ApplyError> {
    let key = layout::device_certificates(device);
    if work.view.contains(&key)? {
        work.view.delete(key);
    }
    Ok(())
}
