//! Enrollments and registrations in this node's replica, for reading.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::DeviceId;
use holdfast_proto::registry::v1 as proto;
use holdfast_storage::Family;

use crate::enrollment_groups::EnrollmentGroups;
use crate::error::RegistryError;
use crate::issuance::{DeviceCertificates, Issuer, Issuers};
use crate::local::Local;
use crate::provisioning::{Enrollment, EnrollmentKind, ProvisioningSettings};
use crate::registration::Registration;
use crate::state::{ApplyError, Base as _, decode, layout};

/// How many registrations are looked at in each direction.
const NEIGHBOURS: usize = 2;

impl Local {
    pub(crate) fn provisioning(&self) -> Option<Arc<ProvisioningSettings>> {
        self.provisioning.read().clone()
    }

    pub(crate) fn enrollment_groups(&self) -> Arc<EnrollmentGroups> {
        self.enrollment_groups.read().clone()
    }

    pub(crate) fn reload_provisioning(&self) -> Result<(), RegistryError> {
        let record = self.message::<proto::ProvisioningRecord>(layout::PROVISIONING)?;
        let settings = record
            .map(|record| ProvisioningSettings::read(&record, &self.secrets))
            .transpose()?;
        *self.provisioning.write() = settings.map(Arc::new);
        Ok(())
    }

    pub(crate) fn reload_enrollment_groups(&self) -> Result<(), ApplyError> {
        let records = self.records::<proto::EnrollmentRecord>(&layout::enrollment_groups())?;
        let groups: BTreeMap<_, _> = records
            .into_iter()
            .filter_map(|(_, record)| self.group(record))
            .collect();
        *self.enrollment_groups.write() = Arc::new(EnrollmentGroups::new(groups));
        Ok(())
    }

