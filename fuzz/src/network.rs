//! Three clients, a homeserver and the net between them, where every exchange goes as the input says.
//!
//! The testkit's `World` draws its faults at random and is made anew for each story; this one is copied
//! from a beginning that is made once for a process.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use arbitrary::Arbitrary;
use herold::{Answer, Clock, Engine, EngineError, Timestamp};
use herold_machine::{Body, HttpRequest, Method, Outgoing};
use herold_store::MemoryStore;
use herold_testkit::{
    Disk, Oracle, World,
    homeserver::{HomeServer, ServerRequest, ServerResponse},
};
use serde_json::{Value, json};

use crate::random::{self, Entropy};

/// How many clients there are: Alice, Bob and Mallory.
pub const PLAYERS: usize = 3;

/// What becomes of an exchange.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fate {
    Arrives,
    AlsoArrives,
    RequestLost,
    AnswerLost,
    Duplicated,
    Late,
    Truncated(u16),
    ServerError,
    Throttled,
    Changed(u16, u8),
}

/// The clock of all.
#[derive(Clone)]
pub struct Time(Arc<AtomicU64>);

impl Clock for Time {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// The beginning: all three know each other and are in one encrypted room.
struct Beginning {
    server: HomeServer,
    now: u64,
    room: String,
    players: Vec<(String, String, String, MemoryStore)>,
    /// Requests that the oracle has to know of: user, device, path, body.
    seen: Vec<(String, String, String, Vec<u8>)>,
    texts: Vec<(String, String)>,
}

fn beginning() -> &'static Beginning {
    static BEGINNING: OnceLock<Beginning> = OnceLock::new();
    BEGINNING.get_or_init(|| {
        random::restart(3);
        let mut world = World::new(3);
        let players: Vec<usize> =
            ["alice", "bob", "mallory"].map(|name| world.add_device(name)).to_vec();
        world.settle();
        let room = world.make_room(&players);
        let mut texts = Vec::new();
        for (device, text) in [(0, "one"), (1, "two"), (2, "three")] {
            world.send(device, &room, text);
            texts.push((world.devices[device].user_id.to_string(), text.to_owned()));
        }
        let seen = world.server.requests().iter().filter_map(|request| {
            let mut body = request.body.to_vec();
            if request.path.ends_with("/keys/upload") {
                // One-time keys are left out: their signatures take long to verify.
                let keys = serde_json::from_slice::<Value>(&body).ok()?["device_keys"].take();
                body = json!({ "device_keys": keys }).to_string().into_bytes();
            } else if !request.path.contains("/send") {
                return None;
            }
            Some((request.user.clone()?, request.device.clone()?, request.path.clone(), body))
        });
        let seen = seen.filter(|(.., body)| !body.starts_with(b"{\"device_keys\":null")).collect();
        let players = world.devices.iter().map(|device| {
            let (user, id) = (device.user_id.to_string(), device.device_id.clone());
            let token = world.server.token_of(&user, &id).expect("logged in").to_owned();
            (user, id, token, device.disk.image())
        });
        let (players, now) = (players.collect(), world.clock.millis());
        let mut server = world.server.clone();
        server.keep_requests(Some(0));
        Beginning { server, now, room: room.to_string(), players, seen, texts }
    })
}

/// One client.
pub struct Player {
    /// Its user.
    pub user: String,
    /// Its device.
    pub device: String,
    /// Its disk.
    pub disk: Disk,
    /// Something changed has been given to it, so the server may have lied to it.
    pub lied_to: bool,
    /// The responses to its syncs.
    pub responses: Vec<Vec<u8>>,
    token: String,
    engine: Option<Engine>,
    late: Vec<(Outgoing, ServerResponse)>,
}

/// All of it.
pub struct Network {
    /// The homeserver.
    pub server: HomeServer,
    /// The clients.
    pub players: Vec<Player>,
    /// What watches the wire.
    pub oracle: Oracle,
    /// The room that all three are in at first.
    pub room: String,
    /// Who has said what before.
    pub texts: Vec<(String, String)>,
    time: Time,
}

