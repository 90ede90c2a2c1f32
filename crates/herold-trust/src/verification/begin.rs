//! How a flow begins: with a request of ours, with somebody else's, or with a bare start.

use herold_crypto::{Entropy, SasKeyPair, canonical_json};
use ruma::{EventId, OwnedDeviceId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};

use super::flow::Messages;
use super::message::{REQUEST, SAS, START, object, text};
use super::sas::Exchange;
use super::{
    Channel, CurrentKeys, IgnoredRequest, LIFETIME, MAX_FUTURE, Methods, PROMPT, PartyKeys, Phase,
    Verification, VerificationMessage, VerificationTarget, from_device,
};
use crate::Timestamp;

/// The longest transaction id that is taken, bytes.
const MAX_TRANSACTION_ID: usize = 255;

impl Verification {
    /// Asks one or several devices of a user (normally the own user) by to-device messages.
    ///
    /// `transaction_id` must be fresh.
    pub fn request_devices(
        ours: PartyKeys,
        their_user: OwnedUserId,
        devices: Vec<OwnedDeviceId>,
        transaction_id: String,
        methods: Methods,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> (Self, Messages) {
        let channel = Channel::ToDevice { transaction_id };
        let content = channel.frame(object([
            ("from_device", ours.device_id.as_str().into()),
            ("methods", json!(methods.names())),
            ("timestamp", now.as_millis().into()),
        ]));
        let target = VerificationTarget::Devices(their_user.clone(), devices.clone());
        let mut flow = Self::new(channel, ours, their_user, now, entropy);
        flow.asked = devices;
        flow.by_us = true;
        flow.our_methods = methods;
        (flow, vec![VerificationMessage { target, event_type: REQUEST, content }])
    }

    /// The content of the `m.room.message` that asks a user in a room. Its event id makes the flow:
    /// [`request_in_room`](Self::request_in_room). `body` is for clients that cannot verify.
    #[must_use]
    pub fn room_request(
        ours: &PartyKeys,
        their_user: &UserId,
        methods: Methods,
        body: &str,
    ) -> Value {
        json!({
            "msgtype": REQUEST,
            "body": body,
            "from_device": ours.device_id,
            "methods": methods.names(),
            "to": their_user,
        })
    }

    /// The flow of a [`room_request`](Self::room_request) that was sent as `event_id`.
    pub fn request_in_room(
        ours: PartyKeys,
        their_user: OwnedUserId,
        room_id: &RoomId,
        event_id: &EventId,
        methods: Methods,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Self {
        let channel = Channel::Room { room_id: room_id.to_owned(), event_id: event_id.to_owned() };
        let mut flow = Self::new(channel, ours, their_user, now, entropy);
        flow.by_us = true;
        flow.our_methods = methods;
        flow
    }

    /// Takes a to-device `m.key.verification.request`. The user is to be asked.
    ///
    /// # Errors
    ///
    /// [`IgnoredRequest`].
    pub fn receive_request(
        content: &Value,
        sender: &UserId,
        keys: CurrentKeys<'_>,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, IgnoredRequest> {
        let made = content.get("timestamp").and_then(Value::as_u64);
        let made = Timestamp::from_millis(made.ok_or(IgnoredRequest::Malformed)?);
        let channel = transaction(content)?;
        Self::receive(channel, content, sender, made, keys, now, entropy)
    }

    /// Takes an `m.room.message` with the message type `m.key.verification.request`, made at
    /// `origin_server_ts`. The user is to be asked.
    ///
    /// # Errors
    ///
    /// [`IgnoredRequest`].
    #[expect(clippy::too_many_arguments, reason = "an event has as many parts")]
    pub fn receive_room_request(
        content: &Value,
        sender: &UserId,
        room_id: &RoomId,
        event_id: &EventId,
        origin_server_ts: Timestamp,
        keys: CurrentKeys<'_>,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, IgnoredRequest> {
        if text(content, "msgtype") != Some(REQUEST) {
            return Err(IgnoredRequest::Malformed);
        }
        if text(content, "to") != Some(keys.ours.user_id.as_str()) {
            return Err(IgnoredRequest::NotForUs);
        }
        let channel = Channel::Room { room_id: room_id.to_owned(), event_id: event_id.to_owned() };
        Self::receive(channel, content, sender, origin_server_ts, keys, now, entropy)
    }

    /// Takes a to-device `m.key.verification.start` that no request came before, as old clients send
    /// them. The user is to be asked.
    ///
    /// # Errors
    ///
    /// [`IgnoredRequest`].
    pub fn receive_start(
        content: &Value,
        sender: &UserId,
        keys: CurrentKeys<'_>,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, IgnoredRequest> {
        let channel = transaction(content)?;
        let theirs = sender_keys(content, sender, keys)?;
        if text(content, "method") != Some(SAS) || canonical_json(content).is_err() {
            return Err(IgnoredRequest::UnknownMethod);
        }
        let exchange = Exchange::received(content).map_err(|_| IgnoredRequest::UnknownMethod)?;
        let mut flow = Self::new(channel, keys.ours.clone(), sender.to_owned(), now, entropy);
        flow.theirs = Some(theirs.clone());
        flow.our_methods = Methods::SAS;
        flow.their_methods = Methods::SAS;
        flow.from_request = false;
        flow.prompt = Some(now.saturating_add(PROMPT));
        flow.phase = Phase::Offered(exchange);
        flow.remember(START, content);
        Ok(flow)
    }

    fn receive(
        channel: Channel,
        content: &Value,
        sender: &UserId,
        made: Timestamp,
        keys: CurrentKeys<'_>,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, IgnoredRequest> {
        let methods = Methods::parse(content).ok_or(IgnoredRequest::Malformed)?;
        if now.saturating_since(made) > LIFETIME || made.saturating_since(now) > MAX_FUTURE {
            return Err(IgnoredRequest::OutOfDate);
        }
        let theirs = sender_keys(content, sender, keys)?;
        let mut flow = Self::new(channel, keys.ours.clone(), sender.to_owned(), now, entropy);
        flow.theirs = Some(theirs.clone());
        flow.their_methods = methods;
        flow.deadline = made.min(now).saturating_add(LIFETIME);
        flow.prompt = Some(now.saturating_add(PROMPT).min(flow.deadline));
        Ok(flow)
    }

    fn new(
        channel: Channel,
        ours: PartyKeys,
        their_user: OwnedUserId,
        now: Timestamp,
        entropy: &mut dyn Entropy,
    ) -> Self {
        Self {
            channel,
            ours,
            their_user,
            theirs: None,
            asked: Vec::new(),
            by_us: false,
            from_request: true,
            our_methods: Methods::default(),
            their_methods: Methods::default(),
            deadline: now.saturating_add(LIFETIME),
            prompt: None,
            pair: SasKeyPair::generate(entropy).to_record(),
            code: None,
            phase: Phase::Requested,
            seen: Vec::new(),
        }
    }
}

fn transaction(content: &Value) -> Result<Channel, IgnoredRequest> {
    let id = text(content, "transaction_id")
        .filter(|id| !id.is_empty() && id.len() <= MAX_TRANSACTION_ID)
        .ok_or(IgnoredRequest::Malformed)?;
    Ok(Channel::ToDevice { transaction_id: id.to_owned() })
}

/// The keys of the device that a beginning says it is from.
fn sender_keys<'a>(
    content: &Value,
    sender: &UserId,
    keys: CurrentKeys<'a>,
) -> Result<&'a PartyKeys, IgnoredRequest> {
    let device = from_device(content).ok_or(IgnoredRequest::Malformed)?;
    if *sender == *keys.ours.user_id && *device == *keys.ours.device_id {
        return Err(IgnoredRequest::NotForUs);
    }
    keys.theirs
        .filter(|theirs| *theirs.user_id == *sender && *theirs.device_id == *device)
        .filter(|theirs| {
            let ours = keys.ours;
            theirs.user_id != ours.user_id || ours.master.is_none() || theirs.master == ours.master
        })
        .ok_or(IgnoredRequest::UnknownDevice)
}
