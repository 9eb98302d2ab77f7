//! Changes of the hub's settings: consumer groups, retention (Spec auth-and-limits §9.2).
//!
//! Not here: policies, which are settings too (`policies`).

use holdfast_model::ErrorCode;
use holdfast_model::limits::MAX_CONSUMER_GROUPS;
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{ChangeSettings, EntryAnswer, HubSettings};

use super::rejection::Rejection;
use super::{Stop, Work, layout, policies};

/// The consumer group that every hub has.
pub const DEFAULT_CONSUMER_GROUP: &str = "$Default";

/// Applies every command about settings.
pub(super) fn change(work: &mut Work<'_>, command: &Command) -> Result<EntryAnswer, Stop> {
    let mut answer = EntryAnswer::default();
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
        (Command::Bootstrap(_), Some(_)) => return Ok(answer),
        (_, None) => return Err(Rejection::new(ErrorCode::IotHubNotFound, "the hub has not been created").into()),
        (command, Some(mut settings)) => {
            answer.created = change_existing(&mut settings, command)?;
            settings
        }
    };
    work.settings = Some(settings);
    Ok(answer)
}

/// Whether the command has created something.
fn change_existing(settings: &mut HubSettings, command: &Command) -> Result<bool, Rejection> {
    if let Some(outcome) = policies::change(settings, command) {
        return outcome;
    }
    match command {
        Command::AddConsumerGroup(command) => add_consumer_group(settings, &command.name)?,
        Command::RemoveConsumerGroup(command) => remove_consumer_group(settings, &command.name)?,
        Command::ChangeSettings(change) => change_values(settings, change),
        // Handled elsewhere.
        _ => {}
    }
    Ok(false)
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
    let configured = (change.configured_retention_ms, change.configured_retention_bytes);
    settings.configured_retention_ms = configured.0.or(settings.configured_retention_ms);
    settings.configured_retention_bytes = configured.1.or(settings.configured_retention_bytes);
}
