//! `migrate`, in a build that has it.

use std::path::Path;

use herold::{
    ClientBuilder, Clock as _, HttpOptions, HttpRequest, HttpTransport, LoginRecord, Method,
    OsEntropy, SecretString, StoreOptions, SystemClock, Transport as _, TransportRequest,
};
use herold_migrate::{Found, MigrateError, Report, Source, SourceKey, SourceSecret, Target};
use serde_json::{Value, json};

use crate::{
    args::Migrate,
    commands::{Setting, account, deployment, has_store},
    failure::{Failure, Kind},
    output::clean,
    secrets::{self, Purpose},
};

/// The largest answer to a question of a few words, in bytes.
const ANSWER_LIMIT: usize = 64 * 1024;
/// What has to be known by whoever does this.
const WARNING: &str = "The old client must not be started again, not even once: it and this one would each use up what \
                       the other needs, and messages would be lost to both.";

/// `herold migrate`
pub async fn migrate(setting: &Setting, args: Migrate) -> Result<(), Failure> {
    let folder = setting.folder()?;
    if !args.dry_run && has_store(&folder) {
        return Err(Failure::usage(format!(
            "there is a store in {} already: take another --store",
            folder.display()
        )));
    }
    let found = read(setting, &args).await?;
    let policy = account::policy(args.device.recipients, args.device.decrypt_trust);
    if args.dry_run {
        let report = found.dry_run(policy, SystemClock.now(), &mut OsEntropy).map_err(failure)?;
        return tell(setting, &report, None);
    }
    let Some(homeserver) = &args.homeserver else {
        return Err(Failure::usage("--homeserver is needed"));
    };
    let homeserver = homeserver.trim_end_matches('/').to_owned();
    let about = found.report();
    let (user, device) = (clean(about.user_id.as_str()), clean(about.device_id.as_str()));
    let question = format!("Access token of {user}, device {device}: ");
    let token = secrets::access_token(args.token_stdin, &question)?;
    check_token(setting, &args, &homeserver, &token, about).await?;
    let key = secrets::store_key(&setting.global, Purpose::Create)?;
    let login = LoginRecord {
        homeserver,
        access_token: token,
        logged_out: false,
        deployment: deployment(policy.clone()).name,
    };
    let (place, opened_with) = (folder.clone(), key.clone());
    let report = off_runtime(setting, "writing the new store", move || {
        let target = Target {
            folder: &place,
            key: &opened_with,
            options: &StoreOptions::default(),
            login: &login,
            policy,
        };
        found.write(target, SystemClock.now(), &mut OsEntropy)
    })
    .await?;
    // It opens, and remembers how to synchronise.
    let client = account::connect(ClientBuilder::new(), &args.device)
        .deployment(deployment(herold::Policy::default()))
        .store_path(&folder)
        .store_key(key)
        .resume();
    let client = setting.progress.during("opening the new store", client).await?;
    client.close().await?;
    tell(setting, &report, Some(&folder))
}

/// Opens and reads the old store; its passphrase is asked for only if it needs one.
async fn read(setting: &Setting, args: &Migrate) -> Result<Found, Failure> {
    let mut secret = match &args.source_key_file {
        Some(path) => Some(SourceSecret::Key(SourceKey::new(*secrets::read_key_file(path)?))),
        None => secrets::source_passphrase()?.map(SourceSecret::Passphrase),
    };
    loop {
        let from = args.from.clone();
        let asked = secret.is_some();
        let given = secret.take();
        let read = move || Source::open(&from, given.as_ref())?.read(SystemClock.now());
        let read = setting
            .progress
            .during("reading the old store", tokio::task::spawn_blocking(read))
            .await
            .map_err(|_| Failure::other("a task ended early"))?;
        match read {
            Err(MigrateError::SecretNeeded) if !asked => {
                secret = Some(SourceSecret::Passphrase(secrets::ask_source_passphrase()?));
            }
            read => return read.map_err(failure),
        }
    }
}

