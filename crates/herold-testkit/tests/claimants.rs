//! N24: every member of a room has its keys, and can send them on as its own. None of that costs the owner
//! of a session her messages, or gives them to anybody else.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;

use attacks_common::*;
use herold::{OwnedEventId, OwnedRoomId, Utd};
use herold_crypto::OutboundGroupSession;
use herold_store::Table;
use herold_testkit::{Attacker, World};
use herold_trust::{Shield, ShieldReason};
use serde_json::{Value, json};

const ALICE: &str = "@alice:world.test";
const BOB: &str = "@bob:world.test";

/// Alice has sent a message under a new session. Bob has neither the message nor the key; Eve, a member, has
/// both.
struct Race {
    world: World,
    alice: usize,
    bob: usize,
    room: OwnedRoomId,
    eve: Attacker,
    /// Alice's message.
    sent: OwnedEventId,
    /// Alice's key as Eve was sent it.
    key: Value,
    /// What waits for Bob: Alice's key.
    held: Vec<Value>,
}

fn race(seed: u64) -> Race {
    let (mut world, alice, bob, room) = two(seed);
    let mut eve = Attacker::log_in(&mut world, "eve");
    let invited = json!({ "user_id": eve.user_id });
    world.call(Some(alice), "POST", &path(&room, "invite"), invited);
    eve.call(&mut world, "POST", &path(&room, "join"), &json!({}));
    world.settle();
    world.set_online(bob, false);
    new_session(&mut world, alice, &room);
    let txn_id = world.queue(alice, &room, "from Alice");
    world.settle();
    let sent = world.sent(alice, &txn_id).unwrap();
    let held = world.server.inbox(BOB, &id(&world, bob));
    assert!(!held.is_empty());
    let key = room_keys_of(&world, &mut eve).pop().unwrap()["content"].clone();
    Race { world, alice, bob, room, eve, sent, key, held }
}

impl Race {
    /// Bob is given what came after Alice's key, and the room's events.
    fn without_the_key(&mut self) {
        let held = self.held.clone();
        rewrite(&mut self.world, self.bob, "/sync", move |body| {
            if let Some(events) = body["to_device"]["events"].as_array_mut() {
                events.retain(|event| !held.iter().any(|held| held["content"] == event["content"]));
            }
        });
        self.world.set_online(self.bob, true);
        self.world.settle();
        self.world.tamper = None;
    }

    /// Alice's key comes after all.
    fn deliver(&mut self) {
        let device = id(&self.world, self.bob);
        for event in &self.held {
            self.world.server.inject_to_device(BOB, &device, event.clone());
        }
        self.world.settle();
    }

    fn alice_is_read(&mut self) {
        for _ in 0..2 {
            let shown = self.world.event(self.bob, &self.room, &self.sent).unwrap();
            assert_eq!(shown.sender, ALICE);
            assert_eq!(shown.sender_device.unwrap().as_str(), id(&self.world, self.alice));
            let text = self.world.text(self.bob, &self.room, &self.sent);
            assert_eq!(text.as_deref(), Ok("from Alice"));
            self.world.restart(self.bob);
        }
        assert_eq!(self.world.oracle.violations(), [] as [String; 0]);
    }

    /// A claim to the key by a device nobody has listed, in a user's name.
    fn claim(&mut self, user: &str, device: &str) {
        let mut claimant = Attacker::unlisted(user, device);
        claimant.send(&mut self.world, self.bob, "m.room_key", &self.key);
    }

    fn claims(&self) -> usize {
        rows(&self.world, self.bob, Table::InboundSession)
    }
}

#[test]
fn a_member_who_passes_a_key_on_first_does_not_keep_its_owner_out() {
    for uncached in [false, true] {
        let mut race = race(1);
        race.world.uncached = uncached;
        let key = race.key.clone();
        race.eve.send(&mut race.world, race.bob, "m.room_key", &key);
        race.without_the_key();
        let refused = (Shield::Red(ShieldReason::MismatchedSender), Err(Utd::SenderUntrusted));
        assert_eq!(shown(&mut race.world, race.bob, &race.room, &race.sent), refused);
        race.world.restart(race.bob);
        race.deliver();
        race.alice_is_read();
        // Also what comes after it.
        let next = race.world.send(race.alice, &race.room, "and again");
        assert_eq!(race.world.text(race.bob, &race.room, &next).as_deref(), Ok("and again"));
    }
}

/// Eve sends the very ciphertext as her own event too. Where both are under way, hers is the copy.
#[test]
fn a_member_who_copies_a_waiting_message_does_not_take_its_place() {
    for claim_first in [true, false] {
        let mut race = race(2);
        let copy = raw(&race.world, &race.room, &race.sent)["content"].clone();
        let send = path(&race.room, "send/m.room.encrypted/copy");
        let key = race.key.clone();
        if claim_first {
            race.eve.send(&mut race.world, race.bob, "m.room_key", &key);
            race.without_the_key();
        }
        let copied = race.eve.call(&mut race.world, "PUT", &send, &copy);
        let copied: OwnedEventId = copied["event_id"].as_str().unwrap().try_into().unwrap();
        if !claim_first {
            race.without_the_key();
            race.eve.send(&mut race.world, race.bob, "m.room_key", &key);
        }
        race.world.settle();
        assert_eq!(shown(&mut race.world, race.bob, &race.room, &copied).1, Err(Utd::Replay));
        race.deliver();
        race.alice_is_read();
        assert_eq!(shown(&mut race.world, race.bob, &race.room, &copied).1, Err(Utd::Replay));
    }
}

