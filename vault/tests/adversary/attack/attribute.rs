//! On names and values of extended attributes.

use std::path::PathBuf;

use claviger_vault::ids::FileId;
use claviger_vault::xattr::{Attributes, Owner};

use super::{Attack, changed, on_shelf, one};
use crate::octets::octets;
use crate::step::{Step, attribute};
use crate::table::Mutation;
use crate::volume::Volume;
use crate::world::World;

/// An attribute below: what carries it, and its lower name.
struct Carried {
    of: PathBuf,
    name: String,
}

impl Carried {
    fn new(volume: &Volume, path: &str, name: &str) -> Self {
        let of = volume.lower_path(path);
        let keys = volume.keys();
        let owner = match of.is_dir() {
            true => Owner::Directory(volume.enter(path).id()),
            false => {
                let id = octets(&of, &(48..64));
                Owner::File(FileId(id.try_into().unwrap()))
            }
        };
        let attributes = Attributes::new(&keys, owner);
        let candidates = attributes.candidates(name.as_bytes()).unwrap();
        let name = candidates
            .into_iter()
            .map(|candidate| String::from_utf8(candidate.lower).unwrap())
            .find(|lower| attribute(&of, lower).is_some())
            .unwrap();
        Self { of, name }
    }

    fn value(&self) -> Vec<u8> {
        attribute(&self.of, &self.name).unwrap()
    }

    fn set(&self, value: Option<Vec<u8>>) -> Step {
        self.set_as(&self.name, value)
    }

    fn set_as(&self, name: &str, value: Option<Vec<u8>>) -> Step {
        Step::Attribute {
            of: self.of.clone(),
            name: name.into(),
            value,
        }
    }
}

pub fn on_attribute_name(world: &World, mutation: Mutation) -> Vec<Attack> {
    let carried = |path, name| Carried::new(&world.mine, path, name);
    let this = carried("letter", "user.colour");
    let renamed = |what: &str, name: &str| {
        one(
            what,
            vec![this.set(None), this.set_as(name, Some(this.value()))],
        )
    };
    // The attribute changes its carrier, for one of the other's.
    let moved = |other: Carried| {
        vec![one(
            "",
            vec![
                this.set(None),
                other.set(None),
                Carried {
                    of: other.of.clone(),
                    name: this.name.clone(),
                }
                .set(Some(this.value())),
                this.set_as(&other.name, Some(other.value())),
            ],
        )]
    };
    let namespace = "user.".len();
    match mutation {
        Mutation::Flip => (namespace..this.name.len())
            .map(|at| {
                let mut changed = this.name.clone().into_bytes();
                changed[at] ^= 1;
                renamed(
                    &format!("letter {at}"),
                    &String::from_utf8(changed).unwrap(),
                )
            })
            .collect(),
        Mutation::Truncate => [1, 2, 3, 4, 12]
            .into_iter()
            .map(|cut| {
                let (kept, _) = this.name.split_at(this.name.len() - cut);
                renamed(&format!("less {cut}"), kept)
            })
            .chain([one("removed", vec![this.set(None)])])
            .collect(),
        Mutation::Duplicate => {
            let (known, sealed) = this.name.split_at("user.claviger.1.".len());
            let made_up = format!("{known}{}", changed(sealed));
            vec![one("", vec![this.set_as(&made_up, Some(this.value()))])]
        }
        Mutation::SwapWithin => {
            let other = carried("letter", "user.shape");
            vec![one(
                "",
                vec![this.set(Some(other.value())), other.set(Some(this.value()))],
            )]
        }
        Mutation::SwapFiles => moved(carried("memo", "user.colour")),
        Mutation::SwapDirectories => moved(carried("folder/letter", "user.colour")),
        Mutation::SwapVolumes => moved(Carried::new(&world.other, "letter", "user.colour")),
        Mutation::Zero => Vec::new(),
        Mutation::Older => vec![one("the same", Vec::new())],
    }
}

pub fn on_attribute_value(world: &World, mutation: Mutation) -> Vec<Attack> {
    let carried = |path, name| Carried::new(&world.mine, path, name);
    let sites = [
        carried("letter", "user.colour"),
        carried("folder", "user.colour"),
    ];
    let mut attacks = Vec::new();
    for (this, what) in sites.iter().zip(["file", "directory"]) {
        let value = this.value();
        let swap = |other: Carried| {
            let steps = vec![
                this.set(Some(other.value())),
                other.set(Some(value.clone())),
            ];
            one(what, steps)
        };
        let shape = || carried("letter", "user.shape");
        match (mutation, what) {
            (Mutation::Flip, _) => attacks.extend((0..value.len()).map(|at| {
                let mut changed = value.clone();
                changed[at] ^= 1 << (at % 8);
                one(&format!("{what} octet {at}"), vec![this.set(Some(changed))])
            })),
            (Mutation::Zero, _) => {
                let zeros = vec![0; value.len()];
                attacks.push(one(what, vec![this.set(Some(zeros))]));
            }
            (Mutation::Truncate, _) => attacks.extend([0, 1, 27, 28, value.len() - 1].map(|len| {
                let (kept, _) = value.split_at(len);
                one(
                    &format!("{what} to {len}"),
                    vec![this.set(Some(kept.into()))],
                )
            })),
            (Mutation::Duplicate, "file") => {
                attacks.push(one(what, vec![shape().set(Some(value))]));
            }
            (Mutation::SwapWithin, "file") => attacks.push(swap(shape())),
            (Mutation::SwapFiles, "file") => attacks.push(swap(carried("memo", "user.colour"))),
            (Mutation::SwapDirectories, "file") => {
                attacks.push(swap(carried("folder/letter", "user.colour")));
            }
            (Mutation::SwapDirectories, _) => {
                attacks.push(swap(carried("folder/inner", "user.colour")));
            }
            (Mutation::SwapVolumes, _) => {
                let path = if what == "file" { "letter" } else { "folder" };
                attacks.push(swap(Carried::new(&world.other, path, "user.colour")));
            }
            (Mutation::Older, "file") => {
                let older = attribute(&on_shelf(world, &this.of), &this.name);
                attacks.push(one(what, vec![this.set(older)]));
            }
            _ => {}
        }
    }
    attacks
}
