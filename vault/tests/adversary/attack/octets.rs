//! On octets of native files and directory records.

use std::fs;
use std::ops::Range;
use std::path::Path;

use claviger_vault::names::RECORD;

use super::{Attack, on_shelf};
use crate::octets::{Of, Site, octets};
use crate::step::Step;
use crate::table::{Class, Mutation};
use crate::volume::Volume;
use crate::world::{BEHIND_GAP, World};

/// A file, one in the same directory, and one in another, each with a block that octets are of.
struct Targets {
    path: &'static str,
    same_directory: &'static str,
    other_directory: &'static str,
    blocks: &'static [u64],
}

impl Targets {
    fn new(class: Class, mutation: Mutation) -> Vec<Self> {
        let of = |path, blocks| Self {
            path,
            same_directory: "memo",
            other_directory: "folder/letter",
            blocks,
        };
        match (class, mutation) {
            (Class::Fixed, _) => vec![of("letter-to-be", &[0])],
            (Class::Place | Class::Places, _) => vec![of("moved", &[0])],
            (Class::ShapeOfGrowth, _) => vec![of("log", &[0])],
            (Class::HalfUnsynced | Class::BlockUnsynced, Mutation::Older) => {
                vec![of("log", &[4])]
            }
            (Class::HalfUnsynced | Class::BlockUnsynced, _) => vec![of("fresh", &[1])],
            (Class::HalfBehindGap, _) => vec![Self {
                path: "sparse",
                same_directory: "sparse-too",
                other_directory: "folder/sparse",
                blocks: &[BEHIND_GAP],
            }],
            (Class::Half | Class::Slot | Class::Block | Class::Version, Mutation::Older) => {
                vec![of("letter", &[1])]
            }
            (
                Class::Half | Class::Slot | Class::Block | Class::Version,
                Mutation::SwapFiles | Mutation::SwapDirectories,
            ) => vec![of("letter", &[0, 1])],
            (Class::Half, _) => vec![
                of("letter", &[0, 1]),
                of("big", &[47, 48, 59]),
                of("holes", &[1]),
            ],
            (Class::Slot | Class::Block | Class::Version, _) => {
                vec![of("letter", &[0, 1]), of("big", &[47, 48, 58])]
            }
            (Class::Directory, Mutation::Older) => vec![of("folder-new", &[0])],
            (Class::Directory, Mutation::SwapWithin) => vec![of("folder", &[1])],
            (Class::Directory, _) => vec![Self {
                path: "folder",
                same_directory: "late",
                other_directory: "folder/inner",
                blocks: &[0],
            }],
            _ => vec![of("letter", &[0])],
        }
    }
}

pub fn on_octets(world: &World, class: Class, mutation: Mutation) -> Vec<Attack> {
    let mut attacks = Vec::new();
    for targets in Targets::new(class, mutation) {
        for &block in targets.blocks {
            let of = Of { class, block };
            let site = |volume: &Volume, path| {
                let path = if path == "letter-to-be" { "memo" } else { path };
                let mut file = volume.lower_path(path);
                if class == Class::Directory {
                    file.push(RECORD);
                }
                Site::new(&file, volume.scope, of)
            };
            let this = site(&world.mine, targets.path);
            let name = format!("{} block {block}", targets.path);
            let peer = |volume, path| swapped(&this, &this.at, &site(volume, path));
            let found: Vec<(String, Vec<Step>)> = match mutation {
                Mutation::Flip => flipped(&this),
                Mutation::Zero => {
                    let zeros = |range: &Range<u64>| vec![0; (range.end - range.start) as usize];
                    let write = |range: &Range<u64>| write(&this.file, range, zeros(range));
                    vec![(String::new(), this.at.iter().map(write).collect())]
                }
                Mutation::Truncate => this
                    .at
                    .iter()
                    .flat_map(|range| cuts(&this, range))
                    .collect(),
                Mutation::Duplicate => vec![(String::new(), duplicated(world, &this, class))],
                Mutation::SwapWithin => {
                    let beside = Site {
                        at: this.beside.clone(),
                        ..this.clone()
                    };
                    vec![(String::new(), swapped(&this, &this.at, &beside))]
                }
                Mutation::SwapFiles => {
                    // "memo" itself has "moved" beside it.
                    let other = match targets.path {
                        "letter-to-be" => "letter",
                        _ => targets.same_directory,
                    };
                    vec![(String::new(), peer(&world.mine, other))]
                }
                Mutation::SwapDirectories => {
                    vec![(String::new(), peer(&world.mine, targets.other_directory))]
                }
                Mutation::SwapVolumes => vec![(String::new(), peer(&world.other, targets.path))],
                Mutation::Older => vec![(String::new(), put_back(world, &this))],
            };
            attacks.extend(found.into_iter().map(|(at, steps)| Attack {
                what: format!("{name} {at}"),
                steps,
            }));
        }
    }
    attacks
}

