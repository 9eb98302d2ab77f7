//! Envelope encryption of secrets at rest: sealed with a hub-wide data key, which is wrapped by a key-encryption key.
//!
//! Why two keys: the leader seals before it proposes, so that log, write-ahead log and snapshots hold no secret in
//! clear, and all replicas open with the same data key; the key-encryption key can be changed by wrapping the data key
//! again, without touching sealed values.
//! AES-256-GCM. A sealed value is version (1), nonce (12), ciphertext and tag (16); the version is authenticated.
//! Nonces are random: the data key seals far fewer than the 2³² values that 96-bit random nonces allow.
//! Not here: how a joining node gets the wrapped key (the registry hands it over).

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand;
use bytes::Bytes;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::datadir::write_durably;

/// Length of a nonce in bytes.
pub const NONCE_BYTES: usize = 12;

const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const VERSION: u8 = 1;
/// In the data directory: the data key, wrapped.
pub(crate) const WRAPPED_KEY: &str = "data.key";

/// Why a secret cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// Too short, or of an unknown version.
    #[error("not a sealed value")]
    Malformed,
    /// Sealed with another key, or changed since.
    #[error("sealed with another key, or damaged")]
    Forged,
    /// The system gave no randomness, or the key was refused.
    #[error("cryptographic library failed: {0}")]
    Library(&'static str),
    /// The file with the key-encryption key cannot be used.
    #[error("key file {}: {reason}", .path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
}

impl SealError {
    fn file(path: &Path, reason: impl ToString) -> Self {
        Self::KeyFile {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// A fresh random nonce.
///
/// # Errors
/// [`SealError::Library`].
pub fn fresh_nonce() -> Result<[u8; NONCE_BYTES], SealError> {
    let mut nonce = [0; NONCE_BYTES];
    rand::fill(&mut nonce).map_err(|_| SealError::Library("no randomness"))?;
    Ok(nonce)
}

/// A key-encryption key: 32 bytes that never leave the operator's care.
pub struct Kek(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(hidden)")
    }
}

impl Kek {
    /// A key from its bytes.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads a file of 64 hexadecimal digits, which only its owner may read, and a group of this process: Kubernetes gives the
    /// files of a Secret to root and the pod's group, with mode 0440.
    ///
    /// # Errors
    /// [`SealError::KeyFile`].
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        let metadata = fs::metadata(path).map_err(|error| SealError::file(path, error))?;
        check_mode(metadata.permissions().mode() & 0o777, is_own_group(metadata.gid()))
            .map_err(|reason| SealError::file(path, reason))?;
        let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| SealError::file(path, error))?);
        Self::from_hex(text.trim()).ok_or_else(|| SealError::file(path, "must hold 64 hexadecimal digits"))
    }

    /// A key from 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if HEXLOWER_PERMISSIVE.decode_len(text.len()) != Ok(KEY_BYTES) {
            return None;
        }
        HEXLOWER_PERMISSIVE.decode_mut(text.as_bytes(), &mut *key).ok()?;
        Some(Self(key))
    }

    /// Reads `path`, or makes it with a fresh key and mode 0600: for dev mode.
    ///
    /// # Errors
    /// [`SealError::KeyFile`].
    pub fn open_or_create(path: &Path) -> Result<Self, SealError> {
        if path.exists() {
            return Self::from_file(path);
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(&mut *key).map_err(|_| SealError::Library("no randomness"))?;
        let text = Zeroizing::new(HEXLOWER.encode(&*key));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| SealError::file(path, error))?;
        writeln!(file, "{}", *text)
            .and_then(|()| file.sync_all())
            .map_err(|error| SealError::file(path, error))?;
        Ok(Self(key))
    }
}

/// Checks the permission bits of a key file; `own_group`: its group is one of this process.
fn check_mode(mode: u32, own_group: bool) -> Result<(), String> {
    match mode {
        mode if mode & 0o077 == 0 => Ok(()),
        mode if mode & 0o037 != 0 => Err(format!(
            "mode {mode:03o} lets others read or change it; use 600, or 440 with the hub's group"
        )),
        _ if own_group => Ok(()),
        mode => Err(format!(
            "mode {mode:03o} lets a group read it that is none of this process; use 600, or the hub's group"
        )),
    }
}

