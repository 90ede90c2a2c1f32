//! State that another program on the same ratchet library has kept, taken over.
//!
//! vodozemac's own representation of an account or a session is read through serde, whatever the encoding around it, and
//! checked before it becomes live: what a program is going to publish or to rely on has to follow from the private keys.
//! It is the same in vodozemac 0.10 and 0.11. Nothing is written in it; this crate's own records are another format
//! ([`Account::to_record`] and the like). A session of the experimental second versions of the protocols does not read.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use vodozemac::{Curve25519PublicKey, Curve25519SecretKey, megolm, olm};

use crate::identity::{is_low_order_curve25519, is_low_order_ed25519};
use crate::megolm::InboundGroupSession;
use crate::olm::{Account, OlmSession};
use crate::record;

/// Why a state cannot be taken over. The texts quote nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// A public key is not that of its private key.
    #[error("a public key does not belong to its private key")]
    KeyMismatch,
    /// A counter is so large that it must be made up.
    #[error("a counter is out of range")]
    OutOfRange,
    /// A key is of small order.
    #[error("a key is of small order")]
    LowOrderKey,
    /// Parts of it contradict each other.
    #[error("its parts contradict each other")]
    Damaged,
}

/// Key ids count up from 0 by one for each key: no device comes near this.
const MAX_KEY_ID: u64 = 1 << 48;

