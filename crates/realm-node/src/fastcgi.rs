//! From node.toml to the sockets that web servers reach. Not what they say: the edge.

use std::path::{Path, PathBuf};

use realm_edge::fastcgi::{FastCgi, Limits, Listen, ParamsLimits};
use realm_model::node_config::{FastCgiAddress, NodeConfig};

use crate::error::NodeError;

/// What the edge listens on for web servers.
pub(crate) fn config(node: &NodeConfig) -> Result<FastCgi, NodeError> {
    let settings = &node.fastcgi;
    let group = match &settings.socket_group {
        Some(name) if !node.listen.fastcgi.is_empty() => Some(group(name)?),
        Some(_) | None => None,
    };
    let listen = node.listen.fastcgi.iter().map(|address| match address {
        FastCgiAddress::Tcp(address) => Listen::Tcp(*address),
        FastCgiAddress::Unix(path) => Listen::Unix {
            path: PathBuf::from(path),
            mode: settings.socket_mode,
            group,
        },
    });
    let allow = settings.allow.iter().filter_map(|block| block.parse().ok());
    let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Ok(FastCgi {
        listen: listen.collect(),
        allow: allow.collect(),
        limits: Limits {
            requests_max: number(settings.requests_per_connection),
            params: ParamsLimits {
                bytes_max: number(settings.params_bytes_max),
                pairs_max: number(settings.params_max),
                name_bytes_max: number(settings.param_name_bytes_max),
            },
            stderr_bytes_max: number(settings.stderr_bytes_max),
            ..Limits::default()
        },
    })
}

/// The number of a group.
pub(crate) fn group(name: &str) -> Result<u32, NodeError> {
    let path = Path::new("/etc/group");
    let groups = std::fs::read_to_string(path).unwrap_or_default();
    find_group(&groups, name).ok_or_else(|| NodeError::NoGroup {
        name: name.to_owned(),
    })
}

/// A line of /etc/group, by name; a number is one, whether it has a line or not.
fn find_group(groups: &str, wanted: &str) -> Option<u32> {
    let mut named = groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        let id = fields.next()?.parse().ok()?;
        (name == wanted).then_some(id)
    });
    named.next().or_else(|| wanted.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name_and_number() {
        let groups = "root:x:0:\nwww-data:x:33:realm\nbroken\n7:x:70:\n";
        assert_eq!(find_group(groups, "www-data"), Some(33));
        assert_eq!(find_group(groups, "33"), Some(33));
        assert_eq!(find_group(groups, "1234"), Some(1234));
        assert_eq!(find_group(groups, "7"), Some(70));
        assert_eq!(find_group(groups, "nobody"), None);
    }
}
