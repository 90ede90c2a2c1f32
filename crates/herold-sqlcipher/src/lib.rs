//! SQLCipher's ciphers out of the crates that everything else here uses, instead of OpenSSL.
//!
//! SQLCipher leaves its algorithms to a *provider*, a table of functions, and brings one that asks OpenSSL. OpenSSL's start
//! is half of what opening a store costs, and it allocates and looks algorithms up by their names for every page. The
//! provider here does the same on the same bytes by RustCrypto's AES, SHA-2, HMAC and PBKDF2: a database is the same
//! with either, and the tests compare the two.
//!
//! The table is one for the whole process: other parts of an app that use the same SQLCipher get it, too.
//!
//! This is the only crate of the store with unsafe code: the calling convention of the table, and nothing else. What a
//! function does with the bytes is in `cipher`, which has none.

mod cipher;
#[cfg(test)]
mod tests;

use std::{
    alloc::{Layout, handle_alloc_error},
    cell::UnsafeCell,
    ffi::{CStr, c_char, c_int, c_uchar, c_void},
    fmt, ptr, slice,
    sync::{Mutex, PoisonError},
};

use libsqlite3_sys as ffi;

use cipher::{BLOCK, Hash, KEY, Mode};

const NAME: &CStr = c"rustcrypto";
const VERSION: &CStr = c"1";
const CIPHER: &CStr = c"AES-256-CBC";

/// The SQLite inside the SQLCipher whose table this is: 4.19.0. Another SQLCipher may have another table.
const KNOWN: c_int = 3_053_004;

/// The table, as SQLCipher declares it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Provider {
    init: Option<unsafe extern "C" fn() -> c_int>,
    shutdown: Option<unsafe extern "C" fn()>,
    get_provider_name: Option<unsafe extern "C" fn(*mut c_void) -> *const c_char>,
    add_random: Option<unsafe extern "C" fn(*mut c_void, *const c_void, c_int) -> c_int>,
    random: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> c_int>,
    hmac: Option<HmacFn>,
    kdf: Option<KdfFn>,
    cipher: Option<CipherFn>,
    get_cipher: Option<unsafe extern "C" fn(*mut c_void) -> *const c_char>,
    get_key_sz: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    get_iv_sz: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    get_block_sz: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    get_hmac_sz: Option<unsafe extern "C" fn(*mut c_void, c_int) -> c_int>,
    ctx_init: Option<unsafe extern "C" fn(*mut *mut c_void) -> c_int>,
    ctx_free: Option<unsafe extern "C" fn(*mut *mut c_void) -> c_int>,
    fips_status: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    get_provider_version: Option<unsafe extern "C" fn(*mut c_void) -> *const c_char>,
    /// The one that was registered before.
    next: *mut Provider,
}

/// context, algorithm, key, its length, first part, its length, second part (or null), its length, out
type HmacFn = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    *const c_uchar,
    c_int,
    *const c_uchar,
    c_int,
    *const c_uchar,
    c_int,
    *mut c_uchar,
) -> c_int;

/// context, algorithm, passphrase, its length, salt, its length, rounds, length of the key, out
type KdfFn = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    *const c_uchar,
    c_int,
    *const c_uchar,
    c_int,
    c_int,
    c_int,
    *mut c_uchar,
) -> c_int;

/// context, mode, key, its length, initialization vector, in, its length, out
type CipherFn = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    *const c_uchar,
    c_int,
    *const c_uchar,
    *const c_uchar,
    c_int,
    *mut c_uchar,
) -> c_int;

unsafe extern "C" {
    fn sqlcipher_malloc(size: u64) -> *mut c_void;
    fn sqlcipher_register_provider(provider: *mut Provider) -> c_int;
    fn sqlcipher_get_provider() -> *mut Provider;
    fn sqlcipher_extra_init(unused: *const c_char) -> c_int;
    fn sqlcipher_openssl_setup(provider: *mut Provider) -> c_int;
}

const PROVIDER: Provider = Provider {
    init: None,
    shutdown: None,
    get_provider_name: Some(name),
    add_random: Some(add_random),
    random: Some(random),
    hmac: Some(hmac),
    kdf: Some(kdf),
    cipher: Some(cipher),
    get_cipher: Some(cipher_name),
    get_key_sz: Some(key_size),
    get_iv_sz: Some(block_size),
    get_block_sz: Some(block_size),
    get_hmac_sz: Some(hmac_size),
    ctx_init: Some(context),
    ctx_free: Some(context),
    fips_status: Some(fips_status),
    get_provider_version: Some(version),
    next: ptr::null_mut(),
};

/// The table that is there before SQLite is: its allocator cannot be asked for one yet.
struct First(UnsafeCell<Provider>);

// SAFETY: SQLCipher writes the field `next`, when it is registered, which is once; and `install`, when it is taken out again.
// Whoever has a pointer to it reads the functions, which nobody changes.
unsafe impl Sync for First {}

