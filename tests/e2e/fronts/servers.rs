//! Real web servers with the configuration that `realm edge` prints: around it stands what a server needs
//! to run from a folder, on a port of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use crate::support::{Agent, PATIENCE, Realm, lasting_port};

use super::HOST;
use super::client::Ask;

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

/// An agent behind web servers: their files stay as long as one of them runs.
pub(crate) struct Behind {
    pub(crate) realm: Realm,
    pub(crate) agent: Agent,
    /// Where it answers FastCGI, as node.toml has it.
    addresses: Vec<String>,
}

/// A web server in front of an agent.
pub(crate) struct Front {
    pub(crate) server: Server,
    pub(crate) port: u16,
    process: Child,
    folder: PathBuf,
    behind: Rc<Behind>,
}

impl Drop for Front {
    fn drop(&mut self) {
        // Servers of several processes end all of them when the first one is told to.
        crate::support::signal(self.process.id(), "TERM");
        crate::support::ended(&mut self.process);
    }
}

/// A realm that answers HTTP and FastCGI with the guest `front`: for [`HOST`], and all other hosts; below
/// [`PATIENT`] without an end to its time.
pub(crate) fn realm(door: Door) -> Behind {
    Behind::new(&[door], "", &Routes::new())
}

/// Where the component `patient` is: the time that it has is longer than any test waits, so that it ends
/// early for no other reason than its client.
pub(crate) const PATIENT: &str = "/patient";

/// A host with a component of its own.
pub(crate) const OTHER_HOST: &str = "script.example.com";

/// What a realm serves, as its manifest has it.
pub(crate) struct Routes {
    components: String,
    routes: String,
}

impl Routes {
    pub(crate) fn new() -> Self {
        let mut all = Self {
            components: String::new(),
            routes: String::new(),
        };
        let app = "source = \"file:./app.wasm\"\nmax_request_bytes = 16777216\n";
        all.add("app", &format!("{app}wall_timeout_ms = 8000"), "");
        all.add(
            "patient",
            &format!("{app}wall_timeout_ms = 600000"),
            PATIENT,
        );
        all
    }

    /// A component at a path of [`HOST`], and of hosts without routes of their own.
    fn add(&mut self, name: &str, keys: &str, path: &str) {
        self.components += &format!("[components.{name}]\n{keys}\n\n");
        for host in ["", HOST] {
            self.lead(name, path, host);
        }
    }

    fn lead(&mut self, name: &str, path: &str, host: &str) {
        let host = match host {
            "" => String::new(),
            host => format!(", host = \"{host}\""),
        };
        self.routes += &format!("  {{ path = \"{path}/...\", component = \"{name}\"{host} }},\n");
    }
}

impl Behind {
    /// By these doors, with more lines at the top of node.toml.
    pub(crate) fn new(doors: &[Door], more: &str, routes: &Routes) -> Self {
        let realm = Realm::new();
        // Web servers run as others.
        open(&realm.path(""));
        realm.guest(realm_test_guests::FRONT, "app.wasm");
        realm.guest(realm_test_guests::P3_ECHO, "three.wasm");
        realm.guest(realm_test_guests::CGI_ENV, "script.wasm");
        realm.write(
            "realm.toml",
            &format!(
                "{}[routing]\n\"*\" = [\n{}]\n",
                routes.components, routes.routes
            ),
        );
        let address = |door: &Door| match door {
            Door::Unix => format!("unix:{}", realm.path("fastcgi.sock").display()),
            Door::Tcp => format!("127.0.0.1:{}", lasting_port()),
        };
        let addresses: Vec<String> = doors.iter().map(address).collect();
        realm.write(
            ".realm/node.toml",
            &format!(
                "{more}[listen]\nfastcgi = {addresses:?}\n[fastcgi]\nsocket_mode = \"0666\"\n"
            ),
        );
        let agent = realm.agent();
        realm.run(&["apply", "--yes"]).ok();
        Self {
            realm,
            agent,
            addresses,
        }
    }

    /// Where it answers FastCGI by this door.
    pub(crate) fn address(&self, door: Door) -> &str {
        let is_socket = |address: &&String| address.starts_with("unix:") == (door == Door::Unix);
        self.addresses.iter().find(is_socket).unwrap()
    }

    /// Where it answers HTTP.
    pub(crate) fn http(&self) -> &str {
        self.agent.url.trim_start_matches("http://")
    }

