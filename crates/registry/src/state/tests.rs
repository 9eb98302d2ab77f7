//! Rules one by one; the random comparison with a small model is in `tests/model.rs`.

mod authorities;
mod cluster;
mod feature_level;
mod model;
mod policies;
mod provisioning;
mod quota;
mod revocations;
mod saved_queries;
mod tokens;

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_model::DeviceId;
use holdfast_proto::registry::v1::identity_write::Operation;
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{
    AddConsumerGroup, AuthenticationContent, AuthenticationType, Bootstrap, IdentityContent, IdentityRecord,
    IdentityWrite, KeyRegeneration, PolicyRecord, PutPolicy, RegenerateKeys, RemoveConsumerGroup, SealedKeys,
    Thumbprints, TwinSeed, WriteIdentities,
};
use holdfast_storage::StorageError;

use super::*;

/// State in memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Memory(pub(super) BTreeMap<Vec<u8>, Bytes>);

impl Base for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut holdfast_storage::Visit<'_>) -> Result<(), StorageError> {
        for (key, value) in self.0.range(from.to_vec()..to.to_vec()) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Memory {
    /// With a hub that allows `max_identities`.
    pub(super) fn founded(max_identities: u64) -> Self {
        let mut memory = Self::default();
        let settings = HubSettings {
            hub_name: "hub".to_owned(),
            consumer_groups: vec![DEFAULT_CONSUMER_GROUP.to_owned()],
            max_identities,
            ..HubSettings::default()
        };
        memory.command(
            1,
            Command::Bootstrap(Bootstrap {
                settings: Some(settings),
            }),
        );
        memory
    }

    pub(super) fn apply(&mut self, command: &RegistryCommand) -> Effects {
        let effects = apply(self, command).unwrap();
        for (key, value) in &effects.writes {
            match value {
                Some(value) => self.0.insert(key.clone(), value.clone()),
                None => self.0.remove(key),
            };
        }
        effects
    }

    fn command(&mut self, time_ms: u64, command: Command) -> Effects {
        self.apply(&RegistryCommand {
            version: COMMAND_VERSION,
            time_ms,
            command: Some(command),
        })
    }

    fn write(&mut self, write: IdentityWrite) -> EntryAnswer {
        self.write_at(1_000, write)
    }

    fn write_at(&mut self, time_ms: u64, write: IdentityWrite) -> EntryAnswer {
        let effects = self.command(
            time_ms,
            Command::WriteIdentities(WriteIdentities { writes: vec![write] }),
        );
        effects.answer.entries.into_iter().next().unwrap()
    }

    fn record(&self, device: &str, module: &str) -> Option<IdentityRecord> {
        let device = DeviceId::parse(device).unwrap();
        let key = match module {
            "" => layout::device(&device),
            module => layout::module(&device, &holdfast_model::ModuleId::parse(module).unwrap()),
        };
        View::new(self).message(&key).unwrap()
    }

    pub(super) fn counters(&self) -> Counters {
        View::new(self).message(layout::COUNTERS).unwrap().unwrap_or_default()
    }
}

fn sealed(mark: &'static str) -> SealedKeys {
    SealedKeys {
        primary: Bytes::from(format!("{mark}-1")),
        secondary: Bytes::from(format!("{mark}-2")),
    }
}

fn content() -> IdentityContent {
    IdentityContent {
        generated_keys: Some(sealed("generated")),
        system_module_etags: vec!["e1".into(), "e2".into()],
        ..IdentityContent::default()
    }
}

fn entry(
    operation: Operation,
    device: &str,
    module: &str,
    etag: &str,
    content: Option<IdentityContent>,
) -> IdentityWrite {
    IdentityWrite {
        device_id: device.into(),
        module_id: module.into(),
        operation: operation.into(),
        if_match: None,
        etag: etag.into(),
        content,
    }
}

fn create(device: &str) -> IdentityWrite {
    entry(Operation::Create, device, "", "c", Some(content()))
}

fn create_edge(device: &str, parent: &str) -> IdentityWrite {
    let content = IdentityContent {
        iot_edge: Some(true),
        parent_scope: Some(parent.to_owned()),
        ..content()
    };
    entry(Operation::Create, device, "", "c", Some(content))
}

fn authentication(kind: AuthenticationType) -> AuthenticationContent {
    let mut given = AuthenticationContent::default();
    given.set_type(kind);
    given
}

