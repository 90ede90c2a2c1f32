//! Playing a schedule.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use herold::{DecryptTrust, Membership, OwnedRoomId, Policy, Recipients};
use herold_store::MemoryStore;
use serde_json::json;

use super::{
    Action, Profile, Report,
    action::Dice,
    attack::Villains,
    check,
    identity::Users,
    model::{Candidate, Message, Readers},
};
use crate::{CrossSigning, Encrypted, Faults, Kill, World, open_policy};

/// A client that has failed to reach a server tries again after so many milliseconds at the latest.
const LONGEST_PAUSE: u64 = 3_600_000;

/// The first device of each user: it is never logged out or copied.
pub(super) const FIRST: [usize; 4] = [0, 2, 3, 4];
/// No more devices than this: a run is to be short.
const MAX_DEVICES: usize = 9;

/// What the simulation knows of a device, beside the world.
#[derive(Clone, Debug, Default)]
pub(super) struct DeviceState {
    /// The stream position by which its owner's signature was.
    pub(super) signed: Option<u64>,
    /// The devices it has blocked.
    pub(super) blocked: BTreeSet<usize>,
    /// Those it has blocked at some time.
    pub(super) ever_blocked: BTreeSet<usize>,
    pub(super) logged_out: bool,
    /// Its disk was put back: what it can read, and what it does, is not held against it.
    pub(super) rolled_back: bool,
    /// It runs twice, or is the copy: nor is it then.
    pub(super) copied: bool,
}

/// A run under way.
pub(super) struct Sim {
    pub(super) world: World,
    pub(super) profile: Profile,
    pub(super) rooms: Vec<OwnedRoomId>,
    pub(super) users: Vec<String>,
    pub(super) identities: BTreeMap<String, CrossSigning>,
    pub(super) states: Vec<DeviceState>,
    pub(super) messages: Vec<Message>,
    pub(super) villains: Villains,
    /// The users whose devices cannot be had from the server at present, or not as they are.
    /// Until this time.
    pub(super) unreachable: BTreeMap<String, u64>,
    /// Only signed devices are sent keys.
    strict: bool,
    images: BTreeMap<usize, MemoryStore>,
    /// A device of the world, and the commit that is its process's last.
    planned: Option<(usize, Kill)>,
    /// How many commits each device had made before the first action, or when it was logged in.
    pub(super) born: Vec<u64>,
    /// What the users have said and done, where the profile has identities.
    pub(super) users_word: Users,
    /// What was wrong on the way.
    pub(super) wrong: Vec<String>,
    pub(super) report: Report,
}

/// Plays a schedule and lets the world heal.
///
/// # Errors
/// What is wrong in the end, or what broke on the way.
pub fn run(seed: u64, profile: Profile, actions: &[Action]) -> Result<Report, String> {
    run_with_kill(seed, profile, actions, None).map(|(report, _)| report)
}

/// As [`run`], with one more kill: of this device of the world, at this commit since it was made. It strikes wherever the
/// commit is made, while the world heals too. Answers also the numbers of the commits that each device made from the
/// first action on, or since it was logged in.
///
/// # Errors
/// As [`run`].
pub fn run_with_kill(
    seed: u64,
    profile: Profile,
    actions: &[Action],
    kill: Option<(usize, Kill)>,
) -> Result<(Report, Vec<std::ops::Range<u64>>), String> {
    crate::random::restart(seed);
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut sim = Sim::new(seed, profile);
        sim.begin(kill);
        for action in actions {
            sim.play(*action);
        }
        sim.heal();
        let commits = sim.commits();
        let checked = check::check(&mut sim);
        if std::env::var_os("SIM_LOG").is_some() {
            sim.dump();
        }
        checked?;
        Ok((sim.finish(), commits))
    }));
    match played {
        Ok(result) => result,
        Err(cause) => {
            let text = cause
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("it broke: {}", text.unwrap_or_default()))
        }
    }
}

