//! Attacks by way of the dehydrated device (MSC3814): a homeserver that gives out another one, or other pages, and senders
//! that want more of it than room keys.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;
mod behaviour_common;
mod dehydration_common;
mod identity_common;

use attacks_common::{dropped, room_key, rows, user};
use behaviour_common::clean;
use dehydration_common::*;
use herold::{OwnedEventId, OwnedRoomId, SecretString};
use herold_crypto::{Account, DehydrationKey, OutboundGroupSession};
use herold_machine::DropReason;
use herold_store::{Table, records::RehydrationOutcome, records::RehydrationRefusal};
use herold_testkit::{Attacker, World, homeserver::ServerResponse};
use serde_json::{Value, json};

const ALICE: &str = "@alice:world.test";

/// Alice's only device is gone; Bob has said so many things since; a new device has the secrets.
fn scene_away(seed: u64, count: usize) -> (World, usize, OwnedRoomId, Vec<OwnedEventId>) {
    let (mut world, alice, bob, room, vault) = scene(seed);
    log_out(&mut world, alice);
    let away = say(&mut world, bob, &room, count);
    let second = new_device(&mut world, &vault);
    (world, second, room, away)
}

/// Nothing is opened, nothing of it is left, the device is still there for others, and once the homeserver is honest everything
/// is readable.
fn then_all_is_well(
    mut world: World,
    second: usize,
    room: &OwnedRoomId,
    away: &[OwnedEventId],
    what: &str,
) {
    for table in [Table::Rehydration, Table::RehydratedSession, Table::DehydratedUpload] {
        assert_eq!(rows(&world, second, table), 0, "{what}: {table:?}");
    }
    assert!(!status(&mut world, second).enabled, "{what}");
    world.tamper = None;
    assert_eq!(rehydrate(&mut world, second), RehydrationOutcome::Done, "{what}");
    assert_eq!(read(&mut world, second, room, away), away.len(), "{what}");
    clean(&world);
}

type Change = Box<dyn FnMut(&mut Value)>;

#[test]
fn a_device_that_is_not_ours_is_not_opened() {
    // Another key, and a device of the homeserver's own under it.
    let foreign_key = DehydrationKey::generate(&mut herold_crypto::SeededEntropy::new(1));
    let foreign = || {
        let mut account = Account::new();
        account.generate_one_time_keys(1);
        (account.identity_keys().curve25519.to_base64(), account)
    };
    let changes: Vec<(&str, RehydrationRefusal, Change)> = vec![
        (
            "a device of the homeserver's",
            RehydrationRefusal::WrongKey,
            Box::new(move |body| {
                let (id, account) = foreign();
                let closed = account.dehydrate(&foreign_key).unwrap();
                body["device_id"] = json!(id);
                body["device_data"]["device_pickle"] = json!(closed.ciphertext);
                body["device_data"]["nonce"] = json!(closed.nonce);
            }),
        ),
        (
            "a bit of the keys",
            RehydrationRefusal::WrongKey,
            Box::new(|body| {
                let pickle = body["device_data"]["device_pickle"].as_str().unwrap().to_owned();
                let other = if pickle.starts_with('A') { "B" } else { "A" };
                body["device_data"]["device_pickle"] = json!(format!("{other}{}", &pickle[1..]));
            }),
        ),
        (
            "no keys",
            RehydrationRefusal::WrongKey,
            Box::new(|body| body["device_data"]["device_pickle"] = json!("")),
        ),
        (
            "another nonce",
            RehydrationRefusal::WrongKey,
            Box::new(|body| body["device_data"]["nonce"] = json!("AAAAAAAAAAAAAAAA")),
        ),
        (
            "the id of a live device",
            RehydrationRefusal::KeyMismatch,
            Box::new(|body| body["device_id"] = json!("LIVE")),
        ),
        (
            "an id that nobody has",
            RehydrationRefusal::UnknownDevice,
            Box::new(|body| body["device_id"] = json!("NOBODY")),
        ),
        (
            "an older format",
            RehydrationRefusal::UnsupportedAlgorithm,
            Box::new(|body| body["device_data"]["algorithm"] = json!("org.matrix.msc3814.v1.olm")),
        ),
        ("no data", RehydrationRefusal::Malformed, Box::new(|body| body["device_data"] = json!(7))),
        (
            "no nonce",
            RehydrationRefusal::Malformed,
            Box::new(|body| body["device_data"]["nonce"] = Value::Null),
        ),
        (
            "a megabyte of it",
            RehydrationRefusal::TooLarge,
            Box::new(|body| body["device_data"]["x"] = json!("x".repeat(1 << 20))),
        ),
    ];
    for (place, (what, reason, mut change)) in changes.into_iter().enumerate() {
        let (mut world, second, room, away) = scene_away(100 + place as u64, 2);
        let live = world.devices[second].device_id.clone();
        rewrite(&mut world, second, DEVICE, move |body| {
            change(body);
            if body["device_id"] == "LIVE" {
                body["device_id"] = json!(live);
            }
        });
        assert_eq!(refused(&mut world, second), reason, "{what}");
        assert_eq!(status(&mut world, second).room_keys, 0);
        then_all_is_well(world, second, &room, &away, what);
    }
}

