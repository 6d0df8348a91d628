//! A real server of S3 for tests: OpenStack Swift with its S3 front, four processes as its makers have
//! it. Included by the tests that need it; scripts/setup-test.sh brings its packages.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// It takes its time when it starts on a busy machine.
const START: Duration = Duration::from_secs(90);
/// As Swift knows who may: an account, and a user of it.
pub(crate) const USER: &str = "acme:writer";
/// The user's.
pub(crate) const PASSWORD: &str = "hush";
/// What it says that its region is.
pub(crate) const REGION: &str = "garage-1";
/// A bucket that is there.
pub(crate) const BUCKET: &str = "acme-blobs";

/// Signs a request as version 4 of Amazon's signatures wants it, and sends it.
const ASK: &str = r"
import sys, hmac, hashlib, datetime, http.client, ssl, urllib.parse
scheme, method, port, path, query, user, password, region = sys.argv[1:]
path = urllib.parse.quote(path)
query = query + '=' if query else ''
now = datetime.datetime.now(datetime.timezone.utc)
day, time = now.strftime('%Y%m%d'), now.strftime('%Y%m%dT%H%M%SZ')
host, names = '127.0.0.1:' + port, 'host;x-amz-content-sha256;x-amz-date'
headers = 'host:%s\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:%s\n' % (host, time)
request = '\n'.join([method, path, query, headers, names, 'UNSIGNED-PAYLOAD'])
scope = '/'.join([day, region, 's3', 'aws4_request'])
text = '\n'.join(['AWS4-HMAC-SHA256', time, scope, hashlib.sha256(request.encode()).hexdigest()])
key = ('AWS4' + password).encode()
for part in [day, region, 's3', 'aws4_request']:
    key = hmac.new(key, part.encode(), hashlib.sha256).digest()
signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
if scheme == 'https':
    # The test checks certificates, not its helper.
    connection = http.client.HTTPSConnection('127.0.0.1', int(port), context=ssl._create_unverified_context())
else:
    connection = http.client.HTTPConnection('127.0.0.1', int(port))
connection.request(method, path + ('?' + query if query else ''), sys.stdin.buffer.read(), {
    'Host': host, 'x-amz-date': time, 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD',
    'Authorization': 'AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s' % (user, scope, names, signature)})
answer = connection.getresponse()
print(answer.status)
print(answer.read().decode(errors='replace'))
";

/// Processes that end with the test.
pub(crate) struct Swift {
    children: Vec<Child>,
    folder: PathBuf,
    pub(crate) port: u16,
    scheme: &'static str,
}

impl Drop for Swift {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Swift {
    /// Starts it in a folder that is the test's; with a certificate and its key as PEM, over TLS.
    pub(crate) fn start(folder: &Path, tls: Option<(&str, &str)>) -> Self {
        let mut swift = Self {
            children: Vec::new(),
            folder: folder.to_owned(),
            port: free_port(),
            scheme: if tls.is_some() { "https" } else { "http" },
        };
        swift.configure(tls);
        swift.begin();
        swift.make_bucket(BUCKET);
        swift
    }

    /// `http://127.0.0.1:PORT`, or `https://…`.
    pub(crate) fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// What a binding's secret says.
    pub(crate) fn credentials() -> String {
        format!("{USER}:{PASSWORD}")
    }

