//! The realm folder: modes, discovery, the lock, and files that are whole or not there.

use std::os::unix::fs::symlink;

use super::*;

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").mode() & 0o7777
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("read")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    names.sort();
    names
}

#[test]
fn a_folder_is_made_for_its_owner_alone_and_opens_again() {
    let place = temporary();
    let root = place.path().join("a/b").join(NAME);
    let error = RealmFolder::open(root.clone()).expect_err("not there");
    assert!(matches!(error, FolderError::Missing { .. }));
    let folder = RealmFolder::create(root.clone()).expect("made");
    assert_eq!(names(&root), ["blobs", "cache", "log", "marks", "tmp"]);
    for path in [folder.root(), &folder.marks(), &folder.blobs()] {
        assert_eq!(mode(path), 0o700, "{}", path.display());
    }
    assert_eq!(RealmFolder::open(root.clone()).expect("there"), folder);
    // What is missing in one is made.
    fs::remove_dir(folder.blobs()).expect("removed");
    RealmFolder::create(root).expect("made");
    assert!(folder.blobs().is_dir());
    assert!(
        folder
            .log(ChainId::Authority)
            .ends_with("log/authority.log")
    );
    assert!(folder.log(ChainId::DEFAULT).ends_with("log/default.log"));
    assert!(folder.compiled("f00").ends_with("cache/compiled/f00"));
}

#[test]
fn an_empty_folder_becomes_private_and_another_is_left_alone() {
    let place = temporary();
    let empty = place.path().join("empty");
    let others = place.path().join("others");
    for path in [&empty, &others] {
        fs::create_dir(path).expect("made");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
    }
    fs::write(others.join("file"), "").expect("written");
    RealmFolder::create(empty.clone()).expect("taken");
    assert_eq!(mode(&empty), 0o700);
    let error = RealmFolder::create(others.clone()).expect_err("occupied");
    assert!(matches!(error, FolderError::Occupied { .. }));
    assert_eq!(mode(&others), 0o755);
    assert_eq!(names(&others), ["file"]);
}

#[test]
fn a_realm_is_searched_in_order() {
    let place = temporary();
    let user = fs::metadata(place.path()).expect("there").uid();
    let deep = place.path().join("project/src/deep");
    let data = place.path().join("data");
    fs::create_dir_all(&deep).expect("made");
    let (explicit, environment) = (Path::new("named"), Path::new("from-environment"));
    let check = |change: &dyn Fn(&mut Places<'_>), expected: PathBuf| {
        let mut places = Places {
            explicit: None,
            environment: None,
            here: &deep,
            data_home: Some(&data),
            user,
        };
        change(&mut places);
        assert_eq!(discover(&places), expected);
    };
    let nothing = |_: &mut Places<'_>| {};
    // Nothing anywhere: the place in the data home, else here.
    check(&nothing, data.join("realm"));
    check(&|places| places.data_home = None, deep.join(NAME));
    // A `.realm` without a realm in it does not count; one upwards does; the nearest wins.
    fs::create_dir(deep.join(NAME)).expect("made");
    check(&nothing, data.join("realm"));
    let upwards = place.path().join("project").join(NAME);
    RealmFolder::create(upwards.clone()).expect("made");
    check(&nothing, upwards.clone());
    // Somebody else's is passed over, and so is a link.
    check(&|places| places.user = user + 1, data.join("realm"));
    symlink(&upwards, place.path().join("project/src").join(NAME)).expect("linked");
    check(&nothing, upwards);
    RealmFolder::create(deep.join(NAME)).expect("made");
    check(&nothing, deep.join(NAME));
    // Names come first, the explicit one before the other; whether they exist is not asked.
    check(
        &|places| places.environment = Some(environment),
        environment.to_owned(),
    );
    check(
        &|places| {
            places.environment = Some(environment);
            places.explicit = Some(explicit);
        },
        explicit.to_owned(),
    );
}

#[test]
fn one_agent_at_a_time() {
    let place = temporary();
    let folder = RealmFolder::create(place.path().join(NAME)).expect("made");
    fs::write(folder.temporary().join("left over"), "").expect("written");
    let lock = folder.lock().expect("free");
    assert_eq!(names(&folder.temporary()), [""; 0]);
    let error = folder.lock().expect_err("held");
    let FolderError::Locked { process, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*process, Some(std::process::id()));
    drop(lock);
    folder.lock().expect("free again");
    assert_eq!(mode(&folder.lock_file()), 0o600);
}

