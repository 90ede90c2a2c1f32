use super::*;
use crate::test_world::Person;

use ShieldReason::{
    AuthenticityNotGuaranteed, IdentityViolation, MismatchedSender, SentInClear, UnknownDevice,
    UnsignedDevice,
};

const REASONS: [ShieldReason; 6] = [
    AuthenticityNotGuaranteed,
    UnknownDevice,
    UnsignedDevice,
    IdentityViolation,
    SentInClear,
    MismatchedSender,
];

fn bob() -> Person {
    Person::new("@bob:example.org")
}

#[test]
fn the_shield_table_for_keys_that_came_over_olm() {
    let (bob, ghost) = (bob(), bob());
    let (signed, unsigned) = (bob.device("PHONE"), bob.unsigned_device("GHOST"));
    let pinned = bob.identity();
    let swapped = pinned.update(ghost.parsed());
    let of_swapped = ghost.device("NEW");
    for (device, identity, expected) in [
        (Some(&signed), Some(&pinned), Shield::None),
        (Some(&unsigned), Some(&pinned), Shield::Red(UnsignedDevice)),
        (Some(&unsigned), None, Shield::Red(UnsignedDevice)),
        (Some(&signed), None, Shield::Red(UnsignedDevice)),
        (Some(&signed), Some(&swapped), Shield::Red(UnsignedDevice)),
        (Some(&of_swapped), Some(&swapped), Shield::Red(IdentityViolation)),
        (None, Some(&pinned), Shield::Red(UnknownDevice)),
        (None, None, Shield::Red(UnknownDevice)),
    ] {
        assert_eq!(shield(KeySource::Olm, device, identity), expected);
    }
}

#[test]
fn keys_from_elsewhere_never_prove_the_sender() {
    let bob = bob();
    let (device, identity) = (bob.device("PHONE"), bob.identity());
    for source in
        [KeySource::Forwarded, KeySource::Imported, KeySource::Backup, KeySource::SharedHistory]
    {
        for device in [Some(&device), None] {
            assert_eq!(
                shield(source, device, Some(&identity)),
                Shield::Grey(AuthenticityNotGuaranteed)
            );
        }
    }
}

/// Whether a red shield of this kind is shown.
fn shown(trust: DecryptTrust, reason: ShieldReason, owner_has_identity: bool) -> bool {
    let policy = Policy { decrypt_trust: trust, ..Policy::default() };
    let result = may_show(&policy, &Shield::Red(reason), owner_has_identity);
    assert!(result.is_ok() || result == Err(SenderUntrusted { reason }));
    result.is_ok()
}

#[test]
fn a_message_without_a_shield_is_always_shown() {
    for decrypt_trust in
        [DecryptTrust::Any, DecryptTrust::CrossSignedOrLegacy, DecryptTrust::CrossSigned]
    {
        let policy = Policy { decrypt_trust, ..Policy::default() };
        assert_eq!(may_show(&policy, &Shield::None, true), Ok(()));
    }
}

#[test]
fn without_a_demand_on_senders_everything_is_shown() {
    for reason in REASONS {
        assert!(shown(DecryptTrust::Any, reason, true));
        assert!(shown(DecryptTrust::Any, reason, false));
    }
}

#[test]
fn under_cross_signed_or_legacy_only_what_cannot_be_better_is_let_pass() {
    for reason in REASONS {
        let passes = matches!(reason, AuthenticityNotGuaranteed | SentInClear);
        assert_eq!(shown(DecryptTrust::CrossSignedOrLegacy, reason, true), passes);
        let passes = passes || reason == UnsignedDevice;
        assert_eq!(shown(DecryptTrust::CrossSignedOrLegacy, reason, false), passes);
    }
}

#[test]
fn under_cross_signed_no_doubt_about_the_sender_is_let_pass() {
    for reason in REASONS {
        for owner_has_identity in [true, false] {
            let passes = reason == SentInClear;
            assert_eq!(shown(DecryptTrust::CrossSigned, reason, owner_has_identity), passes);
        }
    }
}

#[test]
fn messages_in_clear_are_refused_by_their_own_rule_only() {
    let policy = Policy { refuse_clear_in_encrypted_rooms: true, ..Policy::default() };
    for shield in [Shield::Red(SentInClear), Shield::Grey(SentInClear)] {
        let refused = SenderUntrusted { reason: SentInClear };
        assert_eq!(may_show(&policy, &shield, true), Err(refused));
        assert_eq!(may_show(&Policy::default(), &shield, true), Ok(()));
    }
    assert_eq!(may_show(&policy, &Shield::Red(UnknownDevice), true), Ok(()));
}

#[test]
fn the_floor_of_a_deployment_decides_when_it_is_stricter() {
    let mut policy = Policy::default();
    policy.floor.decrypt_trust = DecryptTrust::CrossSigned;
    assert!(may_show(&policy, &Shield::Red(UnsignedDevice), false).is_err());
}

#[test]
fn reasons_have_the_same_name_in_json_and_in_text() {
    for reason in REASONS {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        assert_eq!(reason.to_string(), reason.as_str());
    }
}
