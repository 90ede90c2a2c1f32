//! N39 at full size, and N20 with fallback keys: what anybody can have a device compute, and what a server can have it
//! claim, is bounded, and harms no session that works.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;

use std::time::{Duration, Instant};

use attacks_common::*;
use base64::Engine as _;
use herold::{AppEvent, Utd};
use herold_crypto::OutboundGroupSession;
use herold_store::Table;
use herold_testkit::{Attacker, World};
use serde_json::{Value, json};

const ALICE: &str = "@alice:world.test";
const BOB: &str = "@bob:world.test";

fn clean(world: &World) {
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// A second each, as attacks.md has it, where the code is built to be fast. Else only that it ends.
fn limit() -> Duration {
    Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 1 })
}

/// Has a device take a sync response that a server makes up. How long it took.
fn take(world: &mut World, device: usize, body: &Value) -> Duration {
    let body = body.to_string();
    let began = Instant::now();
    let taken = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| machine.handle_sync(snapshot, cx, body.as_bytes()))
    });
    taken.expect("the response is taken");
    began.elapsed()
}

/// The bytes of this process, in MB; nothing where the system does not tell.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
    kilobytes.unwrap_or_default() / 1024.0
}

/// The token that a device's next sync starts from: a made-up response keeps it.
fn token(world: &World, device: usize) -> String {
    use herold_store::{
        SnapshotExt as _,
        records::{Only, SyncRecord},
    };
    let record: SyncRecord = world.devices[device].disk.image().load(&Only).unwrap().unwrap();
    record.next_batch.expect("a token")
}

/// The ciphertext with another index, which its signature does not cover.
fn with_index(ciphertext: &Value, index: u32) -> String {
    let base64 = base64::engine::general_purpose::STANDARD_NO_PAD;
    let mut bytes = base64.decode(ciphertext.as_str().unwrap()).unwrap();
    // The version, the tag of the index, the index as a varint.
    assert_eq!(bytes[..3], [3, 8, 0]);
    let mut varint = Vec::new();
    let mut rest = index;
    while rest >= 0x80 {
        varint.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    varint.push(u8::try_from(rest).unwrap());
    bytes.splice(2..3, varint);
    base64.encode(bytes)
}

/// N39: the furthest index that a sender can sign, 2^31, and the last one there is, which nobody has signed.
#[test]
fn n39_the_last_index_of_a_megolm_ratchet_costs_little() {
    let (mut world, alice, bob, room) = two(1);
    let mut second = Attacker::ghost(&mut world, BOB, "SECOND");
    world.settle();
    let mut session = OutboundGroupSession::new();
    second.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    world.settle();
    let ahead = session.to_record_ahead(1 << 31).unwrap();
    let mut furthest = OutboundGroupSession::from_record(ahead.as_slice()).unwrap();
    let mut events = Vec::new();
    for (name, event) in [
        ("far", encrypted(&mut furthest, &room, BOB, "far ahead")),
        ("last", encrypted(&mut session, &room, BOB, "the very last")),
    ] {
        let mut event = event;
        if name == "last" {
            let last = with_index(&event["content"]["ciphertext"], u32::MAX);
            assert_eq!(herold_crypto::megolm_message_index(&last).ok(), Some(u32::MAX));
            event["content"]["ciphertext"] = json!(last);
        }
        event["event_id"] = json!(format!("${name}"));
        event["origin_server_ts"] = json!(world.clock.millis());
        events.push(event);
    }
    let next = token(&world, alice);
    let body = json!({ "next_batch": next, "rooms": { "join": { room.as_str(): {
        "timeline": { "events": events, "limited": false },
    } } } });
    let took = take(&mut world, alice, &body);
    assert!(took < limit(), "{took:?}");
    let (far, last) = ("$far".try_into().unwrap(), "$last".try_into().unwrap());
    assert_eq!(shown(&mut world, alice, &room, &far).1, Ok("far ahead".to_owned()));
    assert_eq!(shown(&mut world, alice, &room, &last).1, Err(Utd::BadCiphertext));
    // The session is as good as before.
    let event = encrypted(&mut session, &room, BOB, "the second");
    let event = inject(&mut world, &room, event, "second");
    world.settle();
    assert_eq!(shown(&mut world, alice, &room, &event).1, Ok("the second".to_owned()));
    let sent = world.send(bob, &room, "as ever");
    assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok("as ever"));
    clean(&world);
}

