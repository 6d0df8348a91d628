//! Does one thing to files and tells how it went, as JSON: `{"ok":".."}` or `{"error":".."}`.
//!
//! `/preopens` lists what it was given; `/list`, `/read`, `/write`, `/remove`, `/link` take
//! `?path=`; `/write` also `?text=`, `/link` also `?to=`.

use std::{fs, io};

use guests::wasip2::filesystem::preopens::get_directories;
use guests::{IncomingRequest, ResponseOutparam, quoted};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let parameter = |name| guests::parameter(&request, name).unwrap_or_default();
    let path = parameter("path");
    let done = match guests::path(&request).rsplit('/').next() {
        Some("preopens") => Ok(preopens()),
        Some("list") => list(&path),
        Some("read") => fs::read_to_string(&path),
        Some("write") => fs::write(&path, parameter("text")).map(|()| "written".to_owned()),
        Some("remove") => fs::remove_file(&path).map(|()| "removed".to_owned()),
        Some("link") => link(&parameter("to"), &path),
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    let json = match done {
        Ok(text) => format!(r#"{{"ok":{}}}"#, quoted(&text)),
        Err(error) => format!(
            r#"{{"error":{},"message":{}}}"#,
            quoted(&format!("{:?}", error.kind())),
            quoted(&error.to_string())
        ),
    };
    guests::json(out, 200, &json);
}

fn preopens() -> String {
    let paths: Vec<String> = get_directories()
        .into_iter()
        .map(|(_, path)| path)
        .collect();
    paths.join(" ")
}

fn list(path: &str) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.join(" "))
}

/// Relative to the first preopen, since the standard library has no symlink for this target.
fn link(to: &str, path: &str) -> io::Result<String> {
    let Some((folder, _)) = get_directories().into_iter().next() else {
        return Err(io::ErrorKind::PermissionDenied.into());
    };
    folder
        .symlink_at(to, path)
        .map(|()| "linked".to_owned())
        .map_err(|code| io::Error::other(code.name()))
}
