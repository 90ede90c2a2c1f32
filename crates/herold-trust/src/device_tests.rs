use herold_crypto::{Account, Ed25519Signature};
use ruma::user_id;
use serde_json::json;

use super::*;
use crate::test_world::{bare_device_json, device_json, public};

const ID: &str = "JLAFKJWSCS";

fn bob() -> &'static UserId {
    user_id!("@bob:example.org")
}

fn parse(json: &Value) -> Result<Device, DeviceKeysError> {
    parse_device_keys(bob(), ID.into(), json)
}

/// The error of device keys that were altered and then signed again by the device itself.
fn refusal(alter: impl FnOnce(&mut Value)) -> DeviceKeysError {
    let account = Account::new();
    let mut json = bare_device_json(bob(), ID, &account);
    alter(&mut json);
    if json.is_object() {
        account.sign_json(bob().as_str(), ID, &mut json).unwrap();
    }
    parse(&json).unwrap_err()
}

#[test]
fn an_honest_device_is_read_as_it_is() {
    let account = Account::new();
    let device = parse(&device_json(bob(), ID, &account)).unwrap();
    assert_eq!(device.user_id, bob());
    assert_eq!(device.device_id.as_str(), ID);
    assert_eq!(device.keys, account.identity_keys());
    assert_eq!(device.algorithms, [OLM, crate::MEGOLM]);
    assert_eq!(device.display_name.as_deref(), Some("Phone"));
    assert!(!device.dehydrated);
    assert!(!device.signed_json.contains("unsigned"));
    assert!(device.signed_json.contains("signatures"));
}

#[test]
fn what_was_accepted_is_accepted_again_from_its_record() {
    let device = parse(&device_json(bob(), ID, &Account::new())).unwrap();
    let again = parse(&serde_json::from_str(&device.signed_json).unwrap()).unwrap();
    assert_eq!(again.signed_json, device.signed_json);
    let record = postcard::to_allocvec(&device).unwrap();
    assert_eq!(postcard::from_bytes::<Device>(&record).unwrap(), device);
}

#[test]
fn the_signed_dehydrated_flag_is_read() {
    let account = Account::new();
    let mut json = bare_device_json(bob(), ID, &account);
    json["dehydrated"] = json!(true);
    account.sign_json(bob().as_str(), ID, &mut json).unwrap();
    assert!(parse(&json).unwrap().dehydrated);
    json["dehydrated"] = json!(false);
    assert!(matches!(parse(&json), Err(DeviceKeysError::BadSignature(SignatureError::Invalid))));
}

#[test]
fn keys_of_unknown_kinds_and_unknown_fields_do_not_matter() {
    let account = Account::new();
    let mut json = bare_device_json(bob(), ID, &account);
    json["keys"][format!("kyber768:{ID}")] = json!("abc");
    json["org.example.new"] = json!({"a": 1});
    account.sign_json(bob().as_str(), ID, &mut json).unwrap();
    assert_eq!(parse(&json).unwrap().keys, account.identity_keys());
}

// N19

#[test]
fn n19_inner_ids_must_equal_the_outer_ones() {
    for id in [json!("@eve:example.org"), json!("@BOB:example.org"), json!(7), json!(null)] {
        assert_eq!(refusal(|json| json["user_id"] = id), DeviceKeysError::WrongUser);
    }
    for id in [json!("OTHER"), json!("jlafkjwscs"), json!(""), json!(7), json!(null)] {
        assert_eq!(refusal(|json| json["device_id"] = id), DeviceKeysError::WrongDevice);
    }
}

#[test]
fn n19_a_bad_self_signature_is_refused() {
    let (account, other) = (Account::new(), Account::new());
    let missing = bare_device_json(bob(), ID, &account);
    assert_eq!(parse(&missing), Err(DeviceKeysError::BadSignature(SignatureError::Missing)));

    let mut foreign = missing.clone();
    other.sign_json(bob().as_str(), ID, &mut foreign).unwrap();
    assert_eq!(parse(&foreign), Err(DeviceKeysError::BadSignature(SignatureError::Invalid)));

    let mut elsewhere = missing.clone();
    account.sign_json("@eve:example.org", ID, &mut elsewhere).unwrap();
    assert_eq!(parse(&elsewhere), Err(DeviceKeysError::BadSignature(SignatureError::Missing)));
}

#[test]
fn n19_any_later_change_of_the_signed_text_is_refused() {
    let json = device_json(bob(), ID, &Account::new());
    for field in ["user_id", "device_id", "algorithms", "keys", "signatures", "new"] {
        for value in [json!(null), json!([]), json!({}), json!("x"), json!(1.5), json!([OLM])] {
            let mut altered = json.clone();
            altered[field] = value.clone();
            assert!(parse(&altered).is_err(), "{field} = {value}");
        }
    }
}

