//! HAProxy: one frontend that knows the hosts, one backend. The only server of these that sends several
//! requests over one connection of FastCGI at once.

use super::site::{Door, Host, Protocol, Site};

/// Requests at once on one connection: what realm takes by default.
const REQUESTS_MAX: u32 = 32;

pub(super) fn render(site: &Site) -> String {
    let mut text = site.head(
        "HAProxy",
        "for /etc/haproxy/haproxy.cfg, below `global` and `defaults`",
        "haproxy",
    );
    if site.protocol == Protocol::FastCgi {
        text.push_str(
            "# `tune.bufsize` in `global` must be at most 65536: with more, HAProxy before its fix of April 2026
# writes lengths of records that are not true, and clients can make requests of their own of that.
",
        );
        text.push_str(&app());
    }
    text.push_str(&frontend(site));
    text.push_str(&backend(site));
    text
}

fn app() -> String {
    format!(
        "fcgi-app realm
    # HAProxy wants one; realm reads no files.
    docroot /
    # What components write to stderr goes to HAProxy's log.
    log-stderr global
    option keep-conn
    # Several requests at once on a connection: fewer connections, but a client that reads slowly holds up
    # the others of its connection, for FastCGI has no flow control of its own; and an answer that breaks off
    # ends its connection: others that are not done within seconds get 502.
    # option mpxs-conns
    # option max-reqs {REQUESTS_MAX}
    # Components may read `Authorization` themselves, as over HTTP.
    pass-header authorization
    # The host by which the frontend let it pass: realm believes it before `HTTP_HOST`.
    set-param REALM_HOST %[var(txn.realm_host)]
    # An answer may be whole before its request is. HAProxy reads nothing more of a client once it heard of the
    # end: so realm says that behind the body.
    set-param REALM_END body
    # HAProxy calls the user whom the client names in `Authorization` REMOTE_USER, and checks nothing. With
    # `http-request auth unless {{ http_auth(USERS) }}` in the frontend it is true: then without these two.
    set-param REMOTE_USER %[str()]
    set-param AUTH_TYPE %[str()]
    # Many programs obey a header `Proxy` as the variable HTTP_PROXY; `del-header` below removes it.
    set-param SSL_PROTOCOL %[ssl_fc_protocol] if {{ ssl_fc }}
    set-param SSL_CIPHER %[ssl_fc_cipher] if {{ ssl_fc }}
    set-param SSL_TLS_SNI %[ssl_fc_sni] if {{ ssl_fc_has_sni }}
    # Of a certificate that was not verified nothing is said.
    set-param SSL_CLIENT_VERIFY NONE if {{ ssl_fc }} !{{ ssl_c_used }}
    set-param SSL_CLIENT_VERIFY SUCCESS if {{ ssl_c_used }} {{ ssl_c_verify 0 }}
    set-param SSL_CLIENT_S_DN %[ssl_c_s_dn(,0,rfc2253)] if {{ ssl_c_used }} {{ ssl_c_verify 0 }}
    set-param SSL_CLIENT_I_DN %[ssl_c_i_dn(,0,rfc2253)] if {{ ssl_c_used }} {{ ssl_c_verify 0 }}
    set-param SSL_CLIENT_M_SERIAL %[ssl_c_serial,hex] if {{ ssl_c_used }} {{ ssl_c_verify 0 }}

"
    )
}

fn frontend(site: &Site) -> String {
    let bind = match site.listen.address {
        Some(address) => std::net::SocketAddr::new(address, site.listen.port).to_string(),
        None => format!(":{}", site.listen.port),
    };
    let (body, stall, port) = (site.body_bytes_max, site.stall_s, site.port_suffix());
    let mut text = format!(
        "frontend realm
    mode http
    bind {bind}
    # With TLS, and its end where clients have certificates of their own:
    # bind :443 ssl crt FILE alpn h2,http/1.1 ca-file FILE verify required
    timeout http-request 15s
    timeout client {stall}s

    http-request set-var(txn.host) req.hdr(host),host_only,lower
"
    );
    // The first that fits stays: exact names, then the longest suffix, then all others.
    let unset = "!{ var(txn.realm_host) -m found }";
    let mut hosts: Vec<&Host> = site.hosts.iter().collect();
    hosts.sort_by_key(|host| match host {
        Host::Exact(_) => (false, 0),
        Host::Below(name) => (true, usize::MAX - name.len()),
    });
    for host in hosts {
        text.push_str(&match host {
            Host::Exact(name) => format!(
                "    http-request set-var(txn.realm_host) str({name}{port}) if {{ var(txn.host) -m str {name} }}\n"
            ),
            Host::Below(name) => format!(
                "    http-request set-var-fmt(txn.realm_host) %[var(txn.host)]{port} if {unset} {{ var(txn.host) -m end .{name} }}\n"
            ),
        });
    }
    text.push_str(&match site.any_host {
        true => format!(
            "    # Every other host.\n    http-request set-var-fmt(txn.realm_host) %[var(txn.host)]{port} if {unset}\n"
        ),
        false => format!(
            "    # No other host is for realm: send it elsewhere before this line, if it is for somebody.\n    http-request deny deny_status 421 if {unset}\n"
        ),
    });
    text.push_str(&format!(
        "    # What the component with the largest bodies takes; realm keeps the limit of each.
    http-request deny deny_status 413 if {{ req.body_size gt {body} }}
    http-request del-header proxy
    default_backend realm

"
    ));
    text
}

fn backend(site: &Site) -> String {
    let server = match &site.door {
        Door::Unix(path) => format!("unix@{path}"),
        Door::Tcp(address) => address.to_string(),
    };
    // It counts while a body is sent as well.
    let wait = site.wait_s.max(site.stall_s);
    let (headers, protocol) = match site.protocol {
        Protocol::FastCgi => (
            "    use-fcgi-app realm
    # A body of unknown length must fit into a buffer (`tune.bufsize`), or is refused (400).
    # Headers with an underscore or a dot are read as others by some.
    option http-restrict-req-hdr-names delete
",
            " proto fcgi",
        ),
        Protocol::Http => (
            "    option http-restrict-req-hdr-names delete
    # Set, not added to: realm believes all of it.
    http-request set-header host %[var(txn.realm_host)]
    http-request set-header x-forwarded-for %[src]
    http-request set-header x-forwarded-proto http if !{ ssl_fc }
    http-request set-header x-forwarded-proto https if { ssl_fc }
    http-request set-header x-forwarded-host %[var(txn.realm_host)]
    http-request del-header forwarded
",
            "",
        ),
    };
    format!(
        "backend realm
    mode http
    timeout connect 5s
    # Above the limits of realm, whose answers say what happened.
    timeout server {wait}s
    http-reuse always
{headers}    server realm {server}{protocol}
"
    )
}
