//! Which kind of request a footprint is of. How many tokens a byte becomes is learnt for each kind
//! apart, and each begins with bounds of its own.

use super::Footprint;

/// Thousandths of a token for a byte of text of which nothing was learnt: half a token. English
/// takes a quarter, Chinese and Japanese a third, Korean at most two fifths.
const COLD_MILLI: u64 = 500;

/// A tokenizer that falls back to bytes makes at most one token of each: the hard bound for text.
const BYTE_MILLI: u64 = 1_000;

/// No text is packed better than 15 tokens for 100 bytes.
const LEAST_MILLI: u64 = 150;

/// Where tokens come from elsewhere than the text, more than ten for a byte of it are not learnt.
const FOREIGN_MILLI: u64 = 10_000;

/// What the text of a request is mostly made of, by its bytes in UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Script {
    /// One byte a character: English, code.
    #[default]
    Ascii,
    /// Two bytes a character: Greek, Cyrillic, Hebrew, Arabic.
    TwoByte,
    /// Three bytes a character: Chinese, Japanese, Korean, Indic and Thai.
    ThreeByte,
    /// A fifth or more of the text may take a token for each byte, most of it in characters of
    /// four bytes: emoji.
    FourByte,
    /// A fifth or more of the text may take a token for each byte, most of it digits, which
    /// Google's tokenizers take one by one, or inline files, whose script is not read.
    Dense,
}

/// What a learnt ratio of tokens to bytes is kept by, beside the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// What the text is made of.
    pub script: Script,
    /// Whether tools of the provider's may add input tokens.
    pub tools: bool,
    /// Whether a file or a cached content adds input tokens.
    pub unmeasured: bool,
    /// Whether there are inline media, whose tokens are an upper bound by type.
    pub media: bool,
}

impl Kind {
    /// The number that stands for the kind in the database; its meaning never changes. Bits 0 to 2
    /// are the script (0 ASCII, 1 two bytes, 2 three bytes, 3 four bytes, 4 dense), bit 3 is
    /// `tools`, bit 4 `unmeasured`, bit 5 `media`.
    #[must_use]
    pub fn code(self) -> u8 {
        let script = match self.script {
            Script::Ascii => 0,
            Script::TwoByte => 1,
            Script::ThreeByte => 2,
            Script::FourByte => 3,
            Script::Dense => 4,
        };
        let flags = [(self.tools, 8), (self.unmeasured, 16), (self.media, 32)];
        flags.into_iter().filter(|(set, _)| *set).fold(script, |code, (_, bit)| code | bit)
    }

    /// The kind that a number stands for; `None` for a number that [`Kind::code`] never gives.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        let script = match code & 7 {
            0 => Script::Ascii,
            1 => Script::TwoByte,
            2 => Script::ThreeByte,
            3 => Script::FourByte,
            4 => Script::Dense,
            _ => return None,
        };
        let kind = Self {
            script,
            tools: code & 8 != 0,
            unmeasured: code & 16 != 0,
            media: code & 32 != 0,
        };
        (kind.code() == code).then_some(kind)
    }

    /// Thousandths of a token to expect for a byte of text before anything was learnt.
    #[must_use]
    pub fn cold_milli(self) -> u64 {
        match self.script {
            Script::Ascii | Script::TwoByte | Script::ThreeByte => COLD_MILLI,
            Script::FourByte | Script::Dense => BYTE_MILLI,
        }
    }

    /// The least that may be learnt, in thousandths of a token for a byte.
    ///
    /// Media are charged above what they mostly take, so what remains for the text looks too
    /// little: beside media a ratio is only ever raised.
    #[must_use]
    pub fn least_milli(self) -> u64 {
        if self.media { self.cold_milli() } else { LEAST_MILLI }
    }

    /// The most that may be learnt, in thousandths of a token for a byte.
    #[must_use]
    pub fn most_milli(self) -> u64 {
        if self.tools || self.unmeasured || self.media { FOREIGN_MILLI } else { BYTE_MILLI }
    }
}

impl Footprint {
    /// Which ratio of tokens to bytes the request goes by.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind {
            script: self.script,
            tools: self.tools,
            unmeasured: self.unmeasured,
            media: self.media_tokens > 0,
        }
    }
}

/// Bytes of text, by how many make a character.
#[derive(Clone, Copy, Default)]
pub(super) struct Scripts {
    total: u64,
    two: u64,
    three: u64,
    four: u64,
    /// Digits, and what cannot be looked into.
    dense: u64,
}

impl Scripts {
    /// Counts text.
    pub(super) fn read(&mut self, text: &str) {
        let (mut two, mut three, mut four, mut digits) = (0_u64, 0_u64, 0_u64, 0_u64);
        // Sums that are checked byte by byte keep the compiler from counting many at once, which
        // takes seven times as long. Of 255 bytes no count exceeds a byte.
        for block in text.as_bytes().chunks(255) {
            let mut counts = [0_u8; 4];
            for byte in block {
                counts[0] = counts[0].wrapping_add(u8::from(byte & 0xE0 == 0xC0));
                counts[1] = counts[1].wrapping_add(u8::from(byte & 0xF0 == 0xE0));
                counts[2] = counts[2].wrapping_add(u8::from(byte & 0xF8 == 0xF0));
                counts[3] = counts[3].wrapping_add(u8::from(byte.is_ascii_digit()));
            }
            two += u64::from(counts[0]);
            three += u64::from(counts[1]);
            four += u64::from(counts[2]);
            digits += u64::from(counts[3]);
        }
        self.ascii(u64::try_from(text.len()).unwrap_or(u64::MAX));
        self.two = self.two.saturating_add(two.saturating_mul(2));
        self.three = self.three.saturating_add(three.saturating_mul(3));
        self.four = self.four.saturating_add(four.saturating_mul(4));
        self.dense = self.dense.saturating_add(digits);
    }

    /// Counts so many bytes of ASCII that are not digits.
    pub(super) fn ascii(&mut self, bytes: u64) {
        self.total = self.total.saturating_add(bytes);
    }

    /// Counts so many bytes each of which may be a token.
    pub(super) fn dense(&mut self, bytes: u64) {
        self.ascii(bytes);
        self.dense = self.dense.saturating_add(bytes);
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// What the text is mostly made of.
    ///
    /// With a fifth of the bytes at one token and the rest at three tenths, a text takes less than
    /// half a token for a byte; with more it may not.
    pub(super) fn mostly(&self) -> Script {
        let one_each = self.dense.saturating_add(self.four);
        if one_each > 0 && one_each.saturating_mul(5) >= self.total {
            return if self.four >= self.dense { Script::FourByte } else { Script::Dense };
        }
        let others = self.two.saturating_add(self.three).saturating_add(self.four);
        let ascii = self.total.saturating_sub(others);
        if ascii >= self.two.max(self.three) {
            Script::Ascii
        } else if self.two >= self.three {
            Script::TwoByte
        } else {
            Script::ThreeByte
        }
    }
}
