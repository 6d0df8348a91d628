//! Caddy: a site for each host. Not `php_fastcgi`, which looks for files and rewrites paths first.

use super::site::{Door, Host, Protocol, Site};

/// Before realm lets an idle connection go, which is after 75 s.
const KEEP_S: u64 = 60;

pub(super) fn render(site: &Site) -> String {
    let mut text = site.head(
        "Caddy",
        "for /etc/caddy/Caddyfile, or a file that it imports",
        "caddy",
    );
    for host in &site.hosts {
        text.push_str(&block(site, Some(host)));
    }
    if site.any_host {
        text.push_str(&block(site, None));
    }
    text
}

/// Where Caddy gets a certificate by itself there is no port in it, and no `http://`.
fn address(site: &Site, host: Option<&Host>) -> String {
    let is_usual = site.listen.address.is_none() && site.listen.port == 80;
    let (name, has_certificate) = match host {
        Some(Host::Exact(name)) => (name.clone(), is_public(name)),
        // One for all names below another takes a plugin for its DNS.
        Some(Host::Below(name)) => (format!("*.{name}"), false),
        None => (String::new(), false),
    };
    match (is_usual, has_certificate) {
        (true, true) => name,
        (true, false) if name.is_empty() => "http://".to_owned(),
        (true, false) => format!("http://{name}"),
        (false, _) => format!("http://{name}:{}", site.listen.port),
    }
}

/// Whether a certificate authority can look it up.
fn is_public(name: &str) -> bool {
    let is_address = name.starts_with('[')
        || name
            .bytes()
            .all(|byte| byte == b'.' || byte.is_ascii_digit());
    let last = name.rsplit('.').next().unwrap_or(name);
    let is_kept = [
        "localhost",
        "local",
        "internal",
        "test",
        "invalid",
        "example",
        "lan",
        "home",
    ];
    !is_address && name.contains('.') && !name.contains('_') && !is_kept.contains(&last)
}

fn block(site: &Site, host: Option<&Host>) -> String {
    let port = site.port_suffix();
    let asked = match host {
        Some(Host::Exact(name)) => format!("{name}{port}"),
        Some(Host::Below(_)) | None => format!("{{http.request.host}}{port}"),
    };
    let remark = match host {
        Some(Host::Exact(_)) => "",
        Some(Host::Below(_)) => "# A certificate for all of them takes a plugin for your DNS.\n",
        None => "# Hosts that no other site has.\n",
    };
    let bind = site
        .listen
        .address
        .map_or_else(String::new, |address| format!("\tbind {address}\n\n"));
    let (to, way) = match site.protocol {
        Protocol::FastCgi => fastcgi(site, &asked),
        Protocol::Http => http(site, &asked),
    };
    format!(
        "{remark}{address} {{
{bind}\t# `X_A` and `X-A` are one parameter: nobody says a header of yours in another spelling.
\trequest_header -*_*

\t# What the component with the largest bodies takes; realm keeps the limit of each.
\trequest_body {{
\t\tmax_size {body}
\t}}

\t# With a log-in (its name reaches components as x-realm-remote-user); `caddy hash-password` says HASH:
\t# basicauth {{
\t# \tNAME HASH
\t# }}

\treverse_proxy {to} {{
\t\t# What a component streams passes as it comes.
\t\tflush_interval -1

{way}\t}}
}}

",
        address = address(site, host),
        body = site.body_bytes_max,
    )
}

fn fastcgi(site: &Site, asked: &str) -> (String, String) {
    let to = match &site.door {
        Door::Unix(path) => format!("unix/{path}"),
        Door::Tcp(address) => address.to_string(),
    };
    let (wait, stall) = (site.wait_s, site.stall_s);
    let way = format!(
        "\t\t# Caddy opens a connection per request, and takes no body of unknown length.
\t\ttransport fastcgi {{
\t\t\t# The host by which Caddy chose this site: realm believes it before `HTTP_HOST`.
\t\t\tenv REALM_HOST {asked}
\t\t\t# Above the limits of realm, whose answers say what happened.
\t\t\tdial_timeout 5s
\t\t\tread_timeout {wait}s
\t\t\twrite_timeout {stall}s
\t\t\t# What components write to stderr goes to Caddy's log.
\t\t\tcapture_stderr
\t\t}}
"
    );
    (to, way)
}

fn http(site: &Site, asked: &str) -> (String, String) {
    let wait = site.wait_s;
    let way = format!(
        "\t\t# Set, not added to: realm believes all of it.
\t\theader_up Host {asked}
\t\theader_up X-Forwarded-For {{http.request.remote.host}}
\t\theader_up X-Forwarded-Proto {{http.request.scheme}}
\t\theader_up X-Forwarded-Host {asked}
\t\theader_up -Forwarded
\t\theader_up -Proxy

\t\ttransport http {{
\t\t\tdial_timeout 5s
\t\t\t# Above the limits of realm, whose answers say what happened.
\t\t\tresponse_header_timeout {wait}s
\t\t\t# For less time than realm keeps them.
\t\t\tkeepalive {KEEP_S}s
\t\t}}
"
    );
    (site.door.to_string(), way)
}
