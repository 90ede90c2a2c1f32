//! `herold migrate` as a process, over the fixtures of `herold-migrate`.

#![cfg(feature = "migrate")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::Value;

const PASSPHRASE: &str = "correct horse battery staple";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../herold-migrate/tests/fixtures").join(name)
}

/// Runs the command with these variables and nothing else from the environment.
fn herold(home: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_herold"))
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn answer(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A server that says once whose token it was given, and gives what it was asked.
fn whoami(body: &str) -> (String, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        stream.write_all(response.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (address, served)
}

#[test]
fn a_dry_run_tells_and_writes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let from = fixture("passphrase");
    let arguments = ["--json", "migrate", "--dry-run", "--from", from.to_str().unwrap()];
    let told =
        answer(&herold(home.path(), &[("HEROLD_SOURCE_PASSPHRASE", PASSPHRASE)], &arguments));
    assert_eq!(told["user_id"], "@alice:example.org");
    assert_eq!(told["device_id"], "ALICEDEV");
    assert_eq!(told["dry_run"], true);
    assert!(told["taken"]["room_key"].as_u64().unwrap() > 0);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    let plain = herold(home.path(), &[("HEROLD_SOURCE_PASSPHRASE", PASSPHRASE)], &arguments[1..]);
    let text = String::from_utf8(plain.stdout).unwrap();
    assert!(text.contains("dry run: nothing was written"), "{text}");
    assert!(!text.contains(PASSPHRASE));
}

#[test]
fn what_is_wrong_has_its_exit_code() {
    let home = tempfile::tempdir().unwrap();
    let from = fixture("passphrase");
    let from = from.to_str().unwrap();
    let run = |variables: &[(&str, &str)], from: &str| {
        herold(home.path(), variables, &["migrate", "--dry-run", "--from", from]).status.code()
    };
    assert_eq!(run(&[("HEROLD_SOURCE_PASSPHRASE", "wrong")], from), Some(5));
    assert_eq!(run(&[], home.path().to_str().unwrap()), Some(2));
    let plain = fixture("none");
    let plain = plain.to_str().unwrap();
    assert_eq!(run(&[("HEROLD_SOURCE_PASSPHRASE", "any")], plain), Some(2));
    assert_eq!(run(&[], plain), Some(0));
}

#[test]
fn the_account_is_taken_over_if_the_token_is_the_devices() {
    let home = tempfile::tempdir().unwrap();
    let from = fixture("none");
    let store = home.path().join("store");
    let key = home.path().join("key");
    let run = |server: &str| {
        herold(
            home.path(),
            &[
                ("HEROLD_ACCESS_TOKEN", "syt_token"),
                ("HEROLD_STORE", store.to_str().unwrap()),
                ("HEROLD_STORE_KEY_FILE", key.to_str().unwrap()),
            ],
            &["--json", "migrate", "--from", from.to_str().unwrap(), "--homeserver", server],
        )
    };
    // Another device's token.
    let (server, served) = whoami(r#"{"user_id":"@alice:example.org","device_id":"OTHER"}"#);
    let refused = run(&server);
    served.join().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("OTHER") && text.contains("ALICEDEV"), "{text}");
    assert!(!text.contains("syt_token"));
    assert!(!store.exists());
    // The device's own.
    let (server, served) = whoami(r#"{"user_id":"@alice:example.org","device_id":"ALICEDEV"}"#);
    let told = answer(&run(&server));
    let asked = served.join().unwrap();
    assert!(asked.starts_with("GET /_matrix/client/v3/account/whoami "), "{asked}");
    assert!(asked.to_ascii_lowercase().contains("authorization: bearer syt_token"));
    assert_eq!(told["dry_run"], false);
    let inspected = answer(&herold(
        home.path(),
        &[
            ("HEROLD_STORE", store.to_str().unwrap()),
            ("HEROLD_STORE_KEY_FILE", key.to_str().unwrap()),
        ],
        &["--json", "inspect", "--check"],
    ));
    assert_eq!(inspected["device_id"], "ALICEDEV");
    assert_eq!(inspected["ed25519"], told["ed25519"]);
    assert_eq!(inspected["tables"]["inbound_session"], told["taken"]["room_key"]);
    assert_eq!(inspected["homeserver"], server.as_str());
    // A second time it is in the way.
    assert_eq!(run("http://127.0.0.1:1").status.code(), Some(2));
}
