//! Facts about Olm that hold across accounts, sessions and messages.

use base64::Engine;
use proptest::prelude::*;
use vodozemac::{Curve25519PublicKey, Curve25519SecretKey};

use super::*;
use crate::unpadded;

/// Points of order 4, 1 and 8, and one beyond the field: enough to see that a position is guarded.
/// The full list is tested where it stands.
fn low_order_keys() -> Vec<Curve25519PublicKey> {
    let zero = [0; 32];
    let mut one = [0; 32];
    one[0] = 1;
    let eight: [u8; 32] = unpadded::STANDARD
        .decode("4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA")
        .unwrap()
        .try_into()
        .unwrap();
    let mut beyond = [0xff; 32];
    beyond[0] = 0xed;
    [zero, one, eight, beyond].map(Curve25519PublicKey::from_bytes).to_vec()
}

struct Pair {
    alice: Account,
    bob: Account,
    session: OlmSession,
}

/// Alice has a session to Bob, who has not heard of it.
fn pair() -> Pair {
    let alice = Account::new();
    let mut bob = Account::new();
    bob.generate_one_time_keys(1);
    let (_, one_time_key) = bob.unpublished_one_time_keys()[0].clone();
    bob.mark_keys_as_published();
    let session =
        alice.create_outbound_session(bob.identity_keys().curve25519, one_time_key).unwrap();
    Pair { alice, bob, session }
}

/// Both have the session, and both have received a message in it.
fn conversation() -> (OlmSession, OlmSession) {
    let Pair { alice, mut bob, session: mut ours } = pair();
    let hello = ours.encrypt(b"hello").unwrap();
    let (mut theirs, _) =
        bob.create_inbound_session(alice.identity_keys().curve25519, &hello).unwrap();
    let answer = theirs.encrypt(b"answer").unwrap();
    ours.decrypt(&answer).unwrap();
    (ours, theirs)
}

/// The message as it arrives after a change of its bytes.
fn changed(message: &OlmMessage, change: impl FnOnce(&mut [u8])) -> Result<OlmMessage, OlmError> {
    let mut body = unpadded::STANDARD.decode(message.body()).unwrap();
    change(&mut body);
    OlmMessage::from_parts(message.message_type().into(), &unpadded::STANDARD.encode(body))
}

/// Puts `to` in place of the first occurrence of `from`.
fn replace_key(body: &mut [u8], from: &[u8], to: &Curve25519PublicKey) {
    let at = body.windows(32).position(|window| window == from).unwrap();
    body[at..at + 32].copy_from_slice(to.as_bytes());
}

#[test]
fn a_pre_key_message_opens_a_session_on_the_other_side() {
    let Pair { alice, mut bob, mut session } = pair();
    let sender = alice.identity_keys().curve25519;
    let message = session.encrypt(b"hello").unwrap();
    assert!(message.is_pre_key());
    assert_eq!(message.identity_key(), Some(sender));
    assert_eq!(message.session_id(), Some(session.session_id()));

    let arrived = OlmMessage::from_parts(0, &message.body()).unwrap();
    assert_eq!(arrived, message);
    let (mut theirs, plaintext) = bob.create_inbound_session(sender, &arrived).unwrap();
    assert_eq!(plaintext.as_slice(), b"hello");
    assert_eq!(theirs.session_id(), session.session_id());
    assert!(theirs.has_received_message() && !session.has_received_message());

    let answer = theirs.encrypt(b"answer").unwrap();
    assert_eq!((answer.message_type(), answer.session_id()), (1, None));
    assert_eq!(session.decrypt(&answer).unwrap().as_slice(), b"answer");
    assert!(session.has_received_message());
    assert!(!session.encrypt(b"more").unwrap().is_pre_key());
}

#[test]
fn only_pre_key_messages_of_the_session_match_it() {
    let mut session = pair().session;
    let own = session.encrypt(b"x").unwrap();
    let other = pair().session.encrypt(b"x").unwrap();
    assert!(session.matches(&own));
    assert!(!session.matches(&other));
    let (mut ours, theirs) = conversation();
    assert!(!theirs.matches(&ours.encrypt(b"x").unwrap()));
}

#[test]
fn a_one_time_key_opens_one_session_only() {
    let Pair { alice, mut bob, mut session } = pair();
    let sender = alice.identity_keys().curve25519;
    let message = session.encrypt(b"hello").unwrap();
    assert_eq!(bob.stored_one_time_key_count(), 1);
    bob.create_inbound_session(sender, &message).unwrap();
    assert_eq!(bob.stored_one_time_key_count(), 0);
    let again = bob.create_inbound_session(sender, &message);
    assert_eq!(again.err(), Some(OlmError::UnknownOneTimeKey));
}

