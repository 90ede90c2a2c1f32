//! [`Outgoing`] requests and [`Answer`]s: HTTP as data.

use std::collections::BTreeMap;

use herold_store::records::{
    BackupBatchRecord, HistoryBundleKey, HistoryBundleRecord, SignatureRecord,
};
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedTransactionId, OwnedUserId};

use crate::account::SentKeys;
use crate::dehydration::DehydrationRequest;
use crate::dehydration::rehydration::{MAX_DEVICE, MAX_PAGE};
use crate::history::MAX_BUNDLE;

/// An HTTP method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
}

impl Method {
    /// The method's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// A request's body.
#[derive(Clone, PartialEq, Eq)]
pub enum Body {
    /// None.
    Empty,
    /// JSON text.
    Json(String),
    /// Bytes of another type.
    Bytes {
        /// The media type.
        content_type: String,
        /// The bytes.
        data: Vec<u8>,
    },
}

/// An HTTP request to the homeserver, as data.
///
/// `Debug` shows the method and the path only: bodies may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// The path, percent-encoded, beginning with `/_matrix`. Never holds a secret.
    pub path: String,
    /// The query, not yet encoded. Never holds a secret.
    pub query: Vec<(String, String)>,
    /// The body.
    pub body: Body,
    /// The access token goes with it.
    pub authenticated: bool,
    /// How long the whole exchange may take, in milliseconds.
    pub timeout_ms: u64,
}

impl HttpRequest {
    /// A request with the access token, no body and a time limit of 30 seconds. Each of `segments` is
    /// percent-encoded and put behind `prefix`.
    #[must_use]
    pub fn new(method: Method, prefix: &str, segments: &[&str]) -> Self {
        let mut path = prefix.to_owned();
        for segment in segments {
            path.push('/');
            path.push_str(&percent_encode(segment));
        }
        Self {
            method,
            path,
            query: Vec::new(),
            body: Body::Empty,
            authenticated: true,
            timeout_ms: 30_000,
        }
    }

    /// With a JSON body.
    #[must_use]
    pub fn json(mut self, body: String) -> Self {
        self.body = Body::Json(body);
        self
    }

    /// With a query parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// With another time limit.
    #[must_use]
    pub fn timeout(mut self, milliseconds: u64) -> Self {
        self.timeout_ms = milliseconds;
        self
    }
}

impl std::fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method.as_str(), self.path)
    }
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
#[must_use]
pub fn percent_encode(text: &str) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let digits = [byte >> 4, byte & 15].map(|half| DIGITS.get(usize::from(half)));
            out.push('%');
            out.extend(digits.into_iter().flatten());
        }
    }
    // A segment of dots alone would be taken for a step up or nothing.
    match out.as_str() {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => out,
    }
}

/// Names a request: while one with this name is under way, no other with it is issued.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) String);

impl RequestId {
    /// The name. Not secret.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A request the machine wants made. The answer, or the failure, goes to
/// [`crate::Machine::handle_answer`].
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its name.
    pub id: RequestId,
    /// What to send.
    pub http: HttpRequest,
    pub(crate) kind: RequestKind,
}

impl Outgoing {
    /// Whether it must be known when, or that, it was made ([`crate::Machine::note_asked`]): messages wait for its answer
    /// for a limited time, or it must not be made a second time by a process that does not know what came of it.
    #[must_use]
    pub fn is_noted(&self) -> bool {
        match &self.kind {
            RequestKind::KeysClaim { .. } => true,
            RequestKind::Dehydration { sent } => sent.is_upload(),
            _ => false,
        }
    }

    /// Whether it should not be made by two processes at a time.
    #[must_use]
    pub fn is_for_one(&self) -> bool {
        matches!(self.kind, RequestKind::KeysUpload { .. })
    }

    /// What kind of request it is, for logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.kind {
            RequestKind::KeysUpload { .. } => "keys_upload",
            RequestKind::KeysQuery { .. } => "keys_query",
            RequestKind::KeysClaim { .. } => "keys_claim",
            RequestKind::ToDevice { .. } => "send_to_device",
            RequestKind::Members { .. } => "members",
            RequestKind::Send { .. } => "send",
            RequestKind::Signatures { .. } => "signatures_upload",
            RequestKind::BackupVersion => "backup_version",
            RequestKind::BackupUpload { .. } => "backup_upload",
            RequestKind::History { .. } => "history",
            RequestKind::Dehydration { .. } => "dehydrated_device",
        }
    }

    /// The largest body of an answer that is taken, in bytes, if that is less than usual. Of a larger one nothing need be
    /// read: see [`Answer::OverLimit`].
    #[must_use]
    pub fn response_limit(&self) -> Option<usize> {
        match &self.kind {
            RequestKind::History { .. } => Some(MAX_BUNDLE),
            RequestKind::Dehydration { sent: DehydrationRequest::Look } => Some(MAX_DEVICE),
            RequestKind::Dehydration { sent: DehydrationRequest::Page { .. } } => Some(MAX_PAGE),
            _ => None,
        }
    }
}