static FIRST: First = First(UnsafeCell::new(PROVIDER));

/// SQLite did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotStarted {
    /// SQLite's result code.
    pub code: i32,
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQLite did not start: result code {}", self.code)
    }
}

impl std::error::Error for NotStarted {}

/// Has SQLCipher use these ciphers from here on, in the whole process. The first call that succeeds does it; connections
/// that have their key already keep what they have. An SQLCipher that this crate does not know keeps OpenSSL.
///
/// # Errors
/// [`NotStarted`]. The next call tries again.
pub fn install() -> Result<(), NotStarted> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*installed {
        register()?;
        *installed = true;
    }
    Ok(())
}

/// Puts the table in place of what is there.
fn register() -> Result<(), NotStarted> {
    // SAFETY: no argument, and a number that is built in.
    if unsafe { ffi::sqlite3_libversion_number() } != KNOWN {
        return Ok(());
    }
    let first = FIRST.0.get();
    // SAFETY: the tables are laid out as SQLCipher's, and what their functions ask of their callers is what SQLCipher gives
    // them. Whatever is registered is freed with `sqlcipher_free` when the process ends, so it has to come out of
    // `sqlcipher_malloc`; that wants SQLite started, and its start asks the provider for random numbers, which is half of
    // OpenSSL's start. So it starts with a static table, which leaves the list before anybody frees it. A connection that was
    // made meanwhile may use it for as long as it likes. Pointers are checked for null, and written before anybody sees
    // them.
    //
    // Others may start SQLite meanwhile: SQLCipher's start holds the static mutex, so the static table is registered before
    // it or not at all. SQLite calls itself started before SQLCipher is; the second call waits until it is, too.
    unsafe {
        let starting = ffi::sqlite3_mutex_alloc(ffi::SQLITE_MUTEX_STATIC_MASTER);
        ffi::sqlite3_mutex_enter(starting);
        if sqlcipher_get_provider().is_null() {
            sqlcipher_register_provider(first);
        }
        ffi::sqlite3_mutex_leave(starting);
        for code in [ffi::sqlite3_initialize(), sqlcipher_extra_init(ptr::null())] {
            if code != ffi::SQLITE_OK {
                return Err(NotStarted { code });
            }
        }
        let table = sqlcipher_malloc(size_of::<Provider>() as u64).cast::<Provider>();
        if table.is_null() {
            // The static one must not stay on the list.
            handle_alloc_error(Layout::new::<Provider>());
        }
        table.write(PROVIDER);
        let code = sqlcipher_register_provider(table);
        let mut at = table;
        while !(*at).next.is_null() {
            if (*at).next == first {
                (*at).next = (*first).next;
            } else {
                at = (*at).next;
            }
        }
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(NotStarted { code }) }
    }
}

/// SQLCipher's own table: it has SHA-1, which databases of SQLCipher 3 and older need. They are no store's, but may be
/// another part's of the app.
fn openssl() -> Provider {
    let mut table = PROVIDER;
    // SAFETY: it fills the functions in, and touches nothing else.
    unsafe { sqlcipher_openssl_setup(&raw mut table) };
    table
}

/// SQLite's code for how it went.
fn code(done: Option<()>) -> c_int {
    if done.is_some() { ffi::SQLITE_OK } else { ffi::SQLITE_ERROR }
}

/// The bytes at `start`.
///
/// # Safety
/// If it is not null, there are as many bytes to read, and nobody changes them.
unsafe fn bytes<'a>(start: *const c_uchar, length: c_int) -> Option<&'a [u8]> {
    let length = usize::try_from(length).ok()?;
    if start.is_null() {
        return (length == 0).then_some(&[]);
    }
    // SAFETY: the caller's word.
    Some(unsafe { slice::from_raw_parts(start, length) })
}

/// The bytes at `start`, to write.
///
/// # Safety
/// If it is not null, there are as many bytes, initialised, and nobody else uses them.
unsafe fn bytes_mut<'a>(start: *mut c_uchar, length: usize) -> Option<&'a mut [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: the caller's word.
    Some(unsafe { slice::from_raw_parts_mut(start, length) })
}

/// Not a certified module.
unsafe extern "C" fn fips_status(_: *mut c_void) -> c_int {
    0
}

unsafe extern "C" fn context(_: *mut *mut c_void) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn name(_: *mut c_void) -> *const c_char {
    NAME.as_ptr()
}

unsafe extern "C" fn version(_: *mut c_void) -> *const c_char {
    VERSION.as_ptr()
}

unsafe extern "C" fn cipher_name(_: *mut c_void) -> *const c_char {
    CIPHER.as_ptr()
}

unsafe extern "C" fn key_size(_: *mut c_void) -> c_int {
    KEY as c_int
}

unsafe extern "C" fn block_size(_: *mut c_void) -> c_int {
    BLOCK as c_int
}

