//! Changes of provisioning: its settings, enrollments and registrations (Spec provisioning §2, §8, §9).
//!
//! Invariants: ids are unique in any case of letters; a registration and the identity that belongs to it are written together or not at
//! all; a registration is stored only if the enrollment and the registration by which it was decided are still the same.
//! Not here: attestation and allocation, which the proposer has decided (crate `provisioning`).

use holdfast_model::ErrorCode;
use holdfast_proto::registry::v1::enrollment_write::Operation;
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{
    AttestationType, DeleteRegistration, EnrollmentKind, EnrollmentRecord, EnrollmentWrite, EntryAnswer,
    ForgetLeftDevice, FoundProvisioning, ProvisioningRecord, PutRegistration, RegistrationRecord, RegistrationStatus,
    SealedKeys, WriteEnrollments, X509Attestation,
};

use super::rejection::Rejection;
use super::{Stop, Work, identity, issuance, layout};

/// The version of the records that this code writes.
const RECORD_VERSION: u32 = 1;

/// Applies every command about provisioning but the writes of enrollments, which have an answer each; `None` for other commands.
pub(super) fn change(work: &mut Work<'_>, command: &Command) -> Option<Result<EntryAnswer, Stop>> {
    Some(match command {
        Command::FoundProvisioning(command) => found(work, command),
        Command::PutRegistration(command) => put_registration(work, command),
        Command::DeleteRegistration(command) => delete_registration(work, command),
        Command::ForgetLeftDevice(command) => forget_left(work, command),
        _ => return None,
    })
}

/// Whether a version before 12 would overlook a part of the command.
pub(super) fn has_new_enrollment_fields(command: &WriteEnrollments) -> bool {
    let contents = command.writes.iter().filter_map(|write| write.content.as_ref());
    contents
        .into_iter()
        .any(|content| content.custom_allocation.is_some() || content.attestation() == AttestationType::Tpm)
}

/// Whether a version before 12 would overlook a part of the command.
pub(super) fn has_new_registration_fields(command: &PutRegistration) -> bool {
    if identity::have_reported(&command.identity) {
        return true;
    }
    command.registration.as_ref().is_some_and(|record| {
        record.pending.is_some()
            || record.tpm.is_some()
            || record.issued_chain.is_some()
            || !record.left.is_empty()
            || record.payload.is_some()
            || record.webhook.is_some()
            || !record.history.is_empty()
    })
}

fn found(work: &mut Work<'_>, command: &FoundProvisioning) -> Result<EntryAnswer, Stop> {
    if work.view.contains(layout::PROVISIONING)? {
        return Ok(EntryAnswer::default());
    }
    let record = ProvisioningRecord {
        version: RECORD_VERSION,
        created_ms: work.time_ms,
        ..command.settings.clone().unwrap_or_default()
    };
    work.view.put_message(layout::PROVISIONING.to_vec(), &record);
    work.provisioning_changed = true;
    Ok(EntryAnswer {
        created: true,
        ..EntryAnswer::default()
    })
}

/// Applies one entry of a `WriteEnrollments`.
pub(super) fn write_enrollment(
    work: &mut Work<'_>,
    kind: EnrollmentKind,
    write: &EnrollmentWrite,
) -> Result<EntryAnswer, Stop> {
    check_founded(work)?;
    let key = enrollment_key(kind, &write.id)?;
    let before = work.view.message::<EnrollmentRecord>(&key)?;
    match (write.operation(), before) {
        (Operation::Create, Some(before)) => Err(exists(kind, &before.id).into()),
        (Operation::Update, None) if write.if_match.is_some() => {
            let text = format!("{} '{}' does not exist", word(kind), write.id);
            Err(Rejection::new(ErrorCode::PreconditionFailed, text).into())
        }
        (Operation::Update | Operation::Delete, None) => Err(not_found(kind, &write.id).into()),
        (Operation::Create | Operation::CreateOrUpdate, None) => put_enrollment(work, kind, key, write, None),
        (Operation::Update | Operation::CreateOrUpdate, Some(before)) => {
            check_enrollment_etag(kind, &before, write.if_match.as_deref())?;
            put_enrollment(work, kind, key, write, Some(&before))
        }
        (Operation::Delete, Some(before)) => {
            check_enrollment_etag(kind, &before, write.if_match.as_deref())?;
            work.view.delete(key);
            work.enrollment_changed(kind, &write.id);
            Ok(EntryAnswer::default())
        }
        (Operation::Unspecified, _) => {
            Err(Rejection::new(ErrorCode::InvalidOperation, "the operation is unknown to this version").into())
        }
    }
}

