//! What each message and each command does to a flow.

use herold_crypto::{
    Entropy, QrCode, SasKeyPair, SasSecret, SecretBytes, canonical_json, curve25519_from_base64,
    sas_commitment,
};
use ruma::{DeviceId, OwnedDeviceId, UserId};
use serde_json::{Map, Value, json};

use super::message::{
    ACCEPT, CANCEL, DONE, KEY, MAC, READY, RECIPROCATE, SAS, START, object, text,
};
use super::sas::{self, Exchange};
use super::{
    CancelCode, Channel, CurrentKeys, Methods, PartyKeys, Phase, ScanError, ShortAuthString,
    Verification, VerificationMessage, VerificationState, VerificationTarget, from_device, qr,
};
use crate::Timestamp;

/// The most messages of one flow that are remembered; an honest flow has six.
const MAX_SEEN: usize = 32;

pub(super) type Messages = Vec<VerificationMessage>;

// What is to be seen from outside.
impl Verification {
    /// Where the flow takes place and what it is called.
    #[must_use]
    pub const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The user on the other side; the own one for own devices.
    #[must_use]
    pub fn their_user(&self) -> &UserId {
        &self.their_user
    }

    /// Whether this side has asked for the verification.
    #[must_use]
    pub const fn is_asked_by_us(&self) -> bool {
        self.by_us
    }

    /// The device on the other side, once the flow is bound to one.
    #[must_use]
    pub fn their_device(&self) -> Option<&DeviceId> {
        self.theirs.as_ref().map(|party| &*party.device_id)
    }

    /// Where the flow stands.
    #[must_use]
    pub fn state(&self) -> VerificationState {
        match &self.phase {
            Phase::Requested => VerificationState::Requested { by_us: self.by_us },
            Phase::Ready => VerificationState::Ready { methods: self.methods() },
            Phase::Offered(_) => VerificationState::Started { by_us: false, needs_accept: true },
            Phase::StartSent(exchange) | Phase::Agreeing(exchange) => {
                VerificationState::Started { by_us: exchange.we_started, needs_accept: false }
            }
            Phase::Comparing { confirmed: true, .. } | Phase::AwaitingDone { .. } => {
                VerificationState::Confirmed
            }
            Phase::Comparing { exchange, .. } => match self.short_string(exchange) {
                Some(string) => VerificationState::KeysExchanged(string),
                // Not reachable: both keys were agreed with before the phase began.
                None => {
                    VerificationState::Started { by_us: exchange.we_started, needs_accept: false }
                }
            },
            Phase::Scanned { .. } => VerificationState::Scanned,
            Phase::Done { verified } => VerificationState::Done { verified: verified.clone() },
            Phase::Cancelled { code, by_us } => {
                VerificationState::Cancelled { code: code.clone(), by_us: *by_us }
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; `None` once it is over.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::Done { .. } | Phase::Cancelled { .. } => None,
            Phase::Requested | Phase::Offered(_) => {
                Some(self.prompt.map_or(self.deadline, |prompt| prompt.min(self.deadline)))
            }
            _ => Some(self.deadline),
        }
    }

    /// What both sides can do: before the other side is ready, what it could.
    #[must_use]
    pub const fn methods(&self) -> Methods {
        self.our_methods.with(self.their_methods)
    }
}

// Commands of this side's user. Each does nothing in a state it is not for.
impl Verification {
    /// Takes part in the other side's request with these methods, or in its start.
    pub fn accept(&mut self, methods: Methods, keys: CurrentKeys<'_>, now: Timestamp) -> Messages {
        if let Some(end) = self.check(keys, now) {
            return end;
        }
        match self.phase.clone() {
            Phase::Requested if !self.by_us => {
                self.our_methods = methods;
                if self.methods().is_empty() {
                    return self.end(CancelCode::UnknownMethod);
                }
                self.phase = Phase::Ready;
                let content = object([
                    ("from_device", self.ours.device_id.as_str().into()),
                    ("methods", json!(self.methods().names())),
                ]);
                self.send(READY, content)
            }
            Phase::Offered(exchange) => self.accept_start(exchange),
            _ => Vec::new(),
        }
    }

    /// Begins with short authentication strings.
    pub fn start_sas(&mut self, keys: CurrentKeys<'_>, now: Timestamp) -> Messages {
        if let Some(end) = self.check(keys, now) {
            return end;
        }
        if !matches!(self.phase, Phase::Ready) || !self.methods().sas {
            return Vec::new();
        }
        let start = sas::start_content(self.ours.device_id.as_str());
        let messages = self.send(START, start);
        if let Some(start) = messages.first() {
            self.phase = Phase::StartSent(Exchange::sent(start.content.clone()));
        }
        messages
    }

