//! An enemy who knows the format, the volume's id and everybody's public keys, and makes things up.
//!
//! He runs this very program, under an epoch key that he drew himself: all he cannot have is the
//! volume's own. His volume has the same id and the same tree, and its manifest is wrapped to its
//! victim's token, which takes no more than the public key.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use aws_lc_rs::{hkdf, hmac};
use claviger_vault::epoch::EpochKey;
use claviger_vault::ids::{FileId, Scope};
use claviger_vault::manifest::{Manifest, Unverified};
use claviger_vault::names::{LowerName, RECORD};
use claviger_vault::native::PAGE;

use crate::effects;
use crate::octets::octets;
use crate::seen::Effect;
use crate::step::{Step, Undo, attribute, attribute_names};
use crate::volume::{Volume, settle};
use crate::world::{LONG, Machine, World, wrapping};

#[test]
fn nothing_made_without_the_epoch_key_is_accepted() {
    for scope in [Scope::Volume, Scope::File] {
        let world = World::new(scope);
        let forged = forge(&world);
        for (what, machine, steps) in forgeries(&world, &forged) {
            let undo: Vec<Undo> = steps.into_iter().map(Step::take).collect();
            let effects = effects(&world, machine);
            undo.into_iter().rev().for_each(|undo| undo());
            let worst = effects.keys().next_back();
            assert_eq!(worst, Some(&Effect::Refused), "{what}: {effects:#?}");
        }
        assert!(effects(&world, Machine::KnowsTheVolume).is_empty());

        // The forged volume is a good one: on a machine that knows no better it opens as what it is.
        // What refuses all of the above is the key alone.
        let undo = Step::Exchange {
            one: world.mine.lower.clone(),
            other: forged.lower.clone(),
        }
        .take();
        let shown = effects(&world, Machine::IsNew);
        undo();
        assert!(shown.contains_key(&Effect::Never), "{shown:#?}");
    }
}

/// A fifo would hang whoever opens it, a symlink lead out of the folder.
#[test]
fn something_of_another_kind_in_its_place_gives_nothing() {
    let world = World::new(Scope::Volume);
    let mine = |path: &str| world.mine.lower_path(path);
    let sidecar = sidecar(&world.mine);
    let places = [
        mine("memo"),
        mine("folder"),
        mine("pointer"),
        mine("folder").join(RECORD),
        world.mine.lower.join(RECORD),
        sidecar,
        world.mine.lower.join(".claviger/volume.toml"),
        world.mine.lower.join(".claviger"),
    ];
    let other = world.aside();
    for place in places {
        let another = [mine("letter"), mine("folder-new"), place.clone()];
        for kind in [
            "fifo",
            "directory",
            "link to a file",
            "link to a folder",
            "link to itself",
        ] {
            let [file, folder, itself] = another.each_ref();
            match kind {
                "fifo" => nix::unistd::mkfifo(&other, nix::sys::stat::Mode::S_IRWXU).unwrap(),
                "directory" => fs::create_dir(&other).unwrap(),
                "link to a file" => symlink(file, &other).unwrap(),
                "link to a folder" => symlink(folder, &other).unwrap(),
                _ => symlink(itself, &other).unwrap(),
            }
            let undo = Step::Exchange {
                one: place.clone(),
                other: other.clone(),
            }
            .take();
            let effects = effects(&world, Machine::KnowsTheVolume);
            undo();
            let removed = fs::remove_file(&other).or_else(|_| fs::remove_dir(&other));
            removed.unwrap();
            let worst = effects.keys().next_back();
            assert!(
                worst <= Some(&Effect::Gone),
                "{kind} at {place:?}: {effects:#?}"
            );
        }
    }
}