/// N39: ten thousand messages that each open a session, as a homeserver delivers them: a hundred in a response.
#[test]
fn n39_ten_thousand_pre_key_messages_cost_little_each_and_leave_nothing() {
    let (mut world, alice, bob, room) = two(2);
    let mut eve = Attacker::log_in(&mut world, "eve");
    let device = id(&world, alice);
    world.server.drop_one_time_keys(ALICE, &device);
    let before = rows(&world, alice, Table::OlmSession);
    let (mut longest, mut whole) = (Duration::ZERO, Duration::ZERO);
    let memory = resident();
    for _ in 0..100 {
        let mut events = Vec::new();
        for _ in 0..100 {
            eve.forget_sessions();
            let payload = eve.payload(&world, alice, "m.dummy", &json!({})).to_string();
            let content = eve.encrypt(&mut world, alice, &payload);
            events.push(json!({
                "type": "m.room.encrypted", "sender": eve.user_id, "content": content,
            }));
        }
        let next = token(&world, alice);
        let took = take(
            &mut world,
            alice,
            &json!({ "next_batch": next, "to_device": { "events": events } }),
        );
        longest = longest.max(took);
        whole += took;
    }
    println!("10,000 pre-key messages: {whole:?}, {longest:?} at most for a hundred");
    println!("{:.1} MB more, the homeserver's log of 10,000 claims with them", resident() - memory);
    assert!(longest < limit(), "{longest:?} for a hundred");
    assert!(rows(&world, alice, Table::OlmSession) <= before + 8);
    assert!(rows(&world, alice, Table::OlmHash) <= 20_000);
    let sent = world.send(bob, &room, "among them");
    assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok("among them"));
    let sent = world.send(alice, &room, "so am I");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("so am I"));
    clean(&world);
}

/// N39: a hundred thousand events of sessions that nobody knows, a thousand in a response.
#[test]
fn n39_a_hundred_thousand_unknown_sessions_cost_little_each_and_ask_for_few() {
    let (mut world, alice, bob, room) = two(3);
    let asked = world.server.to_device_log().len();
    let (mut longest, mut whole) = (Duration::ZERO, Duration::ZERO);
    for page in 0..100 {
        let events: Vec<Value> = (0..1000)
            .map(|n| {
                json!({
                    "type": "m.room.encrypted", "sender": BOB,
                    "event_id": format!("$unknown{page}-{n}"), "origin_server_ts": 5,
                    "content": {
                        "algorithm": MEGOLM, "ciphertext": "AwgA",
                        "session_id": format!("unknown{page}-{n}"),
                    },
                })
            })
            .collect();
        let next = token(&world, alice);
        let body = json!({ "next_batch": next, "rooms": { "join": { room.as_str(): {
            "timeline": { "events": events, "limited": false },
        } } } });
        let took = take(&mut world, alice, &body);
        longest = longest.max(took);
        whole += took;
    }
    println!("100,000 unknown sessions: {whole:?}, {longest:?} at most for a thousand");
    assert!(longest < limit(), "{longest:?} for a thousand");
    assert!(rows(&world, alice, Table::KeyRequest) <= 1000);
    // The store has what came, and no more than that: an event, its place, what it waits for, its telling.
    assert!(rows(&world, alice, Table::Event) <= 100_100);
    let image = world.devices[alice].disk.image();
    let bytes: usize = Table::ALL.iter().map(|table| bytes_of(&image, *table)).sum();
    println!("{:.1} MB in the store", bytes as f64 / 1e6);
    assert!(bytes < 100_000_000, "{bytes} bytes");
    let sent = world.send(bob, &room, "among them");
    assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok("among them"));
    assert!(world.server.to_device_log().len() - asked < 2000);
    clean(&world);
}

