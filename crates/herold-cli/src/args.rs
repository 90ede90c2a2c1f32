//! The command line. What it takes is never a secret: passwords, passphrases and store keys come from
//! the terminal, from standard input, from a file or from the environment (see [`crate::secrets`]),
//! because any process on the machine can read another's arguments.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use herold::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId};

const AFTER_HELP: &str = "\
Examples:
  herold login --homeserver https://matrix.example.org alice
  herold create-room --direct --invite @bob:example.org
  herold send '!room:example.org' 'Good morning'
  herold listen

See 'herold --help' for secrets, exit codes and scripting.";

const AFTER_LONG_HELP: &str = "\
Secrets:
  No option takes a password or a key. They are asked for on the terminal, without echo, or come from

    the password          --password-stdin (the first line of standard input), or $HEROLD_PASSWORD
    the store's key       --store-key-file FILE, or $HEROLD_STORE_KEY_FILE: 32 bytes, raw or as 64
                          hexadecimal digits, readable by its owner only
    the store's           $HEROLD_STORE_PASSPHRASE, if there is no key file
      passphrase
    the store's new key   --new-store-key-file FILE or $HEROLD_NEW_STORE_PASSPHRASE, of 'store rekey'
    the recovery key      --stdin of 'recovery recover', or $HEROLD_RECOVERY_KEY; the passphrase that
                          'recovery enable --passphrase' asks for is taken in its place
                          (or $HEROLD_RECOVERY_PASSPHRASE, when it is made)
    a key file's          --stdin of 'keys export' and 'keys import', or $HEROLD_KEYS_PASSPHRASE
      passphrase
    an old client's store --source-key-file of 'migrate' (as the store's key), or
                          $HEROLD_SOURCE_PASSPHRASE
    its access token      --token-stdin of 'migrate', or $HEROLD_ACCESS_TOKEN

  'recovery enable', 'reset' and 'change-key' print the new recovery key, once; nothing else prints a secret.
  'login' and 'store rekey' with a key file that does not exist yet make one.

Environment:
  HEROLD_STORE            the store's folder, as --store
  HEROLD_LOG              what is logged on standard error: off, error, warn (default), info, debug,
                          trace; never secrets, never the text of messages

Exit codes:
  0  done                                  5  a key or passphrase is wrong
  1  failed                                6  the server refused
  2  wrong arguments                       7  no answer: the network, or time ran out
  3  not logged in                         8  the deployment's policy forbids it
  4  another process uses the store        9  this build does not have the command

Scripting:
  With --json each answer is one JSON object per line on standard output. Progress and errors go to
  standard error. One process at a time can use a store: a second one ends with exit code 4.

Examples:
  herold login --homeserver https://matrix.example.org alice
  herold create-room --direct --invite @bob:example.org
  herold send '!room:example.org' 'Good morning'
  herold send-file '!room:example.org' minutes.pdf
  herold history '!room:example.org' --limit 20
  herold --json listen | jq -r .body
  herold inspect";

/// An end-to-end-encrypted Matrix client for the terminal.
#[derive(Parser, Debug)]
#[command(name = "herold", version, after_help = AFTER_HELP, after_long_help = AFTER_LONG_HELP)]
#[command(propagate_version = true, max_term_width = 100)]
pub struct Args {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Options of all commands")]
pub struct Global {
    /// The folder of the account's store [default: 'herold' in the user's data folder]
    #[arg(long, short, global = true, value_name = "DIR", env = "HEROLD_STORE")]
    #[arg(hide_env_values = true)]
    pub store: Option<PathBuf>,

    /// The file that holds the store's key; without it the passphrase is asked for
    #[arg(long, global = true, value_name = "FILE", env = "HEROLD_STORE_KEY_FILE")]
    #[arg(hide_env_values = true)]
    pub store_key_file: Option<PathBuf>,

    /// Answer with one JSON object per line
    #[arg(long, global = true)]
    pub json: bool,

    /// No progress on standard error
    #[arg(long, short, global = true)]
    pub quiet: bool,

