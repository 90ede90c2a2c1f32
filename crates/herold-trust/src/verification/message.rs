//! What travels: channels, methods, cancel codes, and the contents of the messages.

use ruma::{DeviceId, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub(super) const REQUEST: &str = "m.key.verification.request";
pub(super) const READY: &str = "m.key.verification.ready";
pub(super) const START: &str = "m.key.verification.start";
pub(super) const ACCEPT: &str = "m.key.verification.accept";
pub(super) const KEY: &str = "m.key.verification.key";
pub(super) const MAC: &str = "m.key.verification.mac";
pub(super) const DONE: &str = "m.key.verification.done";
pub(super) const CANCEL: &str = "m.key.verification.cancel";

pub(super) const SAS: &str = "m.sas.v1";
pub(super) const RECIPROCATE: &str = "m.reciprocate.v1";
const QR_SHOW: &str = "m.qr_code.show.v1";
const QR_SCAN: &str = "m.qr_code.scan.v1";

/// Where a flow takes place, and what it is called there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Channel {
    /// Between two devices, under an id that the first message chose.
    ToDevice {
        /// The `transaction_id`.
        transaction_id: String,
    },
    /// In a room, under the event id of the request.
    Room {
        /// The room.
        room_id: OwnedRoomId,
        /// The request.
        event_id: OwnedEventId,
    },
}

impl Channel {
    /// The id that messages, codes and MACs name.
    #[must_use]
    pub fn flow_id(&self) -> &str {
        match self {
            Self::ToDevice { transaction_id } => transaction_id,
            Self::Room { event_id, .. } => event_id.as_str(),
        }
    }

    /// Adds what ties a content to its flow.
    pub(super) fn frame(&self, mut content: Map<String, Value>) -> Value {
        match self {
            Self::ToDevice { transaction_id } => {
                content.insert("transaction_id".into(), transaction_id.as_str().into());
            }
            Self::Room { event_id, .. } => {
                let relation = json!({ "rel_type": "m.reference", "event_id": event_id });
                content.insert("m.relates_to".into(), relation);
            }
        }
        Value::Object(content)
    }

    /// Whether a content belongs to this flow.
    pub(super) fn owns(&self, content: &Value) -> bool {
        match self {
            Self::ToDevice { transaction_id } => {
                text(content, "transaction_id") == Some(transaction_id)
            }
            Self::Room { event_id, .. } => content.get("m.relates_to").is_some_and(|relation| {
                text(relation, "rel_type") == Some("m.reference")
                    && text(relation, "event_id") == Some(event_id.as_str())
            }),
        }
    }
}

/// Whom a message goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerificationTarget {
    /// To these devices of one user, each the same content.
    Devices(OwnedUserId, Vec<OwnedDeviceId>),
    /// Into a room. In an encrypted room all devices of the other user must get the room key.
    Room(OwnedRoomId),
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerificationMessage {
    /// Whom it goes to.
    pub target: VerificationTarget,
    /// The event type.
    pub event_type: &'static str,
    /// The content, complete with its `transaction_id` or `m.relates_to`.
    pub content: Value,
}

/// Why a flow was cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CancelCode {
    /// `m.user`: a user does not want to.
    User,
    /// `m.timeout`
    Timeout,
    /// `m.unknown_transaction`
    UnknownTransaction,
    /// `m.unknown_method`: nothing in common.
    UnknownMethod,
    /// `m.unexpected_message`
    UnexpectedMessage,
    /// `m.key_mismatch`: a key is not the expected one, or changed.
    KeyMismatch,
    /// `m.user_mismatch`: another user than the expected one.
    UserMismatch,
    /// `m.invalid_message`
    InvalidMessage,
    /// `m.accepted`: another device took the request.
    Accepted,
    /// `m.mismatched_commitment`
    MismatchedCommitment,
    /// `m.mismatched_sas`: the users saw different strings.
    MismatchedSas,
    /// A code that the other side made up.
    Other(String),
}

impl CancelCode {
    const KNOWN: [(Self, &'static str, &'static str); 11] = [
        (Self::User, "m.user", "The user cancelled the verification"),
        (Self::Timeout, "m.timeout", "The verification timed out"),
        (Self::UnknownTransaction, "m.unknown_transaction", "The transaction is not known"),
        (Self::UnknownMethod, "m.unknown_method", "There is no method in common"),
        (Self::UnexpectedMessage, "m.unexpected_message", "The message was not expected"),
        (Self::KeyMismatch, "m.key_mismatch", "A key is not the expected one"),
        (Self::UserMismatch, "m.user_mismatch", "The user is not the expected one"),
        (Self::InvalidMessage, "m.invalid_message", "The message is not valid"),
        (Self::Accepted, "m.accepted", "Another device accepted the request"),
        (Self::MismatchedCommitment, "m.mismatched_commitment", "The commitment does not match"),
        (Self::MismatchedSas, "m.mismatched_sas", "The short strings do not match"),
    ];

