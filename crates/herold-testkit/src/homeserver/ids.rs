//! Identifiers: a counter and the seed through SHA-256, so that they repeat.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::HomeServer;

/// The server name of a user, room or alias id.
pub(super) fn server_of(id: &str) -> &str {
    id.split_once(':').map_or("", |(_, server)| server)
}

/// Whether this is `@local:server`.
pub(super) fn is_user_id(id: &str) -> bool {
    id.strip_prefix('@')
        .and_then(|rest| rest.split_once(':'))
        .is_some_and(|(local, server)| !local.is_empty() && !server.is_empty())
}

impl HomeServer {
    fn digest(&mut self, kind: &str, extra: &[u8]) -> [u8; 32] {
        self.counter += 1;
        let mut hash = Sha256::new();
        hash.update(self.name.as_bytes());
        hash.update(self.seed.to_be_bytes());
        hash.update(self.counter.to_be_bytes());
        hash.update(kind.as_bytes());
        hash.update(extra);
        hash.finalize().into()
    }

    /// `length` letters.
    pub(super) fn letters(&mut self, kind: &str, length: usize, upper: bool) -> String {
        let digest = self.digest(kind, &[]);
        let first = if upper { b'A' } else { b'a' };
        digest.iter().take(length).map(|byte| char::from(first + byte % 26)).collect()
    }

    /// A secret: an access token, a session of user-interactive authentication.
    pub(super) fn secret(&mut self, kind: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.digest(kind, &[]))
    }

    /// The id of an event, as rooms of version 4 and later have it.
    pub(super) fn event_id(&mut self, event: &[u8]) -> String {
        format!("${}", URL_SAFE_NO_PAD.encode(self.digest("event", event)))
    }
}
