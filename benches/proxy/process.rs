//! Processes that are measured: what they use, and their end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::now;

/// The unit of times in /proc on every system that this is built for.
const TICK_US: u64 = 10_000;

/// A server and where it listens. Dropping it ends it.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    child: Child,
}

/// What a process and those that it has started use.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) cpu_us: u64,
    pub(crate) rss_kib: u64,
}

impl Server {
    /// This program in another role; it prints its address.
    pub(crate) fn role(args: &[&str]) -> Result<Self> {
        let mut child =
            Command::new(std::env::current_exe()?).args(args).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Self { addr: line.trim().parse()?, child })
    }

    /// A server that is told where to listen, ready once it accepts connections.
    pub(crate) fn told(command: &mut Command, addr: SocketAddr, log: &Path) -> Result<Self> {
        let out = fs::File::create(log)?;
        command.stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let mut server = Self { addr, child };
        let begun = now();
        while std::net::TcpStream::connect(addr).is_err() {
            let ended = server.child.try_wait()?;
            let said = || fs::read_to_string(log).unwrap_or_default();
            ensure!(ended.is_none(), "it has ended: {}", reason(&said()));
            ensure!(
                begun.elapsed() < Duration::from_mins(3),
                "it does not listen: {}",
                reason(&said())
            );
            pause();
        }
        Ok(server)
    }

    pub(crate) fn used(&self) -> Result<Used> {
        used(self.child.id())
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in children(self.child.id()) {
            let pid = i32::try_from(child).ok().and_then(rustix::process::Pid::from_raw);
            let kill = rustix::process::Signal::KILL;
            let _ = pid.map(|pid| rustix::process::kill_process(pid, kill));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody has.
pub(crate) fn free_addr() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[expect(clippy::disallowed_methods, reason = "a peer does not say when it is ready")]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

fn used(pid: u32) -> Result<Used> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|field| field.parse::<u64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("no times")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|rss| rss.split_whitespace().next()).context("no VmRSS")?;
    let mut sum = Used { cpu_us: (user + system) * TICK_US, rss_kib: rss.parse()? };
    for child in children(pid) {
        // One that has ended meanwhile uses nothing.
        let more = used(child).unwrap_or_default();
        sum.cpu_us += more.cpu_us;
        sum.rss_kib += more.rss_kib;
    }
    Ok(sum)
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// The line in which a program says why it gave up: the last that tells an error, else the last.
pub(crate) fn reason(text: &str) -> String {
    let mut lines = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let last = lines.clone().next().unwrap_or("nothing said");
    let line = lines.find(|line| line.contains("Error: ")).unwrap_or(last);
    line.chars().filter(|letter| *letter != '|').take(160).collect()
}
