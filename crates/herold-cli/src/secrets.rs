//! Where passwords and store keys come from: never from the arguments, which every process on the
//! machine can read.
//!
//! - The account's password: `--password-stdin`, `HEROLD_PASSWORD`, or a question on the terminal.
//! - The store's key: a file (`--store-key-file`, `HEROLD_STORE_KEY_FILE`) of 32 bytes, raw or as
//!   hexadecimal digits; else a passphrase from `HEROLD_STORE_PASSPHRASE` or the terminal.
//! - The store's new key: such a file (`--new-store-key-file`), `HEROLD_NEW_STORE_PASSPHRASE`, or the terminal.
//! - The recovery key, or the passphrase in its place: `--stdin`, `HEROLD_RECOVERY_KEY`, or the terminal.
//! - A key file's passphrase: `--stdin`, `HEROLD_KEYS_PASSPHRASE`, or the terminal.
//! - An older client's store: a key file (`--source-key-file`), `HEROLD_SOURCE_PASSPHRASE`, or the terminal; its access
//!   token: `--token-stdin`, `HEROLD_ACCESS_TOKEN`, or the terminal.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Read, Write},
    path::{Path, PathBuf},
};

use herold::{SecretString, StoreKey};
use zeroize::Zeroizing;

use crate::{
    args::Global,
    failure::{Failure, Kind},
};

/// The variable with the account's password.
pub const PASSWORD_VARIABLE: &str = "HEROLD_PASSWORD";
/// The variable with the store's passphrase.
pub const PASSPHRASE_VARIABLE: &str = "HEROLD_STORE_PASSPHRASE";
/// The variable with the store's new passphrase.
const NEW_PASSPHRASE_VARIABLE: &str = "HEROLD_NEW_STORE_PASSPHRASE";
/// The variable with the recovery key.
const RECOVERY_VARIABLE: &str = "HEROLD_RECOVERY_KEY";
/// The variable with a new passphrase for the secret storage.
const NEW_RECOVERY_VARIABLE: &str = "HEROLD_RECOVERY_PASSPHRASE";
/// The variable with the passphrase of a key file.
const KEYS_VARIABLE: &str = "HEROLD_KEYS_PASSPHRASE";

/// The variable with the passphrase of an older client's store.
#[cfg(feature = "migrate")]
const SOURCE_VARIABLE: &str = "HEROLD_SOURCE_PASSPHRASE";
/// The variable with an access token.
#[cfg(feature = "migrate")]
const TOKEN_VARIABLE: &str = "HEROLD_ACCESS_TOKEN";

/// The longest password or passphrase taken, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// The account's password.
///
/// # Errors
/// When there is none, or nobody to ask.
pub fn password(from_stdin: bool, question: &str) -> Result<SecretString, Failure> {
    if from_stdin {
        return first_line(io::stdin().lock());
    }
    if let Some(password) = variable(PASSWORD_VARIABLE)? {
        return Ok(password);
    }
    ask(question, "use --password-stdin or HEROLD_PASSWORD")
}

/// The recovery key, or the passphrase in its place.
///
/// # Errors
/// When there is none, or nobody to ask.
pub fn recovery_key(from_stdin: bool) -> Result<SecretString, Failure> {
    if from_stdin {
        return first_line(io::stdin().lock());
    }
    if let Some(key) = variable(RECOVERY_VARIABLE)? {
        return Ok(key);
    }
    ask("Recovery key or passphrase: ", "use --stdin or HEROLD_RECOVERY_KEY")
}

/// A new passphrase for the secret storage.
///
/// # Errors
/// When there is nobody to ask.
pub fn new_recovery_passphrase() -> Result<SecretString, Failure> {
    if let Some(passphrase) = variable(NEW_RECOVERY_VARIABLE)? {
        return Ok(passphrase);
    }
    ask_twice("New passphrase for the recovery: ", "use HEROLD_RECOVERY_PASSPHRASE")
}

/// The passphrase of a key file.
///
/// # Errors
/// When there is none, or nobody to ask.
pub fn keys_passphrase(from_stdin: bool, purpose: Purpose) -> Result<SecretString, Failure> {
    if from_stdin {
        return first_line(io::stdin().lock());
    }
    if let Some(passphrase) = variable(KEYS_VARIABLE)? {
        return Ok(passphrase);
    }
    let help = "use --stdin or HEROLD_KEYS_PASSPHRASE";
    match purpose {
        Purpose::Open => ask("Passphrase of the key file: ", help),
        Purpose::Create => ask_twice("New passphrase for the key file: ", help),
    }
}

/// The passphrase of an older client's store, if one was given without asking.
///
/// # Errors
/// When the variable cannot be read.
#[cfg(feature = "migrate")]
pub fn source_passphrase() -> Result<Option<SecretString>, Failure> {
    variable(SOURCE_VARIABLE)
}