#[test]
fn n19_a_device_without_olm_is_refused() {
    for list in [json!([]), json!([crate::MEGOLM]), json!(OLM), json!(null), json!([1, {}])] {
        assert_eq!(refusal(|json| json["algorithms"] = list), DeviceKeysError::NoOlm);
    }
}

#[test]
fn n19_identity_keys_of_a_known_device_never_change() {
    let account = Account::new();
    let known = parse(&device_json(bob(), ID, &account)).unwrap();
    let replaced = parse(&device_json(bob(), ID, &Account::new())).unwrap();
    assert_eq!(compare(Some(&known), &replaced), DeviceChange::KeysChanged);

    // The same signing key with another Curve25519 key, properly signed.
    let mut json = bare_device_json(bob(), ID, &account);
    let curve = Account::new().identity_keys().curve25519.to_base64();
    json["keys"][format!("curve25519:{ID}")] = json!(curve);
    account.sign_json(bob().as_str(), ID, &mut json).unwrap();
    assert_eq!(compare(Some(&known), &parse(&json).unwrap()), DeviceChange::KeysChanged);
}

#[test]
fn other_signatures_or_names_are_an_update() {
    let (account, signer) = (Account::new(), Account::new());
    let mut json = device_json(bob(), ID, &account);
    let known = parse(&json).unwrap();
    assert_eq!(compare(None, &known), DeviceChange::New);
    assert_eq!(compare(Some(&known), &known), DeviceChange::Unchanged);

    signer.sign_json(bob().as_str(), &public(&signer), &mut json).unwrap();
    assert_eq!(compare(Some(&known), &parse(&json).unwrap()), DeviceChange::Updated);
    let mut renamed = known.clone();
    renamed.display_name = None;
    assert_eq!(compare(Some(&known), &renamed), DeviceChange::Updated);
}

#[test]
fn devices_of_different_ids_never_replace_each_other() {
    let known = parse(&device_json(bob(), ID, &Account::new())).unwrap();
    let mut other = known.clone();
    other.device_id = "OTHER".into();
    assert_eq!(compare(Some(&known), &other), DeviceChange::KeysChanged);
}

// N14, N15

#[test]
fn n14_sender_device_keys_of_somebody_else_are_refused() {
    let eve = user_id!("@eve:example.org");
    let json = device_json(eve, ID, &Account::new());
    assert_eq!(parse_sender_device_keys(bob(), &json), Err(DeviceKeysError::WrongUser));
    assert!(parse_sender_device_keys(eve, &json).is_ok());
}

#[test]
fn n15_sender_device_keys_need_a_device_id() {
    let account = Account::new();
    for id in [json!(null), json!(""), json!(3)] {
        let mut json = bare_device_json(bob(), ID, &account);
        json["device_id"] = id;
        account.sign_json(bob().as_str(), ID, &mut json).unwrap();
        assert_eq!(parse_sender_device_keys(bob(), &json), Err(DeviceKeysError::WrongDevice));
    }
    assert_eq!(parse_sender_device_keys(bob(), &json!([])), Err(DeviceKeysError::NotAnObject));
}

#[test]
fn n15_two_keys_of_one_kind_are_refused() {
    let key = Account::new().identity_keys();
    for name in ["OTHER", "", "JLAFKJWSCS:2"] {
        let id = format!("ed25519:{name}");
        let error = refusal(|json| json["keys"][id] = json!(key.ed25519.to_base64()));
        assert_eq!(error, DeviceKeysError::SeveralKeys(KeyKind::Ed25519));
        let id = format!("curve25519:{name}");
        let error = refusal(|json| json["keys"][id] = json!(key.curve25519.to_base64()));
        assert_eq!(error, DeviceKeysError::SeveralKeys(KeyKind::Curve25519));
    }
}

#[test]
fn n15_a_key_that_is_missing_or_named_otherwise_is_refused() {
    for kind in [KeyKind::Ed25519, KeyKind::Curve25519] {
        let name = format!("{kind}:{ID}");
        let remove = |json: &mut Value| json["keys"].as_object_mut().unwrap().remove(&name);
        let error = refusal(|json| drop(remove(json)));
        assert_eq!(error, DeviceKeysError::MissingKey(kind));
        let error = refusal(|json| {
            let key = remove(json).unwrap();
            json["keys"][format!("{kind}:OTHER")] = key;
        });
        assert_eq!(error, DeviceKeysError::MissingKey(kind));
    }
}

