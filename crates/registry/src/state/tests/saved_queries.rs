//! Saved queries, rule by rule.

use holdfast_model::limits::MAX_SAVED_QUERIES;
use holdfast_proto::registry::v1::put_saved_query::Condition;
use holdfast_proto::registry::v1::{PutSavedQuery, RemoveSavedQuery};

use super::*;

fn put(name: &str, etag: &str) -> PutSavedQuery {
    PutSavedQuery {
        name: name.to_owned(),
        query: "SELECT * FROM devices".to_owned(),
        etag: etag.to_owned(),
        ..PutSavedQuery::default()
    }
}

fn only_if(condition: Condition, if_match: Option<&str>, write: PutSavedQuery) -> PutSavedQuery {
    PutSavedQuery {
        condition: condition.into(),
        if_match: if_match.map(str::to_owned),
        ..write
    }
}

impl Memory {
    fn put_query(&mut self, time_ms: u64, write: PutSavedQuery) -> EntryAnswer {
        let effects = self.command(time_ms, Command::PutSavedQuery(write));
        let answer = effects.answer.entries.into_iter().next().unwrap();
        assert_eq!(effects.saved_queries_changed, answer.error_code == 0);
        assert_eq!(
            effects.writes.is_empty(),
            answer.error_code != 0,
            "a refusal writes nothing"
        );
        answer
    }

    fn remove_query(&mut self, name: &str, if_match: Option<&str>) -> u32 {
        let command = Command::RemoveSavedQuery(RemoveSavedQuery {
            name: name.to_owned(),
            if_match: if_match.map(str::to_owned),
        });
        self.command(9, command).answer.entries[0].error_code
    }
}

#[test]
fn a_write_creates_or_replaces_and_keeps_the_time_of_creation() {
    let mut hub = Memory::founded(10);
    let first = hub.put_query(5, put("Hot", "e1"));
    assert!(first.created);
    let second = hub.put_query(7, put("HOT", "e2"));
    assert!(!second.created, "a name is the same in any case");
    let stored = second.saved_query.unwrap();
    assert_eq!(
        (
            stored.name.as_str(),
            stored.etag.as_str(),
            stored.created_ms,
            stored.updated_ms
        ),
        ("HOT", "e2", 5, 7)
    );
    assert_eq!(hub.remove_query("hot", None), 0);
    assert_eq!(hub.remove_query("hot", None), 404_000);
}

#[test]
fn conditions_hold_or_refuse() {
    let mut hub = Memory::founded(10);
    let code = |answer: EntryAnswer| answer.error_code;
    assert_eq!(
        code(hub.put_query(1, only_if(Condition::Present, None, put("a", "e0")))),
        412_001
    );
    assert_eq!(
        code(hub.put_query(1, only_if(Condition::Absent, None, put("a", "e1")))),
        0
    );
    assert_eq!(
        code(hub.put_query(1, only_if(Condition::Absent, None, put("A", "e2")))),
        409_000
    );
    assert_eq!(
        code(hub.put_query(1, only_if(Condition::Present, Some("e0"), put("a", "e2")))),
        412_001
    );
    assert_eq!(
        code(hub.put_query(1, only_if(Condition::Present, Some("e1"), put("a", "e2")))),
        0
    );
    assert_eq!(
        code(hub.put_query(1, only_if(Condition::Present, None, put("a", "e3")))),
        0
    );
    assert_eq!(hub.remove_query("a", Some("e1")), 412_001);
    assert_eq!(hub.remove_query("a", Some("e3")), 0);
}

#[test]
fn their_number_is_bounded_and_replacing_is_always_possible() {
    let mut hub = Memory::founded(10);
    for number in 0..MAX_SAVED_QUERIES {
        assert_eq!(hub.put_query(1, put(&format!("q{number}"), "e")).error_code, 0);
    }
    let answer = hub.put_query(1, put("another", "e"));
    assert_eq!(answer.error_code, 400_003);
    assert!(answer.error_text.contains("100 saved queries"), "{}", answer.error_text);
    assert_eq!(hub.put_query(1, put("q7", "e")).error_code, 0);
    assert_eq!(hub.remove_query("q7", None), 0);
    assert_eq!(hub.put_query(1, put("another", "e")).error_code, 0);
}

#[test]
fn without_a_hub_there_are_none_and_their_commands_have_their_own_version() {
    let mut empty = Memory::default();
    assert_eq!(empty.put_query(1, put("a", "e")).error_code, 401_001);
    assert_eq!(empty.remove_query("a", None), 401_001);
    assert_eq!(version_of(&Command::PutSavedQuery(put("a", "e"))), 5);
    assert_eq!(version_of(&Command::RemoveSavedQuery(RemoveSavedQuery::default())), 5);
}
