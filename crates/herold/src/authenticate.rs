//! User-interactive authentication by password (Matrix specification, "User-Interactive Authentication API").

use herold_crypto::SecretString;
use herold_machine::HttpRequest;
use serde_json::{Value, json};

use crate::{
    ClientError,
    homeserver::{RESPONSE_LIMIT, Retry, success},
    session::Session,
};

const PASSWORD: &str = "m.login.password";

/// Makes a call that may want the account's password: first without it, then with it if the homeserver asks.
/// `request` makes the request with this `auth`. The call must be one that can be made twice.
pub(crate) async fn with_password(
    session: &Session,
    password: &SecretString,
    request: impl Fn(Option<Value>) -> HttpRequest,
) -> Result<Vec<u8>, ClientError> {
    #[derive(serde::Deserialize)]
    struct Challenge {
        flows: Vec<Flow>,
        session: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Flow {
        stages: Vec<String>,
    }
    let response = session.call_raw(request(None), Retry::Always, RESPONSE_LIMIT).await?;
    if response.status != 401 {
        return session.success(response);
    }
    let challenge: Challenge = serde_json::from_slice(&response.body)
        .map_err(|_| ClientError::BadResponse("an authentication challenge"))?;
    if !challenge.flows.iter().any(|flow| flow.stages == [PASSWORD]) {
        return Err(ClientError::Unsupported("authentication other than by password"));
    }
    let auth = json!({
        "type": PASSWORD,
        "identifier": { "type": "m.id.user", "user": session.user_id },
        "password": password.as_str(),
        "session": challenge.session,
    });
    let response = session.call_raw(request(Some(auth)), Retry::Always, RESPONSE_LIMIT).await?;
    success(response, &[password])
}
