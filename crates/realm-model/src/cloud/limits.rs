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
/// Values that `get-all` of `wasi:config` reads from a store.
pub const CONFIG_VALUES_MAX: usize = 10_000;
/// Bytes of their names and values, and of one that is read alone.
pub const CONFIG_BYTES_MAX: usize = 4 * 1024 * 1024;
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
/// Bytes of all of them: what a guest hands over in one call. More of them are not waited for.
pub const REPLIES_BYTES_MAX: usize = VALUE_BYTES_MAX;
/// How long a request waits at most.
pub const REQUEST_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(60);
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
/// Points of one export of metrics; and metrics with the scopes that they are in.
pub const POINTS_MAX: usize = 5_000;
/// Bytes of the text of one export of metrics.
pub const METRICS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Buckets of one point of a histogram.
pub const BUCKETS_MAX: usize = 320;
/// Single values beside one point.
pub const EXEMPLARS_MAX: usize = 16;
/// Bytes of the header `tracestate`: what everybody has to pass on.
pub const TRACE_STATE_BYTES_MAX: usize = 512;

/// Bytes of the name of a collection of documents or vectors, or of an index of texts.
pub const COLLECTION_BYTES_MAX: usize = 40;
/// Bytes of the id of a document, a vector or a text.
pub const DATA_ID_BYTES_MAX: usize = 256;
/// Bytes of a document.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;
/// How deep the values of a document are in each other.
pub const DOCUMENT_DEPTH_MAX: usize = 32;
/// Bytes of the path of a field.
pub const FIELD_BYTES_MAX: usize = 256;
/// Indexes of a collection: each is written with each document.
pub const INDEXES_MAX: usize = 16;
/// Bytes of a text in an indexed field: PostgreSQL's index takes no entry of more than 2,704 with all
/// that stands beside it.
pub const INDEXED_BYTES_MAX: usize = 1_000;
/// Elements of an array in an indexed field.
pub const INDEXED_ELEMENTS_MAX: usize = 1_000;
/// Nodes of a filter.
pub const FILTER_NODES_MAX: usize = 100;
/// How deep they are in each other.
pub const FILTER_DEPTH_MAX: usize = 8;
/// Values of a filter.
pub const FILTER_VALUES_MAX: usize = 1_000;
/// Bytes of all paths and texts of a filter: it waits in the host for a session.
pub const FILTER_BYTES_MAX: usize = 2 * DOCUMENT_BYTES_MAX;
/// Names and elements that a filter looks at in one document: some 10 ms, in which a thread does nothing
/// else.
pub const FILTER_WORK_MAX: usize = 4_000_000;
/// Bytes of a row in a table of realm's own: the largest document or text, with all that stands beside it.
/// A guest may have put other ones there.
pub const OWN_ROW_BYTES_MAX: usize = 2 * DOCUMENT_BYTES_MAX;
/// Bytes that are read, and names and elements that are compared, before others have their turn on the
/// thread: a few milliseconds.
pub const WORK_AT_ONCE: usize = 256 * 1024;
/// Fields of an order.
pub const ORDER_FIELDS_MAX: usize = 4;
/// Bytes of a value that count in an order: the kind, and as much as an index has of a text.
pub const ORDER_KEY_BYTES_MAX: usize = INDEXED_BYTES_MAX + 1;
/// Bytes of a cursor: the keys of an order in hexadecimal, and an id.
pub const CURSOR_BYTES_MAX: usize =
    ORDER_FIELDS_MAX * (2 * ORDER_KEY_BYTES_MAX + 1) + 1 + DATA_ID_BYTES_MAX;
/// Documents, vectors or texts of one page, and bytes of them.
pub const FOUND_MAX: usize = 1_000;
/// Bytes of such a page.
pub const FOUND_BYTES_MAX: usize = VALUE_BYTES_MAX;

/// Numbers of a vector.
pub const DIMENSION_MAX: u32 = 4_096;
/// The largest number of a vector: so many of them, squared and added up, are still a 32-bit number.
pub const COMPONENT_MAX: f32 = 1e15;
/// The shortest vector that has an angle: squared, it is still a 32-bit number.
pub const LENGTH_MIN: f64 = 1e-15;
/// Bytes of the attributes of a vector or a text.
pub const ATTRIBUTES_BYTES_MAX: usize = 64 * 1024;
/// How many attributes those are.
pub const STORED_ATTRIBUTES_MAX: usize = 64;
/// How many attributes one search asks for.
pub const HAVING_MAX: usize = 16;
/// Bytes of an attribute's text that is compared as it is; of a longer one its digest is.
pub const ATTRIBUTE_KEY_BYTES_MAX: usize = 200;
/// Bytes of vectors that one search reads where the database has no search of its own.
pub const SCANNED_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Parts of a text that is searched.
pub const PARTS_MAX: usize = 16;
/// Bytes of all of them.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Words of a text, with one between two parts: PostgreSQL counts places up to 16,383.
pub const WORDS_MAX: usize = 16_000;
/// How often a word is found in one text: PostgreSQL keeps 255 places of each.
pub const WORD_TIMES_MAX: usize = 255;
/// Bytes of a word that count: so many words are within what PostgreSQL keeps of a text, 1 MiB.
pub const WORD_BYTES_MAX: usize = 40;
/// Bytes of a query.
pub const QUERY_BYTES_MAX: usize = 1_024;
/// Words and phrases of a query.
pub const TERMS_MAX: usize = 32;
/// Texts that one search finds.
pub const HITS_MAX: u32 = 100;
/// How far into an answer a search may begin.
pub const OFFSET_MAX: u32 = 10_000;
/// Words of a snippet.
pub const SNIPPET_WORDS: usize = 24;
/// Bytes of a snippet.
pub const SNIPPET_BYTES_MAX: usize = 1_000;
/// Places of a text at which a snippet is looked for.
pub const SNIPPET_TRIES: usize = 200;

