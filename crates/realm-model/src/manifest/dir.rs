//! `dirs`: host directories that a guest sees, written `HOST::GUEST` or `HOST::GUEST::rw`.

use super::path::directory;
use super::value::ValueError;
use crate::codes;
use crate::fields::cut;
use crate::grants::DirGrant;

/// Reads one directory grant; without `::rw` the guest may only read.
pub fn parse_dir(text: &str) -> Result<DirGrant, ValueError> {
    let error = |why: &str| {
        let message = format!("`{}` is not a directory grant: {why}", cut(text));
        let hint = "write `HOST::GUEST`, e.g. `/srv/data::/data`, and `::rw` after it to let the guest write";
        ValueError::new(codes::BAD_DIR, message).hint(Some(hint))
    };
    let parts: Vec<&str> = text.split("::").collect();
    let (host, guest, mode) = match parts.as_slice() {
        [host, guest] => (host, guest, "ro"),
        [host, guest, mode] => (host, guest, *mode),
        _ => return Err(error("expected two directories with `::` between them")),
    };
    let writable = match mode {
        "ro" => false,
        "rw" => true,
        _ => return Err(error("after the second `::` comes `ro` or `rw`")),
    };
    Ok(DirGrant {
        host: directory(host).map_err(error)?,
        guest: directory(guest).map_err(error)?,
        writable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(&str, &str, bool)>) {
        let grant = parse_dir(text).ok();
        let seen = grant
            .as_ref()
            .map(|grant| (grant.host.as_str(), grant.guest.as_str(), grant.writable));
        assert_eq!(seen, expected, "{text}");
    }

    #[test]
    fn a_grant_only_reads_unless_it_says_rw() {
        check("/srv/data::/data", Some(("/srv/data", "/data", false)));
        check("/srv/data/::/data::ro", Some(("/srv/data", "/data", false)));
        check("/srv/data::/::rw", Some(("/srv/data", "/", true)));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "/srv",
            "/srv:/data",
            "srv::/data",
            "/srv::data",
            "/srv::/data::",
            "/srv::/data::wr",
            "/srv::/data::rw::ro",
            "/a/../b::/data",
            "/a::/b/..",
        ] {
            check(text, None);
        }
    }
}
