//! User names of AMQP SASL PLAIN (Spec auth-and-limits §1.6, amqp §1.2). The password is a whole token, or the key of a
//! policy.

/// The principal that a SASL PLAIN user name names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslUser<'a> {
    /// `{policy}@sas.root.{hub}`, or `{policy}` alone as generic AMQP clients of Event Hubs send it.
    Policy {
        /// The policy's name.
        name: &'a str,
        /// The hub, as the client spells it.
        hub: Option<&'a str>,
    },
    /// `{deviceId}@sas.{hub}` or `{deviceId}/modules/{moduleId}@sas.{hub}`.
    Identity {
        /// The device.
        device: &'a str,
        /// Its module, if any.
        module: Option<&'a str>,
        /// The hub, as the client spells it.
        hub: &'a str,
    },
}

impl<'a> SaslUser<'a> {
    /// `None` for names of another form; ids are not checked further.
    ///
    /// Ids may contain `@`, so the last `@sas.` separates name and hub.
    #[must_use]
    pub fn parse(user: &'a str) -> Option<Self> {
        let Some(at) = user.rfind("@sas.") else {
            // Policy names contain neither `@` nor `/`.
            let is_policy = !user.is_empty() && !user.contains(['@', '/']);
            return is_policy.then_some(Self::Policy { name: user, hub: None });
        };
        let (name, hub) = (&user[..at], &user[at + "@sas.".len()..]);
        if name.is_empty() || hub.is_empty() {
            return None;
        }
        if let Some(hub) = hub.strip_prefix("root.").filter(|hub| !hub.is_empty()) {
            return Some(Self::Policy { name, hub: Some(hub) });
        }
        match name.split_once('/') {
            None => Some(Self::Identity {
                device: name,
                module: None,
                hub,
            }),
            Some((device, rest)) => {
                let module = rest
                    .strip_prefix("modules/")
                    .filter(|module| !module.is_empty() && !device.is_empty())?;
                Some(Self::Identity {
                    device,
                    module: Some(module),
                    hub,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_are_distinguished() {
        let policy = SaslUser::Policy {
            name: "service",
            hub: None,
        };
        assert_eq!(SaslUser::parse("service"), Some(policy));
        assert_eq!(
            SaslUser::parse("service@sas.root.hub1"),
            Some(SaslUser::Policy {
                name: "service",
                hub: Some("hub1")
            })
        );
        let device = SaslUser::Identity {
            device: "a@sas.b",
            module: None,
            hub: "hub1",
        };
        assert_eq!(SaslUser::parse("a@sas.b@sas.hub1"), Some(device));
        let module = SaslUser::Identity {
            device: "d",
            module: Some("m"),
            hub: "hub1",
        };
        assert_eq!(SaslUser::parse("d/modules/m@sas.hub1"), Some(module));
    }

    #[test]
    fn other_names_are_refused() {
        for user in [
            "",
            "guest@hub",
            "device/module",
            "@sas.hub",
            "d@sas.",
            "d/m@sas.hub",
            "d/modules/@sas.hub",
            "/modules/m@sas.hub",
        ] {
            assert_eq!(SaslUser::parse(user), None, "{user}");
        }
    }
}
