//! Containers for secrets: wiped on drop, silent in `Debug`, compared in constant time.
//!
//! Both types serialise their content in clear, because records and room keys have to be stored
//! and sent. Whoever serialises one is responsible for encrypting the result.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// The largest buffer a length prefix from outside may reserve in one step, in bytes.
const MAX_PREALLOCATION: usize = 4096;

/// Bytes that must not leak: a record, a key.
///
/// Secrecy: `Debug` prints no content, equality takes constant time for equal lengths, and the
/// buffer is wiped on drop. Serialises as a byte string.
#[derive(Clone)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes ownership of `bytes`; copies the caller made before are not wiped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret itself. Do not log it.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice().ct_eq(other.as_slice()).into()
    }
}

impl Eq for SecretBytes {}

impl Serialize for SecretBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.as_slice())
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(SecretBytesVisitor)
    }
}

struct SecretBytesVisitor;

impl<'de> Visitor<'de> for SecretBytesVisitor {
    type Value = SecretBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte string")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<SecretBytes, E> {
        Ok(SecretBytes::new(bytes.to_vec()))
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<SecretBytes, E> {
        Ok(SecretBytes::new(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<SecretBytes, A::Error> {
        let announced = seq.size_hint().unwrap_or(0).min(MAX_PREALLOCATION);
        let mut bytes = Zeroizing::new(Vec::with_capacity(announced));
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        Ok(SecretBytes(bytes))
    }
}

/// Text that must not leak: a base64 room key, a passphrase.
///
/// Secrecy: as for [`SecretBytes`]. Serialises as a string.
#[derive(Clone)]
pub struct SecretString(Zeroizing<String>);

impl SecretString {
    /// Takes ownership of `text`; copies the caller made before are not wiped.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself. Do not log it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretString {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretString(..)")
    }
}

impl PartialEq for SecretString {
    fn eq(&self, other: &Self) -> bool {
        self.as_str().as_bytes().ct_eq(other.as_str().as_bytes()).into()
    }
}

impl Eq for SecretString {}

impl Serialize for SecretString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SecretString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_string(SecretStringVisitor)
    }
}

/// Unlike `String`'s own implementation, never quotes a mistyped value in the error.
struct SecretStringVisitor;

impl Visitor<'_> for SecretStringVisitor {
    type Value = SecretString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretString, E> {
        Ok(SecretString::new(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<SecretString, E> {
        Ok(SecretString::new(text))
    }

    fn visit_bytes<E: de::Error>(self, _bytes: &[u8]) -> Result<SecretString, E> {
        Err(E::custom("expected a string, found bytes"))
    }

    fn visit_byte_buf<E: de::Error>(self, mut bytes: Vec<u8>) -> Result<SecretString, E> {
        bytes.zeroize();
        Err(E::custom("expected a string, found bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn debug_prints_no_content() {
        assert_eq!(format!("{:?}", SecretBytes::new(b"sesame".to_vec())), "SecretBytes(..)");
        assert_eq!(format!("{:?}", SecretString::new("sesame".into())), "SecretString(..)");
    }

    #[test]
    fn bytes_serialise_as_one_byte_string() {
        let record = postcard::to_allocvec(&SecretBytes::new(vec![7, 200])).unwrap();
        assert_eq!(record, [2, 7, 200]);
    }

    #[test]
    fn bytes_are_read_from_json_arrays_as_well() {
        let secret: SecretBytes = serde_json::from_str("[1,2]").unwrap();
        assert_eq!(secret.as_slice(), [1, 2]);
    }

    #[test]
    fn a_mistyped_secret_is_not_quoted_in_the_error() {
        let packed = rmp_serde::to_vec(&SecretBytes::new(b"sesame".to_vec())).unwrap();
        let error = rmp_serde::from_slice::<SecretString>(&packed).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("sesame"));
    }

    proptest! {
        #[test]
        fn secrets_survive_postcard(bytes: Vec<u8>, text: String) {
            let pair = (SecretBytes::new(bytes), SecretString::new(text));
            let encoded = postcard::to_allocvec(&pair).unwrap();
            prop_assert_eq!(postcard::from_bytes::<(SecretBytes, SecretString)>(&encoded), Ok(pair));
        }

        #[test]
        fn equality_is_equality_of_content(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(SecretBytes::new(a.clone()) == SecretBytes::new(b.clone()), a == b);
        }
    }
}
