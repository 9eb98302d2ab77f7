//! Shared access policies, by the commands of version 7.

use holdfast_proto::registry::v1::write_policy::Condition;
use holdfast_proto::registry::v1::{DeletePolicy, WritePolicy};

use super::*;

fn write(name: &str, condition: Condition, rights: Option<u32>) -> WritePolicy {
    WritePolicy {
        name: name.to_owned(),
        condition: condition.into(),
        rights,
        generated_keys: Some(sealed("generated")),
        ..WritePolicy::default()
    }
}

fn delete(name: &str) -> Command {
    Command::DeletePolicy(DeletePolicy { name: name.to_owned() })
}

impl Memory {
    fn policy(&self, name: &str) -> Option<PolicyRecord> {
        let settings = View::new(self).message::<HubSettings>(layout::SETTINGS).unwrap();
        let mut policies = settings.unwrap().policies.into_iter();
        policies.find(|policy| policy.name == name)
    }

    /// The number of the answer; a refusal leaves the settings as they were.
    fn policy_code(&mut self, command: Command) -> u32 {
        let before = self.clone();
        let effects = self.command(1, command);
        let code = effects.answer.entries[0].error_code;
        assert_eq!(effects.settings.is_some(), code == 0);
        assert!(code == 0 || *self == before);
        code
    }
}

#[test]
fn a_policy_is_created_changed_and_deleted_in_any_case_of_its_name() {
    let mut hub = Memory::founded(10);
    let created = hub.command(1, Command::WritePolicy(write("Readers", Condition::Absent, Some(4))));
    assert!(created.answer.entries[0].created);
    assert_eq!(
        hub.policy("Readers").unwrap(),
        PolicyRecord {
            name: "Readers".to_owned(),
            keys: Some(sealed("generated")),
            rights: 4
        }
    );
    for (change, code) in [
        (write("READERS", Condition::Absent, Some(4)), 409_000),
        (write("other", Condition::Present, Some(4)), 404_000),
        (write("other", Condition::Any, None), 400_005),
        (write("readers", Condition::Present, Some(1)), 0),
        (write("readers", Condition::Any, None), 0),
    ] {
        assert_eq!(
            hub.policy_code(Command::WritePolicy(change.clone())),
            code,
            "{change:?}"
        );
    }
    let policy = hub.policy("Readers").unwrap();
    assert_eq!(
        (policy.rights, policy.keys),
        (1, Some(sealed("generated"))),
        "its keys stay"
    );

    let swapped = WritePolicy {
        swap_keys: true,
        ..write("readers", Condition::Present, None)
    };
    assert_eq!(hub.policy_code(Command::WritePolicy(swapped)), 0);
    let renewed = WritePolicy {
        sealed_secondary: Bytes::from_static(b"new"),
        ..write("readers", Condition::Present, None)
    };
    assert_eq!(hub.policy_code(Command::WritePolicy(renewed)), 0);
    let keys = hub.policy("Readers").unwrap().keys.unwrap();
    assert_eq!(
        (&keys.primary[..], &keys.secondary[..]),
        (&b"generated-2"[..], &b"new"[..])
    );
    assert_eq!(hub.policy_code(delete("rEADERS")), 0);
    assert_eq!(hub.policy_code(delete("readers")), 404_000);
    assert_eq!(version_of(&delete("readers")), 7, "an older replica stops there");
}

#[test]
fn the_last_policy_with_all_rights_stays() {
    let mut hub = Memory::founded(10);
    let owner = |name| Command::WritePolicy(write(name, Condition::Any, Some(15)));
    let less = |name| Command::WritePolicy(write(name, Condition::Any, Some(7)));
    // A hub without one can be given one, and everything else.
    assert_eq!(hub.policy_code(less("service")), 0);
    assert_eq!(hub.policy_code(delete("service")), 0);
    assert_eq!(hub.policy_code(owner("first")), 0);
    assert_eq!(hub.policy_code(delete("first")), 400_003);
    assert_eq!(hub.policy_code(less("first")), 400_003);
    assert_eq!(hub.policy_code(owner("second")), 0);
    assert_eq!(hub.policy_code(less("first")), 0);
    assert_eq!(hub.policy_code(delete("second")), 400_003);
    // New keys take no right away.
    let renewed = WritePolicy {
        sealed_primary: Bytes::from_static(b"new"),
        ..write("second", Condition::Present, None)
    };
    assert_eq!(hub.policy_code(Command::WritePolicy(renewed)), 0);
    // What an earlier version has written is applied as it was then.
    let before = Command::RemovePolicy(holdfast_proto::registry::v1::RemovePolicy {
        name: "second".to_owned(),
    });
    assert_eq!(version_of(&before), 1);
    assert_eq!(hub.policy_code(before), 0);
}

#[test]
fn there_are_sixteen_policies_ten_of_them_with_service_connect() {
    let mut hub = Memory::founded(10);
    let mut code =
        |name: String, rights| hub.policy_code(Command::WritePolicy(write(&name, Condition::Any, Some(rights))));
    for number in 0..10 {
        assert_eq!(code(format!("s{number}"), 4), 0);
    }
    assert_eq!(code("s10".into(), 4), 400_003, "the eleventh with ServiceConnect");
    for number in 10..16 {
        assert_eq!(code(format!("r{number}"), 1), 0);
    }
    assert_eq!(code("r16".into(), 1), 400_003, "the seventeenth");
    assert_eq!(code("R15".into(), 3), 0, "changing one of them");
    assert_eq!(code("R15".into(), 4), 400_003, "which has no ServiceConnect yet");
}