impl Sim {
    /// Four users on two servers, five devices, two rooms, everybody in both.
    fn new(seed: u64, profile: Profile) -> Self {
        let mut dice = Dice::new(!seed);
        let mut sim = Self {
            world: World::new(seed),
            profile,
            rooms: Vec::new(),
            users: Vec::new(),
            identities: BTreeMap::new(),
            states: Vec::new(),
            messages: Vec::new(),
            villains: Villains::default(),
            unreachable: BTreeMap::new(),
            // Who believes every device that the server names is not attacked by one more.
            strict: profile.has_identities()
                || profile.includes(Profile::Hostile)
                || dice.below(3) == 0,
            images: BTreeMap::new(),
            planned: None,
            born: Vec::new(),
            users_word: Users::default(),
            wrong: Vec::new(),
            report: Report::default(),
        };
        for name in ["alice", "alice", "bob", "carol", "@dora:far.test"] {
            sim.log_in(name, true);
        }
        for (settings, visibility) in [
            (json!({ "rotation_period_msgs": 1 + dice.below(8) }), "shared"),
            (json!({ "rotation_period_ms": 3_600_000 * (1 + dice.below(60)) }), "joined"),
        ] {
            let members = &FIRST[..1 + usize::try_from(dice.below(4)).unwrap_or(0)];
            let room = sim.world.make_room_with(members, settings, visibility);
            sim.rooms.push(room);
        }
        if profile.includes(Profile::Hostile) {
            sim.villains = Villains::enter(&mut sim.world, &sim.rooms);
        }
        sim.note_all();
        sim
    }

    /// The first action is next.
    fn begin(&mut self, planned: Option<(usize, Kill)>) {
        self.planned = planned;
        for device in &self.world.devices {
            self.born.push(device.disk.commits());
        }
        if let Some((device, kill)) = planned
            && let Some(device) = self.world.devices.get(device)
        {
            device.disk.plan(kill);
        }
    }

    fn commits(&self) -> Vec<std::ops::Range<u64>> {
        let devices = self.world.devices.iter();
        devices.zip(&self.born).map(|(device, born)| *born..device.disk.commits()).collect()
    }

    pub(super) fn log_in(&mut self, name: &str, sign: bool) {
        let policy = if self.strict {
            Policy {
                recipients: Recipients::IdentityBased,
                decrypt_trust: DecryptTrust::Any,
                ..Policy::default()
            }
        } else {
            open_policy()
        };
        let device = self.world.add_device_with(name, policy);
        self.states.push(DeviceState::default());
        if !self.born.is_empty() {
            let disk = &self.world.devices[device].disk;
            self.born.push(disk.commits());
            if let Some((_, kill)) = self.planned.filter(|(planned, _)| *planned == device) {
                disk.plan(kill);
            }
        }
        let user = self.world.devices[device].user_id.to_string();
        if !self.users.contains(&user) {
            self.users.push(user.clone());
        }
        if self.strict && !self.profile.has_identities() && !self.identities.contains_key(&user) {
            let identity = CrossSigning::upload(&mut self.world, device);
            self.identities.insert(user.clone(), identity);
        }
        // Not the whole world: a server may be dead.
        for _ in 0..8 {
            self.world.pump(device);
            self.world.sync(device);
        }
        if self.profile.has_identities() && !self.users_word.has_identity(&user) {
            self.bootstrap(device, false);
        }
        if sign {
            self.sign(device);
        }
    }

    fn sign(&mut self, device: usize) {
        let user = self.world.devices[device].user_id.to_string();
        let state = &self.states[device];
        if state.signed.is_some()
            || self.world.devices[device].published.is_none()
            || state.logged_out
        {
            return;
        }
        if self.profile.has_identities() {
            self.take_over(device);
        } else if let Some(identity) = self.identities.get(&user)
            && !self.is_unreachable(&user)
        {
            self.world.server.limit_requests(0, 0);
            identity.sign_device(&mut self.world, device);
            self.states[device].signed = Some(self.world.server.position());
        }
    }

    pub(super) fn device(&self, number: u8) -> usize {
        usize::from(number) % self.world.devices.len()
    }

    pub(super) fn room(&self, number: u8) -> OwnedRoomId {
        self.rooms[usize::from(number) % self.rooms.len()].clone()
    }

    pub(super) fn user(&self, number: u8) -> String {
        self.users[usize::from(number) % self.users.len()].clone()
    }

