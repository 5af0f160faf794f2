//! The enemy who holds the lower folder, and public keys, and nothing else.
//!
//! [`table::TABLE`] says what comes of everything he may do to every class of octets that the format
//! has; each cell is generated, done to a volume, and held to it. Whatever is not as it was written
//! last is either refused or stands in the threat model.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(
    clippy::single_range_in_vec_init,
    reason = "one range of octets is meant"
)]

mod attack;
mod forging;
mod history;
mod octets;
mod seen;
mod step;
mod table;
mod volume;
mod world;

use claviger_vault::ids::Scope;

use attack::attacks;
use seen::{Effect, Effects, read_all};
use step::Undo;
use table::{Cell, Class, Mutation, Row, TABLE};
use world::{Machine, World};

#[test]
fn the_table_holds_in_volume_scope() {
    check(Scope::Volume);
}

#[test]
fn the_table_holds_in_file_scope() {
    check(Scope::File);
}

#[test]
fn what_is_not_covered_is_in_the_threat_model() {
    let document = plain(include_str!("../../../docs/threat-model.md"));
    for (class, cells) in TABLE {
        for cell in cells {
            if let Cell::Zeros(sentence) | Cell::Listed(_, sentence) = cell {
                let sentence = plain(sentence);
                assert!(
                    document.contains(&sentence),
                    "{class:?} stands on a sentence that docs/threat-model.md lacks: {sentence}"
                );
            }
        }
    }
}

#[test]
fn every_class_has_one_row_and_every_exception_a_reason() {
    let classes: Vec<Class> = TABLE.iter().map(|(class, _)| *class).collect();
    for cell in TABLE.iter().flat_map(|(_, cells)| cells) {
        if let Cell::Harmless(because) | Cell::Mended(because) | Cell::Impossible(because) = cell {
            assert!(!because.is_empty());
        }
    }
    for (at, class) in classes.iter().enumerate() {
        assert!(!classes[..at].contains(class), "{class:?} has two rows");
    }
    // The last one declared: a class without a row would make the count wrong.
    assert_eq!(classes.len(), Class::VolumeUnseen as usize + 1);
}

/// Without emphasis and line ends, which the document may place as it likes.
fn plain(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.replace(['*', '`'], "")
}

fn check(scope: Scope) {
    let world = World::new(scope);
    let mut wrong = Vec::new();
    let intact = effects(&world, Machine::KnowsTheVolume);
    assert!(intact.is_empty(), "before any attack: {intact:#?}");
    let mut done = 0;
    for row in TABLE {
        done += check_row(&world, row, &mut wrong);
    }
    let intact = effects(&world, Machine::KnowsTheVolume);
    assert!(intact.is_empty(), "after all were undone: {intact:#?}");
    println!("{done} attacks");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Carries out every attack of a row, and gives how many.
fn check_row(world: &World, (class, cells): &Row, wrong: &mut Vec<String>) -> usize {
    let machine = match class {
        Class::ManifestsUnseen | Class::VolumeUnseen => Machine::IsNew,
        _ => Machine::KnowsTheVolume,
    };
    let mut done = 0;
    for (mutation, cell) in Mutation::ALL.into_iter().zip(cells) {
        if let Cell::Impossible(_) = cell {
            continue;
        }
        let attacks = attacks(world, *class, mutation);
        if attacks.is_empty() && !(*class == Class::Packets && world.mine.scope == Scope::Volume) {
            wrong.push(format!("{class:?} × {mutation:?}: no attack"));
        }
        for attack in attacks {
            let undo: Vec<Undo> = attack.steps.into_iter().map(step::Step::take).collect();
            let effects = effects(world, machine);
            for undo in undo.into_iter().rev() {
                undo();
            }
            done += 1;
            if !agrees(cell, &effects) {
                let what = attack.what;
                wrong.push(format!(
                    "{class:?} × {mutation:?} ({what}): {cell:?}, but {effects:#?}"
                ));
                // One of a kind says enough.
                break;
            }
        }
    }
    done
}

fn effects(world: &World, machine: Machine) -> Effects {
    read_all(world, machine).effects(&world.mine.written, &world.earlier)
}

/// Whether the worst effect is the one that the table tells.
fn agrees(cell: &Cell, effects: &Effects) -> bool {
    let worst = effects.keys().next_back().copied();
    match cell {
        Cell::Refused => worst == Some(Effect::Refused),
        Cell::Harmless(_) => worst.is_none(),
        Cell::Mended(_) => matches!(worst, None | Some(Effect::Refused)),
        Cell::Zeros(_) => worst == Some(Effect::Zeros),
        Cell::Listed(effect, _) => worst == Some(*effect),
        Cell::Impossible(_) => false,
    }
}