    /// The code as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(code) => code,
            known => {
                Self::KNOWN.iter().find(|(code, ..)| code == known).map_or("", |(_, text, _)| text)
            }
        }
    }

    fn reason(&self) -> &'static str {
        Self::KNOWN.iter().find(|(code, ..)| code == self).map_or("", |(_, _, reason)| reason)
    }

    /// Longer codes of others are cut: they are kept and shown.
    pub(super) fn parse(code: &str) -> Self {
        match Self::KNOWN.iter().find(|(_, text, _)| *text == code) {
            Some((known, ..)) => known.clone(),
            None => Self::Other(code.chars().take(64).collect()),
        }
    }

    pub(super) fn content(&self) -> Map<String, Value> {
        object([("code", self.as_str().into()), ("reason", self.reason().into())])
    }
}

/// What one side can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Methods {
    /// Short authentication strings (`m.sas.v1`).
    pub sas: bool,
    /// Show a QR code.
    pub show_qr: bool,
    /// Scan a QR code.
    pub scan_qr: bool,
}

impl Methods {
    /// All that there is.
    pub const ALL: Self = Self { sas: true, show_qr: true, scan_qr: true };
    /// Short authentication strings only.
    pub const SAS: Self = Self { sas: true, show_qr: false, scan_qr: false };

    /// Reads a list of methods; showing and scanning count only with `m.reciprocate.v1`.
    pub(super) fn parse(content: &Value) -> Option<Self> {
        let list = content.get("methods")?.as_array()?;
        let has = |name: &str| list.iter().any(|method| method.as_str() == Some(name));
        let reciprocate = has(RECIPROCATE);
        Some(Self {
            sas: has(SAS),
            show_qr: reciprocate && has(QR_SHOW),
            scan_qr: reciprocate && has(QR_SCAN),
        })
    }

    pub(super) fn names(self) -> Vec<&'static str> {
        let qr = self.show_qr || self.scan_qr;
        [(self.sas, SAS), (self.show_qr, QR_SHOW), (self.scan_qr, QR_SCAN), (qr, RECIPROCATE)]
            .into_iter()
            .filter_map(|(has, name)| has.then_some(name))
            .collect()
    }

    /// What this side can do with the other one.
    pub(super) const fn with(self, other: Self) -> Self {
        Self {
            sas: self.sas && other.sas,
            show_qr: self.show_qr && other.scan_qr,
            scan_qr: self.scan_qr && other.show_qr,
        }
    }

    /// Whether there is nothing.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        !(self.sas || self.show_qr || self.scan_qr)
    }
}

/// The device that a message says it is from: only `request`, `ready` and `start` say so. It is the
/// one to pass the keys of ([`CurrentKeys`](crate::CurrentKeys)) while a flow is not bound to one.
#[must_use]
pub fn from_device(content: &Value) -> Option<&DeviceId> {
    text(content, "from_device").filter(|id| !id.is_empty()).map(Into::into)
}

/// The answer to a message of a flow that nobody knows: a cancellation. `None` for messages that are
/// not answered: those that begin or end a flow, and unknown ones.
#[must_use]
pub fn unknown_transaction(
    event_type: &str,
    transaction_id: &str,
    sender: &UserId,
    device: &DeviceId,
) -> Option<VerificationMessage> {
    let channel = Channel::ToDevice { transaction_id: transaction_id.to_owned() };
    [READY, ACCEPT, KEY, MAC, DONE].contains(&event_type).then(|| VerificationMessage {
        target: VerificationTarget::Devices(sender.to_owned(), vec![device.to_owned()]),
        event_type: CANCEL,
        content: channel.frame(CancelCode::UnknownTransaction.content()),
    })
}

pub(super) fn object<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(super) fn text<'a>(content: &'a Value, field: &str) -> Option<&'a str> {
    content.get(field).and_then(Value::as_str)
}

/// Whether a list of texts in `content` has this one.
pub(super) fn lists(content: &Value, field: &str, entry: &str) -> bool {
    content
        .get(field)
        .and_then(Value::as_array)
        .is_some_and(|list| list.iter().any(|value| value.as_str() == Some(entry)))
}