    /// How long to wait for the server at each step
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 120)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Log in with a password, as a new device
    Login(Login),
    /// Take an account over from an older client (matrix-sdk-crypto): the same device goes on here
    Migrate(Migrate),
    /// End the session on the server; the store stays, and stays readable
    Logout(Logout),
    /// List the rooms
    Rooms(Rooms),
    /// Make a room, encrypted unless said otherwise
    CreateRoom(CreateRoom),
    /// Join a room one is invited to
    Join(Join),
    /// Invite a user to a room
    Invite(Invite),
    /// Leave a room, or reject its invitation
    Leave(RoomOnly),
    /// Forget a room that was left, here and on the server: its keys, messages and members
    Forget(RoomOnly),
    /// Remove a user from a room
    Kick(RoomUser),
    /// List the members of a room
    Members(Members),
    /// Send a text message
    Send(Send),
    /// Send a file
    SendFile(SendFile),
    /// Save the file of a message
    Download(Download),
    /// Print messages as they come, until interrupted
    Listen(Listen),
    /// Print the last messages of a room
    History(History),
    /// List the devices of a user, and remove or block one
    Devices(Devices),
    /// Set up what lets a new device in: the identity, the key backup, the secret storage
    #[command(subcommand)]
    Recovery(Recovery),
    /// Keep a mailbox on the server for what is said while none of your devices is there
    #[command(subcommand)]
    Dehydration(Dehydration),
    /// Verify another user or an own device, by comparing emoji or with a QR code
    Verify(Verify),
    /// Write the room keys into a file, or take them out of one
    #[command(subcommand)]
    Keys(Keys),
    /// Look at the key backup on the server, or restore the room keys from it
    #[command(subcommand)]
    Backup(Backup),
    /// Look after the store: forget what is old, encrypt it anew
    #[command(subcommand)]
    Store(Store),
    /// Show what is in the store: counts, sizes and states, never secrets or messages
    Inspect(Inspect),
    /// Serve JSON lines on standard input and output, for tests (conformance peer protocol 1)
    ///
    /// For test runners, not for people: the store's key is kept beside the store, in the file
    /// 'rpc.key', so whoever can read the folder can read the store.
    Rpc,
}

/// `herold login`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
The password is asked for on the terminal unless --password-stdin or $HEROLD_PASSWORD gives it.

Examples:
  herold login --homeserver https://matrix.example.org alice
  herold --store-key-file ~/.herold.key login --homeserver https://matrix.example.org alice
  pass show matrix | herold login --homeserver https://matrix.example.org --password-stdin alice")]
pub struct Login {
    /// The user: the whole id or the part before the colon
    pub user: String,

    /// The base URL of the homeserver
    #[arg(long, value_name = "URL")]
    pub homeserver: String,

    /// The name the server shows for the new device
    #[arg(long, value_name = "NAME")]
    pub device_name: Option<String>,

    /// Read the password from the first line of standard input
    #[arg(long)]
    pub password_stdin: bool,

    #[command(flatten)]
    pub device: NewDevice,
}

/// `herold migrate`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
The old client must not be started again afterwards, not even once: it and this one would each use up
what the other needs, and messages would be lost to both. Its store is only read.

Not in every build: 'cargo build -p herold-cli --features migrate'.

Examples:
  herold migrate --from ~/.local/share/old-client/crypto --dry-run
  herold migrate --from ~/.local/share/old-client/crypto --homeserver https://matrix.example.org")]
pub struct Migrate {
    /// The folder with the old client's matrix-sdk-crypto.sqlite3
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,

    /// The base URL of the homeserver; not needed for a dry run
    #[arg(long, value_name = "URL")]
    pub homeserver: Option<String>,

    /// Say what would be taken over, and write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// The file that holds the old store's key; without it its passphrase is asked for
    #[arg(long, value_name = "FILE", env = "HEROLD_SOURCE_KEY_FILE", hide_env_values = true)]
    pub source_key_file: Option<PathBuf>,

    /// Read the device's access token from the first line of standard input
    #[arg(long)]
    pub token_stdin: bool,

    #[command(flatten)]
    pub device: NewDevice,
}

/// How a device is set up for good.
#[derive(clap::Args, Debug)]
pub struct NewDevice {
    /// How to synchronise: 'sliding' needs a server with simplified sliding sync (MSC4186)
    #[arg(long, value_name = "KIND", value_enum, default_value = "v2")]
    pub sync: SyncArg,

