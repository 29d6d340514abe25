//! A large job file, from its acceptance to its last item in the queue, by the daemon itself; what
//! the daemon weighs with it; and what other programs need for the same lines.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use support::{now, percentile, rate, ratio, row};

const OPTIONS: &str = r#"{"tidegate":{"model":"bench-model","not_before":"2999-01-01T00:00:00Z"}}"#;

const CONFIG: &str = r#"
[server]
listen = ["127.0.0.1:0"]
[[project]]
name = "bench"
preset = "none"
base_url = "http://127.0.0.1:9"
keys = [{ name = "main", env = "TIDEGATE_BENCH_KEY" }]
  [[project.limits]]
  model = "bench-model"
  rpm = 1_000
  tpm = 1_000_000
"#;

/// Text in, rows of text out, in one durable transaction.
const INSERT: &str = "
import sqlite3, sys, time
begun = time.monotonic()
db = sqlite3.connect(sys.argv[2])
db.execute('PRAGMA journal_mode=WAL')
db.execute('PRAGMA synchronous=FULL')
db.execute('CREATE TABLE line (id INTEGER PRIMARY KEY, text TEXT NOT NULL)')
with open(sys.argv[1]) as lines, db:
    db.executemany('INSERT INTO line (text) VALUES (?)', ((line,) for line in lines))
print(int((time.monotonic() - begun) * 1e6))
";

/// What one import came to.
struct Imported {
    /// From "is accepted" to "has N items".
    time: Duration,
    /// From the drop to "is accepted": until it has settled, was copied, hashed and synced.
    accepting: Duration,
    memory: Memory,
    before: Memory,
    database_bytes: u64,
}

/// Of a process, in KiB.
struct Memory {
    now: u64,
    most: u64,
}

/// Answers every item of the only batch, as a run would have left it: the same line a million
/// times, in another order than that of the items.
const ANSWER: &str = "
import sqlite3, sys
database, answers, line, hash = sys.argv[1], sys.argv[2], sys.argv[3].encode() + b'\\n', int(sys.argv[4])
db = sqlite3.connect(database)
ids = [id for (id,) in db.execute('SELECT id FROM item ORDER BY id % 1000, id')]
with open(answers, 'wb') as file:
    for _ in ids:
        file.write(line)
with db:
    db.executemany('INSERT INTO answer (item_id, line_offset, line_bytes, line_hash) VALUES (?, ?, ?, ?)',
        ((id, n * len(line), len(line), hash) for n, id in enumerate(ids)))
    db.execute('UPDATE item SET state = 1')
    db.execute('UPDATE batch SET succeeded = items, not_before = NULL')
";

/// With this argument 10,000,000 lines are measured too: it takes a few minutes and 6 GB of disk.
const FULL: &str = "--full";

fn main() -> Result<()> {
    for (lines, runs) in [(100_000, 3), (1_000_000, 1)] {
        measure(lines, runs)?;
    }
    if std::env::args().any(|arg| arg == FULL) {
        measure(10_000_000, 1)?;
    }
    finish(1_000_000)
}

/// From the last answer to the results file.
fn finish(lines: u64) -> Result<()> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let file = dir.path().join("job.jsonl");
    write_job(&file, lines)?;
    let site = dir.path().join("run");
    import(&site, &file, lines)?;
    let text = "The Ebb is a river that runs into the sea. ".repeat(8);
    let line = format!(
        r#"{{"key":"k","response":{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}}}}]}}}}"#
    );
    let hash = tidegate::store::line_hash(format!("{line}\n").as_bytes());
    let work = fs::read_dir(site.join("spool/working"))?.next().context("no batch")??.path();
    let status = Command::new("python3")
        .args(["-c", ANSWER])
        .arg(site.join("state/tidegate.sqlite3"))
        .arg(work.join("answers"))
        .args([&line, &hash.to_string()])
        .status()?;
    ensure!(status.success(), "python3 failed");
    let daemon = Daemon::launch(&site)?;
    let begun = now();
    let done = daemon.wait(&format!("is done: {lines} of {lines}"))?;
    let memory = daemon.memory()?;
    daemon.stop()?;
    let copied = now();
    fs::copy(site.join("spool/done/job.results.jsonl"), dir.path().join("copy"))?;
    let copied = copied.elapsed();
    let bytes = fs::metadata(site.join("spool/done/job.results.jsonl"))?.len();
    row(
        &format!("finalising {lines} results of {} bytes", bytes / lines),
        &format!("{} ms, {} KiB at most", done.duration_since(begun).as_millis(), memory.most),
        &format!("copying the file: {} ms", copied.as_millis()),
    );
    Ok(())
}

