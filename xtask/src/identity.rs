//! The scenarios of identities: recovery, verification, the key backup, key files.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Result, ensure, fail};
use crate::peer::{Peer, WAIT, eventually, text};
use crate::proxy::Device;
use crate::synapse::PASSWORD;
use crate::world::{World, make_room, never_reads, reads, say};

/// How long a recovery or a restore may take.
const RESTORE: Duration = Duration::from_secs(60);
/// As many room keys go through the backup, each way.
const KEYS: usize = 50;

/// The recovery key of a device, which another implementation opens.
pub fn recover(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    let old = a.send(&room, "old")?;
    reads(&mut b, &room, &old, a.user(), "old")?;
    let key = bootstrap(world, &mut a)?;
    a.wait("wait_backup", WAIT, json!({}))?;

    let mut a2 = world.login(world.b, "A2", a.user())?;
    never_reads(&mut a2, &room, &old, "what was said before it was there, without the key")?;
    ensure(a2.wait("recover", RESTORE, json!({"recovery_key": altered(&key)})).is_err(), || {
        format!("{} recovers with a wrong key", a2.label())
    })?;
    open(&mut a2, &key, 1)?;
    reads(&mut a2, &room, &old, a.user(), "old")?;
    is_signed(&mut a, &a2.device)?;
    is_signed(&mut b, &a2.device)?;
    say(&mut b, &room, "new", &mut [&mut a, &mut a2]).map(drop)
}

/// Two users with identities, in a room.
pub fn sas_room(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    bootstrap(world, &mut a)?;
    bootstrap(world, &mut b)?;
    let room = make_room(&mut a, &mut [&mut b], json!({"direct": true}))?;
    say(&mut a, &room, "shall we compare?", &mut [&mut b])?;
    compare(&mut a, &mut b, json!({"room": room}))?;
    have_each_other_verified(&mut a, &mut b)?;
    say(&mut b, &room, "done", &mut [&mut a]).map(drop)
}

/// Two devices whose users have no identities.
pub fn sas_device(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    // Who shares no room with a user does not know the user's devices.
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    say(&mut a, &room, "shall we compare?", &mut [&mut b])?;
    a.wait_device(&b.device, true)?;
    b.wait_device(&a.device, true)?;
    let device = b.device.id.clone();
    compare(&mut a, &mut b, json!({"device": device}))?;
    let (of_a, of_b) = (a.device.clone(), b.device.clone());
    for (one, other) in [(&mut a, of_b), (&mut b, of_a)] {
        eventually(format!("{} to have {} verified", one.label(), other.id), || {
            Ok(entry(one, &other)?["verified"] == true)
        })?;
    }
    Ok(())
}

/// A new device of a user's is verified by the old one, and gets the user's secrets from it.
pub fn sas_self(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    let old = a.send(&room, "old")?;
    reads(&mut b, &room, &old, a.user(), "old")?;
    bootstrap(world, &mut a)?;
    a.wait("wait_backup", WAIT, json!({}))?;

    let mut a2 = world.login(world.b, "A2", a.user())?;
    a.wait_device(&a2.device, true)?;
    compare(&mut a2, &mut a, json!({}))?;
    is_signed(&mut a, &a2.device)?;
    is_signed(&mut b, &a2.device)?;
    let restored = a2.wait("restore_backup", RESTORE, json!({}))?;
    ensure(restored["imported"].as_u64() >= Some(1), || {
        format!("{}: the backup brought {restored}", a2.label())
    })?;
    reads(&mut a2, &room, &old, a.user(), "old")?;
    say(&mut b, &room, "new", &mut [&mut a, &mut a2]).map(drop)
}

/// Two users with identities: what A shows, B scans.
pub fn qr(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    bootstrap(world, &mut a)?;
    bootstrap(world, &mut b)?;
    let room = make_room(&mut a, &mut [&mut b], json!({"direct": true}))?;
    say(&mut a, &room, "shall we scan?", &mut [&mut b])?;
    scan(&mut a, &mut b, json!({"room": room}), Shows::Asker)?;
    have_each_other_verified(&mut a, &mut b)?;
    say(&mut b, &room, "done", &mut [&mut a]).map(drop)
}