fn put_enrollment(
    work: &mut Work<'_>,
    kind: EnrollmentKind,
    key: Vec<u8>,
    write: &EnrollmentWrite,
    before: Option<&EnrollmentRecord>,
) -> Result<EntryAnswer, Stop> {
    let mut record = write
        .content
        .clone()
        .ok_or_else(|| Rejection::new(ErrorCode::ArgumentNull, "the enrollment's content is missing"))?;
    let same = before.filter(|before| before.attestation == record.attestation);
    match record.attestation() {
        AttestationType::SymmetricKey => {
            (record.x509, record.tpm) = (None, None);
            record.keys = Some(keys(&record, same, write.generated_keys.as_ref())?);
        }
        AttestationType::X509 => {
            (record.keys, record.tpm) = (None, None);
            record.x509 = Some(certificates(&record, same)?);
        }
        AttestationType::Tpm => {
            record.x509 = None;
            record.keys = Some(keys(&record, same, write.generated_keys.as_ref())?);
            let stored = same.and_then(|same| same.tpm.clone());
            let missing = || Rejection::new(ErrorCode::ArgumentInvalid, "the enrollment has no endorsement key");
            record.tpm = Some(record.tpm.clone().or(stored).ok_or_else(missing)?);
        }
        AttestationType::Unspecified => {
            let text = "the kind of attestation is unknown to this version";
            return Err(Rejection::new(ErrorCode::ArgumentInvalid, text).into());
        }
    }
    if let Some(custom) = &mut record.custom_allocation
        && std::mem::take(&mut custom.keep_query)
    {
        let stored = before.and_then(|before| before.custom_allocation.as_ref());
        let same = stored.filter(|stored| stored.webhook_url == custom.webhook_url);
        let same = same.ok_or_else(|| {
            let text = "the query of webhookUrl is hidden, and there is no stored one with this URL: write it out";
            Rejection::new(ErrorCode::ArgumentInvalid, text)
        })?;
        custom.sealed_query = same.sealed_query.clone();
    }
    record.version = RECORD_VERSION;
    record.id = before.map_or_else(|| write.id.clone(), |before| before.id.clone());
    record.etag.clone_from(&write.etag);
    record.created_ms = before.map_or(work.time_ms, |before| before.created_ms);
    record.updated_ms = work.time_ms;
    work.view.put_message(key, &record);
    work.enrollment_changed(kind, &write.id);
    Ok(EntryAnswer {
        created: before.is_none(),
        enrollment: Some(record),
        ..EntryAnswer::default()
    })
}

/// The given keys, else the stored ones, else generated ones, each for itself.
fn keys(
    record: &EnrollmentRecord,
    same: Option<&EnrollmentRecord>,
    generated: Option<&SealedKeys>,
) -> Result<SealedKeys, Rejection> {
    let sources = [
        record.keys.as_ref(),
        same.and_then(|same| same.keys.as_ref()),
        generated,
    ];
    let first = |of: fn(&SealedKeys) -> &bytes::Bytes| {
        let found = sources.into_iter().flatten().map(of).find(|key| !key.is_empty());
        found
            .cloned()
            .ok_or_else(|| Rejection::new(ErrorCode::ArgumentInvalid, "the enrollment has no symmetric keys"))
    };
    Ok(SealedKeys {
        primary: first(|keys| &keys.primary)?,
        secondary: first(|keys| &keys.secondary)?,
    })
}

