//! Executes the calls of authorized callers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_model::ErrorCode;
use holdfast_net::http_api::Reply;
use holdfast_provisioning::{Keys, attestation_document, enrollment_document, id_field, registration_state};
use holdfast_registry::{
    Enrollment, EnrollmentContent, EnrollmentKind, EnrollmentOperation, EnrollmentWrite, IfMatch, Registration,
    Registry, RegistryError,
};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::etag;
use super::super::json::{Fields, object};
use super::issuing;
use super::query::{self, Page};
use super::read::{self, Written};
use super::route::Call;
use super::{EnrollmentRequest, diagnosis, hubs};

/// Most entries of a bulk call.
const MAX_BULK: usize = 100;

const ENROLLMENT: &str = "Enrollment";
const ENROLLMENT_GROUP: &str = "EnrollmentGroup";
const DEVICE_REGISTRATION: &str = "DeviceRegistration";

pub(super) async fn run(call: Call, request: EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    match call {
        Call::Put(kind, id) => put(kind, &id, request).await,
        Call::Get(kind, id) => get(kind, &id, &request).await,
        Call::Delete(kind, id) => delete(kind, id, &request).await,
        Call::Bulk(kind) => bulk(kind, request).await,
        Call::Query(kind) => query(kind, request).await,
        Call::Mechanism(kind, id) => mechanism(kind, &id, &request).await,
        Call::GetRegistration(id) => get_registration(&id, &request).await,
        Call::DeleteRegistration(id) => delete_registration(&id, &request).await,
        Call::QueryRegistrations(group) => query_registrations(group, request).await,
        Call::Diagnose(id) => diagnosis::diagnose(&id, &request).await,
        Call::ListHubs => hubs::list(&request).await,
        Call::PutHub(host) => hubs::put(&host, request).await,
        Call::GetHub(host) => hubs::get(&host, &request).await,
        Call::DeleteHub(host) => hubs::delete(&host, &request).await,
        Call::Issuing(call) => issuing::run(call, request).await,
    }
}

impl EnrollmentRequest<'_> {
    /// Writes a change to the audit log.
    pub(super) fn changed(&self, what: &str, kind: &'static str, id: &str) {
        tracing::info!(
            target: "audit",
            event = "changed",
            operation = what,
            principal = self.principal,
            address = %self.peer.address,
            kind,
            id,
        );
    }
}

async fn put(kind: EnrollmentKind, id: &str, mut request: EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let if_match = etag::if_match(request.headers)?;
    let body = request.body.json().await?;
    let written = read::enrollment(kind, &object(&body)?)?;
    issuance_exists(&written.content, request.shared.registry())?;
    if written.id.as_ref().is_some_and(|given| !given.eq_ignore_ascii_case(id)) {
        let text = format!("{} of the body is not that of the path", id_field(kind));
        return Err(ApiError::invalid(text));
    }
    let Written {
        attestation, content, ..
    } = written;
    check_webhook(&content, &request)?;
    let operation = match if_match {
        None => EnrollmentOperation::Create(attestation, content),
        Some(IfMatch::Any) => EnrollmentOperation::CreateOrUpdate(attestation, content),
        Some(etag) => EnrollmentOperation::Update(etag, attestation, content),
    };
    let write = EnrollmentWrite {
        id: id.to_owned(),
        operation,
    };
    let registry = request.shared.registry();
    let stored = registry.write_enrollment(kind, write).await?;
    request.changed("put", kind.as_str(), id);
    let stored = stored.ok_or(RegistryError::OutcomeUnknown)?;
    let registration = registration_of(&stored, &request)?;
    Ok(shown(&stored, registration.as_ref(), Keys::Shown))
}

/// Checks that the configuration allows the webhook of an enrollment.
fn check_webhook(content: &EnrollmentContent, request: &EnrollmentRequest<'_>) -> Result<(), ApiError> {
    match &content.custom_allocation {
        Some(custom) => {
            let checked = request.shared.service.check_webhook(&custom.webhook_url);
            checked.map_err(|text| ApiError::invalid(format!("webhookUrl: {text}")))
        }
        None => Ok(()),
    }
}

/// A name that does not exist would be noticed only when a device is refused.
fn issuance_exists(content: &EnrollmentContent, registry: &Registry) -> Result<(), ApiError> {
    let Some(reference) = &content.issuance else {
        return Ok(());
    };
    let issuers = registry.issuers();
    let issuer = issuers.get(&reference.issuer);
    if issuer.is_some_and(|issuer| issuer.policy(&reference.policy).is_some()) {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "the hub has no certificate policy '{}' of an issuing CA '{}'",
        reference.policy, reference.issuer
    )))
}

