//! The registry's state machine as data: `apply(view, command) → effects`.
//!
//! Why: every replica must derive the same state from the same log, so nothing here may differ between two runs. Time,
//! generated keys and entity tags are fields of the command, stamped by the leader.
//! Invariants: no clock, no randomness, no I/O but reads through [`Base`]; one command's writes are visible to its own
//! later entries, and become durable together; a refused entry writes nothing.
//! Not here: the disk and the applied position (`machine`), proposals (`registry`), checks of clients' values (`write`).

mod authorities;
mod cluster;
mod edge;
pub(crate) mod feature_level;
mod identity;
mod issuance;
pub(crate) mod layout;
mod linked_hubs;
mod policies;
mod provisioning;
mod quota;
mod rejection;
mod revocations;
mod saved_queries;
mod settings;
mod view;

use bytes::Bytes;
use holdfast_model::{FEATURE_LEVEL, GenerationId, IdentityId};
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{
    Counters, EnrollmentKind, EnrollmentWrite, EntryAnswer, HubSettings, NodeState, RegistryAnswer, RegistryCommand,
};

pub(crate) use authorities::ANY_ETAG;
pub use rejection::{ApplyError, Rejection};
pub use settings::DEFAULT_CONSUMER_GROUP;
pub(crate) use view::decode;
pub use view::{Base, View};

/// The newest version of commands that this code can apply.
///
/// 1: identities and settings. 2: the cluster. 3: replication factors other than 1 and 3, and revoked join tokens. 4: changes of
/// a node's state that expect an earlier state. 5: saved queries. 6: CAs. 7: policies that guard the way in.
/// 8: revoked certificates. 9: settings that the configuration has said. 10: the use of the daily quota.
/// 11: provisioning. 12: registrations that take several steps, attestation by TPM, certificates that are issued to devices, and
/// feature levels. From 12 on, a hub writes no command above its feature level.
pub const COMMAND_VERSION: u32 = FEATURE_LEVEL;

/// The first version that knows `command`: it is written before the command in the log, so that a replica of an older
/// version stops only at commands that it does not know.
#[must_use]
pub fn version_of(command: &Command) -> u32 {
    match command {
        // An earlier version would lose them.
        Command::WriteIdentities(command) if identity::have_reported(&command.writes) => 12,
        // An earlier version would lose the level.
        Command::Bootstrap(command)
            if command
                .settings
                .as_ref()
                .is_some_and(|settings| settings.feature_level > 0) =>
        {
            12
        }
        Command::AdmitNode(command) if command.feature_level > 0 => 12,
        Command::RaiseFeatureLevel(_) => 12,
        Command::Bootstrap(_)
        | Command::WriteIdentities(_)
        | Command::RegenerateKeys(_)
        | Command::AddConsumerGroup(_)
        | Command::RemoveConsumerGroup(_)
        | Command::PutPolicy(_)
        | Command::RemovePolicy(_) => 1,
        // An earlier version would overlook what the configuration says.
        Command::ChangeSettings(command)
            if command.configured_retention_ms.is_some() || command.configured_retention_bytes.is_some() =>
        {
            9
        }
        Command::ChangeSettings(_) => 1,
        Command::FoundCluster(_)
        | Command::PutNode(_)
        | Command::RemoveNode(_)
        | Command::SetPlacements(_)
        | Command::CreateJoinToken(_)
        | Command::AdmitNode(_) => 2,
        // Version 2 knew no other factors, and refused them.
        Command::SetReplicationFactor(command) if matches!(command.replication_factor, 1 | 3) => 2,
        Command::SetReplicationFactor(_) | Command::RevokeJoinToken(_) => 3,
        // An earlier version would overlook the condition.
        Command::SetNodeState(command) if command.expected_state() == NodeState::Unspecified => 2,
        Command::SetNodeState(_) => 4,
        Command::PutSavedQuery(_) | Command::RemoveSavedQuery(_) => 5,
        Command::PutCa(_) | Command::RemoveCa(_) | Command::SetCaCode(_) | Command::VerifyCa(_) => 6,
        Command::WritePolicy(_) | Command::DeletePolicy(_) => 7,
        Command::PutRevocation(_) | Command::RemoveRevocation(_) | Command::PutCrl(_) | Command::RemoveCrl(_) => 8,
        Command::PutQuotaUse(_) => 10,
        // An earlier version would overlook the new fields.
        Command::WriteEnrollments(command)
            if provisioning::has_new_enrollment_fields(command) || command.writes.iter().any(issues) =>
        {
            12
        }
        Command::PutRegistration(command)
            if provisioning::has_new_registration_fields(command) || command.issue.is_some() =>
        {
            12
        }
        Command::ForgetLeftDevice(_) | Command::PutLinkedHub(_) | Command::RemoveLinkedHub(_) => 12,
        Command::FoundProvisioning(_)
        | Command::WriteEnrollments(_)
        | Command::PutRegistration(_)
        | Command::DeleteRegistration(_) => 11,
        Command::PutIssuer(_)
        | Command::RemoveIssuer(_)
        | Command::IssueCertificate(_)
        | Command::RevokeDeviceCertificates(_) => 12,
    }
}

