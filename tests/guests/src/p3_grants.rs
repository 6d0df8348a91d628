//! WASI 0.3: answers with what it was granted: environment, arguments and directories, how it fares with
//! the files in them, and the steps of both clocks in nanoseconds (0: it stands still), as JSON; to `/random/N`
//! with N random bytes of each source in hex.

use wasip3::cli::environment::{get_arguments, get_environment, get_initial_cwd};
use wasip3::clocks::{monotonic_clock, system_clock};
use wasip3::exports::http::handler::Guest;
use wasip3::filesystem::preopens::get_directories;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::random::{insecure, insecure_seed, random};
use wasip3::{wit_future, wit_stream};

/// Readings until a clock counts as standing still.
const READINGS_MAX: u32 = 200_000;

struct Grants;

wasip3::http::service::export!(Grants);

impl Guest for Grants {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let text = match path.strip_prefix("/random/") {
            Some(count) => at_random(count.parse().expect("a number")),
            None => told().await,
        };
        let (mut body, reader) = wit_stream::new();
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(reader), trailers);
        wit_bindgen::spawn_local(async move {
            body.write_all(text.into_bytes()).await;
        });
        Ok(response)
    }
}

fn at_random(count: u64) -> String {
    let (low, high) = insecure_seed::get_insecure_seed();
    guests::object([
        ("secure", hex(&random::get_random_bytes(count))),
        ("insecure", hex(&insecure::get_insecure_random_bytes(count))),
        ("seed", format!("{low:016x}{high:016x}")),
    ])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn told() -> String {
    let env = guests::object(get_environment());
    let args = guests::array(get_arguments().iter().map(|one| guests::quoted(one)));
    let cwd = get_initial_cwd().map_or("null".to_owned(), |path| guests::quoted(&path));
    let mut dirs = Vec::new();
    for (dir, name) in get_directories() {
        let read = opens(&dir, "a", OpenFlags::empty(), DescriptorFlags::READ).await;
        let link = opens(&dir, "link", OpenFlags::empty(), DescriptorFlags::READ).await;
        let up = opens(&dir, "../a", OpenFlags::empty(), DescriptorFlags::READ).await;
        let write = opens(&dir, "new", OpenFlags::CREATE, DescriptorFlags::WRITE).await;
        dirs.push(format!(
            r#"{{"name":{},"read":{read},"link":{link},"up":{up},"write":{write}}}"#,
            guests::quoted(&name)
        ));
    }
    format!(
        r#"{{"env":{env},"args":{args},"cwd":{cwd},"dirs":{},"monotonic_step":{},"wall_step":{}}}"#,
        guests::array(dirs),
        step(|| u128::from(monotonic_clock::now())),
        step(|| {
            let now = system_clock::now();
            u128::from(now.seconds.unsigned_abs()) * 1_000_000_000 + u128::from(now.nanoseconds)
        }),
    )
}

async fn opens(dir: &Descriptor, path: &str, open: OpenFlags, flags: DescriptorFlags) -> bool {
    let follow = PathFlags::SYMLINK_FOLLOW;
    dir.open_at(follow, path.to_owned(), open, flags)
        .await
        .is_ok()
}

/// The first step that a clock takes.
fn step(read: impl Fn() -> u128) -> u128 {
    let before = read();
    let mut later = (0..READINGS_MAX).map(|_| read());
    later
        .find(|now| *now != before)
        .map_or(0, |now| now.abs_diff(before))
}
