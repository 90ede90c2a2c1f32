//! [`CrossSigning`]: a user's identity made by hand, and devices signed with it.

#![allow(clippy::expect_used, reason = "it is used by tests only")]

use herold_crypto::Account;
use serde_json::{Value, json};

use crate::World;

/// The private keys of an identity, as secret storage and other devices call them.
pub const IDENTITY_SECRETS: [&str; 3] =
    ["m.cross_signing.master", "m.cross_signing.self_signing", "m.cross_signing.user_signing"];
/// Where an identity is published.
pub const SIGNING_UPLOAD: &str = "/_matrix/client/v3/keys/device_signing/upload";

/// The body of a request that wants the user's password.
///
/// # Panics
/// The body is no JSON object.
#[must_use]
pub fn with_password(world: &World, device: usize, body: &str) -> Value {
    let mut body: Value = serde_json::from_str(body).expect("a body is JSON");
    body["auth"] = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": world.devices[device].user_id },
        "password": "pw",
    });
    body
}

/// Has a device prepare an identity of its own: the body to publish, if there is anything to.
///
/// # Panics
/// The device has died over it.
pub fn prepare_identity(world: &mut World, device: usize, replace: bool) -> Option<String> {
    let prepared = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| machine.prepare_identity(snapshot, cx, replace))
    });
    prepared.expect("it is prepared").reply
}

/// Tells a device that the homeserver has taken its identity. Whether it was waiting for that.
///
/// # Panics
/// The device has died over it.
pub fn identity_published(world: &mut World, device: usize) -> bool {
    let published = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| machine.identity_published(snapshot, cx))
    });
    published.expect("it is told").reply
}

/// Makes an identity on a device and has it accepted.
///
/// # Panics
/// It is not.
pub fn publish_identity(world: &mut World, device: usize, replace: bool) {
    let body = prepare_identity(world, device, replace).expect("something to publish");
    let body = with_password(world, device, &body);
    assert_eq!(world.call(Some(device), "POST", SIGNING_UPLOAD, body), json!({}));
    assert!(identity_published(world, device));
}

/// Makes a key backup on a device and has it accepted: its version.
///
/// # Panics
/// It is not.
pub fn create_backup(world: &mut World, device: usize) -> String {
    let prepared = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| machine.prepare_backup(snapshot, cx))
    });
    let body = serde_json::from_str(&prepared.expect("a backup").reply).expect("JSON");
    let answer = world.call(Some(device), "POST", "/_matrix/client/v3/room_keys/version", body);
    let version = answer["version"].as_str().expect("a version").to_owned();
    let created = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| machine.backup_created(snapshot, cx, &version))
    });
    assert!(created.expect("it is told").reply);
    version
}

/// A user's cross-signing identity. Accounts serve as plain signing keys.
pub struct CrossSigning {
    /// Whose it is.
    pub user: String,
    /// The master key.
    pub master: Account,
    /// The self-signing key.
    pub self_signing: Account,
}

impl CrossSigning {
    /// Makes one and uploads it in the name of the device's user.
    pub fn upload(world: &mut World, device: usize) -> Self {
        let identity = Self::new(world.devices[device].user_id.as_str());
        world.call(Some(device), "POST", SIGNING_UPLOAD, identity.public_keys());
        identity
    }

    /// The body of the upload.
    #[must_use]
    pub fn public_keys(&self) -> Value {
        json!({ "master_key": self.master_key(), "self_signing_key": self.self_signing_key() })
    }

    /// Makes one that nobody has published.
    #[must_use]
    pub fn new(user: &str) -> Self {
        Self { user: user.to_owned(), master: Account::new(), self_signing: Account::new() }
    }

    /// The master key as published.
    #[must_use]
    pub fn master_key(&self) -> Value {
        let public = self.master.identity_keys().ed25519.to_base64();
        json!({
            "user_id": self.user,
            "usage": ["master"],
            "keys": { format!("ed25519:{public}"): public },
        })
    }

    /// The self-signing key as published.
    ///
    /// # Panics
    /// Never: it can be signed.
    #[must_use]
    pub fn self_signing_key(&self) -> Value {
        let public = self.self_signing.identity_keys().ed25519.to_base64();
        let mut key = json!({
            "user_id": self.user,
            "usage": ["self_signing"],
            "keys": { format!("ed25519:{public}"): public },
        });
        let master = self.master.identity_keys().ed25519.to_base64();
        self.master.sign_json(&self.user, &master, &mut key).expect("a key can be signed");
        key
    }

    /// Device keys with the self-signing key's signature.
    ///
    /// # Panics
    /// If they are no object.
    #[must_use]
    pub fn sign(&self, mut keys: Value) -> Value {
        let public = self.self_signing.identity_keys().ed25519.to_base64();
        if let Some(object) = keys.as_object_mut() {
            object.remove("unsigned");
        }
        self.self_signing.sign_json(&self.user, &public, &mut keys).expect("keys can be signed");
        keys
    }

    /// Signs a device of the world and uploads the signature.
    ///
    /// # Panics
    /// If the server refuses it.
    pub fn sign_device(&self, world: &mut World, device: usize) {
        let id = world.devices[device].device_id.clone();
        let body = json!({ "device_keys": { self.user.as_str(): [] } });
        let answer = world.call(Some(device), "POST", "/_matrix/client/v3/keys/query", body);
        let keys = answer["device_keys"][&self.user][&id].clone();
        let body = json!({ self.user.as_str(): { id.as_str(): self.sign(keys) } });
        let answer =
            world.call(Some(device), "POST", "/_matrix/client/v3/keys/signatures/upload", body);
        assert_eq!(answer["failures"], json!({}));
    }
}
