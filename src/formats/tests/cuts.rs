//! Cutting, over any way in which the text may come.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Cuts a text that comes in pieces of so many bytes: the records, and how it broke off.
fn cut(family: Family, text: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, Option<Broken>) {
    let mut cutter = Cutter::new(family);
    let (mut records, mut held, mut rest, mut begun) = (Vec::new(), Vec::new(), text, false);
    let mut lengths = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let length = lengths.next().unwrap_or(rest.len()).clamp(1, rest.len());
        let mut piece = &rest[..length];
        rest = &rest[length..];
        while !piece.is_empty() {
            let cut = cutter.cut(piece, &held);
            held.extend_from_slice(&piece[cut.before..][..cut.taken]);
            begun |= cut.taken > 0;
            let used = cut.before + cut.taken + cut.behind;
            assert!(used > 0 || cut.end.is_some(), "no progress");
            piece = &piece[used..];
            match cut.end {
                Some(End::Record) => {
                    records.push(std::mem::take(&mut held));
                    begun = false;
                }
                Some(End::Broken(broken)) => return (records, Some(broken)),
                None => {}
            }
        }
    }
    match cutter.finish(begun) {
        Some(End::Record) => records.push(held),
        Some(End::Broken(broken)) => return (records, Some(broken)),
        None => {}
    }
    (records, None)
}

fn whole(family: Family, text: &str) -> (Vec<String>, Option<Broken>) {
    let (records, broken) = cut(family, text.as_bytes(), &[]);
    (records.into_iter().map(|record| String::from_utf8(record).unwrap()).collect(), broken)
}

#[test]
fn json_is_an_object_or_a_list() {
    for (text, records, broken) in [
        ("", &[][..], None),
        (" \n", &[], None),
        ("[]", &[], None),
        ("\u{feff} [ ] \n", &[], None),
        ("{\"a\":[1,{}]}", &["{\"a\":[1,{}]}"], None),
        ("\u{feff}{\n}\n", &["{\n}"], None),
        (
            "[{\"a\":\"]},\\\"\"} ,\n 7,\"x,\\\\\", [1,2],null]",
            &["{\"a\":\"]},\\\"\"}", "7", "\"x,\\\\\"", "[1,2]", "null"],
            None,
        ),
        ("{\"a\":", &["{\"a\":"], None),
        ("{} {}", &["{}"], Some(Broken::MoreFollows)),
        ("[{}] x", &["{}"], Some(Broken::MoreFollows)),
        ("[{},]", &["{}"], Some(Broken::TrailingComma)),
        ("[,{}]", &[], Some(Broken::ElementMissing)),
        ("[{},,{}]", &["{}"], Some(Broken::ElementMissing)),
        ("[{}{}]", &["{}"], Some(Broken::CommaMissing)),
        ("[{}", &["{}"], Some(Broken::Unfinished)),
        ("[{},", &["{}"], Some(Broken::Unfinished)),
        ("[{},{\"a\":\"b", &["{}"], Some(Broken::Unfinished)),
        ("[", &[], Some(Broken::Unfinished)),
        ("hello", &[], Some(Broken::NeitherObjectNorList)),
        ("\"a\"", &[], Some(Broken::NeitherObjectNorList)),
    ] {
        let expected = (records.iter().map(|&text| text.to_owned()).collect(), broken);
        assert_eq!(whole(Family::Json, text), expected, "{text}");
    }
}

#[test]
fn rows_end_outside_of_quotes() {
    for (text, records) in [
        ("", &[][..]),
        ("\n\r\n", &[]),
        ("a,b\r\n\r\nc,d", &["a,b", "c,d"]),
        ("a\rb\n", &["a", "b"]),
        ("\"a\nb\",\"c\"\"\r\n\"\nd", &["\"a\nb\",\"c\"\"\r\n\"", "d"]),
        ("a\"b\nc", &["a\"b", "c"]),
        (
            "{\"tidegate\": {\"model\":\"m\",\"template\":\"a\\\"\"}}\r\nprompt\n",
            &["{\"tidegate\": {\"model\":\"m\",\"template\":\"a\\\"\"}}\r", "prompt"],
        ),
    ] {
        let records: Vec<String> = records.iter().map(|&text| text.to_owned()).collect();
        assert_eq!(whole(Family::Csv, text), (records, None), "{text}");
    }
    assert_eq!(whole(Family::Csv, "\"unclosed\n,x\n"), (vec![], Some(Broken::QuoteOpen)));
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        "[ \\n\"\\\\{}\\[\\]:,é]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c\"\\]]{0,2}", inner, 0..4)
                .prop_map(|all| Value::Object(all.into_iter().collect())),
        ]
    })
}

const FAMILIES: [Family; 4] = [Family::Jsonl, Family::Json, Family::Text, Family::Csv];

proptest! {
    #[test]
    fn a_list_is_cut_into_its_elements(
        list in prop::collection::vec(documents(), 0..6),
        pretty in any::<bool>(),
        pieces in prop::collection::vec(1_usize..7, 1..5),
    ) {
        let value = Value::from(list.clone());
        let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
        let (records, broken) = cut(Family::Json, text.as_bytes(), &pieces);
        let read: Vec<Value> =
            records.iter().map(|record| serde_json::from_slice(record).unwrap()).collect();
        prop_assert_eq!((read, broken), (list, None));
    }

    #[test]
    fn pieces_do_not_matter(
        text in prop::collection::vec(prop::sample::select(b"[]{}\",\\\n\r a\xef\xbb\xbf:".to_vec()), 0..40),
        opening in prop::sample::select(vec!["", "[", "{\"tidegate\":", " { \"tidegate\"", "\u{feff}["]),
        pieces in prop::collection::vec(1_usize..5, 1..5),
    ) {
        let text = [opening.as_bytes(), &text].concat();
        for family in FAMILIES {
            prop_assert_eq!(cut(family, &text, &pieces), cut(family, &text, &[]), "{}", family);
        }
    }

    #[test]
    fn nothing_is_lost_of_any_text(text in prop::collection::vec(any::<u8>(), 0..60)) {
        for family in FAMILIES {
            let (records, _) = cut(family, &text, &[]);
            let held: usize = records.iter().map(Vec::len).sum();
            prop_assert!(held <= text.len());
        }
        let (lines, broken) = cut(Family::Text, &text, &[]);
        let joined = lines.join(&b'\n');
        prop_assert_eq!(joined.as_slice(), text.strip_suffix(b"\n").unwrap_or(&text));
        prop_assert_eq!(broken, None);
    }

    #[test]
    fn rows_are_those_of_the_csv_crate(text in "[ab,\"\r\n]{0,40}") {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(text.as_bytes());
        let expected: Vec<Vec<String>> = reader
            .records()
            .map(|row| row.unwrap().iter().map(str::to_owned).collect())
            .collect();
        let (records, broken) = cut(Family::Csv, text.as_bytes(), &[]);
        let found: Vec<Vec<String>> = records
            .iter()
            .map(|record| {
                let mut reader = csv::ReaderBuilder::new()
                    .has_headers(false)
                    .flexible(true)
                    .from_reader(record.as_slice());
                let row = reader.records().next().unwrap().unwrap();
                row.iter().map(str::to_owned).collect()
            })
            .collect();
        // The crate takes a quote that does not close for the rest of the file.
        prop_assume!(broken != Some(Broken::QuoteOpen));
        prop_assert_eq!((found, broken), (expected, None));
    }
}
