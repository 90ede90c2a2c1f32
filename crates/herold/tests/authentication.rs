//! User-interactive authentication by whatever the homeserver wants to see.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::{Arc, Mutex};

use common::{Net, device, password};
use herold::{
    Authentication, AuthenticationAnswer, AuthenticationChallenge, AuthenticationStage, Body,
    Client, ClientError, RecoveryState,
};
use serde_json::{Map, Value, json};

/// What was shown to the homeserver, and what it says to that: `None` to let it through.
type Says = fn(Option<&Value>) -> Option<Value>;

/// A homeserver that wants to be sure of the user before it takes an identity.
async fn strict(says: Says) -> (Arc<Net>, Client, Arc<Mutex<Vec<Value>>>) {
    let net = Net::new();
    let shown: Arc<Mutex<Vec<Value>>> = Arc::default();
    let seen = shown.clone();
    net.tamper(move |request, response| {
        let Body::Json(body) = &request.http.body else { return };
        if !request.http.path.ends_with("/device_signing/upload") {
            return;
        }
        let body: Value = serde_json::from_str(body).unwrap();
        seen.lock().unwrap().extend(body.get("auth").cloned());
        if let Some(challenge) = says(body.get("auth")) {
            response.status = 401;
            response.body = challenge.to_string().into_bytes();
        }
    });
    let alice = device(&net, "alice").await;
    (net, alice, shown)
}

