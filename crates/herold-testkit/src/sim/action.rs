//! [`Action`]: one step of a schedule. The numbers name a device, a room or a user by counting round, so
//! that a schedule stays one when actions are left out of it.

use herold_crypto::{Entropy, SeededEntropy};

use super::{Attack, Profile};

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A device queues a message of its own words.
    Send(u8, u8),
    /// A device makes one sync.
    Sync(u8),
    /// A device makes every request that is due.
    Pump(u8),
    /// So many seconds pass.
    Pass(u16),
    /// A device's user invites a user into a room.
    Invite(u8, u8, u8),
    /// A device's user joins a room.
    Join(u8, u8),
    /// A device's user leaves a room.
    Leave(u8, u8),
    /// A device's user puts a user out of a room.
    Kick(u8, u8, u8),
    /// A user logs one more device in; where the world has identities, its owner signs it or not.
    LogIn(u8, bool),
    /// A device is logged out.
    LogOut(u8),
    /// The owner signs a device that had not been.
    Sign(u8),
    /// A device's process ends and starts again.
    Restart(u8),
    /// A device goes off the network, or comes back.
    Online(u8, bool),
    /// A device's user blocks a device, or lets it be used again.
    Block(u8, u8, bool),
    /// A device's app has the room's session ended.
    Discard(u8, u8),
    /// The room's history is for those who have joined only, or for all members.
    ForJoined(u8, bool),
    /// A user takes another name in a room.
    Rename(u8, u8),
    /// What has not been synced yet of a room falls into a gap.
    Gap(u8),
    /// A device's app looks at older events.
    Paginate(u8, u8),
    /// The server has lost a device's one-time keys.
    LoseOneTimeKeys(u8),
    /// A device's process is killed at its commit so many from now: before it, or after it.
    Kill(u8, u8, bool),
    /// A device's power fails.
    LosePower(u8),
    /// The network is so bad: 0 is good, 3 the worst.
    Weather(u8),
    /// The other homeserver does not answer, or does again.
    FarServer(bool),
    /// The homeserver answers the next requests with 429.
    Throttle(u8),
    /// A device's clock is put ahead by so many minutes.
    ClockAhead(u8, u16),
    /// A device's disk is put back to how it once was.
    RollBack(u8),
    /// Somebody does what is not allowed, to a device.
    Attack(Attack, u8),
    /// A device makes an identity of its user's, another one if so.
    Bootstrap(u8, bool),
    /// A device's user accepts that a user's identity is another.
    Acknowledge(u8, u8),
    /// A device asks another to verify each other.
    AskToVerify(u8, u8),
    /// A device's user does what is next in its verifications.
    Compare(u8),
    /// A device makes a backup of the room keys.
    MakeBackup(u8),
    /// A device is given the backup's key, and restores.
    Restore(u8),
    /// A device's user invites a user into a room, with its history.
    ShareHistory(u8, u8, u8),
    /// A device's user joins a room and takes its history.
    JoinWithHistory(u8, u8),
    /// A copy of a device's store is started beside it.
    Copy(u8),
    /// Another process of a device has its turn; the one before is suspended, or only lets go of the store.
    TakeTurns(u8, bool),
}