    pub(crate) fn http_port(&self) -> u16 {
        self.agent.url.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// The page of its metrics.
    pub(crate) fn metrics(&self) -> String {
        let address = self.agent.metrics_url.split('/').nth(2).unwrap();
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        Ask::get("/metrics").send(port).text()
    }

    /// So many invocations of a component ended with this outcome, and in all.
    pub(crate) fn ended(&self, component: &str, outcomes: &[&str]) -> (f64, f64) {
        let page = self.metrics();
        let prefix = format!("wasm_invocations_total{{component=\"{component}\",outcome=\"");
        let all = page.lines().filter_map(|line| {
            let (label, number) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            Some((label, number.parse::<f64>().unwrap()))
        });
        let all: Vec<(&str, f64)> = all.collect();
        let one = all.iter().filter(|(label, _)| outcomes.contains(label));
        (
            one.map(|(_, number)| number).sum(),
            all.iter().map(|(_, number)| number).sum(),
        )
    }
}

/// Lets every user of the machine through to a folder.
fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl Front {
    /// Starts a server with what is printed for it, by more arguments of `realm edge`, and changed.
    pub(crate) fn start_with(
        server: Server,
        door: Door,
        more: &[&str],
        change: impl FnOnce(String) -> String,
    ) -> Self {
        Self::before(server, &Rc::new(realm(door)), more, change)
    }

    /// In front of components of each kind, of which [`OTHER_HOST`] has one for itself.
    pub(crate) fn of_all_kinds(server: Server, door: Door) -> Self {
        let mut routes = Routes::new();
        // On a busy machine it is not always its turn.
        let three = "source = \"file:./three.wasm\"\nepoch_timeout_ms = 20000";
        routes.add("three", three, "/three");
        let script =
            "source = \"file:./script.wasm\"\nworld = \"wasi:cli/command\"\nserve = \"cgi\"";
        routes.add("script", script, "/script");
        routes.lead("script", "", OTHER_HOST);
        let behind = Rc::new(Behind::new(&[door], "", &routes));
        Self::before(server, &behind, &[], |config| config)
    }

    /// With the authorizer of another host, `gate.example.com`.
    pub(crate) fn guarded(
        server: Server,
        door: Door,
        change: impl FnOnce(String, &Behind) -> String,
    ) -> Self {
        let mut routes = Routes::new();
        routes.lead("app", "", "gate.example.com");
        let behind = Rc::new(Behind::new(&[door], "", &routes));
        Self::before(server, &behind, &[], |config| change(config, &behind))
    }

    /// The same over HTTP.
    pub(crate) fn start_http(server: Server) -> Self {
        let trusting = "trusted_proxies = [\"127.0.0.1\"]\n";
        let behind = Rc::new(Behind::new(&[Door::Unix], trusting, &Routes::new()));
        let args = ["--http", "--at", behind.http()];
        Self::before(server, &behind, &args, |config| config)
    }

    /// In front of an agent that is there.
    pub(crate) fn before(
        server: Server,
        behind: &Rc<Behind>,
        more: &[&str],
        change: impl FnOnce(String) -> String,
    ) -> Self {
        let port = lasting_port();
        let listen = format!("127.0.0.1:{port}");
        let args = [&["edge", server.verb(), "--listen", &listen], more].concat();
        let mut config = change(behind.realm.run(&args).ok().stdout);
        if server == Server::HaproxyMultiplexed && config.contains("fcgi-app") {
            for line in ["option mpxs-conns\n", "option max-reqs 32\n"] {
                let remark = format!("    # {line}");
                assert!(config.contains(&remark), "{config}");
                config = config.replace(&remark, &format!("    {line}"));
            }
        }
        let folder = behind.realm.path(&format!("front-{port}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("realm.conf"), config).unwrap();
        std::fs::write(folder.join("main.conf"), server.around(&folder)).unwrap();
        let process = server.start(&folder);
        let mut front = Self {
            server,
            port,
            process,
            folder,
            behind: Rc::clone(behind),
        };
        front.wait();
        front
    }

    /// What it stands in front of.
    pub(crate) fn behind(&self) -> &Behind {
        &self.behind
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

    /// What the server wrote of errors.
    pub(crate) fn log(&self) -> String {
        let files = ["log", "out"].map(|name| std::fs::read(self.folder.join(name)));
        let files = files.into_iter().map(Result::unwrap_or_default);
        files
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }
}

/// HAProxy with one thread: each has connections of its own, and some tests count those.
pub(crate) fn of_one_thread(server: Server, config: String) -> String {
    match server {
        Server::Haproxy | Server::HaproxyMultiplexed => {
            format!("global\n    nbthread 1\n\n{config}")
        }
        Server::Nginx | Server::Apache | Server::Lighttpd | Server::Caddy => config,
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
                    "authnz_fcgi",
                    "headers",
                    "setenvif",
                    "socache_shmcb",
                    "ssl",
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
                 server.modules = ( \"mod_access\", \"mod_auth\", \"mod_authn_file\" )\ninclude \"{folder}/realm.conf\"\n",
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
