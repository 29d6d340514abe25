//! What clients send.

use std::io::{self, Read};

use super::*;

/// Gives `bytes` bytes, then fails or ends.
struct Sent {
    bytes: u64,
    is_cut_off: bool,
}

impl Read for Sent {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.bytes == 0 && self.is_cut_off {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let n = into.len().min(usize::try_from(self.bytes).unwrap_or(usize::MAX));
        into[..n].fill(b'x');
        self.bytes -= u64::try_from(n).unwrap();
        Ok(n)
    }
}

#[test]
fn what_is_received_is_as_a_claim_of_its_sender() {
    let fixture = Fixture::new();
    let spool = &fixture.spool;
    let received = spool.receive("w", 1234, &mut &b"a prompt\n"[..]).unwrap();
    assert_eq!(std::fs::read(&received.input).unwrap(), b"a prompt\n");
    assert_eq!(received.input, spool.input_path("w"));
    assert_eq!((received.source.uid, received.source.size), (1234, 9));
    assert_eq!(received.sidecar, Sidecar::Absent);
    let hash: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(b"a prompt\n").into();
    assert_eq!(received.sha256, hash);
    let again = spool.receive("w", 1234, &mut &b"another"[..]);
    assert!(matches!(again, Err(SpoolError::Exists { .. })), "{again:?}");
    assert_eq!(std::fs::read(&received.input).unwrap(), b"a prompt\n");
    assert!(spool.receive("../w", 1234, &mut &b""[..]).is_err());
}

#[test]
fn nothing_is_left_of_what_was_cut_off() {
    let fixture = Fixture::new();
    let mut sent = Sent { bytes: 300_000, is_cut_off: true };
    let received = fixture.spool.receive("w", 0, &mut sent);
    assert!(matches!(received, Err(SpoolError::Content { .. })), "{received:?}");
    assert!(!fixture.spool.working_path("w").exists());
}