    fn play(&mut self, action: Action) {
        self.report.steps += 1;
        match action {
            Action::Send(device, room) => self.send(self.device(device), self.room(room)),
            Action::Sync(device) => {
                let device = self.device(device);
                if self.may_act(device) {
                    self.world.sync(device);
                }
            }
            Action::Pump(device) => {
                let device = self.device(device);
                if self.may_act(device) {
                    self.world.pump(device);
                }
            }
            Action::Pass(seconds) => {
                self.world.clock.advance(Duration::from_secs(u64::from(seconds)));
            }
            Action::Invite(device, room, user) => {
                let user = self.user(user);
                self.change_membership(device, room, "invite", &user, Membership::Invite);
            }
            Action::Kick(device, room, user) => {
                let user = self.user(user);
                self.change_membership(device, room, "kick", &user, Membership::Leave);
            }
            Action::Join(device, room) => {
                let user = self.world.devices[self.device(device)].user_id.to_string();
                self.change_membership(device, room, "join", &user, Membership::Join);
            }
            Action::Leave(device, room) => {
                let user = self.world.devices[self.device(device)].user_id.to_string();
                self.change_membership(device, room, "leave", &user, Membership::Leave);
            }
            Action::LogIn(user, sign) => {
                // A new device's own first requests are not what is tried here.
                if self.world.devices.len() < MAX_DEVICES {
                    let calm = std::mem::take(&mut self.world.faults);
                    self.world.server.limit_requests(0, 0);
                    self.log_in(&self.user(user), sign);
                    self.world.faults = calm;
                }
            }
            Action::LogOut(device) => self.log_out(self.device(device)),
            Action::Sign(device) => self.sign(self.device(device)),
            Action::Restart(device) => self.world.restart(self.device(device)),
            Action::Online(device, online) => {
                let device = self.device(device);
                if !self.states[device].logged_out {
                    self.world.set_online(device, online);
                }
            }
            Action::Block(by, whom, blocked) => self.block(by, whom, blocked),
            Action::Discard(device, room) => {
                let (device, room) = (self.device(device), self.room(room));
                self.world.command(device, |engine| {
                    engine
                        .step(|machine, snapshot, cx| machine.discard_room_key(snapshot, cx, &room))
                });
            }
            Action::ForJoined(room, joined) => {
                let visibility = if joined { "joined" } else { "shared" };
                let content = json!({ "history_visibility": visibility });
                let path = state_path(&self.room(room), "m.room.history_visibility", "");
                self.world.call(Some(0), "PUT", &path, content);
            }
            Action::Rename(device, room) => {
                let device = self.device(device);
                let user = self.world.devices[device].user_id.to_string();
                let room = self.room(room);
                if self.world.server.members_of(room.as_str(), "join").contains(&user) {
                    let path = state_path(&room, "m.room.member", &user);
                    let name = format!("name {}", self.report.steps);
                    let content = json!({ "membership": "join", "displayname": name });
                    self.world.call(Some(device), "PUT", &path, content);
                }
            }
            Action::Gap(room) => self.world.server.force_gap(self.room(room).as_str()),
            Action::Paginate(device, room) => self.paginate(self.device(device), &self.room(room)),
            Action::LoseOneTimeKeys(device) => {
                let (user, id) = self.names(self.device(device));
                self.world.server.drop_one_time_keys(&user, &id);
            }
            Action::Kill(device, ahead, after) => {
                let disk = &self.world.devices[self.device(device)].disk;
                let commit = disk.commits() + u64::from(ahead);
                disk.kill(if after { Kill::After(commit) } else { Kill::Before(commit) });
            }
            Action::LosePower(device) => {
                let device = self.device(device);
                self.world.lose_power(device);
                self.report.deaths += 1;
                for place in 0..self.messages.len() {
                    let message = &self.messages[place];
                    if message.device == device
                        && self.world.sent(device, &message.txn_id).is_none()
                    {
                        self.messages[place].forgotten = true;
                    }
                }
            }
            Action::Weather(level) => {
                let bad = Faults::BAD_DAY;
                let level = u64::from(level);
                self.world.faults = Faults {
                    request_lost: bad.request_lost * level,
                    answer_lost: bad.answer_lost * level,
                    duplicated: bad.duplicated * level / 2,
                    delayed: bad.delayed * level / 2,
                    truncated: bad.truncated * level / 2,
                    server_error: bad.server_error * level / 2,
                    throttled: bad.throttled * level / 2,
                };
            }
            Action::FarServer(answers) => {
                let dead = if answers { vec![] } else { vec!["far.test".to_owned()] };
                self.world.server.fail_servers(dead);
                let far = self.users.iter().filter(|user| user.ends_with(":far.test")).cloned();
                let far: Vec<String> = far.collect();
                for user in far {
                    let until =
                        if answers { self.world.clock.millis() + LONGEST_PAUSE } else { u64::MAX };
                    // One that has always answered still does.
                    if !answers || self.unreachable.contains_key(&user) {
                        self.unreachable.insert(user, until);
                    }
                }
            }
            Action::Throttle(count) => {
                self.world.server.limit_requests(u32::from(count), 700);
            }
            Action::ClockAhead(device, minutes) => {
                let span = Duration::from_secs(u64::from(minutes) * 60);
                self.world.command(self.device(device), |engine| {
                    engine.advance_clock(span);
                    Ok(())
                });
            }
            Action::RollBack(device) => self.roll_back(self.device(device)),
            Action::Attack(attack, target) => {
                self.report.attacks += 1;
                attack.make(self, target);
            }
            other => self.play_identity(other),
        }
        self.note_all();
    }