#[test]
fn a_device_created_without_keys_gets_the_generated_ones_and_keeps_them_on_update() {
    let mut hub = Memory::founded(100);
    let created = hub.write(create("dev"));
    assert!(created.created && created.error_code == 0);
    assert_eq!(created.record.unwrap().keys, Some(sealed("generated")));
    let other = IdentityContent {
        generated_keys: Some(sealed("other")),
        disabled: true,
        ..IdentityContent::default()
    };
    let update = entry(Operation::Update, "dev", "", "u", Some(other));
    let updated = hub.write_at(77, update).record.unwrap();
    assert_eq!(
        (updated.keys.unwrap(), updated.etag.as_str()),
        (sealed("generated"), "u")
    );
    assert_eq!((updated.disabled, updated.status_updated_ms), (true, 77));
}

#[test]
fn a_change_of_type_drops_the_old_secrets() {
    let mut hub = Memory::founded(100);
    hub.write(create("dev"));
    let prints = Thumbprints {
        primary: "AB".repeat(20),
        secondary: String::new(),
    };
    let mut self_signed = authentication(AuthenticationType::SelfSigned);
    self_signed.thumbprints = Some(prints.clone());
    let change = IdentityContent {
        authentication: Some(self_signed),
        ..content()
    };
    let record = hub
        .write(entry(Operation::Update, "dev", "", "u1", Some(change)))
        .record
        .unwrap();
    assert_eq!((record.keys, record.thumbprints), (None, Some(prints.clone())));
    // Leaving the document's authentication out changes nothing.
    let record = hub
        .write(entry(Operation::Update, "dev", "", "u2", Some(content())))
        .record
        .unwrap();
    assert_eq!(record.thumbprints, Some(prints));
    let back = IdentityContent {
        authentication: Some(authentication(AuthenticationType::Sas)),
        generated_keys: Some(sealed("new")),
        ..content()
    };
    let record = hub
        .write(entry(Operation::Update, "dev", "", "u3", Some(back)))
        .record
        .unwrap();
    assert_eq!((record.keys, record.thumbprints), (Some(sealed("new")), None));
    let nothing = IdentityContent {
        authentication: Some(authentication(AuthenticationType::SelfSigned)),
        ..content()
    };
    assert_eq!(
        hub.write(entry(Operation::Update, "dev", "", "u4", Some(nothing)))
            .error_code,
        400_004
    );
}

#[test]
fn existence_and_etag_decide_as_the_table_says() {
    let mut hub = Memory::founded(100);
    let update = |etag: Option<&str>| IdentityWrite {
        if_match: etag.map(str::to_owned),
        ..entry(Operation::Update, "dev", "", "u", Some(content()))
    };
    let delete = |etag: Option<&str>| IdentityWrite {
        if_match: etag.map(str::to_owned),
        ..entry(Operation::Delete, "dev", "", "", None)
    };
    assert_eq!(hub.write(update(None)).error_code, 404_001);
    assert_eq!(hub.write(delete(None)).error_code, 404_001);
    assert_eq!(hub.write(create("dev")).error_code, 0);
    assert_eq!(hub.write(create("dev")).error_code, 409_001);
    assert_eq!(hub.write(update(Some("x"))).error_code, 412_001);
    assert_eq!(hub.write(update(Some("c"))).error_code, 0);
    assert_eq!(hub.write(delete(Some("c"))).error_code, 412_001);
    assert_eq!(hub.write(delete(Some("u"))).error_code, 0);
    let module = |operation, etag: Option<&str>| IdentityWrite {
        if_match: etag.map(str::to_owned),
        ..entry(operation, "dev", "mod", "m", Some(content()))
    };
    assert_eq!(hub.write(module(Operation::Create, None)).error_code, 404_001);
    hub.write(create("dev"));
    assert_eq!(hub.write(module(Operation::Update, None)).error_code, 404_010);
    assert_eq!(hub.write(module(Operation::Create, None)).error_code, 0);
    assert_eq!(hub.write(module(Operation::Create, None)).error_code, 409_301);
    assert_eq!(hub.write(module(Operation::Update, Some("x"))).error_code, 412_001);
    assert_eq!(
        hub.record("dev", "").unwrap().etag,
        "c",
        "a module bumps nothing on its device"
    );
}

