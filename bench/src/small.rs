//! Many small files, against gocryptfs.

use std::path::Path;

use anyhow::Result;
use claviger_hw_tests::{User, World};

use crate::folders::{Who, alternated, drop_caches, mount, text, unmount, work};
use crate::table::Table;

const ROUNDS: usize = 9;
const FILES: usize = 5000;

/// One round's figures, in files/s.
struct Figures {
    create: f64,
    stat: f64,
    unlink: f64,
}

/// Measures both and adds the rows.
pub(crate) fn measure(world: &mut World, table: &mut Table) -> Result<()> {
    let carol = world.user("carol");
    let disk = world.ext4("2G");
    carol.own(&disk);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for who in alternated(round) {
            let figures = run(&carol, &disk, who)?;
            match who {
                Who::Gocryptfs => theirs.push(figures),
                Who::Claviger | Who::Ecryptfs => ours.push(figures),
            }
        }
    }
    type Pick = fn(&Figures) -> f64;
    let rows: [(&str, Pick); 3] = [
        ("create 5,000 files of 4 KiB", |figures| figures.create),
        ("stat 5,000 files, cold", |figures| figures.stat),
        ("unlink 5,000 files", |figures| figures.unlink),
    ];
    for (what, pick) in rows {
        let rounds: Vec<(f64, f64)> = ours
            .iter()
            .zip(&theirs)
            .map(|(ours, theirs)| (pick(ours), pick(theirs)))
            .collect();
        table.add(what, "files/s", "gocryptfs", 1.0, &rounds);
    }
    Ok(())
}

fn run(carol: &User, disk: &Path, who: Who) -> Result<Figures> {
    let small = mount(carol, disk, who).join("small");
    let files = FILES as f64;
    let create = work(carol, &["create", text(&small), &FILES.to_string()])?;
    drop_caches()?;
    let stat = work(carol, &["stat", text(&small)])?;
    let unlink = work(carol, &["unlink", text(&small)])?;
    unmount(carol, disk, who);
    Ok(Figures {
        create: files / create,
        stat: files / stat,
        unlink: files / unlink,
    })
}
