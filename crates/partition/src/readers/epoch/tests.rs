//! The table of Spec amqp §8.3, row by row.

use super::*;
use holdfast_model::{NodeId, Term};

fn receiver(name: &str, epoch: impl Into<Option<i64>>) -> Receiver {
    Receiver {
        name: name.to_owned(),
        epoch: epoch.into(),
    }
}

/// Registers a receiver; also gives the receivers it replaces.
fn register(table: &mut Table, group: &str, receiver: Receiver) -> Result<(ReceiverId, Vec<ReceiverId>), Refusal> {
    let granted = table.register(group, receiver)?;
    Ok((granted.id, granted.stolen.into_iter().map(|(id, _)| id).collect()))
}

#[test]
fn a_sixth_reader_without_an_epoch_is_refused_until_one_leaves() {
    let mut table = Table::default();
    let readers: Vec<_> = (0..5)
        .map(|_| register(&mut table, "$Default", receiver("r", None)).unwrap().0)
        .collect();
    assert_eq!(
        register(&mut table, "$default", receiver("r", None)),
        Err(Refusal::TooMany)
    );
    assert!(
        register(&mut table, "other", receiver("r", None)).is_ok(),
        "groups do not disturb each other"
    );
    table.unregister(readers[2]);
    assert!(register(&mut table, "$DEFAULT", receiver("r", None)).is_ok());
}

#[test]
fn an_epoch_steals_from_all_readers_without_one() {
    let mut table = Table::default();
    let plain: Vec<_> = (0..5)
        .map(|_| register(&mut table, "g", receiver("plain", None)).unwrap().0)
        .collect();
    let (owner, stolen) = register(&mut table, "g", receiver("owner", 0)).unwrap();
    assert_eq!(stolen, plain);
    for reader in plain {
        table.unregister(reader);
    }
    assert_eq!(
        table.readers("g"),
        1,
        "unregistering a replaced receiver changes nothing"
    );
    table.unregister(owner);
    assert!(
        register(&mut table, "g", receiver("plain", None)).is_ok(),
        "an owner that left blocks no receiver"
    );
}

#[test]
fn an_equal_or_higher_epoch_steals_and_a_lower_one_or_none_is_refused() {
    let mut table = Table::default();
    let (first, _) = register(&mut table, "g", receiver("first", 3)).unwrap();
    let refused = register(&mut table, "g", receiver("low", 2)).unwrap_err();
    assert!(matches!(refused, Refusal::EpochTooLow { current: 3, .. }));
    assert!(matches!(
        register(&mut table, "g", receiver("none", None)),
        Err(Refusal::EpochTooLow { epoch: None, .. })
    ));
    let second = table.register("g", receiver("second", 3)).unwrap();
    let [(id, stolen)] = &second.stolen[..] else { panic!() };
    assert_eq!(*id, first);
    assert_eq!(
        stolen.to_string(),
        "New receiver 'second' with higher epoch of '3' is created hence current receiver 'first' with epoch '3' is \
         getting disconnected. If you are recreating the receiver, make sure a higher epoch is used."
    );
    assert_eq!(register(&mut table, "g", receiver("third", 9)).unwrap().1, [second.id]);
}

#[test]
fn of_equal_epochs_that_return_to_another_owner_the_later_one_stays() {
    let mut old = Table::of(Term(3), NodeId(1));
    let early = old.register("g", receiver("early", 1)).unwrap().since;
    let late = old.register("g", receiver("late", 1)).unwrap().since;
    assert!(early < late);
    let mut new = Table::of(Term(4), NodeId(1));
    assert_eq!(new.returning("g", receiver("late", 1), late).unwrap().since, late);
    assert!(new.returning("g", receiver("early", 1), early).is_err());
    let higher = new.returning("g", receiver("higher", 2), early).unwrap();
    assert_eq!(higher.stolen.len(), 1, "a higher epoch wins regardless of its age");
    let mut new = Table::of(Term(4), NodeId(1));
    let fresh = new.register("g", receiver("fresh", 1)).unwrap().since;
    assert!(
        fresh > late,
        "a receiver admitted after the change is newer than all before"
    );
    assert!(new.returning("g", receiver("late", 1), late).is_err());
}

#[test]
fn of_two_owners_of_one_term_the_greater_node_led_later() {
    // Both give their first receiver the count 1.
    let early = Table::of(Term(3), NodeId(1))
        .register("g", receiver("early", 1))
        .unwrap()
        .since;
    let late = Table::of(Term(3), NodeId(2))
        .register("g", receiver("late", 1))
        .unwrap()
        .since;
    assert!(
        early < late
            && late
                < Table::of(Term(4), NodeId(1))
                    .register("g", receiver("next", 1))
                    .unwrap()
                    .since
    );
    let mut new = Table::of(Term(4), NodeId(1));
    assert!(new.returning("g", receiver("late", 1), late).is_ok());
    assert!(new.returning("g", receiver("early", 1), early).is_err());
}
