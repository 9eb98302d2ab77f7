//! Conversions between stored messages and the types that the node uses.
//!
//! Why: the stored form never leaks into logic, and the logic's types can change without a change of the stored form.

use std::sync::Arc;
use std::time::Duration;

use holdfast_auth::{Policy, Rights};
use holdfast_model::{ETag, GenerationId, IdentityId, ModuleId, PartitionCount, UnixMillis};
use holdfast_proto::registry::v1 as proto;

use crate::identity::{Authentication, Identity, Status, Thumbprint, Thumbprints, TwinSeed};
use crate::scan::IdentitySummary;
use crate::secrets::{SecretError, Secrets};
use crate::settings::HubSettings;
use crate::write::{
    AuthenticationWrite, IdentityContent, IdentityWrite, IfMatch, KeyChoice, KeyRegeneration, ScopeWrite,
    WriteOperation,
};

/// The identity behind a stored record. `device_disabled` is the device's status when `id` is a module.
pub(crate) fn identity(
    id: &IdentityId,
    record: &proto::IdentityRecord,
    device_disabled: bool,
    secrets: &Secrets,
) -> Result<Identity, SecretError> {
    let authentication = match record.authentication_type() {
        proto::AuthenticationType::Sas => {
            let sealed = record.keys.clone().unwrap_or_default();
            Authentication::Sas(secrets.open_pair(&sealed)?)
        }
        proto::AuthenticationType::SelfSigned => record
            .thumbprints
            .as_ref()
            .and_then(thumbprints)
            .map_or(Authentication::None, Authentication::SelfSigned),
        proto::AuthenticationType::CertificateAuthority => Authentication::CertificateAuthority,
        proto::AuthenticationType::None | proto::AuthenticationType::Unspecified => Authentication::None,
    };
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    Ok(Identity {
        id: id.clone(),
        generation: GenerationId(record.generation.to_string().into()),
        etag: ETag(record.etag.clone()),
        status: if record.disabled || device_disabled {
            Status::Disabled
        } else {
            Status::Enabled
        },
        status_reason: record.status_reason.clone(),
        status_updated: (record.status_updated_ms > 0).then_some(UnixMillis(record.status_updated_ms)),
        authentication,
        iot_edge: record.iot_edge,
        device_scope: text(&record.device_scope),
        parent_scope: text(&record.parent_scope),
        managed_by: record.managed_by.clone(),
        created: UnixMillis(record.created_ms),
    })
}

/// The identity behind a stored record without its keys. `is_disabled` is the device's status when `id` is a module.
pub(crate) fn summary(id: &IdentityId, record: proto::IdentityRecord, is_disabled: bool) -> IdentitySummary {
    let authentication_type = match record.authentication_type() {
        proto::AuthenticationType::Sas => "sas",
        proto::AuthenticationType::SelfSigned => "selfSigned",
        proto::AuthenticationType::CertificateAuthority => "certificateAuthority",
        proto::AuthenticationType::None | proto::AuthenticationType::Unspecified => "none",
    };
    let text = |text: String| (!text.is_empty()).then_some(text);
    IdentitySummary {
        id: id.clone(),
        generation: GenerationId(record.generation.to_string().into()),
        etag: ETag(record.etag),
        status: if is_disabled { Status::Disabled } else { Status::Enabled },
        status_reason: record.status_reason,
        status_updated: (record.status_updated_ms > 0).then_some(UnixMillis(record.status_updated_ms)),
        authentication_type,
        thumbprints: record.thumbprints.as_ref().and_then(thumbprints),
        iot_edge: record.iot_edge,
        device_scope: text(record.device_scope),
        parent_scope: text(record.parent_scope),
    }
}

fn thumbprints(stored: &proto::Thumbprints) -> Option<Thumbprints> {
    let primary = Thumbprint::parse(&stored.primary).ok()?;
    Some(Thumbprints {
        primary,
        secondary: Thumbprint::parse(&stored.secondary).ok(),
    })
}

/// The settings behind a stored record.
pub(crate) fn settings(record: &proto::HubSettings, secrets: &Secrets) -> Result<HubSettings, SecretError> {
    let mut policies = Vec::with_capacity(record.policies.len());
    for policy in &record.policies {
        policies.push(Arc::new(Policy {
            name: policy.name.clone(),
            keys: secrets.open_pair(&policy.keys.clone().unwrap_or_default())?,
            rights: u8::try_from(policy.rights)
                .ok()
                .and_then(Rights::from_bits)
                .unwrap_or(Rights::NONE),
        }));
    }
    let partition_count = u16::try_from(record.partition_count).ok().and_then(PartitionCount::new);
    Ok(HubSettings {
        hub_name: record.hub_name.clone(),
        hub_id: record.hub_id.clone(),
        partition_count: partition_count.unwrap_or(PartitionCount::DEFAULT),
        retention: Duration::from_millis(record.retention_ms),
        retention_bytes: (record.retention_bytes > 0).then_some(record.retention_bytes),
        configured_retention: Duration::from_millis(record.configured_retention_ms.unwrap_or(record.retention_ms)),
        configured_retention_bytes: Some(record.configured_retention_bytes.unwrap_or(record.retention_bytes))
            .filter(|bytes| *bytes > 0),
        consumer_groups: record.consumer_groups.clone(),
        policies,
        created: UnixMillis(record.created_ms),
        max_identities: record.max_identities,
        feature_level: (record.feature_level > 0).then_some(record.feature_level),
    })
}