/// Each forgery alone.
fn forgeries(world: &World, forged: &Volume) -> Vec<(&'static str, Machine, Vec<Step>)> {
    use Machine::{IsNew, KnowsTheVolume};
    let mine = |path: &str| world.mine.lower_path(path);
    let theirs = |path: &str| forged.lower_path(path);
    let content = |file: PathBuf, bytes: Vec<u8>| Step::Content { file, bytes };
    let exchange = |one: PathBuf, other: PathBuf| Step::Exchange { one, other };
    let manifest = |lower: &Path| lower.join(".claviger/volume.toml");
    let read = |path: &Path| fs::read(path).unwrap();
    let target = |path: &Path| fs::read_link(path).unwrap().into_os_string();

    let moved_in = |from: PathBuf| {
        let to = world.mine.lower.join(from.file_name().unwrap());
        Step::Rename { from, to }
    };
    let attribute_of = |volume: &Volume, path: &str| {
        let of = volume.lower_path(path);
        let names = attribute_names(&of);
        let name = names.first().cloned().unwrap();
        let value = attribute(&of, &name);
        (name, value)
    };
    let (name, value) = attribute_of(forged, "letter");
    let (own_name, _) = attribute_of(&world.mine, "letter");
    let set = |name: String, value| Step::Attribute {
        of: mine("letter"),
        name,
        value,
    };
    // The one record of a forged file that can be genuine is the place, copied from the file that it
    // takes the place of; the file id it verifies under is known.
    let with_place = {
        let mut bytes = read(&theirs("memo"));
        let place = 768..1024;
        bytes[768..1024].copy_from_slice(&octets(&mine("memo"), &place));
        content(mine("memo"), bytes)
    };
    let with_fixed_and_blocks = {
        let (old, new) = (read(&mine("memo")), read(&theirs("memo")));
        let mut bytes = new.clone();
        bytes[..1024].copy_from_slice(&old[..1024]);
        content(mine("memo"), bytes)
    };
    vec![
        (
            "manifest",
            KnowsTheVolume,
            vec![content(
                manifest(&world.mine.lower),
                read(&manifest(&forged.lower)),
            )],
        ),
        (
            "manifest, on a machine that is new",
            IsNew,
            vec![content(
                manifest(&world.mine.lower),
                read(&manifest(&forged.lower)),
            )],
        ),
        (
            "volume",
            KnowsTheVolume,
            vec![exchange(world.mine.lower.clone(), forged.lower.clone())],
        ),
        (
            "file",
            KnowsTheVolume,
            vec![exchange(mine("memo"), theirs("memo"))],
        ),
        (
            "file with a genuine place",
            KnowsTheVolume,
            vec![with_place],
        ),
        (
            "slots and blocks",
            KnowsTheVolume,
            vec![with_fixed_and_blocks],
        ),
        ("name", KnowsTheVolume, vec![moved_in(theirs("memo"))]),
        (
            "long name",
            KnowsTheVolume,
            vec![moved_in(theirs(LONG)), moved_in(sidecar(forged))],
        ),
        (
            "directory",
            KnowsTheVolume,
            vec![exchange(mine("folder"), theirs("folder"))],
        ),
        (
            "directory record",
            KnowsTheVolume,
            vec![content(
                mine("folder").join(RECORD),
                read(&theirs("folder").join(RECORD)),
            )],
        ),
        (
            "record of the root",
            KnowsTheVolume,
            vec![content(
                world.mine.lower.join(RECORD),
                read(&forged.lower.join(RECORD)),
            )],
        ),
        (
            "symlink",
            KnowsTheVolume,
            vec![Step::Target {
                path: mine("pointer"),
                target: target(&theirs("pointer")).into_string().unwrap(),
            }],
        ),
        ("attribute", KnowsTheVolume, vec![set(name, value.clone())]),
        (
            "attribute's value",
            KnowsTheVolume,
            vec![set(own_name, value)],
        ),
    ]
}

fn sidecar(volume: &Volume) -> PathBuf {
    match volume.resolve(LONG).1 {
        LowerName::Long { sidecar, .. } => volume.lower.join(sidecar),
        LowerName::Short(_) => panic!("not a long name"),
    }
}

/// The enemy's volume: the id of `world.mine`, and files with the ids of its files.
fn forge(world: &World) -> Volume {
    let scope = world.mine.scope;
    let recipients: Vec<_> = world
        .mine
        .manifest
        .recipients()
        .iter()
        .map(|enrolled| enrolled.recipient.clone())
        .collect();
    let (manifest, key) = Manifest::create(scope, recipients, wrapping(&world.token)).unwrap();
    let text = String::from_utf8(manifest.write(&key)).unwrap();
    // A later epoch or generation would be refused as little: only the key can tell.
    let text = text.replace(&manifest.volume().to_string(), &world.mine.id().to_string());
    let text = text.replace("generation = 1", "generation = 1000");
    let manifest = with_mac(&text, &key);
    let mut forged = Volume::begin(&world.aside(), "forged", manifest, key);
    forged.mkdir("folder");
    for path in ["memo", "letter", LONG] {
        let id = octets(&world.mine.lower_path(path), &(48..64));
        let id = FileId(id.try_into().unwrap());
        let file = forged.create_file_with_id(path, id, &world.token);
        forged.write(&file, path, 1, 0..3 * PAGE as u64 + 100);
        settle(&file);
    }
    forged.symlink("pointer", 1);
    forged.set_attribute("letter", "user.colour", 1);
    forged
}

/// A manifest whose text was changed by hand, its MAC made anew under `key`: `docs/format-volume.md`
/// says how.
fn with_mac(text: &str, key: &EpochKey) -> Manifest {
    let (covered, _) = text.split_at(text.rfind("hmac-sha256").unwrap());
    let extracted = hkdf::Salt::none(hkdf::HKDF_SHA256).extract(key.expose());
    let mac_key = extracted.expand(&[b"manifest"], hmac::HMAC_SHA256).unwrap();
    let mac = hmac::sign(&hmac::Key::from(mac_key), covered.as_bytes());
    let mac = data_encoding::HEXLOWER.encode(mac.as_ref());
    let text = format!("{covered}hmac-sha256 = \"{mac}\"\n");
    let unverified = Unverified::parse(text.as_bytes()).unwrap();
    unverified.verify(key).unwrap()
}
