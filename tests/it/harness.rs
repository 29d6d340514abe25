//! A daemon as a child process, its directories, and the emulator that it sends to.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::emulator::{Emulator, EmulatorConfig, Latency, Limits, WindowKind};
use tidegate::gate::units::UnixMs;
use tidegate::store::{Batch, GroupBy, Reader, UsageFilter, UsageRow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What the daemon finds in `TIDEGATE_KEY`, and the emulators of [`emulator`] take.
pub(crate) const KEY: &str = "a-key-for-tests-0001";
/// What the daemon finds in `TIDEGATE_LEAKED_KEY`, and the emulators of [`emulator`] refuse.
pub(crate) const LEAKED_KEY: &str = "a-key-for-tests-0002";
/// The model of every batch that does not say.
pub(crate) const MODEL: &str = "gemini-2.0-flash";

/// How long anything may take before a test gives up. Nothing here should take a tenth of it.
const PATIENCE: Duration = Duration::from_secs(100);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A directory with a configuration, a spool and a state of its own.
#[derive(Debug)]
pub(crate) struct Site {
    dir: TempDir,
    state_dir: PathBuf,
    children: Cell<u32>,
}

/// A command of the binary under way. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    /// Where it listens; known once it is ready.
    address: Option<SocketAddr>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// `[[project]]` as text, with the limits of `MODEL` open but for what `limits` says.
pub(crate) fn project(name: &str, base_url: &str, limits: &str) -> String {
    // The day must not end while a test runs.
    let now = tidegate::clock::now().wall.to_utc();
    let far = (chrono::Timelike::hour(&now) + 12) % 24;
    format!(
        r#"
[[project]]
name = "{name}"
base_url = "{base_url}"
preset = "gemini-2025-02"
tier = "free"
keys = [{{ name = "main", env = "TIDEGATE_KEY" }}]
day = {{ zone = "UTC", reset = "0 {far} * * *" }}

[[project.limits]]
model = "{MODEL}"
rpm = "none"
tpm = "none"
rpd = "none"
{limits}
"#
    )
}

/// `limit` requests in any `seconds`, below `[[project.limits]]`.
pub(crate) fn window(limit: u32, seconds: u64) -> String {
    format!(
        "[[project.limits.extra]]\ndimension = \"requests\"\nwindow = \"{seconds}s\"\nlimit = {limit}"
    )
}

impl Site {
    /// A site whose configuration has these projects, with `MODEL` as the default model and the
    /// first project as the default project.
    pub(crate) fn new(projects: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        Self::with_state(dir, state_dir, projects)
    }

    /// A site whose database is elsewhere.
    pub(crate) fn with_state(dir: TempDir, state_dir: PathBuf, projects: &str) -> Self {
        let name = projects.split('"').nth(1).unwrap();
        let config = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nstate_dir = \"{}\"\nspool_dir = \"{}\"\n\n\
             [defaults]\nproject = \"{name}\"\nmodel = \"{MODEL}\"\n{projects}",
            state_dir.display(),
            dir.path().join("spool").display(),
        );
        fs::write(dir.path().join("tidegate.toml"), config).unwrap();
        fs::create_dir_all(dir.path().join("spool/incoming")).unwrap();
        Self { dir, state_dir, children: Cell::new(0) }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("tidegate.toml")
    }

    /// Changes the configuration's text.
    pub(crate) fn edit_config(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        assert!(text.contains(from), "{from} is not in\n{text}");
        fs::write(self.config(), text.replace(from, to)).unwrap();
    }

    /// Lets every project have this many requests in flight.
    pub(crate) fn at_once(&self, count: u32) {
        self.edit_config("tier = \"free\"", &format!("tier = \"free\"\nmax_in_flight = {count}"));
    }

    /// Lets commands reach the daemon: it listens on a socket of a name that is known before.
    pub(crate) fn open_socket(&self) {
        let socket = self.path("socket");
        let listen = format!("\"127.0.0.1:0\", \"unix:{}\"", socket.display());
        self.edit_config("\"127.0.0.1:0\"", &listen);
    }

    /// Drops a file the way users are told to: under a hidden name, then renamed.
    pub(crate) fn drop_file(&self, name: &str, content: impl AsRef<[u8]>) {
        let incoming = self.path("spool/incoming");
        let aside = incoming.join(format!(".{name}"));
        fs::write(&aside, content).unwrap();
        fs::rename(aside, incoming.join(name)).unwrap();
    }

    /// The names in one of the spool's directories, sorted.
    pub(crate) fn list(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path("spool").join(dir)).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.unwrap().file_name().to_string_lossy().into_owned()
        };
        let mut names: Vec<_> = entries.map(name).filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    /// Starts a command of the binary, with its output in files.
    pub(crate) fn spawn(&self, args: &[&str]) -> Daemon {
        self.spawn_with(args, |_| {})
    }

    /// The same, with something else about the process, such as its user.
    pub(crate) fn spawn_with(&self, args: &[&str], with: impl FnOnce(&mut Command)) -> Daemon {
        let n = self.children.get() + 1;
        self.children.set(n);
        let log = self.path(&format!("{n:02}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .arg("--config")
            .arg(self.config())
            .args(args)
            .env_clear()
            .env("TIDEGATE_KEY", KEY)
            .env("TIDEGATE_LEAKED_KEY", LEAKED_KEY)
            .stdin(Stdio::null())
            .stdout(File::create(log.with_extension("out")).unwrap())
            .stderr(File::create(&log).unwrap());
        with(&mut command);
        let child = command.spawn().unwrap();
        Daemon { child, log, address: None }
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, |_| {}).await
    }

    /// The same, with something else about the process.
    pub(crate) async fn run_with(&self, args: &[&str], with: impl FnOnce(&mut Command)) -> Ended {
        self.end(self.spawn_with(args, with)).await
    }

    /// Waits for the end of a command.
    pub(crate) async fn end(&self, mut child: Daemon) -> Ended {
        let status = child.ended(self).await;
        Ended { code: status.code().unwrap_or(-1), stdout: child.out(), stderr: child.log() }
    }

    /// Runs a command that must end well, and returns what it printed.
    pub(crate) async fn told(&self, args: &[&str]) -> String {
        let ended = self.run(args).await;
        assert_eq!(ended.code, 0, "{args:?}: {}\n{}", ended.stderr, self.logs());
        ended.stdout
    }

    /// The document that a command prints.
    pub(crate) async fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.told(args).await).unwrap()
    }

    /// Starts the daemon and waits until it says that it is ready, on its log and over HTTP.
    pub(crate) async fn serve(&self) -> Daemon {
        let mut daemon = self.spawn(&["serve"]);
        let address: SocketAddr = self
            .until("the daemon is ready", async || {
                assert!(
                    daemon.child.try_wait().unwrap().is_none(),
                    "serve ended:\n{}",
                    self.logs()
                );
                let log = daemon.log();
                let (_, rest) = log.split_once("listening on http://")?;
                rest.split_whitespace().next()?.parse().ok()
            })
            .await;
        daemon.address = Some(address);
        assert_eq!(daemon.get("/readyz").await, (200, json!({"status": "ready"})));
        daemon
    }

    /// Looks until there is something to return.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let looking = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await;
        found.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}\n{}", self.logs()))
    }

    /// Waits for a file of the spool and reads it. Such files appear whole.
    pub(crate) async fn wait_for(&self, relative: &str) -> Vec<u8> {
        let path = self.path("spool").join(relative);
        self.until(relative, async || fs::read(&path).ok()).await
    }

    /// Waits for `NAME.results.jsonl` in `done` or `failed`.
    pub(crate) async fn results(&self, dir: &str, name: &str) -> Vec<Line> {
        let text = self.wait_for(&format!("{dir}/{name}.results.jsonl")).await;
        parse_lines(&text)
    }

    /// Waits for `NAME.report.json` in `done` or `failed`.
    pub(crate) async fn report(&self, dir: &str, name: &str) -> Value {
        serde_json::from_slice(&self.wait_for(&format!("{dir}/{name}.report.json")).await).unwrap()
    }

    /// What every command of this site said so far.
    pub(crate) fn logs(&self) -> String {
        (1..=self.children.get()).fold(String::new(), |mut text, n| {
            let log = fs::read_to_string(self.path(&format!("{n:02}.log"))).unwrap_or_default();
            let _ = write!(text, "--- {n:02}\n{log}");
            text
        })
    }

    /// The database, read beside the daemon.
    pub(crate) fn reader(&self) -> Reader {
        Reader::open(&self.state_dir).unwrap()
    }

    /// Whether there is no database yet, or no schema in it.
    pub(crate) async fn reader_is_empty(&self) -> bool {
        match Reader::open(&self.state_dir) {
            Ok(reader) => reader.batches(1).await.is_err(),
            Err(_) => true,
        }
    }

    /// The sums over the whole ledger.
    pub(crate) async fn usage(&self) -> UsageRow {
        let filter =
            UsageFilter { since: UnixMs(0), until: UnixMs(i64::MAX), project: None, model: None };
        let rows = self.reader().usage(GroupBy::default(), &filter).await.unwrap();
        rows.into_iter().next().unwrap_or_default()
    }

    /// Waits until every batch is over: results appear a moment before.
    pub(crate) async fn all_over(&self) {
        let reader = self.reader();
        self.until("every batch is over", async || {
            reader.unfinished_batches().await.unwrap().is_empty().then_some(())
        })
        .await;
    }

    /// Waits for a batch that satisfies `is`.
    pub(crate) async fn batch(&self, what: &str, is: impl Fn(&Batch) -> bool) -> Batch {
        let reader = self.reader();
        self.until(what, async || reader.batches(10).await.unwrap().into_iter().find(|b| is(b)))
            .await
    }
}

