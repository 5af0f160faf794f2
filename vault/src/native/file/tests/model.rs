//! Random operations here and on a vector of bytes, compared after each.

use proptest::prelude::*;

use super::{Fixture, contents};
use crate::native::NativeFile;

#[derive(Clone, Debug)]
enum Operation {
    Write { offset: usize, len: usize, byte: u8 },
    Append { len: usize, byte: u8 },
    Truncate { size: usize },
    Punch { offset: usize, len: usize },
    Allocate { offset: usize, len: usize },
    Read { offset: usize, len: usize },
    Sync,
    Settle,
    Reopen,
}

/// Sizes that meet block and segment borders, and those in between.
fn position() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..20_000_usize,
        2 => (0..150_usize, 0..3_usize).prop_map(|(block, over)| (block * 4096 + over).saturating_sub(1)),
        1 => 0..600_000_usize,
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation as O;
    prop_oneof![
        6 => (position(), position(), any::<u8>())
            .prop_map(|(offset, len, byte)| O::Write { offset, len, byte }),
        2 => (position(), any::<u8>()).prop_map(|(len, byte)| O::Append { len, byte }),
        3 => position().prop_map(|size| O::Truncate { size }),
        3 => (position(), position()).prop_map(|(offset, len)| O::Punch { offset, len }),
        1 => (position(), position()).prop_map(|(offset, len)| O::Allocate { offset, len }),
        3 => (position(), position()).prop_map(|(offset, len)| O::Read { offset, len }),
        2 => Just(O::Sync),
        1 => Just(O::Settle),
        2 => Just(O::Reopen),
    ]
}

/// The same on a vector.
fn apply(model: &mut Vec<u8>, operation: &Operation) {
    let write = |model: &mut Vec<u8>, offset: usize, len: usize, byte: u8| {
        if len > 0 {
            model.resize(model.len().max(offset + len), 0);
            fill(&mut model[offset..offset + len], byte);
        }
    };
    match *operation {
        Operation::Write { offset, len, byte } => write(model, offset, len, byte),
        Operation::Append { len, byte } => write(model, model.len(), len, byte),
        Operation::Truncate { size } => model.resize(size, 0),
        Operation::Punch { offset, len } => {
            let end = (offset + len).min(model.len());
            if offset < end {
                model[offset..end].fill(0);
            }
        }
        Operation::Allocate { offset, len } => model.resize(model.len().max(offset + len), 0),
        Operation::Read { .. } | Operation::Sync | Operation::Settle | Operation::Reopen => {}
    }
}

/// Not all the same, so that a block in the wrong place shows.
fn fill(out: &mut [u8], byte: u8) {
    for (at, out) in out.iter_mut().enumerate() {
        *out = byte ^ (at / 4096) as u8 ^ at as u8;
    }
}

fn filled(len: usize, byte: u8) -> Vec<u8> {
    let mut data = vec![0; len];
    fill(&mut data, byte);
    data
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_holds_what_a_vector_would(
        operations in proptest::collection::vec(operation(), 1..25),
    ) {
        let (fixture, mut file) = Fixture::new();
        let mut model = Vec::new();
        for operation in &operations {
            run(&fixture, &mut file, &model, operation)?;
            apply(&mut model, operation);
            prop_assert_eq!(file.size(), model.len() as u64);
            prop_assert!(contents(&file) == model, "after {:?}", operation);
        }
        file.sync().unwrap();
        let lower_len = fixture.lower.metadata().unwrap().len();
        let size = crate::native::stat_size(lower_len, crate::ids::Scope::Volume);
        prop_assert_eq!(size, model.len() as u64);
        let mut damaged = Vec::new();
        file.verify(|block| damaged.push(block), |_, _| {}).unwrap();
        prop_assert_eq!(damaged, Vec::<u64>::new());
        drop(file);
        prop_assert!(contents(&fixture.open()) == model);
    }
}

fn run(
    fixture: &Fixture,
    file: &mut NativeFile,
    model: &[u8],
    operation: &Operation,
) -> Result<(), TestCaseError> {
    match *operation {
        Operation::Write { offset, len, byte } => {
            file.write_at(offset as u64, &filled(len, byte)).unwrap();
        }
        Operation::Append { len, byte } => {
            prop_assert_eq!(file.append(&filled(len, byte)).unwrap(), model.len() as u64);
        }
        Operation::Truncate { size } => file.truncate(size as u64).unwrap(),
        Operation::Punch { offset, len } => file.punch(offset as u64, len as u64).unwrap(),
        Operation::Allocate { offset, len } => file.allocate(offset as u64, len as u64).unwrap(),
        Operation::Read { offset, len } => {
            let mut out = vec![0xAA; len];
            let read = file.read_at(offset as u64, &mut out).unwrap();
            let expected = model.get(offset..).unwrap_or_default();
            let expected = &expected[..expected.len().min(len)];
            prop_assert_eq!(read, expected.len());
            prop_assert!(&out[..read] == expected);
        }
        Operation::Sync => file.sync().unwrap(),
        Operation::Settle => file.settle().unwrap(),
        Operation::Reopen => {
            file.sync().unwrap();
            *file = fixture.open();
        }
    }
    Ok(())
}
