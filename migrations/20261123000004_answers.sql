-- Answers stand in files beside the accepted ones; blocked answers are an end of their own; what
-- job files of other dialects need.

-- The answer of each item until its batch's results are durable: where its results line stands in
-- working/ID/answers, or the line itself where it was made before any answer came (bad lines).
CREATE TABLE answer (
    item_id INTEGER PRIMARY KEY,
    -- Newline included.
    line TEXT,
    line_offset INTEGER CHECK (line_offset >= 0),
    line_bytes INTEGER CHECK (line_bytes > 0),
    -- XXH3-64 of these bytes.
    line_hash INTEGER,
    CHECK ((line IS NULL) = (line_offset IS NOT NULL)),
    CHECK ((line_offset IS NULL) = (line_bytes IS NULL)),
    CHECK ((line_offset IS NULL) = (line_hash IS NULL))
) STRICT;

INSERT INTO answer (item_id, line) SELECT item_id, line FROM result;

DROP TABLE result;

-- The queue anew: with a hash of each line, an end for blocked answers, and an index that repeats
-- the state and not the id.
CREATE TABLE item_anew (
    -- batch.id * 2^32 + the number of its line in the file (1-based).
    id INTEGER PRIMARY KEY,
    -- Where its line stands in the accepted file, as it was before it was packed.
    line_offset INTEGER NOT NULL CHECK (line_offset >= 0),
    line_bytes INTEGER NOT NULL CHECK (line_bytes > 0),
    -- XXH3-64 of these bytes; NULL of lines that an earlier version took in.
    line_hash INTEGER,
    -- Reserved for each attempt: requests, input tokens and images.
    est_requests INTEGER NOT NULL DEFAULT 1,
    est_input_tokens INTEGER NOT NULL,
    est_images INTEGER NOT NULL,
    -- What the estimate was made of (see `attempt`). NULL: not known.
    text_bytes INTEGER,
    media_tokens INTEGER,
    kind INTEGER,
    -- The most output that the request allows; NULL when it does not say.
    output_tokens_max INTEGER,
    -- 0 queued (also while an attempt is open), 1 succeeded, 2 failed, 3 cancelled, 4 held,
    -- 5 blocked: answered, with a refusal or cut off by a filter
    state INTEGER NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 5),
    -- 1: its line is bad and was answered by its fault when the file was read. It is never sent,
    -- also when failed items are tried again.
    bad INTEGER NOT NULL DEFAULT 0 CHECK (bad BETWEEN 0 AND 1),
    -- Attempts that failed on their own account; a 429 is none.
    attempts INTEGER NOT NULL DEFAULT 0,
    -- Attempts whose fate is unknown.
    doubts INTEGER NOT NULL DEFAULT 0,
    -- Not to be sent again before this (unix ms).
    not_before INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO item_anew (id, line_offset, line_bytes, est_input_tokens, est_images, text_bytes,
    media_tokens, kind, output_tokens_max, state, bad, attempts, doubts, not_before)
SELECT id, line_offset, line_bytes, est_input_tokens, est_images, text_bytes, media_tokens, kind,
    output_tokens_max, state, bad, attempts, doubts, not_before
FROM item;

DROP TABLE item;

ALTER TABLE item_anew RENAME TO item;

-- Used when loading the next page of a batch's queue: the rows of an index are ordered by id too.
CREATE INDEX item_queued ON item (state) WHERE state = 0;

-- Of its items, answered with a refusal or cut off by a filter.
ALTER TABLE batch ADD COLUMN blocked INTEGER NOT NULL DEFAULT 0 CHECK (blocked >= 0);
-- What becomes a prompt of a record of text or CSV (`formats::Template` as JSON). NULL: none.
ALTER TABLE batch ADD COLUMN template TEXT;
-- The dialect of its results lines.
ALTER TABLE batch ADD COLUMN answers TEXT NOT NULL DEFAULT 'gemini'
    CHECK (answers IN ('gemini', 'openai'));
