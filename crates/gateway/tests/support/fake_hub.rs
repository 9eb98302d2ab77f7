//! Other hubs, in memory: as much of their REST API as the provisioning service uses, with faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_provisioning::OutboundRequest;
use holdfast_tasks::sync::Mutex;
use serde_json::{Value, json};

use super::servers::{Reaction, Servers};

/// What becomes of the next requests to a hub.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// It cannot be reached.
    Down,
    /// Writes take effect, and their answers are lost.
    LosesAnswers,
}

#[derive(Default)]
pub(crate) struct FakeHub {
    pub(crate) devices: BTreeMap<String, Value>,
    pub(crate) fault: Fault,
    /// How far it is.
    pub(crate) delay: Duration,
    writes: u64,
}

/// Hubs by their host names.
#[derive(Clone, Default)]
pub(crate) struct FakeHubs(pub(crate) Arc<Mutex<BTreeMap<String, FakeHub>>>);

impl FakeHubs {
    pub(crate) fn start(servers: &Servers, names: &[&str]) -> Self {
        let hubs = Self::default();
        for name in names {
            hubs.0.lock().insert((*name).to_owned(), FakeHub::default());
        }
        let answering = hubs.clone();
        servers.react(move |request| answering.answer(request));
        hubs
    }

    pub(crate) fn set(&self, host: &str, fault: Fault) {
        self.0.lock().get_mut(host).unwrap().fault = fault;
    }

    pub(crate) fn is_far(&self, host: &str, delay: Duration) {
        self.0.lock().get_mut(host).unwrap().delay = delay;
    }

    /// The hubs that have the device.
    pub(crate) fn holders(&self, id: &str) -> Vec<String> {
        let hubs = self.0.lock();
        let with = hubs.iter().filter(|(_, hub)| hub.devices.contains_key(id));
        with.map(|(name, _)| name.clone()).collect()
    }

    fn answer(&self, request: &OutboundRequest) -> Reaction {
        let rest = request.url.strip_prefix("https://").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        let path = path.split('?').next().unwrap();
        let mut hubs = self.0.lock();
        let hub = hubs.get_mut(host).unwrap();
        if hub.fault == Fault::Down {
            return Reaction::Unreachable;
        }
        let (status, body) = hub.answer(request, path);
        match hub.fault {
            Fault::LosesAnswers if request.method != "GET" => Reaction::Silence,
            _ => Reaction::Late(hub.delay, status, body.to_string()),
        }
    }
}

impl FakeHub {
    fn answer(&mut self, request: &OutboundRequest, path: &str) -> (u16, Value) {
        assert!(
            request
                .headers
                .iter()
                .any(|(name, value)| *name == "authorization" && !value.is_empty())
        );
        let if_match = request.headers.iter().find(|(name, _)| *name == "if-match");
        let if_match = if_match.map(|(_, value)| value.trim_matches('"').to_owned());
        self.writes += 1;
        let (kind, id) = path.split_once('/').unwrap_or((path, ""));
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        match (request.method, kind, id) {
            ("POST", "devices", "") => {
                let mut device = body[0].clone();
                let id = device["id"].as_str().unwrap().to_owned();
                if self.devices.contains_key(&id) {
                    return (
                        400,
                        json!({"isSuccessful": false, "errors": [{"errorCode": "DeviceAlreadyExists"}]}),
                    );
                }
                device["etag"] = json!(format!("e{}", self.writes));
                device["generationId"] = json!(format!("g{}", self.writes));
                self.devices.insert(id, device);
                (200, json!({"isSuccessful": true, "errors": []}))
            }
            (method, _, id) => {
                let Some(device) = self.devices.get_mut(id) else {
                    return (404, json!({}));
                };
                if if_match.is_some_and(|etag| device["etag"] != etag) {
                    return (412, json!({}));
                }
                match (method, kind) {
                    ("GET", "devices") => (200, device.clone()),
                    ("GET", "twins") => (200, json!({"tags": device["tags"], "properties": device["properties"]})),
                    ("PUT", "devices") => {
                        device["authentication"] = body["authentication"].clone();
                        device["etag"] = json!(format!("e{}", self.writes));
                        (200, device.clone())
                    }
                    ("DELETE", "devices") => {
                        self.devices.remove(id);
                        (204, Value::Null)
                    }
                    _ => (405, json!({})),
                }
            }
        }
    }
}
