//! `herold rpc` as a process: what it answers to good and bad lines, and how it ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

struct Peer {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_herold"))
            .arg("rpc")
            .env("HEROLD_LOG", "trace")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, input, output }
    }

    fn write(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().unwrap();
        input.write_all(bytes).unwrap();
        input.flush().unwrap();
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the answer is not a whole line: {line:?}");
        serde_json::from_str(&line).unwrap()
    }

    fn line(&mut self, line: &str) -> Value {
        self.write(line.as_bytes());
        self.write(b"\n");
        self.answer()
    }

    fn call(&mut self, request: &Value) -> Value {
        self.line(&request.to_string())
    }

    fn end(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(mut self) -> String {
        let mut log = String::new();
        std::io::Read::read_to_string(&mut self.process.stderr.take().unwrap(), &mut log).unwrap();
        log
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_error(answer: &Value, id: &Value, code: &str) {
    assert_eq!(answer["ok"], false, "{answer}");
    assert_eq!(&answer["id"], id, "{answer}");
    assert_eq!(answer["code"], code, "{answer}");
    let text = answer["error"].as_str().unwrap();
    assert!(text.starts_with(code), "{answer}");
    let is_unsupported = answer.get("unsupported") == Some(&Value::Bool(true));
    assert_eq!(is_unsupported, code == "unsupported", "{answer}");
}

#[test]
fn hello_says_what_it_is() {
    let mut peer = Peer::start();
    let answer = peer.call(&json!({ "id": 1, "cmd": "hello" }));
    assert_eq!(answer["id"], 1);
    assert_eq!(answer["ok"], true);
    assert_eq!(answer["result"]["protocol"], 1);
    assert_eq!(answer["result"]["name"], "herold");
    let features = json!([
        "store",
        "files",
        "delete_device",
        "control",
        "sliding_sync",
        "cross_signing",
        "backup",
        "gossip",
        "sas_room",
        "sas_device",
        "sas_self",
        "qr",
        "key_files",
        "history",
        "dehydration",
    ]);
    assert_eq!(answer["result"]["features"], features);
}

#[test]
fn lines_that_are_no_requests_are_answered_and_survived() {
    let mut peer = Peer::start();
    for line in [
        "not json",
        "{",
        "[]",
        "42",
        "null",
        "\"hello\"",
        "{\"id\": 1, \"cmd\": \"hello\"} trailing",
        "{\"cmd\": \"hello\"}",
        "{\"id\": null, \"cmd\": \"hello\"}",
        "{\"id\": 1.5, \"cmd\": \"hello\"}",
        "{\"id\": \"1\", \"cmd\": \"hello\"}",
        "\u{0}",
    ] {
        is_error(&peer.line(line), &Value::Null, "invalid");
    }
    peer.write(b"\xff\xfe\n");
    is_error(&peer.answer(), &Value::Null, "invalid");
    for line in ["{\"id\": 7}", "{\"id\": 7, \"cmd\": 7}", "{\"id\": 7, \"cmd\": null}"] {
        is_error(&peer.line(line), &json!(7), "invalid");
    }
    assert_eq!(peer.call(&json!({ "id": -3, "cmd": "hello" }))["id"], -3);
}

#[test]
fn empty_lines_and_events_are_ignored() {
    let mut peer = Peer::start();
    peer.write(b"\n  \n\r\n{\"event\": \"note\", \"x\": 1}\n");
    assert_eq!(peer.call(&json!({ "id": 5, "cmd": "hello" }))["id"], 5);
}

#[test]
fn deeply_nested_json_is_no_way_to_crash_it() {
    let mut peer = Peer::start();
    let line = format!("{{\"id\": 1, \"cmd\": \"send\", \"x\": {}", "[".repeat(500_000));
    is_error(&peer.line(&line), &Value::Null, "invalid");
    assert_eq!(peer.call(&json!({ "id": 2, "cmd": "hello" }))["ok"], true);
}

#[test]
fn unknown_commands_are_unsupported() {
    let mut peer = Peer::start();
    for command in ["", "HELLO", "dehydrate", "share_history"] {
        let answer = peer.call(&json!({ "id": 3, "cmd": command, "password": "hunter2" }));
        is_error(&answer, &json!(3), "unsupported");
    }
}

#[test]
fn commands_before_a_login_are_refused() {
    let mut peer = Peer::start();
    for command in [
        "logout",
        "stats",
        "create_room",
        "invite",
        "join",
        "leave",
        "kick",
        "wait_member",
        "send",
        "wait_message",
        "send_file",
        "download",
        "devices",
        "delete_device",
        "identity",
        "pin_identity",
        "set_device_blocked",
        "set_policy",
        "sync_stop",
        "sync_start",
        "sync_once",
        "notification",
        "to_device_events",
        "notices",
        "send_event",
        "queue_event",
        "event",
        "timeline",
        "paginate",
        "send_to_device",
        "members",
        "room",
        "discard_room_key",
        "clock_advance",
        "bootstrap",
        "recover",
        "wait_backup",
        "restore_backup",
        "sas_request",
        "sas_accept",
        "sas_emojis",
        "sas_confirm",
        "sas_cancel",
        "export_keys",
        "import_keys",
        "withdraw_verification",
        "reset_identity",
        "backup_state",
        "secret",
        "qr_show",
        "qr_scan",
        "flow",
    ] {
        let request = json!({
            "id": 4, "cmd": command, "room": "!r:h", "user": "@u:h", "event_id": "$e",
        });
        is_error(&peer.call(&request), &json!(4), "not_logged_in");
    }
}

#[test]
fn missing_and_mistyped_parameters_are_named_and_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let mut peer = Peer::start();
    let whole = json!({
        "id": 6, "cmd": "login", "homeserver": "http://127.0.0.1:1", "user": "@u:h",
        "password": "hunter2", "store": folder.path(),
    });
    for name in ["homeserver", "user", "password", "store"] {
        for value in [None, Some(Value::Null), Some(json!(["hunter2"])), Some(json!(7))] {
            let mut request = whole.clone();
            match value {
                None => drop(request.as_object_mut().unwrap().remove(name)),
                Some(value) => request[name] = value,
            }
            let answer = peer.call(&request);
            is_error(&answer, &json!(6), "invalid");
            assert!(answer["error"].as_str().unwrap().contains(name), "{answer}");
            assert!(!answer.to_string().contains("hunter2"), "{answer}");
        }
    }
    let mut request = whole.clone();
    request["store"] = json!(folder.path().join("missing"));
    is_error(&peer.call(&request), &json!(6), "invalid");
}

#[test]
fn a_login_that_fails_tells_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let mut peer = Peer::start();
    // Nobody listens on port 1.
    let answer = peer.call(&json!({
        "id": 8, "cmd": "login", "homeserver": "http://127.0.0.1:1", "user": "@u:h",
        "password": "hunter2", "store": folder.path(),
    }));
    assert_eq!(answer["ok"], false, "{answer}");
    assert!(!answer.to_string().contains("hunter2"), "{answer}");
    let key = std::fs::read_to_string(folder.path().join("rpc.key")).unwrap();
    drop(peer.input.take());
    assert!(peer.end().success());
    let log = peer.log();
    assert!(!log.contains("hunter2"), "{log}");
    assert!(!log.contains(key.trim()), "{log}");
}

