//! One sample of each record type, the same in every build: what a store must bring back, and what
//! the frozen store files of released versions hold.

use std::time::Duration;

use herold_crypto::{
    Curve25519PublicKey, Ed25519PublicKey, IdentityKeys, SecretBytes, SecretString, SessionId,
};
use herold_trust::{Device, EncryptionSettings, Identity, KeySource, Policy, Timestamp};
use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedTransactionId, OwnedUserId};

use crate::{ChangeSet, Record, RecordKey, Snapshot, SnapshotExt, Table, records::*};

fn user() -> OwnedUserId {
    OwnedUserId::try_from("@alice:example.org").unwrap()
}

fn device_id() -> OwnedDeviceId {
    OwnedDeviceId::from("HEROLDDEV")
}

fn room() -> OwnedRoomId {
    OwnedRoomId::try_from("!hall:example.org").unwrap()
}

fn event() -> OwnedEventId {
    OwnedEventId::try_from("$143273582443PhrSn:example.org").unwrap()
}

fn transaction() -> OwnedTransactionId {
    OwnedTransactionId::from("herold-1")
}

fn session() -> SessionId {
    SessionId::new("session id, '\"%_\0 and all")
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn curve() -> Curve25519PublicKey {
    Curve25519PublicKey::from_bytes([9; 32])
}

/// The public key of the first test vector of RFC 8032, section 7.1.
fn ed() -> Ed25519PublicKey {
    let bytes = [
        0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07,
        0x3a, 0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07,
        0x51, 0x1a,
    ];
    Ed25519PublicKey::from_slice(&bytes).unwrap()
}

fn keys() -> IdentityKeys {
    IdentityKeys { curve25519: curve(), ed25519: ed() }
}

fn unseen() -> Vec<UnseenUser> {
    vec![UnseenUser { user_id: user(), index: 7 }]
}

fn secret(name: &str) -> SecretBytes {
    SecretBytes::new(format!("{name}-canary").into_bytes())
}

fn settings() -> EncryptionSettings {
    EncryptionSettings {
        algorithm: "m.megolm.v1.aes-sha2".to_owned(),
        rotation_messages: 100,
        rotation: Duration::from_secs(604_800),
    }
}

fn device() -> Device {
    Device {
        user_id: user(),
        device_id: device_id(),
        keys: keys(),
        algorithms: vec!["m.olm.v1.curve25519-aes-sha2".to_owned()],
        display_name: Some("Alice's \u{202e}tablet".to_owned()),
        signed_json: r#"{"device_id":"HEROLDDEV"}"#.to_owned(),
        dehydrated: false,
    }
}

fn identity() -> Identity {
    Identity {
        user_id: user(),
        master: ed(),
        self_signing: ed(),
        user_signing: None,
        pinned_master: ed(),
        was_verified: true,
        verified: false,
        json: "{}".to_owned(),
    }
}

macro_rules! samples {
    ($($type:ty: $key:expr => $record:expr,)+) => {
        /// A change set that puts one sample of each record type, of [`crate::Durability::Full`].
        #[must_use]
        pub fn sample_changes() -> ChangeSet {
            let mut changes = ChangeSet::new();
            $(changes.put::<$type>(&$key, &$record);)+
            changes.require_full();
            changes
        }

        /// Checks that every sample is there, decodes, and is what [`sample_changes`] puts.
        pub fn assert_samples(snapshot: &dyn Snapshot) {
            $({
                let name = <$type as Record>::TABLE.name();
                let found = snapshot.load::<$type>(&$key).expect(name).expect(name);
                assert!(found.encode() == $record.encode(), "the sample of {name} has changed");
                let all = snapshot.list::<$type>(b"", 9).expect(name);
                assert!(all.iter().any(|(key, _)| key.to_bytes() == $key.to_bytes()), "{name}");
            })+
        }

        /// The tables that have a sample.
        #[must_use]
        pub fn sampled_tables() -> Vec<Table> {
            vec![$(<$type as Record>::TABLE,)+]
        }
    };
}

samples! {
    AccountRecord: Only => AccountRecord {
        user_id: user(),
        device_id: device_id(),
        keys: keys(),
        signed_keys: r#"{"device_id":"HEROLDDEV"}"#.to_owned(),
        pickle: secret("account"),
        created_at: at(0),
    },
    KeyUploadRecord: Only => KeyUploadRecord {
        device_keys_published: true,
        server_one_time_keys: Some(50),
        unpublished_keys: true,
        fallback_used: false,
        fallback_created_at: Some(at(1)),
        forget_previous_fallback_at: None,
        uploaded_at: Some(at(2)),
    },
    LoginRecord: Only => LoginRecord {
        homeserver: "https://example.org".to_owned(),
        access_token: SecretString::new("token-canary".to_owned()),
        logged_out: false,
        deployment: "herold".to_owned(),
    },
    SyncRecord: Only => SyncRecord { next_batch: Some("s72595_4483_1934".to_owned()) },
    PolicyRecord: Only => PolicyRecord { policy: Policy::default() },
    CounterRecord: NameKey { name: "app_event".to_owned() } => CounterRecord { next: 1 << 40 },
    OlmSessionRecord: OlmSessionKey { sender_key: curve(), session_id: session() }
        => OlmSessionRecord {
            pickle: secret("olm"),
            peer_ed25519: Some(ed()),
            created_at: at(3),
            last_received_at: at(4),
        },
    OlmHashRecord: HashKey { hash: [0xa5; 32] } => OlmHashRecord { received_at: at(5) },
    InboundSessionRecord:
        InboundSessionKey { room_id: room(), session_id: session(), sender_key: curve() }
        => InboundSessionRecord {
            pickle: secret("inbound"),
            sender_key: curve(),
            sender_ed25519: Some(ed()),
            sender: Some(user()),
            source: KeySource::Olm,
            first_known_index: 7,
            shared_history: true,
            received_at: at(6),
            forwarders: vec![curve()],
            shared_by: Some(user()),
        },
    OutboundSessionRecord: RoomKey { room_id: room() } => OutboundSessionRecord {
        session_id: session(),
        pickle: secret("outbound"),
        initial: secret("initial"),
        reserved_index: 64,
        created_at: at(7),
        settings: settings(),
        device_generation: 12,
        member_generation: 13,
        retry_at: None,
            unseen: unseen(),
    },
    RetiredSessionRecord: RoomSessionKey { room_id: room(), session_id: session() }
        => RetiredSessionRecord { initial: secret("retired"), retired_at: at(16), owed: true, unseen: unseen() },
    ShareRecord: ShareKey { session_id: session(), user_id: user(), device_id: device_id() }
        => ShareRecord {
            curve25519: curve(),
            index: 3,
            state: ShareState::Withheld("m.unverified".to_owned()),
        },
    DeviceRecord: DeviceKey { user_id: user(), device_id: device_id() }
        => DeviceRecord { device: device(), first_seen: at(8) },
    DeviceByKeyRecord: DeviceByKeyKey { user_id: user(), curve25519: curve() }
        => DeviceByKeyRecord { device_ids: vec![device_id()] },
    BlockedRecord: DeviceKey { user_id: user(), device_id: device_id() } => BlockedRecord { since: at(8) },
    IdentityRecord: UserKey { user_id: user() }
        => IdentityRecord { identity: identity(), first_seen: at(9) },
    VerifiedIdentityRecord: UserKey { user_id: user() }
        => VerifiedIdentityRecord { master: ed(), verified_at: at(17) },
    TrackedUserRecord: UserKey { user_id: user() } => TrackedUserRecord {
        generation: 5,
        answered: Some(4),
        failures: 1,
        retry_at: Some(at(10)),
        outdated_since: Some(at(9)),
    },
    OutdatedUserRecord: UserKey { user_id: user() } => OutdatedUserRecord,
    ClaimRecord: DeviceKey { user_id: user(), device_id: device_id() }
        => ClaimRecord { failures: 2, retry_at: at(11), asked_at: Some(at(12)), asked_since: None, unwedge: true },
    RoomRecord: RoomKey { room_id: room() } => RoomRecord {
        membership: Membership::Join,
        encryption: Some(settings()),
        history_visibility: HistoryVisibility::Shared,
        name: Some("The hall".to_owned()),
        members_complete: true,
        member_generation: 13,
        prev_batch: None,
        next_order: TimelineKey::MIDDLE + 1,
        previous_order: TimelineKey::MIDDLE - 1,
    },
    MemberRecord: MemberKey { room_id: room(), user_id: user() } => MemberRecord {
        membership: Membership::Invite,
        display_name: Some("Alice".to_owned()),
    },
    EventRecord: EventKey { room_id: room(), event_id: event() } => EventRecord {
        sender: user(),
        event_type: "m.room.encrypted".to_owned(),
        origin_server_ts: 1_700_000_000_000,
        in_encrypted_room: true,
        raw: r#"{"content":{"ciphertext":"AwgA"}}"#.to_owned(),
        order: Some(TimelineKey::MIDDLE),
        decryption: Decryption::Decrypted {
            event_type: "m.room.message".to_owned(),
            content: r#"{"body":"message-canary"}"#.to_owned(),
            session_id: session(),
        },
    },
    TimelineRecord: TimelineKey { room_id: room(), order: TimelineKey::MIDDLE }
        => TimelineRecord { event_id: event() },
    WaitingRecord:
        WaitingKey { room_id: room(), session_id: session(), index: 3, event_id: event() }
        => WaitingRecord,
    MegolmIndexRecord: MegolmIndexKey { room_id: room(), session_id: session(), index: 3 }
        => MegolmIndexRecord { event_id: event(), origin_server_ts: 1_700_000_000_000 },
    SessionRoomRecord: SessionKey { session_id: session() }
        => SessionRoomRecord { room_id: room() },
    WithheldRecord: RoomSessionKey { room_id: room(), session_id: session() } => WithheldRecord {
        code: "m.unverified".to_owned(),
        sender: user(),
        received_at: at(12),
    },
    KeyRequestRecord: RoomSessionKey { room_id: room(), session_id: session() }
        => KeyRequestRecord {
            request_id: "request".to_owned(),
            state: KeyRequestState::Asked(vec![device_id()]),
        },
    KeyAnswersRecord: DeviceKey { user_id: user(), device_id: device_id() } => KeyAnswersRecord {
        counted_since: at(18),
        count: 2,
        request_ids: vec!["request".to_owned()],
        owed: vec![OwedKey {
            request_id: "request".to_owned(),
            room_id: room(),
            session_id: session(),
        }],
    },
    OutboxRecord: SequenceKey { sequence: 1 } => OutboxRecord {
        event_type: "m.room.encrypted".to_owned(),
        txn_id: transaction(),
        sessions: vec![session()],
        failures: 0,
        retry_at: None,
    },
    OutboxBodyRecord: SequenceKey { sequence: 1 } => OutboxBodyRecord {
        body: r#"{"messages":{}}"#.to_owned(),
        shares: vec![OutboxShare {
            session_id: session(),
            user_id: user(),
            device_id: device_id(),
        }],
    },
    QueueRecord: SequenceKey { sequence: 2 } => QueueRecord {
        room_id: room(),
        txn_id: transaction(),
        event_type: "m.room.message".to_owned(),
        content: r#"{"body":"queue-canary"}"#.to_owned(),
        state: QueueState::Failed { errcode: "M_FORBIDDEN".to_owned() },
        queued_at: at(13),
        waiting_since: None,
        failures: 3,
        retry_at: Some(at(14)),
    },
    BackoffRecord: NameKey { name: "keys_upload".to_owned() }
        => BackoffRecord { failures: 4, retry_at: at(15) },
    SlidingSyncRecord: Only => SlidingSyncRecord {
        chosen: true,
        pos: Some("7/s72595_4483_1934".to_owned()),
        to_device: Some("72590".to_owned()),
        rooms: 100,
        all_rooms: true,
    },
    ToDeviceQueueRecord: SequenceKey { sequence: 3 } => ToDeviceQueueRecord {
        txn_id: transaction(),
        event_type: "org.example.call".to_owned(),
        content: r#"{"key":"call-canary"}"#.to_owned(),
        recipients: vec![(user(), None)],
        devices: vec![ToDeviceProgress {
            user_id: user(),
            device_id: device_id(),
            state: ToDeviceState::Withheld("m.unverified".to_owned()),
        }],
        queued_at: at(16),
    },
    SecretRecord: NameKey { name: "m.cross_signing.master".to_owned() }
        => SecretRecord { secret: SecretString::new("a secret".to_owned()), since: at(18) },
    PendingIdentityRecord: Only => PendingIdentityRecord {
        master: secret("master"),
        self_signing: secret("self-signing"),
        user_signing: secret("user-signing"),
        replaced: None,
    },
    RecoveryRecord: Only => RecoveryRecord {
        change: RecoveryChange::Reset,
        stage: RecoveryStage::Published,
        key: StorageKeyRecord { key_id: "new".to_owned(), key: secret("storage key") },
        description: "{}".to_owned(),
        from: vec![StorageKeyRecord { key_id: "old".to_owned(), key: secret("old key") }],
        replaced_key: Some("old".to_owned()),
        made_master: None,
        replaced_backup: Some("1".to_owned()),
    },
    VerificationRecord: VerificationKey { flow_id: "$flow".to_owned(), user_id: user() }
        => VerificationRecord { flow: secret("flow"), due: at(19) },
    VerificationRequestRecord: NameKey { name: "txn".to_owned() }
        => VerificationRequestRecord { room_id: room(), user_id: user() },
    ParkedRecord: SequenceKey { sequence: 7 } => ParkedRecord {
        sender: user(),
        sender_device: Some(device_id()),
        event_type: "m.key.verification.request".to_owned(),
        content: "{}".to_owned(),
        received_at: at(20),
    },
    VerifiedDeviceRecord: DeviceKey { user_id: user(), device_id: device_id() }
        => VerifiedDeviceRecord { ed25519: ed(), since: at(22) },
    SecretRequestRecord: NameKey { name: "m.cross_signing.master".to_owned() }
        => SecretRequestRecord {
            request_id: "request".to_owned(),
            devices: vec![device_id()],
            asked_at: at(21),
        },
    SignatureRecord: SequenceKey { sequence: 6 } => SignatureRecord {
        user_id: user(),
        name: "HEROLDDEV".to_owned(),
        object: "{}".to_owned(),
    },
    BackupRecord: Only
        => BackupRecord::Enabled { version: "7".to_owned(), public_key: "key".to_owned() },
    BackupDueRecord: InboundSessionKey {
        room_id: room(),
        session_id: session(),
        sender_key: curve(),
    } => BackupDueRecord,
    BackupBatchRecord: Only => BackupBatchRecord {
        version: "7".to_owned(),
        keys: vec![vec![1, 2, 3]],
        body: "{}".to_owned(),
    },
    InvitationRecord: RoomKey { room_id: room() }
        => InvitationRecord { inviter: user(), accepted_at: Some(at(23)) },
    HistoryBundleRecord:
        HistoryBundleKey { room_id: room(), user_id: user(), sender_key: curve() }
        => HistoryBundleRecord {
            sender_ed25519: ed(),
            file: SecretString::new(r#"{"key":"bundle-canary"}"#.to_owned()),
            received_at: at(24),
            older_endpoint: false,
        },
    DehydrationRecord: Only => DehydrationRecord {
        enabled: true,
        device_id: Some(device_id()),
        since: at(25),
        look_at: at(26),
        stage: DehydrationStage::Read,
        misses: 1,
        events: 2,
        room_keys: 3,
        outcome: Some(RehydrationOutcome::Refused(RehydrationRefusal::KeyMismatch)),
    },
    RehydrationRecord: Only => RehydrationRecord {
        device_id: device_id(),
        account: secret("dehydrated"),
        from: Some("d7".to_owned()),
        older_endpoint: true,
        pages: 4,
        empty_pages: 5,
    },
    RehydratedSessionRecord: OlmSessionKey { sender_key: curve(), session_id: session() }
        => RehydratedSessionRecord {
            pickle: secret("rehydrated"),
            peer_ed25519: Some(ed()),
            number: 6,
        },
    DehydratedUploadRecord: Only
        => DehydratedUploadRecord { device_id: device_id(), body: "{}".to_owned(), asked: true },
    UntrustedDeviceRecord: DeviceKey { user_id: user(), device_id: device_id() }
        => UntrustedDeviceRecord { ed25519: ed(), first_seen: at(17) },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its record is the state machine's, which stores its own encoding.
    const WITHOUT_A_RECORD_HERE: [Table; 1] = [Table::AppEvent];

    #[test]
    fn every_table_has_a_sample() {
        let mut sampled = sampled_tables();
        sampled.extend(WITHOUT_A_RECORD_HERE);
        sampled.sort();
        assert_eq!(sampled, Table::ALL);
    }

    #[test]
    fn no_record_prints_its_secrets() {
        let printed = format!("{:?}", sample_changes());
        assert!(!printed.contains("canary"), "{printed}");
    }
}
