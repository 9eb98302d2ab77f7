//! Provisioning: settings, enrollments and registrations (Spec provisioning).

use std::ops::ControlFlow;
use std::sync::Arc;

use holdfast_model::ErrorCode;
use holdfast_model::limits::MAX_BULK_IDENTITIES;
use holdfast_proto::registry::v1 as proto;
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_tasks::watch;
use rand::Rng as _;

use super::{Registry, first, fresh_etag, rejection};
use crate::convert;
use crate::enrollment_groups::EnrollmentGroups;
use crate::error::RegistryError;
use crate::provisioning::{Enrollment, EnrollmentKind, EnrollmentWrite, ProvisioningSettings};
use crate::registration::{DevicePlace, Registration, RegistrationWrite};
use crate::state::Rejection;
use crate::write::IfMatch;

/// The policy of the service API that every provisioning service begins with.
pub const PROVISIONING_POLICY: &str = "provisioningserviceowner";

/// The outcome of one entry of a bulk write; `None` after a delete.
pub type EnrollmentOutcome = Result<Option<Enrollment>, Rejection>;

impl Registry {
    // Reading this node's replica.

    /// The settings of provisioning; `None` while the hub has no provisioning service.
    #[must_use]
    pub fn provisioning(&self) -> Option<Arc<ProvisioningSettings>> {
        self.0.local.provisioning()
    }

    /// All enrollment groups.
    #[must_use]
    pub fn enrollment_groups(&self) -> Arc<EnrollmentGroups> {
        self.0.local.enrollment_groups()
    }

    /// An enrollment; its id is found in any case.
    ///
    /// # Errors
    /// [`RegistryError::State`], [`RegistryError::Sealed`] when it cannot be read.
    pub fn enrollment(&self, kind: EnrollmentKind, id: &str) -> Result<Option<Arc<Enrollment>>, RegistryError> {
        self.0.local.enrollment(kind, id)
    }

    /// A registration; its id is found in any case.
    ///
    /// # Errors
    /// As [`Self::enrollment`].
    pub fn registration(&self, id: &str) -> Result<Option<Registration>, RegistryError> {
        self.0.local.registration(id)
    }

    /// The groups of the registrations whose ids are nearest to `id` in order, at most four. Reads the disk.
    ///
    /// # Errors
    /// [`RegistryError::State`] when it cannot be read.
    pub fn groups_near(&self, id: &str) -> Result<Vec<String>, RegistryError> {
        self.0.local.groups_near(id)
    }

    /// Visits the enrollments of a kind behind the one with the id `after`, by id in lower case, until `visit` breaks. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// As [`Self::enrollment`].
    pub fn scan_enrollments(
        &self,
        kind: EnrollmentKind,
        after: Option<&str>,
        visit: impl FnMut(Enrollment) -> ControlFlow<()>,
    ) -> Result<(), RegistryError> {
        self.0.local.scan_enrollments(kind, after, visit)
    }

    /// Visits the registrations of a group behind the one with the id `after`, by id in lower case, until `visit` breaks. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// As [`Self::enrollment`].
    pub fn scan_registrations(
        &self,
        group: &str,
        after: Option<&str>,
        visit: impl FnMut(Registration) -> ControlFlow<()>,
    ) -> Result<(), RegistryError> {
        self.0.local.scan_registrations(group, after, visit)
    }

    /// Visits the ids, in lower case, of the registrations with work to do behind the id `after`, until `visit` breaks: those with an
    /// operation in progress, or with a device to delete at another hub. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Self::enrollment`].
    pub fn scan_open_registrations(
        &self,
        after: Option<&str>,
        visit: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), RegistryError> {
        self.0.local.scan_open_registrations(after, visit)
    }

    /// Changes whenever a registration gets work to do, or has less of it.
    #[must_use]
    pub fn watch_open_registrations(&self) -> watch::Receiver<()> {
        self.0.local.open_registrations.subscribe()
    }

    // Writing.