async fn get(kind: EnrollmentKind, id: &str, request: &EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let found = find(kind, id, request).await?;
    let registration = registration_of(&found, request)?;
    Ok(shown(&found, registration.as_ref(), Keys::Hidden))
}

async fn delete(kind: EnrollmentKind, id: String, request: &EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let if_match = etag::if_match(request.headers)?.unwrap_or(IfMatch::Any);
    let write = EnrollmentWrite {
        id: id.clone(),
        operation: EnrollmentOperation::Delete(if_match),
    };
    request.shared.registry().write_enrollment(kind, write).await?;
    request.changed("delete", kind.as_str(), &id);
    Ok(Reply::no_content())
}

async fn mechanism(kind: EnrollmentKind, id: &str, request: &EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let found = find(kind, id, request).await?;
    request.changed("read_keys", kind.as_str(), id);
    Ok(Reply::ok(attestation_document(&found.attestation, Keys::Shown)))
}

async fn find(
    kind: EnrollmentKind,
    id: &str,
    request: &EnrollmentRequest<'_>,
) -> Result<std::sync::Arc<Enrollment>, ApiError> {
    let registry = request.shared.registry();
    registry.read_barrier().await?;
    let code = match kind {
        EnrollmentKind::Individual => ErrorCode::EnrollmentNotFound,
        EnrollmentKind::Group => ErrorCode::EnrollmentGroupNotFound,
    };
    let missing = || {
        ApiError::new(
            code,
            format!("{} {} does not exist", kind.as_str(), holdfast_model::json::quoted(id)),
        )
    };
    registry.enrollment(kind, id)?.ok_or_else(missing)
}

/// The registration of the device of an individual enrollment.
fn registration_of(enrollment: &Enrollment, request: &EnrollmentRequest<'_>) -> Result<Option<Registration>, ApiError> {
    match enrollment.kind {
        EnrollmentKind::Individual => Ok(request.shared.registry().registration(&enrollment.id)?),
        EnrollmentKind::Group => Ok(None),
    }
}

fn shown(enrollment: &Enrollment, registration: Option<&Registration>, keys: Keys) -> Reply {
    Reply::ok(enrollment_document(enrollment, registration, keys)).etag(&enrollment.etag)
}

/// What a bulk call does with its entries.
#[derive(Clone, Copy)]
enum BulkMode {
    Create,
    Update,
    UpdateIfMatchETag,
    Delete,
}

impl BulkMode {
    fn parse(name: &str) -> Option<Self> {
        let all = [
            ("create", Self::Create),
            ("update", Self::Update),
            ("updateIfMatchETag", Self::UpdateIfMatchETag),
            ("delete", Self::Delete),
        ];
        let found = all.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, mode)| mode)
    }

    fn write(self, kind: EnrollmentKind, entry: &Fields<'_>) -> Result<EnrollmentWrite, ApiError> {
        let field = id_field(kind);
        let id = entry.text(field)?.unwrap_or_default().to_owned();
        let tag = |etag: Option<&str>| etag.map(etag::parse);
        let operation = match self {
            Self::Delete => EnrollmentOperation::Delete(tag(entry.text("etag")?).unwrap_or(IfMatch::Any)),
            _ => {
                let Written {
                    etag,
                    attestation,
                    content,
                    ..
                } = read::enrollment(kind, entry)?;
                match self {
                    Self::Create => EnrollmentOperation::Create(attestation, content),
                    Self::UpdateIfMatchETag => {
                        let missing = || ApiError::invalid("the mode updateIfMatchETag needs an etag in each entry");
                        let etag = tag(etag.as_deref()).ok_or_else(missing)?;
                        EnrollmentOperation::Update(etag, attestation, content)
                    }
                    Self::Update | Self::Delete => EnrollmentOperation::Update(IfMatch::Any, attestation, content),
                }
            }
        };
        Ok(EnrollmentWrite { id, operation })
    }
}

