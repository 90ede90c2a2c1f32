use super::*;
use crate::entropy::SeededEntropy;
use crate::identity::SessionId;
use crate::identity::tests_support::low_order_curve25519;
use crate::megolm::InboundGroupSession;
use crate::megolm::OutboundGroupSession;
use crate::session_data::ExportedSession;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::json;

/// Origin: a session made by the Python bindings of vodozemac 0.10.
pub(crate) const SESSION_KEY: &str = concat!(
    "AQAAAAC1XFZjQNBlcEG+IJ0wM+eL19+eRTt+4jye5PCjVeYAbuWK1F4FjtmbNW1SmNlQq9E6lp50e9AHrtZh5PmqU+jL1JaU",
    "K8Wfb3GPkkHAf3Ws88DTrn6M2j3RT1kF/alKvYEEqjcijiDbIM70kKLW8pzmHEWxiwQAH1kfza+C0EISvfcYNoKmHYJ9qa9n",
    "/yQIP9NNq1MdqX4mtrXYF7Rx/heU"
);

/// Its id.
pub(crate) const SESSION_ID: &str = "9xg2gqYdgn2pr2f/JAg/002rUx2pfia2tdgXtHH+F5Q";

const SECRET: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";

fn known_key() -> BackupDecryptionKey {
    BackupDecryptionKey::from_secret(&SecretString::new(SECRET.into())).unwrap()
}

/// Origin: `PkEncryption` of the Python bindings of vodozemac 0.10, for the key above.
fn known_entry() -> EncryptedSessionData<'static> {
    EncryptedSessionData {
        ephemeral: "ZDav4BlI5hor0L1CruQ9P2FXBbTy7wWFjIrYiub4l1c".into(),
        mac: "DecHUgohZ2o".into(),
        ciphertext: concat!(
            "/C7tOeEi03BJ0+qhbcJeFcKQmhHVY2ulkQRZSvLUyoGdeMDyCn2PCO1VDUYIein8HnyJHwrA24PRW7TnmzZ2tC+jQJmp",
            "iqO5GynIKPzP+j8kef6eeQomUmmC0fSkcUqo0F9E7GORBXRT5K8o1xU0Sb1z5xvU8J/nsOHguSp+MQKr3n5K7/9RbVTn",
            "PIKrodhPPaiClSuK0m455nX9SquL6IrkIx4VIwvjGqdwqrVFDHpDfUwon22KNY5JQF19wVx5vGuJKGS0wKrVRh0Q3Dmb",
            "fB9pBTx00VjBG+lsZ9Rt0vu3uwfdKq90yvl+MV/5k2p/1RyXrFOUq3X6M4vicJGl8PX/ZmUn5PdhcuXTKZiAhmZz1qhl",
            "ps/cmfpNn/9lxZ7EsiMv0LFESflpLjJaIEYpvPXkQodoqNX0pXNUkJuGajXyhgsrUroC56+sx99o7YuLhwaHg9kr3dHM",
            "qIw0qQh36PeRvWtCdStfEune58z5gy2P165cSoimaE8XsQRtRD0gFgUHTfa9ufcJLSGeQ1fYNSNDve3jkfrFqdIKVHoG",
            "WyGlw2sbq6uwBrjo81w5xR632N2RkS8Tnd7NXM0vtAzXn6p9ConB8+79/uMyzOi6c2z42JglI+HEyAA3jJvLkPdow+Et",
            "3ZiJlJwAVj3zV0k6OjfS2Q5CNWF2RtU4hKGEfeE",
        )
        .into(),
    }
}

pub(crate) fn session() -> SessionData {
    SessionData {
        sender_key: curve25519_from_base64("RF3s+E7RkTQTGF2d8Deol0FkQvgII2aJDf3/Jp5mxVU").unwrap(),
        claimed_ed25519: None,
        forwarding_chain: vec![],
        session_key: SecretString::new(SESSION_KEY.into()),
        shared_history: false,
    }
}

