//! Writes of devices and modules (Spec rest §2).

use holdfast_model::limits::MAX_MODULES_PER_DEVICE;
use holdfast_model::{DeviceId, ErrorCode, GenerationId, IdentityId, ModuleId};
use holdfast_proto::registry::v1::identity_write::Operation;
use holdfast_proto::registry::v1::{
    AuthenticationType, EntryAnswer, HubSettings, IdentityContent, IdentityRecord, IdentityWrite, KeyRegeneration,
    SealedKeys, Thumbprints,
};

use super::rejection::Rejection;
use super::{Change, ChangeKind, Stop, Work, edge, issuance, layout};

/// The version of [`IdentityRecord`]s that this code writes.
const RECORD_VERSION: u32 = 1;

/// .NET ticks (100 ns) between year 1 and 1970.
const TICKS_TO_1970: u64 = 621_355_968_000_000_000;
const TICKS_PER_MILLISECOND: u64 = 10_000;

/// Applies one entry of a `WriteIdentities`.
pub(super) fn write(work: &mut Work<'_>, write: &IdentityWrite) -> Result<EntryAnswer, Stop> {
    let id = parse_id(&write.device_id, &write.module_id)?;
    if id.module.is_some() && !work.view.contains(&layout::device(&id.device))? {
        return Err(not_found(&IdentityId::device(id.device)).into());
    }
    let before = work.view.message::<IdentityRecord>(&layout::identity(&id))?;
    let operation = Operation::try_from(write.operation).unwrap_or(Operation::Unspecified);
    match (operation, before) {
        (Operation::Create, Some(_)) => Err(exists(&id).into()),
        (Operation::Update | Operation::Delete, None) => Err(not_found(&id).into()),
        (Operation::Create | Operation::CreateOrUpdate, None) => create(work, &id, write),
        (Operation::Update | Operation::CreateOrUpdate, Some(before)) => {
            check_etag(&id, &before, write.if_match.as_deref())?;
            update(work, &id, write, before)
        }
        (Operation::Delete, Some(before)) => {
            check_etag(&id, &before, write.if_match.as_deref())?;
            delete(work, &id, &before)
        }
        (Operation::Unspecified, _) => {
            Err(Rejection::new(ErrorCode::InvalidOperation, "the operation is unknown to this version").into())
        }
    }
}

/// Applies one entry of a `RegenerateKeys`.
pub(super) fn regenerate(work: &mut Work<'_>, entry: &KeyRegeneration) -> Result<EntryAnswer, Stop> {
    let id = parse_id(&entry.device_id, &entry.module_id)?;
    let key = layout::identity(&id);
    let Some(mut record) = work.view.message::<IdentityRecord>(&key)? else {
        return Err(not_found(&id).into());
    };
    check_etag(&id, &record, entry.if_match.as_deref())?;
    if record.authentication_type() != AuthenticationType::Sas {
        let text = format!("'{id}' does not authenticate by symmetric keys");
        return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
    }
    let keys = record.keys.get_or_insert_default();
    if !entry.sealed_primary.is_empty() {
        keys.primary = entry.sealed_primary.clone();
    }
    if !entry.sealed_secondary.is_empty() {
        keys.secondary = entry.sealed_secondary.clone();
    }
    record.etag.clone_from(&entry.etag);
    changed(work, &id, &record, ChangeKind::CredentialsChanged);
    work.view.put_message(key, &record);
    Ok(EntryAnswer {
        record: Some(record),
        ..EntryAnswer::default()
    })
}

/// Whether a write has what versions before 12 do not know.
pub(super) fn have_reported(writes: &[IdentityWrite]) -> bool {
    let seeds = writes.iter().filter_map(|write| write.content.as_ref()?.twin.as_ref());
    seeds.into_iter().any(|seed| seed.reported.is_some())
}

