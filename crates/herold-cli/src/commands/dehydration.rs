//! `dehydration`: a mailbox on the server for what is said while none of the user's devices is there.

use herold::{Client, DehydrationStatus, RehydrationOutcome};
use serde_json::json;

use super::{Freshness, Setting};
use crate::{
    args::{self, StartDehydration},
    failure::Failure,
    output::clean,
    secrets,
};

/// `herold dehydration`
pub async fn dehydration(setting: &Setting, command: args::Dehydration) -> Result<(), Failure> {
    match command {
        args::Dehydration::Status => status(setting).await,
        args::Dehydration::Start(args) => start(setting, args).await,
        args::Dehydration::Stop => stop(setting).await,
    }
}

async fn status(setting: &Setting) -> Result<(), Failure> {
    setting.with_client(Freshness::CaughtUp, async |client| tell(setting, client)).await
}

async fn start(setting: &Setting, args: StartDehydration) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let asked = args.stdin || !client.dehydration_status()?.has_key;
            let typed = asked.then(|| secrets::recovery_key(args.stdin)).transpose()?;
            let made = client.start_dehydration(typed);
            let taken = setting.within_lengthy("making a dehydrated device", made).await?;
            if let Some(taken) = taken {
                let keys = taken.room_keys;
                setting.progress.note(&format!("{keys} room keys were taken from the one before"));
            }
            tell(setting, client)
        })
        .await
}

async fn stop(setting: &Setting) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            setting.within("removing the dehydrated device", client.stop_dehydration()).await?;
            tell(setting, client)
        })
        .await
}

fn tell(setting: &Setting, client: &Client) -> Result<(), Failure> {
    let status = client.dehydration_status()?;
    let value = json!({
        "enabled": status.enabled,
        "device": status.device_id,
        "busy": status.busy,
        "room_keys": status.room_keys,
        "outcome": status.outcome.map(RehydrationOutcome::as_str),
    });
    setting.output.line(&describe(&status), &value)
}

fn describe(status: &DehydrationStatus) -> String {
    let there = match (&status.device_id, status.busy) {
        (Some(device), _) => format!("dehydrated device {}", clean(device.as_str())),
        (None, true) => "a dehydrated device is under way".to_owned(),
        (None, false) => "no dehydrated device is known of".to_owned(),
    };
    let kept = match (status.enabled, status.busy) {
        (true, _) => ", kept fresh by this device",
        (false, false) if status.device_id.is_some() => ", NOT kept by this device",
        _ => "",
    };
    let refused = match status.outcome {
        Some(RehydrationOutcome::Refused(reason)) => {
            format!("; the last one was NOT read: {}", reason.as_str())
        }
        _ => String::new(),
    };
    format!("{there}{kept}{refused}")
}

#[cfg(test)]
mod tests {
    use herold::{OwnedDeviceId, RehydrationRefusal};

    use super::*;

    #[test]
    fn what_is_not_as_it_should_be_is_said() {
        let mut status = DehydrationStatus::default();
        assert_eq!(describe(&status), "no dehydrated device is known of");
        status.device_id = Some(OwnedDeviceId::from("a\u{1b}"));
        assert_eq!(describe(&status), "dehydrated device a\u{fffd}, NOT kept by this device");
        status.enabled = true;
        assert_eq!(describe(&status), "dehydrated device a\u{fffd}, kept fresh by this device");
        status.outcome = Some(RehydrationOutcome::Refused(RehydrationRefusal::WrongKey));
        assert!(describe(&status).ends_with("NOT read: wrong_key"));
    }
}
