//! An app and its notification process on one store, both alive at once and either killed at random instants
//! (behaviour 41 and 42). The children are this test program itself, over the default transport.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use common::{Net, device, http::serve, password, room_of};
use herold::{
    Client, ClientBuilder, ClientError, Deployment, EventId, Policy, Recipients, RoomEvent, RoomId,
    StoreKey,
};
use serde_json::Value;
use tokio::sync::mpsc;

/// Where a child finds its store; only a child has it.
const FOLDER: &str = "HEROLD_TEST_FOLDER";
/// How many times one of the two does something: a shorter run for the impatient.
const ALTERNATIONS: &str = "HEROLD_TEST_ALTERNATIONS";
const PATIENCE: Duration = Duration::from_secs(120);

fn shared(folder: &Path) -> ClientBuilder {
    let policy = Policy { recipients: Recipients::AllDevices, ..Policy::default() };
    ClientBuilder::new()
        .deployment(Deployment { policy, ..Deployment::default() })
        .store_path(folder.join("store"))
        .store_key(StoreKey::raw([7; 32]))
        .shared_store(true)
}

/// A process that does what it is told, a line at a time: `app` or `notification`, as it is named by its first line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_does_as_it_is_told() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let (sender, mut lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let _ = sender.send(line.unwrap());
        }
    });
    let client = shared(Path::new(&folder)).resume().await.unwrap();
    let is_app = lines.recv().await.unwrap() == "app";
    if is_app {
        client.start_sync().unwrap();
    }
    println!("\n> ready");
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let room = RoomId::parse(words[1]).unwrap();
        let answer = match words[0] {
            "send" => client.send_text(&room, words[2]).await.map(|id| id.to_string()),
            _ => {
                let event_id = EventId::parse(words[2]).unwrap();
                let event = if is_app {
                    client.wait_for_event(&room, &event_id, PATIENCE).await
                } else {
                    decrypt_pushed(&client, &room, &event_id).await
                };
                event.map(|event| text(&event).unwrap_or_else(|| "unreadable".to_owned()))
            }
        };
        match answer {
            Ok(answer) => println!("> {answer}"),
            Err(error) => println!("> failed: {error}"),
        }
    }
}

/// What a notification process does: fetches the event, and looks for its key by single round trips.
async fn decrypt_pushed(
    client: &Client,
    room: &RoomId,
    event_id: &EventId,
) -> Result<RoomEvent, ClientError> {
    loop {
        let event = client.fetch_event(room, event_id).await?;
        if event.body.is_ok() {
            return Ok(event);
        }
        client.sync_once(Duration::ZERO).await?;
    }
}

fn text(event: &RoomEvent) -> Option<String> {
    let content: Value = serde_json::from_str(&event.body.as_ref().ok()?.content).unwrap();
    content["body"].as_str().map(str::to_owned)
}

