//! User-interactive authentication (Matrix specification, "User-Interactive Authentication API"): by password here, by anything
//! else through the app.

use std::fmt;

use herold_crypto::SecretString;
use herold_machine::{HttpRequest, percent_encode};
use ruma::UserId;
use serde_json::{Map, Value, json};

use crate::{
    ClientError, TransportResponse,
    homeserver::{RESPONSE_LIMIT, Retry, success},
    session::Session,
};

/// What a call shows that the homeserver wants to be sure of the user for.
#[derive(Debug)]
#[non_exhaustive]
pub enum Authentication {
    /// Nothing: what the homeserver wants to see comes as [`ClientError::AuthenticationNeeded`].
    None,
    /// The account's password. Secret.
    Password(SecretString),
    /// An answer to an [`AuthenticationChallenge`].
    Answer(AuthenticationAnswer),
}

impl From<SecretString> for Authentication {
    fn from(password: SecretString) -> Self {
        Self::Password(password)
    }
}

impl From<AuthenticationAnswer> for Authentication {
    fn from(answer: AuthenticationAnswer) -> Self {
        Self::Answer(answer)
    }
}

/// One of the things a homeserver can want to see.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuthenticationStage {
    /// `m.login.password`: [`AuthenticationAnswer::password`].
    Password,
    /// `m.login.sso`: the user logs in on a page.
    Sso,
    /// `m.oauth`: the user approves of it on a page of the account's.
    OAuth,
    /// `org.matrix.cross_signing_reset`: the same, as older homeservers call it.
    CrossSigningReset,
    /// `m.login.terms`: the user agrees to terms, on a page.
    Terms,
    /// `m.login.dummy`: nothing is to be shown.
    Dummy,
    /// Another one, by its name: on a page, or with fields that the app knows.
    Other(String),
}

impl AuthenticationStage {
    /// The stage's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Password => "m.login.password",
            Self::Sso => "m.login.sso",
            Self::OAuth => "m.oauth",
            Self::CrossSigningReset => "org.matrix.cross_signing_reset",
            Self::Terms => "m.login.terms",
            Self::Dummy => "m.login.dummy",
            Self::Other(name) => name,
        }
    }

    /// The stage with this name.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        let known = [
            Self::Password,
            Self::Sso,
            Self::OAuth,
            Self::CrossSigningReset,
            Self::Terms,
            Self::Dummy,
        ];
        known
            .into_iter()
            .find(|stage| stage.name() == name)
            .unwrap_or_else(|| Self::Other(name.to_owned()))
    }
}

/// What a homeserver wants to see before it does what was asked. All of it is the homeserver's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticationChallenge {
    /// Lists of stages: each of one list, in order, is enough.
    pub flows: Vec<Vec<AuthenticationStage>>,
    /// The stages that are done.
    pub completed: Vec<AuthenticationStage>,
    /// The Matrix error code if the last answer was refused.
    pub refused: Option<String>,
    /// What the answers belong to.
    pub session: Option<String>,
    params: Map<String, Value>,
    homeserver: String,
}

impl AuthenticationChallenge {
    /// The stages that can be answered now.
    #[must_use]
    pub fn next_stages(&self) -> Vec<&AuthenticationStage> {
        let mut next = Vec::new();
        for flow in &self.flows {
            let stage = flow.strip_prefix(self.completed.as_slice()).and_then(<[_]>::first);
            next.extend(stage.filter(|stage| !next.contains(stage)));
        }
        next
    }

    /// What the homeserver says of a stage.
    #[must_use]
    pub fn params(&self, stage: &AuthenticationStage) -> Option<&Value> {
        self.params.get(stage.name())
    }

    /// The page on which the user can answer a stage: of the account's own for [`AuthenticationStage::OAuth`], else the homeserver's
    /// fallback. Open it in a browser, then call again with [`AuthenticationAnswer::page_visited`]. `None` if
    /// there is none, or none over HTTPS where the homeserver is.
    #[must_use]
    pub fn page(&self, stage: &AuthenticationStage) -> Option<String> {
        match stage {
            AuthenticationStage::OAuth | AuthenticationStage::CrossSigningReset => {
                let url = self.params(stage)?.get("url")?.as_str()?;
                let scheme =
                    self.homeserver.split_once("://").map_or("https", |(scheme, _)| scheme);
                let usable =
                    url.starts_with("https://") || url.starts_with(&format!("{scheme}://"));
                (usable && !url.contains(|c: char| c.is_control() || c.is_whitespace()))
                    .then(|| url.to_owned())
            }
            stage => Some(format!(
                "{}/_matrix/client/v3/auth/{}/fallback/web?session={}",
                self.homeserver,
                percent_encode(stage.name()),
                percent_encode(self.session.as_ref()?),
            )),
        }
    }

