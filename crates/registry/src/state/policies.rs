//! Changes of the hub's shared access policies (Spec auth-and-limits §2).
//!
//! Invariant: a hub that has a policy with all rights keeps one, since nothing else opens its administration. Only commands
//! of version 6 and before, which know no such rule, are applied without it.

use holdfast_model::ErrorCode;
use holdfast_model::limits::{MAX_POLICIES, MAX_SERVICE_CONNECT_POLICIES};
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::write_policy::Condition;
use holdfast_proto::registry::v1::{HubSettings, PolicyRecord, WritePolicy};

use super::rejection::Rejection;

const SERVICE_CONNECT: u32 = 4;
/// The rights of version 1: `Rights::ALL` of a later version may have more.
const ALL_RIGHTS: u32 = 15;

/// Applies every command about policies, and tells whether it created one; `None` for other commands.
pub(super) fn change(settings: &mut HubSettings, command: &Command) -> Option<Result<bool, Rejection>> {
    Some(match command {
        Command::PutPolicy(command) => match &command.policy {
            Some(policy) => put(settings, policy).map(|()| false),
            None => Err(Rejection::new(ErrorCode::ArgumentNull, "the policy is missing")),
        },
        Command::RemovePolicy(command) => remove(settings, &command.name).map(|()| false),
        Command::WritePolicy(command) => guarded(settings, |settings| write(settings, command)),
        Command::DeletePolicy(command) => guarded(settings, |settings| remove(settings, &command.name).map(|()| false)),
        _ => return None,
    })
}

/// Makes a change unless it takes the last policy with all rights away.
fn guarded(
    settings: &mut HubSettings,
    change: impl FnOnce(&mut HubSettings) -> Result<bool, Rejection>,
) -> Result<bool, Rejection> {
    let had_owner = settings.policies.iter().any(is_owner);
    let created = change(settings)?;
    if had_owner && !settings.policies.iter().any(is_owner) {
        let text = "no other policy has all rights, and the hub could not be administered any more: create one first";
        return Err(Rejection::new(ErrorCode::InvalidOperation, text));
    }
    Ok(created)
}

fn is_owner(policy: &PolicyRecord) -> bool {
    policy.rights & ALL_RIGHTS == ALL_RIGHTS
}

fn write(settings: &mut HubSettings, command: &WritePolicy) -> Result<bool, Rejection> {
    let existing = settings
        .policies
        .iter()
        .find(|policy| policy.name.eq_ignore_ascii_case(&command.name));
    let (created, mut policy) = match (existing, command.condition()) {
        (Some(_), Condition::Absent) => {
            let text = format!("policy '{}' already exists", command.name);
            return Err(Rejection::new(ErrorCode::GenericConflict, text));
        }
        (None, Condition::Present) => return Err(not_found(&command.name)),
        (Some(policy), _) => (false, policy.clone()),
        (None, _) => {
            let policy = PolicyRecord {
                name: command.name.clone(),
                keys: command.generated_keys.clone(),
                rights: 0,
            };
            (true, policy)
        }
    };
    match command.rights {
        Some(rights) => policy.rights = rights,
        None if created => return Err(Rejection::new(ErrorCode::ArgumentNull, "a new policy needs rights")),
        None => {}
    }
    let keys = policy.keys.get_or_insert_default();
    if command.swap_keys {
        std::mem::swap(&mut keys.primary, &mut keys.secondary);
    }
    for (key, new) in [
        (&mut keys.primary, &command.sealed_primary),
        (&mut keys.secondary, &command.sealed_secondary),
    ] {
        if !new.is_empty() {
            *key = new.clone();
        }
    }
    put(settings, &policy)?;
    Ok(created)
}

fn put(settings: &mut HubSettings, policy: &PolicyRecord) -> Result<(), Rejection> {
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

fn remove(settings: &mut HubSettings, name: &str) -> Result<(), Rejection> {
    let before = settings.policies.len();
    settings
        .policies
        .retain(|policy| !policy.name.eq_ignore_ascii_case(name));
    if settings.policies.len() == before {
        return Err(not_found(name));
    }
    Ok(())
}

fn not_found(name: &str) -> Rejection {
    Rejection::new(ErrorCode::GenericNotFound, format!("policy '{name}' does not exist"))
}
