use super::*;

fn act(client: &Client, server: &mut HomeServer, room: &str, action: &str, target: &Client) -> u16 {
    let body = json!({ "user_id": target.user });
    client.call(server, "POST", &format!("rooms/{room}/{action}"), body).0
}

#[test]
fn a_private_room_needs_an_invite_and_a_public_one_does_not() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let carol = Client::new(&mut server, "carol", "C1");
    let private = alice.room(&mut server, "private_chat", &[&bob]);
    let refused = carol.call(&mut server, "POST", &format!("join/{private}"), json!({}));
    assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"));
    bob.join(&mut server, &private);
    let public = alice.room(&mut server, "public_chat", &[]);
    carol.join(&mut server, &public);
    assert_eq!(server.members_of(&private, "join"), [alice.user.as_str(), bob.user.as_str()]);
    let path = format!("rooms/{private}/send/m.room.message/t");
    let refused = carol.call(&mut server, "PUT", &path, json!({}));
    assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"));
}

#[test]
fn power_decides_who_kicks_bans_and_sets_state() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let carol = Client::new(&mut server, "carol", "C1");
    let room = alice.room(&mut server, "public_chat", &[]);
    bob.join(&mut server, &room);
    carol.join(&mut server, &room);
    assert_eq!(act(&bob, &mut server, &room, "kick", &carol), 403);
    assert_eq!(act(&bob, &mut server, &room, "invite", &carol), 403);
    let name = format!("rooms/{room}/state/m.room.name/");
    assert_eq!(bob.call(&mut server, "PUT", &name, json!({ "name": "x" })).0, 403);

    let path = format!("rooms/{room}/state/m.room.power_levels");
    let mut levels = alice.get(&mut server, &path);
    levels["users"][&bob.user] = json!(60);
    alice.ok(&mut server, "PUT", &path, levels.clone());
    assert_eq!(act(&bob, &mut server, &room, "kick", &carol), 200);
    assert_eq!(act(&bob, &mut server, &room, "ban", &carol), 200);
    let join = format!("join/{room}");
    assert_eq!(carol.call(&mut server, "POST", &join, json!({})).0, 403);
    assert_eq!(act(&bob, &mut server, &room, "invite", &carol), 403);
    assert_eq!(act(&bob, &mut server, &room, "unban", &carol), 200);
    assert_eq!(act(&bob, &mut server, &room, "unban", &carol), 403);
    carol.join(&mut server, &room);
    assert_eq!(act(&bob, &mut server, &room, "kick", &alice), 403);
    bob.ok(&mut server, "PUT", &name, json!({ "name": "x" }));
    // Nobody gives away more than they have.
    levels["users"][&carol.user] = json!(70);
    assert_eq!(bob.call(&mut server, "PUT", &path, levels).0, 403);
}

#[test]
fn a_transaction_gives_the_same_event_and_only_the_sending_device_sees_it() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let other = Client::new(&mut server, "alice", "A2");
    let room = alice.room(&mut server, "private_chat", &[]);
    let first = alice.say(&mut server, &room, "t1");
    assert_eq!(alice.say(&mut server, &room, "t1"), first);
    let count = server.events(&room).len();
    assert_ne!(other.say(&mut server, &room, "t1"), first);
    assert_eq!(server.events(&room).len(), count + 1);
    let path = format!("rooms/{room}/event/{first}");
    let seen = alice.get(&mut server, &path);
    assert_eq!(seen["unsigned"]["transaction_id"], "t1");
    assert!(other.get(&mut server, &path)["unsigned"]["transaction_id"].is_null());
    // Redactions have transactions, too.
    let redact = format!("rooms/{room}/redact/{first}/r1");
    let id = alice.ok(&mut server, "PUT", &redact, json!({}));
    assert_eq!(alice.ok(&mut server, "PUT", &redact, json!({})), id);
    let seen = alice.get(&mut server, &path);
    assert_eq!(seen["content"], json!({}));
    assert_eq!(seen["unsigned"]["redacted_because"]["event_id"], id["event_id"]);
}

#[test]
fn the_same_state_again_is_the_same_event() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let room = alice.room(&mut server, "private_chat", &[]);
    let path = format!("rooms/{room}/state/m.room.topic/");
    let one = alice.ok(&mut server, "PUT", &path, json!({ "topic": "a" }));
    assert_eq!(alice.ok(&mut server, "PUT", &path, json!({ "topic": "a" })), one);
    let two = alice.ok(&mut server, "PUT", &path, json!({ "topic": "b" }));
    assert_ne!(two, one);
    let event = alice.get(&mut server, &format!("{path}?format=event"));
    assert_eq!(event["unsigned"]["prev_content"], json!({ "topic": "a" }));
}