fn create(work: &mut Work<'_>, id: &IdentityId, write: &IdentityWrite) -> Result<EntryAnswer, Stop> {
    let content = content(write)?;
    let is_device = id.module.is_none();
    let is_edge = is_device && content.iot_edge();
    let more = if is_edge {
        1 + edge::SYSTEM_MODULES.len() as u64
    } else {
        1
    };
    check_room(work, more)?;
    check_module(work, id)?;
    let (authentication_type, keys, thumbprints) = authentication(content, None)?;
    let mut record = IdentityRecord {
        version: RECORD_VERSION,
        // The next generation; it is assigned only after all checks.
        generation: next_generation(work),
        etag: write.etag.clone(),
        disabled: is_device && content.disabled,
        status_reason: content.status_reason.clone().filter(|_| is_device),
        authentication_type: authentication_type.into(),
        keys,
        thumbprints,
        managed_by: content.managed_by.clone().filter(|_| !is_device),
        created_ms: work.time_ms,
        ..IdentityRecord::default()
    };
    if id.module.is_none() {
        set_scopes(work, &id.device, &mut record, content, is_edge)?;
    }
    work.counters.last_generation = record.generation;
    count(work, id, &record, 1);
    if let Some(seed) = content
        .twin
        .as_ref()
        .filter(|seed| seed.tags.is_some() || seed.desired.is_some() || seed.reported.is_some())
    {
        work.view.put_message(layout::twin_seed(id), seed);
    }
    work.view.put_message(layout::identity(id), &record);
    changed(work, id, &record, ChangeKind::Created);
    if is_edge {
        create_system_modules(work, &id.device, content)?;
    }
    Ok(EntryAnswer {
        created: true,
        record: Some(record),
        ..EntryAnswer::default()
    })
}

fn update(
    work: &mut Work<'_>,
    id: &IdentityId,
    write: &IdentityWrite,
    before: IdentityRecord,
) -> Result<EntryAnswer, Stop> {
    let content = content(write)?;
    let is_edge = id.module.is_none() && content.iot_edge.unwrap_or(before.iot_edge);
    if is_edge && !before.iot_edge {
        check_room(work, edge::SYSTEM_MODULES.len() as u64)?;
    }
    let (authentication_type, keys, thumbprints) = authentication(content, Some(&before))?;
    let mut record = before.clone();
    record.version = RECORD_VERSION;
    record.etag.clone_from(&write.etag);
    record.authentication_type = authentication_type.into();
    record.keys = keys;
    record.thumbprints = thumbprints;
    if id.module.is_none() {
        record.disabled = content.disabled;
        record.status_reason.clone_from(&content.status_reason);
        if record.disabled != before.disabled {
            record.status_updated_ms = work.time_ms;
        }
        set_scopes(work, &id.device, &mut record, content, is_edge)?;
    } else if content.managed_by.is_some() || !is_system(id) {
        record.managed_by.clone_from(&content.managed_by);
    }
    count(work, id, &before, -1);
    count(work, id, &record, 1);
    let credentials_changed = record.authentication_type != before.authentication_type
        || record.keys != before.keys
        || record.thumbprints != before.thumbprints;
    work.view.put_message(layout::identity(id), &record);
    let kind = if credentials_changed {
        ChangeKind::CredentialsChanged
    } else {
        ChangeKind::Updated
    };
    changed(work, id, &record, kind);
    if is_edge && !before.iot_edge {
        create_system_modules(work, &id.device, content)?;
    } else if before.iot_edge && !is_edge {
        remove_modules(work, &id.device, is_system)?;
    }
    Ok(EntryAnswer {
        record: Some(record),
        ..EntryAnswer::default()
    })
}

fn delete(work: &mut Work<'_>, id: &IdentityId, before: &IdentityRecord) -> Result<EntryAnswer, Stop> {
    if is_system(id) {
        let text = format!("'{id}' is a system module: it goes with its device");
        return Err(Rejection::new(ErrorCode::SystemModuleModifyUnauthorizedAccess, text).into());
    }
    if id.module.is_none() {
        remove_modules(work, &id.device, |_| true)?;
        issuance::forget_device(work, &id.device)?;
    }
    remove(work, id, before);
    Ok(EntryAnswer::default())
}

/// Removes the modules of `device` selected by `which`.
fn remove_modules(work: &mut Work<'_>, device: &DeviceId, which: impl Fn(&IdentityId) -> bool) -> Result<(), Stop> {
    for key in work.view.keys(&layout::modules(device))? {
        let Some((device, module)) = layout::parse_module(&key) else {
            continue;
        };
        let id = IdentityId::module(device, module);
        if !which(&id) {
            continue;
        }
        if let Some(record) = work.view.message::<IdentityRecord>(&key)? {
            remove(work, &id, &record);
        }
    }
    Ok(())
}

fn remove(work: &mut Work<'_>, id: &IdentityId, record: &IdentityRecord) {
    count(work, id, record, -1);
    work.view.delete(layout::identity(id));
    work.view.delete(layout::twin_seed(id));
    changed(work, id, record, ChangeKind::Deleted);
}

