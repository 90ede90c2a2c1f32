//! [`Params`]: the parameters of a request, taken out one by one and checked.
//!
//! Errors name the parameter and what it should be; they never quote what it is, because it may be a
//! password in the wrong place.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use herold::SecretString;
use serde_json::{Map, Value};

use super::error::RpcError;

/// How long a waiting command waits unless it says otherwise.
const DEFAULT_WAIT: Duration = Duration::from_secs(20);
/// The longest a command may wait: a day.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

/// The parameters of one request. Those nobody asks for are ignored; `null` counts as absent.
#[derive(Default)]
pub struct Params(Map<String, Value>);

impl Params {
    /// The members of a request, `id` and `cmd` taken out before.
    pub fn new(members: Map<String, Value>) -> Self {
        Self(members)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    fn required<T>(name: &str, value: Option<T>) -> Result<T, RpcError> {
        value.ok_or_else(|| RpcError::parameter(name, "missing"))
    }

    /// An optional text.
    pub fn optional_text(&mut self, name: &str) -> Result<Option<String>, RpcError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(RpcError::parameter(name, "not a string")),
        }
    }

    /// A text.
    pub fn text(&mut self, name: &str) -> Result<String, RpcError> {
        Self::required(name, self.optional_text(name)?)
    }

    /// A secret text.
    pub fn secret(&mut self, name: &str) -> Result<SecretString, RpcError> {
        self.text(name).map(SecretString::new)
    }

    /// A secret text, if it is given.
    pub fn optional_secret(&mut self, name: &str) -> Result<Option<SecretString>, RpcError> {
        Ok(self.optional_text(name)?.map(SecretString::new))
    }

    /// An identifier of the Matrix specification.
    pub fn id<T>(&mut self, name: &str) -> Result<T, RpcError>
    where
        T: for<'a> TryFrom<&'a str>,
    {
        let text = self.text(name)?;
        T::try_from(&text).map_err(|_| RpcError::parameter(name, "not an identifier of its kind"))
    }

    /// A list of identifiers.
    pub fn ids<T>(&mut self, name: &str) -> Result<Vec<T>, RpcError>
    where
        T: for<'a> TryFrom<&'a str>,
    {
        let wrong = || RpcError::parameter(name, "not a list of identifiers");
        match Self::required(name, self.take(name))? {
            Value::Array(items) => items
                .iter()
                .map(|item| T::try_from(item.as_str().ok_or_else(wrong)?).map_err(|_| wrong()))
                .collect(),
            _ => Err(wrong()),
        }
    }

    /// An optional truth value; absent is `false`.
    pub fn flag(&mut self, name: &str) -> Result<bool, RpcError> {
        Ok(self.optional_flag(name)?.unwrap_or(false))
    }

    /// A truth value that may be missing.
    pub fn optional_flag(&mut self, name: &str) -> Result<Option<bool>, RpcError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(RpcError::parameter(name, "not true or false")),
        }
    }

    /// A truth value.
    pub fn required_flag(&mut self, name: &str) -> Result<bool, RpcError> {
        match self.take(name) {
            None => Err(RpcError::parameter(name, "missing")),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(RpcError::parameter(name, "not true or false")),
        }
    }

    /// An optional whole number.
    pub fn optional_number(&mut self, name: &str) -> Result<Option<u64>, RpcError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .map(Some)
                .ok_or_else(|| RpcError::parameter(name, "not a whole number of 0 or more")),
        }
    }

    /// A whole number.
    pub fn number(&mut self, name: &str) -> Result<u64, RpcError> {
        Self::required(name, self.optional_number(name)?)
    }

    /// A number of things to answer with.
    pub fn count(&mut self, name: &str) -> Result<usize, RpcError> {
        let number = self.number(name)?;
        usize::try_from(number).map_err(|_| RpcError::parameter(name, "too large"))
    }

    /// A JSON object.
    pub fn object(&mut self, name: &str) -> Result<Value, RpcError> {
        match Self::required(name, self.take(name))? {
            object @ Value::Object(_) => Ok(object),
            _ => Err(RpcError::parameter(name, "not an object")),
        }
    }

    /// Bytes in standard padded base64.
    pub fn bytes(&mut self, name: &str) -> Result<Vec<u8>, RpcError> {
        let text = self.text(name)?;
        STANDARD
            .decode(text.as_bytes())
            .map_err(|_| RpcError::parameter(name, "not standard padded base64"))
    }

    /// One of several words.
    pub fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<T, RpcError> {
        let text = self.text(name)?;
        words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value)
            .ok_or_else(|| RpcError::parameter(name, "not one of the words it can be"))
    }

    /// One of several words, or none.
    pub fn optional_word<T: Copy>(
        &mut self,
        name: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, RpcError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.word(name, words).map(Some),
        }
    }

    /// How long the command may wait.
    pub fn wait(&mut self) -> Result<Duration, RpcError> {
        let wait = self.optional_number("timeout_ms")?.map(Duration::from_millis);
        Ok(wait.unwrap_or(DEFAULT_WAIT).min(MAX_WAIT))
    }

    /// Looks at `timeout_ms` without taking it: `None` if it is absent or no number.
    pub fn announced_wait(&self) -> Option<Duration> {
        let wait = self.0.get("timeout_ms")?.as_u64()?;
        Some(Duration::from_millis(wait).min(MAX_WAIT))
    }
}

