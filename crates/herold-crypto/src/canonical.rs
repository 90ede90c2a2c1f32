//! Canonical JSON and the signatures over it.
//!
//! Clauses: Matrix specification, appendices, *Canonical JSON*, *Signing JSON* and *Checking for a
//! Signature*. A value that the grammar does not cover (a float, a number beyond 2^53 - 1) is an
//! error, never rounded: two implementations that round differently would sign different bytes.

use serde_json::{Map, Value};
use vodozemac::{Ed25519PublicKey, Ed25519Signature};

/// The largest magnitude of an integer, 2^53 - 1.
const MAX_INTEGER: i64 = (1 << 53) - 1;

/// The deepest nesting that is written; what the JSON parser accepts is no deeper.
const MAX_DEPTH: usize = 128;

/// Why a value has no canonical form, or cannot be signed. The texts quote nothing of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CanonicalJsonError {
    /// A number with a fraction or an exponent, even if its value is whole.
    #[error("a number is not written as an integer")]
    Float,
    /// An integer beyond plus or minus 2^53 - 1.
    #[error("an integer is out of range")]
    IntegerRange,
    /// Nested deeper than 128 levels.
    #[error("the value is nested too deeply")]
    TooDeep,
    /// The value to sign or to check is no object.
    #[error("the value is not an object")]
    NotAnObject,
    /// The object has `signatures` of another shape than user, key id, signature.
    #[error("the object's signatures are malformed")]
    MalformedSignatures,
    /// A string could not be escaped.
    #[error("a string cannot be written")]
    Text,
}

/// Why a signature on an object was not accepted. The texts quote nothing of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The object has no signature by this user with this key.
    #[error("the signature is missing")]
    Missing,
    /// The signature is not 64 bytes in base64, or stands where none belongs.
    #[error("the signature is malformed")]
    Malformed,
    /// The signature is not of this key over this object.
    #[error("the signature is invalid")]
    Invalid,
    /// The object has no canonical form, so nobody can have signed it.
    #[error("the signed object is not canonical JSON: {0}")]
    NotCanonical(#[source] CanonicalJsonError),
}

/// Writes `value` in canonical form: no white space, keys in the order of their code points,
/// shortest escapes, integers only.
///
/// # Errors
///
/// See [`CanonicalJsonError`].
pub fn canonical_json(value: &Value) -> Result<String, CanonicalJsonError> {
    let mut out = String::new();
    write_value(&mut out, value, MAX_DEPTH)?;
    Ok(out)
}

/// Checks that `user_id` signed `object` with `key`, which the object names as `key_id`
/// (`ed25519:DEVICEID`).
///
/// `signatures` and `unsigned` are outside the signed bytes. The check is the strict one: keys of
/// small order, commitments of small order and non-canonical scalars are invalid. Success says
/// nothing about who owns `key`.
///
/// # Errors
///
/// See [`SignatureError`].
pub fn verify_json(
    key: &Ed25519PublicKey,
    user_id: &str,
    key_id: &str,
    object: &Value,
) -> Result<(), SignatureError> {
    let object =
        object.as_object().ok_or(SignatureError::NotCanonical(CanonicalJsonError::NotAnObject))?;
    let signature = find_signature(object, user_id, key_id)?;
    let signed = signed_bytes(object).map_err(SignatureError::NotCanonical)?;
    key.verify(signed.as_bytes(), &signature).map_err(|_| SignatureError::Invalid)
}

/// Adds `signature` of `signer` over `object` as `signatures[user_id][key_id]`; keeps all else.
pub(crate) fn sign_json(
    user_id: &str,
    key_id: String,
    object: &mut Value,
    signer: impl FnOnce(&[u8]) -> Ed25519Signature,
) -> Result<(), CanonicalJsonError> {
    let object = object.as_object_mut().ok_or(CanonicalJsonError::NotAnObject)?;
    let signature = signer(signed_bytes(object)?.as_bytes());
    let by_user = object
        .entry("signatures")
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
        .ok_or(CanonicalJsonError::MalformedSignatures)?;
    by_user
        .entry(user_id)
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
        .ok_or(CanonicalJsonError::MalformedSignatures)?
        .insert(key_id, Value::String(signature.to_base64()));
    Ok(())
}

fn find_signature(
    object: &Map<String, Value>,
    user_id: &str,
    key_id: &str,
) -> Result<Ed25519Signature, SignatureError> {
    let mut found = object.get("signatures").ok_or(SignatureError::Missing)?;
    for name in [user_id, key_id] {
        found = found
            .as_object()
            .ok_or(SignatureError::Malformed)?
            .get(name)
            .ok_or(SignatureError::Missing)?;
    }
    let text = found.as_str().ok_or(SignatureError::Malformed)?;
    Ed25519Signature::from_base64(text).map_err(|_| SignatureError::Malformed)
}

/// The canonical form of `object` without the members that no signature covers.
fn signed_bytes(object: &Map<String, Value>) -> Result<String, CanonicalJsonError> {
    let mut out = String::new();
    let members = object.iter().filter(|(key, _)| *key != "signatures" && *key != "unsigned");
    write_object(&mut out, members, MAX_DEPTH)?;
    Ok(out)
}

fn write_value(out: &mut String, value: &Value, depth: usize) -> Result<(), CanonicalJsonError> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => {
            let integer = number.as_i64().ok_or(if number.is_u64() {
                CanonicalJsonError::IntegerRange
            } else {
                CanonicalJsonError::Float
            })?;
            if !(-MAX_INTEGER..=MAX_INTEGER).contains(&integer) {
                return Err(CanonicalJsonError::IntegerRange);
            }
            out.push_str(&integer.to_string());
        }
        Value::String(text) => write_string(out, text)?,
        Value::Array(items) => {
            let depth = depth.checked_sub(1).ok_or(CanonicalJsonError::TooDeep)?;
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write_value(out, item, depth)?;
            }
            out.push(']');
        }
        Value::Object(object) => write_object(out, object.iter(), depth)?,
    }
    Ok(())
}

fn write_object<'a>(
    out: &mut String,
    members: impl Iterator<Item = (&'a String, &'a Value)>,
    depth: usize,
) -> Result<(), CanonicalJsonError> {
    let depth = depth.checked_sub(1).ok_or(CanonicalJsonError::TooDeep)?;
    // Sorted here: another crate of the build may make the map keep the order of insertion.
    // UTF-8 sorts by bytes as it does by code points.
    let mut members: Vec<_> = members.collect();
    members.sort_unstable_by_key(|(key, _)| *key);
    out.push('{');
    for (position, (key, value)) in members.into_iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        write_string(out, key)?;
        out.push(':');
        write_value(out, value, depth)?;
    }
    out.push('}');
    Ok(())
}

fn write_string(out: &mut String, text: &str) -> Result<(), CanonicalJsonError> {
    let quoted = serde_json::to_string(text).map_err(|_| CanonicalJsonError::Text)?;
    out.push_str(&quoted);
    Ok(())
}
