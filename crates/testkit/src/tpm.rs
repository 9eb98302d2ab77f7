//! A TPM 2.0 in memory, as far as provisioning needs one: two keys, the activation of an HMAC key, and signatures with it.
//!
//! Written from the TPM 2.0 Library alone, so that it is a second opinion on what `auth::tpm` writes. Panics on everything that a TPM
//! refuses.

use aws_lc_rs::cipher::{AES_128, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};

/// The policy of the clients' endorsement keys, and their attributes.
const ENDORSEMENT: (u32, usize) = (0x0003_00b2, 32);
/// Of their storage root keys, which have no policy.
const STORAGE_ROOT: (u32, usize) = (0x0003_0472, 0);

/// A TPM.
pub struct EmulatedTpm {
    endorsement: Half,
    storage_root: Half,
    /// The key at the persistent handle 0x81000100.
    hmac_key: Option<Vec<u8>>,
}

/// A key pair and its public area.
struct Half {
    private: OaepPrivateDecryptingKey,
    area: Vec<u8>,
}

impl Half {
    fn generate((attributes, policy_bytes): (u32, usize)) -> Self {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("a key");
        let public = private.public_key();
        let spki = public.as_der().expect("DER");
        let spki: &[u8] = spki.as_ref();
        // The number, and INTEGER 65537 behind it.
        let modulus = &spki[spki.len() - 5 - 256..spki.len() - 5];
        let area = [
            &[0x00, 0x01, 0x00, 0x0b][..],
            &attributes.to_be_bytes(),
            &sized(&vec![0x83; policy_bytes]),
            // AES-128-CFB, no scheme, 2048 bits, the default exponent.
            &[0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x08, 0x00, 0, 0, 0, 0],
            &sized(modulus),
        ]
        .concat();
        Self {
            private: OaepPrivateDecryptingKey::new(private).expect("a key for OAEP"),
            area,
        }
    }

    fn open(&self, sealed: &[u8], label: &[u8]) -> Vec<u8> {
        let mut opened = vec![0; self.private.min_output_size()];
        let opened = self
            .private
            .decrypt(&OAEP_SHA256_MGF1SHA256, sealed, &mut opened, Some(label));
        opened.expect("a seed for this key").to_vec()
    }
}

impl Default for EmulatedTpm {
    fn default() -> Self {
        Self::new()
    }
}

impl EmulatedTpm {
    /// A new TPM, with keys of its own.
    #[must_use]
    pub fn new() -> Self {
        Self {
            endorsement: Half::generate(ENDORSEMENT),
            storage_root: Half::generate(STORAGE_ROOT),
            hmac_key: None,
        }
    }

    /// `TPM2B_PUBLIC` of the endorsement key.
    #[must_use]
    pub fn endorsement_key(&self) -> Vec<u8> {
        sized(&self.endorsement.area)
    }

    /// `TPM2B_PUBLIC` of the storage root key.
    #[must_use]
    pub fn storage_root_key(&self) -> Vec<u8> {
        sized(&self.storage_root.area)
    }

    /// Loads the key of an activation blob: ActivateCredential, Import, Load, EvictControl.
    pub fn activate(&mut self, blob: &[u8]) {
        let [credential, seed1, duplicate, seed2, area, text] = parts(blob);
        let root_name = name(&self.storage_root.area);
        // ActivateCredential.
        let seed1 = self.endorsement.open(seed1, b"IDENTITY\0");
        let (outer, identity) = split(credential);
        assert_eq!(
            outer,
            mac(&kdfa(&seed1, "INTEGRITY", &[]), &[identity, &root_name]),
            "the credential's HMAC"
        );
        let mut identity = identity.to_vec();
        decrypt(&kdfa(&seed1, "STORAGE", &root_name)[..16], &mut identity);
        let (inner_key, rest) = split(&identity);
        assert!(rest.is_empty() && inner_key.len() == 16, "the inner key");
        // Import.
        let seed2 = self.storage_root.open(seed2, b"DUPLICATE\0");
        let key_name = name(area);
        let (outer, wrapped) = split(duplicate);
        assert_eq!(
            outer,
            mac(&kdfa(&seed2, "INTEGRITY", &[]), &[wrapped, &key_name]),
            "the duplicate's HMAC"
        );
        let mut sensitive = wrapped.to_vec();
        decrypt(&kdfa(&seed2, "STORAGE", &key_name)[..16], &mut sensitive);
        decrypt(inner_key, &mut sensitive);
        let (inner, sensitive) = split(&sensitive);
        assert_eq!(
            inner,
            digest(&SHA256, &[sensitive, &key_name].concat()).as_ref(),
            "the inner digest"
        );
        // Load: the public area belongs to the sensitive one.
        let (sensitive, rest) = split(sensitive);
        assert!(rest.is_empty());
        assert_eq!(
            &sensitive[..4],
            [0x00, 0x08, 0x00, 0x00],
            "a keyed hash without authorization"
        );
        let (blinding, rest) = split(&sensitive[4..]);
        let (key, rest) = split(rest);
        assert!(rest.is_empty());
        let unique = digest(&SHA256, &[blinding, key].concat());
        assert!(area.ends_with(unique.as_ref()), "the public area is of another key");
        assert!(!text.is_empty());
        self.hmac_key = Some(key.to_vec());
    }

    /// TPM2_HMAC with the key that was activated last.
    #[must_use]
    pub fn hmac(&self, message: &[u8]) -> Vec<u8> {
        mac(self.hmac_key.as_ref().expect("an activated key"), &[message])
    }
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let size = u16::try_from(bytes.len()).expect("a short value");
    [&size.to_be_bytes()[..], bytes].concat()
}

/// The first value, which has its size before it, and the rest.
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (size, rest) = bytes.split_first_chunk::<2>().expect("a size");
    rest.split_at(usize::from(u16::from_be_bytes(*size)))
}

fn parts(blob: &[u8]) -> [&[u8]; 6] {
    let mut rest = blob;
    let parts = std::array::from_fn(|_| {
        let (part, behind) = split(rest);
        rest = behind;
        part
    });
    assert!(rest.is_empty(), "bytes behind the blob");
    parts
}

fn name(area: &[u8]) -> Vec<u8> {
    [&[0x00, 0x0b][..], digest(&SHA256, area).as_ref()].concat()
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    sign(&Key::new(HMAC_SHA256, key), &parts.concat()).as_ref().to_vec()
}

/// KDFa; the caller takes the first bytes of "STORAGE", whose number of bits is 128.
fn kdfa(key: &[u8], label: &str, context: &[u8]) -> Vec<u8> {
    let bits: u32 = if label == "STORAGE" { 128 } else { 256 };
    mac(
        key,
        &[
            &1_u32.to_be_bytes(),
            label.as_bytes(),
            &[0],
            context,
            &bits.to_be_bytes(),
        ],
    )
}

fn decrypt(key: &[u8], bytes: &mut [u8]) {
    let key = UnboundCipherKey::new(&AES_128, key).expect("a key of AES-128");
    let key = DecryptingKey::cfb128(key).expect("CFB");
    let zeros = DecryptionContext::Iv128(FixedLength::from([0; 16]));
    key.decrypt(bytes, zeros).expect("CFB decrypts everything");
}
