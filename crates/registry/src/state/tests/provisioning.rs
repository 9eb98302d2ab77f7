//! Enrollments and registrations, rule by rule.

use holdfast_model::ErrorCode;
use holdfast_proto::registry::v1::enrollment_write::Operation as Enroll;
use holdfast_proto::registry::v1::{
    AttestationType, DeleteRegistration, EnrollmentKind, EnrollmentRecord, EnrollmentWrite, ForgetLeftDevice,
    FoundProvisioning, LeftDevice, PendingRegistration, ProvisioningRecord, PutRegistration, RegistrationRecord,
    RegistrationStatus, WriteEnrollments,
};

use super::*;

const INDIVIDUAL: EnrollmentKind = EnrollmentKind::Individual;
const GROUP: EnrollmentKind = EnrollmentKind::Group;

fn provisioned(max_identities: u64) -> Memory {
    let mut hub = Memory::founded(max_identities);
    let settings = ProvisioningRecord {
        id_scope: "0ne00000001".to_owned(),
        ..ProvisioningRecord::default()
    };
    let found = FoundProvisioning {
        settings: Some(settings),
    };
    assert!(hub.command(2, Command::FoundProvisioning(found)).provisioning_changed);
    hub
}

fn symmetric(keys: Option<SealedKeys>) -> EnrollmentRecord {
    EnrollmentRecord {
        attestation: AttestationType::SymmetricKey.into(),
        keys,
        ..EnrollmentRecord::default()
    }
}

fn enroll(operation: Enroll, id: &str, etag: &str, if_match: Option<&str>) -> EnrollmentWrite {
    EnrollmentWrite {
        id: id.to_owned(),
        operation: operation.into(),
        if_match: if_match.map(str::to_owned),
        etag: etag.to_owned(),
        content: (operation != Enroll::Delete).then(|| symmetric(None)),
        generated_keys: Some(sealed("generated")),
    }
}

fn registration(id: &str, etag: &str, group: &str) -> RegistrationRecord {
    RegistrationRecord {
        registration_id: id.to_owned(),
        etag: etag.to_owned(),
        group: group.to_owned(),
        ..RegistrationRecord::default()
    }
}

impl Memory {
    fn enroll(&mut self, kind: EnrollmentKind, write: EnrollmentWrite) -> EntryAnswer {
        let command = WriteEnrollments {
            kind: kind.into(),
            writes: vec![write],
        };
        let effects = self.command(5, Command::WriteEnrollments(command));
        let answer = effects.answer.entries.into_iter().next().unwrap();
        assert_eq!(
            effects.writes.is_empty(),
            answer.error_code != 0,
            "a refusal writes nothing"
        );
        assert_eq!(
            effects.enrollment_groups_changed.is_empty(),
            answer.error_code != 0 || kind == INDIVIDUAL
        );
        answer
    }

    fn register(&mut self, command: PutRegistration) -> (u32, Vec<ChangeKind>) {
        let effects = self.command(9, Command::PutRegistration(Box::new(command)));
        let code = effects.answer.entries[0].error_code;
        assert_eq!(effects.writes.is_empty(), code != 0, "all or nothing");
        (code, effects.changes.into_iter().map(|change| change.kind).collect())
    }

    fn members(&self, group: &str) -> Vec<String> {
        let keys = View::new(self).keys(&layout::group_members(group)).unwrap();
        let ids = keys
            .iter()
            .map(|key| layout::parse_group_member(key).unwrap().to_owned());
        ids.collect()
    }
}

#[test]
fn the_service_is_founded_once_and_nothing_is_enrolled_before() {
    let mut hub = Memory::founded(10);
    let refused = hub.enroll(INDIVIDUAL, enroll(Enroll::Create, "d", "e", None));
    assert_eq!(refused.error_code, ErrorCode::FeatureNotSupported.number());
    let mut hub = provisioned(10);
    let other = FoundProvisioning {
        settings: Some(ProvisioningRecord {
            id_scope: "0neFFFFFFFF".to_owned(),
            ..ProvisioningRecord::default()
        }),
    };
    assert!(!hub.command(3, Command::FoundProvisioning(other)).provisioning_changed);
    let stored: ProvisioningRecord = View::new(&hub).message(layout::PROVISIONING).unwrap().unwrap();
    assert_eq!(stored.id_scope, "0ne00000001");
}

