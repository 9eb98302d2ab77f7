//! Section `[s3]` of the configuration.

use std::path::PathBuf;

use holdfast_model::{ByteSize, HumanDuration};

/// Longest prefix: a key has at most 1024 bytes, and a name below the container needs most of them.
const MAX_PREFIX_BYTES: usize = 256;

holdfast_config::section! {
    /// The bucket of `upload.storage = "s3"`: AWS S3, or a service that speaks its protocol. The same on all nodes.
    pub struct S3Config = "s3" {
        /// The URL of the service, https or http, without a path, e.g. https://minio.example.com:9000. Default: that of AWS in the region.
        pub endpoint: String = String::new();
        /// The region that requests are signed for; services of one's own often take any.
        pub region: String = "us-east-1".to_owned();
        /// The bucket; it must be there.
        pub bucket: String = String::new();
        /// What every key begins with, without a slash at its ends. A file is at PREFIX/CONTAINER/DEVICE/NAME.
        pub prefix: String = String::new();
        /// Whether the bucket is the first label of the host's name; otherwise it is the first segment of the path.
        pub virtual_hosted: bool = false;
        /// A file with two lines, the access key's id and the secret access key, and a session token as a third one; mode 0600.
        /// It is read again when it has changed. Default: the environment's credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
        /// AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, or those of a container).
        pub credentials_file: Option<PathBuf> = None;
        /// Whether the metadata service of an EC2 machine gives the credentials, where nothing else does.
        pub instance_credentials: bool = false;
        /// The CA of the service's certificate, PEM. Default: the system's list.
        pub ca_file: Option<PathBuf> = None;
        /// Files that are larger are written in parts of this size; those of more than 10,000 parts in larger ones.
        pub part_size: ByteSize = ByteSize::mib(8), in ByteSize::mib(5)..=ByteSize::mib(512) => "must be 5MiB to 512MiB";
        /// Files that a node writes at once; each holds up to three parts in memory. More wait for their turn.
        pub writes: usize = 4, in 1..=64 => "must be 1 to 64";
        /// How long the service may take for one request: a part, or the head of an answer. A request that fails sooner is repeated, twice
        /// at most.
        pub request_timeout: HumanDuration = HumanDuration::secs(15),
            in HumanDuration::millis(100)..=HumanDuration::secs(300) => "must be 100 ms to 5 min";
        /// How long a device waits for its file to be in the bucket, before it gets 503 and repeats its request; the write continues, and
        /// the repeated request waits for it. Below the 60 s that SDKs wait.
        pub answer_timeout: HumanDuration = HumanDuration::secs(45),
            in HumanDuration::millis(100)..=HumanDuration::secs(600) => "must be 100 ms to 10 min";
    }
    check |s3| {
        s3.endpoint.is_empty() || is_endpoint(&s3.endpoint)
            => endpoint, "must be a URL with http or https, a host, with :PORT or without, and no path, user or password";
        is_plain(&s3.region) => region, "has letters, digits and dashes";
        s3.bucket.is_empty() || is_bucket(&s3.bucket)
            => bucket, "must be 3 to 63 lower-case letters, digits, dots and dashes";
        is_prefix(&s3.prefix)
            => prefix, "must have at most 256 characters of A-Z a-z 0-9 - _ . = between single slashes, and no slash at its ends";
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

pub(super) fn is_endpoint(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return false;
    };
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    let has_host = uri
        .authority()
        .is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
    is_web && has_host && matches!(uri.path(), "" | "/") && uri.query().is_none()
}

pub(super) fn is_bucket(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    (3..=63).contains(&name.len()) && name.bytes().all(is_plain) && !name.contains("..")
}

pub(super) fn is_prefix(prefix: &str) -> bool {
    let is_segment = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.=".contains(&b))
    };
    prefix.is_empty() || (prefix.len() <= MAX_PREFIX_BYTES && prefix.split('/').all(is_segment))
}

#[cfg(test)]
mod tests {
    use holdfast_config::Section as _;

    use super::*;

    #[test]
    fn what_cannot_be_a_bucket_is_named() {
        assert_eq!(S3Config::default().validate(), Ok(()));
        for (change, key) in [
            (
                (|config| config.endpoint = "minio:9000".to_owned()) as fn(&mut S3Config),
                "endpoint",
            ),
            (|config| config.endpoint = "ftp://x".to_owned(), "endpoint"),
            (|config| config.endpoint = "https://a:b@x".to_owned(), "endpoint"),
            (|config| config.endpoint = "https://x/bucket".to_owned(), "endpoint"),
            (|config| config.region = "a b".to_owned(), "region"),
            (|config| config.bucket = "Files".to_owned(), "bucket"),
            (|config| config.bucket = "a".to_owned(), "bucket"),
            (|config| config.prefix = "/hub".to_owned(), "prefix"),
            (|config| config.prefix = "hub/".to_owned(), "prefix"),
            (|config| config.prefix = "a/../b".to_owned(), "prefix"),
            (|config| config.prefix = "ü".to_owned(), "prefix"),
        ] {
            let mut config = S3Config::default();
            change(&mut config);
            assert_eq!(config.validate().unwrap_err().key, key, "{config:?}");
        }
        let good = S3Config {
            endpoint: "http://[::1]:9000".to_owned(),
            bucket: "fleet.files-1".to_owned(),
            prefix: "hub/eu_1".to_owned(),
            ..S3Config::default()
        };
        assert_eq!(good.validate(), Ok(()));
    }
}
