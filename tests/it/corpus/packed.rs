//! Packed files that are torn, false or more than they look.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Case, answered, bad, rejected};
use crate::harness::item;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// The byte so far from the end, changed.
fn changed(mut packed: Vec<u8>, from_end: usize) -> Vec<u8> {
    let at = packed.len() - from_end;
    packed[at] ^= 0x55;
    packed
}

pub(super) fn cases() -> Vec<Case> {
    let text = format!("{}\n{}\n", item("a", "one"), item("b", "two"));
    let (gz, zst) = (gzip(text.as_bytes()), zstd(text.as_bytes()));
    let both = [("a", "one"), ("b", "two")];
    let halves = [item("a", "one"), "\n".to_owned() + &item("b", "two")];
    let members = |pack: fn(&[u8]) -> Vec<u8>| halves.each_ref().map(|half| pack(half.as_bytes()));
    let behind = |packed: &[u8]| [packed, b"garbage"].concat();
    let anew = "it cannot be unpacked (";
    // A frame that asks for a window of 2^31 bytes.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    let long_line = vec![b'x'; 50 << 20];
    vec![
        answered("good.jsonl.gz", gz.clone(), &both),
        answered("good-zst.JSONL.ZST", zst.clone(), &both),
        answered("members.jsonl.gz", members(gzip).concat(), &both),
        answered("frames.jsonl.zst", members(zstd).concat(), &both),
        answered("table.csv.gz", gzip(b"key,prompt\na,one\nb,two\n"), &both),
        answered("text.txt.zst", zstd(b"one\ntwo"), &[("1", "one"), ("2", "two")]),
        answered("list.json.gz", gzip(format!("[{},{}]", halves[0], halves[1]).as_bytes()), &both),
        rejected("torn.jsonl.gz", &gz[..gz.len() - 9], anew),
        rejected("torn-trailer.jsonl.gz", &gz[..gz.len() - 1], anew),
        rejected("torn-head.jsonl.gz", &gz[..5], anew),
        rejected("torn.x.jsonl.zst", &zst[..zst.len() - 6], anew),
        rejected("torn-head.x.jsonl.zst", &zst[..3], anew),
        rejected("length.jsonl.gz", changed(gz.clone(), 2), anew),
        rejected("sum.jsonl.gz", changed(gz.clone(), 6), anew),
        rejected("sum.x.jsonl.zst", changed(zst.clone(), 1), anew),
        rejected("behind.jsonl.gz", behind(&gz), anew),
        rejected("behind.x.jsonl.zst", behind(&zst), anew),
        rejected("zero.jsonl.gz", "", anew),
        rejected("zero.x.jsonl.zst", "", anew),
        rejected("hollow.jsonl.gz", gzip(b""), "there is no prompt in it"),
        rejected("plain.jsonl.gz", text.clone(), anew),
        rejected("plain.x.jsonl.zst", text, anew),
        rejected("false.jsonl.gz", zst.clone(), anew),
        rejected("false.x.jsonl.zst", gz.clone(), anew),
        rejected("window.jsonl.zst", window, anew),
        rejected("twice.jsonl.gz.gz", gzip(&gz), ".gz.gz files are not accepted"),
        rejected("odd.pdf.zst", zst.clone(), ".pdf.zst files are not accepted"),
        bad("packed.jsonl", &gz[..10], &[(1, "not valid UTF-8 at byte 2 of the line")]),
        bad("nested.txt.gz", gzip(&zst), &[(1, "not valid UTF-8")]),
        bad("large.jsonl.gz", gzip(&long_line), &[(1, "the line has 52428800 bytes; at most")]),
    ]
}
