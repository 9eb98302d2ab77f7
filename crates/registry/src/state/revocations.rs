//! Changes of the deny list and of the CAs' revocation lists.
//!
//! Invariants: a list takes the place of an older one of its issuer only; the parts of a list change with its record. The
//! proposer has verified lists, so that apply needs no cryptography and no clock.

use bytes::Bytes;
use holdfast_auth::x509::{CrlNumber, SERIAL_BYTES};
use holdfast_model::ErrorCode;
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{
    CaRecord, CrlPart, CrlRecord, EntryAnswer, PutCrl, PutRevocation, RemoveCrl, RemoveRevocation, RevocationRecord,
    RevokedCertificate,
};

use super::authorities::not_found;
use super::rejection::{ApplyError, Rejection};
use super::{Stop, Work, layout};

/// The version of `RevocationRecord` and `CrlRecord`.
const RECORD_VERSION: u32 = 1;

/// Serial numbers of one part; it stays below the largest record of a snapshot.
const PART_BYTES: usize = 8 * 1024 * SERIAL_BYTES;

/// Applies every command about revocations; `None` for other commands.
pub(super) fn change(work: &mut Work<'_>, command: &Command) -> Option<Result<EntryAnswer, Stop>> {
    let outcome = match command {
        Command::PutRevocation(command) => put(work, command),
        Command::RemoveRevocation(command) => remove(work, command),
        Command::PutCrl(command) => put_list(work, command),
        Command::RemoveCrl(command) => remove_named_list(work, command),
        _ => return None,
    };
    work.revocations_changed |= outcome.is_ok();
    Some(outcome)
}

fn key(certificate: Option<&RevokedCertificate>) -> Vec<u8> {
    match certificate {
        Some(named) if named.sha256.is_empty() => layout::revoked_serial(&named.issuer, &named.serial),
        Some(named) => layout::revoked_certificate(&named.sha256),
        None => layout::revoked_certificate(&[]),
    }
}

fn put(work: &mut Work<'_>, command: &PutRevocation) -> Result<EntryAnswer, Stop> {
    let key = key(command.certificate.as_ref());
    // The first entry stands: since when a certificate is revoked must not change.
    if work.view.contains(&key)? {
        return Ok(EntryAnswer::default());
    }
    let count = work.view.keys(&layout::revocations())?.len();
    if count >= usize::try_from(command.max_revoked).unwrap_or(usize::MAX) {
        let text = format!(
            "the deny list has its maximum of {} certificates (registry.max_revoked): remove those that have ended, or give \
             the CA a CRL",
            command.max_revoked
        );
        return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
    }
    let record = RevocationRecord {
        version: RECORD_VERSION,
        certificate: command.certificate.clone(),
        reason: command.reason.clone(),
        comment: command.comment.clone(),
        ca: command.ca.clone(),
        revoked_ms: work.time_ms,
    };
    work.view.put_message(key, &record);
    Ok(EntryAnswer {
        created: true,
        ..EntryAnswer::default()
    })
}

fn remove(work: &mut Work<'_>, command: &RemoveRevocation) -> Result<EntryAnswer, Stop> {
    let key = key(command.certificate.as_ref());
    if !work.view.contains(&key)? {
        let text = "the certificate is not on the deny list";
        return Err(Rejection::new(ErrorCode::CertificateNotFound, text).into());
    }
    work.view.delete(key);
    Ok(EntryAnswer::default())
}

fn put_list(work: &mut Work<'_>, command: &PutCrl) -> Result<EntryAnswer, Stop> {
    let ca = work.view.message::<CaRecord>(&layout::ca(&command.ca))?;
    let ca = ca.ok_or_else(|| not_found(&command.ca))?;
    if ca.certificate != command.certificate {
        let text = format!("CA '{}' has another certificate meanwhile", ca.name);
        return Err(Rejection::new(ErrorCode::PreconditionFailed, text).into());
    }
    let before = work.view.message::<CrlRecord>(&layout::crl(&command.ca))?;
    if let Some(before) = before.as_ref().filter(|before| before.issuer == command.issuer) {
        check_newer(before, command)?;
    }
    let entries = u32::try_from(command.serials.len() / SERIAL_BYTES).unwrap_or(u32::MAX);
    check_room(work, &command.ca, entries, command.max_entries)?;
    remove_list(work, &command.ca)?;
    let mut rest = Bytes::clone(&command.serials);
    let mut parts = 0;
    while !rest.is_empty() {
        let part = CrlPart {
            serials: rest.split_to(rest.len().min(PART_BYTES)),
        };
        work.view.put_message(layout::crl_part(&command.ca, parts), &part);
        parts += 1;
    }
    let record = CrlRecord {
        version: RECORD_VERSION,
        ca: ca.name,
        issuer: command.issuer.clone(),
        number: command.number.clone(),
        this_update_ms: command.this_update_ms,
        next_update_ms: command.next_update_ms,
        sha256: command.sha256.clone(),
        entries,
        parts,
        source: command.source.clone(),
        updated_ms: work.time_ms,
    };
    work.view.put_message(layout::crl(&command.ca), &record);
    Ok(EntryAnswer {
        created: before.is_none(),
        ..EntryAnswer::default()
    })
}

/// A list with an earlier number would let revoked certificates in again. The same list once more is no change.
fn check_newer(before: &CrlRecord, command: &PutCrl) -> Result<(), Rejection> {
    let (old, new) = (CrlNumber::of(&before.number), CrlNumber::of(&command.number));
    if old.is_before(&new) || before.sha256 == command.sha256 {
        return Ok(());
    }
    let text = format!(
        "the CRL has number {new}, and the hub has one of CA '{}' with number {old}: a CRL is replaced by one with a greater number",
        before.ca
    );
    Err(Rejection::new(ErrorCode::InvalidOperation, text))
}

/// Checks that the lists have room for `entries` of the CA `name`, whose present list goes.
fn check_room(work: &Work<'_>, name: &str, entries: u32, most: u32) -> Result<(), Stop> {
    let mut sum = u64::from(entries);
    for key in work.view.keys(&layout::crls())? {
        if key != layout::crl(name) {
            let other = work.view.message::<CrlRecord>(&key)?;
            sum += u64::from(other.map_or(0, |other| other.entries));
        }
    }
    if sum > u64::from(most) {
        let text =
            format!("the CRLs of all CAs would have {sum} entries; allowed are {most} (registry.max_crl_entries)");
        return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
    }
    Ok(())
}

fn remove_named_list(work: &mut Work<'_>, command: &RemoveCrl) -> Result<EntryAnswer, Stop> {
    if !work.view.contains(&layout::crl(&command.ca))? {
        let text = format!("CA '{}' has no CRL", command.ca);
        return Err(Rejection::new(ErrorCode::CertificateNotFound, text).into());
    }
    remove_list(work, &command.ca)?;
    Ok(EntryAnswer::default())
}

/// Removes the list of a CA, if it has one.
pub(super) fn remove_list(work: &mut Work<'_>, ca: &str) -> Result<(), ApplyError> {
    let key = layout::crl(ca);
    if let Some(record) = work.view.message::<CrlRecord>(&key)? {
        for part in 0..record.parts {
            work.view.delete(layout::crl_part(ca, part));
        }
        work.view.delete(key);
        work.revocations_changed = true;
    }
    Ok(())
}
