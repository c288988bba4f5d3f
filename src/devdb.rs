//! A private Postgres, for `postbell dev` and for the tests.
//!
//! The server listens on loopback only, with a random password. `find` and `package` look for its programs or fetch them; `account`
//! lets root run it without root's rights; `standby` makes a second server to fail over to; `guard` keeps the server from outliving this
//! process.
//!
//! This code must never know the broker or its tables: the code hands out a URL, and whoever asked for it migrates. `cli::dev`
//! calls it, and the
//! tests of all packages.

mod account;
mod find;
mod guard;
mod package;
mod port;
mod standby;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

use account::Account;
use guard::ServerGuard;

pub use find::find_or_fetch;
pub use port::KeptPort;

/// How long a server may take to accept connections; after a crash it replays its log first.
const START_WAIT: Duration = Duration::from_secs(60);
/// How long a server may take to stop before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(15);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// How many free ports are tried: where no port can be kept, another process may take one before the server does.
const PORT_TRIES: u32 = 5;

/// Why a private server does not run, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DevdbError(String);

fn fault(sentence: impl Into<String>) -> DevdbError {
    DevdbError(sentence.into())
}

/// Turns the system's refusal into a sentence that names the file and what was to be done with it.
fn on<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> DevdbError + 'a {
    move |e| fault(format!("cannot {what} {}: {e}", path.display()))
}

/// The place of a server's data.
#[derive(Clone, Debug)]
pub enum Data {
    /// A folder that is kept between runs.
    Kept(PathBuf),
    /// A new folder that is removed at the end.
    Temporary,
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The place of its data.
    pub data: Data,
    /// The folder of its programs; searched for if `None`.
    pub bin_dir: Option<PathBuf>,
    /// Further settings, as `name`, `value`.
    pub settings: Vec<(String, String)>,
    /// Further variables of its environment, which is otherwise almost empty.
    pub environment: Vec<(String, String)>,
}

/// A running server, which stops when this value is dropped, and when this process ends, whatever the cause (see
/// `guard.rs`).
#[derive(Debug)]
pub struct DevPostgres {
    bin_dir: PathBuf,
    version: String,
    folder: PathBuf,
    temporary: bool,
    account: Option<Account>,
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    password: String,
    port: Option<KeptPort>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    server: Child,
    /// Ends the server when this process is gone.
    guard: ServerGuard,
}

/// The folder that `dev` keeps its data in: the user's data folder, or the system's for root, whose home no other
/// account may enter.
///
/// # Errors
/// The environment names no home.
pub fn default_data_dir() -> Result<PathBuf, DevdbError> {
    if account::is_root() {
        return Ok(PathBuf::from("/var/lib/postbell"));
    }
    user_folder("XDG_DATA_HOME", ".local/share", "Library/Application Support")
}

/// A folder of this user's, by the customs of the system.
fn user_folder(variable: &str, unix: &str, macos: &str) -> Result<PathBuf, DevdbError> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = if cfg!(windows) {
        set("LOCALAPPDATA")
    } else {
        let below = if cfg!(target_os = "macos") { macos } else { unix };
        set(variable).or_else(|| Some(set("HOME")?.join(below)))
    };
    folder.map(|f| f.join("postbell")).ok_or_else(|| fault("the environment names no home folder (HOME)"))
}

impl DevPostgres {
    /// Finds or fetches the server's programs, makes the data if there is none, and starts the server.
    ///
    /// # Errors
    /// The server cannot be found, fetched, prepared or started; the sentence says what to do.
    pub fn start(options: Options) -> Result<Self, DevdbError> {
        let bin_dir = find_or_fetch(options.bin_dir.as_deref())?;
        let version = find::version(&bin_dir)?;
        let account = Account::unprivileged()?;
        let (folder, temporary) = match options.data {
            Data::Kept(folder) => (folder, false),
            Data::Temporary => (temporary_folder(), true),
        };
        let mut this = Self {
            bin_dir,
            version,
            folder,
            temporary,
            account,
            settings: options.settings,
            environment: options.environment,
            password: String::new(),
            port: None,
            running: None,
        };
        this.prepare()?;
        this.launch()?;
        Ok(this)
    }

    /// The URL of its database `postgres`.
    pub fn url(&self) -> String {
        self.url_for("postgres")
    }

