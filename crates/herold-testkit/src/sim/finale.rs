//! What the model says where there are identities, and what must work when everything is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use herold::{IdentityState, Shield};

use super::{
    Action, check,
    model::Readers,
    play::{FIRST, Sim},
};

impl Sim {
    /// The actions of the profile.
    pub(super) fn play_identity(&mut self, action: Action) {
        match action {
            Action::Bootstrap(device, replace) => {
                let device = self.device(device);
                if self.may_act(device) && !self.states[device].copied {
                    self.bootstrap(device, replace);
                }
            }
            Action::Acknowledge(device, user) => {
                let user = self.user(user);
                self.acknowledge(self.device(device), &user);
            }
            Action::AskToVerify(device, other) => {
                self.ask_to_verify(self.device(device), self.device(other));
            }
            Action::Compare(device) => {
                self.compare(self.device(device));
            }
            Action::MakeBackup(device) => {
                let device = self.device(device);
                if self.may_act(device) && !self.states[device].copied {
                    self.make_backup(device);
                }
            }
            Action::Restore(device) => {
                let device = self.device(device);
                if self.may_act(device) {
                    self.restore(device);
                }
            }
            Action::ShareHistory(number, room, user) => {
                let (device, user) = (self.device(number), self.user(user));
                let room_id = self.room(room);
                if self.may_act(device) && self.joined(device, &room_id) {
                    self.share_history(device, &room_id, &user);
                }
                let invite = herold::Membership::Invite;
                self.change_membership(number, room, "invite", &user, invite);
            }
            Action::JoinWithHistory(number, room) => {
                let device = self.device(number);
                if self.may_act(device) {
                    self.accept_history(device, &self.room(room));
                }
                let user = self.names(device).0;
                let join = herold::Membership::Join;
                self.change_membership(number, room, "join", &user, join);
            }
            Action::Copy(device) => self.copy(self.device(device)),
            Action::TakeTurns(device, frozen) => {
                let device = self.device(device);
                if self.may_act(device) {
                    self.world.take_turns(device, frozen);
                }
            }
            _ => {}
        }
    }

    /// Whether a device was signed by its owner at some time, and at all times, from the place a sender could know of
    /// until it encrypted.
    pub(super) fn is_signed(&self, device: usize, told: u64, position: u64) -> (bool, bool) {
        let (user, id) = self.names(device);
        let spans = self.world.server.signed_spans(&user, &id);
        // Whose server does not answer is taken as last seen.
        let blind = self.unreachable.contains_key(&user);
        let ever = |(start, end): &(u64, Option<u64>)| {
            *start <= position && (blind || end.is_none_or(|end| end > told))
        };
        let always = |(start, end): &(u64, Option<u64>)| {
            *start <= told && end.is_none_or(|end| end > position)
        };
        (spans.iter().any(ever), spans.iter().any(always))
    }

    /// Takes back what a message's sender does not owe: it doubts somebody's identity, or runs twice.
    pub(super) fn doubt(&mut self, sender: usize, readers: &mut Readers, before: Option<&Readers>) {
        for user in self.users.clone() {
            if self.identity_state(sender, &user).is_none_or(IdentityState::is_violation) {
                let devices = &self.world.devices;
                readers.must.retain(|device| {
                    *device == sender || devices[*device].user_id.as_str() != user
                });
            }
        }
        // Of a message that two copies have encrypted, either may be the one that counts.
        if let Some(before) = before.filter(|_| self.states[sender].copied) {
            readers.may.extend(&before.may);
            readers.unseen.extend(before.unseen.iter().cloned());
            readers.must.clear();
        }
    }

    /// The pairs of a message, by its place, and a device that may read it besides those it was encrypted for: by its
    /// user's other devices or the backup, or because the room's history was shared.
    pub(super) fn allowed(&self) -> BTreeSet<(usize, usize)> {
        let sessions = self.sessions();
        // Since when each session is there, and whether its room was open to later members then.
        let mut first: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
        for (place, message) in self.messages.iter().enumerate() {
            let (Some(session), Some(readers)) = (sessions.get(&place), &message.readers) else {
                continue;
            };
            let room = message.room.as_str();
            let open = self.world.server.open_history(room, readers.since..=readers.position);
            let known = first.entry(session).or_insert((readers.position, false));
            known.0 = known.0.min(readers.position);
            // Whoever encrypts with it still thinks of it as it was made.
            known.1 |= open;
        }
        let mut allowed = BTreeSet::new();
        let signed: Vec<bool> =
            (0..self.world.devices.len()).map(|device| self.was_signed(device)).collect();
        for (place, message) in self.messages.iter().enumerate() {
            let Some(readers) = &message.readers else { continue };
            let mut users: BTreeSet<&str> = readers
                .may
                .iter()
                .map(|device| self.world.devices[*device].user_id.as_str())
                .collect();
            users.extend(readers.unseen.iter().map(String::as_str));
            if let Some((since, true)) =
                sessions.get(&place).and_then(|session| first.get(session.as_str()))
            {
                let shared = self
                    .users_word
                    .shared
                    .iter()
                    .filter(|(room, _, position)| *room == message.room && *since <= *position);
                users.extend(shared.map(|(_, user, _)| user.as_str()));
            }
            for (device, signed) in signed.iter().enumerate() {
                if *signed && users.contains(self.world.devices[device].user_id.as_str()) {
                    allowed.insert((place, device));
                }
            }
        }
        allowed
    }

