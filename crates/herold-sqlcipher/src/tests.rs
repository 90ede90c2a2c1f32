//! Beside OpenSSL, which SQLCipher brings: the same input, the same output.

use std::{ffi::c_int, ptr};

use rusqlite::Connection;

use super::{PROVIDER, Provider, install, openssl};

/// Bytes that look random, the same in every run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn both() -> [Provider; 2] {
    install().unwrap();
    [PROVIDER, openssl()]
}

#[test]
fn sizes_are_the_same() {
    // SAFETY: these look at nothing.
    let sizes = both().map(|table| unsafe {
        let hashes = [0, 1, 2].map(|hash| (table.get_hmac_sz.unwrap())(ptr::null_mut(), hash));
        let context = ptr::null_mut();
        let one = [table.get_key_sz, table.get_iv_sz, table.get_block_sz];
        (one.map(|size| (size.unwrap())(context)), hashes)
    });
    assert_eq!(sizes[0], ([32, 16, 16], [20, 32, 64]));
    assert_eq!(sizes[0], sizes[1]);
}

#[test]
fn codes_are_the_same() {
    for (round, length) in [0_usize, 1, 16, 100, 4016, 4032, 4096].into_iter().enumerate() {
        for (hash, second) in
            [(0, None), (1, None), (2, None), (0, Some(4)), (1, Some(4)), (2, Some(4))]
        {
            let mut key = noise(round as u64, 32);
            let mut first = noise(100 + round as u64, length.max(1));
            let mut more = noise(7, 4);
            let made = both().map(|table| {
                let mut out = vec![0; 64];
                let (second, length2) =
                    second.map_or((ptr::null_mut(), 0), |length| (more.as_mut_ptr(), length));
                // SAFETY: all buffers are as long as said.
                let code = unsafe {
                    (table.hmac.unwrap())(
                        ptr::null_mut(),
                        hash,
                        key.as_mut_ptr(),
                        32,
                        first.as_mut_ptr(),
                        length as c_int,
                        second,
                        length2,
                        out.as_mut_ptr(),
                    )
                };
                assert_eq!(code, 0);
                out
            });
            assert_eq!(made[0], made[1], "hash {hash}, {length} bytes");
            assert!(made[0].iter().any(|byte| *byte != 0));
        }
    }
}

#[test]
fn derived_keys_are_the_same() {
    for (hash, rounds, length) in [(0, 3, 32), (1, 1, 32), (2, 2, 32), (2, 1000, 64), (1, 77, 20)] {
        let (passphrase, mut salt) = (noise(1, 20), noise(2, 16));
        let made = both().map(|table| {
            let mut out = vec![0; length];
            // SAFETY: all buffers are as long as said.
            let code = unsafe {
                (table.kdf.unwrap())(
                    ptr::null_mut(),
                    hash,
                    passphrase.as_ptr(),
                    20,
                    salt.as_mut_ptr(),
                    16,
                    rounds,
                    length as c_int,
                    out.as_mut_ptr(),
                )
            };
            assert_eq!(code, 0);
            out
        });
        assert_eq!(made[0], made[1]);
    }
}

/// What a provider makes of a page; `in_place`: out of and into one buffer.
fn page(table: &Provider, mode: c_int, from: &[u8], in_place: bool) -> (c_int, Vec<u8>) {
    let (mut key, mut iv) = (noise(3, 32), noise(4, 16));
    let (mut source, mut to) = (from.to_vec(), vec![0xee; from.len()]);
    // SAFETY: all buffers are as long as said.
    let code = unsafe {
        let out = if in_place { source.as_mut_ptr() } else { to.as_mut_ptr() };
        (table.cipher.unwrap())(
            ptr::null_mut(),
            mode,
            key.as_mut_ptr(),
            32,
            iv.as_mut_ptr(),
            source.as_mut_ptr(),
            from.len() as c_int,
            out,
        )
    };
    (code, if in_place { source } else { to })
}

#[test]
fn pages_are_the_same() {
    for length in [16, 32, 4016, 4032] {
        let clear = noise(length as u64, length);
        let [ours, theirs] = both().map(|table| page(&table, 1, &clear, false));
        assert_eq!(ours, theirs);
        assert_eq!(page(&PROVIDER, 1, &clear, true), ours);
        assert_ne!(ours.1, clear);
        for table in both() {
            assert_eq!(page(&table, 0, &ours.1, false), (0, clear.clone()));
        }
        assert_eq!(page(&PROVIDER, 0, &ours.1, true), (0, clear));
    }
}

