//! Facts about Megolm that hold across its sessions.

use base64::Engine;
use proptest::prelude::*;

use super::*;
use crate::unpadded;

/// Origin: libolm, tests of the group session, "Inbound group session export/import".
const KNOWN_KEY: &str = concat!(
    "AgAAAAAwMTIzNDU2Nzg5QUJERUYwMTIzNDU2Nzg5QUJDREVGMDEyMzQ1Njc4OUFCREVGM",
    "DEyMzQ1Njc4OUFCQ0RFRjAxMjM0NTY3ODlBQkRFRjAxMjM0NTY3ODlBQkNERUYwMTIzND",
    "U2Nzg5QUJERUYwMTIzNDU2Nzg5QUJDREVGMDEyMw0bdg1BDq4Px/slBow06q8n/B9WBfw",
    "WYyNOB8DlUmXGGwrFmaSb9bR/eY8xgERrxmP07hFmD9uqA2p8PMHdnV5ysmgufE6oLZ5+",
    "8/mWQOW3VVTnDIlnwd8oHUYRuk8TCQ",
);

/// Origin: as [`KNOWN_KEY`]. The plaintext is "Message".
const KNOWN_MESSAGE: &str = concat!(
    "AwgAEhAcbh6UpbByoyZxufQ+h2B+8XHMjhR69G8F4+qjMaFlnIXusJZX3r8LnRORG9T3D",
    "XFdbVuvIWrLyRfm4i8QRbe8VPwGRFG57B1CtmxanuP8bHtnnYqlwPsD",
);

fn pair() -> (OutboundGroupSession, InboundGroupSession) {
    let outbound = OutboundGroupSession::new();
    let inbound = reader(&outbound);
    (outbound, inbound)
}

fn reader(outbound: &OutboundGroupSession) -> InboundGroupSession {
    InboundGroupSession::from_session_key(outbound.session_key().as_str()).unwrap()
}

fn decrypted(session: &mut InboundGroupSession, message: &str) -> (Vec<u8>, u32) {
    let (plaintext, index) = session.decrypt(message).unwrap();
    (plaintext.to_vec(), index)
}

/// The base64 text of the same bytes after `change`.
fn changed(text: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = unpadded::STANDARD.decode(text).unwrap();
    change(&mut bytes);
    unpadded::STANDARD.encode(bytes)
}

#[test]
fn a_known_message_decrypts_with_its_known_key() {
    let mut session = InboundGroupSession::from_session_key(KNOWN_KEY).unwrap();
    assert_eq!(decrypted(&mut session, KNOWN_MESSAGE), (b"Message".to_vec(), 0));
    let export = session.export_at(0).unwrap();
    let mut imported = InboundGroupSession::import(export.as_str()).unwrap();
    assert_eq!(decrypted(&mut imported, KNOWN_MESSAGE), (b"Message".to_vec(), 0));
}

#[test]
fn indices_count_up_and_are_readable_without_the_session() {
    let (mut outbound, mut inbound) = pair();
    for expected in 0..3 {
        assert_eq!(outbound.message_index(), expected);
        let message = outbound.encrypt(b"content");
        assert_eq!(megolm_message_index(&message), Ok(expected));
        assert_eq!(decrypted(&mut inbound, &message), (b"content".to_vec(), expected));
    }
    assert_eq!(inbound.session_id(), outbound.session_id());
}

#[test]
fn a_later_key_reads_no_earlier_message() {
    let (mut outbound, _) = pair();
    let early = outbound.encrypt(b"early");
    let mut inbound = reader(&outbound);
    assert_eq!(inbound.first_known_index(), 1);
    let refused = inbound.decrypt(&early);
    assert_eq!(refused, Err(MegolmError::IndexTooEarly { first_known: 1, got: 0 }));
    assert_eq!(inbound.export_at(0), None);
    assert_eq!(decrypted(&mut inbound, &outbound.encrypt(b"late")).1, 1);
}

#[test]
fn a_message_can_be_decrypted_again_and_out_of_order() {
    let (mut outbound, mut inbound) = pair();
    let messages: Vec<_> = (0_u8..5).map(|n| outbound.encrypt(&[n])).collect();
    for n in [4_u8, 0, 2, 2, 1, 3, 0] {
        let expected = (vec![n], u32::from(n));
        assert_eq!(decrypted(&mut inbound, &messages[usize::from(n)]), expected);
    }
}

#[test]
fn n22_every_changed_byte_of_a_message_is_noticed() {
    let (mut outbound, mut inbound) = pair();
    let message = outbound.encrypt(b"content");
    let length = unpadded::STANDARD.decode(&message).unwrap().len();
    for at in 0..length {
        let message = changed(&message, |bytes| bytes[at] ^= 0x01);
        assert!(inbound.decrypt(&message).is_err(), "byte {at}");
    }
    assert!(inbound.decrypt(&message).is_ok());
}

