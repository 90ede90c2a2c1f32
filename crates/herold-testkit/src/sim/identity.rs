//! What the `identity` profile adds: identities that the devices make themselves, verification, key backup, shared history,
//! copies of stores and a second process.
//!
//! The user's part is played here: what is written down for recovery, whose strings are compared, who is invited with
//! the history. A device may die at any of it; its user then has to try again.

use std::collections::BTreeMap;

use herold::{Body, HttpRequest, IdentityState, Method, OwnedRoomId, OwnedUserId, SecretString};
use herold_crypto::{SeededEntropy, encrypt_attachment};
use herold_machine::{
    BackupStatus, HistoryBundle, Machine, VerificationAction, VerificationView, backup_entries,
};
use herold_trust::{KeySource, Methods, VerificationState};
use serde_json::Value;

use super::play::{DeviceState, FIRST, Sim};
use crate::{IDENTITY_SECRETS, SIGNING_UPLOAD, with_password};

const BACKUP: &str = "m.megolm_backup.v1";
const VERSION: &str = "/_matrix/client/v3/room_keys/version";

/// No more copies of stores than this: each is one more device that is excused.
const MAX_COPIES: usize = 1;

/// What the users have done, which no device need know.
#[derive(Default)]
pub(super) struct Users {
    /// What each user has written down: secrets by their names.
    recovery: BTreeMap<String, BTreeMap<&'static str, SecretString>>,
    /// Who has said of a flow that the strings match, and when.
    confirmed: Vec<Confirmed>,
    /// Rooms whose history was shared, with whom, and when.
    pub(super) shared: Vec<(OwnedRoomId, String, u64)>,
    copies: usize,
}

/// A device's user has said that the strings of a flow match.
#[derive(Clone, Debug)]
struct Confirmed {
    flow_id: String,
    by: String,
    with: String,
    position: u64,
}

impl Users {
    /// Whether a user has an identity, as far as is written down.
    pub(super) fn has_identity(&self, user: &str) -> bool {
        self.recovery.get(user).is_some_and(|known| known.contains_key(IDENTITY_SECRETS[0]))
    }

    /// Whether users have compared strings, each of them, for one flow since a position.
    fn have_compared(&self, user: &str, with: &str, since: u64) -> bool {
        let is = |known: &&Confirmed, by: &str, with: &str| {
            known.by == by && known.with == with && known.position >= since
        };
        let ours = self.confirmed.iter().filter(|known| is(known, user, with));
        ours.map(|known| &known.flow_id).any(|flow_id| {
            let mut theirs = self.confirmed.iter().filter(|known| is(known, with, user));
            theirs.any(|known| known.flow_id == *flow_id)
        })
    }
}

impl Sim {
    pub(super) fn user_id(&self, device: usize) -> OwnedUserId {
        self.world.devices[device].user_id.clone()
    }

