//! A throwaway Synapse on loopback, for as long as this process lives.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Context, Result, fail};
use crate::http;
use crate::proxy::Proxy;

/// The server's name in user ids.
const NAME: &str = "herold.test";
/// Everybody's password.
pub const PASSWORD: &str = "correct horse battery staple";
const START_LIMIT: Duration = Duration::from_secs(60);

/// Synapse ends when its standard input does: with this process, however that ends.
const LAUNCH: &str = "\
import os, sys, threading
def leave_with_the_parent():
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=leave_with_the_parent, daemon=True).start()
from synapse.app.homeserver import main
main()";

/// A running server and the proxy in front of it.
pub struct Synapse {
    process: Child,
    address: SocketAddr,
    accounts: AtomicUsize,
    /// What the peers talk to.
    pub proxy: Proxy,
}

impl Synapse {
    /// Starts a fresh server that keeps everything in `folder`.
    ///
    /// # Errors
    ///
    /// It does not answer within a minute.
    pub fn start(python: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        // The port is free now, and may be taken a moment later: then once more, on another one.
        let mut attempts = 0;
        loop {
            attempts += 1;
            let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            match Self::start_on(address, python, folder) {
                Err(_) if attempts < 3 && TcpListener::bind(address).is_err() => {}
                started => return started,
            }
        }
    }

    fn start_on(address: SocketAddr, python: &Path, folder: &Path) -> Result<Self> {
        let proxy = Proxy::start(address)?;
        let configuration = configuration(folder, address, &proxy);
        let path = folder.join("homeserver.json");
        fs::write(&path, format!("{configuration:#}"))?;
        fs::write(
            folder.join("signing.key"),
            "ed25519 test MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE\n",
        )?;
        fs::write(folder.join("log.json"), format!("{:#}", logging(folder)))?;
        let out = folder.join("out.log");
        let log = File::create(&out)?;
        let process = Command::new(python)
            .args(["-c", LAUNCH, "-c"])
            .arg(&path)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context(format!("starting Synapse with {}", python.display()))?;
        let mut server = Self { process, address, accounts: AtomicUsize::new(0), proxy };
        server.wait_until_ready().context(format!("see {}", out.display()))?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let limit = Instant::now() + START_LIMIT;
        while http::json(self.address, "GET /_matrix/client/versions", None, None).is_err() {
            if let Some(status) = self.process.try_wait()? {
                return fail(format!("Synapse ended at its start: {status}"));
            }
            if Instant::now() > limit {
                return fail(format!("Synapse does not answer after {} s", START_LIMIT.as_secs()));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Makes an account and gives its user id.
    ///
    /// # Errors
    ///
    /// The server refused.
    pub fn register(&self, name: &str) -> Result<String> {
        let number = self.accounts.fetch_add(1, Ordering::Relaxed);
        let body = json!({
            "username": format!("{name}-{number}"),
            "password": PASSWORD,
            "inhibit_login": true,
            "auth": {"type": "m.login.dummy"},
        });
        let answer = self.request("POST /_matrix/client/v3/register", None, &body)?;
        Ok(answer["user_id"].as_str().unwrap_or_default().to_owned())
    }

    /// A request past the proxy, as somebody who is not under test.
    ///
    /// # Errors
    ///
    /// The server refused.
    pub fn request(&self, line: &str, token: Option<&str>, body: &Value) -> Result<Value> {
        http::json(self.address, line, token, Some(body))
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        // Nothing of it is needed again, so it need not tidy up.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The configuration; JSON is YAML too.
fn configuration(folder: &Path, address: SocketAddr, proxy: &Proxy) -> Value {
    let path = |name: &str| -> PathBuf { folder.join(name) };
    let unlimited = json!({"per_second": 100_000, "burst_count": 100_000});
    let mut all = json!({
        "server_name": NAME,
        "public_baseurl": proxy.url(),
        "listeners": [{
            "port": address.port(),
            "bind_addresses": [address.ip().to_string()],
            "type": "http",
            "tls": false,
            "resources": [{"names": ["client"], "compress": false}],
        }],
        "database": {"name": "sqlite3", "args": {"database": path("homeserver.db")}},
        "signing_key_path": path("signing.key"),
        "media_store_path": path("media"),
        "log_config": path("log.json"),
        "report_stats": false,
        "trusted_key_servers": [],
        "suppress_key_server_warning": true,
        "federation_domain_whitelist": [],
        "macaroon_secret_key": "for a test only",
        "form_secret": "for a test only",
        "enable_registration": true,
        "enable_registration_without_verification": true,
        "bcrypt_rounds": 4,
        "presence": {"enabled": false},
        // Dehydrated devices.
        "experimental_features": {"msc3814_enabled": true},
        "url_preview_enabled": false,
        "max_upload_size": "100M",
        // A sync with an old token must not be answered from a cache: it would repeat to-device
        // messages that were acknowledged, and hide what a client has lost.
        "caches": {"sync_response_cache_duration": "0s"},
        "rc_login": {"address": unlimited, "account": unlimited, "failed_attempts": unlimited},
        "rc_joins": {"local": unlimited, "remote": unlimited},
        "rc_invites": {"per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited},
        "rc_presence": {"per_user": unlimited},
    });
    let plain = [
        "rc_message",
        "rc_registration",
        "rc_joins_per_room",
        "rc_key_requests",
        "rc_media_create",
        "rc_room_creation",
        "rc_user_directory",
        "rc_profile",
        "rc_delayed_event_mgmt",
    ];
    for name in plain {
        all[name] = unlimited.clone();
    }
    all
}

fn logging(folder: &Path) -> Value {
    json!({
        "version": 1,
        "disable_existing_loggers": false,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
        "handlers": {"file": {
            "class": "logging.FileHandler",
            "filename": folder.join("homeserver.log"),
            "formatter": "line",
        }},
        "root": {"level": "WARNING", "handlers": ["file"]},
    })
}
