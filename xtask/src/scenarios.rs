//! The scenarios: what two implementations have to bring off together.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::error::{Error, Result, ensure, fail};
use crate::identity;
use crate::peer::{Peer, WAIT, eventually, text};
use crate::synapse::PASSWORD;
use crate::world::{OURS, World, make_room, make_room_of_invited, never_reads, reads, say};

/// A scenario and what it takes: one feature of each list, if the list is not empty.
pub struct Scenario {
    /// As given to `--only`.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// What A must be able to do.
    pub needs_of_a: &'static [&'static str],
    /// What B must be able to do.
    pub needs_of_b: &'static [&'static str],
    /// Does it.
    pub play: fn(&World<'_>) -> Result<()>,
}

/// All scenarios, in the order of the table.
#[rustfmt::skip]
pub const ALL: &[Scenario] = &[
    Scenario { name: "text", shows: "texts both ways: emoji, empty, long, too long", needs_of_a: &[], needs_of_b: &[], play: texts },
    Scenario { name: "attachment", shows: "encrypted files both ways, byte for byte", needs_of_a: &["files"], needs_of_b: &["files"], play: attachment },
    Scenario { name: "custom", shows: "an event of an unknown type arrives with exactly its content", needs_of_a: &["control", "custom"], needs_of_b: &["control", "custom"], play: custom },
    Scenario { name: "relations", shows: "replies, threads, edits and reactions arrive with what they relate to", needs_of_a: &["control", "custom"], needs_of_b: &["control", "custom"], play: relations },
    Scenario { name: "rotation", shows: "the session changes after as many messages as the room says", needs_of_a: &[], needs_of_b: &[], play: rotation },
    Scenario { name: "backlog", shows: "B was away for 120 room keys, more than a sync response holds", needs_of_a: &[], needs_of_b: &["store"], play: backlog },
    Scenario { name: "invited", shows: "what was said while B was invited is readable after the join", needs_of_a: &[], needs_of_b: &[], play: invited },
    Scenario { name: "leave", shows: "who has left gets no key, and reads again after coming back", needs_of_a: &[], needs_of_b: &[], play: leave },
    Scenario { name: "kick", shows: "the same for who was removed", needs_of_a: &[], needs_of_b: &[], play: kick },
    Scenario { name: "new_device", shows: "a new device of B reads what is said from then on", needs_of_a: &[], needs_of_b: &[], play: new_device },
    Scenario { name: "device_removed", shows: "a removed device gets no key; the session changes", needs_of_a: &[], needs_of_b: &["delete_device"], play: device_removed },
    Scenario { name: "restart", shows: "each that can comes back from its store and has missed nothing", needs_of_a: &[], needs_of_b: &[], play: restart },
    Scenario { name: "killed", shows: "B is killed while it receives, three times, and misses nothing", needs_of_a: &[], needs_of_b: &["store"], play: killed },
    Scenario { name: "killed_sender", shows: "A is killed with a full send queue: each message comes once, in order", needs_of_a: &["control"], needs_of_b: &[], play: killed_sender },
    Scenario { name: "sliding_sync", shows: "ours by simplified sliding sync: both ways, over a leave, a kill and a restart", needs_of_a: &[], needs_of_b: &[], play: sliding_sync },
    Scenario { name: "exhausted", shows: "B has no one-time keys left: the fallback key serves, and is replaced", needs_of_a: &[], needs_of_b: &["store"], play: exhausted },
    Scenario { name: "recover", shows: "B's make recovers what A's has set up: identity, backup, old messages", needs_of_a: &["cross_signing"], needs_of_b: &["cross_signing"], play: identity::recover },
    Scenario { name: "sas_room", shows: "two users verify each other in a room by emoji", needs_of_a: &["sas_room"], needs_of_b: &["sas_room"], play: identity::sas_room },
    Scenario { name: "sas_device", shows: "two devices of users without identities verify each other", needs_of_a: &["sas_device"], needs_of_b: &["sas_device"], play: identity::sas_device },
    Scenario { name: "sas_self", shows: "a new device of A's is verified, gets the secrets and restores the backup", needs_of_a: &["gossip"], needs_of_b: &["sas_self"], play: identity::sas_self },
    Scenario { name: "qr", shows: "two users verify each other by a QR code", needs_of_a: &["qr"], needs_of_b: &["qr"], play: identity::qr },
    Scenario { name: "qr_self", shows: "new devices of A's are verified by QR codes, shown and scanned", needs_of_a: &["gossip", "qr"], needs_of_b: &["qr"], play: identity::qr_self },
    Scenario { name: "key_file", shows: "room keys in a file from A's make to B's and back", needs_of_a: &["key_files"], needs_of_b: &["key_files"], play: identity::key_file },
    Scenario { name: "backup", shows: "50 room keys through the backup from A's make to B's, and 50 back", needs_of_a: &["backup"], needs_of_b: &["backup"], play: identity::backup },
    Scenario { name: "dehydrated", shows: "what B says while A has no device is read by A's next one, of B's make", needs_of_a: &["dehydration"], needs_of_b: &["dehydration"], play: identity::dehydrated },
    Scenario { name: "history", shows: "A invites B with the room's history: B reads what was said before", needs_of_a: &["cross_signing", "history"], needs_of_b: &["cross_signing", "history"], play: identity::history },
];