#[test]
fn a_failing_pre_key_message_burns_nothing() {
    let Pair { alice, mut bob, mut session } = pair();
    let sender = alice.identity_keys().curve25519;
    let message = session.encrypt(b"hello").unwrap();
    let before = bob.to_record();

    let length = unpadded::STANDARD.decode(message.body()).unwrap().len();
    for at in 0..length {
        let Ok(changed) = changed(&message, |body| body[at] ^= 0x01) else { continue };
        if changed == message {
            continue;
        }
        assert!(bob.create_inbound_session(sender, &changed).is_err(), "byte {at}");
        assert_eq!(bob.to_record(), before, "byte {at}");
    }
    let stranger = Account::new().identity_keys().curve25519;
    let refused = bob.create_inbound_session(stranger, &message);
    assert_eq!(refused.err(), Some(OlmError::IdentityKeyMismatch));
    assert_eq!(bob.to_record(), before);
    assert!(bob.create_inbound_session(sender, &message).is_ok());
}

#[test]
fn a_fallback_key_opens_sessions_until_it_is_forgotten() {
    let alice = Account::new();
    let mut bob = Account::new();
    bob.generate_fallback_key();
    let (_, fallback) = bob.unpublished_fallback_key().unwrap();
    bob.mark_keys_as_published();
    assert_eq!(bob.unpublished_fallback_key(), None);

    let open = |bob: &mut Account| {
        let mut session =
            alice.create_outbound_session(bob.identity_keys().curve25519, fallback).unwrap();
        let message = session.encrypt(b"hello").unwrap();
        bob.create_inbound_session(alice.identity_keys().curve25519, &message).map(drop)
    };
    assert_eq!(open(&mut bob), Ok(()));
    assert_eq!(open(&mut bob), Ok(()));
    bob.generate_fallback_key();
    assert_eq!(open(&mut bob), Ok(()), "the previous key still works");
    assert!(bob.forget_previous_fallback_key());
    assert!(!bob.forget_previous_fallback_key());
    assert_eq!(open(&mut bob), Err(OlmError::UnknownOneTimeKey));
}

#[test]
fn a_repeated_pre_key_message_has_the_same_hash() {
    let Pair { mut session, .. } = pair();
    let message = session.encrypt(b"hello").unwrap();
    let again = OlmMessage::from_parts(0, &message.body()).unwrap();
    assert_eq!(again.hash(), message.hash());
    assert_ne!(session.encrypt(b"hello").unwrap().hash(), message.hash());
}

#[test]
fn an_unknown_field_in_a_message_does_not_change_its_hash() {
    let Pair { mut session, .. } = pair();
    let message = session.encrypt(b"hello").unwrap();
    let mut body = unpadded::STANDARD.decode(message.body()).unwrap();
    body.extend([0x78, 0x01]);
    let padded = OlmMessage::from_parts(0, &unpadded::STANDARD.encode(body)).unwrap();
    assert_eq!(padded.hash(), message.hash());
}

#[test]
fn a_replayed_message_has_no_key_any_more() {
    let (mut ours, mut theirs) = conversation();
    let message = ours.encrypt(b"once").unwrap();
    assert_eq!(theirs.decrypt(&message).unwrap().as_slice(), b"once");
    assert_eq!(theirs.decrypt(&message), Err(OlmError::MissingKey));
}

#[test]
fn a_changed_message_is_refused_and_spends_no_key() {
    let (mut ours, mut theirs) = conversation();
    // A new chain on the side of the recipient, and one in use.
    for _ in 0..2 {
        let message = ours.encrypt(b"content").unwrap();
        let length = unpadded::STANDARD.decode(message.body()).unwrap().len();
        for at in 0..length {
            let Ok(changed) = changed(&message, |body| body[at] ^= 0x01) else { continue };
            assert!(changed == message || theirs.decrypt(&changed).is_err(), "byte {at}");
        }
        assert_eq!(theirs.decrypt(&message).unwrap().as_slice(), b"content");
    }
}

#[test]
fn a_message_of_another_session_is_refused() {
    let (mut ours, _) = conversation();
    let (_, mut stranger) = conversation();
    let message = ours.encrypt(b"content").unwrap();
    assert_eq!(stranger.decrypt(&message), Err(OlmError::BadMac));
}

#[test]
fn a_message_too_far_ahead_is_refused() {
    let (mut ours, mut theirs) = conversation();
    theirs.decrypt(&ours.encrypt(b"first").unwrap()).unwrap();
    for _ in 0..2001 {
        ours.encrypt(b"lost").unwrap();
    }
    let message = ours.encrypt(b"far").unwrap();
    assert_eq!(theirs.decrypt(&message), Err(OlmError::TooFarAhead { gap: 2001 }));
}

