//! Base64 as Matrix writes it. Clause: appendices, *Unpadded Base64*.

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