/// Asks for the passphrase of an older client's store.
///
/// # Errors
/// When there is nobody to ask.
#[cfg(feature = "migrate")]
pub fn ask_source_passphrase() -> Result<SecretString, Failure> {
    ask("Passphrase of the old store: ", "use --source-key-file or HEROLD_SOURCE_PASSPHRASE")
}

/// An access token.
///
/// # Errors
/// When there is none, or nobody to ask.
#[cfg(feature = "migrate")]
pub fn access_token(from_stdin: bool, question: &str) -> Result<SecretString, Failure> {
    if from_stdin {
        return first_line(io::stdin().lock());
    }
    if let Some(token) = variable(TOKEN_VARIABLE)? {
        return Ok(token);
    }
    ask(question, "use --token-stdin or HEROLD_ACCESS_TOKEN")
}

/// Whether what the secret is for is there already or is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is there.
    Open,
    /// It is about to be made.
    Create,
}

/// The key of the account's store. A key file that is not there yet is made for a new store.
///
/// # Errors
/// When the file cannot be used, or there is nobody to ask.
pub fn store_key(global: &Global, purpose: Purpose) -> Result<StoreKey, Failure> {
    if let Some(path) = &global.store_key_file {
        return key_in_file(global, path, purpose);
    }
    if let Some(passphrase) = variable(PASSPHRASE_VARIABLE)? {
        return Ok(StoreKey::passphrase(passphrase));
    }
    let help = "use --store-key-file or HEROLD_STORE_PASSPHRASE";
    match purpose {
        Purpose::Open => ask("Passphrase of the store: ", help).map(StoreKey::passphrase),
        Purpose::Create => {
            ask_twice("New passphrase for the store: ", help).map(StoreKey::passphrase)
        }
    }
}

/// The key that the account's store is to have from now on. A key file that is not there yet is made.
///
/// # Errors
/// When the file cannot be used, or there is nobody to ask.
pub fn new_store_key(global: &Global, file: Option<&Path>) -> Result<StoreKey, Failure> {
    if let Some(path) = file {
        return key_in_file(global, path, Purpose::Create);
    }
    if let Some(passphrase) = variable(NEW_PASSPHRASE_VARIABLE)? {
        return Ok(StoreKey::passphrase(passphrase));
    }
    let help = "use --new-store-key-file or HEROLD_NEW_STORE_PASSPHRASE";
    ask_twice("New passphrase for the store: ", help).map(StoreKey::passphrase)
}

fn key_in_file(global: &Global, path: &Path, purpose: Purpose) -> Result<StoreKey, Failure> {
    if purpose == Purpose::Open || path.exists() {
        return Ok(StoreKey::raw(*read_key_file(path)?));
    }
    let key = create_key_file(path)?;
    if !global.quiet {
        eprintln!(
            "herold: made a new store key in {}; without it the store cannot be opened",
            path.display()
        );
    }
    Ok(StoreKey::raw(*key))
}

/// Makes a file with a new random key, readable by its owner only. It is there whole or not at all.
///
/// # Errors
/// When it exists, or cannot be written.
pub fn create_key_file(path: &Path) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let mut key = Zeroizing::new([0_u8; 32]);
    getrandom::fill(key.as_mut_slice())
        .map_err(|error| Failure::other(format!("no random bytes: {error}")))?;
    let text = Zeroizing::new(to_hex(&key));
    write_private(path, text.as_bytes())
        .map_err(|error| Failure::file("the store key", path, &error))?;
    Ok(key)
}

/// Reads a key file.
///
/// # Errors
/// When it cannot be read, others can read it too, or it does not hold a key.
pub fn read_key_file(path: &Path) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let failed = |error: &io::Error| {
        Failure::new(Kind::Usage, format!("the store key {}: {error}", path.display()))
    };
    let file = fs::File::open(path).map_err(|error| failed(&error))?;
    check_private(path, &file.metadata().map_err(|error| failed(&error))?)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    file.take(256).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    parse_key(&bytes).ok_or_else(|| {
        Failure::usage(format!(
            "{} does not hold a store key: 32 bytes, raw or as 64 hexadecimal digits",
            path.display()
        ))
    })
}

/// 32 raw bytes, or 64 hexadecimal digits with white space around them.
fn parse_key(bytes: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    if let Ok(raw) = <[u8; 32]>::try_from(bytes) {
        return Some(Zeroizing::new(raw));
    }
    let digits: &[u8; 64] = bytes.trim_ascii().try_into().ok()?;
    let (pairs, _) = digits.as_chunks::<2>();
    let mut key = Zeroizing::new([0_u8; 32]);
    for (byte, [high, low]) in key.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(key)
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn to_hex(key: &[u8; 32]) -> String {
    let mut text = String::with_capacity(65);
    for byte in key {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    text.push('\n');
    text
}

/// Writes a new file that only its owner can read, by way of a temporary one beside it.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        // The first error counts; that a half-written file stays is no worse.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    sync_folder(path)
}

/// A new name in a folder survives a power loss once the folder is on disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

#[cfg(unix)]
fn check_private(path: &Path, metadata: &fs::Metadata) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    if metadata.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "others than its owner have access to the store key {0}: chmod 600 {0}",
        path.display()
    )))
}

