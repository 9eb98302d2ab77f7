//! `holdfast config check --production`: the settings with which a hub works and should not meet the world.
//!
//! Why: development mode and examples need weak settings, and a file that began as one of them reaches production.
//! Invariants: a setting is named once, with the reason and the value to set; nothing is started, and of key files only their
//! modes are read.
//! Not here: values that cannot work (`holdfast_config` refuses them), and settings of the running hub, which are in its
//! registry ([`NOT_CHECKED`]).

mod access;
mod files;
mod rules;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::Config;

/// What no file shows.
pub(crate) const NOT_CHECKED: &str = "not in the configuration, so not checked: the policies and their keys (`holdfast policy list`), the \
                                      CAs of devices (`holdfast ca list`), the number of nodes (`holdfast cluster status`)";

/// How much a weakness weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Lets strangers in, gives keys away, or loses acknowledged data.
    High,
    /// Helps an attacker that has something else, or costs availability.
    Medium,
    /// Worth a thought; does not fail the check.
    Low,
}

impl Severity {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// One weak setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Weakness {
    pub(crate) severity: Severity,
    /// `section.key`, or the file.
    pub(crate) setting: String,
    pub(crate) reason: String,
    /// The remedy.
    pub(crate) set: String,
}

impl Weakness {
    fn new(severity: Severity, setting: impl Into<String>, reason: impl Into<String>, set: impl Into<String>) -> Self {
        Self {
            severity,
            setting: setting.into(),
            reason: reason.into(),
            set: set.into(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "severity": self.severity.as_str(),
            "setting": self.setting,
            "reason": self.reason,
            "set": self.set,
        })
    }
}

