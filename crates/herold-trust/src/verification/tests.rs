use herold_crypto::{Account, SeededEntropy};
use ruma::{DeviceId, device_id, event_id, room_id, user_id};
use serde_json::{Value, json};

use super::message::{ACCEPT, CANCEL, DONE, KEY, MAC, READY, REQUEST, START};
use super::*;
use crate::test_world::{Person, device_json};
use crate::{Device, parse_device_keys};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn later(seconds: u64) -> Timestamp {
    NOW.saturating_add(Duration::from_secs(seconds))
}

fn party(person: &Person, id: &str) -> PartyKeys {
    let device = person.unsigned_device(id);
    PartyKeys::theirs(&device, Some(&person.identity()), [device_id!("OTHER")]).unwrap()
}

/// Two sides and what they have received.
struct Pair {
    sides: [PartyKeys; 2],
    flows: Vec<Verification>,
    /// Messages in the order in which they were sent, with the sender.
    wire: Vec<(usize, VerificationMessage)>,
    next: usize,
}

impl Pair {
    fn sides(sides: [PartyKeys; 2]) -> Self {
        Self { sides, flows: Vec::new(), wire: Vec::new(), next: 0 }
    }

    /// Alice and Bob in a room, requested.
    fn users() -> Self {
        let (alice, bob) = (Person::new("@alice:example.org"), Person::new("@bob:example.org"));
        Self::in_room([party(&alice, "ALICE"), party(&bob, "BOB")])
    }

    fn in_room(sides: [PartyKeys; 2]) -> Self {
        let mut pair = Self::sides(sides);
        let mut entropy = SeededEntropy::new(1);
        let (room, event) = (room_id!("!r:example.org"), event_id!("$request"));
        let [ours, theirs] = &pair.sides;
        let content = Verification::room_request(ours, &theirs.user_id, Methods::ALL, "Verify!");
        let mine = Verification::request_in_room(
            ours.clone(),
            theirs.user_id.clone(),
            room,
            event,
            Methods::ALL,
            NOW,
            &mut entropy,
        );
        let other = Verification::receive_room_request(
            &content,
            &ours.user_id,
            room,
            event,
            NOW,
            CurrentKeys { ours: theirs, theirs: Some(ours) },
            NOW,
            &mut entropy,
        );
        pair.flows = vec![mine, other.unwrap()];
        pair
    }

    /// Two devices of Alice by to-device messages, requested; the second trusts no master key yet.
    fn devices() -> Self {
        let alice = Person::new("@alice:example.org");
        let mut newer = party(&alice, "NEWER");
        let older = party(&alice, "OLDER");
        newer.master = None;
        Self::to_device([newer, older])
    }

    fn to_device(sides: [PartyKeys; 2]) -> Self {
        let mut pair = Self::sides(sides);
        let mut entropy = SeededEntropy::new(1);
        let [ours, theirs] = &pair.sides;
        let (mine, sent) = Verification::request_devices(
            ours.clone(),
            theirs.user_id.clone(),
            vec![theirs.device_id.clone(), "THIRD".into()],
            "txn".into(),
            Methods::ALL,
            NOW,
            &mut entropy,
        );
        assert_eq!(sent[0].event_type, REQUEST);
        let keys = pair.seen_by(1);
        let other = Verification::receive_request(
            &sent[0].content,
            &ours.user_id,
            CurrentKeys { ours: &keys.0, theirs: keys.1.as_ref() },
            NOW,
            &mut entropy,
        );
        pair.flows = vec![mine, other.unwrap()];
        pair
    }

    /// Own keys, and the other side's as this side sees them: with the master key even if the other
    /// side does not trust it.
    fn seen_by(&self, side: usize) -> (PartyKeys, Option<PartyKeys>) {
        let ours = self.sides[side].clone();
        let mut theirs = self.sides[1 - side].clone();
        if ours.user_id == theirs.user_id {
            theirs.master = theirs.master.or(ours.master);
        }
        (ours, Some(theirs))
    }