    pub(super) fn is_unreachable(&self, user: &str) -> bool {
        self.villains.has_swapped(user) || self.is_out_of_reach(user)
    }

    /// The user's server does not answer, or has not for a while.
    fn is_out_of_reach(&self, user: &str) -> bool {
        self.unreachable.get(user).is_some_and(|until| self.world.clock.millis() < *until)
    }

    pub(super) fn may_act(&self, device: usize) -> bool {
        !self.states[device].logged_out
    }

    pub(super) fn names(&self, device: usize) -> (String, String) {
        let device = &self.world.devices[device];
        (device.user_id.to_string(), device.device_id.clone())
    }

    fn send(&mut self, device: usize, room: OwnedRoomId) {
        if !self.may_act(device) {
            return;
        }
        let body = format!("message {}", self.messages.len());
        let content = json!({ "msgtype": "m.text", "body": body });
        let queued = self.world.queue_event(device, &room, "m.room.message", &content);
        let Ok(txn_id) = queued else { return };
        self.report.messages += 1;
        self.messages.push(Message {
            device,
            room,
            body,
            txn_id,
            readers: None,
            event_id: None,
            failed: false,
            forgotten: false,
        });
    }

    pub(super) fn change_membership(
        &mut self,
        device: u8,
        room: u8,
        action: &str,
        user: &str,
        membership: Membership,
    ) {
        let (device, room) = (self.device(device), self.room(room));
        // The room's maker stays, so that the room lives on.
        if !self.may_act(device) || user == self.users[0] {
            return;
        }
        let path = format!(
            "/_matrix/client/v3/rooms/{}/{action}",
            herold_machine::percent_encode(room.as_str())
        );
        let answer = self.world.call(Some(device), "POST", &path, json!({ "user_id": user }));
        let Ok(user) = user.try_into() else { return };
        if answer.get("errcode").is_none() && matches!(action, "invite" | "kick") {
            // What an app does when its own call was accepted.
            let user: herold::OwnedUserId = user;
            self.world.command(device, |engine| {
                engine.step(|machine, snapshot, cx| {
                    machine.note_membership(snapshot, cx, &room, &user, membership)
                })
            });
        }
    }

    fn log_out(&mut self, device: usize) {
        let state = &self.states[device];
        if FIRST.contains(&device) || state.logged_out || state.copied {
            return;
        }
        self.world.call(Some(device), "POST", "/_matrix/client/v3/logout", json!({}));
        self.world.set_online(device, false);
        self.states[device].logged_out = true;
    }

