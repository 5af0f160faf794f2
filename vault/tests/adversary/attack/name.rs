//! On names and the sidecars of long ones.

use std::fs;
use std::path::{Path, PathBuf};

use claviger_vault::names::LowerName;

use super::octets::flipped;
use super::{Attack, changed, on_shelf, one, target};
use crate::octets::Site;
use crate::step::Step;
use crate::table::{Class, Mutation};
use crate::volume::Volume;
use crate::world::{LONG, LONG_TOO, World};

pub fn on_name(world: &World, class: Class, mutation: Mutation) -> Vec<Attack> {
    let path = |path: &str| world.mine.lower_path(path);
    let theirs = |path: &str| world.other.lower_path(path);
    let exchange = |one: PathBuf, other: PathBuf| vec![Step::Exchange { one, other }];
    // Each with one in the same directory, one in another.
    let sites: &[(&str, &str, &str)] = match class {
        Class::Name => &[
            ("memo", "letter", "folder/memo"),
            (LONG, LONG_TOO, "folder/memo"),
            ("folder-new", "folder", "folder/inner"),
        ],
        Class::NameOfLinked => &[("linked", "memo", "folder/memo")],
        _ => &[
            ("pointer-too", "pointer", "folder/pointer"),
            ("pointer-too", "memo", "folder/pointer"),
        ],
    };
    let mut attacks = Vec::new();
    for &(name, same_directory, other_directory) in sites {
        let this = path(name);
        let lower = this.file_name().unwrap().to_str().unwrap().to_owned();
        let renamed = |what: &str, to: &[u8]| {
            let to = this.with_file_name(std::str::from_utf8(to).unwrap());
            let from = this.clone();
            one(
                &format!("{name:.12} {what}"),
                vec![Step::Rename { from, to }],
            )
        };
        match mutation {
            Mutation::Flip => {
                for at in 0..lower.len() {
                    let mut changed = lower.clone().into_bytes();
                    changed[at] ^= 1;
                    if changed[at] != b'/' {
                        attacks.push(renamed(&format!("letter {at}"), &changed));
                    }
                }
            }
            Mutation::Truncate => {
                for cut in [1, 2, 3, 4, lower.len() - 1] {
                    let (kept, _) = lower.as_bytes().split_at(lower.len() - cut);
                    attacks.push(renamed(&format!("less {cut}"), kept));
                }
                attacks.push(one(
                    name,
                    vec![Step::Rename {
                        from: this.clone(),
                        to: world.aside(),
                    }],
                ));
            }
            Mutation::Duplicate => {
                let made_up = this.with_file_name(changed(&lower));
                let mut names = vec![path("gone")];
                if class == Class::Name {
                    names.push(made_up);
                }
                for to in names {
                    let step = match class {
                        _ if this.is_dir() && !this.is_symlink() => continue,
                        Class::NameOfSymlink => Step::Target {
                            path: to,
                            target: target(&this),
                        },
                        _ => Step::Link {
                            from: this.clone(),
                            to,
                        },
                    };
                    attacks.push(one(name, vec![step]));
                }
            }
            Mutation::SwapWithin => {
                let (start, end) = lower.as_bytes().split_at(lower.len() / 2);
                attacks.push(renamed("halves", &[end, start].concat()));
            }
            Mutation::SwapFiles => {
                attacks.push(one(name, exchange(this.clone(), path(same_directory))));
            }
            Mutation::SwapDirectories => {
                attacks.push(one(name, exchange(this.clone(), path(other_directory))));
            }
            Mutation::SwapVolumes => attacks.push(one(name, exchange(this.clone(), theirs(name)))),
            Mutation::Zero | Mutation::Older => {}
        }
    }
    if mutation == Mutation::Older {
        let back = |new, old| Step::Rename {
            from: path(new),
            to: path(old),
        };
        match class {
            Class::Name => {
                attacks.push(one("file", vec![back("moved", "to-move")]));
                attacks.push(one("directory", vec![back("folder-new", "folder-old")]));
            }
            _ => attacks.push(one("the same", Vec::new())),
        }
    }
    attacks
}

pub fn on_sidecar(world: &World, mutation: Mutation) -> Vec<Attack> {
    let sidecar = |volume: &Volume, path: &str| {
        let (_, name) = volume.resolve(path);
        let LowerName::Long { sidecar, .. } = name else {
            panic!("not a long name");
        };
        volume.lower_path(path).with_file_name(sidecar)
    };
    let this = sidecar(&world.mine, LONG);
    let content = fs::read(&this).unwrap();
    let all = 0..content.len() as u64;
    let site = Site {
        file: this.clone(),
        at: vec![all.clone()],
        beside: Vec::new(),
        copies: vec![all],
        together: false,
    };
    let set = |file: &Path, bytes: &[u8]| Step::Content {
        file: file.into(),
        bytes: bytes.into(),
    };
    let swap = |other: PathBuf| {
        let theirs = fs::read(&other).unwrap();
        vec![one("", vec![set(&this, &theirs), set(&other, &content)])]
    };
    match mutation {
        Mutation::Flip => flipped(&site)
            .into_iter()
            .map(|(what, steps)| Attack { what, steps })
            .collect(),
        Mutation::Zero => vec![one("", vec![set(&this, &vec![0; content.len()])])],
        Mutation::Truncate => vec![
            one("empty", vec![set(&this, b"")]),
            one("cut", vec![set(&this, &content[1..])]),
            one(
                "removed",
                vec![Step::Rename {
                    from: this.clone(),
                    to: world.aside(),
                }],
            ),
        ],
        Mutation::Duplicate => {
            let other = sidecar(&world.mine, LONG_TOO);
            vec![one("", vec![set(&other, &content)])]
        }
        Mutation::SwapFiles => swap(sidecar(&world.mine, LONG_TOO)),
        Mutation::SwapDirectories => swap(sidecar(&world.mine, &format!("folder/{LONG}"))),
        Mutation::SwapVolumes => swap(sidecar(&world.other, LONG)),
        Mutation::SwapWithin => Vec::new(),
        Mutation::Older => vec![one(
            "",
            vec![set(&this, &fs::read(on_shelf(world, &this)).unwrap())],
        )],
    }
}