#[test]
fn conditions_of_enrollments_hold_in_any_case_of_letters() {
    for kind in [INDIVIDUAL, GROUP] {
        let mut hub = provisioned(10);
        let code = |answer: EntryAnswer| answer.error_code;
        assert_eq!(
            code(hub.enroll(kind, enroll(Enroll::Update, "A", "e1", None))) / 1000,
            404
        );
        assert_eq!(
            code(hub.enroll(kind, enroll(Enroll::Update, "A", "e1", Some("x")))),
            412_001
        );
        assert_eq!(
            code(hub.enroll(kind, enroll(Enroll::Delete, "A", "e1", None))) / 1000,
            404
        );
        assert!(hub.enroll(kind, enroll(Enroll::Create, "A", "e1", None)).created);
        assert_eq!(
            code(hub.enroll(kind, enroll(Enroll::Create, "a", "e2", None))) / 1000,
            409
        );
        assert_eq!(
            code(hub.enroll(kind, enroll(Enroll::Update, "a", "e2", Some("x")))),
            412_001
        );
        let updated = hub.enroll(kind, enroll(Enroll::CreateOrUpdate, "a", "e2", None));
        assert_eq!(
            (updated.created, updated.enrollment.unwrap().id),
            (false, "A".to_owned())
        );
        assert_eq!(
            code(hub.enroll(kind, enroll(Enroll::Delete, "a", "", Some("e1")))),
            412_001
        );
        assert_eq!(code(hub.enroll(kind, enroll(Enroll::Delete, "a", "", Some("e2")))), 0);
    }
}

#[test]
fn keys_that_are_not_given_stay_and_a_new_enrollment_gets_generated_ones() {
    let mut hub = provisioned(10);
    let made = hub.enroll(GROUP, enroll(Enroll::Create, "g", "e1", None));
    assert_eq!(made.enrollment.unwrap().keys, Some(sealed("generated")));
    let half = SealedKeys {
        primary: Bytes::from_static(b"new-1"),
        secondary: Bytes::new(),
    };
    let mut write = enroll(Enroll::Update, "g", "e2", None);
    write.content = Some(symmetric(Some(half)));
    write.generated_keys = Some(sealed("other"));
    let keys = hub.enroll(GROUP, write).enrollment.unwrap().keys.unwrap();
    assert_eq!(
        (&keys.primary[..], &keys.secondary[..]),
        (&b"new-1"[..], &b"generated-2"[..])
    );
}

#[test]
fn a_registration_is_stored_with_its_identity_or_not_at_all() {
    let mut hub = provisioned(1);
    hub.enroll(GROUP, enroll(Enroll::Create, "Fleet", "e1", None));
    let put = |id: &str, found: Option<&str>, etag: &str, enrollment_etag: &str, device: &str| PutRegistration {
        registration: Some(registration(id, etag, "Fleet")),
        found_etag: found.map(str::to_owned),
        enrollment_kind: GROUP.into(),
        enrollment_id: "fleet".to_owned(),
        enrollment_etag: enrollment_etag.to_owned(),
        identity: vec![entry(Operation::Create, device, "", "i1", Some(content()))],
        issue: None,
    };
    let conflict = ErrorCode::RegistrationConflict.number();
    assert_eq!(
        hub.register(put("Dev-1", None, "r1", "old", "Dev-1")),
        (conflict, vec![])
    );
    assert_eq!(
        hub.register(put("Dev-1", Some("r0"), "r1", "e1", "Dev-1")),
        (conflict, vec![])
    );
    let done = hub.register(put("Dev-1", None, "r1", "e1", "Dev-1"));
    assert_eq!(done, (0, vec![ChangeKind::Created]));
    assert_eq!(hub.members("FLEET"), ["dev-1"]);
    assert_eq!(
        hub.register(put("dev-1", None, "r2", "e1", "x")).0,
        conflict,
        "it is found in any case"
    );
    // The hub is full: the registration is not stored either.
    let full = hub.register(put("dev-2", None, "r1", "e1", "dev-2"));
    assert_eq!(full, (ErrorCode::TooManyDevices.number(), vec![]));
    assert_eq!(hub.members("fleet"), ["dev-1"]);
    assert_eq!(hub.counters().devices, 1);
    // Of a device that would begin anew, nothing is deleted when it cannot be created.
    let mut again = put("dev-1", Some("r1"), "r2", "e1", "Dev-1");
    again
        .identity
        .insert(0, entry(Operation::Delete, "Dev-1", "", "", None));
    again.identity[1].content = None;
    assert_ne!(hub.register(again.clone()).0, 0);
    assert_eq!((hub.counters().devices, hub.record("Dev-1", "").is_some()), (1, true));
    again.identity[1].content = Some(content());
    assert_eq!(hub.register(again), (0, vec![ChangeKind::Deleted, ChangeKind::Created]));
}

