use herold_crypto::Account;
use serde_json::json;

use super::*;
use crate::parse_device_keys;
use crate::test_world::{Person, device_json, public};

fn bob() -> Person {
    Person::new("@bob:example.org")
}

fn parse(bob: &Person, master: &Value, devices: &Value) -> Result<ParsedIdentity, IdentityError> {
    parse_identity(&bob.user, master, devices, None)
}

#[test]
fn an_honest_identity_is_read_and_pinned() {
    let bob = bob();
    let parsed = parse_identity(
        &bob.user,
        &bob.master_json(),
        &bob.self_signing_json(),
        Some(&bob.user_signing_json()),
    )
    .unwrap();
    assert_eq!(parsed.user_id(), bob.user);
    assert_eq!(parsed.master(), bob.master.identity_keys().ed25519);
    assert_eq!(parsed.self_signing(), bob.self_signing.identity_keys().ed25519);
    assert_eq!(parsed.user_signing(), Some(bob.user_signing.identity_keys().ed25519));

    let identity = Identity::pin(parsed);
    assert_eq!(identity.state(), IdentityState::Pinned);
    assert!(!identity.was_verified);
    let record = postcard::to_allocvec(&identity).unwrap();
    assert_eq!(postcard::from_bytes::<Identity>(&record).unwrap(), identity);
}

#[test]
fn the_kept_json_is_canonical_and_reads_back_to_the_same_identity() {
    let bob = bob();
    let mut master = bob.master_json();
    master["unsigned"] = json!({"x": 0.5});
    let (devices, users) = (bob.self_signing_json(), bob.user_signing_json());
    let parsed = parse_identity(&bob.user, &master, &devices, Some(&users)).unwrap();
    let kept: Value = serde_json::from_str(&parsed.json).unwrap();
    assert_eq!(herold_crypto::canonical_json(&kept).unwrap(), parsed.json);
    let again = parse_identity(
        &bob.user,
        &kept["master"],
        &kept["self_signing"],
        Some(&kept["user_signing"]),
    )
    .unwrap();
    assert_eq!(again, parsed);
}

// N35

#[test]
fn n35_a_key_with_another_usage_is_refused() {
    let bob = bob();
    for usage in [
        json!([]),
        json!(["self_signing"]),
        json!(["master", "self_signing"]),
        json!(["master", "master"]),
        json!("master"),
        json!(null),
        json!([1]),
    ] {
        let mut master = bob.master_json();
        master["usage"] = usage;
        let result = parse(&bob, &master, &bob.self_signing_json());
        assert_eq!(result, Err(IdentityError::WrongUsage(KeyUsage::Master)));
    }
    let swapped = parse(&bob, &bob.master_json(), &bob.user_signing_json());
    assert_eq!(swapped, Err(IdentityError::WrongUsage(KeyUsage::SelfSigning)));
}

#[test]
fn n35_several_keys_in_one_object_are_refused() {
    let bob = bob();
    let other = public(&Account::new());
    let master = bob.key_json("master", &[&public(&bob.master), &other]);
    assert_eq!(
        parse(&bob, &master, &bob.self_signing_json()),
        Err(IdentityError::SeveralKeys(KeyUsage::Master))
    );
    let devices = bob.key_json("self_signing", &[&public(&bob.self_signing), &other]);
    let devices = bob.signed_by(&bob.master, devices);
    assert_eq!(
        parse(&bob, &bob.master_json(), &devices),
        Err(IdentityError::SeveralKeys(KeyUsage::SelfSigning))
    );
}

#[test]
fn n35_keys_of_another_user_are_refused() {
    let (bob, eve) = (bob(), Person::new("@eve:example.org"));
    let (master, devices) = (bob.master_json(), bob.self_signing_json());
    assert_eq!(parse(&eve, &master, &devices), Err(IdentityError::WrongUser(KeyUsage::Master)));
    assert_eq!(
        parse(&bob, &master, &eve.self_signing_json()),
        Err(IdentityError::WrongUser(KeyUsage::SelfSigning))
    );
    assert_eq!(
        parse_identity(&bob.user, &master, &devices, Some(&eve.user_signing_json())),
        Err(IdentityError::WrongUser(KeyUsage::UserSigning))
    );
}

#[test]
fn n35_one_key_cannot_have_two_roles() {
    let bob = bob();
    let master = bob.master_json();
    let devices = bob.key_json("self_signing", &[&public(&bob.master)]);
    assert_eq!(
        parse(&bob, &master, &bob.signed_by(&bob.master, devices)),
        Err(IdentityError::SharedKey(KeyUsage::SelfSigning))
    );
    for key in [&bob.master, &bob.self_signing] {
        let users = bob.signed_by(&bob.master, bob.key_json("user_signing", &[&public(key)]));
        assert_eq!(
            parse_identity(&bob.user, &master, &bob.self_signing_json(), Some(&users)),
            Err(IdentityError::SharedKey(KeyUsage::UserSigning))
        );
    }
}

