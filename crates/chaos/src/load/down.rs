//! The way down: back ends that write twins, send messages and call methods through random nodes, and the devices that
//! they address.
//!
//! Invariants: every write has a value of its own; a call is recorded before it is sent; a message to a device is sent
//! after the end of the call before. At the end each back end makes sure of every device: its twin is read, its queue is
//! empty, a method is answered; so the checks have a last observation.

mod back_ends;
mod device;

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use rand::rngs::StdRng;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::Shared;
use crate::history::Micros;
use crate::history::down::{Section, TwinAction, TwinAnswer, TwinCall};

/// Back ends that write and read twins; more than one, so that their calls overlap.
const TWIN_WRITERS: u32 = 2;

/// What the back ends and devices of the way down share.
struct Down {
    shared: Rc<Shared>,
    devices: Vec<String>,
    numbers: Cell<u64>,
}

/// The tasks that were started.
pub(super) struct Tasks {
    /// They end by themselves after [`super::Load::stop`].
    pub(super) back_ends: Vec<JoinHandle<()>>,
    /// They run until they are stopped.
    pub(super) devices: Vec<JoinHandle<()>>,
}

/// Starts everything for the devices `numbers`.
pub(super) fn start(shared: &Rc<Shared>, numbers: Range<u32>, mut rng: impl FnMut() -> StdRng) -> Tasks {
    let down = Rc::new(Down {
        shared: shared.clone(),
        devices: numbers
            .clone()
            .map(|number| shared.targets.names().name(number))
            .collect(),
        numbers: Cell::new(0),
    });
    let mut tasks = Tasks {
        back_ends: Vec::new(),
        devices: Vec::new(),
    };
    if numbers.is_empty() {
        return tasks;
    }
    for number in numbers {
        let device = device::run(down.clone(), number, rng());
        tasks
            .devices
            .push(holdfast_tasks::spawn_local("commanded-device", Box::pin(device)));
    }
    for _ in 0..TWIN_WRITERS {
        let twins = back_ends::write_twins(down.clone(), rng());
        tasks
            .back_ends
            .push(holdfast_tasks::spawn_local("twin-writer", Box::pin(twins)));
    }
    let messages = back_ends::send_messages(down.clone(), rng());
    tasks
        .back_ends
        .push(holdfast_tasks::spawn_local("message-sender", Box::pin(messages)));
    let methods = back_ends::call_methods(down.clone(), rng());
    tasks
        .back_ends
        .push(holdfast_tasks::spawn_local("method-caller", Box::pin(methods)));
    tasks
}

impl Down {
    /// A number that was not used before.
    fn number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// Records a write that is about to be sent; returns its place.
    fn begin_write(&self, device: &str, section: Section, node: u32, tag: u64) -> usize {
        let asked = self.shared.recorder.now();
        let twins = &mut self.shared.recorder.history().down.twins;
        twins.push(TwinCall {
            device: device.to_owned(),
            section,
            node,
            action: TwinAction::Write { tag },
            asked,
            answer: None,
        });
        twins.len() - 1
    }

    /// Records the answer to a write.
    fn end_write(&self, place: usize, answer: TwinAnswer) {
        let now = self.shared.recorder.now();
        if let Some(call) = self.shared.recorder.history().down.twins.get_mut(place) {
            call.answer = Some((now, answer));
        }
    }

    /// Records both sections of a twin as they were read; `None`: they are not as they must be.
    fn record_read(&self, device: &str, node: u32, asked: Micros, properties: &Value) -> Option<()> {
        let now = self.shared.recorder.now();
        for (section, name) in [(Section::Desired, "desired"), (Section::Reported, "reported")] {
            let found = found(properties.get(name)?)?;
            self.shared.recorder.history().down.twins.push(TwinCall {
                device: device.to_owned(),
                section,
                node,
                action: TwinAction::Read,
                asked,
                answer: Some((now, found)),
            });
        }
        Some(())
    }
}

fn found(section: &Value) -> Option<TwinAnswer> {
    Some(TwinAnswer::Found {
        version: section.get("$version")?.as_u64()?,
        tag: section.get("tag").map_or(Some(0), Value::as_u64)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_section_has_a_version_and_perhaps_a_tag() {
        let never = TwinAnswer::Found { version: 1, tag: 0 };
        assert_eq!(found(&json!({"$version": 1})), Some(never));
        let written = TwinAnswer::Found { version: 3, tag: 7 };
        assert_eq!(found(&json!({"$version": 3, "tag": 7, "$metadata": {}})), Some(written));
        assert_eq!(found(&json!({"tag": 7})), None);
        assert_eq!(found(&json!({"$version": 3, "tag": "x"})), None);
    }
}
