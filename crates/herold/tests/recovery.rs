//! Recovery as one thing: its states, what is missing of it, and that it survives being killed anywhere.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)]

mod common;

use std::{collections::BTreeSet, sync::Arc};

use common::{
    Net, SOON, device,
    mortal::{Disk, Fate, mortal, reborn},
    password, ready,
};
use herold::{
    Client, ClientError, CreateRoom, EnableStep, Missing, RecoverStep, Recovery, RecoveryChange,
    RecoverySecret, RecoveryState, SecretString,
};
use herold_crypto::{EncryptedSecret, StorageKey};
use herold_testkit::homeserver::ServerRequest;
use serde_json::{Value, json};

const FOREIGN: &str = "org.example.another_client";
const FOREIGN_SECRET: &str = "what another client keeps";
const NAMES: [&str; 4] = [
    "m.cross_signing.master",
    "m.cross_signing.self_signing",
    "m.cross_signing.user_signing",
    "m.megolm_backup.v1",
];

/// Asks the homeserver past Herold.
fn ask(net: &Net, user: &str, method: &str, path: &str, body: Value) -> Option<Value> {
    let user_id = format!("@{user}:example.org");
    let mut server = net.server.lock().unwrap();
    let device = server.device_ids(&user_id).first().unwrap().clone();
    let request = ServerRequest {
        method: method.to_owned(),
        path: format!("/_matrix/client/v3/{path}"),
        query: Vec::new(),
        access_token: server.token_of(&user_id, &device).map(str::to_owned),
        content_type: Some("application/json".to_owned()),
        body: body.to_string().into_bytes(),
    };
    let answer = server.handle(1_700_000_000_000, &request);
    (answer.status == 200).then(|| serde_json::from_slice(&answer.body).unwrap())
}

fn account_data(net: &Net, kind: &str) -> Option<Value> {
    ask(net, "alice", "GET", &format!("user/@alice:example.org/account_data/{kind}"), Value::Null)
}

fn put_account_data(net: &Net, kind: &str, content: Value) {
    let path = format!("user/@alice:example.org/account_data/{kind}");
    ask(net, "alice", "PUT", &path, content).unwrap();
}

fn default_key(net: &Net) -> String {
    account_data(net, "m.secret_storage.default_key").unwrap()["key"].as_str().unwrap().to_owned()
}

/// The secret under a key, as another client would read it.
fn opens(net: &Net, name: &str, key: &SecretString) -> Option<String> {
    let key = StorageKey::from_recovery_key(key.as_str()).unwrap();
    let content = account_data(net, name)?;
    let opened = |entry: &Value| {
        let secret = EncryptedSecret::parse(entry).ok()?;
        Some(key.decrypt(name, &secret).ok()?.as_str().to_owned())
    };
    content["encrypted"].as_object()?.values().find_map(opened)
}

/// Puts a secret of another client's under the default key.
fn put_foreign(net: &Net, key: &SecretString) {
    let storage_key = StorageKey::from_recovery_key(key.as_str()).unwrap();
    let secret = storage_key.encrypt(FOREIGN, FOREIGN_SECRET, &mut herold::OsEntropy).to_json();
    let key_id = default_key(net);
    put_account_data(net, FOREIGN, json!({ "encrypted": { key_id: secret } }));
}

fn master_key(net: &Net) -> Value {
    let asked = json!({ "device_keys": { "@alice:example.org": [] } });
    let keys = ask(net, "alice", "POST", "keys/query", asked).unwrap();
    keys["master_keys"]["@alice:example.org"]["keys"].clone()
}

fn backup_version(net: &Net) -> String {
    let version = ask(net, "alice", "GET", "room_keys/version", Value::Null).unwrap();
    version["version"].as_str().unwrap().to_owned()
}

/// A room with a message in it, so that there is a room key.
async fn say_something(client: &Client) {
    let room = client.create_room(CreateRoom::default()).await.unwrap();
    client.send_text(&room, "said before").await.unwrap();
}

async fn enabled(net: &Arc<Net>) -> (Client, Recovery) {
    let client = device(net, "alice").await;
    say_something(&client).await;
    let recovery = client.enable_recovery(password(), None).await.unwrap();
    client.confirm_recovery_key().unwrap();
    client.wait_for_backup(SOON).await.unwrap();
    (client, recovery)
}