    fn act(
        &mut self,
        side: usize,
        act: impl FnOnce(&mut Verification, CurrentKeys<'_>) -> Vec<VerificationMessage>,
    ) {
        let (ours, theirs) = self.seen_by(side);
        let keys = CurrentKeys { ours: &ours, theirs: theirs.as_ref() };
        let sent = act(&mut self.flows[side], keys);
        self.wire.extend(sent.into_iter().map(|message| (side, message)));
    }

    fn deliver(&mut self, from: usize, event_type: &str, content: &Value) {
        let sender = self.sides[from].user_id.clone();
        self.act(1 - from, |flow, keys| {
            // Each message passes through the record.
            *flow = Verification::from_record(flow.to_record().as_slice()).unwrap();
            flow.handle(event_type, content, &sender, None, keys, NOW)
        });
    }

    /// Delivers all that is under way, after `tamper` saw it.
    fn run_with(&mut self, mut tamper: impl FnMut(&mut VerificationMessage)) {
        while let Some((from, mut message)) = self.wire.get(self.next).cloned() {
            self.next += 1;
            if let VerificationTarget::Devices(_, devices) = &message.target
                && !devices.contains(&self.sides[1 - from].device_id)
            {
                continue;
            }
            tamper(&mut message);
            self.deliver(from, message.event_type, &message.content);
        }
    }

    fn run(&mut self) {
        self.run_with(|_| ());
    }

    fn ready(mut self) -> Self {
        self.act(1, |flow, keys| flow.accept(Methods::ALL, keys, NOW));
        self.run();
        self
    }

    fn compared(self) -> Self {
        let mut pair = self.ready();
        pair.act(0, |flow, keys| flow.start_sas(keys, NOW));
        pair.run();
        pair
    }

    fn confirm(&mut self, side: usize) {
        self.act(side, |flow, keys| flow.confirm(keys, NOW));
        self.run();
    }

    fn state(&self, side: usize) -> VerificationState {
        self.flows[side].state()
    }

    fn kinds(&self) -> Vec<(usize, &'static str)> {
        self.wire.iter().map(|(from, message)| (*from, message.event_type)).collect()
    }

    /// Both ended with this code, and the first side (or the second) gave it.
    #[track_caller]
    fn assert_cancelled(&self, code: &CancelCode, by: usize) {
        for side in [0, 1] {
            let expected = VerificationState::Cancelled { code: code.clone(), by_us: side == by };
            assert_eq!(self.state(side), expected, "side {side}");
        }
    }

    fn verified(&self, side: usize) -> Vec<VerifiedKey> {
        match self.state(side) {
            VerificationState::Done { verified } => verified,
            other => panic!("not done: {other:?}"),
        }
    }
}

fn master_of(party: &PartyKeys) -> VerifiedKey {
    party.verified_master().unwrap()
}

#[test]
fn two_users_compare_emoji_and_verify_master_keys() {
    let mut pair = Pair::users().compared();
    let (VerificationState::KeysExchanged(a), VerificationState::KeysExchanged(b)) =
        (pair.state(0), pair.state(1))
    else {
        panic!("no strings");
    };
    assert_eq!(a, b);
    assert!(a.emoji.is_some() && a.decimals.is_some());
    pair.confirm(0);
    assert_eq!(pair.state(0), VerificationState::Confirmed);
    assert!(matches!(pair.state(1), VerificationState::KeysExchanged(_)));
    pair.confirm(1);
    assert_eq!(pair.verified(0), [master_of(&pair.sides[1])]);
    assert_eq!(pair.verified(1), [master_of(&pair.sides[0])]);
    let kinds: Vec<_> = pair.kinds().into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, [READY, START, ACCEPT, KEY, KEY, MAC, MAC, DONE, DONE]);
    let relation = json!({ "rel_type": "m.reference", "event_id": "$request" });
    assert!(pair.wire.iter().all(|(_, message)| message.content["m.relates_to"] == relation));
}

#[test]
fn two_own_devices_verify_device_and_master_key() {
    let mut pair = Pair::devices().compared();
    pair.confirm(1);
    pair.confirm(0);
    let older = &pair.seen_by(0).1.unwrap();
    assert_eq!(pair.verified(0), [older.verified_device(), master_of(older)]);
    // The newer one does not vouch for the master key.
    assert_eq!(pair.verified(1), [pair.sides[0].verified_device()]);
    assert!(pair.wire.iter().all(|(_, message)| message.content["transaction_id"] == "txn"));
}

#[test]
fn the_other_devices_hear_that_one_has_accepted() {
    let pair = Pair::devices().ready();
    let (_, last) = pair.wire.last().unwrap();
    let target = VerificationTarget::Devices(
        user_id!("@alice:example.org").to_owned(),
        vec!["THIRD".into()],
    );
    assert_eq!((last.event_type, &last.target), (CANCEL, &target));
    assert_eq!(last.content["code"], "m.accepted");
}

#[test]
fn when_one_device_refuses_all_hear_of_it() {
    let mut pair = Pair::devices();
    pair.act(1, |flow, _| flow.cancel());
    pair.run();
    pair.assert_cancelled(&CancelCode::User, 1);
    let (_, last) = pair.wire.last().unwrap();
    let VerificationTarget::Devices(_, devices) = &last.target else { panic!() };
    assert_eq!(devices.len(), 2);
    assert_eq!(last.content["code"], "m.user");
}

#[test]
fn n32_a_third_device_that_answers_is_ignored() {
    let mut pair = Pair::devices().ready();
    let third = json!({
        "transaction_id": "txn", "from_device": "THIRD", "methods": ["m.sas.v1"],
    });
    let before = pair.flows[0].clone();
    pair.deliver(1, READY, &third);
    let start = json!({ "transaction_id": "txn", "from_device": "THIRD", "method": "m.sas.v1" });
    pair.deliver(1, START, &start);
    assert!(before == pair.flows[0]);
}

#[test]
fn both_starting_at_once_end_in_the_smaller_sides_start() {
    for make in [Pair::users as fn() -> Pair, Pair::devices] {
        let mut pair = make().ready();
        pair.act(0, |flow, keys| flow.start_sas(keys, NOW));
        pair.act(1, |flow, keys| flow.start_sas(keys, NOW));
        pair.run();
        pair.confirm(0);
        pair.confirm(1);
        assert!(!pair.verified(0).is_empty() && !pair.verified(1).is_empty());
        // "ALICE" < "BOB" and "NEWER" < "OLDER": the second side accepts.
        assert_eq!(pair.kinds().iter().filter(|(_, kind)| *kind == ACCEPT).count(), 1);
        assert!(pair.kinds().contains(&(1, ACCEPT)));
    }
}

#[test]
fn different_starts_at_once_cancel() {
    let mut pair = Pair::users().ready();
    let code = pair.flows[1].show_qr(&mut SeededEntropy::new(3)).unwrap().to_bytes();
    pair.act(1, |flow, keys| flow.start_sas(keys, NOW));
    pair.act(0, |flow, keys| flow.scan_qr(code.as_slice(), keys, NOW).unwrap());
    pair.run();
    for side in [0, 1] {
        let state = pair.state(side);
        assert!(
            matches!(
                state,
                VerificationState::Cancelled { code: CancelCode::UnexpectedMessage, .. }
            ),
            "{state:?}"
        );
    }
}