unsafe extern "C" fn hmac_size(context: *mut c_void, algorithm: c_int) -> c_int {
    if let Some(hash) = Hash::from_number(algorithm) {
        return hash.length() as c_int;
    }
    // SAFETY: the caller's own arguments.
    openssl().get_hmac_sz.map_or(0, |theirs| unsafe { theirs(context, algorithm) })
}

/// The operating system's random numbers need nothing added.
unsafe extern "C" fn add_random(_: *mut c_void, _: *const c_void, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn random(_: *mut c_void, out: *mut c_void, length: c_int) -> c_int {
    let Ok(length) = usize::try_from(length) else { return ffi::SQLITE_ERROR };
    // SAFETY: SQLCipher's buffer of this length. It may never have been written to: it is, before it is looked at.
    let out = unsafe {
        if out.is_null() {
            return ffi::SQLITE_ERROR;
        }
        ptr::write_bytes(out.cast::<u8>(), 0, length);
        bytes_mut(out.cast(), length)
    };
    code(out.and_then(|out| getrandom::fill(out).ok()))
}

unsafe extern "C" fn hmac(
    context: *mut c_void,
    algorithm: c_int,
    key: *const c_uchar,
    key_length: c_int,
    first: *const c_uchar,
    first_length: c_int,
    second: *const c_uchar,
    second_length: c_int,
    out: *mut c_uchar,
) -> c_int {
    let Some(hash) = Hash::from_number(algorithm) else {
        let Some(theirs) = openssl().hmac else { return ffi::SQLITE_ERROR };
        // SAFETY: the caller's own arguments.
        return unsafe {
            theirs(
                context,
                algorithm,
                key,
                key_length,
                first,
                first_length,
                second,
                second_length,
                out,
            )
        };
    };
    let mut code_of = [0; 64];
    let Some(made) = code_of.get_mut(..hash.length()) else { return ffi::SQLITE_ERROR };
    // SAFETY: SQLCipher's buffers with their lengths, and behind `out` room for the code. It may lie in the same page as
    // what is read, so it is written when nothing is read any more.
    unsafe {
        let second_length = if second.is_null() { 0 } else { second_length };
        let (Some(key), Some(first), Some(second)) =
            (bytes(key, key_length), bytes(first, first_length), bytes(second, second_length))
        else {
            return ffi::SQLITE_ERROR;
        };
        if out.is_null() || hash.hmac(key, [first, second], made).is_none() {
            return ffi::SQLITE_ERROR;
        }
        ptr::copy_nonoverlapping(made.as_ptr(), out, made.len());
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn kdf(
    context: *mut c_void,
    algorithm: c_int,
    passphrase: *const c_uchar,
    passphrase_length: c_int,
    salt: *const c_uchar,
    salt_length: c_int,
    rounds: c_int,
    key_length: c_int,
    out: *mut c_uchar,
) -> c_int {
    let Some(hash) = Hash::from_number(algorithm) else {
        let Some(theirs) = openssl().kdf else { return ffi::SQLITE_ERROR };
        // SAFETY: the caller's own arguments.
        return unsafe {
            theirs(
                context,
                algorithm,
                passphrase,
                passphrase_length,
                salt,
                salt_length,
                rounds,
                key_length,
                out,
            )
        };
    };
    let (Ok(rounds), Ok(length)) = (u32::try_from(rounds), usize::try_from(key_length)) else {
        return ffi::SQLITE_ERROR;
    };
    // SAFETY: SQLCipher's buffers with their lengths, which it has allocated apart and zeroed.
    unsafe {
        let (Some(passphrase), Some(salt), Some(out)) = (
            bytes(passphrase, passphrase_length),
            bytes(salt, salt_length),
            bytes_mut(out, length),
        ) else {
            return ffi::SQLITE_ERROR;
        };
        code(hash.stretch(passphrase, salt, rounds, out))
    }
}

unsafe extern "C" fn cipher(
    _: *mut c_void,
    mode: c_int,
    key: *const c_uchar,
    key_length: c_int,
    iv: *const c_uchar,
    from: *const c_uchar,
    length: c_int,
    to: *mut c_uchar,
) -> c_int {
    let (Some(mode), Ok(size)) = (Mode::from_number(mode), usize::try_from(length)) else {
        return ffi::SQLITE_ERROR;
    };
    if from.is_null() || to.is_null() || iv.is_null() {
        return ffi::SQLITE_ERROR;
    }
    // SAFETY: SQLCipher's buffers: a key of this length, an initialization vector of a block, which is behind the page
    // that is written and no part of it, and two buffers of this length, which may be one.
    unsafe {
        ptr::copy(from, to, size);
        let (Some(key), Some(iv), Some(page)) =
            (bytes(key, key_length), bytes(iv, BLOCK as c_int), bytes_mut(to, size))
        else {
            return ffi::SQLITE_ERROR;
        };
        code(cipher::page(mode, key, iv, page))
    }
}