#[test]
fn what_makes_no_sense_is_an_error() {
    assert_ne!(page(&PROVIDER, 1, &[1; 17], false).0, 0, "half a block");
    assert_ne!(page(&PROVIDER, 2, &[1; 16], false).0, 0, "no mode");
    let (mut key, mut data, mut out) = ([0; 32], [0; 16], [0; 64]);
    let (key, data, out) = (key.as_mut_ptr(), data.as_mut_ptr(), out.as_mut_ptr());
    let null = ptr::null_mut();
    let [hmac, kdf, cipher] = [(); 3].map(|()| ptr::null_mut());
    // SAFETY: no buffer is read or written: something is wrong with each call.
    unsafe {
        let run = PROVIDER.hmac.unwrap();
        assert_ne!(run(hmac, 3, key, 32, data, 16, null, 0, out), 0, "no hash");
        assert_ne!(run(hmac, 2, key, 32, data, -1, null, 0, out), 0);
        assert_ne!(run(hmac, 2, key, 32, null, 16, null, 0, out), 0);
        assert_ne!(run(hmac, 2, key, 32, data, 16, null, 0, null), 0);
        let run = PROVIDER.kdf.unwrap();
        assert_ne!(run(kdf, 2, data, 16, data, 16, 0, 32, out), 0, "no rounds");
        assert_ne!(run(kdf, 2, data, 16, data, 16, 1, -1, out), 0);
        let run = PROVIDER.cipher.unwrap();
        assert_ne!(run(cipher, 1, key, 31, data, data, 16, out), 0, "a short key");
        assert_ne!(run(cipher, 1, key, 32, null, data, 16, out), 0);
        let run = PROVIDER.random.unwrap();
        assert_ne!(run(null.cast(), null.cast(), 16), 0);
        assert_ne!(run(null.cast(), out.cast(), -1), 0);
    }
}

#[test]
fn random_bytes_are_random() {
    let mut made = [[0_u8; 80]; 2];
    for out in &mut made {
        // SAFETY: the buffer is as long as said.
        assert_eq!(
            unsafe { (PROVIDER.random.unwrap())(ptr::null_mut(), out.as_mut_ptr().cast(), 80) },
            0
        );
    }
    assert_ne!(made[0], made[1]);
}

fn provider_of(connection: &Connection) -> String {
    connection.pragma_query_value(None, "cipher_provider", |row| row.get(0)).unwrap()
}

/// Another version may have another table, and would go on with OpenSSL.
#[test]
fn the_version_is_the_one_that_is_known() {
    install().unwrap();
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch("PRAGMA key = 'x'").unwrap();
    let version: String =
        connection.pragma_query_value(None, "cipher_version", |row| row.get(0)).unwrap();
    assert_eq!(
        version, "4.19.0 community",
        "compare the table with the new version's, then change KNOWN"
    );
    assert_eq!(provider_of(&connection), "rustcrypto");
}

/// What OpenSSL has written is in `fixtures`: `key` is the key, the table `t` has one row.
#[test]
fn a_database_that_openssl_has_written_is_read_and_changed() {
    install().unwrap();
    let folder = std::env::temp_dir().join(format!("herold-sqlcipher-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (hash, bytes) in [
        ("HMAC_SHA256", include_bytes!("../fixtures/openssl-sha256.db").as_slice()),
        ("HMAC_SHA512", include_bytes!("../fixtures/openssl-sha512.db").as_slice()),
    ] {
        let path = folder.join(hash);
        std::fs::write(&path, bytes).unwrap();
        for _ in 0..2 {
            let connection = Connection::open(&path).unwrap();
            connection
                .execute_batch(&format!(
                    "PRAGMA cipher_log_level = NONE; PRAGMA key = 'key';
                     PRAGMA cipher_hmac_algorithm = {hash};
                     INSERT INTO t VALUES (randomblob(9999))"
                ))
                .unwrap();
            assert_eq!(provider_of(&connection), "rustcrypto");
            let text: String =
                connection.query_row("SELECT v FROM t LIMIT 1", [], |row| row.get(0)).unwrap();
            assert_eq!(text, "written by OpenSSL");
            let mut check = connection.prepare("PRAGMA cipher_integrity_check").unwrap();
            assert!(check.query([]).unwrap().next().unwrap().is_none());
        }
        let wrong = Connection::open(&path).unwrap();
        wrong
            .execute_batch(&format!("PRAGMA key = 'kez'; PRAGMA cipher_hmac_algorithm = {hash}"))
            .unwrap();
        assert!(wrong.query_row("SELECT count(*) FROM t", [], |_| Ok(())).is_err());
    }
    std::fs::remove_dir_all(folder).unwrap();
}