#[test]
fn a_user_cancels_at_any_step() {
    let steps: [fn() -> Pair; 3] =
        [Pair::users, || Pair::users().ready(), || Pair::users().compared()];
    for step in steps {
        for side in [0, 1] {
            let mut pair = step();
            pair.act(side, |flow, _| flow.cancel());
            pair.run();
            pair.assert_cancelled(&CancelCode::User, side);
        }
    }
}

#[test]
fn different_strings_cancel_and_nothing_is_signed() {
    let mut pair = Pair::users().compared();
    pair.confirm(0);
    pair.act(1, |flow, _| flow.mismatch());
    pair.run();
    pair.assert_cancelled(&CancelCode::MismatchedSas, 1);
}

#[test]
fn time_runs_out() {
    let mut pair = Pair::users().compared();
    assert_eq!(pair.flows[0].next_timeout(), Some(later(600)));
    pair.act(0, |flow, _| flow.handle_timeout(later(599)));
    assert!(!pair.state(0).is_over());
    pair.act(0, |flow, _| flow.handle_timeout(later(600)));
    pair.run();
    pair.assert_cancelled(&CancelCode::Timeout, 0);
    assert_eq!(pair.flows[0].next_timeout(), None);
}

#[test]
fn a_confirmation_after_the_end_signs_nothing() {
    let mut pair = Pair::users().compared();
    pair.act(0, |flow, keys| flow.confirm(keys, later(600)));
    pair.run();
    pair.assert_cancelled(&CancelCode::Timeout, 0);
    pair.confirm(0);
    pair.confirm(1);
    pair.assert_cancelled(&CancelCode::Timeout, 0);
}

#[test]
fn an_unanswered_prompt_goes_quietly() {
    let mut pair = Pair::users();
    assert_eq!(pair.flows[1].next_timeout(), Some(later(120)));
    pair.act(1, |flow, _| flow.handle_timeout(later(120)));
    assert!(pair.state(1).is_over());
    assert!(pair.wire.is_empty());
    assert_eq!(pair.flows[0].next_timeout(), Some(later(600)));
}

fn request(change: impl FnOnce(&mut Value)) -> Result<Verification, IgnoredRequest> {
    let (alice, bob) = (Person::new("@alice:example.org"), Person::new("@bob:example.org"));
    let (ours, theirs) = (party(&alice, "ALICE"), party(&bob, "BOB"));
    let mut content = json!({
        "from_device": "BOB", "transaction_id": "txn", "methods": ["m.sas.v1"],
        "timestamp": NOW.as_millis(),
    });
    change(&mut content);
    let keys = CurrentKeys { ours: &ours, theirs: Some(&theirs) };
    Verification::receive_request(&content, &bob.user, keys, NOW, &mut SeededEntropy::new(1))
}

#[test]
fn n32_a_request_out_of_its_time_is_ignored() {
    assert!(request(|_| ()).is_ok());
    let at =
        |millis: i64| request(|json| json["timestamp"] = (NOW.as_millis() as i64 + millis).into());
    assert!(at(-600_000).is_ok());
    assert_eq!(at(-600_001), Err(IgnoredRequest::OutOfDate));
    assert_eq!(at(-3_600_000), Err(IgnoredRequest::OutOfDate));
    assert!(at(300_000).is_ok());
    assert_eq!(at(300_001), Err(IgnoredRequest::OutOfDate));
    assert_eq!(at(3_600_000), Err(IgnoredRequest::OutOfDate));
    // A request from the future does not live longer.
    assert_eq!(at(300_000).unwrap().deadline, later(600));
}

#[test]
fn a_malformed_request_is_ignored() {
    for field in ["from_device", "transaction_id", "methods", "timestamp"] {
        for value in [Value::Null, json!({}), json!("")] {
            let ignored = request(|json| json[field] = value.clone());
            assert_eq!(ignored, Err(IgnoredRequest::Malformed), "{field} {value}");
        }
    }
    let long = request(|json| json["transaction_id"] = "x".repeat(256).into());
    assert_eq!(long, Err(IgnoredRequest::Malformed));
    let other = request(|json| json["from_device"] = "ELSE".into());
    assert_eq!(other, Err(IgnoredRequest::UnknownDevice));
}

#[test]
fn a_request_without_a_known_method_can_only_be_refused() {
    let mut flow = request(|json| json["methods"] = json!(["org.example"])).unwrap();
    assert!(flow.methods().is_empty());
    let ours = flow.ours.clone();
    let theirs = flow.theirs.clone();
    let keys = CurrentKeys { ours: &ours, theirs: theirs.as_ref() };
    let sent = flow.accept(Methods::ALL, keys, NOW);
    assert_eq!(sent[0].content["code"], "m.unknown_method");
}

#[test]
fn scanning_and_showing_count_only_together_with_reciprocating() {
    let methods = |list: Value| Methods::parse(&json!({ "methods": list })).unwrap();
    assert!(methods(json!(["m.qr_code.show.v1", "m.qr_code.scan.v1"])).is_empty());
    let all = ["m.qr_code.show.v1", "m.qr_code.scan.v1", "m.reciprocate.v1", "m.sas.v1"];
    assert_eq!(methods(json!(all)), Methods::ALL);
    let show = Methods { show_qr: true, ..Methods::default() };
    assert_eq!(show.with(Methods::ALL), show);
    assert!(show.with(show).is_empty());
}