fn measure(lines: u64, runs: usize) -> Result<()> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let file = dir.path().join("job.jsonl");
    write_job(&file, lines)?;
    let mut rates = Vec::new();
    let mut last = None;
    for run in 0..runs {
        let imported = import(&dir.path().join(format!("run{run}")), &file, lines)?;
        rates.push(rate(lines, imported.time));
        last = Some(imported);
    }
    let last = last.context("no run")?;
    let ours = percentile(&mut rates, 50);
    let python = python(&file, &dir.path().join("text.sqlite3")).map(|time| rate(lines, time));
    let sqlite = sqlite(&file, &dir.path().join("plain.sqlite3")).map(|time| rate(lines, time));
    let jq = jq(&file).map(|time| rate(lines, time));
    let beside = |what: &str, other: Option<u64>| match other {
        Some(other) => format!("{what}: {other} lines/s: {}", ratio(ours, other)),
        None => format!("{what}: not here"),
    };
    row(
        &format!("import of {lines} lines"),
        &format!("{ours} lines/s"),
        &format!(
            "{}; {}; {}",
            beside("sqlite3 .import", sqlite.ok()),
            beside("python3 sqlite3 executemany", python.ok()),
            beside("jq -c .", jq.ok())
        ),
    );
    row(
        &format!("settling, copying, hashing {lines} lines before"),
        &format!("{} ms", last.accepting.as_millis()),
        "",
    );
    row(
        &format!("memory with {lines} lines queued"),
        &format!("{} KiB, {} KiB at most", last.memory.now, last.memory.most),
        &format!("before: {} KiB, {} KiB at most", last.before.now, last.before.most),
    );
    row(
        &format!("database with {lines} lines queued"),
        &format!("{} bytes an item", last.database_bytes / lines),
        &format!("the job file: {} bytes a line", fs::metadata(&file)?.len() / lines),
    );
    Ok(())
}

/// Prompts of about 200 bytes, nothing of which is to be sent in this millennium.
fn write_job(path: &Path, lines: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "{OPTIONS}")?;
    // Ten million lines must fit into the 2 GiB of a job file.
    let times = if lines > 5_000_000 { 1 } else { 3 };
    let tail = "Answer in one sentence and name the river's length and mouth. ".repeat(times);
    for line in 0..lines {
        let prompt = format!("River {line}. {tail}");
        let request =
            format!(r#"{{"contents":[{{"role":"user","parts":[{{"text":"{prompt}"}}]}}]}}"#);
        writeln!(file, r#"{{"key":"prompt-{line:08}","request":{request}}}"#)?;
    }
    file.flush()?;
    Ok(())
}

/// A daemon and the lines of its log.
struct Daemon {
    child: Child,
    log: Receiver<(Instant, String)>,
}

fn import(dir: &Path, job: &Path, lines: u64) -> Result<Imported> {
    let (state, spool) = (dir.join("state"), dir.join("spool"));
    Daemon::start(dir)?.stop()?;
    let empty = size(&state)?;
    let daemon = Daemon::start(dir)?;
    let before = daemon.memory()?;
    let staged = spool.join("incoming/job.jsonl.tmp");
    fs::copy(job, &staged)?;
    let dropped = now();
    fs::rename(&staged, spool.join("incoming/job.jsonl"))?;
    let accepted = daemon.wait("is accepted")?;
    let queued = daemon.wait(&format!("has {lines} items"))?;
    let memory = daemon.memory()?;
    daemon.stop()?;
    Ok(Imported {
        time: queued.duration_since(accepted),
        accepting: accepted.duration_since(dropped),
        memory,
        before,
        database_bytes: size(&state)?.saturating_sub(empty),
    })
}

impl Daemon {
    /// Returns when it is ready.
    fn start(dir: &Path) -> Result<Self> {
        let daemon = Self::launch(dir)?;
        daemon.wait("ready: drop job files")?;
        Ok(daemon)
    }

    fn launch(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let config = dir.join("tidegate.toml");
        fs::write(&config, CONFIG)?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["serve", "--config"])
            .arg(&config)
            .arg("--state-dir")
            .arg(dir.join("state"))
            .arg("--spool-dir")
            .arg(dir.join("spool"))
            .env("TIDEGATE_BENCH_KEY", "bench")
            .env_remove("JOURNAL_STREAM")
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().context("the daemon has no stderr")?;
        let (tell, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if tell.send((now(), line)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, log })
    }

    /// When the log says so.
    fn wait(&self, words: &str) -> Result<Instant> {
        let mut seen = String::new();
        loop {
            let Ok((at, line)) = self.log.recv_timeout(Duration::from_mins(10)) else {
                anyhow::bail!("the daemon does not say `{words}`; it says:\n{seen}");
            };
            if line.contains(words) {
                return Ok(at);
            }
            seen.push_str(&line);
            seen.push('\n');
        }
    }

    /// A second later: what was freed meanwhile is not counted.
    fn memory(&self) -> Result<Memory> {
        while self.log.recv_timeout(Duration::from_secs(1)).is_ok() {}
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Ok(Memory {
            now: field("VmRSS:").context("no VmRSS")?,
            most: field("VmHWM:").context("no VmHWM")?,
        })
    }

    fn stop(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that was stopped is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The database with what belongs to it.
fn size(state: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(state)? {
        sum += entry?.metadata()?.len();
    }
    Ok(sum)
}

fn python(job: &Path, database: &Path) -> Result<Duration> {
    let output = Command::new("python3").args(["-c", INSERT]).arg(job).arg(database).output()?;
    ensure!(output.status.success(), "python3 failed");
    Ok(Duration::from_micros(String::from_utf8(output.stdout)?.trim().parse()?))
}

/// Lines as they are into a table of one column: no JSON is read, and nothing is synced.
fn sqlite(job: &Path, database: &Path) -> Result<Duration> {
    let begun = now();
    let status = Command::new("sqlite3")
        .arg(database)
        .args(["CREATE TABLE line (text)", ".separator \u{1} \n"])
        .arg(format!(".import {} line", job.display()))
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "sqlite3 failed");
    Ok(begun.elapsed())
}

fn jq(job: &Path) -> Result<Duration> {
    let begun = now();
    let status = Command::new("jq").args(["-c", "."]).arg(job).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "jq failed");
    Ok(begun.elapsed())
}
