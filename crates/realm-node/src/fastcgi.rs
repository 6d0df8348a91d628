//! From node.toml to the sockets that web servers reach. Not what they say: the edge.

use std::path::{Path, PathBuf};
use std::time::Duration;

use realm_edge::fastcgi::{FastCgi, Limits, Listen, ParamsLimits, Times};
use realm_model::node_config::{FastCgiAddress, FastCgiSettings, NodeConfig};

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
    Ok(FastCgi {
        listen: listen.collect(),
        allow: allow.collect(),
        connections_max: number(settings.connections_max),
        limits: limits(settings),
    })
}

/// What one connection may ask.
fn limits(settings: &FastCgiSettings) -> Limits {
    let time = |milliseconds: u32| Duration::from_millis(milliseconds.into());
    Limits {
        requests_max: number(settings.requests_per_connection),
        params: ParamsLimits {
            bytes_max: number(settings.params_bytes_max),
            pairs_max: number(settings.params_max),
            name_bytes_max: number(settings.param_name_bytes_max),
        },
        // No record is longer.
        question_bytes_max: u16::try_from(settings.question_bytes_max).unwrap_or(u16::MAX),
        stdin_waiting_bytes_max: number(settings.stdin_waiting_bytes_max),
        stdout_waiting_bytes_max: number(settings.stdout_waiting_bytes_max),
        stderr_bytes_max: number(settings.stderr_bytes_max),
        aborts_per_second_max: settings.aborts_per_second_max,
        times: Some(Times {
            head: time(settings.head_timeout_ms),
            body: time(settings.body_timeout_ms),
            idle: time(settings.idle_timeout_ms),
            stall: time(settings.stall_timeout_ms),
        }),
        // The edge knows how many connections there can be.
        ..Limits::default()
    }
}

pub(crate) fn number(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
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

    /// Each key is a number of its own, so that none can stand where another belongs.
    #[test]
    fn what_is_in_node_toml_is_what_the_edge_keeps() {
        let text = "[fastcgi]\nrequests_per_connection = 2\nconnections_max = 3\n\
                    aborts_per_second_max = 4\nparams_bytes_max = 2_005\nparams_max = 16\n\
                    param_name_bytes_max = 17\nquestion_bytes_max = 108\n\
                    stdin_waiting_bytes_max = 20_009\nstdout_waiting_bytes_max = 40_010\n\
                    stderr_bytes_max = 11\nhead_timeout_ms = 112\nidle_timeout_ms = 113\n\
                    stall_timeout_ms = 114\nbody_timeout_ms = 115\n";
        let (node, problems) = realm_model::node_config::parse(text);
        assert_eq!(problems, []);
        let config = config(&node.expect("no problems")).expect("no group is named");
        let limits = Limits {
            requests_max: 2,
            params: ParamsLimits {
                bytes_max: 2_005,
                pairs_max: 16,
                name_bytes_max: 17,
            },
            question_bytes_max: 108,
            stdin_waiting_bytes_max: 20_009,
            stdout_waiting_bytes_max: 40_010,
            stderr_bytes_max: 11,
            aborts_per_second_max: 4,
            connections_told: Limits::default().connections_told,
            times: Some(Times {
                head: Duration::from_millis(112),
                body: Duration::from_millis(115),
                idle: Duration::from_millis(113),
                stall: Duration::from_millis(114),
            }),
        };
        assert_eq!(config.limits, limits);
        assert_eq!(config.connections_max, 3);
    }

    /// What nobody set is what the edge has by itself: its tests are about the node as it is.
    #[test]
    fn what_is_not_in_node_toml_is_the_edges_own() {
        let config = config(&NodeConfig::default()).expect("no group is named");
        let edge = realm_edge::EdgeLimits::default();
        let limits = Limits {
            times: Some(Times {
                head: edge.header_read_timeout,
                body: edge.body_read_timeout,
                idle: edge.idle_timeout,
                stall: edge.write_stall_timeout,
            }),
            ..Limits::default()
        };
        assert_eq!(config.limits, limits);
        assert_eq!(config.connections_max, FastCgi::default().connections_max);
        let listen = NodeConfig::default().listen;
        assert_eq!(number(listen.connections_max), edge.connections_max);
    }

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
