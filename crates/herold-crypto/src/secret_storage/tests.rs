use super::*;
use crate::entropy::SeededEntropy;
use crate::secret::SecretString;
use proptest::prelude::*;
use serde_json::{Value, json};

/// The bytes 0 to 31. Origin of its text: base 58 worked out with Python's integers.
const RECOVERY_KEY: &str = "EsSz ykH7 LCZx 7Cae cmKD wcmY JRXi Ybtu 8iQ3 t8Ez nRwK pUY1";

fn key() -> StorageKey {
    StorageKey::from_recovery_key(RECOVERY_KEY).unwrap()
}

/// Origin of `iv` and `mac`: HKDF and HMAC of Python's standard library, AES of PyCryptodome.
fn description() -> Value {
    json!({
        "algorithm": SECRET_STORAGE_ALGORITHM,
        "name": "m.default",
        "iv": "EBESExQVFhcYGRobHB0eHw==",
        "mac": "nrMWSgMXBpO1lS9nLEL08Saa+XuAn1pdQ0B7gSgsrQQ=",
        "org.example": [],
    })
}

/// Origin: as above.
fn encrypted() -> Value {
    json!({
        "iv": "EBESExQVFhcYGRobHB0eHw",
        "ciphertext": "Bds9VdXiPY5jdpncK1dYMEozxTJ1h1+SMw8xxhtsvAy4ZnbTJ64B+GG1Lw",
        "mac": "NxvgtBLqjEKmIE+rr8T5Fov7faxTXKhqxRXliay3mxo",
    })
}

const NAME: &str = "m.cross_signing.master";
const SECRET: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";

fn passphrase(change: impl FnOnce(&mut Value)) -> Result<PassphraseParameters, SecretStorageError> {
    let mut json = json!({
        "algorithm": "m.pbkdf2", "salt": "MmMsAlty", "iterations": 100_000, "bits": 256,
    });
    change(&mut json);
    PassphraseParameters::parse(&json)
}

#[test]
fn known_recovery_keys_are_read_and_written() {
    let known: [u8; 32] = std::array::from_fn(|at| at as u8);
    for (bytes, text) in [
        (known, RECOVERY_KEY),
        ([0; 32], "EsSz ygLv VP1b xF1C v7kE eBQx MxDP buG5 w25T L3b6 hfyG Kkrd"),
        ([0xff; 32], "EsUK 2TRo ZKTB CKmv wEDA o6rq tTYu aKzp eJ9f 95nM 3VHk Xbnq"),
    ] {
        assert_eq!(encode_recovery_key(&bytes).as_str(), text);
        assert_eq!(*decode_recovery_key(text).unwrap(), bytes);
    }
}

#[test]
fn white_space_in_a_recovery_key_does_not_matter() {
    let bare: String = RECOVERY_KEY.split(' ').collect();
    for text in [bare.clone(), format!("\t{bare}\n"), bare.replace('y', " y\u{a0}")] {
        assert_eq!(key().check(&KeyDescription::parse(&description()).unwrap()), KeyCheck::Right);
        assert!(StorageKey::from_recovery_key(&text).is_ok(), "{text}");
    }
}

#[test]
fn a_mistyped_recovery_key_says_what_is_wrong() {
    let read = |text: &str| StorageKey::from_recovery_key(text).unwrap_err();
    let length = RecoveryKeyError::Length;
    assert_eq!(read(""), length);
    assert_eq!(read(&RECOVERY_KEY[..57]), length);
    assert_eq!(read(&format!("{RECOVERY_KEY} a")), length);
    assert_eq!(read(&"z".repeat(100_000)), length);
    assert_eq!(read("EsSz ykl7"), RecoveryKeyError::Character { position: 7 });
    assert_eq!(read("Es-"), RecoveryKeyError::Character { position: 3 });
    assert_eq!(read(&RECOVERY_KEY.replace("pUY1", "pUY2")), RecoveryKeyError::Parity);
    assert_eq!(read(&RECOVERY_KEY.replace("EsSz", "EtSz")), RecoveryKeyError::Prefix);
    assert_eq!(read(&"1".repeat(48)), RecoveryKeyError::Prefix);
}

