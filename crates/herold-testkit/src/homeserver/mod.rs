//! A Matrix homeserver without input or output: requests in, responses out.
//!
//! The model behaves like Synapse where a client can tell the difference for end-to-end
//! encryption: which to-device messages repeat, which keys are handed out, when a timeline has a
//! gap, who hears of whose devices. It has no clock and no randomness, so a run with the same
//! seed and the same requests repeats byte for byte, and a [`HomeServer`] can be cloned at any
//! point and continued from there.
//!
//! What it does not do: it never verifies a signature, it does not federate (a model may host
//! users of several server names instead, see [`HomeServer::fail_servers`]), and it does not
//! resolve state, because there is one writer only.

mod account;
mod auth;
mod backup;
mod cross_signing;
mod dehydrated;
mod device_lists;
mod devices;
mod history;
mod hooks;
mod http;
mod ids;
mod keys;
mod media;
mod membership;
mod model;
mod power;
mod profile;
mod room_create;
mod room_read;
mod room_send;
mod route;
mod sliding;
mod sync;
mod sync_rooms;
mod to_device;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use dehydrated::Dehydration;
pub use http::{ServerRequest, ServerResponse};
pub use model::{SeenRequest, SentToDevice};

use auth::UiaSession;
use http::{ApiError, Call};
use model::{Requester, Room, User};

/// How many to-device messages one sync response carries at most.
pub const TO_DEVICE_LIMIT: usize = 100;

/// How many timeline events a room has in a sync response unless a filter says otherwise.
pub const DEFAULT_TIMELINE_LIMIT: usize = 10;

/// The whole server; a clone is a snapshot.
#[derive(Clone, Debug)]
pub struct HomeServer {
    name: String,
    seed: u64,
    counter: u64,
    /// The last stream position that was given out.
    pos: u64,
    users: BTreeMap<String, User>,
    tokens: BTreeMap<String, Requester>,
    soft_tokens: BTreeSet<String>,
    rooms: BTreeMap<String, Room>,
    /// Of sliding sync, by device and name.
    connections: BTreeMap<(Requester, String), sliding::Connection>,
    aliases: BTreeMap<String, String>,
    uia: BTreeMap<String, UiaSession>,
    media: BTreeMap<(String, String), media::Media>,
    legacy_media: bool,
    dehydration: Dehydration,
    dehydrated_page: usize,
    /// Whose devices or cross-signing keys changed, and when.
    device_changes: Vec<(u64, String)>,
    /// Who signed whom: only the signer hears of it.
    signature_changes: Vec<(u64, String, String)>,
    failing: BTreeSet<String>,
    limited: u32,
    limited_ms: u64,
    keep: Option<usize>,
    requests: Vec<SeenRequest>,
    to_device_log: Vec<SentToDevice>,
}

impl HomeServer {
    /// An empty server. Servers with different seeds give out different ids.
    #[must_use]
    pub fn new(server_name: &str, seed: u64) -> Self {
        Self {
            name: server_name.to_owned(),
            seed,
            counter: 0,
            pos: 0,
            users: BTreeMap::new(),
            tokens: BTreeMap::new(),
            soft_tokens: BTreeSet::new(),
            rooms: BTreeMap::new(),
            connections: BTreeMap::new(),
            aliases: BTreeMap::new(),
            uia: BTreeMap::new(),
            media: BTreeMap::new(),
            legacy_media: true,
            dehydration: Dehydration::Served,
            dehydrated_page: TO_DEVICE_LIMIT,
            device_changes: Vec::new(),
            signature_changes: Vec::new(),
            failing: BTreeSet::new(),
            limited: 0,
            limited_ms: 0,
            keep: None,
            requests: Vec::new(),
            to_device_log: Vec::new(),
        }
    }

    /// The server name.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.name
    }

    /// Answers one request. It never blocks: a sync with nothing new answers at once.
    pub fn handle(&mut self, now_ms: u64, request: &ServerRequest) -> ServerResponse {
        let requester = self.requester(request).ok();
        let call = Call { now_ms, request };
        let response = if self.limited > 0 {
            self.limited -= 1;
            let mut error = ApiError::new(429, "M_LIMIT_EXCEEDED", "Too Many Requests");
            if let Some(body) = error.body.as_object_mut() {
                body.insert("retry_after_ms".to_owned(), self.limited_ms.into());
            }
            error.into_response()
        } else {
            self.dispatch(&call).unwrap_or_else(ApiError::into_response)
        };
        if self.keep != Some(0) {
            let (user, device) = match requester {
                Some(requester) => (Some(requester.user), Some(requester.device)),
                None => (None, None),
            };
            self.requests.push(SeenRequest {
                now_ms,
                method: request.method.clone(),
                path: request.path.clone(),
                query: request.query.clone(),
                user,
                device,
                body: request.body.as_slice().into(),
                status: response.status,
            });
            self.trim_logs();
        }
        response
    }

    fn next_pos(&mut self) -> u64 {
        self.pos += 1;
        self.pos
    }

    fn trim_logs(&mut self) {
        let Some(keep) = self.keep else { return };
        // Twice the bound before anything moves, so that trimming stays cheap.
        if self.requests.len() > keep.saturating_mul(2) {
            self.requests.drain(..self.requests.len() - keep);
        }
        if self.to_device_log.len() > keep.saturating_mul(2) {
            self.to_device_log.drain(..self.to_device_log.len() - keep);
        }
    }
}
