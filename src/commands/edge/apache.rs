//! Apache: a `VirtualHost` for each host, and mod_proxy behind it.
//!
//! By `ProxyPass`, not by `SetHandler`: that one looks for each path among the files first.

use super::site::{Door, Host, Protocol, Site};

/// Before realm lets an idle connection go, which is after 75 s.
const KEEP_S: u64 = 60;
/// What `LimitRequestBody` takes at most.
const BODY_BYTES_MAX: u64 = 2_147_483_647;

pub(super) fn render(site: &Site) -> String {
    let mut text = site.head(
        "Apache",
        "for /etc/apache2/sites-available/realm.conf",
        "www-data",
    );
    let modules = match site.protocol {
        Protocol::FastCgi => "env proxy proxy_fcgi",
        Protocol::Http => "env proxy proxy_http headers",
    };
    text.push_str(&format!("# a2enmod {modules} && a2ensite realm\n"));
    let port = site.listen.port;
    let address = site
        .listen
        .address
        .map(|address| std::net::SocketAddr::new(address, port).to_string());
    if address.is_some() || ![80, 443].contains(&port) {
        let listen = address.clone().unwrap_or_else(|| port.to_string());
        text.push_str(&format!("Listen {listen}\n"));
    }
    let address = address.unwrap_or_else(|| format!("*:{port}"));
    for host in &site.hosts {
        text.push_str(&block(site, &address, Some(host)));
    }
    if site.any_host {
        text.push_str(&block(site, &address, None));
    }
    text
}

fn block(site: &Site, address: &str, host: Option<&Host>) -> String {
    let port = site.port_suffix();
    let (names, asked, check) = match host {
        // Apache has no addresses of IPv6 for names.
        Some(Host::Exact(name)) if name.starts_with('[') => (
            format!("ServerName \"realm.invalid\"\n    ServerAlias \"{name}\""),
            format!("{name}{port}"),
            Some(format!("tolower(%{{SERVER_NAME}}) == '{name}'")),
        ),
        Some(Host::Exact(name)) => (
            format!("ServerName \"{name}\""),
            format!("{name}{port}"),
            Some(format!("tolower(%{{SERVER_NAME}}) == '{name}'")),
        ),
        Some(Host::Below(name)) => (
            format!("ServerName \"{name}\"\n    ServerAlias \"*.{name}\""),
            format!("%{{SERVER_NAME}}{port}"),
            Some(format!(
                "tolower(%{{SERVER_NAME}}) =~ /\\.{}$/",
                name.replace('.', "\\.")
            )),
        ),
        // Whatever it is called, what no other name fits comes here.
        None => (
            "# Hosts that no block before this one has.\n    ServerName \"realm.invalid\"\n    ServerAlias \"*\""
                .to_owned(),
            format!("%{{SERVER_NAME}}{port}"),
            None,
        ),
    };
    let check = check.map_or_else(String::new, |check| {
        format!(
            "
            # Apache takes its first block for hosts that none has: this one is not for them.
            Require expr \"{check}\""
        )
    });
    let way = match site.protocol {
        Protocol::FastCgi => fastcgi(site, &asked),
        Protocol::Http => http(site, &asked),
    };
    let credentials = match site.protocol {
        // Not a part of a request over HTTP: there it passes anyway.
        Protocol::FastCgi => {
            "
        # Components may read `Authorization` themselves, as over HTTP.
        CGIPassAuth On"
        }
        Protocol::Http => "",
    };
    format!(
        "
<VirtualHost {address}>
    {names}
    # The host that was asked for, as far as it is one of these.
    UseCanonicalName Off
    # `%2F` in a path is for the component to read.
    AllowEncodedSlashes NoDecode
    # With TLS (a2enmod ssl), and the last two where clients have certificates of their own:
    # SSLEngine on
    # SSLCertificateFile FILE
    # SSLCertificateKeyFile FILE{ssl}
    # SSLCACertificateFile FILE
    # SSLVerifyClient require

    <Location \"/\">
        # What the component with the largest bodies takes; realm keeps the limit of each.
        LimitRequestBody {body}{credentials}
        # With a log-in (its name reaches components as x-realm-remote-user):
        # AuthType Basic
        # AuthName \"realm\"
        # AuthUserFile /etc/apache2/users
        <RequireAll>
            Require all granted{check}
            # Require valid-user
        </RequireAll>
    </Location>

    ProxyRequests Off
    ProxyErrorOverride Off
{way}</VirtualHost>
",
        ssl = match site.protocol {
            Protocol::FastCgi => "\n    # SSLOptions +StdEnvVars",
            Protocol::Http => "",
        },
        body = site.body_bytes_max.min(BODY_BYTES_MAX),
    )
}

fn fastcgi(site: &Site, asked: &str) -> String {
    // Behind a socket the name leads nowhere: it is that of the pool.
    let to = match &site.door {
        Door::Unix(path) => format!("unix:{path}|fcgi://realm/"),
        Door::Tcp(address) => format!("fcgi://{address}/"),
    };
    let wait = site.wait_s.max(site.stall_s);
    format!(
        "    # Connections are kept, for less time than realm does; what a component streams passes as it
    # comes; and Apache waits longer than realm, whose answers say what happened.
    ProxyPass \"/\" \"{to}\" enablereuse=on ttl={KEEP_S} flushpackets=on connectiontimeout=5 timeout={wait}
    ProxyFCGIBackendType GENERIC
    # Lengths of answers pass: realm sees to it that they are true.
    SetEnv ap_trust_cgilike_cl 1
    # The host by which Apache chose this block: realm believes it before `HTTP_HOST`.
    ProxyFCGISetEnvIf \"true\" REALM_HOST \"{asked}\"
    # Many programs obey a header `Proxy` as the variable HTTP_PROXY.
    ProxyFCGISetEnvIf \"true\" !HTTP_PROXY
"
    )
}

fn http(site: &Site, asked: &str) -> String {
    let wait = site.wait_s.max(site.stall_s);
    format!(
        "    # Connections are kept, for less time than realm does; what a component streams passes as it
    # comes; and Apache waits longer than realm, whose answers say what happened.
    ProxyPass \"/\" \"http://{door}/\" nocanon enablereuse=on ttl={KEEP_S} flushpackets=on connectiontimeout=5 timeout={wait}
    # Bodies of unknown length pass as they come.
    SetEnv proxy-sendchunked 1
    # Set, not added to: realm believes all of it.
    ProxyPreserveHost On
    ProxyAddHeaders Off
    RequestHeader set Host \"{host}\"
    RequestHeader set X-Forwarded-For \"expr=%{{REMOTE_ADDR}}\"
    RequestHeader set X-Forwarded-Proto \"expr=%{{REQUEST_SCHEME}}\"
    RequestHeader set X-Forwarded-Host \"{host}\"
    RequestHeader unset Forwarded
    RequestHeader unset Proxy
",
        door = site.door,
        // A value is an expression only with its mark.
        host = match asked.contains('%') {
            true => format!("expr={asked}"),
            false => asked.to_owned(),
        },
    )
}