/// Runs to the comparison, with `tamper` on the wire; then both confirm what they can.
fn tampered(tamper: impl FnMut(&mut VerificationMessage)) -> Pair {
    let mut pair = Pair::users().ready();
    pair.act(0, |flow, keys| flow.start_sas(keys, NOW));
    pair.run_with(tamper);
    pair
}

#[test]
fn n32_a_changed_start_or_key_breaks_the_commitment() {
    let expected = CancelCode::MismatchedCommitment;
    // A key of the attacker's, towards the side that was promised another one.
    let mut keys = 0;
    let pair = tampered(|message| {
        keys += usize::from(message.event_type == KEY);
        if message.event_type == KEY && keys == 2 {
            let account = Account::new().identity_keys().curve25519.to_base64();
            message.content["key"] = account.into();
        }
    });
    pair.assert_cancelled(&expected, 0);
    // A start with fewer choices.
    let pair = tampered(|message| {
        if message.event_type == START {
            message.content["short_authentication_string"] = json!(["decimal"]);
        }
    });
    pair.assert_cancelled(&expected, 0);
}

#[test]
fn an_attacker_between_shows_as_different_strings() {
    let pair = tampered(|message| {
        if message.event_type == KEY {
            let key = Account::new().identity_keys().curve25519.to_base64();
            message.content["key"] = key.into();
        }
    });
    // The starter sees the broken commitment at once; had the attacker made its own commitment:
    pair.assert_cancelled(&CancelCode::MismatchedCommitment, 0);
    let mallory = herold_crypto::SasKeyPair::generate(&mut SeededEntropy::new(9));
    let mut start = Value::Null;
    let pair = tampered(|message| match message.event_type {
        START => start = message.content.clone(),
        ACCEPT => {
            let commitment = herold_crypto::sas_commitment(&mallory.public_key(), &start);
            message.content["commitment"] = commitment.unwrap().into();
        }
        KEY => message.content["key"] = mallory.public_key().to_base64().into(),
        _ => {}
    });
    let (VerificationState::KeysExchanged(a), VerificationState::KeysExchanged(b)) =
        (pair.state(0), pair.state(1))
    else {
        panic!("no strings");
    };
    assert!(a != b);
}

#[test]
fn n32_deprecated_methods_are_not_taken() {
    for (kind, field, value) in [
        (START, "message_authentication_codes", json!(["hkdf-hmac-sha256"])),
        (START, "key_agreement_protocols", json!(["curve25519"])),
        (START, "hashes", json!(["md5"])),
        (START, "short_authentication_string", json!(["org.example"])),
        (START, "method", json!("org.example")),
        (ACCEPT, "message_authentication_code", json!("hkdf-hmac-sha256")),
        (ACCEPT, "key_agreement_protocol", json!("curve25519")),
        (ACCEPT, "hash", json!("md5")),
        (ACCEPT, "short_authentication_string", json!([])),
    ] {
        let pair = tampered(|message| {
            if message.event_type == kind {
                message.content[field] = value.clone();
            }
        });
        pair.assert_cancelled(&CancelCode::UnknownMethod, usize::from(kind == START));
    }
}

#[test]
fn malformed_messages_cancel() {
    for (kind, field) in [
        (START, "method"),
        (START, "hashes"),
        (START, "short_authentication_string"),
        (ACCEPT, "commitment"),
        (ACCEPT, "hash"),
        (KEY, "key"),
    ] {
        for value in [Value::Null, json!(7), json!({ "a": 1.5 })] {
            let pair = tampered(|message| {
                if message.event_type == kind {
                    message.content[field] = value.clone();
                }
            });
            for side in [0, 1] {
                let state = pair.state(side);
                assert!(
                    matches!(
                        state,
                        VerificationState::Cancelled { code: CancelCode::InvalidMessage, .. }
                    ),
                    "{kind} {field} {state:?}"
                );
            }
        }
    }
}

#[test]
fn n21_a_key_of_small_order_cancels() {
    let pair = tampered(|message| {
        if message.event_type == KEY {
            message.content["key"] = "A".repeat(43).into();
        }
    });
    pair.assert_cancelled(&CancelCode::InvalidMessage, 1);
}

/// Both sides compare and confirm; the first side's MACs are tampered with.
fn with_macs(pair: Pair, tamper: impl Fn(&mut Value)) -> Pair {
    let mut pair = pair.compared();
    pair.act(1, |flow, keys| flow.confirm(keys, NOW));
    pair.run();
    pair.act(0, |flow, keys| flow.confirm(keys, NOW));
    pair.run_with(|message| {
        if message.event_type == MAC {
            tamper(&mut message.content);
        }
    });
    pair
}

#[test]
fn n32_changed_macs_sign_nothing() {
    let cancelled = |pair: Pair, code: CancelCode| {
        assert_eq!(pair.state(1), VerificationState::Cancelled { code, by_us: true });
        // The other side had said `done` only after a good MAC; it hears of the end.
        assert!(matches!(pair.state(0), VerificationState::Cancelled { by_us: false, .. }));
    };
    let mismatch = CancelCode::KeyMismatch;
    cancelled(with_macs(Pair::users(), |json| json["keys"] = "AAAA".into()), mismatch.clone());
    cancelled(
        with_macs(Pair::users(), |json| {
            for mac in json["mac"].as_object_mut().unwrap().values_mut() {
                *mac = "AAAA".into();
            }
        }),
        mismatch.clone(),
    );
    // Another id under a good MAC: the list is authenticated too.
    cancelled(
        with_macs(Pair::users(), |json| {
            json["mac"]["ed25519:OTHER"] = json["keys"].clone();
        }),
        mismatch.clone(),
    );
    cancelled(with_macs(Pair::users(), |json| json["mac"] = json!([])), CancelCode::InvalidMessage);
    cancelled(with_macs(Pair::users(), |json| json["mac"] = json!({})), mismatch);
}