    /// Who is given room keys
    #[arg(long, value_enum, default_value_t = RecipientsArg::AllDevices)]
    pub recipients: RecipientsArg,

    /// Whose messages are shown
    #[arg(long, value_enum, default_value_t = DecryptTrustArg::Any)]
    pub decrypt_trust: DecryptTrustArg,

    /// Allow http:// to other machines: everything but the messages can then be read on the way
    #[arg(long)]
    pub allow_insecure_http: bool,
}

/// How a device synchronises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SyncArg {
    /// `/sync`, which every server has
    V2,
    /// Simplified sliding sync
    Sliding,
}

/// Who is given room keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecipientsArg {
    /// Every device that is not blocked
    AllDevices,
    /// Devices their owner has cross-signed
    IdentityBased,
    /// The same; a week after a member's other device was seen, nothing is sent to the room
    IdentityBasedThenStrict,
    /// Cross-signed devices of verified users
    OnlyTrusted,
}

/// Whose messages are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DecryptTrustArg {
    /// Everybody's, with a mark where the sender is uncertain
    Any,
    /// Those from cross-signed devices, and of users who have no cross-signing
    CrossSignedOrLegacy,
    /// Those from cross-signed devices only
    CrossSigned,
}

/// `herold logout`
#[derive(clap::Args, Debug)]
pub struct Logout {}

/// `herold rooms`
#[derive(clap::Args, Debug)]
pub struct Rooms {
    /// Show what the store has, without asking the server
    #[arg(long)]
    pub offline: bool,

    /// Rooms one has left, too
    #[arg(long)]
    pub all: bool,
}

/// `herold create-room`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  herold create-room --direct --invite @bob:example.org
  herold create-room --name Council --invite @bob:example.org --invite @carol:example.org")]
pub struct CreateRoom {
    /// The room's name. Names are not encrypted
    #[arg(long)]
    pub name: Option<String>,

    /// A user to invite; may be given again
    #[arg(long, value_name = "USER")]
    pub invite: Vec<OwnedUserId>,

    /// A direct chat with the one user invited
    #[arg(long)]
    pub direct: bool,

    /// Do not encrypt the room. It can be encrypted later, but never back
    #[arg(long)]
    pub unencrypted: bool,

    /// Use a new room key after this many messages
    #[arg(long, value_name = "MESSAGES")]
    pub rotation_messages: Option<u64>,

    /// Who can read messages from before they joined
    #[arg(long, value_enum, default_value_t = VisibilityArg::Shared)]
    pub history: VisibilityArg,
}

/// Who can read a room's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VisibilityArg {
    /// Members, all of it
    Shared,
    /// Members, from their invitation on
    Invited,
    /// Members, from their joining on
    Joined,
}

/// Commands on a room.
#[derive(clap::Args, Debug)]
pub struct RoomOnly {
    /// The room's id (!...)
    pub room: OwnedRoomId,
}

/// Commands on a user in a room.
#[derive(clap::Args, Debug)]
pub struct RoomUser {
    /// The room's id (!...)
    pub room: OwnedRoomId,

    /// The user's id (@...:...)
    pub user: OwnedUserId,
}

/// `herold join`
#[derive(clap::Args, Debug)]
pub struct Join {
    /// The room's id (!...)
    pub room: OwnedRoomId,

    /// Do not take the keys of older messages, should the inviter share them
    #[arg(long)]
    pub no_history: bool,
}

/// `herold invite`
#[derive(clap::Args, Debug)]
pub struct Invite {
    /// The room's id (!...)
    pub room: OwnedRoomId,

    /// The user's id (@...:...)
    pub user: OwnedUserId,

    /// Share the keys of older messages, where those who wrote them allow it
    #[arg(long)]
    pub share_history: bool,
}

/// `herold members`
#[derive(clap::Args, Debug)]
pub struct Members {
    /// The room's id (!...)
    pub room: OwnedRoomId,

    /// Members who left or were banned, too
    #[arg(long)]
    pub all: bool,
}

/// `herold send`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  herold send '!room:example.org' 'Good morning'
  date | herold send '!room:example.org'")]
pub struct Send {
    /// The room's id (!...)
    pub room: OwnedRoomId,

