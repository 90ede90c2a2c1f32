//! Olm sessions.

use herold_crypto::curve25519_from_base64;
use herold_store::records::{OlmSessionKey, OlmSessionRecord};
use herold_trust::Timestamp;

use super::Reading;
use crate::{Kind, Reason, values::ForeignOlmSession};

impl Reading<'_> {
    /// With whom a session is, beyond the one key, is not written down. So nothing is sent through it until a message has
    /// come by it that passes every check; what comes by it is decrypted.
    pub(super) fn channels(&mut self) -> Vec<(OlmSessionKey, OlmSessionRecord)> {
        let mut channels = Vec::new();
        let query = "SELECT data, session_id, sender_key FROM session";
        self.table(Kind::OlmSession, query, |reading, columns| match reading.channel(columns) {
            Ok(channel) => {
                reading.report.take(Kind::OlmSession, 1);
                channels.push(channel);
            }
            Err(reason) => reading.report.leave(Kind::OlmSession, reason),
        });
        channels
    }

    fn channel(
        &self,
        columns: &crate::source::Columns<'_>,
    ) -> Result<(OlmSessionKey, OlmSessionRecord), Reason> {
        let [data, id, sender] = columns else { return Err(Reason::Damaged) };
        let foreign: ForeignOlmSession = self.source.value(data).map_err(|_| Reason::Damaged)?;
        let text = foreign.sender_key.to_base64();
        let sender_key = curve25519_from_base64(&text).map_err(|_| Reason::Contradiction)?;
        let session = foreign
            .pickle
            .restore(&self.keys.curve25519, &sender_key)
            .map_err(|_| Reason::Contradiction)?;
        let session_id = session.session_id();
        if *id != self.source.filed("session", session_id.as_str().as_bytes()).as_slice()
            || *sender != self.source.filed("session", text.as_bytes()).as_slice()
        {
            return Err(Reason::Contradiction);
        }
        let time =
            |seconds: u64| Timestamp::from_millis(seconds.saturating_mul(1000)).min(self.now);
        let created_at = time(foreign.creation_time);
        let record = OlmSessionRecord {
            pickle: session.to_record(),
            peer_ed25519: None,
            created_at,
            last_received_at: time(foreign.last_use_time).max(created_at),
        };
        Ok((OlmSessionKey { sender_key, session_id }, record))
    }
}