/// The keys of the device before the one that is there, under its id: whoever has the one key has made both.
#[test]
fn the_keys_of_another_device_of_ours_are_not_taken_for_this_ones() {
    let (mut world, alice, bob, room, vault) = scene(120);
    let first = world.call(Some(alice), "GET", PATH, Value::Null);
    assert!(first["device_data"]["nonce"].is_string());
    world.clock.advance(std::time::Duration::from_secs(8 * 24 * 3600));
    world.settle();
    assert_ne!(first["device_id"], dehydrated(&world));
    log_out(&mut world, alice);
    let away = say(&mut world, bob, &room, 2);
    let second = new_device(&mut world, &vault);
    let data = first["device_data"].clone();
    rewrite(&mut world, second, DEVICE, move |body| body["device_data"] = data.clone());
    assert_eq!(refused(&mut world, second), RehydrationRefusal::KeyMismatch);
    // The whole of it is no better: it is on no list any more.
    rewrite(&mut world, second, DEVICE, move |body| *body = first.clone());
    assert_eq!(refused(&mut world, second), RehydrationRefusal::UnknownDevice);
    then_all_is_well(world, second, &room, &away, "an older one");
}

const PATH: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

/// Who has the key and not the identity's makes no device that is opened; nor does whoever hides or strips what is signed.
#[test]
fn a_device_that_the_verified_identity_has_not_signed_is_not_opened() {
    let (mut world, second, room, away) = scene_away(130, 2);
    let id = dehydrated(&world);
    let published = attacks_common::published(&mut world, second, ALICE, &id);
    let mut stripped = published.clone();
    let signatures = stripped["signatures"][ALICE].as_object_mut().unwrap();
    signatures.retain(|name, _| name.ends_with(&id));
    assert_eq!(signatures.len(), 1);
    for (keys, reason) in [
        (stripped, RehydrationRefusal::NotSigned),
        (Value::Null, RehydrationRefusal::UnknownDevice),
    ] {
        world.server.override_device_keys(ALICE, &id, keys);
        world.settle();
        assert_eq!(refused(&mut world, second), reason);
    }
    world.server.restore_device_keys(ALICE, &id);
    world.settle();
    then_all_is_well(world, second, &room, &away, "unsigned");
}

#[test]
fn a_wrong_key_opens_nothing() {
    let (mut world, second, room, away) = scene_away(140, 1);
    let right = make_key(&mut world, second);
    for text in ["", "AAAA", "no base64!", &"A".repeat(44)] {
        assert!(!import_key(&mut world, second, &SecretString::new(text.to_owned())), "{text}");
    }
    let wrong = SecretString::new("B".repeat(42) + "A");
    assert!(import_key(&mut world, second, &wrong));
    assert_eq!(refused(&mut world, second), RehydrationRefusal::WrongKey);
    assert!(import_key(&mut world, second, &right));
    then_all_is_well(world, second, &room, &away, "another key");
}

/// Each page comes twice, under another token; the keys count once, and the end is found.
#[test]
fn pages_that_are_replayed_change_nothing() {
    let (mut world, second, room, away) = scene_away(150, 6);
    world.server.page_dehydrated(2);
    let mut pages: Vec<Value> = Vec::new();
    let mut served = 0;
    rewrite(&mut world, second, EVENTS, move |body| {
        served += 1;
        pages.push(body["events"].clone());
        if served % 2 == 0 {
            // The first page's events again, in this one's place and before it.
            let mut events = pages[0].as_array().unwrap().clone();
            events.extend(body["events"].as_array().unwrap().iter().cloned());
            body["events"] = json!(events);
        }
    });
    assert_eq!(rehydrate(&mut world, second), RehydrationOutcome::Done);
    assert_eq!(status(&mut world, second).room_keys, 6);
    assert_eq!(read(&mut world, second, &room, &away), 6);
    assert_eq!(dropped(&world, second, DropReason::Undecryptable), 0);
    clean(&world);
}

