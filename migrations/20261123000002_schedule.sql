-- What the scheduler needs to know of a batch, and what users hold by hand.

-- When it should be done (unix ms).
ALTER TABLE batch ADD COLUMN deadline INTEGER;
-- What it may cost at most, in billionths of a US dollar.
ALTER TABLE batch ADD COLUMN max_cost_nanos INTEGER CHECK (max_cost_nanos >= 0);
-- What its attempts came to, in billionths of a US dollar; kept in the transactions that settle
-- them. The ledger says the same.
ALTER TABLE batch ADD COLUMN spent_nanos INTEGER NOT NULL DEFAULT 0 CHECK (spent_nanos >= 0);
-- The configuration's pool of routes that its items may take. NULL: its project and model alone.
ALTER TABLE batch ADD COLUMN pool TEXT;
-- Ids of models that are tried when the first choice is far off: a JSON list. NULL: none.
ALTER TABLE batch ADD COLUMN fallback TEXT;
-- How far off that is, in milliseconds. NULL: as the daemon sees fit.
ALTER TABLE batch ADD COLUMN patience_ms INTEGER CHECK (patience_ms >= 0);
-- Sent as soon as it may be, or spread over the time until its deadline.
ALTER TABLE batch ADD COLUMN pace TEXT NOT NULL DEFAULT 'asap' CHECK (pace IN ('asap', 'spread'));
-- Why a user holds it. NULL: it goes.
ALTER TABLE batch ADD COLUMN paused TEXT;

-- 1: its line is bad and was answered by its fault when the file was read. It is never sent, also
-- when failed items are tried again.
ALTER TABLE item ADD COLUMN bad INTEGER NOT NULL DEFAULT 0 CHECK (bad BETWEEN 0 AND 1);

-- What users hold by hand.
CREATE TABLE pause (
    -- The project's name; `*` for all.
    project TEXT NOT NULL,
    -- The quota group; `*` for all of the project.
    quota_group TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (project, quota_group)
) STRICT, WITHOUT ROWID;

UPDATE batch SET spent_nanos = s.spent
FROM (SELECT item_id >> 32 AS id, sum(act_spend_nanos) AS spent FROM attempt
    WHERE act_spend_nanos > 0 AND item_id IS NOT NULL GROUP BY 1) AS s
WHERE batch.id = s.id;

-- Every line that can be sent has an estimate of more than zero.
UPDATE item SET bad = 1
FROM batch AS b
WHERE b.state < 2 AND item.id >= b.id << 32 AND item.id < (b.id + 1) << 32 AND item.state = 2
    AND item.est_input_tokens = 0;
