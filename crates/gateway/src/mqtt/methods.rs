//! Answers of a client to its methods (Spec device-mqtt §8).

use holdfast_device_hub::{MethodAnswer, MethodResult};

use super::connection::{Connection, State};

impl Connection {
    /// The client has answered a method. A late, unknown or repeated answer is ignored.
    pub(super) fn method_answered(&self, state: &mut State, rid: &str, status: i32, payload: &[u8]) {
        let State { session, downlink, .. } = state;
        if let (Some(session), Some(downlink)) = (session, downlink)
            && let Some(rid) = downlink.methods.remove(rid)
        {
            let answer = MethodAnswer {
                status,
                payload: payload.to_vec().into(),
            };
            let core = &self.front.core;
            core.report_method_result(session, &rid, MethodResult::Answered(answer));
        }
    }
}