/// The longest text whose event stays under the server's 64 KiB once it is encrypted.
const LONG: usize = 45_000;
const TOO_LONG: usize = 60_000;

fn texts(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    let long = "0123456789abcdef!".repeat(LONG / 17);
    for body in ["plain", "✓ 🔐 👩‍👩‍👧 \u{202e}\u{feff}\"\\\n", "", &long, "the last"]
    {
        say(&mut a, &room, body, &mut [&mut b])?;
        say(&mut b, &room, body, &mut [&mut a])?;
    }
    // The server takes no such event. A client may say so, and must be none the worse for it.
    let too_long = "x".repeat(TOO_LONG);
    if let Ok(event) = a.send(&room, &too_long) {
        reads(&mut b, &room, &event, a.user(), &too_long)?;
    }
    say(&mut a, &room, "after that", &mut [&mut b]).map(drop)
}

fn attachment(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    for size in [1, 70_000, 1_000_001] {
        pass_file(&mut a, &mut b, &room, size)?;
        pass_file(&mut b, &mut a, &room, size)?;
    }
    Ok(())
}

fn pass_file(sender: &mut Peer, reader: &mut Peer, room: &str, size: usize) -> Result<()> {
    let mut state = size as u32 | 1;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    });
    let data = BASE64.encode(noise.take(size).collect::<Vec<u8>>());
    let (name, mimetype) = ("Übersicht 1.bin", "application/x-herold");
    let file = json!({"room": room, "name": name, "mimetype": mimetype, "data": data});
    let event = text(&sender.call("send_file", file)?, "event_id");
    let got = reader.wait("download", WAIT, json!({"room": room, "event_id": event}))?;
    ensure(got["data"] == data, || format!("{}: {size} bytes have changed", reader.label()))?;
    ensure(got["name"] == name && got["mimetype"] == mimetype, || {
        format!("{}: {} of type {}", reader.label(), got["name"], got["mimetype"])
    })
}

fn custom(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    let content = json!({
        "": "no name",
        "numbers": [0, -1, 9_007_199_254_740_991_i64, -9_007_199_254_740_991_i64],
        "text": "\"\\/\u{0}\u{8}\t\r\n\u{7f}\u{2028}é😀",
        "nested": {"list": [null, true, false, [], {}, [{"deep": {"er": "x"}}]]},
        "body": "not a message",
    });
    let kind = "org.example.herold.exact";
    let event = json!({"room": room, "type": kind, "content": content});
    let event = text(&a.call("send_event", event)?, "event_id");
    let place = json!({"room": room, "event_id": event});
    b.wait("wait_message", WAIT, place.clone())?;
    let got = b.call("event", place)?;
    ensure(got["decrypted"] == true && got["encrypted"] == true, || {
        format!("{}: {got}", b.label())
    })?;
    ensure(got["type"] == kind, || format!("{}: the type is {}", b.label(), got["type"]))?;
    ensure(got["content"] == content, || {
        format!("{}: the content is {}", b.label(), got["content"])
    })
}

