//! Headers of new files: made of public and epoch keys, so that a create waits for no token.

use claviger_pki::key::{Kem, KeyId};
use claviger_pki::wrap::{Context, PublicKeyRecipient, Purpose, Recipient as _};
use claviger_protocol::keys::{FreshFile, KeyReply};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::{FileId, Scope, VolumeId};
use claviger_vault::manifest::{Enrolled, Manifest};
use claviger_vault::native::Packet;
use claviger_vault::native::head::{self, Layer};
use claviger_vault::secret::FileKey;

use crate::daemon::Daemon;
use crate::volumes::Keys;
use crate::volumes::recipient::{of_wrap, public_key};

/// Most that one request gets.
const MOST: u16 = 64;

/// Makes material for `count` new files of `volume`.
pub(super) fn fresh(daemon: &Daemon, volume: VolumeId, count: u16) -> Result<KeyReply, Failure> {
    let make = |keys: &Keys| match keys.manifest.scope() {
        Scope::Volume => (0..count.min(MOST))
            .map(|_| in_volume_scope(keys))
            .collect(),
        Scope::File => {
            let recipients = recipients(&keys.manifest)?;
            (0..count.min(MOST))
                .map(|_| in_file_scope(keys, &recipients))
                .collect()
        }
    };
    let files: Result<_, Failure> = daemon.volumes.get(volume)?.with_keys(make)?;
    Ok(KeyReply::Fresh(files?))
}

fn in_volume_scope(keys: &Keys) -> Result<FreshFile, Failure> {
    one(keys, FileId::random(), &Layer::Volume)
}

fn in_file_scope(keys: &Keys, recipients: &[PublicKeyRecipient]) -> Result<FreshFile, Failure> {
    let file = FileId::random();
    let file_key = FileKey::random();
    let context = file_key_context(keys.manifest.volume(), file);
    let packet = |recipient: &PublicKeyRecipient| {
        let wrapped = recipient.wrap(&context, file_key.expose());
        wrapped.map(|wrapped| Packet {
            key_sig: recipient.key_id().key_sig(),
            algorithm: wrapped.algorithm(),
            body: wrapped.write(),
        })
    };
    let packets: Result<Vec<_>, _> = recipients.iter().map(packet).collect();
    let packets = packets.map_err(|error| of_wrap(&error))?;
    let layer = Layer::File {
        file_key: &file_key,
        packets: &packets,
    };
    one(keys, file, &layer)
}

fn one(keys: &Keys, file: FileId, layer: &Layer<'_>) -> Result<FreshFile, Failure> {
    let epoch = keys.epochs.current_epoch();
    let made = head::fresh(
        keys.manifest.volume(),
        file,
        (epoch, keys.epochs.current()),
        layer,
    );
    let (header, fek) = made.map_err(|error| {
        Failure::Usage(format!(
            "{error}: in file scope a volume has few recipients"
        ))
    })?;
    Ok(FreshFile {
        epoch,
        header,
        fek: Secret::new(fek.expose().to_vec()),
    })
}

/// What the file key of a file is wrapped for. Without the epoch: a header moves on to later ones, and
/// its packets are not made anew.
pub(super) fn file_key_context(volume: VolumeId, file: FileId) -> Context {
    Context {
        volume: volume.0,
        epoch: 0,
        purpose: Purpose::FileKey,
        file: Some(file.0),
    }
}

/// All recipients, by the KEM that their tokens can do: the one their epoch key is wrapped with.
fn recipients(manifest: &Manifest) -> Result<Vec<PublicKeyRecipient>, Failure> {
    let recipient = |enrolled: &Enrolled| {
        let key = public_key(&enrolled.recipient)?;
        let kem = Kem::from_number(enrolled.wrap.algorithm).ok_or_else(|| {
            let key_id = KeyId(enrolled.recipient.key_id().0);
            Failure::Unsupported(format!("the key algorithm of recipient {key_id}"))
        })?;
        PublicKeyRecipient::new(key, kem).map_err(|error| of_wrap(&error))
    };
    manifest.recipients().iter().map(recipient).collect()
}
