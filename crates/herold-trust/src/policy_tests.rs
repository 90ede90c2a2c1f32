use serde_json::json;

use super::*;
use crate::test_world::Person;

const RECIPIENTS: [Recipients; 4] = Recipients::FROM_LAX_TO_STRICT;
const TRUST: [DecryptTrust; 3] =
    [DecryptTrust::Any, DecryptTrust::CrossSignedOrLegacy, DecryptTrust::CrossSigned];

fn with(recipients: Recipients) -> Policy {
    Policy { recipients, ..Policy::default() }
}

fn bob() -> Person {
    Person::new("@bob:example.org")
}

#[test]
fn by_default_keys_go_to_cross_signed_devices_and_everything_is_shown() {
    let policy = Policy::default();
    assert_eq!(policy.recipients, Recipients::IdentityBased);
    assert_eq!(policy.decrypt_trust, DecryptTrust::Any);
    assert_eq!(policy.floor.recipients, Recipients::AllDevices);
    assert_eq!(policy.default_rotation_messages, 100);
    assert_eq!(policy.default_rotation, Duration::from_secs(7 * 24 * 60 * 60));
}

#[test]
fn recipients_compare_by_strictness_and_keep_their_place_in_stores() {
    let names = ["all_devices", "identity_based", "identity_based_then_strict", "only_trusted"];
    for (recipients, name) in RECIPIENTS.into_iter().zip(names) {
        assert_eq!(serde_json::to_value(recipients).unwrap(), json!(name));
    }
    assert!(RECIPIENTS.is_sorted_by(|lax, strict| lax < strict));
    assert_eq!(RECIPIENTS.map(|recipients| recipients as u8), [0, 1, 3, 2]);
}

#[test]
fn an_app_can_choose_anything_down_to_the_floor_and_nothing_below() {
    for floor in RECIPIENTS {
        for trust_floor in TRUST {
            let floor = PolicyFloor { recipients: floor, decrypt_trust: trust_floor };
            let policy = Policy { floor, ..Policy::default() };
            for recipients in RECIPIENTS {
                for trust in TRUST {
                    let allowed = recipients >= floor.recipients && trust >= floor.decrypt_trust;
                    let result = policy.tighten(recipients, trust);
                    assert_eq!(result.is_ok(), allowed);
                    if let Ok(chosen) = result {
                        assert_eq!(chosen.floor, floor);
                        assert_eq!(chosen.effective_recipients(), recipients);
                        assert_eq!(chosen.effective_decrypt_trust(), trust);
                    }
                }
            }
        }
    }
}

#[test]
fn a_denied_choice_names_the_floor() {
    let floor = PolicyFloor {
        recipients: Recipients::OnlyTrusted,
        decrypt_trust: DecryptTrust::CrossSigned,
    };
    let policy = Policy { floor, ..Policy::default() };
    assert_eq!(
        policy.tighten(Recipients::AllDevices, DecryptTrust::CrossSigned),
        Err(PolicyDenied::Recipients { floor: Recipients::OnlyTrusted })
    );
    assert_eq!(
        policy.tighten(Recipients::OnlyTrusted, DecryptTrust::Any),
        Err(PolicyDenied::DecryptTrust { floor: DecryptTrust::CrossSigned })
    );
}

#[test]
fn a_choice_below_the_floor_that_was_written_directly_does_not_hold() {
    let bob = bob();
    let floor =
        PolicyFloor { recipients: Recipients::IdentityBased, decrypt_trust: DecryptTrust::Any };
    let policy = Policy { floor, ..with(Recipients::AllDevices) };
    assert_eq!(
        may_receive(&policy, &bob.unsigned_device("GHOST"), false, Some(&bob.identity())),
        Err(WithheldCode::Unverified)
    );
}

#[test]
fn a_policy_file_may_be_partial_but_not_misspelt() {
    let policy: Policy = serde_json::from_value(json!({"recipients": "only_trusted"})).unwrap();
    assert_eq!(policy, with(Recipients::OnlyTrusted));
    assert!(serde_json::from_value::<Policy>(json!({"recipient": "only_trusted"})).is_err());
    assert!(serde_json::from_value::<Policy>(json!({"recipients": "none"})).is_err());
    let half = json!({"floor": {"recipients": "only_trusted"}});
    assert!(serde_json::from_value::<Policy>(half).is_err());
}

