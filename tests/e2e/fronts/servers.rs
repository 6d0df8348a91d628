//! Real web servers with the configuration that `realm edge` prints: around it stands what a server needs
//! to run from a folder, on a port of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Agent, PATIENCE, Realm, lasting_port};

use super::HOST;

/// A web server as the matrix has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Nginx,
    Apache,
    Lighttpd,
    Caddy,
    /// As printed: several requests at once on a connection.
    HaproxyMultiplexed,
    /// Without the two lines that ask for that.
    Haproxy,
}

/// How a web server reaches the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Unix,
    Tcp,
}

/// A web server in front of an agent.
pub(crate) struct Front {
    pub(crate) server: Server,
    pub(crate) port: u16,
    process: Child,
    folder: PathBuf,
    pub(crate) agent: Agent,
    /// Its files stay as long as it runs.
    _realm: Realm,
}

impl Drop for Front {
    fn drop(&mut self) {
        // Servers of several processes end all of them when the first one is told to.
        crate::support::signal(self.process.id(), "TERM");
        crate::support::ended(&mut self.process);
    }
}

/// A realm that answers HTTP and FastCGI with the guest `front`: for [`HOST`], and all other hosts.
pub(crate) fn realm(door: Door) -> (Realm, Agent) {
    realm_with(door, "")
}

/// The same with more lines at the top of node.toml.
fn realm_with(door: Door, more: &str) -> (Realm, Agent) {
    let realm = Realm::new();
    // Web servers run as others.
    open(&realm.path(""));
    realm.guest(realm_test_guests::FRONT, "app.wasm");
    realm.write(
        "realm.toml",
        &format!(
            "[components.app]\nsource = \"file:./app.wasm\"\nmax_request_bytes = 16777216\nwall_timeout_ms = 8000\n\n\
             [routing]\n\"*\" = [\n  {{ path = \"/...\", component = \"app\" }},\n  \
             {{ path = \"/...\", host = \"{HOST}\", component = \"app\" }},\n]\n"
        ),
    );
    let address = match door {
        Door::Unix => format!("unix:{}", realm.path("fastcgi.sock").display()),
        Door::Tcp => format!("127.0.0.1:{}", lasting_port()),
    };
    realm.write(
        ".realm/node.toml",
        &format!("{more}[listen]\nfastcgi = [\"{address}\"]\n[fastcgi]\nsocket_mode = \"0666\"\n"),
    );
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    (realm, agent)
}