struct Peer {
    child: Child,
    input: ChildStdin,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Peer {
    async fn start(role: &str, folder: &Path) -> Self {
        let mut peer = Self::spawn(folder);
        peer.begin(role).await;
        peer
    }

    async fn begin(&mut self, role: &str) {
        self.tell(role);
        assert_eq!(self.answer().await, "ready");
    }

    fn spawn(folder: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "child_that_does_as_it_is_told", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(answer) = line.strip_prefix("> ") {
                    let _ = sender.send(answer.to_owned());
                }
            }
        });
        Self { child, input, lines }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    async fn answer(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.recv()).await;
        line.expect("in time").expect("the child lives")
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The session, and the message index: the first field of a Megolm message, after its version.
fn place(content: &Value) -> (String, u32) {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |byte: u8| digits.iter().position(|digit| *digit == byte).unwrap();
    let ciphertext = content["ciphertext"].as_str().unwrap();
    let mut bytes = Vec::new();
    for four in ciphertext.as_bytes()[..16].chunks(4) {
        let word = four.iter().fold(0, |word, byte| word << 6 | digit(*byte));
        bytes.extend_from_slice(&u32::try_from(word).unwrap().to_be_bytes()[1..]);
    }
    assert_eq!(bytes[..2], [3, 8]);
    let mut index = 0;
    for (place, byte) in bytes[2..7].iter().enumerate() {
        index |= u32::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    (content["session_id"].as_str().unwrap().to_owned(), index)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_150_alternations_everything_is_readable_in_both_and_no_index_is_used_twice() {
    let alternations = env::var(ALTERNATIONS).map_or(150, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let net = Net::new();
    let (url, _) = serve(net.clone()).await;
    let bob = device(&net, "bob").await;
    let alice =
        shared(folder.path()).homeserver(&url).login("alice", password(), None).await.unwrap();
    common::ready(&alice).await;
    let room = room_of(&alice, &bob).await;
    alice.close().await.unwrap();

    let mut dice = Dice(42);
    let roles = ["app", "notification"];
    let mut peers =
        [Peer::start(roles[0], folder.path()).await, Peer::start(roles[1], folder.path()).await];
    // What Bob has sent, and what the two have been told was sent.
    let mut to_alice = BTreeMap::new();
    let mut to_bob = BTreeMap::new();
    let mut kills = 0;
    for number in 0..alternations {
        let who = usize::try_from(dice.below(2)).unwrap();
        let victim = (dice.below(3) == 0).then(|| usize::try_from(dice.below(2)).unwrap());
        let instant = Duration::from_micros(dice.below(60_000));
        let reads = dice.below(2) == 0;
        let words = format!("message {number}");
        let order = if reads {
            let event_id = bob.send_text(&room, &words).await.unwrap();
            to_alice.insert(event_id.clone(), words.clone());
            format!("read {room} {event_id}")
        } else {
            format!("send {room} {words}")
        };
        peers[who].tell(&order);
        let mut answer = None;
        if let Some(victim) = victim {
            kills += 1;
            answer = tokio::time::timeout(instant, peers[who].lines.recv()).await.ok().flatten();
            let fresh = Peer::spawn(folder.path());
            std::mem::replace(&mut peers[victim], fresh).kill();
            peers[victim].begin(roles[victim]).await;
            if answer.is_none() && victim == who {
                if !reads {
                    continue; // queued or not: if it is, the other one sends it too
                }
                peers[who].tell(&order);
            }
        }
        let answer = match answer {
            Some(answer) => answer,
            None => peers[who].answer().await,
        };
        if reads {
            assert_eq!(answer, words, "{} {number}", roles[who]);
        } else {
            let event_id = EventId::parse(&answer).unwrap_or_else(|_| panic!("{answer}"));
            assert!(to_bob.insert(event_id, words).is_none());
        }
    }
    // Everything is readable in both.
    for (who, peer) in peers.iter_mut().enumerate() {
        for (event_id, words) in &to_alice {
            peer.tell(&format!("read {room} {event_id}"));
            assert_eq!(peer.answer().await, *words, "{}", roles[who]);
        }
    }
    for (event_id, words) in &to_bob {
        let event = bob.wait_for_event(&room, event_id, PATIENCE).await.unwrap();
        assert_eq!(text(&event).as_ref(), Some(words));
    }
    for peer in peers {
        peer.kill();
    }
    let (mut used, mut said) = (BTreeSet::new(), BTreeSet::new());
    let events = net.server.lock().unwrap().events(room.as_str());
    for event in events.iter().filter(|event| event["type"] == "m.room.encrypted") {
        assert!(used.insert(place(&event["content"])), "an index was used twice: {event}");
        let event_id = EventId::parse(event["event_id"].as_str().unwrap()).unwrap();
        let event = bob.wait_for_event(&room, &event_id, PATIENCE).await.unwrap();
        let words = text(&event).expect("whatever was sent is readable");
        assert!(said.insert(words.clone()), "{words} was sent twice");
    }
    println!("{alternations} alternations, {kills} kills, {} messages", said.len());
    bob.close().await.unwrap();
}
