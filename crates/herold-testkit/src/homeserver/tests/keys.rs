use super::*;

fn identity(client: &Client, key: &str) -> Value {
    json!({
        "user_id": client.user,
        "device_id": client.device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { (format!("ed25519:{}", client.device)): key },
        "signatures": {},
    })
}

fn upload(client: &Client, server: &mut HomeServer, body: Value) -> (u16, Value) {
    client.call(server, "POST", "keys/upload", body)
}

fn one_time(ids: &[(&str, &str)]) -> Value {
    let keys = ids.iter().map(|(id, key)| {
        let id = format!("signed_curve25519:{id}");
        (id, json!({ "key": key, "signatures": { "changes": key } }))
    });
    json!({ "one_time_keys": Value::Object(keys.collect()) })
}

fn claim(client: &Client, server: &mut HomeServer, of: &Client) -> Option<String> {
    let body = json!({ "one_time_keys": { (&of.user): { (&of.device): "signed_curve25519" } } });
    let answer = client.ok(server, "POST", "keys/claim", body);
    let found = answer["one_time_keys"][&of.user][&of.device].as_object()?;
    found.keys().next().cloned()
}

#[test]
fn an_unclaimed_id_with_another_key_is_refused_and_a_claimed_one_is_taken() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    assert_eq!(upload(&alice, &mut server, one_time(&[("a", "1")])).0, 200);
    assert_eq!(upload(&alice, &mut server, one_time(&[("a", "1")])).0, 200);
    let refused = upload(&alice, &mut server, one_time(&[("a", "2"), ("b", "1")]));
    assert_eq!(refused.0, 400);
    assert!(refused.1["error"].as_str().unwrap().contains("already exists"));
    assert_eq!(server.one_time_key_ids(&alice.user, "A1"), ["signed_curve25519:a"]);
    assert!(claim(&alice, &mut server, &alice).is_some());
    let taken = upload(&alice, &mut server, one_time(&[("a", "2")]));
    assert_eq!(taken, (200, json!({ "one_time_key_counts": { "signed_curve25519": 1 } })));
}

#[test]
fn keys_are_claimed_oldest_first_and_once() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    upload(&alice, &mut server, one_time(&[("z", "1")]));
    upload(&alice, &mut server, one_time(&[("b", "1"), ("a", "1")]));
    let mut claimed = Vec::new();
    while let Some(id) = claim(&bob, &mut server, &alice) {
        claimed.push(id);
    }
    assert_eq!(claimed, ["signed_curve25519:z", "signed_curve25519:a", "signed_curve25519:b"]);
}

#[test]
fn the_fallback_key_is_handed_out_again_and_again() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let types = "device_unused_fallback_key_types";
    assert_eq!(alice.sync(&mut server, "")[types], json!([]));
    let fallback = |name: &str| {
        let id = format!("signed_curve25519:{name}");
        json!({ "fallback_keys": { id: { "key": name, "fallback": true } } })
    };
    upload(&alice, &mut server, fallback("f1"));
    upload(&alice, &mut server, one_time(&[("a", "1")]));
    assert_eq!(alice.sync(&mut server, "")[types], json!(["signed_curve25519"]));
    assert_eq!(claim(&bob, &mut server, &alice).unwrap(), "signed_curve25519:a");
    assert_eq!(alice.sync(&mut server, "")[types], json!(["signed_curve25519"]));
    for _ in 0..3 {
        assert_eq!(claim(&bob, &mut server, &alice).unwrap(), "signed_curve25519:f1");
        assert_eq!(alice.sync(&mut server, "")[types], json!([]));
    }
    // The same key again stays used, another one is unused.
    upload(&alice, &mut server, fallback("f1"));
    assert_eq!(alice.sync(&mut server, "")[types], json!([]));
    upload(&alice, &mut server, fallback("f2"));
    assert_eq!(alice.sync(&mut server, "")[types], json!(["signed_curve25519"]));
    assert_eq!(claim(&bob, &mut server, &alice).unwrap(), "signed_curve25519:f2");
}

#[test]
fn the_count_is_always_there_and_can_be_overridden() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let field = "device_one_time_keys_count";
    assert_eq!(alice.sync(&mut server, "")[field], json!({ "signed_curve25519": 0 }));
    upload(&alice, &mut server, one_time(&[("a", "1"), ("b", "1")]));
    assert_eq!(alice.sync(&mut server, "")[field], json!({ "signed_curve25519": 2 }));
    let lie = json!({ "signed_curve25519": 50 });
    server.set_one_time_key_count_override(&alice.user, "A1", Some(lie.clone()));
    assert_eq!(alice.sync(&mut server, "")[field], lie);
    server.set_one_time_key_count_override(&alice.user, "A1", Some(Value::Null));
    assert!(alice.sync(&mut server, "").get(field).is_none());
    server.set_one_time_key_count_override(&alice.user, "A1", None);
    assert_eq!(alice.sync(&mut server, "")[field], json!({ "signed_curve25519": 2 }));
}