#[test]
fn a_normal_message_opens_no_session() {
    let (mut ours, _) = conversation();
    let message = ours.encrypt(b"content").unwrap();
    let mut account = Account::new();
    let refused =
        account.create_inbound_session(Account::new().identity_keys().curve25519, &message);
    assert_eq!(refused.err(), Some(OlmError::NotPreKey));
}

#[test]
fn n21_no_session_is_opened_to_a_small_order_key() {
    let account = Account::new();
    let good = Account::new().identity_keys().curve25519;
    for bad in low_order_keys() {
        for (identity_key, one_time_key) in [(bad, good), (good, bad), (bad, bad)] {
            let refused = account.create_outbound_session(identity_key, one_time_key);
            assert_eq!(refused.err(), Some(OlmError::LowOrderKey));
        }
    }
}

#[test]
fn n21_a_message_with_a_small_order_key_in_any_position_is_refused() {
    let Pair { mut session, .. } = pair();
    let message = session.encrypt(b"hello").unwrap();
    let pre_key = message.pre_key().unwrap();
    let (ratchet_key, _) = message.chain_position().unwrap();
    for key in [
        pre_key.identity_key().to_vec(),
        pre_key.base_key().to_vec(),
        pre_key.one_time_key().to_vec(),
        ratchet_key,
    ] {
        for bad in low_order_keys() {
            let refused = changed(&message, |body| replace_key(body, &key, &bad));
            assert_eq!(refused.err(), Some(OlmError::LowOrderKey));
        }
    }
    let (mut ours, _) = conversation();
    let message = ours.encrypt(b"content").unwrap();
    let (ratchet_key, _) = message.chain_position().unwrap();
    for bad in low_order_keys() {
        let refused = changed(&message, |body| replace_key(body, &ratchet_key, &bad));
        assert_eq!(refused.err(), Some(OlmError::LowOrderKey));
    }
}

#[test]
fn only_types_zero_and_one_and_version_three_are_olm() {
    let Pair { mut session, .. } = pair();
    let message = session.encrypt(b"hello").unwrap();
    for message_type in [1, 2, 256, u64::MAX] {
        let refused = OlmMessage::from_parts(message_type, &message.body());
        assert_eq!(refused.err(), Some(OlmError::Malformed), "{message_type}");
    }
    let (mut ours, _) = conversation();
    let message = ours.encrypt(&[0; 64]).unwrap();
    for version in [0, 1, 2, 4, 255] {
        let refused = changed(&message, |body| body[0] = version);
        assert_eq!(refused.err(), Some(OlmError::Malformed), "{version}");
    }
}

#[test]
fn chain_positions_never_repeat() {
    let (mut ours, mut theirs) = conversation();
    let mut seen = std::collections::HashSet::new();
    for round in 0..4 {
        for _ in 0..3 {
            let message = ours.encrypt(b"x").unwrap();
            assert!(seen.insert(message.chain_position().unwrap()), "round {round}");
            theirs.decrypt(&message).unwrap();
        }
        std::mem::swap(&mut ours, &mut theirs);
    }
    let (_, index) = pair().session.encrypt(b"x").unwrap().chain_position().unwrap();
    assert_eq!(index, 0, "the inner message of a pre-key message has a position as well");
}

#[test]
fn unpublished_keys_stay_the_same_until_they_are_marked() {
    let mut account = Account::new();
    account.generate_one_time_keys(account.max_one_time_keys());
    account.generate_fallback_key();
    let keys = account.unpublished_one_time_keys();
    let fallback = account.unpublished_fallback_key();
    assert_eq!(keys.len(), 50);
    assert_eq!(account.unpublished_one_time_keys(), keys);

    let restored = Account::from_record(account.to_record().as_slice()).unwrap();
    assert_eq!(restored.unpublished_one_time_keys(), keys);
    assert_eq!(restored.unpublished_fallback_key(), fallback);

    account.mark_keys_as_published();
    assert!(account.unpublished_one_time_keys().is_empty());
    assert_eq!(account.stored_one_time_key_count(), 50);
    account.generate_one_time_keys(1);
    let (id, _) = &account.unpublished_one_time_keys()[0];
    assert!(keys.iter().all(|(known, _)| known != id), "key ids are never reused");
}

#[test]
fn one_time_keys_come_oldest_first() {
    let mut account = Account::new();
    account.generate_one_time_keys(300);
    let numbers: Vec<_> = account
        .unpublished_one_time_keys()
        .iter()
        .map(|(id, _)| unpadded::STANDARD.decode(id).unwrap())
        .collect();
    assert!(numbers.is_sorted());
}

