//! nginx: an upstream with kept connections, and a `server` block for each host.

use super::site::{Door, Host, Protocol, Site};

/// Before realm lets an idle connection go, which is after 75 s.
const KEEP_S: u64 = 60;
/// Idle connections that each worker keeps.
const KEPT: u32 = 32;

pub(super) fn render(site: &Site) -> String {
    let mut text = site.head("nginx", "for /etc/nginx/conf.d/realm.conf", "www-data");
    let name = upstream(site);
    let server = match &site.door {
        Door::Unix(path) => format!("unix:{path}"),
        Door::Tcp(address) => address.to_string(),
    };
    text.push_str(&format!(
        "upstream {name} {{
    server {server};
    # Connections that each worker keeps, for less time than realm does.
    keepalive {KEPT};
    keepalive_timeout {KEEP_S}s;
}}
"
    ));
    for host in &site.hosts {
        text.push_str(&block(site, Some(host)));
    }
    if site.any_host {
        text.push_str(&block(site, None));
    }
    text
}

fn upstream(site: &Site) -> &'static str {
    match site.protocol {
        Protocol::FastCgi => "realm_fastcgi",
        Protocol::Http => "realm_http",
    }
}

fn block(site: &Site, host: Option<&Host>) -> String {
    let port = site.port_suffix();
    // A name of its own where there is one: what the client wrote is looked at no more.
    let (names, asked, server_name, check) = match host {
        Some(Host::Exact(name)) => (
            format!("server_name \"{name}\";"),
            format!("{name}{port}"),
            name.clone(),
            Some(format!("$host != \"{name}\"")),
        ),
        Some(Host::Below(name)) => (
            format!("server_name \"*.{name}\";"),
            format!("$host{port}"),
            "$host".to_owned(),
            Some(format!("$host !~ \"\\.{}$\"", name.replace('.', "\\."))),
        ),
        None => (
            "# Hosts that no other block has, of this file or another.\n    server_name \"\" \"~.\";"
                .to_owned(),
            format!("$host{port}"),
            "$server_addr".to_owned(),
            None,
        ),
    };
    let check = check.map_or_else(String::new, |check| {
        format!(
            "
    # nginx takes one of its blocks for hosts that none has: this one is not for them.
    if ({check}) {{
        return 421;
    }}
"
        )
    });
    let location = match site.protocol {
        Protocol::FastCgi => fastcgi(site, &asked, &server_name),
        Protocol::Http => http(site, &asked),
    };
    format!(
        "
server {{
{listen}
    {names}
{check}
    # Headers with an underscore or a dot are read as others by some.
    underscores_in_headers off;
    ignore_invalid_headers on;

    # What the component with the largest bodies takes; realm keeps the limit of each.
    client_max_body_size {body};

    location / {{
{location}    }}
}}
",
        listen = listen(site),
        body = site.body_bytes_max,
    )
}

fn listen(site: &Site) -> String {
    let port = site.listen.port;
    let lines = match site.listen.address {
        Some(address) => format!("    listen {};", std::net::SocketAddr::new(address, port)),
        None => format!("    listen {port};\n    listen [::]:{port};"),
    };
    format!(
        "{lines}
    # With TLS, and the last two where clients have certificates of their own:
    # listen 443 ssl;
    # ssl_certificate FILE;
    # ssl_certificate_key FILE;
    # ssl_protocols TLSv1.2 TLSv1.3;
    # ssl_client_certificate FILE;
    # ssl_verify_client on;"
    )
}

fn fastcgi(site: &Site, asked: &str, server_name: &str) -> String {
    let (name, wait, stall) = (upstream(site), site.wait_s, site.stall_s);
    format!(
        "        fastcgi_pass {name};
        fastcgi_keep_conn on;

        # Bodies pass as they come, both ways. With `fastcgi_buffering on` a slow client holds no
        # instance, and what a component streams comes late.
        fastcgi_request_buffering off;
        fastcgi_buffering off;

        # Above the limits of realm, whose answers say what happened.
        fastcgi_connect_timeout 5s;
        fastcgi_read_timeout {wait}s;
        fastcgi_send_timeout {stall}s;

        # A component gives nginx no orders, such as to serve a file of its own.
        fastcgi_ignore_headers X-Accel-Redirect X-Accel-Limit-Rate X-Accel-Charset;

        # The host by which nginx chose this block: realm believes it before `HTTP_HOST`.
        fastcgi_param REALM_HOST \"{asked}\";
        fastcgi_param REQUEST_METHOD $request_method;
        fastcgi_param REQUEST_URI $request_uri;
        fastcgi_param REQUEST_SCHEME $scheme;
        fastcgi_param HTTPS $https if_not_empty;
        fastcgi_param SERVER_PROTOCOL $server_protocol;
        fastcgi_param SERVER_NAME {server_name};
        fastcgi_param SERVER_PORT $server_port;
        fastcgi_param CONTENT_TYPE $content_type;
        fastcgi_param CONTENT_LENGTH $content_length;
        fastcgi_param REMOTE_ADDR $remote_addr;
        fastcgi_param REMOTE_PORT $remote_port;
        fastcgi_param SSL_PROTOCOL $ssl_protocol if_not_empty;
        fastcgi_param SSL_CIPHER $ssl_cipher if_not_empty;
        fastcgi_param SSL_TLS_SNI $ssl_server_name if_not_empty;
        fastcgi_param SSL_CLIENT_VERIFY $ssl_client_verify if_not_empty;
        fastcgi_param SSL_CLIENT_S_DN $ssl_client_s_dn if_not_empty;
        fastcgi_param SSL_CLIENT_I_DN $ssl_client_i_dn if_not_empty;
        fastcgi_param SSL_CLIENT_M_SERIAL $ssl_client_serial if_not_empty;
        # Many programs obey a header `Proxy` as the variable HTTP_PROXY.
        fastcgi_param HTTP_PROXY \"\";

        # Only with a log-in: without one `$remote_user` is whoever the client says it is.
        # auth_basic \"realm\";
        # auth_basic_user_file /etc/nginx/users;
        # fastcgi_param AUTH_TYPE Basic;
        # fastcgi_param REMOTE_USER $remote_user;
"
    )
}

fn http(site: &Site, asked: &str) -> String {
    let (name, wait, stall) = (upstream(site), site.wait_s, site.stall_s);
    format!(
        "        proxy_pass http://{name};
        proxy_http_version 1.1;
        proxy_set_header Connection \"\";
        proxy_redirect off;

        # Bodies pass as they come, both ways. With `proxy_buffering on` a slow client holds no
        # instance, and what a component streams comes late.
        proxy_request_buffering off;
        proxy_buffering off;

        # Above the limits of realm, whose answers say what happened.
        proxy_connect_timeout 5s;
        proxy_read_timeout {wait}s;
        proxy_send_timeout {stall}s;

        # A component gives nginx no orders, such as to serve a file of its own.
        proxy_ignore_headers X-Accel-Redirect X-Accel-Limit-Rate X-Accel-Charset;

        # Set, not added to: realm believes all of it.
        proxy_set_header Host \"{asked}\";
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Host \"{asked}\";
        proxy_set_header Forwarded \"\";
        proxy_set_header Proxy \"\";
"
    )
}