    fn block(&mut self, by: u8, whom: u8, blocked: bool) {
        let (by, whom) = (self.device(by), self.device(whom));
        let (user, id) = {
            let whom = &self.world.devices[whom];
            (whom.user_id.clone(), whom.device_id.clone())
        };
        let done = self.world.command(by, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.set_blocked(snapshot, cx, &user, id.as_str().into(), blocked)
            })
        });
        // A device that dies over it may have taken it or not.
        let known = self.world.command(by, |engine| {
            engine.read(|machine, snapshot| machine.devices(snapshot, &user))
        });
        let is_blocked = known.map(|known| {
            known.devices.iter().any(|view| view.device.device_id == *id && view.blocked)
        });
        match (done.is_some(), is_blocked) {
            (_, Some(true)) => {
                self.states[by].blocked.insert(whom);
                self.states[by].ever_blocked.insert(whom);
            }
            (_, Some(false)) => {
                self.states[by].blocked.remove(&whom);
            }
            (_, None) => {}
        }
    }

    fn paginate(&mut self, device: usize, room: &OwnedRoomId) {
        if !self.may_act(device) {
            return;
        }
        let request = self.world.command(device, |engine| {
            engine.read(|machine, snapshot| machine.messages_request(snapshot, room, 10))
        });
        let Some(Some(request)) = request else { return };
        let body = self.world.call_http(device, &request).to_string();
        self.world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.handle_messages(snapshot, cx, room, body.as_bytes())
            })
        });
    }

    /// The first time the disk's image is kept, the second time it is put back.
    fn roll_back(&mut self, device: usize) {
        match self.images.remove(&device) {
            None => {
                let image = self.world.devices[device].disk.image();
                self.images.insert(device, image);
            }
            Some(image) => {
                self.world.restart(device);
                self.world.devices[device].disk.restore(image);
                self.states[device].rolled_back = true;
                let (user, id) = self.names(device);
                self.world.oracle.excuse(&user, &id);
            }
        }
    }

    /// Notes which messages were encrypted by the last action.
    fn note_all(&mut self) {
        for encrypted in self.world.take_encrypted() {
            let place = self.messages.iter().position(|message| message.txn_id == encrypted.txn_id);
            let Some(place) = place else { continue };
            if encrypted.in_vain {
                continue;
            }
            let room = self.messages[place].room.clone();
            let mut readers = self.readers(&encrypted, &room);
            if self.profile.has_identities() {
                let before = self.messages[place].readers.take();
                self.doubt(encrypted.device, &mut readers, before.as_ref());
            }
            self.messages[place].readers = Some(readers);
        }
    }

    /// Who may, and who must be able to, read what was encrypted.
    fn readers(&self, encrypted: &Encrypted, room: &OwnedRoomId) -> Readers {
        let mut readers = Readers {
            since: encrypted.since,
            position: encrypted.position,
            may: BTreeSet::new(),
            must: BTreeSet::new(),
            unseen: BTreeSet::new(),
        };
        for (number, state) in self.states.iter().enumerate() {
            let user = self.world.devices[number].user_id.as_str();
            // Of the devices of users who have not joined nobody is told when they change.
            let invited = self.world.server.invited_since(room.as_str(), user, encrypted.since);
            let told = invited.unwrap_or(encrypted.since).min(encrypted.since);
            let by_then = |place: Option<u64>| {
                let is = |limit| place.is_some_and(|place| place <= limit);
                (is(encrypted.position), is(told))
            };
            let span = encrypted.since..=encrypted.position;
            let candidate = Candidate {
                is_sender: number == encrypted.device,
                reads_along: self.world.server.reads_along(room.as_str(), user, span),
                published: by_then(self.world.devices[number].published),
                signed: if self.profile.has_identities() {
                    self.is_signed(number, told, encrypted.position)
                } else if self.strict {
                    by_then(state.signed)
                } else {
                    (true, true)
                },
                blocked: self.states[encrypted.device].blocked.contains(&number),
                reachable: !self.is_unreachable(user),
                logged_in: !state.logged_out,
            };
            if candidate.may() {
                readers.may.insert(number);
            }
            if candidate.reads_along.0 && self.is_out_of_reach(user) {
                readers.unseen.insert(user.to_owned());
            }
            if candidate.must() {
                readers.must.insert(number);
            }
        }
        readers
    }

    /// Everything is made good, and everybody gets the time that recovery takes.
    fn heal(&mut self) {
        self.villains.leave(&mut self.world);
        self.world.faults = Faults::NONE;
        self.world.server.fail_servers(Vec::new());
        self.world.server.limit_requests(0, 0);
        self.world.tamper = None;
        for device in 0..self.world.devices.len() {
            self.world.devices[device].disk.spare();
            if !self.states[device].logged_out {
                self.world.set_online(device, true);
            }
        }
        self.settle();
        if self.profile.has_identities() {
            self.finish_verifications();
        }
        // Sessions are replaced once an hour at most, and it takes one to say so and one to answer.
        for _ in 0..4 {
            self.world.clock.advance(Duration::from_secs(3700));
            self.settle();
            if self.profile.has_identities() && self.acknowledge_all() {
                self.settle();
            }
        }
    }

    pub(super) fn settle(&mut self) {
        self.world.settle();
        self.note_all();
    }

    /// Prints what happened, for whoever looks into a failure.
    #[allow(clippy::print_stderr, reason = "asked for by an environment variable")]
    fn dump(&self) {
        for (number, device) in self.world.devices.iter().enumerate() {
            eprintln!(
                "device {number}: {} {} published {:?}",
                device.user_id, device.device_id, device.published
            );
        }
        for request in self.world.server.requests() {
            eprintln!(
                "{} {} {} {} {} {:?} -> {}",
                request.now_ms,
                request.device.as_deref().unwrap_or("-"),
                request.method,
                request.path,
                String::from_utf8_lossy(&request.body).chars().take(200).collect::<String>(),
                request.query,
                request.status
            );
        }
        for message in &self.messages {
            eprintln!("{message:?}");
        }
    }

    fn finish(mut self) -> Report {
        for device in &self.world.devices {
            self.report.commits += device.disk.commits();
            self.report.deaths += u64::from(device.deaths);
        }
        self.report.faults = self.world.faults_met();
        self.report.requests = self.world.oracle.watched();
        self.report.trace = self.world.oracle.trace();
        self.report
    }
}

fn state_path(room: &OwnedRoomId, kind: &str, key: &str) -> String {
    let encode = herold_machine::percent_encode;
    format!("/_matrix/client/v3/rooms/{}/state/{kind}/{}", encode(room.as_str()), encode(key))
}
