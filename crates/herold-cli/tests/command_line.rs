//! The `herold` command as a process: help, exit codes, and where secrets do not go.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

/// Runs the command without a terminal, and without anything from the environment.
fn herold(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_herold"))
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_tells_where_secrets_come_from_and_what_exit_codes_mean() {
    let home = tempfile::tempdir().unwrap();
    let help = text(&herold(home.path(), &["--help"]).stdout);
    for word in [
        "HEROLD_PASSWORD",
        "HEROLD_STORE_PASSPHRASE",
        "HEROLD_STORE_KEY_FILE",
        "--password-stdin",
        "Exit codes",
        "Examples",
    ] {
        assert!(help.contains(word), "{word} is missing in:\n{help}");
    }
}

#[test]
fn every_command_has_help() {
    let home = tempfile::tempdir().unwrap();
    for command in [
        "login",
        "migrate",
        "logout",
        "rooms",
        "create-room",
        "join",
        "invite",
        "leave",
        "forget",
        "kick",
        "members",
        "send",
        "send-file",
        "download",
        "listen",
        "history",
        "devices",
        "recovery",
        "verify",
        "keys",
        "backup",
        "store",
        "inspect",
        "rpc",
    ] {
        let output = herold(home.path(), &[command, "--help"]);
        assert!(output.status.success(), "{command}");
        assert!(text(&output.stdout).contains("Usage: herold"), "{command}");
    }
}

#[test]
fn wrong_arguments_end_with_two() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [
        &["nonsense"][..],
        &["send"],
        &["join", "nonsense"],
        &["store", "clean"],
        &["store", "clean", "--dry-run"],
        &["store", "clean", "--room", "!r:h", "--sessions-unused-for", "9"],
        &["login", "--homeserver", "https://h", "--password", "hunter2", "alice"],
    ] {
        assert_eq!(herold(home.path(), arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[cfg(not(feature = "migrate"))]
#[test]
fn a_build_without_the_migration_says_so() {
    let home = tempfile::tempdir().unwrap();
    let output = herold(home.path(), &["migrate", "--from", "nowhere", "--dry-run"]);
    assert_eq!(output.status.code(), Some(9));
    assert!(text(&output.stderr).contains("--features migrate"), "{}", text(&output.stderr));
}

#[test]
fn without_an_account_it_says_how_to_get_one() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["rooms"][..], &["inspect"], &["logout"], &["send", "!r:h", "hi"]] {
        let output = herold(home.path(), arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        assert!(output.stdout.is_empty());
        assert!(text(&output.stderr).contains("herold login"));
    }
    let left = std::fs::read_dir(home.path()).unwrap().count();
    assert_eq!(left, 0, "looking for an account made something");
}

#[test]
fn without_a_terminal_nobody_is_asked() {
    let home = tempfile::tempdir().unwrap();
    // In a session of its own it has no terminal, wherever the tests run.
    let output = Command::new("setsid")
        .args(["--wait", env!("CARGO_BIN_EXE_herold")])
        .args(["login", "--homeserver", "http://127.0.0.1:1", "alice"])
        .env_remove("HEROLD_PASSWORD")
        .env("HOME", home.path())
        .stdin(Stdio::null())
        .output();
    // There is no setsid everywhere.
    let Ok(output) = output else { return };
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--password-stdin"), "{}", text(&output.stderr));
}

#[test]
fn a_failed_login_leaves_no_secret_anywhere() {
    let home = tempfile::tempdir().unwrap();
    let key_file = home.path().join("key");
    let output = Command::new(env!("CARGO_BIN_EXE_herold"))
        .args(["--timeout", "5", "--store-key-file"])
        .arg(&key_file)
        .args(["login", "--homeserver", "http://127.0.0.1:1", "alice"])
        .env_clear()
        .env("HOME", home.path())
        .env("HEROLD_PASSWORD", "hunter2")
        .env("HEROLD_LOG", "trace")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let key = std::fs::read_to_string(&key_file).unwrap();
    for said in [text(&output.stdout), text(&output.stderr)] {
        assert!(!said.contains("hunter2"), "{said}");
        assert!(!said.contains(key.trim()), "{said}");
    }
}

#[test]
fn a_store_is_re_keyed_with_keys_from_files_and_the_environment() {
    let home = tempfile::tempdir().unwrap();
    let [key, second] = ["key", "second"].map(|name| home.path().join(name));
    let run = |file: Option<&Path>, variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_herold"));
        if let Some(file) = file {
            command.arg("--store-key-file").arg(file);
        }
        command
            .args(arguments)
            .env_clear()
            .env("HOME", home.path())
            .env("HEROLD_PASSWORD", "unused")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    // A login that fails leaves a store.
    let login = ["--timeout", "5", "login", "--homeserver", "http://127.0.0.1:1", "alice"];
    assert!(!run(Some(&key), &[], &login).status.success());
    if !home.path().join(".local/share/herold/herold.salt").exists() {
        // The server is asked first: a store as the library makes it.
        let raw = std::fs::read_to_string(&key).unwrap();
        make_store(&home.path().join(".local/share/herold"), raw.trim());
    }
    let second_name = second.to_str().unwrap();
    let rekeyed = run(Some(&key), &[], &["store", "rekey", "--new-store-key-file", second_name]);
    assert!(rekeyed.status.success(), "{}", text(&rekeyed.stderr));
    assert_eq!(run(Some(&key), &[], &["inspect"]).status.code(), Some(5));
    assert!(run(Some(&second), &[], &["inspect", "--check"]).status.success());

    let phrase = [("HEROLD_NEW_STORE_PASSPHRASE", "correct horse")];
    let rekeyed = run(Some(&second), &phrase, &["--json", "store", "rekey"]);
    assert!(rekeyed.status.success(), "{}", text(&rekeyed.stderr));
    assert!(!text(&rekeyed.stdout).contains("horse") && !text(&rekeyed.stderr).contains("horse"));
    assert_eq!(run(Some(&second), &[], &["inspect"]).status.code(), Some(5));
    let phrase = [("HEROLD_STORE_PASSPHRASE", "correct horse")];
    assert!(run(None, &phrase, &["inspect"]).status.success());
}

fn new_store(folder: &Path, key: &str) -> herold::SqliteStore {
    let bytes: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).unwrap()).collect();
    let key = herold::StoreKey::raw(bytes.try_into().unwrap());
    herold::SqliteStore::create(folder, &key, &herold::StoreOptions::default()).unwrap()
}

fn make_store(folder: &Path, key: &str) {
    new_store(folder, key).close().unwrap();
}

#[test]
fn a_report_for_the_developers_names_nobody() {
    let home = tempfile::tempdir().unwrap();
    let (store, file) = (home.path().join("store"), home.path().join("report.json"));
    let key = home.path().join("key");
    let hex = "5a".repeat(32);
    std::fs::write(&key, &hex).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let engine = herold::Engine::create(
        Box::new(new_store(&store, &hex)),
        "@alice:ministry.example".try_into().unwrap(),
        "ALICEDEV".into(),
        herold::Policy::default(),
        Some(herold::LoginRecord {
            homeserver: "https://matrix.ministry.example".to_owned(),
            access_token: herold::SecretString::new("syt_token".to_owned()),
            logged_out: false,
            deployment: "Ministry".to_owned(),
        }),
        std::sync::Arc::new(herold::SystemClock),
        Box::new(herold::OsEntropy),
    )
    .unwrap();
    let own_key = engine.machine().identity_keys().ed25519.to_base64();
    drop(engine.into_store());
    let inspect = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_herold"))
            .args(["--json", "--store", store.to_str().unwrap(), "--store-key-file"])
            .arg(&key)
            .arg("inspect")
            .args(arguments)
            .env_clear()
            .env("HOME", home.path())
            .output()
            .unwrap()
    };
    let shown = text(&inspect(&[]).stdout);
    assert!(shown.contains("@alice:ministry.example") && shown.contains(&own_key), "{shown}");
    let written = inspect(&["--check", "--report", file.to_str().unwrap()]);
    assert!(written.status.success(), "{}", text(&written.stderr));
    let report = std::fs::read_to_string(&file).unwrap();
    for name in ["alice", "ALICEDEV", "inistry", "https", "syt_token", &own_key, &hex] {
        assert!(!report.contains(name), "{name} is in {report}");
    }
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["versions"]["herold"], env!("CARGO_PKG_VERSION"));
    assert!(report["health"]["own_keys"].is_object() && report["tables"].is_object());
    assert!(report["integrity"].is_string());
    // A file that is there is not written over.
    assert!(!inspect(&["--report", file.to_str().unwrap()]).status.success());
}