/// New devices of a user's are verified by the old one: one scans its code, the other's code is scanned.
pub fn qr_self(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    bootstrap(world, &mut a)?;
    a.wait("wait_backup", WAIT, json!({}))?;
    let mut scans = world.login(world.b, "Scans", a.user())?;
    a.wait_device(&scans.device, true)?;
    scan(&mut scans, &mut a, json!({}), Shows::Asked)?;
    is_signed(&mut a, &scans.device)?;
    is_signed(&mut b, &scans.device)?;
    scans.close()?;
    let mut shows = world.login(world.b, "Shows", a.user())?;
    a.wait_device(&shows.device, true)?;
    scan(&mut shows, &mut a, json!({}), Shows::Asker)?;
    is_signed(&mut a, &shows.device)?;
    is_signed(&mut b, &shows.device)?;
    shows.wait("restore_backup", RESTORE, json!({}))?;
    say(&mut b, &room, "new", &mut [&mut a, &mut shows]).map(drop)
}

/// A's room keys go to a device of B's make in a file, and from there back.
pub fn key_file(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({}))?;
    let old = a.send(&room, "old")?;
    reads(&mut b, &room, &old, a.user(), "old")?;
    let user = a.user().to_owned();
    let mut there = world.login(world.b, "There", &user)?;
    pass_keys(world, &mut a, &mut there)?;
    reads(&mut there, &room, &old, &user, "old")?;
    let mut back = world.login(world.a, "Back", &user)?;
    pass_keys(world, &mut there, &mut back)?;
    reads(&mut back, &room, &old, &user, "old").map(drop)
}

/// Fifty room keys go through the backup from A's make to B's, and fifty more the other way.
pub fn backup(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let key = bootstrap(world, &mut a)?;
    let room = make_room(&mut a, &mut [&mut b], json!({"rotation_msgs": 1}))?;
    let first = send_many(&mut a, &room, "first")?;
    let mut a2 = world.login(world.b, "A2", a.user())?;
    open(&mut a2, &key, KEYS as u64)?;
    read_many(&mut a2, &room, "first", &first)?;

    let second = send_many(&mut a2, &room, "second")?;
    let mut a3 = world.login(world.a, "A3", a.user())?;
    open(&mut a3, &key, 2 * KEYS as u64)?;
    read_many(&mut a3, &room, "first", &first)?;
    read_many(&mut a3, &room, "second", &second)
}

/// A's old messages, in several sessions, are readable for B, whom A invites with the room's history.
pub fn history(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    bootstrap(world, &mut a)?;
    bootstrap(world, &mut b)?;
    let room = make_room(&mut a, &mut [], json!({"rotation_msgs": 2}))?;
    let send = |n| a.send(&room, &format!("old {n}"));
    let old = (0..5).map(send).collect::<Result<Vec<_>>>()?;
    let of_b = b.user().to_owned();
    a.call("invite", json!({"room": room, "user": of_b, "share_history": true}))?;
    b.wait_member(&room, &of_b, "invite")?;
    b.call("join", json!({"room": room, "accept_history": true}))?;
    for (n, event) in old.iter().enumerate() {
        let message = reads(&mut b, &room, event, a.user(), &format!("old {n}"))?;
        ensure(message["shield"] == "grey", || {
            format!("{} shows what was passed on as {}", b.label(), message["shield"])
        })?;
    }
    a.wait_member(&room, &of_b, "join")?;
    say(&mut b, &room, "thanks", &mut [&mut a])?;
    say(&mut a, &room, "new", &mut [&mut b]).map(drop)
}

/// A's only device makes a dehydrated one and is logged out; what B says then is readable on A's next device, and so is what is
/// said when that one is gone, too.
pub fn dehydrated(world: &World<'_>) -> Result<()> {
    let (mut a, mut b) = world.two()?;
    let room = make_room(&mut a, &mut [&mut b], json!({"rotation_msgs": 1}))?;
    say(&mut a, &room, "before", &mut [&mut b])?;
    let key = bootstrap(world, &mut a)?;
    a.wait("wait_backup", WAIT, json!({}))?;
    dehydrate(&mut a, &mut b, &key)?;
    let user = a.user().to_owned();
    log_out(a, &mut b)?;
    let away = say_many(&mut b, &room, "away")?;

    let mut a2 = world.login(world.b, "A2", &user)?;
    open(&mut a2, &key, 1)?;
    reads_many(&mut a2, &room, b.user(), "away", &away)?;
    dehydrate(&mut a2, &mut b, &key)?;
    log_out(a2, &mut b)?;
    let again = say_many(&mut b, &room, "again")?;

    let mut a3 = world.login(world.a, "A3", &user)?;
    open(&mut a3, &key, 1)?;
    reads_many(&mut a3, &room, b.user(), "again", &again)?;
    say(&mut b, &room, "welcome", &mut [&mut a3]).map(drop)
}

