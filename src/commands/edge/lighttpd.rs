//! lighttpd: a condition for each host. It keeps no connections of FastCGI, and is the one server here
//! that asks authorizers.

use super::site::{Door, Host, Protocol, Site};

pub(super) fn render(site: &Site) -> String {
    let mut text = site.head(
        "lighttpd",
        "for /etc/lighttpd/conf-enabled/60-realm.conf",
        "www-data",
    );
    let module = match site.protocol {
        Protocol::FastCgi => "mod_fastcgi",
        Protocol::Http => "mod_proxy",
    };
    text.push_str(&format!(
        "server.modules += ( \"mod_setenv\", \"{module}\" )\n"
    ));
    // What is said twice of the server itself, here and in its own file, is refused.
    let port = site.listen.port;
    let socket = match site.listen.address {
        Some(address) => Some(std::net::SocketAddr::new(address, port).to_string()),
        None => (port != 80).then(|| format!(":{port}")),
    };
    text.push('\n');
    if let Some(socket) = &socket {
        text.push_str(&format!("$SERVER[\"socket\"] == \"{socket}\" {{\n"));
    }
    // Conditions of one kind are a chain: the first that fits counts.
    let mut hosts: Vec<&Host> = site.hosts.iter().collect();
    hosts.sort_by_key(|host| match host {
        Host::Exact(_) => (false, 0),
        Host::Below(name) => (true, usize::MAX - name.len()),
    });
    for (index, host) in hosts.iter().enumerate() {
        let condition = match host {
            Host::Exact(name) => format!("== \"{name}\""),
            Host::Below(name) => format!("=~ \"\\.{}(:[0-9]+)?$\"", name.replace('.', "\\.")),
        };
        let or = if index == 0 { "" } else { "else " };
        text.push_str(&format!(
            "{or}$HTTP[\"host\"] {condition} {{\n{}}}\n",
            block(site, Some(host))
        ));
    }
    if site.any_host {
        text.push_str(&match hosts.is_empty() {
            true => block(site, None),
            false => format!(
                "# Every other host.\nelse $HTTP[\"host\"] !~ \"^$\" {{\n{}}}\n",
                block(site, None)
            ),
        });
    }
    if socket.is_some() {
        text.push_str("}\n");
    }
    text
}

fn block(site: &Site, host: Option<&Host>) -> String {
    // KiB, rounded up.
    let body = site.body_bytes_max.div_ceil(1024);
    let way = match site.protocol {
        Protocol::FastCgi => fastcgi(site, host),
        Protocol::Http => http(site, host),
    };
    format!(
        "    # What the component with the largest bodies takes, in KiB; realm keeps the limit of each.
    server.max-request-size = {body}
    # Bodies pass as they come, both ways. One of unknown length is refused so (411): with
    # `server.stream-request-body = 0` lighttpd takes those as well, and keeps all in files first.
    server.stream-request-body = 2
    server.stream-response-body = 2
{way}"
    )
}

fn fastcgi(site: &Site, host: Option<&Host>) -> String {
    let asked = match host {
        Some(Host::Exact(name)) => format!(
            "    # The host of this block: realm believes it before `HTTP_HOST`.
    setenv.add-environment = ( \"REALM_HOST\" => \"{name}{}\" )
",
            site.port_suffix()
        ),
        // lighttpd compares what it passes on as HTTP_HOST, and has no other word for it.
        Some(Host::Below(_)) | None => String::new(),
    };
    let door = match &site.door {
        Door::Unix(path) => format!("\"socket\" => \"{path}\""),
        Door::Tcp(address) => {
            format!(
                "\"host\" => \"{}\", \"port\" => {}",
                address.ip(),
                address.port()
            )
        }
    };
    let (wait, stall) = (site.wait_s, site.stall_s);
    format!(
        "{asked}    fastcgi.server = ( \"/\" => ((
        {door},
        # Paths are no files.
        \"check-local\" => \"disable\",
        \"fix-root-scriptname\" => \"enable\",
        # A component gives lighttpd no orders, such as to serve a file of its own.
        \"x-sendfile\" => \"disable\",
        # Above the limits of realm, whose answers say what happened.
        \"connect-timeout\" => 5,
        \"read-timeout\" => {wait},
        \"write-timeout\" => {stall}
    )) )
    # With a log-in (its name reaches components as x-realm-remote-user), by mod_auth and mod_authn_file:
    # auth.backend = \"htpasswd\"
    # auth.backend.htpasswd.userfile = \"/etc/lighttpd/users\"
    # auth.require = ( \"/\" => ( \"method\" => \"basic\", \"realm\" => \"realm\", \"require\" => \"valid-user\" ) )
    # A component that only says who may pass, in front of files of lighttpd's own, is an authorizer:
    # fastcgi.server = ( \"/private\" => (( {door}, \"mode\" => \"authorizer\",
    #     \"check-local\" => \"disable\", \"docroot\" => \"/var/www/html\" )) )
"
    )
}

fn http(site: &Site, host: Option<&Host>) -> String {
    let (address, port) = match &site.door {
        Door::Tcp(address) => (address.ip().to_string(), address.port()),
        // No command line leads here.
        Door::Unix(_) => ("127.0.0.1".to_owned(), 8080),
    };
    let (wait, stall) = (site.wait_s, site.stall_s);
    let asked = match host {
        Some(Host::Exact(name)) => format!(
            "    proxy.header = ( \"force-http10\" => \"disable\", \"map-host-request\" => ( \"-\" => \"{name}{}\" ) )
",
            site.port_suffix()
        ),
        Some(Host::Below(_)) | None => {
            "    proxy.header = ( \"force-http10\" => \"disable\" )\n".to_owned()
        }
    };
    format!(
        "    # lighttpd sets X-Forwarded-For, -Proto and -Host; the client's own are dropped.
    setenv.set-request-header = ( \"X-Forwarded-For\" => \"\", \"Forwarded\" => \"\", \"Proxy\" => \"\" )
{asked}    proxy.server = ( \"\" => ((
        \"host\" => \"{address}\", \"port\" => {port},
        # Above the limits of realm, whose answers say what happened.
        \"connect-timeout\" => 5,
        \"read-timeout\" => {wait},
        \"write-timeout\" => {stall}
    )) )
"
    )
}
