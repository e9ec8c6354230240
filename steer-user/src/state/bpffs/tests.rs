use std::{env, process, thread};

use rustix::{
    mount::{MountPropagationFlags, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::*;

#[test]
fn an_ordinary_directory_is_no_bpffs() {
    assert!(!is_bpffs(Path::new("/")));
    assert!(!is_bpffs(Path::new("/nowhere")));
}

#[test]
fn nothing_to_remove_is_no_error() {
    let places = Places {
        own: "/nowhere/steer/bpf",
        system: "/nowhere/bpf",
    };
    assert_eq!(existing(&places), None);
    assert!(places.hold_existing().expect("nothing to lock").is_none());
}

fn existing(places: &Places<'_>) -> Option<PathBuf> {
    places.existing().expect("nothing unsafe")
}

/// Takes the host's lock and gives it back, as a steer does that was the last to use the root.
fn leave(places: &Places<'_>) {
    let (root, lock) = places.hold().expect("the lock");
    places.remove_if_empty(&root, lock).expect("the removal");
}

/// Runs `body` in a mount namespace of its own, with a directory that is removed afterwards.
fn with_mounts(name: &str, body: impl FnOnce(&Path) + Send + 'static) {
    let base = env::temp_dir().join(format!("steer-bpffs-{}-{name}", process::id()));
    fs::create_dir(&base).expect("a directory");
    let inside = base.clone();
    let outcome = thread::spawn(move || {
        // SAFETY: this thread gets a view of the mounts, and with it a working directory and
        // umask, of its own; nothing in this process relies on sharing those between threads.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("a mount namespace");
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).expect("private mounts");
        body(&inside);
    })
    .join();
    fs::remove_dir_all(&base).expect("the directory's removal");
    outcome.expect("the test");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("its mode").mode() & 0o777
}

#[test]
#[ignore = "privileged"]
fn without_a_bpffs_one_is_mounted_and_removed() {
    with_mounts("own", |base| {
        let own = base.join("steer/bpf");
        let places = Places {
            own: own.to_str().expect("a path"),
            system: "/nowhere",
        };
        assert_eq!(existing(&places), None);
        let (root, lock) = places.hold().expect("a root");
        assert_eq!(root, own);
        assert!(is_bpffs(&own));
        assert_eq!(mode(&own), 0o700);
        assert_eq!(existing(&places), Some(own.clone()));
        drop(lock);

        fs::create_dir(own.join("pins")).expect("a directory of pins");
        leave(&places);
        assert!(is_bpffs(&own), "pins are left alone");

        fs::remove_dir(own.join("pins")).expect("its removal");
        let waits = fs::File::open(&own).expect("the root");
        leave(&places);
        assert!(is_bpffs(&own), "somebody has it open");
        drop(waits);
        leave(&places);
        assert_eq!(existing(&places), None);
        assert!(own.exists(), "it may be a mount point elsewhere");
    });
}

/// Makes and unmounts steer's own bpffs in several threads at once. Whoever has the lock must be
/// able to make a directory in a bpffs.
#[test]
#[ignore = "privileged"]
fn many_come_and_go_at_once() {
    with_mounts("many", |base| {
        let own = base.join("steer/bpf");
        let places = Places {
            own: own.to_str().expect("a path"),
            system: "/nowhere",
        };
        thread::scope(|scope| {
            for number in 0..4 {
                let places = &places;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let (root, lock) = places.hold().expect("the lock");
                        assert!(is_in_bpffs(lock.directory()));
                        let pins = root.join(number.to_string());
                        fs::create_dir(&pins).expect("a directory of pins");
                        drop(lock);
                        thread::yield_now();
                        let (root, lock) = places.hold().expect("the lock");
                        assert!(is_in_bpffs(fs::File::open(&pins).expect("it stayed")));
                        fs::remove_dir(&pins).expect("its removal");
                        places.remove_if_empty(&root, lock).expect("the removal");
                    }
                });
            }
        });
        leave(&places);
        assert_eq!(existing(&places), None);
    });
}

#[test]
#[ignore = "privileged"]
fn the_systems_bpffs_is_used_and_kept() {
    with_mounts("system", |base| {
        let system = base.join("bpf");
        fs::create_dir(&system).expect("a directory");
        // The kernel's default mode lets every user make a directory.
        mount("bpf", &system, "bpf", MountFlags::empty(), None).expect("a bpffs");
        let own = base.join("steer/bpf");
        let places = Places {
            own: own.to_str().expect("a path"),
            system: system.to_str().expect("a path"),
        };
        assert_eq!(existing(&places), None);
        let (root, lock) = places.hold().expect("a root");
        assert_eq!(root, system.join("steer"));
        assert_eq!(mode(&root), 0o700);
        assert!(!base.join("steer").exists());
        drop(lock);

        fs::create_dir(root.join("pins")).expect("a directory of pins");
        leave(&places);
        assert_eq!(existing(&places), Some(root.clone()));

        fs::remove_dir(root.join("pins")).expect("its removal");
        std::os::unix::fs::chown(&root, Some(65534), None).expect("another owner");
        for refused in [places.existing().map(|_| ()), places.hold().map(|_| ())] {
            let refused = refused.expect_err("a stranger's directory");
            assert!(
                refused.to_string().contains("belongs to user 65534"),
                "{refused}"
            );
        }
        std::os::unix::fs::chown(&root, Some(0), None).expect("its owner");
        leave(&places);
        assert_eq!(existing(&places), None);
        std::os::unix::fs::symlink(base, &root).expect("a link");
        let refused = places.hold().expect_err("a link");
        assert!(refused.to_string().contains("it is a link"), "{refused}");
        fs::remove_file(&root).expect("its removal");
        assert!(is_bpffs(&system));
        unmount(&system, UnmountFlags::empty()).expect("the end");
    });
}