fn issues(write: &EnrollmentWrite) -> bool {
    write.content.as_ref().is_some_and(|content| content.issuance.is_some())
}

/// The change of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It did not exist before.
    Created,
    /// Anything but its keys or thumbprints may have changed: status, authentication type, scopes, …
    Updated,
    /// Its credentials changed, and perhaps more.
    CredentialsChanged,
    /// It was deleted. A device's modules are deleted with it and are reported one by one.
    Deleted,
}

/// One change of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The identity.
    pub id: IdentityId,
    /// Its generation.
    pub generation: GenerationId,
    /// The change.
    pub kind: ChangeKind,
}

/// The effects of one command.
#[derive(Debug, Default)]
pub struct Effects {
    /// Keys and values to write, `None` = delete; keys ascending, each once.
    pub writes: Vec<(Vec<u8>, Option<Bytes>)>,
    /// The answer to the proposer.
    pub answer: RegistryAnswer,
    /// For the change feed, in the order in which they happened.
    pub changes: Vec<Change>,
    /// The counts of identities after the command.
    pub counters: Counters,
    /// The settings after the command, if it changed them.
    pub settings: Option<HubSettings>,
    /// Whether members or placements changed.
    pub cluster_changed: bool,
    /// Whether saved queries changed.
    pub saved_queries_changed: bool,
    /// Whether CAs changed.
    pub authorities_changed: bool,
    /// Whether revoked certificates changed.
    pub revocations_changed: bool,
    /// Whether the settings of provisioning changed.
    pub provisioning_changed: bool,
    /// The enrollment groups that changed, by their ids in lower case.
    pub enrollment_groups_changed: Vec<String>,
    /// Whether linked hubs changed.
    pub linked_hubs_changed: bool,
    /// Whether a registration has work to do, or has it no more.
    pub open_registrations_changed: bool,
    /// Whether issuing CAs changed.
    pub issuers_changed: bool,
}

/// The application of one command: the view, and the writes at its end.
struct Work<'a> {
    view: View<'a>,
    counters: Counters,
    time_ms: u64,
    changes: Vec<Change>,
    settings: Option<HubSettings>,
    cluster_changed: bool,
    saved_queries_changed: bool,
    authorities_changed: bool,
    revocations_changed: bool,
    provisioning_changed: bool,
    enrollment_groups_changed: Vec<String>,
    linked_hubs_changed: bool,
    open_registrations_changed: bool,
    issuers_changed: bool,
    /// Read once per command: a bulk write needs it for each of its entries.
    max_identities: Option<u64>,
}

/// A point in the application of a command to which it can return.
struct Mark {
    pending: view::Pending,
    counters: Counters,
    changes: usize,
}

impl Work<'_> {
    /// The state before writes of which all or none may stay.
    fn mark(&self) -> Mark {
        Mark {
            pending: self.view.pending().clone(),
            counters: self.counters,
            changes: self.changes.len(),
        }
    }

    /// Forgets what was written since `mark`.
    fn return_to(&mut self, mark: Mark) {
        self.view.set_pending(mark.pending);
        self.counters = mark.counters;
        self.changes.truncate(mark.changes);
    }

    fn enrollment_changed(&mut self, kind: EnrollmentKind, id: &str) {
        if kind == EnrollmentKind::Group {
            self.enrollment_groups_changed.push(id.to_ascii_lowercase());
        }
    }
}