#[test]
fn n32_macs_without_the_master_key_verify_no_user() {
    // A side that believes in no master key of its own leaves it out, with good MACs.
    let (alice, bob) = (Person::new("@alice:example.org"), Person::new("@bob:example.org"));
    let mut without = party(&alice, "ALICE");
    let full = without.clone();
    without.master = None;
    let mut pair = Pair::in_room([without, party(&bob, "BOB")]);
    // Bob knows her identity all the same.
    pair.flows[1].theirs = Some(full.clone());
    let drive =
        |pair: &mut Pair,
         side: usize,
         act: &dyn Fn(&mut Verification, CurrentKeys<'_>) -> Vec<VerificationMessage>| {
            let (ours, theirs) = match side {
                0 => (pair.sides[0].clone(), pair.sides[1].clone()),
                _ => (pair.sides[1].clone(), full.clone()),
            };
            let keys = CurrentKeys { ours: &ours, theirs: Some(&theirs) };
            let sent = act(&mut pair.flows[side], keys);
            pair.wire.extend(sent.into_iter().map(|message| (side, message)));
            while let Some((from, message)) = pair.wire.get(pair.next).cloned() {
                pair.next += 1;
                let (ours, theirs) = match from {
                    1 => (pair.sides[0].clone(), pair.sides[1].clone()),
                    _ => (pair.sides[1].clone(), full.clone()),
                };
                let keys = CurrentKeys { ours: &ours, theirs: Some(&theirs) };
                let sender = pair.sides[from].user_id.clone();
                let kind = message.event_type;
                let sent =
                    pair.flows[1 - from].handle(kind, &message.content, &sender, None, keys, NOW);
                pair.wire.extend(sent.into_iter().map(|message| (1 - from, message)));
            }
        };
    drive(&mut pair, 1, &|flow, keys| flow.accept(Methods::SAS, keys, NOW));
    drive(&mut pair, 0, &|flow, keys| flow.start_sas(keys, NOW));
    drive(&mut pair, 0, &|flow, keys| flow.confirm(keys, NOW));
    pair.assert_cancelled(&CancelCode::KeyMismatch, 1);
}

#[test]
fn n04_a_device_named_like_a_cross_signing_key_has_no_party() {
    let alice = Person::new("@alice:example.org");
    let identity = alice.identity();
    let name = identity.master.to_base64();
    let account = Account::new();
    let json = device_json(&alice.user, &name, &account);
    let named: Device = parse_device_keys(&alice.user, name.as_str().into(), &json).unwrap();
    let none: [&DeviceId; 0] = [];
    assert_eq!(PartyKeys::theirs(&named, Some(&identity), none), Err(KeyIdConflict));
    // Nor has another device of that user.
    let device = alice.unsigned_device("PHONE");
    let ids = [device_id!("PHONE"), &*named.device_id];
    assert_eq!(PartyKeys::theirs(&device, Some(&identity), ids), Err(KeyIdConflict));
    let other = Person::new("@bob:example.org").identity();
    assert_eq!(PartyKeys::theirs(&device, Some(&other), none), Err(KeyIdConflict));
}

#[test]
fn n04_a_key_that_changes_during_the_flow_cancels_it() {
    let steps: [fn() -> Pair; 3] = [
        || Pair::users().ready(),
        || Pair::users().compared(),
        || {
            let mut pair = Pair::users().compared();
            pair.confirm(1);
            pair
        },
    ];
    for step in steps {
        for change in [
            |pair: &mut Pair| {
                let bob = Person::new("@bob:example.org");
                pair.sides[1].master = Some(bob.identity().master);
            },
            |pair: &mut Pair| {
                let bob = Person::new("@bob:example.org");
                pair.sides[1].device_key = bob.unsigned_device("BOB").keys.ed25519;
            },
            |pair: &mut Pair| pair.sides[1].master = None,
        ] {
            let mut pair = step();
            change(&mut pair);
            pair.act(0, |flow, keys| {
                let started = flow.start_sas(keys, NOW);
                if started.is_empty() { flow.confirm(keys, NOW) } else { started }
            });
            let state = pair.state(0);
            let expected =
                VerificationState::Cancelled { code: CancelCode::KeyMismatch, by_us: true };
            assert_eq!(state, expected);
        }
    }
}

#[test]
fn a_key_that_is_not_known_any_more_cancels() {
    let mut pair = Pair::users().compared();
    let ours = pair.sides[0].clone();
    let sent = pair.flows[0].confirm(CurrentKeys { ours: &ours, theirs: None }, NOW);
    assert_eq!(sent[0].content["code"], "m.key_mismatch");
}

#[test]
fn n32_an_early_done_cancels() {
    let done = json!({ "m.relates_to": { "rel_type": "m.reference", "event_id": "$request" } });
    let steps: [fn() -> Pair; 4] = [
        Pair::users,
        || Pair::users().ready(),
        || Pair::users().compared(),
        || {
            let mut pair = Pair::users().compared();
            pair.confirm(0);
            pair
        },
    ];
    for step in steps {
        let mut pair = step();
        pair.deliver(1, DONE, &done);
        pair.run();
        let expected =
            VerificationState::Cancelled { code: CancelCode::UnexpectedMessage, by_us: true };
        assert_eq!(pair.state(0), expected);
    }
}

