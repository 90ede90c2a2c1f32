//! What a scenario has at hand: two implementations, their server, and words to say what should be.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde_json::{Value, json};

use crate::error::{Context, Error, Result, ensure, fail};
use crate::peer::{GRACE, Peer, WAIT, text};
use crate::synapse::{PASSWORD, Synapse};

/// The implementation under test: held to more than the foreign ones.
pub const OURS: &str = "herold";

/// A client that can be started as a peer.
#[derive(Debug, Clone)]
pub struct Implementation {
    /// `herold`, `js`, `nio` or `sdk`.
    pub name: &'static str,
    /// Program and arguments.
    pub command: Vec<PathBuf>,
    /// What it says that it can do.
    pub features: Vec<String>,
}

impl Implementation {
    /// Whether it can do one of these.
    pub fn can(&self, features: &[&str]) -> bool {
        features.iter().any(|wanted| self.features.iter().any(|have| have == wanted))
    }
}

/// One run of one scenario.
pub struct World<'a> {
    /// The server and the proxy in front of it.
    pub server: &'a Synapse,
    /// Who begins.
    pub a: &'a Implementation,
    /// Who is written to.
    pub b: &'a Implementation,
    folder: PathBuf,
    /// Herold's devices synchronise by simplified sliding sync.
    pub sliding: AtomicBool,
    ours: Mutex<Vec<(String, PathBuf)>>,
    secrets: Mutex<Vec<String>>,
}

impl<'a> World<'a> {
    /// A world of which nothing has happened; its files go to `folder`.
    pub fn new(
        server: &'a Synapse,
        a: &'a Implementation,
        b: &'a Implementation,
        folder: PathBuf,
    ) -> Self {
        let sliding = AtomicBool::new(false);
        let (ours, secrets) = (Mutex::default(), Mutex::default());
        Self { server, a, b, folder, sliding, ours, secrets }
    }

    /// Logs a new device of the user in.
    ///
    /// # Errors
    ///
    /// It cannot log in.
    pub fn login(&self, implementation: &Implementation, label: &str, user: &str) -> Result<Peer> {
        let folder = self.folder.join(label);
        if implementation.name == OURS {
            let mut ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
            ours.push((user.to_owned(), folder.clone()));
        }
        let label = format!("{label} ({})", implementation.name);
        let mut peer = Peer::start(label, &implementation.command, folder)?;
        let sliding = implementation.name == OURS && self.sliding.load(Ordering::Relaxed);
        let sync = sliding.then_some("sliding");
        peer.login(&self.server.proxy.url(), user, PASSWORD, sync)?;
        Ok(peer)
    }

    /// Logs a new user in.
    fn newcomer(&self, implementation: &Implementation, label: &str) -> Result<Peer> {
        self.login(implementation, label, &self.server.register(&label.to_lowercase())?)
    }

    /// A and B, logged in at the same time.
    ///
    /// # Errors
    ///
    /// One of them cannot log in.
    pub fn two(&self) -> Result<(Peer, Peer)> {
        thread::scope(|scope| {
            let a = scope.spawn(|| self.newcomer(self.a, "A"));
            let b = self.newcomer(self.b, "B");
            match a.join() {
                Ok(a) => Ok((a?, b?)),
                Err(_) => fail("a thread of the runner panicked"),
            }
        })
    }

    /// A third user, on B's software.
    ///
    /// # Errors
    ///
    /// It cannot log in.
    pub fn third(&self) -> Result<Peer> {
        self.newcomer(self.b, "C")
    }