#[test]
fn other_identity_keys_for_a_known_device_are_taken_but_not_those_of_another_device() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    for key in ["first", "second"] {
        let body = json!({ "device_keys": identity(&alice, key) });
        assert_eq!(upload(&alice, &mut server, body).0, 200);
        let query = json!({ "device_keys": { (&alice.user): [] } });
        let answer = alice.ok(&mut server, "POST", "keys/query", query);
        let seen = &answer["device_keys"][&alice.user]["A1"];
        assert_eq!(seen["keys"]["ed25519:A1"], key);
        assert_eq!(seen["unsigned"]["device_display_name"], "A1 of alice");
    }
    let mut foreign = identity(&alice, "third");
    foreign["device_id"] = json!("A2");
    let refused = upload(&alice, &mut server, json!({ "device_keys": foreign }));
    assert_eq!(errcode(&refused), (400, "M_BAD_JSON"));
}

#[test]
fn users_of_a_failing_server_are_in_failures_of_query_and_claim() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "@bob:two.test", "B1");
    upload(&bob, &mut server, one_time(&[("a", "1")]));
    let query = json!({ "device_keys": { (&bob.user): [], "@x:dead.test": [] } });
    let answer = alice.ok(&mut server, "POST", "keys/query", query.clone());
    assert_eq!(answer["device_keys"], json!({ (&bob.user): {} }));
    assert!(answer["failures"]["dead.test"].is_object());
    server.fail_servers(vec!["two.test".to_owned()]);
    let answer = alice.ok(&mut server, "POST", "keys/query", query);
    assert_eq!(answer["device_keys"], json!({}));
    assert!(answer["failures"]["two.test"].is_object());
    assert_eq!(claim(&alice, &mut server, &bob), None);
    server.fail_servers(Vec::new());
    assert!(claim(&alice, &mut server, &bob).is_some());
}

fn cross_signing(client: &Client, name: &str) -> Value {
    let master = format!("{name}-master");
    let signed = json!({ (&client.user): { (format!("ed25519:{master}")): "sig" } });
    let key = |usage: &str, public: &str| {
        json!({
            "user_id": client.user,
            "usage": [usage],
            "keys": { (format!("ed25519:{public}")): public },
            "signatures": if usage == "master" { json!({}) } else { signed.clone() },
        })
    };
    json!({
        "master_key": key("master", &master),
        "self_signing_key": key("self_signing", &format!("{name}-self")),
        "user_signing_key": key("user_signing", &format!("{name}-user")),
    })
}

#[test]
fn the_first_cross_signing_upload_needs_no_password_and_a_reset_does() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let path = "keys/device_signing/upload";
    assert_eq!(alice.call(&mut server, "POST", path, cross_signing(&alice, "x")).0, 200);
    assert_eq!(alice.call(&mut server, "POST", path, cross_signing(&alice, "x")).0, 200);
    let mut reset = cross_signing(&alice, "y");
    let (status, challenge) = alice.call(&mut server, "POST", path, reset.clone());
    assert_eq!(status, 401);
    reset["auth"] = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "alice" },
        "password": "secret",
        "session": challenge["session"],
    });
    assert_eq!(alice.call(&mut server, "POST", path, reset).0, 200);
    let query = json!({ "device_keys": { (&alice.user): [] } });
    let answer = alice.ok(&mut server, "POST", "keys/query", query);
    assert!(answer["master_keys"][&alice.user]["keys"]["ed25519:y-master"].is_string());
}