    /// The code to show, the same one each time; `None` if none can be shown now.
    pub fn show_qr(&mut self, entropy: &mut dyn Entropy) -> Option<QrCode> {
        if !matches!(self.phase, Phase::Ready) || !self.methods().show_qr {
            return None;
        }
        if let Some(code) = &self.code {
            return QrCode::parse(code.as_slice()).ok();
        }
        let keys = qr::keys_to_show(&self.ours, self.theirs.as_ref()?)?;
        let code = QrCode::new(self.channel.flow_id(), keys, entropy).ok()?;
        self.code = Some(code.to_bytes());
        Some(code)
    }

    /// Takes the bytes of the other side's code. A code with other keys than the known ones cancels.
    ///
    /// # Errors
    ///
    /// [`ScanError`]; the flow is unchanged then.
    pub fn scan_qr(
        &mut self,
        bytes: &[u8],
        keys: CurrentKeys<'_>,
        now: Timestamp,
    ) -> Result<Messages, ScanError> {
        if let Some(end) = self.check(keys, now) {
            return Ok(end);
        }
        if !matches!(self.phase, Phase::Ready) || !self.methods().scan_qr {
            return Err(ScanError::NotNow);
        }
        let code = QrCode::parse(bytes)?;
        if code.flow_id() != self.channel.flow_id() {
            return Err(ScanError::OtherFlow);
        }
        let Some(theirs) = &self.theirs else {
            return Err(ScanError::NotNow);
        };
        match qr::verified_by_scanning(&code.keys(), &self.ours, theirs) {
            Err(code) => Ok(self.end(code)),
            Ok(verified) => {
                self.phase = Phase::AwaitingDone { verified: vec![verified], say_done: true };
                let content = object([
                    ("from_device", self.ours.device_id.as_str().into()),
                    ("method", RECIPROCATE.into()),
                    ("secret", herold_crypto::to_unpadded_base64(code.secret().as_slice()).into()),
                ]);
                Ok(self.send(START, content))
            }
        }
    }

    /// The user says that the strings match, or that the other device shows success.
    pub fn confirm(&mut self, keys: CurrentKeys<'_>, now: Timestamp) -> Messages {
        if let Some(end) = self.check(keys, now) {
            return end;
        }
        match self.phase.clone() {
            Phase::Comparing { exchange, confirmed: false, verified } => {
                let (Some(secret), Some(theirs)) = (self.secret(&exchange), &self.theirs) else {
                    return self.end(CancelCode::KeyMismatch);
                };
                let macs = sas::mac_content(&secret, &self.channel, &self.ours, theirs);
                self.phase = Phase::Comparing { exchange, confirmed: true, verified };
                let mut messages = self.send(MAC, macs);
                messages.extend(self.settle());
                messages
            }
            Phase::Scanned { done } => {
                let keys = self.code.as_ref().and_then(|code| QrCode::parse(code.as_slice()).ok());
                let verified = keys
                    .zip(self.theirs.as_ref())
                    .and_then(|(code, theirs)| qr::verified_by_showing(&code.keys(), theirs));
                let Some(verified) = verified else {
                    return self.end(CancelCode::KeyMismatch);
                };
                let verified = vec![verified];
                self.phase = if done {
                    Phase::Done { verified }
                } else {
                    Phase::AwaitingDone { verified, say_done: false }
                };
                self.send(DONE, Map::new())
            }
            _ => Vec::new(),
        }
    }

    /// The user says that the strings differ, or that the other device shows no success.
    pub fn mismatch(&mut self) -> Messages {
        match self.phase {
            Phase::Comparing { .. } => self.end(CancelCode::MismatchedSas),
            Phase::Scanned { .. } => self.end(CancelCode::KeyMismatch),
            _ => Vec::new(),
        }
    }

    /// The user does not want to, or not any more.
    pub fn cancel(&mut self) -> Messages {
        self.end(CancelCode::User)
    }

