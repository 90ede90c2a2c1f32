use super::*;

fn password_auth(session: &Value, user: &str, password: &str) -> Value {
    json!({ "auth": {
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
        "session": session,
    } })
}

#[test]
fn deleting_a_device_asks_for_the_password_of_the_same_user() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let other = Client::new(&mut server, "alice", "A2");
    Client::new(&mut server, "bob", "B1");
    let (status, challenge) = alice.call(&mut server, "DELETE", "devices/A2", json!({}));
    assert_eq!(status, 401);
    assert!(challenge.get("errcode").is_none());
    assert_eq!(challenge["flows"], json!([{ "stages": ["m.login.password"] }]));
    let session = &challenge["session"];
    for (user, password) in [("alice", "wrong"), ("bob", "secret")] {
        let body = password_auth(session, user, password);
        let refused = alice.call(&mut server, "DELETE", "devices/A2", body);
        assert_eq!(errcode(&refused), (401, "M_FORBIDDEN"));
        assert_eq!(&refused.1["session"], session);
    }
    let body = password_auth(session, "alice", "secret");
    // A session belongs to one operation.
    assert_eq!(alice.call(&mut server, "DELETE", "devices/A1", body.clone()).0, 403);
    assert_eq!(alice.call(&mut server, "DELETE", "devices/A2", body).0, 200);
    assert_eq!(server.device_ids(&alice.user), ["A1"]);
    let gone = other.call(&mut server, "GET", "account/whoami", Value::Null);
    assert_eq!(errcode(&gone), (401, "M_UNKNOWN_TOKEN"));
    let body = password_auth(&json!("nonsense"), "alice", "secret");
    assert_eq!(errcode(&alice.call(&mut server, "DELETE", "devices/A1", body)), (400, "M_UNKNOWN"));
}

#[test]
fn several_devices_go_at_once() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    Client::new(&mut server, "alice", "A2");
    Client::new(&mut server, "alice", "A3");
    let mut body = password_auth(&Value::Null, "@alice:one.test", "secret");
    body["devices"] = json!(["A2", "A3", "A4"]);
    alice.ok(&mut server, "POST", "delete_devices", body);
    assert_eq!(server.device_ids(&alice.user), ["A1"]);
}

#[test]
fn registration_takes_the_dummy_stage() {
    let mut server = server();
    let register = |server: &mut HomeServer, body: Value| {
        read(&server.handle(0, &request("POST", "register", None, &body)))
    };
    let mut body = json!({ "username": "dora", "password": "pw", "device_id": "D1" });
    let (status, challenge) = register(&mut server, body.clone());
    assert_eq!((status, &challenge["flows"][0]["stages"][0]), (401, &json!("m.login.dummy")));
    body["auth"] = json!({ "type": "m.login.dummy", "session": challenge["session"] });
    let (status, answer) = register(&mut server, body.clone());
    assert_eq!((status, &answer["user_id"]), (200, &json!("@dora:one.test")));
    assert_eq!(server.token_of("@dora:one.test", "D1"), answer["access_token"].as_str());
    assert_eq!(errcode(&register(&mut server, body)), (400, "M_USER_IN_USE"));
}

#[test]
fn login_takes_both_ways_of_naming_a_user_and_a_new_login_ends_the_old_token() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let login = |server: &mut HomeServer, password: &str| {
        let body = json!({ "type": "m.login.password", "user": "alice", "password": password,
                           "device_id": "A1" });
        read(&server.handle(0, &request("POST", "login", None, &body)))
    };
    assert_eq!(errcode(&login(&mut server, "wrong")), (403, "M_FORBIDDEN"));
    assert_eq!(login(&mut server, "secret").0, 200);
    let old = alice.call(&mut server, "GET", "account/whoami", Value::Null);
    assert_eq!(errcode(&old), (401, "M_UNKNOWN_TOKEN"));
    let none = read(&server.handle(0, &request("GET", "sync", None, &Value::Null)));
    assert_eq!(errcode(&none), (401, "M_MISSING_TOKEN"));
}

#[test]
fn a_soft_logout_keeps_the_device() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    server.end_token(&alice.user, "A1", true);
    let ended = alice.call(&mut server, "GET", "account/whoami", Value::Null);
    assert_eq!((ended.0, &ended.1["soft_logout"]), (401, &json!(true)));
    assert_eq!(server.device_ids(&alice.user), ["A1"]);
}

