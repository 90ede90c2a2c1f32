//! `/sync`: tokens, options and everything outside rooms.

use serde_json::{Map, Value, json};

use super::HomeServer;
use super::http::{ApiError, Call, ServerRequest, ServerResponse};
use super::model::{NOW, Requester};

/// A position in the stream. A to-device backlog has a position of its own, because one response
/// carries only so many of its messages: `s<stream>` or `s<stream>_<to-device>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) pos: u64,
    pub(super) to_device: u64,
}

/// Reads a token of a sync (`s`) or of a timeline (`t`).
pub(super) fn parse_token(text: &str) -> Result<Token, ApiError> {
    let parse = || {
        let rest = text.strip_prefix(['s', 't'])?;
        let (pos, to_device) = rest.split_once('_').unwrap_or((rest, rest));
        Some(Token { pos: pos.parse().ok()?, to_device: to_device.parse().ok()? })
    };
    parse().ok_or_else(|| ApiError::new(400, "M_UNKNOWN", "Invalid stream token"))
}

/// What a client asked of a sync.
#[derive(Clone, Copy, Debug)]
pub(super) struct SyncOptions {
    pub(super) since: Option<Token>,
    pub(super) full_state: bool,
    pub(super) limit: usize,
    pub(super) include_leave: bool,
}

impl SyncOptions {
    pub(super) fn since_pos(&self) -> Option<u64> {
        self.since.map(|token| token.pos)
    }
}

impl HomeServer {
    fn sync_options(
        &self,
        requester: &Requester,
        call: &Call<'_>,
    ) -> Result<SyncOptions, ApiError> {
        let since = call.query("since").filter(|since| !since.is_empty());
        let since = since.map(parse_token).transpose()?;
        let filter = match call.query("filter") {
            None | Some("") => Value::Null,
            Some(text) if text.starts_with('{') => {
                serde_json::from_str(text).map_err(|_| ApiError::invalid("Invalid filter JSON"))?
            }
            Some(id) => self.filter(&requester.user, id)?.clone(),
        };
        let room = filter.get("room");
        let limit = room.and_then(|room| room.get("timeline")?.get("limit")?.as_u64());
        let leave = room.and_then(|room| room.get("include_leave")?.as_bool());
        Ok(SyncOptions {
            since,
            full_state: call.query("full_state") == Some("true"),
            limit: limit
                .map_or(super::DEFAULT_TIMELINE_LIMIT, |limit| usize::try_from(limit).unwrap_or(0))
                .min(100),
            include_leave: leave.unwrap_or(false),
        })
    }

    pub(super) fn sync(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
    ) -> Result<ServerResponse, ApiError> {
        let options = self.sync_options(requester, call)?;
        if let Some(since) = options.since {
            self.acknowledge(requester, since.to_device);
        }
        let (body, _) = self.sync_body(call.now_ms, requester, &options);
        Ok(ServerResponse::json(200, &body))
    }

    /// Whether this request would answer something, so that a live server need not wait. True
    /// for everything that is not a sync and for a sync that fails.
    #[must_use]
    pub fn has_news(&self, request: &ServerRequest) -> bool {
        if !request.path.ends_with("/sync") || self.limited > 0 {
            return true;
        }
        if request.method == "POST" {
            return self.sliding_has_news(request);
        }
        let Ok(requester) = self.requester(request) else { return true };
        let call = Call { now_ms: 0, request };
        let Ok(options) = self.sync_options(&requester, &call) else { return true };
        self.sync_body(0, &requester, &options).1
    }

    /// The response and whether there is news in it.
    fn sync_body(
        &self,
        now_ms: u64,
        requester: &Requester,
        options: &SyncOptions,
    ) -> (Value, bool) {
        let mut out = Map::new();
        let since = options.since_pos();

        let (events, upto) =
            self.pending_to_device(requester, options.since.map_or(0, |token| token.to_device));
        if !events.is_empty() {
            out.insert("to_device".to_owned(), json!({ "events": events }));
        }
        let account_data = self.account_data_since(&requester.user, since.unwrap_or(0));
        if !account_data.is_empty() {
            out.insert("account_data".to_owned(), json!({ "events": account_data }));
        }
        let rooms = self.sync_rooms(now_ms, requester, options);
        if !rooms.is_empty() {
            out.insert("rooms".to_owned(), Value::Object(rooms));
        }
        if let Some(since) = since {
            let lists = self.device_list_delta(&requester.user, since, NOW);
            if !lists.is_empty() {
                out.insert("device_lists".to_owned(), lists.json());
            }
        }
        let news = since.is_none() || options.full_state || !out.is_empty();

        if let Some(device) = self.device(&requester.user, &requester.device) {
            match &device.count_override {
                Some(Value::Null) => {}
                Some(counts) => {
                    out.insert("device_one_time_keys_count".to_owned(), counts.clone());
                }
                None => {
                    out.insert("device_one_time_keys_count".to_owned(), device.key_counts());
                }
            }
            let types = json!(device.unused_fallback_types());
            out.insert("device_unused_fallback_key_types".to_owned(), types);
        }
        let next = if upto == self.pos {
            format!("s{}", self.pos)
        } else {
            format!("s{}_{upto}", self.pos)
        };
        out.insert("next_batch".to_owned(), json!(next));
        (Value::Object(out), news)
    }
}