#[test]
fn n32_an_old_mac_of_another_flow_is_worth_nothing() {
    let mut old = Pair::users().compared();
    old.confirm(0);
    let (_, mac) = old.wire.iter().find(|(_, message)| message.event_type == MAC).unwrap();
    let mac = mac.content.clone();
    let mut pair = Pair::in_room(old.sides);
    pair.flows.iter_mut().enumerate().for_each(|(at, flow)| {
        // Other ephemeral keys than in the old flow.
        let mut entropy = SeededEntropy::new(100 + at as u64);
        flow.pair = herold_crypto::SasKeyPair::generate(&mut entropy).to_record();
    });
    let mut pair = pair.compared();
    pair.deliver(0, MAC, &mac);
    pair.run();
    pair.assert_cancelled(&CancelCode::KeyMismatch, 1);
}

#[test]
fn a_repetition_changes_nothing() {
    let mut pair = Pair::users().compared();
    for (from, message) in pair.wire.clone() {
        pair.deliver(from, message.event_type, &message.content);
    }
    pair.run();
    pair.confirm(0);
    pair.confirm(1);
    assert!(!pair.verified(0).is_empty() && !pair.verified(1).is_empty());
}

#[test]
fn messages_by_others_and_of_other_flows_change_nothing() {
    let mut pair = Pair::users().ready();
    let before = pair.flows[0].clone();
    let (ours, theirs) = pair.seen_by(0);
    let keys = CurrentKeys { ours: &ours, theirs: theirs.as_ref() };
    let relation = |id: &str| {
        json!({
            "code": "m.user", "reason": "", "m.relates_to": { "rel_type": "m.reference", "event_id": id },
        })
    };
    let eve = user_id!("@eve:example.org");
    let flow = &mut pair.flows[0];
    for (sender, content) in [
        (eve, relation("$request")),
        (user_id!("@bob:example.org"), relation("$other")),
        (user_id!("@bob:example.org"), json!({ "code": "m.user", "transaction_id": "$request" })),
    ] {
        assert!(flow.handle(CANCEL, &content, sender, None, keys, NOW).is_empty());
        assert!(*flow == before);
    }
    let other = Some(device_id!("OTHER"));
    let bob = user_id!("@bob:example.org");
    assert!(flow.handle(CANCEL, &relation("$request"), bob, other, keys, NOW).is_empty());
    assert!(*flow == before);
}

#[test]
fn another_own_device_that_answers_ends_the_prompt() {
    let mut pair = Pair::users();
    let (ours, theirs) = pair.seen_by(1);
    let keys = CurrentKeys { ours: &ours, theirs: theirs.as_ref() };
    let ready = |device: &str| {
        json!({
            "from_device": device, "methods": ["m.sas.v1"],
            "m.relates_to": { "rel_type": "m.reference", "event_id": "$request" },
        })
    };
    let flow = &mut pair.flows[1];
    let user = ours.user_id.clone();
    flow.handle(READY, &ready("BOB"), &user, None, keys, NOW);
    assert_eq!(flow.state(), VerificationState::Requested { by_us: false }, "our own echo");
    flow.handle(READY, &ready("TABLET"), &user, None, keys, NOW);
    let expected = VerificationState::Cancelled { code: CancelCode::Accepted, by_us: false };
    assert_eq!(flow.state(), expected);
}

#[test]
fn a_cancellation_is_not_answered() {
    let mut pair = Pair::users().compared();
    let cancel = json!({
        "code": "org.example.reason", "reason": "",
        "m.relates_to": { "rel_type": "m.reference", "event_id": "$request" },
    });
    let before = pair.wire.len();
    pair.deliver(1, CANCEL, &cancel);
    assert_eq!(pair.wire.len(), before);
    let code = CancelCode::Other("org.example.reason".into());
    assert_eq!(pair.state(0), VerificationState::Cancelled { code, by_us: false });
}

#[test]
fn unknown_flows_are_answered_only_in_the_middle() {
    let (user, device) = (user_id!("@bob:example.org"), device_id!("BOB"));
    let answer = unknown_transaction(KEY, "txn", user, device).unwrap();
    assert_eq!(answer.content["code"], "m.unknown_transaction");
    assert_eq!(answer.content["transaction_id"], "txn");
    for silent in [REQUEST, START, CANCEL, "m.room.message"] {
        assert_eq!(unknown_transaction(silent, "txn", user, device), None);
    }
}