    /// Reads the groups with these ids, in lower case, anew.
    pub(crate) fn enrollment_groups_changed(&self, ids: &[String]) -> Result<(), ApplyError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut changed = Vec::with_capacity(ids.len());
        for id in ids {
            let record = self.message::<proto::EnrollmentRecord>(&layout::enrollment_group(id))?;
            changed.push((
                id.clone(),
                record.and_then(|record| self.group(record)).map(|(_, group)| group),
            ));
        }
        let groups = self.enrollment_groups().with(changed);
        *self.enrollment_groups.write() = Arc::new(groups);
        Ok(())
    }

    fn group(&self, record: proto::EnrollmentRecord) -> Option<(String, Arc<Enrollment>)> {
        let id = record.id.clone();
        match Enrollment::read(EnrollmentKind::Group, record, &self.secrets) {
            Ok(group) => Some((id.to_ascii_lowercase(), Arc::new(group))),
            Err(error) => {
                tracing::error!(group = id, %error, "a stored enrollment group cannot be used; its devices are refused");
                None
            }
        }
    }

    pub(crate) fn enrollment(&self, kind: EnrollmentKind, id: &str) -> Result<Option<Arc<Enrollment>>, RegistryError> {
        if kind == EnrollmentKind::Group {
            return Ok(self.enrollment_groups().get(id).cloned());
        }
        let record = self.message::<proto::EnrollmentRecord>(&layout::enrollment(id))?;
        let enrollment = record
            .map(|record| Enrollment::read(kind, record, &self.secrets))
            .transpose()?;
        Ok(enrollment.map(Arc::new))
    }

    pub(crate) fn registration(&self, id: &str) -> Result<Option<Registration>, RegistryError> {
        let record = self.message::<proto::RegistrationRecord>(&layout::registration(id))?;
        Ok(record
            .map(|record| Registration::read(record, &self.secrets))
            .transpose()?)
    }

    /// The groups of the registrations nearest to `id` by name, those before it first: ids of one group mostly begin alike.
    pub(crate) fn groups_near(&self, id: &str) -> Result<Vec<String>, RegistryError> {
        let Range { start, end } = layout::registrations();
        let key = layout::registration(id);
        let mut found = Vec::with_capacity(2 * NEIGHBOURS);
        let mut collect = |up_to: usize, value: &[u8]| {
            found.push(Bytes::copy_from_slice(value));
            match found.len() < up_to {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let mut before = |_: &[u8], value: &[u8]| collect(NEIGHBOURS, value);
        self.disk.scan_back(Family::Registry, &start, &key, &mut before)?;
        let mut behind = |_: &[u8], value: &[u8]| collect(2 * NEIGHBOURS, value);
        self.disk.scan(Family::Registry, &key, &end, &mut behind)?;
        let mut groups = Vec::with_capacity(found.len());
        for value in found {
            let record = decode::<proto::RegistrationRecord>(&key, value)?;
            if !record.group.is_empty() && !groups.contains(&record.group) {
                groups.push(record.group);
            }
        }
        Ok(groups)
    }

    /// The ids, in lower case, of registrations with work to do behind the id `after`, until `visit` breaks.
    pub(crate) fn scan_open_registrations(
        &self,
        after: Option<&str>,
        mut visit: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), RegistryError> {
        let Range { start, end } = behind(layout::open_registrations(), after.map(layout::open_registration));
        self.scan(&start, &end, &mut |key, _| match layout::parse_open_registration(key) {
            Some(id) => visit(id),
            None => ControlFlow::Continue(()),
        })?;
        Ok(())
    }

    pub(crate) fn issuers(&self) -> Arc<Issuers> {
        self.issuers.read().clone()
    }

    /// Reads all issuing CAs anew; there are few.
    pub(crate) fn reload_issuers(&self) -> Result<(), ApplyError> {
        let records = self.records::<proto::IssuerRecord>(&layout::issuers())?;
        let read = |(_, record)| Issuer::read(record, &self.secrets).map(Arc::new);
        *self.issuers.write() = Arc::new(Issuers::new(records.into_iter().filter_map(read).collect()));
        Ok(())
    }

    pub(crate) fn device_certificates(&self, device: &DeviceId) -> Result<Option<DeviceCertificates>, RegistryError> {
        let record = self.message::<proto::DeviceCertificatesRecord>(&layout::device_certificates(device))?;
        Ok(record.and_then(DeviceCertificates::read))
    }

    pub(crate) fn scan_enrollments(
        &self,
        kind: EnrollmentKind,
        after: Option<&str>,
        mut visit: impl FnMut(Enrollment) -> ControlFlow<()>,
    ) -> Result<(), RegistryError> {
        let (all, key): (_, fn(&str) -> Vec<u8>) = match kind {
            EnrollmentKind::Individual => (layout::enrollments(), layout::enrollment),
            EnrollmentKind::Group => (layout::enrollment_groups(), layout::enrollment_group),
        };
        let mut failed = None;
        let Range { start, end } = behind(all, after.map(key));
        self.scan(&start, &end, &mut |key, value| {
            let read = decode::<proto::EnrollmentRecord>(key, Bytes::copy_from_slice(value))
                .map_err(RegistryError::from)
                .and_then(|record| Ok(Enrollment::read(kind, record, &self.secrets)?));
            match read {
                Ok(enrollment) => visit(enrollment),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    pub(crate) fn scan_registrations(
        &self,
        group: &str,
        after: Option<&str>,
        mut visit: impl FnMut(Registration) -> ControlFlow<()>,
    ) -> Result<(), RegistryError> {
        let mut failed = None;
        let after = after.map(|after| layout::group_member(group, after));
        let Range { start, end } = behind(layout::group_members(group), after);
        self.scan(&start, &end, &mut |key, _| {
            let Some(id) = layout::parse_group_member(key) else {
                return ControlFlow::Continue(());
            };
            match self.registration(id) {
                Ok(Some(registration)) => visit(registration),
                Ok(None) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }
}

/// The part of `range` behind a key.
fn behind(mut range: Range<Vec<u8>>, key: Option<Vec<u8>>) -> Range<Vec<u8>> {
    if let Some(mut key) = key {
        // The smallest key behind it.
        key.push(0);
        range.start = key.max(range.start);
    }
    range
}