/// The command's form of a write: keys sealed, generated keys and the new ETag added.
pub(crate) fn write(
    write: &IdentityWrite,
    secrets: &Secrets,
    mut etag: impl FnMut() -> String,
) -> Result<proto::IdentityWrite, SecretError> {
    use proto::identity_write::Operation;
    let (operation, if_match, content) = match &write.operation {
        WriteOperation::Create(content) => (Operation::Create, None, Some(content)),
        WriteOperation::Update(if_match, content) => (Operation::Update, Some(if_match), Some(content)),
        WriteOperation::CreateOrUpdate(if_match, content) => (Operation::CreateOrUpdate, Some(if_match), Some(content)),
        WriteOperation::Delete(if_match) => (Operation::Delete, Some(if_match), None),
    };
    Ok(proto::IdentityWrite {
        device_id: write.id.device.as_str().to_owned(),
        module_id: module_text(&write.id),
        operation: operation.into(),
        if_match: if_match.and_then(condition),
        etag: etag(),
        content: content
            .map(|content| identity_content(&write.id, content, secrets, &mut etag))
            .transpose()?,
    })
}

fn identity_content(
    id: &IdentityId,
    content: &IdentityContent,
    secrets: &Secrets,
    etag: &mut impl FnMut() -> String,
) -> Result<proto::IdentityContent, SecretError> {
    let needs_keys = matches!(content.authentication, None | Some(AuthenticationWrite::Sas(None)));
    let may_make_edge = id.module.is_none() && content.iot_edge == Some(true);
    Ok(proto::IdentityContent {
        disabled: content.status == Status::Disabled,
        status_reason: content.status_reason.clone(),
        authentication: content
            .authentication
            .as_ref()
            .map(|given| authentication(given, secrets))
            .transpose()?,
        generated_keys: needs_keys.then(|| secrets.generate()).transpose()?,
        iot_edge: content.iot_edge,
        device_scope: scope(&content.device_scope),
        parent_scope: scope(&content.parent_scope),
        managed_by: content.managed_by.clone(),
        twin: (content.twin != TwinSeed::default()).then(|| content.twin.clone().into()),
        system_module_etags: if may_make_edge {
            vec![etag(), etag()]
        } else {
            Vec::new()
        },
    })
}

/// An authentication method that was written by [`authentication`].
pub(crate) fn stored_authentication(
    stored: &proto::AuthenticationContent,
    secrets: &Secrets,
) -> Result<Authentication, SecretError> {
    Ok(match stored.r#type() {
        proto::AuthenticationType::Sas => {
            Authentication::Sas(secrets.open_pair(&stored.keys.clone().unwrap_or_default())?)
        }
        proto::AuthenticationType::SelfSigned => stored
            .thumbprints
            .as_ref()
            .and_then(thumbprints)
            .map_or(Authentication::None, Authentication::SelfSigned),
        proto::AuthenticationType::CertificateAuthority => Authentication::CertificateAuthority,
        proto::AuthenticationType::None | proto::AuthenticationType::Unspecified => Authentication::None,
    })
}

/// The stored form of an authentication method: keys sealed.
pub(crate) fn authentication(
    given: &AuthenticationWrite,
    secrets: &Secrets,
) -> Result<proto::AuthenticationContent, SecretError> {
    let mut content = proto::AuthenticationContent::default();
    match given {
        AuthenticationWrite::Sas(keys) => {
            content.set_type(proto::AuthenticationType::Sas);
            content.keys = keys.as_ref().map(|keys| secrets.seal_pair(keys)).transpose()?;
        }
        AuthenticationWrite::SasWithNewKeys => {
            content.set_type(proto::AuthenticationType::Sas);
            content.keys = Some(secrets.generate()?);
        }
        AuthenticationWrite::SelfSigned(thumbprints) => {
            content.set_type(proto::AuthenticationType::SelfSigned);
            content.thumbprints = thumbprints.as_ref().map(|thumbprints| proto::Thumbprints {
                primary: thumbprints.primary.as_str().to_owned(),
                secondary: thumbprints
                    .secondary
                    .as_ref()
                    .map_or_else(String::new, |t| t.as_str().to_owned()),
            });
        }
        AuthenticationWrite::CertificateAuthority => content.set_type(proto::AuthenticationType::CertificateAuthority),
        AuthenticationWrite::None => content.set_type(proto::AuthenticationType::None),
    }
    Ok(content)
}

/// The command's form of a regeneration.
pub(crate) fn regeneration(
    entry: &KeyRegeneration,
    choice: KeyChoice,
    secrets: &Secrets,
    etag: String,
) -> Result<proto::KeyRegeneration, SecretError> {
    let mut command = proto::KeyRegeneration {
        device_id: entry.id.device.as_str().to_owned(),
        module_id: module_text(&entry.id),
        if_match: condition(&entry.if_match),
        etag,
        ..proto::KeyRegeneration::default()
    };
    if matches!(choice, KeyChoice::Primary | KeyChoice::Both) {
        command.sealed_primary = secrets.generate_one()?;
    }
    if matches!(choice, KeyChoice::Secondary | KeyChoice::Both) {
        command.sealed_secondary = secrets.generate_one()?;
    }
    Ok(command)
}

fn condition(if_match: &IfMatch) -> Option<String> {
    match if_match {
        IfMatch::Any => None,
        IfMatch::ETag(etag) => Some(etag.clone()),
    }
}

fn scope(write: &ScopeWrite) -> Option<String> {
    match write {
        ScopeWrite::Keep => None,
        ScopeWrite::Remove => Some(String::new()),
        ScopeWrite::Set(scope) => Some(scope.clone()),
    }
}

fn module_text(id: &IdentityId) -> String {
    id.module
        .as_ref()
        .map_or_else(String::new, |module: &ModuleId| module.as_str().to_owned())
}