    /// The text; read from standard input if it is not given
    pub text: Option<String>,

    /// As a notice, the way bots speak
    #[arg(long)]
    pub notice: bool,

    /// Put it into the store's send queue and end, without waiting for the server
    #[arg(long)]
    pub queue: bool,
}

/// `herold send-file`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  herold send-file '!room:example.org' scan.tif --name minutes.tif --mimetype image/tiff")]
pub struct SendFile {
    /// The room's id (!...)
    pub room: OwnedRoomId,

    /// The file
    pub file: PathBuf,

    /// The name the others see [default: the file's own]
    #[arg(long)]
    pub name: Option<String>,

    /// The media type [default: by the name's ending]
    #[arg(long, value_name = "TYPE/SUBTYPE")]
    pub mimetype: Option<String>,
}

/// `herold download`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Without --output the file is saved in the current folder, under the sender's name for it with
everything but its last part cut off, and never over a file that is there.

Example:
  herold download '!room:example.org' '$event' --output minutes.pdf")]
pub struct Download {
    /// The room's id (!...)
    pub room: OwnedRoomId,

    /// The message's event id ($...)
    pub event: OwnedEventId,

    /// Where to save it; '-' is standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
}

/// `herold listen`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
What came since 'listen' last ran is printed first: each message counts as taken only after it was
printed.

Examples:
  herold listen --room '!room:example.org'
  herold --json listen --count 1")]
pub struct Listen {
    /// Only this room; what comes in others is passed over, and stays in their history
    #[arg(long, value_name = "ROOM")]
    pub room: Option<OwnedRoomId>,

    /// End after this many lines
    #[arg(long)]
    pub count: Option<u64>,

    /// End after this long
    #[arg(long = "for", value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    pub seconds: Option<u64>,
}

/// `herold history`
#[derive(clap::Args, Debug)]
pub struct History {
    /// The room's id (!...)
    pub room: OwnedRoomId,

    /// How many events, the newest last
    #[arg(long, default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,

    /// Show what the store has, without asking the server
    #[arg(long)]
    pub offline: bool,

    /// Events that are no messages, too
    #[arg(long)]
    pub all: bool,
}

/// `herold devices`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Compare a device's key with what its owner reads out from theirs: if they differ, somebody is in
between.

Examples:
  herold devices
  herold devices @bob:example.org
  herold devices @bob:example.org --block ABCDEFGH
  herold devices --delete OLDPHONE")]
pub struct Devices {
    /// The user [default: oneself]
    pub user: Option<OwnedUserId>,

    /// Give this device no more room keys
    #[arg(long, value_name = "DEVICE", conflicts_with_all = ["unblock", "delete"])]
    pub block: Option<OwnedDeviceId>,

    /// Give this device room keys again
    #[arg(long, value_name = "DEVICE", conflicts_with = "delete")]
    pub unblock: Option<OwnedDeviceId>,

    /// Remove this device of one's own account from the server; asks for the password
    #[arg(long, value_name = "DEVICE", conflicts_with = "user")]
    pub delete: Option<OwnedDeviceId>,

    /// Read the password from the first line of standard input
    #[arg(long, requires = "delete")]
    pub password_stdin: bool,
}

/// `herold recovery`
#[derive(Subcommand, Debug)]
pub enum Recovery {
    /// Say whether recovery is set up, and whether this device has all of it
    Status,
    /// Make what is missing of it, and a new recovery key, which is printed once
    Enable(EnableRecovery),
    /// Open it with the recovery key or the passphrase, and restore the room keys
    Recover(Recover),
    /// Replace all of it: others have to verify anew, and what only the old backup had is lost
    Reset(ResetRecovery),
    /// Give it another recovery key, or another passphrase; the old one opens nothing any more
    ChangeKey(ChangeKey),
}

/// `herold recovery enable`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
The account's password is asked for unless --password-stdin or $HEROLD_PASSWORD gives it.

Examples:
  herold recovery enable
  herold recovery enable --passphrase")]
pub struct EnableRecovery {
    /// Ask for a passphrase that opens it, too, beside the recovery key
    #[arg(long)]
    pub passphrase: bool,