#[test]
fn a_store_that_is_none_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let mut peer = Peer::start();
    for store in [folder.path().to_owned(), folder.path().join("missing")] {
        let answer = peer.call(&json!({ "id": 9, "cmd": "resume", "store": store }));
        assert_eq!(answer["ok"], false, "{answer}");
        assert_ne!(answer["unsupported"], true, "{answer}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it left something behind");
}

#[test]
fn a_line_that_is_too_long_is_skipped_within_bounded_memory() {
    let mut peer = Peer::start();
    let part = vec![b'x'; 1024 * 1024];
    peer.write(b"{\"id\": 1, \"cmd\": \"");
    for _ in 0..80 {
        peer.write(&part);
    }
    peer.write(b"\"}\n");
    is_error(&peer.answer(), &Value::Null, "invalid");
    assert_eq!(peer.call(&json!({ "id": 2, "cmd": "hello" }))["ok"], true);
    #[cfg(target_os = "linux")]
    {
        let status = format!("/proc/{}/status", peer.process.id());
        let status = std::fs::read_to_string(status).unwrap();
        let now = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kilobytes: u64 = now.split_whitespace().next().unwrap().parse().unwrap();
        assert!(kilobytes < 150_000, "{kilobytes} kB are still held");
    }
}

#[test]
fn close_answers_and_ends_well() {
    let mut peer = Peer::start();
    let answer = peer.call(&json!({ "id": 1, "cmd": "close" }));
    assert_eq!(answer, json!({ "id": 1, "ok": true, "result": {} }));
    assert!(peer.end().success());
}

#[test]
fn the_end_of_the_input_ends_it_well() {
    let mut peer = Peer::start();
    drop(peer.input.take());
    assert!(peer.end().success());
}

#[test]
fn what_was_read_before_the_end_is_answered() {
    let mut peer = Peer::start();
    peer.write(b"{\"id\": 1, \"cmd\": \"hello\"}\n{\"id\": 2, \"cmd\": \"nothing\"}\n{\"id\": 3, \"cmd\": \"hello\"}");
    drop(peer.input.take());
    for id in 1..=3 {
        assert_eq!(peer.answer()["id"], id);
    }
    assert!(peer.end().success());
}
