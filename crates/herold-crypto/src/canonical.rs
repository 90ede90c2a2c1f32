//! Canonical JSON and the signatures over it.
//!
//! Clauses: Matrix specification, appendices, *Canonical JSON*, *Signing JSON* and *Checking for a
//! Signature*. A value that the grammar does not cover (a float, a number beyond 2^53 - 1) is an
//! error, never rounded: two implementations that round differently would sign different bytes.

use serde_json::{Map, Value};
use vodozemac::Ed25519Signature;

use crate::Ed25519PublicKey;

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
    if key.verify(signed.as_bytes(), &signature) { Ok(()) } else { Err(SignatureError::Invalid) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    use crate::identity::ed25519_from_base64;
    use crate::olm::Account;
    use crate::unpadded;
    use base64::Engine;

    fn canonical(text: &str) -> Result<String, CanonicalJsonError> {
        canonical_json(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn the_examples_of_the_specification_hold() {
        // Origin: Matrix specification, appendices, "Canonical JSON", examples.
        for (input, output) in [
            ("{}", "{}"),
            (r#"{ "one": 1, "two": "Two" }"#, r#"{"one":1,"two":"Two"}"#),
            (r#"{ "b": "2", "a": "1" }"#, r#"{"a":"1","b":"2"}"#),
            (r#"{"b":"2","a":"1"}"#, r#"{"a":"1","b":"2"}"#),
            (r#"{ "a": "日本語" }"#, r#"{"a":"日本語"}"#),
            (r#"{ "本": 2, "日": 1 }"#, r#"{"日":1,"本":2}"#),
            (r#"{ "a": "\u65E5" }"#, r#"{"a":"日"}"#),
            (r#"{ "a": null }"#, r#"{"a":null}"#),
        ] {
            assert_eq!(canonical(input).as_deref(), Ok(output), "{input}");
        }
    }

    #[test]
    fn the_signature_vectors_of_the_specification_verify() {
        // Origin: Matrix specification, appendices, "Cryptographic Test Vectors", JSON Signing.
        let key = ed25519_from_base64("XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI").unwrap();
        let empty = "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuH\
                     GZKM5ZAQ";
        let filled = "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJ\
                      pvhJI+6Bw";
        let mut object = json!({ "signatures": { "domain": { "ed25519:1": empty } } });
        assert_eq!(verify_json(&key, "domain", "ed25519:1", &object), Ok(()));
        object["one"] = json!(1);
        object["two"] = json!("Two");
        assert_eq!(verify_json(&key, "domain", "ed25519:1", &object), Err(SignatureError::Invalid));
        object["signatures"]["domain"]["ed25519:1"] = json!(filled);
        assert_eq!(verify_json(&key, "domain", "ed25519:1", &object), Ok(()));
    }

    #[test]
    fn control_characters_take_the_shortest_escape() {
        let text: String = (0_u8..0x20).chain([0x22, 0x5c, 0x2f, 0x7f]).map(char::from).collect();
        let expected = concat!(
            r#""\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f"#,
            r#"\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d"#,
            r#"\u001e\u001f\"\\/"#,
            "\u{7f}\""
        );
        assert_eq!(canonical_json(&json!(text)).unwrap(), expected);
    }

    #[test]
    fn floats_are_refused_even_if_whole() {
        for text in ["1.5", "1.0", "1e10", "-0", "[1E2]", r#"{"a":{"b":0.0}}"#] {
            assert_eq!(canonical(text), Err(CanonicalJsonError::Float), "{text}");
        }
    }

    #[test]
    fn integers_end_at_two_to_the_fifty_three_less_one() {
        for text in ["9007199254740991", "-9007199254740991"] {
            assert_eq!(canonical(text).as_deref(), Ok(text));
        }
        for text in ["9007199254740992", "-9007199254740992", "18446744073709551615"] {
            assert_eq!(canonical(text), Err(CanonicalJsonError::IntegerRange), "{text}");
        }
    }

    #[test]
    fn nesting_ends_before_the_stack_does() {
        let mut value = Value::Null;
        for _ in 0..MAX_DEPTH {
            value = json!([value]);
        }
        assert!(canonical_json(&value).is_ok());
        assert_eq!(canonical_json(&json!([value])), Err(CanonicalJsonError::TooDeep));
    }

    fn signed() -> (Account, Value) {
        let account = Account::new();
        let mut object = json!({
            "key": "value",
            "signatures": { "@b:example.org": { "ed25519:B": "kept" } },
            "unsigned": { "age": 1.5 },
        });
        account.sign_json("@a:example.org", "A", &mut object).unwrap();
        (account, object)
    }

    fn verify(account: &Account, object: &Value) -> Result<(), SignatureError> {
        verify_json(&account.identity_keys().ed25519, "@a:example.org", "ed25519:A", object)
    }

    #[test]
    fn signing_keeps_other_signatures_and_unsigned() {
        let (account, object) = signed();
        assert_eq!(verify(&account, &object), Ok(()));
        assert_eq!(object["signatures"]["@b:example.org"]["ed25519:B"], "kept");
        assert_eq!(object["unsigned"]["age"], 1.5);
    }

    #[test]
    fn unsigned_and_other_signatures_may_change_afterwards() {
        let (account, mut object) = signed();
        object["unsigned"] = json!("else");
        object["signatures"]["@b:example.org"] = json!({});
        assert_eq!(verify(&account, &object), Ok(()));
    }

    #[test]
    fn n20_a_signature_over_other_bytes_is_invalid() {
        let (account, mut object) = signed();
        object["key"] = json!("other");
        assert_eq!(verify(&account, &object), Err(SignatureError::Invalid));
    }

    #[test]
    fn n20_a_signature_by_another_device_is_invalid() {
        let (_, object) = signed();
        assert_eq!(verify(&Account::new(), &object), Err(SignatureError::Invalid));
    }

    #[test]
    fn n20_a_signature_by_another_user_or_key_id_is_missing() {
        let (account, object) = signed();
        let key = account.identity_keys().ed25519;
        for (user, id) in [("@c:example.org", "ed25519:A"), ("@a:example.org", "ed25519:C")] {
            assert_eq!(verify_json(&key, user, id, &object), Err(SignatureError::Missing));
        }
        assert_eq!(verify(&account, &json!({ "key": "value" })), Err(SignatureError::Missing));
    }

    #[test]
    fn n20_malformed_signatures_are_told_apart_from_missing_ones() {
        let (account, mut object) = signed();
        for signature in [json!(1), json!(""), json!("AAAA"), json!("%"), json!({})] {
            object["signatures"]["@a:example.org"]["ed25519:A"] = signature;
            assert_eq!(verify(&account, &object), Err(SignatureError::Malformed));
        }
        object["signatures"] = json!([]);
        assert_eq!(verify(&account, &object), Err(SignatureError::Malformed));
    }

    #[test]
    fn an_object_without_canonical_form_is_not_verified() {
        let (account, mut object) = signed();
        object["key"] = json!(1.0);
        let expected = SignatureError::NotCanonical(CanonicalJsonError::Float);
        assert_eq!(verify(&account, &object), Err(expected));
        assert!(verify(&account, &json!([])).is_err());
    }

    #[test]
    fn what_cannot_be_signed_is_left_alone() {
        let account = Account::new();
        for mut value in [json!([1]), json!({ "a": 1.0 }), json!({ "signatures": 1 })] {
            let before = value.clone();
            assert!(account.sign_json("@a:example.org", "A", &mut value).is_err());
            assert_eq!(value, before);
        }
    }

    #[test]
    fn n22_a_signature_with_the_group_order_added_is_invalid() {
        // The order of the base point, little endian (RFC 8032, section 5.1).
        const ORDER: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9,
            0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let (account, mut object) = signed();
        let place = &mut object["signatures"]["@a:example.org"]["ed25519:A"];
        let mut bytes = unpadded::STANDARD.decode(place.as_str().unwrap()).unwrap();
        let mut carry = 0;
        for (byte, order) in bytes[32..].iter_mut().zip(ORDER) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            *byte = sum as u8;
            carry = sum >> 8;
        }
        *place = json!(unpadded::STANDARD.encode(bytes));
        assert!(matches!(
            verify(&account, &object),
            Err(SignatureError::Invalid | SignatureError::Malformed)
        ));
    }

    #[test]
    fn n22_the_neutral_key_signs_nothing() {
        // Key and commitment are the neutral point and the scalar is zero, in a canonical and a
        // non-canonical spelling: the plain equation holds for every message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut beyond = [0xff; 32];
        beyond[0] = 0xee;
        beyond[31] = 0x7f;
        for key in [neutral, beyond] {
            for commitment in [neutral, beyond] {
                let key = Ed25519PublicKey::from_slice(&key).unwrap();
                let signature = [commitment, [0; 32]].concat();
                let object = json!({ "signatures": { "@a:example.org": {
                    "ed25519:A": unpadded::STANDARD.encode(signature),
                } } });
                assert_eq!(
                    verify_json(&key, "@a:example.org", "ed25519:A", &object),
                    Err(SignatureError::Invalid)
                );
            }
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-MAX_INTEGER..=MAX_INTEGER).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn canonical_form_parses_to_the_same_value_and_is_a_fixed_point(value in any_value()) {
            let text = canonical_json(&value).unwrap();
            let parsed: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&parsed, &value);
            prop_assert_eq!(canonical_json(&parsed).unwrap(), text);
        }

        #[test]
        fn what_an_account_signs_it_verifies(value in any_value()) {
            let account = Account::new();
            let mut object = json!({ "content": value });
            account.sign_json("@a:example.org", "A", &mut object).unwrap();
            prop_assert_eq!(verify(&account, &object), Ok(()));
        }
    }
}