    /// Ends the flow if its time is over. A prompt that nobody answered goes without a message, since
    /// another device may still answer.
    pub fn handle_timeout(&mut self, now: Timestamp) -> Messages {
        if self.next_timeout().is_none_or(|then| now < then) {
            return Vec::new();
        }
        if self.prompt.is_some() && matches!(self.phase, Phase::Requested | Phase::Offered(_)) {
            self.phase = Phase::Cancelled { code: CancelCode::Timeout, by_us: true };
            return Vec::new();
        }
        self.end(CancelCode::Timeout)
    }
}

// Messages of the other side.
impl Verification {
    /// Takes a message of this flow. In a room, also those of the own user's other devices.
    ///
    /// `content` is as the sender wrote it; for an encrypted event in a room, with the `m.relates_to`
    /// that stands outside of the ciphertext put back in. `sender_device` is the device that encrypted
    /// the message, if it was encrypted by Olm or Megolm and that is known.
    pub fn handle(
        &mut self,
        event_type: &str,
        content: &Value,
        sender: &UserId,
        sender_device: Option<&DeviceId>,
        keys: CurrentKeys<'_>,
        now: Timestamp,
    ) -> Messages {
        if self.state().is_over() || !self.channel.owns(content) {
            return Vec::new();
        }
        if matches!(self.channel, Channel::Room { .. })
            && *sender == *self.ours.user_id
            && self.their_user != self.ours.user_id
        {
            self.handle_own(event_type, content);
            return Vec::new();
        }
        if *sender != *self.their_user || !self.is_from_bound(content, sender_device) {
            return Vec::new();
        }
        if event_type == CANCEL {
            return self.handle_cancel(content);
        }
        if ![READY, START, ACCEPT, KEY, MAC, DONE].contains(&event_type) {
            return Vec::new();
        }
        let Ok(canonical) = canonical_json(content) else {
            return self.end(CancelCode::InvalidMessage);
        };
        if self.seen.iter().any(|(kind, known)| kind == event_type && *known == canonical) {
            return Vec::new();
        }
        if let Some(end) = self.check(keys, now) {
            return end;
        }
        if self.seen.len() >= MAX_SEEN {
            return self.end(CancelCode::UnexpectedMessage);
        }
        self.seen.push((event_type.to_owned(), canonical));
        let outcome = match event_type {
            READY => self.handle_ready(content, keys),
            START => self.handle_start(content),
            ACCEPT => self.handle_accept(content),
            KEY => self.handle_key(content),
            MAC => self.handle_mac(content),
            _ => self.handle_done(),
        };
        outcome.unwrap_or_else(|code| self.end(code))
    }

    fn handle_ready(
        &mut self,
        content: &Value,
        keys: CurrentKeys<'_>,
    ) -> Result<Messages, CancelCode> {
        if !matches!(self.phase, Phase::Requested) || !self.by_us {
            return Err(CancelCode::UnexpectedMessage);
        }
        let device = from_device(content).ok_or(CancelCode::InvalidMessage)?;
        let methods = Methods::parse(content).ok_or(CancelCode::InvalidMessage)?;
        let theirs = keys
            .theirs
            .filter(|theirs| theirs.user_id == self.their_user && *theirs.device_id == *device)
            .ok_or(CancelCode::KeyMismatch)?;
        self.bind(theirs.clone())?;
        self.their_methods = methods;
        if self.methods().is_empty() {
            return Err(CancelCode::UnknownMethod);
        }
        self.phase = Phase::Ready;
        // The other devices need not ask their user any more.
        let mut others = std::mem::take(&mut self.asked);
        others.retain(|id| *id != theirs.device_id);
        Ok(self.tell(others, &CancelCode::Accepted))
    }

    fn handle_start(&mut self, content: &Value) -> Result<Messages, CancelCode> {
        let method = text(content, "method").ok_or(CancelCode::InvalidMessage)?;
        match (&self.phase, method) {
            (Phase::Ready, SAS) if self.methods().sas => self.accept_received(content),
            (Phase::Ready, RECIPROCATE) => self.take_scan(content),
            (Phase::Ready, _) => Err(CancelCode::UnknownMethod),
            (Phase::StartSent(_), SAS) => {
                if self.ours_goes_first() {
                    Ok(Vec::new())
                } else {
                    self.accept_received(content)
                }
            }
            // Both scanned at once: the start that counts is the smaller side's.
            (Phase::AwaitingDone { say_done: true, .. }, RECIPROCATE) if self.code.is_some() => {
                if self.ours_goes_first() {
                    Ok(Vec::new())
                } else {
                    self.take_scan(content)
                }
            }
            _ => Err(CancelCode::UnexpectedMessage),
        }
    }

    fn handle_accept(&mut self, content: &Value) -> Result<Messages, CancelCode> {
        let Phase::StartSent(exchange) = &self.phase else {
            return Err(CancelCode::UnexpectedMessage);
        };
        let mut exchange = exchange.clone();
        exchange.take_accept(content)?;
        self.phase = Phase::Agreeing(exchange);
        self.send_key()
    }

