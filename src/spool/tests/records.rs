//! The record reader against the plain way of splitting.

use std::io::{self, BufReader, Read};

use proptest::prelude::*;

use super::*;
use crate::formats::{Broken, Family};

/// Line as (number, offset, length, bytes unless too long).
type Flat = (u64, u64, u64, Option<Vec<u8>>);

fn flatten(line: Record<'_>) -> Flat {
    match line.content {
        Content::Bytes(bytes) => {
            let length = u64::try_from(bytes.len()).unwrap();
            (line.number, line.offset, length, Some(bytes.to_vec()))
        }
        Content::TooLong { length } => (line.number, line.offset, length, None),
        Content::Broken(broken) => panic!("{broken}"),
    }
}

fn read_all(input: &[u8], line_max: usize, buffer: usize) -> (Vec<Flat>, u64) {
    let file = BufReader::with_capacity(buffer, input);
    let mut reader = RecordReader::new(file, Family::Text, line_max);
    let mut lines = Vec::new();
    while let Some(line) = reader.next_record().unwrap() {
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
    let mut reader = RecordReader::new(BufReader::new(input), Family::Jsonl, line_max);
    let first = reader.next_record().unwrap().map(flatten);
    assert_eq!(first, Some((1, 0, huge, None)));
    let last = reader.next_record().unwrap().map(flatten);
    assert_eq!(last, Some((2, huge + 1, 4, Some(b"last".to_vec()))));
    assert_eq!(reader.next_record().unwrap(), None);
    assert!(reader.buffer_bytes() <= line_max, "{}", reader.buffer_bytes());
}

/// Role, number, offset and bytes of a record.
type Shown = (Role, u64, u64, String);

/// All records, and how the text broke off.
fn told(family: Family, text: &str, max: usize) -> (Vec<Shown>, Option<Broken>) {
    let mut reader = RecordReader::new(BufReader::with_capacity(3, text.as_bytes()), family, max);
    let mut told = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        let shown = match record.content {
            Content::Bytes(bytes) => {
                let start = usize::try_from(record.offset).unwrap();
                assert_eq!(&text.as_bytes()[start..][..bytes.len()], bytes);
                String::from_utf8(bytes.to_vec()).unwrap()
            }
            Content::TooLong { length } => format!("{length} bytes"),
            Content::Broken(broken) => return (told, Some(broken)),
        };
        told.push((record.role, record.number, record.offset, shown));
    }
    assert_eq!(reader.offset(), u64::try_from(text.len()).unwrap());
    (told, None)
}

fn row(role: Role, number: u64, offset: u64, text: &str) -> Shown {
    (role, number, offset, text.to_owned())
}

#[test]
fn records_have_their_roles_and_numbers() {
    let options = r#"{"tidegate":{"model":"m","id":"x"}}"#;
    let all = |family, text: &str| {
        let (told, broken) = told(family, text, 1_000);
        assert_eq!(broken, None, "{text}");
        told
    };
    assert_eq!(
        all(Family::Jsonl, &format!("{options}\n\n{{}}\n")),
        [
            row(Role::Options, 1, 0, options),
            row(Role::Item, 2, 36, ""),
            row(Role::Item, 3, 37, "{}")
        ]
    );
    assert_eq!(
        all(Family::Json, &format!("[\n  {options} ,{{}}]\n")),
        [row(Role::Options, 1, 4, options), row(Role::Item, 2, 41, "{}")]
    );
    assert_eq!(
        all(Family::Csv, &format!("{options}\nprompt\r\n\r\n\"a\nb\"\r\nc")),
        [
            row(Role::Options, 0, 0, options),
            row(Role::Header, 0, 36, "prompt"),
            row(Role::Item, 1, 46, "\"a\nb\""),
            row(Role::Item, 2, 53, "c")
        ]
    );
    assert_eq!(all(Family::Csv, "a\nb")[0], row(Role::Header, 0, 0, "a"));
    assert_eq!(all(Family::Text, "a\n")[0], row(Role::Item, 1, 0, "a"));
    // Only the first record is for options.
    let late = all(Family::Jsonl, &format!("{{}}\n{options}\n"));
    assert_eq!(late[1].0, Role::Item);
}

