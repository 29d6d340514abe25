//! The corpus through the daemon: a server that replays bytes, and clients that compare them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tidegate::store::AttemptRow;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::reading::hex_sha256;
use super::wire::Message;
use super::{Case, cases, pieces};
use crate::harness::{Daemon, KEY, Site, project};

/// What the client shows, in place of a key.
const TOKEN: &str = "what-the-client-has-instead";
/// Which answer is asked for; it passes like any other header.
const CASE: &str = "x-case";

/// A server that gives each request the bytes of the case that it names.
struct Replay {
    address: SocketAddr,
    /// The heads of all requests.
    heads: Arc<Mutex<Vec<Message>>>,
}

impl Replay {
    async fn new(cases: &[Case]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let answers: BTreeMap<String, Vec<u8>> =
            cases.iter().map(|case| (case.name.clone(), case.bytes.clone())).collect();
        let (answers, seen) = (Arc::new(answers), Arc::clone(&heads));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that breaks is the client's affair.
                tokio::spawn(replay(stream, Arc::clone(&answers), Arc::clone(&seen)));
            }
        });
        Self { address, heads }
    }
}

async fn replay(
    mut stream: TcpStream,
    answers: Arc<BTreeMap<String, Vec<u8>>>,
    seen: Arc<Mutex<Vec<Message>>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    loop {
        let (head, behind) = loop {
            if let Some((head, behind)) = Message::head(&bytes) {
                break (head, behind.to_vec());
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let length = head.length().unwrap_or(0);
        bytes = behind;
        while bytes.len() < length {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        bytes.drain(..length);
        let name = head.all(CASE).concat();
        let answer = &answers[&name];
        seen.lock().unwrap().push(head);
        let Some((frame, _)) = Message::head(answer).filter(|_| answer.starts_with(b"HTTP")) else {
            stream.write_all(answer).await?;
            return stream.shutdown().await;
        };
        let is_complete = Message::answer(answer).is_complete;
        let pieces = if is_complete {
            pieces(answer, u64::try_from(name.len()).unwrap())
        } else {
            // With its end at once, which is harder to pass on.
            vec![answer.as_slice()]
        };
        for piece in pieces {
            stream.write_all(piece).await?;
            tokio::task::yield_now().await;
        }
        let is_framed = frame.length().is_some() || !frame.all("transfer-encoding").is_empty();
        if !is_complete || !is_framed {
            return stream.shutdown().await;
        }
    }
}

/// What a client gets, whole.
async fn ask(address: SocketAddr, case: &Case) -> Message {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (path, name) = (&case.want.path, &case.name);
    let body =
        r#"{"model":"gemini-2.0-flash","contents":[{"parts":[{"text":"hi"}]}],"input":"hi"}"#;
    let length = body.len();
    let request = format!(
        "POST /p/{name}{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n{CASE}: {name}\r\n\
         x-goog-api-key: {TOKEN}\r\nAccept-Encoding: gzip, deflate\r\n\
         x-tidegate-max-wait: 0\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A body that broke off may end in a reset.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.is_empty(), "{name}: the connection broke before an answer");
    Message::answer(&answer)
}

/// What is wrong with what a client got.
fn wrongs(case: &Case, got: &Message) -> Vec<String> {
    let want = &case.want;
    let mut wrong = Vec::new();
    if got.status() != want.status {
        wrong.push(format!("status {} ({})", got.status(), String::from_utf8_lossy(&got.body)));
    } else if want.cut {
        // All that came, and a connection that breaks as the provider's did.
        if got.is_complete || hex_sha256(&got.body) != want.body_sha256 {
            let all = want.body_bytes;
            wrong.push(format!("cut: {} of {all}, whole: {}", got.body.len(), got.is_complete));
        }
    } else if !got.is_complete || hex_sha256(&got.body) != want.body_sha256 {
        wrong.push(format!("body of {} bytes, whole: {}", got.body.len(), got.is_complete));
    }
    let names: Vec<&str> = want.headers.iter().map(|(name, _)| name.as_str()).collect();
    let of_case = |header: &&(String, String)| names.contains(&header.0.as_str());
    let mut passed: Vec<_> = got.headers.iter().filter(of_case).collect();
    let mut wanted: Vec<_> = want.headers.iter().collect();
    // Only among those of one name their order means something.
    passed.sort_by_key(|(name, _)| name);
    wanted.sort_by_key(|(name, _)| name);
    if passed != wanted {
        wrong.push(format!("headers {passed:?}"));
    }
    if got.all("x-tidegate-attempt").len() != 1 || got.all("x-tidegate-waited-ms").len() != 1 {
        wrong.push("it does not say which attempt it was".to_owned());
    }
    wrong
}

/// What is wrong with what the ledger has. Reservations stand where nothing was counted.
fn ledger_wrongs(case: &Case, rows: &[AttemptRow]) -> Vec<String> {
    let want = &case.want;
    let [row] = rows else { return vec![format!("{} rows", rows.len())] };
    let is_throttled = want.class.as_ref().is_some_and(|class| class.starts_with("Throttled"));
    let state = match want.ended.as_str() {
        "complete" => 1,
        "failed" if is_throttled => 3,
        "failed" => 2,
        _ => 5,
    };
    let mut wrong = Vec::new();
    if row.state != state || row.http_status != Some(i64::from(want.status)) {
        wrong.push(format!("state {}, status {:?}: {:?}", row.state, row.http_status, row.error));
    }
    let counted = want.usage.as_ref().map(|usage| {
        (i64::try_from(usage.prompt), i64::try_from(usage.candidates), i64::try_from(usage.total))
    });
    let row_counts = (Ok(row.input_tokens), Ok(row.output_tokens), Ok(row.total_tokens));
    if counted.is_some_and(|counted| counted != row_counts) {
        wrong.push(format!("tokens {row_counts:?}"));
    }
    if row.error.as_ref().is_some_and(|error| error.contains(KEY)) {
        wrong.push("the key stands in the ledger".to_owned());
    }
    wrong
}

/// A project for each case, for what one refuses must not touch the next.
fn projects(cases: &[Case], address: SocketAddr) -> String {
    cases.iter().fold(String::new(), |mut text, case| {
        let one = project(&case.name, &format!("http://{address}"), "");
        let one = match &case.want.provider {
            Some(provider) => {
                let own = format!("\nprovider = \"{provider}\"\npreset");
                one.replacen("\npreset", &own, 1).replace("preset = \"gemini-2025-02\"\n", "")
            }
            None => one,
        };
        writeln!(text, "{one}").unwrap();
        text
    })
}

async fn settled(site: &Site, count: usize) -> BTreeMap<String, Vec<AttemptRow>> {
    let limit = i64::try_from(count).unwrap() * 4;
    let rows = site
        .until("every attempt is settled", async || {
            let rows = site.reader().attempts(limit).await.unwrap();
            rows.iter().all(|row| row.state != 0).then_some(rows)
        })
        .await;
    rows.into_iter().fold(BTreeMap::new(), |mut all: BTreeMap<_, Vec<_>>, row| {
        all.entry(row.project.clone()).or_default().push(row);
        all
    })
}

async fn check(site: &Site, daemon: &Daemon, replay: &Replay, cases: &[Case]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut note = |case: &Case, found: Vec<String>| {
        if !found.is_empty() {
            wrong.push(format!("{}: {}", case.name, found.join("; ")));
        }
    };
    for case in cases {
        let got = ask(daemon.address(), case).await;
        note(case, wrongs(case, &got));
    }
    let rows = settled(site, cases.len()).await;
    for case in cases {
        note(case, ledger_wrongs(case, rows.get(&case.name).map_or(&[], Vec::as_slice)));
    }
    for head in replay.heads.lock().unwrap().iter() {
        let keys = [head.all("x-goog-api-key"), head.all("authorization")].concat();
        let name = head.all(CASE).concat();
        if ![vec![KEY.to_owned()], vec![format!("Bearer {KEY}")]]
            .contains(&keys.iter().map(|key| (*key).to_owned()).collect())
            || head.start.contains(TOKEN)
        {
            wrong.push(format!("{name}: credentials {keys:?} of {}", head.start));
        }
    }
    wrong
}

#[tokio::test]
async fn each_answer_passes_to_the_byte_and_is_written_down() {
    let cases = cases();
    let replay = Replay::new(&cases).await;
    let site = Site::new(&projects(&cases, replay.address));
    let daemon = site.serve().await;
    let wrong = check(&site, &daemon, &replay, &cases).await;
    daemon.stop(&site).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!site.logs().contains(TOKEN), "a client's credential is in the log");
}

#[tokio::test]
async fn no_answer_is_in_doubt_and_said_to_be_none() {
    let mut cases = cases();
    cases.truncate(3);
    let bytes: [&[u8]; 3] = [b"", b"HTTP/1.1 200 OK\r\nContent-", b"220 mail ready\r\n\r\n"];
    for (case, bytes) in cases.iter_mut().zip(bytes) {
        case.bytes = bytes.to_vec();
        case.want.path = "/v1beta/models/gemini-2.0-flash:generateContent".to_owned();
    }
    let replay = Replay::new(&cases).await;
    let site = Site::new(&projects(&cases, replay.address));
    let daemon = site.serve().await;
    for case in &cases {
        let got = ask(daemon.address(), case).await;
        assert_eq!((got.status(), got.is_complete), (502, true));
        let said: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        assert_eq!(said["error"]["code"], 502, "{said}");
    }
    let rows = settled(&site, cases.len()).await;
    assert_eq!(rows.len(), cases.len());
    for (name, rows) in rows {
        let states: Vec<_> = rows.iter().map(|row| (row.state, row.http_status)).collect();
        assert_eq!(states, [(5, None)], "{name}: {:?}", rows[0].error);
    }
    daemon.stop(&site).await;
}
