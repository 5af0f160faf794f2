//! The attacks that a cell of the table stands for.

mod attribute;
mod name;
mod octets;
mod symlink;
mod whole;

use std::fs;
use std::path::{Path, PathBuf};

use claviger_vault::ids::Scope;

use crate::step::Step;
use crate::table::{Class, Mutation};
use crate::world::World;
use attribute::{on_attribute_name, on_attribute_value};
use name::{on_name, on_sidecar};
use octets::on_octets;
use symlink::on_symlink;
use whole::{on_file, on_folder, on_manifest, on_volume};

/// One attack of a cell; all of a cell's must come to what the table says.
#[derive(Debug)]
pub struct Attack {
    pub what: String,
    pub steps: Vec<Step>,
}

/// All attacks of one cell; none if there is nothing of the class in a volume of this scope.
pub fn attacks(world: &World, class: Class, mutation: Mutation) -> Vec<Attack> {
    match class {
        Class::Packets if world.mine.scope == Scope::Volume => Vec::new(),
        Class::Sidecar => on_sidecar(world, mutation),
        Class::Name | Class::NameOfLinked | Class::NameOfSymlink => on_name(world, class, mutation),
        Class::Symlink => on_symlink(world, mutation),
        Class::AttributeName => on_attribute_name(world, mutation),
        Class::AttributeValue => on_attribute_value(world, mutation),
        Class::Manifest => on_manifest(world, &["volume.toml"], mutation),
        Class::Manifests | Class::ManifestsUnseen => {
            on_manifest(world, &["volume.toml", "volume.toml.backup"], mutation)
        }
        Class::File => on_file(world, mutation),
        Class::Folder => on_folder(world, mutation),
        Class::Volume | Class::VolumeUnseen => on_volume(world, mutation),
        _ => on_octets(world, class, mutation),
    }
}

/// The older state of a lower path.
fn on_shelf(world: &World, lower: &Path) -> PathBuf {
    let renamed = [("moved", "to-move"), ("folder-new", "folder-old")];
    for (new, old) in renamed {
        if let Ok(below) = lower.strip_prefix(world.mine.lower_path(new)) {
            let old = world.mine.lower_path(old);
            let old = old.strip_prefix(&world.mine.lower).unwrap();
            // Joining nothing would leave a slash behind a file's name.
            return world.shelf().join(match below.as_os_str().is_empty() {
                true => old.to_owned(),
                false => old.join(below),
            });
        }
    }
    let below = lower.strip_prefix(&world.mine.lower).unwrap();
    world.shelf().join(below)
}

fn one(what: &str, steps: Vec<Step>) -> Attack {
    Attack {
        what: what.into(),
        steps,
    }
}

fn target(path: &Path) -> String {
    let target = fs::read_link(path).unwrap();
    target.into_os_string().into_string().unwrap()
}

/// Text of the same length and kind, but for the first letter.
fn changed(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    format!("{}{rest}", if first == "A" { "B" } else { "A" })
}