#[test]
fn an_individual_enrollment_that_appears_refuses_the_decision_of_a_group() {
    let mut hub = provisioned(10);
    hub.enroll(GROUP, enroll(Enroll::Create, "g", "e1", None));
    hub.enroll(INDIVIDUAL, enroll(Enroll::Create, "DEV", "e1", None));
    let by = |kind: EnrollmentKind, id: &str, group: &str, found: Option<&str>| PutRegistration {
        registration: Some(registration("dev", "r1", group)),
        found_etag: found.map(str::to_owned),
        enrollment_kind: kind.into(),
        enrollment_id: id.to_owned(),
        enrollment_etag: "e1".to_owned(),
        identity: Vec::new(),
        issue: None,
    };
    assert_eq!(
        hub.register(by(GROUP, "g", "g", None)).0,
        ErrorCode::RegistrationConflict.number()
    );
    assert_eq!(hub.register(by(INDIVIDUAL, "dev", "", None)).0, 0);
    assert!(hub.members("g").is_empty());
    // Without it, the group decides again, and its member is deleted with the registration.
    hub.enroll(INDIVIDUAL, enroll(Enroll::Delete, "dev", "", None));
    assert_eq!(hub.register(by(GROUP, "g", "g", Some("r1"))).0, 0);
    assert_eq!(hub.members("g"), ["dev"]);
    let delete = |if_match: Option<&str>| {
        Command::DeleteRegistration(DeleteRegistration {
            registration_id: "DEV".to_owned(),
            if_match: if_match.map(str::to_owned),
        })
    };
    assert_eq!(hub.command(9, delete(Some("x"))).answer.entries[0].error_code, 412_001);
    assert_eq!(hub.command(9, delete(Some("r1"))).answer.entries[0].error_code, 0);
    assert!(hub.members("g").is_empty());
    assert_eq!(hub.command(9, delete(None)).answer.entries[0].error_code, 404_201);
}

#[test]
fn an_open_registration_is_marked_until_nothing_is_left_to_do() {
    let mut hub = provisioned(10);
    hub.enroll(INDIVIDUAL, enroll(Enroll::Create, "Dev", "e1", None));
    let put = |status: RegistrationStatus, found: Option<&str>, etag: &str, left: &[&str]| {
        let mut record = registration("Dev", etag, "");
        record.set_status(status);
        record.pending = (status == RegistrationStatus::Assigning).then(PendingRegistration::default);
        record.left = left
            .iter()
            .map(|host| LeftDevice {
                hub: (*host).to_owned(),
                device_id: "Dev".to_owned(),
                ..LeftDevice::default()
            })
            .collect();
        PutRegistration {
            registration: Some(record),
            found_etag: found.map(str::to_owned),
            enrollment_kind: INDIVIDUAL.into(),
            enrollment_id: "dev".to_owned(),
            enrollment_etag: "e1".to_owned(),
            identity: Vec::new(),
            issue: None,
        }
    };
    let is_open = |hub: &Memory| View::new(hub).contains(&layout::open_registration("DEV")).unwrap();
    assert_eq!(hub.register(put(RegistrationStatus::Assigning, None, "r1", &[])).0, 0);
    assert!(is_open(&hub));
    let delete = Command::DeleteRegistration(DeleteRegistration {
        registration_id: "dev".to_owned(),
        if_match: None,
    });
    let conflict = ErrorCode::RegistrationConflict.number();
    assert_eq!(hub.command(9, delete.clone()).answer.entries[0].error_code, conflict);
    // Its enrollment has gone: it can fail, and nothing else.
    hub.enroll(INDIVIDUAL, enroll(Enroll::Delete, "dev", "", None));
    let left = ["a", "b"];
    let refused = put(RegistrationStatus::Assigned, Some("r1"), "r2", &left);
    assert_eq!(hub.register(refused).0, conflict);
    let failed = put(RegistrationStatus::Failed, Some("r1"), "r2", &left);
    assert_eq!(hub.register(failed).0, 0);
    assert!(is_open(&hub), "devices are left");
    assert_eq!(hub.command(9, delete.clone()).answer.entries[0].error_code, conflict);
    for host in ["A", "other", "b"] {
        assert!(is_open(&hub), "{host}");
        let forget = ForgetLeftDevice {
            registration_id: "dev".to_owned(),
            hub: host.to_owned(),
            device_id: "Dev".to_owned(),
        };
        assert_eq!(
            hub.command(9, Command::ForgetLeftDevice(forget)).answer.entries[0].error_code,
            0
        );
    }
    assert!(!is_open(&hub));
    assert_eq!(hub.command(9, delete).answer.entries[0].error_code, 0);
}