fn relations(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    let first = b.send(&room, "what it is about")?;
    reads(&mut a, &room, &first, b.user(), "what it is about")?;
    let message = |body: &str, relation: Value| json!({ "msgtype": "m.text", "body": body, "m.relates_to": relation });
    let reply = message("a reply", json!({ "m.in_reply_to": { "event_id": first } }));
    let thread = message("in a thread", json!({ "rel_type": "m.thread", "event_id": first }));
    let reaction = json!({
        "m.relates_to": { "rel_type": "m.annotation", "event_id": first, "key": "👍" },
    });
    let own = a.send(&room, "before the edit")?;
    let mut edit = message("* edited", json!({ "rel_type": "m.replace", "event_id": own }));
    edit["m.new_content"] = json!({ "msgtype": "m.text", "body": "edited" });
    for (kind, content) in [
        ("m.room.message", reply),
        ("m.room.message", thread),
        ("m.reaction", reaction),
        ("m.room.message", edit),
    ] {
        let event = json!({ "room": room, "type": kind, "content": content });
        let event = text(&a.call("send_event", event)?, "event_id");
        let place = json!({ "room": room, "event_id": event });
        b.wait("wait_message", WAIT, place.clone())?;
        let got = b.call("event", place)?;
        ensure(got["decrypted"] == true && got["type"] == kind, || {
            format!("{}: {got}", b.label())
        })?;
        ensure(got["content"] == content, || {
            format!("{}: {} instead of {content}", b.label(), got["content"])
        })?;
    }
    say(&mut b, &room, "after all that", &mut [&mut a]).map(drop)
}

fn rotation(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({"rotation_msgs": 2}))?;
    let mut sessions = Vec::new();
    for n in 0..5 {
        sessions.push(say(&mut a, &room, &format!("number {n}"), &mut [&mut b])?);
    }
    sessions.dedup();
    ensure(sessions.len() == 3, || {
        format!("5 messages, 2 per session: {} sessions", sessions.len())
    })
}

fn invited(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room_of_invited(&mut a, &mut [&mut b], json!({}))?;
    let user = b.user().to_owned();
    a.wait_member(&room, &user, "invite")?;
    let event = a.send(&room, "before the join")?;
    b.call("join", json!({"room": room}))?;
    reads(&mut b, &room, &event, a.user(), "before the join")?;
    a.wait_member(&room, &user, "join")?;
    say(&mut a, &room, "after the join", &mut [&mut b])?;
    say(&mut b, &room, "thanks", &mut [&mut a]).map(drop)
}

fn leave(world: &World<'_>) -> Result<()> {
    departed(world, |_, b, room| b.call("leave", json!({"room": room})))
}

fn kick(world: &World<'_>) -> Result<()> {
    departed(world, |a, b, room| a.call("kick", json!({"room": room, "user": b.user()})))
}

type Departure = fn(&mut Peer, &mut Peer, &str) -> Result<Value>;

fn departed(world: &World<'_>, depart: Departure) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let mut c = world.third()?;
    let room = make_room(&mut a, &mut [&mut b, &mut c], json!({}))?;
    let before = say(&mut a, &room, "to both", &mut [&mut b, &mut c])?;

    depart(&mut a, &mut b, &room)?;
    let user = b.user().to_owned();
    a.wait_member(&room, &user, "leave")?;
    let gone = Instant::now();
    let secret = a.send(&room, "not for B")?;
    let message = reads(&mut c, &room, &secret, a.user(), "not for B")?;
    ensure(message["session_id"] != before, || {
        "the session is still that of who is gone".to_owned()
    })?;
    let proxy = &world.server.proxy;
    ensure(proxy.sent_key(a.user(), &c.device, gone), || {
        "the proxy saw no new key for C".to_owned()
    })?;
    ensure(!proxy.sent_key(a.user(), &b.device, gone), || {
        "B is gone and was sent a key".to_owned()
    })?;

    a.call("invite", json!({"room": room, "user": user}))?;
    b.wait_member(&room, &user, "invite")?;
    b.call("join", json!({"room": room}))?;
    a.wait_member(&room, &user, "join")?;
    never_reads(&mut b, &room, &secret, "what was said while it was gone")?;
    say(&mut a, &room, "welcome back", &mut [&mut b, &mut c])?;
    say(&mut b, &room, "here I am", &mut [&mut a, &mut c]).map(drop)
}

fn new_device(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    let old = a.send(&room, "old")?;
    reads(&mut b, &room, &old, a.user(), "old")?;
    let mut b2 = world.login(world.b, "B2", b.user())?;
    a.wait_device(&b2.device, true)?;
    say(&mut a, &room, "new", &mut [&mut b, &mut b2])?;
    never_reads(&mut b2, &room, &old, "what was said before it was there")?;
    say(&mut b2, &room, "from the new one", &mut [&mut a, &mut b])?;
    say(&mut b, &room, "from the old one", &mut [&mut a, &mut b2]).map(drop)
}

