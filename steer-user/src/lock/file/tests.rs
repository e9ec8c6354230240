use std::{
    env, process,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;

/// A directory of the test's own, removed with everything in it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(env::temp_dir().join(format!("steer-lock-{}-{number}", process::id())))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn the_second_is_told_who_has_it() {
    let directory = Directory::new();
    let lock = FileLock::acquire_in(&directory.0, "a").expect("the lock");
    let error = FileLock::acquire_in(&directory.0, "a").expect_err("it is held");
    assert!(matches!(error, FileLockError::Held { pid: Some(pid), .. } if pid == process::id()));
    assert_eq!(holder_in(&directory.0, "a"), Some(process::id()));
    let other = FileLock::acquire_in(&directory.0, "b").expect("another lock");
    lock.release().expect("the release");
    assert_eq!(holder_in(&directory.0, "a"), None);
    assert!(!directory.0.join("a.lock").exists());
    assert!(directory.0.join("b.lock").exists());
    other.release().expect("the release");
    assert!(!directory.0.exists());
    FileLock::acquire_in(&directory.0, "a").expect("the lock again");
}

#[test]
fn a_stale_file_is_no_obstacle() {
    let directory = Directory::new();
    fs::create_dir(&directory.0).expect("the directory");
    fs::write(directory.0.join("a.lock"), "123456789012\nrubbish").expect("a stale file");
    assert_eq!(holder_in(&directory.0, "a"), None);
    let lock = FileLock::acquire_in(&directory.0, "a").expect("the lock");
    let content = fs::read_to_string(directory.0.join("a.lock")).expect("its pid");
    assert_eq!(content, format!("{}\n", process::id()));
    lock.release().expect("the release");
}

#[test]
fn whoever_fails_leaves_nothing() {
    let directory = Directory::new();
    drop(FileLock::acquire_in(&directory.0, "a").expect("the lock"));
    assert!(!directory.0.exists());
}

#[test]
fn only_the_owner_may_read_it() {
    let directory = Directory::new();
    let _lock = FileLock::acquire_in(&directory.0, "a").expect("the lock");
    let mode = |path: &Path| fs::metadata(path).expect("its mode").mode() & 0o777;
    assert_eq!(mode(&directory.0), 0o700);
    assert_eq!(mode(&directory.0.join("a.lock")), 0o600);
}

#[test]
fn a_child_does_not_inherit_it() {
    let directory = Directory::new();
    let lock = FileLock::acquire_in(&directory.0, "a").expect("the lock");
    let mut child = Command::new("sleep").arg("60").spawn().expect("a child");
    drop(lock);
    let again = FileLock::acquire_in(&directory.0, "a");
    child.kill().expect("the child's end");
    child.wait().expect("its status");
    again.expect("the lock");
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let directory = Directory::new();
    fs::create_dir(&directory.0).expect("the directory");
    let link = directory.0.join("a.lock");
    std::os::unix::fs::symlink("/dev/null", link).expect("a link");
    let error = FileLock::acquire_in(&directory.0, "a").expect_err("a link");
    assert!(matches!(error, FileLockError::Io { .. }));
}

#[test]
fn a_fifo_hangs_nobody() {
    let directory = Directory::new();
    fs::create_dir(&directory.0).expect("the directory");
    let fifo = directory.0.join("a.lock");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
    assert!(made.success());
    assert_eq!(holder_in(&directory.0, "a"), None);
    let error = FileLock::acquire_in(&directory.0, "a").expect_err("no file");
    assert!(matches!(error, FileLockError::Io { .. }), "{error}");
}

#[test]
fn a_name_stays_in_the_directory() {
    let directory = Directory::new();
    for name in ["", "..", "a/b", "../a", "a\n", ".hidden"] {
        let error = FileLock::acquire_in(&directory.0, name).expect_err("a bad name");
        assert!(matches!(error, FileLockError::Name(_)), "{name:?}: {error}");
    }
}

/// Many threads take and release one lock. Each open file is a holder of its own, so this is the
/// race of removal against opening as processes run it.
#[test]
fn there_is_never_more_than_one_holder() {
    let directory = Directory::new();
    let inside = AtomicU32::new(0);
    let taken = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    match FileLock::acquire_in(&directory.0, "a") {
                        Ok(lock) => {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            taken.fetch_add(1, Ordering::SeqCst);
                            thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            lock.release().expect("the release");
                        }
                        Err(FileLockError::Held { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    assert!(taken.load(Ordering::SeqCst) > 4);
}