    /// The Megolm session of each message that is in its room.
    fn sessions(&self) -> BTreeMap<usize, String> {
        let mut by_event: BTreeMap<String, String> = BTreeMap::new();
        for room in &self.rooms {
            for event in self.world.server.events(room.as_str()) {
                if let (Some(id), Some(session)) =
                    (event["event_id"].as_str(), event["content"]["session_id"].as_str())
                {
                    by_event.insert(id.to_owned(), session.to_owned());
                }
            }
        }
        let of = |(place, message): (usize, &super::model::Message)| {
            let session = by_event.get(message.event_id.as_ref()?.as_str())?;
            Some((place, session.clone()))
        };
        self.messages.iter().enumerate().filter_map(of).collect()
    }

    /// Users do what is left to do in their verifications.
    pub(super) fn finish_verifications(&mut self) {
        if self.acknowledge_all() {
            self.settle();
        }
        for _ in 0..4 {
            let mut any = false;
            for device in 0..self.world.devices.len() {
                any |= self.may_act(device) && self.compare(device);
            }
            if !any {
                return;
            }
            self.settle();
        }
    }

    /// Nobody is verified who was not compared with; and whatever has happened, a new device reads out of the backup
    /// what an older one reads, and two users can verify each other.
    pub(super) fn finale(&mut self) -> Result<(), String> {
        if let Some(wrong) = self.wrong.first() {
            return Err(wrong.clone());
        }
        self.check_verified()?;
        // Not the same one each time: the number of messages is as good as a die.
        let choice = self.messages.len() + self.rooms.len();
        let (one, other) = (FIRST[choice % 4], FIRST[(choice + 1 + choice / 4 % 3) % 4]);
        self.restore_afresh(one)?;
        self.verify_afresh(one, other)?;
        self.check_verified()?;
        match self.world.oracle.violations().first() {
            Some(violation) => Err(violation.clone()),
            None => Ok(()),
        }
    }

    fn identity_is_here(&mut self, device: usize) -> Result<(), String> {
        let user = self.names(device).0;
        self.go_on(&user);
        self.take_over(device);
        self.settle();
        let gone = (0..self.world.devices.len())
            .any(|other| self.names(other).0 == user && self.states[other].logged_out);
        if gone && self.identity_state(device, &user) != Some(IdentityState::Verified) {
            // It went with a device that was logged out: there has to be another.
            self.bootstrap(device, true);
            self.settle();
        }
        match self.identity_state(device, &user) {
            Some(IdentityState::Verified) => Ok(()),
            state => Err(format!("device {device} cannot take its identity over: {state:?}")),
        }
    }

    fn restore_afresh(&mut self, device: usize) -> Result<(), String> {
        self.identity_is_here(device)?;
        let works = |status: &herold_machine::BackupStatus| {
            status.enabled && status.trusted && status.has_key
        };
        if !works(&self.backup_status(device)) {
            self.make_backup(device);
        }
        for _ in 0..4 {
            self.settle();
            if self.backup_status(device).pending == 0 {
                break;
            }
            self.world.clock.advance(Duration::from_secs(3700));
        }
        let status = self.backup_status(device);
        if !works(&status) || status.pending > 0 {
            return Err(format!("the backup of device {device} does not work: {status:?}"));
        }
        self.note_backup_key(device);
        let user = self.names(device).0;
        self.log_in(&user, true);
        let new = self.world.devices.len() - 1;
        self.settle();
        // Who dies over it tries again.
        if self.restore(new).or_else(|| self.restore(new)).is_none() {
            return Err(format!("a new device of {user} cannot restore"));
        }
        for place in 0..self.messages.len() {
            let message = &self.messages[place];
            let Some(event_id) = message.event_id.clone() else { continue };
            let (room, body) = (message.room.clone(), message.body.clone());
            if !self.joined(device, &room)
                || self.world.text(device, &room, &event_id).as_deref() != Ok(body.as_str())
            {
                continue;
            }
            check::hand_over(self, new, &room, &event_id);
            let text = self.world.text(new, &room, &event_id);
            if text.as_deref() != Ok(body.as_str()) {
                return Err(format!(
                    "a new device of {user} cannot read {body:?} out of the backup of device {device}: {text:?}"
                ));
            }
            let shield = self.world.event(new, &room, &event_id).map(|event| event.shield);
            if shield == Some(Shield::None) {
                return Err(format!(
                    "a new device of {user} shows {body:?} as if its key proved it"
                ));
            }
            self.report.restored += 1;
        }
        match self.wrong.first() {
            Some(wrong) => Err(wrong.clone()),
            None => Ok(()),
        }
    }

    fn verify_afresh(&mut self, one: usize, other: usize) -> Result<(), String> {
        let together =
            |room: &&herold::OwnedRoomId| self.joined(one, room) && self.joined(other, room);
        if self.rooms.iter().find(together).is_none() {
            return Ok(()); // nobody tells them of each other
        }
        // Requests of a clock that is hours off are refused: both are set right.
        self.world.restart(one);
        self.world.restart(other);
        self.identity_is_here(one)?;
        self.identity_is_here(other)?;
        if self.acknowledge_all() {
            self.settle();
        }
        if self.ask_to_verify(one, other).is_none() {
            return Err(format!("device {one} cannot ask device {other} to verify"));
        }
        self.settle();
        for _ in 0..4 {
            for device in [other, one] {
                if self.compare(device) {
                    self.settle();
                }
            }
        }
        for (device, of) in [(one, other), (other, one)] {
            let user = self.names(of).0;
            let state = self.identity_state(device, &user);
            if state != Some(IdentityState::Verified) {
                return Err(format!(
                    "devices {one} and {other} have compared, and {user} is {state:?} for {device}"
                ));
            }
        }
        Ok(())
    }
}
