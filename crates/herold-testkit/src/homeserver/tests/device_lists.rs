use super::*;

fn lists(sync: &Value) -> (Vec<&str>, Vec<&str>) {
    let names = |key: &str| {
        list(&sync["device_lists"][key]).iter().map(|name| name.as_str().unwrap()).collect()
    };
    (names("changed"), names("left"))
}

fn change_keys(client: &Client, server: &mut HomeServer, key: &str) {
    let body = json!({ "device_keys": {
        "user_id": client.user, "device_id": client.device, "keys": { "ed25519:X": key },
    } });
    client.ok(server, "POST", "keys/upload", body);
}

#[test]
fn a_change_reaches_those_who_share_a_room_and_only_once() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let carol = Client::new(&mut server, "carol", "C1");
    let room = alice.room(&mut server, "private_chat", &[&bob]);
    bob.join(&mut server, &room);
    let starts: Vec<String> =
        [&alice, &bob, &carol].map(|client| client.catch_up(&mut server)).into();
    change_keys(&bob, &mut server, "1");
    let first = alice.sync(&mut server, &starts[0]);
    assert_eq!(lists(&first), (vec![bob.user.as_str()], vec![]));
    assert_eq!(lists(&alice.sync(&mut server, &next(&first))), (vec![], vec![]));
    // The user hears of the own devices, too; a stranger hears nothing.
    assert_eq!(lists(&bob.sync(&mut server, &starts[1])).0, [bob.user.as_str()]);
    assert!(carol.sync(&mut server, &starts[2])["device_lists"].is_null());
    // The same keys again, and one-time keys, are no change.
    let since = alice.catch_up(&mut server);
    change_keys(&bob, &mut server, "1");
    let body = json!({ "one_time_keys": { "signed_curve25519:a": { "key": "a" } } });
    bob.ok(&mut server, "POST", "keys/upload", body);
    assert!(alice.sync(&mut server, &since)["device_lists"].is_null());
}

#[test]
fn whoever_joins_is_changed_and_whoever_leaves_the_last_shared_room_is_left() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let rooms = [0, 1].map(|_| alice.room(&mut server, "public_chat", &[]));
    let since = alice.catch_up(&mut server);
    let bob_since = bob.catch_up(&mut server);
    bob.join(&mut server, &rooms[0]);
    bob.join(&mut server, &rooms[1]);
    assert_eq!(lists(&alice.sync(&mut server, &since)), (vec![bob.user.as_str()], vec![]));
    assert!(lists(&bob.sync(&mut server, &bob_since)).0.contains(&alice.user.as_str()));

    let since = alice.catch_up(&mut server);
    let bob_since = bob.catch_up(&mut server);
    let leave = |server: &mut HomeServer, room: &str| {
        bob.ok(server, "POST", &format!("rooms/{room}/leave"), json!({}));
    };
    leave(&mut server, &rooms[0]);
    assert_eq!(lists(&alice.sync(&mut server, &since)), (vec![], vec![]));
    leave(&mut server, &rooms[1]);
    assert_eq!(lists(&alice.sync(&mut server, &since)), (vec![], vec![bob.user.as_str()]));
    let sync = bob.sync(&mut server, &bob_since);
    assert_eq!(lists(&sync), (vec![], vec![alice.user.as_str()]));
    // From now on, neither hears of the other.
    let since = alice.catch_up(&mut server);
    change_keys(&bob, &mut server, "new");
    assert!(alice.sync(&mut server, &since)["device_lists"].is_null());
    // Coming back is news again.
    bob.join(&mut server, &rooms[0]);
    assert_eq!(lists(&alice.sync(&mut server, &since)), (vec![bob.user.as_str()], vec![]));
}

#[test]
fn login_renaming_and_logout_are_changes() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let room = alice.room(&mut server, "public_chat", &[]);
    bob.join(&mut server, &room);
    let mut since = alice.catch_up(&mut server);
    let mut heard = |server: &mut HomeServer| {
        let sync = alice.sync(server, &since);
        since = next(&sync);
        lists(&sync).0 == [bob.user.as_str()]
    };
    let second = Client::new(&mut server, "bob", "B2");
    assert!(heard(&mut server));
    second.ok(&mut server, "PUT", "devices/B1", json!({ "display_name": "new name" }));
    assert!(heard(&mut server));
    second.ok(&mut server, "POST", "logout", json!({}));
    assert!(heard(&mut server));
    assert!(!heard(&mut server));
}

#[test]
fn keys_changes_says_the_same_as_the_syncs_between() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let carol = Client::new(&mut server, "carol", "C1");
    let room = alice.room(&mut server, "public_chat", &[]);
    bob.join(&mut server, &room);
    let from = alice.catch_up(&mut server);
    carol.join(&mut server, &room);
    bob.ok(&mut server, "POST", &format!("rooms/{room}/leave"), json!({}));
    let to = alice.catch_up(&mut server);
    change_keys(&carol, &mut server, "later");
    let answer = alice.get(&mut server, &format!("keys/changes?from={from}&to={to}"));
    assert_eq!(answer, json!({ "changed": [carol.user], "left": [bob.user] }));
    let nothing = alice.get(&mut server, &format!("keys/changes?from={to}&to={to}"));
    assert_eq!(nothing, json!({ "changed": [], "left": [] }));
}

#[test]
fn only_the_signer_hears_of_a_signature_for_another_user() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let room = alice.room(&mut server, "public_chat", &[]);
    bob.join(&mut server, &room);
    let master = json!({
        "user_id": bob.user, "usage": ["master"], "keys": { "ed25519:M": "M" }, "signatures": {},
    });
    let body = json!({ "master_key": master });
    bob.ok(&mut server, "POST", "keys/device_signing/upload", body);
    let since = [&alice, &bob].map(|client| client.catch_up(&mut server));
    let mut signed = master;
    signed["signatures"] = json!({ (&alice.user): { "ed25519:U": "sig" } });
    let body = json!({ (&bob.user): { "M": signed } });
    alice.ok(&mut server, "POST", "keys/signatures/upload", body);
    assert_eq!(lists(&alice.sync(&mut server, &since[0])).0, [bob.user.as_str()]);
    assert!(bob.sync(&mut server, &since[1])["device_lists"].is_null());
}