/// All weak settings, the heaviest first. `file`: the configuration file with its text.
pub(crate) fn weaknesses(
    config: &Config,
    file: Option<(&std::path::Path, &str)>,
    now: OffsetDateTime,
) -> Vec<Weakness> {
    let mut found = rules::weaknesses(config);
    found.extend(access::weaknesses(config));
    found.extend(files::weaknesses(config, file, now));
    found.sort_by(|a, b| (a.severity, &a.setting).cmp(&(b.severity, &b.setting)));
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;
    use crate::certs;

    fn settings(found: &[Weakness], severity: Severity) -> Vec<&str> {
        let found = found.iter().filter(|weakness| weakness.severity == severity);
        found.map(|weakness| &*weakness.setting).collect()
    }

    /// A configuration without a weakness, in `dir`.
    fn strong(dir: &Path) -> Config {
        let (data, keys) = (dir.join("data"), dir.join("keys"));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir_all(&keys).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
        let write = |name: &str, text: &str| {
            let path = keys.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            Some(path)
        };
        let issue = |names: &[&str], key: rcgen::KeyPair| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut ca = rcgen::CertificateParams::default();
            ca.distinguished_name.push(rcgen::DnType::CommonName, "a public CA");
            let issuer = rcgen::Issuer::new(ca, rcgen::KeyPair::generate().unwrap());
            let mut params = rcgen::CertificateParams::new(names).unwrap();
            params.not_before = OffsetDateTime::now_utc() - time::Duration::days(1);
            params.not_after = OffsetDateTime::now_utc() + time::Duration::days(90);
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let (certificate, key) = issue(&["hub.example.com"], rcgen::KeyPair::generate().unwrap());
        let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let (rsa_certificate, rsa_key) = issue(&["hub.example.com"], rsa);
        let mut config = Config::default();
        config.hub.host = "hub.example.com".to_owned();
        config.hub.data_dir = data;
        config.tls.certificate_file = write("server.pem", &certificate);
        config.tls.key_file = write("server.key", &key);
        config.tls.rsa_certificate_file = write("rsa.pem", &rsa_certificate);
        config.tls.rsa_key_file = write("rsa.key", &rsa_key);
        config.secrets.key_file = write("sealing.key", "00");
        config.cluster.listen = vec!["10.0.0.1:9700".parse().unwrap()];
        config.cluster.zone = "a".to_owned();
        config.cluster.join = ["node1:9700", "node2:9700", "node3:9700"].map(str::to_owned).to_vec();
        config.cluster.certificate_file = write("node.pem", &certificate);
        config.cluster.key_file = write("node.key", &key);
        config.throttles.profile = holdfast_device_hub::Profile::S2;
        config.net.ip_rules = rules(&["accept 10.0.0.0/8", "reject 0.0.0.0/0", "reject ::/0"]);
        config.net.proxies = vec!["10.1.2.0/24".parse().unwrap()];
        config.oidc.issuer = "https://login.example.com".to_owned();
        config.oidc.audiences = vec!["hub.example.com".to_owned()];
        config.service_auth.shared_policies = false;
        config
    }

    fn rules(texts: &[&str]) -> Vec<holdfast_model::IpRule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn check(config: &Config) -> Vec<Weakness> {
        weaknesses(config, None, OffsetDateTime::now_utc())
    }

    #[test]
    fn a_strong_configuration_has_no_weakness() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check(&strong(dir.path())), []);
    }

    #[test]
    fn each_weak_setting_is_named_with_its_severity() {
        let dir = tempfile::tempdir().unwrap();
        type Weaken = fn(&mut Config);
        let table: &[(Weaken, Severity, &str)] = &[
            (
                |c| c.mqtt.fault_injection = true,
                Severity::High,
                "mqtt.fault_injection",
            ),
            (
                |c| c.amqp.fault_injection = true,
                Severity::High,
                "amqp.fault_injection",
            ),
            (
                |c| c.listen.mqtt = vec!["0.0.0.0:1883".parse().unwrap()],
                Severity::High,
                "listen.mqtt",
            ),
            (
                |c| c.listen.amqp = vec!["[::]:5672".parse().unwrap()],
                Severity::High,
                "listen.amqp",
            ),
            (
                |c| c.ops.listen = "0.0.0.0:9600".parse().unwrap(),
                Severity::High,
                "ops.listen",
            ),
            (
                |c| c.ops.listen = "192.168.1.1:9600".parse().unwrap(),
                Severity::Low,
                "ops.listen",
            ),
            (|c| c.secrets.key_file = None, Severity::High, "secrets.key_file"),
            (
                |c| c.tls.certificate_file = None,
                Severity::High,
                "tls.certificate_file",
            ),
            (
                |c| c.hub.connection_file = Some("/tmp/c".into()),
                Severity::High,
                "hub.connection_file",
            ),
            (
                |c| c.cluster.replication_factor = 1,
                Severity::High,
                "cluster.replication_factor",
            ),
            (
                |c| c.peers.accept_unnamed_certificates = true,
                Severity::High,
                "cluster.accept_unnamed_certificates",
            ),
            (|c| c.cluster.listen.clear(), Severity::Medium, "cluster.listen"),
            (
                |c| c.cluster.join = vec!["a:1".to_owned(), "b:1".to_owned()],
                Severity::Medium,
                "cluster.join",
            ),
            (
                |c| c.cluster.initial_tokens_file = Some("/nowhere/t".into()),
                Severity::Medium,
                "cluster.initial_tokens_file",
            ),
            (|c| c.cluster.zone = String::new(), Severity::Low, "cluster.zone"),
            (
                |c| c.throttles.profile = holdfast_device_hub::Profile::Unlimited,
                Severity::Medium,
                "throttles.profile",
            ),
            (
                |c| c.partition.retention = holdfast_model::HumanDuration::secs(600),
                Severity::Medium,
                "partition.retention",
            ),
            (
                |c| c.registry.max_staleness = holdfast_model::HumanDuration::secs(30),
                Severity::Medium,
                "registry.max_staleness",
            ),
            (
                |c| c.device_hub.certificate_grace = holdfast_model::HumanDuration::secs(7200),
                Severity::Medium,
                "device_hub.certificate_grace",
            ),
            (
                |c| c.log.level = "info,holdfast_gateway=trace".to_owned(),
                Severity::Medium,
                "log.level",
            ),
            (|c| c.audit.max_files = 1, Severity::Low, "audit.max_files"),
            (
                |c| c.tls.rsa_certificate_file = None,
                Severity::Low,
                "tls.rsa_certificate_file",
            ),
            (|c| c.hub.host = "localhost".to_owned(), Severity::High, "hub.host"),
            (
                |c| c.hub.host = "other.example.com".to_owned(),
                Severity::High,
                "tls.certificate_file",
            ),
            (|c| c.net.ip_rules.clear(), Severity::Low, "net.ip_rules"),
            (
                |c| c.net.ip_rules = rules(&["accept 10.0.0.0/8", "reject 10.1.0.0/16", "reject 0.0.0.0/0"]),
                Severity::Medium,
                "net.ip_rules",
            ),
            (
                |c| c.net.ip_rules = rules(&["accept 10.0.0.0/8"]),
                Severity::High,
                "net.ip_rules",
            ),
            (
                |c| {
                    c.listen.mqtts = vec!["[::]:8883".parse().unwrap()];
                    c.net.ip_rules = rules(&["accept 10.0.0.0/8", "reject 0.0.0.0/0"]);
                },
                Severity::High,
                "net.ip_rules",
            ),
            (
                |c| c.net.proxies = vec!["0.0.0.0/0".parse().unwrap()],
                Severity::High,
                "net.proxies",
            ),
            (
                |c| c.net.proxies = vec!["10.0.0.0/8".parse().unwrap()],
                Severity::Medium,
                "net.proxies",
            ),
            (|c| c.oidc.issuer.clear(), Severity::Low, "auth.oidc.issuer"),
            (
                |c| c.oidc.audiences = holdfast_oidc::OidcConfig::default().audiences,
                Severity::Medium,
                "auth.oidc.audiences",
            ),
            (
                |c| c.oidc.clock_skew = holdfast_model::HumanDuration::secs(600),
                Severity::Medium,
                "auth.oidc.clock_skew",
            ),
            (
                |c| c.oidc.refresh_interval = holdfast_model::HumanDuration::secs(7 * 86_400),
                Severity::Medium,
                "auth.oidc.refresh_interval",
            ),
            (
                |c| c.service_auth.shared_policies = true,
                Severity::Low,
                "auth.service.shared_policies",
            ),
            (
                |c| c.tls.resumption = crate::config::Resumption::Off,
                Severity::Low,
                "tls.resumption",
            ),
            (
                |c| c.tls.ticket_lifetime = holdfast_model::HumanDuration::secs(2 * 86_400),
                Severity::Medium,
                "tls.ticket_lifetime",
            ),
            (
                |c| c.tls.ocsp_file = Some("/nowhere/ocsp.der".into()),
                Severity::Low,
                "tls.ocsp_file",
            ),
            (
                |c| c.tls.ocsp_file = c.tls.certificate_file.clone(),
                Severity::Medium,
                "tls.ocsp_file",
            ),
        ];
        let strong = strong(dir.path());
        for (weaken, severity, setting) in table {
            let mut config = strong.clone();
            weaken(&mut config);
            let found = check(&config);
            assert!(settings(&found, *severity).contains(setting), "{setting}: {found:?}");
        }
    }

    #[test]
    fn files_that_others_read_and_certificates_of_development_mode_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = strong(dir.path());
        let key = config.tls.key_file.clone().unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let node_key = config.cluster.key_file.clone().unwrap();
        std::fs::set_permissions(&node_key, std::fs::Permissions::from_mode(0o640)).unwrap();
        let found = check(&config);
        assert_eq!(settings(&found, Severity::High), ["tls.key_file"]);
        assert_eq!(settings(&found, Severity::Medium), ["cluster.key_file"]);
        assert!(found[0].set.contains("chmod 600"), "{found:?}");

        let dev = dir.path().join("dev");
        let files = certs::ensure(&dev, &["hub.example.com".to_owned()], OffsetDateTime::now_utc()).unwrap();
        let mut config = strong(dir.path());
        config.tls.certificate_file = Some(files.certificate_file);
        let found = check(&config);
        let dev_ca = found
            .iter()
            .find(|weakness| weakness.setting == "tls.certificate_file")
            .unwrap();
        assert!(dev_ca.reason.contains("development CA"), "{found:?}");

        let mut config = strong(dir.path());
        config.secrets.key_file = Some(config.hub.data_dir.join("sealing.key"));
        std::fs::write(config.secrets.key_file.as_ref().unwrap(), "00").unwrap();
        assert!(settings(&check(&config), Severity::High).contains(&"secrets.key_file"));
    }

    #[test]
    fn a_certificate_that_ends_soon_or_has_ended_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = strong(dir.path());
        let after = |days| weaknesses(&config, None, OffsetDateTime::now_utc() + time::Duration::days(days));
        assert!(settings(&after(80), Severity::Medium).contains(&"tls.certificate_file"));
        assert!(settings(&after(100), Severity::High).contains(&"tls.certificate_file"));
    }

    #[test]
    fn a_certificate_that_clients_refuse_without_an_ocsp_response_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = strong(dir.path());
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["hub.example.com".to_owned()]).unwrap();
        params.not_after = OffsetDateTime::now_utc() + time::Duration::days(90);
        // TLS feature: status_request (RFC 7633).
        let must_staple =
            rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![0x30, 3, 2, 1, 5]);
        params.custom_extensions = vec![must_staple];
        let file = dir.path().join("must-staple.pem");
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        config.tls.certificate_file = Some(file);
        assert_eq!(settings(&check(&config), Severity::High), ["tls.ocsp_file"]);
    }

    #[test]
    fn keys_of_chains_for_host_names_are_checked_like_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = strong(dir.path());
        let (certificate, key) = (config.tls.certificate_file.clone().unwrap(), dir.path().join("old.key"));
        std::fs::write(&key, "key").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        config.tls.alternatives = vec![format!("old.example.com={}:{}", certificate.display(), key.display())];
        let found = check(&config);
        // The certificate does not name that host either.
        assert_eq!(
            settings(&found, Severity::High),
            ["tls.alternatives", "tls.alternatives"]
        );
        assert!(
            found.iter().any(|weakness| weakness.reason.contains("old.example.com")),
            "{found:?}"
        );
    }

    #[test]
    fn secrets_in_the_file_itself_are_named_without_being_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let config = strong(dir.path());
        let path = dir.path().join("hub.toml");
        let text = "[hub]\n# HostName=x;SharedAccessKeyName=iothubowner;SharedAccessKey=c2VjcmV0\nhost = 'x'\n";
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let found = weaknesses(&config, Some((&path, text)), OffsetDateTime::now_utc());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].reason.contains("line 2") || found[1].reason.contains("line 2"),
            "{found:?}"
        );
        assert!(!format!("{found:?}").contains("c2VjcmV0"));
    }
}
