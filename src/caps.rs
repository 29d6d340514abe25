//! Every bound of the daemon, with its reason (wall A9). A full buffer pushes back; nothing is
//! dropped silently.

/// Queued items held in memory for the batch whose turn it is; the rest stays in the database.
pub(crate) const READY_PAGE: usize = 512;

/// Queued items that are read of a batch of which nothing was started yet: thousands may wait.
pub(crate) const READY_FIRST: usize = 32;

/// Queued items of one batch held in memory where none of those that came first can go: they are
/// bound to a project of the batch's pool that is shut, and what is behind them may go elsewhere.
pub(crate) const READY_MAX: usize = 8 * READY_PAGE;

/// Items of one batch waiting for a retry that are tried at a time: they wait for the same budget.
pub(crate) const RETRIES_OFFERED_MAX: usize = 64;

/// Items of one batch that may wait for a retry at the same time. Past it the batch starts nothing
/// new: the provider is in trouble.
pub(crate) const RETRY_WAITING_MAX: usize = 1_000;

/// Requests in flight for a project whose limits name no `rpm`.
pub(crate) const IN_FLIGHT_DEFAULT: u32 = 1_000;

/// New requests a second for a project, or twice its rpm's pace if that is more: a cold start must
/// not open a thousand connections at once.
pub(crate) const STARTS_PER_SECOND: u32 = 100;

/// The longest that an item waits to be tried again, in milliseconds: parked after server errors.
pub(crate) const PARKED_MAX_MS: u64 = 30 * 60_000;

/// Server errors one after another, from which on the bucket is shut and one request goes first:
/// an outage must not cost every item its attempts. First and longest time, in milliseconds.
pub(crate) const SERVER_ERRORS_TOGETHER: u32 = 5;
pub(crate) const OUTAGE_BASE_MS: u64 = 10_000;
pub(crate) const OUTAGE_MAX_MS: u64 = 600_000;

/// Attempts after which also an item is failed that only ever went first: a day of waits.
pub(crate) const OUTAGE_ATTEMPTS_MAX: u32 = 55;

/// How far back the ledger is read at a start for what each tenant was served, in milliseconds.
pub(crate) const SERVICE_BACK_MS: u64 = 30 * 60_000;

/// How soon a batch of which only retries are left is looked at again while none is allowed, in
/// milliseconds.
pub(crate) const RETRY_LOOK_MS: u64 = 1_000;

/// Attempts of one item that were cut off, from which on it goes last and alone: it may be what
/// cuts them off. And from which on it is failed.
pub(crate) const DOUBTS_TOGETHER_MAX: u32 = 3;
pub(crate) const DOUBTS_MAX: u32 = 8;

/// "No such model" or "forbidden" answers to a batch that has none answered well, before the rest
/// of it is failed without being sent: one odd answer must not fail 50,000 items, and a misspelt
/// model must not burn a day's quota.
pub(crate) const HOPELESS_ANSWERS: u32 = 3;

/// Calls of clients that wait at once: more would wait longer than any client is patient.
pub(crate) const CALLERS_MAX: usize = 10_000;

/// Leases that are open at once, and the longest of them, in milliseconds.
pub(crate) const LEASES_MAX: usize = 10_000;
pub(crate) const LEASE_MAX_MS: u64 = 3_600_000;

/// More than any model takes or gives for one request: a larger number is none of tokens.
pub(crate) const RECORDED_TOKENS_MAX: u64 = 1 << 40;

/// Rows of the ledger that are listed at once.
pub(crate) const ATTEMPTS_LISTED: i64 = 10_000;

/// The longest that a call is held, in milliseconds, whatever its client asks: what is further off
/// is said at once.
pub(crate) const CALL_WAIT_MAX_MS: u64 = 600_000;

/// Bytes of a call's body, which is held to be weighed; the provider takes 20 MiB inline.
pub(crate) const CALL_BODY_MAX_BYTES: usize = 64 << 20;

/// Bytes of all such bodies together.
pub(crate) const CALL_BYTES_HELD_MAX: usize = 256 << 20;

/// The longest without any byte of a call's body, in milliseconds.
pub(crate) const CALL_BODY_IDLE_MS: u64 = 60_000;

