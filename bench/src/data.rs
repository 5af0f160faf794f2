//! Sequential data: a native volume against gocryptfs, and a folder of eCryptfs against a native volume.

use std::path::Path;

use anyhow::Result;
use claviger_hw_tests::{User, World};

use crate::folders::{Who, alternated, drop_caches, mount, text, unmount, work};
use crate::table::Table;

const ROUNDS: usize = 5;
const MIB: usize = 1024;

/// One round's figures, in MB/s.
struct Sequential {
    write: f64,
    read_cold: f64,
    read_warm: f64,
}

/// Measures all three and adds the rows.
pub(crate) fn measure(world: &mut World, table: &mut Table) -> Result<()> {
    let alice = world.user("alice");
    let disk = world.ext4("8G");
    alice.own(&disk);
    let (mut ours, mut theirs, mut ecryptfs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for who in alternated(round).chain([Who::Ecryptfs]) {
            mount(&alice, &disk, who);
            let figures = sequential(&alice, &disk)?;
            unmount(&alice, &disk, who);
            match who {
                Who::Claviger => ours.push(figures),
                Who::Gocryptfs => theirs.push(figures),
                Who::Ecryptfs => ecryptfs.push(figures),
            }
        }
    }
    type Pick = fn(&Sequential) -> f64;
    let mut row = |what, ours: &[Sequential], peer, theirs: &[Sequential], aim, pick: Pick| {
        let rounds: Vec<(f64, f64)> = ours
            .iter()
            .zip(theirs)
            .map(|(ours, theirs)| (pick(ours), pick(theirs)))
            .collect();
        table.add(what, "MB/s", peer, aim, &rounds);
    };
    let native: [(&str, Pick); 3] = [
        ("sequential write, 1 GiB", |it| it.write),
        ("sequential read, cold", |it| it.read_cold),
        ("sequential read, warm", |it| it.read_warm),
    ];
    for (what, pick) in native {
        row(what, &ours, "gocryptfs", &theirs, 1.0, pick);
    }
    let other: [(&str, Pick); 2] = [
        ("eCryptfs folder: sequential write, 1 GiB", |it| it.write),
        ("eCryptfs folder: sequential read, cold", |it| it.read_cold),
    ];
    for (what, pick) in other {
        row(what, &ecryptfs, "native", &ours, 0.5, pick);
    }
    Ok(())
}

fn sequential(alice: &User, disk: &Path) -> Result<Sequential> {
    let big = disk.join("mount/big");
    let mb = (MIB * 1_048_576) as f64 / 1e6;
    let write = work(alice, &["write", text(&big), &MIB.to_string()])?;
    drop_caches()?;
    let read_cold = work(alice, &["read", text(&big)])?;
    let read_warm = work(alice, &["read", text(&big)])?;
    Ok(Sequential {
        write: mb / write,
        read_cold: mb / read_cold,
        read_warm: mb / read_warm,
    })
}