async fn bulk(kind: EnrollmentKind, mut request: EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let fields = object(&body)?;
    let mode = fields.text("mode")?.unwrap_or_default();
    let mode = BulkMode::parse(mode)
        .ok_or_else(|| ApiError::invalid("mode is create, update, updateIfMatchETag or delete"))?;
    let name = match kind {
        EnrollmentKind::Individual => "enrollments",
        EnrollmentKind::Group => "enrollmentGroups",
    };
    let entries = fields
        .array(name)?
        .ok_or_else(|| ApiError::new(ErrorCode::ArgumentNull, format!("{name} is missing")))?;
    if entries.len() > MAX_BULK {
        let text = format!("a bulk call has at most {MAX_BULK} entries");
        return Err(ApiError::new(ErrorCode::TooManyDevices, text));
    }
    let mut writes = Vec::with_capacity(entries.len());
    let mut errors = Vec::new();
    let mut failed = |id: &str, code: ErrorCode, text: &str| {
        errors.push(json!({id_field(kind): id, "errorCode": code.number(), "errorStatus": text}));
    };
    for entry in entries {
        let entry = object(entry)?;
        let write = mode.write(kind, &entry).and_then(|write| {
            match &write.operation {
                EnrollmentOperation::Create(_, content)
                | EnrollmentOperation::Update(_, _, content)
                | EnrollmentOperation::CreateOrUpdate(_, content) => {
                    issuance_exists(content, request.shared.registry())?;
                    check_webhook(content, &request)?;
                }
                EnrollmentOperation::Delete(_) => {}
            }
            Ok(write)
        });
        match write {
            Ok(write) => writes.push(write),
            Err(error) => failed(entry.text(id_field(kind))?.unwrap_or_default(), error.code, &error.text),
        }
    }
    let ids: Vec<String> = writes.iter().map(|write| write.id.clone()).collect();
    let outcomes = request.shared.registry().write_enrollments(kind, writes).await?;
    for (id, outcome) in ids.iter().zip(outcomes) {
        match outcome {
            Ok(_) => request.changed("bulk", kind.as_str(), id),
            Err(rejection) => failed(id, rejection.code, &rejection.text),
        }
    }
    Ok(Reply::ok(json!({"isSuccessful": errors.is_empty(), "errors": errors})))
}

async fn checked_query(request: &mut EnrollmentRequest<'_>) -> Result<Page, ApiError> {
    let page = Page::of(request.headers)?;
    let body = request.body.optional_json().await?;
    match &body {
        Some(body) => query::check(Some(&object(body)?))?,
        None => query::check(None)?,
    }
    request.shared.registry().read_barrier().await?;
    Ok(page)
}

async fn query(kind: EnrollmentKind, mut request: EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let mut page = checked_query(&mut request).await?;
    let registry = request.shared.registry().clone();
    let page = holdfast_tasks::spawn_blocking(move || {
        let after = page.after.clone();
        registry.scan_enrollments(kind, after.as_deref(), |enrollment| {
            page.take(&enrollment.id, &enrollment_document(&enrollment, None, Keys::Hidden))
        })?;
        Ok::<_, RegistryError>(page)
    })
    .await?;
    Ok(page.reply(match kind {
        EnrollmentKind::Individual => ENROLLMENT,
        EnrollmentKind::Group => ENROLLMENT_GROUP,
    }))
}

async fn query_registrations(group: String, mut request: EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let mut page = checked_query(&mut request).await?;
    let registry = request.shared.registry().clone();
    let page = holdfast_tasks::spawn_blocking(move || {
        let after = page.after.clone();
        registry.scan_registrations(&group, after.as_deref(), |registration| {
            page.take(&registration.id, &registration_state(&registration))
        })?;
        Ok::<_, RegistryError>(page)
    })
    .await?;
    Ok(page.reply(DEVICE_REGISTRATION))
}

async fn get_registration(id: &str, request: &EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let registry = request.shared.registry();
    registry.read_barrier().await?;
    let missing = || {
        let text = format!("registration {} does not exist", holdfast_model::json::quoted(id));
        ApiError::new(ErrorCode::EnrollmentNotFound, text)
    };
    let state: Value = registration_state(&registry.registration(id)?.ok_or_else(missing)?);
    let etag = state["etag"].as_str().unwrap_or_default().to_owned();
    Ok(Reply::ok(&state).etag(&etag))
}

async fn delete_registration(id: &str, request: &EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    let if_match = match etag::if_match(request.headers)? {
        None | Some(IfMatch::Any) => IfMatch::Any,
        Some(IfMatch::ETag(etag)) => IfMatch::ETag(registration_etag(etag)),
    };
    request.shared.registry().delete_registration(id, &if_match).await?;
    request.changed("delete", "registration", id);
    Ok(Reply::no_content())
}

/// The tag behind the one that a registration shows, which is the base64 of a text in quotes.
fn registration_etag(given: String) -> String {
    let decoded = STANDARD
        .decode(&given)
        .ok()
        .and_then(|text| String::from_utf8(text).ok());
    let inner = decoded
        .as_deref()
        .and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
    inner.map_or(given.clone(), str::to_owned)
}
