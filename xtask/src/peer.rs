//! One device under test: a process that speaks JSON lines.
//!
//! A request is `{"id", "cmd", ..}`, its answer `{"id", "ok": true, "result"}` or `{"id", "ok": false,
//! "error", "unsupported"?}`; lines with an `event` instead of an `id` may come in between.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Context, Error, Result, ensure, fail};
use crate::proxy::Device;

/// How long something that should happen may take.
pub const WAIT: Duration = Duration::from_secs(20);
/// How long to look for something that should not happen.
pub const GRACE: Duration = Duration::from_secs(3);
/// How long a peer may take beyond the time that it was given.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a peer may take for a command without a time.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A peer's process and the device that it is logged in as.
pub struct Peer {
    label: String,
    command: Vec<PathBuf>,
    folder: PathBuf,
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    count: u64,
    /// The device, once logged in.
    pub device: Device,
}

impl Peer {
    /// Starts the process; `folder` is for its store and what it says.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(label: String, command: &[PathBuf], folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(folder.join("store"))?;
        let (process, input, output) = spawn(command, &folder).context(&label)?;
        let lines = listen(output, &folder)?;
        let device = Device { user: String::new(), id: String::new() };
        Ok(Self {
            label,
            command: command.to_vec(),
            folder,
            process,
            input,
            lines,
            count: 0,
            device,
        })
    }

    /// Sends a command and gives its result.
    ///
    /// # Errors
    ///
    /// The peer said no, could not be understood, or took too long and was killed.
    pub fn call(&mut self, command: &str, parameters: Value) -> Result<Value> {
        self.ask(command, parameters).context(format_args!("{} {command}", self.label))
    }

    /// The same with a time limit that the peer knows.
    ///
    /// # Errors
    ///
    /// As [`Self::call`]; an error of the kind `timeout` when the time is up.
    pub fn wait(&mut self, command: &str, limit: Duration, mut parameters: Value) -> Result<Value> {
        parameters["timeout_ms"] = json!(limit.as_millis() as u64);
        self.call(command, parameters)
    }

    fn ask(&mut self, command: &str, mut request: Value) -> Result<Value> {
        self.count += 1;
        let patience = match request["timeout_ms"].as_u64() {
            Some(ms) => Duration::from_millis(ms) + PATIENCE,
            None => COMMAND_LIMIT,
        };
        request["id"] = json!(self.count);
        request["cmd"] = json!(command);
        let mut line = request.to_string();
        log(&self.folder)?.write_all(format!("> {line}\n").as_bytes())?;
        line.push('\n');
        self.input.write_all(line.as_bytes()).context("the process is gone")?;

        let limit = Instant::now() + patience;
        loop {
            let line =
                match self.lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
                    Ok(line) => line,
                    Err(RecvTimeoutError::Timeout) => {
                        self.kill();
                        return fail("no answer, so it was killed");
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        return fail(format!("the process ended: {}", self.process.wait()?));
                    }
                };
            let answer: Value = serde_json::from_str(&line).context("on standard output")?;
            if answer["id"] != request["id"] {
                continue;
            }
            let error = || answer["error"].as_str().unwrap_or("no reason given").to_owned();
            return match answer["ok"].as_bool() {
                Some(true) => Ok(answer["result"].clone()),
                _ if answer["unsupported"] == true => Err(Error::Unsupported(error())),
                _ => fail(error()),
            };
        }
    }

    /// Logs in as a new device, which synchronises as `sync` says (an extension of the protocol, for ours).
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub fn login(
        &mut self,
        homeserver: &str,
        user: &str,
        password: &str,
        sync: Option<&str>,
    ) -> Result<()> {
        let store = self.store();
        let mut parameters =
            json!({"homeserver": homeserver, "user": user, "password": password, "store": store});
        if let Some(sync) = sync {
            parameters["sync"] = json!(sync);
        }
        self.device = device(&self.call("login", parameters)?);
        ensure(self.device.user == user, || format!("{} is {}", self.label, self.device.user))
    }

    /// Ends the process in order.
    ///
    /// # Errors
    ///
    /// It does not end within a while, or not with 0.
    pub fn close(&mut self) -> Result<()> {
        self.call("close", json!({}))?;
        let limit = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return ensure(status.success(), || format!("{} close: {status}", self.label));
            }
            if Instant::now() > limit {
                self.kill();
                return fail(format!("{} close: the process stays", self.label));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        // It may be gone already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// A new process for the same device.
    ///
    /// # Errors
    ///
    /// As [`Self::call`], or it is another device.
    pub fn resume(&mut self) -> Result<()> {
        let (process, input, output) = spawn(&self.command, &self.folder).context(&self.label)?;
        self.lines = listen(output, &self.folder)?;
        (self.process, self.input) = (process, input);
        let store = self.store();
        let now = device(&self.call("resume", json!({"store": store}))?);
        ensure(now == self.device, || {
            format!("{}: another device after resume: {now:?}", self.label)
        })
    }

    fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// The user.
    pub fn user(&self) -> &str {
        &self.device.user
    }

    /// What it is called in messages to the reader.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Sends a text.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub fn send(&mut self, room: &str, body: &str) -> Result<String> {
        let sent = self.call("send", json!({"room": room, "body": body}))?;
        Ok(text(&sent, "event_id"))
    }

    /// Waits until the peer sees this membership.
    ///
    /// # Errors
    ///
    /// As [`Self::wait`].
    pub fn wait_member(&mut self, room: &str, user: &str, membership: &str) -> Result<()> {
        let what = json!({"room": room, "user": user, "membership": membership});
        self.wait("wait_member", WAIT, what).map(drop)
    }

    /// The devices of a user that the peer knows.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub fn devices(&mut self, user: &str) -> Result<Vec<String>> {
        let known = self.call("devices", json!({"user": user}))?;
        let list = known["devices"].as_array().cloned().unwrap_or_default();
        Ok(list.iter().map(|entry| text(entry, "device")).collect())
    }

    /// Waits until the peer knows the device, or knows it no more.
    ///
    /// # Errors
    ///
    /// As [`Self::call`], or it never does.
    pub fn wait_device(&mut self, other: &Device, present: bool) -> Result<()> {
        let there = if present { "there" } else { "gone" };
        eventually(format!("{} to see that {} is {there}", self.label, other.id), || {
            Ok(self.devices(&other.user)?.contains(&other.id) == present)
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The text at `key` of a result, or none.
pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// Probes until it holds.
///
/// # Errors
///
/// The probe failed, or it does not hold after [`WAIT`].
pub fn eventually(
    what: impl std::fmt::Display,
    mut probe: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let limit = Instant::now() + WAIT;
    while !probe()? {
        ensure(Instant::now() < limit, || format!("waited in vain for {what}"))?;
        thread::sleep(Duration::from_millis(150));
    }
    Ok(())
}

fn device(result: &Value) -> Device {
    Device { user: text(result, "user_id"), id: text(result, "device_id") }
}

fn spawn(command: &[PathBuf], folder: &Path) -> Result<(Child, ChildStdin, ChildStdout)> {
    let Some((program, arguments)) = command.split_first() else { return fail("no command") };
    let stderr = OpenOptions::new().create(true).append(true).open(folder.join("stderr.log"))?;
    let mut process = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .context(program.display())?;
    match (process.stdin.take(), process.stdout.take()) {
        (Some(input), Some(output)) => Ok((process, input, output)),
        _ => fail("no pipes"),
    }
}

/// Reads the peer's lines in a thread, so that waiting for one can end.
fn listen(output: ChildStdout, folder: &Path) -> Result<Receiver<String>> {
    let (sender, lines) = mpsc::channel();
    let mut log = log(folder)?;
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
            // The log is a help, not a result.
            let _ = log.write_all(format!("< {line}\n").as_bytes());
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    Ok(lines)
}

fn log(folder: &Path) -> Result<File> {
    Ok(OpenOptions::new().create(true).append(true).open(folder.join("protocol.log"))?)
}
