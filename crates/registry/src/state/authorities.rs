//! Changes of the hub's CAs (Spec auth-and-limits §3).
//!
//! Not here: what a certificate must be. The proposer has read and checked it, so that apply needs no cryptography and
//! no clock.

use holdfast_model::ErrorCode;
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{CaRecord, EntryAnswer, PutCa, RemoveCa, SetCaCode, VerifyCa};

use super::rejection::Rejection;
use super::{Stop, Work, layout};

/// The version of `CaRecord`.
const RECORD_VERSION: u32 = 1;

/// `If-Match` of a write that replaces whatever is there.
pub(crate) const ANY_ETAG: &str = "*";

/// Applies every command about CAs; `None` for other commands.
pub(super) fn change(work: &mut Work<'_>, command: &Command) -> Option<Result<EntryAnswer, Stop>> {
    let outcome = match command {
        Command::PutCa(command) => put(work, command),
        Command::RemoveCa(command) => remove(work, command),
        Command::SetCaCode(command) => set_code(work, command),
        Command::VerifyCa(command) => verify(work, command),
        _ => return None,
    };
    work.authorities_changed |= outcome.is_ok();
    Some(outcome)
}

pub(super) fn put(work: &mut Work<'_>, command: &PutCa) -> Result<EntryAnswer, Stop> {
    let key = layout::ca(&command.name);
    let before = work.view.message::<CaRecord>(&key)?;
    match (&before, &command.if_match) {
        (Some(_), None) => {
            let text = format!("CA '{}' exists: send its ETag in If-Match to replace it", command.name);
            return Err(Rejection::new(ErrorCode::GenericConflict, text).into());
        }
        (None, Some(_)) => return Err(not_found(&command.name).into()),
        (Some(record), etag) => check_etag(record, etag.as_deref())?,
        (None, None) => check_room(work, command.max_cas)?,
    }
    check_unique(work, &key, command)?;
    let same = before
        .as_ref()
        .filter(|record| record.certificate == command.certificate);
    let record = CaRecord {
        version: RECORD_VERSION,
        name: before
            .as_ref()
            .map_or_else(|| command.name.clone(), |record| record.name.clone()),
        etag: command.etag.clone(),
        certificate: command.certificate.clone(),
        is_verified: command
            .is_verified
            .unwrap_or_else(|| same.is_some_and(|record| record.is_verified)),
        verification_code: same.map(|record| record.verification_code.clone()).unwrap_or_default(),
        created_ms: before.as_ref().map_or(work.time_ms, |record| record.created_ms),
        updated_ms: work.time_ms,
    };
    work.view.put_message(key, &record);
    Ok(EntryAnswer {
        created: before.is_none(),
        ..EntryAnswer::default()
    })
}

fn remove(work: &mut Work<'_>, command: &RemoveCa) -> Result<EntryAnswer, Stop> {
    existing(work, &command.name, command.if_match.as_deref())?;
    work.view.delete(layout::ca(&command.name));
    super::revocations::remove_list(work, &command.name)?;
    Ok(EntryAnswer::default())
}

fn set_code(work: &mut Work<'_>, command: &SetCaCode) -> Result<EntryAnswer, Stop> {
    let mut record = existing(work, &command.name, command.if_match.as_deref())?;
    record.verification_code.clone_from(&command.code);
    store(work, &command.name, record, &command.etag)
}

fn verify(work: &mut Work<'_>, command: &VerifyCa) -> Result<EntryAnswer, Stop> {
    let mut record = existing(work, &command.name, command.if_match.as_deref())?;
    // The proof was checked against this certificate and this code.
    if record.certificate != command.certificate || record.verification_code != command.code {
        let text = format!(
            "CA '{}' has another certificate or verification code meanwhile",
            command.name
        );
        return Err(Rejection::new(ErrorCode::PreconditionFailed, text).into());
    }
    record.is_verified = true;
    record.verification_code.clear();
    store(work, &command.name, record, &command.etag)
}

fn store(work: &mut Work<'_>, name: &str, mut record: CaRecord, etag: &str) -> Result<EntryAnswer, Stop> {
    record.version = RECORD_VERSION;
    etag.clone_into(&mut record.etag);
    record.updated_ms = work.time_ms;
    work.view.put_message(layout::ca(name), &record);
    Ok(EntryAnswer::default())
}

fn existing(work: &Work<'_>, name: &str, if_match: Option<&str>) -> Result<CaRecord, Stop> {
    let record = work.view.message::<CaRecord>(&layout::ca(name))?;
    let record = record.ok_or_else(|| not_found(name))?;
    check_etag(&record, if_match)?;
    Ok(record)
}

fn check_etag(record: &CaRecord, if_match: Option<&str>) -> Result<(), Rejection> {
    match if_match {
        Some(etag) if etag != ANY_ETAG && etag != record.etag => {
            let text = format!(
                "the ETag of CA '{}' is not the one given: it has been changed meanwhile",
                record.name
            );
            Err(Rejection::new(ErrorCode::PreconditionFailed, text))
        }
        _ => Ok(()),
    }
}

fn check_room(work: &Work<'_>, most: u32) -> Result<(), Stop> {
    let count = work.view.keys(&layout::cas())?.len();
    if count >= usize::try_from(most).unwrap_or(usize::MAX) {
        let text = format!("the hub has its maximum of {most} CAs (registry.max_cas)");
        return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
    }
    Ok(())
}

/// Two names for one certificate would let its devices in after one of them was removed.
fn check_unique(work: &Work<'_>, key: &[u8], command: &PutCa) -> Result<(), Stop> {
    for other in work.view.keys(&layout::cas())? {
        if other == key {
            continue;
        }
        let record = work.view.message::<CaRecord>(&other)?;
        if let Some(record) = record.filter(|record| record.certificate == command.certificate) {
            let text = format!("the certificate is that of CA '{}'", record.name);
            return Err(Rejection::new(ErrorCode::GenericConflict, text).into());
        }
    }
    Ok(())
}

pub(super) fn not_found(name: &str) -> Rejection {
    Rejection::new(ErrorCode::CertificateNotFound, format!("CA '{name}' does not exist"))
}