/// `$edgeAgent` and `$edgeHub`, without credentials: the edge runtime's installation sets them.
fn create_system_modules(work: &mut Work<'_>, device: &DeviceId, content: &IdentityContent) -> Result<(), Stop> {
    for (at, name) in edge::SYSTEM_MODULES.into_iter().enumerate() {
        let id = parse_id(device.as_str(), name)?;
        let record = IdentityRecord {
            version: RECORD_VERSION,
            generation: next_generation(work),
            etag: content.system_module_etags.get(at).cloned().unwrap_or_default(),
            authentication_type: AuthenticationType::None.into(),
            managed_by: Some(edge::MANAGED_BY_EDGE.to_owned()),
            created_ms: work.time_ms,
            ..IdentityRecord::default()
        };
        work.counters.last_generation = record.generation;
        count(work, &id, &record, 1);
        work.view.put_message(layout::identity(&id), &record);
        changed(work, &id, &record, ChangeKind::Created);
    }
    Ok(())
}

/// The identity's credentials after the write: the given ones, else the present ones, else generated keys.
///
/// A change of type drops the old secrets (Spec rest §2.1).
fn authentication(
    content: &IdentityContent,
    before: Option<&IdentityRecord>,
) -> Result<(AuthenticationType, Option<SealedKeys>, Option<Thumbprints>), Rejection> {
    let kind = match (&content.authentication, before) {
        (Some(given), _) => given.r#type(),
        (None, Some(before)) => before.authentication_type(),
        (None, None) => AuthenticationType::Sas,
    };
    let same = before.filter(|before| before.authentication_type() == kind);
    let given = content.authentication.as_ref();
    match kind {
        AuthenticationType::Sas | AuthenticationType::Unspecified => {
            let keys = given
                .and_then(|given| given.keys.clone())
                .or_else(|| same.and_then(|same| same.keys.clone()))
                .or_else(|| content.generated_keys.clone());
            match keys {
                Some(keys) => Ok((AuthenticationType::Sas, Some(keys), None)),
                None => Err(Rejection::new(
                    ErrorCode::ArgumentInvalid,
                    "the identity has no symmetric keys",
                )),
            }
        }
        AuthenticationType::SelfSigned => {
            let thumbprints = given
                .and_then(|given| given.thumbprints.clone())
                .or_else(|| same.and_then(|same| same.thumbprints.clone()))
                .filter(|thumbprints| !thumbprints.primary.is_empty());
            match thumbprints {
                Some(thumbprints) => Ok((kind, None, Some(thumbprints))),
                None => Err(Rejection::new(
                    ErrorCode::ArgumentInvalid,
                    "selfSigned needs a primary thumbprint",
                )),
            }
        }
        AuthenticationType::CertificateAuthority | AuthenticationType::None => Ok((kind, None, None)),
    }
}

/// Sets capability and scopes of a device (Spec rest §2.1).
fn set_scopes(
    work: &Work<'_>,
    device: &DeviceId,
    record: &mut IdentityRecord,
    content: &IdentityContent,
    is_edge: bool,
) -> Result<(), Stop> {
    let was_edge = record.iot_edge;
    let parent = if is_edge {
        // An edge device's own scope is generated; the client sends back the value that it once read.
        content
            .parent_scope
            .clone()
            .unwrap_or_else(|| record.parent_scope.clone())
    } else if was_edge {
        // Its own scope no longer applies, and the client may have sent it back.
        let own = edge::own_scope(device, record.generation);
        let given = content.device_scope.clone().filter(|scope| *scope != own);
        given
            .or_else(|| content.parent_scope.clone())
            .unwrap_or_else(|| record.parent_scope.clone())
    } else {
        let given = content.device_scope.clone().or_else(|| content.parent_scope.clone());
        given.unwrap_or_else(|| record.parent_scope.clone())
    };
    // An unchanged scope needs no existing parent: an orphan can still be updated.
    if !parent.is_empty() && (parent != record.parent_scope || is_edge != was_edge) {
        edge::check_parent(&work.view, device, is_edge, &parent)?;
    }
    record.iot_edge = is_edge;
    record.device_scope = if is_edge {
        edge::own_scope(device, record.generation)
    } else {
        parent.clone()
    };
    record.parent_scope = parent;
    Ok(())
}