#[test]
fn an_invite_shows_stripped_state_and_a_refusal_shows_nothing_more() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let since = bob.catch_up(&mut server);
    let body = json!({
        "preset": "trusted_private_chat",
        "is_direct": true,
        "invite": [bob.user],
        "initial_state": [{
            "type": "m.room.encryption",
            "state_key": "",
            "content": { "algorithm": "m.megolm.v1.aes-sha2" },
        }],
    });
    let room = alice.ok(&mut server, "POST", "createRoom", body)["room_id"].clone();
    let room = room.as_str().unwrap();
    let sync = bob.sync(&mut server, &since);
    let events = list(&sync["rooms"]["invite"][room]["invite_state"]["events"]);
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"m.room.encryption"));
    let own = events.iter().find(|event| event["state_key"] == json!(bob.user)).unwrap();
    assert_eq!((&own["content"]["is_direct"], own.get("event_id")), (&json!(true), None));
    let since = next(&sync);
    assert!(bob.sync(&mut server, &since)["rooms"].is_null());
    bob.ok(&mut server, "POST", &format!("rooms/{room}/leave"), json!({}));
    let sync = bob.sync(&mut server, &since);
    let left = &sync["rooms"]["leave"][room];
    assert_eq!(list(&left["timeline"]["events"]).len(), 1);
    assert!(list(&left["state"]["events"]).is_empty());
    assert!(bob.sync(&mut server, "")["rooms"].is_null());
}

#[test]
fn history_visibility_decides_what_a_newcomer_sees() {
    for (visibility, sees_before, sees_invited) in [
        ("world_readable", true, true),
        ("shared", true, true),
        ("invited", false, true),
        ("joined", false, false),
    ] {
        let mut server = server();
        let alice = Client::new(&mut server, "alice", "A1");
        let bob = Client::new(&mut server, "bob", "B1");
        let body = json!({ "initial_state": [{
            "type": "m.room.history_visibility",
            "content": { "history_visibility": visibility },
        }] });
        let room = alice.ok(&mut server, "POST", "createRoom", body)["room_id"].clone();
        let room = room.as_str().unwrap();
        let before = alice.say(&mut server, room, "before");
        assert_eq!(act(&alice, &mut server, room, "invite", &bob), 200);
        let invited = alice.say(&mut server, room, "invited");
        bob.join(&mut server, room);
        let after = alice.say(&mut server, room, "after");
        let messages = bob.get(&mut server, &format!("rooms/{room}/messages?dir=b&limit=100"));
        let sync = bob.sync(&mut server, "");
        let timeline = &sync["rooms"]["join"][room]["timeline"]["events"];
        let lists = [&messages["chunk"], timeline];
        for (event, seen) in [(before, sees_before), (invited, sees_invited), (after, true)] {
            for events in lists {
                let found = list(events).iter().any(|known| known["event_id"] == json!(event));
                assert_eq!(found, seen, "{visibility}: {events}");
            }
            let path = format!("rooms/{room}/event/{event}");
            let status = bob.call(&mut server, "GET", &path, Value::Null).0;
            assert_eq!(status == 200, seen, "{visibility}");
        }
    }
}

#[test]
fn whoever_left_sees_the_room_as_it_was() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let room = alice.room(&mut server, "public_chat", &[]);
    bob.join(&mut server, &room);
    let since = bob.catch_up(&mut server);
    assert_eq!(act(&alice, &mut server, &room, "kick", &bob), 200);
    let later = alice.say(&mut server, &room, "later");
    let sync = bob.sync(&mut server, &since);
    let timeline = list(&sync["rooms"]["leave"][&room]["timeline"]["events"]);
    assert_eq!(timeline.len(), 1);
    assert_eq!(timeline[0]["content"]["membership"], "leave");
    let path = format!("rooms/{room}/event/{later}");
    assert_eq!(bob.call(&mut server, "GET", &path, Value::Null).0, 404);
    let path = format!("rooms/{room}/messages?dir=b");
    let messages = bob.get(&mut server, &path);
    assert_eq!(messages["chunk"][0]["content"]["membership"], "leave");
    bob.ok(&mut server, "POST", &format!("rooms/{room}/forget"), json!({}));
    assert_eq!(bob.call(&mut server, "GET", &path, Value::Null).0, 403);
}

#[test]
fn members_state_and_profiles_agree() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let room = alice.room(&mut server, "private_chat", &[&bob]);
    let at = alice.catch_up(&mut server);
    bob.join(&mut server, &room);
    let profile = format!("profile/{}/displayname", bob.user);
    bob.ok(&mut server, "PUT", &profile, json!({ "displayname": "Bob B." }));
    let joined = alice.get(&mut server, &format!("rooms/{room}/joined_members"));
    assert_eq!(joined["joined"][&bob.user]["display_name"], "Bob B.");
    let path = format!("rooms/{room}/state/m.room.member/{}", bob.user);
    assert_eq!(alice.get(&mut server, &path)["displayname"], "Bob B.");
    for (query, count) in [
        ("", 2),
        ("?membership=join", 2),
        ("?not_membership=join", 0),
        (&format!("?at={at}&membership=invite"), 1),
    ] {
        let members = alice.get(&mut server, &format!("rooms/{room}/members{query}"));
        assert_eq!(list(&members["chunk"]).len(), count, "{query}");
    }
}
