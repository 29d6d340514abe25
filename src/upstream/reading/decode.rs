//! The copy of a body without its content encoding.

use std::io::{self, Write};

use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use zstd::stream::raw;
use zstd::stream::zio::Writer;

/// Four times the largest answer. A few KiB may stand for any amount, and all of it is work.
const DECODED_BYTES_MAX: usize = 256 << 20;

/// The largest window that HTTP allows (RFC 9659), which a decoder keeps: 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Why the copy is not read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// An encoding that is not known here, or several.
    Unknown,
    /// Not what its name says, or cut.
    Corrupt,
    /// More than `DECODED_BYTES_MAX`.
    TooLong,
}

impl Fault {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "the answer has a content encoding that is not read here",
            Self::Corrupt => "the answer's content encoding is broken or cut",
            Self::TooLong => "the answer is longer than 256 MiB when decoded",
        }
    }
}

/// Decodes what is passed to it, piece by piece.
pub(super) struct Decoder {
    coding: Coding,
    /// How much more may come out.
    pub(super) room_bytes: usize,
    fault: Option<Fault>,
}

/// Each decoder writes into a buffer that is emptied at once.
enum Coding {
    Plain,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// Before the first two bytes, which tell zlib's form from the bare one that some send.
    Deflate(Vec<u8>),
    Zlib(Box<ZlibDecoder<Vec<u8>>>),
    Bare(Box<DeflateDecoder<Vec<u8>>>),
    Zstandard(Box<Writer<Vec<u8>, raw::Decoder<'static>>>),
}

impl Decoder {
    /// `encoding` is the header's text.
    pub(super) fn new(encoding: &str) -> Self {
        let coding = match encoding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Coding::Plain),
            "gzip" | "x-gzip" => Some(Coding::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))),
            "deflate" => Some(Coding::Deflate(Vec::new())),
            "zstd" => zstandard().ok(),
            _ => None,
        };
        let fault = coding.is_none().then_some(Fault::Unknown);
        Self { coding: coding.unwrap_or(Coding::Plain), room_bytes: DECODED_BYTES_MAX, fault }
    }

    /// Why the copy was not read to its end, if it was not.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    pub(super) fn pass(&mut self, bytes: &[u8], sink: &mut impl FnMut(&[u8])) {
        if self.fault.is_some() {
            return;
        }
        let room = &mut self.room_bytes;
        let mut bounded = |piece: &[u8]| {
            let fits = piece.len().min(*room);
            sink(&piece[..fits]);
            *room -= fits;
            if fits < piece.len() { Err(Fault::TooLong) } else { Ok(()) }
        };
        let ended = match &mut self.coding {
            // As long as what came, which is bounded by its own way.
            Coding::Plain => {
                sink(bytes);
                Ok(())
            }
            Coding::Gzip(gzip) => push(&mut **gzip, |gzip| gzip.get_mut(), bytes, &mut bounded),
            Coding::Zlib(zlib) => push(&mut **zlib, |zlib| zlib.get_mut(), bytes, &mut bounded),
            Coding::Bare(bare) => push(&mut **bare, |bare| bare.get_mut(), bytes, &mut bounded),
            Coding::Zstandard(zstd) => {
                push(&mut **zstd, |zstd| zstd.writer_mut(), bytes, &mut bounded)
            }
            Coding::Deflate(head) => {
                head.extend_from_slice(bytes);
                let &[first, second, ..] = head.as_slice() else { return };
                let is_zlib =
                    first & 0xf == 8 && (u16::from(first) << 8 | u16::from(second)) % 31 == 0;
                let head = std::mem::take(head);
                self.coding = if is_zlib {
                    Coding::Zlib(Box::new(ZlibDecoder::new(Vec::new())))
                } else {
                    Coding::Bare(Box::new(DeflateDecoder::new(Vec::new())))
                };
                return self.pass(&head, sink);
            }
        };
        self.fault = ended.err();
    }

    /// The end of the body.
    pub(super) fn end(&mut self, sink: &mut impl FnMut(&[u8])) {
        if self.fault.is_some() {
            return;
        }
        let ended = match &mut self.coding {
            Coding::Plain => return,
            Coding::Gzip(gzip) => finish(gzip.flush(), gzip.get_mut(), sink)
                .and_then(|()| finish(gzip.try_finish(), gzip.get_mut(), sink)),
            Coding::Zlib(zlib) => finish(zlib.flush(), zlib.get_mut(), sink)
                .and_then(|()| finish(zlib.try_finish(), zlib.get_mut(), sink)),
            Coding::Bare(bare) => finish(bare.flush(), bare.get_mut(), sink)
                .and_then(|()| finish(bare.try_finish(), bare.get_mut(), sink)),
            Coding::Zstandard(zstd) => finish(zstd.flush(), zstd.writer_mut(), sink)
                .and_then(|()| finish(zstd.finish(), zstd.writer_mut(), sink)),
            Coding::Deflate(head) if head.is_empty() => Ok(()),
            Coding::Deflate(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        self.fault = ended.is_err().then_some(Fault::Corrupt);
    }
}

/// What came out before `ended` counts, however that is.
fn finish(
    ended: io::Result<()>,
    buffer: &mut Vec<u8>,
    sink: &mut impl FnMut(&[u8]),
) -> io::Result<()> {
    sink(buffer);
    buffer.clear();
    ended
}

fn zstandard() -> io::Result<Coding> {
    let mut decoder = raw::Decoder::new()?;
    decoder.set_parameter(raw::DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
    Ok(Coding::Zstandard(Box::new(Writer::new(Vec::new(), decoder))))
}

/// Decodes `bytes`. One write gives a buffer of 32 KiB at most, whatever a byte stands for.
fn push<W: Write>(
    decoder: &mut W,
    buffer: impl Fn(&mut W) -> &mut Vec<u8>,
    mut bytes: &[u8],
    sink: &mut impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    while !bytes.is_empty() {
        let written = decoder.write(bytes);
        if written.is_err() {
            // What stands before the fault is still inside. That there is one is known.
            let _ = decoder.flush();
        }
        let buffer = buffer(decoder);
        sink(buffer)?;
        buffer.clear();
        let used = written.map_err(|_| Fault::Corrupt)?;
        if used == 0 {
            return Err(Fault::Corrupt);
        }
        bytes = &bytes[used..];
    }
    Ok(())
}
