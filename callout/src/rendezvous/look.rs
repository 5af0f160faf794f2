//! Looking once, for whoever neither asks nor answers.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::watch::entries;
use crate::peer::Uids;

/// What a requester told of itself when it started. One that was killed may have left it behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// What it serves: the service's word for it.
    pub service: String,
    /// The same as a responder sees in [`PeerInfo`](crate::PeerInfo).
    pub about: BTreeMap<String, String>,
}

/// What requesters have published in `folder`; nothing, if it does not exist. Entries of users who are not
/// trusted, which are all but this one and root, are left out.
///
/// # Errors
/// If this process does not know its uids.
pub fn published(folder: &Path) -> io::Result<Vec<Published>> {
    let uids = Uids::read()?;
    let entries = entries(folder, &uids);
    let published = entries.map(|(entry, _)| Published {
        service: entry.service,
        about: entry.about,
    });
    Ok(published.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instance;
    use crate::Serves;
    use crate::rendezvous::{Entry, Namespaces, Publication};

    #[test]
    fn what_is_published_can_be_looked_at_until_it_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry {
            instance: Instance::random().unwrap(),
            service: "test".to_owned(),
            about: BTreeMap::from([("colour".to_owned(), "blue".to_owned())]),
            namespaces: Namespaces::own().unwrap(),
            netlink: Some(1),
            socket: None,
        };
        let publication = Publication::publish(folder.path(), &entry, Serves::Owner).unwrap();
        let found = published(folder.path()).unwrap();
        let [found] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(
            (&found.service, &found.about),
            (&entry.service, &entry.about)
        );
        drop(publication);
        assert_eq!(published(folder.path()).unwrap(), []);
        assert_eq!(published(&folder.path().join("none")).unwrap(), []);
    }
}