/// The given certificates, else the stored ones of the same source, each for itself.
fn certificates(record: &EnrollmentRecord, same: Option<&EnrollmentRecord>) -> Result<X509Attestation, Rejection> {
    let stored = same.and_then(|same| same.x509.as_ref());
    let Some(given) = &record.x509 else {
        let missing = || Rejection::new(ErrorCode::ArgumentInvalid, "the enrollment has no certificate");
        return stored.cloned().ok_or_else(missing);
    };
    let stored = stored.filter(|stored| stored.source == given.source);
    let mut found = given.clone();
    if let Some(stored) = stored {
        for (given, stored) in [
            (&mut found.primary, &stored.primary),
            (&mut found.secondary, &stored.secondary),
        ] {
            if given.is_empty() {
                given.clone_from(stored);
            }
        }
    }
    if found.primary.is_empty() && found.secondary.is_empty() {
        return Err(Rejection::new(
            ErrorCode::ArgumentInvalid,
            "the enrollment has no certificate",
        ));
    }
    Ok(found)
}

fn put_registration(work: &mut Work<'_>, command: &PutRegistration) -> Result<EntryAnswer, Stop> {
    check_founded(work)?;
    let given = command
        .registration
        .as_ref()
        .ok_or_else(|| Rejection::new(ErrorCode::ArgumentNull, "the registration is missing"))?;
    let key = layout::registration(&given.registration_id);
    let before = work.view.message::<RegistrationRecord>(&key)?;
    if before.as_ref().map(|before| before.etag.as_str()) != command.found_etag.as_deref() {
        return Err(meanwhile("the registration").into());
    }
    // An operation may fail because its enrollment has changed.
    let ends_in_failure =
        given.status() == RegistrationStatus::Failed && before.as_ref().is_some_and(|before| before.pending.is_some());
    if !ends_in_failure {
        check_enrollment(work, command, &given.registration_id)?;
    }
    let mark = work.mark();
    for write in &command.identity {
        if let Err(stop) = identity::write(work, write) {
            work.return_to(mark);
            return Err(stop);
        }
    }
    if let Some(command) = &command.issue
        && let Err(stop) = issuance::issue(work, command)
    {
        work.return_to(mark);
        return Err(stop);
    }
    let record = RegistrationRecord {
        version: RECORD_VERSION,
        created_ms: before.as_ref().map_or(work.time_ms, |before| before.created_ms),
        updated_ms: work.time_ms,
        ..given.clone()
    };
    let old_group = before.as_ref().map_or("", |before| before.group.as_str());
    if !old_group.eq_ignore_ascii_case(&record.group) {
        leave_group(work, old_group, &record.registration_id);
        if !record.group.is_empty() {
            let member = layout::group_member(&record.group, &record.registration_id);
            work.view.put_message(member, &());
        }
    }
    set_open(work, before.as_ref(), Some(&record));
    work.view.put_message(key, &record);
    Ok(EntryAnswer {
        created: before.is_none(),
        registration: Some(record),
        ..EntryAnswer::default()
    })
}

/// Checks that the enrollment is the one that the registration was decided by.
fn check_enrollment(work: &Work<'_>, command: &PutRegistration, registration_id: &str) -> Result<(), Stop> {
    let kind = command.enrollment_kind();
    let enrollment = work
        .view
        .message::<EnrollmentRecord>(&enrollment_key(kind, &command.enrollment_id)?)?;
    if enrollment.is_none_or(|enrollment| enrollment.etag != command.enrollment_etag) {
        return Err(meanwhile("the enrollment").into());
    }
    // An individual enrollment decides over every group.
    if kind == EnrollmentKind::Group && work.view.contains(&layout::enrollment(registration_id))? {
        return Err(meanwhile("the enrollment").into());
    }
    Ok(())
}

/// Marks a registration that has work to do; takes the mark from one that has none any more.
fn set_open(work: &mut Work<'_>, before: Option<&RegistrationRecord>, after: Option<&RegistrationRecord>) {
    let is_open = |record: &RegistrationRecord| record.pending.is_some() || !record.left.is_empty();
    let Some(id) = after.or(before).map(|record| &record.registration_id) else {
        return;
    };
    let key = layout::open_registration(id);
    match (before.is_some_and(is_open), after.is_some_and(is_open)) {
        (_, true) => work.view.put_message(key, &()),
        (true, false) => work.view.delete(key),
        (false, false) => return,
    }
    work.open_registrations_changed = true;
}

