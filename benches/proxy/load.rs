//! The load generator: so many connections, each with one request in flight, in one thread, with as
//! little work of its own as it can do. The same for whatever is asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::now;

/// What is sent, and where to.
#[derive(Clone)]
pub(crate) struct Shot {
    addr: SocketAddr,
    bytes: Arc<[u8]>,
}

/// What a run came to.
#[derive(Default)]
pub(crate) struct Ran {
    /// Of each request, from its first byte to the last of its answer.
    pub(crate) waits_us: Vec<u64>,
    pub(crate) time: Duration,
}

/// When a run is over.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Over(Duration),
    Sent(u64),
}

impl Shot {
    pub(crate) fn new(addr: SocketAddr, path: &str, headers: &[(&str, &str)], body: &str) -> Self {
        let mut text = format!(
            "POST {path} HTTP/1.1\r\nhost: {addr}\r\ncontent-type: application/json\r\n\
            content-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            for part in [name, ": ", value, "\r\n"] {
                text.push_str(part);
            }
        }
        text.push_str("\r\n");
        text.push_str(body);
        Self { addr, bytes: text.into_bytes().into() }
    }

    /// Sends it again and again.
    pub(crate) async fn run(&self, in_flight: usize, until: Until) -> Result<Ran> {
        let (begun, sent) = (now(), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..in_flight {
            tasks.spawn(self.clone().repeat(until, begun, sent.clone()));
        }
        let mut ran = Ran::default();
        while let Some(waits) = tasks.join_next().await {
            ran.waits_us.extend(waits??);
        }
        ran.time = begun.elapsed();
        Ok(ran)
    }

    async fn repeat(self, until: Until, begun: Instant, sent: Arc<AtomicU64>) -> Result<Vec<u64>> {
        let mut stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let (mut waits_us, mut answer) = (Vec::new(), Vec::with_capacity(4096));
        loop {
            let goes_on = match until {
                Until::Over(time) => begun.elapsed() < time,
                Until::Sent(most) => sent.fetch_add(1, Ordering::Relaxed) < most,
            };
            if !goes_on {
                return Ok(waits_us);
            }
            let asked = now();
            stream.write_all(&self.bytes).await?;
            answer.clear();
            while !is_whole(&answer)? {
                ensure!(stream.read_buf(&mut answer).await? > 0, "the connection was closed");
            }
            waits_us.push(u64::try_from(asked.elapsed().as_micros())?);
        }
    }
}

/// Whether an answer is there to its end; an error if it is no good one.
fn is_whole(answer: &[u8]) -> Result<bool> {
    let Some(head_bytes) = memchr::memmem::find(answer, b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(&answer[..head_bytes])?;
    let body = &answer[head_bytes + 4..];
    let named = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|field| field.0.eq_ignore_ascii_case(name)).map(|field| field.1.trim())
    };
    let is_whole = match named("content-length") {
        Some(length) => body.len() >= length.parse()?,
        None => body.ends_with(b"0\r\n\r\n"),
    };
    let is_good = head.starts_with("HTTP/1.1 200");
    ensure!(is_good || !is_whole, "{}", String::from_utf8_lossy(answer));
    Ok(is_whole)
}
