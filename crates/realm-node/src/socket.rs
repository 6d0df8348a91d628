//! The Unix socket of the control API: binding with owner-only permissions, connecting, and paths
//! longer than a socket address can hold.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// `sun_path` holds 108 bytes on Linux with the final NUL, 104 on the BSDs.
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// Binds the socket; only the owner of the process may connect. A socket file that nobody
/// answers on is replaced (the caller holds the realm folder's lock, so nobody else is there).
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let (_folder, short) = short_path(path)?;
    let listener = UnixListener::bind(short)?;
    // The folder is 0700 already; the mode of the socket is a second fence.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the agent's socket.
pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_folder, short) = short_path(path)?;
    UnixStream::connect(short).await
}

/// A path that fits into a socket address: through a file descriptor of the folder if need be.
/// The folder must stay open while the path is used.
fn short_path(path: &Path) -> io::Result<(Option<std::fs::File>, PathBuf)> {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok((None, path.to_owned()));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let folder = std::fs::File::open(folder)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((Some(folder), short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_path_works_and_only_the_owner_may_connect() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("agent.sock");
        let listener = bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (client, server) = tokio::join!(connect(&path), listener.accept());
        assert!(client.is_ok() && server.is_ok());
        drop(listener);
        // A stale socket file is replaced.
        assert!(bind(&path).is_ok());
    }
}