#[test]
fn an_old_clients_start_without_a_request_is_taken() {
    let alice = Person::new("@alice:example.org");
    let sides = [party(&alice, "A"), party(&alice, "B")];
    let mut entropy = SeededEntropy::new(1);
    let mut pair = Pair::sides(sides.clone());
    // The old client, played by a flow that thinks it was ready.
    let mut old = Verification::request_in_room(
        sides[0].clone(),
        alice.user.clone(),
        room_id!("!r:example.org"),
        event_id!("$x"),
        Methods::SAS,
        NOW,
        &mut entropy,
    );
    old.channel = Channel::ToDevice { transaction_id: "txn".into() };
    old.theirs = Some(sides[1].clone());
    old.their_methods = Methods::SAS;
    old.phase = Phase::Ready;
    old.from_request = false;
    let keys = CurrentKeys { ours: &sides[0], theirs: Some(&sides[1]) };
    let start = old.start_sas(keys, NOW).remove(0);
    let keys = CurrentKeys { ours: &sides[1], theirs: Some(&sides[0]) };
    let flow =
        Verification::receive_start(&start.content, &alice.user, keys, NOW, &mut entropy).unwrap();
    let prompt = VerificationState::Started { by_us: false, needs_accept: true };
    assert_eq!(flow.state(), prompt);
    pair.flows = vec![old, flow];
    pair.act(1, |flow, keys| flow.accept(Methods::SAS, keys, NOW));
    pair.run();
    pair.confirm(0);
    pair.confirm(1);
    assert!(!pair.verified(0).is_empty() && !pair.verified(1).is_empty());
    assert!(!pair.kinds().iter().any(|(_, kind)| *kind == DONE), "such clients know no done");
}

#[test]
fn a_record_that_is_damaged_is_an_error() {
    let pair = Pair::users();
    let record = pair.flows[0].to_record();
    assert!(Verification::from_record(record.as_slice()).unwrap() == pair.flows[0]);
    for bad in [&record.as_slice()[..40], &[], &[2, b'{', b'}']] {
        assert_eq!(Verification::from_record(bad).unwrap_err(), RecordError);
    }
}

#[test]
fn debug_shows_no_secret_and_no_string() {
    let mut pair = Pair::users().ready();
    let code = pair.flows[0].show_qr(&mut SeededEntropy::new(3)).unwrap();
    let secret = herold_crypto::to_unpadded_base64(code.secret().as_slice());
    let shown = format!("{:?} {code:?}", pair.flows[0]);
    assert!(!shown.contains(&secret));
    let pair = Pair::users().compared();
    let shown = format!("{:?}", pair.flows[0]);
    assert!(shown.contains("ShortAuthString(..)"));
}

/// The second side shows a code and the first one scans it.
fn scanned(pair: Pair, change: impl FnOnce(&mut Vec<u8>)) -> Pair {
    let mut pair = pair.ready();
    let code = pair.flows[1].show_qr(&mut SeededEntropy::new(3)).unwrap();
    let again = pair.flows[1].show_qr(&mut SeededEntropy::new(4)).unwrap();
    assert!(code == again, "the same code each time");
    let mut bytes = code.to_bytes().as_slice().to_vec();
    change(&mut bytes);
    pair.act(0, |flow, keys| flow.scan_qr(&bytes, keys, NOW).unwrap());
    pair.run();
    pair
}

#[test]
fn a_scan_between_users_verifies_both_master_keys() {
    let mut pair = scanned(Pair::users(), |_| ());
    assert_eq!(pair.state(0), VerificationState::Confirmed);
    assert_eq!(pair.state(1), VerificationState::Scanned);
    pair.confirm(1);
    assert_eq!(pair.verified(0), [master_of(&pair.sides[1])]);
    assert_eq!(pair.verified(1), [master_of(&pair.sides[0])]);
}

#[test]
fn scans_between_own_devices_verify_what_each_lacks() {
    // Mode 1: the older device shows; the newer one gets the master key.
    let mut pair = scanned(Pair::devices(), |bytes| assert_eq!(bytes[7], 1));
    pair.confirm(1);
    assert_eq!(pair.verified(0), [master_of(&pair.sides[1])]);
    assert_eq!(pair.verified(1), [pair.sides[0].verified_device()]);
    // Mode 2: the newer device shows; the older one gets the device.
    let mut sides = Pair::devices().sides;
    sides.reverse();
    let mut pair = scanned(Pair::to_device(sides), |bytes| assert_eq!(bytes[7], 2));
    pair.confirm(1);
    assert_eq!(pair.verified(0), [pair.sides[1].verified_device()]);
    assert_eq!(pair.verified(1), [master_of(&pair.sides[0])]);
}

#[test]
fn n32_a_code_with_other_keys_cancels() {
    let id = "$request".len();
    for at in [10 + id, 10 + id + 32] {
        let pair = scanned(Pair::users(), |bytes| {
            let other = Person::new("@eve:example.org").identity().master;
            bytes[at..at + 32].copy_from_slice(other.as_bytes());
        });
        pair.assert_cancelled(&CancelCode::KeyMismatch, 0);
    }
}

#[test]
fn n32_a_code_in_another_mode_cancels() {
    for mode in [1, 2] {
        let pair = scanned(Pair::users(), |bytes| bytes[7] = mode);
        pair.assert_cancelled(&CancelCode::UserMismatch, 0);
    }
    let pair = scanned(Pair::devices(), |bytes| bytes[7] = 0);
    pair.assert_cancelled(&CancelCode::UserMismatch, 0);
    let pair = scanned(Pair::devices(), |bytes| bytes[7] = 2);
    pair.assert_cancelled(&CancelCode::KeyMismatch, 0);
}

#[test]
fn n32_a_wrong_secret_cancels() {
    let pair = scanned(Pair::users(), |bytes| *bytes.last_mut().unwrap() ^= 1);
    pair.assert_cancelled(&CancelCode::KeyMismatch, 1);
}

