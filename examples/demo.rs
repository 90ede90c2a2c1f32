//! Two branded messengers talk, encrypted; one is killed and comes back; a device is added; a member is
//! removed. At the end stands, side by side, what each person sees and what the homeserver saw.
//!
//! `cargo run --release --example demo` uses a homeserver in this very process.
//! `cargo run --release --example demo -- --homeserver http://127.0.0.1:8008` uses a real one, which
//! must allow registration without verification.
//!
//! Whatever is not as it should be ends the demo with an error.

use std::{
    collections::BTreeSet, error::Error, path::Path, process::ExitCode, sync::Arc, time::Duration,
};

use herold::{
    Body, Client, ClientBuilder, CreateRoom, Deployment, HttpOptions, HttpRequest, HttpTransport,
    Membership, Method, OwnedEventId, OwnedRoomId, Policy, Recipients, SecretString, StoreKey,
    Transport, TransportRequest,
};
use herold_examples::{InProcess, Recording};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const PATIENCE: Duration = Duration::from_secs(30);
const PASSWORD: &str = "a password for the demo";
/// Nothing of this may ever be seen by the homeserver.
const FILE_NAME: &str = "duty-roster.txt";
const FILE: &[u8] = b"Monday: Alice. Tuesday: Bob.";

fn main() -> ExitCode {
    match run() {
        Ok(()) => {
            println!("\nAll of it is so.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nThe demo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The homeserver used, and everything it saw.
struct Scene {
    url: String,
    wire: Recording,
    run: String,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Outcome<Self> {
        let mut arguments = std::env::args().skip(1);
        let (url, inner): (String, Arc<dyn Transport>) = match arguments.next().as_deref() {
            None => {
                ("https://in-process.test".to_owned(), Arc::new(InProcess::new("in-process.test")))
            }
            Some("--homeserver") => {
                let url = arguments.next().ok_or("--homeserver needs a URL")?;
                (url, Arc::new(HttpTransport::new(HttpOptions::default())?))
            }
            Some(other) => return Err(format!("{other} is not known; try --homeserver URL").into()),
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        Ok(Self {
            url,
            wire: Recording::new(inner),
            run: format!("{:x}", now.as_micros()),
            folder: tempfile::tempdir()?,
        })
    }

    /// Makes a user; answers the local part.
    async fn register(&self, name: &str) -> Outcome<String> {
        let user = format!("{name}-{}", self.run);
        let mut body = json!({ "username": user, "password": PASSWORD, "inhibit_login": true });
        for _ in 0..2 {
            let mut http = HttpRequest::new(Method::Post, "/_matrix/client/v3", &["register"]);
            http.authenticated = false;
            http.body = Body::Json(body.to_string());
            let request = TransportRequest {
                base_url: self.url.clone(),
                http,
                access_token: None,
                response_limit: 100_000,
            };
            let response = self.wire.send(request).await?;
            if response.status == 200 {
                return Ok(user);
            }
            let answer: Value = serde_json::from_slice(&response.body)?;
            body["auth"] = json!({ "type": "m.login.dummy", "session": answer["session"] });
        }
        Err(format!("{user} could not be registered").into())
    }

    fn builder(&self, brand: &Deployment, device: &str) -> ClientBuilder {
        ClientBuilder::new()
            .deployment(brand.clone())
            .homeserver(&self.url)
            .transport(Arc::new(self.wire.clone()))
            .store_path(self.folder.path().join(device))
            .store_key(StoreKey::raw(key_of(device)))
    }

    async fn log_in(&self, brand: &Deployment, device: &str, user: &str) -> Outcome<Client> {
        let password = SecretString::new(PASSWORD.to_owned());
        let client = self.builder(brand, device).login(user, password, None).await?;
        client.start_sync()?;
        client.wait_ready(PATIENCE).await?;
        println!("  {} is {} on device {}", brand.name, client.user_id(), client.device_id());
        Ok(client)
    }
}

/// A real app takes this from the platform's key store.
fn key_of(device: &str) -> [u8; 32] {
    let mut key = [7; 32];
    for (to, from) in key.iter_mut().zip(device.bytes()) {
        *to ^= from;
    }
    key
}

/// A brand. Nobody in the demo is cross-signed, so the keys go to all devices.
fn brand(name: &str) -> Deployment {
    let policy = Policy { recipients: Recipients::AllDevices, ..Policy::default() };
    Deployment {
        name: name.to_owned(),
        policy,
        device_display_name: name.to_owned(),
        ..Deployment::default()
    }
}

/// What one device shows of an event.
async fn shown(client: &Client, room: &OwnedRoomId, event: &OwnedEventId) -> Outcome<String> {
    // Who may not read it shall have had the time to be given the key.
    let event = client.wait_for_event(room, event, Duration::from_secs(3)).await?;
    Ok(match event.body {
        Ok(body) => {
            let content: Value = serde_json::from_str(&body.content)?;
            format!("{}: {}", event.sender.localpart(), content["body"].as_str().unwrap_or("?"))
        }
        Err(reason) => format!("({})", reason.to_text()),
    })
}

async fn expect_reads(
    client: &Client,
    room: &OwnedRoomId,
    event: &OwnedEventId,
    text: &str,
) -> Outcome {
    let event = client.wait_for_event(room, event, PATIENCE).await?;
    let body = event.body.map_err(|reason| {
        format!("{} cannot read {text:?}: {}", client.device_id(), reason.to_text())
    })?;
    let content: Value = serde_json::from_str(&body.content)?;
    ensure(event.encrypted, "a message was not encrypted")?;
    ensure(content["body"] == text, "a message reads differently")
}

fn ensure(holds: bool, otherwise: &str) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

fn run() -> Outcome {
    let runtime = Runtime::new()?;
    // Alice's app has a runtime of its own, so that it can be killed.
    let alices = Runtime::new()?;
    let scene = Scene::new()?;
    let (ministry, hospital) = (brand("Amtsbote"), brand("Klinikfunk"));

    println!("Two deployments, two brands, one homeserver: {}", scene.url);
    let (alice_name, bob_name, carol_name) = runtime.block_on(async {
        Outcome::Ok((
            scene.register("alice").await?,
            scene.register("bob").await?,
            scene.register("carol").await?,
        ))
    })?;
    let alice = alices.block_on(scene.log_in(&ministry, "alice", &alice_name))?;
    let bob = runtime.block_on(scene.log_in(&hospital, "bob", &bob_name))?;
    let carol = runtime.block_on(scene.log_in(&hospital, "carol", &carol_name))?;

    let room = alices.block_on(async {
        let invite = vec![bob.user_id(), carol.user_id()];
        Outcome::Ok(alice.create_room(CreateRoom { invite, ..CreateRoom::default() }).await?)
    })?;
    runtime.block_on(async {
        for guest in [&bob, &carol] {
            guest.wait_for_member(&room, &guest.user_id(), Membership::Invite, PATIENCE).await?;
            guest.join(&room).await?;
            alice.wait_for_member(&room, &guest.user_id(), Membership::Join, PATIENCE).await?;
        }
        Outcome::Ok(())
    })?;

    println!("Messages and a file go both ways");
    let hello = alices.block_on(alice.send_text(&room, "Good morning, ward 3."))?;
    let answer = runtime.block_on(bob.send_text(&room, "Good morning, ministry."))?;
    let file = alices.block_on(alice.send_file(&room, FILE_NAME, "text/plain", FILE))?;
    runtime.block_on(async {
        expect_reads(&bob, &room, &hello, "Good morning, ward 3.").await?;
        expect_reads(&carol, &room, &answer, "Good morning, ministry.").await?;
        expect_reads(&bob, &room, &file, FILE_NAME).await?;
        let download = bob.download(&room, &file).await?;
        ensure(download.data == FILE && download.name == FILE_NAME, "the file differs")
    })?;
    alices.block_on(expect_reads(&alice, &room, &answer, "Good morning, ministry."))?;

    println!("Alice's app is killed with a message in its queue, and comes back");
    let device = alice.device_id();
    alices.block_on(alice.stop_sync());
    let txn_id = {
        let content = json!({ "msgtype": "m.text", "body": "Sent through a crash." });
        let _inside = alices.enter();
        alice.queue_event(&room, "m.room.message", &content, None)?
    };
    drop(alice);
    alices.shutdown_background();
    let alice = runtime.block_on(resume(&scene, &ministry))?;
    ensure(alice.device_id() == device, "another device came back")?;
    let crash = runtime.block_on(async {
        for _ in 0..300 {
            let found = bob
                .timeline(&room, 50)?
                .into_iter()
                .filter(|event| {
                    event.body.as_ref().is_ok_and(|body| body.content.contains("through a crash"))
                })
                .map(|event| event.event_id)
                .collect::<Vec<_>>();
            if let [event] = found.as_slice() {
                return Outcome::Ok(event.clone());
            }
            ensure(found.is_empty(), "the queued message came twice")?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("the queued message {txn_id} never came").into())
    })?;

    println!("Bob adds a tablet");
    let tablet = runtime.block_on(scene.log_in(&hospital, "tablet", &bob_name))?;
    let (to_tablet, before) = runtime.block_on(async {
        for _ in 0..100 {
            if alice.devices(&bob.user_id()).await?.devices.len() == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let event = alice.send_text(&room, "Hello to the tablet, too.").await?;
        expect_reads(&tablet, &room, &event, "Hello to the tablet, too.").await?;
        Outcome::Ok((event, shown(&tablet, &room, &hello).await?))
    })?;
    ensure(before.starts_with('('), "the tablet reads what was said before it was there")?;

    println!("Carol is removed");
    let after = runtime.block_on(async {
        alice.kick(&room, &carol.user_id()).await?;
        carol.wait_for_member(&room, &carol.user_id(), Membership::Leave, PATIENCE).await?;
        let event = alice.send_text(&room, "Carol cannot read this.").await?;
        expect_reads(&bob, &room, &event, "Carol cannot read this.").await?;
        Outcome::Ok(event)
    })?;
    let session = |event: &OwnedEventId| -> Outcome<_> {
        Ok(alice.event(&room, event)?.and_then(|event| event.session_id))
    };
    runtime.block_on(expect_reads(&alice, &room, &after, "Carol cannot read this."))?;
    ensure(session(&to_tablet)? != session(&after)?, "the room key was not replaced")?;

    let events = [&hello, &answer, &file, &crash, &to_tablet, &after];
    runtime.block_on(side_by_side(&room, &events, &[&alice, &bob, &tablet]))?;
    let removed = runtime.block_on(async {
        Outcome::Ok(match carol.fetch_event(&room, &after).await {
            Ok(event) => event.body.is_err(),
            Err(_) => true, // the homeserver does not even give it out
        })
    })?;
    ensure(removed, "Carol reads a message sent after she was removed")?;
    what_the_server_saw(&scene, &room)?;
    ciphertext_on_disk(scene.folder.path())?;

    runtime.block_on(async {
        for client in [&alice, &bob, &carol, &tablet] {
            client.close().await?;
        }
        Outcome::Ok(())
    })
}

/// Opens the store of the app that was killed. Its process is gone as soon as its tasks are.
async fn resume(scene: &Scene, brand: &Deployment) -> Outcome<Client> {
    for _ in 0..100 {
        match scene.builder(brand, "alice").resume().await {
            Ok(client) => {
                client.start_sync()?;
                return Ok(client);
            }
            Err(herold::ClientError::Store(herold::StoreError::Locked { .. })) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err("the killed app still holds its store".into())
}

async fn side_by_side(room: &OwnedRoomId, events: &[&OwnedEventId], people: &[&Client]) -> Outcome {
    println!("\n{:<42} {:<42} {:<42}", "Alice (Amtsbote)", "Bob (Klinikfunk)", "Bob's tablet");
    for event in events {
        let mut line = String::new();
        for client in people {
            let text = shown(client, room, event).await?;
            let name = text.split_once('-').map_or(text.as_str(), |(name, _)| name);
            let said = text.split_once(": ").map_or(String::new(), |(_, said)| format!(": {said}"));
            line.push_str(&format!(
                "{:<42} ",
                if said.is_empty() { text } else { format!("{name}{said}") }
            ));
        }
        println!("{}", line.trim_end());
    }
    Ok(())
}

/// Prints and checks what went to the homeserver.
fn what_the_server_saw(scene: &Scene, room: &OwnedRoomId) -> Outcome {
    println!("\nWhat the homeserver saw");
    let mut kinds = BTreeSet::new();
    let mut ciphertexts = 0;
    for seen in scene.wire.seen() {
        let text = String::from_utf8_lossy(&seen.body).into_owned();
        for secret in ["Good morning", "through a crash", "tablet, too", "cannot read", FILE_NAME] {
            ensure(!text.contains(secret), &format!("{} has {secret:?} in it", seen.path))?;
        }
        ensure(!text.contains("Monday: Alice"), "the file went up in the clear")?;
        ensure(!text.contains("session_key"), "a room key went out in the clear")?;
        if seen.method != "PUT" {
            continue;
        }
        let parts: Vec<&str> = seen.path.split('/').collect();
        if let Some(kind) = parts.iter().position(|part| *part == "sendToDevice") {
            let kind = parts.get(kind + 1).copied().unwrap_or_default();
            ensure(kind != "m.room_key", "a room key went out in the clear")?;
            kinds.insert(format!("to-device {kind}"));
        } else if let Some(send) = parts.iter().position(|part| *part == "send") {
            let kind = parts.get(send + 1).copied().unwrap_or_default();
            ensure(kind == "m.room.encrypted", "a message went out in the clear")?;
            let content: Value = serde_json::from_str(&text)?;
            let ciphertext = content["ciphertext"].as_str().unwrap_or_default();
            println!(
                "  {kind}  {} bytes of Megolm: {}...",
                ciphertext.len(),
                ciphertext.get(..48).unwrap_or(ciphertext)
            );
            ciphertexts += 1;
        }
    }
    for kind in kinds {
        println!("  {kind}");
    }
    ensure(ciphertexts >= 6, &format!("only {ciphertexts} messages went to {room}"))
}

/// No clear word is in any file of any store.
fn ciphertext_on_disk(folder: &Path) -> Outcome {
    let mut bytes = 0;
    for store in std::fs::read_dir(folder)? {
        for file in std::fs::read_dir(store?.path())? {
            let content = std::fs::read(file?.path())?;
            bytes += content.len();
            for secret in ["Good morning", "through a crash", FILE_NAME] {
                let clear = content.windows(secret.len()).any(|part| part == secret.as_bytes());
                ensure(!clear, &format!("{secret:?} is in a store's file"))?;
            }
        }
    }
    println!("  and on the devices' disks: {} kB, none of it clear", bytes / 1024);
    Ok(())
}