/// Bytes of a refusal that is held back while the call is tried again.
pub(crate) const REFUSAL_HELD_BYTES: usize = 1 << 20;

/// Attempts of one call that were throttled or never left: a provider that closes each connection
/// is not asked for ever.
pub(crate) const CALL_TRIES_MAX: u32 = 20;

/// Models of one project of which nothing but their names is known.
pub(crate) const MODELS_LEARNED_MAX: usize = 1_000;

/// Beyond this, in milliseconds, a wait does not end sooner by what others give back: it is longer
/// than any minute with its margins.
pub(crate) const CALL_HOPE_MS: u64 = 75_000;

/// Bytes of job file lines in flight at once, of all projects: a hundred prompts with large images
/// must not end the daemon for want of memory. One line is always let through.
pub(crate) const BYTES_IN_FLIGHT_MAX: u64 = 256 << 20;

/// Items of a batch whose tokens are counted by the provider ahead of their turn.
pub(crate) const COUNTS_AHEAD: usize = 16;

/// How long after its reservation became durable a request may be sent, in milliseconds, where
/// requests keep a distance; later it is reserved anew, once.
pub(crate) const PERMIT_AGE_MAX_MS: u64 = 1_000;

/// Attempts of the ledger that estimates learn from at a start.
pub(crate) const OBSERVATIONS_BACK: i64 = 20_000;

/// How far the wall clock may move against the boot clock between two steps of the engine before
/// that is a step of it, in milliseconds.
pub(crate) const WALL_STEP_MS: u64 = 500;

/// The longest line whose request is taken to be with the provider within Δ of the last byte that
/// the transport took. Of a longer one more may wait in the kernel's buffer than Δ covers, so only
/// the answer bounds it.
pub(crate) const FLUSHED_BYTES_MAX: u64 = 64 << 10;

/// First and longest wait between attempts after a server error, in milliseconds.
pub(crate) const RETRY_BASE_MS: u64 = 2_000;
pub(crate) const RETRY_MAX_MS: u64 = 120_000;

/// First and longest wait between attempts to reach an endpoint, in milliseconds: at most 8
/// attempts in the first minute.
pub(crate) const CONNECT_BASE_MS: u64 = 1_000;
pub(crate) const CONNECT_MAX_MS: u64 = 60_000;

/// First and longest time a refused key is set aside, in milliseconds.
pub(crate) const KEY_ASIDE_BASE_MS: u64 = 60_000;
pub(crate) const KEY_ASIDE_MAX_MS: u64 = 3_600_000;

/// How many of the last attempts a start looks through for the key that each project used last.
pub(crate) const KEY_TURNS_BACK: i64 = 10_000;

/// How long an item whose line could not be read from the accepted file waits, in milliseconds.
pub(crate) const UNREADABLE_RETRY_MS: u64 = 30_000;

/// How long a project is held after the provider stopped it for its bill, in milliseconds.
pub(crate) const BILLING_HOLD_MS: u64 = 3_600_000;

/// How long starting is held after a write failed (a full disk, say), in milliseconds.
pub(crate) const STORE_PAUSE_MS: u64 = 1_000;

/// How long after a seal that did not come about it is tried again, in milliseconds.
pub(crate) const SEAL_RETRY_MS: u64 = 5_000;

/// The longest the engine sleeps: clocks are read anew at least this often, in milliseconds.
pub(crate) const TICK_MAX_MS: u64 = 15_000;

/// Events that may wait for the engine. Each request in flight has at most three.
pub(crate) const EVENTS_MAX: usize = 16_384;

/// The longest line of a job file in bytes: an inline request is at most 20 MB, and base64 with
/// JSON escapes may double that.
pub(crate) const LINE_MAX_BYTES: usize = 40 << 20;

/// The longest first line that can hold options: a template of 64 KiB with every byte escaped, and
/// all others.
pub(crate) const OPTIONS_MAX_BYTES: usize = 512 << 10;

/// Items in one job file.
pub(crate) const ITEMS_MAX: u32 = 10_000_000;