/// Bytes as standard padded base64.
pub fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use herold::{OwnedRoomId, OwnedUserId};
    use serde_json::json;

    use super::*;

    fn params(value: Value) -> Params {
        Params::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn absent_and_null_are_the_same() {
        let mut p = params(json!({ "a": null, "b": null, "c": null, "d": null }));
        assert_eq!(p.optional_text("a").unwrap(), None);
        assert!(!p.flag("b").unwrap());
        assert_eq!(p.optional_number("c").unwrap(), None);
        assert!(p.text("d").is_err());
        assert!(p.text("e").is_err());
    }

    #[test]
    fn wrong_types_are_errors_that_do_not_quote_the_value() {
        let secret = json!({ "x": ["hunter2"] });
        let errors = [
            params(secret.clone()).text("x").unwrap_err(),
            params(secret.clone()).secret("x").unwrap_err(),
            params(secret.clone()).flag("x").unwrap_err(),
            params(secret.clone()).number("x").unwrap_err(),
            params(secret.clone()).object("x").unwrap_err(),
            params(secret.clone()).bytes("x").unwrap_err(),
            params(secret.clone()).ids::<OwnedUserId>("x").unwrap_err(),
            params(json!({ "x": "hunter2" })).id::<OwnedRoomId>("x").unwrap_err(),
            params(json!({ "x": "hunter2" })).word("x", &[("a", 1)]).unwrap_err(),
            params(json!({ "x": "hunter2" })).bytes("x").unwrap_err(),
        ];
        for error in errors {
            let text = error.answer(&json!(1)).to_string();
            assert!(text.contains("parameter x"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn numbers_are_whole_and_not_negative() {
        for bad in [json!(-1), json!(1.5), json!("1"), json!(true)] {
            assert!(params(json!({ "n": bad })).number("n").is_err());
        }
        assert_eq!(params(json!({ "n": u64::MAX })).number("n").unwrap(), u64::MAX);
    }

    #[test]
    fn waits_have_a_default_and_a_limit() {
        assert_eq!(params(json!({})).wait().unwrap(), DEFAULT_WAIT);
        assert_eq!(params(json!({ "timeout_ms": 5 })).wait().unwrap(), Duration::from_millis(5));
        assert_eq!(params(json!({ "timeout_ms": u64::MAX })).wait().unwrap(), MAX_WAIT);
        assert!(params(json!({ "timeout_ms": "5" })).wait().is_err());
    }

    #[test]
    fn binary_data_is_padded_base64() {
        assert_eq!(params(json!({ "d": "aGk=" })).bytes("d").unwrap(), b"hi");
        assert!(params(json!({ "d": "aGk" })).bytes("d").is_err());
        assert_eq!(to_base64(b"hi"), "aGk=");
    }
}