    /// Gives the hub a provisioning service: an id scope, and a policy with all rights on it. Without effect when it has one.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn found_provisioning(&self) -> Result<(), RegistryError> {
        if self.provisioning().is_some() {
            return Ok(());
        }
        let policy = proto::PolicyRecord {
            name: PROVISIONING_POLICY.to_owned(),
            keys: Some(self.0.local.secrets.generate()?),
            rights: ALL_RIGHTS,
        };
        let settings = proto::ProvisioningRecord {
            // As the service that it stands for makes them (Spec provisioning §1).
            id_scope: format!("0ne{:08X}", rand::rng().random::<u32>()),
            policies: vec![policy],
            ..proto::ProvisioningRecord::default()
        };
        self.change(Command::FoundProvisioning(proto::FoundProvisioning {
            settings: Some(settings),
        }))
        .await
    }

    /// Creates, changes or deletes one enrollment.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] with the catalogue's number; else as [`Self::write`].
    pub async fn write_enrollment(
        &self,
        kind: EnrollmentKind,
        write: EnrollmentWrite,
    ) -> Result<Option<Enrollment>, RegistryError> {
        let outcomes = self.write_enrollments(kind, vec![write]).await?;
        Ok(first(outcomes)??)
    }

    /// Writes up to 100 enrollments in one step of the log, in their order; outcomes in the same order. An entry that is refused
    /// does not stop the others.
    ///
    /// # Errors
    /// As [`Self::write_enrollment`], but for whole calls only: refusals of entries are outcomes.
    pub async fn write_enrollments(
        &self,
        kind: EnrollmentKind,
        writes: Vec<EnrollmentWrite>,
    ) -> Result<Vec<EnrollmentOutcome>, RegistryError> {
        if writes.len() > MAX_BULK_IDENTITIES {
            let text = format!("at most {MAX_BULK_IDENTITIES} enrollments may be written in one step");
            return Err(Rejection::new(ErrorCode::TooManyDevices, text).into());
        }
        let secrets = &self.0.local.secrets;
        let mut command = proto::WriteEnrollments {
            kind: kind.to_proto().into(),
            writes: Vec::with_capacity(writes.len()),
        };
        let mut refused = Vec::with_capacity(writes.len());
        for write in &writes {
            let checked = write.check(kind);
            if checked.is_ok() {
                command.writes.push(write.to_proto(secrets, fresh_etag())?);
            }
            refused.push(checked.err());
        }
        let mut entries = match command.writes.is_empty() {
            true => Vec::new(),
            false => self.propose(Command::WriteEnrollments(command)).await?,
        }
        .into_iter();
        let mut outcomes = Vec::with_capacity(writes.len());
        for refused in refused {
            if let Some(refused) = refused {
                outcomes.push(Err(refused));
                continue;
            }
            let answer = entries.next().ok_or(RegistryError::OutcomeUnknown)?;
            outcomes.push(match rejection(&answer)? {
                Some(rejection) => Err(rejection),
                None => {
                    let read = |record| Enrollment::read(kind, record, secrets);
                    Ok(answer.enrollment.map(read).transpose()?)
                }
            });
        }
        Ok(outcomes)
    }

    /// Stores a decided registration with the identity that belongs to it, in one step.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] with [`ErrorCode::RegistrationConflict`] when something that it was decided by has changed, and with the
    /// number of a refused identity; else as [`Self::write`].
    pub async fn put_registration(&self, write: &RegistrationWrite) -> Result<Registration, RegistryError> {
        write.check()?;
        let secrets = &self.0.local.secrets;
        let mut command = write.to_proto(fresh_etag(), secrets)?;
        for identity in &write.identity {
            command.identity.push(convert::write(identity, secrets, fresh_etag)?);
        }
        let answer = first(self.propose(Command::PutRegistration(Box::new(command))).await?)?;
        if let Some(rejection) = rejection(&answer)? {
            return Err(rejection.into());
        }
        let stored = answer.registration.ok_or(RegistryError::OutcomeUnknown)?;
        Ok(Registration::read(stored, secrets)?)
    }

    /// Forgets a device that was to be deleted at a hub: it is not there any more, or the hub is not linked any more.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn forget_left_device(&self, registration_id: &str, place: &DevicePlace) -> Result<(), RegistryError> {
        self.change(Command::ForgetLeftDevice(proto::ForgetLeftDevice {
            registration_id: registration_id.to_owned(),
            hub: place.hub.clone(),
            device_id: place.device_id.to_string(),
        }))
        .await
    }

    /// Deletes a registration; the identity at its hub stays.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when there is none with that id or ETag; else as [`Self::write`].
    pub async fn delete_registration(&self, id: &str, if_match: &IfMatch) -> Result<(), RegistryError> {
        self.change(Command::DeleteRegistration(proto::DeleteRegistration {
            registration_id: id.to_owned(),
            if_match: match if_match {
                IfMatch::Any => None,
                IfMatch::ETag(etag) => Some(etag.clone()),
            },
        }))
        .await
    }
}

/// The bits of all rights on the service API (`ProvisioningRecord.policies`).
const ALL_RIGHTS: u32 = 63;
