//! What a client is made from.

use std::{sync::Arc, time::Duration};

use herold::{ClientBuilder, DecryptTrust, PolicyFloor, SecretString, SyncMode};
use zeroize::{Zeroize, Zeroizing};

use crate::{HeroldError, host::guarded, input};

/// The key that opens a store. It cannot be read back.
#[derive(uniffi::Object)]
pub struct StoreKey(pub(crate) herold::StoreKey);

#[uniffi::export]
impl StoreKey {
    /// 32 random bytes, from the platform's key store.
    ///
    /// # Errors
    /// [`HeroldError::FixInput`] if there are more or fewer.
    #[uniffi::constructor]
    pub fn raw(mut key: Vec<u8>) -> Result<Arc<Self>, HeroldError> {
        let bytes = <[u8; 32]>::try_from(key.as_slice()).map(Zeroizing::new);
        key.zeroize();
        let bytes = bytes.map_err(|_| HeroldError::input("a store key has 32 bytes"))?;
        Ok(Arc::new(Self(herold::StoreKey::raw(*bytes))))
    }

    /// A passphrase. Opening a store with it takes noticeable time, on purpose.
    ///
    /// # Errors
    /// [`HeroldError::FixInput`] if it is empty or huge.
    #[uniffi::constructor]
    pub fn passphrase(passphrase: SecretString) -> Result<Arc<Self>, HeroldError> {
        guarded(|| {
            input::line(passphrase.as_str(), "not a passphrase")?;
            Ok(Arc::new(Self(herold::StoreKey::passphrase(passphrase))))
        })
    }
}

/// What a client is made from.
#[derive(Clone, uniffi::Record)]
pub struct ClientConfig {
    /// The store's directory; one for each account. Made if it is not there.
    pub store_path: String,
    /// What opens the store.
    pub store_key: Arc<StoreKey>,
    /// The homeserver's base URL, such as `https://matrix.example.org`. Not needed to resume, nor if the
    /// deployment fixes it.
    #[uniffi(default = None)]
    pub homeserver: Option<String>,
    /// The brand's settings; an unbranded one's if left out.
    #[uniffi(default = None)]
    pub deployment: Option<Deployment>,
    /// Allows plain HTTP to hosts other than this machine: for test networks only.
    #[uniffi(default = false)]
    pub allow_insecure_http: bool,
    /// Synchronises by simplified sliding sync (MSC4186), or not; if left out, as the store remembers, and a new
    /// store by sync v2.
    #[uniffi(default = None)]
    pub sliding_sync: Option<bool>,
    /// Other processes of the app, such as the one for notifications, use the same store, in turns. All of them say so.
    #[uniffi(default = false)]
    pub shared_store: bool,
}

/// What a branded messenger is made with. A store made by one deployment is not opened by another.
#[derive(Clone, uniffi::Record)]
pub struct Deployment {
    /// The deployment's own name.
    pub name: String,
    /// What is allowed; the default policy if left out.
    #[uniffi(default = None)]
    pub policy: Option<Policy>,
    /// What a new device is called when the app gives no name. Other users see it.
    #[uniffi(default = None)]
    pub device_display_name: Option<String>,
    /// The homeserver's base URL if the deployment fixes it: a login elsewhere is denied then.
    #[uniffi(default = None)]
    pub homeserver: Option<String>,
    /// What the app calls itself to the homeserver.
    #[uniffi(default = None)]
    pub user_agent: Option<String>,
}

/// What a deployment allows. What is left out has its default.
#[derive(Clone, uniffi::Record)]
pub struct Policy {
    /// Which devices get room keys. Default: identity-based.
    #[uniffi(default = None)]
    pub recipients: Option<Recipients>,
    /// How far a sender must be certain for a message to be shown. Default: any.
    #[uniffi(default = None)]
    pub least_trust: Option<LeastTrust>,
    /// The laxest choice of recipients an app can make.
    #[uniffi(default = None)]
    pub recipients_floor: Option<Recipients>,
    /// The laxest demand on senders an app can make.
    #[uniffi(default = None)]
    pub least_trust_floor: Option<LeastTrust>,
    /// A message that was sent in clear to an encrypted room is withheld, not shown with a shield.
    #[uniffi(default = false)]
    pub refuse_clear_in_encrypted_rooms: bool,
    /// Messages per room key where the room says nothing sensible. Default: 100.
    #[uniffi(default = None)]
    pub rotation_messages: Option<u64>,
    /// Age of a room key in seconds where the room says nothing sensible. Default: seven days.
    #[uniffi(default = None)]
    pub rotation_seconds: Option<u64>,
    /// Characters of a device name that are shown. Default: 100.
    #[uniffi(default = None)]
    pub max_device_name_chars: Option<u32>,
    /// For `IdentityBasedThenStrict`: how long, in seconds, a device without keys is put up with. Default: seven
    /// days.
    #[uniffi(default = None)]
    pub untrusted_grace_seconds: Option<u64>,
    /// Room keys of a room's past may be given to users whom this one invites.
    #[uniffi(default = true)]
    pub share_history: bool,
    /// Room keys of a room's past are taken from whoever has invited this user.
    #[uniffi(default = true)]
    pub accept_history: bool,
    /// For how long things are kept at most, whatever the app asks for. Default: for ever.
    #[uniffi(default = None)]
    pub lifetimes: Option<Lifetimes>,
    /// The user may have a dehydrated device.
    #[uniffi(default = true)]
    pub dehydration: bool,
}