#[cfg(not(unix))]
fn check_private(_path: &Path, _metadata: &fs::Metadata) -> Result<(), Failure> {
    Ok(())
}

/// A secret from the environment. An empty one counts as none.
fn variable(name: &str) -> Result<Option<SecretString>, Failure> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(SecretString::new(value))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failure::usage(format!("the variable {name} is not UTF-8")))
        }
    }
}

/// The first line of `input`, without its end.
fn first_line(input: impl BufRead) -> Result<SecretString, Failure> {
    let mut line = Zeroizing::new(Vec::with_capacity(1024));
    input
        .take(MAX_SECRET)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::other(format!("standard input: {error}")))?;
    let text = line.strip_suffix(b"\n").unwrap_or(&line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    match std::str::from_utf8(text) {
        Ok("") => Err(Failure::usage("there is no secret on standard input")),
        Ok(text) => Ok(SecretString::new(text.to_owned())),
        Err(_) => Err(Failure::usage("the secret on standard input is not UTF-8")),
    }
}

/// Asks for a new passphrase, twice.
fn ask_twice(question: &str, otherwise: &str) -> Result<SecretString, Failure> {
    let passphrase = ask(question, otherwise)?;
    if passphrase != ask("The same again: ", otherwise)? {
        return Err(Failure::usage("the two passphrases differ"));
    }
    Ok(passphrase)
}

/// Asks on the terminal, without echo.
fn ask(question: &str, otherwise: &str) -> Result<SecretString, Failure> {
    let unable = || Failure::usage(format!("there is no terminal to ask on: {otherwise}"));
    if !io::stdin().is_terminal() && !has_terminal() {
        return Err(unable());
    }
    let answer = rpassword::prompt_password(question).map_err(|_| unable())?;
    if answer.is_empty() {
        return Err(Failure::usage("nothing was entered"));
    }
    Ok(SecretString::new(answer))
}

/// Whether the process has a terminal even though its standard input is something else.
fn has_terminal() -> bool {
    cfg!(unix) && fs::OpenOptions::new().read(true).write(true).open("/dev/tty").is_ok()
}

/// The folder a store is kept in unless the user says otherwise.
///
/// # Errors
/// When the system has no folder for a user's data.
pub fn default_store() -> Result<PathBuf, Failure> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = variable("HOME").map(PathBuf::from);
    let data = if cfg!(windows) {
        variable("APPDATA").map(PathBuf::from)
    } else if cfg!(target_os = "macos") {
        home.map(|home| home.join("Library/Application Support"))
    } else {
        variable("XDG_DATA_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| home.map(|home| home.join(".local/share")))
    };
    data.map(|data| data.join("herold"))
        .ok_or_else(|| Failure::usage("no folder for the store: say which with --store"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_file_is_private_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = create_key_file(&path).unwrap();
        assert_eq!(*made, *read_key_file(&path).unwrap());
        assert_ne!(*made, [0; 32]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was left behind");
    }

    #[test]
    fn a_key_file_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let first = create_key_file(&path).unwrap();
        assert!(create_key_file(&path).is_err());
        assert_eq!(*first, *read_key_file(&path).unwrap());
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        create_key_file(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(read_key_file(&path).is_err(), "{mode:o}");
        }
    }

    #[test]
    fn keys_are_raw_bytes_or_hexadecimal_digits() {
        assert_eq!(*parse_key(&[0x61; 32]).unwrap(), [0x61; 32]);
        let text = format!("  {}\r\n", "0fF0".repeat(16));
        assert_eq!(parse_key(text.as_bytes()).unwrap()[..4], [0x0f, 0xf0, 0x0f, 0xf0]);
        for bad in ["", "00", &"g0".repeat(32), &"0".repeat(63), &"0".repeat(65), &"+1".repeat(32)]
        {
            assert!(parse_key(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_bad_key_file_is_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, b"almost-a-secret").unwrap();
        let error = read_key_file(&path).unwrap_err().to_string();
        assert!(!error.contains("almost-a-secret"), "{error}");
    }

    #[test]
    fn the_password_is_the_first_line() {
        for (input, password) in
            [("one\ntwo\n", "one"), ("one\r\n", "one"), ("one", "one"), (" one \n", " one ")]
        {
            assert_eq!(first_line(input.as_bytes()).unwrap().as_str(), password);
        }
        assert!(first_line(&b"\nsecond"[..]).is_err());
        assert!(first_line(&b""[..]).is_err());
        assert!(first_line(&b"\xff\n"[..]).is_err());
    }
}
