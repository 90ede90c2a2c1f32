//! Whole conversations from a seed: users, devices and two homeservers, faults and attacks, in virtual
//! time, watched by the oracle and compared with a reference model of who may read what.
//!
//! [`schedule`] makes the [`Action`]s of a seed, [`run`] plays them, lets the world heal, and says what is
//! wrong. The same seed and schedule do the same, byte by byte, where vodozemac's randomness is seeded too
//! (`cargo xtask sim` builds so).

mod action;
mod attack;
mod check;
mod finale;
mod identity;
mod model;
mod play;
mod shrink;

pub use action::{Action, schedule};
pub use attack::Attack;
pub use play::{run, run_with_kill};
pub use shrink::shrink;

/// How wicked the world is. Each of the first four has everything of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Nothing fails; people come and go.
    Honest,
    /// Requests and answers are lost, processes and power die.
    Faulty,
    /// The homeserver, a member and a device do what they must not.
    Hostile,
    /// Disks are put back as well; what that makes unreadable is not counted.
    Soak,
    /// As [`Profile::Faulty`], with identities that the devices make and replace themselves, verification, key backup,
    /// shared history, copies of stores, and two processes on one store.
    Identity,
}

impl Profile {
    /// Whether everything that happens under `other` happens under this one.
    const fn includes(self, other: Self) -> bool {
        self.level() >= other.level()
    }

    const fn level(self) -> u8 {
        match self {
            Self::Honest => 0,
            Self::Faulty | Self::Identity => 1,
            Self::Hostile => 2,
            Self::Soak => 3,
        }
    }

    /// Whether the devices have identities of their own making.
    const fn has_identities(self) -> bool {
        matches!(self, Self::Identity)
    }

    /// The profile of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "honest" => Some(Self::Honest),
            "faulty" => Some(Self::Faulty),
            "hostile" => Some(Self::Hostile),
            "soak" => Some(Self::Soak),
            "identity" => Some(Self::Identity),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::Faulty => "faulty",
            Self::Hostile => "hostile",
            Self::Soak => "soak",
            Self::Identity => "identity",
        }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Actions played.
    pub steps: u64,
    /// Commits of all devices.
    pub commits: u64,
    /// Processes that died at a commit, and power losses.
    pub deaths: u64,
    /// Exchanges that went wrong in one way or another.
    pub faults: u64,
    /// Attacks that were made.
    pub attacks: u64,
    /// Requests that the oracle looked at.
    pub requests: u64,
    /// Messages sent.
    pub messages: u64,
    /// (Message, device) that had to be readable in the end, and were.
    pub read: u64,
    /// (Message, device) that must not be readable, and were not.
    pub unread: u64,
    /// (Message, device) that nobody promised either way, and whether they were readable.
    pub open: (u64, u64),
    /// Commits that were made a process's last, each in a run of its own.
    pub kills: u64,
    /// Rooms' histories that were shared with somebody.
    pub shared: u64,
    /// (Device, other user) verified in the end.
    pub verified: u64,
    /// Messages that a new device had to read out of the backup, and did.
    pub restored: u64,
    /// A number that two equal runs have in common: of all that went to the server.
    pub trace: u64,
}

impl Report {
    /// Adds another run's numbers.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.commits += other.commits;
        self.deaths += other.deaths;
        self.faults += other.faults;
        self.attacks += other.attacks;
        self.requests += other.requests;
        self.messages += other.messages;
        self.read += other.read;
        self.unread += other.unread;
        self.open = (self.open.0 + other.open.0, self.open.1 + other.open.1);
        self.kills += other.kills;
        self.shared += other.shared;
        self.verified += other.verified;
        self.restored += other.restored;
        self.trace ^= other.trace.rotate_left(1);
    }
}