    fn parse(session: &Session, response: &TransportResponse) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Body {
            flows: Vec<Flow>,
            #[serde(default)]
            completed: Vec<String>,
            session: Option<String>,
            #[serde(default)]
            params: Value,
            errcode: Option<String>,
        }
        #[derive(serde::Deserialize)]
        struct Flow {
            stages: Vec<String>,
        }
        let stages = |names: &[String]| {
            names.iter().map(|name| AuthenticationStage::parse(name)).collect::<Vec<_>>()
        };
        let body: Body = serde_json::from_slice(&response.body).ok()?;
        let refused = body.errcode.map(|_| match session.success(response.clone()) {
            Err(ClientError::Matrix { errcode, .. }) => errcode,
            _ => "M_UNKNOWN".to_owned(),
        });
        Some(Self {
            flows: body.flows.iter().map(|flow| stages(&flow.stages)).collect(),
            completed: stages(&body.completed),
            refused,
            session: body.session,
            params: match body.params {
                Value::Object(params) => params,
                _ => Map::new(),
            },
            homeserver: session.homeserver.base_url.clone(),
        })
    }
}

/// An answer to an [`AuthenticationChallenge`].
pub struct AuthenticationAnswer {
    stage: AuthenticationStage,
    session: Option<String>,
    shown: Shown,
}

enum Shown {
    Page,
    Password(SecretString),
    Fields(Map<String, Value>),
}

impl AuthenticationAnswer {
    /// The user has been on the page of a stage. `session` is that of the challenge, here as below.
    #[must_use]
    pub fn page_visited(stage: &AuthenticationStage, session: Option<String>) -> Self {
        Self { stage: stage.clone(), session, shown: Shown::Page }
    }

    /// Answers [`AuthenticationStage::Password`], as one stage of several.
    #[must_use]
    pub fn password(password: SecretString, session: Option<String>) -> Self {
        Self { stage: AuthenticationStage::Password, session, shown: Shown::Password(password) }
    }

    /// Answers a stage with fields that the app knows; `type` and `session` are added.
    #[must_use]
    pub fn fields(
        stage: &AuthenticationStage,
        session: Option<String>,
        fields: Map<String, Value>,
    ) -> Self {
        Self { stage: stage.clone(), session, shown: Shown::Fields(fields) }
    }

    /// The `auth` of the call.
    fn to_auth(&self, user_id: &UserId) -> Value {
        let mut auth = match &self.shown {
            Shown::Page => Map::new(),
            Shown::Password(password) => password_fields(user_id, password),
            Shown::Fields(fields) => fields.clone(),
        };
        // The fallback page is answered by the session alone.
        let is_typed = !matches!(self.shown, Shown::Page)
            || matches!(
                self.stage,
                AuthenticationStage::OAuth | AuthenticationStage::CrossSigningReset
            );
        if is_typed {
            auth.insert("type".to_owned(), self.stage.name().into());
        }
        if let Some(session) = &self.session {
            auth.insert("session".to_owned(), session.as_str().into());
        }
        Value::Object(auth)
    }
}

impl fmt::Debug for AuthenticationAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticationAnswer").field("stage", &self.stage).finish_non_exhaustive()
    }
}

fn password_fields(user_id: &UserId, password: &SecretString) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("identifier".to_owned(), json!({ "type": "m.id.user", "user": user_id }));
    fields.insert("password".to_owned(), password.as_str().into());
    fields
}

/// Makes a call that may want to be sure of the user: first with the answer, if there is one, then with the password if that is
/// what the homeserver asks for. `request` makes the request with this `auth`. The call must be one that can be made
/// twice.
pub(crate) async fn call(
    session: &Session,
    authentication: &Authentication,
    request: impl Fn(Option<Value>) -> HttpRequest,
) -> Result<Vec<u8>, ClientError> {
    let user_id = &session.user_id;
    let first = match authentication {
        Authentication::Answer(answer) => Some(answer.to_auth(user_id)),
        _ => None,
    };
    let mut response = session.call_raw(request(first), Retry::Always, RESPONSE_LIMIT).await?;
    let challenge = |response: &TransportResponse| match response.status {
        401 => AuthenticationChallenge::parse(session, response),
        _ => None,
    };
    let mut asked = challenge(&response);
    let mut secret = None;
    if let (Some(challenge_of), Authentication::Password(password)) = (&asked, authentication)
        && challenge_of.flows.iter().any(|flow| *flow == [AuthenticationStage::Password])
    {
        let auth = AuthenticationAnswer::password(password.clone(), challenge_of.session.clone());
        let request = request(Some(auth.to_auth(user_id)));
        response = session.call_raw(request, Retry::Always, RESPONSE_LIMIT).await?;
        // A wrong password is an error of its own.
        asked = challenge(&response).filter(|challenge| challenge.refused.is_none());
        secret = Some(password);
    }
    match (asked, secret) {
        (Some(challenge), _) => Err(ClientError::AuthenticationNeeded(Box::new(challenge))),
        (None, Some(password)) => success(response, &[password]),
        (None, None) => session.success(response),
    }
}
