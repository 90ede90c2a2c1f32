//! People with real keys, for the tests of this crate.

use herold_crypto::Account;
use ruma::{OwnedUserId, UserId};
use serde_json::{Value, json};

use crate::{Device, Identity, OLM, ParsedIdentity, parse_device_keys, parse_identity};

/// A user with a cross-signing identity. Accounts serve as plain signing keys here.
pub(crate) struct Person {
    pub(crate) user: OwnedUserId,
    pub(crate) master: Account,
    pub(crate) self_signing: Account,
    pub(crate) user_signing: Account,
}

impl Person {
    pub(crate) fn new(user: &str) -> Self {
        Self {
            user: UserId::parse(user).unwrap(),
            master: Account::new(),
            self_signing: Account::new(),
            user_signing: Account::new(),
        }
    }

    pub(crate) fn master_json(&self) -> Value {
        self.key_json("master", &[&public(&self.master)])
    }

    pub(crate) fn self_signing_json(&self) -> Value {
        let json = self.key_json("self_signing", &[&public(&self.self_signing)]);
        self.signed_by(&self.master, json)
    }

    pub(crate) fn user_signing_json(&self) -> Value {
        let json = self.key_json("user_signing", &[&public(&self.user_signing)]);
        self.signed_by(&self.master, json)
    }

    pub(crate) fn parsed(&self) -> ParsedIdentity {
        parse_identity(&self.user, &self.master_json(), &self.self_signing_json(), None).unwrap()
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::pin(self.parsed())
    }

    /// A cross-signing key object, unsigned.
    pub(crate) fn key_json(&self, usage: &str, keys: &[&str]) -> Value {
        let keys: serde_json::Map<String, Value> =
            keys.iter().map(|key| (format!("ed25519:{key}"), json!(key))).collect();
        json!({"user_id": self.user, "usage": [usage], "keys": keys})
    }

    /// The object with a signature by `signer`, under the name of its own public key.
    pub(crate) fn signed_by(&self, signer: &Account, mut json: Value) -> Value {
        signer.sign_json(self.user.as_str(), &public(signer), &mut json).unwrap();
        json
    }

    /// A device of this user that nobody has cross-signed.
    pub(crate) fn unsigned_device(&self, id: &str) -> Device {
        parse_device_keys(&self.user, id.into(), &device_json(&self.user, id, &Account::new()))
            .unwrap()
    }

    /// A device of this user, cross-signed.
    pub(crate) fn device(&self, id: &str) -> Device {
        let json = device_json(&self.user, id, &Account::new());
        let json = self.signed_by(&self.self_signing, json);
        parse_device_keys(&self.user, id.into(), &json).unwrap()
    }
}

/// An Ed25519 public key in unpadded base64.
pub(crate) fn public(account: &Account) -> String {
    account.identity_keys().ed25519.to_base64()
}

/// Device keys as honest clients upload them, not signed.
pub(crate) fn bare_device_json(user: &UserId, id: &str, account: &Account) -> Value {
    json!({
        "user_id": user,
        "device_id": id,
        "algorithms": [OLM, crate::MEGOLM],
        "keys": {
            (format!("curve25519:{id}")): account.identity_keys().curve25519.to_base64(),
            (format!("ed25519:{id}")): public(account),
        },
    })
}

/// Device keys as honest clients upload them, with the self-signature and a name from the server.
pub(crate) fn device_json(user: &UserId, id: &str, account: &Account) -> Value {
    let mut json = bare_device_json(user, id, account);
    account.sign_json(user.as_str(), id, &mut json).unwrap();
    json["unsigned"] = json!({"device_display_name": "Phone"});
    json
}
