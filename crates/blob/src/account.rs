//! The account: its name, and the keys that open all of it.
//!
//! Invariants: keys are never printed, and compared in constant time; a missing key file is made once, with mode 0600.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use holdfast_auth::Key;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use thiserror::Error;

/// Bytes of a generated key, as many as Azure's.
const KEY_BYTES: usize = 64;

/// Most keys of a file: the one that signs, and the one before.
const MAX_KEYS: usize = 2;

/// Why there is no account.
#[derive(Debug, Error)]
pub enum AccountError {
    /// The file cannot be read or made.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its content is no key.
    #[error("{} holds no account key: one or two lines of base64, each of 16 to 64 bytes", .0.display())]
    Content(PathBuf),
}

/// See the module.
#[derive(Clone)]
pub struct Account {
    name: String,
    keys: Vec<Key>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Account").field(&self.name).finish_non_exhaustive()
    }
}

impl Account {
    /// The account `name` with one key.
    #[must_use]
    pub fn new(name: &str, key: Key) -> Self {
        Self {
            name: name.to_owned(),
            keys: vec![key],
        }
    }

    /// Reads the keys of `name`; with `may_create`, makes a missing file.
    ///
    /// # Errors
    /// [`AccountError`], which names the file and never its content.
    pub fn from_file(name: &str, path: &Path, may_create: bool) -> Result<Self, AccountError> {
        let failed = |source| AccountError::File {
            path: path.to_owned(),
            source,
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && may_create => make(path).map_err(failed)?,
            Err(error) => return Err(failed(error)),
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Result<Vec<Key>, _> = lines.map(Key::from_base64).collect();
        match keys {
            Ok(keys) if (1..=MAX_KEYS).contains(&keys.len()) => Ok(Self {
                name: name.to_owned(),
                keys,
            }),
            _ => Err(AccountError::Content(path.to_owned())),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key that signs.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.keys[0]
    }

    /// The signature of a text, base64.
    pub(crate) fn sign(&self, text: &str) -> String {
        STANDARD.encode(mac(self.key(), text))
    }

    /// Whether one of the keys has made the signature.
    pub(crate) fn verifies(&self, text: &str, signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else {
            return false;
        };
        let mut is_right = subtle::Choice::from(0);
        for key in &self.keys {
            is_right |= mac(key, text)[..].ct_eq(&signature);
        }
        is_right.into()
    }
}

fn mac(key: &Key, text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    // HMAC takes a key of any length.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) {
        mac.update(text.as_bytes());
        bytes.copy_from_slice(&mac.finalize().into_bytes());
    }
    bytes
}

fn make(path: &Path) -> std::io::Result<String> {
    let bytes: [u8; KEY_BYTES] = std::array::from_fn(|_| rand::random());
    let text = format!("{}\n", STANDARD.encode(bytes));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_missing_key_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob.key");
        assert!(matches!(
            Account::from_file("holdfast", &path, false),
            Err(AccountError::File { .. })
        ));
        let made = Account::from_file("holdfast", &path, true).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = Account::from_file("holdfast", &path, true).unwrap();
        assert_eq!(made.key(), read.key());
        assert!(!format!("{made:?}").contains(&*made.key().to_base64()));
        assert_eq!(made.key().as_bytes().len(), KEY_BYTES);
    }

    #[test]
    fn the_first_key_signs_and_both_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob.key");
        let [old, new] = [[1_u8; 32], [2; 32]].map(|bytes| STANDARD.encode(bytes));
        std::fs::write(&path, format!("{old}\n")).unwrap();
        let before = Account::from_file("holdfast", &path, false).unwrap();
        std::fs::write(&path, format!("{new}\n{old}\n")).unwrap();
        let after = Account::from_file("holdfast", &path, false).unwrap();
        assert!(after.verifies("text", &before.sign("text")));
        assert!(after.verifies("text", &after.sign("text")) && !before.verifies("text", &after.sign("text")));
        assert!(!after.verifies("other", &after.sign("text")) && !after.verifies("text", "?"));
        for bad in ["", "x", &format!("{new}\n{new}\n{new}\n"), "QQ=="] {
            std::fs::write(&path, bad).unwrap();
            assert!(
                matches!(Account::from_file("a", &path, true), Err(AccountError::Content(_))),
                "{bad}"
            );
        }
    }
}