#[test]
fn a_message_signed_by_another_session_is_refused() {
    let (_, mut inbound) = pair();
    let (mut other, _) = pair();
    assert_eq!(inbound.decrypt(&other.encrypt(b"content")), Err(MegolmError::BadSignature));
}

#[test]
fn n22_every_changed_byte_of_a_session_key_is_noticed() {
    let (outbound, _) = pair();
    let key = outbound.session_key();
    let length = unpadded::STANDARD.decode(key.as_str()).unwrap().len();
    for at in 0..length {
        let key = changed(key.as_str(), |bytes| bytes[at] ^= 0x01);
        assert!(InboundGroupSession::from_session_key(&key).is_err(), "byte {at}");
    }
}

#[test]
fn session_keys_and_exports_are_not_confused_and_have_one_length() {
    let (outbound, mut inbound) = pair();
    let key = outbound.session_key();
    let export = inbound.export_at(0).unwrap();
    assert!(InboundGroupSession::import(key.as_str()).is_err());
    assert!(InboundGroupSession::from_session_key(export.as_str()).is_err());
    for text in [key.as_str(), export.as_str()] {
        let longer = changed(text, |bytes| bytes.push(0));
        let shorter = changed(text, |bytes| bytes.truncate(bytes.len() - 1));
        for text in [longer, shorter] {
            assert!(InboundGroupSession::import(&text).is_err());
            assert!(InboundGroupSession::from_session_key(&text).is_err());
        }
    }
}

#[test]
fn n21_a_session_with_a_small_order_signing_key_is_refused() {
    let (_, mut inbound) = pair();
    let export = inbound.export_at(0).unwrap();
    for first in [0, 1] {
        let key = changed(export.as_str(), |bytes| {
            bytes[133..].fill(0);
            bytes[133] = first;
        });
        assert_eq!(InboundGroupSession::import(&key).err(), Some(MegolmError::LowOrderKey));
    }
}

#[test]
fn sessions_of_one_ratchet_compare_by_their_first_index() {
    let (_, mut early) = pair();
    let mut late = InboundGroupSession::import(early.export_at(5).unwrap().as_str()).unwrap();
    let mut same = early.clone();
    assert_eq!(early.relation(&mut late), SessionRelation::Better);
    assert_eq!(late.relation(&mut early), SessionRelation::Worse);
    assert_eq!(early.relation(&mut same), SessionRelation::Equal);
    assert_eq!(early.first_known_index(), 0, "comparing moves nothing");
    assert_eq!(early.relation(&mut pair().1), SessionRelation::Unconnected);
}

#[test]
fn a_forged_ratchet_under_the_same_id_is_unconnected() {
    let (_, mut session) = pair();
    let export = session.export_at(3).unwrap();
    let forged = changed(export.as_str(), |bytes| bytes[5] ^= 1);
    let mut forged = InboundGroupSession::import(&forged).unwrap();
    assert_eq!(forged.session_id(), session.session_id());
    assert_eq!(session.relation(&mut forged), SessionRelation::Unconnected);
    assert_eq!(forged.relation(&mut session), SessionRelation::Unconnected);
}

#[test]
fn a_correct_signature_does_not_make_a_wrong_ratchet_decrypt() {
    let (mut outbound, mut session) = pair();
    let forged = changed(session.export_at(0).unwrap().as_str(), |bytes| bytes[5] ^= 1);
    let mut forged = InboundGroupSession::import(&forged).unwrap();
    assert_eq!(forged.decrypt(&outbound.encrypt(b"content")), Err(MegolmError::BadMac));
}

#[test]
fn sessions_survive_their_records() {
    let (mut outbound, mut inbound) = pair();
    outbound.encrypt(b"content");
    let mut restored = OutboundGroupSession::from_record(outbound.to_record().as_slice()).unwrap();
    assert_eq!(restored.message_index(), 1);
    assert_eq!(restored.session_key(), outbound.session_key());
    let message = restored.encrypt(b"content");
    assert_eq!(message, outbound.encrypt(b"content"));

    inbound.decrypt(&message).unwrap();
    let mut restored = InboundGroupSession::from_record(inbound.to_record().as_slice()).unwrap();
    assert_eq!(restored.first_known_index(), 0, "reading does not move the record");
    assert_eq!(restored.relation(&mut inbound), SessionRelation::Equal);
    assert_eq!(decrypted(&mut restored, &message).1, 1);
}