/// Another device that is let in with a key, and has all that there is.
async fn lets_in(net: &Arc<Net>, key: &SecretString) -> Client {
    let other = device(net, "alice").await;
    let restored = other.recover(key.clone()).await.unwrap();
    assert!(restored.new + restored.known > 0, "{restored:?}");
    assert_eq!(other.recovery_state().await.unwrap(), RecoveryState::Enabled);
    other
}

fn here(secrets: &[RecoverySecret]) -> BTreeSet<RecoverySecret> {
    secrets.iter().copied().collect()
}

fn missing(state: &RecoveryState) -> Missing {
    match state {
        RecoveryState::Incomplete { missing } => missing.clone(),
        state => panic!("{state:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_is_told_each_state() {
    let net = Net::new();
    let alice = device(&net, "alice").await;
    let mut states = alice.recovery_states();
    assert_eq!(states.next().await.unwrap(), RecoveryState::Unknown);
    assert_eq!(states.next().await.unwrap(), RecoveryState::Disabled);
    let enabling = tokio::spawn({
        let alice = alice.clone();
        async move { alice.enable_recovery(password(), None).await.unwrap() }
    });
    let change = RecoveryChange::Enable;
    for step in [EnableStep::Identity, EnableStep::Backup, EnableStep::Storage] {
        assert_eq!(states.next().await.unwrap(), RecoveryState::Enabling { change, step });
    }
    assert_eq!(states.next().await.unwrap(), RecoveryState::Unconfirmed { change });
    let recovery = enabling.await.unwrap();
    alice.confirm_recovery_key().unwrap();
    while states.next().await.unwrap() != RecoveryState::Enabled {}
    say_something(&alice).await;
    alice.wait_for_backup(SOON).await.unwrap();

    // Another device, which lacks everything; what the first one does is seen there.
    let other = device(&net, "alice").await;
    let mut states = other.recovery_states();
    while matches!(states.next().await.unwrap(), RecoveryState::Unknown) {}
    let state = other.recovery_state().await.unwrap();
    assert!(missing(&state).here.contains(&RecoverySecret::MasterKey), "{state:?}");
    let recovering = tokio::spawn({
        let other = other.clone();
        async move { other.recover(recovery.recovery_key).await.unwrap() }
    });
    let mut seen = Vec::new();
    loop {
        match states.next().await.unwrap() {
            RecoveryState::Enabled => break,
            RecoveryState::Recovering { step } => seen.push(step),
            _ => {}
        }
    }
    recovering.await.unwrap();
    assert_eq!(seen.first(), Some(&RecoverStep::Opening), "{seen:?}");
    assert!(seen.contains(&RecoverStep::Identity), "{seen:?}");
    assert!(seen.iter().any(|step| matches!(step, RecoverStep::Backup { .. })), "{seen:?}");

    // The storage is emptied behind everybody's back: who syncs is told.
    put_account_data(&net, NAMES[1], json!({ "encrypted": {} }));
    let state = states.next().await.unwrap();
    let stored = here(&[RecoverySecret::SelfSigningKey]);
    assert_eq!(missing(&state), Missing { stored, ..Missing::default() });
    other.close().await.unwrap();
    assert!(matches!(states.next().await, Err(ClientError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn what_the_homeserver_hides_is_named_and_what_it_shows_is_taken() {
    let net = Net::new();
    let (_alice, recovery) = enabled(&net).await;
    for (hidden, secret) in NAMES.into_iter().zip(RecoverySecret::ALL) {
        let content = account_data(&net, hidden).unwrap();
        put_account_data(&net, hidden, json!({}));
        let other = device(&net, "alice").await;
        let error = other.recover(recovery.recovery_key.clone()).await.unwrap_err();
        let ClientError::RecoveryIncomplete { missing: told, restored } = error else {
            panic!("{error}");
        };
        let expected = Missing { here: here(&[secret]), stored: here(&[secret]), backup: false };
        assert_eq!(told, expected);
        assert_eq!(restored.is_none(), secret == RecoverySecret::BackupKey);
        assert_eq!(missing(&other.recovery_state().await.unwrap()), expected);
        put_account_data(&net, hidden, content);
        // It is whole again, and so is the device.
        other.recover(recovery.recovery_key.clone()).await.unwrap();
        assert_eq!(other.recovery_state().await.unwrap(), RecoveryState::Enabled);
        other.close().await.unwrap();
    }
    // The backup itself.
    net.tamper(|request, response| {
        if request.http.path.ends_with("/room_keys/version") {
            response.status = 404;
            response.body = br#"{"errcode":"M_NOT_FOUND","error":"no"}"#.to_vec();
        }
    });
    let other = device(&net, "alice").await;
    let error = other.recover(recovery.recovery_key).await.unwrap_err();
    let ClientError::RecoveryIncomplete { missing: told, restored: None } = error else {
        panic!("{error}");
    };
    assert_eq!(told, Missing { backup: true, ..Missing::default() });
    while other.recovery_state().await.unwrap() == RecoveryState::Unknown {
        other.changed().wait().await.unwrap();
    }
    assert_eq!(missing(&other.recovery_state().await.unwrap()), told);
}

#[tokio::test(start_paused = true)]
async fn one_secret_that_was_tampered_with_keeps_nobody_from_the_others() {
    let net = Net::new();
    let (_alice, recovery) = enabled(&net).await;
    let master = account_data(&net, NAMES[0]).unwrap();
    put_account_data(&net, NAMES[2], master);
    let other = device(&net, "alice").await;
    let error = other.recover(recovery.recovery_key).await.unwrap_err();
    assert!(matches!(error, ClientError::SecretStorage(_)), "{error}");
    assert!(other.backup_status().unwrap().has_key);
    assert!(other.secret(NAMES[1]).unwrap().is_some());
    assert!(other.secret(NAMES[2]).unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refused_password_leaves_everything_as_it_was() {
    let net = Net::new();
    let (alice, recovery) = enabled(&net).await;
    let before = (master_key(&net), backup_version(&net), default_key(&net));
    let wrong = SecretString::new("wrong".to_owned());
    let error = alice.reset_recovery(wrong, None).await.unwrap_err();
    assert!(error.is_matrix("M_FORBIDDEN"), "{error}");
    assert_eq!(alice.recovery_state().await.unwrap(), RecoveryState::Enabled);
    assert_eq!((master_key(&net), backup_version(&net), default_key(&net)), before);
    lets_in(&net, &recovery.recovery_key).await;
}

#[tokio::test(start_paused = true)]
async fn until_it_is_confirmed_the_same_call_gives_the_same_key() {
    let net = Net::new();
    let alice = device(&net, "alice").await;
    let first = alice.enable_recovery(password(), None).await.unwrap();
    let again = alice.enable_recovery(password(), None).await.unwrap();
    assert_eq!(first.recovery_key, again.recovery_key);
    assert_eq!(first.backup_version, again.backup_version);
    // Another passphrase is another wish.
    let passphrase = || Some(SecretString::new("a passphrase".to_owned()));
    let other = alice.enable_recovery(password(), passphrase()).await.unwrap();
    assert_ne!(first.recovery_key, other.recovery_key);
    let again = alice.enable_recovery(password(), passphrase()).await.unwrap();
    assert_eq!(other.recovery_key, again.recovery_key);
    alice.confirm_recovery_key().unwrap();
    alice.confirm_recovery_key().unwrap();
    let next = alice.enable_recovery(password(), None).await.unwrap();
    assert_ne!(next.recovery_key, again.recovery_key);
    assert_eq!(opens(&net, NAMES[0], &other.recovery_key), None, "the old key is of no use");
}

/// Kills the device at every point of a call, calls again, and has `check` look at what came of it. Answers how many points there
/// were.
async fn at_every_point(
    prepare: impl AsyncFn(&Arc<Net>, &Client),
    call: impl AsyncFn(&Client) -> Result<Option<SecretString>, ClientError>,
    at_once: impl Fn(&Arc<Net>),
    check: impl AsyncFn(&Arc<Net>, &Client, Option<SecretString>),
) -> usize {
    for points in 0.. {
        let net = Net::new();
        let (disk, fate) = (Disk::default(), Arc::new(Fate::default()));
        let client = mortal(&net, "alice", &disk, &fate).await;
        prepare(&net, &client).await;
        fate.arm(points);
        let done = tokio::time::timeout(SOON * 10, call(&client)).await.expect("it ends");
        fate.disarm();
        if !fate.is_dead() {
            check(&net, &client, done.unwrap()).await;
            client.close().await.unwrap();
            return points;
        }
        client.close().await.unwrap();
        drop(client);
        at_once(&net);
        let client = reborn(&net, &disk, &Arc::new(Fate::default())).await;
        let again = call(&client).await.unwrap_or_else(|error| panic!("point {points}: {error}"));
        if let Ok(told) = done {
            assert_eq!(told, again, "point {points}: the user has this key already");
        }
        check(&net, &client, again).await;
        client.close().await.unwrap();
    }
    unreachable!()
}

/// A device of another user's world that is let in with the key, and the account as it should be.
async fn is_whole(net: &Arc<Net>, client: &Client, key: &SecretString) {
    client.confirm_recovery_key().unwrap();
    assert_eq!(client.recovery_state().await.unwrap(), RecoveryState::Enabled);
    client.wait_for_backup(SOON).await.unwrap();
    for name in NAMES {
        let content = account_data(net, name).unwrap();
        assert_eq!(content["encrypted"].as_object().unwrap().len(), 1, "{name}: {content}");
        let secret = client.secret(name).unwrap().unwrap();
        assert_eq!(opens(net, name, key).as_deref(), Some(secret.as_str()), "{name}");
    }
    lets_in(net, key).await.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn enabling_can_be_killed_anywhere() {
    let points = at_every_point(
        async |_, client| say_something(client).await,
        async |client| {
            client.enable_recovery(password(), None).await.map(|made| Some(made.recovery_key))
        },
        |_| {},
        async |net, client, key| {
            is_whole(net, client, &key.unwrap()).await;
            assert_eq!(backup_version(net), "1");
            let uploads = uploads(net);
            assert!(uploads.iter().all(|upload| *upload == uploads[0]), "one identity");
        },
    )
    .await;
    assert!(points > 40, "{points}");
}

/// The identities that were uploaded.
fn uploads(net: &Net) -> Vec<Value> {
    let server = net.server.lock().unwrap();
    let seen = server.requests().iter().filter(|seen| seen.path.ends_with("device_signing/upload"));
    let bodies = seen.map(|seen| serde_json::from_slice::<Value>(&seen.body).unwrap());
    bodies.map(|body| body["master_key"]["keys"].clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn replacing_can_be_killed_anywhere() {
    let points = at_every_point(
        async |_, client| {
            say_something(client).await;
            client.enable_recovery(password(), None).await.unwrap();
            client.confirm_recovery_key().unwrap();
            client.wait_for_backup(SOON).await.unwrap();
        },
        async |client| {
            client.reset_recovery(password(), None).await.map(|made| Some(made.recovery_key))
        },
        |_| {},
        async |net, client, key| {
            is_whole(net, client, &key.unwrap()).await;
            assert_eq!(backup_version(net), "2");
            let mut uploads = uploads(net);
            uploads.dedup();
            assert_eq!(uploads.len(), 2, "replaced once");
        },
    )
    .await;
    assert!(points > 40, "{points}");
}

/// The keys of the user's first identity are on this device still; another device has replaced it. This one dies while it replaces
/// that, and comes back to a homeserver that shows the first one.
#[tokio::test(start_paused = true)]
async fn an_older_identity_that_is_shown_again_is_not_taken_for_the_new_one() {
    let points = at_every_point(
        async |net, client| {
            say_something(client).await;
            client.enable_recovery(password(), None).await.unwrap();
            client.confirm_recovery_key().unwrap();
            client.wait_for_backup(SOON).await.unwrap();
            let other = device(net, "alice").await;
            other.reset_recovery(password(), None).await.unwrap();
            other.close().await.unwrap();
        },
        async |client| {
            client.reset_recovery(password(), None).await.map(|made| Some(made.recovery_key))
        },
        |net| {
            let server = net.server.lock().unwrap();
            let mut seen = server.requests().iter();
            let first = seen.find(|seen| seen.path.ends_with("device_signing/upload")).unwrap();
            let mut body: Value = serde_json::from_slice(&first.body).unwrap();
            drop(server);
            body["auth"] = json!({
                "type": "m.login.password", "password": common::PASSWORD,
                "identifier": { "type": "m.id.user", "user": "alice" },
            });
            let path = "keys/device_signing/upload";
            ask(net, "alice", "POST", path, body.clone()).unwrap_or_else(|| panic!("{body}"));
        },
        async |net, client, key| {
            is_whole(net, client, &key.unwrap()).await;
            let uploads = uploads(net);
            let shown = master_key(net);
            assert_ne!(shown, uploads[0], "the oldest one");
            assert_ne!(shown, uploads[1], "the one that was to be replaced");
        },
    )
    .await;
    assert!(points > 40, "{points}");
}

#[tokio::test(start_paused = true)]
async fn changing_the_key_can_be_killed_anywhere_and_one_key_opens_everything() {
    // The first key is the same in each round: it is what the user knows.
    let old = StorageKey::generate(&mut herold::OsEntropy);
    let old_key = old.to_recovery_key();
    let prepare = async |net: &Arc<Net>, client: &Client| {
        say_something(client).await;
        let made = client.enable_recovery(password(), None).await.unwrap();
        client.confirm_recovery_key().unwrap();
        client.wait_for_backup(SOON).await.unwrap();
        put_foreign(net, &made.recovery_key);
        // As if it had been made with the old key.
        let key_id = default_key(net);
        let description = old.describe(None, None, &mut herold::OsEntropy).to_json();
        put_account_data(net, &format!("m.secret_storage.key.{key_id}"), description);
        for name in NAMES.into_iter().chain([FOREIGN]) {
            let secret = opens(net, name, &made.recovery_key).unwrap();
            let secret = old.encrypt(name, &secret, &mut herold::OsEntropy).to_json();
            put_account_data(net, name, json!({ "encrypted": { key_id.as_str(): secret } }));
        }
    };
    let points = at_every_point(
        prepare,
        async |client| {
            client
                .change_recovery_key(old_key.clone(), None)
                .await
                .map(|made| Some(made.recovery_key))
        },
        |net| {
            // Dead: the default key has everything under it.
            let key_id = default_key(net);
            for name in NAMES.into_iter().chain([FOREIGN]) {
                let content = account_data(net, name).unwrap();
                assert!(content["encrypted"].get(&key_id).is_some(), "{name}: {content}");
            }
        },
        async |net, client, key| {
            let key = key.unwrap();
            is_whole(net, client, &key).await;
            assert_eq!(opens(net, FOREIGN, &key).as_deref(), Some(FOREIGN_SECRET));
            for name in NAMES.into_iter().chain([FOREIGN]) {
                assert_eq!(opens(net, name, &old_key), None, "{name}");
            }
            let other = device(net, "alice").await;
            let error = other.recover(old_key.clone()).await.unwrap_err();
            assert!(matches!(error, ClientError::WrongRecoveryKey), "{error}");
            other.close().await.unwrap();
        },
    )
    .await;
    assert!(points > 40, "{points}");
}

#[tokio::test(start_paused = true)]
async fn recovering_can_be_killed_anywhere() {
    let key = Arc::new(std::sync::Mutex::new(None));
    let points = at_every_point(
        async |net, _| {
            let (first, recovery) = enabled(net).await;
            *key.lock().unwrap() = Some(recovery.recovery_key);
            first.close().await.unwrap();
        },
        async |client| {
            let typed = key.lock().unwrap().clone().unwrap();
            client.recover(typed).await.map(|_| None)
        },
        |_| {},
        async |_, client, _| {
            assert_eq!(client.recovery_state().await.unwrap(), RecoveryState::Enabled);
            assert_eq!(client.restore_backup().await.unwrap().known, 1);
        },
    )
    .await;
    assert!(points > 10, "{points}");
}

#[tokio::test(start_paused = true)]
async fn of_several_keys_the_one_is_found_that_was_typed() {
    let net = Net::new();
    let (_alice, recovery) = enabled(&net).await;
    // Another client adds a key with a passphrase, and one whose description says nothing of it.
    let passphrase = "another way in";
    let parameters = herold_crypto::PassphraseParameters::generate(&mut herold::OsEntropy);
    let second = StorageKey::from_passphrase(passphrase, &parameters);
    let third = StorageKey::generate(&mut herold::OsEntropy);
    let entropy = &mut herold::OsEntropy;
    let mut described = third.describe(None, None, entropy).to_json();
    described.as_object_mut().unwrap().retain(|name, _| name == "algorithm");
    for (id, description) in [
        ("second", second.describe(None, Some(parameters), entropy).to_json()),
        ("third", described),
    ] {
        put_account_data(&net, &format!("m.secret_storage.key.{id}"), description);
    }
    for name in NAMES {
        let secret = opens(&net, name, &recovery.recovery_key).unwrap();
        let mut content = account_data(&net, name).unwrap();
        content["encrypted"]["second"] = second.encrypt(name, &secret, entropy).to_json();
        content["encrypted"]["third"] = third.encrypt(name, &secret, entropy).to_json();
        put_account_data(&net, name, content);
    }
    let typed = [
        recovery.recovery_key.clone(),
        SecretString::new(passphrase.to_owned()),
        third.to_recovery_key(),
    ];
    for typed in &typed {
        lets_in(&net, typed).await.close().await.unwrap();
    }
    let other = device(&net, "alice").await;
    let unknown = StorageKey::generate(entropy).to_recovery_key();
    let error = other.recover(unknown).await.unwrap_err();
    assert!(matches!(error, ClientError::WrongRecoveryKey), "{error}");
    let error = other.recover(SecretString::new("wrong".to_owned())).await.unwrap_err();
    assert!(matches!(error, ClientError::WrongRecoveryKey), "{error}");

    // A change concerns the key that was typed; the other ways in stay.
    let made = other.recover(typed[1].clone()).await.map(|_| ());
    made.unwrap();
    let made = other.change_recovery_key(typed[0].clone(), None).await.unwrap();
    other.confirm_recovery_key().unwrap();
    for key in [&made.recovery_key, &typed[1], &typed[2]] {
        lets_in_by(&net, key).await;
    }
}

/// As [`lets_in`], with a key that need not be the default one.
async fn lets_in_by(net: &Arc<Net>, key: &SecretString) {
    let other = device(net, "alice").await;
    other.recover(key.clone()).await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_old_key_does_not_open_is_named_and_left_where_it_is() {
    let net = Net::new();
    let (alice, recovery) = enabled(&net).await;
    put_foreign(&net, &recovery.recovery_key);
    let mut content = account_data(&net, FOREIGN).unwrap();
    let key_id = default_key(&net);
    content["encrypted"][&key_id]["mac"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".into();
    put_account_data(&net, FOREIGN, content.clone());
    let made = alice.change_recovery_key(recovery.recovery_key, None).await.unwrap();
    assert_eq!(made.left_behind, [FOREIGN]);
    assert_eq!(account_data(&net, FOREIGN).unwrap(), content);
    lets_in(&net, &made.recovery_key).await;
}

#[tokio::test(start_paused = true)]
async fn a_passphrase_takes_the_place_of_a_key_and_the_reverse() {
    let net = Net::new();
    let (alice, recovery) = enabled(&net).await;
    let passphrase = || SecretString::new("correct battery".to_owned());
    let old = recovery.recovery_key;
    alice.change_recovery_key(old, Some(passphrase())).await.unwrap();
    alice.confirm_recovery_key().unwrap();
    lets_in(&net, &passphrase()).await;
    let made = alice.change_recovery_key(passphrase(), None).await.unwrap();
    alice.confirm_recovery_key().unwrap();
    lets_in(&net, &made.recovery_key).await;
    let error = alice.change_recovery_key(passphrase(), None).await.unwrap_err();
    assert!(
        matches!(error, ClientError::RecoveryKey(_) | ClientError::WrongRecoveryKey),
        "{error}"
    );
    assert_eq!(alice.recovery_state().await.unwrap(), RecoveryState::Enabled);
}

#[tokio::test(start_paused = true)]
async fn something_else_that_was_begun_comes_first() {
    let net = Net::new();
    let (disk, fate) = (Disk::default(), Arc::new(Fate::default()));
    let alice = mortal(&net, "alice", &disk, &fate).await;
    let made = alice.enable_recovery(password(), None).await.unwrap();
    alice.confirm_recovery_key().unwrap();
    fate.arm(12);
    alice.reset_recovery(password(), None).await.unwrap_err();
    alice.close().await.unwrap();
    let alice = reborn(&net, &disk, &Arc::new(Fate::default())).await;
    let change = RecoveryChange::Reset;
    let interrupted = RecoveryState::Interrupted { change };
    assert_eq!(alice.recovery_state().await.unwrap(), interrupted);
    let error = alice.change_recovery_key(made.recovery_key, None).await.unwrap_err();
    assert!(matches!(error, ClientError::RecoveryInterrupted(RecoveryChange::Reset)), "{error}");
    let error = alice.enable_recovery(password(), None).await.unwrap_err();
    assert!(matches!(error, ClientError::RecoveryInterrupted(RecoveryChange::Reset)), "{error}");
    let error = alice.confirm_recovery_key().unwrap_err();
    assert!(matches!(error, ClientError::RecoveryInterrupted(RecoveryChange::Reset)), "{error}");
    say_something(&alice).await;
    let made = alice.reset_recovery(password(), None).await.unwrap();
    is_whole(&net, &alice, &made.recovery_key).await;
    ready(&alice).await;
}
