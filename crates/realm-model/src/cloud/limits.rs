//! Caps of what passes between guests and backends: the same for each backend, so that a guest that
//! works with one works with another.

/// Bytes of the name of a bucket, container, topic or database.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of a key, or of the name of an object: what S3 takes.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Bytes of a value of a key: half of what a guest hands over in one call. NATS takes 1 MiB unless its
/// operator says otherwise.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes that a key is counted for beside itself and its value: what it takes on the disk.
pub const ENTRY_BYTES: usize = 64;
/// Keys of one batch or transaction.
pub const BATCH_MAX: usize = 1_000;
/// Bytes of the values of one batch or transaction, or of what one reads.
pub const BATCH_BYTES_MAX: usize = VALUE_BYTES_MAX;
/// The shortest time to live: NATS takes no shorter one.
pub const TTL_MIN: std::time::Duration = std::time::Duration::from_secs(1);
/// The longest: a hundred years, which every backend can add to the time that it is.
pub const TTL_MAX: std::time::Duration = std::time::Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// Keys of one page of a listing: what Redis and S3 give at a time.
pub const PAGE_KEYS: usize = 1_000;
/// Bytes of one object: a film.
pub const OBJECT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// What an object counts beside its bytes: its name, and its place in a folder.
pub const OBJECT_OVERHEAD_BYTES: u64 = 1024;
/// What a container counts.
pub const CONTAINER_OVERHEAD_BYTES: u64 = 4 * 1024;
/// What a copy within a backend makes of an object at the least: a disk that turns, and has other work.
pub const COPY_BYTES_PER_SEC_MIN: u64 = 10 * 1024 * 1024;
/// Bytes of a message: what NATS takes unless its operator says otherwise, with room for headers.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024 - 16 * 1024;
/// Pairs of a message's metadata, and bytes of all of them.
pub const METADATA_PAIRS_MAX: usize = 64;
/// Bytes of all keys and values of a message's metadata.
pub const METADATA_BYTES_MAX: usize = 8 * 1024;
/// Replies that one request waits for.
pub const REPLIES_MAX: u32 = 100;
/// Bytes of a statement.
pub const STATEMENT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of what a database says of an error: it may quote a statement, or a value.
pub const ERROR_BYTES_MAX: usize = 4 * 1024;
/// Parameters of a statement: what both engines take.
pub const PARAMETERS_MAX: usize = 32_766;
/// Rows, and bytes of them, that a query which is not streamed may give.
pub const ROWS_MAX: usize = 100_000;
/// Bytes of the rows of such a query.
pub const ROWS_BYTES_MAX: usize = VALUE_BYTES_MAX;
/// Rows that are fetched at a time.
pub const PAGE_ROWS: usize = 256;
/// Bytes after which a page of rows has no further one.
pub const PAGE_ROWS_BYTES: usize = 256 * 1024;
/// Bytes of one row, and of a value in it.
pub const ROW_BYTES_MAX: usize = VALUE_BYTES_MAX;
/// Milliseconds from the beginning of a query until its last row was fetched: as long as its rows are
/// open, a database keeps what is older than they.
pub const QUERY_MS_MAX: u64 = 60_000;
/// Milliseconds that a transaction waits for its next statement: it may keep others from writing.
pub const TRANSACTION_MS_MAX: u64 = 30_000;
/// Milliseconds from the beginning of a transaction until it is rolled back, whatever it does: as long as
/// it is open, a database keeps what is older than it.
pub const TRANSACTION_AGE_MS_MAX: u64 = 10 * 60 * 1_000;
/// Sessions of one binding that a node has at a time; who wants a further one waits.
pub const SESSIONS_MAX: usize = 32;
/// Databases of one binding of the node's own.
pub const DATABASES_MAX: usize = 100;
/// Bytes that one call encrypts, signs or codes: what is larger gets a data key.
pub const KEYED_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the context of an encryption.
pub const CONTEXT_BYTES_MAX: usize = 8 * 1024;
/// Seconds that a token is good for, at most.
pub const TOKEN_SEC_MAX: u32 = 3_600;
/// Bytes of a token, and what is no longer than that is looked at.
pub const TOKEN_BYTES_MAX: usize = 4 * 1024;
/// Milliseconds after which a backend's call has an answer, be it that there is none. Less than a
/// person's patience, more than a busy server's worst.
pub const CALL_TIMEOUT_MS: u64 = 10_000;
/// Attributes of one span, event, point or record; what OpenTelemetry's own libraries take.
pub const ATTRIBUTES_MAX: usize = 128;
/// Bytes of the value of an attribute, as JSON; longer ones are cut.
pub const ATTRIBUTE_BYTES_MAX: usize = 4 * 1024;
/// Values in a value.
pub const ATTRIBUTE_ITEMS_MAX: usize = 128;
/// How deep values lie in values.
pub const ATTRIBUTE_DEPTH_MAX: usize = 8;
/// Events of one span, and links.
pub const SPAN_PARTS_MAX: usize = 128;
/// Bytes of the text of one span or record, all in all; attributes, events and links beyond are left out.
pub const SPAN_BYTES_MAX: usize = 128 * 1024;
/// Points of one export of metrics.
pub const POINTS_MAX: usize = 5_000;
/// Bytes of the text of one export of metrics.
pub const METRICS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Buckets of one point of a histogram.
pub const BUCKETS_MAX: usize = 320;
/// Single values beside one point.
pub const EXEMPLARS_MAX: usize = 16;
/// Bytes of the header `tracestate`: what everybody has to pass on.
pub const TRACE_STATE_BYTES_MAX: usize = 512;