async fn off_runtime<T: Send + 'static>(
    setting: &Setting,
    what: &str,
    work: impl FnOnce() -> Result<T, MigrateError> + Send + 'static,
) -> Result<T, Failure> {
    let done = setting.progress.during(what, tokio::task::spawn_blocking(work)).await;
    done.map_err(|_| Failure::other("a task ended early"))?.map_err(failure)
}

/// Asks the server whose the token is: with another device's, this device's keys would be published in its name.
async fn check_token(
    setting: &Setting,
    args: &Migrate,
    homeserver: &str,
    token: &SecretString,
    about: &Report,
) -> Result<(), Failure> {
    // What goes into a header must not be able to end it.
    if !token.as_str().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage("that is no access token"));
    }
    let allow_insecure_http = args.device.allow_insecure_http;
    let options = HttpOptions { allow_insecure_http, ..HttpOptions::default() };
    let transport = HttpTransport::new(options).map_err(herold::ClientError::from)?;
    let timeout = setting.global.timeout.saturating_mul(1000);
    let request = TransportRequest {
        base_url: homeserver.to_owned(),
        http: HttpRequest::new(Method::Get, "/_matrix/client/v3", &["account", "whoami"])
            .timeout(timeout),
        access_token: Some(token.clone()),
        response_limit: ANSWER_LIMIT,
    };
    let answer = setting
        .progress
        .during("asking whose token it is", transport.send(request))
        .await
        .map_err(herold::ClientError::from)?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status != 200 {
        let errcode = body["errcode"].as_str().unwrap_or("no reason");
        return Err(Failure::new(
            Kind::Refused,
            format!("the server refused the token: {errcode}"),
        ));
    }
    if body["user_id"] != about.user_id.as_str() || body["device_id"] != about.device_id.as_str() {
        return Err(Failure::usage(format!(
            "the token is {}'s, device {}, and the old store is {}'s, device {}",
            body["user_id"].as_str().unwrap_or("nobody"),
            body["device_id"].as_str().unwrap_or("none"),
            about.user_id,
            about.device_id
        )));
    }
    Ok(())
}

fn tell(setting: &Setting, report: &Report, folder: Option<&Path>) -> Result<(), Failure> {
    if setting.output.is_json() {
        let mut value = serde_json::to_value(report).unwrap_or_default();
        value["dry_run"] = json!(folder.is_none());
        value["store"] = json!(folder);
        return setting.output.line("", &value);
    }
    let mut lines = vec![format!(
        "{} as {}, device {}",
        if folder.is_some() { "taken over" } else { "dry run: nothing was written; it is" },
        clean(report.user_id.as_str()),
        clean(report.device_id.as_str())
    )];
    lines.push(format!(
        "key of this device: {}",
        crate::commands::devices::fingerprint(&report.ed25519)
    ));
    lines.push("taken:".to_owned());
    for (kind, count) in &report.taken {
        lines.push(format!("    {}: {count}", kind.as_str()));
    }
    lines.push("not taken, or not as it was:".to_owned());
    for left in &report.left {
        lines.push(format!(
            "    {}: {} ({})",
            left.kind.as_str(),
            left.count,
            left.reason.as_str()
        ));
        for name in &left.names {
            lines.push(format!("        {}", clean(name)));
        }
    }
    if let Some(folder) = folder {
        lines.push(format!("store: {}", folder.display()));
        lines.push(WARNING.to_owned());
    }
    for line in lines {
        setting.output.text(&line)?;
    }
    Ok(())
}

fn failure(error: MigrateError) -> Failure {
    let kind = match &error {
        MigrateError::WrongSecret => Kind::WrongKey,
        MigrateError::InUse | MigrateError::Store(herold::StoreError::Locked { .. }) => {
            Kind::StoreLocked
        }
        MigrateError::NotFound
        | MigrateError::NoAccount
        | MigrateError::SecretNeeded
        | MigrateError::OtherSecret(_)
        | MigrateError::NotEncrypted
        | MigrateError::TooOld { .. }
        | MigrateError::TooNew { .. }
        | MigrateError::TargetExists => Kind::Usage,
        _ => Kind::Failed,
    };
    Failure::new(kind, error.to_string())
}