/// For how long a device keeps things, in seconds. What is left out is kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Lifetimes {
    /// Room keys, from when they were received.
    #[uniffi(default = None)]
    pub room_keys: Option<u64>,
    /// Events, from when they were sent.
    #[uniffi(default = None)]
    pub events: Option<u64>,
    /// What a room key can decrypt again, from when it was received: it is moved on behind what it has decrypted.
    #[uniffi(default = None)]
    pub ratchet_forward: Option<u64>,
    /// Olm sessions, from when they were last used. Of all rooms.
    #[uniffi(default = None)]
    pub olm_sessions: Option<u64>,
}

/// Which devices get room keys, from lax to strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Recipients {
    /// Every device that is not blocked.
    AllDevices,
    /// Devices that their owner has cross-signed.
    IdentityBased,
    /// The same, and the app is told of each device that is left out; after `untrusted_grace_seconds` nothing can be
    /// sent to a room that still has one.
    IdentityBasedThenStrict,
    /// Cross-signed devices of owners whose identity is verified.
    OnlyTrusted,
}

/// How far a sender must be certain for a message to be shown, from lax to strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum LeastTrust {
    /// Every message that decrypts is shown, with its shield.
    Any,
    /// From cross-signed devices, and what cannot be better.
    CrossSignedOrLegacy,
    /// From cross-signed devices only.
    CrossSigned,
}

impl ClientConfig {
    pub(crate) fn builder(self) -> Result<ClientBuilder, HeroldError> {
        let mut builder = ClientBuilder::new()
            .store_path(input::line(&self.store_path, "not a path")?)
            .store_key(self.store_key.0.clone())
            .allow_insecure_http(self.allow_insecure_http)
            .shared_store(self.shared_store);
        if let Some(url) = &self.homeserver {
            builder = builder.homeserver(input::line(url, "not a homeserver's URL")?);
        }
        if let Some(deployment) = self.deployment {
            builder = builder.deployment(deployment.into_herold()?);
        }
        if let Some(sliding) = self.sliding_sync {
            builder = builder.sync_mode(if sliding { SyncMode::Sliding } else { SyncMode::V2 });
        }
        #[cfg(feature = "provoke-panic")]
        let builder = builder.clock(Arc::new(crate::provoke::FaultyClock));
        Ok(builder)
    }
}

impl Deployment {
    fn into_herold(self) -> Result<herold::Deployment, HeroldError> {
        let mut to = herold::Deployment {
            name: input::name(&self.name, "not a deployment's name")?.to_owned(),
            policy: self.policy.map(Policy::into_herold).unwrap_or_default(),
            ..herold::Deployment::default()
        };
        if let Some(name) = self.device_display_name {
            to.device_display_name = input::name(&name, "not a device name")?.to_owned();
        }
        if let Some(url) = self.homeserver {
            to.homeserver = Some(input::line(&url, "not a homeserver's URL")?.to_owned());
        }
        if let Some(agent) = self.user_agent {
            to.user_agent = input::name(&agent, "not a user agent")?.to_owned();
        }
        Ok(to)
    }
}

impl Policy {
    fn into_herold(self) -> herold::Policy {
        let default = herold::Policy::default();
        let or = |given: Option<Recipients>, default| given.map_or(default, Into::into);
        let or_trust = |given: Option<LeastTrust>, default| given.map_or(default, Into::into);
        herold::Policy {
            recipients: or(self.recipients, default.recipients),
            decrypt_trust: or_trust(self.least_trust, default.decrypt_trust),
            refuse_clear_in_encrypted_rooms: self.refuse_clear_in_encrypted_rooms,
            floor: PolicyFloor {
                recipients: or(self.recipients_floor, default.floor.recipients),
                decrypt_trust: or_trust(self.least_trust_floor, default.floor.decrypt_trust),
            },
            default_rotation_messages: self
                .rotation_messages
                .unwrap_or(default.default_rotation_messages),
            default_rotation: self
                .rotation_seconds
                .map_or(default.default_rotation, Duration::from_secs),
            max_device_name_chars: self
                .max_device_name_chars
                .unwrap_or(default.max_device_name_chars),
            untrusted_grace: self
                .untrusted_grace_seconds
                .map_or(default.untrusted_grace, Duration::from_secs),
            share_history: self.share_history,
            accept_history: self.accept_history,
            lifetimes: self.lifetimes.map_or(default.lifetimes, Lifetimes::into_herold),
            dehydration: self.dehydration,
        }
    }
}