/// Eve names Alice's session and her next message index in an event of her own, before Alice gets there. Only
/// a ciphertext that Alice has made holds an index.
#[test]
fn a_member_who_names_the_next_index_first_does_not_block_it() {
    let mut race = race(6);
    race.world.set_online(race.bob, true);
    race.world.settle();
    let mut content = raw(&race.world, &race.room, &race.sent)["content"].clone();
    let mut own = OutboundGroupSession::new();
    for n in 0..6 {
        content["ciphertext"] = json!(own.encrypt(b"{}"));
        let send = path(&race.room, &format!("send/m.room.encrypted/index{n}"));
        race.eve.call(&mut race.world, "PUT", &send, &content);
        race.world.settle();
    }
    for n in 1..6 {
        let text = format!("message {n}");
        let next = race.world.send(race.alice, &race.room, &text);
        assert_eq!(race.world.text(race.bob, &race.room, &next), Ok(text));
    }
    race.alice_is_read();
}

/// However many claim a session, before and after, its owner's key has its place.
#[test]
fn many_claimants_leave_room_for_the_owner() {
    let mut race = race(3);
    let before = race.claims();
    for n in 0..12 {
        race.claim(&format!("@sybil{n}:world.test"), "PHONE");
    }
    race.without_the_key();
    assert_eq!(race.claims(), before + 8);
    race.deliver();
    race.alice_is_read();
    for n in 0..12 {
        race.claim(&format!("@late{n}:world.test"), "PHONE");
        race.world.settle();
    }
    assert_eq!(race.claims(), before + 8);
    race.alice_is_read();
    let next = race.world.send(race.alice, &race.room, "and again");
    assert_eq!(race.world.text(race.bob, &race.room, &next).as_deref(), Ok("and again"));
}

/// One user's many devices hold no more than two claims.
#[test]
fn many_devices_of_one_user_hold_few_claims() {
    let mut race = race(4);
    let before = race.claims();
    let user = race.eve.user_id.clone();
    for n in 0..12 {
        race.claim(&user, &format!("D{n}"));
    }
    race.without_the_key();
    assert_eq!(race.claims(), before + 2);
    race.deliver();
    race.alice_is_read();
}

/// A member and the server together can make claims in Alice's name. Her own device's is the better one.
#[test]
fn a_claim_in_the_owners_name_from_an_unknown_device_gives_way_to_the_known_one() {
    let mut race = race(5);
    for n in 0..3 {
        race.claim(ALICE, &format!("FALSE{n}"));
    }
    race.without_the_key();
    // Anybody might be an unknown device of hers.
    let shown = shown(&mut race.world, race.bob, &race.room, &race.sent);
    assert_eq!(shown.0, Shield::Red(ShieldReason::UnknownDevice));
    race.deliver();
    race.alice_is_read();
}

/// Members who name Alice's session in events of their own, and claim it, are no better than she whose message
/// it made: her key gets in, however many they are.
#[test]
fn many_members_who_name_a_session_leave_room_for_the_owner() {
    let mut race = race(7);
    // They are given the key for what comes after they have joined. Copies of what is before it wait.
    let content = raw(&race.world, &race.room, &race.sent)["content"].clone();
    let mut sybils = Vec::new();
    for name in ["s0", "s1", "s2", "s3"] {
        for _ in 0..2 {
            let sybil = Attacker::log_in(&mut race.world, name);
            let invited = json!({ "user_id": sybil.user_id });
            let invite = path(&race.room, "invite");
            race.world.call(Some(race.alice), "POST", &invite, invited);
            sybil.call(&mut race.world, "POST", &path(&race.room, "join"), &json!({}));
            let send = path(&race.room, "send/m.room.encrypted/named");
            sybil.call(&mut race.world, "PUT", &send, &content);
            sybils.push(sybil);
        }
    }
    race.world.settle();
    race.world.queue(race.alice, &race.room, "for all");
    race.world.settle();
    race.without_the_key();
    let before = race.claims();
    for sybil in &mut sybils {
        let key = room_keys_of(&race.world, sybil).pop().unwrap()["content"].clone();
        assert_eq!(key["session_id"], race.key["session_id"]);
        sybil.send(&mut race.world, race.bob, "m.room_key", &key);
        race.world.settle();
    }
    assert_eq!(race.claims(), before + 8);
    race.world.restart(race.bob);
    race.deliver();
    race.alice_is_read();
    let next = race.world.send(race.alice, &race.room, "and again");
    assert_eq!(race.world.text(race.bob, &race.room, &next).as_deref(), Ok("and again"));
}

/// However much rubbish a friend of Eve's sends under the index of Alice's message, her copy of it is a copy.
#[test]
fn a_crowd_of_events_does_not_hide_the_original_of_a_copy() {
    let mut race = race(8);
    let copy = raw(&race.world, &race.room, &race.sent)["content"].clone();
    let mut content = copy.clone();
    content["ciphertext"] = json!(OutboundGroupSession::new().encrypt(b"{}"));
    let eve = race.eve.user_id.clone();
    race.without_the_key();
    for n in 0..250 {
        let event = json!({ "type": "m.room.encrypted", "sender": "@carol:world.test", "content": content });
        inject(&mut race.world, &race.room, event, &format!("!{n}"));
        if n % 40 == 0 {
            race.world.settle();
        }
    }
    race.world.settle();
    let key = race.key.clone();
    race.eve.send(&mut race.world, race.bob, "m.room_key", &key);
    race.world.settle();
    let event = json!({ "type": "m.room.encrypted", "sender": eve, "content": copy });
    let copied = inject(&mut race.world, &race.room, event, "~copy");
    race.world.settle();
    assert_eq!(shown(&mut race.world, race.bob, &race.room, &copied).1, Err(Utd::Replay));
    race.deliver();
    race.alice_is_read();
}