/// What an answer is needed for.
#[derive(Clone, Debug)]
pub(crate) enum RequestKind {
    /// The ids of the one-time keys, and of the fallback key if it is among them.
    KeysUpload {
        keys: SentKeys,
    },
    /// The users asked for, with the generation of their lists when the request was made.
    KeysQuery {
        users: BTreeMap<OwnedUserId, u64>,
    },
    KeysClaim {
        devices: Vec<(OwnedUserId, OwnedDeviceId)>,
    },
    /// The place in the outbox, and the transaction id: after a power loss the place may be another's.
    ToDevice {
        sequence: u64,
        txn_id: OwnedTransactionId,
    },
    /// The room, with the generation of its members when the request was made.
    Members {
        room_id: OwnedRoomId,
        generation: u64,
    },
    /// The place in the queue, and the transaction id, likewise.
    Send {
        sequence: u64,
        txn_id: OwnedTransactionId,
    },
    /// The signatures with their places.
    Signatures {
        sent: Vec<(u64, SignatureRecord)>,
    },
    BackupVersion,
    BackupUpload {
        sent: BackupBatchRecord,
    },
    /// The bundle, as it was when the request was made.
    History {
        key: HistoryBundleKey,
        sent: HistoryBundleRecord,
    },
    Dehydration {
        sent: DehydrationRequest,
    },
}

/// What came of a request.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// The server answered.
    Response {
        /// The HTTP status.
        status: u16,
        /// What `Retry-After` or `retry_after_ms` asked for, in milliseconds.
        retry_after_ms: Option<u64>,
        /// The body.
        body: &'a [u8],
    },
    /// There was no answer. The server may or may not have acted.
    Failed,
    /// The answer is larger than what is taken of it ([`Outgoing::response_limit`]).
    OverLimit,
}

impl Answer<'_> {
    /// The body of a success.
    pub(crate) fn success(&self) -> Option<&[u8]> {
        match self {
            Self::Response { status, body, .. } if (200..300).contains(status) => Some(body),
            _ => None,
        }
    }

    /// Whether trying again can help: no answer, too many requests, a fault of the server, or a token
    /// that may yet be renewed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Failed => true,
            Self::OverLimit => false,
            Self::Response { status, .. } => {
                matches!(status, 401 | 408 | 425 | 429) || *status >= 500 || *status < 300
            }
        }
    }

    /// Whether the server finds the request too large.
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(self, Self::Response { status: 413, .. }) || self.errcode() == "M_TOO_LARGE"
    }

    /// Whether it was larger than what is taken.
    pub(crate) fn is_over_limit(&self) -> bool {
        matches!(self, Self::OverLimit)
    }

    /// Whether the server does not know the endpoint.
    pub(crate) fn is_unrecognised(&self) -> bool {
        matches!(self, Self::Response { status: 404 | 405, .. })
            && self.errcode() == "M_UNRECOGNIZED"
    }

    /// How long the server asked to wait, in milliseconds.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Response { retry_after_ms, body, .. } => retry_after_ms.or_else(|| {
                #[derive(serde::Deserialize)]
                struct Limited {
                    retry_after_ms: Option<u64>,
                }
                serde_json::from_slice::<Limited>(body).ok()?.retry_after_ms
            }),
            Self::Failed | Self::OverLimit => None,
        }
    }

    /// The Matrix error code, or `HTTP_<status>` if the body names none.
    pub(crate) fn errcode(&self) -> String {
        #[derive(serde::Deserialize)]
        struct MatrixError {
            errcode: String,
        }
        match self {
            Self::Failed => "NO_ANSWER".to_owned(),
            Self::OverLimit => "OVER_LIMIT".to_owned(),
            Self::Response { status, body, .. } => serde_json::from_slice::<MatrixError>(body)
                .map_or_else(|_| format!("HTTP_{status}"), |error| error.errcode),
        }
    }
}
