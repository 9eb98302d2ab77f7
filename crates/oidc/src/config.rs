//! Section `[auth.oidc]` of the configuration.

use std::path::PathBuf;

use holdfast_auth::bearer::{Algorithm, IssuerRules, Role};
use holdfast_model::HumanDuration;

holdfast_config::section! {
    /// The OpenID Connect issuer whose bearer tokens open the REST API and AMQP for back ends. Without `issuer` there are none.
    pub struct OidcConfig = "auth.oidc" {
        /// The issuer's URL, exactly as `iss` of its tokens has it; `/.well-known/openid-configuration` below it names its keys.
        pub issuer: String = String::new();
        /// Audiences of the hub: `aud` of a token must have one of them.
        pub audiences: Vec<String> = vec!["https://iothubs.azure.net".to_owned()];
        /// The claim with the roles of a principal, a text or a list: its name, or a path with dots, such as
        /// `realm_access.roles`.
        pub role_claim: String = "roles".to_owned();
        /// What its values mean, as `value=role`. Roles: IoT Hub Data Contributor, IoT Hub Data Reader, IoT Hub Registry
        /// Contributor, IoT Hub Twin Contributor.
        pub roles: Vec<String> = Role::ALL.map(|(_, name)| format!("{name}={name}")).to_vec();
        /// Roles of principals by their `sub`, as `subject=role`, for issuers without a claim for roles.
        pub subjects: Vec<String> = Vec::new();
        /// Algorithms that a token may be signed with: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA.
        pub algorithms: Vec<String> = Algorithm::ALL.map(|(_, name)| name.to_owned()).to_vec();
        /// How far the clocks of issuer and hub may differ; a live connection ends this long after its token.
        pub clock_skew: HumanDuration = HumanDuration::secs(300), in ..=HumanDuration::secs(600) => "must be at most 10 min";
        /// The CA that has issued the issuer's certificate, PEM. Default: the system's list.
        pub ca_file: Option<PathBuf> = None;
        /// How often the issuer's keys are fetched.
        pub refresh_interval: HumanDuration = HumanDuration::secs(3600), in HumanDuration::secs(1).. => "must be at least 1 s";
        /// How often at most a token with an unknown key causes a fetch: the issuer may have new keys.
        pub unknown_key_interval: HumanDuration = HumanDuration::secs(30), in HumanDuration::millis(100).. => "must be at least 100 ms";
    }
    check |oidc| {
        oidc.issuer.is_empty() || is_https(&oidc.issuer) => issuer, "must be a URL with https:// and without query";
        oidc.issuer.is_empty() || !oidc.audiences.is_empty() => audiences, "must name an audience: tokens for others would open the hub";
        oidc.issuer.is_empty() || !oidc.algorithms.is_empty() => algorithms, "must name an algorithm";
        mapping_fault(&oidc.roles).is_none() => roles, mapping_fault(&oidc.roles).unwrap_or_default();
        mapping_fault(&oidc.subjects).is_none() => subjects, mapping_fault(&oidc.subjects).unwrap_or_default();
        bad_algorithm(&oidc.algorithms).is_none() => algorithms,
            format!("{:?} is no algorithm of a public key", bad_algorithm(&oidc.algorithms).unwrap_or_default());
    }
}

fn is_https(url: &str) -> bool {
    let uri = url.parse::<http::Uri>();
    uri.is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some() && uri.query().is_none())
}

/// The value and the role of an entry. Values may have `=`, roles have none.
fn mapping(entry: &str) -> Result<(String, Role), String> {
    let (value, role) = entry
        .rsplit_once('=')
        .filter(|(value, _)| !value.is_empty())
        .ok_or_else(|| format!("must be value=role, found {entry:?}"))?;
    let role = Role::parse(role).map_err(|error| error.to_string())?;
    Ok((value.to_owned(), role))
}

fn mapping_fault(entries: &[String]) -> Option<String> {
    entries.iter().find_map(|entry| mapping(entry).err())
}

fn bad_algorithm(names: &[String]) -> Option<&str> {
    let bad = names.iter().find(|name| Algorithm::parse(name).is_none());
    bad.map(String::as_str)
}

impl OidcConfig {
    /// Whether bearer tokens are accepted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.issuer.is_empty()
    }

    /// The rules of a configuration that has been validated; entries that could not be read would be left out.
    #[must_use]
    pub fn rules(&self) -> IssuerRules {
        let mappings = |entries: &[String]| entries.iter().filter_map(|entry| mapping(entry).ok()).collect();
        IssuerRules {
            issuer: self.issuer.clone(),
            audiences: self.audiences.clone(),
            algorithms: self
                .algorithms
                .iter()
                .filter_map(|name| Algorithm::parse(name))
                .collect(),
            clock_skew: self.clock_skew.get(),
            role_claim: self.role_claim.clone(),
            roles: mappings(&self.roles),
            subjects: mappings(&self.subjects),
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_config::Section as _;

    use super::*;

    fn fault(change: impl FnOnce(&mut OidcConfig)) -> Option<(&'static str, String)> {
        let mut config = OidcConfig {
            issuer: "https://issuer.example/tenant".to_owned(),
            ..OidcConfig::default()
        };
        change(&mut config);
        config.validate().err().map(|invalid| (invalid.key, invalid.reason))
    }

    #[test]
    fn what_cannot_work_is_named() {
        assert_eq!(OidcConfig::default().validate(), Ok(()));
        assert_eq!(fault(|_| {}), None);
        assert_eq!(
            fault(|config| config.roles = vec!["a=b=iot hub data reader".to_owned()]),
            None
        );
        for (change, key) in [
            (
                (|config| config.issuer = "http://issuer.example".to_owned()) as fn(&mut OidcConfig),
                "issuer",
            ),
            (
                |config| config.issuer = "https://issuer.example/?x=1".to_owned(),
                "issuer",
            ),
            (|config| config.issuer = "issuer".to_owned(), "issuer"),
            (|config| config.audiences = Vec::new(), "audiences"),
            (|config| config.algorithms = Vec::new(), "algorithms"),
            (|config| config.algorithms = vec!["HS256".to_owned()], "algorithms"),
            (|config| config.algorithms = vec!["none".to_owned()], "algorithms"),
            (|config| config.roles = vec!["admin=owner".to_owned()], "roles"),
            (
                |config| config.subjects = vec!["=IoT Hub Data Reader".to_owned()],
                "subjects",
            ),
            (
                |config| config.subjects = vec!["IoT Hub Data Reader".to_owned()],
                "subjects",
            ),
            (|config| config.clock_skew = HumanDuration::secs(3600), "clock_skew"),
        ] {
            assert_eq!(fault(change).map(|fault| fault.0), Some(key));
        }
    }

    #[test]
    fn values_of_claims_may_have_equals_signs() {
        let config = OidcConfig {
            roles: vec!["cn=readers,ou=x=IoT Hub Data Reader".to_owned()],
            ..OidcConfig::default()
        };
        assert_eq!(config.rules().roles, [("cn=readers,ou=x".to_owned(), Role::DataReader)]);
    }
}