    /// The URL of one of its databases.
    pub fn url_for(&self, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port())
    }

    fn port(&self) -> u16 {
        self.port.as_ref().map_or(0, |kept| kept.address().port())
    }

    /// The server's version, such as `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The folder of its programs.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// Stops the server and starts it again on the same port. An immediate stop is a crash; any other rolls back the
    /// transactions of the clients first.
    ///
    /// # Errors
    /// The server did not stop, or did not start again; the sentence says what to do.
    pub fn restart(&mut self, immediate: bool) -> Result<(), DevdbError> {
        self.halt(immediate)?;
        self.launch()
    }

    /// Stops the server until [`start_again`](Self::start_again): by a crash if `immediate`, else after rolling back
    /// the transactions of the clients.
    ///
    /// # Errors
    /// The server did not stop.
    pub fn shut_down(&mut self, immediate: bool) -> Result<(), DevdbError> {
        self.halt(immediate)
    }

    /// Whether the server is down: shut down, or ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.running.as_mut().is_none_or(|running| !matches!(running.server.try_wait(), Ok(None)))
    }

    /// Starts it after [`shut_down`](Self::shut_down), or after it ended by itself, on the same port.
    ///
    /// # Errors
    /// The server did not stop, or did not start again; the sentence says what to do.
    pub fn start_again(&mut self) -> Result<(), DevdbError> {
        self.restart(true)
    }

    /// Stops it, and removes its data if that is temporary.
    ///
    /// # Errors
    /// The server did not stop, or its folder could not be removed.
    pub fn stop(mut self) -> Result<(), DevdbError> {
        self.halt(false)?;
        self.remove_temporary()
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Makes the folder and, the first time, the data and the password in it.
    fn prepare(&mut self) -> Result<(), DevdbError> {
        fs::create_dir_all(&self.folder).map_err(on("make the folder", &self.folder))?;
        self.hand_over(&self.folder)?;
        let (data, secret) = (self.data(), self.folder.join("password"));
        if data.join("PG_VERSION").exists() {
            self.check_major(&data)?;
            let password = fs::read_to_string(&secret).map_err(on("read", &secret))?;
            self.password = password.trim().to_owned();
            return Ok(());
        }
        let bytes: [u8; 16] = rand::random();
        self.password = bytes.iter().map(|b| format!("{b:02x}")).collect();
        write_secret(&secret, &self.password)?;
        self.hand_over(&secret)?;
        let made = self
            .command("initdb")
            .arg("--pgdata")
            .arg(&data)
            .arg("--pwfile")
            .arg(&secret)
            .args([
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| fault(format!("initdb cannot be run: {e}")))?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr);
            return Err(fault(format!("initdb failed in {}: {}", data.display(), last_lines(&said))));
        }
        Ok(())
    }

    fn check_major(&self, data: &Path) -> Result<(), DevdbError> {
        let path = data.join("PG_VERSION");
        let made_by = fs::read_to_string(&path).map_err(on("read", &path))?;
        let major = self.version.split('.').next().unwrap_or("");
        if made_by.trim() != major {
            return Err(fault(format!(
                "the data in {} was made by PostgreSQL {}, the server found is {}: use --fresh to start anew, or \
                 install PostgreSQL {0}",
                self.folder.display(),
                made_by.trim(),
                self.version
            )));
        }
        Ok(())
    }

    fn launch(&mut self) -> Result<(), DevdbError> {
        let again = self.port.is_some();
        for _ in 0..PORT_TRIES {
            if !again {
                let taken = KeptPort::take();
                self.port = Some(taken.map_err(|e| fault(format!("no free port on 127.0.0.1: {e}")))?);
            }
            let mut running = self.spawn()?;
            let up = self.wait_until_up(&mut running.server);
            if up.is_err() {
                // The server has ended, and its guard must leave the folder to the next try.
                running.guard.dismiss();
            }
            match up {
                Ok(()) => {
                    self.running = Some(running);
                    return Ok(());
                }
                Err(log) if log.contains("could not bind") && !again => {}
                Err(log) if log.contains("lock file \"postmaster.pid\" already exists") => {
                    return Err(fault(format!(
                        "another server runs on {}: stop that `postbell dev` first",
                        self.folder.display()
                    )));
                }
                Err(log) => return Err(fault(format!("the server did not start: {}", last_lines(&log)))),
            }
        }
        Err(fault("no free port was found for the server on 127.0.0.1"))
    }

    fn spawn(&self) -> Result<Running, DevdbError> {
        let log_path = self.folder.join("server.log");
        let log = fs::File::create(&log_path).map_err(on("write", &log_path))?;
        self.hand_over(&log_path)?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        let port = self.port().to_string();
        let own = [("port", &*port), ("listen_addresses", "127.0.0.1"), ("unix_socket_directories", "")];
        let given = self.settings.iter().map(|(name, value)| (&**name, &**value));
        // Data that is thrown away need not survive a power cut; data that is kept is as safe as anywhere.
        let lax: &[(&str, &str)] =
            if self.temporary { &[("fsync", "off"), ("full_page_writes", "off")] } else { &[] };
        for (name, value) in own.into_iter().chain(lax.iter().copied()).chain(given) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let errors = log.try_clone().map_err(on("write", &log_path))?;
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        // In a group of its own: Ctrl-C reaches this process, which then stops the server in order.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let server = command.spawn().map_err(|e| fault(format!("postgres cannot be run: {e}")))?;
        let remove = self.temporary.then_some(&*self.folder);
        let guard = ServerGuard::over(server.id(), &self.data(), remove)?;
        Ok(Running { server, guard })
    }

    /// Waits until the server takes connections. The error is the server's log.
    fn wait_until_up(&self, server: &mut Child) -> Result<(), String> {
        let deadline = Instant::now() + START_WAIT;
        let log_path = self.folder.join("server.log");
        loop {
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            // The line of a standby goes on with "read-only connections".
            if log.contains("database system is ready to accept") {
                return Ok(());
            }
            let ended = !matches!(server.try_wait(), Ok(None));
            if ended || Instant::now() > deadline {
                let _ = server.kill();
                let _ = server.wait();
                return Err(fs::read_to_string(&log_path).unwrap_or(log));
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    fn halt(&mut self, immediate: bool) -> Result<(), DevdbError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let mode = if immediate { "immediate" } else { "fast" };
        let asked = self
            .command("pg_ctl")
            .args(["stop", "--no-wait", "--silent", "--mode", mode, "--pgdata"])
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let deadline = Instant::now() + STOP_WAIT;
        let heard = asked.is_ok_and(|status| status.success());
        while heard && Instant::now() < deadline {
            if !matches!(running.server.try_wait(), Ok(None)) {
                running.guard.dismiss();
                return Ok(());
            }
            std::thread::sleep(POLL_EVERY);
        }
        let killed = running.server.kill().and_then(|()| running.server.wait());
        killed.map_err(|e| fault(format!("the server could not be stopped: {e}")))?;
        running.guard.dismiss();
        Ok(())
    }

    fn remove_temporary(&self) -> Result<(), DevdbError> {
        match self.temporary && self.folder.exists() {
            true => fs::remove_dir_all(&self.folder).map_err(on("remove", &self.folder)),
            false => Ok(()),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(find::program(&self.bin_dir, program));
        // The caller's environment may name another server, so only these variables are passed on.
        command.env_clear();
        for name in ["PATH", "TZ", "LD_LIBRARY_PATH", "SystemRoot", "TEMP", "TMP"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.current_dir(&self.folder);
        if let Some(account) = &self.account {
            account.run_as(&mut command);
        }
        command
    }

    fn hand_over(&self, path: &Path) -> Result<(), DevdbError> {
        self.account.as_ref().map_or(Ok(()), |account| account.own(path))
    }
}

impl Drop for DevPostgres {
    fn drop(&mut self) {
        // Nobody is there to hear of a failure; the guard ends what is left.
        let _ = self.halt(true);
        let _ = self.remove_temporary();
    }
}

fn temporary_folder() -> PathBuf {
    std::env::temp_dir().join(format!("postbell-{:016x}", rand::random::<u64>()))
}

fn write_secret(path: &Path, secret: &str) -> Result<(), DevdbError> {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).and_then(|mut f| f.write_all(secret.as_bytes())).map_err(on("write", path))
}

/// The last five lines of a log that are not blank: the cause of a failure is there.
fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}
