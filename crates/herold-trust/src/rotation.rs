//! The encryption settings of a room, and when its outbound session has served its time.
//!
//! The settings come from the content of the `m.room.encryption` state event, which any room admin,
//! and any hostile server in a room without history, can write. Nonsense there must not crash the
//! client, must not switch rotation off, and must not make every message cost a new session for
//! every device; an implausible number is therefore replaced, not obeyed.
//!
//! Matrix specification, Client-Server API: "End-to-end encryption", `m.room.encryption`
//! (`rotation_period_ms`, default a week; `rotation_period_msgs`, default 100).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Policy, Timestamp};

/// The room algorithm that Herold speaks: Megolm, first version.
pub const MEGOLM: &str = "m.megolm.v1.aes-sha2";

/// The to-device algorithm that Herold speaks: Olm, first version.
pub const OLM: &str = "m.olm.v1.curve25519-aes-sha2";

/// The largest number of messages that one room session encrypts, whatever the room says.
pub const MAX_ROTATION_MESSAGES: u64 = 10_000;

/// The shortest age at which a room session is replaced, whatever the room says.
pub const MIN_ROTATION: Duration = Duration::from_hours(1);

/// The greatest age that a room session reaches, whatever the room says: a year of 365 days.
pub const MAX_ROTATION: Duration = Duration::from_hours(365 * 24);

/// How a room is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptionSettings {
    /// The algorithm as the room names it; empty when the event names none. A room with an
    /// algorithm other than [`MEGOLM`] is encrypted all the same, it only cannot be sent to.
    pub algorithm: String,
    /// The number of messages after which a new session starts.
    pub rotation_messages: u64,
    /// The age at which a new session starts.
    pub rotation: Duration,
}

impl EncryptionSettings {
    /// Whether messages can be sent under these settings. `false` means that sending is refused; it
    /// never means that the room is unencrypted.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        self.algorithm == MEGOLM
    }
}

/// Reads the content of an `m.room.encryption` event.
///
/// Never fails: the event says that the room is encrypted, and nothing else in it can take that
/// back. A limit that is missing, zero, negative, a fraction or no number becomes the policy's
/// default. A whole positive number is brought into its range: 1 to [`MAX_ROTATION_MESSAGES`] messages,
/// [`MIN_ROTATION`] to [`MAX_ROTATION`] (the event counts milliseconds).
#[must_use]
pub fn parse_encryption(content: &Value, policy: &Policy) -> EncryptionSettings {
    let algorithm = content.get("algorithm").and_then(Value::as_str).unwrap_or_default();
    let messages =
        positive(content, "rotation_period_msgs").unwrap_or(policy.default_rotation_messages);
    let rotation = positive(content, "rotation_period_ms")
        .map_or(policy.default_rotation, Duration::from_millis);
    EncryptionSettings {
        algorithm: algorithm.to_owned(),
        rotation_messages: messages.clamp(1, MAX_ROTATION_MESSAGES),
        rotation: rotation.clamp(MIN_ROTATION, MAX_ROTATION),
    }
}

/// Whether a session that was made at `created` and has encrypted `messages` messages must be
/// replaced before the next one.
///
/// A clock that now stands before `created` is not expiry: the message limit still holds, and
/// replacing the session at each send for as long as the clock is wrong would only do harm. A session
/// that has not encrypted anything does not expire by count, whatever the settings.
#[must_use]
pub fn is_expired(
    settings: &EncryptionSettings,
    created: Timestamp,
    now: Timestamp,
    messages: u64,
) -> bool {
    let age = now.saturating_since(created);
    messages >= settings.rotation_messages.max(1)
        || age >= settings.rotation.max(Duration::from_millis(1))
}

