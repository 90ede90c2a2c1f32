//! Schedules that the simulated world has failed on, shortened: each a defect that must not come back.

#![allow(missing_docs, clippy::panic, clippy::enum_glob_use)]

use herold_testkit::sim::{Action, Action::*, Attack::*, Profile, run};

fn holds(seed: u64, profile: Profile, actions: &[Action]) {
    if let Err(failure) = run(seed, profile, actions) {
        panic!("{failure}");
    }
}

/// A message that had waited for long, its app asleep, went out before the keys of the others' devices were
/// even asked for.
#[test]
fn patience_begins_when_keys_are_asked_for() {
    let actions = [Send(48, 19), Pass(32), ForJoined(37, false), Pump(53), Pump(33), Sync(18)];
    holds(2, Profile::Honest, &actions);
    holds(10, Profile::Honest, &[ForJoined(22, true), Send(0, 44), Pass(39)]);
}

/// The same, where the server had asked to wait and the app slept over it.
#[test]
fn patience_begins_anew_after_a_pause() {
    let actions =
        [Send(53, 37), Pump(18), Throttle(2), Pump(3), Pass(12685), Send(38, 39), Discard(33, 47)];
    holds(36, Profile::Faulty, &actions);
}

/// A device could not read the Olm message that brought a session, and said so after the session had been
/// replaced: it was given the current one only.
#[test]
fn a_replaced_session_is_given_again() {
    let actions = [
        LoseOneTimeKeys(47),
        Pass(40),
        Send(37, 49),
        Send(56, 18),
        Pump(12),
        Pump(36),
        Pump(46),
        Pass(29),
        Pump(27),
        Pump(47),
        Pump(12),
        Sync(22),
        ForJoined(36, true),
        Pass(13648),
    ];
    holds(158, Profile::Faulty, &actions);
    let actions = [
        LogIn(53, false),
        Pass(52),
        Send(29, 2),
        Send(35, 38),
        LoseOneTimeKeys(36),
        Pass(34),
        Pump(29),
        Pump(47),
        Sync(30),
        Pass(7725),
        Send(53, 12),
    ];
    holds(24, Profile::Hostile, &actions);
}

/// While a message waited for keys that were asked for anew, what their devices had missed before was forgotten: it
/// went out as if everybody had the key, and they were never given it.
#[test]
fn what_a_device_has_missed_is_not_forgotten_while_its_keys_are_asked_for_again() {
    let actions = [
        LosePower(46),
        ClockAhead(41, 1060),
        Send(10, 57),
        LoseOneTimeKeys(36),
        LosePower(23),
        Send(58, 26),
        Sync(11),
        Pump(45),
        Send(14, 16),
        Pump(44),
        Pump(6),
        Send(34, 30),
        Pump(23),
        Send(15, 6),
        Pass(15),
        Weather(2),
        Send(35, 3),
        Block(34, 3, true),
        Pump(53),
        Send(50, 48),
        LogOut(31),
        Sync(34),
        Pump(44),
        Pump(10),
        Sync(37),
        Sync(50),
        Sync(18),
        Sync(47),
        Pump(32),
        Send(55, 35),
        Send(4, 25),
        Send(38, 39),
        Weather(3),
        Send(15, 15),
        Send(43, 33),
        Send(37, 6),
        Send(38, 58),
        Send(3, 11),
        Kill(34, 0, true),
        Send(58, 17),
        Pass(14308),
        Send(10, 12),
        Send(42, 59),
        Pump(49),
        Send(32, 43),
        Send(34, 31),
        Pump(49),
    ];
    holds(4308, Profile::Faulty, &actions);
}

/// A user's server was away when a device that had never seen the user's devices sent a message: they were not given its
/// key when it was back, unless there was another message.
#[test]
fn devices_that_were_not_known_get_what_was_sent_before_they_were() {
    let actions = [
        LogIn(33, false),
        Send(0, 5),
        Send(47, 51),
        Send(19, 41),
        Sync(20),
        Pump(18),
        Weather(3),
        FarServer(false),
        Send(14, 9),
        Pass(33),
        Sync(36),
        Send(48, 28),
        Sync(9),
        LogIn(40, false),
        Sync(14),
        Send(52, 53),
        FarServer(true),
        Sync(47),
        Pump(21),
        Send(39, 56),
        Sync(31),
        Pump(10),
        LosePower(35),
        Pump(35),
        Sync(9),
        Send(13, 15),
        Send(13, 59),
        Pump(21),
        Pump(9),
        Send(58, 15),
        Pass(17068),
        Send(32, 9),
        Pump(20),
    ];
    holds(40102, Profile::Faulty, &actions);
}

/// A device that logs in while its server is out of the sender's reach cannot be told from those that were there before:
/// the model was wrong, not the machine.
#[test]
fn seed_200128_a_device_made_while_its_server_was_away_is_served_like_the_others() {
    let actions = [
        LosePower(18),
        Send(8, 36),
        FarServer(false),
        Pass(501),
        Pump(38),
        Pump(38),
        Pump(8),
        LogIn(11, true),
    ];
    holds(200128, Profile::Faulty, &actions);
}

/// A fallback key that had been claimed a minute ago was replaced twice within that minute, and what came by it was lost: its
/// sender's keys were hidden by the server, so there was no other way either.
#[test]
fn seed_300187_a_claimed_fallback_key_outlives_the_next_one() {
    let actions = [
        LogIn(44, true),
        Attack(SwapDeviceKeys, 71),
        Pass(60),
        LogIn(11, false),
        Send(47, 38),
        Pump(5),
        Sync(37),
        LoseOneTimeKeys(37),
        Pump(12),
        LogIn(10, true),
        Pump(2),
        Sync(58),
        LogIn(12, false),
        Sync(2),
        Pass(65),
    ];
    holds(300187, Profile::Hostile, &actions);
}