fn bytes_of(image: &herold::MemoryStore, table: Table) -> usize {
    use herold_store::{ScanControl, Snapshot as _};
    let mut bytes = 0;
    let counted = image.scan(table, &[], None, &mut |key, value| {
        bytes += key.len() + value.len();
        ScanControl::Continue(())
    });
    counted.unwrap();
    bytes
}

/// The claims for keys of Bob's devices.
fn claims_of_bob(world: &World) -> usize {
    let seen = world.server.requests().iter().filter(|seen| seen.path.ends_with("/keys/claim"));
    seen.filter(|seen| String::from_utf8_lossy(&seen.body).contains(BOB)).count()
}

/// Every claim of Alice's is answered with the first key that one was answered with.
fn always_the_same_key(world: &mut World, alice: usize) {
    let mut first = None;
    rewrite(world, alice, "/keys/claim", move |body| {
        if body["one_time_keys"][BOB].is_object() {
            *body = first.get_or_insert_with(|| body.clone()).clone();
        }
    });
}

/// Has Alice believe that her session with Bob does not work: a message of his comes changed.
fn wedge(world: &mut World, alice: usize, n: usize) {
    let device = id(world, alice);
    let log = world.server.to_device_log().iter().rev();
    let mut bobs = log.filter(|sent| sent.sender == BOB && sent.recipient_device == device);
    let mut content =
        bobs.find(|sent| sent.event_type == "m.room.encrypted").unwrap().content.clone();
    for (_, message) in content["ciphertext"].as_object_mut().unwrap() {
        let mut body: Vec<char> = message["body"].as_str().unwrap().chars().collect();
        let place = body.len() - 40 - n % 40;
        body[place] = if body[place] == 'A' { 'B' } else { 'A' };
        message["body"] = json!(body.into_iter().collect::<String>());
    }
    inject_clear(world, alice, BOB, "m.room.encrypted", content);
}

/// N20: a server that has no one-time keys for Bob, ever, and hands his fallback key out again and again. It costs a claim an
/// hour at most; each session is another (W1), each is read, and few are kept.
#[test]
fn n20_the_same_fallback_key_again_and_again_costs_a_claim_an_hour_and_no_session() {
    let mut world = World::new(4);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    world.settle();
    let device = id(&world, bob);
    world.server.drop_one_time_keys(BOB, &device);
    always_the_same_key(&mut world, alice);
    let room = world.make_room(&[alice, bob]);
    let first = world.send(alice, &room, "the first");
    assert_eq!(world.text(bob, &room, &first).as_deref(), Ok("the first"));
    let reply = world.send(bob, &room, "the answer");
    assert_eq!(world.text(alice, &room, &reply).as_deref(), Ok("the answer"));
    assert_eq!(claims_of_bob(&world), 1);
    let mut claims = 1;
    for hour in 0..12 {
        for n in 0..6 {
            wedge(&mut world, alice, n);
            world.settle();
            world.clock.advance(Duration::from_secs(600));
        }
        new_session(&mut world, alice, &room);
        let text = format!("hour {hour}");
        let sent = world.send(alice, &room, &text);
        assert_eq!(world.text(bob, &room, &sent), Ok(text));
        let now = claims_of_bob(&world);
        assert!(now <= claims + 2, "{} claims in an hour", now - claims);
        claims = now;
    }
    assert!((6..=14).contains(&claims), "{claims} claims in twelve hours");
    assert!(rows(&world, bob, Table::OlmSession) <= 8);
    assert!(rows(&world, alice, Table::OlmSession) <= 8);
    let sent = world.send(bob, &room, "and back");
    assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok("and back"));
    clean(&world);
}

