//! CSV files, and templates of these and of text files.

use super::{Case, answered, answered_in_part, bad, rejected, with_sidecar};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = rows();
    cases.extend(headers());
    cases.extend(templates());
    cases
}

fn rows() -> Vec<Case> {
    let skip = "{\"tidegate\":{\"on_bad_line\":\"skip\"}}\n";
    vec![
        answered(
            "table.csv",
            "key,prompt\na,one\nb,\"two, and\n\"\"three\"\"\"\n",
            &[("a", "one"), ("b", "two, and\n\"three\"")],
        ),
        answered(
            "crlf.csv",
            "\u{feff}key,prompt\r\n\r\na,one\r\nb,two",
            &[("a", "one"), ("b", "two")],
        ),
        answered("old-mac.csv", "prompt\rone\rtwo\r", &[("1", "one"), ("2", "two")]),
        bad(
            "long-row.csv",
            "key,prompt\na,one\nb,two,three\n",
            &[(2, "3 fields and the header 2")],
        ),
        bad("short-row.csv", "key,prompt\na\nb,two\n", &[(1, "1 fields and the header 2")]),
        bad("blank-prompt.csv", "key,prompt\na, \n", &[(1, "the prompt of the row is empty")]),
        bad("no-key.csv", "key,prompt\n,one\n", &[(1, "the key column must have 1 to 512")]),
        bad("same-key.csv", "key,prompt\na,one\na,two\n", &[(2, "the key is that of line 1")]),
        bad("latin1.csv", b"key,prompt\na,caf\xe9\n", &[(1, "not valid UTF-8 at byte 6")]),
        bad("open.csv", "key,prompt\na,\"one\nb,two\nc,three\n", &[(1, "quote")]),
        bad("open-late.csv", "key,prompt\na,one\nb,two\nc,\"three\nd,four\n", &[(3, "quote")]),
        answered_in_part(
            "skips.csv",
            format!("{skip}key,prompt\na,one\nb\nc,three\n"),
            &[("a", Ok("one")), ("2", Err("1 fields")), ("c", Ok("three"))],
        ),
    ]
}

fn headers() -> Vec<Case> {
    vec![
        rejected("empty.csv", "", "the first line must name the columns"),
        rejected("blank.csv", "\n\r\n", "the first line must name the columns"),
        rejected("commas.csv", ",,\n1,2,3\n", "the first line must name the columns"),
        rejected("header-alone.csv", "key,prompt\n", "there is no prompt in it"),
        rejected("latin1-header.csv", b"key,pr\xf6mpt\na,b\n", "not valid UTF-8 at byte 7"),
        rejected("no-prompt.csv", "a,b,c\n1,2,3\n", "no column is called \"prompt\" or \"text\""),
        rejected("prompts.csv", "prompt,Prompt\n1,2\n", "two columns are called \"prompt\""),
        rejected("keys.csv", "key,prompt,KEY\n1,2,3\n", "two columns are called \"key\""),
        rejected(
            "open-header.csv",
            "key,\"prompt\na,one\n",
            "the first line must name the columns",
        ),
        rejected("utf16.csv", b"\xff\xfek\0,\0p\0\n\0", "not valid UTF-8 at byte 1"),
    ]
}

fn templates() -> Vec<Case> {
    let faults = [
        ("unknown", "{{txt}}", "names the column \"txt\", did you mean \"text\"?"),
        ("unclosed", "a {{text", "has no \"}}\" behind it"),
        ("none", "all the same", "the template names no column"),
        ("blank", "{{ }}", "names the column \"\""),
        ("nested", "{{ {{text}} }}", "names the column"),
    ];
    let faults = faults.into_iter().flat_map(|(name, template, reason)| {
        let sidecar = format!("template = \"{template}\"\n");
        [("csv", "id,text\na,one\n"), ("txt", "one\n")].map(|(suffix, content)| {
            let case = rejected(&format!("{suffix}-{name}.{suffix}"), content, reason);
            with_sidecar(case, sidecar.clone())
        })
    });
    let mut cases: Vec<_> = faults.collect();
    let good = answered("filled.csv", "id,a,b\nk,1,\"{{a}}\"\n", &[("k", "1-{{a}}-1")]);
    cases.push(with_sidecar(good, "template = \"{{ A }}-{{b}}-{{a}}\"\n"));
    cases.push(with_sidecar(
        answered("filled.x.txt", "one\ntwo", &[("1", "<one>"), ("2", "<two>")]),
        "template = \"<{{text}}>\"\n",
    ));
    cases
}