fn device_removed(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let mut b2 = world.login(world.b, "B2", b.user())?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    a.wait_device(&b2.device, true)?;
    let start = Instant::now();
    let before = say(&mut a, &room, "to both devices", &mut [&mut b, &mut b2])?;
    let proxy = &world.server.proxy;
    ensure(proxy.sent_key(a.user(), &b2.device, start), || {
        "the proxy saw no key for B2".to_owned()
    })?;

    let removed = b2.device.id.clone();
    b.call("delete_device", json!({"device": removed, "password": PASSWORD}))?;
    a.wait_device(&b2.device, false)?;
    let gone = Instant::now();
    let after = say(&mut a, &room, "to one device", &mut [&mut b])?;
    ensure(before != after, || "the session is still that of the removed device".to_owned())?;
    ensure(proxy.sent_key(a.user(), &b.device, gone), || {
        "the proxy saw no new key for B".to_owned()
    })?;
    ensure(!proxy.sent_key(a.user(), &b2.device, gone), || {
        "a removed device was sent a key".to_owned()
    })
}

fn restart(world: &World<'_>) -> Result<()> {
    let (a_returns, b_returns) = (world.a.can(&["store"]), world.b.can(&["store"]));
    if !a_returns && !b_returns {
        return Err(Error::Unsupported("neither comes back from a store".to_owned()));
    }
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    let old = a.send(&room, "old")?;
    reads(&mut b, &room, &old, a.user(), "old")?;
    say(&mut b, &room, "old too", &mut [&mut a])?;
    if b_returns {
        returns(&mut b, &mut a, &room)?;
        reads(&mut b, &room, &old, a.user(), "old")?;
    }
    if a_returns {
        returns(&mut a, &mut b, &room)?;
        let user = a.user().to_owned();
        reads(&mut a, &room, &old, &user, "old")?;
    }
    Ok(())
}

fn sliding_sync(world: &World<'_>) -> Result<()> {
    world.sliding.store(true, Ordering::Relaxed);
    let (mut a, mut b) = world.two()?;
    let mut c = world.third()?;
    let room = make_room(&mut a, &mut [&mut b, &mut c], json!({}))?;
    let before = say(&mut a, &room, "to both", &mut [&mut b, &mut c])?;
    say(&mut b, &room, "from B", &mut [&mut a, &mut c])?;
    c.call("leave", json!({"room": room}))?;
    let user = c.user().to_owned();
    a.wait_member(&room, &user, "leave")?;
    b.wait_member(&room, &user, "leave")?;
    let gone = Instant::now();
    let after = say(&mut a, &room, "without C", &mut [&mut b])?;
    ensure(before != after, || "the session is still that of who is gone".to_owned())?;
    ensure(!world.server.proxy.sent_key(a.user(), &c.device, gone), || {
        "C is gone and was sent a key".to_owned()
    })?;
    let (a_is_ours, b_is_ours) = (world.a.name == OURS, world.b.name == OURS);
    if a_is_ours {
        returns(&mut a, &mut b, &room)?;
    }
    if b_is_ours {
        returns(&mut b, &mut a, &room)?;
        b.kill();
        let missed = a.send(&room, "while B was dead")?;
        b.resume()?;
        reads(&mut b, &room, &missed, a.user(), "while B was dead")?;
    }
    for (is_ours, peer) in [(a_is_ours, &a), (b_is_ours, &b)] {
        let count = world.server.proxy.sliding_syncs(&peer.device);
        ensure(!is_ours || count > 3, || {
            format!("{} has got {count} responses of sliding sync", peer.label())
        })?;
    }
    Ok(())
}

/// One goes, misses a message, comes back, reads it, and talks on.
fn returns(traveller: &mut Peer, other: &mut Peer, room: &str) -> Result<()> {
    traveller.close()?;
    let missed = other.send(room, "while you were away")?;
    traveller.resume()?;
    reads(traveller, room, &missed, other.user(), "while you were away")?;
    say(traveller, room, "back again", &mut [other])?;
    say(other, room, "good", &mut [traveller]).map(drop)
}

