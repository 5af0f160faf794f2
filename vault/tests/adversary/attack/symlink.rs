//! On targets of symlinks.

use std::path::{Path, PathBuf};

use super::{Attack, on_shelf, one, target};
use crate::step::Step;
use crate::table::Mutation;
use crate::world::World;

pub fn on_symlink(world: &World, mutation: Mutation) -> Vec<Attack> {
    let this = world.mine.lower_path("pointer");
    let sealed = target(&this);
    let set = |path: &Path, target: &str| Step::Target {
        path: path.into(),
        target: target.into(),
    };
    let swap = |other: PathBuf| {
        vec![one(
            "",
            vec![set(&this, &target(&other)), set(&other, &sealed)],
        )]
    };
    match mutation {
        Mutation::Flip => (0..sealed.len())
            .map(|at| {
                let mut changed = sealed.clone().into_bytes();
                changed[at] ^= 1;
                let changed = String::from_utf8(changed).unwrap();
                one(&format!("letter {at}"), vec![set(&this, &changed)])
            })
            .collect(),
        // No NUL can be in a target: zeros as base64url has them.
        Mutation::Zero => vec![one("", vec![set(&this, &"A".repeat(sealed.len()))])],
        Mutation::Truncate => [1, 2, 3, 4, sealed.len() / 2, sealed.len() - 1]
            .into_iter()
            .map(|cut| one(&format!("less {cut}"), vec![set(&this, &sealed[cut..])]))
            .collect(),
        Mutation::Duplicate => {
            let other = world.mine.lower_path("pointer-too");
            vec![one("", vec![set(&other, &sealed)])]
        }
        Mutation::SwapWithin => {
            let (start, end) = sealed.split_at(sealed.len() / 2);
            vec![one("", vec![set(&this, &format!("{end}{start}"))])]
        }
        Mutation::SwapFiles => swap(world.mine.lower_path("pointer-too")),
        Mutation::SwapDirectories => swap(world.mine.lower_path("folder/pointer")),
        Mutation::SwapVolumes => swap(world.other.lower_path("pointer")),
        Mutation::Older => vec![one("", vec![set(&this, &target(&on_shelf(world, &this)))])],
    }
}