#[test]
fn a_code_of_another_flow_or_none_at_all_can_be_scanned_again() {
    let mut pair = Pair::users().ready();
    let other = Pair::to_device(pair.sides.clone());
    drop(other);
    let (ours, theirs) = pair.seen_by(0);
    let keys = CurrentKeys { ours: &ours, theirs: theirs.as_ref() };
    let code = pair.flows[1].show_qr(&mut SeededEntropy::new(3)).unwrap();
    let mut bytes = code.to_bytes().as_slice().to_vec();
    let flow = &mut pair.flows[0];
    assert_eq!(flow.scan_qr(b"https://", keys, NOW), Err(ScanError::Code(QrError::NotMatrix)));
    bytes[11] ^= 1;
    assert_eq!(flow.scan_qr(&bytes, keys, NOW), Err(ScanError::OtherFlow));
    bytes[11] ^= 1;
    assert!(flow.scan_qr(&bytes, keys, NOW).is_ok());
    assert_eq!(flow.scan_qr(&bytes, keys, NOW), Err(ScanError::NotNow));
}

#[test]
fn a_scan_that_the_user_denies_signs_nothing() {
    let mut pair = scanned(Pair::users(), |_| ());
    pair.act(1, |flow, _| flow.mismatch());
    pair.run();
    pair.assert_cancelled(&CancelCode::KeyMismatch, 1);
}

#[test]
fn a_claimed_scan_without_a_code_cancels() {
    let mut pair = Pair::users().ready();
    let start = json!({
        "from_device": "BOB", "method": "m.reciprocate.v1", "secret": "AAAAAAAAAAAAAAAAAAAAAA",
        "m.relates_to": { "rel_type": "m.reference", "event_id": "$request" },
    });
    pair.deliver(1, START, &start);
    pair.run();
    pair.assert_cancelled(&CancelCode::UnexpectedMessage, 0);
}

#[test]
fn both_scanning_at_once_end_well() {
    let mut pair = Pair::users().ready();
    let codes = [0, 1].map(|side: usize| {
        pair.flows[side].show_qr(&mut SeededEntropy::new(3)).unwrap().to_bytes()
    });
    pair.act(0, |flow, keys| flow.scan_qr(codes[1].as_slice(), keys, NOW).unwrap());
    pair.act(1, |flow, keys| flow.scan_qr(codes[0].as_slice(), keys, NOW).unwrap());
    pair.run();
    assert_eq!(pair.state(1), VerificationState::Scanned, "the smaller side's scan counts");
    pair.confirm(1);
    assert_eq!(pair.verified(0), [master_of(&pair.sides[1])]);
    assert_eq!(pair.verified(1), [master_of(&pair.sides[0])]);
}

#[test]
fn a_scanner_that_says_done_early_waits_for_our_user() {
    let mut pair = scanned(Pair::users(), |_| ());
    let done = json!({ "m.relates_to": { "rel_type": "m.reference", "event_id": "$request" } });
    pair.deliver(0, DONE, &done);
    assert_eq!(pair.state(1), VerificationState::Scanned);
    pair.confirm(1);
    assert_eq!(pair.verified(1), [master_of(&pair.sides[0])]);
}

/// Origin: a flow of this crate (randomness from seed 77) with `OlmMachine` of matrix-sdk-crypto-wasm
/// 18.9, which asked for strings; emoji and numbers as that machine gave them.
#[test]
fn a_flow_with_a_foreign_client_comes_out_the_same() {
    let transcript: Vec<Value> =
        serde_json::from_str(include_str!("foreign_transcript.json")).unwrap();
    let key = |text| herold_crypto::ed25519_from_base64(text).unwrap();
    let ours = PartyKeys {
        user_id: user_id!("@alice:example.org").to_owned(),
        device_id: "ALICE".into(),
        device_key: key("QbRtUf9fggWOphzGWeRrwBlTaU9ynlRZRiarH+en2TA"),
        master: Some(key("lHhCJxAuV+fMs2FKLnV509IoVeX8oeaqMMB5LRSlEFc")),
    };
    let theirs = PartyKeys {
        user_id: user_id!("@peer:example.org").to_owned(),
        device_id: "PEER".into(),
        device_key: key("y//qjK6vW9fx4nD6mRTllyanBOA/NzPrArehcyNVEgU"),
        master: Some(key("WnM8RUH1GrGUHI92rUuxCfnGoX8T1XT5CmenHEdDf0c")),
    };
    let keys = CurrentKeys { ours: &ours, theirs: Some(&theirs) };
    let mut flow = Verification::request_in_room(
        ours.clone(),
        theirs.user_id.clone(),
        room_id!("!r:example.org"),
        event_id!("$flow"),
        Methods::ALL,
        NOW,
        &mut SeededEntropy::new(77),
    );
    let mut sent = Vec::new();
    for message in transcript.iter().filter(|message| message["from"] == "them") {
        let kind = message["type"].as_str().unwrap();
        if kind == MAC {
            let VerificationState::KeysExchanged(string) = flow.state() else { panic!() };
            assert_eq!(string.emoji.unwrap().map(Emoji::number), [19, 55, 46, 12, 47, 15, 35]);
            assert_eq!(string.decimals, Some([3543, 4634, 8804]));
            sent.extend(flow.confirm(keys, NOW));
        }
        sent.extend(flow.handle(kind, &message["content"], &theirs.user_id, None, keys, NOW));
    }
    let expected: Vec<_> = transcript
        .iter()
        .filter(|message| message["from"] == "us")
        .map(|message| (message["type"].clone(), message["content"].clone()))
        .collect();
    let sent: Vec<_> = sent.into_iter().map(|m| (json!(m.event_type), m.content)).collect();
    assert_eq!(sent, expected);
    let verified = vec![theirs.verified_master().unwrap()];
    assert_eq!(flow.state(), VerificationState::Done { verified });
}
