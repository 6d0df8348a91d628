//! The few operations on files that durability rests on, as a trait: [`RealFiles`] does them, and
//! `faults::FaultyFiles` does them in memory with losses, tears and errors at will.
//!
//! Not a file system abstraction: only what the log, the marks and the blobs need.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

#[cfg(any(test, feature = "faults"))]
pub mod faults;

/// Mode of directories: a realm folder is its owner's alone.
pub const DIRECTORY_MODE: u32 = 0o700;
/// Mode of every file in a realm folder that nobody else needs to read.
pub const PRIVATE_MODE: u32 = 0o600;
/// Mode of files beside the manifest, which are made to be shared.
pub const SHARED_MODE: u32 = 0o644;

/// Files and directories by path.
///
/// No operation but [`Files::sync_dir`] promises that a name is durable.
pub trait Files: Clone + Send + Sync + 'static {
    /// An open file.
    type Handle: Handle;

    /// Opens a file that exists, for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Self::Handle>;
    /// Opens a regular file for reading; `None` if something else has the name: a link, which could
    /// lead anywhere, a device, which may never end, a pipe, a folder.
    fn open_regular(&self, path: &Path) -> io::Result<Option<Self::Handle>>;
    /// Makes a file for reading and writing; fails if the name is taken.
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Self::Handle>;
    /// Gives a file another name in place of whatever had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory and its missing parents with [`DIRECTORY_MODE`]; one that exists is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The names of the files in a directory, sorted.
    fn names(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Makes every name in a directory durable.
    fn sync_dir(&self, directory: &Path) -> io::Result<()>;
    /// Whether a regular file has this name.
    fn is_file(&self, path: &Path) -> bool;
}

/// An open file. Offsets are explicit: a write that failed half-way leaves no cursor behind.
pub trait Handle: Send + Sync + 'static {
    /// Bytes in the file.
    fn size(&self) -> io::Result<u64>;
    /// Reads at most `buffer.len()` bytes; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes. After an error any part of them may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// Makes content and size durable. After an error nothing is known about what was written
    /// since the last success, and a later success says nothing about it either.
    fn sync(&self) -> io::Result<()>;
}

/// The files of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    type Handle = File;

    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    fn open_regular(&self, path: &Path) -> io::Result<Option<File>> {
        // Before it is opened, because opening a device may do something; after it, because the
        // name may have changed hands in between.
        if !fs::symlink_metadata(path)?.is_file() {
            return Ok(None);
        }
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)?;
        Ok(file.metadata()?.is_file().then_some(file))
    }

    fn create_new(&self, path: &Path, mode: u32) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<_> = path
            .ancestors()
            .take_while(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
            .collect();
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(path)?;
        // A directory whose own name is lost takes everything in it along.
        for folder in missing.iter().rev() {
            self.sync_dir(parent(folder))?;
        }
        Ok(())
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn is_file(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
    }
}

impl Handle for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        // Not the times: a file that keeps its size needs no commit of the file system's journal.
        self.sync_data()
    }
}

/// Reads a whole file of at most `bytes_max` bytes; a larger one is an error, not a shorter answer.
pub(crate) fn read_all<H: Handle>(file: &H, bytes_max: u64) -> io::Result<Vec<u8>> {
    let size = file.size()?;
    if size > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{size} bytes, at most {bytes_max} are read"),
        ));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    read_exact_at(file, &mut bytes, 0)?;
    Ok(bytes)
}

/// Fills a buffer with the bytes from `offset` on.
pub(crate) fn read_exact_at<H: Handle>(file: &H, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Puts `bytes` in place of the file `path`, durably and for this user alone.
pub fn put<F: Files>(files: &F, path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(files, path, bytes, PRIVATE_MODE).map_err(|(_, error)| error)
}

/// Reads a file of at most `bytes_max` bytes.
pub fn get<F: Files>(files: &F, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    read_all(&files.open(path)?, bytes_max)
}

/// Puts `bytes` in place of the file `path`, durably: readers see the old content or the new, and
/// after a success only the new, whatever happens. A failure leaves no partial file under `path`.
pub(crate) fn replace<F: Files>(
    files: &F,
    path: &Path,
    bytes: &[u8],
    mode: u32,
) -> Result<(), (&'static str, io::Error)> {
    let fresh = path.with_added_extension("new");
    // What a crash left behind may have been given up by a failed fsync: never written to again.
    match files.remove(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(("remove", error)),
        Ok(()) | Err(_) => {}
    }
    let written = files
        .create_new(&fresh, mode)
        .map_err(|error| ("create", error))
        .and_then(|file| {
            file.write_all_at(bytes, 0)
                .map_err(|error| ("write", error))?;
            file.sync().map_err(|error| ("sync", error))
        })
        .and_then(|()| {
            files
                .rename(&fresh, path)
                .map_err(|error| ("rename", error))
        });
    if let Err(error) = written {
        // Gives the space back; if that fails as well, the next attempt removes it first.
        let _ = files.remove(&fresh);
        return Err(error);
    }
    files
        .sync_dir(parent(path))
        .map_err(|error| ("sync the folder of", error))
}

/// The folder a path is in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Whether an error says that there is no room: it passes by itself when room returns.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
