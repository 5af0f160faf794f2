//! Filesystems that have registered with this daemon.

use claviger_callout::PeerInfo;
use claviger_protocol::control::FolderFormat;
use claviger_vault::ids::VolumeId;

/// A requester that says which volume it serves. What it says of itself is for people, and for
/// deciding whom a lock waits for; it is given no key by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Which run of it.
    pub instance: String,
    /// The volume, if it named one.
    pub volume: Option<VolumeId>,
    /// What its lower folder holds.
    pub format: FolderFormat,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Its lower folder.
    pub lower: String,
    /// `netlink` or `unix`.
    pub carrier: String,
    /// Process id, as far as the kernel says.
    pub pid: u32,
}

impl Mount {
    /// What a requester tells of itself.
    pub fn of_peer(peer: &PeerInfo) -> Self {
        let told = |name: &str| peer.about.get(name).cloned().unwrap_or_default();
        Self {
            instance: peer.instance.to_string(),
            volume: told("volume").parse().ok(),
            format: FolderFormat::of_word(&told("format")).unwrap_or(FolderFormat::Native),
            mountpoint: told("mountpoint"),
            lower: told("lower"),
            carrier: peer.carrier.to_string(),
            pid: u32::try_from(peer.pid).unwrap_or(0),
        }
    }
}
