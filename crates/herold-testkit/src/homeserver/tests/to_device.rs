use super::*;

fn send(from: &Client, server: &mut HomeServer, to: &Client, device: &str, txn: &str) {
    let body = json!({ "messages": { (&to.user): { device: { "n": txn } } } });
    from.ok(server, "PUT", &format!("sendToDevice/m.test/{txn}"), body);
}

fn received(sync: &Value) -> Vec<&str> {
    let events = list(&sync["to_device"]["events"]);
    events.iter().map(|event| event["content"]["n"].as_str().unwrap()).collect()
}

#[test]
fn messages_come_a_hundred_at_a_time_in_order() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let names: Vec<String> = (0..250).map(|n| format!("m{n:03}")).collect();
    for name in &names {
        send(&alice, &mut server, &bob, "B1", name);
    }
    let mut got: Vec<String> = Vec::new();
    let mut since = String::new();
    for expected in [100, 100, 50, 0] {
        let sync = bob.sync(&mut server, &since);
        assert_eq!(received(&sync).len(), expected);
        got.extend(received(&sync).iter().map(|name| (*name).to_owned()));
        since = next(&sync);
    }
    assert_eq!(got, names);
}

#[test]
fn messages_repeat_for_the_same_token_until_a_newer_one_is_used() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let start = bob.catch_up(&mut server);
    send(&alice, &mut server, &bob, "B1", "one");
    let first = bob.sync(&mut server, &start);
    assert_eq!(received(&first), ["one"]);
    assert_eq!(received(&bob.sync(&mut server, &start)), ["one"]);
    assert!(received(&bob.sync(&mut server, &next(&first))).is_empty());
    // Acknowledged is gone, even for the old token and for an initial sync.
    assert!(received(&bob.sync(&mut server, &start)).is_empty());
    assert!(received(&bob.sync(&mut server, "")).is_empty());
    assert!(server.inbox(&bob.user, "B1").is_empty());
}

#[test]
fn a_backlog_is_acknowledged_only_as_far_as_it_was_delivered() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    for n in 0..150 {
        send(&alice, &mut server, &bob, "B1", &format!("m{n:03}"));
    }
    let first = bob.sync(&mut server, "");
    // Something else moves the stream on meanwhile.
    let room = alice.room(&mut server, "private_chat", &[&bob]);
    let second = bob.sync(&mut server, &next(&first));
    assert_eq!(received(&second).len(), 50);
    assert!(second["rooms"]["invite"][&room].is_object());
    assert_eq!(server.inbox(&bob.user, "B1").len(), 50);
    let third = bob.sync(&mut server, &next(&second));
    assert!(received(&third).is_empty() && third["rooms"].is_null());
}

#[test]
fn a_transaction_is_sent_once_per_device_and_type() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let other = Client::new(&mut server, "alice", "A2");
    let bob = Client::new(&mut server, "bob", "B1");
    send(&alice, &mut server, &bob, "B1", "same");
    send(&alice, &mut server, &bob, "B1", "same");
    assert_eq!(received(&bob.sync(&mut server, "")), ["same"]);
    send(&other, &mut server, &bob, "B1", "same");
    assert_eq!(received(&bob.sync(&mut server, "")), ["same", "same"]);
    assert_eq!(server.to_device_log().len(), 2);
}

#[test]
fn a_star_reaches_all_devices_and_an_unknown_device_none() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let one = Client::new(&mut server, "bob", "B1");
    let two = Client::new(&mut server, "bob", "B2");
    send(&alice, &mut server, &one, "*", "all");
    send(&alice, &mut server, &one, "NONE", "lost");
    assert_eq!(received(&one.sync(&mut server, "")), ["all"]);
    assert_eq!(received(&two.sync(&mut server, "")), ["all"]);
    let lost = server.to_device_log().last().unwrap();
    assert_eq!((lost.recipient_device.as_str(), lost.delivered), ("NONE", false));
}

#[test]
fn an_injected_event_arrives_as_it_is() {
    let mut server = server();
    let bob = Client::new(&mut server, "bob", "B1");
    let event = json!({ "type": 7, "odd": true });
    assert!(server.inject_to_device(&bob.user, "B1", event.clone()));
    assert!(!server.inject_to_device(&bob.user, "B2", event.clone()));
    assert_eq!(bob.sync(&mut server, "")["to_device"]["events"], json!([event]));
}
