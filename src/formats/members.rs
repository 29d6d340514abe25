//! What the members of a request's objects are, in the Gemini API and in `OpenAI`'s.

/// Where in a request a value stands, and so what it counts as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// The body of `generateContent` or `embedContent`.
    Request,
    /// The body of `batchEmbedContents`.
    EmbedList,
    /// One of the texts of such a body, or a list of them.
    EmbedItem,
    /// The body of `countTokens`, which may have a whole request in it.
    Count,
    /// The body of an interaction, or of a response of `OpenAI`'s.
    Interaction,
    /// What an interaction is told: text, a part, a turn, or a list of such.
    Turn,
    /// A content (one turn, or the system instruction), or a list of them.
    Content,
    /// A part of a content, or a list of them.
    Part,
    /// The answer of a tool, which may have parts of its own.
    FunctionResponse,
    /// Media, inline.
    Blob,
    MimeType,
    Base64,
    GenerationConfig,
    Modality,
    CandidateCount,
    OutputTokensMax,
    /// The resolution of all media that have none of their own.
    Resolution,
    /// The resolution of a part's media.
    PartResolution,
    /// A tool, or a list of them.
    Tool,
    /// What a tool that the provider runs is told.
    ServerTool,
    /// A file or cached content elsewhere.
    Reference,
    /// The body of a chat completion.
    Chat,
    /// A message, or a list of them.
    Message,
    /// What a message says: text, a part, or a list of parts.
    ChatPart,
    /// A picture: its link, or an object with the link.
    Picture,
    /// Sound with its format.
    Sound,
    /// The sound itself, in base 64.
    SoundData,
    /// A file, inline or elsewhere.
    File,
    /// A file's content: a data URL, or base 64.
    FileData,
    /// A tool of a chat, or a list of them.
    ChatTool,
    ToolType,
    /// Whether the answer is to come in pieces.
    Stream,
    /// The body of an embeddings call.
    Embeddings,
    /// What is embedded: a text, a list of texts, of tokens, or of lists of tokens.
    Input,
    /// The model's id.
    Model,
    /// Data of any shape that may become tokens, names and numbers included.
    Data,
    /// Nothing that becomes tokens.
    Skip,
}