/// Bad lines listed in `NAME.error.json`; past it only their number is told.
pub(crate) const BAD_LINES_LISTED: usize = 1_000;

/// Items imported in one transaction: about 5 ms of the writer.
pub(crate) const IMPORT_SLICE: usize = 1_000;

/// How long the first choice of a batch that does not say may be off before its fallbacks are
/// tried, in milliseconds: shorter than the wait for another day, longer than a busy minute.
pub(crate) const PATIENCE_MS: u64 = 15 * 60_000;

/// Items exported in one read.
pub(crate) const EXPORT_PAGE: i64 = 1_000;

/// Batches in one listing.
pub(crate) const BATCHES_LISTED: i64 = 1_000;

/// Changes of limits in one listing.
pub(crate) const LIMIT_EVENTS_LISTED: i64 = 1_000;

/// Received files that wait to be entered as batches: that takes milliseconds.
pub(crate) const SUBMISSIONS_MAX: usize = 16;

/// How often `incoming/` is scanned without a hint, in milliseconds.
pub(crate) const SCAN_MS: u64 = 5_000;

/// How soon a file that is still settling is looked at again, in milliseconds.
pub(crate) const RESCAN_MS: u64 = 1_100;

/// How long requests in flight may go on after the daemon was told to stop, in milliseconds.
pub(crate) const DRAIN_MS: u64 = 25_000;

/// How long the API's open requests may go on after that, in milliseconds.
pub(crate) const API_DRAIN_MS: u64 = 3_000;

/// Connections of one listener, if so many files may be open; more wait in the kernel's backlog. A
/// held request has one, and takes some tens of KiB.
pub(crate) const CONNECTIONS_MAX: usize = 4_096;

/// Open files that are asked of the kernel, if it allows so many: the usual 1024 are too few for a
/// thousand held requests, with two connections each.
pub(crate) const FILES_WANTED: u64 = 65_536;

/// How long nothing is accepted after the process ran out of files, in milliseconds.
pub(crate) const ACCEPT_PAUSE_MS: u64 = 1_000;

/// How often it is told that a listener has no connection left, in milliseconds.
pub(crate) const FULL_TOLD_MS: u64 = 60_000;

/// How long a TLS handshake may take, in milliseconds: a slow one over a bad line takes two.
pub(crate) const HANDSHAKE_MS: u64 = 10_000;

/// How long a new connection may be without a whole head of a request, in milliseconds.
pub(crate) const FIRST_REQUEST_MS: u64 = 20_000;

/// How long a connection is kept for the next request, its head included, in milliseconds: longer
/// than clients keep theirs, who would else send into a connection that is being closed.
pub(crate) const IDLE_MS: u64 = 120_000;

/// How often an HTTP/2 client must answer a ping, in milliseconds.
pub(crate) const PING_MS: u64 = 30_000;

/// Requests at once on one connection of HTTP/2.
pub(crate) const STREAMS_MAX: u32 = 256;

/// Bytes of a request's line and headers: twice what the provider takes. No more of a body is read
/// ahead either.
pub(crate) const HEAD_MAX_BYTES: usize = 64 << 10;
pub(crate) const HEAD_MAX_BYTES_H2: u32 = 64 << 10;

/// How often the certificate of TLS is renewed, or read anew, in milliseconds.
pub(crate) const TLS_RENEWAL_MS: u64 = 6 * 3_600_000;

/// Bytes of a request to the daemon's own API: it takes no documents.
pub(crate) const API_BODY_MAX_BYTES: usize = 64 << 10;

/// What `tidegate plan` tells the daemon of its files: 20,000 prompts one by one, and the others as
/// means.
pub(crate) const PLAN_BODY_MAX_BYTES: usize = 16 << 20;

/// Files of one plan.
pub(crate) const PLAN_FILES_MAX: usize = 1_000;

/// Prompts past those that are told one by one are told in groups of so many.
pub(crate) const PLAN_GROUP: u64 = 1_000;

/// What is expected of batches is renewed so often.
pub(crate) const ETA_MS: u64 = 60_000;

/// Between two looks at least this long passes: batches may open many at a time.
pub(crate) const ETA_LEAST_MS: u64 = 2_000;
