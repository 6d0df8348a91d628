//! Objects as files in a folder of this machine.
//!
//! ```text
//! realm-blobs                       the format, and the lock of who has the folder
//! containers/NAME/created           seconds since 1970
//! containers/NAME/objects/NAME      the bytes, and nothing else
//! containers/NAME/names/DIGEST      names that are too long to be spelled as a file's
//! temporary/N, trash/N              half-written objects, deleted containers: swept at the start
//! ```
//!
//! What returned `Ok` is in the file system for good: the file and its folder are synced. An object
//! becomes visible by a rename, so that nobody and no crash sees a half. Not here: names (`names`).

mod listing;
mod place;
mod reading;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use realm_model::cloud::limits::{CALL_TIMEOUT_MS, OBJECT_BYTES_MAX, PAGE_KEYS};
use realm_model::cloud::{
    Answer, Blob, BlobSource, Blobs, CloudError, ContainerInfo, ObjectInfo, check_container,
    copy_time, range_of,
};

use self::place::{Fault, Inner, Temporary};
use crate::Watch;

/// What goes to the disk, or comes from it, at a time.
const PIECE_BYTES: usize = 256 * 1024;
const CALL_TIMEOUT: Duration = Duration::from_millis(CALL_TIMEOUT_MS);
/// First line of `realm-blobs`.
const FORMAT: &str = "realm blobs 1\n";
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Containers in a folder.
pub struct Directory {
    inner: Arc<Inner>,
}

impl Directory {
    /// Opens a folder, which is made if it is not there, and sweeps what a crash left. Blocks.
    ///
    /// # Errors
    ///
    /// What the file system says; [`io::ErrorKind::WouldBlock`] where another one has the folder, and
    /// [`io::ErrorKind::InvalidData`] where it is of another format.
    pub fn open(root: &Path, observer: Arc<dyn Watch>) -> io::Result<Self> {
        for folder in ["containers", "temporary", "trash"] {
            make_folders(&root.join(folder))?;
        }
        let lock = locked(&root.join("realm-blobs"))?;
        sync_folder(root)?;
        let inner = Inner::new(root.to_owned(), lock, observer)?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        time: Duration,
        work: impl FnOnce(&Inner) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, CloudError> {
        place::run(&self.inner, time, work).await
    }

    /// Writes what is more than a piece.
    async fn write_on(
        &self,
        first: Vec<u8>,
        bytes: &mut dyn BlobSource,
    ) -> Result<Temporary, CloudError> {
        let mut temporary = self.run(CALL_TIMEOUT, Inner::temporary).await?;
        temporary.n_bytes = first.len() as u64;
        let mut piece = first;
        loop {
            let at_end = piece.len() < PIECE_BYTES;
            temporary = self
                .run(CALL_TIMEOUT, move |_| {
                    temporary.file().write_all(&piece)?;
                    Ok(temporary)
                })
                .await?;
            if at_end {
                return Ok(temporary);
            }
            piece = collect(bytes, &mut temporary.n_bytes).await?;
        }
    }
}

impl Blobs for Directory {
    fn create<'a>(&'a self, container: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            check_container(container)?;
            let container = place::container_file(container);
            self.run(CALL_TIMEOUT, move |inner| inner.create(&container))
                .await
        })
    }

    fn delete<'a>(&'a self, container: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            check_container(container)?;
            let container = place::container_file(container);
            let trash = self
                .run(CALL_TIMEOUT, move |inner| inner.delete(&container))
                .await?;
            if let Some(trash) = trash {
                // Nobody sees it any more: who deleted it need not wait for the last of its files.
                drop(tokio::task::spawn_blocking(move || {
                    fs::remove_dir_all(trash)
                }));
            }
            Ok(())
        })
    }

    fn info<'a>(&'a self, container: &'a str) -> Answer<'a, Option<ContainerInfo>> {
        Box::pin(async move {
            check_container(container)?;
            let container = place::container_file(container);
            self.run(CALL_TIMEOUT, move |inner| {
                let folder = inner.folder(&container);
                if found(fs::symlink_metadata(&folder))?.is_none() {
                    return Ok(None);
                }
                // Damaged or gone: the container is there all the same.
                let created = fs::read_to_string(folder.join("created")).unwrap_or_default();
                Ok(Some(ContainerInfo {
                    created_at_s: created.trim().parse().unwrap_or(0),
                }))
            })
            .await
        })
    }

    fn write<'a>(
        &'a self,
        container: &'a str,
        object: &'a str,
        mut bytes: Box<dyn BlobSource>,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let place = place::of(container, object)?;
            // Before the bytes: who writes 5 GiB to nowhere hears of it first.
            let asked = place.clone();
            self.run(CALL_TIMEOUT, move |inner| inner.is_there(&asked.container))
                .await?;
            let mut n_bytes = 0;
            let first = collect(bytes.as_mut(), &mut n_bytes).await?;
            if first.len() < PIECE_BYTES {
                return self
                    .run(CALL_TIMEOUT, move |inner| {
                        let mut temporary = inner.temporary()?;
                        temporary.file().write_all(&first)?;
                        inner.commit(temporary, &place)
                    })
                    .await;
            }
            let temporary = self.write_on(first, bytes.as_mut()).await?;
            // What the system still holds of it goes to the disk here: as long as a copy may take.
            self.run(copy_time(temporary.n_bytes), move |inner| {
                inner.commit(temporary, &place)
            })
            .await
        })
    }

    fn read<'a>(
        &'a self,
        container: &'a str,
        object: &'a str,
        start: u64,
        end: u64,
    ) -> Answer<'a, Blob> {
        Box::pin(async move {
            let place = place::of(container, object)?;
            let opened = self
                .run(CALL_TIMEOUT, move |inner| {
                    let (file, size) = inner
                        .open(&place)?
                        .ok_or(CloudError::NotFound("the object"))?;
                    let (at, n_bytes) = range_of(start, end, size)?;
                    reading::Opened::new(file, at, n_bytes)
                })
                .await?;
            Ok(Blob {
                n_bytes: opened.n_bytes(),
                bytes: Box::new(reading::Reader::new(Arc::clone(&self.inner), opened)),
            })
        })
    }

    fn object<'a>(&'a self, container: &'a str, object: &'a str) -> Answer<'a, Option<ObjectInfo>> {
        Box::pin(async move {
            let place = place::of(container, object)?;
            self.run(CALL_TIMEOUT, move |inner| {
                let metadata = inner.metadata(&place)?;
                Ok(metadata.map(|metadata| ObjectInfo {
                    created_at_s: metadata.modified().map_or(0, seconds),
                    n_bytes: metadata.len(),
                }))
            })
            .await
        })
    }

    fn list<'a>(
        &'a self,
        container: &'a str,
        after: Option<&'a str>,
        n_max: usize,
    ) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            check_container(container)?;
            let container = place::container_file(container);
            let after = after.map(str::to_owned);
            self.run(CALL_TIMEOUT, move |inner| {
                inner.list(&container, after, n_max.min(PAGE_KEYS))
            })
            .await
        })
    }

    fn remove<'a>(&'a self, container: &'a str, objects: &'a [String]) -> Answer<'a, ()> {
        Box::pin(async move {
            let places: Result<Vec<_>, _> = objects
                .iter()
                .map(|object| place::of(container, object))
                .collect();
            let places = places?;
            self.run(CALL_TIMEOUT, move |inner| inner.remove(&places))
                .await
        })
    }

    fn copy<'a>(&'a self, from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Answer<'a, ()> {
        Box::pin(async move {
            let (source, target) = (place::of(from.0, from.1)?, place::of(to.0, to.1)?);
            let asked = target.clone();
            let (mut file, size) = self
                .run(CALL_TIMEOUT, move |inner| {
                    let opened = inner.open(&source)?;
                    let opened = opened.ok_or(CloudError::NotFound("the object"))?;
                    inner.is_there(&asked.container)?;
                    Ok(opened)
                })
                .await?;
            if from == to {
                return Ok(());
            }
            self.run(copy_time(size), move |inner| {
                let mut temporary = inner.temporary()?;
                // A writer has put it there by a rename: it is not written to.
                let copied = io::copy(&mut (&mut file).take(size), temporary.file())?;
                if copied != size {
                    return Err(CloudError::Failed("the object has lost bytes".to_owned()).into());
                }
                inner.commit(temporary, &target)
            })
            .await
        })
    }

    fn rename<'a>(&'a self, from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Answer<'a, ()> {
        Box::pin(async move {
            let (source, target) = (place::of(from.0, from.1)?, place::of(to.0, to.1)?);
            self.run(CALL_TIMEOUT, move |inner| inner.rename(&source, &target))
                .await
        })
    }

    fn bytes<'a>(&'a self, container: &'a str) -> Answer<'a, Option<u64>> {
        Box::pin(async move {
            check_container(container)?;
            let container = place::container_file(container);
            let n_bytes = self
                .run(CALL_TIMEOUT, move |inner| inner.bytes(&container))
                .await?;
            Ok(Some(n_bytes))
        })
    }
}

