//! The outer form that certificates, revocation lists and OCSP responses share: something to be signed, an algorithm, a signature.
//!
//! Why: the libraries that read both hide the bytes that were signed, and `webpki` verifies signatures only of whole chains.
//! Invariants: no allocation; nothing outside of the given bytes is read; the content of a signed part is not interpreted.

use super::chain::SIGNATURES;

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// One element of DER.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    /// With tag and length.
    pub(super) whole: &'a [u8],
    pub(super) content: &'a [u8],
}

/// Takes the first element of `input`; `None` when there is none, or it is cut or of an indefinite length.
pub(super) fn element<'a>(input: &mut &'a [u8]) -> Option<Element<'a>> {
    let bytes = *input;
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, head) = match first {
        0..=0x7f => (usize::from(first), 2),
        0x81..=0x84 => {
            let digits = usize::from(first & 0x7f);
            let length = rest.get(..digits)?;
            let length = length.iter().fold(0, |sum, digit| (sum << 8) | usize::from(*digit));
            (length, 2 + digits)
        }
        _ => return None,
    };
    let end = head.checked_add(length)?;
    let whole = bytes.get(..end)?;
    *input = &bytes[end..];
    Some(Element {
        tag,
        whole,
        content: &whole[head..],
    })
}

/// Takes the first element of `input` if it has `tag`.
pub(super) fn tagged<'a>(input: &mut &'a [u8], tag: u8) -> Option<Element<'a>> {
    let mut rest = *input;
    let found = element(&mut rest).filter(|found| found.tag == tag)?;
    *input = rest;
    Some(found)
}

/// A certificate, revocation list or OCSP response, cut into its three parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signed<'a> {
    /// The part that the signature is over.
    pub(super) message: Element<'a>,
    /// The content of the algorithm's identifier.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    pub(super) fn read(der: &'a [u8]) -> Option<Self> {
        let (signed, rest) = Self::read_head(der)?;
        rest.is_empty().then_some(signed)
    }

    /// The first three parts of `der`, and what follows them inside of it: an OCSP response has certificates there.
    pub(super) fn read_head(mut der: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut parts = tagged(&mut der, SEQUENCE)?.content;
        let message = tagged(&mut parts, SEQUENCE)?;
        let algorithm = tagged(&mut parts, SEQUENCE)?.content;
        let signature = bits(&mut parts)?;
        let signed = Self {
            message,
            algorithm,
            signature,
        };
        der.is_empty().then_some((signed, parts))
    }

    /// Whether the owner of `key`, a `SubjectPublicKeyInfo` in DER, has signed it with an accepted algorithm.
    pub(super) fn is_signed_by(&self, mut key: &[u8]) -> bool {
        let Some(mut info) = tagged(&mut key, SEQUENCE).map(|info| info.content) else {
            return false;
        };
        let (Some(algorithm), Some(bits)) = (tagged(&mut info, SEQUENCE), bits(&mut info)) else {
            return false;
        };
        SIGNATURES
            .iter()
            .filter(|known| *known.public_key_alg_id() == *algorithm.content)
            .filter(|known| *known.signature_alg_id() == *self.algorithm)
            .any(|known| known.verify_signature(bits, self.message.whole, self.signature).is_ok())
    }
}

/// The bytes of a bit string without unused bits.
fn bits<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    match tagged(input, BIT_STRING)?.content.split_first()? {
        (0, bits) => Some(bits),
        _ => None,
    }
}
