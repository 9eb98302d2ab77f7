//! Section `[upload]` of the configuration.

use std::path::PathBuf;

use holdfast_config::Choice;
use holdfast_model::HumanDuration;

/// Where devices upload files to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadStorageKind {
    /// Nowhere: uploads are refused with 400022.
    None,
    /// The embedded endpoint of this or another node of the hub.
    Embedded,
    /// The embedded endpoint, with the files in a bucket of S3.
    S3,
    /// An account of Azure Blob storage, or what speaks its protocol.
    Azure,
}

impl UploadStorageKind {
    /// Whether devices speak to the hub's own endpoint.
    #[must_use]
    pub const fn is_embedded(self) -> bool {
        matches!(self, Self::Embedded | Self::S3)
    }
}

impl Choice for UploadStorageKind {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("embedded", Self::Embedded),
        ("s3", Self::S3),
        ("azure", Self::Azure),
    ];
}

holdfast_config::section! {
    /// File upload of devices; the same on all nodes.
    pub struct UploadConfig = "upload" {
        /// Where devices upload to: `none`, `embedded` (section `[blob]`), `s3`, the embedded endpoint with the files in a bucket
        /// (section `[s3]`), or `azure`, an account of Azure Blob storage.
        pub storage: UploadStorageKind = UploadStorageKind::None;
        /// The container of all uploads; the embedded one is made, that of an account must be there. In a bucket it is a part of the key.
        pub container: String = "device-uploads".to_owned();
        /// The host, with a port unless it is 443, under which devices reach the storage. Default: the hub's own, or
        /// ACCOUNT.blob.core.windows.net. With `s3` it is this node's own address, where several nodes share a name: the blocks of a
        /// file must come to one node.
        pub endpoint: String = String::new();
        /// The account of `azure`.
        pub account: String = String::new();
        /// A file with its key, base64.
        pub key_file: Option<PathBuf> = None;
        /// The CA of its certificate, PEM. Default: the system's list.
        pub ca_file: Option<PathBuf> = None;
        /// How long a device may write after it has begun: the life of its signature and of its slot.
        pub sas_ttl: HumanDuration = HumanDuration::secs(3600),
            in HumanDuration::secs(60)..=HumanDuration::secs(86_400) => "must be 1 min to 1 day";
        /// Whether back ends get notifications at /messages/serviceBound/filenotifications.
        pub notifications: bool = true;
        /// How long a notification waits for a back end.
        pub notification_ttl: HumanDuration = HumanDuration::secs(3600),
            in HumanDuration::secs(60)..=HumanDuration::secs(172_800) => "must be 1 min to 2 days";
        /// How long a back end may take to settle one before another back end gets it.
        pub notification_lock: HumanDuration = HumanDuration::secs(60),
            in HumanDuration::secs(5)..=HumanDuration::secs(300) => "must be 5 s to 300 s";
        /// How often back ends may give one back before it is dropped.
        pub notification_max_deliveries: u32 = 10, in 1..=100 => "must be 1 to 100";
        /// A URL that each notification is POSTed to as well, http or https. Empty: none.
        pub webhook: String = String::new();
        /// How long one attempt to deliver to the webhook may take.
        pub webhook_timeout: HumanDuration = HumanDuration::secs(10),
            in HumanDuration::millis(100)..=HumanDuration::secs(60) => "must be 100 ms to 60 s";
    }
    check |upload| {
        upload.storage != UploadStorageKind::Azure || is_account(&upload.account)
            => account, "is needed with upload.storage = \"azure\": 3 to 24 lower-case letters and digits";
        upload.storage != UploadStorageKind::Azure || upload.key_file.is_some()
            => key_file, "is needed with upload.storage = \"azure\"";
        upload.endpoint.is_empty() || is_endpoint(&upload.endpoint)
            => endpoint, "must be a host name or IP, with :PORT or without, and no scheme or path";
        upload.webhook.is_empty() || is_web_url(&upload.webhook)
            => webhook, "must be a URL with http or https, without user and password";
    }
}

fn is_account(name: &str) -> bool {
    (3..=24).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// A host, with a port or without.
fn is_endpoint(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    !host.is_empty() && host.chars().all(is_plain) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Whether a text is a URL with http or https, without user and password.
#[must_use]
pub fn is_web_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?']).next());
    authority.is_some_and(is_endpoint) && url.chars().all(|c| c.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use holdfast_config::Section as _;

    use super::*;

    #[test]
    fn what_cannot_work_is_named() {
        assert_eq!(UploadConfig::default().validate(), Ok(()));
        let fault = |change: fn(&mut UploadConfig)| {
            let mut config = UploadConfig::default();
            change(&mut config);
            config.validate().err().map(|invalid| invalid.key)
        };
        assert_eq!(
            fault(|config| config.endpoint = "files.example.com:8443".to_owned()),
            None
        );
        assert_eq!(
            fault(|config| config.webhook = "https://x.example/hook?a=b".to_owned()),
            None
        );
        for (change, key) in [
            (
                (|config| config.storage = UploadStorageKind::Azure) as fn(&mut UploadConfig),
                "account",
            ),
            (
                |config| {
                    config.storage = UploadStorageKind::Azure;
                    config.account = "mine".to_owned();
                },
                "key_file",
            ),
            (|config| config.endpoint = "https://x".to_owned(), "endpoint"),
            (|config| config.endpoint = "x/y".to_owned(), "endpoint"),
            (|config| config.webhook = "ftp://x".to_owned(), "webhook"),
            (|config| config.webhook = "https://a:b@x".to_owned(), "webhook"),
        ] {
            assert_eq!(fault(change), Some(key));
        }
    }
}