#[test]
fn a_known_passphrase_gives_its_key() {
    // Origin: PBKDF2 of Python's standard library.
    let parameters = passphrase(|_| ()).unwrap();
    let key = StorageKey::from_passphrase("sésame öffne dich", &parameters);
    assert_eq!(key.to_secret().as_str(), "egTZzfZyFRmoIQ1Fk3lnKbnLzipR+7c1RrWFitZ0vuA");
    assert_eq!(PassphraseParameters::parse(&parameters.to_json()), Ok(parameters));
}

#[test]
fn n11_iterations_out_of_bounds_are_refused_at_once() {
    for n in [0, 1, 9_999, 5_000_001, 1 << 31, 1 << 40] {
        let refused = passphrase(|json| json["iterations"] = n.into());
        assert_eq!(refused, Err(SecretStorageError::Iterations(n)));
    }
    for value in [json!(-1), json!("100000"), json!(1.5), Value::Null] {
        let refused = passphrase(|json| json["iterations"] = value.clone());
        assert_eq!(refused, Err(SecretStorageError::Malformed("iterations")));
    }
}

#[test]
fn n11_other_passphrase_algorithms_are_refused() {
    let unknown = Err(SecretStorageError::UnknownPassphraseAlgorithm);
    assert_eq!(passphrase(|json| json["algorithm"] = "m.md5".into()), unknown);
    assert_eq!(passphrase(|json| json["bits"] = 8.into()), unknown);
    assert_eq!(passphrase(|json| json["bits"] = 512.into()), unknown);
    assert_eq!(
        passphrase(|json| json["salt"] = "".into()),
        Err(SecretStorageError::Malformed("salt"))
    );
    let mut without_bits = passphrase(|_| ()).unwrap().to_json();
    without_bits.as_object_mut().unwrap().remove("bits");
    assert!(PassphraseParameters::parse(&without_bits).is_ok());
}

#[test]
fn a_known_key_description_knows_its_key() {
    let description = KeyDescription::parse(&description()).unwrap();
    assert_eq!(key().check(&description), KeyCheck::Right);
    let other = StorageKey::generate(&mut SeededEntropy::new(1));
    assert_eq!(other.check(&description), KeyCheck::Wrong);
    assert_eq!(KeyDescription::parse(&description.to_json()), Ok(description));
}

#[test]
fn a_new_description_knows_its_key() {
    let mut entropy = SeededEntropy::new(1);
    let key = StorageKey::generate(&mut entropy);
    let parameters = PassphraseParameters::generate(&mut entropy);
    let description = key.describe(Some("Key".into()), Some(parameters), &mut entropy);
    let read = KeyDescription::parse(&description.to_json()).unwrap();
    assert_eq!(read, description);
    assert_eq!(key.check(&read), KeyCheck::Right);
    assert_eq!(read.passphrase.unwrap().iterations(), 500_000);
}

#[test]
fn n11_a_description_without_check_values_proves_nothing() {
    let change = |change: fn(&mut serde_json::Map<String, Value>)| {
        let mut json = description();
        change(json.as_object_mut().unwrap());
        KeyDescription::parse(&json)
    };
    let bare = change(|json| {
        json.remove("iv");
        json.remove("mac");
    });
    assert_eq!(key().check(&bare.unwrap()), KeyCheck::Absent);
    let malformed = |field| Err(SecretStorageError::Malformed(field));
    assert_eq!(change(|json| drop(json.remove("mac"))), malformed("mac"));
    assert_eq!(change(|json| drop(json.remove("iv"))), malformed("iv"));
    assert_eq!(change(|json| drop(json.insert("iv".into(), "AAAA".into()))), malformed("iv"));
    assert_eq!(
        change(|json| drop(json.insert("algorithm".into(), "m.other".into()))),
        Err(SecretStorageError::UnknownAlgorithm)
    );
}

#[test]
fn n11_a_changed_description_fits_no_key() {
    for field in ["iv", "mac"] {
        let mut json = description();
        let text = json[field].as_str().unwrap().replacen(['E', 'n'], "A", 1);
        json[field] = text.into();
        let changed = KeyDescription::parse(&json).unwrap();
        assert_eq!(key().check(&changed), KeyCheck::Wrong, "{field}");
    }
}

