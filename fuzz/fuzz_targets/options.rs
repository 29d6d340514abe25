//! Options: what is accepted is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::formats::{options_line, recognise, sidecar, sidecar_text};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let inner = format!(r#"{{"tidegate":{{{text}}}}}"#);
    let lines = [options_line(data), options_line(inner.as_bytes())];
    let lines = lines.into_iter().filter_map(|read| read.ok().flatten());
    for options in lines.chain(sidecar(&text).ok()) {
        assert_eq!(sidecar(&sidecar_text(&options)).as_ref(), Ok(&options));
        let json = serde_json::json!({ "tidegate": options }).to_string();
        assert_eq!(options_line(json.as_bytes()), Ok(Some(options)));
    }
    let _ = recognise(&text);
});
