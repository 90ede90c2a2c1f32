use herold_crypto::{Account, SeededEntropy};
use ruma::user_id;

use super::*;
use crate::test_world::{Person, device_json};
use crate::{is_cross_signed, parse_device_keys, parse_identity};

fn keys() -> CrossSigningKeys {
    CrossSigningKeys::generate(&mut SeededEntropy::new(1))
}

fn identity_of(user: &UserId, body: &Value) -> Identity {
    let parsed = parse_identity(
        user,
        &body["master_key"],
        &body["self_signing_key"],
        Some(&body["user_signing_key"]),
    );
    Identity::pin(parsed.unwrap())
}

fn alice() -> (CrossSigningKeys, Identity) {
    let user = user_id!("@alice:example.org");
    let identity = identity_of(user, &keys().upload_body(user).unwrap());
    (keys(), identity)
}

fn device(id: &str) -> Device {
    let user = user_id!("@alice:example.org");
    parse_device_keys(user, id.into(), &device_json(user, id, &Account::new())).unwrap()
}

#[test]
fn an_own_identity_parses_as_its_own() {
    let (keys, identity) = alice();
    assert!(keys.match_identity(&identity));
    assert_eq!(identity.master, keys.master.public_key());
    let other = CrossSigningKeys::generate(&mut SeededEntropy::new(2));
    assert!(!other.match_identity(&identity));
}

#[test]
fn a_signed_device_is_cross_signed() {
    let (keys, own) = alice();
    let device = device("PHONE");
    let object = sign_device(&keys.self_signing, &own, &device, &device.keys.ed25519).unwrap();
    // What a server makes of it: the signatures of both.
    let mut stored: Value = serde_json::from_str(&device.signed_json).unwrap();
    let user = own.user_id.as_str();
    for (id, signature) in object["signatures"][user].as_object().unwrap() {
        stored["signatures"][user][id] = signature.clone();
    }
    let seen = parse_device_keys(&own.user_id, &device.device_id, &stored).unwrap();
    assert!(!is_cross_signed(&device, Some(&own)));
    assert!(is_cross_signed(&seen, Some(&own)));
}

#[test]
fn a_device_is_signed_only_as_it_was_verified() {
    let (keys, own) = alice();
    let (device, other) = (device("PHONE"), device("PHONE"));
    let sign =
        |key: &SigningKey, device: &Device, verified| sign_device(key, &own, device, verified);
    assert_eq!(
        sign(&keys.self_signing, &device, &other.keys.ed25519),
        Err(SignError::NotTheVerifiedKey)
    );
    assert_eq!(
        sign(&keys.master, &device, &device.keys.ed25519),
        Err(SignError::WrongPrivateKey(KeyUsage::SelfSigning))
    );
    let bobs = Person::new("@bob:example.org").device("PHONE");
    let refused = sign(&keys.self_signing, &bobs, &bobs.keys.ed25519);
    assert_eq!(refused, Err(SignError::NotTheVerifiedKey));
    let mixed = Device { signed_json: other.signed_json, ..device };
    assert_eq!(sign(&keys.self_signing, &mixed, &mixed.keys.ed25519), Err(SignError::Damaged));
}

#[test]
fn n04_a_device_named_like_a_cross_signing_key_is_not_signed() {
    let (keys, own) = alice();
    let named = [own.master, own.self_signing, own.user_signing.unwrap()];
    for name in named {
        let device = device(&name.to_base64());
        let refused = sign_device(&keys.self_signing, &own, &device, &device.keys.ed25519);
        assert_eq!(refused, Err(SignError::KeyIdConflict));
    }
}

#[test]
fn another_users_master_key_is_signed_and_the_signature_is_found() {
    let (keys, own) = alice();
    let bob = Person::new("@bob:example.org");
    let theirs = bob.identity();
    let object = sign_user(&keys.user_signing, &own, &theirs, &theirs.master).unwrap();
    assert!(!is_signed_by_own_user(&theirs, &own));
    let mut parts: Value = serde_json::from_str(&theirs.json).unwrap();
    parts["master"]["signatures"] = object["signatures"].clone();
    let seen = Identity { json: parts.to_string(), ..theirs.clone() };
    assert!(is_signed_by_own_user(&seen, &own));
    let moved = Identity { master: seen.self_signing, ..seen };
    assert!(!is_signed_by_own_user(&moved, &own), "a swapped key under the old signature");
}

#[test]
fn another_user_is_signed_only_as_verified() {
    let (keys, own) = alice();
    let theirs = Person::new("@bob:example.org").identity();
    let sign =
        |key: &SigningKey, theirs: &Identity, verified| sign_user(key, &own, theirs, verified);
    assert_eq!(
        sign(&keys.user_signing, &theirs, &theirs.self_signing),
        Err(SignError::NotTheVerifiedKey)
    );
    assert_eq!(
        sign(&keys.self_signing, &theirs, &theirs.master),
        Err(SignError::WrongPrivateKey(KeyUsage::UserSigning))
    );
    assert_eq!(sign(&keys.user_signing, &own, &own.master), Err(SignError::NotTheVerifiedKey));
    let damaged = Identity { json: "{}".into(), ..theirs };
    assert_eq!(sign(&keys.user_signing, &damaged, &damaged.master), Err(SignError::Damaged));
}

#[test]
fn the_device_signs_the_master_key() {
    let (_, own) = alice();
    let account = Account::new();
    let user = own.user_id.as_str();
    let json = device_json(&own.user_id, "PHONE", &account);
    let device = parse_device_keys(&own.user_id, "PHONE".into(), &json).unwrap();
    let mut object = own_master_object(&own, &own.master).unwrap();
    account.sign_json(user, "PHONE", &mut object).unwrap();
    let mut parts: Value = serde_json::from_str(&own.json).unwrap();
    parts["master"] = object;
    let signed = Identity { json: parts.to_string(), ..own.clone() };
    assert!(is_master_signed_by_device(&signed, &device));
    assert!(!is_master_signed_by_device(&own, &device));
    assert_eq!(own_master_object(&own, &own.self_signing), Err(SignError::NotTheVerifiedKey));
}

#[test]
fn an_upload_lists_objects_by_user_and_name() {
    let mut upload = SignatureUpload::default();
    assert!(upload.is_empty());
    let (alice, bob) = (user_id!("@alice:example.org"), user_id!("@bob:example.org"));
    upload.add(alice, "PHONE", json!(1));
    upload.add(alice, "KEY", json!(2));
    upload.add(bob, "KEY", json!(3));
    let expected =
        json!({"@alice:example.org": {"PHONE": 1, "KEY": 2}, "@bob:example.org": {"KEY": 3}});
    assert_eq!(upload.into_json(), expected);
}

#[test]
fn debug_shows_no_private_key() {
    let keys = keys();
    let shown = format!("{keys:?}");
    assert!(!shown.contains(keys.master.to_secret().as_str()));
}
