//! Section `[blob]` of the configuration.

use std::path::PathBuf;

use holdfast_model::{ByteSize, HumanDuration};

use crate::names;

holdfast_config::section! {
    /// The embedded Blob-compatible endpoint, on the HTTPS port under `/ACCOUNT`. It serves files from this node's disk alone: they
    /// are not replicated.
    pub struct BlobConfig = "blob" {
        /// Whether this node serves it.
        pub enabled: bool = false;
        /// The account's name: the first segment of the endpoint's paths, and part of every signature.
        pub account: String = "holdfaststore".to_owned();
        /// The account's keys, base64 of 64 bytes, one or two lines, mode 0600: the first one signs, both open. Made when it is missing.
        /// Default: blob.key in the data directory.
        pub key_file: Option<PathBuf> = None;
        /// Where the contents of blobs are kept, on one file system. Default: blobs in the data directory.
        pub directory: Option<PathBuf> = None;
        /// The largest blob.
        pub max_blob_size: ByteSize = ByteSize::gib(100), in ByteSize::mib(1).. => "must be at least 1MiB";
        /// Bytes of all blobs, uncommitted blocks included; past it writes are refused with 503. `storage.min_free` holds besides.
        pub capacity: ByteSize = ByteSize::gib(1024), in ByteSize::mib(1).. => "must be at least 1MiB";
        /// Writes that the node works on at once, and reads as many; more are answered with 503. Each holds up to 1 MiB.
        pub max_requests: usize = 64, in 1..=4096 => "must be 1 to 4096";
        /// How long a writer may take for half a mebibyte before its request is ended.
        pub chunk_timeout: HumanDuration = HumanDuration::secs(300),
            in HumanDuration::secs(1)..=HumanDuration::secs(3600) => "must be 1 s to 1 h";
        /// How long blocks are kept that no block list has committed.
        pub uncommitted_lifetime: HumanDuration = HumanDuration::secs(7 * 86_400),
            in HumanDuration::secs(60)..=HumanDuration::secs(30 * 86_400) => "must be 1 min to 30 days";
    }
    check |blob| {
        names::is_account(&blob.account) => account, "must be 3 to 24 lower-case letters and digits, and no word of the hub's own paths";
    }
}

#[cfg(test)]
mod tests {
    use holdfast_config::Section as _;

    use super::*;

    #[test]
    fn an_account_is_no_path_of_the_hub() {
        assert_eq!(BlobConfig::default().validate(), Ok(()));
        for account in [
            "",
            "ab",
            "Devices",
            "devices",
            "messages",
            "a-b",
            "0123456789012345678901234",
        ] {
            let config = BlobConfig {
                account: account.to_owned(),
                ..BlobConfig::default()
            };
            assert_eq!(config.validate().unwrap_err().key, "account", "{account}");
        }
    }
}
