//! [`TimelineEvent`]: a room event as the app may show it.

use herold::{ClearBody, RoomEvent, Utd};
use serde::Deserialize;

/// A room event as the app may show it. Who sent it and how far that can be believed is worked out
/// anew each time it is asked for.
#[derive(Clone, PartialEq, Eq, uniffi::Record)]
pub struct TimelineEvent {
    /// The room.
    pub room_id: String,
    /// The event.
    pub event_id: String,
    /// Who sent it.
    pub sender: String,
    /// The device that sent it, if it is known.
    pub sender_device: Option<String>,
    /// When, in milliseconds since 1970, as the sender's server says.
    pub sent_at_ms: u64,
    /// It was encrypted on its way.
    pub encrypted: bool,
    /// The room key it was encrypted with.
    pub session_id: Option<String>,
    /// How far the sender can be believed.
    pub shield: Shield,
    /// The user who has shared the room's history with us: the sender is that user's word only, and the app says so.
    pub shared_by: Option<String>,
    /// What it says, or why it cannot be read.
    pub content: Content,
}

/// What an event says.
#[derive(Clone, PartialEq, Eq, uniffi::Enum)]
pub enum Content {
    /// A text.
    Text {
        /// The text.
        body: String,
        /// What kind of text.
        kind: TextKind,
    },
    /// An attachment: [`crate::Client::download`] fetches it.
    File {
        /// The name the sender gave. Not safe to use as a file name; the download's is.
        name: String,
        /// The media type the sender gave. Not to be trusted.
        mimetype: Option<String>,
        /// The size in bytes the sender gave. Not to be trusted.
        size: Option<u64>,
    },
    /// The content of another event was taken away, as the homeserver says: nothing proves who wanted it.
    Redaction {
        /// That event.
        redacts: String,
    },
    /// Something else, such as a change of the room's settings.
    Other {
        /// The type of the event.
        event_type: String,
    },
    /// It cannot be read.
    Unreadable {
        /// Why.
        reason: WhyUnreadable,
    },
}

/// What kind of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum TextKind {
    /// What somebody says.
    Said,
    /// What somebody does, in the third person (`m.emote`).
    Emote,
    /// What a program says, not to be answered by a program (`m.notice`).
    Automatic,
}

/// How far the sender can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Shield {
    /// Show it plainly.
    Plain,
    /// Show it with a note.
    Grey {
        /// Why.
        reason: ShieldReason,
    },
    /// Show it with a warning.
    Red {
        /// Why.
        reason: ShieldReason,
    },
}

/// Why a message has a shield.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum ShieldReason {
    /// The room key does not prove who sent the message.
    AuthenticityNotGuaranteed,
    /// The device that sent the message is not known.
    UnknownDevice,
    /// The device that sent the message is not cross-signed by its owner.
    UnsignedDevice,
    /// The sender's identity changed and nobody has acknowledged that.
    IdentityViolation,
    /// The message was sent in clear to an encrypted room.
    SentInClear,
    /// The event claims another sender than the owner of the room key.
    MismatchedSender,
}

/// Why an event cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum WhyUnreadable {
    /// The room key has not come, and may still.
    MissingKey,
    /// It was sent when this account was not in the room.
    NotMemberThen,
    /// The key that was given begins later.
    IndexTooEarly,
    /// The sender gives this device no key.
    Withheld {
        /// The sender's reason, a code of the Matrix specification.
        code: String,
    },
    /// The sender is not who it claims to be, or not trusted enough.
    SenderUntrusted,
    /// The same message came before as another event.
    Replay,
    /// It was made for another room.
    RoomMismatch,
    /// It is malformed, or was changed on its way.
    BadCiphertext,
    /// It is encrypted in a way that is not known here.
    UnsupportedAlgorithm,
}

impl From<RoomEvent> for TimelineEvent {
    fn from(event: RoomEvent) -> Self {
        Self {
            room_id: event.room_id.into(),
            event_id: event.event_id.into(),
            sender: event.sender.into(),
            sender_device: event.sender_device.map(Into::into),
            sent_at_ms: event.origin_server_ts,
            encrypted: event.encrypted,
            session_id: event.session_id.map(|id| id.to_string()),
            shield: event.shield.into(),
            shared_by: event.shared_by.map(Into::into),
            content: match (event.body, event.redacts) {
                (Ok(_), Some(redacts)) => Content::Redaction { redacts: redacts.into() },
                (Ok(body), None) => Content::read(body),
                (Err(reason), _) => Content::Unreadable { reason: reason.into() },
            },
        }
    }
}

