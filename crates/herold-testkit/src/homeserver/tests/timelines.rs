use super::*;

fn bodies(events: &Value) -> Vec<&str> {
    list(events).iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

#[test]
fn more_events_than_the_limit_leave_a_gap_that_messages_fills() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let room = alice.room(&mut server, "private_chat", &[]);
    let since = alice.catch_up(&mut server);
    for n in 0..10 {
        alice.say(&mut server, &room, &format!("m{n:02}"));
    }
    let sync = alice.sync(&mut server, &since);
    let timeline = &sync["rooms"]["join"][&room]["timeline"];
    assert_eq!((&timeline["limited"], bodies(&timeline["events"]).len()), (&json!(false), 10));

    let topic = format!("rooms/{room}/state/m.room.topic");
    alice.ok(&mut server, "PUT", &topic, json!({ "topic": "in the gap" }));
    for n in 10..25 {
        alice.say(&mut server, &room, &format!("m{n:02}"));
    }
    let sync = alice.sync(&mut server, &next(&sync));
    let joined = &sync["rooms"]["join"][&room];
    let timeline = &joined["timeline"];
    assert_eq!(timeline["limited"], true);
    let first = ["m15", "m16"];
    assert_eq!(bodies(&timeline["events"])[..2], first);
    assert_eq!(joined["state"]["events"][0]["content"]["topic"], "in the gap");
    assert!(joined["state"]["events"][0].get("room_id").is_none());

    let mut found = Vec::new();
    let mut from = timeline["prev_batch"].as_str().map(str::to_owned);
    while let Some(token) = from {
        let path = format!("rooms/{room}/messages?dir=b&limit=7&from={token}");
        let page = alice.get(&mut server, &path);
        found.extend(bodies(&page["chunk"]).into_iter().map(str::to_owned));
        from = page["end"].as_str().map(str::to_owned);
    }
    let expected: Vec<String> = (0..15).rev().map(|n| format!("m{n:02}")).collect();
    assert_eq!(found, expected);
    let path = format!("rooms/{room}/messages?dir=f&limit=100");
    assert_eq!(bodies(&alice.get(&mut server, &path)["chunk"]).len(), 25);
}

#[test]
fn a_forced_gap_hides_even_a_single_event() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let room = alice.room(&mut server, "private_chat", &[]);
    let since = alice.catch_up(&mut server);
    alice.say(&mut server, &room, "hidden");
    server.force_gap(&room);
    alice.say(&mut server, &room, "seen");
    let sync = alice.sync(&mut server, &since);
    let timeline = &sync["rooms"]["join"][&room]["timeline"];
    assert_eq!((&timeline["limited"], bodies(&timeline["events"])), (&json!(true), vec!["seen"]));
    let from = timeline["prev_batch"].as_str().unwrap();
    let page = alice.get(&mut server, &format!("rooms/{room}/messages?dir=b&from={from}"));
    assert_eq!(bodies(&page["chunk"]), ["hidden"]);
    // Once only.
    let since = next(&sync);
    alice.say(&mut server, &room, "after");
    let sync = alice.sync(&mut server, &since);
    assert_eq!(sync["rooms"]["join"][&room]["timeline"]["limited"], false);
}

#[test]
fn a_new_room_comes_with_its_state_and_limited() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let since = bob.catch_up(&mut server);
    let room = alice.room(&mut server, "public_chat", &[]);
    bob.join(&mut server, &room);
    let sync = bob.sync(&mut server, &since);
    let joined = &sync["rooms"]["join"][&room];
    assert_eq!(joined["timeline"]["limited"], true);
    assert_eq!(joined["summary"]["m.joined_member_count"], 2);
    assert_eq!(joined["summary"]["m.heroes"], json!([alice.user]));
    let kinds = |events: &Value| -> Vec<String> {
        let kinds = list(events).iter().map(|event| event["type"].as_str().unwrap().to_owned());
        kinds.collect()
    };
    let mut all = kinds(&joined["state"]["events"]);
    all.extend(kinds(&joined["timeline"]["events"]));
    assert_eq!(all.first().unwrap(), "m.room.create");
    assert_eq!(all.len(), server.events(&room).len());
}

#[test]
fn nothing_new_is_an_empty_answer_and_no_news() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let room = alice.room(&mut server, "public_chat", &[]);
    bob.join(&mut server, &room);
    let since = bob.catch_up(&mut server);
    let poll = request("GET", &format!("sync?since={since}"), Some(&bob.token), &Value::Null);
    assert!(!server.has_news(&poll));
    let empty = bob.sync(&mut server, &since);
    assert!(empty["rooms"].is_null() && empty["to_device"].is_null());
    assert_eq!(next(&empty), since);
    let news = |server: &HomeServer, change: &dyn Fn(&mut HomeServer)| {
        let mut server = server.clone();
        change(&mut server);
        server.has_news(&poll)
    };
    assert!(news(&server, &|server| {
        alice.say(server, &room, "x");
    }));
    assert!(news(&server, &|server| server.announce_devices(&alice.user)));
    assert!(news(&server, &|server| {
        server.inject_to_device(&bob.user, "B1", json!({}));
    }));
    assert!(news(&server, &|server| server.force_gap(&room)));
    assert!(news(&server, &|server| server.end_token(&bob.user, "B1", true)));
    assert!(!news(&server, &|server| {
        alice.room(server, "private_chat", &[]);
    }));
}

#[test]
fn an_injected_event_is_served_as_it_is_and_twice_if_injected_twice() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let room = alice.room(&mut server, "private_chat", &[]);
    let since = alice.catch_up(&mut server);
    let event = json!({ "type": "m.room.encrypted", "event_id": "$x", "sender": "@e:evil.test",
                        "content": { "body": "ciphertext" } });
    server.inject_timeline(&room, event.clone());
    server.inject_timeline(&room, event);
    server.inject_timeline(&room, json!({ "nonsense": true }));
    let sync = alice.sync(&mut server, &since);
    let events = &sync["rooms"]["join"][&room]["timeline"]["events"];
    assert_eq!(bodies(events), ["ciphertext", "ciphertext"]);
    assert_eq!(list(events).len(), 3);
}

#[test]
fn the_context_of_an_event_has_both_sides() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let room = alice.room(&mut server, "private_chat", &[]);
    let ids: Vec<String> =
        (0..5).map(|n| alice.say(&mut server, &room, &format!("m{n}"))).collect();
    let path = format!("rooms/{room}/context/{}?limit=4", ids[2]);
    let context = alice.get(&mut server, &path);
    assert_eq!(context["event"]["content"]["body"], "m2");
    assert_eq!(bodies(&context["events_before"]), ["m1", "m0"]);
    assert_eq!(bodies(&context["events_after"]), ["m3", "m4"]);
}