fn check_room(work: &mut Work<'_>, more: u64) -> Result<(), Stop> {
    let most = match work.max_identities {
        Some(most) => most,
        None => {
            let settings = work.view.message::<HubSettings>(layout::SETTINGS)?.unwrap_or_default();
            *work.max_identities.insert(settings.max_identities)
        }
    };
    if work.counters.devices + work.counters.modules + more > most {
        let text = format!("the hub holds its maximum of {most} devices and modules");
        return Err(Rejection::new(ErrorCode::TooManyDevices, text).into());
    }
    Ok(())
}

/// Checks the device of a new module.
fn check_module(work: &Work<'_>, id: &IdentityId) -> Result<(), Stop> {
    if id.module.is_none() {
        return Ok(());
    }
    if is_system(id) {
        let device = work
            .view
            .message::<IdentityRecord>(&layout::device(&id.device))?
            .unwrap_or_default();
        if !device.iot_edge {
            let text = format!(
                "only edge devices may have modules whose id starts with $; '{}' is none",
                id.device
            );
            return Err(Rejection::new(ErrorCode::ArgumentInvalid, text).into());
        }
    }
    if work.view.keys(&layout::modules(&id.device))?.len() >= MAX_MODULES_PER_DEVICE {
        let text = format!(
            "device '{}' has its maximum of {MAX_MODULES_PER_DEVICE} modules",
            id.device
        );
        return Err(Rejection::new(ErrorCode::TooManyModulesOnDevice, text).into());
    }
    Ok(())
}

fn check_etag(id: &IdentityId, record: &IdentityRecord, if_match: Option<&str>) -> Result<(), Rejection> {
    match if_match {
        Some(etag) if etag != record.etag => {
            let text = format!("the ETag of '{id}' is not the one given: it has been changed meanwhile");
            Err(Rejection::new(ErrorCode::PreconditionFailed, text))
        }
        _ => Ok(()),
    }
}

fn content(write: &IdentityWrite) -> Result<&IdentityContent, Rejection> {
    write
        .content
        .as_ref()
        .ok_or_else(|| Rejection::new(ErrorCode::ArgumentNull, "the identity's content is missing"))
}

fn parse_id(device: &str, module: &str) -> Result<IdentityId, Rejection> {
    let refused = |error| Rejection::new(ErrorCode::ArgumentInvalid, format!("{error}"));
    let device = DeviceId::parse(device).map_err(refused)?;
    let module = if module.is_empty() {
        None
    } else {
        Some(ModuleId::parse(module).map_err(refused)?)
    };
    Ok(IdentityId { device, module })
}

fn is_system(id: &IdentityId) -> bool {
    id.module
        .as_ref()
        .is_some_and(|module| module.as_str().starts_with('$'))
}

fn not_found(id: &IdentityId) -> Rejection {
    match id.module {
        None => Rejection::new(ErrorCode::DeviceNotFound, format!("device '{id}' does not exist")),
        Some(_) => Rejection::new(ErrorCode::ModuleNotFound, format!("module '{id}' does not exist")),
    }
}

fn exists(id: &IdentityId) -> Rejection {
    match id.module {
        None => Rejection::new(ErrorCode::DeviceAlreadyExists, format!("device '{id}' already exists")),
        Some(_) => Rejection::new(
            ErrorCode::ModuleAlreadyExistsOnDevice,
            format!("module '{id}' already exists"),
        ),
    }
}

/// Strictly above every generation given before, whatever the leader's clock shows.
fn next_generation(work: &Work<'_>) -> u64 {
    let ticks = work
        .time_ms
        .saturating_mul(TICKS_PER_MILLISECOND)
        .saturating_add(TICKS_TO_1970);
    ticks.max(work.counters.last_generation.saturating_add(1))
}

fn count(work: &mut Work<'_>, id: &IdentityId, record: &IdentityRecord, by: i64) {
    let add = |counter: &mut u64| *counter = counter.saturating_add_signed(by);
    if id.module.is_some() {
        add(&mut work.counters.modules);
        return;
    }
    add(&mut work.counters.devices);
    if record.disabled {
        add(&mut work.counters.disabled_devices);
    }
}

pub(super) fn changed(work: &mut Work<'_>, id: &IdentityId, record: &IdentityRecord, kind: ChangeKind) {
    let generation = GenerationId(record.generation.to_string().into());
    work.changes.push(Change {
        id: id.clone(),
        generation,
        kind,
    });
}
