//! The guarantee about direct methods: an answer is the one that the device gave to this call, a call is carried out at most
//! once, and its end is known in time.

use std::collections::BTreeMap;

use super::Findings;
use super::sessions::excused;
use crate::history::down::{Execution, MethodCall, MethodOutcome, WayDown};
use crate::history::{Fault, Micros, SECOND};

/// The response time-out of every call.
pub const RESPONSE_TIMEOUT: Micros = 5 * SECOND;
/// Added to it, for the connection that the client makes, and for a machine that the nodes share.
const MARGIN: Micros = 5 * SECOND;

/// Checks the answers against what devices carried out.
#[must_use]
pub fn check(down: &WayDown, faults: &[Fault]) -> Findings {
    let mut findings = Findings::about("a method's answer is its own, and comes in time");
    let calls: BTreeMap<u64, &MethodCall> = down.methods.iter().map(|call| (call.number, call)).collect();
    let mut executions: BTreeMap<u64, Vec<&Execution>> = BTreeMap::new();
    for execution in &down.executions {
        executions.entry(execution.number).or_default().push(execution);
    }
    for (number, all) in &executions {
        let [execution, ..] = all[..] else { continue };
        let is_of_device = |call: &&MethodCall| call.device == execution.device;
        if calls.get(number).copied().filter(|call| is_of_device(call)).is_none() {
            findings.violation(Some(execution.at), || {
                format!("{} carried out {number}, which was not called", execution.device)
            });
        }
        if all.len() > 1 {
            findings.violation(Some(execution.at), || {
                format!("{} carried out {number} {} times", execution.device, all.len())
            });
        }
    }
    let mut last: BTreeMap<&str, &MethodCall> = BTreeMap::new();
    for call in &down.methods {
        findings.checked += 1;
        let MethodCall {
            device,
            number,
            asked,
            answered,
            ..
        } = call;
        if last.get(&**device).is_none_or(|other| other.answered < *answered) {
            last.insert(device, call);
        }
        let within = || {
            let mut done = executions.get(number).into_iter().flatten();
            done.any(|execution| (*asked..=*answered).contains(&execution.at))
        };
        match call.outcome {
            MethodOutcome::Unanswered => continue,
            MethodOutcome::Answered { echo } if echo != Some(*number) => {
                findings.violation(Some(*answered), || {
                    format!("{device}: call {number} has the answer to {echo:?}")
                });
            }
            MethodOutcome::Answered { .. } if !within() => {
                findings.violation(Some(*answered), || {
                    format!("{device}: call {number} has an answer, and was not carried out")
                });
            }
            MethodOutcome::Answered { .. } | MethodOutcome::Failed(_) => {}
        }
        let deadline = excused(faults, *asked, asked + RESPONSE_TIMEOUT + MARGIN);
        if *answered > deadline {
            let seconds = (answered - asked) as f64 / SECOND as f64;
            findings.violation(Some(*answered), || {
                format!("{device}: call {number} ended after {seconds:.1} s")
            });
        }
    }
    for (device, call) in last {
        if !matches!(call.outcome, MethodOutcome::Answered { .. }) {
            findings.violation(Some(call.answered), || {
                format!("{device} answers no method in the end: {:?}", call.outcome)
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: u64, seconds: u64, outcome: MethodOutcome) -> MethodCall {
        MethodCall {
            device: "d".into(),
            number,
            node: 1,
            asked: number * 100 * SECOND,
            answered: (number * 100 + seconds) * SECOND,
            outcome,
        }
    }

    fn answered(number: u64, seconds: u64) -> MethodCall {
        call(number, seconds, MethodOutcome::Answered { echo: Some(number) })
    }

    fn executed(number: u64) -> Execution {
        Execution {
            device: "d".into(),
            number,
            at: number * 100 * SECOND + SECOND,
        }
    }

    fn judge(methods: &[MethodCall], executions: &[Execution], faults: &[Fault]) -> Findings {
        let down = WayDown {
            methods: methods.to_vec(),
            executions: executions.to_vec(),
            ..WayDown::default()
        };
        check(&down, faults)
    }

    #[test]
    fn answers_errors_and_silence_are_clean() {
        let calls = [
            call(1, 1, MethodOutcome::Failed(404_103)),
            call(2, 5, MethodOutcome::Failed(504_101)),
            call(3, 30, MethodOutcome::Unanswered),
            answered(4, 2),
        ];
        let findings = judge(&calls, &[executed(2), executed(4)], &[]);
        assert_eq!((findings.checked, findings.violations), (4, 0), "{findings:?}");
    }

    #[test]
    fn every_broken_promise_is_found() {
        let foreign = call(1, 2, MethodOutcome::Answered { echo: Some(2) });
        let late = call(1, 12, MethodOutcome::Failed(504_101));
        let done = [executed(1), executed(2)];
        for (calls, executions, expected) in [
            (
                vec![foreign, answered(2, 2)],
                &done[..],
                "call 1 has the answer to Some(2)",
            ),
            (vec![answered(1, 2), answered(2, 2)], &done[1..], "was not carried out"),
            (vec![late.clone(), answered(2, 2)], &done[1..], "ended after 12.0 s"),
            (vec![answered(2, 2)], &done, "1, which was not called"),
            (
                vec![answered(1, 2)],
                &[executed(1), executed(1)],
                "carried out 1 2 times",
            ),
            (
                vec![answered(1, 2), call(2, 1, MethodOutcome::Failed(404_103))],
                &done,
                "no method in the end",
            ),
        ] {
            let findings = judge(&calls, executions, &[]);
            assert_eq!(findings.violations, 1, "{expected}: {findings:?}");
            assert!(findings.examples[0].text.contains(expected), "{expected}: {findings:?}");
        }
        let fault = Fault {
            kind: "pause".into(),
            detail: "node 1".into(),
            nodes: vec![1],
            began: 101 * SECOND,
            ended: 110 * SECOND,
            majority: true,
            led: vec![],
        };
        assert!(
            judge(&[late, answered(2, 2)], &done, &[fault]).is_clean(),
            "a fault excuses it"
        );
    }
}