    /// Read the account's password from the first line of standard input
    #[arg(long)]
    pub password_stdin: bool,
}

/// `herold recovery reset`
#[derive(clap::Args, Debug)]
pub struct ResetRecovery {
    /// What is asked for
    #[command(flatten)]
    pub enable: EnableRecovery,

    /// Do not ask whether it is meant
    #[arg(long)]
    pub yes: bool,
}

/// `herold recovery change-key`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Everything is put under the new key before it takes the old one's place. Cut short, one of the two opens all
of it, and the same command goes on. The old key is asked for unless --stdin or $HEROLD_RECOVERY_KEY gives it.")]
pub struct ChangeKey {
    /// Ask for a passphrase that opens it, too, beside the recovery key
    #[arg(long)]
    pub passphrase: bool,

    /// Read the old recovery key or passphrase from standard input
    #[arg(long)]
    pub stdin: bool,
}

/// `herold recovery recover`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
The recovery key or the passphrase is asked for unless --stdin or $HEROLD_RECOVERY_KEY gives it.")]
pub struct Recover {
    /// Read it from the first line of standard input
    #[arg(long)]
    pub stdin: bool,
}

/// `herold dehydration`
#[derive(Subcommand, Debug)]
pub enum Dehydration {
    /// Say whether there is one, and whether this device keeps it
    Status,
    /// Make one, after taking what was sent to the one that is there; it is replaced once a week
    Start(StartDehydration),
    /// Remove it, with what was sent to it
    Stop,
}

/// `herold dehydration start`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Its key is kept in the secret storage, which the recovery key or its passphrase opens. They are asked
for, unless --stdin or $HEROLD_RECOVERY_KEY gives one, or the key is on this device already.

Whoever has a new device and the recovery key reads there what was said in between: 'herold recovery
recover' takes it.")]
pub struct StartDehydration {
    /// Read it from the first line of standard input
    #[arg(long)]
    pub stdin: bool,
}

/// `herold verify`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Both sides have to be there: one asks, the other takes part with --accept. Then both show seven emoji,
named in the language of $LANG if there are names in it, and three numbers. Compare them by another
way than this chat. Questions are answered on standard input, with yes or no.

--qr shows a QR code for the other device to scan. --scan FILE is the other side of that. There is no
camera here: FILE holds the bytes of the code, not a picture of it, and is waited for until it is there.

Examples:
  herold verify @bob:example.org --room '!room:example.org'
  herold verify @me:example.org --device NEWPHONE
  herold verify --accept
  herold verify --accept --qr")]
pub struct Verify {
    /// Whom to verify; with --accept, whose request to wait for [default with --accept: anybody's]
    #[arg(required_unless_present = "accept")]
    pub user: Option<OwnedUserId>,

    /// Ask this device of the user only
    #[arg(long, value_name = "DEVICE", conflicts_with_all = ["room", "accept"])]
    pub device: Option<OwnedDeviceId>,

    /// Ask in this room instead of by messages to the user's devices
    #[arg(long, value_name = "ROOM", conflicts_with = "accept")]
    pub room: Option<OwnedRoomId>,

    /// Wait for a request of the other side and take part in it
    #[arg(long)]
    pub accept: bool,

    /// Show a QR code for the other side to scan
    #[arg(long, conflicts_with = "scan")]
    pub qr: bool,

    /// Take the bytes of the code that the other side shows from this file
    #[arg(long, value_name = "FILE")]
    pub scan: Option<PathBuf>,
}

/// `herold keys`
#[derive(Subcommand, Debug)]
pub enum Keys {
    /// Write every room key into a new file, under a passphrase
    Export(KeyFile),
    /// Take every room key out of a file, of this or another client
    Import(KeyFile),
}

/// `herold keys export` and `herold keys import`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
The file's passphrase is asked for unless --stdin or $HEROLD_KEYS_PASSPHRASE gives it.")]
pub struct KeyFile {
    /// The file
    pub file: PathBuf,

    /// Read the passphrase from the first line of standard input
    #[arg(long)]
    pub stdin: bool,
}

/// `herold backup`
#[derive(Subcommand, Debug)]
pub enum Backup {
    /// Say whether room keys go to the backup, and how many are still to go
    Status,
    /// Fetch every room key that is in the backup
    Restore,
}

