//! What a call costs that goes through the daemon, with every admission durable before it leaves:
//! beside nothing in between, beside a forwarder that only forwards, and beside other gateways. One
//! load generator, one upstream, and all of them in turn in each round.
//!
//! `--quick` is one short round; `--peers` installs other gateways and measures them too;
//! `--requests N` sends so many through the daemon alone and tells its memory on the way.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

mod load;
mod peers;
mod process;
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use load::{Ran, Shot, Until};
use process::{Server, Used, free_addr};
use support::{now, percentile, rate, ratio, row};

pub(crate) const PROMPT: &str = "The Ebb is a river. Answer in one sentence and name the river's \
    length and mouth. Answer in one sentence and name the river's length and mouth. Answer in one \
    sentence and name the river's length and mouth.";
const PATH: &str = "/v1beta/models/bench-model:generateContent";
const STREAM: &str = "/v1beta/models/bench-model:streamGenerateContent?alt=sse";
const MANY: usize = 32;

/// What goes through is counted and never held.
const LIMITS: &str = "  [[project.limits]]
  model = \"bench-model\"
  rpm = 1_000_000_000
  tpm = 1_000_000_000_000
  rpd = 1_000_000_000_000
";

/// What is asked for on the command line.
#[derive(Default)]
struct Options {
    quick: bool,
    peers: bool,
    requests: Option<u64>,
}

/// Somebody who is asked in each round.
struct Contender {
    name: &'static str,
    /// None of what is asked without anything in between.
    server: Option<Server>,
    shot: Shot,
    stream: Option<Shot>,
    idle: Used,
    seen: Seen,
}

/// What was seen of a contender, round by round.
#[derive(Default)]
struct Seen {
    alone_p50: Vec<u64>,
    alone_p99: Vec<u64>,
    many_p50: Vec<u64>,
    many_p99: Vec<u64>,
    rate: Vec<u64>,
    cpu_us: Vec<u64>,
    stream: Vec<u64>,
    rss_kib: u64,
}

/// The medians of what was seen.
struct Figures {
    alone_p50: u64,
    alone_p99: u64,
    many_p50: u64,
    many_p99: u64,
    rate: u64,
    cpu_us: u64,
    stream: u64,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["upstream", delay_us] => {
            return alone()?.block_on(servers::upstream(Duration::from_micros(delay_us.parse()?)));
        }
        ["forwarder", to] => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            return runtime.block_on(servers::forwarder(to.parse()?));
        }
        _ => {}
    }
    let mut options = Options::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg {
            "--quick" => options.quick = true,
            "--peers" => options.peers = true,
            "--requests" => {
                options.requests = Some(args.next().context("--requests needs a number")?.parse()?);
            }
            other => bail!("no option {other}: --quick, --peers, --requests N"),
        }
    }
    alone()?.block_on(measure(&options))
}

fn alone() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn measure(options: &Options) -> Result<()> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let upstream = Server::role(&["upstream", "0"])?;
    if let Some(requests) = options.requests {
        return memory(dir.path(), &upstream, requests).await;
    }
    let forwarder = Server::role(&["forwarder", &upstream.addr.to_string()])?;
    let tidegate = tidegate(dir.path(), &upstream)?;
    let mut contenders = vec![
        Contender::gemini("direct", upstream.addr, None)?,
        Contender::gemini("hyper forwarder", forwarder.addr, Some(forwarder))?,
        Contender::gemini("tidegate, durable ledger", tidegate.addr, Some(tidegate))?,
    ];
    let mut absent = Vec::new();
    if options.peers {
        for (name, started) in peers::start(&upstream) {
            match started {
                Ok((server, shot)) => contenders.push(Contender::new(name, shot, Some(server))?),
                Err(error) => absent.push((name, format!("{error:#}"))),
            }
        }
    }
    let (rounds, round) = if options.quick { (1, 1) } else { (5, 2) };
    let mut disk = Disk::open(dir.path()).await?;
    for number in 0..=rounds {
        disk.measure().await?;
        let mut refused = None;
        for (place, contender) in contenders.iter_mut().enumerate() {
            // The first round warms up; who cannot be asked is told from it.
            let time = Duration::from_secs(if number == 0 { 1 } else { round });
            match contender.measure(time).await {
                Err(error) if number == 0 && place > 2 => refused = Some((place, error)),
                measured => measured.with_context(|| contender.name)?,
            }
            if number == 0 {
                contender.seen = Seen::default();
            }
        }
        if let Some((place, error)) = refused {
            absent.push((contenders.remove(place).name, format!("{error:#}")));
        }
    }
    print(&mut contenders, &absent, &mut disk);
    let ours = contenders.swap_remove(2);
    ours.server.context("no daemon")?.stop()?;
    ledger(dir.path()).await
}

