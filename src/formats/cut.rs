//! Cutting the text of a job file into records, piece by piece as it is read.

use std::mem;

use super::{BYTE_ORDER_MARK, Family, begins_options};

/// Finds where records begin and end in a text that is given in pieces of any size.
#[derive(Debug)]
pub struct Cutter(Machine);

#[derive(Debug)]
enum Machine {
    Lines,
    Json(Json),
    Csv(Csv),
}

/// What the start of a piece is: bytes of no record, then some of the record, then again bytes of
/// none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Bytes before the record.
    pub before: usize,
    /// Bytes of the record that follow these.
    pub taken: usize,
    /// Bytes behind the record that follow these.
    pub behind: usize,
    /// How the record ends there; `None` when the piece was too short to tell.
    pub end: Option<End>,
}

/// How a record ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is complete.
    Record,
    /// The text cannot be cut any further.
    Broken(Broken),
}

/// Why a text cannot be cut into records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The first byte is neither `{` nor `[`.
    #[error("a .json file is one request object or a list of them; one object a line is .jsonl")]
    NeitherObjectNorList,
    /// Two commas, or one before the first element.
    #[error("not valid JSON: an element is missing before a comma of the list")]
    ElementMissing,
    /// A comma with no element behind it.
    #[error("not valid JSON: the list ends with a comma")]
    TrailingComma,
    /// No comma between two elements.
    #[error("not valid JSON: a comma is missing between two elements of the list")]
    CommaMissing,
    /// The end of the text within the list.
    #[error("not valid JSON: the list does not end; the file may be cut off")]
    Unfinished,
    /// Something behind the list or the object.
    #[error(
        "not valid JSON: more follows behind the end of the list or object; one object a line is \
         .jsonl"
    )]
    MoreFollows,
    /// The end of the text within a field's quotes.
    #[error(
        "a quote opens in this row and does not close: end the field with a quote, and double the \
         quotes in it"
    )]
    QuoteOpen,
}

impl Cutter {
    /// For the text of a file of this family, from its start.
    #[must_use]
    pub fn new(family: Family) -> Self {
        Self(match family {
            Family::Jsonl | Family::Text => Machine::Lines,
            Family::Json => Machine::Json(Json { state: State::Start { mark: 0 }, list: false }),
            Family::Csv => Machine::Csv(Csv { state: Row::Between, unsure: true }),
        })
    }

    /// Goes on with `piece`, which follows what was given before. `held` is what was taken of the
    /// record so far. Uses up a part of the piece: the next call continues behind it.
    pub fn cut(&mut self, piece: &[u8], held: &[u8]) -> Cut {
        match &mut self.0 {
            Machine::Lines => match memchr::memchr(b'\n', piece) {
                Some(at) => Cut { before: 0, taken: at, behind: 1, end: Some(End::Record) },
                None => Cut { taken: piece.len(), ..Cut::default() },
            },
            Machine::Json(json) => json.cut(piece),
            Machine::Csv(csv) => csv.cut(piece, held),
        }
    }

    /// What the end of the text means; `begun` says whether a record was begun. `None` when there
    /// is no further one.
    pub fn finish(&mut self, begun: bool) -> Option<End> {
        match &mut self.0 {
            Machine::Csv(csv) if matches!(csv.state, Row::Quoted) => {
                csv.state = Row::Between;
                Some(End::Broken(Broken::QuoteOpen))
            }
            Machine::Lines | Machine::Csv(_) => begun.then_some(End::Record),
            Machine::Json(json) => match json.state {
                State::Start { .. } | State::Done | State::Lost => None,
                // An object that stands alone tells better itself where it breaks off.
                State::Inside { .. } | State::Scalar if !json.list => {
                    json.state = State::Done;
                    Some(End::Record)
                }
                State::First
                | State::Value
                | State::Inside { .. }
                | State::Scalar
                | State::After => Some(json.broken(Broken::Unfinished)),
            },
        }
    }

    /// Whether the record just ended is the only one of the text, an object that stands alone.
    #[must_use]
    pub fn stands_alone(&self) -> bool {
        matches!(self.0, Machine::Json(Json { state: State::Done, list: false }))
    }
}

/// Cuts a list of JSON values, or a single object.
#[derive(Debug)]
struct Json {
    state: State,
    /// Whether the text is a list.
    list: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before everything, so many bytes into a byte order mark.
    Start { mark: usize },
    /// Behind the list's bracket.
    First,
    /// Behind a comma.
    Value,
    /// In a string, list or object, so many brackets deep.
    Inside { depth: u64, string: bool, escaped: bool },
    /// In any other value.
    Scalar,
    /// Behind an element.
    After,
    /// Behind everything.
    Done,
    /// Behind what cannot be cut.
    Lost,
}

impl Json {
    fn broken(&mut self, broken: Broken) -> End {
        self.state = State::Lost;
        End::Broken(broken)
    }

    fn cut(&mut self, piece: &[u8]) -> Cut {
        let mut before = 0;
        while let Some(&byte) = piece.get(before) {
            if matches!(self.state, State::Inside { .. } | State::Scalar) {
                break;
            }
            match self.outside(byte) {
                Outside::Skip => before += 1,
                Outside::Begin => {}
                Outside::Broken(broken) => {
                    let end = Some(self.broken(broken));
                    return Cut { before, taken: 0, behind: piece.len() - before, end };
                }
            }
        }
        let (taken, ended) = self.inside(&piece[before..]);
        if ended {
            self.state = if self.list { State::After } else { State::Done };
        }
        Cut { before, taken, behind: 0, end: ended.then_some(End::Record) }
    }