    /// A path for a file that peers pass to each other.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Has it looked for wherever Herold's devices leave something.
    pub fn keep_secret(&self, secret: &str) {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).push(secret.to_owned());
    }

    /// Whatever Herold's devices of this run have done wrong that no scenario asks for: on the wire,
    /// in their logs, in their stores.
    ///
    /// # Errors
    ///
    /// Something was done wrong.
    pub fn inspect(&self) -> Result<()> {
        let ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = HashSet::new();
        for (user, folder) in ours.iter() {
            if seen.insert(user) {
                let offences = self.server.proxy.offences(user);
                ensure(offences.is_empty(), || format!("{user}: {}", offences.join("; ")))?;
            }
            let mut secrets = self.server.proxy.tokens(user);
            secrets.push(PASSWORD.to_owned());
            secrets.extend(self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone());
            no_secret_in(&folder.join("stderr.log"), &secrets)?;
            no_secret_in(&folder.join("store"), &secrets)?;
        }
        Ok(())
    }
}

/// Looks for the secrets in a file, or in all files of a folder.
fn no_secret_in(path: &Path, secrets: &[String]) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            no_secret_in(&entry?.path(), secrets)?;
        }
        return Ok(());
    }
    let bytes = fs::read(path).context(path.display())?;
    let found =
        secrets.iter().any(|secret| bytes.windows(secret.len()).any(|w| w == secret.as_bytes()));
    ensure(!found, || format!("a password, access token or key is readable in {}", path.display()))
}

/// A room of A's that the others have joined.
///
/// # Errors
///
/// A peer failed.
pub fn make_room(a: &mut Peer, others: &mut [&mut Peer], options: Value) -> Result<String> {
    let room = make_room_of_invited(a, others, options)?;
    for other in others.iter_mut() {
        other.call("join", json!({"room": room}))?;
        let user = other.user().to_owned();
        a.wait_member(&room, &user, "join")?;
        other.wait_member(&room, a.user(), "join")?;
    }
    Ok(room)
}

/// A room of A's that the others are invited to.
///
/// # Errors
///
/// A peer failed.
pub fn make_room_of_invited(
    a: &mut Peer,
    others: &mut [&mut Peer],
    mut options: Value,
) -> Result<String> {
    options["invite"] = others.iter().map(|other| json!(other.user())).collect();
    let room = text(&a.call("create_room", options)?, "room");
    for other in others.iter_mut() {
        let user = other.user().to_owned();
        other.wait_member(&room, &user, "invite")?;
    }
    Ok(room)
}

/// The peer reads the event, and it is what the sender has sent.
///
/// # Errors
///
/// It does not.
pub fn reads(
    reader: &mut Peer,
    room: &str,
    event: &str,
    sender: &str,
    body: &str,
) -> Result<Value> {
    let message = reader.wait("wait_message", WAIT, json!({"room": room, "event_id": event}))?;
    let label = reader.label();
    ensure(message["encrypted"] == true, || format!("{label}: {event} came in the clear"))?;
    ensure(message["decrypted"] == true, || {
        format!("{label} cannot read {event} of {sender}: {}", message["utd"])
    })?;
    ensure(message["sender"] == sender, || {
        format!("{label}: {event} is of {}", message["sender"])
    })?;
    ensure(message["body"] == body, || {
        let got: String = message["body"].to_string().chars().take(200).collect();
        format!("{label}: {event} is {got}")
    })?;
    Ok(message)
}

/// The peer does not get to read the event; not even to see it is as good.
///
/// # Errors
///
/// It does read it.
pub fn never_reads(reader: &mut Peer, room: &str, event: &str, why: &str) -> Result<()> {
    match reader.wait("wait_message", GRACE, json!({"room": room, "event_id": event})) {
        Ok(message) => {
            ensure(message["decrypted"] == false, || format!("{} reads {why}", reader.label()))
        }
        Err(Error::Failed(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Sends a text that all the readers read; the session that it was sent with.
///
/// # Errors
///
/// One of them does not.
pub fn say(sender: &mut Peer, room: &str, body: &str, readers: &mut [&mut Peer]) -> Result<String> {
    let event = sender.send(room, body)?;
    let mut session = String::new();
    for reader in readers.iter_mut() {
        session = text(&reads(reader, room, &event, sender.user(), body)?, "session_id");
    }
    Ok(session)
}
