//! The table of Spec amqp §8.3, row by row.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

fn receiver(name: &str, epoch: impl Into<Option<i64>>) -> Receiver {
    Receiver {
        name: name.to_owned(),
        epoch: epoch.into(),
    }
}

fn is_stolen(registration: &mut Registration) -> Option<Stolen> {
    match pin!(registration.stolen()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(stolen) => Some(stolen),
        Poll::Pending => None,
    }
}

#[test]
fn a_sixth_reader_without_an_epoch_is_refused_until_one_leaves() {
    let epochs = Epochs::new();
    let mut readers: Vec<_> = (0..5)
        .map(|_| epochs.register("$Default", receiver("r", None)).unwrap())
        .collect();
    assert_eq!(
        epochs.register("$default", receiver("r", None)).unwrap_err(),
        Refusal::TooMany
    );
    assert!(
        epochs.register("other", receiver("r", None)).is_ok(),
        "groups do not disturb each other"
    );
    readers.pop();
    assert!(epochs.register("$DEFAULT", receiver("r", None)).is_ok());
}

#[test]
fn an_epoch_steals_from_all_readers_without_one() {
    let epochs = Epochs::new();
    let mut plain: Vec<_> = (0..5)
        .map(|_| epochs.register("g", receiver("plain", None)).unwrap())
        .collect();
    let mut owner = epochs.register("g", receiver("owner", 0)).unwrap();
    for reader in &mut plain {
        assert_eq!(is_stolen(reader).unwrap().by.name, "owner");
    }
    assert_eq!(epochs.len(), 1);
    drop(plain);
    assert_eq!(
        is_stolen(&mut owner),
        None,
        "those that lost their place do not take it with them"
    );
    assert_eq!(epochs.len(), 1);
}

#[test]
fn an_equal_or_higher_epoch_steals_and_a_lower_one_or_none_is_refused() {
    let epochs = Epochs::new();
    let mut first = epochs.register("g", receiver("first", 3)).unwrap();
    let refused = epochs.register("g", receiver("low", 2)).unwrap_err();
    assert!(matches!(refused, Refusal::EpochTooLow { current: 3, .. }));
    assert!(matches!(
        epochs.register("g", receiver("none", None)),
        Err(Refusal::EpochTooLow { epoch: None, .. })
    ));
    assert_eq!(is_stolen(&mut first), None);
    let mut second = epochs.register("g", receiver("second", 3)).unwrap();
    let stolen = is_stolen(&mut first).unwrap();
    assert_eq!(
        stolen.to_string(),
        "New receiver 'second' with higher epoch of '3' is created hence current receiver 'first' with epoch '3' is \
         getting disconnected. If you are recreating the receiver, make sure a higher epoch is used."
    );
    let third = epochs.register("g", receiver("third", 9)).unwrap();
    assert_eq!(is_stolen(&mut second).unwrap().by.epoch, Some(9));
    drop(third);
    assert!(
        epochs.register("g", receiver("plain", None)).is_ok(),
        "an owner that left blocks nobody"
    );
}