    /// Ends its processes; what it stored stays.
    pub(crate) fn stop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
        }
        for mut child in self.children.drain(..) {
            let _ = child.wait();
        }
    }

    /// Starts its processes: the same server, on the same port.
    pub(crate) fn begin(&mut self) {
        for name in ["account", "container", "object", "proxy"] {
            // They make groups of their own: what ends a test that hangs would not end them.
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", &format!("swift-{name}-server")]);
            command.arg(self.folder.join(format!("{name}.conf")));
            self.children.push(start(&mut command));
        }
    }

    /// Makes a bucket, once the server is there: each of its processes begins by itself.
    pub(crate) fn make_bucket(&self, name: &str) {
        let begun = Instant::now();
        loop {
            let status = self.put(name, None, b"");
            // An object needs all of the processes.
            if matches!(status, Some(200 | 409)) && self.put(name, Some("ready"), b"x") == Some(200)
            {
                assert_eq!(self.delete(name, "ready"), Some(204));
                return;
            }
            assert!(begun.elapsed() < START, "Swift does not serve: {status:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Puts an object as another program would, or makes the bucket: the status.
    pub(crate) fn put(&self, bucket: &str, key: Option<&str>, body: &[u8]) -> Option<u16> {
        let path = match key {
            None => format!("/{bucket}"),
            Some(key) => format!("/{bucket}/{key}"),
        };
        self.ask("PUT", &path, "", body).map(|answer| answer.0)
    }

    pub(crate) fn delete(&self, bucket: &str, key: &str) -> Option<u16> {
        let answer = self.ask("DELETE", &format!("/{bucket}/{key}"), "", b"");
        answer.map(|answer| answer.0)
    }

    /// The answer to a GET on a bucket: its listing, or with a query something else of it.
    pub(crate) fn listing(&self, bucket: &str, query: &str) -> String {
        let answer = self.ask("GET", &format!("/{bucket}"), query, b"");
        answer.expect("an answer").1
    }

    /// One request, signed by nothing that realm uses.
    fn ask(&self, method: &str, path: &str, query: &str, body: &[u8]) -> Option<(u16, String)> {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", ASK, self.scheme, method, &self.port.to_string()]);
        command.args([path, query]);
        command.args([USER, PASSWORD, REGION]);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.stderr(Stdio::null()).spawn().expect("python3");
        // One that ends before it read all says why in its output.
        let _ = child.stdin.take().expect("piped").write_all(body);
        let output = child.wait_with_output().ok()?;
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let (status, body) = answer.split_once('\n')?;
        Some((status.parse().ok()?, body.to_owned()))
    }

    fn configure(&self, tls: Option<(&str, &str)>) {
        let root = self.folder.display().to_string();
        fs::create_dir_all(self.folder.join("devices/d1")).expect("made");
        for name in ["account", "container", "object"] {
            let port = free_port();
            let place = format!("r1z1-127.0.0.1:{port}/d1");
            let steps: [&[&str]; 3] = [
                &["create", "4", "1", "0"],
                &["add", &place, "1"],
                &["rebalance"],
            ];
            for step in steps {
                let mut command = Command::new("swift-ring-builder");
                command.arg(format!("{root}/{name}.builder")).args(step);
                start(&mut command).wait().expect("ended");
            }
            // A busy machine is no reason to tell a container later that it has an object: there is
            // nobody here who would.
            let rest = format!(
                "[pipeline:main]\npipeline = {name}-server\n[app:{name}-server]\nuse = egg:swift#{name}\n\
                 container_update_timeout = 60\nconn_timeout = 20\nnode_timeout = 60\n"
            );
            self.write(name, port, &rest);
        }
        let tls = match tls {
            None => String::new(),
            Some((certificate, key)) => {
                fs::write(self.folder.join("certificate.pem"), certificate).expect("written");
                fs::write(self.folder.join("key.pem"), key).expect("written");
                format!("cert_file = {root}/certificate.pem\nkey_file = {root}/key.pem\n")
            }
        };
        let proxy = format!(
            "{tls}[pipeline:main]\n\
             pipeline = catch_errors cache listing_formats s3api tempauth copy slo dlo proxy-server\n\
             [filter:catch_errors]\nuse = egg:swift#catch_errors\n\
             [filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:1\n\
             [filter:listing_formats]\nuse = egg:swift#listing_formats\n\
             [filter:s3api]\nuse = egg:swift#s3api\nlocation = {REGION}\n\
             [filter:tempauth]\nuse = egg:swift#tempauth\nuser_acme_writer = {PASSWORD} .admin\n\
             [filter:copy]\nuse = egg:swift#copy\n\
             [filter:slo]\nuse = egg:swift#slo\n\
             [filter:dlo]\nuse = egg:swift#dlo\n\
             [app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n\
             error_suppression_limit = 1000000\nconn_timeout = 20\nnode_timeout = 60\n"
        );
        self.write("proxy", self.port, &proxy);
    }

    fn write(&self, name: &str, port: u16, rest: &str) {
        let root = self.folder.display();
        let common = format!(
            "[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nworkers = 0\nuser = {}\n\
             swift_dir = {root}\ndevices = {root}/devices\nmount_check = false\nfallocate_reserve = 0\nlog_address = {root}/log\n",
            user()
        );
        let path = self.folder.join(format!("{name}.conf"));
        fs::write(path, format!("{common}{rest}")).expect("written");
    }
}

/// Who runs the test: it wants to be told.
fn user() -> String {
    let output = Command::new("id").arg("-un").output().expect("`id`");
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

fn start(command: &mut Command) -> Child {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    quiet.stderr(Stdio::null()).spawn().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; on Debian: sudo apt-get install swift-proxy swift-account swift-container swift-object")
    })
}

/// A port that nobody has at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("an address").port()
}
