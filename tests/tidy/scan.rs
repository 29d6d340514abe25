//! A scanner for Rust that is just good enough: it tells code, comments and literals apart and
//! reads paths and `use` trees. It never fails; on text that is not Rust it finds little.

use std::ops::Range;

/// One file, in views of equal length in which whatever is left out is blank. An offset into one
/// view is the same place in every other.
pub(crate) struct Source {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    /// The text as it stands.
    pub(crate) raw: String,
    /// Code: comments and the contents of string and character literals are blank.
    pub(crate) code: String,
    /// The contents of literals; all else is blank.
    pub(crate) literals: String,
}

impl Source {
    pub(crate) fn new(path: &str, raw: String) -> Self {
        let (code, literals) = if is_rust(path) { split(&raw) } else { Default::default() };
        Self { path: path.replace('\\', "/"), raw, code, literals }
    }

    pub(crate) fn is_rust(&self) -> bool {
        is_rust(&self.path)
    }

    /// Whether the whole file is test code by its place.
    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
    }

    /// Whether the file is the directory's, or the file of that name: `src/gate` holds
    /// `src/gate/mod.rs` and `src/gate.rs`.
    pub(crate) fn is_in(&self, dir: &str) -> bool {
        self.path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    }

    /// The file without its tests: blank as a whole if it is a test file, else without the items
    /// under `#[cfg(test)]`.
    pub(crate) fn without_tests(&self) -> Self {
        let mut tests = test_items(&self.code);
        if self.is_test() {
            tests.push(0..self.code.len());
        }
        let blank = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            for range in &tests {
                wipe(&mut bytes, range.clone());
            }
            to_text(bytes)
        };
        Self {
            path: self.path.clone(),
            raw: self.raw.clone(),
            code: blank(&self.code),
            literals: blank(&self.literals),
        }
    }

    /// `path:line` of an offset.
    pub(crate) fn at(&self, offset: usize) -> String {
        let before = self.raw.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        format!("{}:{line}", self.path)
    }

    /// Every path in the code, each branch of a `use` tree by itself.
    pub(crate) fn paths(&self) -> Vec<Found> {
        paths(&self.code)
    }

    /// The path from the crate's root on, if the path is one within the crate.
    pub(crate) fn within_crate<'a>(&self, path: &'a [String]) -> Option<Vec<&'a str>> {
        let mut segments = path.iter().map(String::as_str).peekable();
        let depth = match segments.next()? {
            "crate" | "tidegate" if path.len() > 1 => 0,
            "super" => {
                let mut up = 1;
                while segments.next_if_eq(&"super").is_some() {
                    up += 1;
                }
                self.module_depth().saturating_sub(up)
            }
            _ => return None,
        };
        // Below the root a `super` path stays within the file's own room.
        (depth == 0).then(|| segments.collect())
    }

    /// How far below the crate's root the file's module is: 2 for `src/gate/window.rs`.
    fn module_depth(&self) -> usize {
        let depth = self.path.split('/').count().saturating_sub(1);
        if self.path.ends_with("/mod.rs") { depth.saturating_sub(1) } else { depth }
    }
}

fn is_rust(path: &str) -> bool {
    path.strip_suffix(".rs").is_some()
}

/// A path and where it begins.
pub(crate) struct Found {
    pub(crate) offset: usize,
    pub(crate) segments: Vec<String>,
}

/// The identifiers of a piece of code, with their offsets.
pub(crate) fn identifiers(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut start = None;
    for (offset, c) in code.char_indices().chain([(code.len(), ' ')]) {
        match start {
            None if c.is_alphabetic() || c == '_' => start = Some(offset),
            // A digit begins a number: `0x1f` and `1_000_u64` hold no identifier.
            None if c.is_ascii_digit() => start = Some(offset),
            Some(begin) if !(c.is_alphanumeric() || c == '_') => {
                let word = code.get(begin..offset).unwrap_or_default();
                if !word.starts_with(|c: char| c.is_ascii_digit()) {
                    found.push((begin, word));
                }
                start = None;
            }
            _ => {}
        }
    }
    found
}

/// From the bracket at `open` to the one that closes it (or the end), both included.
pub(crate) fn bracketed(code: &str, open: usize) -> Range<usize> {
    let mut depth = 0_usize;
    for (offset, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return open..offset + 1;
                }
            }
            _ => {}
        }
    }
    open..code.len()
}