    /// A device makes an identity, or goes on with one it has begun, and its user writes the secrets down. As an app does it:
    /// one that is there is only replaced on purpose.
    pub(super) fn bootstrap(&mut self, device: usize, replace: bool) -> Option<()> {
        let own = self.user_id(device);
        let (known, here, begun) = self.world.command(device, |engine| {
            engine.read(|machine, snapshot| {
                Ok((
                    machine.devices(snapshot, &own)?,
                    machine.identity_keys_here(snapshot)?,
                    machine.identity_is_prepared(snapshot)?,
                ))
            })
        })?;
        let is_anothers = known.identity.is_some() && here != [true; 3] && !begun;
        if !replace && (known.outdated || is_anothers) {
            return None;
        }
        let body = self.world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| machine.prepare_identity(snapshot, cx, replace))
        });
        let body = with_password(&self.world, device, &body?.reply?);
        let answer = self.world.call(Some(device), "POST", SIGNING_UPLOAD, body);
        if answer.get("errcode").is_some() {
            return None;
        }
        // Who dies here goes on with the same keys when it is asked again.
        self.world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| machine.identity_published(snapshot, cx))
        })?;
        for name in IDENTITY_SECRETS {
            let secret = self.world.command(device, |engine| {
                engine.read(|machine, snapshot| machine.secret(snapshot, name))
            });
            let known = self.users_word.recovery.entry(own.to_string()).or_default();
            known.extend(secret.flatten().map(|secret| (name, secret)));
        }
        Some(())
    }

    /// Devices of a user go on with what they had begun when they died.
    pub(super) fn go_on(&mut self, user: &str) {
        for device in 0..self.world.devices.len() {
            if self.states[device].logged_out || self.user_id(device).as_str() != user {
                continue;
            }
            let begun = self.world.command(device, |engine| {
                engine.read(|machine, snapshot| machine.identity_is_prepared(snapshot))
            });
            if begun == Some(true) {
                self.bootstrap(device, false);
                self.settle();
            }
        }
    }

    /// A device is given what its user has written down.
    pub(super) fn take_over(&mut self, device: usize) {
        let user = self.user_id(device).to_string();
        let known = self.users_word.recovery.get(&user).cloned().unwrap_or_default();
        for name in IDENTITY_SECRETS {
            let Some(secret) = known.get(name) else { continue };
            self.world.command(device, |engine| {
                engine.step(|machine, snapshot, cx| {
                    machine.import_identity_key(snapshot, cx, name, secret)
                })
            });
        }
    }

    /// A device's user is told that somebody's identity is another, and does not mind.
    pub(super) fn acknowledge(&mut self, device: usize, user: &str) {
        let Ok(user) = OwnedUserId::try_from(user) else { return };
        self.world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| machine.pin_identity(snapshot, cx, &user))
        });
        self.world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| machine.withdraw_verification(snapshot, cx, &user))
        });
    }

    /// Everybody does so about everybody. Whether there was anybody.
    pub(super) fn acknowledge_all(&mut self) -> bool {
        let mut any = false;
        for device in 0..self.world.devices.len() {
            if self.states[device].logged_out {
                continue;
            }
            for user in self.users.clone() {
                if self.identity_state(device, &user).is_some_and(IdentityState::is_violation) {
                    self.acknowledge(device, &user);
                    any = true;
                }
            }
        }
        any
    }

    /// How a user's identity stands for a device.
    pub(super) fn identity_state(&mut self, device: usize, user: &str) -> Option<IdentityState> {
        let user = OwnedUserId::try_from(user).ok()?;
        let known = self.world.command(device, |engine| {
            engine.read(|machine, snapshot| machine.devices(snapshot, &user))
        });
        known?.identity.map(|identity| identity.state())
    }

    /// A device asks another to verify each other.
    pub(super) fn ask_to_verify(&mut self, device: usize, other: usize) -> Option<String> {
        let (user, id) = (self.user_id(other), self.world.devices[other].device_id.clone());
        if device == other || (user == self.user_id(device)) && id == self.names(device).1 {
            return None;
        }
        let asked = self.world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| {
                let devices = Some(vec![id.as_str().into()]);
                machine.request_verification(snapshot, cx, &user, devices, Methods::SAS)
            })
        });
        asked.map(|asked| asked.reply)
    }

    fn verifications(&mut self, device: usize) -> Vec<VerificationView> {
        let views = self.world.command(device, |engine| {
            engine.read(|machine, snapshot| machine.verifications(snapshot))
        });
        views.unwrap_or_default()
    }

    /// A device's user does what is next in every verification: accepts, begins, compares. Whether there was anything.
    pub(super) fn compare(&mut self, device: usize) -> bool {
        let mut any = false;
        for view in self.verifications(device) {
            let action = match &view.state {
                VerificationState::Requested { by_us: false }
                | VerificationState::Started { needs_accept: true, .. } => {
                    VerificationAction::Accept(Methods::SAS)
                }
                // Either may begin; both at once is an old question.
                VerificationState::Ready { .. } => VerificationAction::StartSas,
                VerificationState::KeysExchanged(strings) => {
                    let other = self.other_side(device, &view);
                    let theirs = other.map(|other| self.verifications(other)).and_then(|views| {
                        let view = views.into_iter().find(|known| known.flow_id == view.flow_id)?;
                        match view.state {
                            VerificationState::KeysExchanged(strings) => Some(strings),
                            _ => None,
                        }
                    });
                    // Whoever has confirmed no longer shows them, and has seen that they are the same.
                    match theirs {
                        Some(theirs) if theirs != *strings => VerificationAction::Mismatch,
                        _ => VerificationAction::Confirm,
                    }
                }
                _ => continue,
            };
            if matches!(action, VerificationAction::Mismatch) {
                self.wrong.push(format!("the strings of {} differ", view.flow_id));
            }
            if matches!(action, VerificationAction::Confirm) {
                // Noted before it is done: who dies over it may have done it.
                self.users_word.confirmed.push(Confirmed {
                    flow_id: view.flow_id.clone(),
                    by: self.user_id(device).to_string(),
                    with: view.user_id.to_string(),
                    position: self.world.server.position(),
                });
            }
            self.world.command(device, |engine| {
                engine.step(|machine, snapshot, cx| {
                    let (user, flow) = (&view.user_id, &view.flow_id);
                    machine.act_on_verification(snapshot, cx, user, flow, action)
                })
            });
            any = true;
        }
        any
    }

    fn other_side(&self, device: usize, view: &VerificationView) -> Option<usize> {
        let id = view.device_id.as_ref()?;
        (0..self.world.devices.len()).find(|other| {
            let other_one = &self.world.devices[*other];
            *other != device
                && other_one.user_id == view.user_id
                && other_one.device_id == id.as_str()
        })
    }

    pub(super) fn backup_status(&mut self, device: usize) -> BackupStatus {
        let status = self.world.command(device, |engine| {
            engine.read(|machine, snapshot| machine.backup_status(snapshot))
        });
        status.unwrap_or_default()
    }

    /// A device makes a backup, and its user writes the key down.
    pub(super) fn make_backup(&mut self, device: usize) -> Option<()> {
        let body = self.world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| machine.prepare_backup(snapshot, cx))
        });
        let body = serde_json::from_str(&body?.reply).ok()?;
        let answer = self.world.call(Some(device), "POST", VERSION, body);
        let version = answer["version"].as_str()?.to_owned();
        let created = self.world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| machine.backup_created(snapshot, cx, &version))
        });
        self.note_backup_key(device);
        created.map(drop)
    }

    /// A device's user writes down the backup's key that is there.
    pub(super) fn note_backup_key(&mut self, device: usize) {
        let secret = self.world.command(device, |engine| {
            engine.read(|machine, snapshot| machine.secret(snapshot, BACKUP))
        });
        let user = self.user_id(device).to_string();
        let known = self.users_word.recovery.entry(user).or_default();
        known.extend(secret.flatten().map(|secret| (BACKUP, secret)));
    }

    /// A device is given the backup's key and takes all that is in it.
    pub(super) fn restore(&mut self, device: usize) -> Option<usize> {
        let user = self.user_id(device).to_string();
        let secret = self.users_word.recovery.get(&user)?.get(BACKUP)?.clone();
        let info = self.world.call(Some(device), "GET", VERSION, Value::Null).to_string();
        self.world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.import_backup_key(snapshot, cx, &secret, info.as_bytes())
            })
        });
        let (version, key) = self.world.command(device, |engine| {
            engine.read(|machine, snapshot| machine.backup_key(snapshot))
        })??;
        let body = self.world.call_http(device, &Machine::backup_request(&version)).to_string();
        let (entries, bad) = backup_entries(body.as_bytes()).ok()?;
        let keys: Vec<_> = entries.iter().filter_map(|entry| entry.open(&key)).collect();
        if bad > 0 || keys.len() < entries.len() {
            self.wrong.push(format!("entries of the backup {version} of {user} are bad"));
        }
        let imported = self.world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.import_room_keys(snapshot, cx, keys, KeySource::Backup)
            })
        });
        imported.map(|imported| imported.reply.total())
    }

    /// A device's user invites somebody with the room's history.
    pub(super) fn share_history(&mut self, device: usize, room: &OwnedRoomId, user: &str) {
        let Ok(user_id) = OwnedUserId::try_from(user) else { return };
        let mut bundle = HistoryBundle::new(room.clone());
        loop {
            let done = self.world.command(device, |engine| {
                engine.read(|machine, snapshot| machine.collect_history(snapshot, &mut bundle, 20))
            });
            match done {
                None => return,
                Some(true) => break,
                Some(false) => {}
            }
        }
        let text = bundle.into_text();
        let seed = self.world.clock.millis() ^ (self.report.steps << 40);
        let (data, mut file) = encrypt_attachment(text.as_slice(), &mut SeededEntropy::new(seed));
        let mut request = HttpRequest::new(Method::Post, "/_matrix/media/v3", &["upload"]);
        request.body = Body::Bytes { content_type: "application/octet-stream".to_owned(), data };
        let answer = self.world.call_http(device, &request);
        let Some(url) = answer["content_uri"].as_str() else { return };
        file.url = url.to_owned();
        // A device that dies over it may have queued it.
        let position = self.world.server.position();
        self.users_word.shared.push((room.clone(), user.to_owned(), position));
        let queued = self.world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.share_history(snapshot, cx, room, &user_id, &file)
            })
        });
        if queued.is_some() {
            self.report.shared += 1;
        }
    }

    /// A device's user accepts an invitation, and the history with it.
    pub(super) fn accept_history(&mut self, device: usize, room: &OwnedRoomId) {
        self.world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| machine.accept_history(snapshot, cx, room))
        });
    }

    /// A copy of a device's store is started beside it.
    pub(super) fn copy(&mut self, device: usize) {
        // The first device of each user stays one.
        if FIRST.contains(&device)
            || self.states[device].logged_out
            || self.states[device].copied
            || self.users_word.copies >= MAX_COPIES
        {
            return;
        }
        self.users_word.copies += 1;
        let copy = self.world.copy_device(device);
        self.states[device].copied = true;
        let state: DeviceState = self.states[device].clone();
        self.states.push(state);
        self.born.push(0);
        for message in &mut self.messages {
            if let Some(readers) = &mut message.readers
                && readers.may.contains(&device)
            {
                readers.may.insert(copy);
            }
        }
    }

    /// Whether a device was ever signed by its owner.
    pub(super) fn was_signed(&self, device: usize) -> bool {
        let (user, id) = self.names(device);
        !self.world.server.signed_spans(&user, &id).is_empty()
    }

    /// Whoever is verified for somebody has been compared with, by both, since the keys are what they are.
    pub(super) fn check_verified(&mut self) -> Result<(), String> {
        for device in 0..self.world.devices.len() {
            if self.states[device].logged_out {
                continue;
            }
            let own = self.user_id(device).to_string();
            for user in self.users.clone() {
                if user == own
                    || self.identity_state(device, &user) != Some(IdentityState::Verified)
                {
                    continue;
                }
                self.report.verified += 1;
                let changes = [&own, &user].map(|of| self.world.server.identity_changes(of));
                let since = changes.iter().flatten().copied().max().unwrap_or(0);
                if !self.users_word.have_compared(&own, &user, since) {
                    return Err(format!(
                        "{user} is verified for device {device}, and nobody has compared"
                    ));
                }
            }
        }
        Ok(())
    }
}
