//! Bad configurations: what each is told, and where.

use super::{CANARY, PROJECT, load};

/// Cases of a text, a line `==> ` with the whole message, and a line `----`. The word PROJECT
/// alone on a line stands for the smallest project, three lines long.
const CASES: &str = include_str!("bad.txt");

#[test]
fn every_bad_configuration_is_refused_with_its_message() {
    let mut count = 0;
    for case in CASES.split_terminator("\n----\n") {
        let (text, wanted) = case.split_once("==> ").unwrap();
        let text = text.replace("PROJECT\n", PROJECT);
        let message = load(&text).map(|_| ()).unwrap_err().to_string();
        assert_eq!(message, wanted, "for this text:\n{text}");
        count += 1;
    }
    assert!(count > 90, "the table was read: {count}");
}

#[test]
fn every_table_of_the_file_knows_the_nearest_name() {
    let nested = [
        ("", "retentoin", "retention"),
        ("[server]\n", "state-dir", "state_dir"),
        ("[server]\nauth.", "tokenfile", "token_file"),
        ("[defaults]\n", "mdel", "model"),
        ("[defaults]\n", "pol", "pool"),
        ("[pool.p]\n", "rotes", "routes"),
        ("", "tenant", "tenants"),
        ("[retention]\n", "attempt", "attempts"),
        ("[[project]]\n", "kes", "keys"),
        ("[[project]]\nday.", "rest", "reset"),
        ("[[project]]\nreserve.", "interactiv", "interactive"),
        ("[[project]]\n[[project.keys]]\n", "fil", "file"),
        ("[[project]]\n[[project.limits]]\n", "rmp", "rpm"),
        ("[[project]]\n[[project.limits]]\n[[project.limits.extra]]\n", "limt", "limit"),
    ];
    for (table, field, near) in nested {
        let message = load(&format!("{table}{field} = 1\n")).map(|_| ()).unwrap_err().to_string();
        let line = table.matches('\n').count() + 1;
        assert!(message.starts_with(&format!("t.toml:{line}:")), "{message}");
        let rest = format!(": unknown field `{field}`; did you mean `{near}`?");
        assert!(message.ends_with(&rest), "{message}");
    }
}

#[test]
fn no_message_repeats_a_key_wherever_it_was_written() {
    // Every string of a configuration that uses every field, one at a time.
    let whole = super::good::SAMPLE;
    let strings: Vec<(usize, usize)> = {
        let quotes: Vec<usize> = whole.match_indices('"').map(|(at, _)| at).collect();
        quotes.chunks_exact(2).map(|pair| (pair[0] + 1, pair[1])).collect()
    };
    let mut refused = 0;
    for (start, end) in strings {
        for text in [
            format!("{}{CANARY}{}", &whole[..start], &whole[end..]),
            format!("{}{CANARY}{}", &whole[..start - 1], &whole[end + 1..]),
        ] {
            if let Err(error) = load(&text) {
                refused += 1;
                assert!(!format!("{error} {error:?}").contains("Canary"), "{error:?}");
            }
        }
    }
    assert!(refused > 30, "{refused}");
}