/// How a member of an object is read: where its value stands, and for one that must not be
/// repeated a bit of its own and its name.
pub(super) type Member = (At, Option<(u8, &'static str)>);

/// The member called `name` of an object that stands there.
pub(super) fn member(at: At, name: &str) -> Member {
    match at {
        At::EmbedList if name == "requests" => (At::EmbedItem, Some((1, "requests"))),
        At::Count if name == "generateContentRequest" || name == "generate_content_request" => {
            (At::Request, None)
        }
        At::Request | At::EmbedItem | At::Count => request(name),
        At::Interaction => interaction(name),
        At::Turn => turn(name),
        At::GenerationConfig => generation_config(name),
        At::Content
        | At::Part
        | At::FunctionResponse
        | At::Blob
        | At::PartResolution
        | At::Tool => content(at, name),
        At::Chat => chat(name),
        At::Embeddings => match name {
            "model" => (At::Model, Some((1, "model"))),
            "input" => (At::Input, Some((2, "input"))),
            _ => (At::Skip, None),
        },
        At::Message | At::ChatPart | At::Picture | At::Sound | At::File | At::ChatTool => {
            message(at, name)
        }
        At::ServerTool | At::Data | At::Input => (At::Data, None),
        At::EmbedList
        | At::MimeType
        | At::Base64
        | At::Modality
        | At::CandidateCount
        | At::OutputTokensMax
        | At::Resolution
        | At::Reference
        | At::SoundData
        | At::FileData
        | At::ToolType
        | At::Stream
        | At::Model
        | At::Skip => (At::Skip, None),
    }
}

/// Of a request to Gemini. Proto JSON allows every name in camel case and in snake case.
fn request(name: &str) -> Member {
    match name {
        "contents" => (At::Content, Some((1, "contents"))),
        "systemInstruction" | "system_instruction" => (At::Content, Some((2, "systemInstruction"))),
        "tools" => (At::Tool, Some((4, "tools"))),
        "generationConfig" | "generation_config" => {
            (At::GenerationConfig, Some((8, "generationConfig")))
        }
        "cachedContent" | "cached_content" => (At::Reference, Some((16, "cachedContent"))),
        "model" => (At::Model, Some((32, "model"))),
        "content" => (At::Content, Some((64, "content"))),
        // It is embedded with its text.
        "title" => (At::Data, None),
        _ => (At::Skip, None),
    }
}

/// Of an interaction, and of a response of `OpenAI`'s, which has the same shape.
fn interaction(name: &str) -> Member {
    match name {
        "model" => (At::Model, Some((1, "model"))),
        "input" => (At::Turn, Some((2, "input"))),
        "stream" => (At::Stream, Some((4, "stream"))),
        "tools" => (At::ChatTool, Some((8, "tools"))),
        "generation_config" | "generationConfig" => {
            (At::GenerationConfig, Some((16, "generation_config")))
        }
        "max_output_tokens" => (At::OutputTokensMax, Some((32, "max_output_tokens"))),
        // What was said before is kept by the provider.
        "previous_interaction_id" | "previous_response_id" | "conversation" => {
            (At::Reference, None)
        }
        "response_modalities" => (At::Modality, None),
        "system_instruction" | "instructions" | "response_format" | "text" => (At::Data, None),
        _ => (At::Skip, None),
    }
}

/// Of what an interaction is told.
fn turn(name: &str) -> Member {
    match name {
        "mime_type" | "mimeType" => (At::MimeType, None),
        "data" => (At::Base64, None),
        "uri" | "file_id" => (At::Reference, None),
        "image_url" => (At::Picture, None),
        "type" | "role" | "id" | "call_id" | "status" | "resolution" | "detail" => (At::Skip, None),
        _ => (At::Turn, None),
    }
}

fn generation_config(name: &str) -> Member {
    match name {
        "responseModalities" | "response_modalities" => {
            (At::Modality, Some((1, "responseModalities")))
        }
        "candidateCount" | "candidate_count" => (At::CandidateCount, Some((2, "candidateCount"))),
        "maxOutputTokens" | "max_output_tokens" => {
            (At::OutputTokensMax, Some((4, "maxOutputTokens")))
        }
        "mediaResolution" | "media_resolution" => (At::Resolution, Some((8, "mediaResolution"))),
        // An answer's schema is sent to the model with the prompt.
        "responseSchema" | "response_schema" | "responseJsonSchema" | "response_json_schema" => {
            (At::Data, None)
        }
        _ => (At::Skip, None),
    }
}

fn content(at: At, name: &str) -> Member {
    match (at, name) {
        (At::Content, "parts") => (At::Part, Some((1, "parts"))),
        (At::FunctionResponse, "parts") => (At::Part, None),
        (At::Part, "inlineData" | "inline_data") => (At::Blob, None),
        (At::Part, "fileData" | "file_data") => (At::Reference, None),
        (At::Part, "functionResponse" | "function_response") => (At::FunctionResponse, None),
        (At::Blob, "mimeType" | "mime_type") => (At::MimeType, Some((1, "mimeType"))),
        (At::Blob, "data") => (At::Base64, Some((2, "data"))),
        (At::Part, "mediaResolution" | "media_resolution") | (At::PartResolution, "level") => {
            (At::PartResolution, None)
        }
        // Functions are sent to the model with the prompt.
        (At::Tool, "functionDeclarations" | "function_declarations") => (At::Data, None),
        (At::Tool, _) => (At::ServerTool, None),
        // These only say how their neighbours are to be read.
        (
            At::Content | At::Part,
            "role" | "videoMetadata" | "video_metadata" | "mediaResolution" | "media_resolution",
        ) => (At::Skip, None),
        (At::Content | At::Part | At::FunctionResponse | At::Blob, _) => (At::Data, None),
        _ => (At::Skip, None),
    }
}

/// Of a chat completion.
fn chat(name: &str) -> Member {
    match name {
        "model" => (At::Model, Some((1, "model"))),
        "messages" => (At::Message, Some((2, "messages"))),
        "tools" => (At::ChatTool, Some((4, "tools"))),
        "stream" => (At::Stream, Some((8, "stream"))),
        "n" => (At::CandidateCount, Some((16, "n"))),
        "max_tokens" => (At::OutputTokensMax, Some((32, "max_tokens"))),
        "max_completion_tokens" => (At::OutputTokensMax, Some((64, "max_completion_tokens"))),
        "modalities" => (At::Modality, Some((128, "modalities"))),
        "functions" | "response_format" => (At::Data, None),
        "web_search_options" => (At::ServerTool, None),
        _ => (At::Skip, None),
    }
}

fn message(at: At, name: &str) -> Member {
    match (at, name) {
        (At::Message, "content") => (At::ChatPart, Some((1, "content"))),
        (At::Message, "role" | "tool_call_id")
        | (At::ChatPart, "type")
        | (At::Picture | At::Sound | At::File, _) => within(at, name),
        (At::ChatPart, "image_url") => (At::Picture, None),
        (At::ChatPart, "input_audio") => (At::Sound, None),
        (At::ChatPart, "file") => (At::File, None),
        (At::ChatTool, "type") => (At::ToolType, None),
        // Texts, calls of functions and their declarations, whatever their shape.
        _ => (At::Data, None),
    }
}

/// Of media in a chat.
fn within(at: At, name: &str) -> Member {
    match (at, name) {
        (At::Picture, "url") => (At::Picture, Some((1, "url"))),
        (At::Sound, "data") => (At::SoundData, Some((1, "data"))),
        (At::File, "file_data") => (At::FileData, Some((1, "file_data"))),
        (At::File, "file_id") => (At::Reference, None),
        _ => (At::Skip, None),
    }
}
