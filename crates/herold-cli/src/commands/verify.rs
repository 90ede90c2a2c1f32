//! `verify`: two people, or two devices of one, make sure that nobody is in between.

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use herold::{
    Client, ClientError, Methods, OwnedUserId, ShortAuthString, VerificationAction,
    VerificationState, VerificationView,
};
use serde_json::json;

use super::{Freshness, Setting, ask, code};
use crate::{args::Verify, failure::Failure, output::clean};

/// How long the side that was asked leaves it to the other one to begin with emoji.
const COURTESY: Duration = Duration::from_secs(5);
/// How often the file with the other side's code is looked for.
const LOOK: Duration = Duration::from_millis(500);
/// What follows from the end goes out by itself, with the next command at the latest; mostly within this.
const LINGER: Duration = Duration::from_secs(2);
/// The same between own devices, which pass the account's secrets on.
const LINGER_OWN: Duration = Duration::from_secs(10);
/// The account's secrets.
const SECRETS: [&str; 4] = [
    "m.cross_signing.master",
    "m.cross_signing.self_signing",
    "m.cross_signing.user_signing",
    "m.megolm_backup.v1",
];

/// One verification, and how this side wants to do it.
struct Dialogue<'a> {
    setting: &'a Setting,
    client: &'a Client,
    args: &'a Verify,
    user: OwnedUserId,
    flow: String,
}

/// `herold verify`
pub async fn verify(setting: &Setting, args: Verify) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let had_secrets = has_secrets(client)?;
            let (user, flow) = if args.accept {
                accept(setting, client, &args).await?
            } else {
                request(setting, client, &args).await?
            };
            let dialogue = Dialogue { setting, client, args: &args, user, flow };
            let end = dialogue.hold().await;
            if end.is_err() {
                // The other side is not to wait for nothing. It may be over already.
                let _ = dialogue.act(VerificationAction::Cancel);
            }
            dialogue.linger(had_secrets).await?;
            dialogue.tell(&end?)
        })
        .await
}

/// Asks for a verification.
async fn request(
    setting: &Setting,
    client: &Client,
    args: &Verify,
) -> Result<(OwnedUserId, String), Failure> {
    let user = args.user.clone().ok_or_else(|| Failure::usage("whom to verify?"))?;
    let flow = match &args.room {
        Some(room) => {
            let asked = client.request_room_verification(room, &user);
            setting.within("asking in the room", asked).await?.to_string()
        }
        None => {
            // The list should hold the devices that are there now.
            setting.within("asking for the devices", client.devices(&user)).await?;
            client.request_verification(&user, args.device.clone().map(|device| vec![device]))?
        }
    };
    setting.progress.note("asked; the other side has to take part ('herold verify --accept')");
    Ok((user, flow))
}

/// Waits for a request and takes part in it.
async fn accept(
    setting: &Setting,
    client: &Client,
    args: &Verify,
) -> Result<(OwnedUserId, String), Failure> {
    let is_wanted = |view: &VerificationView| {
        args.user.as_ref().is_none_or(|user| *user == view.user_id)
            && matches!(
                view.state,
                VerificationState::Requested { by_us: false }
                    | VerificationState::Started { needs_accept: true, .. }
            )
    };
    let wait = async {
        let mut changes = client.changed();
        loop {
            if let Some(view) = client.verifications()?.into_iter().find(is_wanted) {
                return Ok(view);
            }
            changes.wait().await?;
        }
    };
    let view = setting.within("waiting for a request", wait).await?;
    let device = view.device_id.as_ref().map_or("", |device| device.as_str());
    let who = format!("{} (device {})", clean(view.user_id.as_str()), clean(device));
    let taken = if args.user.is_some() {
        true
    } else {
        ask::yes_or_no(&format!("{who} asks to verify each other. Take part? [yes/no] ")).await?
    };
    let action = if taken {
        let (show_qr, scan_qr) = (args.qr, args.scan.is_some());
        VerificationAction::Accept(Methods { sas: true, show_qr, scan_qr })
    } else {
        VerificationAction::Cancel
    };
    client.act_on_verification(&view.user_id, &view.flow_id, action)?;
    Ok((view.user_id, view.flow_id))
}