/// The peer keeps a dehydrated device, and the other one knows of it.
fn dehydrate(peer: &mut Peer, other: &mut Peer, key: &str) -> Result<()> {
    let made = peer.wait("dehydration_start", RESTORE, json!({"recovery_key": key}))?;
    let device = Device { user: peer.user().to_owned(), id: text(&made, "device") };
    ensure(!device.id.is_empty(), || format!("{}: no dehydrated device", peer.label()))?;
    other.wait_device(&device, true)
}

/// The peer's device is gone, and the other one knows.
fn log_out(mut peer: Peer, other: &mut Peer) -> Result<()> {
    let device = peer.device.clone();
    peer.call("logout", json!({}))?;
    peer.close()?;
    other.wait_device(&device, false)
}

/// As many messages, each with its own key.
fn say_many(peer: &mut Peer, room: &str, what: &str) -> Result<Vec<String>> {
    (0..3).map(|n| peer.send(room, &format!("{what} {n}"))).collect()
}

fn reads_many(
    peer: &mut Peer,
    room: &str,
    sender: &str,
    what: &str,
    events: &[String],
) -> Result<()> {
    for (n, event) in events.iter().enumerate() {
        reads(peer, room, event, sender, &format!("{what} {n}"))?;
    }
    Ok(())
}

/// Makes an identity, a backup and a secret storage; the recovery key.
fn bootstrap(world: &World<'_>, peer: &mut Peer) -> Result<String> {
    let made = peer.call("bootstrap", json!({"password": PASSWORD}))?;
    let key = text(&made, "recovery_key");
    ensure(!key.is_empty(), || format!("{}: no recovery key", peer.label()))?;
    world.keep_secret(&key);
    Ok(key)
}

/// The same key but for one character.
fn altered(key: &str) -> String {
    let last = if key.ends_with('A') { "B" } else { "A" };
    key.char_indices().next_back().map_or("", |(at, _)| &key[..at]).to_owned() + last
}

/// Recovers; the backup brings at least so many keys.
fn open(peer: &mut Peer, key: &str, at_least: u64) -> Result<()> {
    let done = peer.wait("recover", RESTORE, json!({"recovery_key": key}))?;
    ensure(done["imported"].as_u64() >= Some(at_least), || {
        format!("{}: the backup brought {done} instead of {at_least}", peer.label())
    })
}

/// What a peer says of a device.
fn entry(peer: &mut Peer, device: &Device) -> Result<Value> {
    let known = peer.call("devices", json!({"user": device.user}))?;
    let mut list = known["devices"].as_array().into_iter().flatten();
    Ok(list.find(|entry| entry["device"] == device.id).cloned().unwrap_or_default())
}

/// The peer sees that its owner has signed the device; who knows no identities is not asked.
fn is_signed(peer: &mut Peer, device: &Device) -> Result<()> {
    eventually(format!("{} to see {} signed", peer.label(), device.id), || {
        Ok(entry(peer, device)?["cross_signed"] == true)
    })
}

/// Each user's identity counts as verified for the other.
fn have_each_other_verified(a: &mut Peer, b: &mut Peer) -> Result<()> {
    let (of_a, of_b) = (a.user().to_owned(), b.user().to_owned());
    for (one, other) in [(a, of_b), (b, of_a)] {
        eventually(format!("{} to have {other} verified", one.label()), || {
            Ok(one.call("devices", json!({"user": other}))?["identity"]["verified"] == true)
        })?;
    }
    Ok(())
}

/// A asks B to verify each other, and B takes part: what each calls it.
fn begin(a: &mut Peer, b: &mut Peer, how: Value) -> Result<(String, String)> {
    let mut request = how;
    request["user"] = json!(b.user());
    let of_a = text(&a.call("sas_request", request)?, "flow");
    let of_b = text(&b.wait("sas_accept", WAIT, json!({"user": a.user()}))?, "flow");
    Ok((of_a, of_b))
}

/// Whose QR code is scanned.
enum Shows {
    Asker,
    Asked,
}

