//! Changes of the hub's settings: consumer groups, policies, retention (Spec auth-and-limits §2, §9.2).

use holdfast_model::ErrorCode;
use holdfast_model::limits::{MAX_CONSUMER_GROUPS, MAX_POLICIES, MAX_SERVICE_CONNECT_POLICIES};
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{ChangeSettings, HubSettings, PolicyRecord};

use super::rejection::Rejection;
use super::{Stop, Work, layout};

/// The consumer group that every hub has.
pub const DEFAULT_CONSUMER_GROUP: &str = "$Default";

const SERVICE_CONNECT: u32 = 4;

/// Applies every command about settings.
pub(super) fn change(work: &mut Work<'_>, command: &Command) -> Result<(), Stop> {
    let stored = match &work.settings {
        Some(settings) => Some(settings.clone()),
        None => work.view.message::<HubSettings>(layout::SETTINGS)?,
    };
    let settings = match (command, stored) {
        (Command::Bootstrap(bootstrap), None) => {
            let mut settings = bootstrap.settings.clone().unwrap_or_default();
            settings.created_ms = work.time_ms;
            settings
        }
        (Command::Bootstrap(_), Some(_)) => return Ok(()),
        (_, None) => return Err(Rejection::new(ErrorCode::IotHubNotFound, "the hub has not been created").into()),
        (command, Some(mut settings)) => {
            change_existing(&mut settings, command)?;
            settings
        }
    };
    work.settings = Some(settings);
    Ok(())
}

fn change_existing(settings: &mut HubSettings, command: &Command) -> Result<(), Rejection> {
    match command {
        Command::AddConsumerGroup(command) => add_consumer_group(settings, &command.name),
        Command::RemoveConsumerGroup(command) => remove_consumer_group(settings, &command.name),
        Command::PutPolicy(command) => match &command.policy {
            Some(policy) => put_policy(settings, policy),
            None => Err(Rejection::new(ErrorCode::ArgumentNull, "the policy is missing")),
        },
        Command::RemovePolicy(command) => remove_policy(settings, &command.name),
        Command::ChangeSettings(change) => {
            change_values(settings, change);
            Ok(())
        }
        // Handled elsewhere.
        _ => Ok(()),
    }
}

fn add_consumer_group(settings: &mut HubSettings, name: &str) -> Result<(), Rejection> {
    if settings
        .consumer_groups
        .iter()
        .any(|group| group.eq_ignore_ascii_case(name))
    {
        return Err(Rejection::new(
            ErrorCode::GenericConflict,
            format!("consumer group '{name}' already exists"),
        ));
    }
    if settings.consumer_groups.len() >= MAX_CONSUMER_GROUPS {
        let text = format!("the hub has its maximum of {MAX_CONSUMER_GROUPS} consumer groups");
        return Err(Rejection::new(ErrorCode::InvalidOperation, text));
    }
    settings.consumer_groups.push(name.to_owned());
    settings.consumer_groups.sort();
    Ok(())
}

fn remove_consumer_group(settings: &mut HubSettings, name: &str) -> Result<(), Rejection> {
    if name.eq_ignore_ascii_case(DEFAULT_CONSUMER_GROUP) {
        let text = format!("consumer group '{DEFAULT_CONSUMER_GROUP}' cannot be deleted");
        return Err(Rejection::new(ErrorCode::InvalidOperation, text));
    }
    let Some(at) = settings
        .consumer_groups
        .iter()
        .position(|group| group.eq_ignore_ascii_case(name))
    else {
        return Err(Rejection::new(
            ErrorCode::GenericNotFound,
            format!("consumer group '{name}' does not exist"),
        ));
    };
    settings.consumer_groups.remove(at);
    Ok(())
}

fn put_policy(settings: &mut HubSettings, policy: &PolicyRecord) -> Result<(), Rejection> {
    let others = settings
        .policies
        .iter()
        .filter(|other| !other.name.eq_ignore_ascii_case(&policy.name));
    let (mut count, mut service) = (1, usize::from(policy.rights & SERVICE_CONNECT != 0));
    for other in others {
        count += 1;
        service += usize::from(other.rights & SERVICE_CONNECT != 0);
    }
    if count > MAX_POLICIES || service > MAX_SERVICE_CONNECT_POLICIES {
        let text = format!(
            "a hub has at most {MAX_POLICIES} policies, {MAX_SERVICE_CONNECT_POLICIES} of them with ServiceConnect"
        );
        return Err(Rejection::new(ErrorCode::InvalidOperation, text));
    }
    settings
        .policies
        .retain(|other| !other.name.eq_ignore_ascii_case(&policy.name));
    settings.policies.push(policy.clone());
    settings.policies.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

fn remove_policy(settings: &mut HubSettings, name: &str) -> Result<(), Rejection> {
    let before = settings.policies.len();
    settings
        .policies
        .retain(|policy| !policy.name.eq_ignore_ascii_case(name));
    if settings.policies.len() == before {
        return Err(Rejection::new(
            ErrorCode::GenericNotFound,
            format!("policy '{name}' does not exist"),
        ));
    }
    Ok(())
}

fn change_values(settings: &mut HubSettings, change: &ChangeSettings) {
    if let Some(name) = &change.hub_name {
        settings.hub_name.clone_from(name);
    }
    if let Some(retention) = change.retention_ms {
        settings.retention_ms = retention;
    }
    if let Some(retention) = change.retention_bytes {
        settings.retention_bytes = retention;
    }
    if let Some(max) = change.max_identities {
        settings.max_identities = max;
    }
}