macro_rules! pickle {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        ///
        /// Secrecy: `Debug` prints no content.
        #[derive(Deserialize)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

pickle! {
    /// An account as vodozemac represents it.
    AccountPickle(olm::AccountPickle)
}
pickle! {
    /// An Olm session as vodozemac represents it.
    OlmSessionPickle(olm::SessionPickle)
}
pickle! {
    /// The reading side of a Megolm session as vodozemac represents it.
    InboundGroupSessionPickle(megolm::InboundGroupSessionPickle)
}

/// What of an account is not derived when it is read.
#[derive(Deserialize)]
struct Stated {
    one_time_keys: StatedOneTimeKeys,
    fallback_keys: StatedFallbackKeys,
}

#[derive(Deserialize)]
struct StatedOneTimeKeys {
    next_key_id: u64,
    /// Those that are still to be published.
    public_keys: BTreeMap<u64, Curve25519PublicKey>,
    private_keys: BTreeMap<u64, Curve25519SecretKey>,
}

#[derive(Deserialize)]
struct StatedFallbackKeys {
    key_id: u64,
}

impl AccountPickle {
    /// The live account.
    ///
    /// # Errors
    ///
    /// [`PickleError::KeyMismatch`] if a one-time key that would be published is not that of the private key with its id;
    /// [`PickleError::OutOfRange`] if ids would wrap around or be given twice.
    pub fn restore(self) -> Result<Account, PickleError> {
        let account = Account(olm::Account::from_pickle(self.0));
        let stated: Stated = record::decode("an account", account.to_record().as_slice())
            .map_err(|_| PickleError::Damaged)?;
        let keys = &stated.one_time_keys;
        let last = keys.private_keys.keys().next_back();
        if keys.next_key_id > MAX_KEY_ID
            || stated.fallback_keys.key_id > MAX_KEY_ID
            || last.is_some_and(|last| *last >= keys.next_key_id)
        {
            return Err(PickleError::OutOfRange);
        }
        for (id, public) in &keys.public_keys {
            let private = keys.private_keys.get(id).ok_or(PickleError::KeyMismatch)?;
            if Curve25519PublicKey::from(private) != *public {
                return Err(PickleError::KeyMismatch);
            }
        }
        Ok(account)
    }
}

impl OlmSessionPickle {
    /// The live session. It has to be one between `own` and `peer`, the two devices' identity keys: the one who began it is
    /// named in its id.
    ///
    /// # Errors
    ///
    /// [`PickleError::Damaged`] if it is between others, [`PickleError::LowOrderKey`].
    pub fn restore(
        self,
        own: &Curve25519PublicKey,
        peer: &Curve25519PublicKey,
    ) -> Result<OlmSession, PickleError> {
        let session = olm::Session::from_pickle(self.0);
        let keys = session.session_keys();
        if [keys.identity_key, keys.base_key, keys.one_time_key].iter().any(is_low_order_curve25519)
        {
            return Err(PickleError::LowOrderKey);
        }
        if keys.identity_key != *own && keys.identity_key != *peer {
            return Err(PickleError::Damaged);
        }
        Ok(OlmSession::new(session))
    }
}

impl InboundGroupSessionPickle {
    /// The live session, from its first known index on. Its id is its signing key.
    ///
    /// # Errors
    ///
    /// [`PickleError::LowOrderKey`].
    pub fn restore(self) -> Result<InboundGroupSession, PickleError> {
        let session = megolm::InboundGroupSession::from_pickle(self.0);
        if is_low_order_ed25519(&session.session_id()) != Some(false) {
            return Err(PickleError::LowOrderKey);
        }
        // What is kept of it is its export. One that does not come back would be lost at the next start.
        let record = InboundGroupSession::from_restored(session).to_record();
        InboundGroupSession::from_record(record.as_slice()).map_err(|_| PickleError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn account() -> Value {
        let mut account = olm::Account::new();
        account.generate_one_time_keys(3);
        account.generate_fallback_key();
        serde_json::to_value(account.pickle()).unwrap()
    }

    fn restore(pickle: &Value) -> Result<Account, PickleError> {
        serde_json::from_value::<AccountPickle>(pickle.clone()).unwrap().restore()
    }

    #[test]
    fn an_account_comes_over_with_its_keys() {
        let mut theirs = olm::Account::new();
        theirs.generate_one_time_keys(3);
        let ours = restore(&serde_json::to_value(theirs.pickle()).unwrap()).unwrap();
        assert_eq!(ours.identity_keys().curve25519, theirs.curve25519_key());
        assert_eq!(ours.identity_keys().ed25519, theirs.ed25519_key().into());
        let published: BTreeMap<_, _> = ours.unpublished_one_time_keys().into_iter().collect();
        for (id, key) in theirs.one_time_keys() {
            assert_eq!(published[&id.to_base64()], key);
        }
    }

    #[test]
    fn a_public_key_without_its_private_key_is_not_published() {
        let mut changed = account();
        changed["one_time_keys"]["public_keys"]["1"] =
            changed["one_time_keys"]["public_keys"]["0"].clone();
        assert_eq!(restore(&changed).unwrap_err(), PickleError::KeyMismatch);
        let mut missing = account();
        missing["one_time_keys"]["private_keys"].as_object_mut().unwrap().remove("2");
        assert_eq!(restore(&missing).unwrap_err(), PickleError::KeyMismatch);
    }

    #[test]
    fn ids_are_never_given_twice() {
        for id in [2_u64, 1 << 60, u64::MAX] {
            let mut changed = account();
            changed["one_time_keys"]["next_key_id"] = json!(id);
            assert_eq!(restore(&changed).unwrap_err(), PickleError::OutOfRange);
        }
        let mut changed = account();
        changed["fallback_keys"]["key_id"] = json!(u64::MAX);
        assert_eq!(restore(&changed).unwrap_err(), PickleError::OutOfRange);
    }

    #[test]
    fn a_session_has_to_be_between_the_two_devices() {
        let (alice, mut bob) = (olm::Account::new(), olm::Account::new());
        bob.generate_one_time_keys(1);
        let key = *bob.one_time_keys().values().next().unwrap();
        let session = alice
            .create_outbound_session(olm::SessionConfig::version_1(), bob.curve25519_key(), key)
            .unwrap();
        let pickle = serde_json::to_value(session.pickle()).unwrap();
        let read = || serde_json::from_value::<OlmSessionPickle>(pickle.clone()).unwrap();
        let (alice, bob) = (alice.curve25519_key(), bob.curve25519_key());
        let carol = olm::Account::new().curve25519_key();
        assert_eq!(
            read().restore(&alice, &bob).unwrap().session_id().as_str(),
            session.session_id()
        );
        assert_eq!(read().restore(&bob, &carol).unwrap_err(), PickleError::Damaged);
    }

    #[test]
    fn a_room_key_comes_over_with_its_id_and_index() {
        let mut outbound = megolm::GroupSession::new(megolm::SessionConfig::version_1());
        outbound.encrypt("one");
        let theirs = megolm::InboundGroupSession::new(
            &outbound.session_key(),
            megolm::SessionConfig::version_1(),
        );
        let pickle = serde_json::to_value(theirs.pickle()).unwrap();
        let read = serde_json::from_value::<InboundGroupSessionPickle>(pickle).unwrap();
        assert_eq!(format!("{read:?}"), "InboundGroupSessionPickle(..)");
        let mut ours = read.restore().unwrap();
        assert_eq!(ours.session_id().as_str(), outbound.session_id());
        assert_eq!(ours.first_known_index(), 1);
        let message = outbound.encrypt("two").to_base64();
        assert_eq!(ours.decrypt(&message).unwrap().0.as_slice(), b"two");
    }

    #[test]
    fn a_room_key_of_small_order_is_refused() {
        let outbound = megolm::GroupSession::new(megolm::SessionConfig::version_1());
        let theirs = megolm::InboundGroupSession::new(
            &outbound.session_key(),
            megolm::SessionConfig::version_1(),
        );
        let mut pickle = serde_json::to_value(theirs.pickle()).unwrap();
        let mut point = vec![0_u8; 32];
        point[0] = 1;
        pickle["signing_key"] = json!(point);
        if let Ok(read) = serde_json::from_value::<InboundGroupSessionPickle>(pickle) {
            assert_eq!(read.restore().unwrap_err(), PickleError::LowOrderKey);
        }
    }
}
