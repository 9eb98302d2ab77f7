//! The routes from listeners to handlers: by port, host name, path and WebSocket subprotocol.
//!
//! Why: devices and back ends share ports, and more front ends will; the decision is one table and one pure function.
//! Invariants: the first route whose conditions all hold wins; a condition that is not given accepts everything, except
//! that a route without a subprotocol takes no WebSocket.
//! Not here: the table of this hub (the composition root), and what a handler does.

use std::borrow::Cow;

/// The listener that accepted a connection. MQTT's own port is not among them: it has one handler, which begins before
/// the TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Port {
    /// AMQP, plain or TLS.
    Amqp,
    /// HTTPS, with WebSockets.
    Https,
}

/// The known facts about a connection or request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The listener.
    pub port: Port,
    /// The host name of the TLS handshake (SNI).
    pub server_name: Option<&'a str>,
    /// The path of an HTTP request.
    pub path: Option<&'a str>,
    /// An offered WebSocket subprotocol.
    pub subprotocol: Option<&'a str>,
}

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Route<H> {
    port: Port,
    server_name: Option<Box<str>>,
    path: Option<Cow<'static, str>>,
    matching: Option<fn(&str) -> bool>,
    subprotocol: Option<&'static str>,
    handler: H,
}

impl<H> Route<H> {
    /// Everything on `port` but WebSockets.
    #[must_use]
    pub const fn new(port: Port, handler: H) -> Self {
        Self {
            port,
            server_name: None,
            path: None,
            matching: None,
            subprotocol: None,
            handler,
        }
    }

    /// Only under this host name, in any case.
    #[must_use]
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Only this path and those below it.
    #[must_use]
    pub fn path(mut self, path: impl Into<Cow<'static, str>>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Only paths that `matching` accepts: those with a fixed word behind an id.
    #[must_use]
    pub const fn matching(mut self, matching: fn(&str) -> bool) -> Self {
        self.matching = Some(matching);
        self
    }

    /// Only WebSockets of this subprotocol. Names are compared without regard to case (Spec device-mqtt §1, amqp §1).
    #[must_use]
    pub const fn subprotocol(mut self, name: &'static str) -> Self {
        self.subprotocol = Some(name);
        self
    }

    fn accepts(&self, target: Target<'_>) -> bool {
        let is_path = |path: &str| {
            let below = target.path.and_then(|asked| asked.strip_prefix(path));
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || path.ends_with('/'))
        };
        self.port == target.port
            && self
                .server_name
                .as_deref()
                .is_none_or(|name| target.server_name.is_some_and(|asked| asked.eq_ignore_ascii_case(name)))
            && self.path.as_deref().is_none_or(is_path)
            && self.matching.is_none_or(|matching| target.path.is_some_and(matching))
            && match (self.subprotocol, target.subprotocol) {
                (None, None) => true,
                (Some(name), Some(offered)) => name.eq_ignore_ascii_case(offered),
                _ => false,
            }
    }
}

/// A table of routes.
#[derive(Debug, Clone)]
pub struct Router<H>(Vec<Route<H>>);

impl<H> Router<H> {
    /// The table, in the order in which it is searched.
    #[must_use]
    pub const fn new(routes: Vec<Route<H>>) -> Self {
        Self(routes)
    }

    /// The handler of the first route that accepts `target`.
    #[must_use]
    pub fn find(&self, target: Target<'_>) -> Option<&H> {
        self.0
            .iter()
            .find(|route| route.accepts(target))
            .map(|route| &route.handler)
    }

    /// The subprotocols of `port`, for messages.
    pub fn subprotocols(&self, port: Port) -> impl Iterator<Item = &'static str> {
        self.0
            .iter()
            .filter(move |route| route.port == port)
            .filter_map(|route| route.subprotocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn https<'a>(path: &'a str, subprotocol: Option<&'a str>) -> Target<'a> {
        Target {
            port: Port::Https,
            server_name: Some("hub1.contoso.test"),
            path: Some(path),
            subprotocol,
        }
    }

    /// The routes of this version.
    fn today() -> Router<&'static str> {
        Router::new(vec![
            Route::new(Port::Amqp, "amqp"),
            Route::new(Port::Https, "mqtt").subprotocol("mqtt"),
            Route::new(Port::Https, "amqp").subprotocol("AMQPWSB10"),
            Route::new(Port::Https, "rest"),
        ])
    }

    #[test]
    fn https_is_shared_by_rest_and_the_subprotocols() {
        let router = today();
        for (path, subprotocol, expected) in [
            ("/devices/dev-1", None, Some("rest")),
            ("/", None, Some("rest")),
            ("/$iothub/websocket", Some("mqtt"), Some("mqtt")),
            ("/any/path", Some("MQTT"), Some("mqtt")),
            ("/$servicebus/websocket", Some("amqpwsb10"), Some("amqp")),
            ("/$iothub/websocket", Some("mqttv3.1"), None),
        ] {
            assert_eq!(
                router.find(https(path, subprotocol)).copied(),
                expected,
                "{path} {subprotocol:?}"
            );
        }
        assert_eq!(
            router.subprotocols(Port::Https).collect::<Vec<_>>(),
            ["mqtt", "AMQPWSB10"]
        );
    }

    #[test]
    fn a_port_of_its_own_needs_no_path_and_no_name() {
        let target = Target {
            port: Port::Amqp,
            server_name: None,
            path: None,
            subprotocol: None,
        };
        assert_eq!(today().find(target), Some(&"amqp"));
    }

    #[test]
    fn the_first_route_whose_conditions_all_hold_wins() {
        let router = Router::new(vec![
            Route::new(Port::Https, "provisioning").server_name("dps.contoso.test"),
            Route::new(Port::Https, "provisioning by path").path("/registrations"),
            Route::new(Port::Https, "console").path("/console/"),
            Route::new(Port::Https, "devices").matching(|path| path.ends_with("/events")),
            Route::new(Port::Https, "rest"),
        ]);
        let at = |name, path| {
            let target = Target {
                server_name: name,
                ..https(path, None)
            };
            router.find(target).copied()
        };
        assert_eq!(at(Some("DPS.contoso.test"), "/devices"), Some("provisioning"));
        assert_eq!(
            at(Some("hub1.contoso.test"), "/registrations/r1"),
            Some("provisioning by path")
        );
        assert_eq!(at(None, "/registrations"), Some("provisioning by path"));
        assert_eq!(at(None, "/registrationsX"), Some("rest"), "a path ends at a segment");
        assert_eq!(at(None, "/console/index.html"), Some("console"));
        assert_eq!(at(None, "/devices/d/events"), Some("devices"));
        assert_eq!(at(None, "/devices/d"), Some("rest"));
    }
}
