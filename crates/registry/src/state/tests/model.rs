//! Random commands against a model that a reader can check by eye; replay must give the same bytes.

use std::collections::BTreeMap;

use holdfast_proto::registry::v1::identity_write::Operation;
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{
    AuthenticationType, IdentityContent, IdentityRecord, IdentityWrite, RegistryCommand, Thumbprints, WriteIdentities,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Memory, authentication, sealed};
use crate::state::{COMMAND_VERSION, View, layout};

const ROUNDS: u64 = 150;
const COMMANDS: usize = 120;
const ROOM: u64 = 12;

#[derive(Debug, Clone, PartialEq)]
struct Known {
    etag: String,
    disabled: bool,
    kind: AuthenticationType,
    edge: bool,
}

/// (device, module or "") → its expected state.
type Model = BTreeMap<(String, String), Known>;

/// The rules again, as simply as possible. Returns the expected error, 0 = done.
fn expect(model: &mut Model, write: &IdentityWrite) -> u32 {
    let key = (write.device_id.clone(), write.module_id.clone());
    let (is_module, is_system) = (!key.1.is_empty(), key.1.starts_with('$'));
    let device = model.get(&(key.0.clone(), String::new())).cloned();
    if is_module && device.is_none() {
        return 404_001;
    }
    let before = model.get(&key).cloned();
    let operation = write.operation();
    match (&before, operation) {
        (Some(_), Operation::Create) => return if is_module { 409_301 } else { 409_001 },
        (None, Operation::Update | Operation::Delete) => return if is_module { 404_010 } else { 404_001 },
        _ => {}
    }
    if let (Some(before), Some(etag)) = (&before, &write.if_match)
        && *etag != before.etag
    {
        return 412_001;
    }
    if operation == Operation::Delete {
        if is_system {
            return 401_100;
        }
        model.retain(|(device, module), _| *device != key.0 || (is_module && *module != key.1));
        return 0;
    }
    let content = write.content.as_ref().unwrap();
    let edge = !is_module
        && content
            .iot_edge
            .unwrap_or(before.as_ref().is_some_and(|before| before.edge));
    let becomes_edge = edge && before.as_ref().is_none_or(|before| !before.edge);
    let more = u64::from(before.is_none()) + if becomes_edge { 2 } else { 0 };
    if more > 0 && model.len() as u64 + more > ROOM {
        return 413_002;
    }
    if before.is_none() && is_system && !device.unwrap().edge {
        return 400_004;
    }
    let kind = match &content.authentication {
        Some(given) => given.r#type(),
        None => before.as_ref().map_or(AuthenticationType::Sas, |before| before.kind),
    };
    if kind == AuthenticationType::SelfSigned
        && before.as_ref().is_none_or(|before| before.kind != kind)
        && content
            .authentication
            .as_ref()
            .is_none_or(|given| given.thumbprints.is_none())
    {
        return 400_004;
    }
    if before.as_ref().is_some_and(|before| before.edge) && !edge {
        model.retain(|(device, module), _| *device != key.0 || !module.starts_with('$'));
    }
    if becomes_edge {
        for (at, name) in ["$edgeAgent", "$edgeHub"].into_iter().enumerate() {
            let etag = content.system_module_etags[at].clone();
            let known = Known {
                etag,
                disabled: false,
                kind: AuthenticationType::None,
                edge: false,
            };
            model.insert((key.0.clone(), name.to_owned()), known);
        }
    }
    let disabled = content.disabled && !is_module;
    model.insert(
        key,
        Known {
            etag: write.etag.clone(),
            disabled,
            kind,
            edge,
        },
    );
    0
}

