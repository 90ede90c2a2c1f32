#![allow(missing_docs, clippy::panic)]
use herold_testkit::sim::{Action, Action::*, Profile, run};
fn holds(seed: u64, profile: Profile, actions: &[Action]) {
    if let Err(failure) = run(seed, profile, actions) {
        panic!("{failure}");
    }
}
#[test]
fn t213() {
    holds(
        213,
        Profile::Faulty,
        &[Send(46, 27), Pump(11), Pump(36), Pump(16), Pump(26), LosePower(36), LogIn(0, true)],
    );
}
#[test]
fn t158() {
    holds(
        158,
        Profile::Faulty,
        &[
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
        ],
    );
}
