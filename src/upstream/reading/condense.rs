//! A document of any size made small as it passes: the members of `paths` are copied, the rest is
//! stepped over.
//!
//! What is stepped over is not judged: there only quotes and brackets are told apart. The copy is
//! judged by whoever reads it.

use memchr::memchr2;

use super::paths::{DOCUMENT, Node};

/// No name that is looked for is longer.
const NAME_BYTES_MAX: usize = 32;

/// Above this a value is copied as `null`. Usage is below 1 KiB, an error below 64.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Above this no further elements of lists are copied: some 5,000 parts.
const LIST_BYTES_MAX: usize = 128 << 10;

/// Above this nothing more is copied. With `KEPT_BYTES_MAX` it bounds the copy.
const COPY_BYTES_MAX: usize = 256 << 10;

/// Where a piece of bytes led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All bytes are taken.
    More,
    /// A document has ended: the whole, or an element of a list.
    Document,
    /// The list of documents has ended.
    ListEnd,
    /// This is no JSON object, nor a list of some. The rest is ignored until [`Condenser::reset`].
    Broken,
}

/// Takes one JSON object, or a list of objects one by one.
#[derive(Debug)]
pub(super) struct Condenser {
    copy: Vec<u8>,
    levels: Vec<Level>,
    at: At,
    name: Vec<u8>,
    is_list: bool,
}

/// A container whose members are looked at.
#[derive(Debug)]
struct Level {
    inside: Inside,
    is_empty: bool,
}

#[derive(Clone, Copy, Debug)]
enum Inside {
    Members(&'static [(&'static str, Node)]),
    Each(&'static Node),
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// Before the first byte.
    Start,
    /// Before an element of the list of documents, or behind one.
    Element {
        may_close: bool,
    },
    AfterElement,
    /// Before a name, in one, and before the colon.
    Name {
        may_close: bool,
    },
    InName {
        escaped: bool,
    },
    Colon {
        member: Option<&'static (&'static str, Node)>,
    },
    /// Before the value of a member, or before an element.
    MemberValue {
        member: Option<&'static (&'static str, Node)>,
    },
    ElementValue {
        each: &'static Node,
        may_close: bool,
    },
    /// Behind a value.
    Comma,
    /// In a value that is taken or stepped over as a whole. `from` is where its copy begins.
    Text {
        from: Option<usize>,
        escaped: bool,
    },
    Scalar {
        from: Option<usize>,
    },
    Nested {
        from: Option<usize>,
        depth: u64,
        in_text: bool,
        escaped: bool,
    },
    /// Behind the last byte.
    Whole,
    Broken,
}

impl Condenser {
    pub(super) fn new() -> Self {
        let (copy, levels, name) = (Vec::new(), Vec::new(), Vec::new());
        Self { copy, levels, at: At::Start, name, is_list: false }
    }

    /// Ready for another document.
    pub(super) fn reset(&mut self) {
        self.copy.clear();
        self.levels.clear();
        self.at = At::Start;
        self.is_list = false;
    }

    /// Whether nothing but blanks came.
    pub(super) fn is_at_start(&self) -> bool {
        matches!(self.at, At::Start)
    }

