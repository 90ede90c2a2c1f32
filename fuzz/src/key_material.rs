//! What the homeserver keeps of keys, and what other clients write of them: backups, exports, secret storage, QR codes.
//!
//! Input: which of them, then the bytes.

use herold_crypto::{
    BackupDecryptionKey, EncryptedSecret, ExportedSession, KeyDescription, QrCode, SecretString,
    SessionData, StorageKey,
};
use herold_machine::{RestoredKey, backup_entries, room_entries};
use serde_json::Value;

/// The name of the secret that the seed has.
pub const SECRET: &str = "m.cross_signing.master";
const KEY: &str = "d2hhdCBldmVyeSBmdXp6ZXIga25vd3MgYWxyZWFkeSE";

/// The backup's private key.
///
/// # Panics
/// Never.
#[must_use]
pub fn backup_key() -> BackupDecryptionKey {
    BackupDecryptionKey::from_secret(&SecretString::new(KEY.to_owned())).expect("a key")
}

/// The key of the secret storage.
///
/// # Panics
/// Never.
#[must_use]
pub fn storage_key() -> StorageKey {
    StorageKey::from_secret(&SecretString::new(KEY.to_owned())).expect("a key")
}

/// One run.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    let json = || serde_json::from_slice::<Value>(data).ok();
    match which % 8 {
        0 => drop(backup_entries(data).map(|(entries, _)| open(&entries))),
        1 => {
            let room = ruma::room_id!("!r:world.test");
            drop(room_entries(room, data).map(|entries| open(&entries)));
        }
        2 => {
            if let Ok(parsed) = SessionData::parse(data) {
                let again = SessionData::parse(parsed.to_json().as_slice());
                assert_eq!(again.ok(), Some(parsed), "session data do not survive being written");
            }
        }
        3 => {
            let Ok(entry) = ExportedSession::parse(data) else { return };
            let Some(key) = RestoredKey::from_export(entry) else { return };
            // What is passed over need be no text, and no number that there is: it is not looked at here either.
            #[derive(serde::Deserialize)]
            struct Given {
                session_key: String,
            }
            let given = serde_json::from_slice::<Given>(data).ok().map(|given| given.session_key);
            assert!(given.is_some_and(|given| !format!("{key:?}").contains(&given)));
        }
        4 => {
            if let Some(Ok(parsed)) = json().map(|json| KeyDescription::parse(&json)) {
                let again = KeyDescription::parse(&parsed.to_json());
                assert_eq!(
                    again.as_ref(),
                    Ok(&parsed),
                    "a description does not survive being written"
                );
                // A mutation has no right check value.
                let _ = storage_key().check(&parsed);
            }
        }
        5 => {
            if let Some(Ok(parsed)) = json().map(|json| EncryptedSecret::parse(&json)) {
                assert_eq!(EncryptedSecret::parse(&parsed.to_json()).as_ref(), Ok(&parsed));
                let other = storage_key().decrypt("m.cross_signing.self_signing", &parsed);
                assert!(other.is_err(), "a secret passes for another");
                let _ = storage_key().decrypt(SECRET, &parsed);
            }
        }
        6 => {
            let Ok(text) = std::str::from_utf8(data) else { return };
            if let Ok(key) = StorageKey::from_recovery_key(text) {
                let written = key.to_recovery_key();
                let again = StorageKey::from_recovery_key(written.as_str()).expect("it is one");
                assert_eq!(again.to_secret(), key.to_secret());
            }
        }
        _ => {
            if let Ok(code) = QrCode::parse(data) {
                assert_eq!(QrCode::parse(code.to_bytes().as_slice()).as_ref(), Ok(&code));
                assert!(!code.flow_id().is_empty());
            }
        }
    }
}

fn open(entries: &[herold_machine::BackupEntry<'_>]) {
    let key = backup_key();
    entries.iter().for_each(|entry| drop(entry.open(&key)));
}
