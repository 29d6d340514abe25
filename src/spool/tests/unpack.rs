//! Packed job files.

use std::io::Write;

use super::*;
use crate::formats::Packing;

const CONTENT: &str = "one\ntwo\n";

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(content).unwrap();
    packed.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 3).unwrap()
}

fn unpack(fixture: &Fixture, content: &[u8], packing: Packing) -> Unpacked {
    fixture.put(&format!("working/{ID}/input"), content);
    fixture.spool.unpack(ID, packing).unwrap()
}

fn text(fixture: &Fixture) -> String {
    fs::read_to_string(fixture.spool.text_path(ID, Packing::Gzip)).unwrap()
}

fn left(fixture: &Fixture) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(fixture.path(&format!("working/{ID}")))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_packed_is_unpacked_beside_it() {
    let cases = [
        (gzip(CONTENT.as_bytes()), Packing::Gzip),
        ([gzip(b"one\n"), gzip(b"two\n")].concat(), Packing::Gzip),
        (zstd(CONTENT.as_bytes()), Packing::Zstd),
        ([zstd(b"one\n"), zstd(b"two\n")].concat(), Packing::Zstd),
    ];
    for (content, packing) in cases {
        let fixture = Fixture::new();
        assert_eq!(unpack(&fixture, &content, packing), Unpacked::Done);
        assert_eq!(text(&fixture), CONTENT);
        // Again, as after a crash: what stands there is whole.
        assert_eq!(fixture.spool.unpack(ID, packing).unwrap(), Unpacked::Done);
        assert_eq!(left(&fixture), ["input", "text"]);
    }
    let fixture = Fixture::new();
    assert_eq!(unpack(&fixture, b"as it is", Packing::Plain), Unpacked::Done);
    assert_eq!(left(&fixture), ["input"]);
}

#[test]
fn what_is_broken_is_said_and_leaves_nothing() {
    let mut torn = gzip(CONTENT.as_bytes());
    torn.truncate(torn.len() - 3);
    let mut wrong_sum = gzip(CONTENT.as_bytes());
    let at = wrong_sum.len() - 6;
    wrong_sum[at] ^= 1;
    let mut torn_zstd = zstd(CONTENT.as_bytes());
    torn_zstd.truncate(torn_zstd.len() - 1);
    let trailing = [gzip(CONTENT.as_bytes()), b"and more".to_vec()].concat();
    let cases = [
        (b"no gzip at all".to_vec(), Packing::Gzip),
        (torn, Packing::Gzip),
        (wrong_sum, Packing::Gzip),
        (trailing, Packing::Gzip),
        (b"no zstd at all".to_vec(), Packing::Zstd),
        (torn_zstd, Packing::Zstd),
    ];
    for (content, packing) in cases {
        let fixture = Fixture::new();
        let Unpacked::Bad(reason) = unpack(&fixture, &content, packing) else {
            panic!("{packing:?} took {content:?}")
        };
        assert!(reason.contains("cannot be unpacked"), "{reason}");
        assert_eq!(left(&fixture), ["input"]);
    }
}

/// 3 GiB of zeros in 3 MB. Nothing of it stays.
#[test]
fn serial_a_bomb_is_stopped_at_the_limit() {
    let fixture = Fixture::new();
    let path = fixture.put(&format!("working/{ID}/input"), b"");
    let file = fs::File::create(&path).unwrap();
    let mut packed = zstd::stream::write::Encoder::new(file, 1).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..3 * 1024 {
        packed.write_all(&zeros).unwrap();
    }
    packed.finish().unwrap();
    let Unpacked::Bad(reason) = fixture.spool.unpack(ID, Packing::Zstd).unwrap() else {
        panic!("a bomb was taken")
    };
    assert!(reason.contains("more than 2147483648 bytes"), "{reason}");
    assert_eq!(left(&fixture), ["input"]);
}