fn heard(world: &World, device: usize) -> usize {
    let events = world.devices[device].events.iter();
    events.filter(|event| matches!(event, AppEvent::ToDevice { .. })).count()
}

/// N20, N23: a message that opened a session with the fallback key, delivered again: at once, when the session is long gone, and
/// when the key has been replaced. It is never heard twice, and wears no session out.
#[test]
fn n20_a_message_over_a_fallback_key_is_heard_once_however_often_it_comes() {
    let (mut world, alice, bob, room) = two(5);
    let mut eve = Attacker::log_in(&mut world, "eve");
    let device = id(&world, bob);
    world.server.drop_one_time_keys(BOB, &device);
    eve.forget_sessions();
    let payload = eve.payload(&world, bob, "org.example.call", &json!({ "n": 1 })).to_string();
    let message = eve.encrypt(&mut world, bob, &payload);
    let sender = eve.user_id.clone();
    inject_clear(&mut world, bob, &sender, "m.room.encrypted", message.clone());
    world.settle();
    assert_eq!(heard(&world, bob), 1);
    let claims = world.server.requests().iter().filter(|seen| seen.path.ends_with("/keys/claim"));
    let (claims, kept) = (claims.count(), rows(&world, bob, Table::OlmSession));
    for round in 0..4 {
        match round {
            0 => {}
            1 => {
                // The session is pushed out by others of the same device.
                for _ in 0..12 {
                    eve.forget_sessions();
                    eve.send(&mut world, bob, "m.dummy", &json!({}));
                }
                world.settle();
            }
            2 => world.restart(bob),
            _ => world.clock.advance(Duration::from_secs(20 * 24 * 3600)),
        }
        for _ in 0..100 {
            inject_clear(&mut world, bob, &sender, "m.room.encrypted", message.clone());
        }
        world.settle();
        assert_eq!(heard(&world, bob), 1, "round {round}");
        assert!(rows(&world, bob, Table::OlmSession) <= kept + 8);
    }
    let made = world.server.requests().iter().filter(|seen| {
        seen.path.ends_with("/keys/claim") && seen.device.as_deref() == Some(device.as_str())
    });
    assert!(made.count() <= claims + 14, "the attacker's own go out under the victim's token");
    let sent = world.send(alice, &room, "as ever");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("as ever"));
    clean(&world);
}

/// N20: the server says that a one-time key is a fallback key, or the other way round. The signature is over what the device said.
#[test]
fn n20_a_key_that_was_made_a_fallback_key_on_the_way_is_refused() {
    for to_fallback in [true, false] {
        let mut world = World::new(6);
        let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
        world.settle();
        if !to_fallback {
            let device = id(&world, bob);
            world.server.drop_one_time_keys(BOB, &device);
        }
        rewrite(&mut world, alice, "/keys/claim", move |body| {
            let devices = body["one_time_keys"][BOB].as_object_mut().into_iter().flatten();
            for (_, keys) in devices {
                for (_, key) in keys.as_object_mut().unwrap().iter_mut() {
                    if to_fallback {
                        assert!(key.get("fallback").is_none());
                        key["fallback"] = json!(true);
                    } else {
                        assert_eq!(
                            key.as_object_mut().unwrap().remove("fallback"),
                            Some(json!(true))
                        );
                    }
                }
            }
        });
        let room = world.make_room(&[alice, bob]);
        let sent = world.send(alice, &room, "not to be had");
        assert!(world.text(bob, &room, &sent).is_err());
        let refused =
            world.notices(alice).iter().filter(|n| n.kind() == "one_time_key_refused").count();
        assert!(refused > 0);
        // An honest answer later makes it good.
        world.tamper = None;
        world.clock.advance(Duration::from_secs(3700));
        world.settle();
        assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("not to be had"));
        clean(&world);
    }
}