#[test]
fn a_recreated_device_shares_nothing_even_when_the_clock_stops_or_goes_back() {
    let mut hub = Memory::founded(100);
    let mut seen = std::collections::BTreeSet::new();
    for time_ms in [5_000, 5_000, 4_000, 0, 6_000] {
        let with_twin = IdentityContent {
            twin: Some(TwinSeed {
                tags: Some("{}".into()),
                desired: None,
                reported: None,
            }),
            ..content()
        };
        let record = hub
            .write_at(time_ms, entry(Operation::Create, "dev", "", "c", Some(with_twin)))
            .record
            .unwrap();
        assert!(seen.last().is_none_or(|last| *last < record.generation));
        seen.insert(record.generation);
        hub.write(entry(Operation::Create, "dev", "mod", "m", Some(content())));
        hub.write(entry(Operation::Delete, "dev", "", "", None));
        let left: Vec<_> = hub.0.keys().filter(|key| key.len() > 1).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(hub.counters().devices + hub.counters().modules, 0);
}

#[test]
fn an_edge_device_comes_and_goes_with_its_system_modules() {
    let mut hub = Memory::founded(100);
    let edge = hub.write(create_edge("edge", "")).record.unwrap();
    assert_eq!(
        edge.device_scope,
        format!("ms-azure-iot-edge://edge-{}", edge.generation)
    );
    assert_eq!(
        hub.record("edge", "$edgeHub").unwrap().managed_by.as_deref(),
        Some("iotEdge")
    );
    assert_eq!(hub.record("edge", "$edgeAgent").unwrap().etag, "e1");
    assert_eq!(
        hub.write(entry(Operation::Delete, "edge", "$edgeHub", "", None))
            .error_code,
        401_100
    );
    hub.write(create("leaf"));
    assert_eq!(
        hub.write(entry(Operation::Create, "leaf", "$edgeHub", "m", Some(content())))
            .error_code,
        400_004
    );
    // The capability left out stays; switched off, it takes the system modules with it.
    let kept = hub
        .write(entry(Operation::Update, "edge", "", "u", Some(content())))
        .record
        .unwrap();
    assert!(kept.iot_edge && kept.device_scope == edge.device_scope);
    let off = IdentityContent {
        iot_edge: Some(false),
        device_scope: Some(edge.device_scope),
        ..content()
    };
    let off = hub
        .write(entry(Operation::Update, "edge", "", "u", Some(off)))
        .record
        .unwrap();
    assert!(off.device_scope.is_empty() && off.parent_scope.is_empty());
    assert!(hub.record("edge", "$edgeHub").is_none());
    assert_eq!(hub.counters().modules, 0);
}

#[test]
fn a_parent_must_be_a_living_edge_device_without_cycle_and_not_too_deep() {
    let mut hub = Memory::founded(100);
    let child = |device: &str, scope: &str| {
        let content = IdentityContent {
            device_scope: Some(scope.to_owned()),
            ..content()
        };
        entry(Operation::Create, device, "", "c", Some(content))
    };
    assert_eq!(
        hub.write(child("leaf", "ms-azure-iot-edge://none-1")).error_code,
        400_028
    );
    assert_eq!(hub.write(child("leaf", "nonsense")).error_code, 400_028);
    let mut scopes = vec![String::new()];
    for level in 1..=5 {
        let record = hub
            .write(create_edge(&format!("e{level}"), scopes.last().unwrap()))
            .record
            .unwrap();
        scopes.push(record.device_scope);
    }
    assert_eq!(
        hub.write(create_edge("e6", &scopes[5])).error_code,
        400_028,
        "six edge devices in one line"
    );
    let leaf = hub.write(child("leaf", &scopes[5])).record.unwrap();
    assert_eq!((&leaf.device_scope, &leaf.parent_scope), (&scopes[5], &scopes[5]));
    let cycle = IdentityContent {
        parent_scope: Some(scopes[3].clone()),
        ..content()
    };
    assert_eq!(
        hub.write(entry(Operation::Update, "e1", "", "u", Some(cycle)))
            .error_code,
        400_028
    );
    // An orphan can still be updated, with the scope that it has.
    hub.write(entry(Operation::Delete, "e5", "", "", None));
    let again = IdentityContent {
        device_scope: Some(scopes[5].clone()),
        disabled: true,
        ..content()
    };
    assert_eq!(
        hub.write(entry(Operation::Update, "leaf", "", "u", Some(again)))
            .error_code,
        0
    );
    let out = IdentityContent {
        device_scope: Some(String::new()),
        ..content()
    };
    let out = hub
        .write(entry(Operation::Update, "leaf", "", "u", Some(out)))
        .record
        .unwrap();
    assert!(out.device_scope.is_empty() && out.parent_scope.is_empty());
}

#[test]
fn the_fifty_first_module_and_the_device_past_the_hubs_room_are_refused() {
    let mut hub = Memory::founded(52);
    hub.write(create("dev"));
    for number in 0..50 {
        let write = entry(Operation::Create, "dev", &format!("m{number}"), "m", Some(content()));
        assert_eq!(hub.write(write).error_code, 0);
    }
    assert_eq!(
        hub.write(entry(Operation::Create, "dev", "more", "m", Some(content())))
            .error_code,
        413_003
    );
    assert_eq!(
        hub.write(create_edge("edge", "")).error_code,
        413_002,
        "it needs room for its modules too"
    );
    assert_eq!(hub.write(create("dev2")).error_code, 0);
    assert_eq!(hub.write(create("dev3")).error_code, 413_002);
    assert_eq!(
        hub.counters(),
        Counters {
            devices: 2,
            modules: 50,
            ..hub.counters()
        }
    );
}

#[test]
fn a_bulk_is_one_step_in_which_later_entries_see_earlier_ones() {
    let mut hub = Memory::founded(100);
    let writes = vec![
        create("a"),
        entry(Operation::Create, "a", "m", "m", Some(content())),
        create("a"),
        entry(Operation::Delete, "b", "", "", None),
        entry(
            Operation::CreateOrUpdate,
            "a",
            "",
            "u",
            Some(IdentityContent {
                disabled: true,
                ..content()
            }),
        ),
    ];
    let effects = hub.command(9, Command::WriteIdentities(WriteIdentities { writes }));
    let codes: Vec<_> = effects.answer.entries.iter().map(|entry| entry.error_code).collect();
    assert_eq!(codes, [0, 0, 409_001, 404_001, 0]);
    let kinds: Vec<_> = effects.changes.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::Created, ChangeKind::Created, ChangeKind::Updated]);
    assert_eq!(hub.counters().disabled_devices, 1);
}

