//! [`Transport`]: how a request reaches the homeserver.
//!
//! The default is [`crate::HttpTransport`]. An app that has to use its platform's network stack
//! (proxy, certificate pinning, device management) passes its own.

use std::{fmt, future::Future, pin::Pin};

use herold_crypto::SecretString;
use herold_machine::HttpRequest;

/// The future of one exchange.
pub type Exchange<'a> =
    Pin<Box<dyn Future<Output = Result<TransportResponse, TransportError>> + Send + 'a>>;

/// Carries out HTTP requests.
///
/// An implementation must not follow redirects, must end within the request's `timeout_ms`, must
/// refuse bodies over `response_limit`, and must treat a body that is shorter than announced as
/// [`TransportError::Interrupted`]. It must not log the access token or a body. Dropping the future
/// may abandon the exchange.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` and waits for the whole answer. Any HTTP status is an answer.
    fn send(&self, request: TransportRequest) -> Exchange<'_>;
}

/// A request on its way to the homeserver.
///
/// `Debug` shows the method and the path only.
#[derive(Clone)]
pub struct TransportRequest {
    /// The homeserver's base URL, to which the request's path is appended.
    pub base_url: String,
    /// What to send.
    pub http: HttpRequest,
    /// Goes into the `Authorization` header as a bearer token, never anywhere else. Secret.
    pub access_token: Option<SecretString>,
    /// The largest answer that is taken, in bytes.
    pub response_limit: usize,
}

impl fmt::Debug for TransportRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TransportRequest").field(&self.http).finish()
    }
}

/// The homeserver's answer.
///
/// `Debug` shows the status and the length only.
#[derive(Clone, PartialEq, Eq)]
pub struct TransportResponse {
    /// The HTTP status.
    pub status: u16,
    /// What the `Retry-After` header asked for, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl fmt::Debug for TransportResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportResponse")
            .field("status", &self.status)
            .field("length", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The homeserver could not be reached; it has not seen the request. Try again later.
    #[error("the homeserver cannot be reached")]
    Unreachable,
    /// The exchange took too long. The homeserver may have acted.
    #[error("the homeserver took too long to answer")]
    Timeout,
    /// The connection broke before the answer was complete. The homeserver may have acted.
    #[error("the connection broke before the answer was complete")]
    Interrupted,
    /// The answer is larger than the limit. Trying again does not help.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Plain HTTP to a host other than this machine, which was not explicitly allowed.
    #[error("plain HTTP is not allowed for this homeserver")]
    InsecureUrl,
    /// The base URL or the request cannot be made into a URL.
    #[error("the homeserver's address is not usable")]
    InvalidUrl,
    /// The transport itself cannot work, for instance because TLS could not be set up.
    #[error("the transport cannot be set up")]
    Setup,
}

impl TransportError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unreachable | Self::Timeout | Self::Interrupted)
    }

    /// Whether the homeserver has certainly not seen the request.
    #[must_use]
    pub fn was_not_sent(self) -> bool {
        matches!(self, Self::Unreachable | Self::InsecureUrl | Self::InvalidUrl | Self::Setup)
    }
}
