//! Just enough of HTTP/1 to tell a body from its frame, written here so that what is judged is not
//! judged by itself.

/// A message as it came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) start: String,
    /// Names in lower case, values without the blanks around them.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Whether the body ends as its frame says.
    pub(super) is_complete: bool,
}

impl Message {
    /// Reads an answer, behind any that only announce it.
    pub(super) fn answer(bytes: &[u8]) -> Self {
        let mut rest = bytes;
        loop {
            let (message, behind) = Self::head(rest).expect("an answer has a head");
            if !(100..200).contains(&message.status()) {
                return message.with_body(behind);
            }
            rest = behind;
        }
    }

    /// The first message's head and what is behind it; none while it is not whole.
    pub(super) fn head(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let start = lines.next().unwrap().to_owned();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').expect("a header has a colon");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        let headers = headers.collect();
        Some((Self { start, headers, body: Vec::new(), is_complete: false }, &bytes[end + 4..]))
    }

    pub(super) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The values of a header.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let found = self.headers.iter().filter(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).collect()
    }

    /// What a request's or an answer's length is said to be.
    pub(super) fn length(&self) -> Option<usize> {
        self.all("content-length").first().map(|length| length.parse().unwrap())
    }

    fn with_body(mut self, bytes: &[u8]) -> Self {
        if self.all("transfer-encoding") == ["chunked"] {
            let mut rest = bytes;
            self.is_complete = loop {
                let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { break false };
                let line = String::from_utf8_lossy(&rest[..end]);
                let digits = line.split(';').next().unwrap().trim();
                let size = usize::from_str_radix(digits, 16).expect("a chunk has a size");
                rest = &rest[end + 2..];
                if size == 0 {
                    break rest.ends_with(b"\r\n");
                }
                self.body.extend_from_slice(&rest[..size.min(rest.len())]);
                if rest.len() < size + 2 {
                    break false;
                }
                rest = &rest[size + 2..];
            };
        } else if self.status() == 204 {
            self.is_complete = true;
        } else {
            self.body = bytes.to_vec();
            self.is_complete = self.length().is_none_or(|length| length == bytes.len());
        }
        self
    }
}