    fn handle_key(&mut self, content: &Value) -> Result<Messages, CancelCode> {
        let Phase::Agreeing(exchange) = &self.phase else {
            return Err(CancelCode::UnexpectedMessage);
        };
        let mut exchange = exchange.clone();
        let key = sas::public_key(content)?;
        if let Some(commitment) = &exchange.commitment {
            let key = curve25519_from_base64(&key).map_err(|_| CancelCode::InvalidMessage)?;
            let expected = sas_commitment(&key, &exchange.start);
            if expected.as_deref() != Ok(commitment.trim_end_matches('=')) {
                return Err(CancelCode::MismatchedCommitment);
            }
        }
        exchange.their_key = Some(key);
        let we_started = exchange.we_started;
        self.phase = Phase::Comparing { exchange, confirmed: false, verified: None };
        if we_started { Ok(Vec::new()) } else { self.send_key() }
    }

    fn handle_mac(&mut self, content: &Value) -> Result<Messages, CancelCode> {
        let Phase::Comparing { exchange, confirmed, verified: None } = &self.phase else {
            return Err(CancelCode::UnexpectedMessage);
        };
        let secret = self.secret(exchange).ok_or(CancelCode::KeyMismatch)?;
        let theirs = self.theirs.as_ref().ok_or(CancelCode::KeyMismatch)?;
        let verified = sas::check_macs(&secret, &self.channel, &self.ours, theirs, content)?;
        self.phase = Phase::Comparing {
            exchange: exchange.clone(),
            confirmed: *confirmed,
            verified: Some(verified),
        };
        Ok(self.settle())
    }

    fn handle_done(&mut self) -> Result<Messages, CancelCode> {
        match self.phase.clone() {
            Phase::AwaitingDone { verified, say_done } => {
                self.phase = Phase::Done { verified };
                Ok(if say_done { self.send(DONE, Map::new()) } else { Vec::new() })
            }
            // Whoever scanned has nothing more to do and may say so early.
            Phase::Scanned { .. } => {
                self.phase = Phase::Scanned { done: true };
                Ok(Vec::new())
            }
            _ => Err(CancelCode::UnexpectedMessage),
        }
    }

    fn handle_cancel(&mut self, content: &Value) -> Messages {
        let code = CancelCode::parse(text(content, "code").unwrap_or_default());
        // Refused by one of several devices: the others need not ask any more.
        let asked = std::mem::take(&mut self.asked);
        let waiting = matches!(self.phase, Phase::Requested) && self.by_us && asked.len() > 1;
        self.phase = Phase::Cancelled { code, by_us: false };
        if waiting { self.tell(asked, &CancelCode::User) } else { Vec::new() }
    }

    /// A message that the own user sent into the room, from this device or another.
    fn handle_own(&mut self, event_type: &str, content: &Value) {
        if !matches!(self.phase, Phase::Requested) || self.by_us {
            return;
        }
        let by_other = from_device(content).is_some_and(|id| *id != *self.ours.device_id);
        let code = match event_type {
            READY | START if by_other => CancelCode::Accepted,
            CANCEL => CancelCode::parse(text(content, "code").unwrap_or_default()),
            _ => return,
        };
        self.phase = Phase::Cancelled { code, by_us: false };
    }
}

// Steps that several of the above take.
impl Verification {
    /// Cancels when the time is over or a fixed key is another one now.
    fn check(&mut self, keys: CurrentKeys<'_>, now: Timestamp) -> Option<Messages> {
        if self.state().is_over() {
            return Some(Vec::new());
        }
        if self.next_timeout().is_some_and(|then| now >= then) {
            return Some(self.handle_timeout(now));
        }
        let unchanged = *keys.ours == self.ours
            && self.theirs.as_ref().is_none_or(|fixed| keys.theirs == Some(fixed));
        if unchanged { None } else { Some(self.end(CancelCode::KeyMismatch)) }
    }

    /// Fixes the other side's keys.
    fn bind(&mut self, theirs: PartyKeys) -> Result<(), CancelCode> {
        let same_user = self.ours.user_id == theirs.user_id;
        let contradicts = same_user
            && (theirs.device_id == self.ours.device_id
                || self.ours.master.is_some() && theirs.master != self.ours.master);
        self.theirs = Some(theirs);
        if contradicts { Err(CancelCode::KeyMismatch) } else { Ok(()) }
    }

    /// Whether a message can come from the device that the flow is bound to, or, before it is bound,
    /// from one that was asked.
    fn is_from_bound(&self, content: &Value, sender_device: Option<&DeviceId>) -> bool {
        let claimed = from_device(content);
        if sender_device.zip(claimed).is_some_and(|(device, claimed)| device != claimed) {
            return false;
        }
        let Some(device) = sender_device.or(claimed) else {
            return true;
        };
        match &self.theirs {
            Some(theirs) => *theirs.device_id == *device,
            None => self.asked.is_empty() || self.asked.iter().any(|asked| **asked == *device),
        }
    }

