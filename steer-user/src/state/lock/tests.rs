use std::{
    env,
    os::unix::fs::PermissionsExt as _,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use proptest::prelude::*;

use super::*;

/// A directory of the test's own, removed with everything in it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("steer-lock-dir-{}-{number}", process::id()));
        make(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn make(path: &Path) {
    fs::create_dir(path).expect("a directory");
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("its mode");
}

#[test]
fn the_second_is_told_who_has_it() {
    let directory = Directory::new();
    let me = Holder::Process(process::id());
    assert_eq!(holder(&directory.0).expect("nobody"), Holder::Nobody);
    let lock = Lock::acquire(&directory.0).expect("the lock");
    let error = Lock::acquire(&directory.0).expect_err("it is held");
    assert!(matches!(error, LockError::Held { holder, .. } if holder == me));
    assert_eq!(holder(&directory.0).expect("a holder"), me);
    drop(lock);
    assert_eq!(holder(&directory.0).expect("nobody"), Holder::Nobody);
    Lock::wait(&directory.0).expect("the lock again");
}

#[test]
fn one_that_is_removed_is_gone() {
    let directory = Directory::new();
    let inner = directory.0.join("a");
    let gone = Lock::acquire(&inner).expect_err("nothing there");
    assert!(matches!(gone, LockError::Gone { .. }), "{gone}");
    assert_eq!(holder(&inner).expect("nobody"), Holder::Nobody);
    make(&inner);
    let lock = Lock::acquire(&inner).expect("the lock");
    assert!(lock.is_current());
    fs::remove_dir(&inner).expect("its removal");
    assert!(!lock.is_current());
    make(&inner);
    assert!(!lock.is_current(), "another directory of its name");
    Lock::acquire(&inner).expect("the lock of the other one");
}

#[test]
fn a_child_does_not_inherit_it() {
    let directory = Directory::new();
    let lock = Lock::acquire(&directory.0).expect("the lock");
    let mut child = Command::new("sleep").arg("60").spawn().expect("a child");
    drop(lock);
    let again = Lock::acquire(&directory.0);
    child.kill().expect("the child's end");
    child.wait().expect("its status");
    again.expect("the lock");
}

#[test]
fn one_that_is_passed_on_is_never_free() {
    let directory = Directory::new();
    let other = Directory::new();
    let lock = Lock::acquire(&directory.0).expect("the lock");
    let descriptor = lock.pass_on(true).expect("to be kept over an exec");
    // An exec leaves the descriptor like this: open, and owned by nobody.
    std::mem::forget(lock);
    let held = Lock::acquire(&directory.0).expect_err("it is held");
    assert!(matches!(held, LockError::Held { .. }), "{held}");
    assert!(Lock::passed(&other.0, descriptor).is_none());
    let lock = Lock::passed(&directory.0, descriptor).expect("what was passed on");
    Lock::acquire(&directory.0).expect_err("it is held still");
    drop(lock);
    // A child that another test has started meanwhile has the descriptor, too, until its exec or
    // its end.
    Lock::wait(&directory.0).expect("the lock");
}

/// Many threads take one lock and remove its directory before they let go, as the last steer of a
/// port does. Each open directory is a holder of its own, so threads race here as processes do.
#[test]
fn there_is_never_more_than_one_holder() {
    let directory = Directory::new();
    let inner = directory.0.join("a");
    let inside = AtomicU32::new(0);
    let taken = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    match fs::create_dir(&inner) {
                        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                            panic!("{error}");
                        }
                        _ => {}
                    }
                    match Lock::acquire(&inner) {
                        Ok(lock) => {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            taken.fetch_add(1, Ordering::SeqCst);
                            thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            fs::remove_dir(&inner).expect("the removal");
                            drop(lock);
                        }
                        Err(LockError::Held { .. } | LockError::Gone { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    assert!(taken.load(Ordering::SeqCst) > 4);
}

const LIST: &str = "\
1: POSIX  ADVISORY  WRITE 7 00:27:42533 0 EOF
2: FLOCK  ADVISORY  READ 8 00:27:42533 0 EOF
3: FLOCK  ADVISORY  WRITE 708 00:27:42533 0 EOF
3: -> FLOCK  ADVISORY  WRITE 709 00:27:42534 0 EOF
4: FLOCK  ADVISORY  WRITE 710 103:02:42535 0 EOF
";

#[test]
fn the_list_of_locks_names_the_holder() {
    assert_eq!(holder_in(LIST, (0, 0x27), 42533), Some(708));
    assert_eq!(holder_in(LIST, (0, 0x27), 42534), None, "it only waits");
    assert_eq!(holder_in(LIST, (0x103, 2), 42535), Some(710));
    assert_eq!(holder_in(LIST, (0, 27), 42533), None);
    assert_eq!(holder_in("", (0, 0), 0), None);
}

proptest! {
    #[test]
    fn whatever_is_listed_is_found(pid: u32, major in 0_u32..4096, minor in 0_u32..1 << 20, inode: u64) {
        let line = format!("9: FLOCK  ADVISORY  WRITE {pid} {major:02x}:{minor:02x}:{inode} 0 EOF\n");
        let text = LIST.to_owned() + &line;
        prop_assume!((major, inode) != (0, 42533) && (major, inode) != (0x103, 42535));
        prop_assert_eq!(holder_in(&text, (major, minor), inode), Some(pid));
    }
}
