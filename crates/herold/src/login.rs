//! Logging in and out (Matrix specification, "Login", "Logging out").

use std::sync::Arc;

use herold_crypto::{Entropy, SecretString};
use herold_machine::{HttpRequest, Machine, Method, SyncMode};
use herold_store::{Store, records::LoginRecord};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    Client, ClientError, Clock, Deployment, Engine,
    homeserver::{Homeserver, RESPONSE_LIMIT, Retry, success},
    session::Session,
    tasks,
};

/// What both ways to a client need.
pub(crate) struct Setup {
    pub(crate) deployment: Deployment,
    pub(crate) store: Box<dyn Store + Send>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Box<dyn Entropy + Send>,
    pub(crate) sync_mode: Option<SyncMode>,
}

/// Who wants in.
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: SecretString,
    pub(crate) device_name: String,
}

#[derive(serde::Deserialize)]
struct LoggedIn {
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
    access_token: SecretString,
}

/// Logs in, then makes the account.
pub(crate) async fn log_in(
    mut setup: Setup,
    homeserver: Homeserver,
    credentials: Credentials,
) -> Result<Client, ClientError> {
    if Machine::load(setup.store.snapshot())?.is_some() {
        return Err(ClientError::AlreadyLoggedIn);
    }
    if setup.store.is_shared() {
        // The homeserver may take its time.
        setup.store.suspend()?;
    }
    let logged_in = ask(&homeserver, &credentials).await?;
    let login = LoginRecord {
        homeserver: homeserver.base_url.clone(),
        access_token: logged_in.access_token.clone(),
        logged_out: false,
        deployment: setup.deployment.name,
    };
    let created = Engine::create(
        setup.store,
        logged_in.user_id,
        logged_in.device_id,
        setup.deployment.policy.clone(),
        Some(login.clone()),
        setup.clock,
        setup.entropy,
    )
    .and_then(|mut engine| {
        if let Some(mode) = setup.sync_mode {
            engine.step(|machine, snapshot, cx| machine.set_sync_mode(snapshot, cx, mode))?;
        }
        Ok(engine)
    });
    match created {
        Ok(engine) => {
            let policy = setup.deployment.policy;
            Ok(Client::start(Session::new(engine, &login, homeserver, policy)))
        }
        Err(error) => {
            // A device that nobody can use should not stay on the server.
            let token = &logged_in.access_token;
            let _ =
                homeserver.call(logout_request(), Some(token), Retry::Always, RESPONSE_LIMIT).await;
            Err(error.into())
        }
    }
}

async fn ask(homeserver: &Homeserver, credentials: &Credentials) -> Result<LoggedIn, ClientError> {
    let body = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": credentials.user },
        "password": credentials.password.as_str(),
        "initial_device_display_name": credentials.device_name,
    });
    let mut http = HttpRequest::new(Method::Post, "/_matrix/client/v3", &["login"])
        .json(body.to_string())
        .timeout(60_000);
    http.authenticated = false;
    let response = homeserver.call(http, None, Retry::IfNotSeen, RESPONSE_LIMIT).await?;
    let body = Zeroizing::new(success(response, &[&credentials.password])?);
    let logged_in: LoggedIn =
        serde_json::from_slice(&body).map_err(|_| ClientError::BadResponse("login"))?;
    let token = logged_in.access_token.as_str();
    if token.is_empty() || logged_in.device_id.as_str().is_empty() {
        return Err(ClientError::BadResponse("login"));
    }
    // What goes into a header must not be able to end it.
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ClientError::BadResponse("login"));
    }
    Ok(logged_in)
}

fn logout_request() -> HttpRequest {
    HttpRequest::new(Method::Post, "/_matrix/client/v3", &["logout"]).json("{}".to_owned())
}

/// Ends the session on the homeserver, then here.
pub(crate) async fn log_out(session: Arc<Session>) -> Result<(), ClientError> {
    if session.is_logged_out() {
        return Ok(());
    }
    match session.call(logout_request(), Retry::Always).await {
        // The homeserver does not know the session: that is what was wanted.
        Ok(_) | Err(ClientError::LoggedOut) => {}
        Err(error) => return Err(error),
    }
    session.end_login()?;
    session.wake_pump.notify_one();
    tasks::stop_sync(&session).await;
    Ok(())
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