#[test]
fn an_account_survives_its_record() {
    let Pair { alice, bob, mut session } = pair();
    let mut restored = Account::from_record(bob.to_record().as_slice()).unwrap();
    assert_eq!(restored.identity_keys(), bob.identity_keys());
    assert_eq!(restored.to_record(), bob.to_record());
    let message = session.encrypt(b"hello").unwrap();
    assert!(restored.create_inbound_session(alice.identity_keys().curve25519, &message).is_ok());
}

#[test]
fn a_session_survives_its_record_in_every_state() {
    let Pair { alice, mut bob, session } = pair();
    let restore = |session: &OlmSession| {
        let restored = OlmSession::from_record(session.to_record().as_slice()).unwrap();
        assert_eq!(restored.to_record(), session.to_record());
        restored
    };
    // Not answered yet.
    let mut ours = restore(&session);
    let hello = ours.encrypt(b"hello").unwrap();
    let (theirs, _) = bob.create_inbound_session(alice.identity_keys().curve25519, &hello).unwrap();
    // Has received, has not sent.
    let mut theirs = restore(&theirs);
    let skipped = theirs.encrypt(b"skipped").unwrap();
    let answer = theirs.encrypt(b"answer").unwrap();
    ours.decrypt(&answer).unwrap();
    // Holds the key of a skipped message.
    let mut ours = restore(&ours);
    assert_eq!(ours.decrypt(&skipped).unwrap().as_slice(), b"skipped");
    assert_eq!(ours.decrypt(&answer), Err(OlmError::MissingKey));
    // Has sent and received.
    let mut theirs = restore(&theirs);
    let message = restore(&ours).encrypt(b"more").unwrap();
    assert_eq!(theirs.decrypt(&message).unwrap().as_slice(), b"more");
}

#[test]
fn a_damaged_record_is_an_error() {
    let Pair { bob, session, .. } = pair();
    let (account, session) = (bob.to_record(), session.to_record());
    for end in 0..account.as_slice().len() {
        assert!(Account::from_record(&account.as_slice()[..end]).is_err());
    }
    for end in 0..session.as_slice().len() {
        assert!(OlmSession::from_record(&session.as_slice()[..end]).is_err());
    }
    assert!(Account::from_record(session.as_slice()).is_err());
    assert!(OlmSession::from_record(account.as_slice()).is_err());
}

#[test]
fn debug_and_errors_show_no_secret() {
    let Pair { bob, session, .. } = pair();
    assert_eq!(format!("{bob:?}"), "Account(..)");
    let id = session.session_id();
    assert_eq!(
        format!("{session:?}"),
        format!("OlmSession {{ session_id: SessionId(\"{id}\"), .. }}")
    );
    let (mut ours, _) = conversation();
    let message = ours.encrypt(b"content").unwrap();
    assert_eq!(format!("{message:?}"), "OlmMessage { message_type: 1, session_id: None, .. }");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_content_arrives(content: Vec<u8>) {
        let (mut ours, mut theirs) = conversation();
        let message = ours.encrypt(&content).unwrap();
        let arrived = OlmMessage::from_parts(1, &message.body()).unwrap();
        let decrypted = theirs.decrypt(&arrived).unwrap();
        prop_assert_eq!(decrypted.as_slice(), content);
    }

    #[test]
    fn messages_arrive_once_each_in_any_order(
        order in Just((0_u8..20).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let (mut ours, mut theirs) = conversation();
        let messages: Vec<_> = (0_u8..20).map(|n| ours.encrypt(&[n]).unwrap()).collect();
        for n in order {
            let message = &messages[usize::from(n)];
            let decrypted = theirs.decrypt(message).unwrap();
            prop_assert_eq!(decrypted.as_slice(), [n]);
            prop_assert_eq!(theirs.decrypt(message), Err(OlmError::MissingKey));
        }
    }

    #[test]
    fn no_body_makes_the_parser_panic(message_type in 0_u64..3, body: Vec<u8>, text: String) {
        let _ = OlmMessage::from_parts(message_type, &unpadded::STANDARD.encode(&body));
        let _ = OlmMessage::from_parts(message_type, &text);
        let framed = [&[3], body.as_slice(), &[0; 8]].concat();
        let _ = OlmMessage::from_parts(message_type, &unpadded::STANDARD.encode(framed));
    }

    #[test]
    fn no_record_makes_the_readers_panic(body: Vec<u8>) {
        let record = [&[1], body.as_slice()].concat();
        prop_assert!(Account::from_record(&record).is_err());
        prop_assert!(OlmSession::from_record(&record).is_err());
    }

    #[test]
    fn keys_of_full_order_open_sessions(identity: [u8; 32], one_time: [u8; 32]) {
        let public = |secret| Curve25519PublicKey::from(&Curve25519SecretKey::from_slice(secret));
        let opened = Account::new().create_outbound_session(public(&identity), public(&one_time));
        prop_assert!(opened.is_ok());
    }
}
