//! [`RpcError`]: the error half of an answer.

use std::time::Duration;

use herold::{ClientError, TransportError};
use serde_json::{Value, json};

/// Why a command was not carried out. The text never holds a secret, and never quotes a parameter.
#[derive(Debug)]
pub struct RpcError {
    code: &'static str,
    text: String,
}

/// What a command answers.
pub type Answer = Result<Value, RpcError>;

/// The code of what these layers cannot do.
const UNSUPPORTED: &str = "unsupported";

impl RpcError {
    /// An error with a stable code, which begins the text.
    pub fn new(code: &'static str, text: impl AsRef<str>) -> Self {
        let text: String = text.as_ref().chars().take(500).collect();
        Self { code, text: format!("{code}: {text}") }
    }

    /// Time ran out.
    pub fn timeout(what: impl AsRef<str>) -> Self {
        Self::new("timeout", what)
    }

    /// A parameter is missing or of the wrong type or form.
    pub fn parameter(name: &str, what: &str) -> Self {
        Self::new("invalid", format!("parameter {name}: {what}"))
    }

    /// A command, or a parameter, that these layers do not know.
    pub fn unsupported(what: impl AsRef<str>) -> Self {
        Self::new(UNSUPPORTED, what)
    }

    /// There is no such thing here.
    pub fn not_found(what: impl AsRef<str>) -> Self {
        Self::new("not_found", what)
    }

    /// The answer to the request with this id.
    pub fn answer(&self, id: &Value) -> Value {
        let mut answer = json!({ "id": id, "ok": false, "error": self.text, "code": self.code });
        if let (true, Some(answer)) = (self.code == UNSUPPORTED, answer.as_object_mut()) {
            answer.insert("unsupported".to_owned(), Value::Bool(true));
        }
        answer
    }
}

/// What comes of it, unless it takes longer than `limit`.
pub async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl IntoFuture<Output = T>,
) -> Result<T, RpcError> {
    tokio::time::timeout(limit, work).await.map_err(|_| RpcError::timeout(what))
}

impl From<ClientError> for RpcError {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Timeout => Self::timeout("it did not happen in time"),
            ClientError::Transport(TransportError::Timeout) => Self::timeout(error.to_string()),
            // The SDK cannot do this *here*, which is no missing feature of the peer.
            ClientError::Unsupported(_) => Self::new("not_supported", error.to_string()),
            _ => Self::new(error.code(), error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use herold::StoreError;

    use super::*;

    fn answer(error: RpcError) -> Value {
        error.answer(&json!(7))
    }

    #[test]
    fn time_outs_begin_with_the_word() {
        for error in [
            RpcError::timeout("waiting"),
            ClientError::Timeout.into(),
            ClientError::Transport(TransportError::Timeout).into(),
        ] {
            let answer = answer(error);
            assert!(answer["error"].as_str().unwrap().starts_with("timeout"), "{answer}");
            assert_eq!(answer["ok"], false);
            assert_eq!(answer["id"], 7);
        }
    }

    #[test]
    fn a_locked_store_is_a_typed_error() {
        let locked = StoreError::Locked { holder: "process 1".to_owned() };
        let answer = answer(ClientError::Store(locked).into());
        assert_eq!(answer["code"], "store_locked");
        assert!(answer["error"].as_str().unwrap().starts_with("store_locked"));
        assert!(answer.get("unsupported").is_none());
    }

    #[test]
    fn only_missing_features_are_marked_as_unsupported() {
        assert_eq!(answer(RpcError::unsupported("bootstrap"))["unsupported"], true);
        let refused = ClientError::Unsupported("the room's encryption algorithm");
        assert!(answer(refused.into()).get("unsupported").is_none());
        assert!(answer(ClientError::PolicyDenied.into()).get("unsupported").is_none());
    }
}