fn forget_left(work: &mut Work<'_>, command: &ForgetLeftDevice) -> Result<EntryAnswer, Stop> {
    let key = layout::registration(&command.registration_id);
    let Some(before) = work.view.message::<RegistrationRecord>(&key)? else {
        return Ok(EntryAnswer::default());
    };
    let mut record = before.clone();
    record
        .left
        .retain(|left| !left.hub.eq_ignore_ascii_case(&command.hub) || left.device_id != command.device_id);
    if record.left.len() != before.left.len() {
        set_open(work, Some(&before), Some(&record));
        work.view.put_message(key, &record);
    }
    Ok(EntryAnswer::default())
}

fn delete_registration(work: &mut Work<'_>, command: &DeleteRegistration) -> Result<EntryAnswer, Stop> {
    let key = layout::registration(&command.registration_id);
    let Some(before) = work.view.message::<RegistrationRecord>(&key)? else {
        let text = format!("registration '{}' does not exist", command.registration_id);
        return Err(Rejection::new(ErrorCode::EnrollmentNotFound, text).into());
    };
    check_etag("the registration", &before.etag, command.if_match.as_deref())?;
    if before.pending.is_some() {
        return Err(Rejection::new(
            ErrorCode::RegistrationConflict,
            "an operation of the device is in progress",
        )
        .into());
    }
    if let Some(left) = before.left.first() {
        let text = format!("the device is still to be deleted at the hub {}", left.hub);
        return Err(Rejection::new(ErrorCode::RegistrationConflict, text).into());
    }
    leave_group(work, &before.group, &before.registration_id);
    work.view.delete(key);
    Ok(EntryAnswer::default())
}

fn leave_group(work: &mut Work<'_>, group: &str, registration_id: &str) {
    if !group.is_empty() {
        work.view.delete(layout::group_member(group, registration_id));
    }
}

pub(super) fn check_founded(work: &Work<'_>) -> Result<(), Stop> {
    match work.view.contains(layout::PROVISIONING)? {
        true => Ok(()),
        false => Err(Rejection::new(ErrorCode::FeatureNotSupported, "the hub has no provisioning service").into()),
    }
}

fn enrollment_key(kind: EnrollmentKind, id: &str) -> Result<Vec<u8>, Rejection> {
    match kind {
        EnrollmentKind::Individual => Ok(layout::enrollment(id)),
        EnrollmentKind::Group => Ok(layout::enrollment_group(id)),
        EnrollmentKind::Unspecified => Err(Rejection::new(
            ErrorCode::InvalidOperation,
            "the kind of enrollment is unknown to this version",
        )),
    }
}

fn check_enrollment_etag(
    kind: EnrollmentKind,
    record: &EnrollmentRecord,
    if_match: Option<&str>,
) -> Result<(), Rejection> {
    check_etag(&format!("{} '{}'", word(kind), record.id), &record.etag, if_match)
}

pub(super) fn check_etag(what: &str, stored: &str, if_match: Option<&str>) -> Result<(), Rejection> {
    match if_match {
        Some(etag) if etag != stored => {
            let text = format!("the ETag of {what} is not the one given: it has been changed meanwhile");
            Err(Rejection::new(ErrorCode::PreconditionFailed, text))
        }
        _ => Ok(()),
    }
}

fn meanwhile(what: &str) -> Rejection {
    Rejection::new(
        ErrorCode::RegistrationConflict,
        format!("{what} has been changed meanwhile"),
    )
}

const fn word(kind: EnrollmentKind) -> &'static str {
    match kind {
        EnrollmentKind::Group => "enrollment group",
        EnrollmentKind::Individual | EnrollmentKind::Unspecified => "enrollment",
    }
}

fn exists(kind: EnrollmentKind, id: &str) -> Rejection {
    let code = match kind {
        EnrollmentKind::Group => ErrorCode::EnrollmentGroupAlreadyExists,
        EnrollmentKind::Individual | EnrollmentKind::Unspecified => ErrorCode::EnrollmentAlreadyExists,
    };
    let text = format!(
        "{} '{id}' exists: send its ETag, or *, in If-Match to replace it",
        word(kind)
    );
    Rejection::new(code, text)
}

fn not_found(kind: EnrollmentKind, id: &str) -> Rejection {
    let code = match kind {
        EnrollmentKind::Group => ErrorCode::EnrollmentGroupNotFound,
        EnrollmentKind::Individual | EnrollmentKind::Unspecified => ErrorCode::EnrollmentNotFound,
    };
    Rejection::new(code, format!("{} '{id}' does not exist", word(kind)))
}
