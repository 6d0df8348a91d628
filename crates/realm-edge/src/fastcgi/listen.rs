//! Where web servers connect: Unix sockets with the mode and the group that they need, and TCP ports for
//! those that may. Not what they say.

use std::fs::Permissions;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use realm_model::block::Block;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle as Runtime;

use super::Limits;
use crate::doors;

/// Connections of web servers where nothing else is said: as many as of all clients.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Where web servers reach the edge, who may, and how much each may ask.
#[derive(Debug, Clone)]
pub struct FastCgi {
    /// The sockets.
    pub listen: Vec<Listen>,
    /// Addresses from which web servers may connect over TCP. Who connects over a Unix socket may: its mode
    /// says who that is.
    pub allow: Vec<Block>,
    /// Their connections at once. One more takes the place of the one that was idle for longest, or is
    /// closed where all are in use.
    pub connections_max: usize,
    /// Of each connection.
    pub limits: Limits,
}

impl Default for FastCgi {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            allow: Vec::new(),
            connections_max: CONNECTIONS_MAX,
            limits: Limits::default(),
        }
    }
}

/// One socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A port; 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix {
        /// Where. A socket there that nobody listens on is replaced; nothing else is.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Its group; `None`: that of the process.
        group: Option<u32>,
    },
}

/// Where it really listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FastCgiAddress {
    /// A port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for FastCgiAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// As it was asked for.
    pub(crate) fn address(&self) -> FastCgiAddress {
        match self {
            Self::Tcp(address) => FastCgiAddress::Tcp(*address),
            Self::Unix { path, .. } => FastCgiAddress::Unix(path.clone()),
        }
    }
}

/// A socket that is bound.
#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(StdTcpListener),
    Unix(StdUnixListener, File),
}