/// Numbers for a schedule.
pub(super) struct Dice(SeededEntropy);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(SeededEntropy::new(seed ^ 0x5c4e_d01e))
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % limit
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or(0)
    }

    /// The number of a device, a room or a user.
    fn one(&mut self) -> u8 {
        self.byte() % 60
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// The schedule of a seed: `steps` actions as the profile mixes them.
#[must_use]
pub fn schedule(seed: u64, profile: Profile, steps: usize) -> Vec<Action> {
    let mut dice = Dice::new(seed);
    (0..steps).map(|_| draw(&mut dice, profile)).collect()
}

/// The makers of actions with their weights, and the least wicked profile that has them.
type Maker = (u64, Profile, fn(&mut Dice) -> Action);

const MAKERS: &[Maker] = &[
    (220, Profile::Honest, |d| Action::Send(d.one(), d.one())),
    (260, Profile::Honest, |d| Action::Sync(d.one())),
    (260, Profile::Honest, |d| Action::Pump(d.one())),
    (40, Profile::Honest, |d| Action::Pass(u16::try_from(d.below(60)).unwrap_or(1))),
    (6, Profile::Honest, |d| Action::Pass(u16::try_from(d.below(20_000)).unwrap_or(1))),
    (18, Profile::Honest, |d| Action::Invite(d.one(), d.one(), d.one())),
    (28, Profile::Honest, |d| Action::Join(d.one(), d.one())),
    (8, Profile::Honest, |d| Action::Leave(d.one(), d.one())),
    (10, Profile::Honest, |d| Action::Kick(d.one(), d.one(), d.one())),
    (5, Profile::Honest, |d| Action::LogIn(d.one(), d.coin())),
    (3, Profile::Honest, |d| Action::LogOut(d.one())),
    (6, Profile::Honest, |d| Action::Sign(d.one())),
    (14, Profile::Honest, |d| Action::Restart(d.one())),
    (12, Profile::Honest, |d| Action::Online(d.one(), false)),
    (20, Profile::Honest, |d| Action::Online(d.one(), true)),
    (8, Profile::Honest, |d| Action::Block(d.one(), d.one(), d.coin())),
    (8, Profile::Honest, |d| Action::Discard(d.one(), d.one())),
    (5, Profile::Honest, |d| Action::ForJoined(d.one(), d.coin())),
    (6, Profile::Honest, |d| Action::Rename(d.one(), d.one())),
    (12, Profile::Honest, |d| Action::Gap(d.one())),
    (10, Profile::Honest, |d| Action::Paginate(d.one(), d.one())),
    (8, Profile::Faulty, |d| Action::LoseOneTimeKeys(d.one())),
    (40, Profile::Faulty, |d| Action::Kill(d.one(), d.byte() % 6, d.coin())),
    (16, Profile::Faulty, |d| Action::LosePower(d.one())),
    (14, Profile::Faulty, |d| Action::Weather(d.byte() % 4)),
    (5, Profile::Faulty, |d| Action::FarServer(d.coin())),
    (6, Profile::Faulty, |d| Action::Throttle(d.byte() % 5)),
    (6, Profile::Faulty, |d| Action::ClockAhead(d.one(), u16::from(d.byte()) * 20)),
    (90, Profile::Hostile, |d| {
        let attacks = Attack::ALL;
        let choice = usize::try_from(d.below(attacks.len() as u64)).unwrap_or(0);
        Action::Attack(attacks[choice], d.byte())
    }),
    (6, Profile::Soak, |d| Action::RollBack(d.one())),
];

/// What there is under [`Profile::Identity`] besides.
const IDENTITY_MAKERS: &[Maker] = &[
    (6, Profile::Identity, |d| Action::Bootstrap(d.one(), d.below(3) == 0)),
    (14, Profile::Identity, |d| Action::Acknowledge(d.one(), d.one())),
    (22, Profile::Identity, |d| Action::AskToVerify(d.one(), d.one())),
    (90, Profile::Identity, |d| Action::Compare(d.one())),
    (10, Profile::Identity, |d| Action::MakeBackup(d.one())),
    (16, Profile::Identity, |d| Action::Restore(d.one())),
    (20, Profile::Identity, |d| Action::ShareHistory(d.one(), d.one(), d.one())),
    (24, Profile::Identity, |d| Action::JoinWithHistory(d.one(), d.one())),
    (3, Profile::Identity, |d| Action::Copy(d.one())),
    (40, Profile::Identity, |d| Action::TakeTurns(d.one(), d.coin())),
];

fn draw(dice: &mut Dice, profile: Profile) -> Action {
    let more = if profile.has_identities() { IDENTITY_MAKERS } else { &[] };
    let makers = MAKERS.iter().filter(|(_, least, _)| profile.includes(*least));
    let known = || makers.clone().chain(more);
    let all = known().map(|(weight, ..)| weight).sum();
    let mut roll = dice.below(all);
    for (weight, _, make) in known() {
        if roll < *weight {
            return make(dice);
        }
        roll -= weight;
    }
    Action::Pass(1)
}