impl Lifetimes {
    pub(crate) fn into_herold(self) -> herold::Lifetimes {
        let span = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        herold::Lifetimes {
            room_keys: span(self.room_keys),
            events: span(self.events),
            ratchet_forward: span(self.ratchet_forward),
            olm_sessions: span(self.olm_sessions),
        }
    }
}

impl From<Recipients> for herold::Recipients {
    fn from(recipients: Recipients) -> Self {
        match recipients {
            Recipients::AllDevices => Self::AllDevices,
            Recipients::IdentityBased => Self::IdentityBased,
            Recipients::IdentityBasedThenStrict => Self::IdentityBasedThenStrict,
            Recipients::OnlyTrusted => Self::OnlyTrusted,
        }
    }
}

impl From<LeastTrust> for DecryptTrust {
    fn from(trust: LeastTrust) -> Self {
        match trust {
            LeastTrust::Any => Self::Any,
            LeastTrust::CrossSignedOrLegacy => Self::CrossSignedOrLegacy,
            LeastTrust::CrossSigned => Self::CrossSigned,
        }
    }
}

impl std::fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use herold::SecretString;

    use super::{Deployment, LeastTrust, Lifetimes, Policy, Recipients, StoreKey};
    use crate::HeroldError;

    const NOTHING: Policy = Policy {
        recipients: None,
        least_trust: None,
        recipients_floor: None,
        least_trust_floor: None,
        refuse_clear_in_encrypted_rooms: false,
        rotation_messages: None,
        rotation_seconds: None,
        max_device_name_chars: None,
        untrusted_grace_seconds: None,
        share_history: true,
        accept_history: true,
        lifetimes: None,
        dehydration: true,
    };

    #[test]
    fn what_is_left_out_has_its_default() {
        assert_eq!(NOTHING.into_herold(), herold::Policy::default());
        let name = "herold".to_owned();
        let (policy, device_display_name, homeserver, user_agent) = (None, None, None, None);
        let given = Deployment { name, policy, device_display_name, homeserver, user_agent };
        assert_eq!(given.into_herold().unwrap(), herold::Deployment::default());
    }

    #[test]
    fn each_rule_arrives() {
        let policy = Policy {
            recipients: Some(Recipients::OnlyTrusted),
            least_trust: Some(LeastTrust::CrossSigned),
            recipients_floor: Some(Recipients::IdentityBased),
            least_trust_floor: Some(LeastTrust::CrossSignedOrLegacy),
            refuse_clear_in_encrypted_rooms: true,
            rotation_messages: Some(5),
            rotation_seconds: Some(6),
            max_device_name_chars: Some(7),
            untrusted_grace_seconds: Some(8),
            share_history: false,
            accept_history: false,
            lifetimes: Some(Lifetimes {
                room_keys: Some(9),
                events: Some(10),
                ratchet_forward: Some(11),
                olm_sessions: Some(12),
            }),
            dehydration: false,
        }
        .into_herold();
        assert_eq!(policy.recipients, herold::Recipients::OnlyTrusted);
        assert_eq!(policy.decrypt_trust, herold::DecryptTrust::CrossSigned);
        assert_eq!(policy.floor.recipients, herold::Recipients::IdentityBased);
        assert_eq!(policy.floor.decrypt_trust, herold::DecryptTrust::CrossSignedOrLegacy);
        assert!(policy.refuse_clear_in_encrypted_rooms);
        assert_eq!(policy.default_rotation_messages, 5);
        assert_eq!(policy.default_rotation.as_secs(), 6);
        assert_eq!(policy.max_device_name_chars, 7);
        assert_eq!(policy.untrusted_grace.as_secs(), 8);
        assert!(!policy.share_history && !policy.accept_history && !policy.dehydration);
        let kept = policy.lifetimes;
        let kept = [kept.room_keys, kept.events, kept.ratchet_forward, kept.olm_sessions];
        assert_eq!(kept.map(|span| span.unwrap().as_secs()), [9, 10, 11, 12]);
    }

    #[test]
    fn a_store_key_has_32_bytes_and_prints_none() {
        for length in [0, 31, 33] {
            assert!(matches!(StoreKey::raw(vec![1; length]), Err(HeroldError::FixInput { .. })));
        }
        assert_eq!(format!("{:?}", StoreKey::raw(vec![1; 32]).unwrap()), "StoreKey(..)");
        assert!(StoreKey::passphrase(SecretString::new(String::new())).is_err());
    }
}