/// `herold store`
#[derive(Subcommand, Debug)]
pub enum Store {
    /// Encrypt the whole store anew, under a new key file or passphrase
    Rekey(Rekey),
    /// Forget room keys and messages by their age
    Clean(Clean),
}

/// `herold store clean`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
What is forgotten is gone from this device for good; the backup on the server keeps its room keys. Keys
that the backup is still to be given stay. Look first with --dry-run.

Examples:
  herold store clean --keys-older-than 365 --dry-run
  herold store clean --room '!room:example.org' --messages-older-than 30
  herold store clean --keys-forward-after 7")]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args([
    "keys_older_than", "messages_older_than", "keys_forward_after", "sessions_unused_for",
])))]
pub struct Clean {
    /// In this room alone
    #[arg(long, value_name = "ROOM", conflicts_with = "sessions_unused_for")]
    pub room: Option<OwnedRoomId>,

    /// Room keys received longer ago
    #[arg(long, value_name = "DAYS")]
    pub keys_older_than: Option<u16>,

    /// Messages sent longer ago, as their server says
    #[arg(long, value_name = "DAYS")]
    pub messages_older_than: Option<u16>,

    /// Move room keys received longer ago on behind what they have decrypted
    #[arg(long, value_name = "DAYS")]
    pub keys_forward_after: Option<u16>,

    /// Channels to devices that were not used for longer; the newest to each stays
    #[arg(long, value_name = "DAYS")]
    pub sessions_unused_for: Option<u16>,

    /// Only say how much it would be
    #[arg(long)]
    pub dry_run: bool,
}

/// `herold store rekey`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Whoever has the old key and copies of the old files can read those, but nothing that is written from
now on. It needs as much room again as the store takes. Whenever it is interrupted, the store is whole,
under the old key or the new one.

The new passphrase is asked for unless a key file or $HEROLD_NEW_STORE_PASSPHRASE gives the new key.

Examples:
  herold store rekey
  herold --store-key-file ~/.herold.key store rekey --new-store-key-file ~/.herold-2.key")]
pub struct Rekey {
    /// The file with the new key; made if it is not there yet
    #[arg(long, value_name = "FILE")]
    pub new_store_key_file: Option<PathBuf>,
}

/// `herold inspect`
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Nothing it shows is secret, but it names the account: look before passing it on. A report does not: it
has counts, ages and states, and names no user, device, room, server or key.

Examples:
  herold inspect --check
  herold inspect --check --report for-the-developers.json
  herold --json inspect | jq .tables")]
pub struct Inspect {
    /// Read the whole store and authenticate every page of it
    #[arg(long)]
    pub check: bool,