/// Bytes of the name of a stream, or of one of its consumers.
pub const STREAM_NAME_BYTES_MAX: usize = 64;
/// Bytes of a record, with its key and metadata: as of a message.
pub const RECORD_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Records that are appended or read at once.
pub const RECORDS_MAX: usize = 1_000;
/// Bytes of them.
pub const RECORDS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a record counts for beside its bytes.
pub const RECORD_OVERHEAD_BYTES: u64 = 64;
/// Milliseconds that a reader waits for a record: less than a call may take.
pub const RECORDS_WAIT_MS_MAX: u32 = 9_000;
/// Streams under one name that a binding leads from, of a node's own; on a server all that a node makes.
pub const STREAMS_MAX: usize = 1_000;
/// Streams of one binding of a node's own.
pub const ALL_STREAMS_MAX: usize = 10_000;
/// Consumers of one stream that have a position.
pub const CONSUMERS_MAX: usize = 100;

/// Bytes of the input, the output, a signal or the result of a step of a run of a workflow: what is larger
/// lies in a store, and its name here.
pub const RUN_BYTES_MAX: usize = 256 * 1024;
/// Steps, sleeps and waits of a run: each call reads all of them.
pub const RUN_STEPS_MAX: u64 = 1_000;
/// Bytes of their names and results.
pub const RUN_JOURNAL_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What each of them counts beside these.
pub const RUN_STEP_BYTES: u64 = 64;
/// Names that one call of a handler asks for, also of steps that it does not do.
pub const RUN_NAMES_MAX: usize = 2_000;
/// Signals that wait in a run.
pub const RUN_SIGNALS_MAX: u64 = 1_000;
/// Bytes of their names and data.
pub const RUN_SIGNAL_BYTES_MAX: u64 = RUN_JOURNAL_BYTES_MAX;
/// Runs of a binding that are not at their end, about.
pub const RUNS_MAX: u64 = 100_000;
/// Runs of one page of a listing.
pub const RUNS_PAGE: usize = 100;
/// Milliseconds that a run at its end is remembered: an id is not taken again meanwhile.
pub const RUN_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1_000;
/// The longest sleep or wait of a run, in milliseconds: a year.
pub const RUN_WAIT_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1_000;
/// Bytes of why a run failed.
pub const RUN_WHY_BYTES_MAX: usize = 1_024;

/// Messages of a prompt.
pub const PROMPT_MESSAGES_MAX: usize = 256;
/// Bytes of all of them: as much as models read, and more than most do.
pub const PROMPT_BYTES_MAX: usize = 1024 * 1024;
/// Texts that end a generation: what most engines take.
pub const STOPS_MAX: usize = 4;
/// Bytes of such a text.
pub const STOP_BYTES_MAX: usize = 256;
/// Bytes of the schema of an answer.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Tokens of a generation.
pub const TOKENS_MAX: u32 = 32_768;
/// The same where a guest does not say.
pub const TOKENS_DEFAULT: u32 = 1_024;
/// Bytes of the text of a generation; it ends there.
pub const COMPLETION_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a piece of it.
pub const PIECE_BYTES_MAX: usize = 16 * 1024;
/// Pieces that wait for who reads them.
pub const PIECES_MAX: usize = 16;
/// Bytes of one event of a server that generates.
pub const GENERATION_EVENT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of all that such a server says in one generation: each token comes with a few hundred.
pub const GENERATION_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Milliseconds from the beginning of a generation to its end, whoever is slow.
pub const GENERATION_MS_MAX: u64 = 10 * 60 * 1_000;
/// Milliseconds until its first word: an engine reads the whole prompt before that.
pub const FIRST_WORD_MS_MAX: u64 = 120_000;
/// Milliseconds from one word of an engine to the next.
pub const NEXT_WORD_MS_MAX: u64 = 30_000;
/// Generations of one binding on a node at a time; further ones wait.
pub const GENERATIONS_MAX: usize = 16;
/// The same of all bindings of a node.
pub const NODE_GENERATIONS_MAX: usize = 64;
/// The same of one instance; further ones are refused.
pub const INSTANCE_GENERATIONS_MAX: usize = 4;
/// Texts that one call makes vectors of.
pub const EMBEDDED_TEXTS_MAX: usize = 64;
/// Bytes of all of them.
pub const EMBEDDED_BYTES_MAX: usize = PROMPT_BYTES_MAX;
/// Bytes of a number of a vector, as a server writes it.
pub const EMBEDDED_NUMBER_BYTES: usize = 32;