#[test]
fn a_known_secret_decrypts() {
    let secret = EncryptedSecret::parse(&encrypted()).unwrap();
    assert_eq!(key().decrypt(NAME, &secret), Ok(SecretString::new(SECRET.into())));
    assert_eq!(EncryptedSecret::parse(&secret.to_json()), Ok(secret));
}

#[test]
fn n11_swapped_secrets_are_refused() {
    let secret = EncryptedSecret::parse(&encrypted()).unwrap();
    let refused = key().decrypt("m.cross_signing.self_signing", &secret);
    assert_eq!(refused, Err(SecretStorageError::BadMac));
    let other = StorageKey::generate(&mut SeededEntropy::new(1));
    assert_eq!(other.decrypt(NAME, &secret), Err(SecretStorageError::BadMac));
}

#[test]
fn n11_every_flipped_bit_of_ciphertext_and_mac_is_found() {
    let good = EncryptedSecret::parse(&encrypted()).unwrap();
    for at in 0..good.ciphertext.len() * 8 {
        let mut bad = good.clone();
        bad.ciphertext[at / 8] ^= 1 << (at % 8);
        assert_eq!(key().decrypt(NAME, &bad), Err(SecretStorageError::BadMac));
    }
    for at in 0..256 {
        let mut bad = good.clone();
        bad.mac[at / 8] ^= 1 << (at % 8);
        assert_eq!(key().decrypt(NAME, &bad), Err(SecretStorageError::BadMac));
    }
}

#[test]
fn n11_a_changed_iv_gives_no_usable_key() {
    // The MAC does not cover it; what comes out is no text, or not the secret.
    let good = EncryptedSecret::parse(&encrypted()).unwrap();
    for at in 0..128 {
        let mut bad = good.clone();
        bad.iv[at / 8] ^= 1 << (at % 8);
        let got = key().decrypt(NAME, &bad);
        assert_ne!(got, Ok(SecretString::new(SECRET.into())));
    }
}

#[test]
fn a_malformed_secret_is_refused() {
    for field in ["iv", "ciphertext", "mac"] {
        for value in [json!("*"), json!(1), Value::Null] {
            let mut json = encrypted();
            json[field] = value;
            assert_eq!(EncryptedSecret::parse(&json), Err(SecretStorageError::Malformed(field)));
        }
    }
}

#[test]
fn account_data_gives_what_is_under_one_key() {
    let content = json!({ "encrypted": { "one": encrypted(), "two": 7 } });
    let read = |key| EncryptedSecret::from_account_data(&content, key);
    assert!(read("one").unwrap().is_some());
    assert_eq!(read("three"), Ok(None));
    assert!(read("two").is_err());
    assert!(EncryptedSecret::from_account_data(&json!({}), "one").is_err());
}

#[test]
fn fresh_ivs_leave_bit_63_clear() {
    let mut entropy = SeededEntropy::new(1);
    assert!((0..100).all(|_| fresh_iv(&mut entropy)[8] & 0x80 == 0));
}

#[test]
fn a_key_survives_its_record_and_shows_nothing() {
    let key = key();
    let record = key.to_record();
    let back = StorageKey::from_record(record.as_slice()).unwrap();
    assert_eq!(back.to_secret(), key.to_secret());
    assert_eq!(StorageKey::from_secret(&key.to_secret()).unwrap().to_secret(), key.to_secret());
    assert_eq!(format!("{key:?}"), "StorageKey(..)");
}

proptest! {
    #[test]
    fn every_recovery_key_comes_back(key: [u8; 32]) {
        let text = encode_recovery_key(&key);
        prop_assert_eq!(text.as_str().len(), 59);
        prop_assert_eq!(*decode_recovery_key(text.as_str()).unwrap(), key);
    }

    #[test]
    fn no_text_makes_the_recovery_key_panic(text in "[1-9A-HJ-NP-Za-km-z ]{0,60}", other: String) {
        let _ = decode_recovery_key(&text);
        let _ = decode_recovery_key(&other);
    }

    #[test]
    fn every_secret_comes_back(secret: String, name: String, seed: u64) {
        let mut entropy = SeededEntropy::new(seed);
        let key = StorageKey::generate(&mut entropy);
        let encrypted = key.encrypt(&name, &secret, &mut entropy);
        prop_assert_eq!(key.decrypt(&name, &encrypted), Ok(SecretString::new(secret)));
    }
}
