//! What is in the memory of the filesystem process.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Child;

use claviger_vault::epoch::EpochKey;
use claviger_vault::ids::VolumeId;
use claviger_vault::native::head::{self, Opened};
use claviger_vault::native::{HEAD_LEN, NativeFile};

use super::volume::Volume;
use crate::namespaces::isolated;

#[test]
fn after_a_lock_neither_names_keys_nor_feks_are_in_memory() {
    isolated!();
    let volume = Volume::make();
    let (mounted, mut daemon) = volume.mount_unlocked();
    for n in 0..40 {
        fs::write(volume.path(&n.to_string()), vec![b'x'; 10_000]).unwrap();
    }
    // From now on FEKs come by unwrapping, one a file.
    daemon.lock();
    daemon.unlock();
    volume.wait_unlocked();
    for n in 0..40 {
        fs::read(volume.path(&n.to_string())).unwrap();
    }
    fs::create_dir(volume.path("dir")).unwrap();
    fs::rename(volume.path("0"), volume.path("dir/renamed")).unwrap();
    let open = File::open(volume.path("1")).unwrap();
    open.read_exact_at(&mut [0; 100], 5000).unwrap();
    let secrets = secrets(&volume);
    assert_eq!(secrets.len(), 1 + 40);
    // What is in use is in memory, and the search finds it: the names key, and the FEK of `open`.
    assert!(found(&mounted.child, &secrets).len() >= 2);

    assert_eq!(daemon.lock(), 0);

    let left = found(&mounted.child, &secrets);
    assert!(left.is_empty(), "{left:?} of names key 0 and FEKs 1 to 40");
}

/// The volume's names key, then the FEKs of all its files: from the key file and the lower folder.
fn secrets(volume: &Volume) -> Vec<[u8; 32]> {
    let key_file = fs::read(volume.key_file()).unwrap();
    let (id, key) = key_file.split_first_chunk::<16>().unwrap();
    let id = VolumeId(*id);
    let mut key: [u8; 32] = key.try_into().unwrap();
    let key = EpochKey::new(&mut key).unwrap();
    let mut secrets = vec![*key.names_key(id).expose()];
    let mut folders = vec![volume.lower.clone()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            match path.is_dir() {
                true if path.ends_with(".claviger") => (),
                true => folders.push(path),
                false => secrets.extend(fek(&path, id, &key)),
            }
        }
    }
    secrets
}

fn entries(folder: &PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// `None` for what is no native file: a directory's record.
fn fek(path: &PathBuf, volume: VolumeId, key: &EpochKey) -> Option<[u8; 32]> {
    let file = File::open(path).unwrap();
    if file.metadata().unwrap().len() == HEAD_LEN as u64 {
        return None;
    }
    let head = NativeFile::read_head(file.as_fd()).unwrap();
    match head::open(&head, volume, |_| Some(key)).unwrap() {
        Opened::Feks(feks, _) => Some(*feks.iter().next().unwrap().expose()),
        Opened::FileScope(_) => panic!("the volume has volume scope"),
    }
}

/// Which of `secrets` are somewhere in the memory of `process`.
fn found(process: &Child, secrets: &[[u8; 32]]) -> Vec<usize> {
    let of_process = |file| PathBuf::from(format!("/proc/{}/{file}", process.id()));
    let memory = File::open(of_process("mem")).unwrap();
    let maps = fs::read_to_string(of_process("maps")).unwrap();
    let mut begins = vec![false; 1 << 16];
    for [first, second, ..] in secrets {
        begins[usize::from(u16::from_le_bytes([*first, *second]))] = true;
    }
    let mut found = Vec::new();
    let mut searched = 0;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
        // What is not written to has no keys.
        if !rest.starts_with("rw") {
            continue;
        }
        let mut area = vec![0; (end - start) as usize];
        // An area of the kernel's own, or one that is gone by now.
        if memory.read_exact_at(&mut area, start).is_err() {
            continue;
        }
        searched += area.len();
        for page in (0..area.len()).step_by(4096) {
            // Most have never been used.
            if area[page..page + 4096] == [0; 4096] {
                continue;
            }
            let end = area.len().min(page + 4096 + 31);
            for window in area[page..end].windows(32) {
                if begins[usize::from(u16::from_le_bytes([window[0], window[1]]))] {
                    found.extend((0..secrets.len()).filter(|n| secrets[*n] == window));
                }
            }
        }
    }
    assert!(searched > 1 << 20, "only {searched} bytes could be read");
    found.sort_unstable();
    found.dedup();
    found
}
