//! Lets a web server that is installed here read a configuration: in a folder of its own, inside the
//! least configuration around it; and whether anybody listens where it leads. Starts nothing, and touches none of its own files.

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Server;
use super::site::{Door, Protocol, Site};
use crate::failure::Failure;

/// Where programs of the system lie that are not on every user's path.
const SYSTEM_PATHS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];
/// Where distributions have Apache's modules.
const APACHE_MODULES: [&str; 4] = [
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/lib/httpd/modules",
    "/usr/local/apache2/modules",
];
/// Lines of the server's own that are shown.
const LINES_MAX: usize = 12;
/// Another machine of the same network answers within a fraction of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Gives the name of the server that accepts the configuration.
pub(super) fn check(server: Server, site: &Site, config: &str) -> Result<&'static str, Failure> {
    let (programs, package): (&[&'static str], _) = match server {
        Server::Nginx => (&["nginx"], "nginx"),
        Server::Apache => (&["apache2", "httpd"], "apache2"),
        Server::Caddy => (&["caddy"], "caddy"),
        Server::Haproxy => (&["haproxy"], "haproxy"),
        Server::Lighttpd => (&["lighttpd"], "lighttpd"),
    };
    let found = programs
        .iter()
        .find_map(|name| Some((*name, program(name)?)));
    let Some((name, program)) = found else {
        let message = format!(
            "`{}` is not installed here: nothing was checked",
            programs[0]
        );
        return Err(Failure::new("no-server", message).hint(format!(
            "on Debian: apt-get install {package}; or check it where it runs"
        )));
    };
    let folder = tempfile::tempdir()?;
    let snippet = folder.path().join("realm.conf");
    let main = folder.path().join("main.conf");
    std::fs::write(&snippet, config)?;
    let around = around(server, site.protocol, folder.path(), &snippet)?;
    std::fs::write(&main, around)?;
    let mut command = Command::new(program);
    // What it writes beside its answer stays in the folder.
    command
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .env("XDG_DATA_HOME", folder.path())
        .env("XDG_CONFIG_HOME", folder.path())
        .stdin(std::process::Stdio::null());
    match server {
        Server::Nginx => command
            .args(["-t", "-e", "stderr", "-p"])
            .arg(folder.path())
            .arg("-c")
            .arg(&main),
        Server::Apache => command.args(["-t", "-f"]).arg(&main),
        Server::Caddy => command
            .args(["validate", "--adapter", "caddyfile", "--config"])
            .arg(&main),
        Server::Haproxy => command
            .args(["-c", "-f"])
            .arg(&main)
            .arg("-f")
            .arg(&snippet),
        Server::Lighttpd => command.args(["-tt", "-f"]).arg(&main),
    };
    let output = command.output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if output.status.success() || is_all_but_bound(server, &said) {
        return Ok(name);
    }
    let mut failure = Failure::new("not-accepted", format!("`{name}` does not accept it"));
    for line in said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .take(LINES_MAX)
    {
        failure = failure.cause(line);
    }
    Err(failure)
}

/// Why nobody listens where realm is to answer, as far as this machine sees that.
pub(super) fn unanswered(door: &Door) -> Option<io::Error> {
    let met = match door {
        Door::Unix(path) => UnixStream::connect(path).map(drop),
        Door::Tcp(address) => TcpStream::connect_timeout(address, CONNECT_TIMEOUT).map(drop),
    };
    // The web server's user is another one, and may.
    met.err()
        .filter(|error| error.kind() != io::ErrorKind::PermissionDenied)
}

/// nginx tries the ports as well, which not everybody may have.
fn is_all_but_bound(server: Server, said: &str) -> bool {
    server == Server::Nginx
        && said.contains("syntax is ok")
        && said.contains("(13: Permission denied)")
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_PATHS.map(PathBuf::from));
    folders
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// The least that a server needs around it.
fn around(
    server: Server,
    protocol: Protocol,
    folder: &Path,
    snippet: &Path,
) -> Result<String, Failure> {
    let (folder, snippet) = (folder.display(), snippet.display());
    Ok(match server {
        Server::Nginx => format!(
            "pid {folder}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n    access_log off;\n{temporary}    include {snippet};\n}}\n",
            temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("    {kind}_temp_path {folder}/{kind};\n"))
                .concat(),
        ),
        Server::Apache => {
            let modules = APACHE_MODULES.iter().find(|path| Path::new(path).is_dir());
            let Some(modules) = modules else {
                return Err(Failure::new(
                    "no-server",
                    "the modules of Apache are not where distributions have them",
                )
                .hint("check it where it runs: `apachectl -t`"));
            };
            let needed: &[&str] = match protocol {
                Protocol::FastCgi => &["env", "proxy", "proxy_fcgi"],
                Protocol::Http => &["proxy", "proxy_http", "headers", "env"],
            };
            let common = ["mpm_event", "unixd", "authn_core", "authz_core"];
            let modules: String = common
                .iter()
                .chain(needed)
                .map(|name| format!("<IfModule !{name}_module>\nLoadModule {name}_module {modules}/mod_{name}.so\n</IfModule>\n"))
                .collect();
            format!(
                "ServerRoot \"{folder}\"\nServerName localhost\nPidFile \"{folder}/pid\"\nErrorLog \"{folder}/log\"\n{modules}Include \"{snippet}\"\n"
            )
        }
        Server::Caddy => format!("import {snippet}\n"),
        Server::Haproxy => "global\n    log stderr format raw daemon\n".to_owned(),
        Server::Lighttpd => {
            format!(
                "server.document-root = \"{folder}\"\nserver.port = 8080\nserver.modules = ( \"mod_access\" )\ninclude \"{snippet}\"\n"
            )
        }
    })
}