    /// A byte that is not within an element, or begins one.
    fn outside(&mut self, byte: u8) -> Outside {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Outside::Skip;
        }
        match (self.state, byte) {
            (State::Start { mark }, _) if BYTE_ORDER_MARK.get(mark) == Some(&byte) => {
                self.state = State::Start { mark: mark + 1 };
                Outside::Skip
            }
            (State::Start { .. }, b'[') => {
                self.list = true;
                self.state = State::First;
                Outside::Skip
            }
            (State::Start { .. }, b'{') => self.begin(byte),
            (State::Start { .. }, _) => Outside::Broken(Broken::NeitherObjectNorList),
            (State::First | State::Value, b',') => Outside::Broken(Broken::ElementMissing),
            (State::Value, b']') => Outside::Broken(Broken::TrailingComma),
            (State::First | State::After, b']') => {
                self.state = State::Done;
                Outside::Skip
            }
            (State::First | State::Value, _) => self.begin(byte),
            (State::After, b',') => {
                self.state = State::Value;
                Outside::Skip
            }
            (State::After, _) => Outside::Broken(Broken::CommaMissing),
            (State::Lost, _) => Outside::Skip,
            (State::Done, _) => Outside::Broken(Broken::MoreFollows),
            (State::Inside { .. } | State::Scalar, _) => Outside::Begin,
        }
    }

    /// Begins an element; its first byte is looked at again as one within it.
    fn begin(&mut self, byte: u8) -> Outside {
        self.state = match byte {
            b'{' | b'[' | b'"' => State::Inside { depth: 0, string: false, escaped: false },
            _ => State::Scalar,
        };
        Outside::Begin
    }

    /// How many bytes of `rest` belong to the element, and whether it ends there.
    fn inside(&mut self, rest: &[u8]) -> (usize, bool) {
        match self.state {
            State::Scalar => {
                let ends = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b']');
                match rest.iter().position(ends) {
                    Some(end) => (end, true),
                    None => (rest.len(), false),
                }
            }
            State::Inside { mut depth, mut string, mut escaped } => {
                let mut at = 0;
                while let Some(&byte) = rest.get(at) {
                    at += 1;
                    if string {
                        if escaped {
                            escaped = false;
                            continue;
                        }
                        match byte {
                            b'\\' => escaped = true,
                            b'"' => string = false,
                            _ => {
                                let tail = &rest[at..];
                                at += memchr::memchr2(b'"', b'\\', tail).unwrap_or(tail.len());
                                continue;
                            }
                        }
                    } else {
                        match byte {
                            b'"' => string = true,
                            b'{' | b'[' => depth += 1,
                            b'}' | b']' => depth -= 1,
                            _ => continue,
                        }
                    }
                    if depth == 0 && !string {
                        return (at, true);
                    }
                }
                self.state = State::Inside { depth, string, escaped };
                (rest.len(), false)
            }
            State::Start { .. }
            | State::First
            | State::Value
            | State::After
            | State::Done
            | State::Lost => (0, false),
        }
    }
}

enum Outside {
    Skip,
    Begin,
    Broken(Broken),
}

/// Cuts RFC 4180 records: a newline within quotes is the field's.
#[derive(Debug)]
struct Csv {
    state: Row,
    /// Whether the record may yet turn out to be a line of options.
    unsure: bool,
}

#[derive(Clone, Copy, Debug)]
enum Row {
    /// Before a record.
    Between,
    /// Before a field's first byte.
    Field,
    /// In a field without quotes, or behind its quotes.
    Plain,
    Quoted,
    /// Behind a quote within quotes.
    Quote,
    /// In a line of options, which is no record of fields.
    Options,
}

impl Csv {
    fn cut(&mut self, piece: &[u8], held: &[u8]) -> Cut {
        let mut before = 0;
        if matches!(self.state, Row::Between) {
            before = piece.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if before == piece.len() {
                return Cut { before, ..Cut::default() };
            }
            self.state = Row::Field;
        }
        let rest = &piece[before..];
        for (at, &byte) in rest.iter().enumerate() {
            let ends_options = byte == b'\n' && matches!(self.state, Row::Options);
            self.state = match (self.state, byte) {
                (Row::Options, _) if !ends_options => Row::Options,
                (Row::Quoted, b'"') => Row::Quote,
                (Row::Field | Row::Quote, b'"') | (Row::Quoted, _) => Row::Quoted,
                (
                    Row::Field | Row::Plain | Row::Quote | Row::Options | Row::Between,
                    b'\r' | b'\n',
                ) => {
                    self.state = Row::Between;
                    self.unsure = false;
                    return Cut { before, taken: at, behind: 1, end: Some(End::Record) };
                }
                (Row::Field | Row::Plain | Row::Quote, b',') => {
                    if mem::take(&mut self.unsure) && begins_options(&[held, &rest[..at]].concat())
                    {
                        Row::Options
                    } else {
                        Row::Field
                    }
                }
                (Row::Field | Row::Plain | Row::Quote | Row::Options | Row::Between, _) => {
                    Row::Plain
                }
            };
        }
        Cut { before, taken: rest.len(), behind: 0, end: None }
    }
}