#[test]
fn account_data_comes_once_and_filters_are_kept() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let bob = Client::new(&mut server, "bob", "B1");
    let room = alice.room(&mut server, "private_chat", &[]);
    let since = alice.catch_up(&mut server);
    let path = format!("user/{}/account_data/m.test", alice.user);
    assert_eq!(alice.call(&mut server, "GET", &path, Value::Null).0, 404);
    alice.ok(&mut server, "PUT", &path, json!({ "a": 1 }));
    assert_eq!(bob.call(&mut server, "PUT", &path, json!({})).0, 403);
    let room_path = format!("user/{}/rooms/{room}/account_data/m.tag", alice.user);
    alice.ok(&mut server, "PUT", &room_path, json!({ "b": 2 }));
    let sync = alice.sync(&mut server, &since);
    let events = json!([{ "type": "m.test", "content": { "a": 1 } }]);
    assert_eq!(sync["account_data"]["events"], events);
    let data = &sync["rooms"]["join"][&room]["account_data"]["events"];
    assert_eq!(data[0]["content"], json!({ "b": 2 }));
    let again = alice.sync(&mut server, &next(&sync));
    assert!(again["account_data"].is_null() && again["rooms"].is_null());
    let filters = format!("user/{}/filter", alice.user);
    let filter = json!({ "room": { "timeline": { "limit": 2 } } });
    let id = alice.ok(&mut server, "POST", &filters, filter.clone())["filter_id"].clone();
    let id = id.as_str().unwrap();
    assert_eq!(alice.get(&mut server, &format!("{filters}/{id}")), filter);
    let sync = alice.get(&mut server, &format!("sync?filter={id}"));
    assert_eq!(list(&sync["rooms"]["join"][&room]["timeline"]["events"]).len(), 2);
}

#[test]
fn media_round_trips_with_its_type() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let mut upload = request("POST", "upload", Some(&alice.token), &Value::Null);
    upload.path = "/_matrix/media/v3/upload".to_owned();
    upload.content_type = Some("image/png".to_owned());
    upload.body = vec![0, 159, 146, 150];
    let (status, answer) = read(&server.handle(0, &upload));
    assert_eq!(status, 200);
    let uri = answer["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let mut download = request("GET", "x", Some(&alice.token), &Value::Null);
    download.path = format!("/_matrix/client/v1/media/download/{uri}");
    let got = server.handle(0, &download);
    assert_eq!((got.status, got.content_type.as_str()), (200, "image/png"));
    assert_eq!(got.body, upload.body);
    download.access_token = None;
    assert_eq!(server.handle(0, &download).status, 401);
    download.path = format!("/_matrix/media/v3/download/{uri}");
    assert_eq!(server.handle(0, &download).body, upload.body);
    server.serve_legacy_media(false);
    assert_eq!(server.handle(0, &download).status, 404);
}

#[test]
fn errors_are_matrix_errors() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    let unknown = alice.call(&mut server, "GET", "no/such/thing", Value::Null);
    assert_eq!(errcode(&unknown), (404, "M_UNRECOGNIZED"));
    let list = alice.call(&mut server, "POST", "keys/query", json!([]));
    assert_eq!(errcode(&list), (400, "M_BAD_JSON"));
    let mut broken = request("POST", "keys/query", Some(&alice.token), &Value::Null);
    broken.body = b"{".to_vec();
    assert_eq!(errcode(&read(&server.handle(0, &broken))), (400, "M_NOT_JSON"));
    server.limit_requests(1, 250);
    let limited = server.handle(0, &request("GET", "sync", Some(&alice.token), &Value::Null));
    assert_eq!((limited.status, limited.retry_after_ms), (429, Some(250)));
    assert_eq!(errcode(&read(&limited)), (429, "M_LIMIT_EXCEEDED"));
    alice.get(&mut server, "sync");
}

#[test]
fn the_same_seed_and_requests_repeat_and_a_clone_goes_its_own_way() {
    let run = |seed: u64| {
        let mut server = HomeServer::new("one.test", seed);
        let alice = Client::new(&mut server, "alice", "");
        let room = alice.room(&mut server, "private_chat", &[]);
        alice.say(&mut server, &room, "t");
        (alice.sync(&mut server, "").to_string(), server, alice, room)
    };
    let (first, server, alice, room) = run(1);
    assert_eq!(first, run(1).0);
    assert_ne!(first, run(2).0);
    let mut copy = server.clone();
    alice.say(&mut copy, &room, "u");
    assert_eq!(copy.events(&room).len(), server.events(&room).len() + 1);
}

#[test]
fn the_log_of_requests_names_the_device_and_can_be_bounded() {
    let mut server = server();
    let alice = Client::new(&mut server, "alice", "A1");
    alice.get(&mut server, "account/whoami");
    let seen = server.requests().last().unwrap();
    assert_eq!(seen.device.as_deref(), Some("A1"));
    assert_eq!((seen.path.as_str(), seen.status), ("/_matrix/client/v3/account/whoami", 200));
    server.keep_requests(Some(3));
    for _ in 0..20 {
        alice.get(&mut server, "account/whoami");
    }
    assert!((3..=6).contains(&server.requests().len()));
    server.keep_requests(Some(0));
    alice.get(&mut server, "account/whoami");
    assert!(server.requests().is_empty());
}
