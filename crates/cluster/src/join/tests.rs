use std::collections::VecDeque;

use holdfast_proto::cluster::v1::control_refusal::Kind;
use holdfast_tasks::sync::Mutex;

use super::*;
use crate::control::messages::{encode_answer, refusal};

fn joiner() -> Joiner {
    Joiner {
        id: NodeId(7),
        name: "n7".to_owned(),
        address: "n7:9700".to_owned(),
        zone: String::new(),
        version: "1".to_owned(),
    }
}

fn admitted(partitions: u32) -> Bytes {
    encode_answer(Body::Join(proto::JoinAnswer {
        cluster: "c1".to_owned(),
        wrapped_key: Bytes::from_static(b"key"),
        partition_count: partitions,
        members: vec![proto::Member {
            id: 1,
            name: "n1".to_owned(),
            address: "n1:9700".to_owned(),
        }],
        gateway: false,
    }))
}

/// Joins with members that return `answers` in turn; also returns the number of calls.
async fn ask(addresses: &[&str], answers: Vec<Result<Bytes, CallError>>) -> (Result<JoinAnswer, JoinError>, usize) {
    let answers = Mutex::new(VecDeque::from(answers));
    let asked = Mutex::new(0);
    let caller = |_: &str, _: Call| -> Answer {
        *asked.lock() += 1;
        let answer = answers.lock().pop_front();
        let answer = answer.unwrap_or(Err(CallError::NotSent("connection refused".into())));
        Box::pin(async move { answer })
    };
    let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    let outcome = join(&caller, &addresses, "secret\n", &joiner(), Duration::from_secs(5)).await;
    let asked = *asked.lock();
    (outcome, asked)
}

#[tokio::test(start_paused = true)]
async fn a_join_tries_members_until_one_can_decide() {
    let not_now = encode_answer(refusal(Kind::NotNow, "the registry has no leader"));
    let answers = vec![
        Err(CallError::NotSent("connection refused".into())),
        Ok(not_now),
        Err(CallError::Unknown("timed out".into())),
        Ok(admitted(4)),
    ];
    let (outcome, asked) = ask(&["a:1", "b:1"], answers).await;
    let answer = outcome.unwrap();
    assert_eq!((answer.cluster.as_str(), answer.partitions.get(), asked), ("c1", 4, 4));
    assert_eq!(answer.members.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_the_join_at_once() {
    let denied = encode_answer(refusal(Kind::Denied, "the token has been used"));
    let (outcome, asked) = ask(&["a:1", "b:1"], vec![Ok(denied)]).await;
    assert_eq!(asked, 1);
    assert_eq!(
        outcome.unwrap_err().to_string(),
        "a:1 does not admit this node: the token has been used"
    );
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_in_time_the_last_errors_are_reported() {
    let (outcome, asked) = ask(&["a:1", "b:1"], Vec::new()).await;
    assert!(asked >= 4);
    let error = outcome.unwrap_err().to_string();
    assert!(
        error.contains("a:1: connection refused; b:1: connection refused"),
        "{error}"
    );
    assert!(matches!(ask(&[], Vec::new()).await.0, Err(JoinError::NoAddress)));
}

#[tokio::test(start_paused = true)]
async fn an_invalid_answer_is_not_an_admission() {
    let other = encode_answer(Body::Ready(proto::ReadyAnswer::default()));
    let empty = encode_answer(Body::Join(proto::JoinAnswer {
        partition_count: 4,
        ..proto::JoinAnswer::default()
    }));
    for answer in [
        Bytes::new(),
        Bytes::from_static(&[9, 9, 9]),
        other,
        empty,
        admitted(0),
        admitted(70_000),
    ] {
        let (outcome, _) = ask(&["a:1"], vec![Ok(answer)]).await;
        assert!(matches!(outcome, Err(JoinError::Answer { .. })), "{outcome:?}");
    }
}
