//! A migration that ends early, and the next one.

use std::os::unix::fs::symlink;

use super::*;
use crate::migrate::loss::Aspect;

/// OLD with something of everything, several batches of it.
fn varied() -> Scene {
    let scene = Scene::new();
    for n in 0..20u64 {
        let path = scene.write(
            &format!("folder-{}/file-{n}", n % 7),
            noise(n as usize * 97, n),
        );
        touch(&path, n as i64, 1 + n as i64);
    }
    for n in 0..130u64 {
        scene.write(&format!("many/{n}"), n.to_string());
    }
    fs::hard_link(scene.old("many/5"), scene.old("folder-3/linked")).unwrap();
    fs::hard_link(scene.old("many/5"), scene.old("many/z")).unwrap();
    symlink("many/5", scene.old("link")).unwrap();
    chmod(&scene.old("folder-2"), 0o500);
    touch(&scene.old("folder-1"), 1, 2);
    scene
}

#[test]
fn a_migration_stopped_at_any_moment_is_completed_by_the_next() {
    let scene = varied();
    let old = snapshot(&scene.old(""));
    let mut stops = 0;
    for patience in (0..).step_by(53) {
        fs::remove_dir_all(scene.new_("")).unwrap();
        fs::create_dir(scene.new_("")).unwrap();
        match scene.migrate_watched(&Patience::of(patience)) {
            Err(Stopped::Interrupted) => stops += 1,
            done => {
                assert_eq!(done.unwrap().verdict(), Verdict::Complete);
                break;
            }
        }
        scene.is_kept();
    }
    assert!(stops > 10, "only {stops}");
    assert_eq!(old, snapshot(&scene.old("")));
}

#[test]
fn a_migration_stopped_again_and_again_comes_to_its_end() {
    let scene = varied();
    let mut runs = 0;
    // Each run has to count and to go over what is there again: its patience grows.
    for patience in (100..).step_by(60) {
        runs += 1;
        match scene.migrate_watched(&Patience::of(patience)) {
            Err(Stopped::Interrupted) => {}
            done => {
                assert_eq!(done.unwrap().verdict(), Verdict::Complete);
                break;
            }
        }
    }
    assert!(runs > 5, "only {runs}");
    scene.is_alike();
    scene.is_kept();
}

#[test]
fn what_was_copied_and_not_changed_is_not_copied_again() {
    let scene = varied();
    scene.copy_and_stop();
    let before = inodes(&scene);
    fs::write(scene.old("many/7"), "changed").unwrap();
    touch(&scene.old("many/8"), 12, 34);
    scene.write("many/new", "came later");
    scene.is_kept();
    let after = inodes(&scene);
    let copied: Vec<_> = after
        .iter()
        .filter(|(path, ino)| before.get(*path) != Some(ino))
        .map(|(path, _)| path.to_str().unwrap())
        .collect();
    assert_eq!(copied, ["many/7", "many/8", "many/new"]);
}

#[test]
fn a_file_rewritten_with_its_time_put_back_is_copied_again() {
    let scene = varied();
    scene.copy_and_stop();
    let path = scene.old("many/7");
    let before = fs::metadata(&path).unwrap();
    fs::write(&path, "X").unwrap();
    touch(&path, before.mtime(), before.mtime_nsec());
    scene.is_kept();
    assert_eq!(fs::read(scene.new_("many/7")).unwrap(), b"X");
}

#[test]
fn what_is_gone_from_old_meanwhile_stays_in_new_and_is_told() {
    let scene = varied();
    scene.copy_and_stop();
    fs::remove_file(scene.old("many/7")).unwrap();
    let summary = scene.migrate().unwrap();
    assert_eq!(summary.verdict(), Verdict::Complete);
    assert_eq!(summary.only_in_new, [Path::new("many/7")]);
    assert_eq!(fs::read(scene.new_("many/7")).unwrap(), b"7");
}

#[test]
fn what_is_written_while_it_is_copied_is_told_and_copied_by_the_next_run() {
    let scene = varied();
    let writes = OnCopying(&|| fs::write(scene.old("many/7"), "changed").unwrap());
    let summary = scene.migrate_watched(&writes).unwrap();
    assert_eq!(summary.verdict(), Verdict::Different);
    let [one, ..] = &summary.differences[..] else {
        panic!("{summary:#?}")
    };
    assert_eq!(one.path, Path::new("many/7"));
    assert!(one.why.contains("changed in OLD"), "{one:?}");
    scene.is_kept();
}

#[test]
fn damage_in_new_is_found_by_reading_back() {
    let scene = varied();
    let damaged = scene.new_("many/7");
    let damages = OnCopying(&|| {
        let time = fs::metadata(&damaged).unwrap();
        fs::write(&damaged, "8").unwrap();
        touch(&damaged, time.mtime(), time.mtime_nsec());
    });
    let summary = scene.migrate_watched(&damages).unwrap();
    assert_eq!(summary.verdict(), Verdict::Different);
    let found: Vec<_> = summary
        .differences
        .iter()
        .map(|it| (&it.path, &it.of))
        .collect();
    assert_eq!(found, [(&PathBuf::from("many/7"), &Aspect::Content)]);
}

#[test]
fn a_completed_migration_is_compared_again_and_nothing_is_copied() {
    let scene = varied();
    scene.is_kept();
    let before = inodes(&scene);
    let summary = scene.is_kept();
    assert_eq!(summary.verified.files, 152);
    assert_eq!(before, inodes(&scene));
    // Killed between the removal of the journal and the last touch.
    fs::create_dir(scene.new_(staging::STAGING)).unwrap();
    scene.is_kept();
}

/// Does something when all is copied and before it is compared.
struct OnCopying<'a>(&'a dyn Fn());

impl Watch for OnCopying<'_> {
    fn begins(&self, phase: Phase, _: Tally) {
        if phase == Phase::Comparing {
            (self.0)();
        }
    }

    fn done(&self, _: u64) {}

    fn wants_to_stop(&self) -> bool {
        false
    }
}

/// Of all files in NEW but the journal.
fn inodes(scene: &Scene) -> BTreeMap<PathBuf, u64> {
    let root = scene.new_("");
    let paths = snapshot(&root).into_keys();
    let files =
        paths.filter(|path| root.join(path).is_file() && !path.starts_with(staging::STAGING));
    let inodes = files.map(|path| (path.clone(), fs::metadata(root.join(path)).unwrap().ino()));
    inodes.collect()
}