impl Daemon {
    /// What it wrote to stderr so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// What it wrote to stdout so far.
    pub(crate) fn out(&self) -> String {
        fs::read_to_string(self.log.with_extension("out")).unwrap()
    }

    /// SIGINT, as Ctrl-C sends it.
    pub(crate) fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    /// Submits a job file over TCP: the status and the answer.
    pub(crate) async fn submit(&self, question: &str, body: &str) -> (u16, Value) {
        let (address, length) = (self.address.unwrap(), body.len());
        let request = format!(
            "POST /api/v1/batches?{question} HTTP/1.0\r\nHost: {address}\r\nContent-Length: \
             {length}\r\n\r\n{body}"
        );
        let (status, answer) = http(address, &request).await;
        (status, serde_json::from_str(&answer).unwrap())
    }

    /// Asks its API: the status and the document.
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = http_get(self.address.unwrap(), path).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    /// Gives its API a document: the status and the answer.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (address, body) = (self.address.unwrap(), body.to_string());
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        let (status, answer) = http(address, &request).await;
        (status, serde_json::from_str(&answer).unwrap())
    }

    /// The bucket of a model of the project `demo`, as the daemon shows it.
    pub(crate) async fn bucket(&self, model: &str) -> Value {
        let (_, report) = self.get("/api/v1/limits").await;
        let buckets = report["buckets"].as_array().unwrap();
        let has = |bucket: &&Value| {
            bucket["models"].as_array().unwrap().iter().any(|known| known == model)
        };
        buckets.iter().find(has).unwrap_or_else(|| panic!("no {model} in {report}")).clone()
    }

    /// Waits until a bucket is as it must become.
    pub(crate) async fn bucket_when(
        &self,
        site: &Site,
        model: &str,
        is: impl Fn(&Value) -> bool,
    ) -> Value {
        site.until(&format!("the bucket of {model}"), async || {
            Some(self.bucket(model).await).filter(&is)
        })
        .await
    }

    /// Where it listens on TCP.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its log says this.
    pub(crate) async fn says(&self, site: &Site, words: &str) {
        site.until(words, async || self.log().contains(words).then_some(())).await;
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self, site: &Site) -> ExitStatus {
        site.until("the process ends", async || self.child.try_wait().unwrap()).await
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// SIGTERM, and the good end that must follow.
    pub(crate) async fn stop(mut self, site: &Site) {
        self.terminate();
        let status = self.ended(site).await;
        assert_eq!(status.code(), Some(0), "after SIGTERM: {status}\n{}", site.logs());
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9), "it had ended before");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended, and been waited for, long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks for a document: the status and the body.
async fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    http(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")).await
}

