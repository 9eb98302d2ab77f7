//! The device hub of this node as the service API's view of the rest.

use holdfast_device_hub::{Audit, DeviceHub, Operation, Protocol, Refusal};
use holdfast_model::{ErrorCode, IdentityId, RefusalReason};
use serde_json::{Value, json};

use super::times;
use super::view::{Asked, Caller, Connection, HubView};

impl HubView for DeviceHub {
    fn connections<'a>(&'a self, ids: Vec<&'a IdentityId>) -> Asked<'a, Vec<Connection>> {
        Box::pin(async move {
            let states = self.connection_states(&ids).await;
            let connections = states.into_iter().map(|state| Connection {
                is_connected: state.is_connected,
                updated: state.updated,
                last_activity: state.updated,
            });
            connections.collect()
        })
    }

    fn connected_device_count(&self) -> Asked<'_, u64> {
        Box::pin(Self::connected_device_count(self))
    }

    fn diagnose<'a>(&'a self, id: &'a IdentityId) -> Asked<'a, Value> {
        Box::pin(async move {
            let diagnosis = Self::diagnose(self, id).await;
            let session = diagnosis.session.map(|session| {
                json!({
                    "number": format!("{}.{}", session.number.term, session.number.counter),
                    "gateway": session.gateway.to_string(),
                    "protocol": session.protocol.as_str(),
                    "connectedTime": times::iso(Some(session.since)),
                    "tokenEndTime": session.expires.map(|time| times::iso(Some(time))),
                    "policy": session.policy,
                })
            });
            let refusals: Vec<Value> = diagnosis
                .refusals
                .iter()
                .map(|record| {
                    json!({
                        "time": times::iso(Some(record.time)),
                        "operation": record.operation.as_str(),
                        "errorCode": record.code.number(),
                        "errorName": record.code.name(),
                        "reason": record.reason.as_str(),
                        "advice": record.reason.advice(),
                        "protocol": record.protocol.as_str(),
                        "address": record.address.to_string(),
                    })
                })
                .collect();
            json!({
                "connectionState": if diagnosis.connection.is_connected { "Connected" } else { "Disconnected" },
                "connectionStateUpdatedTime": times::iso(diagnosis.connection.updated),
                "session": session,
                "refusals": refusals,
            })
        })
    }

    fn refused(&self, caller: &Caller, reason: RefusalReason, code: ErrorCode) {
        let audit: &Audit = self.audit();
        let refusal = Refusal { code, reason };
        let now = self.clock().now();
        audit.refused_identity(
            Operation::Service,
            &caller.principal,
            Protocol::Https,
            caller.address,
            refusal,
            now,
        );
    }

    fn changed(&self, caller: &Caller, operation: &'static str, subject: &str, code: Option<ErrorCode>) {
        self.audit()
            .changed(operation, subject, &caller.principal, caller.address, code);
    }
}