#[test]
fn uploaded_signatures_are_merged_for_those_who_may_see_them() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    for client in [&alice, &bob] {
        let body = json!({ "device_keys": identity(client, "key") });
        assert_eq!(upload(client, &mut server, body).0, 200);
        let keys = cross_signing(client, &client.device);
        client.ok(&mut server, "POST", "keys/device_signing/upload", keys);
    }
    let mut device = identity(&alice, "key");
    device["signatures"] = json!({ (&alice.user): { "ed25519:A1-self": "by-self" } });
    let mut master = cross_signing(&bob, "B1")["master_key"].clone();
    master["signatures"] = json!({ (&alice.user): { "ed25519:A1-user": "by-user" } });
    let mut wrong = identity(&alice, "other");
    wrong["signatures"] = device["signatures"].clone();
    let body = json!({
        (&alice.user): { "A1": device, "A9": wrong },
        (&bob.user): { "B1-master": master },
    });
    let answer = alice.ok(&mut server, "POST", "keys/signatures/upload", body);
    assert_eq!(answer["failures"][&alice.user]["A9"]["errcode"], "M_NOT_FOUND");
    assert!(answer["failures"][&bob.user].is_null());
    let query = json!({ "device_keys": { (&alice.user): [], (&bob.user): [] } });
    let own = alice.ok(&mut server, "POST", "keys/query", query.clone());
    let theirs = bob.ok(&mut server, "POST", "keys/query", query);
    for answer in [&own, &theirs] {
        let signatures = &answer["device_keys"][&alice.user]["A1"]["signatures"];
        assert_eq!(signatures[&alice.user]["ed25519:A1-self"], "by-self");
    }
    let signed = |answer: &Value| {
        answer["master_keys"][&bob.user]["signatures"][&alice.user]["ed25519:A1-user"].clone()
    };
    assert_eq!(signed(&own), "by-user");
    assert!(signed(&theirs).is_null());
    assert!(own["user_signing_keys"][&alice.user].is_object());
    assert!(own["user_signing_keys"][&bob.user].is_null());
}

#[test]
fn a_hostile_server_shows_what_it_likes() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    upload(&alice, &mut server, json!({ "device_keys": identity(&alice, "real") }));
    server.override_device_keys(&alice.user, "A1", json!({ "fake": 1 }));
    server.add_device_keys(&alice.user, "GHOST", json!({ "ghost": 1 }));
    let query = json!({ "device_keys": { (&alice.user): [] } });
    let devices = |server: &mut HomeServer| {
        alice.ok(server, "POST", "keys/query", query.clone())["device_keys"][&alice.user].clone()
    };
    let seen = devices(&mut server);
    assert_eq!((&seen["A1"]["fake"], &seen["GHOST"]["ghost"]), (&json!(1), &json!(1)));
    server.override_device_keys(&alice.user, "A1", Value::Null);
    assert!(devices(&mut server)["A1"].is_null());
    server.restore_device_keys(&alice.user, "A1");
    assert_eq!(devices(&mut server)["A1"]["keys"]["ed25519:A1"], "real");
}

#[test]
fn an_old_backup_version_is_refused_and_the_one_before_comes_back() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let info = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {} });
    for expected in ["1", "2"] {
        let answer = alice.ok(&mut server, "POST", "room_keys/version", info.clone());
        assert_eq!(answer["version"], expected);
    }
    let session = |index: u64| {
        json!({ "first_message_index": index, "forwarded_count": 0, "is_verified": false,
                "session_data": { "index": index } })
    };
    let put = |server: &mut HomeServer, version: &str, index: u64| {
        let path = format!("room_keys/keys/!r:one.test/sess?version={version}");
        alice.call(server, "PUT", &path, session(index))
    };
    let refused = put(&mut server, "1", 0);
    assert_eq!(errcode(&refused), (403, "M_WRONG_ROOM_KEYS_VERSION"));
    assert_eq!(refused.1["current_version"], "1");
    for (index, kept, etag) in [(5, 5, "1"), (7, 5, "1"), (2, 2, "2")] {
        assert_eq!(put(&mut server, "2", index).1["etag"], etag);
        let all = alice.get(&mut server, "room_keys/keys?version=2");
        let data = &all["rooms"]["!r:one.test"]["sessions"]["sess"]["session_data"];
        assert_eq!(data["index"], kept);
    }
    alice.ok(&mut server, "DELETE", "room_keys/version/2", Value::Null);
    assert_eq!(alice.get(&mut server, "room_keys/version")["version"], "1");
    let gone = alice.call(&mut server, "GET", "room_keys/version/2", Value::Null);
    assert_eq!(errcode(&gone), (404, "M_NOT_FOUND"));
}

#[test]
fn keys_of_an_odd_shape_are_served_as_they_are() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let mut device = identity(&alice, "key");
    device["signatures"] = json!({ (&alice.user): 7 });
    upload(&alice, &mut server, json!({ "device_keys": device.clone() }));
    device["signatures"] = json!({ (&alice.user): { "ed25519:S": "sig" } });
    let body = json!({ (&alice.user): { "A1": device } });
    alice.ok(&mut server, "POST", "keys/signatures/upload", body);
    server.add_device_keys(&alice.user, "ODD", json!("text"));
    let query = json!({ "device_keys": { (&alice.user): [] } });
    let answer = alice.ok(&mut server, "POST", "keys/query", query);
    let devices = &answer["device_keys"][&alice.user];
    assert_eq!(devices["A1"]["signatures"], json!({ (&alice.user): 7 }));
    assert_eq!(devices["ODD"], "text");
}