#[test]
fn pages_without_an_end_are_not_read_for_ever() {
    for same_token in [true, false] {
        let (mut world, second, room, away) = scene_away(160, 3);
        let mut served: u64 = 0;
        rewrite(&mut world, second, EVENTS, move |body| {
            if served > 0 {
                body["events"] = json!([]);
            }
            served += 1;
            let token = if same_token { 1 << 40 } else { (1 << 40) + served };
            body["next_batch"] = json!(format!("d{token}"));
        });
        assert_eq!(refused(&mut world, second), RehydrationRefusal::Endless);
        let asked = world.server.requests().iter().filter(|seen| seen.path.ends_with(EVENTS));
        assert!(asked.count() <= 30);
        // What was taken stays.
        assert_eq!(read(&mut world, second, &room, &away), 3);
        then_all_is_well(world, second, &room, &away, "endless");
    }
}

#[test]
fn pages_that_are_cut_huge_or_refused_lose_nothing() {
    type Spoil = fn(&mut ServerResponse);
    let cases: [(&str, RehydrationRefusal, Spoil); 5] = [
        ("cut", RehydrationRefusal::Malformed, |response| {
            response.body.truncate(response.body.len() / 2);
        }),
        ("no list", RehydrationRefusal::Malformed, |response| {
            response.body = br#"{"events":{},"next_batch":"d1"}"#.to_vec();
        }),
        ("huge", RehydrationRefusal::TooLarge, |response| response.body.resize(17 << 20, b' ')),
        ("gone", RehydrationRefusal::Gone, |response| {
            response.status = 403;
            response.body = br#"{"errcode":"M_FORBIDDEN"}"#.to_vec();
        }),
        ("refused", RehydrationRefusal::Unavailable, |response| {
            response.status = 400;
            response.body = br#"{"errcode":"M_UNKNOWN"}"#.to_vec();
        }),
    ];
    for (place, (what, reason, spoil)) in cases.into_iter().enumerate() {
        let (mut world, second, room, away) = scene_away(170 + place as u64, 4);
        world.server.page_dehydrated(2);
        // The first page is good.
        let mut served = 0;
        world.tamper = Some(Box::new(move |of, path, response| {
            if of == second && path.ends_with(EVENTS) {
                served += 1;
                if served > 1 {
                    spoil(response);
                }
            }
        }));
        assert_eq!(refused(&mut world, second), reason, "{what}");
        assert_eq!(read(&mut world, second, &room, &away), 2, "{what}");
        then_all_is_well(world, second, &room, &away, what);
    }
}

/// Another sender is named on the way: nothing of that is taken, and nothing is lost to the one who has sent it.
#[test]
fn a_sender_that_is_forged_once_is_no_loss() {
    let (mut world, second, room, away) = scene_away(185, 3);
    world.server.page_dehydrated(2);
    let mut served = 0;
    world.tamper = Some(Box::new(move |of, path, response| {
        if of != second || !path.ends_with(EVENTS) {
            return;
        }
        served += 1;
        if served == 1 {
            behaviour_common::edit_json(response, |body| {
                body["events"][0]["sender"] = json!("@eve:world.test");
            });
        } else {
            response.status = 400;
            response.body = b"{}".to_vec();
        }
    }));
    assert_eq!(refused(&mut world, second), RehydrationRefusal::Unavailable);
    assert_eq!(dropped(&world, second, DropReason::PayloadMismatch), 1);
    assert_eq!(read(&mut world, second, &room, &away), 1);
    then_all_is_well(world, second, &room, &away, "a forged sender");
}

/// A page that was spoilt once or twice, as a bad network does.
#[test]
fn a_page_that_is_cut_once_is_asked_for_again() {
    let (mut world, second, room, away) = scene_away(180, 3);
    let mut served = 0;
    world.tamper = Some(Box::new(move |_, path, response| {
        if path.contains(DEVICE) {
            served += 1;
            match served % 4 {
                1 => response.body.truncate(response.body.len() / 2),
                2 => response.status = 502,
                _ => {}
            }
        }
    }));
    assert_eq!(rehydrate(&mut world, second), RehydrationOutcome::Done);
    assert_eq!(read(&mut world, second, &room, &away), 3);
    clean(&world);
}