fn positive(content: &Value, field: &str) -> Option<u64> {
    content.get(field).and_then(Value::as_u64).filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WEEK: Duration = Duration::from_hours(7 * 24);

    fn parse(content: &Value) -> EncryptionSettings {
        parse_encryption(content, &Policy::default())
    }

    fn nonsense() -> Vec<Value> {
        let mut values: Vec<Value> = [
            "0",
            "-1",
            "-9223372036854775808",
            "\"100\"",
            "\"\"",
            "0.5",
            "99.5",
            "100.0",
            "1e2",
            "1e300",
            "-0.0",
            "99999999999999999999999999",
            "null",
            "true",
            "[]",
            "[100]",
            "{}",
        ]
        .iter()
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
        values.push(json!({"rotation_period_msgs": 5}));
        values
    }

    #[test]
    fn a_room_that_says_nothing_rotates_as_the_specification_recommends() {
        let settings = parse(&json!({"algorithm": MEGOLM}));
        assert_eq!(settings.rotation_messages, 100);
        assert_eq!(settings.rotation, WEEK);
        assert!(settings.is_supported());
    }

    #[test]
    fn plausible_limits_of_a_room_are_obeyed() {
        let settings = parse(&json!({
            "algorithm": MEGOLM,
            "rotation_period_msgs": 250,
            "rotation_period_ms": 86_400_000,
        }));
        assert_eq!(settings.rotation_messages, 250);
        assert_eq!(settings.rotation, Duration::from_hours(24));
    }

    #[test]
    fn a_nonsensical_message_limit_becomes_the_default() {
        for value in nonsense() {
            let settings = parse(&json!({"algorithm": MEGOLM, "rotation_period_msgs": value}));
            assert_eq!(settings.rotation_messages, 100, "{value}");
        }
    }

    #[test]
    fn a_nonsensical_period_becomes_the_default() {
        for value in nonsense() {
            let settings = parse(&json!({"algorithm": MEGOLM, "rotation_period_ms": value}));
            assert_eq!(settings.rotation, WEEK, "{value}");
        }
    }

    #[test]
    fn huge_limits_are_cut_and_do_not_switch_rotation_off() {
        for value in [10_001_u64, 9_007_199_254_740_991, u64::MAX] {
            let settings = parse(&json!({"rotation_period_msgs": value}));
            assert_eq!(settings.rotation_messages, MAX_ROTATION_MESSAGES);
        }
        for value in [31_536_000_001_u64, 9_007_199_254_740_991, u64::MAX] {
            let settings = parse(&json!({"rotation_period_ms": value}));
            assert_eq!(settings.rotation, MAX_ROTATION);
        }
    }

    #[test]
    fn a_literal_one_message_limit_is_obeyed_and_a_period_of_one_is_not() {
        let settings = parse(&json!({"rotation_period_msgs": 1, "rotation_period_ms": 1}));
        assert_eq!(settings.rotation_messages, 1);
        assert_eq!(settings.rotation, MIN_ROTATION);
    }

    #[test]
    fn an_unknown_or_missing_algorithm_is_kept_and_not_supported() {
        for content in [
            json!({}),
            json!({"algorithm": 5}),
            json!({"algorithm": "m.megolm.v9"}),
            json!({"algorithm": OLM}),
            json!([]),
            json!(null),
            json!("m.megolm.v1.aes-sha2"),
        ] {
            let settings = parse(&content);
            assert!(!settings.is_supported(), "{content}");
            assert_eq!(settings.rotation_messages, 100);
        }
        assert_eq!(parse(&json!({"algorithm": "m.megolm.v9"})).algorithm, "m.megolm.v9");
    }

    #[test]
    fn nonsensical_defaults_of_a_policy_are_brought_into_range() {
        let policy = Policy {
            default_rotation_messages: 0,
            default_rotation: Duration::ZERO,
            ..Policy::default()
        };
        let settings = parse_encryption(&json!({}), &policy);
        assert_eq!((settings.rotation_messages, settings.rotation), (1, MIN_ROTATION));
    }

    #[test]
    fn a_session_expires_at_its_message_limit_and_at_its_age() {
        let settings = parse(&json!({"algorithm": MEGOLM}));
        let created = Timestamp::from_millis(1_000_000);
        let old = created.saturating_add(WEEK);
        let almost = Timestamp::from_millis(old.as_millis() - 1);
        assert!(!is_expired(&settings, created, created, 0));
        assert!(!is_expired(&settings, created, almost, 99));
        assert!(is_expired(&settings, created, almost, 100));
        assert!(is_expired(&settings, created, old, 0));
    }

    #[test]
    fn a_clock_set_back_does_not_expire_a_session() {
        let settings = parse(&json!({"algorithm": MEGOLM}));
        let created = Timestamp::from_millis(1_000_000);
        assert!(!is_expired(&settings, created, Timestamp::default(), 99));
        assert!(is_expired(&settings, created, Timestamp::default(), 100));
    }

    #[test]
    fn a_fresh_session_is_never_expired_even_with_hand_made_zero_limits() {
        let settings = EncryptionSettings {
            algorithm: MEGOLM.to_owned(),
            rotation_messages: 0,
            rotation: Duration::ZERO,
        };
        let now = Timestamp::from_millis(5);
        assert!(!is_expired(&settings, now, now, 0));
    }
}
