-- How the keys of a project stand; by name, never the key.
CREATE TABLE key_state (
    project_id INTEGER NOT NULL REFERENCES project (id),
    name TEXT NOT NULL,
    -- Whether a user disabled it.
    disabled INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    -- Not to be tried before this (unix ms); NULL when the provider takes it.
    aside_until INTEGER,
    -- What the provider said when it refused it.
    reason TEXT,
    -- Refusals one after another: how long it is set aside.
    refused INTEGER NOT NULL DEFAULT 0 CHECK (refused >= 0),
    PRIMARY KEY (project_id, name)
) STRICT, WITHOUT ROWID;
