//! Keys and ids that seeds are made under and targets read them with. None of them is a secret.

use claviger_callout::Instance;
use claviger_callout::session::Ends;
use claviger_vault::ecryptfs::{PassphraseKey, Salt};
use claviger_vault::epoch::EpochKey;
use claviger_vault::ids::{DirId, Epoch, FileId, VolumeId};
use claviger_vault::names::{DirNames, NamesKeys};
use claviger_vault::secret::{FileKey, NamesKey, StreamKey};

/// The volume.
pub const VOLUME: VolumeId = VolumeId([3; 16]);
/// The one file.
pub const FILE: FileId = FileId([4; 16]);
/// The one directory.
pub const DIRECTORY: DirId = DirId([5; 16]);

/// The two ends of a session.
pub const ENDS: Ends = Ends {
    responder: 1000,
    requester: 1000,
    instance: Instance::from_bytes([6; 16]),
};

/// The key of an eCryptfs passphrase that nobody knows.
pub fn passphrase_key() -> PassphraseKey {
    PassphraseKey::handed_on(&mut [7; 64], Salt::DEFAULT)
}

/// The key of epoch 1.
pub fn epoch_key() -> EpochKey {
    EpochKey::new(&mut [1; 32]).expect("32 bytes of memory can be locked")
}

/// Its names key.
pub fn names_key() -> NamesKey {
    NamesKey::new(&mut [2; 32])
}

/// The names keys of a volume in its first epoch.
pub fn names_keys() -> NamesKeys {
    let keys = [(Epoch::FIRST, names_key())];
    NamesKeys::new(Epoch::FIRST, Epoch::FIRST, keys).expect("the current one is there")
}

/// The names of [`DIRECTORY`].
pub fn names() -> DirNames {
    let names = names_keys().directory(Epoch::FIRST, DIRECTORY);
    names.expect("the key of its epoch is there")
}

/// The file key in file scope.
pub fn file_key() -> FileKey {
    FileKey::new(&mut [7; 32])
}

/// The key of a sealed stream.
pub fn stream_key() -> StreamKey {
    StreamKey::new(&mut [8; 32])
}
