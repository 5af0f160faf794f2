//! Sealed streams: one file or a pipe, without a volume.

use std::sync::Arc;

use claviger_pki::key::KeyId;
use claviger_pki::wrap::{Context, PublicKeyRecipient, Purpose, Recipient as _, Wrapped};
use claviger_protocol::control::KeyRef;
use claviger_protocol::keys::KeyReply;
use claviger_protocol::{Failure, Secret};
use claviger_vault::native::Packet;
use claviger_vault::secret::{StreamKey, random_array};
use claviger_vault::stream::{StreamError, StreamHeader};

use super::file_scope::used_key;
use crate::audit::UsedKey;
use crate::daemon::Daemon;
use crate::enrol::Named;
use crate::failure;
use crate::opener::Candidate;
use crate::tokens::Request;
use crate::volumes::recipient::of_wrap;

/// Makes a stream's key and header; a token is asked only to find a key that a URI names.
pub(super) fn seal(
    daemon: &Daemon,
    recipients: &[KeyRef],
    request: &Arc<Request>,
) -> Result<KeyReply, Failure> {
    let id = random_array();
    let key = StreamKey::random();
    let packet = |recipient: &KeyRef| {
        let (public_key, kem) = match daemon.name(recipient, request)? {
            Named::Private(own) => (own.public_key, own.kem),
            Named::Public(public_key, kem, _) => (public_key, kem),
        };
        let recipient =
            PublicKeyRecipient::new(public_key, kem).map_err(|error| of_wrap(&error))?;
        let wrapped = recipient
            .wrap(&context(id), key.expose())
            .map_err(|error| of_wrap(&error))?;
        Ok(Packet {
            key_sig: recipient.key_id().key_sig(),
            algorithm: wrapped.algorithm(),
            body: wrapped.write(),
        })
    };
    let packets: Result<Vec<Packet>, Failure> = recipients.iter().map(packet).collect();
    let header = StreamHeader {
        id,
        packets: packets?,
    };
    reply(&header, &key)
}

/// Has a stream's key unwrapped by a token of this user.
pub(super) fn unseal(
    daemon: &Daemon,
    header: &[u8],
    used: &mut UsedKey,
    request: &Arc<Request>,
) -> Result<KeyReply, Failure> {
    let header = StreamHeader::read(&mut &*header).map_err(of_stream)?;
    let mut candidates = Vec::new();
    for own in daemon.own_keys.enrolled() {
        candidates.extend(candidate(daemon, &header, own.key_id())?);
    }
    let opened = daemon
        .tokens
        .open_any(&candidates, &context(header.id), request, None);
    let (number, payload) = opened.map_err(|error| error.or(|| nobody_opens(&header)))?;
    if let Some(candidate) = candidates.get(number) {
        *used = used_key(candidate);
    }
    let mut bytes = <[u8; 32]>::try_from(payload.as_slice())
        .map_err(|_| Failure::Integrity("a wrapped stream key has the wrong size".into()))?;
    reply(&header, &StreamKey::new(&mut bytes))
}

/// The key `key_id`, if the stream is wrapped to it and its auth tok is here.
fn candidate(
    daemon: &Daemon,
    header: &StreamHeader,
    key_id: KeyId,
) -> Result<Option<Candidate>, Failure> {
    let mut packets = header.packets.iter();
    let Some(packet) = packets.find(|packet| packet.key_sig == key_id.key_sig()) else {
        return Ok(None);
    };
    let Some(own) = daemon.own_keys.usable(key_id)? else {
        return Ok(None);
    };
    let enrolled = daemon.own_keys.enrolled();
    let Some(key) = enrolled.iter().find(|key| key.key_id() == key_id) else {
        return Ok(None);
    };
    let public_key = key.public_key.clone();
    let wrapped = Wrapped::parse(packet.algorithm, &packet.body, &public_key)
        .map_err(|error| failure::of_unwrap(&own.module, error))?;
    Ok(Some(Candidate {
        own,
        public_key,
        wrapped,
    }))
}

fn reply(header: &StreamHeader, key: &StreamKey) -> Result<KeyReply, Failure> {
    Ok(KeyReply::Stream {
        header: header.write().map_err(of_stream)?,
        key: Secret::new(key.expose().to_vec()),
    })
}

fn context(id: [u8; 16]) -> Context {
    Context {
        volume: [0; 16],
        epoch: 0,
        purpose: Purpose::Seal,
        file: Some(id),
    }
}

fn nobody_opens(header: &StreamHeader) -> Failure {
    let count = header.packets.len();
    Failure::NotARecipient(format!(
        "the stream is sealed to {count} keys, and the auth tok of none of them is here"
    ))
}

fn of_stream(error: StreamError) -> Failure {
    let text = error.to_string();
    match error {
        StreamError::NotSealed | StreamError::Recipients(_) => Failure::Usage(text),
        StreamError::Version(_) => Failure::Unsupported(text),
        StreamError::Packet(_) | StreamError::Damaged { .. } => Failure::Integrity(text),
        StreamError::Read(_) | StreamError::Write(_) => Failure::Internal(text),
    }
}
