//! Which script a path names, and what is left of the path for it.
//!
//! The path is decoded once and looked at byte by byte, letters as they are: whoever folds or normalises
//! here decides differently from the application which file is a script (CVE-2019-11043,
//! GHSA-3g8v-8r37-cgjm). Whether the file is there, only the application knows.

use percent_encoding::percent_decode_str;
use realm_model::upstream::Scripts;

/// A script, as paths below the document root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    /// `SCRIPT_NAME`.
    pub(super) name: Vec<u8>,
    /// `PATH_INFO`; empty where nothing is left.
    pub(super) info: Vec<u8>,
}

/// The path has a byte or a segment that none may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadPath;

/// The script of the path of a request, as the client encoded it.
pub(super) fn of(path: &str, scripts: &Scripts) -> Result<Script, BadPath> {
    let path: Vec<u8> = percent_decode_str(path).collect();
    if path.first() != Some(&b'/') || path.iter().any(u8::is_ascii_control) {
        return Err(BadPath);
    }
    let segments = || path[1..].split(|byte| *byte == b'/');
    if segments().any(|one| one == b"." || one == b"..") {
        return Err(BadPath);
    }
    let split = scripts.split.as_bytes();
    let mut end = 0;
    for segment in segments() {
        end += 1 + segment.len();
        if segment.len() > split.len() && segment.ends_with(split) {
            let (name, info) = path.split_at(end);
            return Ok(Script {
                name: name.to_vec(),
                info: info.to_vec(),
            });
        }
    }
    let index = scripts.index.as_bytes();
    let name = match (index.first(), path.last()) {
        (Some(b'/'), _) => index.to_vec(),
        (_, Some(b'/')) => [&path, index].concat(),
        (_, _) => [b"/", index].concat(),
    };
    Ok(Script {
        name,
        info: Vec::new(),
    })
}