/// Only room keys are taken, by the checks that hold for the live device.
#[test]
fn senders_get_nothing_but_room_keys_in() {
    let (mut world, alice, _, room, vault) = scene(190);
    let eve = Attacker::log_in(&mut world, "eve");
    let mut eve = Mailer::new(&mut world, eve);
    // A device of Alice's own that nobody has signed.
    let ghost = Attacker::ghost(&mut world, ALICE, "GHOST");
    let mut ghost = Mailer::new(&mut world, ghost);
    let other = Attacker::unlisted("@bob:world.test", "OTHER");
    let sessions: Vec<OutboundGroupSession> = (0..9).map(|_| OutboundGroupSession::new()).collect();
    let key = |n: usize| room_key(&sessions[n], &room);
    log_out(&mut world, alice);

    let good = eve.payload("m.room_key", &key(0));
    eve.send(&mut world, &good);
    for (n, (field, value)) in [
        ("sender", json!(ALICE)),
        ("recipient", json!("@bob:world.test")),
        ("recipient_keys", json!({ "ed25519": eve.attacker.keys().ed25519.to_base64() })),
        ("keys", json!({ "ed25519": other.keys().ed25519.to_base64() })),
        ("sender_device_keys", other.device_keys()),
    ]
    .into_iter()
    .enumerate()
    {
        let mut payload = eve.payload("m.room_key", &key(n + 1));
        payload[field] = value;
        eve.send(&mut world, &payload);
    }
    let forwarded = json!({
        "algorithm": attacks_common::MEGOLM,
        "room_id": room,
        "session_id": sessions[7].session_id().as_str(),
        "session_key": sessions[7].session_key().as_str(),
        "sender_key": eve.attacker.keys().curve25519.to_base64(),
        "sender_claimed_ed25519_key": eve.attacker.keys().ed25519.to_base64(),
        "forwarding_curve25519_key_chain": [],
    });
    for (kind, content) in [
        ("m.forwarded_room_key", forwarded),
        ("m.dummy", json!({})),
        ("m.secret.send", json!({ "request_id": "x", "secret": "A".repeat(43) })),
        (
            "m.key.verification.request",
            json!({ "from_device": "GHOST", "methods": ["m.sas.v1"],
            "transaction_id": "t", "timestamp": world.clock.millis() }),
        ),
        ("org.example.call", json!({ "to": "the app" })),
    ] {
        let payload = ghost.payload(kind, &content);
        ghost.send(&mut world, &payload);
    }
    // In the clear.
    let id = dehydrated(&world);
    for (kind, content) in [
        ("m.room_key", key(8)),
        (
            "m.room_key_request",
            json!({ "action": "request", "request_id": "r",
            "requesting_device_id": "GHOST" }),
        ),
        (
            "m.secret.request",
            json!({ "action": "request", "name": KEY, "request_id": "r",
            "requesting_device_id": "GHOST" }),
        ),
    ] {
        let event = json!({ "type": kind, "sender": ALICE, "content": content });
        assert!(world.server.inject_to_device(ALICE, &id, event));
    }
    for junk in [json!(7), json!({}), json!({ "type": "m.room.encrypted", "sender": ALICE })] {
        assert!(world.server.inject_to_device(ALICE, &id, junk));
    }

    let second = new_device(&mut world, &vault);
    let before = world.server.to_device_log().len();
    let keys_before = rows(&world, second, Table::InboundSession);
    assert_eq!(rehydrate(&mut world, second), RehydrationOutcome::Done);
    assert_eq!(status(&mut world, second).room_keys, 1);
    assert_eq!(rows(&world, second, Table::InboundSession), keys_before + 1);
    assert_eq!(dropped(&world, second, DropReason::PayloadMismatch), 4);
    assert_eq!(dropped(&world, second, DropReason::SenderDeviceKeys), 1);
    let events = &world.devices[second].events;
    assert!(
        !events.iter().any(|event| matches!(
            event,
            herold::AppEvent::ToDevice { .. } | herold::AppEvent::Verification { .. }
        )),
        "{events:?}"
    );
    // Nothing is sent to anybody on its account, and nothing but one upload is made.
    assert_eq!(world.server.to_device_log().len(), before);
    assert_eq!(user(&world, second), ALICE);
    clean(&world);
}

/// N43, seen from the dehydrated device: what comes from another one is not taken.
#[test]
fn a_dehydrated_device_says_nothing_to_another_one() {
    let (mut world, alice, bob, room, vault) = scene(200);
    let dead = Attacker::unlisted("@bob:world.test", "DEAD");
    let mut keys = dead.device_keys();
    keys.as_object_mut().unwrap().remove("signatures");
    keys["dehydrated"] = json!(true);
    let keys = dead.signed(keys);
    world.server.add_device_keys("@bob:world.test", "DEAD", keys);
    let mut dead = Mailer::new(&mut world, dead);
    let session = OutboundGroupSession::new();
    log_out(&mut world, alice);
    let second = new_device(&mut world, &vault);
    // The new device knows Bob's devices: they share a room.
    say(&mut world, second, &room, 1);
    assert!(attacks_common::known_devices(&mut world, second, "@bob:world.test").len() >= 2);
    let payload = dead.payload("m.room_key", &room_key(&session, &room));
    dead.send(&mut world, &payload);
    assert_eq!(rehydrate(&mut world, second), RehydrationOutcome::Done);
    assert_eq!(status(&mut world, second).room_keys, 0);
    assert_eq!(dropped(&world, second, DropReason::Unsolicited), 1);
    let _ = bob;
    clean(&world);
}

