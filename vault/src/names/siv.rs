//! AES-256-SIV: the same name always gives the same ciphertext, and only the key holder can make one.

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;
use zeroize::Zeroizing;

/// Length of the synthetic initialisation vector: how much longer a sealed name is.
pub(crate) const SIV_LEN: usize = 16;

/// What was sealed does not open: another key, other associated data, or changed since.
pub(crate) struct NotGenuine;

/// An AES-256-SIV key (RFC 5297): the first half authenticates, the second encrypts.
///
/// The cipher is set up anew for every name: that takes two AES key schedules, and no lock or key
/// schedule then outlives the call.
pub(crate) struct SivKey(Box<Zeroizing<[u8; 64]>>);

impl SivKey {
    pub(super) fn new(bytes: &[u8; 64]) -> Self {
        // Straight into its box: a key moved by value leaves copies on the stack.
        let mut key = Box::new(Zeroizing::new([0; 64]));
        key.copy_from_slice(bytes);
        Self(key)
    }

    /// Writes SIV and ciphertext of `plain` to `out`, which is 16 bytes longer.
    pub(crate) fn seal(&self, associated_data: &[u8], plain: &[u8], out: &mut [u8]) {
        let (siv, body) = out.split_at_mut(SIV_LEN);
        body.copy_from_slice(plain);
        let tag = self
            .cipher()
            .encrypt_inout_detached([associated_data], body.into())
            .expect("one associated datum is within RFC 5297's 126");
        siv.copy_from_slice(&tag);
    }

    /// Decrypts `sealed` in place and returns the plaintext in it.
    pub(crate) fn open<'a>(
        &self,
        associated_data: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8], NotGenuine> {
        let (siv, body) = sealed
            .split_first_chunk_mut::<SIV_LEN>()
            .ok_or(NotGenuine)?;
        self.cipher()
            .decrypt_inout_detached([associated_data], (&mut *body).into(), &(*siv).into())
            .map_err(|_| NotGenuine)?;
        Ok(body)
    }

    fn cipher(&self) -> Aes256Siv {
        Aes256Siv::new((&**self.0).into())
    }
}
