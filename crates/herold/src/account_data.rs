//! The account's own data on the homeserver: what secret storage is made of.

use std::collections::BTreeMap;

use herold_crypto::Entropy as _;
use herold_machine::{HttpRequest, Method};
use serde_json::{Map, Value, json};

use crate::{
    ClientError, OsEntropy,
    homeserver::{RESPONSE_LIMIT, Retry},
    session::Session,
};

const CLIENT: &str = "/_matrix/client/v3";
const DEFAULT_KEY: &str = "m.secret_storage.default_key";
const KEY: &str = "m.secret_storage.key.";

/// All of it, as it was at one instant.
pub(crate) struct AccountData(BTreeMap<String, Value>);

impl AccountData {
    /// Fetches it: the beginning of a sync without rooms. Only that lists what other clients have put there.
    pub(crate) async fn fetch(session: &Session) -> Result<Self, ClientError> {
        #[derive(serde::Deserialize)]
        struct Response {
            #[serde(default)]
            account_data: Events,
        }
        #[derive(Default, serde::Deserialize)]
        struct Events {
            #[serde(default)]
            events: Vec<Value>,
        }
        // A homeserver may answer the same question out of a cache that is minutes old.
        let mut nonce = [0; 8];
        OsEntropy.fill(&mut nonce);
        let filter = json!({
            "room": { "rooms": [] },
            "presence": { "types": [format!("none.{:016x}", u64::from_be_bytes(nonce))] },
        });
        let request = HttpRequest::new(Method::Get, CLIENT, &["sync"])
            .query("filter", filter.to_string())
            .query("set_presence", "offline".to_owned())
            .query("timeout", "0".to_owned());
        let body = session.call(request, Retry::Always).await?;
        let response: Response = serde_json::from_slice(&body)
            .map_err(|_| ClientError::BadResponse("the account's data"))?;
        let events = response.account_data.events.into_iter().filter_map(|mut event| {
            let kind = event.get("type")?.as_str()?.to_owned();
            Some((kind, event.get_mut("content")?.take()))
        });
        Ok(Self(events.collect()))
    }

    /// The content of one type.
    pub(crate) fn get(&self, kind: &str) -> Option<&Value> {
        self.0.get(kind)
    }

    /// The id of the default key. A default key without an id is how it is switched off.
    pub(crate) fn default_key(&self) -> Option<&str> {
        self.get(DEFAULT_KEY)?.get("key")?.as_str()
    }

    /// The description of a key; an empty one is how it is taken away.
    pub(crate) fn description(&self, key_id: &str) -> Option<&Value> {
        self.get(&format!("{KEY}{key_id}"))
            .filter(|it| it.as_object().is_some_and(|o| !o.is_empty()))
    }

    /// The ids of all keys that are described, the default one first, then those under which something is.
    pub(crate) fn key_ids(&self) -> Vec<&str> {
        let default = self.default_key();
        let described = self.0.keys().filter_map(|kind| kind.strip_prefix(KEY));
        let mut ids: Vec<&str> =
            described.filter(|id| Some(*id) != default && self.description(id).is_some()).collect();
        ids.sort_by_key(|id| !self.secrets().any(|(_, by_key)| by_key.contains_key(*id)));
        default.into_iter().chain(ids).collect()
    }

    /// Whether there is such a secret under the default key. Whether it can be opened, and is what it should be, this does
    /// not say.
    pub(crate) fn is_under_default_key(&self, name: &str) -> bool {
        let default = self.default_key();
        self.secrets().any(|(secret, by_key)| {
            secret == name && default.is_some_and(|id| by_key.contains_key(id))
        })
    }

    /// Everything that is encrypted: its name, and under which keys.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
        self.0.iter().filter_map(|(name, content)| {
            Some((name.as_str(), content.get("encrypted")?.as_object()?))
        })
    }
}

fn request(session: &Session, method: Method, kind: &str) -> HttpRequest {
    let segments = [session.user_id.as_str(), "account_data", kind];
    HttpRequest::new(method, "/_matrix/client/v3/user", &segments)
}

/// One type, as it is now.
pub(crate) async fn get(session: &Session, kind: &str) -> Result<Option<Value>, ClientError> {
    let request = request(session, Method::Get, kind);
    let response = session.call_raw(request, Retry::Always, RESPONSE_LIMIT).await?;
    if response.status == 404 {
        return Ok(None);
    }
    let body = session.success(response)?;
    serde_json::from_slice(&body).map(Some).map_err(|_| ClientError::BadResponse("account data"))
}

/// Writes one type.
pub(crate) async fn put(session: &Session, kind: &str, content: &Value) -> Result<(), ClientError> {
    let request = request(session, Method::Put, kind).json(content.to_string());
    session.call(request, Retry::Always).await.map(drop)
}

/// Describes a key.
pub(crate) async fn describe_key(
    session: &Session,
    key_id: &str,
    description: &Value,
) -> Result<(), ClientError> {
    put(session, &format!("{KEY}{key_id}"), description).await
}

/// Has other devices open this key.
pub(crate) async fn make_default(session: &Session, key_id: &str) -> Result<(), ClientError> {
    put(session, DEFAULT_KEY, &json!({ "key": key_id })).await
}