fn killed(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room =
        make_room(&mut a, &mut [&mut b], json!({"rotation_msgs": 1})).or_else(
            |error| match error {
                Error::Unsupported(_) => make_room(&mut a, &mut [&mut b], json!({})),
                error => Err(error),
            },
        )?;
    for (round, delay) in [20, 120, 300].into_iter().enumerate() {
        let body = |n: usize| format!("round {round}, message {n}");
        let events = thread::scope(|scope| {
            let sending =
                scope.spawn(|| (0..8).map(|n| a.send(&room, &body(n))).collect::<Result<Vec<_>>>());
            thread::sleep(Duration::from_millis(delay));
            b.kill();
            b.resume()?;
            sending.join().unwrap_or_else(|_| fail("a thread of the runner panicked"))
        })?;
        for (n, event) in events.iter().enumerate() {
            reads(&mut b, &room, event, a.user(), &body(n))?;
        }
    }
    say(&mut b, &room, "still here", &mut [&mut a]).map(drop)
}

fn killed_sender(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    let bodies: Vec<String> = (0..6).map(|n| format!("queued {n}")).collect();
    for body in &bodies {
        let content = json!({"msgtype": "m.text", "body": body});
        a.call("queue_event", json!({"room": room, "type": "m.room.message", "content": content}))?;
    }
    a.kill();
    a.resume()?;
    // The server is asked for what there is: B cannot know which events to wait for.
    let Some(token) = world.server.proxy.tokens(b.user()).pop() else {
        return fail("B has no token");
    };
    let line = format!("GET /_matrix/client/v3/rooms/{room}/messages?dir=b&limit=50");
    let mut events = Vec::new();
    eventually("the queued messages", || {
        let page = world.server.request(&line, Some(&token), &Value::Null)?;
        let encrypted = |e: &&Value| e["type"] == "m.room.encrypted";
        let chunk = page["chunk"].as_array().into_iter().flatten();
        events = chunk.filter(encrypted).map(|e| text(e, "event_id")).collect();
        Ok(events.len() >= bodies.len())
    })?;
    events.reverse();
    let last = a.send(&room, "the last")?;
    reads(&mut b, &room, &last, a.user(), "the last")?;
    ensure(events.len() == bodies.len(), || {
        format!("{} messages for {} queued", events.len(), bodies.len())
    })?;
    for (event, body) in events.iter().zip(&bodies) {
        reads(&mut b, &room, event, a.user(), body)?;
    }
    Ok(())
}

fn backlog(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({"rotation_msgs": 1}))?;
    say(&mut a, &room, "hello", &mut [&mut b])?;
    b.close()?;
    let mut events = Vec::new();
    for n in 0..120 {
        events.push(a.send(&room, &format!("number {n}"))?);
    }
    b.resume()?;
    for (n, event) in events.iter().enumerate() {
        reads(&mut b, &room, event, a.user(), &format!("number {n}"))?;
    }
    Ok(())
}

fn exhausted(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    let proxy = &world.server.proxy;
    eventually("B's fallback key", || Ok(proxy.fallback_keys(&b.device) > 0))?;
    b.close()?;
    let uploads = proxy.fallback_keys(&b.device);
    claim_all(world, &b)?;
    let event = a.send(&room, "with the fallback key")?;
    b.resume()?;
    reads(&mut b, &room, &event, a.user(), "with the fallback key")?;
    // A client may replace it now, or not so soon after the last one was made.
    b.call("clock_advance", json!({"ms": 600_000}))?;
    say(&mut a, &room, "ten minutes later", &mut [&mut b])?;
    eventually("a new fallback key of B", || Ok(proxy.fallback_keys(&b.device) > uploads))?;
    say(&mut b, &room, "thanks", &mut [&mut a]).map(drop)
}

/// Somebody takes one-time keys of the peer until the server gives the fallback key.
fn claim_all(world: &World<'_>, peer: &Peer) -> Result<()> {
    let user = world.server.register("greedy")?;
    let login = json!({
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user},
        "password": PASSWORD,
    });
    let token =
        text(&world.server.request("POST /_matrix/client/v3/login", None, &login)?, "access_token");
    let wanted =
        json!({"one_time_keys": {peer.user(): {peer.device.id.as_str(): "signed_curve25519"}}});
    for _ in 0..1000 {
        let got =
            world.server.request("POST /_matrix/client/v3/keys/claim", Some(&token), &wanted)?;
        let keys = got["one_time_keys"][peer.user()][&peer.device.id].as_object();
        match keys.and_then(|keys| keys.values().next()) {
            Some(key) if key["fallback"] == true => return Ok(()),
            Some(_) => {}
            None => return fail(format!("{} has no keys at all on the server", peer.label())),
        }
    }
    fail(format!("{} has more than 1000 one-time keys", peer.label()))
}
