//! Where an object lies, and every change of it: under its container's lock, on a thread that may wait.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use realm_model::cloud::limits::{CONTAINER_OVERHEAD_BYTES, OBJECT_OVERHEAD_BYTES};
use realm_model::cloud::{CloudError, check_container, check_object};
use rustix::fs::OFlags;

use super::super::names::FileName;
use super::listing::Listings;
use super::usage::{Counted, Size, Temporary, Usage, count};
use super::{found, make_folder, numbered, seconds, sync_folder, write_small};
use crate::Watch;
use crate::watch::Health;

/// An object's place.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The name of its container's folder.
    pub(super) container: String,
    file: FileName,
    /// As it was given, for those whose file does not say it.
    name: String,
}

/// Why something was not done.
pub(super) enum Fault {
    Io(io::Error),
    Cloud(CloudError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<CloudError> for Fault {
    fn from(error: CloudError) -> Self {
        Self::Cloud(error)
    }
}

pub(super) struct Inner {
    root: PathBuf,
    health: Health,
    containers: Mutex<BTreeMap<String, Arc<Mutex<Container>>>>,
    pub(super) listings: Mutex<Listings>,
    next: AtomicU64,
    usage: RwLock<Usage>,
    /// Bytes of what nobody sees yet.
    written: Arc<AtomicU64>,
    _lock: File,
}

/// What is kept of a container while somebody uses it.
#[derive(Default)]
pub(super) struct Container {
    /// Of all its objects; counted at the first use, and then kept.
    counted: Option<Counted>,
    /// Another one after each change.
    pub(super) generation: u64,
    is_deleted: bool,
}

/// The name of a container's folder. Nobody asks for the names of containers: a digest needs nothing
/// beside it.
pub(super) fn container_file(container: &str) -> String {
    FileName::of(container).as_str().to_owned()
}

pub(super) fn of(container: &str, object: &str) -> Result<Place, CloudError> {
    check_container(container)?;
    check_object(object)?;
    Ok(Place {
        container: container_file(container),
        file: FileName::of(object),
        name: object.to_owned(),
    })
}

/// Does what may wait for a disk.
pub(super) async fn run<T: Send + 'static>(
    inner: &Arc<Inner>,
    time: Duration,
    work: impl FnOnce(&Inner) -> Result<T, Fault> + Send + 'static,
) -> Result<T, CloudError> {
    let shared = Arc::clone(inner);
    let task = tokio::task::spawn_blocking(move || work(&shared));
    match tokio::time::timeout(time, task).await {
        Ok(Ok(Ok(value))) => {
            inner.health.answered();
            Ok(value)
        }
        Ok(Ok(Err(Fault::Cloud(error)))) => Err(error),
        Ok(Ok(Err(Fault::Io(error)))) => {
            inner
                .health
                .failed(&format!("`{}`: {error}", inner.root.display()));
            let kind = error.kind();
            let is_full =
                kind == io::ErrorKind::StorageFull || kind == io::ErrorKind::QuotaExceeded;
            Err(CloudError::Failed(match is_full {
                true => "no space is left".to_owned(),
                false => kind.to_string(),
            }))
        }
        Ok(Err(_)) => Err(CloudError::Failed("it stopped on the way".to_owned())),
        Err(_) => {
            let root = inner.root.display();
            inner
                .health
                .failed(&format!("`{root}`: the file system does not answer"));
            Err(CloudError::Timeout)
        }
    }
}

impl Inner {
    pub(super) fn new(root: PathBuf, lock: File, watch: Arc<dyn Watch>) -> io::Result<Self> {
        let mut next = 0;
        for (number, path) in numbered(&root.join("temporary"))? {
            next = next.max(number + 1);
            if fs::symlink_metadata(&path)?.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        let trash = numbered(&root.join("trash"))?;
        next = trash.iter().fold(next, |next, one| next.max(one.0 + 1));
        // A container may have had a million objects: nobody waits for them at a start.
        std::thread::Builder::new()
            .name("realm-blobs".to_owned())
            .spawn(move || {
                trash
                    .into_iter()
                    .for_each(|(_, path)| drop(fs::remove_dir_all(path)))
            })?;
        Ok(Self {
            root,
            health: Health::new(watch),
            containers: Mutex::default(),
            listings: Mutex::default(),
            next: AtomicU64::new(next),
            usage: RwLock::default(),
            written: Arc::default(),
            _lock: lock,
        })
    }

    pub(super) fn folder(&self, container: &str) -> PathBuf {
        self.root.join("containers").join(container)
    }

    pub(super) fn objects(&self, container: &str) -> PathBuf {
        self.folder(container).join("objects")
    }

    fn path(&self, place: &Place) -> PathBuf {
        self.objects(&place.container).join(place.file.as_str())
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn is_there(&self, container: &str) -> Result<(), Fault> {
        match found(fs::symlink_metadata(self.objects(container)))? {
            Some(_) => Ok(()),
            None => Err(CloudError::NotFound("the container").into()),
        }
    }

    /// Works on a container that is there, alone, and may change it.
    fn change<T>(
        &self,
        container: &str,
        work: impl FnOnce(&mut Container, &Usage) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let usage = self.usage.read().unwrap_or_else(PoisonError::into_inner);
        self.alone(container, |state| work(state, &usage))
    }

    /// Works on a container that is there, alone.
    pub(super) fn alone<T>(
        &self,
        container: &str,
        work: impl FnOnce(&mut Container) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        loop {
            let shared = self.shared(container);
            let mut state = lock(&shared);
            // Deleted between the look into the map and the lock: another one may be there by now.
            if state.is_deleted {
                continue;
            }
            if let Err(fault) = self.is_there(container) {
                self.forget(container, &mut state);
                return Err(fault);
            }
            return work(&mut state);
        }
    }

    fn shared(&self, container: &str) -> Arc<Mutex<Container>> {
        let mut all = lock(&self.containers);
        if let Some(one) = all.get(container) {
            return Arc::clone(one);
        }
        let one = Arc::new(Mutex::new(Container {
            generation: self.number(),
            ..Container::default()
        }));
        all.insert(container.to_owned(), Arc::clone(&one));
        one
    }

    fn forget(&self, container: &str, state: &mut Container) {
        state.is_deleted = true;
        lock(&self.containers).remove(container);
    }

    fn changed(&self, state: &mut Container, usage: &Usage, added: Size, taken: Size) {
        state.generation = self.number();
        let weight = |size: Size| size.map_or(0, |size| size + OBJECT_OVERHEAD_BYTES);
        usage.changed(weight(added), weight(taken));
        if let Some(counted) = &mut state.counted {
            let of = |size: Size| (size.unwrap_or(0), u64::from(size.is_some()));
            let ((added, more), (taken, fewer)) = (of(added), of(taken));
            counted.n_bytes = (counted.n_bytes + added).saturating_sub(taken);
            counted.n_objects = (counted.n_objects + more).saturating_sub(fewer);
        }
    }

    /// Makes a container elsewhere, and gives it its name once it is whole.
    pub(super) fn create(&self, container: &str) -> Result<(), Fault> {
        let folder = self.folder(container);
        if found(fs::symlink_metadata(&folder))?.is_some() {
            // Who made it may not have come as far as to its end.
            sync_folder(&self.root.join("containers"))?;
            return Ok(());
        }
        let made = self.root.join("temporary").join(self.number().to_string());
        make_folder(&made)?;
        make_folder(&made.join("objects"))?;
        make_folder(&made.join("names"))?;
        let now = seconds(SystemTime::now()).to_string();
        write_small(&made.join("created"), now.as_bytes())?;
        sync_folder(&made)?;
        let usage = self.usage.read().unwrap_or_else(PoisonError::into_inner);
        match fs::rename(&made, &folder) {
            Ok(()) => usage.changed(CONTAINER_OVERHEAD_BYTES, 0),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                fs::remove_dir_all(made)?;
            }
            Err(error) => return Err(error.into()),
        }
        sync_folder(&self.root.join("containers"))?;
        Ok(())
    }

    /// Takes a container out of sight, and says what is left to be removed.
    pub(super) fn delete(&self, container: &str) -> Result<Option<PathBuf>, Fault> {
        let trash = self.root.join("trash").join(self.number().to_string());
        let moved = self.change(container, |state, usage| {
            // Only where there is a count that it has to leave.
            let counted = match usage.0 {
                Some(_) => self.counted(container, state)?,
                None => Counted::default(),
            };
            fs::rename(self.folder(container), &trash)?;
            usage.changed(0, counted.used());
            self.forget(container, state);
            Ok(())
        });
        match moved {
            Ok(()) => {
                sync_folder(&self.root.join("containers"))?;
                Ok(Some(trash))
            }
            Err(Fault::Cloud(CloudError::NotFound(_))) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    pub(super) fn temporary(&self) -> Result<Temporary, Fault> {
        let path = self.root.join("temporary").join(self.number().to_string());
        Ok(Temporary::create(path, &self.written)?)
    }

    /// Makes a file the object, for good.
    pub(super) fn commit(&self, mut temporary: Temporary, place: &Place) -> Result<(), Fault> {
        temporary.file.flush()?;
        temporary.file.sync_all()?;
        let size = temporary.file.metadata()?.len();
        let path = self.path(place);
        self.change(&place.container, |state, usage| {
            let before = self.metadata(place)?.map(|metadata| metadata.len());
            self.keep_name(place)?;
            fs::rename(&temporary.path, &path)?;
            temporary.is_done = true;
            self.changed(state, usage, Some(size), before);
            Ok(())
        })?;
        self.sync_objects(&place.container)
    }

    /// The file system has the names of a container's objects for good. One that was deleted meanwhile
    /// took them along.
    fn sync_objects(&self, container: &str) -> Result<(), Fault> {
        match found(sync_folder(&self.objects(container)))? {
            Some(()) => Ok(()),
            None => Err(CloudError::NotFound("the container").into()),
        }
    }

    fn name_path(&self, place: &Place) -> Option<PathBuf> {
        match &place.file {
            FileName::Plain(_) => None,
            FileName::Digest(digest) => {
                Some(self.folder(&place.container).join("names").join(digest))
            }
        }
    }

    /// Under the container's lock, before the object is there.
    fn keep_name(&self, place: &Place) -> Result<(), Fault> {
        let Some(path) = self.name_path(place) else {
            return Ok(());
        };
        // Looked at, because a crash may have left it empty.
        if found(fs::read(&path))?.as_deref() == Some(place.name.as_bytes()) {
            return Ok(());
        }
        let made = self.root.join("temporary").join(self.number().to_string());
        write_small(&made, place.name.as_bytes())?;
        fs::rename(made, &path)?;
        sync_folder(path.parent().unwrap_or(&self.root))?;
        Ok(())
    }

    /// Under the container's lock, after the object is gone.
    fn drop_name(&self, place: &Place) -> Result<(), Fault> {
        if let Some(path) = self.name_path(place) {
            found(fs::remove_file(path))?;
        }
        Ok(())
    }

    /// Of a regular file: nobody else's links are followed.
    pub(super) fn metadata(&self, place: &Place) -> Result<Option<Metadata>, Fault> {
        let metadata = found(fs::symlink_metadata(self.path(place)))?;
        Ok(metadata.filter(Metadata::is_file))
    }

    pub(super) fn open(&self, place: &Place) -> Result<Option<(File, u64)>, Fault> {
        if self.metadata(place)?.is_none() {
            return Ok(None);
        }
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags.bits().cast_signed());
        let Some(file) = found(options.open(self.path(place)))? else {
            return Ok(None);
        };
        let size = file.metadata()?.len();
        Ok(Some((file, size)))
    }

    pub(super) fn remove(&self, places: &[Place]) -> Result<(), Fault> {
        let Some(first) = places.first() else {
            return Ok(());
        };
        // A lock for each: others need not wait for a thousand.
        for place in places {
            let removed = self.change(&place.container, |state, usage| {
                let Some(metadata) = self.metadata(place)? else {
                    return Ok(());
                };
                found(fs::remove_file(self.path(place)))?;
                self.drop_name(place)?;
                self.changed(state, usage, None, Some(metadata.len()));
                Ok(())
            });
            match removed {
                Ok(()) => {}
                Err(Fault::Cloud(CloudError::NotFound(_))) => return Ok(()),
                Err(fault) => return Err(fault),
            }
        }
        found(sync_folder(&self.objects(&first.container)))?;
        Ok(())
    }

    /// One rename of the file system, also between containers: never two of it, never none.
    pub(super) fn rename(&self, from: &Place, to: &Place) -> Result<(), Fault> {
        let renamed = match from.container == to.container {
            true => self.change(&from.container, |state, usage| {
                if let Some((moved, before)) = self.rename_file(from, to)? {
                    self.changed(state, usage, Some(moved), before);
                    self.changed(state, usage, None, Some(moved));
                }
                Ok(())
            }),
            false => self.rename_across(from, to),
        };
        renamed.map_err(|fault| self.which_is_missing(fault, from))?;
        self.sync_objects(&to.container)?;
        if from.container != to.container {
            self.sync_objects(&from.container)?;
        }
        Ok(())
    }

    fn rename_across(&self, from: &Place, to: &Place) -> Result<(), Fault> {
        // In one order for all, or two that rename crosswise wait for each other.
        let (one, two) = (&from.container, &to.container);
        let (one, two) = if one < two { (one, two) } else { (two, one) };
        self.change(one, |first, usage| {
            self.alone(two, |second| {
                let (source, target) = match *one == from.container {
                    true => (first, second),
                    false => (second, first),
                };
                if let Some((moved, before)) = self.rename_file(from, to)? {
                    self.changed(target, usage, Some(moved), before);
                    self.changed(source, usage, None, Some(moved));
                }
                Ok(())
            })
        })
    }

    /// An object of a container that is not there is not there: the same word as for reading it.
    fn which_is_missing(&self, fault: Fault, from: &Place) -> Fault {
        let is_there = self.is_there(&from.container).is_ok();
        match fault {
            Fault::Cloud(CloudError::NotFound("the container")) if !is_there => {
                CloudError::NotFound("the object").into()
            }
            Fault::Cloud(_) | Fault::Io(_) => fault,
        }
    }

    /// Bytes of what was moved, and of what was there.
    fn rename_file(&self, from: &Place, to: &Place) -> Result<Option<(u64, Size)>, Fault> {
        let Some(moved) = self.metadata(from)? else {
            return Err(CloudError::NotFound("the object").into());
        };
        if from.container == to.container && from.name == to.name {
            return Ok(None);
        }
        let before = self.metadata(to)?.map(|metadata| metadata.len());
        self.keep_name(to)?;
        fs::rename(self.path(from), self.path(to))?;
        self.drop_name(from)?;
        Ok(Some((moved.len(), before)))
    }

    pub(super) fn bytes(&self, container: &str) -> Result<u64, Fault> {
        let counted = self.alone(container, |state| {
            Ok(self.counted(container, state)?.n_bytes)
        });
        match counted {
            Err(Fault::Cloud(CloudError::NotFound(_))) => Ok(0),
            Ok(_) | Err(_) => counted,
        }
    }

    fn counted(&self, container: &str, state: &mut Container) -> Result<Counted, Fault> {
        if let Some(counted) = state.counted {
            return Ok(counted);
        }
        let counted = count(&self.objects(container))?;
        state.counted = Some(counted);
        Ok(counted)
    }

    /// What all of it takes, if somebody has counted; without waiting.
    pub(super) fn used_if_counted(&self) -> Option<u64> {
        let usage = self.usage.try_read().ok()?;
        let visible = usage.0.as_ref()?.load(Ordering::Relaxed);
        Some(visible.saturating_add(self.written.load(Ordering::Relaxed)))
    }

    pub(super) fn used(&self) -> Result<u64, Fault> {
        let mut usage = self.usage.write().unwrap_or_else(PoisonError::into_inner);
        if usage.0.is_none() {
            let mut used = 0;
            for entry in fs::read_dir(self.root.join("containers"))? {
                let Ok(container) = entry?.file_name().into_string() else {
                    continue;
                };
                let counted = self.alone(&container, |state| self.counted(&container, state));
                match counted {
                    Ok(counted) => used += counted.used(),
                    // Somebody else's folder.
                    Err(Fault::Cloud(CloudError::NotFound(_))) => {}
                    Err(fault) => return Err(fault),
                }
            }
            usage.0 = Some(AtomicU64::new(used));
        }
        let visible = usage
            .0
            .as_ref()
            .map_or(0, |used| used.load(Ordering::Relaxed));
        Ok(visible.saturating_add(self.written.load(Ordering::Relaxed)))
    }

    /// The name that is kept of a digest's file.
    pub(super) fn kept_name(&self, container: &str, digest: &str) -> Option<String> {
        fs::read_to_string(self.folder(container).join("names").join(digest)).ok()
    }
}

/// A panic of another thread leaves nothing half-done in what these hold.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