#[test]
fn a_foreign_entry_decrypts() {
    // Origin of the public key: BackupDecryptionKey of matrix-sdk-crypto-wasm for the same secret.
    let key = known_key();
    assert_eq!(key.public_key().to_base64(), "kWRyGfVcjFDxlVWci3ddVTwbcEyq6BsEOPj6w74Lb3Y");
    let session = key.decrypt(&known_entry()).unwrap();
    assert!(session.shared_history, "under its unstable name");
    assert_eq!(session.session_key.as_str(), SESSION_KEY);
    assert!(session.claimed_ed25519.is_some());
    let opened = session.open(&SessionId::new(SESSION_ID)).unwrap();
    assert_eq!(opened.first_known_index(), 0);
}

#[test]
fn the_ratchet_librarys_construction_reads_what_is_written() {
    // The specification's steps, done by hand: key agreement, HKDF, the MAC of the empty string.
    let entry = known_key().public_key().encrypt(&session(), &mut SeededEntropy::new(1));
    let secret =
        Curve25519SecretKey::from_slice(&crate::secret_base64::decode_key(SECRET).unwrap());
    let shared = secret.diffie_hellman(&curve25519_from_base64(&entry.ephemeral).unwrap()).unwrap();
    let mut okm = [0; 80];
    Hkdf::<Sha256>::new(Some(&[0; 32]), shared.as_bytes()).expand(b"", &mut okm).unwrap();
    let mac = Hmac::<Sha256>::new_from_slice(&okm[32..64]).unwrap().finalize().into_bytes();
    assert_eq!(entry.mac, unpadded::STANDARD.encode(&mac[..8]));
}

#[test]
fn what_is_encrypted_comes_back() {
    let key = BackupDecryptionKey::generate(&mut SeededEntropy::new(1));
    let public = BackupPublicKey::from_base64(&key.public_key().to_base64()).unwrap();
    let entry = public.encrypt(&session(), &mut SeededEntropy::new(2));
    let text = serde_json::to_string(&entry).unwrap();
    let read: EncryptedSessionData<'_> = serde_json::from_str(&text).unwrap();
    assert!(matches!(read.ciphertext, Cow::Borrowed(_)));
    assert_eq!(key.decrypt(&read), Ok(session()));
}

#[test]
fn each_entry_has_its_own_key() {
    let (key, mut entropy) = (known_key().public_key(), SeededEntropy::new(1));
    let first = key.encrypt(&session(), &mut entropy);
    assert_ne!(first, key.encrypt(&session(), &mut entropy));
}

#[test]
fn behaviour_36_a_wrong_key_decrypts_nothing() {
    let other = BackupDecryptionKey::generate(&mut SeededEntropy::new(1));
    assert_eq!(other.decrypt(&known_entry()), Err(BackupError::WrongKey));
    assert_ne!(other.public_key(), known_key().public_key());
}

#[test]
fn n21_a_key_of_small_order_is_refused() {
    for key in low_order_curve25519() {
        let text = key.to_base64();
        assert_eq!(BackupPublicKey::from_base64(&text), Err(KeyError::LowOrder));
        let entry = EncryptedSessionData { ephemeral: text.into(), ..known_entry() };
        assert_eq!(known_key().decrypt(&entry), Err(BackupError::Key(KeyError::LowOrder)));
    }
}

#[test]
fn a_damaged_entry_is_an_error_of_its_own() {
    let damage = |change: fn(&mut EncryptedSessionData<'static>)| {
        let mut entry = known_entry();
        change(&mut entry);
        known_key().decrypt(&entry).unwrap_err()
    };
    assert_eq!(damage(|e| e.mac = "".into()), BackupError::Malformed);
    assert_eq!(damage(|e| e.mac = "DecHUgohZ2".into()), BackupError::Malformed);
    assert_eq!(damage(|e| e.mac = "AecHUgohZ2o".into()), BackupError::WrongKey);
    assert_eq!(damage(|e| e.ciphertext = "*".into()), BackupError::Malformed);
    assert_eq!(damage(|e| e.ciphertext = "".into()), BackupError::Damaged);
    assert_eq!(damage(|e| e.ciphertext = "AAAA".into()), BackupError::Damaged);
    assert!(matches!(damage(|e| e.ephemeral = "AAAA".into()), BackupError::Key(_)));
}