/// Why an entry is not applied: refused, which is an answer, or failed, which stops the node.
enum Stop {
    Rejected(Rejection),
    Failed(ApplyError),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<ApplyError> for Stop {
    fn from(error: ApplyError) -> Self {
        Self::Failed(error)
    }
}

/// Applies `command` to the state behind `base`.
///
/// # Errors
/// [`ApplyError`]: the state cannot be read, or the command is newer than this code. Refusals are answers, not errors.
pub fn apply(base: &dyn Base, command: &RegistryCommand) -> Result<Effects, ApplyError> {
    if command.version > COMMAND_VERSION {
        return Err(ApplyError::NewerCommand {
            version: command.version,
        });
    }
    let Some(kind) = &command.command else {
        return Err(ApplyError::NewerCommand {
            version: command.version,
        });
    };
    let view = View::new(base);
    let counters = view.message::<Counters>(layout::COUNTERS)?.unwrap_or_default();
    let before = counters;
    let mut work = Work {
        view,
        counters,
        time_ms: command.time_ms,
        changes: Vec::new(),
        settings: None,
        cluster_changed: false,
        saved_queries_changed: false,
        authorities_changed: false,
        revocations_changed: false,
        provisioning_changed: false,
        enrollment_groups_changed: Vec::new(),
        linked_hubs_changed: false,
        open_registrations_changed: false,
        issuers_changed: false,
        max_identities: None,
    };
    let mut answer = RegistryAnswer::default();
    match kind {
        Command::WriteIdentities(command) => {
            for write in &command.writes {
                let outcome = identity::write(&mut work, write);
                answer.entries.push(entry_answer(outcome)?);
            }
        }
        Command::RegenerateKeys(command) => {
            for entry in &command.entries {
                let outcome = identity::regenerate(&mut work, entry);
                answer.entries.push(entry_answer(outcome)?);
            }
        }
        Command::WriteEnrollments(command) => {
            for write in &command.writes {
                let outcome = provisioning::write_enrollment(&mut work, command.kind(), write);
                answer.entries.push(entry_answer(outcome)?);
            }
        }
        Command::PutSavedQuery(command) => {
            let outcome = saved_queries::put(&mut work, command);
            answer.entries.push(entry_answer(outcome)?);
        }
        Command::RemoveSavedQuery(command) => {
            let outcome = saved_queries::remove(&mut work, command);
            answer.entries.push(entry_answer(outcome)?);
        }
        Command::PutQuotaUse(command) => {
            let outcome = quota::put(&mut work, command);
            answer.entries.push(entry_answer(outcome)?);
        }
        other => {
            let done = |()| EntryAnswer::default();
            let apart = authorities::change(&mut work, other)
                .or_else(|| revocations::change(&mut work, other))
                .or_else(|| provisioning::change(&mut work, other))
                .or_else(|| linked_hubs::change(&mut work, other))
                .or_else(|| issuance::change(&mut work, other));
            let outcome = match apart {
                Some(outcome) => outcome,
                None => match cluster::change(&mut work, other) {
                    Some(outcome) => outcome.map(done),
                    None => settings::change(&mut work, other),
                },
            };
            answer.entries.push(entry_answer(outcome)?);
        }
    }
    if let Some(settings) = &work.settings {
        work.view.put_message(layout::SETTINGS.to_vec(), settings);
    }
    if work.counters != before {
        let counters = work.counters;
        work.view.put_message(layout::COUNTERS.to_vec(), &counters);
    }
    Ok(Effects {
        writes: work.view.into_writes(),
        answer,
        changes: work.changes,
        counters: work.counters,
        settings: work.settings,
        cluster_changed: work.cluster_changed,
        saved_queries_changed: work.saved_queries_changed,
        authorities_changed: work.authorities_changed,
        revocations_changed: work.revocations_changed,
        provisioning_changed: work.provisioning_changed,
        enrollment_groups_changed: work.enrollment_groups_changed,
        linked_hubs_changed: work.linked_hubs_changed,
        open_registrations_changed: work.open_registrations_changed,
        issuers_changed: work.issuers_changed,
    })
}

fn entry_answer(outcome: Result<EntryAnswer, Stop>) -> Result<EntryAnswer, ApplyError> {
    match outcome {
        Ok(answer) => Ok(answer),
        Err(Stop::Rejected(rejection)) => Ok(EntryAnswer {
            error_code: rejection.code.number(),
            error_text: rejection.text,
            ..EntryAnswer::default()
        }),
        Err(Stop::Failed(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests;