/// One octet at a time: each of what is short, some of what is long. Where several copies have to go,
/// the same octet of each.
pub fn flipped(site: &Site) -> Vec<(String, Vec<Step>)> {
    let groups: Vec<Vec<Range<u64>>> = match site.together {
        true => vec![site.at.clone()],
        false => site.at.iter().map(|range| vec![range.clone()]).collect(),
    };
    let mut flipped = Vec::new();
    for group in groups {
        let copies: Vec<Vec<u8>> = group
            .iter()
            .map(|range| octets(&site.file, range))
            .collect();
        let longest = copies.iter().map(Vec::len).max().unwrap_or(0);
        for at in (0..longest).filter(|at| is_chosen(*at, longest)) {
            let steps = group.iter().zip(&copies).filter_map(|(range, copy)| {
                let changed = copy.get(at)? ^ (1 << (at % 8));
                let offset = range.start + at as u64;
                Some(write(&site.file, &(offset..offset + 1), vec![changed]))
            });
            flipped.push((format!("octet {at}"), steps.collect()));
        }
    }
    flipped
}

/// Which octets are flipped: all of 64, every third of a record, some of a page.
fn is_chosen(at: usize, len: usize) -> bool {
    let (stride, ends) = match len {
        0..=64 => (1, 0),
        65..=600 => (3, 8),
        _ => (307, 4),
    };
    at < ends || at + ends >= len || at.is_multiple_of(stride)
}

fn cuts(site: &Site, range: &Range<u64>) -> Vec<(String, Vec<Step>)> {
    [range.start, range.start + (range.end - range.start) / 2]
        .into_iter()
        .map(|len| {
            let cut = Step::Cut {
                file: site.file.clone(),
                len,
            };
            (format!("at {len}"), vec![cut])
        })
        .collect()
}

fn duplicated(world: &World, site: &Site, class: Class) -> Vec<Step> {
    if class == Class::Directory {
        // A directory has one record: it is put over that of another.
        let to = world.mine.lower_path("late").join(RECORD);
        let bytes = fs::read(&site.file).unwrap();
        return vec![Step::Content { file: to, bytes }];
    }
    let copies = site.at.iter().zip(&site.beside);
    copies
        .map(|(from, to)| write(&site.file, to, octets(&site.file, from)))
        .collect()
}

fn swapped(this: &Site, at: &[Range<u64>], other: &Site) -> Vec<Step> {
    let pairs = at.iter().zip(&other.at);
    pairs
        .flat_map(|(one, two)| {
            [
                write(&this.file, one, octets(&other.file, two)),
                write(&other.file, two, octets(&this.file, one)),
            ]
        })
        .collect()
}

fn put_back(world: &World, site: &Site) -> Vec<Step> {
    let on_shelf = on_shelf(world, &site.file);
    let ranges = site.copies.iter();
    ranges
        .map(|range| write(&site.file, range, octets(&on_shelf, range)))
        .collect()
}

fn write(file: &Path, range: &Range<u64>, bytes: Vec<u8>) -> Step {
    assert_eq!(bytes.len() as u64, range.end - range.start);
    Step::Write {
        file: file.into(),
        offset: range.start,
        bytes,
    }
}
