//! Base64 as Matrix writes it. Clause: appendices, *Unpadded Base64*.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, general_purpose::NO_PAD};

/// The standard alphabet; writes no padding, accepts it.
pub(crate) const STANDARD: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    NO_PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The URL-safe alphabet of JSON Web Keys; writes no padding, accepts it.
pub(crate) const URL_SAFE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    NO_PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Unpadded base64 of bytes that are not secret.
#[must_use]
pub fn to_unpadded_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Reads unpadded base64 (padding is tolerated); `None` if it is none.
#[must_use]
pub fn from_unpadded_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}
