//! Answers with its environment and arguments: `{"env":{..},"args":[..],"cwd":..}`.

use guests::wasip2::cli::environment::{get_arguments, get_environment, initial_cwd};
use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    let env = guests::object(get_environment());
    let args = guests::array(
        get_arguments()
            .iter()
            .map(|argument| guests::quoted(argument)),
    );
    let cwd = initial_cwd().map_or("null".to_owned(), |path| guests::quoted(&path));
    guests::json(
        out,
        200,
        &format!(r#"{{"env":{env},"args":{args},"cwd":{cwd}}}"#),
    );
}
