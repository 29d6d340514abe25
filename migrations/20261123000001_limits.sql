-- Limits of any dimension, window and scope; what users set and what refusals taught; the weights
-- that later dimensions and estimates need.

-- It was written at each start and read by nobody: the configuration says the same.
DROP TABLE quota_limit;

-- What `tidegate limits set` says; it beats the configuration.
CREATE TABLE limit_set (
    project_id INTEGER NOT NULL REFERENCES project (id),
    -- The quota group; `*` for what all models of the project share.
    quota_group TEXT NOT NULL,
    -- rpm, tpm, rpd, tpd, ipm, spend or sessions
    dimension TEXT NOT NULL,
    -- A number, none or off.
    setting TEXT NOT NULL,
    set_at INTEGER NOT NULL,
    PRIMARY KEY (project_id, quota_group, dimension)
) STRICT, WITHOUT ROWID;

-- Every change of a limit while a daemon ran: who said so, and why.
CREATE TABLE limit_event (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    project_id INTEGER NOT NULL REFERENCES project (id),
    quota_group TEXT NOT NULL,
    dimension TEXT NOT NULL,
    was TEXT,
    became TEXT,
    -- learned or set
    source TEXT NOT NULL,
    -- The quota's id, or what a user did.
    reason TEXT NOT NULL
) STRICT;

-- What a bucket has learned from refusals (`gate::learn::Memory` as JSON), to be taken up at the
-- next start.
CREATE TABLE bucket_memory (
    bucket_id INTEGER PRIMARY KEY REFERENCES bucket (id),
    memory TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;

-- Buckets that a refusal showed to be one quota with another: their requests count there.
CREATE TABLE bucket_alias (
    bucket_id INTEGER PRIMARY KEY REFERENCES bucket (id),
    counts_in INTEGER NOT NULL REFERENCES bucket (id),
    at INTEGER NOT NULL,
    CHECK (bucket_id <> counts_in)
) STRICT;

-- Money, in billionths of a US dollar: what was reserved, and what it came to.
ALTER TABLE attempt ADD COLUMN est_spend_nanos INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN act_spend_nanos INTEGER;

-- What an estimate was made of: bytes of text, tokens of media, and the kind of text (see
-- `formats::Kind`). What was counted for them teaches the next estimate. NULL: not known.
ALTER TABLE attempt ADD COLUMN text_bytes INTEGER;
ALTER TABLE attempt ADD COLUMN media_tokens INTEGER;
ALTER TABLE attempt ADD COLUMN kind INTEGER;
ALTER TABLE item ADD COLUMN text_bytes INTEGER;
ALTER TABLE item ADD COLUMN media_tokens INTEGER;
ALTER TABLE item ADD COLUMN kind INTEGER;

-- The most output that the request allows; NULL when it does not say.
ALTER TABLE item ADD COLUMN output_tokens_max INTEGER;
