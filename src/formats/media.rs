//! What inline media weigh: upper bounds by type and resolution, after the provider's pages of
//! 2026.

/// Tokens that an image can take: Gemini 3 at `MEDIA_RESOLUTION_ULTRA_HIGH`, the highest there is.
const IMAGE_TOKENS: u64 = 2_240;

/// The same at `MEDIA_RESOLUTION_MEDIUM` (256 with Gemini 2.5).
const IMAGE_TOKENS_MEDIUM: u64 = 560;

/// The same at `MEDIA_RESOLUTION_LOW` (64 with Gemini 2.5).
const IMAGE_TOKENS_LOW: u64 = 280;

/// Audio takes 32 tokens a second; sound of less than 100 bytes to the token (3.2 kB/s) is rare.
const AUDIO_BYTES_PER_TOKEN: u64 = 100;

/// Video takes 263 tokens a second; film of less than 40 bytes to the token (10.5 kB/s) is rare.
const VIDEO_BYTES_PER_TOKEN: u64 = 40;

/// At `MEDIA_RESOLUTION_LOW` a second takes 102 tokens, 70 for its frame and 32 for its sound;
/// at medium Gemini 2.5 takes what it takes by default.
const VIDEO_BYTES_PER_TOKEN_LOW: u64 = 100;

/// At `MEDIA_RESOLUTION_HIGH` a second takes 312 tokens, 280 for its frame and 32 for its sound.
const VIDEO_BYTES_PER_TOKEN_HIGH: u64 = 33;

/// Tokens that a PDF page takes with Gemini 3 (258 before), at medium resolution too.
const PDF_PAGE_TOKENS: u64 = 560;

/// The same at `MEDIA_RESOLUTION_HIGH` and above.
const PDF_PAGE_TOKENS_HIGH: u64 = 1_120;

/// The same at `MEDIA_RESOLUTION_LOW`.
const PDF_PAGE_TOKENS_LOW: u64 = 280;

/// Fewer bytes than this to a page are rare.
const PDF_PAGE_BYTES: u64 = 2_000;

/// The provider takes no longer PDF.
const PDF_PAGES_MAX: u64 = 1_000;

/// English has about four bytes to the token; what other types become is undocumented.
const OTHER_BYTES_PER_TOKEN: u64 = 4;

/// A part being read: its resolution may follow its media.
#[derive(Default)]
pub(super) struct Part {
    pub(super) media: Bounds,
    pub(super) resolution: Option<Resolution>,
}

/// How closely media are looked at.
#[derive(Clone, Copy, Default)]
pub(super) enum Resolution {
    Low,
    Medium,
    #[default]
    Unspecified,
    /// Or anything not known here.
    High,
}

impl Resolution {
    pub(super) fn of(word: &str) -> Self {
        match word {
            "MEDIA_RESOLUTION_LOW" => Self::Low,
            "MEDIA_RESOLUTION_MEDIUM" => Self::Medium,
            "MEDIA_RESOLUTION_UNSPECIFIED" => Self::Unspecified,
            _ => Self::High,
        }
    }

    /// A part's own; `None` when it goes by that of the request.
    pub(super) fn of_part(word: &str) -> Option<Self> {
        match Self::of(word) {
            Self::Unspecified => None,
            own @ (Self::Low | Self::Medium | Self::High) => Some(own),
        }
    }
}

/// Most input tokens of some media at each [`Resolution`], in its order.
#[derive(Clone, Copy, Default)]
pub(super) struct Bounds([u64; 4]);

impl Bounds {
    pub(super) fn add(&mut self, more: Self) {
        for (sum, tokens) in self.0.iter_mut().zip(more.0) {
            *sum = sum.saturating_add(tokens);
        }
    }

    pub(super) fn at(self, resolution: Resolution) -> u64 {
        let [low, medium, unspecified, high] = self.0;
        match resolution {
            Resolution::Low => low,
            Resolution::Medium => medium,
            Resolution::Unspecified => unspecified,
            Resolution::High => high,
        }
    }
}

/// Inline media being read: its type may follow its data.
#[derive(Default)]
pub(super) struct Blob {
    pub(super) media: Media,
    pub(super) decoded_bytes: u64,
}

impl Blob {
    /// Media in base 64.
    pub(super) fn of(media: Media, base64: &str) -> Self {
        Self { media, decoded_bytes: decoded_bytes(base64) }
    }

    /// What a data URL holds; of any other text `otherwise` is believed.
    pub(super) fn of_url(url: &str, otherwise: Media) -> Self {
        match url.strip_prefix("data:").and_then(|rest| rest.split_once(',')) {
            Some((mime_type, base64)) => Self::of(Media::of(mime_type), base64),
            None => Self::of(otherwise, url),
        }
    }

    /// The most input tokens that it takes, unless it is text.
    pub(super) fn bounds(&self) -> Bounds {
        let bytes = self.decoded_bytes;
        let film = |bytes_per_token| bytes / bytes_per_token + 1;
        let pages = (bytes / PDF_PAGE_BYTES).clamp(1, PDF_PAGES_MAX);
        Bounds(match self.media {
            Media::Image => [IMAGE_TOKENS_LOW, IMAGE_TOKENS_MEDIUM, IMAGE_TOKENS, IMAGE_TOKENS],
            Media::Audio => [bytes / AUDIO_BYTES_PER_TOKEN + 1; 4],
            Media::Video => [
                film(VIDEO_BYTES_PER_TOKEN_LOW),
                film(VIDEO_BYTES_PER_TOKEN),
                film(VIDEO_BYTES_PER_TOKEN),
                film(VIDEO_BYTES_PER_TOKEN_HIGH),
            ],
            Media::Pdf => {
                [PDF_PAGE_TOKENS_LOW, PDF_PAGE_TOKENS, PDF_PAGE_TOKENS, PDF_PAGE_TOKENS_HIGH]
                    .map(|tokens| tokens * pages)
            }
            Media::Text => [0; 4],
            Media::Other => [bytes / OTHER_BYTES_PER_TOKEN; 4],
        })
    }
}

/// How many bytes a text in base 64 stands for, rounded up to three.
pub(super) fn decoded_bytes(base64: &str) -> u64 {
    u64::try_from(base64.len()).unwrap_or(u64::MAX).div_ceil(4).saturating_mul(3)
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Media {
    Image,
    Audio,
    Video,
    Pdf,
    Text,
    #[default]
    Other,
}

impl Media {
    pub(super) fn of(mime_type: &str) -> Self {
        let kind = mime_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.split_once('/') {
            Some(("image", _)) => Self::Image,
            Some(("audio", _)) => Self::Audio,
            Some(("video", _)) => Self::Video,
            Some(("text", _)) => Self::Text,
            Some(("application", "pdf")) => Self::Pdf,
            _ => Self::Other,
        }
    }
}