#[test]
fn a_policy_survives_its_record() {
    let policy = Policy::default()
        .tighten(Recipients::OnlyTrusted, DecryptTrust::CrossSignedOrLegacy)
        .unwrap();
    let record = postcard::to_allocvec(&policy).unwrap();
    assert_eq!(postcard::from_bytes::<Policy>(&record).unwrap(), policy);
    let text = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
}

// Who may get a room key

#[test]
fn n02_a_ghost_device_gets_no_room_key_and_the_owners_other_devices_do() {
    let bob = bob();
    let (policy, identity) = (Policy::default(), bob.identity());
    assert_eq!(
        may_receive(&policy, &bob.unsigned_device("GHOST"), false, Some(&identity)),
        Err(WithheldCode::Unverified)
    );
    assert_eq!(may_receive(&policy, &bob.device("PHONE"), false, Some(&identity)), Ok(()));
}

#[test]
fn n03_nobody_of_a_swapped_identity_gets_a_room_key_until_it_is_acknowledged() {
    let (bob, ghost) = (bob(), bob());
    let policy = Policy::default();
    let mut identity = bob.identity().update(ghost.parsed());
    for device in [bob.device("PHONE"), ghost.device("GHOST")] {
        assert_eq!(
            may_receive(&policy, &device, false, Some(&identity)),
            Err(WithheldCode::Unverified)
        );
    }
    identity.acknowledge();
    assert_eq!(may_receive(&policy, &ghost.device("NEW"), false, Some(&identity)), Ok(()));
}

#[test]
fn a_device_of_a_user_without_identity_gets_a_key_only_if_all_devices_do() {
    let bob = bob();
    let device = bob.unsigned_device("PHONE");
    assert_eq!(may_receive(&with(Recipients::AllDevices), &device, false, None), Ok(()));
    for strict in
        [Recipients::IdentityBased, Recipients::IdentityBasedThenStrict, Recipients::OnlyTrusted]
    {
        assert_eq!(may_receive(&with(strict), &device, false, None), Err(WithheldCode::Unverified));
    }
}

#[test]
fn a_blocked_device_gets_no_key_under_any_policy() {
    let bob = bob();
    for recipients in RECIPIENTS {
        assert_eq!(
            may_receive(&with(recipients), &bob.device("PHONE"), true, Some(&bob.identity())),
            Err(WithheldCode::Blacklisted)
        );
    }
}

#[test]
fn a_pinned_identity_is_not_yet_a_trusted_one() {
    let bob = bob();
    assert_eq!(
        may_receive(
            &with(Recipients::OnlyTrusted),
            &bob.device("PHONE"),
            false,
            Some(&bob.identity())
        ),
        Err(WithheldCode::Unverified)
    );
}

#[test]
fn a_dehydrated_device_is_cross_signed_or_gets_no_key_under_any_policy() {
    let bob = bob();
    let (mut signed, mut unsigned) = (bob.device("BOX"), bob.unsigned_device("GHOST"));
    signed.dehydrated = true;
    unsigned.dehydrated = true;
    let identity = bob.identity();
    assert_eq!(may_receive(&Policy::default(), &signed, false, Some(&identity)), Ok(()));
    for recipients in RECIPIENTS {
        let policy = with(recipients);
        for identity in [None, Some(&identity)] {
            let refused = Err(WithheldCode::Unverified);
            assert_eq!(may_receive(&policy, &unsigned, false, identity), refused);
        }
    }
}

#[test]
fn withheld_codes_are_those_of_the_specification() {
    for code in WithheldCode::ALL {
        assert_eq!(WithheldCode::parse(code.as_str()), Some(code));
        assert_eq!(serde_json::to_value(code).unwrap(), json!(code.as_str()));
        assert!(!code.reason().is_empty());
    }
    assert_eq!(WithheldCode::NoOlm.to_string(), "m.no_olm");
    assert_eq!(WithheldCode::parse("m.unauthorized"), None);
}

// Names

#[test]
fn a_device_name_is_cut_and_cannot_reorder_the_text_around_it() {
    let mut device = bob().device("PHONE");
    let policy = Policy { max_device_name_chars: 5, ..Policy::default() };
    for (raw, shown) in [
        (Some("Phone of Bob"), Some("Phone")),
        (Some("\u{202e}dekcolb\n"), Some("dekco")),
        (Some("\u{200b}\u{2066}\r\n \0"), None),
        (Some("žluťoučký"), Some("žluťo")),
        (Some(""), None),
        (None, None),
    ] {
        device.display_name = raw.map(str::to_owned);
        assert_eq!(policy.device_name(&device).as_deref(), shown);
    }
}
