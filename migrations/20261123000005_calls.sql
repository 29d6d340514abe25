-- Requests that clients make by themselves, through the daemon or past it.

-- Who sent it: 0 a batch, 1 a client through the daemon, 2 somebody else, who recorded it
-- afterwards, 3 a client by itself, under a lease.
ALTER TABLE attempt ADD COLUMN source INTEGER NOT NULL DEFAULT 0 CHECK (source BETWEEN 0 AND 3);
-- The method that was called, such as `streamGenerateContent`, or the path's first word; NULL for
-- batches.
ALTER TABLE attempt ADD COLUMN method TEXT;
-- The client as its User-Agent names it, at most 128 bytes.
ALTER TABLE attempt ADD COLUMN client TEXT;
-- Where the client is: an IP address, or `uid:N` on a unix socket.
ALTER TABLE attempt ADD COLUMN peer TEXT;
-- How long it was held before it was reserved.
ALTER TABLE attempt ADD COLUMN waited_ms INTEGER;