/// A full piece, or what is left of the source; counts, and stops at the cap of an object.
async fn collect(source: &mut dyn BlobSource, n_bytes: &mut u64) -> Result<Vec<u8>, CloudError> {
    let mut piece = Vec::new();
    while piece.len() < PIECE_BYTES {
        let Some(bytes) = source.next().await? else {
            break;
        };
        *n_bytes += bytes.len() as u64;
        if *n_bytes > OBJECT_BYTES_MAX {
            return Err(CloudError::TooLarge {
                what: "the object",
                bytes: *n_bytes,
                bytes_max: OBJECT_BYTES_MAX,
            });
        }
        match piece.is_empty() {
            true => piece = bytes,
            false => piece.extend_from_slice(&bytes),
        }
    }
    Ok(piece)
}

/// `None` for what is not there.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn make_folders(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
        .collect();
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY_MODE).create(path)?;
    for folder in missing.iter().rev() {
        if let Some(parent) = folder.parent().filter(|one| !one.as_os_str().is_empty()) {
            sync_folder(parent)?;
        }
    }
    Ok(())
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY_MODE).create(path)
}

fn create_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    options.mode(FILE_MODE).open(path)
}

/// A small file that is there whole, for good once its folder is synced.
fn write_small(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_file(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The file of the format, with a lock on it that ends with the process.
fn locked(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.mode(FILE_MODE).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "another one has this folder",
            ));
        }
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    let mut format = String::new();
    (&mut file).take(1_024).read_to_string(&mut format)?;
    if format.is_empty() || (format != FORMAT && FORMAT.starts_with(&format)) {
        // New, or a crash came between its making and its line.
        file.rewind()?;
        file.write_all(FORMAT.as_bytes())?;
        file.sync_all()?;
        return Ok(file);
    }
    if format != FORMAT {
        let found = format.lines().next().unwrap_or_default().to_owned();
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("its format is `{found}`, which this version does not know"),
        ));
    }
    Ok(file)
}

/// Numbers that are names in a folder, with their paths.
fn numbered(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.parse().ok()) {
            all.push((number, entry.path()));
        }
    }
    Ok(all)
}
