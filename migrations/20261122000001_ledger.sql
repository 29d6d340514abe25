-- The ledger, the queue and what they refer to. Times are UTC, in milliseconds since the Unix
-- epoch (`_wall`, `_at`) or of CLOCK_BOOTTIME (`_boot`, with the boot's row beside it).

-- One row for each boot of the machine on which a daemon has run: ages by CLOCK_BOOTTIME are
-- exact within one boot only.
CREATE TABLE boot (
    id INTEGER PRIMARY KEY,
    -- /proc/sys/kernel/random/boot_id
    uuid TEXT NOT NULL UNIQUE
) STRICT;

-- The owner of an upstream quota.
CREATE TABLE project (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 64),
    -- The quota days of this project before this one (YYYY-MM-DD) are sealed in day_total.
    sealed_before TEXT
) STRICT;

-- What limits apply to: a project's quota group.
CREATE TABLE bucket (
    id INTEGER PRIMARY KEY,
    project_id INTEGER NOT NULL REFERENCES project (id),
    -- The provider's own quota name.
    quota_group TEXT NOT NULL,
    UNIQUE (project_id, quota_group)
) STRICT;

-- Which bucket a request model counts in.
CREATE TABLE model (
    project_id INTEGER NOT NULL REFERENCES project (id),
    -- The id that requests name.
    name TEXT NOT NULL,
    bucket_id INTEGER NOT NULL REFERENCES bucket (id),
    PRIMARY KEY (project_id, name)
) STRICT, WITHOUT ROWID;

-- The limits in force, as of the last start; history is what the ledger rows were admitted under.
CREATE TABLE quota_limit (
    bucket_id INTEGER NOT NULL REFERENCES bucket (id),
    metric TEXT NOT NULL CHECK (metric IN ('requests', 'input_tokens', 'images')),
    -- Length of a rolling window in milliseconds; 0 for the project's quota day.
    window_ms INTEGER NOT NULL CHECK (window_ms >= 0),
    value INTEGER NOT NULL CHECK (value >= 0),
    -- preset:NAME/TIER, learned, config or set
    source TEXT NOT NULL,
    set_at INTEGER NOT NULL,
    PRIMARY KEY (bucket_id, metric, window_ms)
) STRICT, WITHOUT ROWID;

-- One job file.
CREATE TABLE batch (
    id INTEGER PRIMARY KEY,
    -- What users see: a UUIDv7, made by `submit` or by the daemon.
    uid TEXT NOT NULL UNIQUE,
    -- Its directory under working/ in the spool.
    work TEXT NOT NULL UNIQUE,
    -- The dropped file's name, and the unique name of its outputs.
    file_name TEXT NOT NULL,
    out_name TEXT NOT NULL,
    dialect TEXT NOT NULL,
    project_id INTEGER NOT NULL REFERENCES project (id),
    bucket_id INTEGER NOT NULL REFERENCES bucket (id),
    model TEXT NOT NULL,
    tenant TEXT NOT NULL,
    -- 0 high, 1 normal, 2 low
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 2),
    -- What to do with items whose attempt was cut off: retry, hold, fail.
    in_doubt TEXT NOT NULL CHECK (in_doubt IN ('retry', 'hold', 'fail')),
    -- What to do with a file that has a bad line: reject, skip.
    on_bad_line TEXT NOT NULL CHECK (on_bad_line IN ('reject', 'skip')),
    not_before INTEGER,
    -- 0 importing, 1 open, 2 done, 3 failed, 4 cancelled, 5 rejected
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 5),
    -- Why the queued items will not be sent: the user cancelled, or the provider refuses them all.
    stopped TEXT,
    -- The accepted file: device, inode, mtime_ns, size and owner of the original, and its hash.
    source_dev INTEGER NOT NULL,
    source_ino INTEGER NOT NULL,
    source_mtime_ns INTEGER NOT NULL,
    source_bytes INTEGER NOT NULL,
    source_uid INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    -- How often the same file was dropped again while this batch was open.
    dropped_again INTEGER NOT NULL DEFAULT 0,
    -- Items by state, kept in the transactions that change them; `verify` recounts.
    items INTEGER NOT NULL DEFAULT 0,
    succeeded INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    submitted_at INTEGER NOT NULL,
    finished_at INTEGER,
    CHECK (succeeded + failed + cancelled <= items),
    CHECK ((finished_at IS NOT NULL) = (state >= 2))
) STRICT;

-- Used at start and when a file is dropped: the batches that are not finished.
CREATE INDEX batch_open ON batch (id) WHERE state < 2;

-- Used when a file is dropped: is it known?
CREATE INDEX batch_content ON batch (sha256);