pub(crate) async fn http(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// The calls that an emulator decided, in their order.
pub(crate) async fn calls(emulator: &Emulator) -> Vec<Value> {
    let (status, log) = http_get(emulator.addr(), "/__emulator/log").await;
    assert_eq!(status, 200, "{log}");
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// One limit of a bucket; null where there is none.
pub(crate) fn limit(bucket: &Value, dimension: &str) -> Value {
    let limits = bucket["limits"].as_array().unwrap();
    limits.iter().find(|limit| limit["dimension"] == dimension).cloned().unwrap_or_default()
}

/// An emulator on a free port; `models` is the text below `[[project]]` of the project `demo`.
pub(crate) async fn emulator(models: &str) -> Emulator {
    start_emulator(models, |_| {}).await
}

/// The same with other settings.
pub(crate) async fn start_emulator(
    models: &str,
    change: impl FnOnce(&mut EmulatorConfig),
) -> Emulator {
    let limits = format!(
        "[[project]]\nname = \"demo\"\nkeys = [\"{KEY}\"]\nrevoked_keys = [\"{LEAKED_KEY}\"]\n{models}"
    );
    let mut config = EmulatorConfig::new(Limits::parse(&limits).unwrap());
    change(&mut config);
    Emulator::start(config).await.unwrap()
}

/// An emulator that counts `rpm` requests of `MODEL` in a "minute" of `seconds`.
pub(crate) async fn strict_emulator(kind: WindowKind, rpm: u32, seconds: u64) -> Emulator {
    start_emulator(&model(&format!("rpm = {rpm}")), |config| {
        config.window = kind;
        config.minute = Duration::from_secs(seconds);
    })
    .await
}

/// `[[project.model]]` of `MODEL` for [`emulator`].
pub(crate) fn model(limits: &str) -> String {
    format!("[[project.model]]\nname = \"{MODEL}\"\n{limits}\n")
}

pub(crate) fn latency(min_ms: u64, max_ms: u64) -> Latency {
    Latency { min: Duration::from_millis(min_ms), max: Duration::from_millis(max_ms) }
}

/// A job file of `count` prompts: the keys `k1` … and the texts `prompt 1 of NAME` ….
pub(crate) fn job(name: &str, count: u32) -> String {
    (1..=count).map(|n| item(&format!("k{n}"), &prompt(name, n)) + "\n").collect()
}

pub(crate) fn prompt(name: &str, n: u32) -> String {
    format!("prompt {n} of {name}")
}

/// One line of a job file, without its end.
pub(crate) fn item(key: &str, text: &str) -> String {
    let content = json!({"role": "user", "parts": [{"text": text}]});
    json!({"key": key, "request": {"contents": [content]}}).to_string()
}

/// A line of a results file.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) key: String,
    /// The text of the answer; `None` for an error line.
    pub(crate) text: Option<String>,
    pub(crate) error: Value,
}

fn parse_lines(text: &[u8]) -> Vec<Line> {
    let parse = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        let answer = &value["response"]["candidates"][0]["content"]["parts"][0]["text"];
        Line {
            key: value["key"].as_str().unwrap().to_owned(),
            text: answer.as_str().map(ToOwned::to_owned),
            error: value["error"].clone(),
        }
    };
    std::str::from_utf8(text).unwrap().lines().map(parse).collect()
}

/// Every prompt of [`job`] is answered, once, in the order of the input.
#[track_caller]
pub(crate) fn assert_all_answered(lines: &[Line], name: &str, count: u32) {
    let keys: Vec<_> = lines.iter().map(|line| line.key.clone()).collect();
    let asked: Vec<_> = (1..=count).map(|n| format!("k{n}")).collect();
    assert_eq!(keys, asked);
    for (line, n) in lines.iter().zip(1..) {
        assert_answers(line, &prompt(name, n));
    }
}

/// The emulator repeats the prompt behind a colon.
#[track_caller]
pub(crate) fn assert_answers(line: &Line, prompt: &str) {
    let text = line.text.as_deref().unwrap_or_else(|| panic!("no answer: {line:?}"));
    assert_eq!(text.split_once(": ").unwrap().1, prompt, "{line:?}");
}

/// A port that refuses connections until an emulator listens on it. Keep it, so that nobody else
/// takes the port.
#[derive(Debug)]
pub(crate) struct ClosedPort {
    socket: tokio::net::TcpSocket,
}

impl ClosedPort {
    pub(crate) fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // Beside such a socket that does not listen, another may.
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self { socket }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }
}

/// The bytes of a file of the spool.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
