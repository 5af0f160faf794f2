//! On the manifest, and on whole files, directories and volumes.

use std::fs;
use std::path::PathBuf;

use super::{Attack, on_shelf, one};
use crate::step::Step;
use crate::table::Mutation;
use crate::world::World;

pub fn on_manifest(world: &World, copies: &[&str], mutation: Mutation) -> Vec<Attack> {
    let files: Vec<PathBuf> = copies
        .iter()
        .map(|name| world.mine.lower.join(".claviger").join(name))
        .collect();
    let text = fs::read_to_string(&files[0]).unwrap();
    let with = |what: &str, content: &[u8]| {
        let set = |file: &PathBuf| Step::Content {
            file: file.clone(),
            bytes: content.into(),
        };
        one(what, files.iter().map(set).collect())
    };
    match mutation {
        Mutation::Flip => (0..text.len())
            .step_by(7)
            .map(|at| {
                let mut changed = text.clone().into_bytes();
                changed[at] ^= 1 << (at % 7);
                with(&format!("octet {at}"), &changed)
            })
            .collect(),
        Mutation::Zero => vec![with("", &vec![0; text.len()])],
        Mutation::Truncate => [0, 1, text.len() / 2, text.len() - 1]
            .into_iter()
            .map(|len| with(&format!("to {len}"), &text.as_bytes()[..len]))
            .collect(),
        Mutation::Duplicate => vec![with("", text.repeat(2).as_bytes())],
        Mutation::SwapWithin => {
            let wraps: Vec<&str> = text
                .lines()
                .filter(|line| line.starts_with("wrap = "))
                .collect();
            let [one, other] = wraps[..] else {
                panic!("two recipients are left");
            };
            let swapped = text
                .replace(one, "between")
                .replace(other, one)
                .replace("between", other);
            vec![with("wraps", swapped.as_bytes())]
        }
        Mutation::SwapFiles => {
            let file = |name: &str| world.mine.lower.join(".claviger").join(name);
            vec![one(
                "",
                vec![Step::Exchange {
                    one: file("volume.toml"),
                    other: file("volume.toml.backup"),
                }],
            )]
        }
        Mutation::SwapDirectories => {
            // The folder that holds it, moved into a directory of the volume.
            let reserved = world.mine.lower.join(".claviger");
            let to = world.mine.lower_path("folder").join(".claviger");
            vec![one("", vec![Step::Rename { from: reserved, to }])]
        }
        Mutation::SwapVolumes => {
            let theirs = world.other.lower.join(".claviger/volume.toml");
            vec![with("", &fs::read(theirs).unwrap())]
        }
        Mutation::Older => {
            let older = world.shelf().join(".claviger/volume.toml");
            vec![with("", &fs::read(older).unwrap())]
        }
    }
}

pub fn on_file(world: &World, mutation: Mutation) -> Vec<Attack> {
    let path = |path: &str| world.mine.lower_path(path);
    let this = path("letter");
    let exchange = |other: PathBuf| {
        vec![one(
            "",
            vec![Step::Exchange {
                one: this.clone(),
                other,
            }],
        )]
    };
    match mutation {
        Mutation::Zero => {
            let bytes = vec![0; fs::read(&this).unwrap().len()];
            vec![one("", vec![Step::Content { file: this, bytes }])]
        }
        Mutation::Truncate => [0, 1, 4095, 4096]
            .into_iter()
            .map(|len| {
                let file = this.clone();
                one(&format!("to {len}"), vec![Step::Cut { file, len }])
            })
            .collect(),
        Mutation::Duplicate => {
            let to = path("gone");
            vec![one("", vec![Step::Link { from: this, to }])]
        }
        Mutation::SwapFiles => exchange(path("memo")),
        Mutation::SwapDirectories => exchange(path("folder/letter")),
        Mutation::SwapVolumes => exchange(world.other.lower_path("letter")),
        Mutation::Older => exchange(on_shelf(world, &this)),
        Mutation::Flip | Mutation::SwapWithin => Vec::new(),
    }
}

pub fn on_folder(world: &World, mutation: Mutation) -> Vec<Attack> {
    let path = |path: &str| world.mine.lower_path(path);
    let exchange = |one: PathBuf, other: PathBuf| Step::Exchange { one, other };
    let steps = match mutation {
        Mutation::Truncate => vec![Step::Rename {
            from: path("folder"),
            to: world.aside(),
        }],
        // A second one, by the name of something that is gone.
        Mutation::Duplicate => vec![Step::Rename {
            from: on_shelf(world, &path("folder")),
            to: path("gone"),
        }],
        Mutation::SwapFiles => vec![exchange(path("folder"), path("folder-new"))],
        Mutation::SwapDirectories => vec![exchange(path("folder-new"), path("folder/inner"))],
        Mutation::SwapVolumes => vec![exchange(path("folder"), world.other.lower_path("folder"))],
        Mutation::Older => vec![exchange(path("folder"), on_shelf(world, &path("folder")))],
        Mutation::Flip | Mutation::Zero | Mutation::SwapWithin => return Vec::new(),
    };
    vec![one("", steps)]
}

pub fn on_volume(world: &World, mutation: Mutation) -> Vec<Attack> {
    let exchange = |other: PathBuf| Step::Exchange {
        one: world.mine.lower.clone(),
        other,
    };
    let step = match mutation {
        Mutation::Truncate => Step::Rename {
            from: world.mine.lower.join(".claviger"),
            to: world.aside(),
        },
        Mutation::SwapVolumes => exchange(world.other.lower.clone()),
        Mutation::Older => exchange(world.shelf()),
        _ => return Vec::new(),
    };
    vec![one("", vec![step])]
}