/// Whether the process is in the group, as its own or as a further one.
fn is_own_group(group: u32) -> bool {
    let is_it = |other: rustix::process::Gid| other.as_raw() == group;
    is_it(rustix::process::getegid()) || rustix::process::getgroups().is_ok_and(|groups| groups.into_iter().any(is_it))
}

/// Seals and opens with the hub's data key.
pub struct Sealer {
    key: LessSafeKey,
    wrapped: Bytes,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(hidden)")
    }
}

impl Sealer {
    /// A sealer with a fresh data key, wrapped by `kek`.
    ///
    /// # Errors
    /// [`SealError::Library`].
    pub fn generate(kek: &Kek) -> Result<Self, SealError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(&mut *key).map_err(|_| SealError::Library("no randomness"))?;
        let wrapped = seal_with(&cipher(&*kek.0)?, &*key, fresh_nonce()?)?;
        Ok(Self {
            key: cipher(&*key)?,
            wrapped,
        })
    }

    /// A sealer with the data key that `kek` wrapped as `wrapped`.
    ///
    /// # Errors
    /// [`SealError::Forged`] when another key wrapped it.
    pub fn unwrap(kek: &Kek, wrapped: &[u8]) -> Result<Self, SealError> {
        let key = open_with(&cipher(&*kek.0)?, wrapped)?;
        Ok(Self {
            key: cipher(&key)?,
            wrapped: Bytes::copy_from_slice(wrapped),
        })
    }

    /// The sealer of a data directory: reads its wrapped data key, or makes one when `fresh`.
    ///
    /// # Errors
    /// [`SealError::KeyFile`] when the file is missing though the directory is not fresh, or was wrapped by another key.
    pub fn of_directory(dir: &Path, kek: &Kek, fresh: bool) -> Result<Self, SealError> {
        let path = dir.join(WRAPPED_KEY);
        match fs::read(&path) {
            Ok(wrapped) => Self::unwrap(kek, &wrapped).map_err(|error| SealError::file(&path, error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && fresh => {
                let sealer = Self::generate(kek)?;
                write_durably(&path, &sealer.wrapped).map_err(|error| SealError::file(&path, error))?;
                Ok(sealer)
            }
            Err(error) => Err(SealError::file(&path, error)),
        }
    }

    /// The sealer of a directory that enters a hub: keeps the hub's data key there, `wrapped` as another node of the hub
    /// has given it. May be repeated with the same data key, wrapped alike or anew.
    ///
    /// # Errors
    /// [`SealError::Forged`] when this node's key-encryption key is not the one that wrapped it; [`SealError::KeyFile`]
    /// when the directory has another data key, or cannot be written.
    pub fn adopt(dir: &Path, kek: &Kek, wrapped: &[u8]) -> Result<Self, SealError> {
        let path = dir.join(WRAPPED_KEY);
        let sealer = Self::unwrap(kek, wrapped)?;
        match fs::read(&path) {
            Ok(stored) if stored == *wrapped => return Ok(sealer),
            Ok(stored) => {
                let own = Self::unwrap(kek, &stored).map_err(|error| SealError::file(&path, error))?;
                let probe = own.seal(b"probe", fresh_nonce()?)?;
                if sealer.open(&probe).is_err() {
                    return Err(SealError::file(
                        &path,
                        "the directory holds the data key of another hub: it cannot join this one; use an empty directory",
                    ));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(SealError::file(&path, error)),
        }
        write_durably(&path, wrapped).map_err(|error| SealError::file(&path, error))?;
        Ok(sealer)
    }

    /// The data key as the key-encryption key wrapped it.
    #[must_use]
    pub fn wrapped(&self) -> &Bytes {
        &self.wrapped
    }

    /// Seals `secret`. `nonce` must never have been used with this key: see [`fresh_nonce`].
    ///
    /// # Errors
    /// [`SealError::Library`].
    pub fn seal(&self, secret: &[u8], nonce: [u8; NONCE_BYTES]) -> Result<Bytes, SealError> {
        seal_with(&self.key, secret, nonce)
    }

    /// Opens a value sealed by [`Sealer::seal`].
    ///
    /// # Errors
    /// [`SealError::Malformed`], [`SealError::Forged`].
    pub fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        open_with(&self.key, sealed)
    }
}

/// What [`rewrap`] has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrap {
    /// The data key was wrapped by the old key and is wrapped by the new one.
    Done,
    /// It was wrapped by the new key before.
    Already,
}

/// Wraps the data key of a directory, which no process may have open, with `new` in place of `old`. A crash leaves it wrapped by one
/// of them.
///
/// # Errors
/// [`SealError::KeyFile`] when the directory has no data key, or one that neither key wrapped; nothing has been changed then.
pub fn rewrap(dir: &Path, old: &Kek, new: &Kek) -> Result<Rewrap, SealError> {
    let path = dir.join(WRAPPED_KEY);
    let wrapped = fs::read(&path).map_err(|error| SealError::file(&path, error))?;
    if open_with(&cipher(&*new.0)?, &wrapped).is_ok() {
        return Ok(Rewrap::Already);
    }
    let key = open_with(&cipher(&*old.0)?, &wrapped).map_err(|error| SealError::file(&path, error))?;
    let wrapped = seal_with(&cipher(&*new.0)?, &key, fresh_nonce()?)?;
    write_durably(&path, &wrapped).map_err(|error| SealError::file(&path, error))?;
    Ok(Rewrap::Done)
}

fn cipher(key: &[u8]) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|_| SealError::Library("key refused"))
}