#[test]
fn regenerating_one_key_leaves_the_other() {
    let mut hub = Memory::founded(100);
    hub.write(create("dev"));
    let entries = vec![
        KeyRegeneration {
            device_id: "dev".into(),
            etag: "r".into(),
            sealed_secondary: Bytes::from_static(b"fresh"),
            ..KeyRegeneration::default()
        },
        KeyRegeneration {
            device_id: "none".into(),
            ..KeyRegeneration::default()
        },
    ];
    let effects = hub.command(9, Command::RegenerateKeys(RegenerateKeys { entries }));
    assert_eq!(effects.answer.entries[1].error_code, 404_001);
    let record = hub.record("dev", "").unwrap();
    assert_eq!(
        record.keys,
        Some(SealedKeys {
            primary: "generated-1".into(),
            secondary: "fresh".into()
        })
    );
    assert_eq!(effects.changes[0].kind, ChangeKind::CredentialsChanged);
}

#[test]
fn consumer_groups_and_policies_have_their_limits() {
    let mut hub = Memory::founded(100);
    let mut code = |command| hub.command(1, command).answer.entries[0].error_code;
    let add = |name: String| Command::AddConsumerGroup(AddConsumerGroup { name });
    for number in 1..20 {
        assert_eq!(code(add(format!("group{number}"))), 0);
    }
    assert_eq!(code(add("one-more".into())), 400_003);
    assert_eq!(code(add("GROUP1".into())), 409_000);
    let remove = |name: &str| Command::RemoveConsumerGroup(RemoveConsumerGroup { name: name.into() });
    assert_eq!(code(remove("$default")), 400_003);
    assert_eq!(code(remove("Group1")), 0);
    assert_eq!(code(remove("group1")), 404_000);
    let put = |name: String, rights| {
        Command::PutPolicy(PutPolicy {
            policy: Some(PolicyRecord {
                name,
                rights,
                keys: None,
            }),
        })
    };
    for number in 0..10 {
        assert_eq!(code(put(format!("s{number}"), 4)), 0);
    }
    assert_eq!(code(put("s10".into(), 4)), 400_003, "the eleventh with ServiceConnect");
    for number in 10..16 {
        assert_eq!(code(put(format!("r{number}"), 1)), 0);
    }
    assert_eq!(code(put("r16".into(), 1)), 400_003, "the seventeenth");
    assert_eq!(code(put("R15".into(), 3)), 0, "replacing one of them");
}

#[test]
fn a_second_bootstrap_changes_nothing() {
    let mut hub = Memory::founded(100);
    let before = hub.clone();
    hub.command(5, Command::Bootstrap(Bootstrap::default()));
    assert_eq!(hub, before);
}

#[test]
fn a_command_of_a_newer_version_stops_the_replica() {
    let command = RegistryCommand {
        version: COMMAND_VERSION + 1,
        time_ms: 0,
        command: None,
    };
    assert!(matches!(
        apply(&Memory::default(), &command),
        Err(ApplyError::NewerCommand { .. })
    ));
}