impl Network {
    /// The beginning.
    #[must_use]
    pub fn new() -> Self {
        let beginning = beginning();
        random::restart(4);
        let mut oracle = Oracle::default();
        for (user, device, path, body) in &beginning.seen {
            oracle.watch(user, device, path, body, &|_| false);
        }
        let players = beginning.players.iter().map(|(user, device, token, image)| {
            let disk = Disk::new();
            disk.restore(image.clone());
            Player {
                user: user.clone(),
                device: device.clone(),
                disk,
                lied_to: false,
                responses: Vec::new(),
                token: token.clone(),
                engine: None,
                late: Vec::new(),
            }
        });
        Self {
            server: beginning.server.clone(),
            players: players.collect(),
            oracle,
            room: beginning.room.clone(),
            texts: beginning.texts.clone(),
            time: Time(Arc::new(AtomicU64::new(beginning.now))),
        }
    }

    /// The time in milliseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.time.0.load(Ordering::SeqCst)
    }

    /// Lets time pass.
    pub fn wait(&mut self, millis: u64) {
        self.time.0.fetch_add(millis, Ordering::SeqCst);
    }

    /// Runs something on a client's engine, which is started if need be. `None` if it died of it. A step
    /// that ends in an error, but for a death, has changed nothing.
    ///
    /// # Panics
    /// It has; or the client cannot be started.
    pub fn run<T>(
        &mut self,
        who: usize,
        run: impl FnOnce(&mut Engine) -> Result<T, EngineError>,
    ) -> Option<Result<T, EngineError>> {
        let time = self.time.clone();
        let player = &mut self.players[who];
        let engine = player.engine.get_or_insert_with(|| {
            let store = Box::new(player.disk.open());
            Engine::load(store, Arc::new(time), Box::new(Entropy)).expect("it starts again")
        });
        let before = player.disk.commits();
        let result = run(engine);
        if player.disk.is_dead() {
            player.engine = None;
            return None;
        }
        if result.is_err() {
            assert_eq!(before, player.disk.commits(), "a step that failed has been committed");
        }
        Some(result)
    }

    /// Ends a client's process.
    pub fn restart(&mut self, who: usize) {
        self.players[who].engine = None;
    }

    /// The power fails.
    pub fn lose_power(&mut self, who: usize) {
        self.restart(who);
        self.players[who].disk.lose_power();
    }

    /// A request of an app's own.
    pub fn call(&mut self, who: usize, method: &str, path: &str, body: &Value) -> Value {
        let request = ServerRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            query: Vec::new(),
            access_token: Some(self.players[who].token.clone()),
            content_type: Some("application/json".to_owned()),
            body: body.to_string().into_bytes(),
        };
        let response = self.server.handle(self.now(), &request);
        serde_json::from_slice(&response.body).unwrap_or(Value::Null)
    }

    /// Whether the server has something that a client has not seen; `None` if it died over the question.
    pub fn has_news(&mut self, who: usize) -> Option<bool> {
        let request =
            self.run(who, |engine| engine.read(|machine, store| machine.sync_request(store, 0)))?;
        let request = self.request(who, &request.expect("a sync request"));
        Some(self.server.has_news(&request))
    }

    /// One sync. Whether there was a reason to.
    pub fn sync(&mut self, who: usize, fate: Fate) -> bool {
        if self.has_news(who) == Some(false) {
            return false;
        }
        let request =
            self.run(who, |engine| engine.read(|machine, store| machine.sync_request(store, 0)));
        let Some(Ok(request)) = request else { return true };
        let Some(response) = self.exchange(who, &request, fate) else { return true };
        if response.status != 200 {
            return true;
        }
        for _ in 0..if fate == Fate::Duplicated { 2 } else { 1 } {
            self.take_sync(who, &response.body);
        }
        self.players[who].responses.push(response.body);
        true
    }

    /// Gives a client a sync response, as if it came just now.
    pub fn take_sync(&mut self, who: usize, body: &[u8]) {
        self.run(who, |engine| {
            engine.step(|machine, store, cx| machine.handle_sync(store, cx, body))
        });
    }

    /// Makes every request that is due. Whether there was one.
    ///
    /// # Panics
    /// The client cannot say what is due.
    pub fn pump(&mut self, who: usize, fates: &[Fate]) -> bool {
        let mut fates = fates.iter().copied();
        let Some(due) = self.run(who, Engine::due_requests) else { return true };
        let due = due.expect("what is due can be said");
        let any = due.changed || !due.reply.is_empty();
        for outgoing in due.reply {
            let fate = fates.next().unwrap_or(Fate::Arrives);
            let response = self.exchange(who, &outgoing.http, fate);
            match (fate, response) {
                (Fate::Late, Some(response)) => self.players[who].late.push((outgoing, response)),
                (Fate::Duplicated, Some(response)) => {
                    self.answer(who, &outgoing, Some(&response));
                    self.answer(who, &outgoing, Some(&response));
                }
                (_, response) => self.answer(who, &outgoing, response.as_ref()),
            }
        }
        any
    }

    /// The answers that were late come.
    pub fn deliver_late(&mut self, who: usize) -> bool {
        let late = std::mem::take(&mut self.players[who].late);
        for (outgoing, response) in &late {
            self.answer(who, outgoing, Some(response));
        }
        !late.is_empty()
    }

    /// Without any more faults, until nothing is left to do.
    ///
    /// # Panics
    /// There is no end.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..1000 {
            let mut busy = false;
            for who in 0..self.players.len() {
                busy |= self.pump(who, &[]);
                busy |= self.sync(who, Fate::Arrives);
                busy |= self.deliver_late(who);
            }
            if busy {
                quiet = 0;
                continue;
            }
            let now = self.now();
            let mut soonest: Option<u64> = None;
            for who in 0..self.players.len() {
                let time = self.run(who, |engine| engine.next_timeout());
                if let Some(Ok(Some(at))) = time {
                    soonest = Some(soonest.map_or(at.as_millis(), |s| s.min(at.as_millis())));
                }
            }
            quiet += 1;
            match soonest.filter(|at| *at <= now + 2 * 3_600_000) {
                Some(at) if quiet < 20 => self.wait(at.saturating_sub(now).max(1)),
                _ => return,
            }
        }
        panic!("the clients do not come to rest");
    }

    fn answer(&mut self, who: usize, outgoing: &Outgoing, response: Option<&ServerResponse>) {
        let answer = match response {
            None => Answer::Failed,
            Some(response) => Answer::Response {
                status: response.status,
                retry_after_ms: response.retry_after_ms,
                body: &response.body,
            },
        };
        if let Some(taken) = self.run(who, |engine| engine.answer(outgoing, answer)) {
            taken.expect("an answer is taken");
        }
    }

    fn exchange(&mut self, who: usize, http: &HttpRequest, fate: Fate) -> Option<ServerResponse> {
        let request = self.request(who, http);
        let (user, device) = (&self.players[who].user, &self.players[who].device);
        let server = &self.server;
        let encrypted = |room: &str| {
            server.events(room).iter().any(|event| event["type"] == "m.room.encryption")
        };
        self.oracle.watch(user, device, &request.path, &request.body, &encrypted);
        let now = self.now();
        let failure = |status: u16, errcode: &str, retry_after_ms| ServerResponse {
            status,
            retry_after_ms,
            content_type: "application/json".to_owned(),
            body: json!({ "errcode": errcode }).to_string().into_bytes(),
        };
        match fate {
            Fate::RequestLost => None,
            Fate::ServerError => Some(failure(502, "M_UNKNOWN", None)),
            Fate::Throttled => Some(failure(429, "M_LIMIT_EXCEEDED", Some(1500))),
            Fate::AnswerLost => {
                self.server.handle(now, &request);
                None
            }
            Fate::Truncated(at) => {
                let mut response = self.server.handle(now, &request);
                let length = response.body.len();
                response.body.truncate(usize::from(at) % length.max(1));
                Some(response)
            }
            Fate::Changed(at, with) => {
                let mut response = self.server.handle(now, &request);
                let length = response.body.len();
                if length > 0 && with != 0 {
                    response.body[usize::from(at) % length] ^= with;
                    self.players[who].lied_to = true;
                }
                Some(response)
            }
            Fate::Duplicated => {
                self.server.handle(now, &request);
                Some(self.server.handle(now, &request))
            }
            Fate::Arrives | Fate::AlsoArrives | Fate::Late => {
                Some(self.server.handle(now, &request))
            }
        }
    }

    fn request(&self, who: usize, http: &HttpRequest) -> ServerRequest {
        let (content_type, body) = match &http.body {
            Body::Empty => (None, Vec::new()),
            Body::Json(text) => (Some("application/json".to_owned()), text.clone().into_bytes()),
            Body::Bytes { content_type, data } => (Some(content_type.clone()), data.clone()),
        };
        let method = match http.method {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        };
        ServerRequest {
            method: method.to_owned(),
            path: http.path.clone(),
            query: http.query.clone(),
            access_token: http.authenticated.then(|| self.players[who].token.clone()),
            content_type,
            body,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}