#[test]
fn a_list_within_a_call_is_read() {
    let before = r#"{"batch":{"display_name":"x","input_config":{"requests":{"requests":"#;
    let one = r#"{"request":{},"metadata":{"key":"a"}}"#;
    let call = format!("{before}[{one}, {one}]}}}}}}}}\n");
    let start = u64::try_from(before.len()).unwrap();
    let length = u64::try_from(one.len()).unwrap();
    let expected =
        vec![row(Role::Item, 1, start + 1, one), row(Role::Item, 2, start + 1 + length + 2, one)];
    assert_eq!(told(Family::Json, &call, 1_000), (expected, None));
    let more = told(Family::Json, &format!("{call}{{}}"), 1_000);
    assert_eq!(more, (Vec::new(), Some(Broken::MoreFollows)));
    let single = told(Family::Json, r#" {"contents":[]} "#, 1_000);
    assert_eq!(single, (vec![row(Role::Item, 1, 1, r#"{"contents":[]}"#)], None));
    // One that cannot be held is told as a whole.
    let held = told(Family::Json, &call, 50);
    let whole = format!("{} bytes", call.len() - 1);
    assert_eq!(held, (vec![row(Role::Item, 1, 0, &whole)], None));
}

#[test]
fn what_is_too_long_is_passed_over() {
    let long = format!("\"{}\"", "x".repeat(20));
    let json = told(Family::Json, &format!("[{long}, 1]"), 5);
    assert_eq!(json.0, [row(Role::Item, 1, 1, "22 bytes"), row(Role::Item, 2, 25, "1")]);
    let csv = told(Family::Csv, &format!("{long}\nb\n{long}\n"), 5);
    assert_eq!(
        csv.0,
        [
            row(Role::Header, 0, 0, "22 bytes"),
            row(Role::Item, 1, 23, "b"),
            row(Role::Item, 2, 25, "22 bytes")
        ]
    );
}

#[test]
fn the_head_is_all_up_to_the_first_item() {
    let read = |family, text: &str| head(text.as_bytes(), family, 100).unwrap();
    let some = |text: &str| Some(text.as_bytes().to_vec());
    let options = r#"{"tidegate":{}}"#;
    let first = Head { options: some(options), header: None, first: some("{}") };
    assert_eq!(read(Family::Jsonl, &format!("{options}\n\n{{}}\n{{}}\n")), first);
    assert_eq!(read(Family::Json, &format!("[{options},{{}},{{}}]")), first);
    let csv = Head { options: some(options), header: some("a,b"), first: some("1,2") };
    assert_eq!(read(Family::Csv, &format!("{options}\na,b\n1,2\n")), csv);
    assert_eq!(read(Family::Csv, "a,b").header, some("a,b"));
    let long = read(Family::Text, &"x".repeat(200));
    assert_eq!(long.first, Some(Vec::new()));
    assert_eq!(read(Family::Json, "x"), Head::default());
}

proptest! {
    #[test]
    fn buffers_do_not_matter(
        text in prop::collection::vec(prop::sample::select(b"[]{}\",\\\n a".to_vec()), 0..40),
        max in 0_usize..12,
        buffer in 1_usize..9,
    ) {
        for family in [Family::Jsonl, Family::Json, Family::Text, Family::Csv] {
            let all = |buffer: usize| {
                let file = BufReader::with_capacity(buffer, &text[..]);
                let mut reader = RecordReader::new(file, family, max);
                let mut all = Vec::new();
                while let Some(record) = reader.next_record().unwrap() {
                    all.push(format!("{record:?}"));
                }
                (all, reader.offset())
            };
            prop_assert_eq!(all(buffer), all(1_000));
        }
    }
}