#[test]
fn n10_a_session_filed_under_another_id_is_refused() {
    let opened = session().open(&SessionId::new("other"));
    assert_eq!(opened.unwrap_err(), SessionDataError::WrongSession);
    let bad = SessionData { session_key: SecretString::new("AAAA".into()), ..session() };
    let opened = bad.open(&SessionId::new(SESSION_ID)).unwrap_err();
    assert!(matches!(opened, SessionDataError::SessionKey(_)));
}

#[test]
fn session_data_is_read_tolerantly_where_nothing_hangs_on_it() {
    let full = json!({
        "algorithm": "m.megolm.v1.aes-sha2",
        "forwarding_curve25519_key_chain": ["a"],
        "sender_key": "RF3s+E7RkTQTGF2d8Deol0FkQvgII2aJDf3/Jp5mxVU",
        "sender_claimed_keys": { "ed25519": "nonsense", "other": "x" },
        "session_key": SESSION_KEY,
        "shared_history": true,
        "something": { "new": 1 },
    });
    let parse = |json: &Value| SessionData::parse(&serde_json::to_vec(json).unwrap());
    let data = parse(&full).unwrap();
    assert!(data.claimed_ed25519.is_none() && data.shared_history);
    assert_eq!(SessionData::parse(data.to_json().as_slice()), Ok(data));
    for (field, value, error) in [
        ("algorithm", json!("m.other"), SessionDataError::UnknownAlgorithm),
        ("algorithm", json!(1), SessionDataError::Malformed),
        ("sender_key", json!("AAAA"), SessionDataError::SenderKey),
        ("session_key", json!(null), SessionDataError::Malformed),
        ("session_key", json!([1]), SessionDataError::Malformed),
    ] {
        let mut json = full.clone();
        json[field] = value;
        assert_eq!(parse(&json), Err(error), "{field}");
    }
    assert_eq!(SessionData::parse(b"[]"), Err(SessionDataError::Malformed));
    assert!(ExportedSession::parse(&serde_json::to_vec(&full).unwrap()).is_err(), "no room");
}

#[test]
fn a_key_survives_its_secret_its_record_and_its_text() {
    let key = BackupDecryptionKey::generate(&mut SeededEntropy::new(1));
    let public = key.public_key();
    let record = key.to_record();
    let restored = [
        BackupDecryptionKey::from_secret(&key.to_secret()).unwrap(),
        BackupDecryptionKey::from_record(record.as_slice()).unwrap(),
        BackupDecryptionKey::from_recovery_key(key.to_recovery_key().as_str()).unwrap(),
    ];
    assert!(restored.iter().all(|key| key.public_key() == public));
    assert!(BackupDecryptionKey::from_record(&[1, 2]).is_err());
}

#[test]
fn debug_shows_no_key() {
    let shown = format!("{:?} {:?}", known_key(), session());
    assert!(!shown.contains(SECRET) && !shown.contains(SESSION_KEY));
}

#[test]
fn sessions_of_this_crate_travel() {
    let outbound = OutboundGroupSession::new();
    let mut inbound =
        InboundGroupSession::from_session_key(outbound.session_key().as_str()).unwrap();
    let key = BackupDecryptionKey::generate(&mut SeededEntropy::new(1));
    let data = SessionData { session_key: inbound.export_at(0).unwrap(), ..session() };
    let entry = key.public_key().encrypt(&data, &mut SeededEntropy::new(2));
    let mut back = key.decrypt(&entry).unwrap().open(&inbound.session_id()).unwrap();
    assert_eq!(back.relation(&mut inbound), crate::SessionRelation::Equal);
}

proptest! {
    #[test]
    fn no_entry_makes_it_panic(ephemeral in "[A-Za-z0-9+/]{43}", mac: [u8; 8], ciphertext: Vec<u8>) {
        let _ = known_key().decrypt(&EncryptedSessionData {
            ephemeral: ephemeral.into(),
            mac: unpadded::STANDARD.encode(mac).into(),
            ciphertext: unpadded::STANDARD.encode(ciphertext).into(),
        });
    }

    #[test]
    fn no_bytes_make_the_session_parser_panic(bytes: Vec<u8>) {
        let _ = SessionData::parse(&bytes);
        let _ = ExportedSession::parse(&bytes);
    }
}
