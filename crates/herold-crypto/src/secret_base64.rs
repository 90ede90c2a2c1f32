//! Base64 of private keys, in constant time: table look-ups would tell a neighbour of the cache
//! which characters were read (CVE-2024-40640).
//!
//! Clause: Matrix specification, appendices, *Unpadded Base64*; *Secrets*.

use base64ct::{Base64Unpadded, Encoding};
use zeroize::Zeroizing;

use crate::identity::KeyError;
use crate::secret::SecretString;

/// The characters that 32 bytes have, without padding.
const KEY_CHARACTERS: usize = 43;

/// Unpadded base64 of a private key.
pub(crate) fn encode_key(key: &[u8; 32]) -> SecretString {
    SecretString::new(Base64Unpadded::encode_string(key))
}

/// Reads a private key; padding is tolerated.
///
/// # Errors
///
/// [`KeyError::NotBase64`] or [`KeyError::WrongLength`].
pub(crate) fn decode_key(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let text = text.trim_end_matches('=');
    let mut key = Zeroizing::new([0; 32]);
    if text.len() != KEY_CHARACTERS {
        let is_base64 = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
        return Err(if is_base64 { KeyError::WrongLength } else { KeyError::NotBase64 });
    }
    Base64Unpadded::decode(text, &mut *key).map_err(|_| KeyError::NotBase64)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padding_is_tolerated_and_other_lengths_are_not() {
        let text = encode_key(&[7; 32]);
        assert_eq!(*decode_key(&format!("{}=", text.as_str())).unwrap(), [7; 32]);
        assert_eq!(decode_key("AAAA"), Err(KeyError::WrongLength));
        assert_eq!(decode_key(&"A".repeat(44)), Err(KeyError::WrongLength));
        assert_eq!(decode_key(&"*".repeat(43)), Err(KeyError::NotBase64));
        assert_eq!(decode_key("not base64"), Err(KeyError::NotBase64));
    }

    proptest! {
        #[test]
        fn every_key_comes_back(key: [u8; 32]) {
            prop_assert_eq!(*decode_key(encode_key(&key).as_str()).unwrap(), key);
        }

        #[test]
        fn no_text_makes_the_decoder_panic(text: String) {
            let _ = decode_key(&text);
        }
    }
}