-- One prompt of a batch. id = batch.id * 2^32 + the number of its line in the file (1-based).
CREATE TABLE item (
    id INTEGER PRIMARY KEY,
    -- Where its line stands in the accepted file.
    line_offset INTEGER NOT NULL CHECK (line_offset >= 0),
    line_bytes INTEGER NOT NULL CHECK (line_bytes > 0),
    -- Reserved for each attempt: input tokens and images.
    est_input_tokens INTEGER NOT NULL,
    est_images INTEGER NOT NULL,
    -- 0 queued (also while an attempt is open), 1 succeeded, 2 failed, 3 cancelled, 4 held
    state INTEGER NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 4),
    -- Attempts that failed on their own account; a 429 is none.
    attempts INTEGER NOT NULL DEFAULT 0,
    -- Attempts whose fate is unknown.
    doubts INTEGER NOT NULL DEFAULT 0,
    -- Not to be sent again before this (unix ms).
    not_before INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Used when loading the next page of a batch's queue.
CREATE INDEX item_queued ON item (id) WHERE state = 0;

-- The ledger: one row for each request to the provider, inserted before the first byte leaves and
-- updated once.
CREATE TABLE attempt (
    id INTEGER PRIMARY KEY,
    -- The batch item it is for. No foreign key: each item deleted (of a rejected file, of which
    -- nothing was sent) would search the whole ledger.
    item_id INTEGER,
    project_id INTEGER NOT NULL REFERENCES project (id),
    bucket_id INTEGER NOT NULL REFERENCES bucket (id),
    model TEXT NOT NULL,
    -- The key's name, never the key.
    key_name TEXT NOT NULL,
    tenant TEXT NOT NULL,
    -- 0 batch, 1 interactive
    class INTEGER NOT NULL CHECK (class BETWEEN 0 AND 1),
    -- 0 reserved, 1 ok, 2 failed, 3 throttled, 4 aborted (nothing was sent; weighs nothing),
    -- 5 in doubt
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 5),
    boot_id INTEGER NOT NULL REFERENCES boot (id),
    -- Reserved at; and the latest instant at which the provider can have counted it.
    s_wall INTEGER NOT NULL,
    s_boot INTEGER NOT NULL,
    u_wall INTEGER,
    u_boot INTEGER,
    -- The first and last quota day (YYYY-MM-DD) that it may count on.
    day_lo TEXT NOT NULL,
    day_hi TEXT,
    -- What was reserved, and what was really used, in each dimension.
    est_requests INTEGER NOT NULL,
    est_input_tokens INTEGER NOT NULL,
    est_images INTEGER NOT NULL,
    act_requests INTEGER,
    act_input_tokens INTEGER,
    act_images INTEGER,
    -- usageMetadata as reported; 0 when the provider reported none.
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    thought_tokens INTEGER NOT NULL DEFAULT 0,
    tool_tokens INTEGER NOT NULL DEFAULT 0,
    total_tokens INTEGER NOT NULL DEFAULT 0,
    usage_json TEXT,
    http_status INTEGER,
    quota_id TEXT,
    service_tier TEXT,
    -- What went wrong, in words; never a prompt, never a key.
    error TEXT,
    latency_ms INTEGER,
    CHECK (state = 0 OR (u_wall IS NOT NULL AND u_boot IS NOT NULL AND day_hi IS NOT NULL
        AND act_requests IS NOT NULL AND act_input_tokens IS NOT NULL AND act_images IS NOT NULL)),
    CHECK (day_hi IS NULL OR day_hi >= day_lo)
) STRICT;

-- Used at start: the attempts a crash left open.
CREATE INDEX attempt_open ON attempt (id) WHERE state = 0;

-- A11: an attempt changes once, from reserved to a terminal state.
CREATE TRIGGER attempt_settles_once BEFORE UPDATE ON attempt
WHEN OLD.state <> 0 OR NEW.state = 0 OR NEW.id <> OLD.id
BEGIN
    SELECT RAISE(ABORT, 'an attempt is settled once');
END;

-- A11: the ledger is append-only.
CREATE TRIGGER attempt_is_kept BEFORE DELETE ON attempt
BEGIN
    SELECT RAISE(ABORT, 'an attempt is never deleted');
END;

-- The answer of each item until its batch's results file is durable.
CREATE TABLE result (
    item_id INTEGER PRIMARY KEY REFERENCES item (id),
    -- The results line, newline included.
    line TEXT NOT NULL
) STRICT;

-- Sealed sums of a quota day, by the day on which attempts were reserved.
CREATE TABLE day_total (
    bucket_id INTEGER NOT NULL REFERENCES bucket (id),
    day TEXT NOT NULL,
    model TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    ok INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    throttled INTEGER NOT NULL,
    in_doubt INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    thought_tokens INTEGER NOT NULL,
    tool_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    images INTEGER NOT NULL,
    sealed_at INTEGER NOT NULL,
    PRIMARY KEY (bucket_id, day, model)
) STRICT, WITHOUT ROWID;