    /// Write a report for the developers into a new file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    /// Every argument of a command and of those below it, with the command's name.
    fn arguments(command: &clap::Command) -> Vec<(String, clap::Arg)> {
        let name = command.get_name().to_owned();
        let own = command.get_arguments().map(|argument| (name.clone(), argument.clone()));
        own.chain(command.get_subcommands().flat_map(arguments)).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn no_argument_takes_a_secret() {
        const WORDS: [&str; 9] =
            ["pass", "secret", "key", "token", "pin", "credential", "phrase", "recovery", "auth"];
        let mut seen = 0;
        for (command, argument) in arguments(&Args::command()) {
            seen += 1;
            let names = [
                Some(argument.get_id().to_string()),
                argument.get_long().map(str::to_owned),
                argument.get_value_names().map(|names| {
                    names.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>().join(" ")
                }),
            ];
            let sensitive = names
                .iter()
                .flatten()
                .any(|name| WORDS.iter().any(|word| name.to_lowercase().contains(word)));
            if !sensitive || !argument.get_action().takes_values() {
                continue;
            }
            // The only arguments with such a name: where a key is, not what it is.
            let long = argument.get_long().unwrap_or_default();
            if ["keys-older-than", "keys-forward-after"].contains(&long) {
                assert_eq!(argument.get_value_names().unwrap(), ["DAYS"]);
                continue;
            }
            let files = ["store-key-file", "new-store-key-file", "source-key-file"];
            assert!(files.contains(&long), "{long} of {command}");
            assert_eq!(argument.get_value_names().unwrap(), ["FILE"]);
        }
        assert!(seen > 40, "only {seen} arguments were looked at");
    }

    #[test]
    fn no_environment_variable_with_a_secret_is_an_argument() {
        // clap would print its value in error messages.
        let variables: Vec<_> = arguments(&Args::command())
            .into_iter()
            .filter_map(|(_, argument)| argument.get_env().map(|name| name.to_owned()))
            .collect();
        // Where something is, not what it is.
        let places = ["HEROLD_STORE", "HEROLD_STORE_KEY_FILE", "HEROLD_SOURCE_KEY_FILE"];
        assert!(variables.iter().all(|name| places.iter().any(|place| name == place)));
    }

    #[test]
    fn a_password_in_the_arguments_is_refused() {
        for line in [
            vec!["herold", "login", "--homeserver", "https://h", "--password", "x", "alice"],
            vec!["herold", "login", "--homeserver", "https://h", "--password-stdin=x", "alice"],
            vec!["herold", "login", "--homeserver", "https://h", "alice", "x"],
            vec!["herold", "--store-key", "00", "rooms"],
            vec!["herold", "--store-passphrase", "x", "rooms"],
            vec!["herold", "devices", "--delete", "DEVICE", "--password", "x"],
            vec!["herold", "recovery", "enable", "--passphrase", "x"],
            vec!["herold", "recovery", "enable", "--passphrase=x"],
            vec!["herold", "recovery", "recover", "x"],
            vec!["herold", "recovery", "change-key", "x"],
            vec!["herold", "recovery", "recover", "--stdin", "x"],
            vec!["herold", "keys", "export", "file", "x"],
            vec!["herold", "keys", "import", "file", "--stdin=x"],
        ] {
            assert!(Args::try_parse_from(&line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn global_options_go_before_and_behind_the_command() {
        for line in [
            ["herold", "--json", "--store", "folder", "rooms"],
            ["herold", "rooms", "--json", "--store", "folder"],
        ] {
            let args = Args::try_parse_from(line).unwrap();
            assert!(args.global.json);
            assert_eq!(args.global.store, Some(PathBuf::from("folder")));
        }
    }

    #[test]
    fn identifiers_are_checked() {
        assert!(Args::try_parse_from(["herold", "join", "!room:example.org"]).is_ok());
        assert!(Args::try_parse_from(["herold", "join", "#room:example.org"]).is_err());
        assert!(Args::try_parse_from(["herold", "invite", "!room:example.org", "bob"]).is_err());
        assert!(
            Args::try_parse_from(["herold", "download", "!room:example.org", "event"]).is_err()
        );
    }

    #[test]
    fn only_one_thing_is_done_to_a_device_at_a_time() {
        let line = ["herold", "devices", "@bob:example.org", "--block", "A", "--unblock", "B"];
        assert!(Args::try_parse_from(line).is_err());
        let line = ["herold", "devices", "@bob:example.org", "--delete", "A"];
        assert!(Args::try_parse_from(line).is_err());
        let line = ["herold", "devices", "--delete", "A", "--password-stdin"];
        assert!(Args::try_parse_from(line).is_ok());
    }

    #[test]
    fn a_verification_is_asked_for_or_accepted() {
        let parses =
            |words: &[&str]| Args::try_parse_from(["herold", "verify"].iter().chain(words)).is_ok();
        let (user, room) = ("@bob:example.org", "!room:example.org");
        assert!(parses(&[user]) && parses(&[user, "--device", "D"]));
        assert!(parses(&[user, "--room", room, "--qr"]) && parses(&["--accept", user]));
        assert!(parses(&["--accept"]) && parses(&["--accept", "--scan", "code"]));
        assert!(!parses(&[]) && !parses(&["--qr"]) && !parses(&["--accept", "--device", "D"]));
        assert!(!parses(&[user, "--device", "D", "--room", room]));
        assert!(!parses(&[user, "--qr", "--scan", "code"]));
    }

    fn says_what_it_does(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {argument}", command.get_name());
        }
        command.get_subcommands().for_each(says_what_it_does);
    }

    #[test]
    fn every_command_says_what_it_does() {
        Args::command().get_subcommands().for_each(says_what_it_does);
    }
}