#[test]
fn a_link_in_the_place_of_the_temporary_folder_is_not_followed() {
    let place = temporary();
    let folder = RealmFolder::create(place.path().join(NAME)).expect("made");
    let other = place.path().join("other");
    fs::create_dir(&other).expect("made");
    fs::write(other.join("precious"), "").expect("written");
    fs::remove_dir(folder.temporary()).expect("empty");
    std::os::unix::fs::symlink(&other, folder.temporary()).expect("linked");
    let _lock = folder.lock().expect("free");
    assert_eq!(names(&other), ["precious"]);
    assert!(!folder.temporary().is_symlink() && folder.temporary().is_dir());
}

#[test]
fn a_secret_is_private_and_never_overwritten() {
    let place = temporary();
    let path = place.path().join("owner.key");
    write_secret(&path, b"secret\n").expect("written");
    assert_eq!(mode(&path), 0o600);
    let error = write_secret(&path, b"another").expect_err("there");
    assert!(matches!(error, FolderError::Exists { .. }));
    assert_eq!(read_secret(&path).expect("read").as_str(), "secret\n");
    assert_eq!(names(place.path()), ["owner.key"], "nothing beside it");
    for open in [0o640, 0o604] {
        fs::set_permissions(&path, fs::Permissions::from_mode(open)).expect("set");
        let error = read_secret(&path).expect_err("open to others");
        assert!(matches!(error, FolderError::TooOpen { mode, .. } if mode == open));
    }
}

#[test]
fn a_small_file_is_replaced_whole() {
    let place = temporary();
    let path = place.path().join("realm.lock");
    write_atomic(&path, b"one").expect("written");
    assert_eq!(mode(&path), 0o644);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    write_atomic(&path, b"two").expect("written");
    assert_eq!(fs::read(&path).expect("read"), b"two");
    assert_eq!(mode(&path), 0o600, "its mode stays");
    assert_eq!(names(place.path()), ["realm.lock"]);
    let error = write_atomic(&place.path().join("no/file"), b"x").expect_err("no folder");
    assert!(matches!(error, FolderError::Io { .. }));
}

#[test]
fn a_link_is_replaced_and_what_it_leads_to_is_left_alone() {
    let place = temporary();
    let victim = place.path().join("victim");
    fs::write(&victim, "precious").expect("written");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o4755)).expect("set");
    let link = place.path().join("realm.toml.sig");
    for target in [victim.as_path(), Path::new("victim"), Path::new("nowhere")] {
        let _ = fs::remove_file(&link);
        symlink(target, &link).expect("linked");
        write_atomic(&link, b"signature").expect("written");
        assert!(link.symlink_metadata().expect("there").is_file());
        assert_eq!(mode(&link), 0o644);
        assert_eq!(fs::read(&victim).expect("read"), b"precious");
    }
    assert_eq!(names(place.path()), ["realm.toml.sig", "victim"]);
    // A link in the middle is where the folder is, and is followed.
    let folder = place.path().join("folder");
    fs::create_dir(&folder).expect("made");
    symlink(&folder, place.path().join("way")).expect("linked");
    write_atomic(&place.path().join("way/file"), b"x").expect("written");
    assert_eq!(names(&folder), ["file"]);
}

#[test]
fn a_small_file_is_read_whole_or_refused() {
    let place = temporary();
    let check = |name: &str, bytes_max: u64, expected: Result<&[u8], &str>| {
        let read = read_small(&place.path().join(name), bytes_max);
        match (read, expected) {
            (Ok(bytes), Ok(expected)) => assert_eq!(bytes, expected),
            (Err(error), Err(expected)) => {
                assert!(error.to_string().contains(expected), "{error}")
            }
            (read, expected) => panic!("{name}: {read:?} instead of {expected:?}"),
        }
    };
    fs::write(place.path().join("file"), b"four").expect("written");
    symlink("file", place.path().join("link")).expect("linked");
    check("file", 4, Ok(b"four"));
    check("link", 5, Ok(b"four"));
    check("file", 3, Err("more than 3 bytes"));
    check("absent", 4, Err("failed to open"));
    check(".", 4, Err("neither a file nor a pipe"));
    check("/dev/zero", 4, Err("neither a file nor a pipe"));
    // What grows without end says that it is empty.
    check("/proc/self/maps", 16, Err("more than 16 bytes"));
}

#[test]
fn a_pipe_is_read_and_one_without_a_writer_is_no_wait() {
    let place = temporary();
    let path = place.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .expect("made");
    assert_eq!(read_small(&path, 4).expect("read"), b"");
    assert_eq!(read_secret(&path).expect("read").as_str(), "");
    // Both ends: the writer is there, and its bytes come only when the reader waits.
    let mut writer = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .expect("opened");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_small(&path, 4));
        writer.write_all(b"fifth").expect("written");
        let error = reader.join().expect("no panic").expect_err("too large");
        assert!(matches!(error, FolderError::TooLarge { .. }), "{error:?}");
    });
}