fn random_write(rng: &mut StdRng, model: &Model, number: usize) -> IdentityWrite {
    let device = ["a", "b", "c", "d", "e"][rng.random_range(0..5)].to_owned();
    let module = ["", "", "", "m1", "m2", "$edgeHub"][rng.random_range(0..6)].to_owned();
    let operation = [
        Operation::Create,
        Operation::Update,
        Operation::CreateOrUpdate,
        Operation::Delete,
    ][rng.random_range(0..4)];
    let etag = model
        .get(&(device.clone(), module.clone()))
        .map_or("none", |known| known.etag.as_str());
    let if_match = match rng.random_range(0..4) {
        0 => Some(etag.to_owned()),
        1 => Some("wrong".to_owned()),
        _ => None,
    };
    let given = match rng.random_range(0..5) {
        0 => Some(authentication(AuthenticationType::Sas)),
        1 => Some(authentication(AuthenticationType::CertificateAuthority)),
        2 => Some(authentication(AuthenticationType::SelfSigned)),
        3 => {
            let mut given = authentication(AuthenticationType::SelfSigned);
            given.thumbprints = Some(Thumbprints {
                primary: "AB".repeat(20),
                secondary: String::new(),
            });
            Some(given)
        }
        _ => None,
    };
    let content = IdentityContent {
        disabled: rng.random_bool(0.3),
        authentication: given,
        generated_keys: Some(sealed("generated")),
        iot_edge: [None, Some(true), Some(false)][rng.random_range(0..3)],
        system_module_etags: vec![format!("sa{number}"), format!("sh{number}")],
        ..IdentityContent::default()
    };
    IdentityWrite {
        device_id: device,
        module_id: module,
        operation: operation.into(),
        if_match: if_match.filter(|_| operation != Operation::Create),
        etag: format!("e{number}"),
        content: (operation != Operation::Delete).then_some(content),
    }
}

fn check(hub: &Memory, model: &Model, seed: u64) {
    let mut stored = Model::new();
    let view = View::new(hub);
    for (key, value) in hub.0.iter().filter(|(key, _)| key.len() > 1) {
        let Ok(record) = <IdentityRecord as prost::Message>::decode(value.clone()) else {
            panic!("seed {seed}")
        };
        let name = match layout::parse_device(key) {
            Some(device) => (device.to_string(), String::new()),
            None => {
                let (device, module) = layout::parse_module(key).unwrap();
                (device.to_string(), module.to_string())
            }
        };
        assert_eq!(
            record.keys.is_some(),
            record.authentication_type() == AuthenticationType::Sas,
            "seed {seed}"
        );
        stored.insert(
            name,
            Known {
                etag: record.etag.clone(),
                disabled: record.disabled && key[0] == b'd',
                kind: record.authentication_type(),
                edge: record.iot_edge,
            },
        );
    }
    assert_eq!(stored, *model, "seed {seed}");
    let counters = view
        .message::<holdfast_proto::registry::v1::Counters>(layout::COUNTERS)
        .unwrap()
        .unwrap_or_default();
    let count = |which: &dyn Fn(&(String, String), &Known) -> bool| {
        model.iter().filter(|(key, known)| which(key, known)).count() as u64
    };
    assert_eq!(counters.devices, count(&|key, _| key.1.is_empty()), "seed {seed}");
    assert_eq!(counters.modules, count(&|key, _| !key.1.is_empty()), "seed {seed}");
    assert_eq!(
        counters.disabled_devices,
        count(&|_, known| known.disabled),
        "seed {seed}"
    );
}

#[test]
fn random_commands_match_the_model_and_replay_to_the_same_bytes() {
    for seed in 0..ROUNDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut hub, mut model, mut log) = (Memory::founded(ROOM), Model::new(), Vec::new());
        for number in 0..COMMANDS {
            let writes: Vec<_> = (0..rng.random_range(1..4))
                .map(|entry| random_write(&mut rng, &model, number * 10 + entry))
                .collect();
            let expected: Vec<_> = writes.iter().map(|write| expect(&mut model, write)).collect();
            let command = RegistryCommand {
                version: COMMAND_VERSION,
                time_ms: rng.random_range(0..10_000),
                command: Some(Command::WriteIdentities(WriteIdentities { writes: writes.clone() })),
            };
            let answers = hub.apply(&command).answer.entries;
            let codes: Vec<_> = answers.iter().map(|answer| answer.error_code).collect();
            assert_eq!(codes, expected, "seed {seed}, command {number}: {writes:#?}");
            log.push(command);
        }
        check(&hub, &model, seed);
        let mut replayed = Memory::founded(ROOM);
        for command in &log {
            replayed.apply(command);
        }
        assert_eq!(replayed, hub, "seed {seed}");
    }
}