impl Contender {
    fn gemini(
        name: &'static str,
        addr: std::net::SocketAddr,
        server: Option<Server>,
    ) -> Result<Self> {
        let body = format!(r#"{{"contents":[{{"role":"user","parts":[{{"text":"{PROMPT}"}}]}}]}}"#);
        let stream = Shot::new(addr, STREAM, &[], &body);
        let shot = Shot::new(addr, PATH, &[], &body);
        Ok(Self { stream: Some(stream), ..Self::new(name, shot, server)? })
    }

    fn new(name: &'static str, shot: Shot, server: Option<Server>) -> Result<Self> {
        let mut contender =
            Self { name, server, shot, stream: None, idle: Used::default(), seen: Seen::default() };
        contender.idle = contender.used()?;
        Ok(contender)
    }

    fn used(&self) -> Result<Used> {
        self.server.as_ref().map_or(Ok(Used::default()), Server::used)
    }

    /// One at a time, then many at once, then streams one at a time.
    async fn measure(&mut self, time: Duration) -> Result<()> {
        let Ran { mut waits_us, .. } = self.shot.run(1, Until::Over(time)).await?;
        self.seen.alone_p50.push(percentile(&mut waits_us, 50));
        self.seen.alone_p99.push(percentile(&mut waits_us, 99));
        let before = self.used()?;
        let Ran { mut waits_us, time: took } = self.shot.run(MANY, Until::Over(time)).await?;
        let after = self.used()?;
        let count = u64::try_from(waits_us.len())?;
        self.seen.many_p50.push(percentile(&mut waits_us, 50));
        self.seen.many_p99.push(percentile(&mut waits_us, 99));
        self.seen.rate.push(rate(count, took));
        self.seen.cpu_us.push(after.cpu_us.saturating_sub(before.cpu_us) / count.max(1));
        self.seen.rss_kib = self.seen.rss_kib.max(after.rss_kib);
        if let Some(stream) = &self.stream {
            let Ran { mut waits_us, .. } = stream.run(1, Until::Over(time / 2)).await?;
            self.seen.stream.push(percentile(&mut waits_us, 50));
        }
        Ok(())
    }
}

impl Seen {
    fn figures(&mut self) -> Figures {
        let median = |values: &mut Vec<u64>| percentile(values, 50);
        Figures {
            alone_p50: median(&mut self.alone_p50),
            alone_p99: median(&mut self.alone_p99),
            many_p50: median(&mut self.many_p50),
            many_p99: median(&mut self.many_p99),
            rate: median(&mut self.rate),
            cpu_us: median(&mut self.cpu_us),
            stream: median(&mut self.stream),
        }
    }
}

fn print(contenders: &mut [Contender], absent: &[(&str, String)], disk: &mut Disk) {
    let figures: Vec<_> = contenders.iter_mut().map(|one| one.seen.figures()).collect();
    let [direct, plain, ours] = &figures[..3] else { return };
    println!(
        "\n| | p50 / p99 of 1 in flight, µs | added | p50 / p99 of {MANY}, µs | added \
        | requests/s | of the forwarder's | CPU µs each | resident, MiB, idle -> load |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (contender, seen) in contenders.iter().zip(&figures) {
        let added = |all: u64, direct: u64| all.saturating_sub(direct);
        println!(
            "| {} | {} / {} | {} / {} | {} / {} | {} / {} | {} | {} % | {} | {} -> {} |",
            contender.name,
            seen.alone_p50,
            seen.alone_p99,
            added(seen.alone_p50, direct.alone_p50),
            added(seen.alone_p99, direct.alone_p99),
            seen.many_p50,
            seen.many_p99,
            added(seen.many_p50, direct.many_p50),
            added(seen.many_p99, direct.many_p99),
            seen.rate,
            seen.rate * 100 / plain.rate.max(1),
            seen.cpu_us,
            contender.idle.rss_kib / 1024,
            contender.seen.rss_kib / 1024,
        );
    }
    for (name, reason) in absent {
        println!("| {name} | not installed: {reason} | | | | | | | |");
    }
    let commit = percentile(&mut disk.commits_us, 50);
    println!("\n| what | figure | beside it |\n|---|---|---|");
    row(
        "one commit of one row, synced",
        &format!("p50 {commit} µs, p99 {} µs", percentile(&mut disk.commits_us, 99)),
        &format!("an append of 4 KiB with fdatasync: {} µs", percentile(&mut disk.syncs_us, 50)),
    );
    let added = ours.alone_p50.saturating_sub(direct.alone_p50);
    row(
        "added at 1 in flight, less one commit",
        &format!("{} µs (goal: 300)", added.saturating_sub(commit)),
        &format!("the forwarder adds {} µs", plain.alone_p50.saturating_sub(direct.alone_p50)),
    );
    let added = ours.many_p50.saturating_sub(direct.many_p50);
    row(&format!("added at {MANY} in flight"), &format!("{added} µs (goal: 3,000)"), "");
    row(
        "requests/s",
        &format!("{} (goal: 0.35x the forwarder's)", ours.rate),
        &format!("the forwarder's {}: {}", plain.rate, ratio(ours.rate, plain.rate)),
    );
    row(
        &format!("a stream of {} events", servers::EVENTS),
        &format!("{} µs", ours.stream),
        &format!("direct {} µs, the forwarder {} µs", direct.stream, plain.stream),
    );
}

/// The disk under the ledger: a transaction of one row, and an append.
struct Disk {
    file: File,
    connection: SqliteConnection,
    commits_us: Vec<u64>,
    syncs_us: Vec<u64>,
}

impl Disk {
    async fn open(dir: &Path) -> Result<Self> {
        let mut connection = SqliteConnectOptions::new()
            .filename(dir.join("commit.sqlite3"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .connect()
            .await?;
        let table = "CREATE TABLE one (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT";
        sqlx::query(table).execute(&mut connection).await?;
        let file = File::create(dir.join("appended"))?;
        Ok(Self { file, connection, commits_us: Vec::new(), syncs_us: Vec::new() })
    }

    async fn measure(&mut self) -> Result<()> {
        for _ in 0..200 {
            let asked = now();
            let mut transaction = self.connection.begin().await?;
            let insert = sqlx::query("INSERT INTO one (text) VALUES (?1)").bind(PROMPT);
            insert.execute(&mut *transaction).await?;
            transaction.commit().await?;
            self.commits_us.push(u64::try_from(asked.elapsed().as_micros())?);
            let asked = now();
            self.file.write_all(&[0x55; 4096])?;
            self.file.sync_data()?;
            self.syncs_us.push(u64::try_from(asked.elapsed().as_micros())?);
        }
        Ok(())
    }
}

/// The daemon, with its state on the disk of the target directory.
fn tidegate(dir: &Path, upstream: &Server) -> Result<Server> {
    let addr = free_addr()?;
    let config = dir.join("tidegate.toml");
    let text = format!(
        "[server]\nlisten = [\"{addr}\"]\n[[project]]\nname = \"bench\"\npreset = \"none\"\n\
        base_url = \"http://{}\"\nmax_in_flight = 1_000_000\n\
        keys = [{{ name = \"main\", env = \"TIDEGATE_BENCH_KEY\" }}]\n{LIMITS}",
        upstream.addr
    );
    fs::write(&config, text)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["serve", "--config"]).arg(&config);
    command.arg("--state-dir").arg(dir.join("state")).arg("--spool-dir").arg(dir.join("spool"));
    command.env("TIDEGATE_BENCH_KEY", "bench").env_remove("JOURNAL_STREAM");
    Server::told(&mut command, addr, &dir.join("tidegate.log"))
}

/// What stands in the ledger in the end: every call, and none that is open.
async fn ledger(dir: &Path) -> Result<()> {
    let path = dir.join("state/tidegate.sqlite3");
    let mut connection = SqliteConnectOptions::new().filename(&path).connect().await?;
    let count = "SELECT count(*), coalesce(sum(state = 0), 0) FROM attempt";
    let (all, open): (i64, i64) = sqlx::query_as(count).fetch_one(&mut connection).await?;
    let bytes = fs::metadata(&path)?.len();
    let each = bytes / u64::try_from(all)?.max(1);
    row(
        "rows of the ledger",
        &format!("{all}, {open} of them open"),
        &format!("{each} bytes each"),
    );
    Ok(())
}

/// The daemon's memory over many requests.
async fn memory(dir: &Path, upstream: &Server, requests: u64) -> Result<()> {
    let tidegate = tidegate(dir, upstream)?;
    let asked = Contender::gemini("tidegate", tidegate.addr, Some(tidegate))?;
    println!("| requests | resident, MiB | requests/s |\n|---|---|---|");
    println!("| 0 | {} | |", asked.idle.rss_kib / 1024);
    let mut sent = 0;
    while sent < requests {
        let more = (requests - sent).min(100_000);
        let ran = asked.shot.run(MANY, Until::Sent(more)).await?;
        sent += more;
        println!("| {sent} | {} | {} |", asked.used()?.rss_kib / 1024, rate(more, ran.time));
    }
    asked.server.context("no daemon")?.stop()?;
    println!("\n| what | figure | beside it |\n|---|---|---|");
    ledger(dir).await
}