#[test]
fn n35_keys_that_the_master_key_did_not_sign_are_refused() {
    let (bob, eve) = (bob(), Account::new());
    let (master, good) = (bob.master_json(), bob.self_signing_json());
    let bare = bob.key_json("self_signing", &[&public(&bob.self_signing)]);
    let by_eve = bob.signed_by(&eve, bare.clone());
    // Eve's signature under the master key's name.
    let mut forged = bare.clone();
    eve.sign_json(bob.user.as_str(), &public(&bob.master), &mut forged).unwrap();
    for (json, source) in [
        (bare, SignatureError::Missing),
        (by_eve, SignatureError::Missing),
        (forged, SignatureError::Invalid),
    ] {
        let usage = KeyUsage::SelfSigning;
        assert_eq!(parse(&bob, &master, &json), Err(IdentityError::BadSignature { usage, source }));
    }
    let users = bob.key_json("user_signing", &[&public(&bob.user_signing)]);
    assert!(matches!(
        parse_identity(&bob.user, &master, &good, Some(&users)),
        Err(IdentityError::BadSignature { usage: KeyUsage::UserSigning, .. })
    ));
}

#[test]
fn n35_a_key_must_be_named_by_itself_in_one_spelling() {
    let bob = bob();
    let (key, other) = (public(&bob.master), public(&Account::new()));
    for (keys, error) in [
        (json!({}), IdentityError::MissingKey(KeyUsage::Master)),
        (json!([]), IdentityError::NotAnObject(KeyUsage::Master)),
        (json!({(key.clone()): key}), IdentityError::MissingKey(KeyUsage::Master)),
        (json!({(format!("curve25519:{key}")): key}), IdentityError::MissingKey(KeyUsage::Master)),
        (json!({(format!("ed25519:{other}")): key}), IdentityError::MalformedKey(KeyUsage::Master)),
        (
            json!({(format!("ed25519:{key}=")): format!("{key}=")}),
            IdentityError::MalformedKey(KeyUsage::Master),
        ),
        (json!({(format!("ed25519:{key}")): 1}), IdentityError::MalformedKey(KeyUsage::Master)),
        (json!({"ed25519:AAAA": "AAAA"}), IdentityError::MalformedKey(KeyUsage::Master)),
    ] {
        let mut master = bob.master_json();
        master["keys"] = keys;
        assert_eq!(parse(&bob, &master, &bob.self_signing_json()), Err(error));
    }
}

#[test]
fn n21_a_low_order_cross_signing_key_is_refused() {
    let bob = bob();
    let zero = "A".repeat(43);
    assert_eq!(
        parse(&bob, &bob.key_json("master", &[&zero]), &bob.self_signing_json()),
        Err(IdentityError::LowOrderKey(KeyUsage::Master))
    );
    let devices = bob.signed_by(&bob.master, bob.key_json("self_signing", &[&zero]));
    assert_eq!(
        parse(&bob, &bob.master_json(), &devices),
        Err(IdentityError::LowOrderKey(KeyUsage::SelfSigning))
    );
}

#[test]
fn huge_or_shapeless_keys_are_refused() {
    let bob = bob();
    let mut huge = bob.master_json();
    huge["filler"] = json!("x".repeat(crate::MAX_KEYS_SIZE));
    assert_eq!(
        parse(&bob, &huge, &bob.self_signing_json()),
        Err(IdentityError::TooLarge(KeyUsage::Master))
    );
    for json in [json!(null), json!([]), json!("x"), json!(3)] {
        assert_eq!(
            parse(&bob, &bob.master_json(), &json),
            Err(IdentityError::NotAnObject(KeyUsage::SelfSigning))
        );
    }
    let mut fraction = bob.master_json();
    fraction["x"] = json!(0.5);
    assert!(matches!(
        parse(&bob, &fraction, &bob.self_signing_json()),
        Err(IdentityError::NotCanonical { usage: KeyUsage::Master, .. })
    ));
}

// N03

#[test]
fn n03_a_swapped_identity_violates_the_pin_until_it_is_acknowledged() {
    let (bob, ghost) = (bob(), bob());
    let mut identity = bob.identity().update(ghost.parsed());
    assert_eq!(identity.master, ghost.parsed().master());
    assert_eq!(identity.state(), IdentityState::PinViolation);
    assert!(identity.state().is_violation());
    assert_eq!(identity.update(ghost.parsed()).state(), IdentityState::PinViolation);
    assert_eq!(identity.update(bob.parsed()).state(), IdentityState::Pinned);
    identity.acknowledge();
    assert_eq!(identity.state(), IdentityState::Pinned);
    assert_eq!(identity.update(bob.parsed()).state(), IdentityState::PinViolation);
}

#[test]
fn n03_a_self_signing_key_of_the_old_master_does_not_fit_a_new_one() {
    let (bob, ghost) = (bob(), bob());
    assert!(matches!(
        parse(&bob, &ghost.master_json(), &bob.self_signing_json()),
        Err(IdentityError::BadSignature { .. })
    ));
}

#[test]
fn a_new_self_signing_key_under_the_pinned_master_is_no_violation() {
    let bob = bob();
    let known = bob.identity();
    let rotated = Person { self_signing: Account::new(), ..bob };
    let identity = known.update(rotated.parsed());
    assert_eq!(identity.state(), IdentityState::Pinned);
    assert_eq!(identity.self_signing, rotated.self_signing.identity_keys().ed25519);
}

