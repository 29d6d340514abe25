//! The line reader against the plain way of splitting.

use std::io::{self, BufReader, Read};

use proptest::prelude::*;

use super::*;

/// Line as (number, offset, length, bytes unless too long).
type Flat = (u64, u64, u64, Option<Vec<u8>>);

fn flatten(line: Line<'_>) -> Flat {
    match line.content {
        Content::Bytes(bytes) => {
            let length = u64::try_from(bytes.len()).unwrap();
            (line.number, line.offset, length, Some(bytes.to_vec()))
        }
        Content::TooLong { length } => (line.number, line.offset, length, None),
    }
}

fn read_all(input: &[u8], line_max: usize, buffer: usize) -> (Vec<Flat>, u64) {
    let mut reader = LineReader::new(BufReader::with_capacity(buffer, input), line_max);
    let mut lines = Vec::new();
    while let Some(line) = reader.next_line().unwrap() {
        lines.push(flatten(line));
    }
    (lines, reader.offset())
}

fn naive(input: &[u8], line_max: usize) -> Vec<Flat> {
    let mut lines = Vec::new();
    let mut offset = 0;
    for (n, piece) in input.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let text = piece.strip_suffix(b"\n").unwrap_or(piece);
        let held = (text.len() <= line_max).then(|| text.to_vec());
        let [n, length, whole] =
            [n + 1, text.len(), piece.len()].map(|count| u64::try_from(count).unwrap());
        lines.push((n, offset, length, held));
        offset += whole;
    }
    lines
}

proptest! {
    #[test]
    fn agrees_with_the_naive_split(
        input in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a')], 0..60),
        line_max in 0_usize..12,
        buffer in 1_usize..9,
    ) {
        let (lines, end) = read_all(&input, line_max, buffer);
        prop_assert_eq!(lines, naive(&input, line_max));
        prop_assert_eq!(end, u64::try_from(input.len()).unwrap());
    }

    #[test]
    fn resumes_behind_any_line(
        input in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..60),
        stop in 0_usize..20,
    ) {
        let mut reader = LineReader::new(&input[..], 5);
        let mut lines = Vec::new();
        while lines.len() < stop && let Some(line) = reader.next_line().unwrap() {
            lines.push(flatten(line));
        }
        let offset = reader.offset();
        let rest = &input[usize::try_from(offset).unwrap()..];
        let read = u64::try_from(lines.len()).unwrap();
        let mut reader = LineReader::resume(rest, 5, read, offset);
        while let Some(line) = reader.next_line().unwrap() {
            lines.push(flatten(line));
        }
        prop_assert_eq!(lines, naive(&input, 5));
    }
}

#[test]
fn the_limit_is_of_the_line_without_its_end() {
    let (lines, end) = read_all(b"abc\nabcd\nabc", 3, 64);
    let held = Some(b"abc".to_vec());
    assert_eq!(lines, [(1, 0, 3, held.clone()), (2, 4, 4, None), (3, 9, 3, held)]);
    assert_eq!(end, 12);
}

#[test]
fn a_huge_line_is_counted_in_bounded_memory() {
    let huge = 3 * 1024 * 1024 * 1024_u64 / 16;
    let line_max = 1_000;
    let input = io::repeat(b'x').take(huge).chain(&b"\nlast"[..]);
    let mut reader = LineReader::new(BufReader::new(input), line_max);
    let first = reader.next_line().unwrap().map(flatten);
    assert_eq!(first, Some((1, 0, huge, None)));
    let last = reader.next_line().unwrap().map(flatten);
    assert_eq!(last, Some((2, huge + 1, 4, Some(b"last".to_vec()))));
    assert_eq!(reader.next_line().unwrap(), None);
    assert!(reader.buffer_bytes() <= line_max + 1, "{}", reader.buffer_bytes());
}