fn seal_with(key: &LessSafeKey, secret: &[u8], nonce: [u8; NONCE_BYTES]) -> Result<Bytes, SealError> {
    let mut ciphertext = Zeroizing::new(secret.to_vec());
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from([VERSION]),
            &mut ciphertext,
        )
        .map_err(|_| SealError::Library("sealing failed"))?;
    let mut sealed = Vec::with_capacity(1 + NONCE_BYTES + secret.len() + TAG_BYTES);
    sealed.push(VERSION);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&ciphertext);
    sealed.extend_from_slice(tag.as_ref());
    Ok(sealed.into())
}

fn open_with(key: &LessSafeKey, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (version, rest) = sealed.split_first().ok_or(SealError::Malformed)?;
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::Malformed)?;
    if *version != VERSION || ciphertext.len() < TAG_BYTES {
        return Err(SealError::Malformed);
    }
    let mut opened = Zeroizing::new(ciphertext.to_vec());
    let length = key
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from([VERSION]), &mut opened)
        .map_err(|_| SealError::Forged)?
        .len();
    opened.truncate(length);
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kek() -> Kek {
        Kek::new([7; 32])
    }

    #[test]
    fn a_sealed_value_opens_and_does_not_show_the_secret() {
        let sealer = Sealer::generate(&kek()).unwrap();
        for secret in [&b""[..], b"x", &[9; 1000]] {
            let sealed = sealer.seal(secret, fresh_nonce().unwrap()).unwrap();
            assert_eq!(sealer.open(&sealed).unwrap().as_slice(), secret);
            assert!(secret.len() < 2 || !sealed.windows(secret.len()).any(|window| window == secret));
        }
    }

    #[test]
    fn a_changed_byte_is_refused_wherever_it_is() {
        let sealer = Sealer::generate(&kek()).unwrap();
        let sealed = sealer.seal(b"secret", [1; NONCE_BYTES]).unwrap();
        for position in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[position] ^= 1;
            assert!(sealer.open(&changed).is_err(), "byte {position}");
            assert!(sealer.open(&sealed[..position]).is_err(), "cut at {position}");
        }
    }

    #[test]
    fn sealing_is_a_function_of_secret_and_nonce() {
        let sealer = Sealer::generate(&kek()).unwrap();
        assert_eq!(
            sealer.seal(b"s", [1; 12]),
            sealer.seal(b"s", [1; 12]),
            "replicas apply the same command alike"
        );
        assert_ne!(sealer.seal(b"s", [1; 12]), sealer.seal(b"s", [2; 12]));
    }

    #[test]
    fn a_directory_keeps_its_data_key_and_refuses_another_key_encryption_key() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = Sealer::of_directory(dir.path(), &kek(), true)
            .unwrap()
            .seal(b"s", [3; 12])
            .unwrap();
        let again = Sealer::of_directory(dir.path(), &kek(), false).unwrap();
        assert_eq!(again.open(&sealed).unwrap().as_slice(), b"s");
        assert!(matches!(
            Sealer::of_directory(dir.path(), &Kek::new([8; 32]), false),
            Err(SealError::KeyFile { .. })
        ));
        fs::remove_file(dir.path().join(WRAPPED_KEY)).unwrap();
        assert!(
            Sealer::of_directory(dir.path(), &kek(), false).is_err(),
            "a lost key is not replaced by a new one"
        );
    }

    #[test]
    fn a_data_key_that_is_wrapped_again_opens_what_was_sealed_before() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (kek(), Kek::new([8; 32]));
        assert!(rewrap(dir.path(), &old, &new).is_err(), "there is none");
        let sealed = Sealer::of_directory(dir.path(), &old, true)
            .unwrap()
            .seal(b"s", [3; 12])
            .unwrap();
        let other = Kek::new([9; 32]);
        assert!(rewrap(dir.path(), &other, &new).is_err(), "the old key is another");
        assert_eq!(rewrap(dir.path(), &old, &new), Ok(Rewrap::Done));
        assert_eq!(rewrap(dir.path(), &old, &new), Ok(Rewrap::Already));
        let sealer = Sealer::of_directory(dir.path(), &new, false).unwrap();
        assert_eq!(sealer.open(&sealed).unwrap().as_slice(), b"s");
        assert!(Sealer::of_directory(dir.path(), &old, false).is_err());
    }

    #[test]
    fn a_joining_directory_adopts_the_hubs_data_key_and_keeps_it() {
        let (hub, joining) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Sealer::of_directory(hub.path(), &kek(), true).unwrap();
        let sealed = first.seal(b"s", [4; 12]).unwrap();
        assert!(matches!(
            Sealer::adopt(joining.path(), &Kek::new([8; 32]), first.wrapped()),
            Err(SealError::Forged)
        ));
        assert!(
            !joining.path().join(WRAPPED_KEY).exists(),
            "nothing is kept of what cannot be opened"
        );
        for _ in 0..2 {
            let second = Sealer::adopt(joining.path(), &kek(), first.wrapped()).unwrap();
            assert_eq!(second.open(&sealed).unwrap().as_slice(), b"s");
        }
        let again = Sealer::of_directory(joining.path(), &kek(), false).unwrap();
        assert_eq!(again.open(&sealed).unwrap().as_slice(), b"s");
        let other = Sealer::generate(&kek()).unwrap();
        assert!(matches!(
            Sealer::adopt(joining.path(), &kek(), other.wrapped()),
            Err(SealError::KeyFile { .. })
        ));
        for bad in [&b""[..], b"x", &[1; 61], &[0; 4096]] {
            assert!(Sealer::adopt(joining.path(), &kek(), bad).is_err());
        }
        assert_eq!(
            Sealer::of_directory(joining.path(), &kek(), false).unwrap().wrapped(),
            first.wrapped()
        );
    }

    #[test]
    fn the_key_file_is_made_for_its_owner_alone_and_refused_when_others_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        let first = Kek::open_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(*Kek::open_or_create(&path).unwrap().0, *first.0);
        for (mode, fits) in [
            (0o400, true),
            (0o440, true),
            (0o640, true),
            (0o444, false),
            (0o660, false),
            (0o644, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(
                Kek::from_file(&path).is_ok(),
                fits,
                "{mode:03o}, and a group of this process"
            );
        }
        assert!(check_mode(0o440, false).unwrap_err().contains("none of this process"));
        assert!(check_mode(0o600, false).is_ok());
        assert_eq!(format!("{first:?}"), "Kek(hidden)");
    }
}
