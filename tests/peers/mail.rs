//! A real server of mail for tests: aiosmtpd, with TLS and passwords, which keeps what it takes; and what
//! Python's own parser of mail makes of that. Included by the tests that need it; scripts/setup-test.sh
//! brings its package.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Who may come in.
pub(crate) const USER: &str = "shop";
/// With this.
pub(crate) const PASSWORD: &str = "hush:hush";

/// Takes messages, one after the other, into files. Some recipients are special: `nobody` is not there,
/// `full` has no room; over `cut` the connection breaks within the message, over `mute` after it, over
/// `spam` the message is refused.
const SERVE: &str = r#"
import asyncio, ctypes, json, signal, ssl, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
folder, mode, port = sys.argv[1:]
user, password = b"shop", b"hush:hush"
class Handler:
    count = 0
    async def handle_RCPT(self, server, session, envelope, address, options):
        name = address.split("@")[0]
        if name == "nobody": return "550 5.1.1 no such user"
        if name == "full": return "452 4.2.2 mailbox full"
        envelope.rcpt_tos.append(address)
        return "250 OK"
    async def handle_DATA(self, server, session, envelope):
        names = [address.split("@")[0] for address in envelope.rcpt_tos]
        if "mute" in names:
            server.transport.abort()
            return "250 OK"
        if "spam" in names: return "554 5.7.1 we do not want this"
        Handler.count += 1
        path = f"{folder}/{Handler.count:04}"
        with open(path + ".eml", "wb") as file: file.write(envelope.original_content)
        with open(path + ".tmp", "w") as file:
            json.dump({"from": envelope.mail_from, "to": envelope.rcpt_tos, "tls": session.ssl is not None,
                "user": session.authenticated, "hello": session.host_name}, file)
        import os; os.rename(path + ".tmp", path + ".json")
        return "250 taken"
class Cutting(SMTP):
    async def smtp_DATA(self, arg):
        if any(address.startswith("cut@") for address in self.envelope.rcpt_tos):
            await self.push("354 go on")
            await self._reader.readline()
            self.transport.abort()
            return
        await super().smtp_DATA(arg)
def let_in(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and data.login == user and data.password == password
    return AuthResult(success=good, handled=False)
context = None
if mode != "plain":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{folder}/certificate.pem", f"{folder}/key.pem")
def make():
    return Cutting(Handler(), hostname="mail.test", authenticator=let_in, auth_required=mode != "plain",
        auth_require_tls=mode == "starttls", require_starttls=mode == "starttls",
        tls_context=context if mode == "starttls" else None)
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", int(port), ssl=context if mode == "tls" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"#;

/// What Python's parser reads in a message.
const PARSE: &str = r#"
import email, email.policy, hashlib, json, sys
raw = open(sys.argv[1], "rb").read()
message = email.message_from_bytes(raw, policy=email.policy.default)
text = message.get_body(("plain",))
html = message.get_body(("html",))
people = lambda name: [[one.display_name, one.addr_spec] for header in message.get_all(name, []) for one in header.addresses]
print(json.dumps({
    "defects": [str(one) for part in message.walk() for one in part.defects],
    "bare": b"\r" in raw.replace(b"\r\n", b"") or b"\n" in raw.replace(b"\r\n", b""),
    "line": max(len(line) for line in raw.split(b"\r\n")), "ascii": raw.isascii(),
    "subject": message["subject"], "id": message["message-id"], "headers": [[k, str(v)] for k, v in message.items()],
    "from": people("from"), "to": people("to"), "cc": people("cc"), "bcc": people("bcc"),
    "text": text and text.get_content(), "html": html and html.get_content(),
    "files": [[one.get_filename(), one.get_content_type(), len(one.get_payload(decode=True)),
        hashlib.sha256(one.get_payload(decode=True)).hexdigest()] for one in message.iter_attachments()],
}))
"#;

/// A server that ends with the test.
pub(crate) struct MailServer {
    child: Option<Child>,
    folder: PathBuf,
    mode: &'static str,
    pub(crate) port: u16,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl MailServer {
    /// One that takes mail without TLS and passwords (`plain`), with TLS after the first words (`starttls`) or
    /// from the first byte (`tls`); for these two a certificate and its key are in the folder.
    pub(crate) fn start(folder: &Path, mode: &'static str) -> Self {
        let mut server = Self {
            child: None,
            folder: folder.to_owned(),
            mode,
            port: 0,
        };
        server.start_again();
        server
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// On the port that it had before, if it had one.
    pub(crate) fn start_again(&mut self) {
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", SERVE])
            .arg(&self.folder)
            .args([self.mode, &self.port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("read");
        self.child = Some(child);
        self.port = line
            .trim()
            .parse()
            .expect("aiosmtpd did not start; on Debian: sudo apt-get install python3-aiosmtpd");
    }

    /// How many messages it took.
    pub(crate) fn count(&self) -> usize {
        let files = fs::read_dir(&self.folder).expect("its folder");
        let names = files.map(|file| file.expect("read").file_name());
        names
            .filter(|name| name.to_string_lossy().ends_with(".json"))
            .count()
    }

    /// What the server was told of a message, counted from 1, as JSON.
    pub(crate) fn envelope(&self, number: usize) -> String {
        fs::read_to_string(self.folder.join(format!("{number:04}.json"))).expect("read")
    }

    /// What Python's parser reads in it, as JSON.
    pub(crate) fn parsed(&self, number: usize) -> String {
        let output = Command::new("/usr/bin/python3")
            .args(["-c", PARSE])
            .arg(self.folder.join(format!("{number:04}.eml")))
            .output()
            .expect("python3");
        let said = String::from_utf8(output.stdout).expect("JSON");
        assert!(output.status.success(), "{said}");
        said
    }
}

/// Puts a certificate of `127.0.0.1` and its key where a server finds them: the authority that signed it.
pub(crate) fn certified(folder: &Path) -> PathBuf {
    let mut of_authority = rcgen::CertificateParams::new([]).expect("parameters");
    of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let root = of_authority.self_signed(&key).expect("a root");
    let issuer = rcgen::Issuer::new(of_authority, key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        let mut file = fs::File::create(&path).expect("made");
        file.write_all(text.as_bytes()).expect("written");
        path
    };
    write("certificate.pem", &leaf.pem());
    write("key.pem", &key.serialize_pem());
    write("authority.pem", &root.pem())
}
