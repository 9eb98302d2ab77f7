//! `GET /registrations/{id}/diagnosis`: why a device can or cannot register.

use holdfast_device_hub::Operation;
use holdfast_model::{DeviceId, IdentityId};
use holdfast_net::http_api::Reply;
use holdfast_provisioning::registration_details;
use holdfast_registry::{Enrollment, EnrollmentKind, Registration, RegistrationOutcome, check_registration_id};
use serde_json::{Value, json};

use super::super::calls::diagnose::refusals_of;
use super::super::error::ApiError;
use super::EnrollmentRequest;

/// Also answers for ids that have never registered: operators look for their refusals.
pub(super) async fn diagnose(id: &str, request: &EnrollmentRequest<'_>) -> Result<Reply, ApiError> {
    check_registration_id(EnrollmentKind::Individual, id)?;
    let registry = request.shared.registry();
    registry.read_barrier().await?;
    let registration = registry.registration(id)?;
    let individual = registry.enrollment(EnrollmentKind::Individual, id)?;
    let group = registration.as_ref().and_then(|found| found.group.as_deref());
    let enrollment = match (individual, group) {
        (Some(individual), _) => Some(individual),
        (None, Some(group)) => registry.enrollment(EnrollmentKind::Group, group)?,
        (None, None) => None,
    };
    // Refusals are kept under the registration id, by any of the nodes.
    let (refusals, silent) = match DeviceId::parse(id) {
        Ok(device) => {
            let diagnosis = request.shared.hub().diagnose(&IdentityId::device(device)).await;
            refusals_of(diagnosis, Operation::Register)
        }
        Err(_) => (Vec::new(), Vec::new()),
    };
    let settings = registry.provisioning();
    Ok(Reply::ok(json!({
        "registrationId": id,
        "idScope": settings.map(|settings| settings.id_scope.clone()),
        "conclusion": conclusion(id, enrollment.as_deref(), registration.as_ref(), refusals.last()),
        "enrollment": enrollment.as_deref().map(show),
        "enrollmentGroups": registry.enrollment_groups().len(),
        "registration": registration.as_ref().map(registration_details),
        "refusals": refusals,
        "notAsked": silent,
    })))
}

fn show(enrollment: &Enrollment) -> Value {
    let content = &enrollment.content;
    json!({
        "kind": enrollment.kind.as_str(),
        "id": enrollment.id,
        "provisioningStatus": if content.is_disabled { "disabled" } else { "enabled" },
        "attestation": enrollment.attestation.type_name(),
        "allocationPolicy": content.allocation.map(|policy| policy.as_str()),
        "iotHubs": content.iot_hubs,
        "webhookUrl": content.custom_allocation.as_ref().map(|custom| custom.shown_url()),
    })
}

/// The first thing to look at.
fn conclusion(
    id: &str,
    enrollment: Option<&Enrollment>,
    registration: Option<&Registration>,
    refusal: Option<&Value>,
) -> String {
    let refused = refusal.map(|refusal| {
        let text = |name: &str| refusal[name].as_str().unwrap_or_default().to_owned();
        let detail = match text("detail") {
            detail if detail.is_empty() => text("advice"),
            detail => detail,
        };
        format!(
            "The last refused attempt was at {}: {}: {detail}.",
            text("time"),
            text("reason")
        )
    });
    let state = match (enrollment, registration) {
        (Some(enrollment), _) if enrollment.content.is_disabled => format!(
            "The {} '{}' is disabled: the device is answered `disabled`.",
            enrollment.kind.as_str(),
            enrollment.id
        ),
        (_, Some(registration)) => match &registration.outcome {
            RegistrationOutcome::Assigned { hub, device_id, .. } => {
                format!("{id} is assigned to {hub} as {device_id}.")
            }
            RegistrationOutcome::Assigning(pending) => match &pending.target_hub {
                Some(hub) => format!("{id} is being assigned to {hub}."),
                None => format!("The hub of {id} is being chosen."),
            },
            RegistrationOutcome::Failed { code, text } => format!("The last registration failed with {code}: {text}."),
        },
        (Some(enrollment), None) => format!(
            "{id} has an individual enrollment by {} and has never registered.",
            enrollment.attestation.type_name()
        ),
        (None, None) => format!(
            "{id} has neither an individual enrollment nor a registration: its first registration needs a credential of an \
             enrollment group."
        ),
    };
    match refused {
        Some(refused) => format!("{state} {refused}"),
        None => state,
    }
}
