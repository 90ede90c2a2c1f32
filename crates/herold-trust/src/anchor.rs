//! [`Anchor`]: the own identity once this device is sure of it, and whom it vouches for.
//!
//! Matrix specification, Client-Server API: "Cross-signing": the own master key, verified on this device, signs the
//! user-signing key, which signs other users' master keys.

use herold_crypto::{Ed25519PublicKey, verify_json};
use ruma::OwnedUserId;

use crate::{Identity, KeyUsage};

/// The own user's identity, its master key verified on this very device: where every chain of trust begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    user_id: OwnedUserId,
    master: Ed25519PublicKey,
    user_signing: Option<Ed25519PublicKey>,
}

impl Anchor {
    /// The anchor, if the own identity is the verified one. `verified_master` is the master key that was verified
    /// on this device: compared as a key, so that an identity that was replaced since is none.
    #[must_use]
    pub fn new(own: &Identity, verified_master: Option<&Ed25519PublicKey>) -> Option<Self> {
        (verified_master == Some(&own.master)).then(|| Self {
            user_id: own.user_id.clone(),
            master: own.master,
            user_signing: own.user_signing,
        })
    }

    /// Whether the identity's master key is the own one, or one that the own user has signed.
    #[must_use]
    pub fn vouches_for(&self, identity: &Identity) -> bool {
        if identity.user_id == self.user_id {
            return identity.master == self.master;
        }
        let (Some(user_signing), Some(master)) =
            (&self.user_signing, identity.key_json(KeyUsage::Master))
        else {
            return false;
        };
        let name = identity.master.to_base64();
        let key_id = format!("ed25519:{}", user_signing.to_base64());
        // What was signed must be this key, and not another one that the text holds.
        master["keys"][format!("ed25519:{name}")].as_str() == Some(&name)
            && master["user_id"].as_str() == Some(identity.user_id.as_str())
            && verify_json(user_signing, self.user_id.as_str(), &key_id, &master).is_ok()
    }
}