/// A asks B to verify each other; one shows a QR code, the other scans it, the first confirms that it was scanned.
fn scan(a: &mut Peer, b: &mut Peer, how: Value, shows: Shows) -> Result<()> {
    let (of_a, of_b) = begin(a, b, how)?;
    let ((shower, shown), (scanner, scanned)) = match shows {
        Shows::Asker => ((a, of_a), (b, of_b)),
        Shows::Asked => ((b, of_b), (a, of_a)),
    };
    comes_to(shower, &shown, "ready")?;
    comes_to(scanner, &scanned, "ready")?;
    let code = shower.call("qr_show", json!({"flow": shown}))?;
    scanner.call("qr_scan", json!({"flow": scanned, "data": code["data"]}))?;
    comes_to(shower, &shown, "scanned")?;
    shower.wait("sas_confirm", WAIT, json!({"flow": shown}))?;
    comes_to(scanner, &scanned, "done")
}

/// Waits until a verification stands there.
fn comes_to(peer: &mut Peer, flow: &str, state: &str) -> Result<()> {
    eventually(format!("{} to say {state}", peer.label()), || {
        let stands = text(&peer.call("flow", json!({"flow": flow}))?, "state");
        ensure(stands == state || stands != "cancelled", || {
            format!("{}: cancelled", peer.label())
        })?;
        Ok(stands == state)
    })
}

/// A asks B to verify each other, and both compare and confirm.
fn compare(a: &mut Peer, b: &mut Peer, how: Value) -> Result<()> {
    let (of_a, of_b) = begin(a, b, how)?;
    let shown = both("sas_emojis", (&mut *a, &of_a), (&mut *b, &of_b))?;
    let symbols = |shown: &Value| -> Vec<String> {
        let list = shown["emojis"].as_array().into_iter().flatten();
        // With or without the mark that asks for a coloured picture.
        list.map(|emoji| emoji[0].as_str().unwrap_or_default().replace('\u{fe0f}', "")).collect()
    };
    ensure(symbols(&shown.0).len() == 7 && symbols(&shown.0) == symbols(&shown.1), || {
        format!("{} shows {}, {} shows {}", a.label(), shown.0, b.label(), shown.1)
    })?;
    ensure(shown.0["decimals"] == shown.1["decimals"], || {
        format!("{} shows {}, {} shows {}", a.label(), shown.0, b.label(), shown.1)
    })?;
    both("sas_confirm", (a, &of_a), (b, &of_b)).map(drop)
}

/// The same command to both sides of a verification at once: each waits for the other.
fn both(command: &str, a: (&mut Peer, &str), b: (&mut Peer, &str)) -> Result<(Value, Value)> {
    let call = |(peer, flow): (&mut Peer, &str)| peer.wait(command, WAIT, json!({"flow": flow}));
    thread::scope(|scope| {
        let a = scope.spawn(|| call(a));
        let b = call(b);
        match a.join() {
            Ok(a) => Ok((a?, b?)),
            Err(_) => fail("a thread of the runner panicked"),
        }
    })
}

fn pass_keys(world: &World<'_>, from: &mut Peer, to: &mut Peer) -> Result<()> {
    let path = world.file(&format!("keys of {}", from.device.id));
    let passphrase = "Schlüssel 🔑";
    world.keep_secret(passphrase);
    let written = from.call("export_keys", json!({"path": path, "passphrase": passphrase}))?;
    ensure(written["count"].as_u64() >= Some(1), || {
        format!("{} exports {}", from.label(), written["count"])
    })?;
    let wrong = json!({"path": path, "passphrase": "Schlussel"});
    ensure(to.call("import_keys", wrong).is_err(), || {
        format!("{} imports with a wrong passphrase", to.label())
    })?;
    let read = to.call("import_keys", json!({"path": path, "passphrase": passphrase}))?;
    ensure(read["imported"] == written["count"], || {
        format!("{} exports {written}, {} imports {read}", from.label(), to.label())
    })
}

/// Sends a message for each key, and waits until all keys are in the backup.
fn send_many(peer: &mut Peer, room: &str, what: &str) -> Result<Vec<String>> {
    let send = |n| peer.send(room, &format!("{what} {n}"));
    let events = (0..KEYS).map(send).collect::<Result<_>>()?;
    peer.wait("wait_backup", RESTORE, json!({}))?;
    Ok(events)
}

fn read_many(peer: &mut Peer, room: &str, what: &str, events: &[String]) -> Result<()> {
    let user = peer.user().to_owned();
    for (n, event) in events.iter().enumerate() {
        reads(peer, room, event, &user, &format!("{what} {n}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::altered;

    #[test]
    fn a_wrong_key_is_wrong_in_one_character() {
        assert_eq!(altered("EsTc abcd"), "EsTc abcA");
        assert_eq!(altered("EsTc abcA"), "EsTc abcB");
    }
}
