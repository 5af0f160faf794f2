//! Every target over its corpus, and over thousands of mutations of it: nothing panics, and seeds are
//! what they are meant to be.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod mutate;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use claviger_fuzz_targets::{Reached, TARGETS, Target};

use mutate::Mutator;

/// Mutations of each target's corpus.
const ROUNDS: usize = 4000;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let folder = fuzz().join("corpus").join(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    // Folders have no order that one could repeat.
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs a target, and says on what it panicked if it does.
fn run(target: &Target, input: &[u8]) -> Reached {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).unwrap_or_else(|_| {
        panic!(
            "{} panicked on {}",
            target.name,
            data_encoding::HEXLOWER.encode(input)
        )
    })
}

#[test]
fn every_corpus_reaches_success() {
    for target in TARGETS {
        let reached: Vec<Reached> = seeds(target).iter().map(|seed| run(target, seed)).collect();
        assert!(
            reached.contains(&Reached::Success),
            "{}: no seed is what the parser is for",
            target.name
        );
        run(target, &[]);
    }
}

#[test]
fn no_mutation_of_a_seed_panics() {
    for target in TARGETS {
        let seeds = seeds(target);
        let mut mutator = Mutator::new(target.name);
        let mut refused = 0;
        for _ in 0..ROUNDS {
            let input = mutator.mutate(&seeds);
            refused += usize::from(run(target, &input) == Reached::Refused);
        }
        assert!(refused > 0, "{}: refuses nothing", target.name);
    }
}

/// What `cargo fuzz` runs is what is tested here.
#[test]
fn each_target_has_a_program_and_a_corpus_and_nothing_else_has() {
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.into()).collect();
    let listed = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz().join(folder)).unwrap();
        entries
            .map(|entry| {
                let path = entry.unwrap().path();
                path.file_stem().unwrap().to_str().unwrap().to_owned()
            })
            .collect()
    };
    assert_eq!(listed("corpus"), names);
    assert_eq!(listed("fuzz_targets"), names);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &names {
        let program = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&name.replacen('_', "::", 1)), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
