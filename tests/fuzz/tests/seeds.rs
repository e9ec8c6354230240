//! Every seed, given to its target.

use std::{fs, panic, path::Path};

use steer_fuzz::TARGETS;

#[test]
fn seeds() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let mut failed = Vec::new();
    for target in TARGETS {
        let dir = all.join(target.name);
        let mut count = 0;
        for entry in fs::read_dir(&dir).expect("the target's seeds") {
            let path = entry.expect("a seed").path();
            let input = fs::read(&path).expect("its bytes");
            if panic::catch_unwind(|| (target.check)(&input)).is_err() {
                failed.push(path);
            }
            count += 1;
        }
        assert!(count > 0, "{} has no seeds", target.name);
    }
    assert!(failed.is_empty(), "{failed:?}");
}