/// Where `needle` stands with no identifier character before it.
pub(crate) fn words(text: &str, needle: &str) -> Vec<usize> {
    let free = |offset: &usize| {
        let before = text.get(..*offset).and_then(|t| t.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    };
    text.match_indices(needle).map(|(offset, _)| offset).filter(free).collect()
}

/// The views `code` and `literals` of a Rust file.
fn split(raw: &str) -> (String, String) {
    let bytes = raw.as_bytes();
    let mut code = bytes.to_vec();
    let mut literals = bytes.to_vec();
    wipe(&mut literals, 0..bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let rest = bytes.get(i..).unwrap_or_default();
        if let Some(end) = comment_end(rest) {
            wipe(&mut code, i..i + end);
            i += end;
        } else if let Some((content, end)) = literal(rest, previous(bytes, i)) {
            let content = i + content.start..i + content.end;
            wipe(&mut code, content.clone());
            if let (Some(to), Some(from)) = (literals.get_mut(content.clone()), bytes.get(content))
            {
                to.copy_from_slice(from);
            }
            i += end;
        } else {
            i += 1;
        }
    }
    (to_text(code), to_text(literals))
}

fn previous(bytes: &[u8], i: usize) -> Option<u8> {
    i.checked_sub(1).and_then(|i| bytes.get(i)).copied()
}

fn comment_end(rest: &[u8]) -> Option<usize> {
    if rest.starts_with(b"//") {
        return Some(rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with(b"/*") {
        return None;
    }
    let mut depth = 0_usize;
    let mut i = 0;
    while i < rest.len() {
        match rest.get(i..i + 2) {
            Some(b"/*") => (depth, i) = (depth + 1, i + 2),
            Some(b"*/") if depth == 1 => return Some(i + 2),
            Some(b"*/") => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    Some(rest.len())
}

/// The content of the literal that begins here, and where the literal ends.
fn literal(rest: &[u8], previous: Option<u8>) -> Option<(Range<usize>, usize)> {
    if previous.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') {
        // Within a word a quote begins a literal only without a prefix: `b` of `grab"` is none.
        return match rest.first() {
            Some(b'"') => Some(plain_string(rest, 1)),
            _ => None,
        };
    }
    let prefix = rest.iter().take_while(|b| b"bcr".contains(b)).count().min(2);
    let raw = prefix > 0 && rest.get(prefix - 1) == Some(&b'r');
    let after = rest.get(prefix..).unwrap_or_default();
    if raw {
        let hashes = after.iter().take_while(|&&b| b == b'#').count();
        if after.get(hashes) == Some(&b'"') {
            return Some(raw_string(rest, prefix + hashes + 1, hashes));
        }
        return None;
    }
    match after.first()? {
        b'"' => Some(plain_string(rest, prefix + 1)),
        b'\'' => character(rest, prefix + 1),
        _ => None,
    }
}

fn plain_string(rest: &[u8], start: usize) -> (Range<usize>, usize) {
    let mut i = start;
    while let Some(byte) = rest.get(i) {
        match byte {
            b'"' => return (start..i, i + 1),
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
    (start..rest.len(), rest.len())
}

fn raw_string(rest: &[u8], start: usize, hashes: usize) -> (Range<usize>, usize) {
    let close: Vec<u8> = [b'"'].into_iter().chain(std::iter::repeat_n(b'#', hashes)).collect();
    let mut i = start;
    while i < rest.len() {
        if rest.get(i..).is_some_and(|rest| rest.starts_with(&close)) {
            return (start..i, i + close.len());
        }
        i += 1;
    }
    (start..rest.len(), rest.len())
}

/// A character literal; `None` for a lifetime.
fn character(rest: &[u8], start: usize) -> Option<(Range<usize>, usize)> {
    let end = if rest.get(start) == Some(&b'\\') {
        // At least one character is escaped, and it may be the quote itself.
        start + 2 + rest.get(start + 2..)?.iter().position(|&b| b == b'\'')?
    } else {
        let first = std::str::from_utf8(rest.get(start..rest.len().min(start + 4))?)
            .or_else(|e| {
                std::str::from_utf8(rest.get(start..start + e.valid_up_to()).unwrap_or(b""))
            })
            .ok()?
            .chars()
            .next()?;
        start + first.len_utf8()
    };
    (rest.get(end) == Some(&b'\'')).then_some((start..end, end + 1))
}

/// The items under `#[cfg(test)]`, attribute included.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut items = Vec::new();
    for (start, attribute) in code.match_indices("#[cfg(test)]") {
        let mut end = code.len();
        let mut depth = 0_usize;
        for (offset, byte) in code.bytes().enumerate().skip(start + attribute.len()) {
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth = depth.saturating_sub(1),
                b'{' if depth == 0 => {
                    end = bracketed(code, offset).end;
                    break;
                }
                b';' if depth == 0 => {
                    end = offset + 1;
                    break;
                }
                _ => {}
            }
        }
        items.push(start..end);
    }
    items
}

fn paths(code: &str) -> Vec<Found> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        i = match tokens.get(i) {
            Some((_, Token::Word(_))) => tree(&tokens, i, &[], &mut found),
            _ => i + 1,
        };
    }
    found
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// `::`
    Path,
    Other(u8),
}

fn tokens(code: &str) -> Vec<(usize, Token<'_>)> {
    let words = identifiers(code);
    let mut words = words.into_iter().peekable();
    let mut tokens = Vec::new();
    let mut i = 0;
    while let Some(&byte) = code.as_bytes().get(i) {
        if let Some((offset, word)) = words.next_if(|(offset, _)| *offset == i) {
            tokens.push((offset, Token::Word(word)));
            i += word.len();
        } else if code.get(i..).is_some_and(|rest| rest.starts_with("::")) {
            tokens.push((i, Token::Path));
            i += 2;
        } else {
            if !byte.is_ascii_whitespace() {
                tokens.push((i, Token::Other(byte)));
            }
            i += 1;
        }
    }
    tokens
}

/// Reads the path, or `use` tree, that begins at token `i`; returns the token after it.
fn tree(tokens: &[(usize, Token<'_>)], i: usize, stem: &[String], found: &mut Vec<Found>) -> usize {
    let mut i = i;
    let mut segments = stem.to_vec();
    let offset = tokens.get(i).map_or(0, |(offset, _)| *offset);
    while let Some((_, Token::Word(word))) = tokens.get(i) {
        segments.push((*word).to_owned());
        i += 1;
        if !matches!(tokens.get(i), Some((_, Token::Path))) {
            break;
        }
        i += 1;
        if matches!(tokens.get(i), Some((_, Token::Other(b'{')))) {
            return group(tokens, i + 1, &segments, found);
        }
    }
    found.push(Found { offset, segments });
    i
}

/// Reads the branches of a `use` tree, up to and including the closing brace.
fn group(
    tokens: &[(usize, Token<'_>)],
    i: usize,
    stem: &[String],
    found: &mut Vec<Found>,
) -> usize {
    let mut i = i;
    loop {
        i = match tokens.get(i) {
            None => return i,
            Some((_, Token::Other(b'}'))) => return i + 1,
            // `a as b`: the new name is no path.
            Some((_, Token::Word("as"))) => i + 2,
            Some((_, Token::Word(_))) => tree(tokens, i, stem, found),
            Some(_) => i + 1,
        };
    }
}

fn wipe(bytes: &mut [u8], range: Range<usize>) {
    for byte in bytes.get_mut(range).unwrap_or_default() {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

/// Only whole literals and comments were wiped, never a part of a character.
fn to_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| panic!("a character was cut: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("src/gate/window.rs", text.to_owned())
    }

    fn joined(text: &str) -> Vec<String> {
        source(text).paths().iter().map(|found| found.segments.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_are_told_from_code() {
        let text = r##"a /* b /* c */ d */ e // f
"g\"h" i b"j" r#"k"l"# m 'n' '\'' '\u{1F600}' '‑' 'o: p<'q> r#type s"##;
        let source = source(text);
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let words: Vec<&str> = identifiers(&source.code).iter().map(|(_, word)| *word).collect();
        assert_eq!(words, ["a", "e", "i", "b", "r", "m", "o", "p", "q", "r", "type", "s"]);
        assert_eq!(squeezed(&source.literals), r#"g\"h j k"l n \' \u{1F600} ‑"#);
        assert_eq!(source.code.len(), text.len());
    }

    #[test]
    fn a_use_tree_is_read_branch_by_branch() {
        assert_eq!(
            joined("use std::{fs, io::{self, Write as W}, time::*}; f(a::b)"),
            ["use", "std::fs", "std::io::self", "std::io::Write", "std::time", "f", "a::b"]
        );
    }

    #[test]
    fn paths_are_followed_to_the_root_of_the_crate() {
        let source = source("use super::super::store::Row; use super::limits; use crate::caps;");
        let within: Vec<_> = source
            .paths()
            .iter()
            .filter_map(|f| source.within_crate(&f.segments).map(|p| p.join("::")))
            .collect();
        assert_eq!(within, ["store::Row", "caps"]);
    }

    #[test]
    fn items_under_cfg_test_are_left_out() {
        let text = "a; #[cfg(test)] mod tests; b; #[cfg(test)] #[x(y)] mod t { c { d } } e";
        let source = source(text).without_tests();
        let words: Vec<&str> = identifiers(&source.code).iter().map(|(_, word)| *word).collect();
        assert_eq!(words, ["a", "b", "e"]);
    }
}