    pub(super) fn remember(&mut self, event_type: &str, content: &Value) {
        if let Ok(canonical) = canonical_json(content) {
            self.seen.push((event_type.to_owned(), canonical));
        }
    }

    fn ours_goes_first(&self) -> bool {
        self.theirs.as_ref().is_some_and(|theirs| self.ours.order() < theirs.order())
    }

    fn pair(&self) -> Result<SasKeyPair, CancelCode> {
        SasKeyPair::from_record(self.pair.as_slice()).map_err(|_| CancelCode::KeyMismatch)
    }

    fn secret(&self, exchange: &Exchange) -> Option<SasSecret> {
        let theirs = curve25519_from_base64(exchange.their_key.as_deref()?).ok()?;
        self.pair().ok()?.agree(&theirs).ok()
    }

    fn short_string(&self, exchange: &Exchange) -> Option<ShortAuthString> {
        let our_key = self.pair().ok()?.public_key().to_base64();
        let their_key = exchange.their_key.as_deref()?;
        Some(exchange.short_string(
            &self.secret(exchange)?,
            &self.channel,
            (&self.ours, &our_key),
            (self.theirs.as_ref()?, their_key),
        ))
    }

    fn accept_received(&mut self, start: &Value) -> Result<Messages, CancelCode> {
        let exchange = Exchange::received(start)?;
        Ok(self.accept_start(exchange))
    }

    fn accept_start(&mut self, exchange: Exchange) -> Messages {
        let commitment = self.pair().and_then(|pair| {
            sas_commitment(&pair.public_key(), &exchange.start)
                .map_err(|_| CancelCode::InvalidMessage)
        });
        match commitment {
            Err(code) => self.end(code),
            Ok(commitment) => {
                let content = exchange.accept_content(&commitment);
                self.phase = Phase::Agreeing(exchange);
                self.send(ACCEPT, content)
            }
        }
    }

    fn send_key(&mut self) -> Result<Messages, CancelCode> {
        let key = self.pair()?.public_key().to_base64();
        Ok(self.send(KEY, object([("key", key.into())])))
    }

    /// The other side says that it scanned our code.
    fn take_scan(&mut self, content: &Value) -> Result<Messages, CancelCode> {
        let code = self.code.as_ref().and_then(|code| QrCode::parse(code.as_slice()).ok());
        let code = code.ok_or(CancelCode::UnexpectedMessage)?;
        let secret = text(content, "secret").and_then(herold_crypto::from_unpadded_base64);
        let secret = SecretBytes::new(secret.ok_or(CancelCode::InvalidMessage)?);
        if secret != *code.secret() {
            return Err(CancelCode::KeyMismatch);
        }
        self.phase = Phase::Scanned { done: false };
        Ok(Vec::new())
    }

    /// After both confirmed: the end, or the wait for the other side's `done`.
    fn settle(&mut self) -> Messages {
        let Phase::Comparing { confirmed: true, verified: Some(verified), .. } = &self.phase else {
            return Vec::new();
        };
        let verified = verified.clone();
        if !self.from_request {
            self.phase = Phase::Done { verified };
            return Vec::new();
        }
        self.phase = Phase::AwaitingDone { verified, say_done: false };
        self.send(DONE, Map::new())
    }

    /// Ends the flow and tells the other side.
    fn end(&mut self, code: CancelCode) -> Messages {
        if self.state().is_over() {
            return Vec::new();
        }
        let messages = self.send(CANCEL, code.content());
        self.phase = Phase::Cancelled { code, by_us: true };
        messages
    }

    fn tell(&self, devices: Vec<OwnedDeviceId>, code: &CancelCode) -> Messages {
        if devices.is_empty() {
            return Vec::new();
        }
        vec![VerificationMessage {
            target: VerificationTarget::Devices(self.their_user.clone(), devices),
            event_type: CANCEL,
            content: self.channel.frame(code.content()),
        }]
    }

    fn send(&self, event_type: &'static str, content: Map<String, Value>) -> Messages {
        let target = match &self.channel {
            Channel::Room { room_id, .. } => VerificationTarget::Room(room_id.clone()),
            Channel::ToDevice { .. } => {
                let devices = match &self.theirs {
                    Some(theirs) => vec![theirs.device_id.clone()],
                    None => self.asked.clone(),
                };
                VerificationTarget::Devices(self.their_user.clone(), devices)
            }
        };
        vec![VerificationMessage { target, event_type, content: self.channel.frame(content) }]
    }
}