#[test]
fn an_identity_of_another_user_changes_nothing() {
    let known = bob().identity();
    assert_eq!(known.update(Person::new("@eve:example.org").parsed()), known);
}

// Who signed which device

#[test]
fn a_device_signed_by_its_owner_is_cross_signed() {
    let bob = bob();
    assert!(is_cross_signed(&bob.device("PHONE"), Some(&bob.identity())));
    assert!(!is_cross_signed(&bob.device("PHONE"), None));
}

#[test]
fn n02_a_ghost_device_is_not_cross_signed() {
    let bob = bob();
    assert!(!is_cross_signed(&bob.unsigned_device("GHOST"), Some(&bob.identity())));
}

#[test]
fn a_signature_by_any_other_key_does_not_cross_sign() {
    let bob = bob();
    let other = Account::new();
    for signer in [&bob.master, &bob.user_signing, &other] {
        let json = bob.signed_by(signer, device_json(&bob.user, "PHONE", &Account::new()));
        let device = parse_device_keys(&bob.user, "PHONE".into(), &json).unwrap();
        assert!(!is_cross_signed(&device, Some(&bob.identity())));
    }
    // Somebody else's signature under the self-signing key's name.
    let mut json = device_json(&bob.user, "PHONE", &Account::new());
    other.sign_json(bob.user.as_str(), &public(&bob.self_signing), &mut json).unwrap();
    let device = parse_device_keys(&bob.user, "PHONE".into(), &json).unwrap();
    assert!(!is_cross_signed(&device, Some(&bob.identity())));
}

#[test]
fn the_identity_of_another_user_does_not_cross_sign() {
    let (bob, eve) = (bob(), Person::new("@eve:example.org"));
    let json = device_json(&bob.user, "PHONE", &Account::new());
    let json = eve.signed_by(&eve.self_signing, json);
    let device = parse_device_keys(&bob.user, "PHONE".into(), &json).unwrap();
    assert!(!is_cross_signed(&device, Some(&eve.identity())));
    assert!(!is_cross_signed(&bob.device("PHONE"), Some(&eve.identity())));
}

#[test]
fn n04_a_device_named_like_a_cross_signing_key_is_never_cross_signed() {
    let bob = bob();
    let mut identity = bob.identity();
    identity.user_signing = Some(bob.user_signing.identity_keys().ed25519);
    // Self-signature and cross-signature have one name here, so one key must make both.
    let id = public(&bob.self_signing);
    let json = device_json(&bob.user, &id, &bob.self_signing);
    let device = parse_device_keys(&bob.user, id.as_str().into(), &json).unwrap();
    assert!(!is_cross_signed(&device, Some(&identity)));
    for key in [&bob.master, &bob.user_signing] {
        let device = bob.device(&public(key));
        assert!(!is_cross_signed(&device, Some(&identity)));
    }
    for key in [&bob.master, &bob.self_signing, &bob.user_signing] {
        let padded = bob.device(&format!("{}=", public(key)));
        assert!(!is_cross_signed(&padded, Some(&identity)));
    }
    assert!(is_cross_signed(&bob.device(&public(&Account::new())), Some(&identity)));
}

#[test]
fn n04_the_pinned_master_key_is_no_device_name_either() {
    let (bob, next) = (bob(), bob());
    let identity = bob.identity().update(next.parsed());
    assert!(!is_cross_signed(&next.device(&public(&bob.master)), Some(&identity)));
}

#[test]
fn a_record_that_contradicts_its_signed_text_is_not_cross_signed() {
    let bob = bob();
    let (device, other) = (bob.device("PHONE"), bob.device("TABLET"));
    let identity = bob.identity();
    let mut keys = device.clone();
    keys.keys = other.keys;
    let mut id = device.clone();
    id.device_id = other.device_id;
    let mut text = device.clone();
    text.signed_json = other.signed_json;
    let mut garbage = device;
    garbage.signed_json = "{".to_owned();
    for record in [keys, id, text, garbage] {
        assert!(!is_cross_signed(&record, Some(&identity)));
    }
}

// N33 and N34

#[test]
fn n33_a_device_is_verified_only_under_the_very_master_key_that_was() {
    let bob = bob();
    let (identity, device) = (bob.identity(), bob.device("PHONE"));
    let master = identity.master;
    assert!(is_verified(&device, Some(&identity), Some(&master)));
    assert!(!is_verified(&device, Some(&identity), None));
    assert!(!is_verified(&device, None, Some(&master)));
    assert!(!is_verified(&bob.unsigned_device("PHONE"), Some(&identity), Some(&master)));
    // The server replaces the identity: neither the old nor the new one counts.
    let eve = Person::new("@bob:example.org");
    let swapped = identity.update(eve.parsed());
    for device in [&device, &eve.device("PHONE")] {
        assert!(!is_verified(device, Some(&swapped), Some(&master)));
        assert!(!is_verified(device, Some(&swapped), Some(&swapped.master)));
    }
}