/// Lets every user of the machine through to a folder.
fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl Front {
    /// Starts a server with what is printed for it.
    pub(crate) fn start(server: Server, door: Door) -> Self {
        Self::start_with(server, door, &[], |config| config)
    }

    /// The same with more arguments of `realm edge`, and the configuration changed.
    pub(crate) fn start_with(
        server: Server,
        door: Door,
        more: &[&str],
        change: impl FnOnce(String) -> String,
    ) -> Self {
        let (realm, agent) = realm(door);
        Self::before(server, realm, agent, more, change)
    }

    /// The same over HTTP.
    pub(crate) fn start_http(server: Server) -> Self {
        let (realm, agent) = realm_with(Door::Unix, "trusted_proxies = [\"127.0.0.1\"]\n");
        let at = agent.url.trim_start_matches("http://").to_owned();
        Self::before(server, realm, agent, &["--http", "--at", &at], |config| {
            config
        })
    }

    fn before(
        server: Server,
        realm: Realm,
        agent: Agent,
        more: &[&str],
        change: impl FnOnce(String) -> String,
    ) -> Self {
        let port = lasting_port();
        let listen = format!("127.0.0.1:{port}");
        let printed = realm.run(&[&["edge", server.verb(), "--listen", &listen], more].concat());
        let mut config = change(printed.ok().stdout);
        if server == Server::HaproxyMultiplexed && config.contains("fcgi-app") {
            for line in ["option mpxs-conns\n", "option max-reqs 32\n"] {
                let remark = format!("    # {line}");
                assert!(config.contains(&remark), "{config}");
                config = config.replace(&remark, &format!("    {line}"));
            }
        }
        let folder = realm.path("front");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("realm.conf"), config).unwrap();
        std::fs::write(folder.join("main.conf"), server.around(&folder)).unwrap();
        let process = server.start(&folder);
        let mut front = Self {
            server,
            port,
            process,
            folder,
            agent,
            _realm: realm,
        };
        front.wait();
        front
    }

    fn wait(&mut self) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.process.try_wait().unwrap();
            assert!(
                ended.is_none() && std::time::Instant::now() < deadline,
                "{:?} does not listen ({ended:?}):\n{}",
                self.server,
                self.log()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// The port of the agent's own HTTP.
    pub(crate) fn http_port(&self) -> u16 {
        self.agent.url.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// What the server wrote of errors.
    pub(crate) fn log(&self) -> String {
        let files = ["log", "out"].map(|name| std::fs::read(self.folder.join(name)));
        let files = files.into_iter().map(Result::unwrap_or_default);
        files
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }
}

impl Server {
    const fn verb(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Apache => "apache",
            Self::Lighttpd => "lighttpd",
            Self::Caddy => "caddy",
            Self::Haproxy | Self::HaproxyMultiplexed => "haproxy",
        }
    }

    /// What stands around the printed configuration. Sizes of heads are raised where the defaults take no
    /// 60 KiB of them: nothing else is.
    fn around(self, folder: &Path) -> String {
        let folder = folder.display();
        match self {
            Self::Nginx => {
                let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
                let temporary =
                    temporary.map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"));
                format!(
                    "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/log info;\n\
                     events {{}}\nhttp {{\naccess_log off;\nlarge_client_header_buffers 16 8k;\n{}\
                     include {folder}/realm.conf;\n}}\n",
                    temporary.concat()
                )
            }
            Self::Apache => {
                let modules = [
                    "mpm_event",
                    "authn_core",
                    "authz_core",
                    "authn_file",
                    "authz_user",
                    "auth_basic",
                    "env",
                    "headers",
                    "proxy",
                    "proxy_fcgi",
                    "proxy_http",
                ];
                let modules = modules.map(|name| {
                    format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n")
                });
                format!(
                    "ServerRoot \"{folder}\"\nServerName localhost\nPidFile \"{folder}/pid\"\n\
                     ErrorLog \"{folder}/log\"\nDefaultRuntimeDir \"{folder}\"\nUser www-data\nGroup www-data\n\
                     {}Include \"{folder}/realm.conf\"\n",
                    modules.concat()
                )
            }
            Self::Lighttpd => format!(
                "server.document-root = \"{folder}\"\nserver.bind = \"127.0.0.1\"\nserver.port = {}\n\
                 server.errorlog = \"{folder}/log\"\nserver.max-request-field-size = 65535\n\
                 server.modules = ( \"mod_access\" )\ninclude \"{folder}/realm.conf\"\n",
                lasting_port()
            ),
            Self::Caddy => format!("{{\n\tadmin off\n}}\nimport {folder}/realm.conf\n"),
            Self::Haproxy | Self::HaproxyMultiplexed => {
                "global\n    log stdout format raw local0\n    tune.bufsize 65536\n".to_owned()
            }
        }
    }

    fn start(self, folder: &Path) -> Child {
        let main = folder.join("main.conf");
        let snippet = folder.join("realm.conf");
        let mut command = match self {
            Self::Nginx => program("/usr/sbin/nginx", &["-e", "stderr", "-p"]),
            Self::Apache => program("/usr/sbin/apache2", &["-X", "-f"]),
            Self::Lighttpd => program("/usr/sbin/lighttpd", &["-D", "-f"]),
            Self::Caddy => program("caddy", &["run", "--adapter", "caddyfile", "--config"]),
            Self::Haproxy | Self::HaproxyMultiplexed => {
                program("/usr/sbin/haproxy", &["-db", "-f"])
            }
        };
        match self {
            Self::Nginx => command.arg(folder).arg("-c").arg(main),
            Self::Apache | Self::Lighttpd | Self::Caddy => command.arg(main),
            Self::Haproxy | Self::HaproxyMultiplexed => command.arg(main).arg("-f").arg(snippet),
        };
        let out = std::fs::File::create(folder.join("out")).unwrap();
        command
            .current_dir(folder)
            .env("HOME", folder)
            .env("XDG_DATA_HOME", folder)
            .env("XDG_CONFIG_HOME", folder)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap()
    }
}

fn program(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(args);
    command
}