async fn challenge(alice: &Client, shown: impl Into<Authentication>) -> AuthenticationChallenge {
    match alice.enable_recovery(shown, None).await.unwrap_err() {
        ClientError::AuthenticationNeeded(challenge) => *challenge,
        error => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_user_approves_of_it_on_a_page_of_the_account() {
    for (name, stage) in [
        ("m.oauth", AuthenticationStage::OAuth),
        ("org.matrix.cross_signing_reset", AuthenticationStage::CrossSigningReset),
    ] {
        let says: Says = match stage {
            AuthenticationStage::OAuth => |auth| oauth("m.oauth", auth),
            _ => |auth| oauth("org.matrix.cross_signing_reset", auth),
        };
        let (_net, alice, shown) = strict(says).await;
        let asked = challenge(&alice, Authentication::None).await;
        assert_eq!(asked.next_stages(), [&stage]);
        assert_eq!(asked.page(&stage).as_deref(), Some("https://account.example.org/approve?x=1"));
        assert_eq!(asked.params(&stage).unwrap()["url"], "https://account.example.org/approve?x=1");
        assert_eq!(
            alice.recovery_state().await.unwrap(),
            RecoveryState::Disabled,
            "nothing is made"
        );
        // The password is of no use.
        let asked = challenge(&alice, password()).await;
        assert_eq!(asked.next_stages(), [&stage]);
        alice
            .enable_recovery(AuthenticationAnswer::page_visited(&stage, asked.session), None)
            .await
            .unwrap();
        assert_eq!(*shown.lock().unwrap(), [json!({ "type": name, "session": "S 1" })]);
    }
}

fn oauth(stage: &str, auth: Option<&Value>) -> Option<Value> {
    let params = json!({ stage: { "url": "https://account.example.org/approve?x=1" } });
    let flows = json!([{ "stages": [stage] }]);
    auth.is_none().then(|| json!({ "flows": flows, "params": params, "session": "S 1" }))
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_no_page_is_not_opened() {
    for url in ["javascript:alert(1)", "http://account.example.org", "https://a b", ""] {
        let stage = AuthenticationStage::OAuth;
        let net = Net::new();
        net.tamper(move |request, response| {
            if request.http.path.ends_with("/device_signing/upload") {
                response.status = 401;
                let params = json!({ "m.oauth": { "url": url } });
                let body = json!({ "flows": [{ "stages": ["m.oauth"] }], "params": params });
                response.body = body.to_string().into_bytes();
            }
        });
        let alice = device(&net, "alice").await;
        let asked = challenge(&alice, Authentication::None).await;
        assert_eq!(asked.page(&stage), None, "{url}");
        assert_eq!(asked.page(&AuthenticationStage::Sso), None, "without a session");
    }
}

#[tokio::test(start_paused = true)]
async fn single_sign_on_goes_over_the_fallback_page() {
    let (_net, alice, shown) = strict(|auth| {
        let flows = json!([{ "stages": ["m.login.sso"] }, { "stages": ["org.example/x"] }]);
        auth.is_none().then(|| json!({ "flows": flows, "session": "a/b&c" }))
    })
    .await;
    let asked = challenge(&alice, Authentication::None).await;
    let other = AuthenticationStage::Other("org.example/x".to_owned());
    assert_eq!(asked.next_stages(), [&AuthenticationStage::Sso, &other]);
    assert_eq!(
        asked.page(&AuthenticationStage::Sso).as_deref(),
        Some(
            "https://example.org/_matrix/client/v3/auth/m.login.sso/fallback/web?session=a%2Fb%26c"
        )
    );
    assert!(asked.page(&other).unwrap().contains("/auth/org.example%2Fx/fallback/"));
    let answer = AuthenticationAnswer::page_visited(&AuthenticationStage::Sso, asked.session);
    alice.enable_recovery(answer, None).await.unwrap();
    assert_eq!(*shown.lock().unwrap(), [json!({ "session": "a/b&c" })]);
}

#[tokio::test(start_paused = true)]
async fn several_stages_come_one_after_the_other() {
    let (_net, alice, shown) = strict(|auth| {
        let flows = json!([{ "stages": ["m.login.password", "m.login.terms", "org.example.x"] }]);
        let completed = match auth {
            None => json!([]),
            Some(auth) if auth["type"] == "m.login.password" => json!(["m.login.password"]),
            Some(auth) if auth.get("type").is_none() => {
                json!(["m.login.password", "m.login.terms"])
            }
            Some(_) => return None,
        };
        Some(json!({ "flows": flows, "completed": completed, "session": "s" }))
    })
    .await;
    let asked = challenge(&alice, password()).await;
    assert_eq!(asked.next_stages(), [&AuthenticationStage::Password]);
    let asked = challenge(&alice, AuthenticationAnswer::password(password(), asked.session)).await;
    assert_eq!(asked.next_stages(), [&AuthenticationStage::Terms]);
    let asked = challenge(
        &alice,
        AuthenticationAnswer::page_visited(&AuthenticationStage::Terms, asked.session),
    )
    .await;
    let stage = AuthenticationStage::Other("org.example.x".to_owned());
    assert_eq!(asked.next_stages(), [&stage]);
    let mut fields = Map::new();
    fields.insert("code".to_owned(), "123".into());
    alice
        .enable_recovery(AuthenticationAnswer::fields(&stage, asked.session, fields), None)
        .await
        .unwrap();
    let shown = shown.lock().unwrap();
    assert_eq!(shown[0]["identifier"]["user"], "@alice:example.org");
    assert_eq!(shown[1], json!({ "session": "s" }));
    assert_eq!(shown[2], json!({ "type": "org.example.x", "session": "s", "code": "123" }));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_refused_can_be_given_again() {
    let (_net, alice, _) = strict(|auth| {
        let challenge = json!({ "flows": [{ "stages": ["m.login.dummy"] }], "session": "s" });
        match auth {
            None => Some(challenge),
            Some(auth) if auth["answer"] == 42 => None,
            Some(_) => {
                let mut challenge = challenge;
                challenge["errcode"] = "M_FORBIDDEN".into();
                Some(challenge)
            }
        }
    })
    .await;
    let stage = AuthenticationStage::Dummy;
    let asked = challenge(&alice, Authentication::None).await;
    assert_eq!(asked.refused, None);
    let asked =
        challenge(&alice, AuthenticationAnswer::fields(&stage, asked.session, Map::new())).await;
    assert_eq!(asked.refused.as_deref(), Some("M_FORBIDDEN"));
    let mut fields = Map::new();
    fields.insert("answer".to_owned(), 42.into());
    let answer = AuthenticationAnswer::fields(&stage, asked.session, fields);
    assert!(!format!("{answer:?}").contains("42"), "an answer is a secret");
    alice.enable_recovery(answer, None).await.unwrap();
}
