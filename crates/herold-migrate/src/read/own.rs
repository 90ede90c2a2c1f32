//! What makes the user themselves: the private half of the own identity, the key backup.

use herold_crypto::{
    BackupDecryptionKey, SecretBytes, SecretString, SigningKey, to_unpadded_base64,
};
use herold_machine::{AdoptedIdentity, Adoption};
use herold_trust::{CrossSigningKeys, KeyUsage, parse_identity};

use super::Reading;
use crate::{
    Kind, Reason,
    source::Damaged,
    values::{ForeignPrivateIdentity, ForeignSigningKey},
};

impl Reading<'_> {
    /// Whether the keys are those of the published identity is compared when they are stored.
    pub(super) fn private_identity(&mut self, adoption: &mut Adoption) {
        let foreign: ForeignPrivateIdentity = match self.source.named("identity") {
            Ok(None) => return,
            Ok(Some(foreign)) => foreign,
            Err(Damaged) => return self.report.leave(Kind::CrossSigningKey, Reason::Damaged),
        };
        if foreign.user_id != self.user_id.as_str() {
            return self.report.leave(Kind::CrossSigningKey, Reason::Contradiction);
        }
        let keys = &foreign.keys;
        let found = [
            (KeyUsage::Master, &keys.master_key),
            (KeyUsage::SelfSigning, &keys.self_signing_key),
            (KeyUsage::UserSigning, &keys.user_signing_key),
        ];
        let mut opened = Vec::new();
        for (usage, key) in found {
            let Some(key) = key else { continue };
            match open(key) {
                Ok(open) => opened.push((usage, open)),
                Err(reason) => {
                    self.report.leave_named(Kind::CrossSigningKey, reason, usage.to_string());
                }
            }
        }
        if !self.is_own_known(adoption) {
            self.without_a_row(adoption, &foreign);
        }
        if !foreign.shared {
            // The server may not have it: the same one is uploaded when the user asks for an identity.
            adoption.pending = whole(&opened);
        }
        if self.is_own_known(adoption) || adoption.pending.is_none() {
            let secrets = opened.iter().map(|(usage, key)| (*usage, key.to_secret()));
            adoption.secrets = secrets.collect();
        } else {
            self.report.take(Kind::CrossSigningKey, opened.len() as u64);
        }
    }

    /// Whether there is a public half.
    fn is_own_known(&self, adoption: &Adoption) -> bool {
        adoption.identities.iter().any(|known| known.parsed.user_id() == self.user_id)
    }

    /// The public half stands beside the private one too; if it was not found where it belongs, this is the published
    /// one, provided that the server has had it.
    fn without_a_row(&mut self, adoption: &mut Adoption, foreign: &ForeignPrivateIdentity) {
        let keys = &foreign.keys;
        let (Some(master), Some(self_signing), Some(user_signing), true) =
            (&keys.master_key, &keys.self_signing_key, &keys.user_signing_key, foreign.shared)
        else {
            return;
        };
        let parsed = parse_identity(
            &self.user_id,
            &master.public_key,
            &self_signing.public_key,
            Some(&user_signing.public_key),
        );
        if let Ok(parsed) = parsed {
            self.report.take(Kind::Identity, 1);
            adoption.identities.push(AdoptedIdentity {
                parsed,
                pinned_master: None,
                was_verified: false,
            });
        }
    }

    pub(super) fn backup(&mut self, adoption: &mut Adoption) {
        let version = match self.source.named::<String>("backup_version_v1") {
            Ok(version) => version,
            Err(Damaged) => {
                self.report.leave(Kind::BackupVersion, Reason::Damaged);
                None
            }
        };
        let key = match self.source.named::<SecretBytes>("recovery_key_v1") {
            Ok(None) => None,
            Ok(Some(bytes)) => match backup_key(&bytes) {
                Some(key) => Some(key),
                None => {
                    self.report.leave(Kind::BackupKey, Reason::Damaged);
                    None
                }
            },
            Err(Damaged) => {
                self.report.leave(Kind::BackupKey, Reason::Damaged);
                None
            }
        };
        match (key, version) {
            (Some(key), version) => {
                self.report.take(Kind::BackupKey, 1);
                self.report.take(Kind::BackupVersion, u64::from(version.is_some()));
                adoption.backup = Some((key, version));
            }
            // Whose backup that is nobody can tell without its key: the server is asked, and what is found is trusted if
            // the own identity has signed it.
            (None, Some(_)) => self.report.leave(Kind::BackupVersion, Reason::MadeAnew),
            (None, None) => {}
        }
    }
}

/// The three keys, if they are all there.
fn whole(opened: &[(KeyUsage, SigningKey)]) -> Option<CrossSigningKeys> {
    let [(_, master), (_, self_signing), (_, user_signing)] = opened else { return None };
    let copy = |key: &SigningKey| SigningKey::from_record(key.to_record().as_slice()).ok();
    Some(CrossSigningKeys {
        master: copy(master)?,
        self_signing: copy(self_signing)?,
        user_signing: copy(user_signing)?,
    })
}

/// A private key that is that of the public key beside it.
fn open(foreign: &ForeignSigningKey) -> Result<SigningKey, Reason> {
    let bytes = foreign.pickle.as_slice();
    if bytes.len() != 32 {
        return Err(Reason::Damaged);
    }
    let secret = SecretString::new(to_unpadded_base64(bytes));
    let key = SigningKey::from_secret(&secret).map_err(|_| Reason::Damaged)?;
    let public = key.public_key().to_base64();
    let named =
        foreign.public_key.get("keys").and_then(|keys| keys.get(format!("ed25519:{public}")));
    if named.and_then(serde_json::Value::as_str) != Some(public.as_str()) {
        return Err(Reason::Contradiction);
    }
    Ok(key)
}

fn backup_key(bytes: &SecretBytes) -> Option<BackupDecryptionKey> {
    if bytes.as_slice().len() != 32 {
        return None;
    }
    let secret = SecretString::new(to_unpadded_base64(bytes.as_slice()));
    BackupDecryptionKey::from_secret(&secret).ok()
}