/// A flood of channels that one sender opens with the fallback key is bounded.
#[test]
fn many_channels_of_one_sender_leave_no_more_than_some() {
    let (mut world, alice, bob, room, vault) = scene(210);
    let eve = Attacker::log_in(&mut world, "eve");
    log_out(&mut world, alice);
    let away = say(&mut world, bob, &room, 2);
    let mut account = Some(eve);
    for _ in 0..120 {
        let mut mailer = Mailer::new(&mut world, account.take().unwrap());
        let payload = mailer.payload("m.dummy", &json!({}));
        mailer.send(&mut world, &payload);
        account = Some(mailer.attacker);
    }
    let second = new_device(&mut world, &vault);
    world.server.page_dehydrated(121);
    // Looked at before the last page is taken.
    assert!(try_rehydrate(&mut world, second));
    let mut most = 0;
    for _ in 0..50 {
        world.pump(second);
        most = most.max(rows(&world, second, Table::RehydratedSession));
    }
    world.settle();
    assert!((1..=9).contains(&most), "{most}");
    assert_eq!(status(&mut world, second).outcome, Some(RehydrationOutcome::Done));
    assert_eq!(read(&mut world, second, &room, &away), 2);
    clean(&world);
}

/// Under a policy that gives everybody's devices the keys, one that says it is dehydrated has to be signed all the same.
#[test]
fn an_unsigned_dehydrated_device_gets_no_room_key_under_any_policy() {
    let (mut world, _, bob, room, _) = scene(220);
    let mut ghost = Attacker::unlisted(ALICE, "GHOST");
    let mut keys = ghost.device_keys();
    keys.as_object_mut().unwrap().remove("signatures");
    keys["dehydrated"] = json!(true);
    let keys = ghost.signed(keys);
    world.server.add_device_keys(ALICE, "GHOST", keys);
    let one_time = ghost.one_time_keys(5);
    world.server.add_one_time_keys(ALICE, "GHOST", one_time);
    world.settle();
    let sent = world.send(bob, &room, "not for ghosts");
    assert!(attacks_common::room_keys_of(&world, &mut ghost).is_empty());
    assert_eq!(attacks_common::withheld(&world, ALICE, "GHOST"), ["m.unverified"]);
    assert!(world.text(0, &room, &sent).is_ok());
    clean(&world);
}

/// Attacks N26 and N27: whoever asks in the name of the dehydrated device, which the verified identity has signed.
#[test]
fn nobody_is_given_anything_in_the_name_of_the_dehydrated_device() {
    let (mut world, alice, bob, room, _) = scene(230);
    let sent = world.send(bob, &room, "a secret");
    let session = behaviour_common::session(&world, &room, &sent);
    let id = dehydrated(&world);
    let before = world.server.to_device_log().len();
    let asked = json!({
        "action": "request", "name": KEY, "request_id": "r1", "requesting_device_id": id,
    });
    attacks_common::inject_clear(&mut world, alice, ALICE, "m.secret.request", asked);
    let asked = json!({
        "action": "request", "request_id": "r2", "requesting_device_id": id,
        "body": { "algorithm": attacks_common::MEGOLM, "room_id": room, "session_id": session },
    });
    attacks_common::inject_clear(&mut world, alice, ALICE, "m.room_key_request", asked);
    world.settle();
    // It is not asked to verify anybody either: there is no other device to ask.
    let own = world.devices[alice].user_id.clone();
    let begun = world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| {
            machine.request_verification(snapshot, cx, &own, None, herold::Methods::ALL)
        })
    });
    assert!(begun.is_none());
    world.settle();
    assert_eq!(world.server.to_device_log().len(), before);
    assert_eq!(olm_messages_since(&world, before, &id), 0);
    clean(&world);
}

fn olm_messages_since(world: &World, since: usize, device: &str) -> usize {
    let log = world.server.to_device_log()[since..].iter();
    log.filter(|sent| sent.recipient_device == device).count()
}
