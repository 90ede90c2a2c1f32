//! Requests, responses and errors, without any transport.

use serde_json::{Map, Value, json};

/// One request as the server sees it, after the transport took the header fields apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerRequest {
    /// `GET`, `PUT`, `POST` or `DELETE`.
    pub method: String,
    /// The path with its percent-encoding, for example `/_matrix/client/v3/sync`.
    pub path: String,
    /// The decoded query in its order.
    pub query: Vec<(String, String)>,
    /// The bearer token, if one was sent.
    pub access_token: Option<String>,
    /// The `Content-Type`, if one was sent.
    pub content_type: Option<String>,
    /// The body as it was sent.
    pub body: Vec<u8>,
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerResponse {
    /// The HTTP status.
    pub status: u16,
    /// How long to wait, for a 429.
    pub retry_after_ms: Option<u64>,
    /// The `Content-Type`.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

impl ServerResponse {
    pub(super) fn json(status: u16, value: &Value) -> Self {
        Self {
            status,
            retry_after_ms: None,
            content_type: "application/json".to_owned(),
            body: value.to_string().into_bytes(),
        }
    }
}

/// A Matrix error, or the 401 of user-interactive authentication.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub(super) status: u16,
    pub(super) body: Value,
}

pub(super) type Answer = Result<Value, ApiError>;

impl ApiError {
    pub(super) fn new(status: u16, errcode: &str, error: &str) -> Self {
        Self { status, body: json!({ "errcode": errcode, "error": error }) }
    }

    pub(super) fn forbidden(error: &str) -> Self {
        Self::new(403, "M_FORBIDDEN", error)
    }

    pub(super) fn not_found(error: &str) -> Self {
        Self::new(404, "M_NOT_FOUND", error)
    }

    pub(super) fn bad_json(error: &str) -> Self {
        Self::new(400, "M_BAD_JSON", error)
    }

    pub(super) fn invalid(error: &str) -> Self {
        Self::new(400, "M_INVALID_PARAM", error)
    }

    pub(super) fn unrecognized() -> Self {
        Self::new(404, "M_UNRECOGNIZED", "Unrecognized request")
    }

    pub(super) fn into_response(self) -> ServerResponse {
        let mut response = ServerResponse::json(self.status, &self.body);
        if self.status == 429 {
            response.retry_after_ms = self.body.get("retry_after_ms").and_then(Value::as_u64);
        }
        response
    }
}

/// One request on its way through the handlers.
pub(super) struct Call<'a> {
    pub(super) now_ms: u64,
    pub(super) request: &'a ServerRequest,
}

impl Call<'_> {
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.request.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body, which has to be a JSON object.
    pub(super) fn object(&self) -> Result<Map<String, Value>, ApiError> {
        match serde_json::from_slice(&self.request.body) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) => Err(ApiError::bad_json("Content must be a JSON object.")),
            Err(_) => Err(ApiError::new(400, "M_NOT_JSON", "Content not JSON.")),
        }
    }

    /// The body, where an empty one stands for `{}`.
    pub(super) fn object_or_empty(&self) -> Result<Map<String, Value>, ApiError> {
        if self.request.body.is_empty() { Ok(Map::new()) } else { self.object() }
    }
}

/// A string member of an object.
pub(super) fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Value::as_str)
}

/// A string member that has to be there.
pub(super) fn need_text<'a>(map: &'a Map<String, Value>, key: &str) -> Result<&'a str, ApiError> {
    match map.get(key) {
        Some(Value::String(value)) => Ok(value),
        Some(_) => Err(ApiError::bad_json(&format!("'{key}' must be a string"))),
        None => Err(ApiError::new(400, "M_MISSING_PARAM", &format!("Missing '{key}'"))),
    }
}

/// Undoes percent-encoding; an invalid escape stays as it is.
pub(super) fn percent_decode(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = (bytes.get(at + 1), bytes.get(at + 2));
        if let (b'%', (Some(high), Some(low))) = (byte, pair)
            && let (Some(high), Some(low)) =
                (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
            && let Ok(decoded) = u8::try_from(high * 16 + low)
        {
            out.push(decoded);
            at += 3;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
