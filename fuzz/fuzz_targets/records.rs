//! A text that comes in small pieces is cut as it is when it comes as a whole. The first byte says
//! how it is cut, the second how large the pieces are, the third how long a record may be.
#![no_main]

use std::io::BufReader;

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::formats::Family;
use tidegate_fuzz::records::{Content, RecordReader, head};

fuzz_target!(|data: &[u8]| {
    let [family, piece, longest, text @ ..] = data else { return };
    let families = [Family::Jsonl, Family::Json, Family::Text, Family::Csv];
    let family = families[usize::from(*family) % families.len()];
    let longest = usize::from(*longest);
    let all = |piece: usize| {
        let file = BufReader::with_capacity(piece, text);
        let mut reader = RecordReader::new(file, family, longest);
        let (mut all, mut read) = (Vec::new(), 0);
        while let Some(record) = reader.next_record().expect("memory can be read") {
            assert!(read <= record.offset);
            read = record.offset;
            if let Content::Bytes(bytes) = record.content {
                assert!(bytes.len() <= longest);
                let start = usize::try_from(record.offset).expect("it is short");
                assert_eq!(&text[start..][..bytes.len()], bytes);
            }
            all.push(format!("{record:?}"));
        }
        assert_eq!(usize::try_from(reader.offset()), Ok(text.len()));
        all
    };
    assert_eq!(all(usize::from(*piece).max(1)), all(text.len().max(1)));
    let _ = head(text, family, longest);
});