/// A socket on which one thread accepts.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Somebody who connected.
#[derive(Debug)]
pub(crate) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Bound {
    pub(crate) fn new(listen: &Listen, all: &[SocketAddr], backlog: u32) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => doors::listen(*address, all, backlog).map(Self::Tcp),
            Listen::Unix { path, mode, group } => {
                let listener = bind_unix(path, *mode, *group)?;
                let file = File::of(path)?;
                listener.set_nonblocking(true)?;
                // The standard library asks for a queue of 128.
                let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
                socket2::SockRef::from(&listener).listen(backlog)?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    pub(crate) fn address(&self) -> io::Result<FastCgiAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(FastCgiAddress::Tcp),
            Self::Unix(_, file) => Ok(FastCgiAddress::Unix(file.path.clone())),
        }
    }

    /// For one more thread that accepts. Most web servers make a connection for each request: it is served
    /// where it is accepted, and wakes nobody else.
    pub(crate) fn listener(&self, runtime: &Runtime) -> io::Result<Listener> {
        let _thread = runtime.enter();
        match self {
            Self::Tcp(listener) => TcpListener::from_std(listener.try_clone()?).map(Listener::Tcp),
            Self::Unix(listener, _) => {
                UnixListener::from_std(listener.try_clone()?).map(Listener::Unix)
            }
        }
    }
}

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are written whole; waiting to fill packets only delays them.
                let _ = stream.set_nodelay(true);
                Ok(Accepted::Tcp(stream, peer))
            }
            Self::Unix(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

impl Accepted {
    /// Who is there: over a Unix socket this machine.
    pub(crate) fn peer(&self) -> IpAddr {
        match self {
            Self::Tcp(_, peer) => peer.ip().to_canonical(),
            Self::Unix(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// Leaves the reactor of the thread that accepted it for another one.
    pub(crate) fn at(self, runtime: &Runtime) -> io::Result<Self> {
        match self {
            Self::Tcp(stream, peer) => {
                let stream = stream.into_std()?;
                let _thread = runtime.enter();
                TcpStream::from_std(stream).map(|stream| Self::Tcp(stream, peer))
            }
            Self::Unix(stream) => {
                let stream = stream.into_std()?;
                let _thread = runtime.enter();
                UnixStream::from_std(stream).map(Self::Unix)
            }
        }
    }

    pub(crate) fn may_ask(&self, allow: &[Block]) -> bool {
        match self {
            Self::Tcp(_, peer) => allow.iter().any(|block| block.contains(peer.ip())),
            Self::Unix(_) => true,
        }
    }
}

/// The file of a socket, which goes with it.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    /// By which it is known that it is still ours.
    id: (u64, u64),
}

impl File {
    fn of(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        id_of(&path).map(|id| Self { path, id })
    }
}

fn id_of(path: &Path) -> io::Result<(u64, u64)> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

impl Drop for File {
    fn drop(&mut self) {
        if id_of(&self.path).is_ok_and(|id| id == self.id) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds under another name first: under its own, nobody finds it before its mode and its group are right.
fn bind_unix(path: &Path, mode: u32, group: Option<u32>) -> io::Result<StdUnixListener> {
    make_way(path)?;
    // Short: the path of a socket has few bytes.
    let hidden = path.with_file_name(format!(".{:x}", std::process::id()));
    match std::fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = StdUnixListener::bind(&hidden)?;
    let prepared = std::fs::set_permissions(&hidden, Permissions::from_mode(mode))
        .and_then(|()| match group {
            Some(group) => std::os::unix::fs::chown(&hidden, None, Some(group)),
            None => Ok(()),
        })
        .and_then(|()| std::fs::rename(&hidden, path));
    match prepared {
        Ok(()) => Ok(listener),
        Err(error) => {
            let _ = std::fs::remove_file(&hidden);
            Err(error)
        }
    }
}

/// A socket that nobody answers on may be replaced; what is no socket is somebody's file.
fn make_way(path: &Path) -> io::Result<()> {
    let file = match std::fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        let what = "there is a file that is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens on it",
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path, mode: u32) -> Listen {
        Listen::Unix {
            path: path.to_owned(),
            mode,
            group: None,
        }
    }

    fn mode_of(path: &Path) -> u32 {
        let file = std::fs::metadata(path).expect("a file");
        file.permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fastcgi.sock");
        for mode in [0o660, 0o606] {
            let bound = Bound::new(&unix(&path, mode), &[], 16).expect("it listens");
            assert_eq!(mode_of(&path), mode);
            let listener = bound.listener(&Runtime::current()).expect("a thread");
            let (client, server) = tokio::join!(UnixStream::connect(&path), listener.accept());
            client.expect("it is there");
            assert!(server.expect("somebody").may_ask(&[]));
            let names = std::fs::read_dir(folder.path()).expect("a folder");
            assert_eq!(names.count(), 1);
            drop((bound, listener));
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn nobodys_socket_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        // As a process leaves it that was killed.
        drop(StdUnixListener::bind(&path).expect("it listens"));
        let first = Bound::new(&unix(&path, 0o600), &[], 16).expect("it is replaced");
        let second = Bound::new(&unix(&path, 0o600), &[], 16).expect_err("it is in use");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        std::fs::remove_file(&path).expect("it was there");
        std::fs::write(&path, "mine").expect("a file");
        let third = Bound::new(&unix(&path, 0o600), &[], 16).expect_err("a file");
        assert_eq!(third.kind(), io::ErrorKind::AlreadyExists);
        // Nor is what came to its place removed with it.
        drop(first);
        assert_eq!(std::fs::read(&path).expect("it is there"), b"mine");
    }

    #[test]
    fn only_who_is_allowed_may_ask_over_tcp() {
        let allow = ["127.0.0.0/8", "10.0.0.5"].map(|block| block.parse().expect("a block"));
        for (peer, expected) in [
            ("127.0.0.1:5", true),
            ("[::ffff:127.0.0.1]:5", true),
            ("10.0.0.5:5", true),
            ("10.0.0.6:5", false),
            ("[::1]:5", false),
        ] {
            let peer: SocketAddr = peer.parse().expect("an address");
            let may = allow.iter().any(|block: &Block| block.contains(peer.ip()));
            assert_eq!(may, expected, "{peer}");
        }
    }
}