    /// Whether the object or the list is at its end.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.at, At::Whole)
    }

    /// The document that has just ended, made small.
    pub(super) fn copy(&self) -> &[u8] {
        &self.copy
    }

    /// Takes bytes up to the next step. Returns how many.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (usize, Step) {
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            let (more, step) = self.advance(rest);
            used += more;
            if step != Step::More {
                return (used, step);
            }
        }
        (used, Step::More)
    }

    /// Takes some of `bytes`, which are not empty; none only where the same byte has another
    /// meaning in the next state.
    fn advance(&mut self, bytes: &[u8]) -> (usize, Step) {
        match self.at {
            At::Text { from, escaped } => (self.text(bytes, from, escaped), Step::More),
            At::Nested { from, depth, in_text, escaped } => {
                (self.nested(bytes, from, depth, in_text, escaped), Step::More)
            }
            At::Scalar { from } => (self.scalar(bytes, from), Step::More),
            At::InName { escaped } => {
                self.in_name(bytes[0], escaped);
                (1, Step::More)
            }
            At::Broken => (bytes.len(), Step::More),
            At::Start
            | At::Element { .. }
            | At::AfterElement
            | At::Name { .. }
            | At::Colon { .. }
            | At::MemberValue { .. }
            | At::ElementValue { .. }
            | At::Comma
            | At::Whole => (1, self.mark(bytes[0])),
        }
    }

    /// One byte between values.
    fn mark(&mut self, byte: u8) -> Step {
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            return Step::More;
        }
        match (self.at, byte) {
            (At::Start | At::Element { .. }, b'{') => {
                self.copy.clear();
                self.open(b'{', Inside::Members(DOCUMENT));
            }
            (At::Start, b'[') => {
                self.is_list = true;
                self.at = At::Element { may_close: true };
            }
            (At::AfterElement, b',') => self.at = At::Element { may_close: false },
            (At::Element { may_close: true } | At::AfterElement, b']') => {
                self.at = At::Whole;
                return Step::ListEnd;
            }
            (At::Name { .. }, b'"') => {
                self.name.clear();
                self.at = At::InName { escaped: false };
            }
            (At::Colon { member }, b':') => self.at = At::MemberValue { member },
            (At::MemberValue { member }, _) => return self.member_value(member, byte),
            (At::ElementValue { may_close: true, .. }, b']')
            | (At::Name { may_close: true }, b'}') => return self.close(),
            (At::ElementValue { each, .. }, _) => return self.element_value(each, byte),
            (At::Comma, b',') => match self.levels.last().map(|level| level.inside) {
                Some(Inside::Members(_)) => self.at = At::Name { may_close: false },
                Some(Inside::Each(each)) => {
                    self.at = At::ElementValue { each, may_close: false };
                }
                None => return self.broken(),
            },
            (At::Comma, b'}' | b']') => {
                let inside = self.levels.last().map(|level| level.inside);
                if matches!(inside, Some(Inside::Members(_))) != (byte == b'}') {
                    return self.broken();
                }
                return self.close();
            }
            (_, _) => return self.broken(),
        }
        Step::More
    }

    fn broken(&mut self) -> Step {
        self.at = At::Broken;
        Step::Broken
    }

    fn open(&mut self, bracket: u8, inside: Inside) {
        self.copy.push(bracket);
        self.levels.push(Level { inside, is_empty: true });
        self.at = match inside {
            Inside::Members(_) => At::Name { may_close: true },
            Inside::Each(each) => At::ElementValue { each, may_close: true },
        };
    }

    fn close(&mut self) -> Step {
        let Some(level) = self.levels.pop() else { return self.broken() };
        self.copy.push(match level.inside {
            Inside::Members(_) => b'}',
            Inside::Each(_) => b']',
        });
        self.at = At::Comma;
        if !self.levels.is_empty() {
            return Step::More;
        }
        self.at = if self.is_list { At::AfterElement } else { At::Whole };
        Step::Document
    }

    fn in_name(&mut self, byte: u8, escaped: bool) {
        if byte == b'"' && !escaped {
            self.at = At::Colon { member: self.member() };
            return;
        }
        // One byte more than any name marks one that is too long.
        if self.name.len() <= NAME_BYTES_MAX {
            self.name.push(byte);
        }
        self.at = At::InName { escaped: byte == b'\\' && !escaped };
    }

    /// The member that the name stands for.
    fn member(&self) -> Option<&'static (&'static str, Node)> {
        let Some(Level { inside: Inside::Members(members), .. }) = self.levels.last() else {
            return None;
        };
        let is_room = self.copy.len() <= COPY_BYTES_MAX;
        members.iter().find(|(name, _)| name.as_bytes() == self.name).filter(|_| is_room)
    }

    fn member_value(&mut self, member: Option<&'static (&'static str, Node)>, byte: u8) -> Step {
        if let Some((name, _)) = member {
            self.separate();
            self.copy.push(b'"');
            self.copy.extend_from_slice(name.as_bytes());
            self.copy.extend_from_slice(b"\":");
        }
        self.value(member.map(|(_, node)| node), byte)
    }

    fn element_value(&mut self, each: &'static Node, byte: u8) -> Step {
        let each = Some(each).filter(|_| self.copy.len() <= LIST_BYTES_MAX);
        if each.is_some() {
            self.separate();
        }
        self.value(each, byte)
    }

    fn separate(&mut self) {
        if let Some(level) = self.levels.last_mut()
            && !std::mem::take(&mut level.is_empty)
        {
            self.copy.push(b',');
        }
    }

    /// The first byte of a value, which is copied if there is a `node`.
    fn value(&mut self, node: Option<&'static Node>, byte: u8) -> Step {
        let from = self.copy.len();
        match (byte, node) {
            (b'{', Some(Node::Members(members))) => self.open(byte, Inside::Members(members)),
            (b'[', Some(Node::Each(each))) => self.open(byte, Inside::Each(each)),
            (b'{' | b'[', _) => {
                let from = match node {
                    Some(Node::Keep) => {
                        self.copy.push(byte);
                        Some(from)
                    }
                    // Of another type than expected; what it holds does not matter.
                    Some(Node::Members(_) | Node::Each(_)) => {
                        self.copy.extend_from_slice(if byte == b'{' { b"{}" } else { b"[]" });
                        None
                    }
                    None => None,
                };
                self.at = At::Nested { from, depth: 1, in_text: false, escaped: false };
            }
            (b'"', _) => {
                let from = node.map(|_| from);
                self.keep(from, b"\"");
                self.at = At::Text { from, escaped: false };
            }
            (b'-' | b'0'..=b'9' | b'a'..=b'z', _) => {
                let from = node.map(|_| from);
                self.keep(from, &[byte]);
                self.at = At::Scalar { from };
            }
            (_, _) => return self.broken(),
        }
        Step::More
    }

    /// Copies `bytes` of a value whose copy begins at `from`, if it has one. Returns where it still
    /// begins: a value that grows too long is made a `null`.
    fn keep(&mut self, from: Option<usize>, bytes: &[u8]) -> Option<usize> {
        let from = from?;
        if self.copy.len() - from + bytes.len() > KEPT_BYTES_MAX {
            self.copy.truncate(from);
            self.copy.extend_from_slice(b"null");
            return None;
        }
        self.copy.extend_from_slice(bytes);
        Some(from)
    }

    fn text(&mut self, bytes: &[u8], from: Option<usize>, escaped: bool) -> usize {
        let (used, ended, escaped) = text_run(bytes, escaped);
        let from = self.keep(from, &bytes[..used]);
        self.at = if ended { At::Comma } else { At::Text { from, escaped } };
        used
    }

    fn scalar(&mut self, bytes: &[u8], from: Option<usize>) -> usize {
        let is_of_it = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let end = bytes.iter().position(|byte| !is_of_it(byte));
        let used = end.unwrap_or(bytes.len());
        let from = self.keep(from, &bytes[..used]);
        self.at = if end.is_some() { At::Comma } else { At::Scalar { from } };
        used
    }

    fn nested(
        &mut self,
        bytes: &[u8],
        from: Option<usize>,
        mut depth: u64,
        mut in_text: bool,
        mut escaped: bool,
    ) -> usize {
        let mut used = 0;
        while used < bytes.len() && depth > 0 {
            let rest = &bytes[used..];
            if in_text {
                let (more, ended, open) = text_run(rest, escaped);
                used += more;
                (in_text, escaped) = (!ended, open);
                continue;
            }
            let is_mark = |byte: &u8| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']');
            let Some(at) = rest.iter().position(is_mark) else {
                used = bytes.len();
                break;
            };
            used += at + 1;
            match rest[at] {
                b'"' => in_text = true,
                b'{' | b'[' => depth = depth.saturating_add(1),
                _ => depth -= 1,
            }
        }
        let from = self.keep(from, &bytes[..used]);
        self.at = match depth {
            0 => At::Comma,
            depth => At::Nested { from, depth, in_text, escaped },
        };
        used
    }
}

/// Goes to the end of a text, or of `bytes`: how far, whether the text has ended, and whether the
/// next byte is escaped.
fn text_run(bytes: &[u8], escaped: bool) -> (usize, bool, bool) {
    let mut used = usize::from(escaped).min(bytes.len());
    while let Some(at) = memchr2(b'"', b'\\', &bytes[used..]) {
        used += at + 1;
        if bytes[used - 1] == b'"' {
            return (used, true, false);
        }
        if used == bytes.len() {
            return (used, false, true);
        }
        used += 1;
    }
    (bytes.len(), false, false)
}

#[cfg(test)]
mod tests;