impl Dialogue<'_> {
    /// Goes through it to its end, whichever that is.
    async fn hold(&self) -> Result<VerificationState, Failure> {
        let mut changes = self.client.changed();
        let (mut begun, mut asked) = (false, false);
        loop {
            let view = self.view()?;
            tokio::select! {
                biased;
                ended = self.ended() => return ended,
                done = self.step(&view, &mut begun, &mut asked) => done?,
                _ = tokio::signal::ctrl_c() => self.act(VerificationAction::Cancel)?,
            }
            tokio::select! {
                changed = changes.wait() => changed?,
                _ = tokio::signal::ctrl_c() => self.act(VerificationAction::Cancel)?,
            }
        }
    }

    /// What this side has to do where it stands.
    async fn step(
        &self,
        view: &VerificationView,
        begun: &mut bool,
        asked: &mut bool,
    ) -> Result<(), Failure> {
        match &view.state {
            VerificationState::Ready { .. } if !*begun => {
                *begun = true;
                self.begin(view).await
            }
            VerificationState::KeysExchanged(strings) if !*asked => {
                *asked = true;
                self.show(strings)?;
                self.compare("Does the other side show the same? [yes/no] ").await
            }
            VerificationState::Scanned if !*asked => {
                *asked = true;
                self.compare("Your code was scanned. Does the other device say so? [yes/no] ").await
            }
            _ => Ok(()),
        }
    }

    /// Both take part: begins in the way that was asked for.
    async fn begin(&self, view: &VerificationView) -> Result<(), Failure> {
        if let Some(file) = &self.args.scan {
            return self.scan(file).await;
        }
        if self.args.qr {
            if let Some(bytes) = self.client.show_verification_code(&self.user, &self.flow)? {
                let value = json!({ "code": STANDARD.encode(bytes.as_slice()) });
                let drawn = code::draw(bytes.as_slice())?;
                return self.setting.output.line(&drawn, &value);
            }
            self.setting.progress.note("no QR code can be shown now; comparing emoji instead");
        } else if !view.asked_by_us {
            tokio::time::sleep(COURTESY).await;
        }
        match self.view()?.state {
            VerificationState::Ready { .. } => self.act(VerificationAction::StartSas),
            _ => Ok(()),
        }
    }

    /// Waits for the file with the other side's code. One of an earlier verification is passed over.
    async fn scan(&self, file: &Path) -> Result<(), Failure> {
        let shown = file.display();
        self.setting.progress.note(&format!("waiting for the bytes of the code in {shown}"));
        loop {
            match std::fs::read(file) {
                Ok(bytes) => {
                    match self.client.scan_verification_code(&self.user, &self.flow, &bytes) {
                        Err(ClientError::InvalidInput(_)) => {}
                        done => return Ok(done?),
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::file("the code", file, &error)),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn show(&self, strings: &ShortAuthString) -> Result<(), Failure> {
        let language = language(|name| std::env::var(name).ok());
        let emoji: Vec<(&str, &str)> = strings
            .emoji
            .iter()
            .flatten()
            .map(|emoji| (emoji.symbol(), emoji.description(&language)))
            .collect();
        let decimals = strings.decimals.map(|numbers| numbers.map(|number| number.to_string()));
        let lines = emoji.iter().map(|(symbol, name)| format!("    {symbol}  {name}"));
        let numbers = decimals.iter().map(|numbers| format!("    {}", numbers.join(" ")));
        let text: Vec<String> = lines.chain(numbers).collect();
        self.setting.output.line(
            &format!("\n{}\n", text.join("\n")),
            &json!({ "emoji": emoji, "decimals": strings.decimals }),
        )
    }

    async fn compare(&self, question: &str) -> Result<(), Failure> {
        let same = ask::yes_or_no(question).await?;
        self.act(if same { VerificationAction::Confirm } else { VerificationAction::Mismatch })
    }

    fn view(&self) -> Result<VerificationView, Failure> {
        Ok(self.client.verification(&self.user, &self.flow)?)
    }

    fn act(&self, action: VerificationAction) -> Result<(), Failure> {
        Ok(self.client.act_on_verification(&self.user, &self.flow, action)?)
    }

    /// Waits until it is over.
    async fn ended(&self) -> Result<VerificationState, Failure> {
        let mut changes = self.client.changed();
        loop {
            let state = self.view()?.state;
            if matches!(state, VerificationState::Done { .. } | VerificationState::Cancelled { .. })
            {
                return Ok(state);
            }
            changes.wait().await?;
        }
    }

    /// Stays a little for what follows from the end.
    async fn linger(&self, had_secrets: bool) -> Result<(), Failure> {
        let is_done = matches!(self.view()?.state, VerificationState::Done { .. });
        if !is_done || self.user != self.client.user_id() {
            tokio::time::sleep(LINGER).await;
            return Ok(());
        }
        let passed_on = async {
            let mut changes = self.client.changed();
            while had_secrets || !has_secrets(self.client)? {
                changes.wait().await?;
            }
            Ok::<_, Failure>(())
        };
        let passing = tokio::time::timeout(LINGER_OWN, passed_on);
        if self.setting.progress.during("passing the account's secrets on", passing).await.is_ok() {
            let text = "this device has the account's secrets now: 'herold backup restore'";
            self.setting.progress.note(text);
        }
        Ok(())
    }

    /// How it ended. Unless it was good, that is the command's failure.
    fn tell(&self, end: &VerificationState) -> Result<(), Failure> {
        let device = self.view()?.device_id;
        let shown = device.as_ref().map(|device| format!(", device {}", clean(device.as_str())));
        let who = format!("{}{}", clean(self.user.as_str()), shown.unwrap_or_default());
        let output = self.setting.output;
        let VerificationState::Cancelled { code, by_us } = end else {
            let value = json!({ "outcome": "verified", "user": self.user, "device": device });
            return output.line(&format!("verified: {who}"), &value);
        };
        let side = if *by_us { "this side" } else { "the other side" };
        output.line(
            &format!("NOT verified: {who}: {side} cancelled, {}", clean(code.as_str())),
            &json!({
                "outcome": "cancelled",
                "user": self.user,
                "device": device,
                "code": code.as_str(),
                "by_us": by_us,
            }),
        )?;
        Err(Failure::told())
    }
}

fn has_secrets(client: &Client) -> Result<bool, Failure> {
    for name in SECRETS {
        if client.secret(name)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The language of the environment, as a tag: `de_AT` of `de_AT.UTF-8`.
fn language(variable: impl Fn(&str) -> Option<String>) -> String {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(set).unwrap_or_default();
    locale.split(['.', '@']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::language;

    #[test]
    fn the_language_is_that_of_the_environment() {
        let of = |set: &[(&str, &str)]| {
            language(|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[("LANG", "de_AT.UTF-8")]), "de_AT");
        assert_eq!(of(&[("LANG", "de_DE"), ("LC_ALL", "ca@valencia")]), "ca");
        assert_eq!(of(&[("LANG", "fr"), ("LC_ALL", "")]), "fr");
        assert_eq!(of(&[]), "");
        assert_eq!(of(&[("LANG", "C.UTF-8")]), "C");
    }
}