#[test]
fn a_damaged_record_is_an_error() {
    let (outbound, inbound) = pair();
    let (outbound, inbound) = (outbound.to_record(), inbound.to_record());
    for end in 0..outbound.as_slice().len() {
        assert!(OutboundGroupSession::from_record(&outbound.as_slice()[..end]).is_err());
    }
    for end in 0..inbound.as_slice().len() {
        assert!(InboundGroupSession::from_record(&inbound.as_slice()[..end]).is_err());
    }
    assert!(OutboundGroupSession::from_record(inbound.as_slice()).is_err());
    assert!(InboundGroupSession::from_record(outbound.as_slice()).is_err());
    let longer = [inbound.as_slice(), &[0]].concat();
    assert!(InboundGroupSession::from_record(&longer).is_err());
}

#[test]
fn a_session_restored_ahead_starts_there_and_its_readers_follow() {
    let mut outbound = OutboundGroupSession::new();
    outbound.encrypt(b"before");
    let mut inbound = reader(&outbound);
    let reserved = outbound.to_record_ahead(100).unwrap();
    assert_eq!(outbound.message_index(), 1, "the session itself stays");

    let used: Vec<_> = (0..100).map(|_| outbound.encrypt(b"used")).collect();
    let mut restored = OutboundGroupSession::from_record(reserved.as_slice()).unwrap();
    assert_eq!(restored.message_index(), 101);
    assert_eq!(restored.session_id(), outbound.session_id());
    let message = restored.encrypt(b"after the crash");
    assert_eq!(decrypted(&mut inbound, &message), (b"after the crash".to_vec(), 101));
    assert!(used.iter().all(|used| megolm_message_index(used).unwrap() < 101));
}

#[test]
fn reserving_far_ahead_is_cheap_and_exact() {
    let outbound = OutboundGroupSession::new();
    let mut inbound = reader(&outbound);
    for ahead in [0, 1, 255, 256, 257, 65_535, 65_536, 1 << 24, (1 << 24) + 12_345, 1 << 31] {
        let record = outbound.to_record_ahead(ahead).unwrap();
        let mut restored = OutboundGroupSession::from_record(record.as_slice()).unwrap();
        let message = restored.encrypt(b"content");
        assert_eq!(decrypted(&mut inbound, &message), (b"content".to_vec(), ahead));
    }
}

#[test]
fn reserving_beyond_the_last_index_is_an_error() {
    let outbound = OutboundGroupSession::new();
    for ahead in [(1 << 31) + 1, u32::MAX] {
        assert_eq!(outbound.to_record_ahead(ahead), Err(MegolmError::Exhausted));
    }
    let far = outbound.to_record_ahead(1 << 31).unwrap();
    let far = OutboundGroupSession::from_record(far.as_slice()).unwrap();
    assert_eq!(far.to_record_ahead(1), Err(MegolmError::Exhausted));
    assert_eq!(far.to_record_ahead(u32::MAX), Err(MegolmError::Exhausted));
}

#[test]
fn debug_shows_ids_and_indices_only() {
    let (outbound, inbound) = pair();
    let id = outbound.session_id();
    assert_eq!(
        format!("{outbound:?}"),
        format!("OutboundGroupSession {{ session_id: SessionId(\"{id}\"), message_index: 0, .. }}")
    );
    assert_eq!(
        format!("{inbound:?}"),
        format!(
            "InboundGroupSession {{ session_id: SessionId(\"{id}\"), first_known_index: 0, .. }}"
        )
    );
    assert_eq!(format!("{:?}", outbound.session_key()), "SecretString(..)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reserving_ahead_is_the_same_as_encrypting_that_often(start in 0_u32..40, ahead in 0_u32..600) {
        let mut session = OutboundGroupSession::new();
        for _ in 0..start {
            session.encrypt(b"");
        }
        let reserved = session.to_record_ahead(ahead).unwrap();
        for _ in 0..ahead {
            session.encrypt(b"");
        }
        prop_assert_eq!(reserved, session.to_record());
    }

    #[test]
    fn any_content_arrives(content: Vec<u8>) {
        let (mut outbound, mut inbound) = pair();
        let message = outbound.encrypt(&content);
        prop_assert_eq!(decrypted(&mut inbound, &message), (content, 0));
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text: String, body: Vec<u8>) {
        let (_, mut inbound) = pair();
        let framed = [&[3], body.as_slice(), &[0; 72]].concat();
        for text in [text, unpadded::STANDARD.encode(&body), unpadded::STANDARD.encode(framed)] {
            let _ = megolm_message_index(&text);
            prop_assert!(inbound.decrypt(&text).is_err());
            prop_assert!(InboundGroupSession::import(&text).is_err());
            prop_assert!(InboundGroupSession::from_session_key(&text).is_err());
        }
    }

    #[test]
    fn no_record_makes_the_readers_panic(body: Vec<u8>) {
        let record = [&[1], body.as_slice()].concat();
        prop_assert!(OutboundGroupSession::from_record(&record).is_err());
        prop_assert!(InboundGroupSession::from_record(&record).is_err());
    }
}