#[test]
fn n15_a_huge_object_is_refused() {
    let filler = "x".repeat(MAX_KEYS_SIZE);
    assert_eq!(refusal(|json| json["filler"] = json!(filler)), DeviceKeysError::TooLarge);
    let mut json = device_json(bob(), ID, &Account::new());
    json["unsigned"]["device_display_name"] = json!(filler);
    assert_eq!(parse(&json), Err(DeviceKeysError::TooLarge));
}

#[test]
fn the_size_limit_counts_bytes_exactly() {
    assert!(fits(&json!("x".repeat(MAX_KEYS_SIZE - 2))));
    assert!(!fits(&json!("x".repeat(MAX_KEYS_SIZE - 1))));
}

#[test]
fn what_is_no_object_is_refused() {
    for json in [json!(null), json!([]), json!("{}"), json!(1), json!(true)] {
        assert_eq!(parse(&json), Err(DeviceKeysError::NotAnObject));
    }
    for keys in [json!(null), json!([]), json!("x")] {
        assert_eq!(refusal(|json| json["keys"] = keys), DeviceKeysError::NotAnObject);
    }
}

#[test]
fn a_malformed_key_is_refused() {
    for kind in [KeyKind::Ed25519, KeyKind::Curve25519] {
        for key in [json!(null), json!(""), json!("AAAA"), json!("$$$"), json!([]), json!(1)] {
            let error = refusal(|json| json["keys"][format!("{kind}:{ID}")] = key.clone());
            assert_eq!(error, DeviceKeysError::MalformedKey, "{kind} {key}");
        }
    }
}

// N21

#[test]
fn n21_low_order_keys_are_refused() {
    let zero = "A".repeat(43);
    // u = 1, and the y-coordinate of the neutral element.
    let one = format!("AQ{}", "A".repeat(41));
    for kind in [KeyKind::Ed25519, KeyKind::Curve25519] {
        for key in [&zero, &one] {
            let error = refusal(|json| json["keys"][format!("{kind}:{ID}")] = json!(key));
            assert_eq!(error, DeviceKeysError::LowOrderKey, "{kind} {key}");
        }
    }
}

// N22

/// Device keys whose self-signature was altered in its bytes.
fn with_signature(alter: impl FnOnce(&mut [u8; 64])) -> Value {
    let account = Account::new();
    let mut json = device_json(bob(), ID, &account);
    let slot = &mut json["signatures"][bob().as_str()][format!("ed25519:{ID}")];
    let mut bytes = Ed25519Signature::from_base64(slot.as_str().unwrap()).unwrap().to_bytes();
    alter(&mut bytes);
    *slot = json!(Ed25519Signature::from_slice(&bytes).unwrap().to_base64());
    json
}

#[test]
fn n22_a_signature_with_the_group_order_added_is_invalid() {
    // The order of the group, little-endian (RFC 8032, section 5.1).
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let json = with_signature(|bytes| {
        let mut carry = 0_u16;
        for (byte, order) in bytes[32..].iter_mut().zip(ORDER) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
    });
    assert_eq!(parse(&json), Err(DeviceKeysError::BadSignature(SignatureError::Invalid)));
}

#[test]
fn n22_a_small_order_or_non_canonical_commitment_is_invalid() {
    let mut neutral = [0_u8; 32];
    neutral[0] = 1;
    // The neutral element again, its coordinate not reduced by the field's prime.
    let mut unreduced = [0xff_u8; 32];
    unreduced[0] = 0xee;
    unreduced[31] = 0x7f;
    for commitment in [neutral, unreduced, [0; 32]] {
        let json = with_signature(|bytes| bytes[..32].copy_from_slice(&commitment));
        assert!(matches!(parse(&json), Err(DeviceKeysError::BadSignature(_))));
    }
    assert!(parse(&with_signature(|_| ())).is_ok());
}

// N16, N18

#[test]
fn n18_a_device_owns_a_room_key_by_user_and_both_keys_only() {
    let (account, eve) = (Account::new(), Account::new());
    let device = parse(&device_json(bob(), ID, &account)).unwrap();
    let keys = account.identity_keys();
    let wrong = eve.identity_keys();
    assert!(owns(&device, bob(), &keys.curve25519, &keys.ed25519));
    assert!(!owns(&device, bob(), &wrong.curve25519, &keys.ed25519));
    assert!(!owns(&device, bob(), &keys.curve25519, &wrong.ed25519));
    assert!(!owns(&device, user_id!("@eve:example.org"), &keys.curve25519, &keys.ed25519));
}