impl Content {
    /// What the clear part says; [`Content::Other`] if it is not of a shape that is known.
    fn read(clear: ClearBody) -> Self {
        #[derive(Deserialize)]
        struct Message {
            msgtype: String,
            body: String,
            filename: Option<String>,
            info: Option<Info>,
        }
        #[derive(Deserialize)]
        struct Info {
            mimetype: Option<String>,
            size: Option<u64>,
        }
        let message = match serde_json::from_str::<Message>(&clear.content) {
            Ok(message) if clear.event_type == "m.room.message" => message,
            _ => return Self::Other { event_type: clear.event_type },
        };
        let text = |kind| Self::Text { body: message.body.clone(), kind };
        match message.msgtype.as_str() {
            "m.text" => text(TextKind::Said),
            "m.emote" => text(TextKind::Emote),
            "m.notice" => text(TextKind::Automatic),
            "m.file" | "m.image" | "m.audio" | "m.video" => {
                let (mimetype, size) =
                    message.info.map_or((None, None), |info| (info.mimetype, info.size));
                Self::File { name: message.filename.unwrap_or(message.body), mimetype, size }
            }
            _ => Self::Other { event_type: clear.event_type },
        }
    }
}

/// What was said does not get into a log.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text { .. } => f.write_str("Text(..)"),
            Self::File { .. } => f.write_str("File(..)"),
            Self::Other { event_type } => write!(f, "Other({event_type})"),
            Self::Redaction { redacts } => write!(f, "Redaction({redacts:?})"),
            Self::Unreadable { reason } => write!(f, "Unreadable({reason:?})"),
        }
    }
}

impl std::fmt::Debug for TimelineEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TimelineEvent")
            .field("room_id", &self.room_id)
            .field("event_id", &self.event_id)
            .field("content", &self.content)
            .finish_non_exhaustive()
    }
}

impl From<herold::Shield> for Shield {
    fn from(shield: herold::Shield) -> Self {
        match shield {
            herold::Shield::None => Self::Plain,
            herold::Shield::Grey(reason) => Self::Grey { reason: reason.into() },
            herold::Shield::Red(reason) => Self::Red { reason: reason.into() },
        }
    }
}

impl From<herold::ShieldReason> for ShieldReason {
    fn from(reason: herold::ShieldReason) -> Self {
        use herold::ShieldReason as From;
        match reason {
            From::AuthenticityNotGuaranteed => Self::AuthenticityNotGuaranteed,
            From::UnknownDevice => Self::UnknownDevice,
            From::UnsignedDevice => Self::UnsignedDevice,
            From::IdentityViolation => Self::IdentityViolation,
            From::SentInClear => Self::SentInClear,
            From::MismatchedSender => Self::MismatchedSender,
        }
    }
}

impl From<Utd> for WhyUnreadable {
    fn from(reason: Utd) -> Self {
        match reason {
            Utd::MissingKey => Self::MissingKey,
            Utd::NotMemberThen => Self::NotMemberThen,
            Utd::IndexTooEarly => Self::IndexTooEarly,
            Utd::Withheld(code) => Self::Withheld { code },
            Utd::SenderUntrusted => Self::SenderUntrusted,
            Utd::Replay => Self::Replay,
            Utd::RoomMismatch => Self::RoomMismatch,
            Utd::UnsupportedAlgorithm => Self::UnsupportedAlgorithm,
            // What is new there and has no name here yet is as little to be shown.
            _ => Self::BadCiphertext,
        }
    }
}

#[cfg(test)]
mod tests {
    use herold::ClearBody;

    use super::{Content, TextKind};

    fn read(event_type: &str, content: &str) -> Content {
        Content::read(ClearBody { event_type: event_type.to_owned(), content: content.to_owned() })
    }

    #[test]
    fn messages_become_what_they_are() {
        let text = read("m.room.message", r#"{"msgtype":"m.notice","body":"b"}"#);
        assert_eq!(text, Content::Text { body: "b".to_owned(), kind: TextKind::Automatic });
        let file = r#"{"msgtype":"m.image","body":"caption","filename":"f","info":{"size":3}}"#;
        let expected = Content::File { name: "f".to_owned(), mimetype: None, size: Some(3) };
        assert_eq!(read("m.room.message", file), expected);
    }

    #[test]
    fn what_has_no_known_shape_is_something_else() {
        for content in
            ["", "{}", "[]", r#"{"msgtype":5,"body":"b"}"#, r#"{"msgtype":"x","body":"b"}"#]
        {
            let other = Content::Other { event_type: "m.room.message".to_owned() };
            assert_eq!(read("m.room.message", content), other);
        }
        let other = Content::Other { event_type: "m.other".to_owned() };
        assert_eq!(read("m.other", r#"{"msgtype":"m.text","body":"b"}"#), other);
    }

    #[test]
    fn debug_prints_nothing_of_what_was_said() {
        let text = read("m.room.message", r#"{"msgtype":"m.text","body":"private"}"#);
        assert!(!format!("{text:?}").contains("private"));
    }
}
